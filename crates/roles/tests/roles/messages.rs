//! The second bucket bounds cancels, transfers, repeats and bad commands. A command that ends an
//! order is always accepted.

use ports::topics::TopicId;
use roles::{Role, RoleSettings};
use serde_json::{Value, json};
use wire::topics;

use super::driver::World;

/// Orders: one a second. All other commands: ten a second, ten at once.
fn one_a_second() -> RoleSettings {
    RoleSettings {
        rate_limit: 1,
        burst: 1,
        ..RoleSettings::default()
    }
}

/// Number of records in the topics that a flood of answers fills.
fn written(w: &World) -> usize {
    let all = [
        topics::ORDER_EVENTS,
        topics::NOTIFICATIONS,
        topics::AUDIT_LOG,
        topics::PORTFOLIOS,
        topics::BOOK_COMMANDS,
    ];

    all.iter().map(|t| w.records(*t).len()).sum()
}

fn state_bytes(w: &World) -> usize {
    w.state(Role::Orders)
        .iter()
        .flat_map(|s| s.iter())
        .map(|(k, v)| k.len() + v.len())
        .sum()
}

fn of_reason(w: &World, user: &str, reason: &str) -> Vec<Value> {
    w.events(user)
        .into_iter()
        .filter(|e| e["reason"] == reason)
        .collect()
}

/// Number of commands without an answer of their own, according to the events.
fn unanswered(w: &World, user: &str) -> u64 {
    w.events(user)
        .iter()
        .filter_map(|e| e["unanswered"].as_u64())
        .sum()
}

/// Regression: ten thousand cancels of unknown orders wrote 50 000 records, and half a megabyte of
/// state that stayed for ever.
#[test]
fn a_flood_of_cancels_of_nothing_leaves_only_audit_entries() {
    let mut w = World::ready(one_a_second());
    w.order("u", "1", "AAPL", "1", "buy");
    w.pump();
    let before = written(&w);
    let bytes = state_bytes(&w);
    for i in 0..10_000 {
        w.cancel(
            "u",
            &format!("0123456789012345678901234567890123456789-{i}"),
            "none",
        );
    }

    w.pump();
    assert!(
        written(&w) - before < 10_100,
        "{} records",
        written(&w) - before
    );
    assert!(
        state_bytes(&w) - bytes < 100,
        "{} bytes of state",
        state_bytes(&w) - bytes
    );
    assert_eq!(of_reason(&w, "u", "UNKNOWN_ORDER").len(), 10);
    let refused = of_reason(&w, "u", "RATE_LIMITED");
    assert_eq!(refused.len(), 1);
    assert_eq!(
        (
            &refused[0]["event"],
            &refused[0]["order_id"],
            &refused[0]["reason_code"]
        ),
        (&json!("CancelRejected"), &json!("none"), &json!(99))
    );

    // After the announced wait the same id is accepted. A shorter wait is not enough.
    let wait = refused[0]["retry_after_ms"].as_i64().expect("a wait");
    assert_eq!(wait, 100);
    let id = refused[0]["cause_id"].as_str().expect("an id").to_string();
    w.now_ms += wait - 1;
    w.cancel("u", &id, "none");
    w.pump();
    assert_eq!(of_reason(&w, "u", "RATE_LIMITED").len(), 1);
    w.now_ms += 1;
    w.cancel("u", &id, "1");
    w.pump();
    let last = w.last("u");
    assert_eq!(
        (&last["reason"], &last["cause_id"], &last["unanswered"]),
        (&json!("TOO_LATE_TO_CANCEL"), &json!(id), &json!(9_990))
    );

    // Other users and orders are not affected.
    w.order("v", "1", "AAPL", "1", "buy");
    w.now_ms += 1_000;
    w.order("u", "2", "AAPL", "1", "buy");
    w.pump();
    assert_eq!(
        [w.last("v"), w.last("u")].map(|e| e["event"].clone()),
        [json!("OrderFilled"), json!("OrderFilled")]
    );
    w.check_books();
}

