//! Stops in a market with gaps: the price that triggers a stop also bounds its fill.

use roles::{Role, RoleSettings};
use serde_json::{Value, json};

use super::driver::World;

fn at_100(listing: &str, settings: RoleSettings) -> World {
    let mut w = World::new(
        1,
        RoleSettings {
            rate_limit: 0,
            ..settings
        },
    );

    w.list("AAPL", &format!(r#"{{"symbol":"AAPL"{listing}}}"#));
    w.tick("AAPL", "100");
    w.pump();
    w.order("u", "stock", "AAPL", "10", "buy");
    w.pump();
    w
}

fn tick(w: &mut World, price: &str) {
    w.tick("AAPL", price);
    w.pump();
}

fn of(w: &World, id: &str) -> Vec<Value> {
    w.events("u")
        .into_iter()
        .filter(|e| e["order_id"] == id)
        .collect()
}

fn names(w: &World, id: &str) -> Vec<String> {
    of(w, id)
        .iter()
        .skip(2)
        .map(|e| e["event"].as_str().expect("a name").to_string())
        .collect()
}

/// Regression: a collar around the stop price cancelled the stop, exactly in the case for which the
/// user placed it.
#[test]
fn a_stop_loss_is_filled_in_a_gap() {
    for life in ["", r#","tif":"FOK""#, r#","tif":"GTC""#] {
        let mut w = at_100("", RoleSettings::default());
        w.command("u", &format!(r#""order_id":"s","symbol":"AAPL","quantity":10,"order_type":"sell","type":"stop","stop_price":95{life}"#));
        w.pump();
        tick(&mut w, "89");
        assert_eq!(names(&w, "s"), ["OrderTriggered", "OrderFilled"], "{life}");
        let told = of(&w, "s");
        assert_eq!(
            (&told[2]["trigger_price_e4"], &told[2]["limit_price_e4"]),
            (&json!(890_000), &json!(845_500)),
            "the collar from 89"
        );
        assert_eq!(
            (&told[3]["last_price_e4"], &told[3]["leaves_quantity"]),
            (&json!(890_000), &json!(0))
        );
        w.check_books();
        w.check_rest();
    }
}

#[test]
fn a_buy_that_the_market_passed_rests_at_what_cash_allows() {
    for restart in [false, true] {
        let mut w = at_100("", RoleSettings::default());
        w.stop("u", "s", "AAPL", 10, "buy", "105");
        w.pump();
        let held = w.last("u")["cash_reserved_e4"].clone();
        assert_eq!(held, 10 * 1_102_500);
        tick(&mut w, "115");
        assert_eq!(names(&w, "s"), ["OrderTriggered"], "not cancelled");
        let told = of(&w, "s").pop().expect("one");
        assert_eq!(
            (
                &told["trigger_price_e4"],
                &told["limit_price_e4"],
                &told["status"]
            ),
            (&json!(1_150_000), &json!(1_102_500), &json!("new"))
        );

        assert_eq!(w.last("u")["cash_reserved_e4"], held);
        w.check_rest();
        if restart {
            w.restart(Role::Trading);
            w.restart(Role::Orders);
        }

        // The order can be made smaller, and trades when the market returns.
        w.replace("u", "r", "s", r#""quantity":9"#);
        w.pump();
        tick(&mut w, "110");
        assert_eq!(
            names(&w, "s"),
            ["OrderTriggered", "OrderReplaced", "OrderFilled"]
        );
        let fill = w.last("u");
        assert_eq!(
            (
                &fill["last_quantity"],
                &fill["last_price_e4"],
                &fill["cash_reserved_e4"]
            ),
            (&json!(9), &json!(1_102_500), &json!(0))
        );

        w.check_books();
        w.check_rest();
    }
}

#[test]
fn a_buy_in_a_small_gap_trades_and_in_a_large_one_may_end() {
    let mut w = at_100("", RoleSettings::default());
    for (n, stop) in ["105", "106"].into_iter().enumerate() {
        w.stop("u", &n.to_string(), "AAPL", 1, "buy", stop);
    }

    w.command("u", r#""order_id":"all","symbol":"AAPL","quantity":1,"order_type":"buy","type":"stop","stop_price":105,"tif":"FOK""#);
    w.pump();
    tick(&mut w, "111");
    assert_eq!(
        names(&w, "1"),
        ["OrderTriggered", "OrderFilled"],
        "it has cash up to 111.30"
    );
    assert_eq!(names(&w, "0"), ["OrderTriggered"]);
    assert_eq!(
        (
            names(&w, "all").last().map(String::as_str),
            &w.events("u")
                .iter()
                .rev()
                .find(|e| e["order_id"] == "all")
                .expect("one")["reason"]
        ),
        (Some("OrderCancelled"), &json!("FOK_UNFILLED"))
    );

    w.cancel("u", "c", "0");
    w.pump();
    assert_eq!(names(&w, "0"), ["OrderTriggered", "OrderCancelled"]);
    assert_eq!(w.last("u")["cash_reserved_e4"], 0);
    w.check_books();
    w.check_rest();
}

/// Without a house, the last trade is the price. A buy waits until a seller comes.
#[test]
fn without_a_house_a_buy_waits_for_somebody() {
    let mut w = at_100("", RoleSettings::default());
    w.list("AAPL", r#"{"symbol":"AAPL","house":false}"#);
    w.stop("u", "s", "AAPL", 5, "sell", "99");
    w.stop("b", "s", "AAPL", 5, "buy", "101");
    w.pump();
    w.limit("b", "bid", "AAPL", 2, "buy", "97", "");
    w.pump();
    tick(&mut w, "98");
    assert_eq!(
        names(&w, "s"),
        ["OrderTriggered", "OrderPartiallyFilled", "OrderCancelled"]
    );
    tick(&mut w, "102");
    assert_eq!(w.last("b")["event"], "OrderTriggered");
    w.limit("u", "ask", "AAPL", 5, "sell", "103", "");
    w.pump();
    let fill = w.last("b");
    assert_eq!(
        (&fill["event"], &fill["last_price_e4"], &fill["liquidity"]),
        (&json!("OrderFilled"), &json!(1_060_500), &json!("maker"))
    );
    w.check_books();
    w.check_rest();
}

#[test]
fn a_stop_limit_keeps_its_limit_and_names_the_price() {
    let mut w = at_100("", RoleSettings::default());
    w.command(
        "u",
        r#""order_id":"s","symbol":"AAPL","quantity":1,"order_type":"buy","type":"stop_limit","stop_price":102,"limit_price":103"#,
    );
    w.pump();
    tick(&mut w, "102.5");
    assert_eq!(names(&w, "s"), ["OrderTriggered", "OrderFilled"]);
    let told = &of(&w, "s")[2];
    assert_eq!(
        (&told["trigger_price_e4"], &told["limit_price_e4"]),
        (&json!(1_025_000), &json!(1_030_000))
    );
}

/// A tick triggers more stops than one record may fire, and the next tick comes at once. Each stop
/// uses the price of its own tick.
#[test]
fn very_many_stops_go_by_the_tick_that_reached_them() {
    for part in [3, 1_000] {
        let mut w = at_100(
            "",
            RoleSettings {
                match_part: part,
                ..Default::default()
            },
        );

        for n in 0..200 {
            w.stop("v", &n.to_string(), "AAPL", 1, "buy", "101");
        }

        w.pump();
        w.tick("AAPL", "102");
        w.tick("AAPL", "104");
        w.pump();
        let events = w.events("v");
        let told = |name: &str, field: &str, value: i64| {
            events
                .iter()
                .filter(|e| e["event"] == name && e[field] == value)
                .count()
        };

        assert_eq!(
            (
                told("OrderTriggered", "trigger_price_e4", 1_020_000),
                told("OrderFilled", "last_price_e4", 1_020_000)
            ),
            (200, 200)
        );

        w.check_rest();
    }
}

#[test]
fn by_the_rules_of_before_the_collar_counts_from_the_stop() {
    for rules in [0, 1] {
        let mut w = at_100(
            "",
            RoleSettings {
                rules,
                ..Default::default()
            },
        );

        w.stop("u", "s", "AAPL", 10, "sell", "95");
        w.pump();
        tick(&mut w, "89");
        assert_eq!(names(&w, "s"), ["OrderTriggered", "OrderCancelled"]);
        assert!(of(&w, "s")[2]["trigger_price_e4"].is_null());
        assert_eq!(w.last("u")["reason"], "PRICE_BAND");
    }
}
