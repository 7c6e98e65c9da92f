//! Good orders from end to end.

use domain::chain;
use roles::{Role, RoleSettings};
use serde_json::json;
use wire::audit::AuditEntry;
use wire::notification::Notification;
use wire::portfolio::PortfolioRecord;
use wire::topics;

use super::driver::{START_MS, World};

const OPENING: i64 = 10_000_000_000;

#[test]
fn x0_six_field_order() {
    let mut w = World::ready(RoleSettings::default());
    let json = br#"{"order_id":"1001","user_id":"501","symbol":"AAPL","quantity":10,"order_type":"buy","timestamp":1625159076}"#;
    w.append(topics::ORDER_COMMANDS, "501", json);
    w.pump();
    let events = w.events("501");
    let time = START_MS * 1_000;
    let hold = 19_871_250;
    let cost = 18_925_000;
    let want = json!([
        {"event": "Deposited", "user_id": "501", "user_seq": 1, "time_us": time, "cash_available_e4": OPENING, "cash_reserved_e4": 0,
         "cause_id": "1001", "amount_e4": OPENING},
        {"event": "OrderPending", "user_id": "501", "user_seq": 2, "time_us": time, "cash_available_e4": OPENING - hold, "cash_reserved_e4": hold,
         "order_id": "1001", "cause_id": "1001", "symbol": "AAPL", "side": "buy", "quantity": 10, "cum_quantity": 0, "leaves_quantity": 10,
         "status": "pending_new", "type": "market", "tif": "IOC"},
        {"event": "OrderAccepted", "user_id": "501", "user_seq": 3, "time_us": time, "cash_available_e4": OPENING - hold, "cash_reserved_e4": hold,
         "order_id": "1001", "cause_id": "1001", "symbol": "AAPL", "side": "buy", "quantity": 10, "cum_quantity": 0, "leaves_quantity": 10,
         "status": "new", "type": "market", "tif": "IOC"},
        {"event": "OrderFilled", "user_id": "501", "user_seq": 4, "time_us": time, "cash_available_e4": OPENING - cost, "cash_reserved_e4": 0,
         "order_id": "1001", "cause_id": "1001", "symbol": "AAPL", "side": "buy", "quantity": 10, "cum_quantity": 10, "leaves_quantity": 0,
         "status": "filled", "trade_id": "0-1", "last_quantity": 10, "last_price_e4": 1_892_500, "fee_e4": 0, "liquidity": "house",
         "type": "market", "tif": "IOC", "average_price_e4": 1_892_500},
    ]);

    assert_eq!(serde_json::Value::Array(events), want);

    let trades = w.records(topics::TRADES);
    let want = json!({"trade_id": "0-1", "symbol": "AAPL", "price_e4": 1_892_500, "quantity": 10, "buyer": "501", "seller": "house:AAPL",
        "buy_order_id": "1001", "maker_side": "sell", "time_us": time});
    assert_eq!(trades.iter().map(|t| t.tree()).collect::<Vec<_>>(), [want]);

    let notes = w.records(topics::NOTIFICATIONS);
    let kinds: Vec<_> = notes
        .iter()
        .map(|n| {
            Notification::decode(n.value.as_deref().expect("a value"))
                .expect("a notification")
                .kind
        })
        .collect();

    assert_eq!(
        kinds,
        [
            "deposited",
            "order-pending",
            "order-accepted",
            "order-filled"
        ]
    );

    let note = notes[3].tree();
    assert_eq!(
        note["text"],
        "Order 1001 is filled: bought 10 AAPL at 189.25 USD."
    );
    assert_eq!(note["event"], w.events("501")[3]);

    let portfolios = w.records(topics::PORTFOLIOS);
    let last = PortfolioRecord::decode(
        portfolios
            .last()
            .expect("one")
            .value
            .as_deref()
            .expect("a value"),
    )
    .expect("a portfolio");

    assert_eq!(
        (last.user_seq, last.cash_available_e4, last.realised_e4),
        (4, OPENING - cost, 0)
    );
    let aapl = last.positions["AAPL"];
    assert_eq!(
        (aapl.quantity, aapl.reserved, aapl.cost_basis_e4),
        (10, 0, cost)
    );
}

