//! Operators end orders of other users, and set bounds.

use roles::RoleSettings;
use serde_json::{Value, json};

use super::market::floor;

pub fn fields(e: &Value, names: &[&str]) -> Vec<Value> {
    names.iter().map(|n| e[n].clone()).collect()
}

#[test]
fn an_operators_cancel_says_so() {
    let mut w = floor(RoleSettings::default());
    for id in ["1", "2", "3"] {
        w.limit("b", id, "AAPL", 1, "buy", "99", "");
    }

    w.pump();
    w.command(
        "b",
        r#""command":"cancel","operator":"ana","order_id":"c","orig_order_id":"1""#,
    );
    w.pump();
    assert_eq!(
        fields(&w.last("b"), &["event", "reason", "order_id", "cause_id"]),
        ["OrderCancelled", "OPERATOR", "1", "c"]
    );
    w.command(
        "b",
        r#""command":"mass_cancel","operator":"ana","order_id":"m""#,
    );
    w.pump();
    let events = w.events("b");
    for (e, id) in events[events.len() - 2..].iter().zip(["2", "3"]) {
        assert_eq!(
            fields(e, &["event", "reason", "order_id", "cause_id"]),
            ["OrderCancelled", "OPERATOR", id, "m"]
        );
    }

    w.command(
        "b",
        r#""command":"cancel","operator":7,"order_id":"d","orig_order_id":"1""#,
    );
    w.pump();
    assert_eq!(
        (w.dead(), &w.last("b")["reason"]),
        (vec!["MALFORMED".to_string()], &json!("MALFORMED"))
    );
    w.check_books();
}

#[test]
fn a_clip_size_bounds_what_has_no_limit() {
    let mut w = floor(RoleSettings::default());
    w.list("AAPL", r#"{"symbol":"AAPL","clip_size":10}"#);
    w.order("b", "1", "AAPL", "11", "buy");
    w.stop("b", "2", "AAPL", 11, "buy", "105");
    w.pump();
    let events = w.events("b");
    for e in &events[1..] {
        assert_eq!(
            fields(e, &["event", "reason", "reason_code"]),
            [json!("OrderRejected"), json!("CLIP_SIZE"), json!(26)]
        );
    }

    w.limit("b", "3", "AAPL", 11, "buy", "99", "");
    w.stop("b", "4", "AAPL", 10, "buy", "105");
    w.pump();
    w.replace("b", "r", "4", r#""quantity":11"#);
    w.pump();
    assert_eq!(
        fields(&w.last("b"), &["event", "reason", "order_id"]),
        ["CancelRejected", "CLIP_SIZE", "4"]
    );
    w.order("b", "5", "AAPL", "10", "buy");
    w.pump();
    assert_eq!(w.last("b")["event"], "OrderFilled");
    w.check_books();
}
