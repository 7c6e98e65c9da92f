//! The duplicate matrix, and the commands that may be tried again.

use roles::{Role, RoleSettings};
use serde_json::{Value, json};
use wire::topics;

use super::driver::{START_MS, World};

#[test]
fn d1_d8_d10_the_same_order_twice_is_executed_once() {
    let mut w = World::ready(RoleSettings::default());
    let order = |ts: u64| {
        format!(
            r#""order_id":"1002","symbol":"AAPL","quantity":10,"order_type":"buy","timestamp":{ts}"#
        )
    };

    w.command("501", &order(1_625_159_076));
    w.command("501", &order(1_625_159_077));
    w.turn_of(Role::Orders);
    assert_eq!(
        w.names("501"),
        ["Deposited", "OrderPending", "OrderStatus"],
        "while the first is in flight"
    );
    assert_eq!(w.last("501")["status"], "pending_new");
    w.pump();
    w.command("501", &order(1_625_159_078));
    w.pump();
    let last = w.last("501");
    assert_eq!(
        (&last["event"], &last["status"]),
        (&json!("OrderStatus"), &json!("filled"))
    );
    assert_eq!(
        (
            &last["quantity"],
            &last["cum_quantity"],
            &last["leaves_quantity"]
        ),
        (&json!(10), &json!(10), &json!(0))
    );

    assert_eq!(w.records(topics::TRADES).len(), 1);
}