#[test]
fn headers_name_every_record_for_ever() {
    let mut w = World::ready(RoleSettings::default());
    w.order("501", "1", "AAPL", "10", "buy");
    w.pump();
    let events = w.records(topics::ORDER_EVENTS);
    let of = |i: usize| ["type", "v", "src", "n"].map(|h| events[i].header(h));
    assert_eq!(of(0), ["Deposited", "1", "t-order-commands/0/0", "0"]);
    assert_eq!(of(1), ["OrderPending", "1", "t-order-commands/0/0", "1"]);
    assert_eq!(of(2), ["OrderAccepted", "1", "t-executions/0/0", "0"]);
    assert_eq!(of(3), ["OrderFilled", "1", "t-executions/0/0", "1"]);
    assert_eq!(w.records(topics::BOOK_COMMANDS)[0].header("n"), "2");
    let header = |topic| w.records(topic).last().expect("a record").header("type");
    assert_eq!(
        [
            topics::TRADES,
            topics::REFERENCE_PRICES,
            topics::PORTFOLIOS,
            topics::NOTIFICATIONS,
            topics::AUDIT_LOG
        ]
        .map(header),
        [
            "Trade",
            "ReferencePrice",
            "Portfolio",
            "Notification",
            "AuditEntry"
        ]
    );

    // The `src` of a portfolio is the last event in it.
    assert_eq!(
        w.records(topics::PORTFOLIOS)
            .last()
            .expect("one")
            .header("src"),
        "t-order-events/0/3"
    );
}

#[test]
fn a_sell_brings_the_money_back() {
    let mut w = World::ready(RoleSettings::default());
    w.order("u", "1", "AAPL", "10", "buy");
    w.pump();
    w.now_ms += 1_000;
    w.tick("AAPL", "200");
    w.order("u", "2", "AAPL", "4", "sell");
    w.pump();
    assert_eq!(
        w.names("u"),
        [
            "Deposited",
            "OrderPending",
            "OrderAccepted",
            "OrderFilled",
            "OrderPending",
            "OrderAccepted",
            "OrderFilled"
        ]
    );

    let last = w.last("u");
    assert_eq!(
        (
            &last["side"],
            &last["last_price_e4"],
            &last["cash_reserved_e4"]
        ),
        (&json!("sell"), &json!(2_000_000), &json!(0))
    );

    let portfolios = w.records(topics::PORTFOLIOS);
    let p = portfolios.last().expect("one").tree();
    assert_eq!(
        p["positions"]["AAPL"],
        json!({"quantity": 6, "reserved": 0, "cost_basis_e4": 11_355_000})
    );
    assert_eq!(p["realised_e4"], 430_000);
    w.order("u", "3", "AAPL", "6", "sell");
    w.pump();
    assert_eq!(
        w.records(topics::PORTFOLIOS).last().expect("one").tree()["positions"],
        json!({}),
        "a position of zero is left out"
    );
}

#[test]
fn portfolio_shows_shares_on_hold() {
    let mut w = World::ready(RoleSettings::default());
    w.order("u", "1", "AAPL", "10", "buy");
    w.pump();
    w.order("u", "2", "AAPL", "4", "sell");
    w.turn_of(Role::Orders);
    w.turn_of(Role::Portfolio);
    let p = w.records(topics::PORTFOLIOS).last().expect("one").tree();
    assert_eq!(
        p["positions"]["AAPL"],
        json!({"quantity": 10, "reserved": 4, "cost_basis_e4": 18_925_000})
    );
    w.order("u", "3", "AAPL", "7", "sell");
    w.turn_of(Role::Orders);
    assert_eq!(
        w.last("u")["reason"],
        "SHORT_SELL_NOT_PERMITTED",
        "held shares cannot be sold twice"
    );
}

