//! Feeds that restart their numbers, and wrong numbers among good ones. No feed may be dead for
//! ever, and a dead feed is reported.

use roles::{Role, RoleSettings};
use serde_json::json;
use wire::topics;

use super::driver::World;

fn tick(w: &mut World, price: &str, more: &str) {
    w.append(
        topics::MARKET_DATA,
        "AAPL",
        format!(r#"{{"symbol":"AAPL","price":{price},"source":"utp",{more}}}"#).as_bytes(),
    );
    w.pump();
}

/// The price of the fill, or the reason of the refusal.
fn trades_at(w: &mut World, id: &str) -> String {
    w.order("u", id, "AAPL", "1", "buy");
    w.pump();
    let e = w.last("u");
    e["last_price_e4"]
        .as_i64()
        .map_or_else(|| e["reason"].to_string(), |price| price.to_string())
}

/// Yesterday's session ended at 900000, or with one wrong number; today's begins at 1. Regression:
/// all its ticks were ignored without a report.
#[test]
fn the_next_session_counts_but_not_by_the_earlier_rules() {
    for last in ["900000", "9223372036854775807"] {
        for (rules, due) in [
            (RoleSettings::default().rules, "1500000"),
            (12, r#""STALE_PRICE""#),
        ] {
            let mut w = World::ready(RoleSettings {
                rules,
                ..RoleSettings::default()
            });

            tick(&mut w, "101", &format!(r#""seq":{last}"#));
            w.now_ms += 60_000_000;
            for n in 1..100 {
                tick(&mut w, "150", &format!(r#""seq":{n}"#));
            }

            assert_eq!(trades_at(&mut w, "1"), due, "after {last} by rules {rules}");
            assert_eq!(w.dead(), Vec::<String>::new());
        }
    }
}

/// A feed restarts in the middle of the day. Its ticks count after half a minute; until then one
/// report is made.
#[test]
fn a_restarted_feed_is_late_for_half_a_minute_and_is_told() {
    let mut w = World::ready(RoleSettings::default());
    tick(&mut w, "101", r#""seq":900000"#);
    let mut counted_after = None;
    for n in 1..=100 {
        w.now_ms += 1_000;
        tick(&mut w, "150", &format!(r#""seq":{n}"#));
        if n % 13 == 0 {
            w.restart(Role::Trading);
        }

        let price = w
            .records(topics::REFERENCE_PRICES)
            .last()
            .expect("a price")
            .tree()["price_e4"]
            .clone();
        if price == json!(1_500_000) {
            counted_after.get_or_insert(n);
        }
    }

    assert_eq!(counted_after, Some(31));
    assert_eq!(w.dead(), ["LATE_TICKS"]);
    let text = w.records(topics::DEAD_LETTERS)[0].header("text");
    assert!(
        text.starts_with("20 ticks of source utp in a row were ignored")
            && text.contains("with seq 900000"),
        "{text}"
    );
    assert_eq!(trades_at(&mut w, "1"), "1500000");
}

#[test]
fn what_is_sent_again_moves_nothing_however_late() {
    let mut w = World::ready(RoleSettings::default());
    let second = w.now_ms / 1_000;
    tick(&mut w, "101", &format!(r#""seq":9,"timestamp":{second}"#));
    w.now_ms += 100_000;
    for (seq, time) in [(9, second), (8, second - 1), (1, second)] {
        tick(&mut w, "150", &format!(r#""seq":{seq},"timestamp":{time}"#));
    }

    tick(&mut w, "150", &format!(r#""timestamp":{}"#, second - 1));
    assert_eq!(trades_at(&mut w, "1"), "1010000");

    // The feed's own clock has moved on, so this is another session.
    tick(
        &mut w,
        "102",
        &format!(r#""seq":1,"timestamp":{}"#, second + 100),
    );
    assert_eq!(trades_at(&mut w, "2"), "1020000");
}

/// Yesterday's numbers are higher. Regression: ticks of yesterday, sent again after today's session
/// began, became the last prices, and today's ticks were late.
#[test]
fn yesterdays_ticks_sent_again_after_today_began_move_nothing() {
    let mut w = World::ready(RoleSettings::default());
    let second = w.now_ms / 1_000;
    tick(
        &mut w,
        "101",
        &format!(r#""seq":900000,"timestamp":{second}"#),
    );
    w.now_ms += 60_000_000;
    tick(
        &mut w,
        "150",
        &format!(r#""seq":1,"timestamp":{}"#, second + 60_000),
    );
    w.restart(Role::Trading);
    for n in 0..3 {
        tick(
            &mut w,
            "101",
            &format!(r#""seq":{},"timestamp":{second}"#, 899_998 + n),
        );
    }

    assert_eq!(trades_at(&mut w, "1"), "1500000");
    tick(
        &mut w,
        "151",
        &format!(r#""seq":2,"timestamp":{}"#, second + 60_000),
    );
    assert_eq!(trades_at(&mut w, "2"), "1510000");
}

/// Only one of several sources is affected; the others are untouched.
#[test]
fn each_source_of_each_symbol_has_numbers_of_its_own() {
    let mut w = World::ready(RoleSettings::default());
    tick(&mut w, "101", r#""seq":900000"#);
    w.append(
        topics::MARKET_DATA,
        "AAPL",
        br#"{"symbol":"AAPL","price":103,"source":"cta","seq":1}"#,
    );
    w.pump();
    assert_eq!(trades_at(&mut w, "1"), "1030000");
    tick(&mut w, "104", r#""seq":2"#);
    assert_eq!(trades_at(&mut w, "2"), "1030000", "late");
}

/// The state of an older version has no times. The first late tick starts the count.
#[test]
fn a_source_that_an_older_version_left_silent_counts_again() {
    let mut w = World::ready(RoleSettings {
        rules: 12,
        ..RoleSettings::default()
    });

    tick(&mut w, "101", r#""seq":9223372036854775807"#);
    let state = w.state(Role::Trading)[0].clone();
    let now_ms = w.now_ms;
    let mut w = World::ready(RoleSettings::default());
    w.set_state(Role::Trading, 0, state);
    w.now_ms = now_ms + 86_400_000;
    tick(&mut w, "150", r#""seq":1"#);
    w.now_ms += 31_000;
    tick(&mut w, "151", r#""seq":2"#);
    assert_eq!(trades_at(&mut w, "1"), "1510000");
}
