//! Switches of operators: the kill switch, for one user or for all, and disabled accounts.

use engine::broadcast::ABSENT;
use ports::topics::TopicPartition;
use roles::{Role, RoleSettings};
use serde_json::json;
use wire::topics;

use super::driver::World;
use super::market::floor;

/// The last event of a user, with its reason if present.
fn last(w: &World, user: &str) -> String {
    let e = w.last(user);
    let reason = e["reason"]
        .as_str()
        .map(|r| format!(" {r}"))
        .unwrap_or_default();
    format!("{}{reason}", e["event"].as_str().expect("a name"))
}

fn transfer(w: &mut World, user: &str, id: &str, command: &str, amount: &str) {
    w.command(
        user,
        &format!(r#""command":"{command}","order_id":"{id}","amount":"{amount}""#),
    );
}

/// Two resting orders of `b`.
fn resting() -> World {
    let mut w = floor(RoleSettings::default());
    w.limit("b", "1", "AAPL", 3, "buy", "99", "");
    w.limit("b", "2", "AAPL", 3, "buy", "98", "");
    w.pump();
    w
}

#[test]
fn a_kill_switch_stops_new_risk_and_lets_cancels_through() {
    for key in ["b", "*"] {
        let mut w = resting();
        w.control(key, "stopped");
        w.limit("b", "3", "AAPL", 3, "buy", "97", "");
        w.pump();
        let refused = w.last("b");
        let fields = [
            "event",
            "reason",
            "reason_code",
            "status",
            "order_id",
            "leaves_quantity",
        ]
        .map(|f| refused[f].clone());

        assert_eq!(
            fields,
            [
                json!("OrderRejected"),
                json!("KILL_SWITCH"),
                json!(99),
                json!("rejected"),
                json!("3"),
                json!(0)
            ],
            "{key}"
        );

        w.replace("b", "r", "1", r#""quantity":2"#);
        w.pump();
        let refused = w.last("b");
        let fields = [
            "event",
            "reason",
            "reason_code",
            "status",
            "order_id",
            "cause_id",
            "leaves_quantity",
        ]
        .map(|f| refused[f].clone());

        let due = [
            json!("CancelRejected"),
            json!("KILL_SWITCH"),
            json!(99),
            json!("new"),
            json!("1"),
            json!("r"),
            json!(3),
        ];

        assert_eq!(fields, due, "even a smaller quantity: {key}");
        w.cancel("b", "c", "1");
        w.pump();
        assert_eq!(last(&w, "b"), "OrderCancelled USER_REQUEST");
        w.command("b", r#""command":"mass_cancel","order_id":"m""#);
        w.pump();
        assert_eq!(
            (last(&w, "b").as_str(), &w.last("b")["order_id"]),
            ("OrderCancelled MASS_CANCEL", &json!("2"))
        );
        transfer(&mut w, "b", "d", "deposit", "5");
        transfer(&mut w, "b", "w", "withdraw", "5");
        w.pump();
        assert_eq!(
            w.names("b").split_off(w.names("b").len() - 2),
            ["Deposited", "Withdrawn"],
            "money moves"
        );
        w.check_books();
    }
}

#[test]
fn only_the_stopped_user_is_stopped_unless_it_is_everybody() {
    let mut w = World::ready(RoleSettings::default());
    w.control("a", "stopped");
    w.order("a", "1", "AAPL", "1", "buy");
    w.order("b", "1", "AAPL", "1", "buy");
    w.pump();
    assert_eq!(
        (last(&w, "a").as_str(), last(&w, "b").as_str()),
        ("OrderRejected KILL_SWITCH", "OrderFilled")
    );
    w.control("*", "stopped");
    w.control("a", "");
    w.order("a", "1", "AAPL", "1", "buy");
    w.order("b", "2", "AAPL", "1", "buy");
    w.pump();
    assert_eq!(
        (last(&w, "a").as_str(), last(&w, "b").as_str()),
        ("OrderRejected KILL_SWITCH", "OrderRejected KILL_SWITCH")
    );

    // A user of this name is stopped together with all others.
    w.order("*", "1", "AAPL", "1", "buy");
    w.pump();
    assert_eq!(last(&w, "*"), "OrderRejected KILL_SWITCH");
}

#[test]
fn the_same_id_may_be_tried_again_after_a_kill_switch() {
    let mut w = resting();
    w.control("*", "stopped");
    w.limit("b", "3", "AAPL", 3, "buy", "97", "");
    w.replace("b", "r", "1", r#""quantity":2"#);
    w.pump();

    // Even the content of the refused command is forgotten.
    w.control("*", "");
    w.limit("b", "3", "AAPL", 4, "buy", "97", "");
    w.pump();
    assert_eq!(last(&w, "b"), "OrderAccepted");
    w.replace("b", "r", "2", r#""quantity":1"#);
    w.pump();
    assert_eq!(
        (last(&w, "b").as_str(), &w.last("b")["order_id"]),
        ("OrderReplaced", &json!("2"))
    );
}

#[test]
fn a_repeated_command_is_answered_whatever_is_switched_off() {
    for state in ["stopped", "disabled"] {
        let mut w = resting();
        w.control("b", state);
        w.limit("b", "1", "AAPL", 3, "buy", "99", "");
        w.pump();
        assert_eq!(
            (last(&w, "b").as_str(), &w.last("b")["status"]),
            ("OrderStatus", &json!("new"))
        );
        w.limit("b", "1", "AAPL", 4, "buy", "99", "");
        w.pump();
        assert_eq!(last(&w, "b"), "DuplicateRejected DUPLICATE_ORDER");
    }
}

#[test]
fn a_disabled_account_may_only_cancel() {
    let mut w = resting();
    w.control("b", "disabled");
    let before = w.last("b")["cash_available_e4"].clone();
    w.limit("b", "3", "AAPL", 3, "buy", "97", "");
    w.pump();
    assert_eq!(
        (last(&w, "b").as_str(), &w.last("b")["reason_code"]),
        ("OrderRejected ACCOUNT_DISABLED", &json!(15))
    );
    for (id, command) in [("d", "deposit"), ("w", "withdraw")] {
        transfer(&mut w, "b", id, command, "5");
        w.pump();
        let e = w.last("b");
        let fields = ["order_id", "status", "amount_e4", "cash_available_e4"].map(|f| e[f].clone());
        assert_eq!(
            (last(&w, "b").as_str(), fields),
            (
                "OrderRejected ACCOUNT_DISABLED",
                [json!(id), json!("rejected"), json!(50_000), before.clone()]
            )
        );
    }

    w.replace("b", "r", "1", r#""quantity":2"#);
    w.pump();
    let e = w.last("b");
    let fields = ["order_id", "cause_id", "status", "reason_code"].map(|f| e[f].clone());
    assert_eq!(
        (last(&w, "b").as_str(), fields),
        (
            "CancelRejected ACCOUNT_DISABLED",
            [json!("1"), json!("r"), json!("new"), json!(99)]
        )
    );

    w.cancel("b", "c", "1");
    w.pump();
    assert_eq!(last(&w, "b"), "OrderCancelled USER_REQUEST");
    w.command("b", r#""command":"mass_cancel","order_id":"m""#);
    w.pump();
    assert_eq!(last(&w, "b"), "OrderCancelled MASS_CANCEL");
    w.check_books();
}

#[test]
fn a_disabled_account_has_used_up_the_ids_that_it_tried() {
    let mut w = resting();
    w.control("b", "disabled");
    w.limit("b", "3", "AAPL", 3, "buy", "97", "");
    transfer(&mut w, "b", "d", "deposit", "5");
    w.replace("b", "r", "1", r#""quantity":2"#);
    w.pump();
    w.control("b", "");
    w.limit("b", "3", "AAPL", 3, "buy", "97", "");
    w.pump();
    transfer(&mut w, "b", "d", "deposit", "5");
    w.pump();
    w.replace("b", "r", "1", r#""quantity":2"#);
    w.pump();
    let events = w.events("b");
    let told: Vec<_> = events[events.len() - 3..]
        .iter()
        .map(|e| [&e["event"], &e["status"], &e["reason"], &e["order_id"]])
        .collect();
    let due = ["3", "d", "r"].map(|id| {
        [
            json!("OrderStatus"),
            json!("rejected"),
            json!("ACCOUNT_DISABLED"),
            json!(id),
        ]
    });

    assert_eq!(told, due.each_ref().map(|d| d.each_ref()));
    w.limit("b", "4", "AAPL", 3, "buy", "97", "");
    w.pump();
    assert_eq!(last(&w, "b"), "OrderAccepted", "and is free again");
}

#[test]
fn what_is_stricter_counts_whoever_it_was_said_for() {
    for (user, everybody) in [
        ("disabled", "stopped"),
        ("stopped", "disabled"),
        ("disabled", ""),
        ("", "disabled"),
    ] {
        let mut w = World::ready(RoleSettings::default());
        w.control("u", user);
        w.control("*", everybody);
        w.order("u", "1", "AAPL", "1", "buy");
        w.pump();
        assert_eq!(
            last(&w, "u"),
            "OrderRejected ACCOUNT_DISABLED",
            "{user:?} and {everybody:?}"
        );
    }
}

/// If the first command of a user is refused, the account opens all the same, with an event. One
/// command fails all checks; after each repair the next check refuses it.
#[test]
fn checks_go_rate_limit_account_kill_switch_quantity() {
    let mut w = World::ready(RoleSettings {
        rate_limit: 1,
        burst: 1,
        ..RoleSettings::default()
    });

    w.order("u", "0", "AAPL", "1", "buy");
    w.control("u", "disabled");
    w.control("*", "stopped");
    let mut told = Vec::new();
    let mut bad = |w: &mut World, id: &str| {
        w.order("u", id, "NOPE", "0", "buy");
        w.pump();
        told.push(
            w.last("u")["reason"]
                .as_str()
                .unwrap_or_default()
                .to_string(),
        );
    };

    bad(&mut w, "1");
    w.now_ms += 1_000;
    bad(&mut w, "1");
    w.control("u", "");
    w.now_ms += 1_000;
    bad(&mut w, "2");

    // The limit counts sent commands, including refused ones.
    bad(&mut w, "2");
    w.control("*", "");
    w.now_ms += 1_000;
    bad(&mut w, "2");
    assert_eq!(
        told,
        [
            "RATE_LIMITED",
            "ACCOUNT_DISABLED",
            "KILL_SWITCH",
            "RATE_LIMITED",
            "INCORRECT_QUANTITY"
        ]
    );
}

#[test]
fn a_record_that_cannot_be_read_changes_nothing() {
    let mut w = World::ready(RoleSettings::default());
    let at = TopicPartition::new(topics::CONTROLS, 0);
    let bad = [
        &b"stopped"[..],
        b"",
        br#"{"state":"off"}"#,
        br#"{"state":"disabled","text":1}"#,
        br#"{}"#,
    ];

    for value in bad {
        w.append_at(at, Some(b"u"), Some(value));
    }

    w.append_at(at, None, Some(br#"{"state":"stopped"}"#));
    w.order("u", "1", "AAPL", "1", "buy");
    w.pump();
    assert_eq!(last(&w, "u"), "OrderFilled");
    w.control("u", "stopped");
    for value in bad {
        w.append_at(at, Some(b"u"), Some(value));
    }

    w.order("u", "2", "AAPL", "1", "buy");
    w.pump();
    assert_eq!(
        last(&w, "u"),
        "OrderRejected KILL_SWITCH",
        "and what was said before still holds"
    );
    assert!(
        w.dead().is_empty(),
        "the topic is internal: no role answers for it"
    );
}

#[test]
fn what_is_not_switched_off_is_not_journaled() {
    let mut w = World::ready(RoleSettings::default());
    let controls = |w: &mut World| -> Vec<_> {
        let used = w
            .used(Role::Orders)
            .into_iter()
            .filter(|s| s.table == topics::CONTROLS);
        used.map(|s| (String::from_utf8(s.key.to_vec()).expect("a key"), s.version))
            .collect()
    };

    let order = |w: &mut World, user: &str, id: &str| {
        w.order(user, id, "AAPL", "1", "buy");
        w.pump();
    };

    order(&mut w, "u", "1");
    assert_eq!(controls(&mut w), [], "an empty table");
    w.control("v", "stopped");
    order(&mut w, "u", "2");
    assert_eq!(controls(&mut w), [], "somebody else's row");
    w.control("u", "stopped");
    w.cancel("u", "c", "none");
    w.pump();
    assert_eq!(controls(&mut w), [], "it decides nothing about a cancel");
    order(&mut w, "u", "3");
    order(&mut w, "u", "4");
    assert_eq!(
        controls(&mut w),
        [("u".to_string(), 2)],
        "once for as long as it is the same"
    );
    w.control("u", "");
    order(&mut w, "u", "5");
    order(&mut w, "u", "6");
    assert_eq!(
        controls(&mut w),
        [("u".to_string(), ABSENT)],
        "that it went is noted, once"
    );
    assert_eq!(last(&w, "u"), "OrderFilled");
}

#[test]
fn what_is_switched_off_outlives_a_restart() {
    let mut w = World::ready(RoleSettings::default());
    w.control("u", "stopped");
    w.order("u", "1", "AAPL", "1", "buy");
    w.pump();
    w.restart(Role::Orders);
    w.order("u", "1", "AAPL", "1", "buy");
    w.pump();
    assert_eq!(w.names("u"), ["OrderRejected", "OrderRejected"]);
}