#[test]
fn p4_two_orders_cannot_spend_the_same_cash() {
    let mut w = World::ready(RoleSettings {
        opening_cash_e4: 20_000_000,
        ..Default::default()
    });

    w.order("u", "1", "AAPL", "10", "buy");
    w.order("u", "2", "AAPL", "10", "buy");
    w.pump();
    let names = w.names("u");
    assert_eq!(names.iter().filter(|n| *n == "OrderFilled").count(), 1);
    assert_eq!(names[2], "OrderRejected");
    assert_eq!(w.events("u")[2]["reason"], "INSUFFICIENT_FUNDS");
}

#[test]
fn deposits_and_withdrawals() {
    let mut w = World::ready(RoleSettings {
        opening_cash_e4: 0,
        ..Default::default()
    });

    w.command(
        "u",
        r#""command":"deposit","order_id":"d1","amount":"100.25""#,
    );
    w.command("u", r#""command":"withdraw","order_id":"w1","amount":0.25"#);
    w.command(
        "u",
        r#""command":"withdraw","order_id":"w2","amount":"100.0001""#,
    );
    w.command("u", r#""command":"withdraw","order_id":"w3","amount":100"#);
    w.pump();
    assert_eq!(
        w.names("u"),
        ["Deposited", "Withdrawn", "OrderRejected", "Withdrawn"]
    );
    let events = w.events("u");
    assert_eq!(
        (
            &events[0]["order_id"],
            &events[0]["amount_e4"],
            &events[0]["status"]
        ),
        (&json!("d1"), &json!(1_002_500), &json!("filled"))
    );

    assert_eq!(events[1]["cash_available_e4"], 1_000_000);
    assert_eq!(
        (&events[2]["reason"], &events[2]["reason_code"]),
        (&json!("INSUFFICIENT_FUNDS"), &json!(25))
    );
    assert_eq!(events[3]["cash_available_e4"], 0);
}

#[test]
fn audit_chains_verify() {
    let mut w = World::ready(RoleSettings::default());
    for i in 0..5 {
        w.order("u", &i.to_string(), "AAPL", "1", "buy");
    }

    w.append(topics::ORDER_COMMANDS, "u", b"rubbish");
    w.pump();
    let mut heads = std::collections::BTreeMap::new();
    let mut counted = 0;
    for r in w.records(topics::AUDIT_LOG) {
        let e = AuditEntry::decode(r.value.as_deref().expect("a value")).expect("an entry");
        let topic = w.topics().find(e.src_topic).expect("a topic");
        let source = format!("{}/{}", e.src_topic, e.src_partition);
        assert_eq!(r.key.as_deref(), Some(source.as_bytes()));
        let head = heads.entry(source.clone()).or_insert((chain::GENESIS, 0));
        assert_eq!((e.prev_hash, e.src_offset), *head);
        let original = w.records(topic)[e.src_offset as usize];
        assert_eq!(
            e.payload_hash,
            chain::payload_hash(original.key.as_deref(), original.value.as_deref())
        );
        let meta = chain::meta_hash(
            original.time_ms,
            original.key.is_some(),
            original.value.is_some(),
            original.headers(),
        );
        assert_eq!(e.meta_hash, Some(meta));
        assert_eq!(r.header("v"), "2");
        assert_eq!(
            e.hash,
            chain::link(
                &e.prev_hash,
                &format!("{source}/{}", e.src_offset),
                &e.payload_hash,
                e.meta_hash.as_ref()
            )
        );

        assert_eq!(e.log_time_ms, original.time_ms);
        *head = (e.hash, e.src_offset + 1);
        counted += 1;
    }

    assert_eq!(
        counted,
        topics::AUDITED
            .iter()
            .map(|t| w.records(*t).len())
            .sum::<usize>(),
        "I8: one entry for every record"
    );

    assert!(heads.contains_key("t-dead-letters/0") && !heads.contains_key("t-book-commands/0"));
}

#[test]
fn many_partitions_keep_users_apart_and_orders_in_order() {
    let mut w = World::new(6, RoleSettings::default());
    for symbol in ["A", "B", "C"] {
        w.list(symbol, &format!("{{\"symbol\":\"{symbol}\"}}"));
        w.tick(symbol, "10");
    }

    w.pump();
    for i in 0..30 {
        let user = format!("u{}", i % 10);
        let symbol = ["A", "B", "C"][i % 3];
        w.order(&user, &i.to_string(), symbol, "2", "buy");
    }

    w.pump();
    for u in 0..10 {
        let events = w.events(&format!("u{u}"));
        assert_eq!(events.len(), 10, "opened, and three orders of three events");
        assert!(
            events
                .iter()
                .enumerate()
                .all(|(i, e)| e["user_seq"] == i + 1)
        );
    }

    let mut ids: Vec<_> = w
        .records(topics::TRADES)
        .iter()
        .map(|t| t.tree()["trade_id"].to_string())
        .collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 30, "trade ids are unique");
}

/// Regression: after 100 bought in two parts, the notification only said "Order b1 is filled:
/// bought 40 ABC at 101.00 USD".
#[test]
fn a_notification_is_complete_without_those_before_it() {
    let mut w = World::ready(RoleSettings::default());
    w.append(
        topics::INSTRUMENTS,
        "ABC",
        br#"{"symbol":"ABC","house":false}"#,
    );
    w.append(
        topics::MARKET_DATA,
        "ABC",
        br#"{"symbol":"ABC","price":"100"}"#,
    );
    w.append(
        topics::INSTRUMENTS,
        "XYZ",
        br#"{"symbol":"XYZ","house":true}"#,
    );
    w.append(
        topics::MARKET_DATA,
        "XYZ",
        br#"{"symbol":"XYZ","price":"100"}"#,
    );
    w.pump();
    let order = |w: &mut World, user: &str, id: &str, side: &str, quantity: i64, price: &str| {
        let command = format!(
            r#"{{"user_id":"{user}","order_id":"{id}","symbol":"ABC","quantity":{quantity},"order_type":"{side}","type":"limit","limit_price":"{price}"}}"#
        );
        w.append(topics::ORDER_COMMANDS, user, command.as_bytes());
        w.pump();
    };

    // A user with shares to sell.
    w.append(
        topics::INSTRUMENTS,
        "ABC",
        br#"{"symbol":"ABC","house":true}"#,
    );
    w.append(
        topics::ORDER_COMMANDS,
        "s",
        br#"{"user_id":"s","order_id":"0","symbol":"ABC","quantity":200,"order_type":"buy"}"#,
    );
    w.pump();
    w.append(
        topics::INSTRUMENTS,
        "ABC",
        br#"{"symbol":"ABC","house":false}"#,
    );
    w.pump();
    order(&mut w, "s", "1", "sell", 60, "100.10");
    order(&mut w, "s", "2", "sell", 40, "101");
    order(&mut w, "b", "b1", "buy", 100, "102");
    order(&mut w, "b", "b2", "buy", 10, "100");
    order(&mut w, "s", "3", "sell", 3, "100");
    w.append(
        topics::ORDER_COMMANDS,
        "b",
        br#"{"user_id":"b","order_id":"c","command":"cancel","orig_order_id":"b2"}"#,
    );
    w.pump();
    let said = |w: &World, kind: &str, order: &str| {
        let mut all = w
            .records(topics::NOTIFICATIONS)
            .into_iter()
            .map(|r| r.tree());
        all.rfind(|n| n["user_id"] == "b" && n["kind"] == kind && n["order_id"] == order)
            .expect("told")["text"]
            .clone()
    };

    assert_eq!(
        said(&w, "order-filled", "b1"),
        "Order b1 is filled: bought 100 ABC at 100.46 USD on average, the last 40 at 101.00 USD."
    );
    assert_eq!(
        said(&w, "order-cancelled", "b2"),
        "Order b2 to buy 10 ABC at 100.00 USD or better is cancelled: cancelled by the user; 3 of 10 ABC were bought before, at 100.00 USD on average."
    );
}
