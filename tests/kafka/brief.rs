//! The four cases of the original task, by name. Each runs on the embedded log and on a real
//! broker, and is compared with the contract field by field.

use std::time::Duration;

use client::{ClientError, MarketDataPublisher, OrderCommandProducer, OrderSide};
use ports::partitioner::partition;
use roles::RoleSettings;
use serde_json::{Value, json};
use wire::topics as t;

use crate::support::load::wait_for;
use crate::support::oracle::{Seen, check};
use crate::support::world::{PARTITIONS, PATIENCE, World, names, on_both};

/// 1 000 000.00, the opening cash of an account.
const OPENING: i64 = 10_000_000_000;

fn values(records: &[Seen]) -> Vec<Value> {
    records.iter().map(|r| r.value.clone()).collect()
}

/// Sends market buys through the client library, as a program would.
fn send(w: &World, orders: &[(&str, &str, &str, u64, i64)]) {
    let mut producer = OrderCommandProducer::new(w.log.clone()).expect("a producer");
    for (order, user, symbol, quantity, timestamp) in orders {
        producer
            .send_order(order, user, symbol, *quantity, OrderSide::Buy, *timestamp)
            .expect("the order is sent");
    }

    producer.flush(PATIENCE).expect("the log takes them");
}

fn dead_letters_are_empty(w: &World) {
    assert_eq!(
        values(&w.read(t::DEAD_LETTERS)),
        Vec::<Value>::new(),
        "{}",
        w.name
    );
}

