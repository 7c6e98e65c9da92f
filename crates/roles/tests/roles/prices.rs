//! Prices and listings: the price of a trade, and the reasons for a refusal.

use ports::topics::TopicPartition;
use roles::{Role, RoleSettings};
use serde_json::json;
use wire::topics;

use super::driver::{START_MS, World};

fn priced(w: &World) -> Vec<i64> {
    w.records(topics::REFERENCE_PRICES)
        .iter()
        .map(|r| r.tree()["price_e4"].as_i64().expect("a price"))
        .collect()
}

#[test]
fn reference_prices_are_conflated() {
    let mut w = World::ready(RoleSettings::default());
    for price in ["189.26", "189.27", "189.50", "189.51"] {
        w.tick("AAPL", price);
    }

    w.pump();
    assert_eq!(priced(&w), [1_892_500, 1_895_000]);
    w.now_ms += 1_000;
    w.tick("AAPL", "189.51");
    w.pump();
    assert_eq!(priced(&w), [1_892_500, 1_895_000, 1_895_100]);
    let last = w
        .records(topics::REFERENCE_PRICES)
        .last()
        .expect("one")
        .tree();
    assert_eq!(
        last,
        json!({"symbol": "AAPL", "price_e4": 1_895_100, "time_us": (START_MS + 1_000) * 1_000})
    );
}

