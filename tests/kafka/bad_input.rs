//! Every row of the contract's two lists of bad input, end to end. All rows go into one running
//! system, on the embedded log and on a real broker, in JSON and in MessagePack. For each row the
//! test checks events, dead letters and the later use of the order id.

use std::collections::BTreeMap;

use client::OrderCommandProducer;
use client::OrderSide::Buy;
use ports::topics::{TopicId, TopicPartition};
use roles::RoleSettings;
use serde_json::{Value, json};
use wire::topics as t;

use crate::support;
use crate::support::bad_rows::{Ends, Row, commands, instruments, packed, ticks};
use crate::support::load::Sender;
use crate::support::oracle::Seen;
use crate::support::world::{World, names, on_both};

#[test]
fn every_row_of_bad_input() {
    on_both(
        "bad",
        RoleSettings {
            client_transfers: true,
            ..RoleSettings::default()
        },
        |w| {
            w.list("AAPL", "189.25");
            let rows = commands();
            println!(
                "{} commands, {} ticks, {} listings",
                rows.len(),
                ticks().len(),
                instruments().len()
            );
            let first = send_commands(w, &rows);
            let bad_ticks = send_ticks(w);
            let bad_listings = send_instruments(w);
            w.rest();
            let dead = dead_letters(w);
            check_commands(w, &rows, &first, &dead);
            for (name, src, reason) in bad_ticks.iter().chain(&bad_listings) {
                let got = dead.get(src).map(|d| d.headers["reason"].as_str());
                assert_eq!(got, *reason, "{}: {name}", w.name);
            }

            let expected = rows.iter().filter(|r| r.ends.dead().is_some()).count();
            let expected = expected
                + bad_ticks
                    .iter()
                    .chain(&bad_listings)
                    .filter(|(.., reason)| reason.is_some())
                    .count();
            assert_eq!(dead.len(), expected, "each once, and nothing else");

            again(w, &rows, &first);
            the_rest_goes_on(w);
            w.check_form();
        },
    );
}

/// Dead letters by the record in their `src`; each record has at most one.
fn dead_letters(w: &World) -> BTreeMap<String, Seen> {
    let all = w.read(t::DEAD_LETTERS);
    let count = all.len();
    let by_src: BTreeMap<_, _> = all
        .into_iter()
        .map(|d| (d.headers["src"].clone(), d))
        .collect();
    assert_eq!(
        by_src.len(),
        count,
        "{}: a record was dead-lettered twice",
        w.name
    );
    by_src
}

/// Sends a record and returns its name. The record must be the only new record of its partition.
fn send_named(
    w: &mut World,
    at: TopicPartition,
    key: Option<&[u8]>,
    value: Option<&[u8]>,
) -> String {
    w.sender.send_to(at, key, value);
    w.sender.flush();
    let end = w.log.bounds(at).expect("the log answers").end;
    format!("{}/{}", w.topics.show(at), end - 1)
}

fn place(
    sender: &Sender,
    topic: TopicId,
    key: Option<&[u8]>,
    fallback: &str,
    misplaced: bool,
) -> TopicPartition {
    let count = if topic == t::INSTRUMENTS {
        1
    } else {
        support::world::PARTITIONS
    };

    let due = key.map_or_else(
        || sender.partition(topic, fallback),
        |k| ports::partitioner::partition(k, count),
    );
    TopicPartition::new(topic, if misplaced { (due + 1) % count } else { due })
}

fn send_row(w: &mut World, row: &Row) -> String {
    let key = row.key();
    let at = place(
        &w.sender,
        t::ORDER_COMMANDS,
        key.as_deref(),
        &row.user,
        row.misplaced,
    );

    send_named(w, at, key.as_deref(), row.value.as_deref())
}

fn send_commands(w: &mut World, rows: &[Row]) -> Vec<String> {
    rows.iter().map(|row| send_row(w, row)).collect()
}

