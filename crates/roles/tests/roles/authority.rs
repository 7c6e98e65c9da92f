//! The right to write a topic distinguishes an operator from a client.

use roles::RoleSettings;
use serde_json::json;
use wire::topics::{OPERATOR_COMMANDS, ORDER_COMMANDS};

use crate::driver::World;

fn send(w: &mut World, topic: ports::topics::TopicId, user: &str, fields: &str) {
    w.append(
        topic,
        user,
        format!(r#"{{"user_id":"{user}",{fields}}}"#).as_bytes(),
    );
    w.pump();
}

/// Name, reason and id of a user's events, from the event `from` on.
fn told(w: &World, user: &str, from: usize) -> Vec<(String, String, String)> {
    let text = |e: &serde_json::Value, name: &str| e[name].as_str().unwrap_or_default().to_string();
    w.events(user)
        .iter()
        .skip(from)
        .map(|e| (text(e, "event"), text(e, "reason"), text(e, "order_id")))
        .collect()
}

fn line(event: &str, reason: &str, id: &str) -> (String, String, String) {
    (event.into(), reason.into(), id.into())
}

#[test]
fn a_clients_transfer_is_refused_and_opens_no_account() {
    let mut w = World::ready(RoleSettings::default());
    for (id, command) in [("d", "deposit"), ("w", "withdraw")] {
        send(
            &mut w,
            ORDER_COMMANDS,
            "u",
            &format!(r#""command":"{command}","order_id":"{id}","amount":"5""#),
        );
    }

    assert_eq!(
        told(&w, "u", 0),
        [
            line("OrderRejected", "NOT_AUTHORIZED", "d"),
            line("OrderRejected", "NOT_AUTHORIZED", "w")
        ]
    );

    assert_eq!(
        w.events("u")[1]["cash_available_e4"],
        json!(0),
        "nobody has an account yet"
    );

    // The id is free: the desk may use it.
    send(
        &mut w,
        OPERATOR_COMMANDS,
        "u",
        r#""command":"deposit","order_id":"d","amount":"5","operator":"ana""#,
    );
    assert_eq!(
        told(&w, "u", 2),
        [line("Deposited", "", ""), line("Deposited", "", "d")]
    );
    assert_eq!(
        w.events("u")[3]["cash_available_e4"],
        json!(10_000_050_000_i64)
    );

    // The same transfer again is the same transfer, even by another operator.
    send(
        &mut w,
        OPERATOR_COMMANDS,
        "u",
        r#""command":"deposit","order_id":"d","amount":"5","operator":"bob""#,
    );
    assert_eq!(told(&w, "u", 4), [line("OrderStatus", "", "d")]);
    w.check_books();
}

#[test]
fn operators_words_count_on_their_own_topic_only() {
    let mut w = World::ready(RoleSettings {
        client_transfers: true,
        ..RoleSettings::default()
    });

    w.limit("u", "1", "AAPL", 1, "buy", "189", "");
    w.order("u", "2", "AAPL", "1", "buy");
    w.pump();
    let before = w.events("u").len();
    let bust = r#""command":"bust","operator":"ana","order_id":"b","orig_order_id":"2","trade_id":"t","quantity":1,"price":189.25"#;
    send(&mut w, ORDER_COMMANDS, "u", bust);
    send(
        &mut w,
        ORDER_COMMANDS,
        "u",
        r#""command":"cancel","operator":"ana","order_id":"c","orig_order_id":"1""#,
    );
    send(
        &mut w,
        ORDER_COMMANDS,
        "u",
        r#""command":"mass_cancel","operator":"ana","order_id":"m""#,
    );
    send(
        &mut w,
        ORDER_COMMANDS,
        "u",
        r#""command":"deposit","operator":"ana","order_id":"d","amount":1"#,
    );
    let refused = [
        ("CancelRejected", "2"),
        ("CancelRejected", "1"),
        ("OrderRejected", "m"),
        ("OrderRejected", "d"),
    ];
    assert_eq!(
        told(&w, "u", before),
        refused.map(|(event, id)| line(event, "NOT_AUTHORIZED", id))
    );

    // With this setting clients may send transfers in this topic, but no other commands of
    // operators.
    send(
        &mut w,
        ORDER_COMMANDS,
        "u",
        r#""command":"deposit","order_id":"d","amount":1"#,
    );
    assert_eq!(told(&w, "u", before + 4), [line("Deposited", "", "d")]);
    send(
        &mut w,
        OPERATOR_COMMANDS,
        "u",
        r#""order_id":"3","symbol":"AAPL","quantity":1,"order_type":"buy""#,
    );
    send(
        &mut w,
        OPERATOR_COMMANDS,
        "u",
        r#""command":"cancel","order_id":"x","orig_order_id":"1""#,
    );
    assert_eq!(
        told(&w, "u", before + 5),
        [
            line("OrderRejected", "NOT_AUTHORIZED", "3"),
            line("CancelRejected", "NOT_AUTHORIZED", "1")
        ]
    );

    send(
        &mut w,
        OPERATOR_COMMANDS,
        "u",
        r#""command":"cancel","operator":"ana","order_id":"c","orig_order_id":"1""#,
    );
    assert_eq!(
        told(&w, "u", before + 7),
        [line("OrderCancelled", "OPERATOR", "1")]
    );
    w.check_books();
}

#[test]
fn decisions_before_the_operators_topic_are_made_so_again() {
    let before =
        RoleSettings::decode(br#"{"rate_limit":100,"burst":200,"opening_cash_e4":10000000000}"#)
            .expect("settings of then");
    let mut w = World::ready(before);
    send(
        &mut w,
        ORDER_COMMANDS,
        "u",
        r#""command":"deposit","order_id":"d","amount":1,"operator":"ana""#,
    );
    assert_eq!(
        told(&w, "u", 0),
        [line("Deposited", "", ""), line("Deposited", "", "d")]
    );
    send(
        &mut w,
        ORDER_COMMANDS,
        "v",
        r#""command":"nonsense","order_id":"d""#,
    );
    assert_eq!(
        told(&w, "v", 0),
        [
            line("Deposited", "", ""),
            line("OrderRejected", "MALFORMED", "d")
        ],
        "anything opened an account then"
    );
}

#[test]
fn a_user_switched_off_or_not_understood_gets_no_cash() {
    for (key, state) in [("u", "disabled"), ("u", "stopped"), ("*", "stopped")] {
        let mut w = World::ready(RoleSettings::default());
        w.control(key, state);
        w.pump();
        send(
            &mut w,
            ORDER_COMMANDS,
            "u",
            r#""order_id":"1","symbol":"AAPL","quantity":1,"order_type":"buy""#,
        );
        let reason = if state == "stopped" {
            "KILL_SWITCH"
        } else {
            "ACCOUNT_DISABLED"
        };

        assert_eq!(
            told(&w, "u", 0),
            [line("OrderRejected", reason, "1")],
            "{key} {state}"
        );
        send(
            &mut w,
            ORDER_COMMANDS,
            "u",
            r#""order_id":"2","symbol":"AAPL","quantity":"many","order_type":"buy""#,
        );
        w.control(key, "");
        w.pump();
        send(
            &mut w,
            ORDER_COMMANDS,
            "u",
            r#""order_id":"3","symbol":"AAPL","quantity":1,"order_type":"buy""#,
        );
        let then = [
            "OrderRejected",
            "OrderRejected",
            "Deposited",
            "OrderPending",
            "OrderAccepted",
            "OrderFilled",
        ];

        assert_eq!(
            told(&w, "u", 0)
                .iter()
                .map(|(event, ..)| event.as_str())
                .collect::<Vec<_>>(),
            then,
            "{key} {state}"
        );

        w.check_books();
    }
}
