//! Rows P of the acceptance matrix: cost, profit, shorts, fees, and conservation of cash and
//! shares.

use roles::RoleSettings;
use serde_json::{Value, json};
use wire::topics;

use super::driver::World;
use super::market::floor;

const OPENING: i64 = 10_000_000_000;

fn portfolio(w: &World, user: &str) -> Value {
    let all = w.records(topics::PORTFOLIOS);
    all.iter()
        .rev()
        .find(|r| r.key.as_deref() == Some(user.as_bytes()))
        .expect("a portfolio")
        .tree()
}

#[test]
fn p1_three_buys_sold_one_by_one() {
    let mut w = floor(RoleSettings::default());
    for (n, price) in ["100.00", "100.01", "100.02"].iter().enumerate() {
        w.limit("s", &format!("a{n}"), "AAPL", 1, "sell", price, "");
        w.limit("b", &format!("b{n}"), "AAPL", 1, "buy", price, "");
    }

    w.pump();
    assert_eq!(
        portfolio(&w, "b")["positions"]["AAPL"],
        json!({"quantity": 3, "reserved": 0, "cost_basis_e4": 3_000_300})
    );
    for n in 0..3 {
        w.limit("t", &format!("t{n}"), "AAPL", 1, "buy", "100.01", "");
        w.limit("b", &format!("c{n}"), "AAPL", 1, "sell", "100.01", "");
        w.pump();
        let p = portfolio(&w, "b");
        let basis = p["positions"]["AAPL"]["cost_basis_e4"]
            .as_i64()
            .unwrap_or(0);
        let cash = p["cash_available_e4"].as_i64().expect("cash");
        assert_eq!(
            p["realised_e4"].as_i64().expect("realised") - basis,
            cash - OPENING,
            "sold {n}"
        );
    }

    let p = portfolio(&w, "b");
    assert_eq!(
        (&p["realised_e4"], &p["positions"]),
        (&json!(3 * 1_000_100 - 3_000_300), &json!({}))
    );
    w.check_books();
}

