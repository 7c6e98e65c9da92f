//! The house as a participant: it quotes around the last fresh price, and all users can trade with
//! it. At the same price, users go before the house.

use roles::{Role, RoleSettings};
use serde_json::{Value, json};
use wire::topics;

use super::driver::{START_MS, World};

/// AAPL with the given listing and a price of 100.
fn quoted(listing: &str, settings: RoleSettings) -> World {
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
    w
}

fn at_100() -> World {
    quoted("", RoleSettings::default())
}

/// The fills of a user: quantity, price in cents, liquidity.
fn fills(w: &World, user: &str) -> Vec<(i64, i64, String)> {
    let number = |e: &Value, f: &str| e[f].as_i64().expect("a number");
    let all = w
        .events(user)
        .into_iter()
        .filter(|e| e["trade_id"].is_string());
    all.map(|e| {
        (
            number(&e, "last_quantity"),
            number(&e, "last_price_e4") / 100,
            e["liquidity"].as_str().expect("a word").to_string(),
        )
    })
    .collect()
}

fn fill(quantity: i64, cents: i64, liquidity: &str) -> (i64, i64, String) {
    (quantity, cents, liquidity.into())
}

fn last(w: &World, user: &str) -> (String, String) {
    let e = w.last(user);
    (
        e["event"].as_str().expect("a name").into(),
        e["reason"].as_str().unwrap_or_default().into(),
    )
}

fn ends(event: &str, reason: &str) -> (String, String) {
    (event.into(), reason.into())
}

fn tick(w: &mut World, price: &str) {
    w.tick("AAPL", price);
    w.pump();
}