#[test]
fn order_placed_notification() {
    on_both("placed", RoleSettings::default(), |w| {
        w.list("AAPL", "189.25");
        send(w, &[("1001", "501", "AAPL", 10, 1_625_159_076)]);
        w.rest();

        let commands = w.read(t::ORDER_COMMANDS);
        assert_eq!(commands.len(), 1);
        let command = &commands[0];
        assert_eq!(
            (command.key.as_slice(), command.partition),
            (&b"501"[..], partition(b"501", PARTITIONS))
        );
        let sent = json!({"order_id": "1001", "user_id": "501", "symbol": "AAPL", "quantity": 10, "order_type": "buy", "timestamp": 1_625_159_076});
        assert_eq!(command.value, sent, "the six fields and nothing else");
        let time_us = command.time_ms * 1000;
        assert!(
            (os::clock::wall_ms() - command.time_ms).abs() < 120_000,
            "append time, not the client's claim"
        );

        // Ten at 189.25; the hold is at most 5 % higher.
        let hold = 19_871_250;
        let cost = 18_925_000;
        let event = |name: &str, seq: i64, available: i64, reserved: i64, more: Value| {
            let mut e = json!({"event": name, "user_id": "501", "user_seq": seq, "time_us": time_us,
                "cash_available_e4": available, "cash_reserved_e4": reserved, "cause_id": "1001"});
            e.as_object_mut()
                .expect("a map")
                .extend(more.as_object().expect("a map").clone());
            e
        };

        let order = |status: &str, cum: i64, leaves: i64| json!({"order_id": "1001", "symbol": "AAPL", "side": "buy", "quantity": 10, "cum_quantity": cum, "leaves_quantity": leaves, "status": status, "type": "market", "tif": "IOC"});
        let trades = w.read(t::TRADES);
        assert_eq!(trades.len(), 1);
        let trade_id = trades[0].text("trade_id").to_string();
        assert!(!trade_id.is_empty());
        let mut filled = order("filled", 10, 0);
        let fill = json!({"trade_id": trade_id, "last_quantity": 10, "last_price_e4": 1_892_500, "fee_e4": 0, "liquidity": "house", "average_price_e4": 1_892_500});
        filled
            .as_object_mut()
            .expect("a map")
            .extend(fill.as_object().expect("a map").clone());
        let events = w.events("501");
        let want = [
            event("Deposited", 1, OPENING, 0, json!({"amount_e4": OPENING})),
            event(
                "OrderPending",
                2,
                OPENING - hold,
                hold,
                order("pending_new", 0, 10),
            ),
            event(
                "OrderAccepted",
                3,
                OPENING - hold,
                hold,
                order("new", 0, 10),
            ),
            event("OrderFilled", 4, OPENING - cost, 0, filled),
        ];

        assert_eq!(values(&events), want, "{}", w.name);
        assert_eq!(values(&w.read(t::ORDER_EVENTS)), want, "and nobody else's");

        // The cause of each record: the command, or the execution of the book.
        let executions = w.read(t::EXECUTIONS);
        assert_eq!(executions.len(), 1);
        let from_command = w.src(t::ORDER_COMMANDS, command);
        let from_book = w.src(t::EXECUTIONS, &executions[0]);
        let name = |e: &Seen| {
            (
                e.headers["type"].clone(),
                e.headers["src"].clone(),
                e.headers["n"].clone(),
                e.headers["v"].clone(),
            )
        };

        let named = |kind: &str, src: &str, n: &str| {
            (
                kind.to_string(),
                src.to_string(),
                n.to_string(),
                "1".to_string(),
            )
        };

        assert_eq!(
            events.iter().map(name).collect::<Vec<_>>(),
            [
                named("Deposited", &from_command, "0"),
                named("OrderPending", &from_command, "1"),
                named("OrderAccepted", &from_book, "0"),
                named("OrderFilled", &from_book, "1"),
            ]
        );

        assert!(
            events
                .iter()
                .all(|e| e.time_ms == command.time_ms && e.partition == command.partition)
        );
        assert!(
            from_command.starts_with(w.topics.prefix()),
            "src has the full name"
        );
        let book = w.read(t::BOOK_COMMANDS);
        assert_eq!((book.len(), &book[0].headers["src"]), (1, &from_command));
        assert_eq!(
            (&executions[0].headers["src"], &trades[0].headers["src"]),
            (
                &w.src(t::BOOK_COMMANDS, &book[0]),
                &w.src(t::BOOK_COMMANDS, &book[0])
            )
        );

        let trade = json!({"trade_id": trade_id, "symbol": "AAPL", "price_e4": 1_892_500, "quantity": 10, "buyer": "501", "seller": "house:AAPL",
            "buy_order_id": "1001", "maker_side": "sell", "time_us": time_us});
        assert_eq!(trades[0].value, trade);
        let ticks = w.read(t::MARKET_DATA);
        let price =
            json!({"symbol": "AAPL", "price_e4": 1_892_500, "time_us": ticks[0].time_ms * 1000});
        assert_eq!(values(&w.read(t::REFERENCE_PRICES)), [price]);

        // The user gets each step as a sentence and with all fields.
        let told = w.read(t::NOTIFICATIONS);
        assert_eq!(told.len(), 4);
        for ((n, e), kind) in told.iter().zip(&events).zip([
            "deposited",
            "order-pending",
            "order-accepted",
            "order-filled",
        ]) {
            let mut want = json!({"user_id": "501", "user_seq": e.number("user_seq"), "kind": kind, "text": n.text("text"), "event": e.value});
            if kind != "deposited" {
                want["order_id"] = "1001".into();
            }

            assert_eq!(n.value, want);
            assert!(
                n.text("text").ends_with('.') && n.text("text").contains(' '),
                "a sentence: {}",
                n.text("text")
            );
            assert_eq!(
                (&n.headers["src"], &n.headers["n"]),
                (&w.src(t::ORDER_EVENTS, e), &"0".to_string())
            );
        }

        assert_eq!(
            told[3].text("text"),
            "Order 1001 is filled: bought 10 AAPL at 189.25 USD."
        );

        let portfolios = w.read(t::PORTFOLIOS);
        let last = portfolios.last().expect("a portfolio");
        let want = json!({"user_id": "501", "user_seq": 4, "cash_available_e4": OPENING - cost, "cash_reserved_e4": 0, "realised_e4": 0, "fees_e4": 0,
            "positions": {"AAPL": {"quantity": 10, "reserved": 0, "cost_basis_e4": cost}}});
        assert_eq!(last.value, want);
        assert_eq!(last.headers["src"], w.src(t::ORDER_EVENTS, &events[3]));

        dead_letters_are_empty(w);

        // Recomputed from the inputs, audit entries and their chains included.
        check(&*w.log, &w.topics, OPENING).assert_clean();
        w.check_form();
    });
}

