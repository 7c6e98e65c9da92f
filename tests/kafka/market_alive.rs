//! Books with all roles running, on the embedded log and on a real broker: users who trade with
//! each other, and actions of the clock on an otherwise idle system.

use std::time::{Duration, Instant};

use os::clock::wall_ms;
use roles::RoleSettings;
use wire::topics as t;

use crate::support::load::wait_for;
use crate::support::world::{PATIENCE, World, names, on_both};

fn send(w: &mut World, user: &str, fields: &str) {
    w.sender.send(
        t::ORDER_COMMANDS,
        user,
        format!(r#"{{"user_id":"{user}",{fields}}}"#),
    );
    w.sender.flush();
}

fn limit(w: &mut World, user: &str, id: &str, quantity: u32, side: &str, price: &str, more: &str) {
    let order = format!(
        r#""order_id":"{id}","symbol":"AAPL","quantity":{quantity},"order_type":"{side}","type":"limit","limit_price":"{price}"{more}"#
    );
    send(w, user, &order);
}

fn market(w: &mut World, user: &str, id: &str, quantity: u32, side: &str) {
    send(
        w,
        user,
        &format!(
            r#""order_id":"{id}","symbol":"AAPL","quantity":{quantity},"order_type":"{side}""#
        ),
    );
}

fn last(w: &World, user: &str) -> String {
    w.events(user)
        .last()
        .map(|e| e.text("event").to_string())
        .unwrap_or_default()
}

/// `s` has 100 shares; then the house is closed.
fn floor(w: &mut World) {
    w.list("AAPL", "100");
    market(w, "s", "stock", 100, "buy");
    w.rest();
    w.sender
        .send(t::INSTRUMENTS, "AAPL", r#"{"symbol":"AAPL","house":false}"#);
    w.sender.flush();
    w.rest();
}

#[test]
fn users_trade_with_each_other() {
    on_both("trade", RoleSettings::default(), |w| {
        floor(w);
        limit(w, "s", "1", 30, "sell", "100.50", "");
        w.rest();

        // Ten users on all partitions take three each; the last user finds less.
        for n in 0..11 {
            limit(w, &format!("b{n}"), "1", 3, "buy", "101", "");
        }

        w.rest();
        let filled = (0..11)
            .filter(|n| last(w, &format!("b{n}")) == "OrderFilled")
            .count();
        assert_eq!(filled, 10, "{}", w.name);
        let e = w.events("s").pop().expect("an event");
        assert_eq!(
            (e.text("event"), e.number("cash_reserved_e4")),
            ("OrderFilled", 0)
        );
        assert_eq!(w.read(t::TRADES).len(), 11);
        w.check_form();
    });
}

#[test]
fn x8_an_order_expires_by_itself_in_two_seconds() {
    on_both("expiry", RoleSettings::default(), |w| {
        floor(w);
        let deadline = wall_ms() + 4_000;
        limit(
            w,
            "s",
            "1",
            5,
            "sell",
            "101",
            &format!(r#","tif":"GTD","expire_at":{deadline}"#),
        );

        w.rest();
        assert_eq!(last(w, "s"), "OrderAccepted", "{}", w.name);
        wait_for("the expiry", PATIENCE, || last(w, "s") == "OrderExpired");
        let late = wall_ms() - deadline;

        // The contract says two seconds, but the test machine may be busy.
        assert!((0..10_000).contains(&late), "{}: {late} ms late", w.name);
        println!("{}: expired {late} ms after the deadline", w.name);
        w.rest();
    });
}

#[test]
fn s2_s3_listings_are_noticed_by_themselves() {
    on_both("listing", RoleSettings::default(), |w| {
        floor(w);
        limit(w, "s", "1", 5, "sell", "101", "");
        limit(w, "s", "2", 5, "sell", "102", "");
        w.rest();
        let start = Instant::now();
        w.sender.send(
            t::INSTRUMENTS,
            "AAPL",
            r#"{"symbol":"AAPL","status":"delisted"}"#,
        );
        w.sender.flush();
        wait_for("both cancels", PATIENCE, || {
            names(&w.events("s"))
                .iter()
                .filter(|n| **n == "OrderCancelled")
                .count()
                == 2
        });

        println!(
            "{}: cancelled {:?} after the delisting",
            w.name,
            start.elapsed()
        );
        assert!(start.elapsed() < Duration::from_secs(20));
        assert_eq!(
            w.events("s").pop().expect("an event").text("reason"),
            "DELISTED"
        );
        w.rest();
    });
}