fn check_commands(w: &World, rows: &[Row], sent: &[String], dead: &BTreeMap<String, Seen>) {
    let events = by_user(w);
    for (row, src) in rows.iter().zip(sent) {
        let what = format!("{}: {} ({:?})", w.name, row.name, row.ends);
        assert_eq!(
            dead.get(src).map(|d| d.headers["reason"].as_str()),
            row.ends.dead(),
            "{what}"
        );
        let none = Vec::new();
        let mine = events.get(&row.user).unwrap_or(&none);
        let Some(reason) = row.ends.reason() else {
            assert_eq!(
                names(mine),
                Vec::<&str>::new(),
                "a dead letter opens nothing: {what}"
            );
            continue;
        };

        // A well-formed command opens the account, even if the command is refused.
        let (opens, cash) = if row.ends.dead().is_none() {
            (&["Deposited"][..], 10_000_000_000_i64)
        } else {
            (&[][..], 0)
        };

        assert_eq!(names(mine), [opens, &["OrderRejected"]].concat(), "{what}");
        assert!(mine.iter().all(|e| e.headers["src"] == *src), "{what}");
        let e = &mine[opens.len()];
        let got = [
            "order_id",
            "cause_id",
            "status",
            "reason",
            "cash_available_e4",
            "cash_reserved_e4",
            "user_seq",
        ]
        .map(|f| e.value[f].clone());

        assert_eq!(
            json!(got),
            json!(["x", "x", "rejected", reason, cash, 0, opens.len() + 1]),
            "{what}"
        );
        assert!(e.text("text").contains(' '), "{what}");

        // The event contains each readable field of the command.
        let Some(Value::Object(sent)) = row.fields.clone() else {
            continue;
        };

        if sent.get("command").is_none_or(|c| c == "new") {
            for (theirs, ours) in [("symbol", "symbol"), ("order_type", "side")] {
                let known = sent.get(theirs).and_then(Value::as_str).filter(|v| {
                    theirs == "symbol" && !v.contains(' ') || ["buy", "sell"].contains(v)
                });

                assert_eq!(
                    e.value.get(ours).and_then(Value::as_str),
                    known,
                    "{ours}: {what}"
                );
            }

            let shown = sent
                .get("quantity")
                .and_then(Value::as_i64)
                .filter(|q| q.unsigned_abs() <= 1 << 62);
            assert!(
                shown.is_none() || e.value.get("quantity").and_then(Value::as_i64) == shown,
                "quantity: {what}"
            );
        }
    }
}

fn by_user(w: &World) -> BTreeMap<String, Vec<Seen>> {
    let mut all = BTreeMap::<String, Vec<Seen>>::new();
    for e in w.read(t::ORDER_EVENTS) {
        all.entry(e.text("user_id").to_string())
            .or_default()
            .push(e);
    }

    all
}

/// Sends the same record again, then the corrected command under the same id. Checks the use of the
/// id after each kind of answer.
fn again(w: &mut World, rows: &[Row], first: &[String]) {
    let events_before = by_user(w);
    let repeated: Vec<_> = rows.iter().map(|row| send_row(w, row)).collect();
    let corrected: Vec<_> = rows
        .iter()
        .map(|row| {
            let transfer = row.fields.as_ref().and_then(|f| f["command"].as_str()).filter(|c| ["deposit", "withdraw"].contains(c));
            let value = match transfer {
                Some(command) => json!({"user_id": row.user, "order_id": "x", "command": command, "amount": "1.5"}),
                None => json!({"user_id": row.user, "order_id": "x", "symbol": "AAPL", "quantity": 1, "order_type": "buy"}),
            };

            let at = place(&w.sender, t::ORDER_COMMANDS, Some(row.user.as_bytes()), "", false);
            (send_named(w, at, Some(row.user.as_bytes()), Some(value.to_string().as_bytes())), transfer)
        })
        .collect();

    w.rest();
    let dead = dead_letters(w);
    let events = by_user(w);
    for (i, row) in rows.iter().enumerate() {
        let what = format!("{}: {} ({:?})", w.name, row.name, row.ends);
        assert!(
            dead.contains_key(&first[i]) == dead.contains_key(&repeated[i]),
            "{what}"
        );
        let before = events_before.get(&row.user).map_or(0, Vec::len);
        let now = events.get(&row.user).map_or(&[][..], |e| &e[before..]);
        if row.never {
            assert_eq!(names(now), Vec::<&str>::new(), "{what}");
            assert!(
                dead.contains_key(&corrected[i].0),
                "a user who cannot be: {what}"
            );
            continue;
        }

        let good = match corrected[i].1 {
            Some("deposit") => &["Deposited"][..],
            Some(_) => &["Withdrawn"],
            None => &["OrderPending", "OrderAccepted", "OrderFilled"],
        };

        match &row.ends {
            Ends::Dead(_) => {
                assert_eq!(names(now), [&["Deposited"], good].concat(), "{what}");
                assert_eq!(
                    now[0].headers["src"], corrected[i].0,
                    "opened by the first command that is one: {what}"
                );
            }
            Ends::Answered => {
                assert_eq!(
                    names(now),
                    [&["OrderRejected", "Deposited"], good].concat(),
                    "not burnt: {what}"
                );
                assert_eq!(now[0].text("reason"), "MALFORMED", "{what}");
            }
            Ends::Rejected(reason, conflict) => {
                assert_eq!(
                    names(now),
                    ["OrderStatus", "DuplicateRejected"],
                    "burnt: {what}"
                );
                assert_eq!(
                    (now[0].text("status"), now[0].text("reason")),
                    ("rejected", *reason),
                    "{what}"
                );
                assert_eq!(
                    (now[1].text("status"), now[1].text("reason")),
                    ("rejected", "DUPLICATE_ORDER"),
                    "{what}"
                );
                assert_eq!(now[1].text("conflict_field"), *conflict, "{what}");
            }
        }
    }
}

