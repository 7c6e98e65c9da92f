//! Every row of the contract's two lists of bad input.

use ports::partitioner;
use ports::topics::TopicPartition;
use roles::{Role, RoleSettings};
use serde_json::json;
use wire::{command, topics};

use super::driver::World;

/// Expected end of a command of user `u` with order id `x`.
struct Row {
    value: &'static [u8],
    dead: Option<&'static str>,
    reason: Option<&'static str>,
}

const fn dead(value: &'static [u8]) -> Row {
    Row {
        value,
        dead: Some("MALFORMED"),
        reason: None,
    }
}

const fn answered(value: &'static [u8]) -> Row {
    Row {
        value,
        dead: Some("MALFORMED"),
        reason: Some("MALFORMED"),
    }
}

const fn rejected(value: &'static [u8], reason: &'static str) -> Row {
    Row {
        value,
        dead: None,
        reason: Some(reason),
    }
}

fn check(rows: &[Row]) {
    for r in rows {
        let what = String::from_utf8_lossy(r.value);
        let mut w = World::ready(RoleSettings::default());
        w.append(command::topic(r.value), "u", r.value);
        w.turn_of(Role::Orders);
        assert_eq!(w.dead(), r.dead.into_iter().collect::<Vec<_>>(), "{what}");
        let letters = w.records(topics::DEAD_LETTERS);
        assert!(
            letters
                .iter()
                .all(|d| d.value.as_deref() == Some(r.value) && !d.header("text").is_empty()),
            "untouched, with a text: {what}"
        );
        match r.reason {
            None => assert_eq!(
                w.names("u"),
                Vec::<String>::new(),
                "nothing is opened: {what}"
            ),
            Some(reason) => {
                // A well-formed command opens the account, even if the command is refused.
                let opens = r.dead.is_none().then_some("Deposited");
                assert_eq!(
                    w.names("u"),
                    opens
                        .into_iter()
                        .chain(["OrderRejected"])
                        .collect::<Vec<_>>(),
                    "{what}"
                );

                let e = w.last("u");
                assert_eq!(
                    (&e["reason"], &e["status"], &e["order_id"]),
                    (&json!(reason), &json!("rejected"), &json!("x")),
                    "{what}"
                );
                assert_eq!(e["cash_reserved_e4"], 0, "nothing is held: {what}");
                assert!(e["text"].as_str().is_some_and(|t| !t.is_empty()));
            }
        }
    }
}

