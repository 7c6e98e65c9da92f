//! A broker's clock was a day ahead for a moment. Its timestamps stay in the log for ever, and no
//! task may wait for that day.

use roles::{Role, RoleSettings};

use crate::driver::World;

const DAY_MS: i64 = 86_400_000;

/// Runs `act` while the log's clock is a day ahead.
fn a_day_ahead(w: &mut World, act: impl FnOnce(&mut World)) {
    w.now_ms += DAY_MS;
    act(w);
    w.pump();
    w.now_ms -= DAY_MS;
}

#[test]
fn the_rate_limit_does_not_wait_for_it() {
    for (may_fall, refused) in [(true, 0), (false, 50)] {
        let mut w = World::ready(RoleSettings {
            rate_limit: 1,
            burst: 10,
            time_may_fall: may_fall,
            ..Default::default()
        });

        a_day_ahead(&mut w, |w| {
            (0..10).for_each(|n| w.order("u", &format!("a{n}"), "AAPL", "1", "buy"))
        });

        for n in 0..60 {
            w.now_ms += 1_000;
            w.tick("AAPL", "189.25");
            w.order("u", &n.to_string(), "AAPL", "1", "buy");
            w.pump();
        }

        let limited: Vec<_> = w
            .events("u")
            .into_iter()
            .filter(|e| e["reason"] == "RATE_LIMITED")
            .collect();
        assert!(
            if may_fall {
                limited.len() == refused
            } else {
                limited.len() >= refused
            },
            "{may_fall}: {} refused",
            limited.len()
        );
    }
}

#[test]
fn a_price_of_tomorrow_is_not_fresh_today_and_is_told_again() {
    let mut w = World::ready(RoleSettings::default());
    a_day_ahead(&mut w, |w| w.tick("AAPL", "189.30"));

    // The feed is silent. The price with the wrong timestamp must not pass for a present price.
    w.now_ms += 1_000;
    w.order("u", "1", "AAPL", "1", "buy");
    w.pump();
    assert_eq!(w.last("u")["reason"], "STALE_PRICE");

    // The next tick has hardly moved, but is published anyway.
    w.tick("AAPL", "189.30");
    w.pump();
    w.order("u", "2", "AAPL", "1", "buy");
    w.pump();
    assert_eq!(w.last("u")["event"], "OrderFilled");
}