/// Each kind of command other than an order: a few are answered, then one refusal a second. Every
/// command is answered or counted, also across restarts.
#[test]
fn whatever_is_no_order_is_bounded_and_counted() {
    let order = r#""order_id":"1","symbol":"AAPL","quantity":1,"order_type":"buy""#;
    let floods: [(&str, &dyn Fn(usize) -> String); 9] = [
        ("repeats", &|_| order.to_string()),
        ("other content", &|n| {
            format!(
                r#""order_id":"1","symbol":"AAPL","quantity":{},"order_type":"buy""#,
                n + 2
            )
        }),
        ("cancels of what is over", &|n| {
            format!(r#""command":"cancel","order_id":"c{n}","orig_order_id":"1""#)
        }),
        ("mass cancels", &|n| {
            format!(r#""command":"mass_cancel","order_id":"m{n}""#)
        }),
        ("deposits", &|n| {
            format!(r#""command":"deposit","order_id":"d{n}","amount":1"#)
        }),
        ("withdrawals", &|n| {
            format!(r#""command":"withdraw","order_id":"w{n}","amount":1"#)
        }),
        ("what is for operators", &|n| {
            format!(r#""command":"deposit","order_id":"o{n}","amount":1,"operator":"me""#)
        }),
        ("what cannot be read", &|n| {
            format!(r#""command":"deposit","order_id":"x{n}""#)
        }),
        ("old commands", &|n| {
            format!(
                r#""order_id":"t{n}","symbol":"AAPL","quantity":1,"order_type":"buy","timestamp":1625159076"#
            )
        }),
    ];

    for (what, fields) in floods {
        let settings = RoleSettings {
            client_transfers: true,
            max_command_age_ms: Some(60_000),
            ..one_a_second()
        };

        let mut w = World::ready(settings);
        w.command("u", order);
        w.pump();
        let before = w.events("u").len();
        let bytes = state_bytes(&w);
        for part in 0..30 {
            for n in 0..50 {
                // Without sorting by topic: all commands come in the topic of clients.
                w.append(
                    topics::ORDER_COMMANDS,
                    "u",
                    format!(r#"{{"user_id":"u",{}}}"#, fields(50 * part + n)).as_bytes(),
                );
            }

            if part % 7 == 0 {
                w.restart(Role::Orders);
            }

            w.now_ms += 100;
            w.pump();
        }

        w.now_ms += 10_000;
        w.command("u", r#""command":"mass_cancel","order_id":"last""#);
        w.pump();
        let told = w.events("u").len() - before;

        // Ten at once, ten a second for three seconds, and one refusal a second.
        assert!((30..=46).contains(&told), "{what}: {told} events");
        assert_eq!(
            told as u64 + unanswered(&w, "u"),
            1_501,
            "{what}: each is answered or counted"
        );
        assert!(
            (2..=4).contains(&of_reason(&w, "u", "RATE_LIMITED").len()),
            "{what}"
        );
        assert!(state_bytes(&w) - bytes < 3_000, "{what}");
        w.check_books();
    }
}

/// A refused repeat reports the state of the order and does not change it.
#[test]
fn a_repeat_beyond_the_limit_is_told_with_the_orders_own_status() {
    let mut w = World::ready(one_a_second());
    for _ in 0..12 {
        w.limit("u", "1", "AAPL", 3, "buy", "185", "");
        w.pump();
    }

    let last = w.last("u");
    let fields = [
        "event",
        "reason",
        "status",
        "leaves_quantity",
        "retry_after_ms",
    ]
    .map(|f| last[f].clone());

    assert_eq!(
        fields,
        [
            json!("OrderRejected"),
            json!("RATE_LIMITED"),
            json!("new"),
            json!(3),
            json!(100)
        ]
    );

    let text = w.records(topics::NOTIFICATIONS).last().expect("one").tree()["text"].clone();
    assert_eq!(
        text,
        "A command with the id 1 was refused: too many cancels, transfers, repeats or bad commands in a short time; order 1 to buy 3 AAPL at 185.00 USD or better stands as it was (new)."
    );
}

/// AAPL at 100, without a house.
fn floor(settings: RoleSettings) -> World {
    let mut w = World::new(1, settings);
    w.list("AAPL", r#"{"symbol":"AAPL","house":false}"#);
    w.tick("AAPL", "100");
    w.pump();
    w
}

fn drain(w: &mut World, user: &str) {
    for n in 0..12 {
        w.cancel(user, &format!("drain{n}"), "none");
    }

    w.pump();
    assert_eq!(w.last(user)["reason"], "RATE_LIMITED");
}

#[test]
fn what_ends_an_order_gets_in_although_there_is_no_room() {
    let mut w = floor(RoleSettings {
        burst: 10,
        message_rate_factor: 1,
        ..one_a_second()
    });

    for id in ["1", "2", "3", "4"] {
        w.limit("b", id, "AAPL", 1, "buy", "99", "");
    }

    w.pump();
    drain(&mut w, "b");
    w.cancel("b", "c1", "1");
    w.cancel("b", "c2", "2");
    w.pump();
    let ended = |w: &World| {
        w.events("b")
            .iter()
            .filter(|e| e["event"] == "OrderCancelled")
            .count()
    };

    assert_eq!(ended(&w), 2);
    w.command(
        "b",
        r#""command":"mass_cancel","order_id":"m","symbol":"AAPL""#,
    );
    w.pump();
    assert_eq!(ended(&w), 4);

    // No open order is left.
    let events = w.events("b").len();
    w.command("b", r#""command":"mass_cancel","order_id":"m2""#);
    w.cancel("b", "c3", "1");
    w.pump();
    assert_eq!(w.events("b").len(), events);
    w.check_rest();
}

/// Until the book has answered, an order is still open. Repeated cancels of such an order must not
/// bypass the limit.
#[test]
fn one_cancel_of_an_open_order_gets_in_without_room() {
    for kind in ["limit", "market", "mass"] {
        let mut w = floor(RoleSettings {
            rate_limit: 1,
            burst: 5,
            message_rate_factor: 1,
            ..RoleSettings::default()
        });

        w.list("AAPL", r#"{"symbol":"AAPL"}"#);
        w.pump();
        drain(&mut w, "b");
        match kind {
            "market" => w.order("b", "1", "AAPL", "1", "buy"),
            _ => w.limit("b", "1", "AAPL", 1, "buy", "99", ""),
        }

        w.turn_of(Role::Orders);
        let book = w.records(topics::BOOK_COMMANDS).len();
        let bytes = state_bytes(&w);
        for n in 0..1_000 {
            match kind {
                "mass" => w.command(
                    "b",
                    &format!(r#""command":"mass_cancel","order_id":"m{n}""#),
                ),
                _ => w.cancel("b", &format!("c{n}"), "1"),
            }

            if n % 300 == 0 {
                w.turn_of(Role::Orders);
                w.restart(Role::Orders);
            }
        }

        w.turn_of(Role::Orders);
        assert_eq!(w.records(topics::BOOK_COMMANDS).len() - book, 1, "{kind}");
        assert!(
            state_bytes(&w) - bytes < 200,
            "{kind}: {} bytes",
            state_bytes(&w) - bytes
        );
        w.pump();
        let end = w
            .events("b")
            .into_iter()
            .rfind(|e| e["order_id"] == "1" && e["event"] != "CancelRejected")
            .expect("an end");
        let due = if kind == "market" {
            "OrderFilled"
        } else {
            "OrderCancelled"
        };

        assert_eq!(end["event"], due, "{kind}");
        w.check_rest();
        w.check_books();
    }
}

/// A thousand mass cancels before the book has answered the first one.
#[test]
fn mass_cancels_are_bounded_while_ten_thousand_orders_end() {
    let mut w = floor(RoleSettings {
        rate_limit: 1_000,
        burst: 10_100,
        message_rate_factor: 1,
        ..RoleSettings::default()
    });

    for i in 0..5_000 {
        w.limit("b", &format!("o{i}"), "AAPL", 1, "buy", "99", "");
    }

    w.pump();
    for n in 0..10_101 {
        w.cancel("b", &format!("drain{n}"), "none");
    }

    w.pump();
    let before = w.records(topics::BOOK_COMMANDS).len();
    for n in 0..1_000 {
        w.command(
            "b",
            &format!(r#""command":"mass_cancel","order_id":"m{n}""#),
        );
    }

    w.turn_of(Role::Orders);

    // Ten of them take a part of 500 each, and nine have more to do.
    assert_eq!(w.records(topics::BOOK_COMMANDS).len() - before, 5_009);
    w.pump();
    assert_eq!(
        w.events("b")
            .iter()
            .filter(|e| e["event"] == "OrderCancelled")
            .count(),
        5_000
    );

    w.check_rest();
}

#[test]
fn operators_have_no_limit_and_nobody_has_where_it_is_off() {
    let flood = |settings: RoleSettings, topic: TopicId, fields: &dyn Fn(usize) -> String| {
        let mut w = World::ready(settings);
        w.order("u", "1", "AAPL", "1", "buy");
        for n in 0..500 {
            w.append(
                topic,
                "u",
                format!(r#"{{"user_id":"u",{}}}"#, fields(n)).as_bytes(),
            );
        }

        w.pump();
        of_reason(&w, "u", "RATE_LIMITED").len()
    };

    let desk = |n: usize| match n % 3 {
        0 => format!(r#""command":"deposit","order_id":"d","amount":{}"#, n % 2),
        1 => format!(
            r#""command":"cancel","order_id":"c{n}","orig_order_id":"none","operator":"ana""#
        ),
        _ => format!(r#""command":"mass_cancel","order_id":"m{n}","operator":"ana""#),
    };

    let cancel =
        |n: usize| format!(r#""command":"cancel","order_id":"c{n}","orig_order_id":"none""#);
    assert_eq!(flood(one_a_second(), topics::OPERATOR_COMMANDS, &desk), 0);
    assert_eq!(flood(one_a_second(), topics::ORDER_COMMANDS, &cancel), 1);
    assert_eq!(
        flood(
            RoleSettings {
                message_rate_factor: 0,
                ..one_a_second()
            },
            topics::ORDER_COMMANDS,
            &cancel
        ),
        0
    );

    assert_eq!(
        flood(
            RoleSettings {
                rate_limit: 0,
                ..one_a_second()
            },
            topics::ORDER_COMMANDS,
            &cancel
        ),
        0
    );

    assert_eq!(
        flood(
            RoleSettings {
                rules: 9,
                ..one_a_second()
            },
            topics::ORDER_COMMANDS,
            &cancel
        ),
        0,
        "as it was decided before"
    );
}

#[test]
fn a_command_that_names_no_open_order_leaves_its_id_free() {
    for (rules, again) in [
        (RoleSettings::default().rules, "CancelRejected"),
        (9, "OrderStatus"),
    ] {
        let mut w = World::ready(RoleSettings {
            rules,
            ..RoleSettings::default()
        });

        w.order("u", "refused", "NOPE", "1", "buy");
        let bust = r#""command":"bust","operator":"ana","trade_id":"t","quantity":1,"price":1,"orig_order_id":"none""#;
        let commands = [
            r#""command":"cancel","orig_order_id":"none""#,
            r#""command":"cancel","orig_order_id":"refused""#,
            r#""command":"mass_cancel""#,
            r#""command":"replace","orig_order_id":"none","quantity":1"#,
            bust,
        ];

        for (n, fields) in commands.iter().enumerate() {
            for due in ["CancelRejected", again] {
                w.command("u", &format!(r#""order_id":"x{n}",{fields}"#));
                w.pump();
                assert_eq!(w.last("u")["event"], due, "rules {rules}: {fields}");
            }
        }

        // An order may have used the same id.
        w.order("u", "x0", "AAPL", "1", "buy");
        w.pump();
        assert_eq!(
            w.last("u")["event"],
            if rules == 9 {
                "DuplicateRejected"
            } else {
                "OrderFilled"
            }
        );

        w.check_books();
    }
}

/// A client must therefore not take a cancel without an event for a refused one. The client may
/// send the same id again without a second effect.
#[test]
fn a_cancel_on_its_way_has_no_event_if_a_later_command_has() {
    let mut w = floor(RoleSettings::default());
    w.limit("b", "1", "AAPL", 1, "buy", "99", "");
    w.pump();
    w.cancel("b", "c", "1");
    w.limit("b", "2", "AAPL", 1, "buy", "99", "");
    w.turn_of(Role::Orders);
    let last = w.last("b");
    assert_eq!(
        [&last["order_id"], &last["unanswered"]],
        [&json!("2"), &Value::Null]
    );
    assert!(w.events("b").iter().all(|e| e["cause_id"] != "c"));
    w.cancel("b", "c", "1");
    w.pump();
    let by_cancel: Vec<_> = w
        .events("b")
        .into_iter()
        .filter(|e| e["cause_id"] == "c")
        .map(|e| e["event"].clone())
        .collect();
    assert_eq!(by_cancel, ["OrderStatus", "OrderCancelled"]);
    w.check_books();
}