#[test]
fn duplicate_orders() {
    on_both("duplicates", RoleSettings::default(), |w| {
        w.list("AAPL", "189.25");
        send(w, &[("1002", "501", "AAPL", 10, 1_625_159_076)]);
        w.rest();
        send(w, &[("1002", "501", "AAPL", 10, 1_625_159_080)]);

        // The same order in another form: JSON, quantity as text, explicit defaults, no timestamp.
        let again = r#"{"command":"new","order_id":"1002","user_id":"501","symbol":"AAPL","quantity":"10","order_type":"buy","type":"market","tif":"IOC"}"#;
        w.sender.send(t::ORDER_COMMANDS, "501", again);
        w.sender.flush();
        w.rest();
        let all = w.events("501");
        assert_eq!(
            names(&all),
            [
                "Deposited",
                "OrderPending",
                "OrderAccepted",
                "OrderFilled",
                "OrderStatus",
                "OrderStatus"
            ],
            "{}",
            w.name
        );

        for (i, e) in all.iter().enumerate().skip(4) {
            let mut want = json!({"event": "OrderStatus", "user_id": "501", "user_seq": i + 1, "time_us": e.time_ms * 1000, "order_id": "1002",
                "cause_id": "1002", "cash_available_e4": OPENING - 18_925_000, "cash_reserved_e4": 0, "symbol": "AAPL", "side": "buy", "quantity": 10,
                "cum_quantity": 10, "leaves_quantity": 0, "status": "filled", "type": "market", "tif": "IOC", "average_price_e4": 1_892_500});
            want["text"] = e.value["text"].clone();
            assert_eq!(e.value, want);
        }

        assert_eq!(
            (
                w.read(t::TRADES).len(),
                w.read(t::EXECUTIONS).len(),
                w.read(t::BOOK_COMMANDS).len()
            ),
            (1, 1, 1),
            "one execution"
        );

        dead_letters_are_empty(w);

        // Another order under the same id is refused, and the first order is unchanged.
        send(w, &[("1002", "501", "AAPL", 11, 1_625_159_081)]);

        // Another user may use the same id.
        send(w, &[("1002", "502", "AAPL", 10, 1_625_159_076)]);
        w.rest();
        let refused = w.events("501").pop().expect("an answer");
        let fields = [
            "event",
            "reason",
            "reason_code",
            "conflict_field",
            "status",
            "quantity",
            "cum_quantity",
        ]
        .map(|f| refused.value[f].clone());

        assert_eq!(
            json!(fields),
            json!([
                "DuplicateRejected",
                "DUPLICATE_ORDER",
                6,
                "quantity",
                "filled",
                10,
                10
            ])
        );

        assert_eq!(
            names(&w.events("502")),
            ["Deposited", "OrderPending", "OrderAccepted", "OrderFilled"]
        );
        w.check_form();
    });
}

#[test]
fn invalid_stock_orders() {
    on_both("invalid", RoleSettings::default(), |w| {
        w.list("AAPL", "189.25");
        let mut producer = OrderCommandProducer::new(w.log.clone()).expect("a producer");
        let refused = producer.send_order("1003", "501", "ZZZZ", 10, OrderSide::Buy, 1_625_159_076);
        assert!(
            matches!(&refused, Err(ClientError::UnknownSymbol(s)) if s == "ZZZZ"),
            "{refused:?}"
        );
        let text = refused.expect_err("it is refused").to_string();
        assert!(
            text.contains("ZZZZ")
                && text.contains("not listed")
                && text.contains("instruments load"),
            "{text}"
        );
        producer.flush(PATIENCE).expect("nothing is queued");
        w.rest();
        assert_eq!(w.read(t::ORDER_COMMANDS).len(), 0, "nothing was sent");
        assert_eq!(w.read(t::ORDER_EVENTS).len(), 0);

        let raw = br#"{"order_id":"1003","user_id":"501","symbol":"ZZZZ","quantity":10,"order_type":"buy","timestamp":1625159076}"#;
        producer
            .send_raw("501", raw)
            .expect("a client that checks nothing");
        producer.flush(PATIENCE).expect("the log takes it");
        w.rest();
        let events = w.events("501");
        assert_eq!(names(&events), ["Deposited", "OrderRejected"], "{}", w.name);
        let mut want = json!({"event": "OrderRejected", "user_id": "501", "user_seq": 2, "time_us": events[1].time_ms * 1000, "order_id": "1003",
            "cause_id": "1003", "cash_available_e4": OPENING, "cash_reserved_e4": 0, "symbol": "ZZZZ", "side": "buy", "quantity": 10,
            "cum_quantity": 0, "leaves_quantity": 0, "status": "rejected", "reason": "UNKNOWN_SYMBOL", "reason_code": 1,
            "type": "market", "tif": "IOC"});
        want["text"] = events[1].value["text"].clone();
        assert_eq!(events[1].value, want);
        assert_eq!(
            w.read(t::NOTIFICATIONS)[1].text("text"),
            "Order 1003 to buy 10 ZZZZ is rejected: the symbol is not listed."
        );
        assert_eq!(
            (w.read(t::TRADES).len(), w.read(t::BOOK_COMMANDS).len()),
            (0, 0)
        );
        dead_letters_are_empty(w);

        // The listing comes too late for this id; an order with a new id is filled.
        w.list("ZZZZ", "5");
        producer
            .send_order("1003", "501", "ZZZZ", 10, OrderSide::Buy, 1_625_159_090)
            .expect("listed now");
        producer
            .send_order("1004", "501", "ZZZZ", 10, OrderSide::Buy, 1_625_159_091)
            .expect("listed now");
        producer.flush(PATIENCE).expect("the log takes them");
        w.rest();
        let events = w.events("501");
        assert_eq!(
            names(&events)[2..],
            [
                "OrderStatus",
                "OrderPending",
                "OrderAccepted",
                "OrderFilled"
            ]
        );

        assert_eq!(
            (events[2].text("status"), events[2].text("reason")),
            ("rejected", "UNKNOWN_SYMBOL"),
            "the first answer again"
        );
        w.check_form();
    });
}

