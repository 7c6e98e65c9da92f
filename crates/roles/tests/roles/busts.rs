//! Trade busts by operators: exact, in parts, and after the proceeds were used. Every follower of
//! the trades is told.

use roles::{Role, RoleSettings};
use serde_json::{Value, json};
use wire::topics;

use super::driver::{START_MS, World};
use super::market::floor;
use super::operators::fields;

fn bust(w: &mut World, user: &str, id: &str, orig: &str, fields: &str) {
    let command = format!(
        r#""command":"bust","operator":"ana","order_id":"{id}","orig_order_id":"{orig}",{fields}"#
    );
    w.command(user, &command);
    w.pump();
}

fn portfolio(w: &World, user: &str) -> Value {
    let all = w.records(topics::PORTFOLIOS);
    all.iter()
        .rev()
        .find(|r| r.key.as_deref() == Some(user.as_bytes()))
        .expect("a portfolio")
        .tree()
}

/// `b` has bought 3 at 100 from `s`, for a fee.
fn traded() -> World {
    traded_under(RoleSettings::default())
}

fn traded_under(settings: RoleSettings) -> World {
    let mut w = floor(settings);
    w.list("AAPL", r#"{"symbol":"AAPL","house":false,"fee_bps":7}"#);
    w.limit("s", "ask", "AAPL", 3, "sell", "100", "");
    w.pump();
    w.limit("b", "bid", "AAPL", 3, "buy", "100", "");
    w.pump();
    w
}

/// The trade of the user, in the fields of a command.
fn trade(w: &World, user: &str) -> String {
    let e = w.last(user);
    let money = |field: &str| {
        format!(
            "{:.4}",
            e[field].as_i64().expect("a number") as f64 / 10_000.0
        )
    };

    format!(
        r#""trade_id":{},"quantity":{},"price":"{}","fee":"{}""#,
        e["trade_id"],
        e["last_quantity"],
        money("last_price_e4"),
        money("fee_e4")
    )
}

/// Result of the last command: the reason if it was refused, and the field that differed.
fn outcome(w: &World, user: &str) -> (String, String) {
    let e = w.last(user);
    let text = |name: &str| e[name].as_str().unwrap_or_default().to_string();
    (
        if text("reason").is_empty() {
            text("event")
        } else {
            text("reason")
        },
        text("conflict_field"),
    )
}

fn cash(w: &World, user: &str) -> i64 {
    w.last(user)["cash_available_e4"].as_i64().expect("cash")
}

fn amount(e4: i64) -> String {
    format!("{}.{:04}", e4 / 10_000, e4 % 10_000)
}

/// Withdraws all available cash.
fn withdraw_all(w: &mut World, user: &str) {
    let all = amount(cash(w, user));
    w.command(
        user,
        &format!(r#""command":"withdraw","order_id":"all-{all}","amount":"{all}""#),
    );
    w.pump();
    assert_eq!(outcome(w, user).0, "Withdrawn");
}

/// Records of `trades` about busted trades.
fn told(w: &World) -> Vec<Value> {
    w.records(topics::TRADES)
        .iter()
        .filter(|r| r.header("type") == "TradeBusted")
        .map(|r| r.tree())
        .collect()
}

/// The old rules, under which trades were not kept.
fn before() -> RoleSettings {
    RoleSettings {
        rules: 10,
        ..Default::default()
    }
}

#[test]
fn a_trade_that_is_taken_back_leaves_what_was_before() {
    for user in ["b", "s"] {
        let mut w = traded();
        let order = if user == "b" { "bid" } else { "ask" };
        let filled = w.last(user);
        let before = w.events(user);
        let had = before
            .iter()
            .rev()
            .find(|e| e["event"] == "OrderPending")
            .expect("before the order");
        let cash = |e: &Value| {
            e["cash_available_e4"].as_i64().expect("cash")
                + e["cash_reserved_e4"].as_i64().expect("cash")
        };

        let described = trade(&w, user);
        bust(&mut w, user, "bust", order, &described);
        let e = w.last(user);
        let names = [
            "event",
            "order_id",
            "cause_id",
            "status",
            "quantity",
            "cum_quantity",
            "leaves_quantity",
        ];

        assert_eq!(
            fields(&e, &names),
            [
                json!("TradeBusted"),
                json!(order),
                json!("bust"),
                json!("cancelled"),
                json!(3),
                json!(0),
                json!(0)
            ]
        );

        for same in [
            "trade_id",
            "last_quantity",
            "last_price_e4",
            "symbol",
            "side",
        ] {
            assert_eq!(e[same], filled[same], "{same}");
        }

        assert_eq!(
            e["fee_e4"].as_i64(),
            filled["fee_e4"].as_i64().map(|fee| -fee)
        );
        assert_eq!(cash(&e), cash(had), "the money is back");
        let p = portfolio(&w, user);
        let shares = if user == "b" {
            Value::Null
        } else {
            json!({"quantity": 1_000, "reserved": 0, "cost_basis_e4": 1_000_000_000})
        };

        assert_eq!(
            (&p["positions"]["AAPL"], &p["fees_e4"], &p["realised_e4"]),
            (&shares, &json!(0), &json!(0))
        );
        let t = told(&w).pop().expect("a record");
        let (own, order_of) = if user == "b" {
            ("buyer", "buy_order_id")
        } else {
            ("seller", "sell_order_id")
        };

        let names = [
            "trade_id",
            "symbol",
            "price_e4",
            "busted_quantity",
            own,
            order_of,
        ];

        assert_eq!(
            fields(&t, &names),
            [
                filled["trade_id"].clone(),
                json!("AAPL"),
                json!(1_000_000),
                json!(3),
                json!(user),
                json!(order)
            ]
        );

        let other_side = if user == "b" {
            ["seller", "sell_order_id"]
        } else {
            ["buyer", "buy_order_id"]
        };

        assert_eq!(
            (fields(&t, &other_side), &t["quantity"]),
            (vec![Value::Null, Value::Null], &Value::Null),
            "that side stands"
        );

        // The other side keeps the trade.
        let other = if user == "b" { "s" } else { "b" };
        assert_eq!(w.last(other)["event"], "OrderFilled");
        w.check_books();

        // A repeat of the same command gets the state of the order. Another bust of this trade
        // comes too late.
        bust(&mut w, user, "bust", order, &described);
        let names = ["event", "order_id", "status", "reason", "cum_quantity"];
        assert_eq!(
            fields(&w.last(user), &names),
            [
                json!("OrderStatus"),
                json!(order),
                json!("cancelled"),
                json!("OPERATOR"),
                json!(0)
            ]
        );

        bust(
            &mut w,
            user,
            "more",
            order,
            &described.replace(":3,", ":1,"),
        );

        assert_eq!(
            fields(&w.last(user), &["event", "reason"]),
            ["CancelRejected", "TOO_LATE_TO_CANCEL"]
        );
        let notes: Vec<Value> = w
            .records(topics::NOTIFICATIONS)
            .iter()
            .map(|r| r.tree())
            .collect();
        assert!(
            notes.iter().any(|n| n["kind"] == "trade-busted"
                && n["text"]
                    .as_str()
                    .expect("text")
                    .contains("3 AAPL at 100.00 USD")),
            "{notes:?}"
        );
    }
}

/// A bust cannot rewrite the order of trades. Quantity, cash and equity are as if the trade had not
/// happened, but realised profit is not.
#[test]
fn in_the_portfolio_a_bust_is_a_trade_the_other_way() {
    let mut w = floor(RoleSettings::default());
    for (id, price) in [("1", "100"), ("2", "104")] {
        w.limit("s", &format!("ask{id}"), "AAPL", 10, "sell", price, "");
        w.limit("b", id, "AAPL", 10, "buy", price, "");
        w.pump();
    }

    let trade = w
        .events("b")
        .into_iter()
        .find(|e| e["event"] == "OrderFilled")
        .expect("the first")["trade_id"]
        .clone();
    bust(
        &mut w,
        "b",
        "x",
        "1",
        &format!(r#""trade_id":{trade},"quantity":10,"price":100"#),
    );

    let p = portfolio(&w, "b");

    // 20 shares cost 2040. Half of them go back for 1000, which is 20 less than half of the cost.
    assert_eq!(
        p["positions"]["AAPL"],
        json!({"quantity": 10, "reserved": 0, "cost_basis_e4": 10_200_000})
    );
    assert_eq!(p["realised_e4"], -200_000);
    assert_eq!(p["cash_available_e4"], 10_000_000_000_i64 - 10_400_000);
    w.check_books();
}

#[test]
fn a_bust_that_does_not_describe_the_trade_is_refused() {
    let refused = |w: &mut World, user: &str, id: &str, order: &str, fields_: &str| {
        let before = w
            .events(user)
            .last()
            .map(|e| e["cash_available_e4"].clone());
        let records = w.records(topics::TRADES).len();
        bust(w, user, id, order, fields_);
        let e = w.last(user);
        assert_eq!(e["event"], "CancelRejected", "{e}");
        assert_eq!(
            (
                Some(e["cash_available_e4"].clone()),
                w.records(topics::TRADES).len()
            ),
            (before, records)
        );

        w.check_books();
        let (reason, field) = outcome(w, user);
        if field.is_empty() {
            reason
        } else {
            format!("{reason} {field}")
        }
    };

    let mut w = traded();
    let good = trade(&w, "b");
    let with = |more: &str| format!("{good},{more}");
    for (order, fields, reason) in [
        ("none", good.clone(), "UNKNOWN_ORDER"),
        ("bid", good.replace(":3,", ":4,"), "INCORRECT_QUANTITY"),
        ("bid", good.replace(":3,", ":0,"), "INCORRECT_QUANTITY"),
        ("bid", good.replace("100.0000", "0"), "INVALID_AMOUNT"),
        (
            "bid",
            good.replace("\"fee\":\"", "\"fee\":\"-"),
            "INVALID_AMOUNT",
        ),
        (
            "bid",
            good.replace("\"fee\":\"", "\"fee\":\"9999"),
            "TRADE_MISMATCH fee",
        ),
        (
            "bid",
            good.replace("\"fee\":\"0", "\"fee\":\"0.0001\",\"x\":\""),
            "TRADE_MISMATCH fee",
        ),
        (
            "bid",
            good.replace("100.0000", "100.01"),
            "TRADE_MISMATCH price",
        ),
        ("bid", with(r#""symbol":"MSFT""#), "TRADE_MISMATCH symbol"),
        (
            "bid",
            with(r#""order_type":"sell""#),
            "TRADE_MISMATCH order_type",
        ),
        (
            "bid",
            with(r#""symbol":["AAPL"]"#),
            "UNSUPPORTED_CHARACTERISTIC",
        ),
        (
            "bid",
            with(r#""order_type":"short""#),
            "UNSUPPORTED_CHARACTERISTIC",
        ),
        (
            "bid",
            good.replace("\"trade_id\":\"", "\"trade_id\":\"no-such-"),
            "UNKNOWN_TRADE",
        ),
        // A trade of another user, and a trade of another order of the same user.
        ("stock", good.clone(), "UNKNOWN_TRADE"),
    ] {
        let user = if order == "stock" { "s" } else { "b" };
        let id = format!("{}", w.events("b").len() + w.events("s").len());
        assert_eq!(
            refused(&mut w, user, &id, order, &fields),
            reason,
            "{fields}"
        );
    }

    assert!(
        w.last("s")["text"]
            .as_str()
            .is_some_and(|t| t.contains("no such trade"))
    );

    // While the order may still trade, the bust is refused. Its id stays free for a later bust.
    w.limit("b", "open", "AAPL", 5, "buy", "100", "");
    w.limit("s", "ask2", "AAPL", 2, "sell", "100", "");
    w.pump();
    let part = trade(&w, "b");
    assert_eq!(refused(&mut w, "b", "7", "open", &part), "SYSTEM_BUSY");
    assert_eq!(
        w.last("b")["text"],
        "the order may still trade; cancel it first"
    );
    w.cancel("b", "c", "open");
    w.pump();
    bust(
        &mut w,
        "b",
        "7",
        "open",
        &format!(r#"{part},"symbol":"AAPL","order_type":"buy""#),
    );

    assert_eq!(
        fields(&w.last("b"), &["event", "status", "cum_quantity"]),
        [json!("TradeBusted"), json!("cancelled"), json!(0)]
    );

    // The same id with another symbol is another command.
    bust(
        &mut w,
        "b",
        "7",
        "open",
        &format!(r#"{part},"symbol":"MSFT","order_type":"buy""#),
    );

    assert_eq!(
        outcome(&w, "b"),
        ("DUPLICATE_ORDER".into(), "symbol".into())
    );
}

#[test]
fn a_trade_taken_back_in_parts_returns_the_whole_fee() {
    let mut w = traded();
    let filled = w.last("b");
    let trade_id = filled["trade_id"].clone();
    let fee = filled["fee_e4"].as_i64().expect("a fee");
    assert_eq!(fee, 2_100);
    let start = cash(&w, "b");
    let mut given = 0;

    // 3 shares for a fee of 0.21: one share after the other, in three equal parts. Then the same
    // with a fee that cannot be shared equally.
    for (n, named) in [(1, ""), (2, r#","fee":"0.07""#), (3, "")] {
        bust(
            &mut w,
            "b",
            &format!("part{n}"),
            "bid",
            &format!(r#""trade_id":{trade_id},"quantity":1,"price":100{named}"#),
        );

        let e = w.last("b");
        let names = [
            "event",
            "status",
            "cum_quantity",
            "last_quantity",
            "cum_value_e4",
        ];

        let value = if n == 3 {
            Value::Null
        } else {
            json!((3 - n) * 1_000_000)
        };

        assert_eq!(
            fields(&e, &names),
            [
                json!("TradeBusted"),
                json!("cancelled"),
                json!(3 - n),
                json!(1),
                value
            ]
        );

        given -= e["fee_e4"].as_i64().expect("a fee");
    }

    assert_eq!((given, cash(&w, "b")), (fee, start + 3_000_000 + fee));
    bust(
        &mut w,
        "b",
        "part4",
        "bid",
        &format!(r#""trade_id":{trade_id},"quantity":1,"price":100"#),
    );

    assert_eq!(outcome(&w, "b").0, "TOO_LATE_TO_CANCEL");
    assert_eq!(
        told(&w)
            .iter()
            .map(|t| t["busted_quantity"].as_i64().expect("a number"))
            .sum::<i64>(),
        3
    );

    w.check_books();

    w.list("AAPL", r#"{"symbol":"AAPL","house":false,"fee_bps":1}"#);
    w.limit("s", "ask2", "AAPL", 7, "sell", "95.03", "");
    w.limit("s", "ask3", "AAPL", 7, "sell", "100", "");
    w.pump();
    w.limit("b", "odd", "AAPL", 7, "buy", "100", "");
    w.pump();
    let filled = w.last("b");
    let fee = filled["fee_e4"].as_i64().expect("a fee");
    let left = [2, 4, 1];
    let mut given = 0;
    for quantity in left {
        bust(
            &mut w,
            "b",
            &format!("odd{quantity}"),
            "odd",
            &format!(
                r#""trade_id":{},"quantity":{quantity},"price":"{}""#,
                filled["trade_id"],
                amount(filled["last_price_e4"].as_i64().expect("a price"))
            ),
        );

        assert_eq!(outcome(&w, "b").0, "TradeBusted");
        given -= w.last("b")["fee_e4"].as_i64().expect("a fee");
    }

    assert_eq!((given, fee % 7 != 0), (fee, true), "to the last unit");
    assert_eq!(portfolio(&w, "b")["fees_e4"], 0);
    w.check_books();
}

/// The main use of busts: an erroneous sale whose proceeds were withdrawn.
#[test]
fn spent_money_becomes_a_debt_that_blocks_until_covered() {
    let mut w = floor(RoleSettings::default());
    w.limit("b", "bid", "AAPL", 100, "buy", "104", "");
    w.limit("s", "rests", "AAPL", 5, "buy", "99", "");
    w.pump();
    w.limit("s", "error", "AAPL", 100, "sell", "104", "");
    w.pump();
    let described = trade(&w, "s");
    withdraw_all(&mut w, "s");
    bust(&mut w, "s", "x", "error", &described);
    assert_eq!(
        (outcome(&w, "s").0.as_str(), cash(&w, "s")),
        ("TradeBusted", -104_000_000)
    );
    assert_eq!(portfolio(&w, "s")["cash_available_e4"], -104_000_000);
    w.check_books();
    w.restart(Role::Orders);

    // Commands that cost cash are refused. Commands that bring cash, and cancels, are accepted.
    w.command("s", r#""command":"withdraw","order_id":"w","amount":1"#);
    w.pump();
    assert_eq!(outcome(&w, "s").0, "DEBIT_BALANCE");
    assert_eq!(w.last("s")["reason_code"], 25);
    w.limit("s", "more", "AAPL", 1, "buy", "99", "");
    w.pump();
    assert_eq!(outcome(&w, "s").0, "DEBIT_BALANCE");
    w.replace("s", "larger", "rests", r#""quantity":6"#);
    w.pump();
    assert_eq!(outcome(&w, "s").0, "DEBIT_BALANCE");
    w.cancel("s", "c", "rests");
    w.pump();
    assert_eq!(
        (w.last("s")["event"].as_str(), cash(&w, "s")),
        (Some("OrderCancelled"), -104_000_000 + 4_950_000),
        "what was held pays"
    );
    w.limit("b", "bid2", "AAPL", 60, "buy", "100", "");
    w.limit("s", "sale", "AAPL", 60, "sell", "100", "");
    w.pump();
    assert_eq!(
        (w.last("s")["event"].as_str(), cash(&w, "s")),
        (Some("OrderFilled"), -39_050_000)
    );
    w.check_books();
    w.command("s", r#""command":"deposit","order_id":"d","amount":"3905""#);
    w.pump();
    assert_eq!(cash(&w, "s"), 0);
    w.limit("s", "broke", "AAPL", 1, "buy", "99", "");
    w.pump();
    assert_eq!(
        outcome(&w, "s").0,
        "INSUFFICIENT_FUNDS",
        "no debt any more, and no money"
    );

    // The other side keeps its trade until it is busted too.
    assert_eq!(portfolio(&w, "b")["positions"]["AAPL"]["quantity"], 160);
    let described = described.replace(r#","fee":"0.0000""#, "");
    bust(&mut w, "b", "y", "bid", &described);
    assert_eq!(
        (
            outcome(&w, "b").0.as_str(),
            &portfolio(&w, "b")["positions"]["AAPL"]["quantity"]
        ),
        ("TradeBusted", &json!(60))
    );

    let sides: Vec<Vec<Value>> = told(&w)
        .iter()
        .map(|t| fields(t, &["busted_quantity", "buyer", "seller"]))
        .collect();
    assert_eq!(
        sides,
        [
            [json!(100), Value::Null, json!("s")],
            [json!(100), json!("b"), Value::Null]
        ]
    );

    w.check_books();
    w.check_rest();
}

/// Shares that were bought by mistake, then sold or reserved by a sell.
#[test]
fn shares_that_are_gone_are_owed_by_the_rules_of_short_sales() {
    let mut w = floor(RoleSettings::default());
    w.limit("s", "ask", "AAPL", 100, "sell", "100", "");
    w.pump();
    w.limit("b", "bid", "AAPL", 100, "buy", "100", "");
    w.pump();
    let described = trade(&w, "b");
    w.limit("s", "bid2", "AAPL", 70, "buy", "100", "");
    w.pump();
    w.limit("b", "sold", "AAPL", 70, "sell", "100", "");
    w.limit("b", "promised", "AAPL", 20, "sell", "105", "");
    w.pump();
    let before = w.last("b")["cash_available_e4"].as_i64().expect("cash")
        + w.last("b")["cash_reserved_e4"].as_i64().expect("cash");
    bust(&mut w, "b", "x", "bid", &described);
    let e = w.last("b");
    assert_eq!(e["event"], "TradeBusted");

    // 90 shares are owed; the hold is the reference price and half of it for each.
    assert_eq!(
        (e["cash_reserved_e4"].as_i64(), cash(&w, "b")),
        (Some(135_000_000), before + 100_000_000 - 135_000_000)
    );
    let p = &portfolio(&w, "b")["positions"]["AAPL"];
    assert_eq!((&p["quantity"], &p["reserved"]), (&json!(-70), &json!(20)));
    w.check_books();
    w.check_rest();

    // Shares that a cancelled sell releases cover the owed shares. The listing allows no short
    // sales, but a buy to cover is not a short sale.
    w.cancel("b", "c", "promised");
    w.pump();
    withdraw_all(&mut w, "b");
    assert_eq!(w.last("b")["cash_reserved_e4"], 105_000_000);
    w.limit("b", "short", "AAPL", 1, "sell", "100", "");
    w.pump();
    assert_eq!(outcome(&w, "b").0, "SHORT_SELL_NOT_PERMITTED");
    w.limit("s", "ask2", "AAPL", 70, "sell", "104", "");
    w.pump();
    w.limit("b", "back", "AAPL", 70, "buy", "104", "");
    w.pump();
    assert_eq!(
        (w.last("b")["event"].as_str(), cash(&w, "b")),
        (Some("OrderFilled"), 105_000_000 - 72_800_000)
    );
    assert_eq!(
        (
            &w.last("b")["cash_reserved_e4"],
            &portfolio(&w, "b")["positions"]
        ),
        (&json!(0), &json!({}))
    );

    w.check_books();
}

#[test]
fn a_trade_with_the_house_is_taken_back_on_both_sides() {
    let mut w = World::ready(RoleSettings::default());
    w.order("u", "1", "AAPL", "2", "buy");
    w.pump();
    let described = trade(&w, "u");
    bust(&mut w, "u", "x", "1", &described);
    let names = [
        "buyer",
        "buy_order_id",
        "seller",
        "sell_order_id",
        "busted_quantity",
    ];

    assert_eq!(
        fields(&told(&w)[0], &names),
        [
            json!("u"),
            json!("1"),
            json!("house:AAPL"),
            Value::Null,
            json!(2)
        ]
    );

    w.check_books();
}

/// Every trade of an order with many trades can be busted. No state of the order is left after its
/// id is forgotten.
#[test]
fn an_order_of_many_trades_keeps_all_of_them() {
    let settings = RoleSettings {
        dedup_window_ms: Some(10_000),
        stale_ms: 100_000_000,
        ..Default::default()
    };

    let mut w = floor(settings);
    let rows = |w: &World| {
        w.state(Role::Orders)[0]
            .keys()
            .filter(|key| key[0] == b'f')
            .count()
    };

    w.limit("s", "many", "AAPL", 20, "sell", "100", "");
    for n in 0..20 {
        w.limit("b", &format!("{n}"), "AAPL", 1, "buy", "100", "");
        w.pump();
        w.restart(Role::Orders);
        w.check_books();
    }

    assert_eq!(rows(&w), 2, "eight each; four are in the entry");
    let trades: Vec<Value> = w
        .events("s")
        .into_iter()
        .filter(|e| e["order_id"] == "many" && e["trade_id"] != Value::Null)
        .collect();
    for (n, t) in trades.iter().enumerate() {
        bust(
            &mut w,
            "s",
            &format!("x{n}"),
            "many",
            &format!(r#""trade_id":{},"quantity":1,"price":100"#, t["trade_id"]),
        );

        assert_eq!(
            fields(&w.last("s"), &["event", "cum_quantity"]),
            [json!("TradeBusted"), json!(19 - n)],
            "trade {n}"
        );
        w.check_books();
    }

    bust(
        &mut w,
        "s",
        "again",
        "many",
        &format!(
            r#""trade_id":{},"quantity":1,"price":100"#,
            trades[3]["trade_id"]
        ),
    );

    assert_eq!(outcome(&w, "s").0, "TOO_LATE_TO_CANCEL");
    w.now_ms = START_MS + 100_000;
    for n in 0..100 {
        w.cancel("b", &format!("later{n}"), "none");
        w.pump();
        w.now_ms += 1_000;
    }

    assert_eq!(rows(&w), 0);
    bust(
        &mut w,
        "s",
        "gone",
        "many",
        &format!(
            r#""trade_id":{},"quantity":1,"price":100"#,
            trades[3]["trade_id"]
        ),
    );

    assert_eq!(outcome(&w, "s").0, "UNKNOWN_ORDER");
}

/// Forgetting such an order takes several transactions and does not delay the forgetting of other
/// ids. A trade that is not kept any more cannot be busted.
#[test]
fn an_order_of_very_many_trades_is_forgotten_in_parts() {
    let settings = RoleSettings {
        dedup_window_ms: Some(10_000),
        stale_ms: 100_000_000,
        ..Default::default()
    };

    let mut w = floor(settings);
    let rows = |w: &World| {
        w.state(Role::Orders)[0]
            .keys()
            .filter(|key| key[0] == b'f')
            .count()
    };

    w.limit("s", "many", "AAPL", 900, "sell", "100", "");
    w.pump();
    for n in 0..900 {
        w.limit("b", &format!("{n}"), "AAPL", 1, "buy", "100", "");
        w.pump();
    }

    let trade = w.last("s")["trade_id"].clone();
    assert_eq!(rows(&w), 112);
    w.now_ms = START_MS + 100_000;
    let mut counts = vec![rows(&w)];
    for n in 0..600 {
        let id = format!("later{n}");
        let what = format!(r#""trade_id":{trade},"quantity":1,"price":100"#);
        bust(&mut w, "s", &id, "many", &what.replace("0-", "9-"));
        w.now_ms += 1_000;
        w.check_books();
        if counts.last() != Some(&rows(&w)) {
            counts.push(rows(&w));
            bust(&mut w, "s", &format!("{id}-now"), "many", &what);
            assert_eq!(outcome(&w, "s").0, "UNKNOWN_ORDER");
        }
    }

    assert_eq!(counts, [112, 12, 0]);
}

/// An order from before trades were kept. For trades that are not kept, the operator's description
/// is accepted, once. Later trades are busted exactly.
#[test]
fn trades_before_they_were_kept_go_back_on_an_operators_word() {
    let mut w = floor(before());
    w.limit("b", "bid", "AAPL", 10, "buy", "100", "");
    w.limit("s", "first", "AAPL", 4, "sell", "100", "");
    w.pump();
    w.restart_under(
        Role::Orders,
        RoleSettings {
            rate_limit: 0,
            ..Default::default()
        },
    );

    w.limit("s", "second", "AAPL", 6, "sell", "100", "");
    w.pump();
    let kept = trade(&w, "b");
    for (id, fields_, reason) in [
        (
            "1",
            r#""trade_id":"t","quantity":5,"price":100"#,
            "INCORRECT_QUANTITY",
        ),
        (
            "2",
            r#""trade_id":"t","quantity":3,"price":100"#,
            "TradeBusted",
        ),
        (
            "3",
            r#""trade_id":"t","quantity":1,"price":100"#,
            "TOO_LATE_TO_CANCEL",
        ),
        (
            "4",
            r#""trade_id":"u","quantity":1,"price":100"#,
            "TradeBusted",
        ),
        (
            "5",
            r#""trade_id":"v","quantity":1,"price":100"#,
            "UNKNOWN_TRADE",
        ),
        ("6", &kept.replace(":6,", ":7,"), "INCORRECT_QUANTITY"),
        ("7", &kept, "TradeBusted"),
    ] {
        bust(&mut w, "b", id, "bid", fields_);
        assert_eq!(outcome(&w, "b").0, reason, "{id}");
        w.check_books();
    }

    assert_eq!(
        fields(&w.last("b"), &["cum_quantity", "status"]),
        [json!(0), json!("cancelled")]
    );
    assert_eq!(told(&w).len(), 3);
}

#[test]
fn by_the_rules_of_before_nothing_is_different() {
    let mut w = traded_under(before());
    let filled = w.last("b");
    withdraw_all(&mut w, "s");
    let described = trade(&w, "b");
    let sold = r#""trade_id":"t","quantity":1,"price":100,"symbol":["?"]"#;
    bust(&mut w, "s", "1", "ask", sold);
    assert_eq!(outcome(&w, "s").0, "INSUFFICIENT_FUNDS");
    bust(&mut w, "b", "2", "bid", &described.replace(":3,", ":1,"));
    let e = w.last("b");
    assert_eq!(
        fields(&e, &["event", "status", "cum_quantity", "fee_e4"]),
        [
            json!("TradeBusted"),
            json!("filled"),
            json!(2),
            json!(-2_100)
        ]
    );

    assert_eq!((&e["trade_id"], told(&w).len()), (&filled["trade_id"], 0));
    bust(&mut w, "b", "3", "bid", &described.replace(":3,", ":1,"));
    assert_eq!(outcome(&w, "b").0, "TOO_LATE_TO_CANCEL");
    w.limit("b", "sell", "AAPL", 2, "sell", "101", "");
    w.pump();
    bust(
        &mut w,
        "b",
        "4",
        "bid",
        &described
            .replace(":3,", ":1,")
            .replace("\"trade_id\":\"", "\"trade_id\":\"x"),
    );

    assert_eq!(outcome(&w, "b").0, "SHORT_SELL_NOT_PERMITTED");
    let letters: Vec<u8> = w.state(Role::Orders)[0]
        .iter()
        .filter(|(key, _)| key[0] == b'o')
        .map(|(_, value)| value[0])
        .collect();
    assert!(
        letters.iter().all(|version| *version == 2),
        "no entry of the new form: {letters:?}"
    );
    w.check_books();
}

#[test]
fn one_trade_of_an_order_is_taken_back_once() {
    let mut w = floor(RoleSettings::default());
    w.limit("s", "a1", "AAPL", 2, "sell", "100", "");
    w.limit("s", "a2", "AAPL", 2, "sell", "101", "");
    w.pump();
    w.limit("b", "bid", "AAPL", 4, "buy", "101", "");
    w.pump();
    let fills: Vec<Value> = w
        .events("b")
        .into_iter()
        .filter(|e| e["trade_id"] != Value::Null)
        .collect();
    let described = |n: usize| {
        format!(
            r#""trade_id":{},"quantity":2,"price":{}"#,
            fills[n]["trade_id"],
            100 + n
        )
    };

    bust(&mut w, "b", "1", "bid", &described(0));
    let names = ["event", "status", "cum_quantity", "cum_value_e4"];
    assert_eq!(
        fields(&w.last("b"), &names),
        [
            json!("TradeBusted"),
            json!("cancelled"),
            json!(2),
            json!(2_020_000)
        ]
    );

    bust(&mut w, "b", "2", "bid", &described(0));
    assert_eq!(
        fields(&w.last("b"), &["event", "reason"]),
        ["CancelRejected", "TOO_LATE_TO_CANCEL"]
    );
    bust(&mut w, "b", "1", "bid", &described(1));
    assert_eq!(
        fields(&w.last("b"), &["event", "conflict_field"]),
        ["DuplicateRejected", "trade_id"]
    );

    // A disabled user's trade can be busted too.
    w.control("b", "disabled");
    bust(&mut w, "b", "3", "bid", &described(1));
    assert_eq!(
        fields(&w.last("b"), &["event", "cum_quantity", "fee_e4"]),
        [json!("TradeBusted"), json!(0), json!(0)]
    );
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
        assert_eq!(
            (w.dead().len(), &w.last("b")["reason"]),
            (before + 1, &json!("MALFORMED")),
            "{from} -> {to}"
        );
    }

    w.check_books();
}

/// Also for a listing without a margin, where a short sale holds no cash. A user in debt must not
/// use short sales to go on trading.
#[test]
fn who_owes_money_does_not_sell_short_where_that_needs_no_cash() {
    let mut w = floor(RoleSettings::default());
    w.list(
        "AAPL",
        r#"{"symbol":"AAPL","house":false,"short_ok":true,"short_margin_bps":0}"#,
    );
    w.limit("b", "bid", "AAPL", 1_000, "buy", "100", "");
    w.limit("s", "error", "AAPL", 900, "sell", "100", "");
    w.pump();
    let described = trade(&w, "s");
    withdraw_all(&mut w, "s");
    w.limit("s", "free", "AAPL", 101, "sell", "104", "");
    w.pump();
    assert_eq!(outcome(&w, "s").0, "OrderAccepted", "without a debt it may");
    w.cancel("s", "c", "free");
    w.pump();
    bust(&mut w, "s", "x", "error", &described);
    assert_eq!(cash(&w, "s"), -900_000_000);
    w.limit("s", "short", "AAPL", 1_001, "sell", "104", "");
    w.pump();
    assert_eq!(outcome(&w, "s").0, "DEBIT_BALANCE");
    w.limit("s", "own", "AAPL", 500, "sell", "104", "");
    w.pump();
    assert_eq!(
        outcome(&w, "s").0,
        "OrderAccepted",
        "its own shares bring money"
    );
    w.replace("s", "more", "own", r#""quantity":1001"#);
    w.pump();
    assert_eq!(outcome(&w, "s").0, "DEBIT_BALANCE");
    w.check_books();
}