/// Sends every bad tick between good ones. Returns name, record and expected reason of each; the
/// reason of a late tick is none.
fn send_ticks(w: &mut World) -> Vec<(String, String, Option<&'static str>)> {
    let mut all = Vec::new();
    for tick in ticks() {
        let at = place(
            &w.sender,
            t::MARKET_DATA,
            tick.key.as_deref(),
            "AAPL",
            tick.misplaced,
        );

        all.push((
            tick.name,
            send_named(w, at, tick.key.as_deref(), tick.value.as_deref()),
            tick.reason,
        ));
    }

    all
}

fn send_instruments(w: &mut World) -> Vec<(String, String, Option<&'static str>)> {
    let mut all = Vec::new();
    for listing in instruments() {
        let at = TopicPartition::new(t::INSTRUMENTS, 0);
        all.push((
            listing.name,
            send_named(w, at, listing.key.as_deref(), listing.value.as_deref()),
            listing.reason,
        ));
    }

    all
}

/// No bad record has moved the price or changed the listing, and trading continues.
fn the_rest_goes_on(w: &mut World) {
    let prices: Vec<_> = w
        .read(t::REFERENCE_PRICES)
        .iter()
        .map(|p| (p.text("symbol").to_string(), p.number("price_e4")))
        .collect();
    assert_eq!(prices, [("AAPL".to_string(), 1_892_500)], "{}", w.name);
    let mut producer = OrderCommandProducer::new(w.log.clone()).expect("a producer");
    producer
        .send_order("1", "fine", "AAPL", 1, Buy, 1_625_159_076)
        .expect("AAPL is listed");
    producer
        .flush(support::world::PATIENCE)
        .expect("the log takes it");

    // MessagePack of another library, with the largest allowed value.
    let mut order = json!({"user_id": "large", "order_id": "1", "symbol": "AAPL", "quantity": 1, "order_type": "buy", "more": ""});
    order["more"] = "x".repeat(65_536 - packed(&order).len() - 2).into();
    let value = packed(&order);
    assert_eq!(value.len(), 65_536);
    w.sender.send(t::ORDER_COMMANDS, "large", value);
    w.sender.flush();
    w.rest();
    for user in ["fine", "large"] {
        let events = w.events(user);
        assert_eq!(
            names(&events),
            ["Deposited", "OrderPending", "OrderAccepted", "OrderFilled"],
            "{user}"
        );
        assert_eq!(events[3].number("last_price_e4"), 1_892_500);
    }

    // A null value delists the symbol, and is not bad input.
    let before = w.read(t::DEAD_LETTERS).len();
    w.sender
        .send_to(TopicPartition::new(t::INSTRUMENTS, 0), Some(b"AAPL"), None);
    w.sender.flush();
    w.rest();
    assert!(
        producer
            .send_order("2", "fine", "AAPL", 1, Buy, 1_625_159_076)
            .is_err(),
        "the client knows"
    );
    w.sender.send(
        t::ORDER_COMMANDS,
        "fine",
        r#"{"user_id":"fine","order_id":"2","symbol":"AAPL","quantity":1,"order_type":"buy"}"#,
    );
    let late = place(&w.sender, t::MARKET_DATA, Some(b"AAPL"), "", false);
    w.sender.flush();
    let tick = send_named(
        w,
        late,
        Some(b"AAPL"),
        Some(br#"{"symbol":"AAPL","price":"189.30"}"#),
    );
    w.rest();
    let refused = w.events("fine").pop().expect("an answer");
    assert_eq!(
        (refused.text("event"), refused.text("reason")),
        ("OrderRejected", "UNKNOWN_SYMBOL")
    );
    let dead = dead_letters(w);
    assert_eq!(
        (dead.len(), dead[&tick].headers["reason"].as_str()),
        (before + 1, "UNKNOWN_SYMBOL")
    );
}
