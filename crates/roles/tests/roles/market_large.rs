//! Many orders at one moment: cascades, expiries and delistings take several transactions. No
//! reader sees an order half done.

use std::time::Instant;

use domain::book::{Book, FOREVER, HouseQuote, Life, Match, Order, Party, StepBudget};
use domain::status::Side;
use roles::{Role, RoleSettings};
use wire::topics;

use super::driver::World;
use super::market::floor;

fn count(w: &World, name: &str) -> usize {
    w.records(topics::ORDER_EVENTS)
        .iter()
        .filter(|r| r.header("type") == name)
        .count()
}

/// `orders` orders of many users; `f` makes the n-th.
fn crowd(w: &mut World, orders: usize, mut f: impl FnMut(&mut World, &str, usize)) {
    for n in 0..orders {
        let user = format!("u{}", n % (orders / 1_000).max(10));
        f(w, &user, n);
    }

    w.pump();
}

#[test]
fn x7_a_cascade_of_1000_stops_is_deterministic_and_bounded() {
    let run = || {
        let mut w = floor(RoleSettings {
            open_orders_max: 100_000,
            ..Default::default()
        });

        w.limit("s", "wall", "AAPL", 500, "sell", "101", "");
        w.limit("s", "wall2", "AAPL", 500, "sell", "102", "");
        crowd(&mut w, 1_000, |w, user, n| {
            w.stop(
                user,
                &n.to_string(),
                "AAPL",
                1,
                "buy",
                &format!("100.{:02}", 1 + n % 99),
            )
        });

        let accepted = count(&w, "OrderAccepted");
        w.tick("AAPL", "100.01");
        w.pump();
        assert_eq!(
            (count(&w, "OrderTriggered"), count(&w, "OrderAccepted")),
            (1_000, accepted),
            "each trade sets off the next stops"
        );
        w
    };

    let w = run();
    let fired: Vec<_> = w
        .records(topics::EXECUTIONS)
        .iter()
        .map(|r| r.tree())
        .filter(|x| x["kind"] == "triggered")
        .map(|x| x["order_id"].to_string())
        .collect();

    let mut by_stop: Vec<usize> = (0..1_000).collect();
    by_stop.sort_by_key(|n| (n % 99, *n));
    assert_eq!(
        fired,
        by_stop
            .iter()
            .map(|n| format!("\"{n}\""))
            .collect::<Vec<_>>(),
        "by stop price, then by arrival"
    );

    assert!(!w.records(topics::CLOCK).is_empty(), "the work was spread");
    w.check_books();
    let again = run();
    assert_eq!(w.state(Role::Trading), again.state(Role::Trading));
    assert_eq!(w.state(Role::Orders), again.state(Role::Orders));
}

fn resting(orders: usize, tif: &str) -> World {
    let settings = RoleSettings {
        open_orders_max: 1_000_000,
        stale_ms: 1_000_000_000,
        ..Default::default()
    };

    let mut w = floor(settings);
    let more = format!(r#""tif":"{tif}""#);
    crowd(&mut w, orders, |w, user, n| {
        w.limit(
            user,
            &n.to_string(),
            "AAPL",
            1,
            "buy",
            &format!("99.{:02}", n % 100),
            &more,
        )
    });

    assert_eq!(count(&w, "OrderAccepted"), orders + 1);
    w
}

fn ends(orders: usize, event: &str, change: impl FnOnce(&mut World)) {
    let mut w = resting(
        orders,
        if event == "OrderExpired" {
            "DAY"
        } else {
            "GTC"
        },
    );

    let before = w.largest_turn();
    w.reset_largest_turn();
    change(&mut w);
    w.wake();

    // In the middle: the first transaction is done. Most orders are still in the book, and none of
    // them trades.
    w.turn_of(Role::Trading);
    w.limit("s", "probe", "AAPL", 5, "sell", "99", r#""tif":"IOC""#);
    w.pump();
    assert_eq!(
        count(&w, event),
        orders,
        "all of them ended (largest turn before: {before})"
    );
    assert!(
        !w.names("s").iter().any(|n| n == "OrderPartiallyFilled"),
        "the dead do not trade"
    );
    assert!(
        w.largest_turn() <= 3_000,
        "{} records in one turn",
        w.largest_turn()
    );
    w.check_books();
}

/// 20 000, or the number in the environment.
fn many() -> usize {
    std::env::var("MARKET_ORDERS").map_or(20_000, |n| n.parse().expect("MARKET_ORDERS is a number"))
}

#[test]
fn an_expiry_of_many_day_orders_at_one_moment_is_spread() {
    ends(many(), "OrderExpired", |w| {
        w.now_ms = (w.now_ms / 86_400_000 + 1) * 86_400_000
    });
}

#[test]
fn a_delisting_with_many_resting_orders_is_spread() {
    ends(many(), "OrderCancelled", |w| {
        w.list("AAPL", r#"{"symbol":"AAPL","status":"delisted"}"#)
    });
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Id(u32);

impl Party for Id {
    fn same(&self, other: &Id) -> bool {
        self == other
    }
}

/// Regression: each command passed over all dead orders that were not yet removed.
#[test]
fn the_dead_are_passed_over_once() {
    let order = |id, side, limit_e4, leaves| Order {
        party: Id(id),
        seq: 0,
        side,
        market: false,
        limit_e4,
        ceiling_e4: i64::MAX,
        stop_e4: None,
        leaves,
        cum: 0,
        deadline_ms: FOREVER,
        life: Life::Rest,
        post_only: false,
    };

    let put = |b: &mut Book<Id>, o, now_ms| {
        let mut traded = 0;
        b.submit(
            o,
            now_ms,
            &mut HouseQuote::Away,
            &mut StepBudget::UNBOUNDED.clone(),
            |m: Match<'_, Id>| traded += m.quantity,
        );

        traded
    };

    let mut b = Book::default();
    for n in 0..20_000 {
        put(
            &mut b,
            Order {
                deadline_ms: 1_000,
                ..order(1, Side::Sell, 100 - n % 50, 1)
            },
            0,
        );

        put(
            &mut b,
            Order {
                deadline_ms: 1_000,
                stop_e4: Some(100 + n % 50),
                ..order(1, Side::Buy, 100, 1)
            },
            0,
        );
    }

    put(&mut b, order(2, Side::Sell, 101, i64::MAX), 0);
    put(
        &mut b,
        Order {
            stop_e4: Some(500),
            ..order(1, Side::Buy, 100, 1)
        },
        0,
    );

    let step = |b: &mut Book<Id>, n: u32| {
        b.price(200);
        assert!(b.pop_triggered_stop(1_000).is_none());
        assert_eq!(put(b, order(3 + n, Side::Buy, 101, 1), 1_000), 1);
    };

    let began = Instant::now();
    step(&mut b, 0);
    let first = began.elapsed();
    let began = Instant::now();
    (1..=2_000).for_each(|n| step(&mut b, n));

    // With the defect, the 2000 steps took two thousand times as long as the first. The bound
    // allows for a busy machine.
    assert!(
        began.elapsed() < first * 500,
        "2000 steps took {:?}, and the first {first:?}",
        began.elapsed()
    );
    b.check(1_000).expect("a good book");
}
