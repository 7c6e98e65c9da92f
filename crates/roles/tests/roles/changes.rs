//! Replaces and cancels of orders: their checks, their holds while the book has not answered, and
//! the holds that they free.

use roles::{Role, RoleSettings};
use serde_json::json;
use wire::topics;

use super::driver::World;
use super::market::floor;

fn last(w: &World, user: &str) -> String {
    let e = w.last(user);
    let reason = e["reason"]
        .as_str()
        .map(|r| format!(" {r}"))
        .unwrap_or_default();
    format!("{}{reason}", e["event"].as_str().expect("a name"))
}

fn stop_limit(w: &mut World, user: &str, id: &str, side: &str, stop: &str, limit: &str) {
    let prices = format!(r#""type":"stop_limit","stop_price":{stop},"limit_price":{limit}"#);
    w.command(
        user,
        &format!(
            r#""order_id":"{id}","symbol":"AAPL","quantity":3,"order_type":"{side}",{prices}"#
        ),
    );
}

/// A fill at a better price in the meantime rounds the fee in two parts, one unit more than the
/// hold for the fee.
#[test]
fn a_fill_at_a_better_price_leaves_enough_for_more_quantity() {
    let mut w = floor(RoleSettings::default());
    w.list("AAPL", r#"{"symbol":"AAPL","house":false,"fee_bps":10}"#);
    w.limit("s", "1", "AAPL", 1, "sell", "99.99", "");
    w.pump();
    w.limit("b", "1", "AAPL", 2, "buy", "100.01", "");
    w.turn_of(Role::Orders);
    w.replace("b", "r", "1", r#""quantity":3"#);
    w.turn_of(Role::Orders);
    w.pump();
    assert_eq!(last(&w, "b"), "OrderReplaced");
    w.check_books();
    w.cancel("b", "c", "1");
    w.pump();
    assert_eq!(w.last("b")["cash_reserved_e4"], 0);
}

/// A market that fell by more than half leaves bids far above a seller's ask. The seller gets these
/// bids.
#[test]
fn a_bid_left_behind_by_a_falling_market_is_traded_with() {
    let mut w = floor(RoleSettings::default());
    w.limit("b", "1", "AAPL", 2, "buy", "99", "");
    w.pump();
    w.tick("AAPL", "45");
    w.pump();
    w.limit("s", "1", "AAPL", 1, "sell", "45", "");
    w.order("s", "2", "AAPL", "1", "sell");
    w.pump();
    let fills: Vec<_> = w
        .events("s")
        .iter()
        .filter(|e| e["event"] == "OrderFilled")
        .map(|e| e["last_price_e4"].clone())
        .skip(1)
        .collect();

    assert_eq!(fills, [990_000, 990_000], "not 45");

    // In the other direction: a low offer may be replaced by a higher one.
    w.limit("s", "3", "AAPL", 1, "sell", "46", "");
    w.pump();
    w.tick("AAPL", "100");
    w.pump();
    w.replace("s", "r", "3", r#""limit_price":98"#);
    w.pump();
    assert_eq!(last(&w, "s"), "OrderReplaced");
    w.check_books();
}

#[test]
fn shares_of_a_cancelled_sell_cover_a_short_sold_meanwhile() {
    let mut w = floor(RoleSettings::default());
    w.list("AAPL", r#"{"symbol":"AAPL","short_ok":true}"#);
    w.order("f", "1", "AAPL", "10", "buy");
    w.pump();
    w.limit("f", "2", "AAPL", 10, "sell", "104", "");
    w.order("f", "3", "AAPL", "5", "sell");
    w.pump();
    assert_eq!(
        w.last("f")["cash_reserved_e4"],
        5 * (1_000_000 + 500_000 + 50_000)
    );
    w.cancel("f", "c", "2");
    w.pump();
    assert_eq!(
        (last(&w, "f").as_str(), &w.last("f")["cash_reserved_e4"]),
        ("OrderCancelled USER_REQUEST", &json!(0))
    );
    w.check_books();

    // Short sales are not allowed any more. An order with a short part may become smaller, but not
    // larger.
    w.limit("f", "4", "AAPL", 9, "sell", "104", "");
    w.pump();
    w.list("AAPL", r#"{"symbol":"AAPL"}"#);
    w.replace("f", "r1", "4", r#""quantity":8"#);
    w.pump();
    assert_eq!(last(&w, "f"), "OrderReplaced");
    w.replace("f", "r2", "4", r#""quantity":9"#);
    w.pump();
    assert_eq!(last(&w, "f"), "CancelRejected SHORT_SELL_NOT_PERMITTED");
    w.check_books();
}

/// An order that trades at several prices also triggers the stops between these prices.
#[test]
fn stops_see_every_trade_of_a_sweep() {
    let mut w = floor(RoleSettings::default());
    w.stop("s", "stop", "AAPL", 1, "sell", "98");
    w.limit("s", "1", "AAPL", 1, "sell", "97", "");
    w.limit("s", "2", "AAPL", 1, "sell", "99", "");
    w.limit("m", "1", "AAPL", 1, "buy", "96", "");
    w.pump();
    w.limit("b", "1", "AAPL", 2, "buy", "99", "");
    w.pump();
    let stop: Vec<_> = w
        .events("s")
        .into_iter()
        .filter(|e| e["order_id"] == "stop")
        .map(|e| e["event"].clone())
        .collect();
    assert_eq!(
        stop,
        [
            "OrderPending",
            "OrderAccepted",
            "OrderTriggered",
            "OrderFilled"
        ]
    );
}

#[test]
fn the_limit_of_a_stop_stays_near_its_stop_or_the_market() {
    let mut w = floor(RoleSettings::default());
    stop_limit(&mut w, "b", "1", "buy", "104", "105");
    w.pump();
    for (id, price, due) in [
        ("r1", "1000", "CancelRejected PRICE_BAND"),
        ("r2", "109.20", "OrderReplaced"),
        ("r3", "109.21", "CancelRejected PRICE_BAND"),
        ("r4", "95", "OrderReplaced"),
    ] {
        w.replace("b", id, "1", &format!(r#""limit_price":{price}"#));
        w.pump();
        assert_eq!(last(&w, "b"), due, "{price}");
    }
}

#[test]
fn a_changed_stop_counts_by_its_stop_price() {
    let mut w = floor(RoleSettings::default());
    w.list(
        "AAPL",
        r#"{"symbol":"AAPL","house":false,"max_notional":1000}"#,
    );
    w.stop("b", "1", "AAPL", 9, "buy", "111");
    w.pump();
    w.replace("b", "r1", "1", r#""quantity":8"#);
    w.pump();
    assert_eq!(last(&w, "b"), "OrderReplaced");
    w.replace("b", "r2", "1", r#""quantity":9"#);
    w.pump();
    assert_eq!(last(&w, "b"), "OrderReplaced");
    w.replace("b", "r3", "1", r#""quantity":10"#);
    w.pump();
    assert_eq!(last(&w, "b"), "CancelRejected NOTIONAL_LIMIT");
}

#[test]
fn a_refused_change_that_comes_again_is_told_its_first_reason() {
    let mut w = floor(RoleSettings::default());
    w.limit("b", "1", "AAPL", 3, "buy", "99", "");
    w.pump();
    for due in ["CancelRejected PRICE_BAND", "OrderStatus PRICE_BAND"] {
        w.replace("b", "r", "1", r#""limit_price":1000"#);
        w.pump();
        assert_eq!(last(&w, "b"), due);
    }

    assert_eq!(
        (&w.last("b")["status"], &w.last("b")["order_id"]),
        (&json!("rejected"), &json!("r"))
    );
}

#[test]
fn a_change_over_the_rate_is_refused_for_the_named_order() {
    let mut w = World::ready(RoleSettings {
        rate_limit: 1,
        burst: 1,
        ..RoleSettings::default()
    });

    w.limit("b", "1", "AAPL", 3, "buy", "189", "");
    w.replace("b", "r", "1", r#""quantity":4"#);
    w.pump();
    let refused = w
        .events("b")
        .into_iter()
        .find(|e| e["reason"] == "RATE_LIMITED")
        .expect("refused");
    let fields = [
        "event",
        "order_id",
        "cause_id",
        "status",
        "symbol",
        "retry_after_ms",
    ]
    .map(|f| refused[f].clone());

    assert_eq!(
        fields,
        [
            json!("CancelRejected"),
            json!("1"),
            json!("r"),
            json!("pending_new"),
            json!("AAPL"),
            json!(1_000)
        ]
    );

    w.now_ms += 1_000;
    w.replace("b", "r", "1", r#""quantity":4"#);
    w.pump();
    assert_eq!(last(&w, "b"), "OrderReplaced", "the id was not used up");
}

/// Sixty mass cancels at once must not request sixty cancels sixty times.
#[test]
fn mass_cancels_in_a_row_do_not_multiply() {
    let mut w = floor(RoleSettings::default());
    (0..60).for_each(|n| w.limit("b", &format!("{n}"), "AAPL", 1, "buy", "99", ""));
    w.pump();
    let before = w.records(topics::BOOK_COMMANDS).len();
    (0..60).for_each(|n| {
        w.command(
            "b",
            &format!(r#""command":"mass_cancel","order_id":"m{n}""#),
        )
    });

    w.pump();
    assert_eq!(w.records(topics::BOOK_COMMANDS).len() - before, 60);
    let count = |event: &str| w.names("b").iter().filter(|n| *n == event).count();
    assert_eq!((count("OrderCancelled"), count("CancelRejected")), (60, 59));
    w.check_books();
}

#[test]
fn what_was_to_end_long_ago_does_not_rest_for_ever() {
    let mut w = floor(RoleSettings::default());
    for (id, when) in [("1", "-1e19"), ("2", "-99999999999999999999999999")] {
        w.limit(
            "b",
            id,
            "AAPL",
            1,
            "buy",
            "99",
            &format!(r#""tif":"GTD","expire_at":{when}"#),
        );

        w.pump();
        assert!(
            ["OrderRejected TOO_LATE_TO_ENTER", "OrderRejected MALFORMED"]
                .contains(&last(&w, "b").as_str()),
            "{when}: {}",
            last(&w, "b")
        );
    }
}

/// S5: topics have no common clock. `orders` may accept an order because of a tick, and the order
/// may reach the book before the tick.
#[test]
fn s5_an_order_that_overtakes_its_first_tick_is_filled() {
    let mut w = World::new(1, RoleSettings::default());
    w.list("AAPL", r#"{"symbol":"AAPL"}"#);

    // `orders` treats a price read from market-data at its start like a published price.
    let mut price = Vec::new();
    wire::trade::ReferencePrice {
        symbol: "AAPL",
        price_e4: 1_892_500,
        time_us: w.now_ms * 1_000,
    }
    .encode(&mut price);
    w.append(topics::REFERENCE_PRICES, "AAPL", &price);
    w.order("u", "1", "AAPL", "10", "buy");
    w.pump();
    assert_eq!(
        w.names("u")[1..],
        ["OrderPending", "OrderAccepted", "OrderFilled"]
    );
    assert_eq!(w.last("u")["last_price_e4"], 1_892_500);
}
