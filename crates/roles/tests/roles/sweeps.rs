//! An order that meets very many others trades in parts, with a transaction for each. The result is
//! the same as in a single step.

use client::simulate::Rng;
use roles::{Role, RoleSettings};
use serde_json::Value;
use wire::topics;

use super::driver::World;
use super::market::floor;

fn in_parts_of(match_part: u64) -> World {
    floor(RoleSettings {
        match_part,
        open_orders_max: 100_000,
        stale_ms: 1_000_000_000,
        ..RoleSettings::default()
    })
}

/// `orders` bids of one share each.
fn bids(w: &mut World, orders: usize, more: &str) {
    for n in 0..orders {
        w.limit(
            &format!("b{}", n % 10),
            &n.to_string(),
            "AAPL",
            1,
            "buy",
            &format!("99.{:02}", n % 90),
            more,
        );
    }

    w.pump();
}

fn values(w: &World, topic: ports::topics::TopicId) -> Vec<Value> {
    w.records(topic).iter().map(|r| r.tree()).collect()
}

fn count(w: &World, user: &str, event: &str) -> usize {
    w.names(user).iter().filter(|name| *name == event).count()
}

/// Regression: an order made a transaction with three records for each maker.
#[test]
fn a_sweep_of_a_deep_book_is_spread_over_transactions() {
    for more in ["", r#""tif":"IOC""#, r#""tif":"FOK""#] {
        let mut w = in_parts_of(100);
        bids(&mut w, 1_000, "");
        w.reset_largest_turn();
        w.turn_max = 1;
        w.limit("s", "all", "AAPL", 1_000, "sell", "99", more);
        w.pump();
        assert_eq!(
            (
                count(&w, "s", "OrderFilled"),
                count(&w, "s", "OrderPartiallyFilled")
            ),
            (2, 999),
            "the stock, and all of it"
        );

        let largest = w.largest_turn_of(Role::Trading);
        assert!(largest <= 450, "{largest} records in one transaction");
        let prices: Vec<i64> = values(&w, topics::TRADES)
            .iter()
            .skip(1)
            .map(|t| t["price_e4"].as_i64().expect("a price"))
            .collect();
        assert!(
            prices.is_sorted_by(|a, b| a >= b) && prices.len() == 1_000,
            "best price first"
        );
        w.check_books();
        w.check_rest();
    }
}

/// Begins a sweep of 1000 bids, and stops after its first part. `b0` has the order `19`, at one of
/// the worst prices.
fn half_done(more: &str) -> World {
    let mut w = in_parts_of(100);
    bids(&mut w, 1_000, more);
    w.limit("s", "all", "AAPL", 1_000, "sell", "99", "");
    w.turn_of(Role::Orders);
    w.turn_of(Role::Trading);
    assert_eq!(w.records(topics::TRADES).len(), 101, "a part of it");
    w
}

#[test]
fn what_comes_meanwhile_waits_for_its_turn() {
    let mut w = half_done("");
    w.cancel("b0", "c", "90");
    w.limit("late", "1", "AAPL", 5, "buy", "99.99", "");
    w.turn_of(Role::Orders);
    w.turn_of(Role::Trading);
    w.restart(Role::Trading);
    w.pump();
    let last = w.last("b0");
    assert_eq!(
        (&last["event"], &last["reason"], &last["status"]),
        (
            &"CancelRejected".into(),
            &"TOO_LATE_TO_CANCEL".into(),
            &"filled".into()
        )
    );

    assert_eq!(count(&w, "s", "OrderFilled"), 2);
    assert_eq!(
        w.names("late"),
        ["Deposited", "OrderPending", "OrderAccepted"],
        "the better price came too late"
    );
    w.check_rest();
}

