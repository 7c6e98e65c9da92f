//! Mass cancels end a user's orders in parts. Each order that was open ends once, no later order
//! ends, and no transaction is large.

use std::collections::BTreeMap;

use client::simulate::Rng;
use roles::{Role, RoleSettings};
use serde_json::{Value, json};
use wire::topics;

use super::driver::World;
use super::market::floor;

fn in_parts_of(mass_cancel_part: u64) -> RoleSettings {
    RoleSettings {
        mass_cancel_part,
        ..RoleSettings::default()
    }
}

fn mass_cancel(w: &mut World, user: &str, id: &str, more: &str) {
    w.command(
        user,
        &format!(r#""command":"mass_cancel","order_id":"{id}"{more}"#),
    );
}

fn rest(w: &mut World, user: &str, ids: std::ops::Range<usize>) {
    ids.for_each(|n| w.limit(user, &format!("{n:06}"), "AAPL", 1, "buy", "99", ""));
}

/// The end of each order of a user, and the command that ended it.
fn ends(w: &World, user: &str) -> BTreeMap<String, Vec<(String, String)>> {
    let mut all = BTreeMap::<String, Vec<_>>::new();
    let text = |v: &Value| v.as_str().unwrap_or_default().to_string();
    for e in w.events(user) {
        let ends = ["OrderCancelled", "OrderExpired", "OrderFilled"]
            .contains(&e["event"].as_str().expect("a name"));

        // A replace may leave no quantity to trade.
        if ends || (e["event"] == "OrderReplaced" && e["status"] == "filled") {
            all.entry(text(&e["order_id"]))
                .or_default()
                .push((text(&e["event"]), text(&e["cause_id"])));
        }
    }

    all
}

fn rows(w: &World, letter: u8) -> usize {
    w.state(Role::Orders)
        .iter()
        .flat_map(|state| state.keys())
        .filter(|key| key[0] == letter)
        .count()
}

/// Regression: one command made a transaction with two records for each order.
/// `MASS_CANCEL_ORDERS=100000` tests more orders.
#[test]
fn all_orders_of_a_user_end_in_transactions_of_bounded_size() {
    let orders = std::env::var("MASS_CANCEL_ORDERS").map_or(30_000, |n| {
        n.parse().expect("MASS_CANCEL_ORDERS is a number")
    });

    let most = 1_000_000;
    let settings = RoleSettings {
        open_orders_max: most,
        opening_cash_e4: 1 << 50,
        stale_ms: 1_000_000_000,
        ..RoleSettings::default()
    };

    let mut w = floor(settings);
    for begin in (0..orders).step_by(5_000) {
        rest(&mut w, "b", begin..begin + 5_000);
        w.pump();
    }

    w.turn_max = 100;
    w.reset_largest_turn();
    mass_cancel(&mut w, "b", "all", "");
    w.pump();
    let largest = [Role::Orders, Role::Trading].map(|role| w.largest_turn_of(role));
    assert!(
        largest.into_iter().all(|n| n < 3_000),
        "{largest:?} records in one transaction"
    );
    let ends = ends(&w, "b");
    let due = vec![("OrderCancelled".to_string(), "all".to_string())];
    assert!(ends.len() == orders && ends.values().all(|end| *end == due));
    assert_eq!((rows(&w, b'n'), rows(&w, b'x'), rows(&w, b'c')), (0, 0, 0));
    assert_eq!(
        (
            w.last("b")["event"].as_str(),
            w.last("b")["cash_reserved_e4"].as_i64()
        ),
        (Some("OrderCancelled"), Some(0))
    );

    w.check_books();
    w.check_rest();
}

#[test]
fn orders_that_came_after_the_command_stay() {
    let mut w = floor(in_parts_of(3));
    rest(&mut w, "b", 0..10);
    w.pump();
    mass_cancel(&mut w, "b", "all", "");
    w.turn_of(Role::Orders);

    // Before and after the place where the mass cancel paused.
    for id in ["000000a", "000001z", "zzz"] {
        w.limit("b", id, "AAPL", 1, "buy", "98", "");
    }

    w.turn_of(Role::Orders);
    w.restart(Role::Orders);
    assert_eq!(
        (rows(&w, b'x'), rows(&w, b'c')),
        (3, 1),
        "one part is on its way"
    );
    w.pump();
    assert_eq!(ends(&w, "b").len(), 10);
    assert_eq!((rows(&w, b'n'), rows(&w, b'x'), rows(&w, b'c')), (3, 0, 0));
    w.check_rest();

    // The next mass cancel ends these orders; the following mass cancel finds no order.
    for (id, due) in [("again", "OrderCancelled"), ("more", "CancelRejected")] {
        mass_cancel(&mut w, "b", id, "");
        w.pump();
        assert_eq!(w.last("b")["event"], due);
    }

    assert_eq!(w.last("b")["reason"], "UNKNOWN_ORDER");
    w.check_books();
}

/// The later orders are behind the continuation of the mass cancel, and are many more than a part.
#[test]
fn a_user_who_goes_on_trading_does_not_stop_the_ending() {
    let mut w = floor(in_parts_of(3));
    rest(&mut w, "b", 0..4);
    w.pump();
    mass_cancel(&mut w, "b", "all", "");
    w.turn_of(Role::Orders);
    rest(&mut w, "b", 100..130);
    w.limit("b", "zzz", "AAPL", 1, "buy", "99", "");
    w.pump();
    assert_eq!(ends(&w, "b").len(), 4);
    assert_eq!((rows(&w, b'n'), rows(&w, b'c')), (31, 0));
    let asked = w
        .records(topics::BOOK_COMMANDS)
        .iter()
        .map(|r| r.tree())
        .filter(|c| c["order_id"] == "all" && c["verb"] == "cancel")
        .count();
    assert_eq!(
        asked,
        35_usize.div_ceil(3) - 1,
        "once behind each part but the last"
    );
    w.check_rest();
}

/// The id of a running mass cancel is remembered beyond the window. A mass cancel with the same id
/// is a repeat, and the answers of the book go to the first.
#[test]
fn its_id_is_not_forgotten_before_it_is_through() {
    let settings = RoleSettings {
        dedup_window_ms: Some(10_000),
        stale_ms: 1_000_000_000,
        ..in_parts_of(2)
    };

    let mut w = floor(settings);
    rest(&mut w, "b", 0..5);
    w.pump();
    mass_cancel(&mut w, "b", "all", "");
    w.turn_of(Role::Orders);
    for _ in 0..3 {
        w.now_ms += 86_400_000;
        (0..6).for_each(|_| {
            let id = format!("{}", w.records(topics::ORDER_COMMANDS).len());
            w.command(
                "b",
                &format!(r#""command":"deposit","order_id":"{id}","amount":1"#),
            );
        });

        w.turn_of(Role::Orders);
    }

    mass_cancel(&mut w, "b", "all", "");
    w.turn_of(Role::Orders);
    assert_eq!(
        (&w.last("b")["event"], &w.last("b")["status"]),
        (&json!("OrderStatus"), &json!("filled"))
    );
    w.pump();
    assert_eq!((ends(&w, "b").len(), rows(&w, b'c')), (5, 0));

    // The mass cancel is done: now its id is forgotten as usual, and may be reused.
    for _ in 0..20 {
        w.now_ms += 86_400_000;
        let id = format!("{}", w.records(topics::ORDER_COMMANDS).len());
        w.command(
            "b",
            &format!(r#""command":"deposit","order_id":"{id}","amount":1"#),
        );
        w.pump();
    }

    mass_cancel(&mut w, "b", "all", "");
    w.pump();
    assert_eq!(
        (&w.last("b")["event"], &w.last("b")["reason"]),
        (&json!("CancelRejected"), &json!("UNKNOWN_ORDER"))
    );
    w.check_books();
}

/// Version 2 wrote these rows without the event at which an order came.
#[test]
fn what_version_2_had_open_or_ending_ends() {
    let mut w = floor(in_parts_of(2));
    rest(&mut w, "b", 0..6);
    w.pump();
    let mut state = w.state(Role::Orders)[0].clone();
    for (key, value) in state.iter_mut().filter(|(key, _)| key[0] == b'n') {
        // A mass cancel was in flight for two of the orders.
        *value = if key.ends_with(b"0") || key.ends_with(b"3") {
            vec![1, 1]
        } else {
            vec![1]
        };
    }

    w.set_state(Role::Orders, 0, state);
    mass_cancel(&mut w, "b", "all", "");
    w.pump();
    assert_eq!(
        ends(&w, "b").into_keys().collect::<Vec<_>>(),
        ["000001", "000002", "000004", "000005"]
    );
    w.cancel("b", "c0", "000000");
    w.cancel("b", "c3", "000003");
    w.pump();
    assert_eq!((rows(&w, b'n'), rows(&w, b'x')), (0, 0));
    w.check_rest();
}

/// Several users trade, replace and cancel while mass cancels with and without a symbol are in
/// flight. Transactions have any size, and roles restart.
fn storm(seed: u64) {
    let mut rng = Rng::new(seed);
    let part = 1 + rng.below(4);
    let window = (rng.below(2) == 0).then_some(5_000);
    let mut w = floor(RoleSettings {
        dedup_window_ms: window,
        stale_ms: 1_000_000_000,
        ..in_parts_of(part)
    });

    w.list("B", r#"{"symbol":"B","house":false}"#);
    w.tick("B", "100");
    w.pump();

    // Each order with its symbol; each mass cancel with its symbol, and true for an operator's.
    // Both in the order of the commands.
    let (mut orders, mut masses) = (
        BTreeMap::<(String, String), (u64, &str)>::new(),
        BTreeMap::<(String, String), (u64, &str, bool)>::new(),
    );
    for n in 0..300_u64 {
        let user = ["u", "v", "s"][rng.below(3) as usize];
        let symbol = ["AAPL", "B"][rng.below(2) as usize];
        let id = format!("{}{n}", ["a", "m", "z"][rng.below(3) as usize]);
        match rng.below(20) {
            0..10 => {
                let side = if user == "s" && symbol == "AAPL" {
                    "sell"
                } else {
                    "buy"
                };

                let more = if rng.below(5) == 0 {
                    format!(r#""tif":"GTD","expire_at":{}"#, w.now_ms + 300)
                } else {
                    String::new()
                };

                w.limit(
                    user,
                    &id,
                    symbol,
                    1 + rng.below(3) as i64,
                    side,
                    ["99", "100", "101"][rng.below(3) as usize],
                    &more,
                );

                orders.insert((user.into(), id), (n, symbol));
            }
            10..13 => {
                let filter = rng.below(2) == 0;
                let by = rng.below(3) == 0;
                let more = format!(
                    "{}{}",
                    if filter {
                        format!(r#","symbol":"{symbol}""#)
                    } else {
                        String::new()
                    },
                    if by { r#","operator":"ana""# } else { "" }
                );

                // An operator's command comes in another topic. Earlier orders must be read before
                // it.
                w.turn_max = if by { usize::MAX } else { w.turn_max };
                (0..usize::from(by)).for_each(|_| w.turn_of(Role::Orders));
                mass_cancel(&mut w, user, &id, &more);
                (0..usize::from(by)).for_each(|_| w.turn_of(Role::Orders));
                masses.insert((user.into(), id), (n, if filter { symbol } else { "" }, by));
            }
            13..15 => {
                if let Some(((user, orig), _)) = orders
                    .iter()
                    .nth(rng.below(orders.len().max(1) as u64) as usize)
                    .map(|(k, v)| (k.clone(), v))
                {
                    if rng.below(2) == 0 {
                        w.cancel(&user, &id, &orig);
                    } else {
                        w.replace(&user, &id, &orig, r#""quantity":2"#);
                    }
                }
            }
            15 => w.restart([Role::Orders, Role::Trading][rng.below(2) as usize]),
            16 => {
                w.now_ms += rng.below(500) as i64;
                w.wake();
            }
            _ => {}
        }

        w.turn_max = 1 + rng.below(5) as usize;
        (0..rng.below(3))
            .for_each(|_| w.turn_of([Role::Orders, Role::Trading][rng.below(2) as usize]));
    }

    w.turn_max = usize::MAX;
    w.pump();
    w.check_books();
    w.check_rest();
    for user in ["u", "v", "s"] {
        for (order, ends) in ends(&w, user) {
            let Some((placed, symbol)) = orders.get(&(user.to_string(), order.clone())) else {
                continue;
            };

            assert_eq!(
                ends.len(),
                1,
                "seed {seed}: order {order} of {user} ended more than once: {ends:?}"
            );
            if let Some((asked, filter, _)) = masses.get(&(user.to_string(), ends[0].1.clone())) {
                assert!(
                    placed < asked && (filter.is_empty() || filter == symbol),
                    "seed {seed}: {order} of {user} was none of {}",
                    ends[0].1
                );
            }
        }

        // All orders from before the last mass cancel of all symbols have ended.
        let last = masses
            .iter()
            .filter(|((u, _), (_, filter, _))| u == user && filter.is_empty())
            .map(|(_, (n, _, _))| *n)
            .max();
        let ended = ends(&w, user);
        for ((_, order), _) in orders
            .iter()
            .filter(|((u, _), (n, _))| u == user && last.is_some_and(|last| *n < last))
        {
            let rejected = w
                .events(user)
                .iter()
                .any(|e| e["order_id"] == **order && e["event"] == "OrderRejected");
            assert!(
                ended.contains_key(order) || rejected,
                "seed {seed}: {order} of {user} has outlived a mass cancel"
            );
        }
    }
}

#[test]
fn each_order_that_was_open_ends_once_and_none_that_came_later() {
    let seeds = std::env::var("MASS_CANCEL_SEEDS")
        .map_or(20, |n| n.parse().expect("MASS_CANCEL_SEEDS is a number"));
    (1..=seeds).for_each(storm);
}
