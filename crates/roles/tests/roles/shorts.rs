//! Short sales: the proceeds stay held, together with a margin at the present price. A buy to cover
//! may use both.

use roles::RoleSettings;
use serde_json::json;

use super::driver::World;

/// AAPL at 100, which may be sold short, and a user `u` with `cash` units at the opening.
fn world(listing: &str, cash: i64, rules: u64) -> World {
    let mut w = World::new(
        1,
        RoleSettings {
            rate_limit: 0,
            opening_cash_e4: cash * 10_000,
            rules,
            ..Default::default()
        },
    );

    w.list(
        "AAPL",
        &format!(r#"{{"symbol":"AAPL","short_ok":true{listing}}}"#),
    );
    w.tick("AAPL", "100");
    w.pump();
    w
}

fn now(listing: &str) -> World {
    world(listing, 1_000_000, RoleSettings::default().rules)
}

fn tick(w: &mut World, price: &str) {
    w.tick("AAPL", price);
    w.pump();
}

/// Available and reserved cash, in whole units.
fn cash(w: &World, user: &str) -> (i64, i64) {
    let e = w.last(user);
    let units = |f: &str| e[f].as_i64().expect("a number") / 10_000;
    (units("cash_available_e4"), units("cash_reserved_e4"))
}

fn withdraw(w: &mut World, id: &str, amount: i64) -> String {
    w.command(
        "u",
        &format!(r#""command":"withdraw","order_id":"{id}","amount":{amount}"#),
    );
    w.pump();
    let e = w.last("u");
    e["reason"]
        .as_str()
        .unwrap_or(e["event"].as_str().expect("a name"))
        .to_string()
}

fn outcome(w: &World) -> String {
    let e = w.last("u");
    e["reason"]
        .as_str()
        .unwrap_or(e["event"].as_str().expect("a name"))
        .to_string()
}

/// Regression: the whole proceeds could be withdrawn, no account bore the loss, and not one share
/// could be bought back.
#[test]
fn proceeds_stay_losses_are_marked_and_shorts_can_close() {
    let mut w = now("");
    w.order("u", "1", "AAPL", "9000", "sell");
    w.pump();

    // 900 000 from the sale, a margin of half of it, and 5 for each share, because the sale might
    // have brought less.
    assert_eq!(
        (outcome(&w).as_str(), cash(&w, "u")),
        ("OrderFilled", (505_000, 1_395_000))
    );
    assert_eq!(withdraw(&mut w, "w1", 955_000), "INSUFFICIENT_FUNDS");
    assert_eq!(
        cash(&w, "u"),
        (550_000, 1_350_000),
        "one and a half times the price of now"
    );
    assert_eq!(withdraw(&mut w, "w2", 100_000), "Withdrawn");
    tick(&mut w, "130");
    assert_eq!(withdraw(&mut w, "w3", 45_001), "INSUFFICIENT_FUNDS");
    assert_eq!(cash(&w, "u"), (45_000, 1_755_000));
    tick(&mut w, "150");
    assert_eq!(withdraw(&mut w, "w4", 1), "INSUFFICIENT_FUNDS");
    assert_eq!(
        cash(&w, "u"),
        (0, 1_800_000),
        "less than is due, and nothing is free"
    );
    w.list("MSFT", r#"{"symbol":"MSFT"}"#);
    w.tick("MSFT", "10");
    w.pump();
    w.order("u", "other", "MSFT", "1", "buy");
    w.pump();
    assert_eq!(outcome(&w), "INSUFFICIENT_FUNDS");
    w.order("u", "more", "AAPL", "1", "sell");
    w.pump();
    assert_eq!(outcome(&w), "INSUFFICIENT_FUNDS");
    for (id, quantity) in [("cover1", "1"), ("cover2", "8999")] {
        w.order("u", id, "AAPL", quantity, "buy");
        w.pump();
        assert_eq!(outcome(&w), "OrderFilled", "{id}");
        w.check_books();
    }

    assert_eq!(cash(&w, "u"), (1_800_000 - 9_000 * 150, 0));
    w.check_rest();
}

#[test]
fn what_falls_in_price_frees_what_is_not_due() {
    let mut w = now("");
    w.order("u", "1", "AAPL", "1000", "sell");
    w.pump();
    tick(&mut w, "50");
    assert_eq!(withdraw(&mut w, "w1", 1_000_000), "Withdrawn");
    assert_eq!(cash(&w, "u"), (1_100_000 - 75_000 - 1_000_000, 75_000));
    w.check_books();
}

#[test]
fn a_cover_that_is_cancelled_gives_back_what_it_borrowed() {
    let mut w = world("", 100_000, RoleSettings::default().rules);
    w.order("u", "1", "AAPL", "1000", "sell");
    w.pump();
    w.limit("u", "cover", "AAPL", 1_000, "buy", "90", "");
    w.pump();
    assert_eq!(
        cash(&w, "u"),
        (0, 200_000),
        "50 000 were free, and 40 000 of the cover are what was held"
    );

    // The held cash cannot be used twice.
    w.limit("u", "again", "AAPL", 1_000, "buy", "90", "");
    w.pump();
    assert_eq!(
        (outcome(&w).as_str(), cash(&w, "u")),
        ("OrderAccepted", (0, 200_000))
    );
    w.limit("u", "third", "AAPL", 1_000, "buy", "90", "");
    w.pump();
    assert_eq!(outcome(&w), "INSUFFICIENT_FUNDS");
    for id in ["again", "cover"] {
        w.cancel("u", &format!("c-{id}"), id);
        w.pump();
        assert_eq!(outcome(&w), "USER_REQUEST");
    }

    assert_eq!(withdraw(&mut w, "w1", 50_001), "INSUFFICIENT_FUNDS");
    assert_eq!(
        cash(&w, "u"),
        (50_000, 150_000),
        "all that is due is held again"
    );

    // A cover that is filled.
    w.limit("u", "true", "AAPL", 400, "buy", "95", "");
    w.pump();
    tick(&mut w, "95");
    assert_eq!(outcome(&w), "OrderFilled");
    assert_eq!(withdraw(&mut w, "w2", 1_000_000), "INSUFFICIENT_FUNDS");
    assert_eq!(
        cash(&w, "u"),
        (200_000 - 38_000 - 85_500, 85_500),
        "600 shares, one and a half times 95"
    );
    w.check_books();
    w.check_rest();
}

/// A friend offers one share at an absurd price. The cash held for thousands of shares must not go
/// to the friend.
#[test]
fn a_cover_lends_its_own_part_and_what_it_costs_at_most() {
    let mut w = world("", 100_000, RoleSettings::default().rules);
    w.order("u", "1", "AAPL", "1000", "sell");
    w.order("friend", "1", "AAPL", "1", "buy");
    w.pump();
    w.command("u", r#""command":"withdraw","order_id":"w","amount":45000"#);

    // The price is stale, so no collar bounds a limit.
    w.now_ms += 3_600_000;
    w.limit("friend", "2", "AAPL", 1, "sell", "50000", "");
    w.limit("u", "2", "AAPL", 1, "buy", "50000", "");
    w.pump();
    assert_eq!(outcome(&w), "INSUFFICIENT_FUNDS");
}

#[test]
fn fees_margins_and_mixed_sales() {
    let mut w = now(r#","fee_bps":10,"short_margin_bps":2000,"half_spread_bps":10"#);
    w.order("u", "stock", "AAPL", "100", "buy");
    w.pump();
    let all = |w: &World| {
        ["cash_available_e4", "cash_reserved_e4"]
            .into_iter()
            .map(|f| w.last("u")[f].as_i64().expect("a number"))
            .sum::<i64>()
    };

    let before = all(&w);
    w.order("u", "1", "AAPL", "300", "sell");
    w.pump();

    // 99.90 each, with a fee of 29.97. For 200 shares the proceeds after the fee are held, with 20
    // of margin each, and 5 each because the sale might have brought less.
    assert_eq!(
        w.last("u")["cash_reserved_e4"],
        200 * 999_000 + 200 * 250_000
    );
    assert_eq!(all(&w), before + 300 * 999_000 - 299_700);
    w.order("u", "2", "AAPL", "350", "buy");
    w.pump();
    assert_eq!((outcome(&w).as_str(), cash(&w, "u").1), ("OrderFilled", 0));
    let shares = w
        .records(wire::topics::PORTFOLIOS)
        .into_iter()
        .rev()
        .find(|r| r.key.as_deref() == Some(b"u"))
        .expect("one")
        .tree();

    assert_eq!(shares["positions"]["AAPL"]["quantity"], json!(150));
    w.check_books();
}

#[test]
fn shorts_of_many_symbols_are_bounded_because_all_are_marked() {
    let mut w = now("");
    for n in 0..101 {
        let symbol = format!("S{n}");
        w.list(
            &symbol,
            &format!(r#"{{"symbol":"{symbol}","short_ok":true}}"#),
        );
        w.tick(&symbol, "1");
    }

    w.pump();
    for n in 0..101 {
        w.order("u", &n.to_string(), &format!("S{n}"), "10", "sell");
        w.pump();
    }

    assert_eq!(outcome(&w), "ORDER_EXCEEDS_LIMIT");
    for n in 0..100 {
        w.tick(&format!("S{n}"), "2");
    }

    w.pump();
    assert_eq!(withdraw(&mut w, "w", 999_000), "INSUFFICIENT_FUNDS");
    assert_eq!(cash(&w, "u"), (1_000_000 + 1_000 - 3_000, 3_000));
    w.order("u", "cover", "S0", "10", "buy");
    w.pump();
    w.order("u", "next", "S100", "10", "sell");
    w.pump();
    assert_eq!(outcome(&w), "OrderFilled");
    w.check_books();
}

#[test]
fn by_the_rules_of_before_the_price_at_the_collar_is_held() {
    let mut w = world("", 1_000_000, 4);
    w.order("u", "1", "AAPL", "9000", "sell");
    w.pump();
    assert_eq!(cash(&w, "u"), (955_000, 945_000));
    tick(&mut w, "130");
    assert_eq!(withdraw(&mut w, "w", 955_000), "Withdrawn");
    w.order("u", "cover", "AAPL", "1", "buy");
    w.pump();
    assert_eq!(outcome(&w), "INSUFFICIENT_FUNDS");
    w.check_books();
}

/// Regression: a replace that the book refused left the order with less than its new terms needed,
/// and the task stopped for good.
#[test]
fn a_refused_change_without_a_margin_leaves_the_order() {
    let mut w = now(r#","short_margin_bps":0,"house":false"#);
    w.limit("friend", "bid", "AAPL", 5, "buy", "99", "");
    w.limit("u", "1", "AAPL", 10, "sell", "101", r#""post_only":true"#);
    w.pump();
    assert_eq!(
        (outcome(&w).as_str(), cash(&w, "u")),
        ("OrderAccepted", (1_000_000, 0))
    );
    w.replace("u", "r", "1", r#""quantity":5,"limit_price":99"#);
    w.pump();
    assert_eq!(outcome(&w), "POST_ONLY_WOULD_CROSS");
    w.check_books();

    // A trade while a replace is in flight must keep the holds right too.
    w.limit("friend", "buy", "AAPL", 10, "buy", "101", "");
    w.replace("u", "r2", "1", r#""quantity":5,"limit_price":100"#);
    w.pump();
    assert_eq!(w.last("u")["cum_quantity"], 10, "{}", w.last("u"));
    w.check_books();
    w.check_rest();
}

/// Regression: the hold for each share was set only once. A sale far below the price, or a larger
/// sale after the price had risen, held as little as at first.
#[test]
fn a_change_holds_what_a_new_order_would() {
    let held = |rules: u64, change: &str| {
        let mut w = world(r#","house":false"#, 1_000_000, rules);
        w.limit("u", "1", "AAPL", 1_000, "sell", "101", "");
        w.pump();
        assert_eq!(cash(&w, "u").1, 50_000, "half of the price");
        tick(&mut w, "110");
        w.limit("new", "1", "AAPL", 1_000, "sell", "106", "");
        w.replace("u", "r", "1", change);
        w.pump();
        w.check_books();
        (cash(&w, "u").1, cash(&w, "new").1)
    };

    let now = RoleSettings::default().rules;
    assert_eq!(
        held(now, r#""limit_price":106"#).0,
        50_000,
        "it became dearer"
    );
    assert_eq!(
        held(now, r#""limit_price":106,"quantity":1001"#),
        (59_059, 59_000),
        "55 and 4 for each"
    );
    assert_eq!(held(now, r#""limit_price":106,"quantity":900"#).0, 45_000);
    assert_eq!(
        held(13, r#""limit_price":106,"quantity":1001"#).0,
        50_050,
        "by the rules of before"
    );
}