#[test]
fn stops_do_not_go_by_a_trade_of_tomorrow() {
    let mut w = World::ready(RoleSettings {
        rate_limit: 0,
        ..Default::default()
    });

    w.order("m", "stock", "AAPL", "1", "buy");
    w.pump();
    w.list("AAPL", r#"{"symbol":"AAPL","house":false}"#);
    a_day_ahead(&mut w, |w| {
        w.limit("m", "1", "AAPL", 1, "sell", "190", "");
        w.limit("t", "1", "AAPL", 1, "buy", "190", "\"tif\":\"IOC\"");
    });

    for price in ["189.00", "188.00", "187.00"] {
        w.now_ms += 1_000;
        w.tick("AAPL", price);
        w.pump();
    }

    // A buy stop at 189 is above the market of 187. By tomorrow's trade at 190 it would already be
    // reached.
    w.stop("u", "s", "AAPL", 1, "buy", "189");
    w.pump();
    assert_eq!(w.last("u")["event"], "OrderAccepted", "{:?}", w.last("u"));
}

/// Regression: a trade with a timestamp a little ahead, within the tolerated clock difference,
/// decided about stops until that time came.
#[test]
fn the_last_price_that_was_handled_is_the_price() {
    for rules in [RoleSettings::default().rules, 6] {
        let mut w = World::ready(RoleSettings {
            rate_limit: 0,
            rules,
            ..Default::default()
        });

        w.order("s", "stock", "AAPL", "20", "buy");
        w.pump();
        w.list("AAPL", r#"{"symbol":"AAPL","house":false}"#);
        w.limit("s", "1", "AAPL", 5, "sell", "189", "");
        w.pump();
        w.now_ms += 60_000;
        w.limit("b", "1", "AAPL", 5, "buy", "189", "");
        w.pump();
        w.now_ms -= 59_000;
        for price in ["190", "191", "192"] {
            w.tick("AAPL", price);
            w.pump();
        }

        w.stop("s", "2", "AAPL", 5, "sell", "190");
        w.pump();
        let event = w.last("s")["event"].clone();
        let before = rules == 6;
        assert_eq!(
            event,
            if before {
                "OrderRejected"
            } else {
                "OrderAccepted"
            },
            "the market is at 192"
        );

        // A trade after the tick is the price, whatever its time.
        w.now_ms -= 1_000;
        w.limit("s", "3", "AAPL", 1, "sell", "189", r#""tif":"GTC""#);
        w.limit("b", "2", "AAPL", 1, "buy", "189", "");
        w.pump();
        assert_eq!(
            w.names("s").contains(&"OrderTriggered".to_string()),
            !before
        );
    }
}

/// The time at which ids are forgotten comes from the times in commands. Regression: a clock that
/// was ahead made `orders` forget ids at once, and the next command with the id was new.
#[test]
fn no_id_is_forgotten_early_and_the_queue_does_not_stop() {
    let settings = |time_may_fall| RoleSettings {
        dedup_window_ms: Some(20_000),
        max_command_age_ms: Some(10_000),
        time_may_fall,
        ..Default::default()
    };

    for may_fall in [true, false] {
        let mut w = World::ready(settings(may_fall));
        let deposit = |w: &mut World, id: &str, at_ms: i64| {
            w.command(
                "u",
                &format!(r#""command":"deposit","order_id":"{id}","amount":1,"timestamp":{at_ms}"#),
            );
        };

        let began = w.now_ms;
        deposit(&mut w, "x", began);
        w.turn_of(Role::Orders);
        w.now_ms += 1_000;
        let now = w.now_ms;
        deposit(&mut w, "y", now);
        w.turn_of(Role::Orders);

        // The clients' clocks are right.
        a_day_ahead(&mut w, |w| {
            (0..4).for_each(|n| deposit(w, &format!("late{n}"), now))
        });

        w.now_ms += 1_000;
        deposit(&mut w, "x", began);
        w.pump();
        let twice = w
            .events("u")
            .iter()
            .filter(|e| e["event"] == "Deposited" && e["order_id"] == "x")
            .count();
        assert_eq!(twice, if may_fall { 1 } else { 2 });

        // Later the id is forgotten as usual.
        for n in 0..20 {
            w.now_ms += 5_000;
            let now = w.now_ms;
            deposit(&mut w, &format!("n{n}"), now);
        }

        w.pump();
        let kept = w.state(Role::Orders)[0]
            .keys()
            .filter(|k| k.first() == Some(&b'e'))
            .count();
        assert!(!may_fall || kept < 12, "{kept} ids wait to be forgotten");
    }
}

/// Commands without a time count with the time of the log. Regression: for a day, a mark with
/// tomorrow's time blocked all marks of later ends.
#[test]
fn ids_are_forgotten_again_soon_after_a_wrong_clock() {
    for marks_may_fall in [true, false] {
        let settings = RoleSettings {
            dedup_window_ms: Some(20_000),
            max_command_age_ms: Some(10_000),
            marks_may_fall,
            ..Default::default()
        };

        let mut w = World::ready(settings);
        let deposit = |w: &mut World, id: &str| {
            w.command(
                "u",
                &format!(r#""command":"deposit","order_id":"{id}","amount":1"#),
            );
            w.pump();
        };

        deposit(&mut w, "x");
        a_day_ahead(&mut w, |w| {
            (0..4).for_each(|n| deposit(w, &format!("late{n}")))
        });

        for n in 0..60 {
            w.now_ms += 5_000;
            deposit(&mut w, &format!("n{n}"));
        }

        let kept = w.state(Role::Orders)[0]
            .keys()
            .filter(|k| k.first() == Some(&b'e'))
            .count();
        assert_eq!(kept < 12, marks_may_fall, "{kept} ids wait to be forgotten");
    }
}

/// An order that ended by a wrong clock stays ended. Orders from the wrong time or later live for
/// their due time, and at most longer by the clock's error.
#[test]
fn deadlines_outlive_a_wrong_clock() {
    let mut w = World::ready(RoleSettings {
        rate_limit: 0,
        ..Default::default()
    });

    let gtd = |w: &World, ms: i64| format!(r#""tif":"GTD","expire_at":{}"#, w.now_ms + ms);
    let more = gtd(&w, 3_600_000);
    w.limit("u", "hour", "AAPL", 1, "buy", "185", &more);
    w.limit("u", "gtc", "AAPL", 1, "buy", "185", "");
    let more = gtd(&w, 3 * DAY_MS);
    w.limit("u", "days", "AAPL", 1, "buy", "185", &more);
    w.pump();
    a_day_ahead(&mut w, |w| {
        w.wake();
        w.tick("AAPL", "189.25");
        w.limit("u", "day", "AAPL", 1, "buy", "185", r#""tif":"DAY""#);
    });

    w.now_ms += 1_000;
    w.tick("AAPL", "189.25");
    let more = gtd(&w, 3_600_000);
    w.limit("u", "after", "AAPL", 1, "buy", "185", &more);
    w.wake();
    w.pump();
    let expired = |w: &World| -> Vec<String> {
        let all = w
            .events("u")
            .into_iter()
            .filter(|e| e["event"] == "OrderExpired");
        all.map(|e| e["order_id"].as_str().expect("an id").to_string())
            .collect()
    };

    assert_eq!(expired(&w), ["hour"], "its time had come by the log");
    w.now_ms += 3_600_000;
    w.wake();
    w.pump();
    assert_eq!(
        expired(&w),
        ["hour", "after"],
        "those that come later end as ever"
    );
    w.now_ms += 2 * DAY_MS;
    w.wake();
    w.pump();
    assert_eq!(expired(&w), ["hour", "after", "day"], "a day late at most");
    w.now_ms += DAY_MS;
    w.wake();
    w.pump();
    assert_eq!(expired(&w), ["hour", "after", "day", "days"]);
    w.check_books();
}
