//! Books: rows X and S of the acceptance matrix, and the related kinds of orders.

use roles::{Role, RoleSettings};
use serde_json::{Value, json};
use wire::topics;

use super::driver::{START_MS, World};

const OPENING: i64 = 10_000_000_000;

/// AAPL without a house, priced at 100, and a seller `s` with 1000 shares.
pub fn floor(settings: RoleSettings) -> World {
    let mut w = World::new(
        1,
        RoleSettings {
            rate_limit: 0,
            ..settings
        },
    );

    w.list("AAPL", r#"{"symbol":"AAPL"}"#);
    w.tick("AAPL", "100");
    w.pump();
    w.order("s", "stock", "AAPL", "1000", "buy");
    w.pump();
    w.list("AAPL", r#"{"symbol":"AAPL","house":false}"#);
    w.pump();
    w
}

/// The events of a user after the opening and the purchase of stock, as `name reason`.
fn told(w: &World, user: &str) -> Vec<String> {
    let skip = if user == "s" { 4 } else { 1 };
    let line = |e: &Value| match e["reason"].as_str() {
        Some(reason) => format!("{} {reason}", e["event"].as_str().expect("a name")),
        None => e["event"].as_str().expect("a name").to_string(),
    };

    w.events(user).iter().skip(skip).map(line).collect()
}

fn trades(w: &World) -> Vec<(i64, i64)> {
    let number = |t: &Value, f: &str| t[f].as_i64().expect("a number");
    let all = w.records(topics::TRADES).into_iter().map(|r| r.tree());
    all.filter(|t| t["seller"] != "house:AAPL" && t["buyer"] != "house:AAPL")
        .map(|t| (number(&t, "quantity"), number(&t, "price_e4")))
        .collect()
}

#[test]
fn a_limit_order_rests_and_trades_at_its_price() {
    let mut w = floor(RoleSettings::default());
    w.limit("s", "1", "AAPL", 10, "sell", "100.5", "");
    w.pump();
    assert_eq!(told(&w, "s"), ["OrderPending", "OrderAccepted"]);
    w.limit("b", "1", "AAPL", 4, "buy", "101", "");
    w.pump();
    assert_eq!(
        told(&w, "b"),
        ["OrderPending", "OrderAccepted", "OrderFilled"]
    );
    let e = w.last("b");
    assert_eq!(
        (&e["last_price_e4"], &e["liquidity"], &e["limit_price_e4"]),
        (&json!(1_005_000), &json!("taker"), &json!(1_010_000))
    );
    assert_eq!(
        e["cash_available_e4"],
        OPENING - 4 * 1_005_000,
        "the improvement is refunded"
    );
    let e = w.last("s");
    assert_eq!(
        (&e["event"], &e["liquidity"], &e["leaves_quantity"]),
        (&json!("OrderPartiallyFilled"), &json!("maker"), &json!(6))
    );
    assert_eq!(trades(&w), [(4, 1_005_000)]);
    let t = w.records(topics::TRADES).last().expect("one").tree();
    assert_eq!(
        (&t["buyer"], &t["seller"], &t["maker_side"]),
        (&json!("b"), &json!("s"), &json!("sell"))
    );
    w.check_books();
}

#[test]
fn x1_fok_of_100_against_99() {
    let mut w = floor(RoleSettings::default());
    w.limit("s", "1", "AAPL", 99, "sell", "100", "");
    w.limit("b", "1", "AAPL", 100, "buy", "100", r#""tif":"FOK""#);
    w.pump();
    assert_eq!(
        told(&w, "b"),
        [
            "OrderPending",
            "OrderAccepted",
            "OrderCancelled FOK_UNFILLED"
        ]
    );

    assert!(trades(&w).is_empty());
    assert_eq!(w.last("b")["cash_available_e4"], OPENING);
    w.limit("b", "2", "AAPL", 99, "buy", "100", r#""tif":"FOK""#);
    w.pump();
    assert_eq!(w.last("b")["event"], "OrderFilled");
}

#[test]
fn x2_ioc_fills_what_it_can() {
    let mut w = floor(RoleSettings::default());
    w.limit("s", "1", "AAPL", 6, "sell", "100", "");
    w.limit("b", "1", "AAPL", 10, "buy", "100", r#""tif":"IOC""#);
    w.pump();
    assert_eq!(
        told(&w, "b"),
        [
            "OrderPending",
            "OrderAccepted",
            "OrderPartiallyFilled",
            "OrderCancelled IOC_REMAINDER"
        ]
    );

    let e = w.last("b");
    assert_eq!(
        (
            &e["cum_quantity"],
            &e["leaves_quantity"],
            &e["cash_reserved_e4"]
        ),
        (&json!(6), &json!(0), &json!(0))
    );

    assert_eq!(e["cash_available_e4"], OPENING - 6_000_000);
}

#[test]
fn x3_price_then_time_and_a_part_filled_head_keeps_its_place() {
    for restart in [false, true] {
        let mut w = floor(RoleSettings::default());
        w.order("t", "0", "AAPL", "1", "buy");
        w.limit("s", "1", "AAPL", 10, "sell", "100.02", "");
        w.limit("s", "2", "AAPL", 10, "sell", "100.01", "");
        w.limit("s", "3", "AAPL", 10, "sell", "100.01", "");
        w.limit("b", "1", "AAPL", 5, "buy", "101", "");
        w.pump();
        if restart {
            w.restart(Role::Trading);
        }

        w.limit("b", "2", "AAPL", 20, "buy", "101", "");
        w.pump();
        let fills: Vec<_> = w
            .events("s")
            .iter()
            .filter(|e| e["trade_id"].is_string() && e["liquidity"] == "maker")
            .map(|e| {
                (
                    e["order_id"].to_string(),
                    e["last_quantity"].as_i64().expect("a number"),
                )
            })
            .collect();

        let want =
            [("2", 5), ("2", 5), ("3", 10), ("1", 5)].map(|(id, n)| (format!("\"{id}\""), n));
        assert_eq!(fills, want);
    }
}

#[test]
fn x4_cancel_against_fill_one_wins() {
    // The fill reaches the book first.
    let mut w = floor(RoleSettings::default());
    w.limit("s", "1", "AAPL", 10, "sell", "100", "");
    w.pump();
    w.limit("b", "1", "AAPL", 10, "buy", "100", "");
    w.cancel("s", "c", "1");
    w.pump();
    assert_eq!(
        told(&w, "s"),
        [
            "OrderPending",
            "OrderAccepted",
            "OrderFilled",
            "CancelRejected TOO_LATE_TO_CANCEL"
        ]
    );

    let e = w.last("s");
    assert_eq!(
        (
            &e["order_id"],
            &e["cause_id"],
            &e["reason_code"],
            &e["status"]
        ),
        (&json!("1"), &json!("c"), &json!(0), &json!("filled"))
    );

    // The cancel reaches the book first.
    let mut w = floor(RoleSettings::default());
    w.limit("s", "1", "AAPL", 10, "sell", "100", "");
    w.pump();
    w.cancel("s", "c", "1");
    w.limit("b", "1", "AAPL", 10, "buy", "100", "");
    w.pump();
    assert_eq!(
        told(&w, "s"),
        [
            "OrderPending",
            "OrderAccepted",
            "OrderCancelled USER_REQUEST"
        ]
    );

    assert_eq!(
        (&w.last("s")["cause_id"], &w.last("s")["order_id"]),
        (&json!("c"), &json!("1"))
    );
    assert_eq!(told(&w, "b"), ["OrderPending", "OrderAccepted"]);
    w.cancel("s", "c", "1");
    w.cancel("s", "d", "1");
    w.cancel("s", "e", "none");
    w.pump();
    assert_eq!(
        told(&w, "s")[3..],
        [
            "OrderStatus USER_REQUEST",
            "CancelRejected TOO_LATE_TO_CANCEL",
            "CancelRejected UNKNOWN_ORDER"
        ]
    );

    let e = &w.events("s")[7];
    assert_eq!(
        (&e["order_id"], &e["cause_id"], &e["status"]),
        (&json!("1"), &json!("c"), &json!("cancelled"))
    );
    assert_eq!(w.last("s")["reason_code"], 1);
    w.check_books();
}

#[test]
fn x5_replaced_to_what_has_traded_is_filled() {
    let mut w = floor(RoleSettings::default());
    w.limit("b", "1", "AAPL", 10, "buy", "100", "");
    w.limit("s", "1", "AAPL", 6, "sell", "100", "");
    w.pump();
    w.replace("b", "r", "1", r#""quantity":4"#);
    w.pump();
    assert_eq!(
        told(&w, "b"),
        [
            "OrderPending",
            "OrderAccepted",
            "OrderPartiallyFilled",
            "OrderReplaced"
        ]
    );

    let e = w.last("b");
    assert_eq!(
        (
            &e["status"],
            &e["quantity"],
            &e["cum_quantity"],
            &e["leaves_quantity"]
        ),
        (&json!("filled"), &json!(6), &json!(6), &json!(0))
    );

    assert_eq!(
        (&e["cash_reserved_e4"], &e["cash_available_e4"]),
        (&json!(0), &json!(OPENING - 6_000_000))
    );
    w.cancel("b", "c", "1");
    w.pump();
    assert_eq!(told(&w, "b")[4], "CancelRejected TOO_LATE_TO_CANCEL");
    w.check_books();
}

#[test]
fn replacements_reserve_the_difference_and_lose_or_keep_place() {
    let mut w = floor(RoleSettings::default());
    w.limit("b", "1", "AAPL", 10, "buy", "99", "");
    w.limit("c", "1", "AAPL", 10, "buy", "99", "");
    w.pump();
    w.replace("b", "r1", "1", r#""quantity":15,"limit_price":"99.5""#);
    w.turn_of(Role::Orders);
    assert_eq!(
        w.last("b")["event"],
        "OrderAccepted",
        "nothing is said before the book has spoken"
    );
    w.pump();
    let e = w.last("b");
    assert_eq!(
        (&e["event"], &e["cause_id"], &e["order_id"]),
        (&json!("OrderReplaced"), &json!("r1"), &json!("1"))
    );
    assert_eq!(
        (&e["quantity"], &e["limit_price_e4"], &e["cash_reserved_e4"]),
        (&json!(15), &json!(995_000), &json!(15 * 995_000))
    );
    w.replace("b", "r2", "1", r#""limit_price":99"#);
    w.replace("c", "r1", "1", r#""quantity":8"#);
    w.pump();
    assert_eq!(w.last("b")["cash_reserved_e4"], 15 * 990_000);
    w.limit("s", "1", "AAPL", 9, "sell", "99", "");
    w.pump();
    assert_eq!(
        (&w.last("c")["event"], &w.last("c")["cum_quantity"]),
        (&json!("OrderFilled"), &json!(8)),
        "smaller keeps its place"
    );
    assert_eq!(
        w.last("b")["cum_quantity"],
        1,
        "another price goes to the end"
    );

    // Refused replaces, and the effect of a replace that fails.
    w.replace("b", "r3", "1", r#""quantity":100000000"#);
    w.replace("b", "r4", "1", r#""limit_price":"99.001""#);
    w.replace("b", "r5", "1", r#""limit_price":150"#);
    w.replace("b", "r6", "1", r#""quantity":0"#);
    w.replace("b", "r7", "none", r#""quantity":1"#);
    w.pump();
    let reasons: Vec<_> = told(&w, "b").split_off(5);
    let want = [
        "INSUFFICIENT_FUNDS",
        "INVALID_PRICE_INCREMENT",
        "PRICE_BAND",
        "INCORRECT_QUANTITY",
        "UNKNOWN_ORDER",
    ];

    assert_eq!(reasons, want.map(|r| format!("CancelRejected {r}")));
    let codes: Vec<_> = w
        .events("b")
        .iter()
        .rev()
        .take(5)
        .rev()
        .map(|e| e["reason_code"].clone())
        .collect();

    assert_eq!(codes, [99, 18, 8, 99, 1]);
    w.limit("s", "2", "AAPL", 14, "sell", "99", "");
    w.replace("b", "r8", "1", r#""quantity":30"#);
    w.pump();
    assert_eq!(
        told(&w, "b")[10..],
        ["OrderFilled", "CancelRejected TOO_LATE_TO_CANCEL"]
    );
    assert_eq!(
        (&w.last("b")["cash_reserved_e4"], &w.last("b")["status"]),
        (&json!(0), &json!("filled"))
    );
    w.check_books();
}

#[test]
fn x6_self_trade_cancels_the_taker() {
    let mut w = floor(RoleSettings::default());
    w.limit("s", "1", "AAPL", 10, "sell", "100", "");
    w.limit("s", "2", "AAPL", 5, "buy", "100", "");
    w.pump();
    assert_eq!(
        told(&w, "s").last().expect("one"),
        "OrderCancelled SELF_TRADE_PREVENTED"
    );
    assert!(trades(&w).is_empty());
    w.limit("b", "1", "AAPL", 10, "buy", "100", "");
    w.pump();
    assert_eq!(
        trades(&w),
        [(10, 1_000_000)],
        "the resting order was untouched"
    );
    w.check_books();
}

#[test]
fn post_only_market_and_no_liquidity() {
    let mut w = floor(RoleSettings::default());
    w.limit("s", "1", "AAPL", 10, "sell", "101", "");
    w.limit("b", "1", "AAPL", 1, "buy", "101", r#""post_only":true"#);
    w.limit("b", "2", "AAPL", 1, "buy", "100.99", r#""post_only":true"#);
    w.order("b", "3", "AAPL", "12", "buy");
    w.order("b", "4", "AAPL", "1", "buy");
    w.pump();
    assert_eq!(
        told(&w, "b")[4..],
        [
            "OrderRejected POST_ONLY_WOULD_CROSS",
            "OrderAccepted",
            "OrderAccepted",
            "OrderPartiallyFilled",
            "OrderCancelled NO_LIQUIDITY",
            "OrderAccepted",
            "OrderCancelled NO_LIQUIDITY"
        ]
    );

    w.check_books();

    // The house asks 101 and bids 99. Users at better prices come first.
    w.list("AAPL", r#"{"symbol":"AAPL","half_spread_bps":100}"#);
    w.limit("s", "2", "AAPL", 4, "sell", "100", "");
    w.pump();
    w.order("c", "1", "AAPL", "10", "buy");
    w.pump();
    let fills: Vec<_> = w
        .events("c")
        .iter()
        .filter(|e| e["trade_id"].is_string())
        .map(|e| (e["last_quantity"].clone(), e["liquidity"].clone()))
        .collect();
    assert_eq!(
        fills,
        [(json!(3), json!("taker")), (json!(7), json!("house"))],
        "one of the four traded with the resting bid"
    );
    w.check_books();
}

#[test]
fn mass_cancel_ends_what_is_open() {
    let mut w = floor(RoleSettings::default());
    w.list("MSFT", r#"{"symbol":"MSFT","house":false}"#);
    w.limit("b", "1", "AAPL", 1, "buy", "99", "");
    w.stop("b", "2", "AAPL", 1, "buy", "105");
    w.pump();
    w.limit("b", "3", "MSFT", 1, "buy", "99", "");
    w.limit("b", "4", "AAPL", 1, "buy", "98", "");
    w.command(
        "b",
        r#""command":"mass_cancel","order_id":"m1","symbol":"MSFT""#,
    );
    w.command("b", r#""command":"mass_cancel","order_id":"m2""#);
    w.pump();
    w.command("b", r#""command":"mass_cancel","order_id":"m3""#);
    w.command("b", r#""command":"mass_cancel","order_id":"m2""#);
    w.pump();
    let cancelled: Vec<_> = w
        .events("b")
        .iter()
        .filter(|e| e["event"] == "OrderCancelled")
        .map(|e| {
            (
                e["order_id"].as_str().expect("text").to_string(),
                e["cause_id"].as_str().expect("text").to_string(),
            )
        })
        .collect();

    let mut sorted = cancelled.clone();
    sorted.sort();
    let pair = |a: &str, b: &str| (a.to_string(), b.to_string());
    assert_eq!(
        sorted,
        [
            pair("1", "m2"),
            pair("2", "m2"),
            pair("3", "m1"),
            pair("4", "m2")
        ]
    );

    let told = told(&w, "b");
    assert_eq!(
        told[told.len() - 2..],
        ["CancelRejected UNKNOWN_ORDER", "OrderStatus"]
    );
    assert_eq!(
        (&w.last("b")["status"], &w.last("b")["cash_reserved_e4"]),
        (&json!("filled"), &json!(0))
    );
    w.check_books();
}

#[test]
fn s3_halt_and_cancel_only_then_resume() {
    for status in ["halted", "cancel_only"] {
        let mut w = floor(RoleSettings::default());
        w.limit("s", "1", "AAPL", 10, "sell", "100", "");
        w.limit("s", "2", "AAPL", 10, "sell", "101", "");
        w.stop("b", "stop", "AAPL", 5, "buy", "103");
        w.pump();
        w.list(
            "AAPL",
            &format!(r#"{{"symbol":"AAPL","house":false,"status":"{status}"}}"#),
        );
        w.tick("AAPL", "103.5");
        w.limit("b", "1", "AAPL", 1, "buy", "100", "");
        w.replace("s", "r", "2", r#""quantity":5"#);
        w.cancel("s", "c", "2");
        w.pump();
        assert_eq!(
            told(&w, "b")[2..],
            ["OrderRejected SYMBOL_HALTED"],
            "nothing enters, no stop fires"
        );
        assert_eq!(
            told(&w, "s")[4..],
            [
                "CancelRejected SYMBOL_HALTED",
                "OrderCancelled USER_REQUEST"
            ]
        );

        w.list("AAPL", r#"{"symbol":"AAPL","house":false}"#);
        w.wake();
        w.pump();
        assert_eq!(
            told(&w, "b")[3..],
            ["OrderTriggered", "OrderFilled"],
            "resting orders stayed, and the stop had been passed"
        );
        assert_eq!(trades(&w), [(5, 1_000_000)]);
        w.check_books();
    }
}

#[test]
fn s2_delisting_cancels_and_listing_again_begins_anew() {
    let mut w = floor(RoleSettings::default());
    w.limit("s", "1", "AAPL", 10, "sell", "100", "");
    w.stop("b", "stop", "AAPL", 5, "buy", "103");
    w.pump();
    w.append_at(
        ports::topics::TopicPartition::new(topics::INSTRUMENTS, 0),
        Some(b"AAPL"),
        None,
    );
    w.wake();
    w.pump();
    assert_eq!(
        told(&w, "s").last().expect("one"),
        "OrderCancelled DELISTED"
    );
    assert_eq!(
        told(&w, "b").last().expect("one"),
        "OrderCancelled DELISTED"
    );
    w.limit("b", "1", "AAPL", 1, "buy", "100", "");
    w.pump();
    assert_eq!(
        told(&w, "b").last().expect("one"),
        "OrderRejected UNKNOWN_SYMBOL"
    );
    w.list("AAPL", r#"{"symbol":"AAPL","house":false}"#);
    w.limit("b", "1", "AAPL", 1, "buy", "100", "");
    w.limit("b", "2", "AAPL", 1, "buy", "100", "");
    w.pump();
    assert_eq!(
        told(&w, "b")[4..],
        [
            "OrderStatus UNKNOWN_SYMBOL",
            "OrderPending",
            "OrderAccepted"
        ],
        "S2: the id stays rejected, a new one works"
    );

    assert!(trades(&w).is_empty());
    assert_eq!(w.events("s").last().expect("one")["cash_reserved_e4"], 0);
    w.check_books();
}

#[test]
fn x8_day_orders_end_at_midnight_also_when_nobody_was_there() {
    let day_end = (START_MS / 86_400_000 + 1) * 86_400_000;
    let mut w = floor(RoleSettings {
        stale_ms: 1_000_000_000,
        ..Default::default()
    });

    w.limit("s", "1", "AAPL", 10, "sell", "100", r#""tif":"DAY""#);
    w.limit("s", "2", "AAPL", 10, "sell", "100", "");
    w.limit(
        "s",
        "3",
        "AAPL",
        10,
        "sell",
        "100",
        &format!(r#""tif":"GTD","expire_at":{}"#, day_end + 5_000),
    );

    w.pump();

    // `trading` is down over midnight. A buy already waits at its return, but the wake-up comes
    // before the buy.
    w.now_ms = day_end - 1;
    w.limit("b", "1", "AAPL", 1, "buy", "100", "");
    w.now_ms = day_end;
    w.limit("b", "2", "AAPL", 30, "buy", "100", "");
    w.restart(Role::Trading);
    w.pump();
    let told = told(&w, "s");
    assert!(told.contains(&"OrderExpired".to_string()));
    assert_eq!(
        trades(&w),
        [(1, 1_000_000), (9, 1_000_000), (10, 1_000_000)],
        "order 1 never trades: {told:?}"
    );
    assert_eq!(
        w.events("s")
            .iter()
            .find(|e| e["event"] == "OrderExpired")
            .expect("one")["order_id"],
        "1"
    );

    w.check_books();
}

#[test]
fn an_expired_order_does_not_trade_before_the_clock_comes() {
    let mut w = floor(RoleSettings::default());
    w.limit(
        "s",
        "1",
        "AAPL",
        10,
        "sell",
        "100",
        &format!(r#""tif":"GTD","expire_at":{}"#, START_MS + 1_000),
    );

    w.pump();
    w.now_ms += 999;
    w.limit("b", "1", "AAPL", 1, "buy", "100", "");
    w.pump();
    w.now_ms += 1;
    w.limit("b", "2", "AAPL", 1, "buy", "100", r#""tif":"IOC""#);
    w.cancel("s", "c", "1");
    w.pump();
    assert_eq!(trades(&w), [(1, 1_000_000)]);
    assert_eq!(
        told(&w, "b")[3..],
        [
            "OrderPending",
            "OrderAccepted",
            "OrderCancelled IOC_REMAINDER"
        ]
    );

    assert_eq!(
        told(&w, "s")[3..],
        ["OrderExpired", "CancelRejected TOO_LATE_TO_CANCEL"]
    );
    w.check_books();
}

#[test]
fn stops_wait_fire_and_are_refused_when_they_would_fire_at_once() {
    let mut w = floor(RoleSettings::default());
    w.limit("s", "1", "AAPL", 10, "sell", "102", "");
    w.stop("b", "1", "AAPL", 3, "buy", "101");
    w.stop("b", "2", "AAPL", 3, "buy", "100");
    w.command(
        "b",
        r#""order_id":"3","symbol":"AAPL","quantity":2,"order_type":"buy","type":"stop_limit","stop_price":101,"limit_price":"101.5""#,
    );
    w.pump();
    assert_eq!(
        told(&w, "b")[3..],
        [
            "OrderAccepted",
            "OrderRejected STOP_WOULD_TRIGGER",
            "OrderAccepted"
        ]
    );

    w.tick("AAPL", "100.99");
    w.pump();
    assert!(trades(&w).is_empty());
    w.restart(Role::Trading);
    w.tick("AAPL", "101");
    w.pump();
    assert_eq!(
        told(&w, "b")[6..],
        ["OrderTriggered", "OrderFilled", "OrderTriggered"]
    );
    assert_eq!(trades(&w), [(3, 1_020_000)]);
    w.limit("s", "2", "AAPL", 1, "sell", "101.5", "");
    w.pump();
    assert_eq!(
        trades(&w),
        [(3, 1_020_000), (1, 1_015_000)],
        "the stop-limit rests at its limit"
    );
    w.check_books();
}

#[test]
fn a_fill_at_the_old_limit_before_a_lower_one_leaves_enough() {
    let mut w = floor(RoleSettings::default());
    w.limit("b", "1", "AAPL", 10, "buy", "100", "");
    w.pump();
    w.limit("s", "1", "AAPL", 5, "sell", "100", "");
    w.replace("b", "r", "1", r#""quantity":20,"limit_price":96"#);
    w.replace("b", "q", "1", r#""quantity":30"#);
    w.pump();
    assert_eq!(
        told(&w, "b")[2..],
        [
            "CancelRejected SYSTEM_BUSY",
            "OrderPartiallyFilled",
            "OrderReplaced"
        ]
    );

    let e = w.last("b");
    assert_eq!(
        (&e["cash_reserved_e4"], &e["leaves_quantity"]),
        (&json!(15 * 960_000), &json!(15))
    );
    assert_eq!(
        w.events("b")[3]["reason_code"],
        3,
        "one change is under way"
    );
    w.replace("b", "q", "1", r#""quantity":30"#);
    w.pump();
    assert_eq!(
        w.last("b")["cash_reserved_e4"],
        25 * 960_000,
        "the id was not used up"
    );
    w.check_books();
}

#[test]
fn a_refused_change_of_a_sell_after_a_rise_keeps_its_hold() {
    let mut w = floor(RoleSettings::default());
    w.limit("b", "1", "AAPL", 16, "buy", "99.4", "");
    w.limit("s", "1", "AAPL", 19, "sell", "100", r#""post_only":true"#);
    w.pump();
    w.tick("AAPL", "100.91");
    w.pump();
    w.replace("s", "r", "1", r#""quantity":6,"limit_price":"99.3""#);
    w.pump();
    assert_eq!(
        told(&w, "s").last().expect("one"),
        "CancelRejected POST_ONLY_WOULD_CROSS"
    );
    w.check_books();
}