#[test]
fn malformed() {
    check(&[
        dead(b""),
        dead(b"rubbish"),
        dead(b"{"),
        dead(b" {\"user_id\":\"u\",\"order_id\":\"x\"}"),
        dead(b"[1]"),
        dead(b"\x93\x01\x02\x03"),
        dead(b"\x81\x01\x02"),
        dead(b"\xc1"),
        dead(b"\x81\xa7user_id\xa1\xff"),
        dead(br#"{"order_id":"x","symbol":"AAPL","quantity":1,"order_type":"buy"}"#),
        dead(br#"{"user_id":5,"order_id":"x","symbol":"AAPL","quantity":1,"order_type":"buy"}"#),
        dead(br#"{"user_id":"other","order_id":"x","symbol":"AAPL","quantity":1,"order_type":"buy"}"#),
        dead(br#"{"user_id":"u","symbol":"AAPL","quantity":1,"order_type":"buy"}"#),
        dead(br#"{"user_id":"u","order_id":7,"symbol":"AAPL","quantity":1,"order_type":"buy"}"#),
        dead(br#"{"user_id":"u","order_id":"a b","symbol":"AAPL","quantity":1,"order_type":"buy"}"#),
        dead(br#"{"user_id":"u","order_id":"a/b","symbol":"AAPL","quantity":1,"order_type":"buy"}"#),
        dead(br#"{"user_id":"u","user_id":"u","order_id":"x","symbol":"AAPL","quantity":1,"order_type":"buy"}"#),
        dead(br#"{"user_id":"u","order_id":"x","symbol":"AAPL","quantity":01,"order_type":"buy"}"#),
        answered(br#"{"user_id":"u","order_id":"x","quantity":1,"order_type":"buy"}"#),
        answered(br#"{"user_id":"u","order_id":"x","symbol":"AAPL","order_type":"buy"}"#),
        answered(br#"{"user_id":"u","order_id":"x","symbol":"AAPL","quantity":null,"order_type":"buy"}"#),
        answered(br#"{"user_id":"u","order_id":"x","symbol":"AAPL","quantity":1}"#),
        answered(br#"{"user_id":"u","order_id":"x","symbol":5,"quantity":1,"order_type":"buy"}"#),
        answered(br#"{"user_id":"u","order_id":"x","symbol":" AAPL","quantity":1,"order_type":"buy"}"#),
        answered(br#"{"user_id":"u","order_id":"x","symbol":"AAPL ","quantity":1,"order_type":"buy"}"#),
        answered(br#"{"user_id":"u","order_id":"x","symbol":"AAPL","quantity":"ten","order_type":"buy"}"#),
        answered(br#"{"user_id":"u","order_id":"x","symbol":"AAPL","quantity":true,"order_type":"buy"}"#),
        answered(br#"{"user_id":"u","order_id":"x","symbol":"AAPL","quantity":[1],"order_type":"buy"}"#),
        answered("{\"user_id\":\"u\",\"order_id\":\"x\",\"symbol\":\"AAPL\",\"quantity\":\"\u{661}\",\"order_type\":\"buy\"}".as_bytes()),
        answered(br#"{"user_id":"u","order_id":"x","symbol":"AAPL","quantity":1,"order_type":"hold"}"#),
        answered(br#"{"user_id":"u","order_id":"x","symbol":"AAPL","quantity":1,"order_type":"BUY"}"#),
        answered(br#"{"user_id":"u","order_id":"x","symbol":"AAPL","quantity":1,"order_type":"buy","command":"buy"}"#),
        answered(br#"{"user_id":"u","order_id":"x","symbol":"AAPL","quantity":1,"order_type":"buy","timestamp":"now"}"#),
        answered(br#"{"user_id":"u","order_id":"x","symbol":"AAPL","quantity":1,"order_type":"buy","timestamp":1.5}"#),
        answered(br#"{"user_id":"u","order_id":"x","symbol":"AAPL","quantity":1,"order_type":"buy","type":1}"#),
        answered(br#"{"user_id":"u","order_id":"x","symbol":"AAPL","quantity":1,"order_type":"buy","limit_price":"x"}"#),
        answered(br#"{"user_id":"u","order_id":"x","symbol":"AAPL","quantity":1,"order_type":"buy","post_only":1}"#),
        answered(br#"{"user_id":"u","order_id":"x","symbol":"AAPL","quantity":1,"quantity":1,"order_type":"buy"}"#),
        answered(br#"{"user_id":"u","order_id":"x","symbol":"AAPL","quantity":1,"order_type":"buy","more":{"a":1,"a":2}}"#),
        answered(br#"{"user_id":"u","order_id":"x","symbol":"AAPL","quantity":1,"order_type":"buy"}}"#),
        answered(b"\x85\xa7user_id\xa1u\xa8order_id\xa1x\xa6symbol\xa4AAPL\xa8quantity\x01\xaaorder_type\xa3buy\x00"),
        answered(b"\x85\xa7user_id\xa1u\xa8order_id\xa1x\xa6symbol\xc4\x04AAPL\xa8quantity\x01\xaaorder_type\xa3buy"),
        answered(br#"{"user_id":"u","order_id":"x","command":"deposit"}"#),
        answered(br#"{"user_id":"u","order_id":"x","command":"deposit","amount":"much"}"#),
        answered(br#"{"user_id":"u","order_id":"x","command":"cancel"}"#),
        answered(br#"{"user_id":"u","order_id":"x","command":"replace","quantity":1}"#),
        answered(br#"{"user_id":"u","order_id":"x","command":"mass_cancel","symbol":1}"#),
    ]);
}

#[test]
fn what_does_not_fit_together_is_answered() {
    const NOT: &str = "UNSUPPORTED_CHARACTERISTIC";
    check(&[
        rejected(br#"{"user_id":"u","order_id":"x","symbol":"AAPL","quantity":1,"order_type":"buy","type":"limit"}"#, NOT),
        rejected(br#"{"user_id":"u","order_id":"x","symbol":"AAPL","quantity":1,"order_type":"buy","type":"stop"}"#, NOT),
        rejected(br#"{"user_id":"u","order_id":"x","symbol":"AAPL","quantity":1,"order_type":"buy","type":"stop_limit","stop_price":190}"#, NOT),
        rejected(br#"{"user_id":"u","order_id":"x","symbol":"AAPL","quantity":1,"order_type":"buy","type":"limit","limit_price":189,"tif":"GTD"}"#, NOT),
        rejected(br#"{"user_id":"u","order_id":"x","symbol":"AAPL","quantity":1,"order_type":"buy","type":"limit","limit_price":189,"expire_at":1900000000}"#, NOT),
        rejected(br#"{"user_id":"u","order_id":"x","symbol":"AAPL","quantity":1,"order_type":"buy","type":"limit","limit_price":189,"tif":"IOC","post_only":true}"#, NOT),
        rejected(br#"{"user_id":"u","order_id":"x","symbol":"AAPL","quantity":1,"order_type":"buy","type":"pegged"}"#, NOT),
        rejected(br#"{"user_id":"u","order_id":"x","symbol":"AAPL","quantity":1,"order_type":"buy","tif":"OPG"}"#, NOT),
        rejected(br#"{"user_id":"u","order_id":"x","symbol":"AAPL","quantity":1,"order_type":"buy","tif":"GTC"}"#, NOT),
        rejected(br#"{"user_id":"u","order_id":"x","symbol":"AAPL","quantity":1,"order_type":"buy","tif":"GTD"}"#, NOT),
        rejected(br#"{"user_id":"u","order_id":"x","symbol":"AAPL","quantity":1,"order_type":"buy","post_only":true}"#, NOT),
        rejected(br#"{"user_id":"u","order_id":"x","symbol":"AAPL","quantity":1,"order_type":"buy","expire_at":1900000000}"#, NOT),
        rejected(br#"{"user_id":"u","order_id":"x","symbol":"AAPL","quantity":1,"order_type":"buy","stop_price":"1.00001"}"#, NOT),
        rejected(br#"{"user_id":"u","order_id":"x","symbol":"AAPL","quantity":1,"order_type":"buy","limit_price":189}"#, NOT),
    ]);
}

#[test]
fn prices_of_orders() {
    const TICK: &str = "INVALID_PRICE_INCREMENT";
    check(&[
        rejected(br#"{"user_id":"u","order_id":"x","symbol":"AAPL","quantity":1,"order_type":"buy","type":"limit","limit_price":0}"#, TICK),
        rejected(br#"{"user_id":"u","order_id":"x","symbol":"AAPL","quantity":1,"order_type":"buy","type":"limit","limit_price":-189}"#, TICK),
        rejected(br#"{"user_id":"u","order_id":"x","symbol":"AAPL","quantity":1,"order_type":"buy","type":"limit","limit_price":"189.005"}"#, TICK),
        rejected(br#"{"user_id":"u","order_id":"x","symbol":"AAPL","quantity":1,"order_type":"buy","type":"limit","limit_price":"189.00001"}"#, TICK),
        rejected(br#"{"user_id":"u","order_id":"x","symbol":"AAPL","quantity":1,"order_type":"buy","type":"limit","limit_price":"nan"}"#, TICK),
        rejected(br#"{"user_id":"u","order_id":"x","symbol":"AAPL","quantity":1,"order_type":"buy","type":"stop","stop_price":"1.00001"}"#, TICK),
        rejected(br#"{"user_id":"u","order_id":"x","symbol":"AAPL","quantity":1,"order_type":"buy","type":"limit","limit_price":1000}"#, "PRICE_BAND"),
        rejected(
            br#"{"user_id":"u","order_id":"x","symbol":"AAPL","quantity":1,"order_type":"buy","type":"limit","limit_price":189,"tif":"GTD","expire_at":1800000000}"#,
            "TOO_LATE_TO_ENTER",
        ),
    ]);
}

#[test]
fn quantities_and_amounts() {
    const Q: &str = "INCORRECT_QUANTITY";
    const A: &str = "INVALID_AMOUNT";
    check(&[
        rejected(br#"{"user_id":"u","order_id":"x","symbol":"AAPL","quantity":0,"order_type":"buy"}"#, Q),
        rejected(br#"{"user_id":"u","order_id":"x","symbol":"AAPL","quantity":-5,"order_type":"buy"}"#, Q),
        rejected(br#"{"user_id":"u","order_id":"x","symbol":"AAPL","quantity":1.5,"order_type":"buy"}"#, Q),
        rejected(br#"{"user_id":"u","order_id":"x","symbol":"AAPL","quantity":"NaN","order_type":"buy"}"#, Q),
        rejected(br#"{"user_id":"u","order_id":"x","symbol":"AAPL","quantity":NaN,"order_type":"buy"}"#, Q),
        rejected(br#"{"user_id":"u","order_id":"x","symbol":"AAPL","quantity":"inf","order_type":"buy"}"#, Q),
        rejected(br#"{"user_id":"u","order_id":"x","symbol":"AAPL","quantity":1e308,"order_type":"buy"}"#, Q),
        rejected(br#"{"user_id":"u","order_id":"x","symbol":"AAPL","quantity":1e999999999999,"order_type":"buy"}"#, Q),
        rejected(br#"{"user_id":"u","order_id":"x","symbol":"AAPL","quantity":4611686018427387905,"order_type":"buy"}"#, Q),
        rejected(
            b"\x85\xa7user_id\xa1u\xa8order_id\xa1x\xa6symbol\xa4AAPL\xa8quantity\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00\xaaorder_type\xa3buy",
            Q,
        ),
        rejected(
            b"\x85\xa7user_id\xa1u\xa8order_id\xa1x\xa6symbol\xa4AAPL\xa8quantity\xcf\xff\xff\xff\xff\xff\xff\xff\xff\xaaorder_type\xa3buy",
            Q,
        ),
        rejected(br#"{"user_id":"u","order_id":"x","symbol":"AAPL","quantity":4611686018427387904,"order_type":"buy"}"#, "NOTIONAL_LIMIT"),
        rejected(br#"{"user_id":"u","order_id":"x","symbol":"BRK-B","quantity":1,"order_type":"buy"}"#, "UNKNOWN_SYMBOL"),
        rejected(br#"{"user_id":"u","order_id":"x","symbol":"aapl","quantity":1,"order_type":"buy"}"#, "UNKNOWN_SYMBOL"),
        rejected(br#"{"user_id":"u","order_id":"x","symbol":"AAPL","quantity":1,"order_type":"sell"}"#, "SHORT_SELL_NOT_PERMITTED"),
        rejected(br#"{"user_id":"u","order_id":"x","symbol":"AAPL","quantity":100000,"order_type":"buy"}"#, "INSUFFICIENT_FUNDS"),
        rejected(br#"{"user_id":"u","order_id":"x","command":"deposit","amount":0}"#, A),
        rejected(br#"{"user_id":"u","order_id":"x","command":"deposit","amount":-1}"#, A),
        rejected(br#"{"user_id":"u","order_id":"x","command":"deposit","amount":0.00001}"#, A),
        rejected(br#"{"user_id":"u","order_id":"x","command":"deposit","amount":"nan"}"#, A),
        rejected(br#"{"user_id":"u","order_id":"x","command":"deposit","amount":461168601842738.7904}"#, A),
        rejected(br#"{"user_id":"u","order_id":"x","command":"withdraw","amount":1e30}"#, A),
        rejected(br#"{"user_id":"u","order_id":"x","command":"withdraw","amount":1000000.0001}"#, "INSUFFICIENT_FUNDS"),
    ]);
}

#[test]
fn nesting_has_an_end() {
    let value = |deep: usize| {
        let nested = format!("{}1{}", "[".repeat(deep), "]".repeat(deep));
        format!(
            r#"{{"user_id":"u","order_id":"x","symbol":"AAPL","quantity":1,"order_type":"buy","more":{nested}}}"#
        )
    };

    for (deep, fine) in [(31, true), (32, false), (30_000, false)] {
        let mut w = World::ready(RoleSettings::default());
        w.append(topics::ORDER_COMMANDS, "u", value(deep).as_bytes());
        w.turn_of(Role::Orders);
        assert_eq!(w.dead().is_empty(), fine, "{deep}");
        assert_eq!(
            w.last("u")["event"],
            if fine {
                "OrderPending"
            } else {
                "OrderRejected"
            },
            "{deep}"
        );

        let packed = [&b"\x81\xa1x"[..], &vec![0x91; deep], b"\x01"].concat();
        assert_eq!(
            wire::input::read_map(&packed, |_, _| {}) == Ok(None),
            fine,
            "{deep}"
        );
    }
}

#[test]
fn ours_are_not_theirs() {
    for user in ["external", "house:AAPL", "a b"] {
        let mut w = World::ready(RoleSettings::default());
        w.order(user, "x", "AAPL", "1", "buy");
        w.pump();
        assert_eq!(w.dead(), ["MALFORMED"]);
        assert!(w.events(user).is_empty());
    }
}

/// The topic was switched to the clients' timestamps. A record with a client timestamp decides
/// nothing.
#[test]
fn a_record_that_the_log_did_not_stamp() {
    let mut w = World::ready(RoleSettings::default());
    let before = w.records(topics::REFERENCE_PRICES).len();
    w.now_ms = ports::records::NO_LOG_TIME;
    w.order("u", "x", "AAPL", "1", "buy");
    w.tick("AAPL", "190");
    w.pump();
    assert_eq!(w.dead(), ["NO_LOG_TIME", "NO_LOG_TIME"]);
    assert!(w.events("u").is_empty() && w.records(topics::REFERENCE_PRICES).len() == before);
}

#[test]
fn wrong_partition_too_large_no_key() {
    let mut w = World::new(6, RoleSettings::default());
    let wrong = (partitioner::partition(b"u", 6) + 1) % 6;
    let order =
        br#"{"user_id":"u","order_id":"x","symbol":"AAPL","quantity":1,"order_type":"buy"}"#;
    w.append_at(
        TopicPartition::new(topics::ORDER_COMMANDS, wrong),
        Some(b"u"),
        Some(order),
    );
    w.append_at(
        TopicPartition::new(topics::MARKET_DATA, wrong),
        Some(b"u"),
        Some(b"{}"),
    );
    w.pump();
    assert_eq!(w.dead(), ["MISPARTITIONED", "MISPARTITIONED"]);
    assert!(w.events("u").is_empty());

    let mut w = World::ready(RoleSettings::default());
    let large = format!(
        r#"{{"user_id":"u","order_id":"x","symbol":"AAPL","quantity":1,"order_type":"buy","more":"{}"}}"#,
        "x".repeat(65_536)
    );
    w.append(topics::ORDER_COMMANDS, "u", large.as_bytes());
    w.append(topics::MARKET_DATA, "AAPL", &[b' '; 65_537]);
    w.append_at(
        TopicPartition::new(topics::ORDER_COMMANDS, 0),
        None,
        Some(order),
    );
    w.append_at(
        TopicPartition::new(topics::ORDER_COMMANDS, 0),
        Some(b"u"),
        None,
    );
    w.append_at(
        TopicPartition::new(topics::ORDER_COMMANDS, 0),
        Some(b"\xff"),
        Some(order),
    );
    w.pump();
    let mut dead = w.dead();
    dead.sort();
    assert_eq!(
        dead,
        [
            "MALFORMED",
            "MALFORMED",
            "MALFORMED",
            "OVERSIZE",
            "OVERSIZE"
        ]
    );

    assert!(w.events("u").is_empty());
}

#[test]
fn a_malformed_command_does_not_burn_the_id() {
    let mut w = World::ready(RoleSettings::default());
    w.order("u", "x", "AAPL", "\"ten\"", "buy");
    w.order("u", "x", "AAPL", "10", "buy");
    w.pump();
    assert_eq!(
        w.names("u"),
        [
            "OrderRejected",
            "Deposited",
            "OrderPending",
            "OrderAccepted",
            "OrderFilled"
        ]
    );

    let e = &w.events("u")[0];
    assert_eq!(
        (&e["symbol"], &e["side"], e.get("quantity")),
        (&json!("AAPL"), &json!("buy"), None),
        "what could be read is there"
    );
}

#[test]
fn m3_bad_ticks_are_dead_letters_and_the_pipeline_lives() {
    let rows: &[(&str, &str)] = &[
        (r#"{"symbol":"AAPL","price":0}"#, "INVALID_PRICE"),
        (r#"{"symbol":"AAPL","price":-1}"#, "INVALID_PRICE"),
        (r#"{"symbol":"AAPL","price":1e308}"#, "INVALID_PRICE"),
        (r#"{"symbol":"AAPL","price":"NaN"}"#, "INVALID_PRICE"),
        (r#"{"symbol":"AAPL","price":1.00001}"#, "INVALID_PRICE"),
        (
            r#"{"symbol":"AAPL","price":461168601842738.7905}"#,
            "INVALID_PRICE",
        ),
        (r#"{"symbol":"AAPL","price":"cheap"}"#, "MALFORMED"),
        (r#"{"symbol":"AAPL"}"#, "MALFORMED"),
        (r#"{"symbol":"MSFT","price":1}"#, "MALFORMED"),
        (r#"{"price":1}"#, "MALFORMED"),
        (r#"{"symbol":"AAPL","price":1,"seq":"1"}"#, "MALFORMED"),
        (r#"{"symbol":"AAPL","price":1,"seq":-1}"#, "MALFORMED"),
        (r#"{"symbol":"AAPL","price":1,"source":1}"#, "MALFORMED"),
        (r#"{"symbol":"AAPL","price":1,"size":true}"#, "MALFORMED"),
        (
            r#"{"symbol":"AAPL","price":1,"timestamp":"x"}"#,
            "MALFORMED",
        ),
        (
            r#"{"symbol":"AAPL","price":1,"timestamp":1800000001001}"#,
            "FUTURE_TIMESTAMP",
        ),
        (
            r#"{"symbol":"AAPL","price":1,"timestamp":99999999999999999999999999}"#,
            "FUTURE_TIMESTAMP",
        ),
        ("rubbish", "MALFORMED"),
    ];

    for (value, reason) in rows {
        let mut w = World::ready(RoleSettings::default());
        w.append(topics::MARKET_DATA, "AAPL", value.as_bytes());
        w.tick("AAPL", "190.1234");
        w.order("u", "1", "AAPL", "1", "buy");
        w.pump();
        assert_eq!(w.dead(), [*reason], "{value}");
        assert_eq!(w.last("u")["last_price_e4"], 1_901_234, "{value}");
    }

    let mut w = World::ready(RoleSettings::default());
    w.tick("MSFT", "1");
    w.pump();
    assert_eq!(w.dead(), ["UNKNOWN_SYMBOL"]);
}

#[test]
fn a_bad_instrument_changes_nothing_and_is_dead_lettered_once() {
    let mut w = World::ready(RoleSettings::default());
    w.list("AAPL", r#"{"symbol":"AAPL","status":"sleeping"}"#);
    w.list("AAPL", r#"{"symbol":"MSFT"}"#);
    w.append_at(
        TopicPartition::new(topics::INSTRUMENTS, 0),
        None,
        Some(br#"{"symbol":"AAPL"}"#),
    );
    w.list(
        "AAPL",
        &format!(r#"{{"symbol":"AAPL","name":"{}"}}"#, "x".repeat(65_536)),
    );
    w.order("u", "1", "AAPL", "1", "buy");
    w.pump();
    assert_eq!(
        w.dead(),
        ["MALFORMED", "MALFORMED", "MALFORMED", "OVERSIZE"]
    );
    assert_eq!(w.last("u")["event"], "OrderFilled");
}

#[test]
fn a_malformed_command_with_an_open_orders_id_does_not_end_it() {
    let mut w = World::ready(RoleSettings {
        max_command_age_ms: Some(1_000),
        ..Default::default()
    });

    w.order("u", "x", "AAPL", "10", "buy");
    w.pump();
    w.order("u", "s", "AAPL", "4", "sell");
    w.order("u", "s", "AAPL", "\"four\"", "sell");
    w.command(
        "u",
        r#""order_id":"s","symbol":"AAPL","quantity":4,"order_type":"sell","timestamp":1"#,
    );
    w.turn_of(Role::Orders);
    w.turn_of(Role::Portfolio);
    let events = w.events("u");
    let refused: Vec<_> = events
        .iter()
        .filter(|e| e["event"] == "OrderRejected")
        .map(|e| (&e["reason"], &e["status"], &e["leaves_quantity"]))
        .collect();
    assert_eq!(
        refused,
        [
            (&json!("MALFORMED"), &json!("pending_new"), &json!(4)),
            (&json!("STALE_ORDER"), &json!("pending_new"), &json!(4))
        ]
    );

    let p = w.records(topics::PORTFOLIOS).last().expect("one").tree();
    assert_eq!(p["positions"]["AAPL"]["reserved"], 4);
    w.turn_of(Role::Notifications);
    let told = w
        .records(topics::NOTIFICATIONS)
        .into_iter()
        .map(|r| r.tree()["text"].as_str().expect("text").to_string());
    let told: Vec<_> = told.filter(|text| text.contains("refused")).collect();
    assert!(
        told.len() == 2
            && told
                .iter()
                .all(|text| text
                    .ends_with("; order s to sell 4 AAPL stands as it was (pending new).")),
        "{told:?}"
    );

    w.pump();
    assert_eq!(w.last("u")["status"], "filled");
}

/// Regression: eight "reduce only" sells left an account short, because the field was ignored as
/// unknown.
#[test]
fn a_protection_under_another_name_is_refused_and_named() {
    let order = r#""order_id":"x","user_id":"u","symbol":"AAPL","quantity":1,"order_type":"buy""#;
    let ask = |fields: &str, settings: RoleSettings| {
        let mut w = World::ready(settings);
        w.append(
            topics::ORDER_COMMANDS,
            "u",
            format!("{{{fields}}}").as_bytes(),
        );
        w.turn_of(Role::Orders);
        w.last("u")
    };

    for name in [
        "reduce_only",
        "reduceOnly",
        "stopPrice",
        "limitPrice",
        "time_in_force",
        "dry_run",
        "limit_prise",
        "price",
        "postOnly",
        "trailing_stop",
    ] {
        let fields = format!(r#"{order},"{name}":"7""#);
        let e = ask(&fields, RoleSettings::default());
        assert_eq!(
            (&e["event"], &e["reason"]),
            (
                &json!("OrderRejected"),
                &json!("UNSUPPORTED_CHARACTERISTIC")
            ),
            "{name}: {e}"
        );

        assert!(
            e["text"]
                .as_str()
                .is_some_and(|t| t.contains(&format!(" {name} "))),
            "{e}"
        );

        // With the old rules 3, for replays of old journals.
        let before = RoleSettings {
            rules: 3,
            ..RoleSettings::default()
        };

        assert_eq!(ask(&fields, before)["event"], "OrderPending", "{name}");
    }

    for fine in [
        r#""reduce_only":false"#,
        r#""stopPrice":null"#,
        r#""note":"dry_run""#,
        r#""client_tag":1"#,
        r#""fee":1"#,
    ] {
        assert_eq!(
            ask(&format!("{order},{fine}"), RoleSettings::default())["event"],
            "OrderPending",
            "{fine}"
        );
    }

    let moves = r#""order_id":"x","user_id":"u","amount":"5""#;
    for (fields, event) in [
        (format!(r#""command":"withdraw",{moves},"dry_run":true"#), "OrderRejected"),
        (format!(r#""command":"deposit",{moves},"reduce_only":true"#), "Deposited"),
        (
            r#""command":"replace","order_id":"x","user_id":"u","orig_order_id":"o","quantity":1,"stop_price":"7""#.to_string(),
            "CancelRejected",
        ),
        (r#""command":"mass_cancel","order_id":"x","user_id":"u","dry_run":true"#.to_string(), "CancelRejected"),
    ] {
        let e = ask(&fields, RoleSettings { client_transfers: true, ..RoleSettings::default() });
        assert_eq!(e["event"], event, "{fields}: {e}");
        let named = e["reason"] == "UNSUPPORTED_CHARACTERISTIC";
        assert_eq!(named, event == "OrderRejected" || fields.contains("stop_price"), "cancels always pass: {e}");
    }

    // The id is used up: a repeat gets the state of the order.
    let mut w = World::ready(RoleSettings::default());
    for _ in 0..2 {
        w.append(
            topics::ORDER_COMMANDS,
            "u",
            format!(r#"{{{order},"reduce_only":true}}"#).as_bytes(),
        );
    }

    w.turn_of(Role::Orders);
    assert_eq!(w.names("u"), ["Deposited", "OrderRejected", "OrderStatus"]);
}