#[test]
fn rate_limiting_of_the_brief_a_thousand_prices() {
    let mut w = World::new(1, RoleSettings::default());
    w.list("AAPL", r#"{"symbol":"AAPL"}"#);
    for price in 0..1_000 {
        w.tick("AAPL", &price.to_string());
    }

    w.pump();
    assert_eq!(w.dead(), ["INVALID_PRICE"]);
    w.order("u", "1", "AAPL", "1", "buy");
    w.pump();
    assert_eq!(w.last("u")["last_price_e4"], 9_990_000);
    assert_eq!(priced(&w).last(), Some(&9_990_000));
}

#[test]
fn m1_late_ticks_move_nothing() {
    let mut w = World::ready(RoleSettings::default());
    for (price, seq, source) in [
        ("200", 5, "a"),
        ("300", 5, "a"),
        ("300", 4, "a"),
        ("210", 1, "b"),
    ] {
        let tick =
            format!(r#"{{"symbol":"AAPL","price":{price},"seq":{seq},"source":"{source}"}}"#);
        w.append(topics::MARKET_DATA, "AAPL", tick.as_bytes());
    }

    for (price, ts) in [
        ("220", 1_625_159_080_i64),
        ("300", 1_625_159_079),
        ("221", 1_625_159_080),
        ("222", 1_625_159_080_500),
    ] {
        let tick = format!(r#"{{"symbol":"AAPL","price":{price},"timestamp":{ts}}}"#);
        w.append(topics::MARKET_DATA, "AAPL", tick.as_bytes());
    }

    w.pump();
    assert_eq!(
        priced(&w),
        [
            1_892_500, 2_000_000, 2_100_000, 2_200_000, 2_210_000, 2_220_000
        ]
    );
    assert!(w.dead().is_empty(), "late ticks are counted, not dead");
}

#[test]
fn m4_a_stale_price_stops_market_orders() {
    let mut w = World::ready(RoleSettings {
        stale_ms: 1_000,
        ..Default::default()
    });

    w.now_ms += 1_000;
    w.order("u", "1", "AAPL", "1", "buy");
    w.pump();
    assert_eq!(w.last("u")["event"], "OrderFilled", "fresh up to the limit");
    w.now_ms += 1;
    w.order("u", "2", "AAPL", "1", "buy");
    w.pump();
    assert_eq!(
        (&w.last("u")["reason"], &w.last("u")["reason_code"]),
        (&json!("STALE_PRICE"), &json!(19))
    );
    w.tick("AAPL", "189.25");
    w.pump();
    w.order("u", "2", "AAPL", "1", "buy");
    w.pump();
    assert_eq!(w.last("u")["event"], "OrderFilled", "the id was not burnt");
}

#[test]
fn s3_s6_status_of_a_symbol() {
    for (json, reason) in [
        (r#"{"symbol":"AAPL","status":"halted"}"#, "SYMBOL_HALTED"),
        (
            r#"{"symbol":"AAPL","status":"cancel_only"}"#,
            "SYMBOL_HALTED",
        ),
        (r#"{"symbol":"AAPL","test_issue":true}"#, "SYMBOL_HALTED"),
        (r#"{"symbol":"AAPL","status":"delisted"}"#, "UNKNOWN_SYMBOL"),
        (r#"{"symbol":"AAPL","lot":100}"#, "INCORRECT_QUANTITY"),
        (
            r#"{"symbol":"AAPL","max_quantity":9}"#,
            "ORDER_EXCEEDS_LIMIT",
        ),
        (
            r#"{"symbol":"AAPL","max_notional":"1892.4999"}"#,
            "NOTIONAL_LIMIT",
        ),
        (
            r#"{"symbol":"AAPL","currency":"EUR"}"#,
            "UNSUPPORTED_CHARACTERISTIC",
        ),
    ] {
        let mut w = World::ready(RoleSettings::default());
        w.list("AAPL", json);
        w.order("u", "1", "AAPL", "10", "buy");
        w.pump();
        assert_eq!(w.last("u")["reason"], reason, "{json}");
        w.list("AAPL", r#"{"symbol":"AAPL"}"#);
        w.order("u", "2", "AAPL", "10", "buy");
        w.pump();
        assert_eq!(w.last("u")["event"], "OrderFilled", "listed again: {json}");
    }

    let mut w = World::ready(RoleSettings::default());
    w.append_at(
        TopicPartition::new(topics::INSTRUMENTS, 0),
        Some(b"AAPL"),
        None,
    );
    w.order("u", "1", "AAPL", "10", "buy");
    w.tick("AAPL", "1");
    w.pump();
    assert_eq!(
        w.last("u")["reason"],
        "UNKNOWN_SYMBOL",
        "a null value delists"
    );
    assert_eq!(w.dead(), ["UNKNOWN_SYMBOL"]);
}

/// `orders` accepts an order, then `change` happens before the book reads the order.
fn in_the_book(change: fn(&mut World)) -> World {
    let mut w = World::ready(RoleSettings {
        stale_ms: 1_000,
        ..Default::default()
    });

    w.order("u", "1", "AAPL", "10", "buy");
    w.turn_of(Role::Orders);
    change(&mut w);
    w.pump();
    w
}

#[test]
fn the_book_has_the_last_word() {
    type Case = (fn(&mut World), &'static [&'static str], &'static str);
    let cases: [Case; 4] = [
        (
            |w| w.list("AAPL", r#"{"symbol":"AAPL","house":false}"#),
            &["OrderAccepted", "OrderCancelled"],
            "NO_LIQUIDITY",
        ),
        (
            |w| w.tick("AAPL", "250"),
            &["OrderAccepted", "OrderCancelled"],
            "PRICE_BAND",
        ),
        (
            |w| w.list("AAPL", r#"{"symbol":"AAPL","status":"halted"}"#),
            &["OrderRejected"],
            "SYMBOL_HALTED",
        ),
        (
            |w| w.list("AAPL", r#"{"symbol":"AAPL","status":"delisted"}"#),
            &["OrderRejected"],
            "UNKNOWN_SYMBOL",
        ),
    ];

    for (change, names, reason) in cases {
        let mut w = in_the_book(change);
        assert_eq!(w.names("u")[2..], *names, "{reason}");
        let e = w.last("u");
        assert_eq!(
            (&e["reason"], &e["leaves_quantity"], &e["cash_reserved_e4"]),
            (&json!(reason), &json!(0), &json!(0))
        );
        assert_eq!(
            e["cash_available_e4"], 10_000_000_000_i64,
            "the hold is released"
        );
        assert!(w.records(topics::TRADES).is_empty());
        w.order("u", "1", "AAPL", "10", "buy");
        w.pump();
        assert_eq!(
            (&w.last("u")["event"], &w.last("u")["reason"]),
            (&json!("OrderStatus"), &json!(reason)),
            "rejects in the book burn the id"
        );
    }
}

#[test]
fn p5_in_a_rising_market_the_cost_stays_within_the_hold() {
    let w = in_the_book(|w| w.tick("AAPL", "198.7125"));
    let e = w.last("u");
    assert_eq!(
        (&e["event"], &e["last_price_e4"]),
        (&json!("OrderFilled"), &json!(1_987_125))
    );
    assert_eq!(e["cash_available_e4"], 10_000_000_000_i64 - 19_871_250);
}

#[test]
fn the_half_spread_is_the_houses() {
    let mut w = World::ready(RoleSettings::default());
    w.list("AAPL", r#"{"symbol":"AAPL","half_spread_bps":10}"#);
    w.order("u", "1", "AAPL", "10", "buy");
    w.pump();
    assert_eq!(
        w.last("u")["last_price_e4"],
        1_894_393,
        "189.25 and ten basis points, rounded up"
    );
    w.order("u", "2", "AAPL", "10", "sell");
    w.pump();
    assert_eq!(w.last("u")["last_price_e4"], 1_890_607);
}

/// Regression: the last tick of a burst was published only with the next tick, which might never
/// come. Portfolios, alerts and collars used an older price for ever.
#[test]
fn the_last_price_of_a_burst_is_told_when_its_second_is_over() {
    let told = |w: &World| {
        let all = w
            .records(topics::REFERENCE_PRICES)
            .into_iter()
            .map(|r| r.tree());
        all.map(|t| {
            (
                t["price_e4"].as_i64().expect("a price"),
                t["time_us"].as_i64().expect("a time") / 1000 - START_MS,
            )
        })
        .collect::<Vec<_>>()
    };

    for restart in [false, true] {
        let mut w = World::new(1, RoleSettings::default());
        w.append(topics::INSTRUMENTS, "ABC", br#"{"symbol":"ABC"}"#);
        let tick = |w: &mut World, price: &str| {
            w.append(
                topics::MARKET_DATA,
                "ABC",
                format!(r#"{{"symbol":"ABC","price":"{price}"}}"#).as_bytes(),
            );
            w.pump();
        };

        tick(&mut w, "100");
        w.now_ms += 2_000;
        tick(&mut w, "100.50");
        w.now_ms += 300;
        tick(&mut w, "100.59");
        let before = told(&w);
        assert_eq!(before.last(), Some(&(1_005_000, 2_000)), "{before:?}");
        if restart {
            w.restart(Role::Trading);
            w.pump();
        }

        w.now_ms += 699;
        w.wake();
        w.pump();
        assert_eq!(told(&w), before, "not yet");
        w.now_ms += 1;
        w.wake();
        w.pump();
        let after = told(&w);
        assert_eq!(after[..before.len()], before[..]);
        assert_eq!(
            after[before.len()..],
            [(1_005_900, 2_300)],
            "with its own time, once"
        );
        w.now_ms += 5_000;
        w.wake();
        w.pump();
        assert_eq!(told(&w), after);
    }

    // With the old rules 7, for replays of old journals.
    let mut w = World::new(
        1,
        RoleSettings {
            rules: 7,
            ..RoleSettings::default()
        },
    );

    w.append(topics::INSTRUMENTS, "ABC", br#"{"symbol":"ABC"}"#);
    for price in ["100", "100.01"] {
        w.append(
            topics::MARKET_DATA,
            "ABC",
            format!(r#"{{"symbol":"ABC","price":"{price}"}}"#).as_bytes(),
        );
    }

    w.pump();
    w.now_ms += 10_000;
    w.wake();
    w.pump();
    assert_eq!(told(&w).len(), 1);
}
