//! Events say what their order is: a subscriber who begins in the middle needs no earlier event.

use roles::RoleSettings;
use serde_json::{Value, json};

use super::driver::World;
use super::market::floor;

/// The terms in an event, in the order of the contract.
fn terms(e: &Value) -> [Value; 5] {
    ["type", "tif", "stop_price_e4", "expire_at_us", "post_only"].map(|name| e[name].clone())
}

/// All events about an order of a user.
fn about(w: &World, user: &str, id: &str) -> Vec<Value> {
    let mut events = w.events(user);
    events.retain(|e| e["order_id"] == id);
    events
}

/// Every event about the order says these terms; returns the names of the events.
fn all_say(w: &World, id: &str, want: [Value; 5]) -> Vec<String> {
    let events = about(w, "b", id);
    assert!(!events.is_empty());
    for e in &events {
        assert_eq!(terms(e), want, "{e}");
    }

    let name = |e: &Value| e["event"].as_str().expect("a name").to_string();
    events.iter().map(name).collect()
}

#[test]
fn each_event_about_an_order_says_the_terms_of_the_order() {
    let mut w = floor(RoleSettings::default());
    w.limit("b", "rests", "AAPL", 5, "buy", "99", r#""post_only":true"#);
    w.pump();
    w.replace("b", "r", "rests", r#""quantity":7"#);
    w.replace("b", "r2", "nobody", r#""quantity":7"#);
    w.pump();
    // The same command again, then another one with the same id.
    w.limit("b", "rests", "AAPL", 5, "buy", "99", r#""post_only":true"#);
    w.limit("b", "rests", "AAPL", 6, "buy", "99", r#""post_only":true"#);
    w.cancel("b", "c", "rests");
    w.pump();
    assert_eq!(
        all_say(
            &w,
            "rests",
            [
                json!("limit"),
                json!("GTC"),
                Value::Null,
                Value::Null,
                json!(true)
            ]
        ),
        [
            "OrderPending",
            "OrderAccepted",
            "OrderReplaced",
            "OrderStatus",
            "DuplicateRejected",
            "OrderCancelled"
        ]
    );

    let nobody = about(&w, "b", "nobody");
    assert_eq!(nobody[0]["event"], "CancelRejected");
    assert_eq!(
        terms(&nobody[0]),
        [const { Value::Null }; 5],
        "no such order"
    );
}

#[test]
fn a_stop_keeps_its_type_and_its_deadline_after_it_has_fired() {
    let mut w = floor(RoleSettings::default());
    let far_ns = 4_000_000_000_000_000_001_i64;
    w.command("b", &format!(
        r#""order_id":"stop","symbol":"AAPL","quantity":3,"order_type":"buy","type":"stop_limit","stop_price":"101","limit_price":"103","tif":"GTD","expire_at":{far_ns}"#
    ));
    w.pump();
    w.tick("AAPL", "102");
    w.pump();
    let rounded_up = json!(4_000_000_000_000_001_i64);
    assert_eq!(
        all_say(
            &w,
            "stop",
            [
                json!("stop_limit"),
                json!("GTD"),
                json!(1_010_000),
                rounded_up,
                Value::Null
            ]
        ),
        ["OrderPending", "OrderAccepted", "OrderTriggered"]
    );
    assert_eq!(w.last("b")["trigger_price_e4"], 1_020_000);
}

#[test]
fn an_unknown_word_is_left_out_and_a_deposit_has_no_terms() {
    let mut w = floor(RoleSettings::default());
    w.command("b", r#""order_id":"odd","symbol":"AAPL","quantity":3,"order_type":"buy","type":"pegged","tif":"GTC""#);
    w.command(
        "b",
        r#""command":"deposit","order_id":"money","amount":"5","operator":"ana""#,
    );
    w.pump();
    assert_eq!(
        all_say(
            &w,
            "odd",
            [
                Value::Null,
                json!("GTC"),
                Value::Null,
                Value::Null,
                Value::Null
            ]
        ),
        ["OrderRejected"]
    );
    let deposit = about(&w, "b", "money");
    assert_eq!(deposit[0]["event"], "Deposited");
    assert_eq!(terms(&deposit[0]), [const { Value::Null }; 5]);
}

#[test]
fn the_average_price_follows_fills_and_busts() {
    let mut w = floor(RoleSettings::default());
    w.limit("s", "1", "AAPL", 1, "sell", "100", "");
    w.limit("s", "2", "AAPL", 2, "sell", "100.01", "");
    w.limit("b", "buys", "AAPL", 4, "buy", "101", "");
    w.pump();
    let averages = |w: &World| -> Vec<Value> {
        let events = about(w, "b", "buys");
        events
            .iter()
            .map(|e| e["average_price_e4"].clone())
            .collect()
    };

    // 100.00 once and 100.01 twice: 3000200 / 3 = 1000066.67.
    let want = [Value::Null, Value::Null, json!(1_000_000), json!(1_000_067)];
    assert_eq!(averages(&w), want);

    w.cancel("b", "c", "buys");
    w.pump();
    let first = about(&w, "b", "buys")[2]["trade_id"].clone();
    w.command("b", &format!(
        r#""command":"bust","operator":"ana","order_id":"x","orig_order_id":"buys","trade_id":{first},"quantity":1,"price":"100""#
    ));
    w.pump();
    let all = averages(&w);
    assert_eq!(all[4], 1_000_067, "the end");
    assert_eq!(all[5], 1_000_100, "only the trades at 100.01 stand");
}

#[test]
fn events_by_older_rules_are_as_they_were() {
    let mut w = floor(RoleSettings {
        rules: 15,
        ..RoleSettings::default()
    });
    w.limit("s", "1", "AAPL", 1, "sell", "100", "");
    w.limit("b", "old", "AAPL", 1, "buy", "100", "");
    w.pump();
    all_say(&w, "old", [const { Value::Null }; 5]);
    for e in about(&w, "b", "old") {
        assert_eq!(e["average_price_e4"], Value::Null, "{e}");
    }
}