/// Regression: an offer at the edge of the collar took every user's market order, and its owner
/// bought back from the house.
#[test]
fn a_market_order_does_not_trade_through_the_house() {
    for life in ["", r#","tif":"FOK""#] {
        let mut w = at_100();
        w.order("a", "1", "AAPL", "100", "buy");
        w.pump();
        w.limit("a", "2", "AAPL", 100, "sell", "104.99", "");
        w.pump();
        w.command(
            "v",
            &format!(r#""order_id":"1","symbol":"AAPL","quantity":100,"order_type":"buy"{life}"#),
        );
        w.pump();
        assert_eq!(fills(&w, "v"), [fill(100, 10_000, "house")], "{life}");
        w.check_books();
        w.check_rest();
    }
}

#[test]
fn a_limit_that_reaches_the_quote_fills_at_the_quote() {
    for (side, price, life, got) in [
        ("buy", "105", "", 10_020),
        ("buy", "100.20", "", 10_020),
        ("buy", "105", r#""tif":"IOC""#, 10_020),
        ("buy", "105", r#""tif":"FOK""#, 10_020),
        ("sell", "95.01", "", 9_980),
        ("sell", "99.80", r#""tif":"FOK""#, 9_980),
    ] {
        let mut w = quoted(r#","half_spread_bps":20"#, RoleSettings::default());
        w.order("u", "stock", "AAPL", "10", "buy");
        w.pump();
        w.limit("u", "1", "AAPL", 10, side, price, life);
        w.pump();
        assert_eq!(
            fills(&w, "u")[1..],
            [fill(10, got, "house")],
            "{side} {price} {life}"
        );
        let t = w.records(topics::TRADES).last().expect("one").tree();
        let maker = if side == "buy" { "sell" } else { "buy" };
        assert_eq!(
            (&t["maker_side"], &t["time_us"]),
            (&json!(maker), &json!(START_MS * 1_000))
        );
        assert_eq!(
            w.last("u")["cash_reserved_e4"],
            0,
            "what was not needed came back"
        );
        w.check_books();
        w.check_rest();
    }
}

#[test]
fn post_only_does_not_take_from_the_house() {
    let mut w = quoted(r#","half_spread_bps":20"#, RoleSettings::default());
    w.limit("u", "1", "AAPL", 1, "buy", "100.20", r#""post_only":true"#);
    w.pump();
    assert_eq!(
        last(&w, "u"),
        ends("OrderRejected", "POST_ONLY_WOULD_CROSS")
    );
    w.limit("u", "2", "AAPL", 1, "buy", "100.19", r#""post_only":true"#);
    w.pump();
    assert_eq!(last(&w, "u"), ends("OrderAccepted", ""));
    w.replace("u", "r", "2", r#""limit_price":"100.20""#);
    w.pump();
    assert_eq!(
        last(&w, "u"),
        ends("CancelRejected", "POST_ONLY_WOULD_CROSS")
    );
    assert!(fills(&w, "u").is_empty());
    w.replace("u", "s", "2", r#""limit_price":"100.18""#);
    w.pump();
    assert_eq!(last(&w, "u"), ends("OrderReplaced", ""));
    w.check_rest();
}

#[test]
fn users_at_the_same_price_come_before_the_house() {
    let mut w = quoted(r#","half_spread_bps":100"#, RoleSettings::default());
    w.order("s", "stock", "AAPL", "100", "buy");
    w.order("u", "stock", "AAPL", "100", "buy");
    w.pump();
    w.limit("s", "1", "AAPL", 3, "sell", "100.50", "");
    w.limit("s", "2", "AAPL", 4, "sell", "101", "");
    w.limit("u", "own", "AAPL", 50, "sell", "102", "");
    w.pump();
    w.limit("u", "1", "AAPL", 20, "buy", "104", "");
    w.pump();
    let want = [
        fill(3, 10_050, "taker"),
        fill(4, 10_100, "taker"),
        fill(13, 10_100, "house"),
    ];
    assert_eq!(fills(&w, "u")[1..], want);

    // An own order in front of the house ends the order by self-trade prevention.
    w.limit("u", "in-front", "AAPL", 1, "sell", "100.90", "");
    w.limit("u", "2", "AAPL", 1, "buy", "104", "");
    w.pump();
    assert_eq!(
        last(&w, "u"),
        ends("OrderCancelled", "SELF_TRADE_PREVENTED")
    );
    w.check_books();
    w.check_rest();
}

#[test]
fn house_max_bounds_what_one_order_is_given() {
    let mut w = quoted(
        r#","half_spread_bps":100,"house_max":10"#,
        RoleSettings::default(),
    );
    for n in 0..3 {
        w.order("s", &format!("stock{n}"), "AAPL", "10", "buy");
    }

    w.pump();
    w.limit("s", "1", "AAPL", 5, "sell", "102", "");
    w.order("u", "market", "AAPL", "20", "buy");
    w.pump();
    assert_eq!(
        fills(&w, "u"),
        [fill(10, 10_100, "house"), fill(5, 10_200, "taker")],
        "and then users at worse prices"
    );
    assert_eq!(last(&w, "u"), ends("OrderCancelled", "NO_LIQUIDITY"));
    for (id, quantity, end) in [
        ("fok", 11, ends("OrderCancelled", "FOK_UNFILLED")),
        ("fok2", 10, ends("OrderFilled", "")),
    ] {
        w.limit("u", id, "AAPL", quantity, "buy", "104", r#""tif":"FOK""#);
        w.pump();
        assert_eq!(last(&w, "u"), end);
    }

    // Each quote gives a resting order at most this quantity. The remainder keeps its place.
    w.limit("u", "rests", "AAPL", 25, "buy", "100", "");
    w.limit("v", "rests", "AAPL", 12, "buy", "100", "");
    w.pump();
    let of = |w: &World, user: &str| {
        w.events(user)
            .iter()
            .filter(|e| e["order_id"] == "rests")
            .filter_map(|e| e["last_quantity"].as_i64())
            .collect::<Vec<_>>()
    };

    tick(&mut w, "99");
    assert_eq!((of(&w, "u"), of(&w, "v")), (vec![10], vec![10]));
    w.wake();
    w.pump();
    w.restart(Role::Trading);
    w.pump();
    assert_eq!(of(&w, "u"), [10], "a clock is no quote");
    tick(&mut w, "99");
    assert_eq!((of(&w, "u"), of(&w, "v")), (vec![10, 10], vec![10, 2]));
    tick(&mut w, "98");
    assert_eq!(of(&w, "u"), [10, 10, 5]);
    w.check_books();
    w.check_rest();
}

/// Regression: a limit order was never filled, although the market went through its limit.
#[test]
fn resting_orders_fill_at_their_price_when_a_quote_reaches_it() {
    let mut w = at_100();
    w.order("s", "stock", "AAPL", "30", "buy");
    w.limit("u", "1", "AAPL", 10, "buy", "99", "");
    w.limit("u", "2", "AAPL", 10, "buy", "98.50", "");
    w.pump();
    w.limit("s", "1", "AAPL", 10, "sell", "101", "");
    w.pump();
    tick(&mut w, "99.01");
    assert!(fills(&w, "u").is_empty());
    tick(&mut w, "98");
    assert_eq!(
        fills(&w, "u"),
        [fill(10, 9_900, "house"), fill(10, 9_850, "house")],
        "best price first, each at its own"
    );
    let t = w.records(topics::TRADES).last().expect("one").tree();
    assert_eq!(
        (&t["buyer"], &t["seller"], &t["maker_side"]),
        (&json!("u"), &json!("house:AAPL"), &json!("buy")),
        "the user rested"
    );
    tick(&mut w, "103");
    assert_eq!(fills(&w, "s")[1..], [fill(10, 10_100, "house")]);
    assert_eq!(w.last("s")["event"], "OrderFilled");
    w.check_books();
    w.check_rest();
}

#[test]
fn a_quote_that_reaches_very_many_goes_through_them_in_parts() {
    for part in [0, 7, 100] {
        let mut w = quoted(
            "",
            RoleSettings {
                match_part: part,
                open_orders_max: 10_000,
                ..Default::default()
            },
        );

        for n in 0..500 {
            w.limit(
                &format!("u{}", n % 5),
                &n.to_string(),
                "AAPL",
                1,
                "buy",
                &format!("99.{:02}", n % 100),
                "",
            );
        }

        w.pump();
        w.reset_largest_turn();
        w.turn_max = 1;
        w.tick("AAPL", "98");

        // Commands that arrive meanwhile wait. The cancel comes too late, and the market order
        // trades with the house.
        w.turn_of(Role::Trading);
        w.cancel("u0", "c", "0");
        w.order("late", "1", "AAPL", "1", "sell");
        w.order("late", "2", "AAPL", "1", "buy");
        w.turn_of(Role::Orders);
        if part > 0 {
            w.restart(Role::Trading);
        }

        w.pump();
        let trades: Vec<i64> = w
            .records(topics::TRADES)
            .iter()
            .map(|r| r.tree()["price_e4"].as_i64().expect("a price"))
            .collect();
        assert_eq!(
            (trades.len(), trades[500]),
            (501, 980_000),
            "parts of {part}"
        );
        assert!(trades[..500].is_sorted_by(|a, b| a >= b), "parts of {part}");
        assert_eq!(last(&w, "u0"), ends("CancelRejected", "TOO_LATE_TO_CANCEL"));
        assert!(
            part == 0 || w.largest_turn_of(Role::Trading) <= 6 * part as usize + 12,
            "{}",
            w.largest_turn_of(Role::Trading)
        );
        w.check_books();
        w.check_rest();
    }
}

/// While a quote works through the book, a changed listing applies only from the next quote on.
#[test]
fn a_listing_does_not_cut_in_on_a_quote() {
    let mut w = quoted(
        "",
        RoleSettings {
            match_part: 10,
            ..Default::default()
        },
    );

    for n in 0..50 {
        w.limit("u", &n.to_string(), "AAPL", 1, "buy", "99", "");
    }

    w.pump();
    w.turn_max = 1;
    w.tick("AAPL", "98");
    w.turn_of(Role::Trading);
    w.list("AAPL", r#"{"symbol":"AAPL","house":false}"#);
    w.pump();
    assert_eq!(fills(&w, "u").len(), 50);
    w.check_rest();
}

#[test]
fn without_a_fresh_price_there_is_no_quote() {
    let mut w = quoted(
        "",
        RoleSettings {
            stale_ms: 1_000,
            ..Default::default()
        },
    );

    w.order("s", "stock", "AAPL", "10", "buy");
    w.pump();
    w.now_ms += 1_001;
    w.limit("u", "1", "AAPL", 1, "buy", "102", "");
    w.order("u", "2", "AAPL", 1.to_string().as_str(), "buy");
    w.limit("u", "3", "AAPL", 1, "buy", "102", r#""tif":"FOK""#);
    w.pump();
    assert!(fills(&w, "u").is_empty());
    let reasons: Vec<_> = w
        .events("u")
        .iter()
        .filter_map(|e| e["reason"].as_str().map(str::to_string))
        .collect();
    assert_eq!(reasons, ["STALE_PRICE", "FOK_UNFILLED"]);
    w.limit("s", "1", "AAPL", 1, "sell", "101", "");
    w.pump();
    assert_eq!(
        fills(&w, "u"),
        [fill(1, 10_200, "maker")],
        "users meet one another"
    );
    w.limit("u", "4", "AAPL", 1, "buy", "102", "");
    w.pump();
    tick(&mut w, "100");
    assert_eq!(
        fills(&w, "u")[1..],
        [fill(1, 10_200, "house")],
        "the next price reaches what rests, at its own limit"
    );
    w.check_books();
}

/// Two friends who trade outside the quote must not trigger other users' stops.
#[test]
fn stops_go_by_ticks_alone_where_there_is_a_house() {
    for house in [true, false] {
        let mut w = quoted(
            "",
            RoleSettings {
                stale_ms: 1_000,
                ..Default::default()
            },
        );

        w.order("u", "stock", "AAPL", "10", "buy");
        w.order("a", "stock", "AAPL", "10", "buy");
        w.pump();
        w.list("AAPL", &format!(r#"{{"symbol":"AAPL","house":{house}}}"#));
        w.stop("u", "stop", "AAPL", 10, "sell", "97");
        w.pump();

        // The price is stale, so no quote stands between the friends.
        w.now_ms += 1_001;
        w.limit("a", "1", "AAPL", 1, "sell", "96", "");
        w.limit("b", "1", "AAPL", 1, "buy", "96", "");
        w.pump();
        assert_eq!(fills(&w, "b"), [fill(1, 9_600, "taker")]);
        assert_eq!(w.names("u").contains(&"OrderTriggered".to_string()), !house);
        w.stop("c", "stop", "AAPL", 1, "buy", "98");
        w.pump();
        let would = if house {
            ends("OrderRejected", "STOP_WOULD_TRIGGER")
        } else {
            ends("OrderAccepted", "")
        };

        assert_eq!(
            last(&w, "c"),
            would,
            "the market is at the last tick of 100, or at the trade of 96"
        );
        if house {
            tick(&mut w, "97");
            assert_eq!(fills(&w, "u")[1..], [fill(10, 9_700, "house")]);
        }

        w.check_books();
    }
}

/// A tick came during a halt, or before the house. When the house returns, it offers this tick's
/// quote to the resting orders.
#[test]
fn a_quote_that_was_owed_is_made_up_for() {
    for away in [r#","status":"halted""#, r#","house":false"#] {
        let mut w = at_100();
        w.limit("u", "1", "AAPL", 1, "buy", "99", "");
        w.pump();
        w.list("AAPL", &format!(r#"{{"symbol":"AAPL"{away}}}"#));
        tick(&mut w, "98");
        assert!(fills(&w, "u").is_empty(), "{away}");
        w.restart(Role::Trading);
        w.pump();
        w.list("AAPL", r#"{"symbol":"AAPL"}"#);
        w.wake();
        w.pump();
        assert_eq!(fills(&w, "u"), [fill(1, 9_900, "house")], "{away}");
        w.check_rest();
    }

    // An order that came while the listing had no house.
    let mut w = quoted(r#","house":false"#, RoleSettings::default());
    w.limit("u", "1", "AAPL", 1, "buy", "101", "");
    w.pump();
    w.list("AAPL", r#"{"symbol":"AAPL"}"#);
    w.wake();
    w.pump();
    assert_eq!(fills(&w, "u"), [fill(1, 10_100, "house")]);
}

/// Regression: the quote owed to an ended order went to the next order, beyond the house's maximum
/// for one order at one quote.
#[test]
fn a_quote_that_nobody_waited_for_is_owed_to_nobody() {
    for (rules, given) in [
        (
            RoleSettings::default().rules,
            vec![fill(5, 10_000, "house")],
        ),
        (14, vec![fill(5, 10_000, "house"), fill(5, 10_100, "house")]),
    ] {
        let mut w = quoted(
            r#","house":false"#,
            RoleSettings {
                rules,
                ..Default::default()
            },
        );

        w.limit("gone", "1", "AAPL", 1, "buy", "97", "");
        w.cancel("gone", "2", "1");
        w.pump();
        w.list("AAPL", r#"{"symbol":"AAPL","house_max":5}"#);
        tick(&mut w, "100");
        w.limit("u", "1", "AAPL", 20, "buy", "101", "");
        w.pump();
        w.wake();
        w.pump();
        assert_eq!(fills(&w, "u"), given, "by rules {rules}");
        w.check_rest();
    }
}

/// Old journals do not name the rules. A replay must repeat the old decisions.
#[test]
fn by_the_rules_of_before_the_house_stands_outside() {
    let mut w = quoted(
        "",
        RoleSettings {
            rules: 0,
            ..Default::default()
        },
    );

    w.order("a", "1", "AAPL", "100", "buy");
    w.pump();
    w.limit("a", "2", "AAPL", 100, "sell", "104.99", "");
    w.pump();
    w.order("v", "1", "AAPL", "101", "buy");
    w.limit("u", "1", "AAPL", 1, "buy", "103", "");
    w.pump();
    assert_eq!(
        fills(&w, "v"),
        [fill(100, 10_499, "taker"), fill(1, 10_000, "house")]
    );
    tick(&mut w, "98");
    assert!(fills(&w, "u").is_empty());
    w.check_rest();
}
