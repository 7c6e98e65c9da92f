//! What operators do to orders of others: end them, and take trades back.

use processor::roles::RoleSettings;
use processor::wire::topics;
use serde_json::{Value, json};

use super::driver::World;
use super::market::floor;

fn bust(w: &mut World, user: &str, id: &str, orig: &str, fields: &str) {
    let command = format!(r#""command":"bust","operator":"ana","order_id":"{id}","orig_order_id":"{orig}",{fields}"#);
    w.command(user, &command);
    w.pump();
}

fn fields(e: &Value, names: &[&str]) -> Vec<Value> {
    names.iter().map(|n| e[n].clone()).collect()
}

fn portfolio(w: &World, user: &str) -> Value {
    let all = w.records(topics::PORTFOLIOS);
    all.iter().rev().find(|r| r.key.as_deref() == Some(user.as_bytes())).expect("a portfolio").tree()
}

/// `b` has bought 3 at 100 of `s`, for a fee.
fn traded() -> World {
    let mut w = floor(RoleSettings::default());
    w.list("AAPL", r#"{"symbol":"AAPL","house":false,"fee_bps":7}"#);
    w.limit("s", "ask", "AAPL", 3, "sell", "100", "");
    w.pump();
    w.limit("b", "bid", "AAPL", 3, "buy", "100", "");
    w.pump();
    w
}

/// What `b`'s trade was, in the fields of a command.
fn trade(w: &World, user: &str) -> String {
    let e = w.last(user);
    let money = |field: &str| format!("{:.4}", e[field].as_i64().expect("a number") as f64 / 10_000.0);
    format!(
        r#""trade_id":{},"quantity":{},"price":"{}","fee":"{}""#,
        e["trade_id"],
        e["last_quantity"],
        money("last_price_e4"),
        money("fee_e4")
    )
}

#[test]
fn an_operators_cancel_says_so() {
    let mut w = floor(RoleSettings::default());
    for id in ["1", "2", "3"] {
        w.limit("b", id, "AAPL", 1, "buy", "99", "");
    }
    w.pump();
    w.command("b", r#""command":"cancel","operator":"ana","order_id":"c","orig_order_id":"1""#);
    w.pump();
    assert_eq!(fields(&w.last("b"), &["event", "reason", "order_id", "cause_id"]), ["OrderCancelled", "OPERATOR", "1", "c"]);
    w.command("b", r#""command":"mass_cancel","operator":"ana","order_id":"m""#);
    w.pump();
    let events = w.events("b");
    for (e, id) in events[events.len() - 2..].iter().zip(["2", "3"]) {
        assert_eq!(fields(e, &["event", "reason", "order_id", "cause_id"]), ["OrderCancelled", "OPERATOR", id, "m"]);
    }
    w.command("b", r#""command":"cancel","operator":7,"order_id":"d","orig_order_id":"1""#);
    w.pump();
    assert_eq!((w.dead(), &w.last("b")["reason"]), (vec!["MALFORMED".to_string()], &json!("MALFORMED")));
    w.check_books();
}

#[test]
fn a_trade_that_is_taken_back_leaves_what_was_before() {
    for user in ["b", "s"] {
        let mut w = traded();
        let order = if user == "b" { "bid" } else { "ask" };
        let (filled, before) = (w.last(user), w.events(user));
        let had = before.iter().rev().find(|e| e["event"] == "OrderPending").expect("before the order");
        let cash = |e: &Value| e["cash_available_e4"].as_i64().expect("cash") + e["cash_reserved_e4"].as_i64().expect("cash");
        let described = trade(&w, user);
        bust(&mut w, user, "bust", order, &described);
        let e = w.last(user);
        let names = ["event", "order_id", "cause_id", "status", "quantity", "cum_quantity", "leaves_quantity"];
        assert_eq!(fields(&e, &names), [json!("TradeBusted"), json!(order), json!("bust"), json!("filled"), json!(3), json!(0), json!(0)]);
        for same in ["trade_id", "last_quantity", "last_price_e4", "symbol", "side"] {
            assert_eq!(e[same], filled[same], "{same}");
        }
        assert_eq!(e["fee_e4"].as_i64(), filled["fee_e4"].as_i64().map(|fee| -fee));
        assert_eq!(cash(&e), cash(had), "the money is back");
        let p = portfolio(&w, user);
        let shares = if user == "b" { Value::Null } else { json!({"quantity": 1_000, "reserved": 0, "cost_basis_e4": 1_000_000_000}) };
        assert_eq!((&p["positions"]["AAPL"], &p["fees_e4"], &p["realised_e4"]), (&shares, &json!(0), &json!(0)));
        // The other one keeps the trade.
        let other = if user == "b" { "s" } else { "b" };
        assert_eq!(w.last(other)["event"], "OrderFilled");
        w.check_books();

        // The same command again is told how the order stands; another one about this trade comes too late.
        bust(&mut w, user, "bust", order, &described);
        assert_eq!(fields(&w.last(user), &["event", "order_id", "cum_quantity"]), [json!("OrderStatus"), json!(order), json!(0)]);
        bust(&mut w, user, "more", order, &described.replace(":3,", ":1,"));
        assert_eq!(fields(&w.last(user), &["event", "reason"]), ["CancelRejected", "TOO_LATE_TO_CANCEL"]);
        let notes: Vec<Value> = w.records(topics::NOTIFICATIONS).iter().map(|r| r.tree()).collect();
        assert!(
            notes.iter().any(|n| n["kind"] == "trade-busted" && n["text"].as_str().expect("text").contains("3 AAPL at 100.00 USD")),
            "{notes:?}"
        );
    }
}

/// The order of trades cannot be rewritten: quantity, cash and equity are as if the trade had not been, not what counts as realised.
#[test]
fn in_the_portfolio_a_bust_is_a_trade_the_other_way() {
    let mut w = floor(RoleSettings::default());
    for (id, price) in [("1", "100"), ("2", "104")] {
        w.limit("s", &format!("ask{id}"), "AAPL", 10, "sell", price, "");
        w.limit("b", id, "AAPL", 10, "buy", price, "");
        w.pump();
    }
    let trade = w.events("b").into_iter().find(|e| e["event"] == "OrderFilled").expect("the first")["trade_id"].clone();
    bust(&mut w, "b", "x", "1", &format!(r#""trade_id":{trade},"quantity":10,"price":100"#));
    let p = portfolio(&w, "b");
    // 20 shares for 2040; half of them go for 1000, which half of the cost is 20 more than.
    assert_eq!(p["positions"]["AAPL"], json!({"quantity": 10, "reserved": 0, "cost_basis_e4": 10_200_000}));
    assert_eq!(p["realised_e4"], -200_000);
    assert_eq!(p["cash_available_e4"], 10_000_000_000_i64 - 10_400_000);
    w.check_books();
}

#[test]
fn a_bust_that_cannot_be_is_refused_and_changes_nothing() {
    let refused = |w: &mut World, user: &str, id: &str, order: &str, fields_: &str| {
        let before = w.events(user).last().map(|e| e["cash_available_e4"].clone());
        bust(w, user, id, order, fields_);
        let e = w.last(user);
        assert_eq!(e["event"], "CancelRejected", "{e}");
        assert_eq!(Some(e["cash_available_e4"].clone()), before);
        w.check_books();
        e["reason"].as_str().expect("a reason").to_string()
    };
    let mut w = traded();
    let good = trade(&w, "b");
    assert_eq!(refused(&mut w, "b", "1", "none", &good), "UNKNOWN_ORDER");
    assert_eq!(refused(&mut w, "b", "2", "bid", &good.replace(":3,", ":4,")), "INCORRECT_QUANTITY");
    assert_eq!(refused(&mut w, "b", "3", "bid", &good.replace(":3,", ":0,")), "INCORRECT_QUANTITY");
    assert_eq!(refused(&mut w, "b", "4", "bid", &good.replace("100.0000", "0")), "INVALID_AMOUNT");
    assert_eq!(refused(&mut w, "b", "5", "bid", &good.replace("\"fee\":\"", "\"fee\":\"-")), "INVALID_AMOUNT");
    assert_eq!(refused(&mut w, "b", "6", "bid", &good.replace("\"fee\":\"", "\"fee\":\"9999")), "INVALID_AMOUNT");
    // While the order may still trade; its id is free, for the time after.
    w.limit("b", "open", "AAPL", 5, "buy", "100", "");
    w.limit("s", "ask2", "AAPL", 2, "sell", "100", "");
    w.pump();
    let part = good.replace(":3,", ":2,");
    assert_eq!(refused(&mut w, "b", "7", "open", &part), "SYSTEM_BUSY");
    assert_eq!(w.last("b")["text"], "the order may still trade; cancel it first");
    w.cancel("b", "c", "open");
    w.pump();
    bust(&mut w, "b", "7", "open", &part);
    assert_eq!(fields(&w.last("b"), &["event", "status", "cum_quantity"]), [json!("TradeBusted"), json!("cancelled"), json!(0)]);
    // What was bought is promised to a sell, or sold.
    w.limit("b", "sell", "AAPL", 3, "sell", "101", "");
    w.pump();
    assert_eq!(refused(&mut w, "b", "8", "bid", &good), "SHORT_SELL_NOT_PERMITTED");
    // What was earned is gone.
    let described = format!("{},\"fee\":0", r#""trade_id":"t","quantity":1,"price":"100""#);
    let cash = w.last("s")["cash_available_e4"].as_i64().expect("cash");
    let all = format!("{}.{:04}", cash / 10_000, cash % 10_000);
    w.command("s", &format!(r#""command":"withdraw","order_id":"w","amount":"{all}""#));
    w.pump();
    assert_eq!(w.last("s")["event"], "Withdrawn");
    assert_eq!(refused(&mut w, "s", "9", "ask", &described), "INSUFFICIENT_FUNDS");
}

#[test]
fn one_trade_of_an_order_is_taken_back_once() {
    let mut w = floor(RoleSettings::default());
    w.limit("s", "a1", "AAPL", 2, "sell", "100", "");
    w.limit("s", "a2", "AAPL", 2, "sell", "101", "");
    w.pump();
    w.limit("b", "bid", "AAPL", 4, "buy", "101", "");
    w.pump();
    bust(&mut w, "b", "1", "bid", r#""trade_id":"x","quantity":2,"price":100"#);
    assert_eq!(fields(&w.last("b"), &["event", "cum_quantity"]), [json!("TradeBusted"), json!(2)]);
    bust(&mut w, "b", "2", "bid", r#""trade_id":"x","quantity":2,"price":100"#);
    assert_eq!(fields(&w.last("b"), &["event", "reason"]), ["CancelRejected", "TOO_LATE_TO_CANCEL"]);
    bust(&mut w, "b", "1", "bid", r#""trade_id":"y","quantity":2,"price":100"#);
    assert_eq!(fields(&w.last("b"), &["event", "conflict_field"]), ["DuplicateRejected", "trade_id"]);
    // A disabled user's, too.
    w.control("b", "disabled");
    bust(&mut w, "b", "3", "bid", r#""trade_id":"y","quantity":2,"price":101"#);
    assert_eq!(fields(&w.last("b"), &["event", "cum_quantity", "fee_e4"]), [json!("TradeBusted"), json!(0), json!(0)]);
    w.check_books();
}

#[test]
fn a_bust_without_an_operator_or_its_trade_is_malformed() {
    let mut w = traded();
    let good = r#""command":"bust","operator":"ana","order_id":"1","orig_order_id":"bid","trade_id":"t","quantity":1,"price":100"#;
    for (from, to) in [
        (r#""operator":"ana","#, ""),
        (r#""operator":"ana""#, r#""operator":"a b""#),
        (r#""orig_order_id":"bid","#, ""),
        (r#""trade_id":"t","#, ""),
        (r#""quantity":1,"#, ""),
        (r#","price":100"#, ""),
        (r#""price":100"#, r#""price":"x""#),
        (r#""price":100"#, r#""price":100,"fee":[]"#),
    ] {
        let before = w.dead().len();
        w.command("b", &good.replace(from, to));
        w.pump();
        assert_eq!((w.dead().len(), &w.last("b")["reason"]), (before + 1, &json!("MALFORMED")), "{from} -> {to}");
    }
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
        assert_eq!(fields(e, &["event", "reason", "reason_code"]), [json!("OrderRejected"), json!("CLIP_SIZE"), json!(26)]);
    }
    w.limit("b", "3", "AAPL", 11, "buy", "99", "");
    w.stop("b", "4", "AAPL", 10, "buy", "105");
    w.pump();
    w.replace("b", "r", "4", r#""quantity":11"#);
    w.pump();
    assert_eq!(fields(&w.last("b"), &["event", "reason", "order_id"]), ["CancelRejected", "CLIP_SIZE", "4"]);
    w.order("b", "5", "AAPL", "10", "buy");
    w.pump();
    assert_eq!(w.last("b")["event"], "OrderFilled");
    w.check_books();
}
