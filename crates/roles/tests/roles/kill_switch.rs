//! The kill switch: a switched-off user trades no more, and the user's orders end.

use ports::topics::TopicPartition;
use roles::{Role, RoleSettings};
use wire::topics;

use super::driver::World;

/// AAPL at 100 without a house, and `s` with shares.
fn floor(settings: RoleSettings) -> World {
    super::market::floor(RoleSettings {
        open_orders_max: 100_000,
        ..settings
    })
}

fn switch(w: &mut World, key: &str, value: &str) {
    w.append_at(
        TopicPartition::new(topics::CONTROLS, 0),
        Some(key.as_bytes()),
        Some(value.as_bytes()),
    );
}

/// The last event of an order of a user, and its reason.
fn last_of(w: &World, user: &str, id: &str) -> String {
    let e = w
        .events(user)
        .into_iter()
        .rfind(|e| e["order_id"] == id)
        .expect("an event");
    let reason = e["reason"]
        .as_str()
        .map_or(String::new(), |r| format!(" {r}"));
    format!("{}{reason}", e["event"].as_str().expect("a name"))
}

/// Regression: the stop order of a stopped user fired and bought.
#[test]
fn a_stopped_users_orders_end_and_a_stop_does_not_fire() {
    for (key, state, reason) in [
        ("u", "stopped", "KILL_SWITCH"),
        ("*", "stopped", "KILL_SWITCH"),
        ("u", "disabled", "ACCOUNT_DISABLED"),
        ("*", "disabled", "ACCOUNT_DISABLED"),
    ] {
        for woken in [true, false] {
            let mut w = floor(RoleSettings::default());
            w.stop("u", "stop", "AAPL", 1, "buy", "102");
            w.limit("u", "rests", "AAPL", 1, "buy", "99", "");
            w.limit("v", "rests", "AAPL", 1, "buy", "99", "");
            w.pump();
            switch(&mut w, key, &format!(r#"{{"state":"{state}"}}"#));
            if woken {
                w.wake();
                w.pump();
            }

            w.tick("AAPL", "103");
            w.pump();
            w.wake();
            w.pump();
            for id in ["stop", "rests"] {
                assert_eq!(
                    last_of(&w, "u", id),
                    format!("OrderCancelled {reason}"),
                    "{key} {state} {woken}"
                );
            }

            assert_eq!(
                last_of(&w, "v", "rests") == "OrderAccepted",
                key == "u",
                "others are not touched"
            );
            assert!(!w.names("u").contains(&"OrderTriggered".to_string()));
            assert_eq!(w.last("u")["cash_reserved_e4"], 0);
            w.check_books();
            w.check_rest();
        }
    }
}

/// The switch counts as soon as its row is read, before the next wake-up.
#[test]
fn nothing_trades_that_has_not_ended_yet() {
    let mut w = floor(RoleSettings::default());
    w.limit("u", "first", "AAPL", 5, "buy", "100", "");
    w.limit("v", "second", "AAPL", 3, "buy", "99.50", "");
    w.limit("u", "third", "AAPL", 5, "buy", "99", "");
    w.pump();
    switch(&mut w, "u", r#"{"state":"stopped"}"#);

    // Fill-or-kill does not count the orders of a stopped user, post-only ignores them, and a sweep
    // passes them.
    w.limit("s", "fok", "AAPL", 4, "sell", "98", r#""tif":"FOK""#);
    w.pump();
    assert_eq!(
        (
            last_of(&w, "s", "fok").as_str(),
            last_of(&w, "u", "first").as_str()
        ),
        ("OrderCancelled FOK_UNFILLED", "OrderAccepted")
    );

    w.limit(
        "s",
        "post",
        "AAPL",
        1,
        "sell",
        "99.60",
        r#""post_only":true"#,
    );

    w.pump();
    assert_eq!(
        (
            last_of(&w, "s", "post").as_str(),
            last_of(&w, "u", "first").as_str()
        ),
        ("OrderAccepted", "OrderCancelled KILL_SWITCH")
    );

    w.limit("s", "sweep", "AAPL", 10, "sell", "98", r#""tif":"IOC""#);
    w.pump();
    assert_eq!(last_of(&w, "s", "sweep"), "OrderCancelled IOC_REMAINDER");
    assert_eq!(
        (
            last_of(&w, "v", "second").as_str(),
            last_of(&w, "u", "third").as_str()
        ),
        ("OrderFilled", "OrderCancelled KILL_SWITCH")
    );

    w.check_books();
    w.check_rest();
}

#[test]
fn neither_the_house_nor_orders_on_their_way_trade_with_them() {
    let mut w = floor(RoleSettings::default());
    w.list("AAPL", r#"{"symbol":"AAPL"}"#);
    w.limit("u", "rests", "AAPL", 1, "buy", "99", "");
    w.pump();
    w.limit("u", "late", "AAPL", 1, "buy", "98", "");
    w.order("u", "market", "AAPL", "1", "buy");
    w.replace("u", "r", "rests", r#""limit_price":98"#);
    w.turn_of(Role::Orders);
    switch(&mut w, "u", r#"{"state":"stopped"}"#);
    w.tick("AAPL", "97");
    w.pump();
    for (id, end) in [
        ("rests", "CancelRejected TOO_LATE_TO_CANCEL"),
        ("late", "OrderRejected KILL_SWITCH"),
        ("market", "OrderRejected KILL_SWITCH"),
    ] {
        assert_eq!(last_of(&w, "u", id), end);
    }

    assert!(w.events("u").iter().all(|e| e["trade_id"].is_null()));
    assert_eq!(w.last("u")["cash_reserved_e4"], 0);
    w.check_books();
    w.check_rest();
}

#[test]
fn very_many_orders_end_in_steps_also_over_restarts() {
    for restarts in [false, true] {
        let mut w = floor(RoleSettings::default());
        for n in 0..2_500 {
            w.limit(
                ["u", "v"][n % 2],
                &n.to_string(),
                "AAPL",
                1,
                "buy",
                &format!("9{}", n % 9),
                "",
            );
        }

        w.pump();
        w.reset_largest_turn();
        w.turn_max = 1;
        switch(&mut w, "*", r#"{"state":"stopped"}"#);
        w.wake();
        if restarts {
            w.turn_of(Role::Trading);
            w.restart(Role::Trading);
        }

        w.pump();
        assert!(
            w.largest_turn_of(Role::Trading) < 2_100,
            "{} records in one step",
            w.largest_turn_of(Role::Trading)
        );
        for user in ["u", "v"] {
            assert_eq!(
                w.names(user)
                    .iter()
                    .filter(|n| *n == "OrderCancelled")
                    .count(),
                1_250
            );
        }

        w.check_books();
        w.check_rest();
        assert!(
            w.state(Role::Trading)[0].keys().all(|k| k[0] != b'k'),
            "nothing is left to do"
        );
    }
}

/// A sweep of a stopped user ends at its present place.
#[test]
fn a_sweep_of_who_is_stopped_ends() {
    let mut w = floor(RoleSettings {
        match_part: 10,
        ..Default::default()
    });

    for n in 0..50 {
        w.limit("b", &n.to_string(), "AAPL", 1, "buy", "99", "");
    }

    w.pump();
    w.turn_max = 1;
    w.limit("s", "all", "AAPL", 50, "sell", "99", "");
    w.turn_of(Role::Orders);
    w.turn_of(Role::Trading);
    switch(&mut w, "s", r#"{"state":"stopped"}"#);
    w.pump();
    assert_eq!(last_of(&w, "s", "all"), "OrderCancelled KILL_SWITCH");
    assert_eq!(
        w.events("b")
            .iter()
            .filter(|e| e["trade_id"].is_string())
            .count(),
        10
    );

    w.check_books();
    w.check_rest();
}

#[test]
fn orders_that_are_kept_trade_on_and_what_is_lifted_is_over() {
    let mut w = floor(RoleSettings::default());
    w.limit("u", "kept", "AAPL", 1, "buy", "99", "");
    w.pump();
    switch(&mut w, "u", r#"{"state":"stopped","keep_orders":true}"#);
    w.wake();
    w.pump();
    w.limit("s", "1", "AAPL", 1, "sell", "99", "");
    w.limit("u", "new", "AAPL", 1, "buy", "99", "");
    w.pump();
    assert_eq!(
        (
            last_of(&w, "u", "kept").as_str(),
            last_of(&w, "u", "new").as_str()
        ),
        ("OrderFilled", "OrderRejected KILL_SWITCH")
    );

    // A milder switch for one user does not soften a stricter switch for all.
    w.control("u", "");
    w.pump();
    w.limit("u", "2", "AAPL", 1, "buy", "99", "");
    w.pump();
    assert_eq!(last_of(&w, "u", "2"), "OrderAccepted");
    switch(&mut w, "u", r#"{"state":"stopped","keep_orders":true}"#);
    switch(&mut w, "*", r#"{"state":"stopped"}"#);
    w.wake();
    w.pump();
    assert_eq!(last_of(&w, "u", "2"), "OrderCancelled KILL_SWITCH");
    w.check_rest();
}

/// The user's own cancel is accepted, before or after the switch.
#[test]
fn cancels_pass() {
    let mut w = floor(RoleSettings::default());
    w.limit("u", "1", "AAPL", 1, "buy", "99", "");
    w.pump();
    switch(&mut w, "u", r#"{"state":"stopped"}"#);
    w.cancel("u", "c", "1");
    w.pump();
    assert_eq!(last_of(&w, "u", "1"), "OrderCancelled USER_REQUEST");
    w.check_rest();
}

#[test]
fn by_the_rules_of_before_orders_trade_on() {
    let mut w = floor(RoleSettings {
        rules: 5,
        ..Default::default()
    });

    w.limit("u", "1", "AAPL", 1, "buy", "99", "");
    w.pump();
    switch(&mut w, "u", r#"{"state":"stopped"}"#);
    w.wake();
    w.pump();
    w.limit("s", "1", "AAPL", 1, "sell", "99", "");
    w.pump();
    assert_eq!(last_of(&w, "u", "1"), "OrderFilled");
}