#[test]
fn p2_long_to_short_and_back() {
    let mut w = floor(RoleSettings::default());
    w.list("AAPL", r#"{"symbol":"AAPL","house":false,"short_ok":true}"#);
    w.limit("s", "1", "AAPL", 10, "sell", "100", "");
    w.limit("f", "1", "AAPL", 10, "buy", "100", "");
    w.pump();
    w.limit("f", "2", "AAPL", 15, "sell", "102", "");
    w.pump();
    let e = w.last("f");
    assert_eq!(
        e["cash_reserved_e4"],
        5 * 500_000,
        "five short, half of the reference price each"
    );
    w.limit("b", "1", "AAPL", 15, "buy", "102", "");
    w.pump();
    let p = portfolio(&w, "f");
    assert_eq!(
        (&p["realised_e4"], &p["cash_reserved_e4"]),
        (&json!(10 * 20_000), &json!(5 * (1_020_000 + 500_000))),
        "closed, and held until covered"
    );
    assert_eq!(
        p["positions"]["AAPL"],
        json!({"quantity": -5, "reserved": 0, "cost_basis_e4": -5 * 1_020_000})
    );
    w.check_books();
    w.limit("s", "2", "AAPL", 8, "sell", "101", "");
    w.limit("f", "3", "AAPL", 8, "buy", "101", "");
    w.pump();
    let p = portfolio(&w, "f");
    assert_eq!(
        (&p["realised_e4"], &p["cash_reserved_e4"]),
        (&json!(10 * 20_000 + 5 * 10_000), &json!(0))
    );
    assert_eq!(
        p["positions"]["AAPL"],
        json!({"quantity": 3, "reserved": 0, "cost_basis_e4": 3 * 1_010_000})
    );
    w.check_books();

    // Without permission for short sales, a sell of one share too many is refused.
    w.list("AAPL", r#"{"symbol":"AAPL","house":false}"#);
    w.limit("f", "4", "AAPL", 4, "sell", "102", "");
    w.pump();
    assert_eq!(w.last("f")["reason"], "SHORT_SELL_NOT_PERMITTED");
}

#[test]
fn p3_values_beyond_all_bounds() {
    let mut w = floor(RoleSettings::default());
    w.limit(
        "b",
        "1",
        "AAPL",
        4_611_686_018_427_387_904,
        "buy",
        "100",
        "",
    );

    w.limit("b", "2", "AAPL", 1, "buy", "461168601842738.79", "");
    w.limit("b", "3", "AAPL", 1, "buy", "1e300", "");
    w.pump();
    let reasons: Vec<_> = w
        .events("b")
        .iter()
        .skip(1)
        .map(|e| e["reason"].as_str().expect("a reason").to_string())
        .collect();
    assert_eq!(
        reasons,
        ["NOTIONAL_LIMIT", "PRICE_BAND", "INVALID_PRICE_INCREMENT"]
    );
}

#[test]
fn p4_two_limit_orders_cannot_spend_the_same_cash() {
    let mut w = floor(RoleSettings {
        opening_cash_e4: 1_050_000_000,
        ..Default::default()
    });

    w.limit("b", "1", "AAPL", 600, "buy", "100", "");
    w.limit("b", "2", "AAPL", 600, "buy", "100", "");
    w.pump();
    assert_eq!(
        w.names("b"),
        [
            "Deposited",
            "OrderPending",
            "OrderRejected",
            "OrderAccepted"
        ]
    );

    w.cancel("b", "c", "1");
    w.pump();
    assert_eq!(w.last("b")["cash_available_e4"], 1_050_000_000);
}

#[test]
fn p6_fees_and_their_rounding_are_somebodys() {
    let mut w = floor(RoleSettings::default());
    w.list(
        "AAPL",
        r#"{"symbol":"AAPL","house":false,"tick":"0.0001","fee_bps":7}"#,
    );
    w.limit("s", "1", "AAPL", 100, "sell", "100.0003", "");
    for n in 0..33 {
        w.limit("b", &format!("{n}"), "AAPL", 3, "buy", "100.0007", "");
    }

    w.pump();
    let fees: Vec<i64> = w
        .events("b")
        .iter()
        .filter_map(|e| e["fee_e4"].as_i64())
        .collect();
    assert_eq!(fees.len(), 33);
    assert!(
        fees.iter().all(|f| *f == 2_101),
        "three shares at seven basis points, rounded up: {fees:?}"
    );
    let sold: Vec<_> = w
        .events("s")
        .into_iter()
        .filter(|e| e["liquidity"] == "maker")
        .collect();
    let charged: i64 = sold
        .iter()
        .map(|e| e["fee_e4"].as_i64().expect("a fee"))
        .sum();
    assert_eq!(
        charged,
        (99_i64 * 1_000_003 * 7 + 9_999) / 10_000,
        "many fills of one order cost what one does"
    );
    assert_eq!(portfolio(&w, "b")["fees_e4"], 33 * 2_101);
    assert_eq!(w.last("b")["cash_reserved_e4"], 0);
    w.check_books();
}

#[test]
fn m4_a_limit_rests_on_a_stale_price() {
    let mut w = floor(RoleSettings {
        stale_ms: 1_000,
        ..Default::default()
    });

    w.now_ms += 1_001;
    w.order("b", "1", "AAPL", "1", "buy");
    w.limit("b", "2", "AAPL", 1, "buy", "99", "");
    w.limit("s", "1", "AAPL", 1, "sell", "99", "");
    w.pump();
    assert_eq!(
        w.names("b")[1..],
        [
            "OrderRejected",
            "OrderPending",
            "OrderAccepted",
            "OrderFilled"
        ]
    );

    assert_eq!(w.events("b")[1]["reason"], "STALE_PRICE");
}

#[test]
fn m5_a_held_tick_fires_no_stop() {
    let mut w = floor(RoleSettings::default());
    w.list("AAPL", r#"{"symbol":"AAPL","house":false,"band_bps":300}"#);
    w.stop("b", "1", "AAPL", 1, "buy", "104");
    w.limit("s", "1", "AAPL", 1, "sell", "104", "");
    w.pump();
    w.tick("AAPL", "105");
    w.pump();
    assert_eq!(w.last("b")["event"], "OrderAccepted", "a single spike");
    w.tick("AAPL", "105");
    w.tick("AAPL", "105.01");
    w.pump();
    assert_eq!(
        w.last("b")["event"],
        "OrderFilled",
        "three that agree are the market"
    );
}

#[test]
fn m6_identical_ticks_both_count() {
    let mut w = floor(RoleSettings {
        stale_ms: 1_000,
        ..Default::default()
    });

    let tick = br#"{"symbol":"AAPL","price":100,"timestamp":1625159080}"#;
    for _ in 0..2 {
        w.now_ms += 900;
        w.append(topics::MARKET_DATA, "AAPL", tick);
        w.pump();
    }

    w.list("AAPL", r#"{"symbol":"AAPL"}"#);
    w.order("b", "1", "AAPL", "1", "buy");
    w.pump();
    assert_eq!(
        w.last("b")["event"],
        "OrderFilled",
        "the second kept the price fresh"
    );
    assert!(w.dead().is_empty());
}

/// Regression: a take-profit order and a deep bid were refused, and their ids were used up.
#[test]
fn limits_may_wait_far_from_the_market_unless_a_band_forbids() {
    let reasons = |listing: &str, rules: u64| -> Vec<String> {
        let mut w = floor(RoleSettings {
            rules,
            ..Default::default()
        });

        w.list(
            "AAPL",
            &format!(r#"{{"symbol":"AAPL","house":false{listing}}}"#),
        );
        w.limit("s", "take-profit", "AAPL", 10, "sell", "106", "");
        w.limit("s", "deep", "AAPL", 10, "buy", "90", "");
        w.limit("s", "at-once", "AAPL", 10, "buy", "90", r#""tif":"IOC""#);
        w.limit("s", "dear", "AAPL", 10, "buy", "105.01", "");
        w.limit("s", "cheap", "AAPL", 10, "sell", "94.99", "");
        w.pump();
        w.replace("s", "r1", "take-profit", r#""limit_price":120"#);
        w.replace("s", "r2", "deep", r#""limit_price":"105.01""#);
        w.pump();
        w.check_books();
        let refused = w
            .events("s")
            .into_iter()
            .filter(|e| e["reason"] == "PRICE_BAND");
        refused
            .map(|e| e["cause_id"].as_str().expect("an id").to_string())
            .collect()
    };

    assert_eq!(
        reasons("", RoleSettings::default().rules),
        ["dear", "cheap", "r2"]
    );
    assert_eq!(
        reasons(r#","limit_band_bps":600"#, RoleSettings::default().rules),
        ["deep", "dear", "cheap", "r1"]
    );
    assert_eq!(
        reasons("", 2),
        ["take-profit", "deep", "at-once", "dear", "cheap"],
        "by the rules of before"
    );
}

/// Regression: after the end of a feed, its last price bounded limits for ever.
#[test]
fn a_price_that_is_too_old_bounds_no_limit() {
    let mut w = floor(RoleSettings::default());
    w.list(
        "AAPL",
        r#"{"symbol":"AAPL","house":false,"limit_band_bps":100}"#,
    );
    w.now_ms += 3_600_000;
    w.limit("s", "1", "AAPL", 10, "buy", "108", "");
    w.limit("s", "2", "AAPL", 10, "sell", "150", "");
    w.pump();
    w.replace("s", "r", "2", r#""limit_price":200"#);
    w.pump();
    assert_eq!(
        w.names("s")[4..],
        [
            "OrderPending",
            "OrderPending",
            "OrderAccepted",
            "OrderAccepted",
            "OrderReplaced"
        ]
    );
}