#[test]
fn neither_a_deadline_nor_a_listing_cuts_in() {
    let day_ms = 86_400_000;
    let mut w = half_done(r#""tif":"DAY""#);
    w.now_ms = (w.now_ms / day_ms + 1) * day_ms;
    w.list("AAPL", r#"{"symbol":"AAPL","status":"delisted"}"#);
    w.wake();
    w.pump();
    let events: Vec<Value> = (0..10).flat_map(|n| w.events(&format!("b{n}"))).collect();
    assert_eq!(
        events
            .iter()
            .filter(|e| e["event"] == "OrderFilled")
            .count(),
        1_000,
        "the order came before midnight and before the word"
    );

    assert_eq!(count(&w, "s", "OrderFilled"), 2);
    let trades = values(&w, topics::TRADES);
    let times: std::collections::BTreeSet<i64> = trades
        .iter()
        .skip(1)
        .map(|t| t["time_us"].as_i64().expect("a time"))
        .collect();
    assert_eq!(
        times.len(),
        1,
        "all of it at the time at which the order came"
    );
    w.check_rest();
}

#[test]
fn all_or_nothing_looks_in_parts_too() {
    for (quantity, fills) in [(1_000, true), (1_001, false)] {
        // 20 looks at a time.
        let mut w = in_parts_of(1);
        w.limit("more", "1", "AAPL", 1, "sell", "105", "");
        bids(&mut w, 1_000, "");
        w.order("t", "stock", "AAPL", "1", "buy");
        w.limit(
            "s",
            "all",
            "AAPL",
            quantity.min(1_000),
            "sell",
            "99",
            r#""tif":"FOK""#,
        );

        if !fills {
            // One less than is wanted.
            w.pump();
            w = in_parts_of(1);
            bids(&mut w, 999, "");
            w.limit("s", "all", "AAPL", 1_000, "sell", "99", r#""tif":"FOK""#);
        }

        w.turn_of(Role::Orders);
        for n in 0..5 {
            w.turn_of(Role::Trading);
            if n % 2 == 0 {
                w.restart(Role::Trading);
            }
        }

        assert_eq!(w.records(topics::TRADES).len(), 1, "still looking");
        w.pump();
        let last = w.last("s");
        let ends = if fills {
            "OrderFilled"
        } else {
            "OrderCancelled"
        };

        assert_eq!(
            (&last["event"], w.records(topics::TRADES).len()),
            (&ends.into(), if fills { 1_001 } else { 1 })
        );
        w.check_rest();
    }
}

fn same<T: PartialEq + std::fmt::Debug>(got: &[T], due: &[T], what: &str) {
    let at = got
        .iter()
        .zip(due)
        .position(|(got, due)| got != due)
        .unwrap_or(got.len().min(due.len()));
    assert!(
        got == due,
        "{what}: number {at} is {:#?} where {:#?} was due",
        got.get(at),
        due.get(at)
    );
}

/// Commands of several users at once: for any size of the parts, the trades and their order, the
/// events and the books are the same.
#[test]
fn parts_change_nothing() {
    let run = |seed: u64, part: u64, restarts: bool| {
        let mut rng = Rng::new(seed);
        let mut w = in_parts_of(part);

        // Half of the time with a house. The house gives little at a time, and its quote is moved
        // through the resting orders.
        let house = ["", r#""half_spread_bps":30,"house_max":2,"#][(seed % 2) as usize];
        w.list(
            "AAPL",
            &format!(
                r#"{{"symbol":"AAPL",{house}"house":{},"short_ok":true}}"#,
                !house.is_empty()
            ),
        );

        for n in 0..40 {
            w.now_ms += 1_000;
            for k in 0..=rng.below(30) {
                let user = ["s", "t", "u", "v"][rng.below(4) as usize];
                let id = format!("{n}-{k}");
                let side = if rng.below(2) == 0 { "buy" } else { "sell" };
                let price = format!("{}.{:02}", 99 + rng.below(2), rng.below(100));
                let most = if rng.below(5) == 0 { 40 } else { 3 };
                let quantity = 1 + rng.below(most) as i64;
                let more = ["", "", "", r#""tif":"IOC""#, r#""tif":"FOK""#][rng.below(5) as usize];
                match rng.below(10) {
                    0 => w.cancel(user, &id, &format!("{n}-{}", rng.below(k + 1))),
                    1 => w.stop(
                        user,
                        &id,
                        "AAPL",
                        quantity,
                        side,
                        &format!("{}.50", if side == "buy" { 101 } else { 98 }),
                    ),
                    2 => w.replace(
                        user,
                        &id,
                        &format!("{n}-{}", rng.below(k + 1)),
                        &format!(r#""quantity":{quantity}"#),
                    ),
                    3 => w.order(user, &id, "AAPL", &quantity.to_string(), side),
                    4 if k == 0 || !house.is_empty() => {
                        w.tick("AAPL", &format!("{}.7", 98 + rng.below(4)))
                    }
                    _ => w.limit(user, &id, "AAPL", quantity, side, &price, more),
                }
            }

            if restarts {
                w.turn_of(Role::Orders);
                w.turn_of(Role::Trading);
                w.restart(Role::Trading);
            }

            w.pump();
        }

        w.check_books();
        w.check_rest();
        let told: Vec<_> = ["s", "t", "u", "v"]
            .into_iter()
            .flat_map(|u| w.events(u))
            .collect();
        let parts = w.records(topics::CLOCK).len();
        (
            values(&w, topics::TRADES),
            values(&w, topics::EXECUTIONS),
            told,
            w.state(Role::Trading)
                .into_iter()
                .cloned()
                .collect::<Vec<_>>(),
            parts,
        )
    };

    for seed in 1..6 {
        let due = run(seed, 0, false);
        for (part, restarts) in [(1, false), (1, true), (3, true), (1_000, false)] {
            let got = run(seed, part, restarts);
            same(
                &got.0,
                &due.0,
                &format!("trades, seed {seed}, parts of {part}"),
            );
            same(
                &got.1,
                &due.1,
                &format!("executions, seed {seed}, parts of {part}"),
            );
            same(
                &got.2,
                &due.2,
                &format!("events, seed {seed}, parts of {part}"),
            );
            assert_eq!(got.3, due.3, "state, seed {seed}, parts of {part}");
            assert!(
                part > 3 || got.4 > due.4,
                "{} and {} records of the clock",
                got.4,
                due.4
            );
        }

        assert!(due.0.len() > 50, "{} trades", due.0.len());
    }
}