#[test]
fn rate_limiting() {
    on_both(
        "rate",
        RoleSettings {
            rate_limit: 10,
            burst: 5,
            client_transfers: true,
            ..RoleSettings::default()
        },
        |w| {
            w.sender
                .send(t::INSTRUMENTS, "AAPL", r#"{"symbol":"AAPL"}"#);
            w.sender.flush();
            w.rest();
            ticks(w);
            burst(w);
            w.check_form();
        },
    );
}

/// A thousand prices as fast as possible: all are published, none is lost, and the price 0 is
/// invalid.
fn ticks(w: &World) {
    let mut prices = MarketDataPublisher::new(w.log.clone()).expect("a publisher");
    for price in 0..1_000_i64 {
        prices
            .publish("AAPL", price, 1_625_159_080 + price)
            .unwrap_or_else(|e| panic!("price {price} is refused: {e}"));
    }

    prices.flush(PATIENCE).expect("the log takes them");
    w.rest();
    let ticks = w.read(t::MARKET_DATA);
    let sent: Vec<Value> = (0..1_000)
        .map(|p| json!({"symbol": "AAPL", "price": p.to_string(), "timestamp": 1_625_159_080 + p}))
        .collect();
    assert_eq!(values(&ticks), sent, "all, in order");
    let dead = w.read(t::DEAD_LETTERS);
    assert_eq!(dead.len(), 1, "{}", w.name);
    assert_eq!(
        (dead[0].headers["reason"].as_str(), &dead[0].headers["src"]),
        ("INVALID_PRICE", &w.src(t::MARKET_DATA, &ticks[0]))
    );
    assert_eq!(dead[0].raw, ticks[0].raw, "untouched");
    let told: Vec<i64> = w
        .read(t::REFERENCE_PRICES)
        .iter()
        .map(|p| p.number("price_e4"))
        .collect();
    assert_eq!(
        (told.first(), told.last()),
        (Some(&10_000), Some(&9_990_000)),
        "the first price is 1, the last 999"
    );
    assert!(told.windows(2).all(|w| w[0] < w[1]));
}

/// The limit as the contract defines it, on append times in milliseconds: T = 100 ms, five at once.
struct Gcra {
    tat_us: i64,
    seen_us: i64,
}

impl Gcra {
    fn take(&mut self, time_ms: i64) -> Result<(), i64> {
        let interval = 1_000_000 / 10;
        let tolerance = 4 * 1_000_000 / 10;
        let now = (time_ms * 1000).max(self.seen_us);
        if now < self.tat_us - tolerance {
            return Err((self.tat_us - tolerance - now).div_euclid(1000)
                + i64::from((self.tat_us - tolerance - now) % 1000 != 0));
        }

        self.seen_us = now;
        self.tat_us = now.max(self.tat_us) + interval;
        Ok(())
    }
}

fn burst(w: &mut World) {
    let order = |id: u32| {
        format!(
            r#"{{"order_id":"o{id}","user_id":"501","symbol":"AAPL","quantity":1,"order_type":"buy","timestamp":1625159076}}"#
        )
    };

    // Eight at once, then one every 40 ms (faster than the limit allows). Refused orders are tried
    // again under their id.
    for id in 0..8 {
        w.sender.send(t::ORDER_COMMANDS, "501", order(id));
    }

    w.sender.flush();
    for id in (8..33).chain(5..8) {
        std::thread::sleep(Duration::from_millis(40));
        w.sender.send(t::ORDER_COMMANDS, "501", order(id));

        // An executed order may be repeated at any rate.
        w.sender.send(t::ORDER_COMMANDS, "501", order(0));
        w.sender.flush();
    }

    // Cancels and transfers do not count against this limit.
    for i in 0..8 {
        let free = [
            r#""command":"cancel","orig_order_id":"never""#,
            r#""command":"deposit","amount":"1""#,
        ];
        w.sender.send(
            t::ORDER_COMMANDS,
            "501",
            format!(
                r#"{{"user_id":"501","order_id":"free{i}",{}}}"#,
                free[i % 2]
            ),
        );
    }

    w.sender.flush();
    w.rest();

    let mut limit = Gcra {
        tat_us: 0,
        seen_us: 0,
    };

    let mut want = Vec::new();
    let mut done = std::collections::BTreeSet::new();
    let mut waits = Vec::new();
    let commands = w.read(t::ORDER_COMMANDS);
    for c in &commands {
        let id = c.text("order_id").to_string();
        let answer = match id.strip_prefix("free") {
            Some(n) if n.parse::<u32>().is_ok_and(|n| n % 2 == 0) => {
                ("CancelRejected", "UNKNOWN_ORDER", None)
            }
            Some(_) => ("Deposited", "", None),
            None if done.contains(&id) => ("OrderStatus", "", None),
            None => match limit.take(c.time_ms) {
                Ok(()) => {
                    done.insert(id.clone());
                    ("OrderPending", "", None)
                }
                Err(wait) => {
                    waits.push(wait);
                    ("OrderRejected", "RATE_LIMITED", Some(wait))
                }
            },
        };

        // The event is about the order that the cancel named.
        let id = if answer.0 == "CancelRejected" {
            "never".to_string()
        } else {
            id
        };

        want.push((id, answer.0.to_string(), answer.1.to_string(), answer.2));
    }

    let got: Vec<_> = w
        .events("501")
        .iter()
        .filter(|e| {
            !["OrderAccepted", "OrderFilled"].contains(&e.text("event")) && e.value["user_seq"] != 1
        })
        .map(|e| {
            (
                e.text("order_id").to_string(),
                e.text("event").to_string(),
                e.text("reason").to_string(),
                e.value["retry_after_ms"].as_i64(),
            )
        })
        .collect();

    assert_eq!(
        got,
        want,
        "{}: append times {:?}",
        w.name,
        commands
            .iter()
            .map(|c| c.time_ms - commands[0].time_ms)
            .collect::<Vec<_>>()
    );

    let last = w
        .events("501")
        .into_iter()
        .rfind(|e| e.text("event") == "OrderFilled")
        .expect("a fill");
    assert_eq!(last.number("last_price_e4"), 9_990_000, "at the last price");
    assert!(
        !waits.is_empty() && done.len() > 8,
        "both happened: {} refused, {} carried out",
        waits.len(),
        done.len()
    );
    assert!(waits.iter().all(|w| (1..=100).contains(w)), "{waits:?}");
    let codes: Vec<_> = w
        .events("501")
        .iter()
        .filter(|e| e.text("reason") == "RATE_LIMITED")
        .map(|e| e.number("reason_code"))
        .collect();
    assert!(codes.iter().all(|c| *c == 99));
    println!(
        "{}: {} carried out, {} refused, waits {waits:?}",
        w.name,
        done.len(),
        waits.len()
    );
    wait_for("a portfolio of the last event", PATIENCE, || {
        let seq = |r: Option<Seen>| r.map(|r| r.number("user_seq"));
        seq(w.read(t::PORTFOLIOS).pop()) == seq(w.events("501").pop())
    });
}