#[test]
fn d3_d4_other_content_is_refused() {
    let mut w = World::ready(RoleSettings::default());
    w.order("u", "1", "AAPL", "10", "buy");
    w.order("u", "1", "AAPL", "20", "buy");
    w.order("u", "1", "MSFT", "10", "buy");
    w.order("u", "1", "AAPL", "10", "sell");
    w.turn_of(Role::Orders);
    w.command("u", r#""order_id":"1","command":"deposit","amount":1"#);
    w.pump();
    let events = w.events("u");
    let found: Vec<_> = events
        .iter()
        .filter(|e| e["event"] == "DuplicateRejected")
        .collect();
    assert_eq!(
        found
            .iter()
            .map(|e| e["conflict_field"].as_str().expect("named"))
            .collect::<Vec<_>>(),
        ["quantity", "symbol", "order_type", "command"]
    );

    for e in found {
        assert_eq!(
            (
                &e["reason"],
                &e["reason_code"],
                &e["status"],
                &e["quantity"]
            ),
            (
                &json!("DUPLICATE_ORDER"),
                &json!(6),
                &json!("pending_new"),
                &json!(10)
            )
        );
    }

    assert_eq!(w.last("u")["event"], "OrderFilled");
    assert_eq!(w.records(topics::TRADES).len(), 1);
}

#[test]
fn d5_another_users_id_is_another_order() {
    let mut w = World::ready(RoleSettings::default());
    w.order("u", "1", "AAPL", "10", "buy");
    w.order("v", "1", "AAPL", "20", "buy");
    w.pump();
    assert_eq!(w.records(topics::TRADES).len(), 2);
    assert_eq!(w.last("v")["cum_quantity"], 20);
}

#[test]
fn d6_r1_rate_limited_ids_may_be_tried_again() {
    let mut w = World::ready(RoleSettings {
        rate_limit: 10,
        burst: 5,
        ..Default::default()
    });

    for i in 1..=6 {
        w.order("u", &i.to_string(), "AAPL", "1", "buy");
    }

    w.order("v", "1", "AAPL", "1", "buy");
    w.command(
        "u",
        r#""command":"cancel","order_id":"c","orig_order_id":"1""#,
    );
    w.order("u", "1", "AAPL", "1", "buy");
    w.turn_of(Role::Orders);
    let events = w.events("u");
    let limited = &events[6];
    assert_eq!(
        (
            &limited["order_id"],
            &limited["reason"],
            &limited["retry_after_ms"]
        ),
        (&json!("6"), &json!("RATE_LIMITED"), &json!(100))
    );

    assert_eq!(
        w.records(topics::BOOK_COMMANDS).len(),
        7,
        "R3: cancels are free, this one is on its way to the book"
    );
    assert_eq!(
        events[7]["event"], "OrderStatus",
        "a duplicate is never limited"
    );
    assert_eq!(w.last("v")["event"], "OrderPending", "R4");
    w.now_ms += 99;
    w.order("u", "6", "AAPL", "1", "buy");
    w.turn_of(Role::Orders);
    assert_eq!(w.last("u")["retry_after_ms"], 1);
    w.now_ms += 1;
    w.order("u", "6", "AAPL", "1", "buy");
    w.order("u", "7", "AAPL", "1", "buy");
    w.turn_of(Role::Orders);
    let events = w.events("u");
    assert_eq!(events[events.len() - 2]["event"], "OrderPending");
    assert_eq!(w.last("u")["retry_after_ms"], 100);
}

#[test]
fn d7_sticky_rejects_burn_the_id() {
    let mut w = World::ready(RoleSettings {
        opening_cash_e4: 0,
        ..Default::default()
    });

    w.order("u", "1", "AAPL", "1", "buy");
    w.turn_of(Role::Orders);
    w.command("u", r#""command":"deposit","order_id":"d","amount":1000"#);
    w.order("u", "1", "AAPL", "1", "buy");
    w.order("u", "2", "AAPL", "1", "buy");
    w.turn_of(Role::Orders);
    let e = w.events("u");
    assert_eq!(
        (&e[0]["event"], &e[0]["reason"]),
        (&json!("OrderRejected"), &json!("INSUFFICIENT_FUNDS"))
    );
    assert_eq!(
        (&e[2]["event"], &e[2]["status"], &e[2]["reason"]),
        (
            &json!("OrderStatus"),
            &json!("rejected"),
            &json!("INSUFFICIENT_FUNDS")
        )
    );

    assert_eq!(e[3]["event"], "OrderPending");
}

#[test]
fn d9_old_commands_are_stale_when_age_is_limited() {
    let mut w = World::ready(RoleSettings {
        max_command_age_ms: Some(5_000),
        ..Default::default()
    });

    let order = |id: &str, ts: i64| {
        format!(
            r#""order_id":"{id}","symbol":"AAPL","quantity":1,"order_type":"buy","timestamp":{ts}"#
        )
    };

    w.command("u", &order("1", START_MS - 5_000));
    w.command("u", &order("2", START_MS - 5_001));
    w.command("u", &order("3", START_MS + 1_001));
    w.command("u", &order("2", START_MS));
    w.turn_of(Role::Orders);
    let e = w.events("u");
    assert_eq!(e[1]["event"], "OrderPending");
    assert_eq!(
        (&e[2]["reason"], &e[2]["reason_code"]),
        (&json!("STALE_ORDER"), &json!(8))
    );
    assert_eq!(e[3]["reason"], "FUTURE_TIMESTAMP");
    assert_eq!(
        e[4]["event"], "OrderPending",
        "a stale order does not burn its id"
    );
}

/// Number of rows of a kind in the state of `orders`.
fn rows(w: &World, letter: u8) -> usize {
    w.state(Role::Orders)
        .iter()
        .flat_map(|state| state.keys())
        .filter(|key| key[0] == letter)
        .count()
}

#[test]
fn d9_an_id_is_forgotten_after_its_window_and_old_is_stale() {
    let settings = RoleSettings {
        max_command_age_ms: Some(5_000),
        dedup_window_ms: Some(10_000),
        ..Default::default()
    };

    let mut w = World::ready(settings);
    let order = |ts: i64| {
        format!(
            r#""order_id":"1","symbol":"AAPL","quantity":1,"order_type":"buy","timestamp":{ts}"#
        )
    };

    w.command("u", &order(START_MS));
    w.limit("u", "rests", "AAPL", 1, "buy", "186", "");
    w.pump();
    for (later, answer) in [
        (4_000, "OrderStatus"),
        (9_999, "OrderRejected"),
        (10_000, "OrderRejected"),
        (3_600_000, "OrderRejected"),
    ] {
        w.now_ms = START_MS + later;
        w.command("u", &order(START_MS));
        w.pump();
        w.restart(Role::Orders);
        w.pump();
        let e = w.last("u");
        assert_eq!(
            (&e["event"], e["reason"] == "STALE_ORDER"),
            (&json!(answer), answer == "OrderRejected"),
            "{later}"
        );
    }

    // A command whose own time contradicts the log's time does not move the clock of the window.
    // The next command does.
    assert_eq!(rows(&w, b'o'), 2);
    w.cancel("u", "c", "none");
    w.pump();
    assert_eq!(
        rows(&w, b'o'),
        1,
        "only the one that rests: a cancel of nothing is not remembered"
    );
    w.tick("AAPL", "189.25");
    w.pump();
    w.command("u", &order(START_MS + 3_600_000));
    w.limit("u", "rests", "AAPL", 1, "buy", "186", "");
    w.pump();
    let names = w.names("u");
    assert_eq!(
        names[names.len() - 4..],
        [
            "OrderPending",
            "OrderStatus",
            "OrderAccepted",
            "OrderFilled"
        ],
        "{names:?}"
    );

    w.check_books();
}

#[test]
fn what_is_remembered_does_not_grow_beyond_the_window() {
    let settings = RoleSettings {
        dedup_window_ms: Some(10_000),
        opening_cash_e4: 10_000_000_000_000,
        rate_limit: 0,
        ..Default::default()
    };

    let mut w = World::ready(settings);
    let mut most = 0;
    for n in 0..300_i64 {
        w.now_ms = START_MS + n * 250;
        w.tick("AAPL", "100");
        w.order("u", &format!("{n}"), "AAPL", "2", "buy");
        w.pump();

        // A part is busted; cancels and deposits have ids too.
        let e = w.last("u");
        assert_eq!(e["event"], "OrderFilled");
        let trade = e["trade_id"].clone();
        let what = r#""operator":"ana","quantity":1,"price":100"#;
        w.command("u", &format!(r#""command":"bust","order_id":"b{n}","orig_order_id":"{n}","trade_id":{trade},{what}"#));
        w.command(
            "u",
            &format!(r#""command":"cancel","order_id":"c{n}","orig_order_id":"{n}""#),
        );
        w.pump();
        most = most.max(rows(&w, b'o'));
        if n % 50 == 0 {
            w.restart(Role::Orders);
        }
    }

    assert_eq!(
        w.names("u")
            .iter()
            .filter(|name| *name == "TradeBusted")
            .count(),
        300
    );

    assert!(
        (120..135).contains(&most),
        "forty orders of ten seconds, each with a bust and a cancel: {most}"
    );
    assert_eq!(rows(&w, b'o'), rows(&w, b'e'));
    assert!((1..20).contains(&rows(&w, b'm')));
    assert_eq!(
        (rows(&w, b'b'), rows(&w, b'f')),
        (0, 0),
        "trades are kept with their order, and go with it"
    );
    w.check_books();

    // A forgotten id counts as new, and a forgotten order cannot be named any more.
    w.cancel("u", "late", "1");
    w.order("u", "2", "AAPL", "5", "buy");
    w.pump();
    let events = w.events("u");
    let late = events
        .iter()
        .find(|e| e["cause_id"] == "late")
        .expect("an answer");
    assert_eq!(
        (&late["event"], &late["reason"]),
        (&json!("CancelRejected"), &json!("UNKNOWN_ORDER"))
    );
    assert_eq!(
        (&w.last("u")["event"], &w.last("u")["quantity"]),
        (&json!("OrderFilled"), &json!(5))
    );
}

/// Moves the time of the log forward, with commands.
fn later(w: &mut World, ms: i64) {
    w.now_ms += ms;
    for n in 0..6 {
        let id = format!("{}-{n}", w.now_ms);
        w.command(
            "u",
            &format!(r#""command":"deposit","order_id":"{id}","amount":1"#),
        );
    }

    w.turn_of(Role::Orders);
}

/// An order with a dedup window of ten seconds, which ended while `ask` was in flight. The book has
/// handled the first of two commands and is down for a day.
fn ended_with(ask: impl FnOnce(&mut World)) -> World {
    let mut w = World::ready(RoleSettings {
        dedup_window_ms: Some(10_000),
        stale_ms: 100_000_000,
        ..Default::default()
    });

    w.limit("u", "x", "AAPL", 2, "buy", "186", "");
    w.pump();
    w.cancel("u", "c", "x");
    ask(&mut w);
    w.turn_of(Role::Orders);
    w.turn_max = 1;
    w.turn_of(Role::Trading);
    w.turn_max = usize::MAX;
    w.turn_of(Role::Orders);
    assert_eq!(w.last("u")["event"], "OrderCancelled");
    later(&mut w, 1_000);
    later(&mut w, 86_400_000);
    w
}

/// The answers to `r`.
fn refusals(w: &World) -> Vec<Value> {
    w.events("u")
        .into_iter()
        .filter(|e| e["event"] == "CancelRejected" && e["cause_id"] == "r")
        .collect()
}

#[test]
fn a_late_cancels_answer_does_not_meet_a_reused_id() {
    let deposit = r#""command":"deposit","order_id":"x","amount":1"#;
    let too_much = r#""order_id":"x","symbol":"AAPL","quantity":1000000,"order_type":"buy""#;
    let rests = r#""order_id":"x","symbol":"AAPL","quantity":5,"order_type":"buy","type":"limit","limit_price":187"#;
    for (again, answer) in [
        (None, ""),
        (Some(deposit), "Deposited"),
        (Some(too_much), "OrderRejected"),
        (Some(rests), "OrderPending"),
    ] {
        let mut w = ended_with(|w| w.cancel("u", "r", "x"));
        if let Some(command) = again {
            w.command("u", command);
            w.turn_of(Role::Orders);
            assert_eq!(w.last("u")["event"], answer);
        }

        w.pump();
        let told = refusals(&w);
        assert_eq!(
            (told.len(), &told[0]["order_id"], &told[0]["status"]),
            (1, &json!("x"), &Value::Null),
            "{told:?}"
        );
        assert_eq!(rows(&w, b'n'), usize::from(again == Some(rests)));
        w.check_books();
    }
}

#[test]
fn an_id_is_not_forgotten_before_a_change_of_it_is_answered() {
    let mut w = ended_with(|w| w.replace("u", "r", "x", r#""quantity":1"#));
    let again = |w: &mut World| {
        w.limit("u", "x", "AAPL", 5, "buy", "187", "");
        w.turn_of(Role::Orders);
        w.last("u")["event"].clone()
    };

    assert_eq!(again(&mut w), "DuplicateRejected");
    w.pump();
    let told = refusals(&w);
    assert_eq!((told.len(), &told[0]["status"]), (1, &json!("cancelled")));

    // Now the window begins.
    later(&mut w, 1_000);
    later(&mut w, 9_999);
    assert_eq!(again(&mut w), "DuplicateRejected");
    later(&mut w, 1);
    assert_eq!(again(&mut w), "OrderPending");
    w.pump();
    w.check_books();
}

/// `orders` returns after more than the window. One batch contains old fills and new commands, the
/// fills first.
#[test]
fn what_ends_late_is_not_forgotten_at_once() {
    let mut w = World::ready(RoleSettings {
        dedup_window_ms: Some(10_000),
        stale_ms: 100_000_000,
        ..Default::default()
    });

    w.order("u", "1", "AAPL", "2", "buy");
    w.turn_of(Role::Orders);
    w.turn_of(Role::Trading);
    w.now_ms += 60_000;
    for _ in 0..4 {
        w.order("u", "1", "AAPL", "2", "buy");
    }

    w.pump();
    assert_eq!(
        w.names("u")
            .iter()
            .filter(|name| *name == "OrderFilled")
            .count(),
        1,
        "{:?}",
        w.names("u")
    );
}

/// A busted trade of a forgotten order cannot be busted again after the id is reused.
#[test]
fn what_was_taken_back_is_remembered() {
    let mut w = World::ready(RoleSettings {
        dedup_window_ms: Some(10_000),
        stale_ms: 100_000_000,
        ..Default::default()
    });

    w.order("u", "1", "AAPL", "2", "buy");
    w.pump();
    let trade = w.last("u")["trade_id"].clone();
    let bust = |w: &mut World, id: &str| {
        let what =
            r#""command":"bust","orig_order_id":"1","operator":"ana","quantity":2,"price":189.25"#;
        w.command(
            "u",
            &format!(r#"{what},"order_id":"{id}","trade_id":{trade}"#),
        );
        w.pump();
        (w.last("u")["event"].clone(), w.last("u")["reason"].clone())
    };

    assert_eq!(bust(&mut w, "b1").0, "TradeBusted");
    later(&mut w, 1_000);
    later(&mut w, 60_000);
    assert_eq!(
        bust(&mut w, "b2"),
        (json!("CancelRejected"), json!("UNKNOWN_ORDER"))
    );
    w.order("u", "1", "AAPL", "2", "buy");
    w.pump();
    assert_eq!(
        bust(&mut w, "b3"),
        (json!("CancelRejected"), json!("UNKNOWN_TRADE"))
    );
    w.check_books();
}

#[test]
fn a_repeated_deposit_counts_once_and_rejected_stays_rejected() {
    let mut w = World::ready(RoleSettings {
        opening_cash_e4: 0,
        ..Default::default()
    });

    for amount in ["500", "\"500.00\"", "600"] {
        w.command(
            "u",
            &format!(r#""command":"deposit","order_id":"d","amount":{amount}"#),
        );
    }

    w.limit("u", "0", "AAPL", 1, "buy", "186", "");
    for orig in ["0", "0", "2"] {
        w.command(
            "u",
            &format!(r#""command":"replace","order_id":"c","orig_order_id":"{orig}","quantity":0"#),
        );
    }

    w.turn_of(Role::Orders);
    let want = [
        "Deposited",
        "OrderStatus",
        "DuplicateRejected",
        "OrderPending",
        "CancelRejected",
        "OrderStatus",
        "DuplicateRejected",
    ];

    assert_eq!(w.names("u"), want);
    let e = w.events("u");
    assert_eq!(
        (
            &e[1]["status"],
            &e[1]["amount_e4"],
            &e[1]["cash_available_e4"]
        ),
        (&json!("filled"), &json!(5_000_000), &json!(5_000_000))
    );

    assert_eq!(
        (&e[2]["conflict_field"], &e[2]["status"]),
        (&json!("amount"), &json!("filled"))
    );
    assert_eq!(
        (&e[5]["status"], &e[5]["reason"]),
        (&json!("rejected"), &json!("INCORRECT_QUANTITY"))
    );
    assert_eq!(e[6]["conflict_field"], "orig_order_id");
}

#[test]
fn no_price_yet_does_not_burn_the_id_but_an_unknown_symbol_does() {
    let mut w = World::new(1, RoleSettings::default());
    w.list("AAPL", "{\"symbol\":\"AAPL\"}");
    w.order("u", "1", "AAPL", "1", "buy");
    w.order("u", "2", "MSFT", "1", "buy");
    w.pump();
    assert_eq!(w.events("u")[1]["reason"], "NO_REFERENCE_PRICE");
    assert_eq!(w.events("u")[2]["reason"], "UNKNOWN_SYMBOL");
    w.tick("AAPL", "1");
    w.list("MSFT", "{\"symbol\":\"MSFT\"}");
    w.pump();
    w.tick("MSFT", "1");
    w.pump();
    w.order("u", "1", "AAPL", "1", "buy");
    w.order("u", "2", "MSFT", "1", "buy");
    w.order("u", "3", "MSFT", "1", "buy");
    w.turn_of(Role::Orders);
    assert_eq!(
        w.names("u")[3..],
        ["OrderPending", "OrderStatus", "OrderPending"],
        "S2"
    );
}
