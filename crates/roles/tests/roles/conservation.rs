//! No sequence of commands creates or loses cash or shares, and a replay gives the same result.

use proptest::prelude::*;
use roles::{Role, RoleSettings};
use wire::portfolio::PortfolioRecord;
use wire::topics;

use super::driver::World;

#[derive(Clone, Debug)]
enum Step {
    Order(u8, u8, u16, bool),
    Transfer(u8, u16, bool),
    Tick(u8, u32),
    Wait(u16),
    Turn(Role),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0_u8..4, 0_u8..3, 0_u16..60, any::<bool>()).prop_map(|(u, s, q, b)| Step::Order(u, s, q, b)),
        1 => (0_u8..4, 0_u16..2_000, any::<bool>()).prop_map(|(u, a, d)| Step::Transfer(u, a, d)),
        2 => (0_u8..3, prop_oneof![100_000_u32..150_000, 0_u32..400_000]).prop_map(|(s, p)| Step::Tick(s, p)),
        1 => (0_u16..2_000).prop_map(Step::Wait),
        2 => prop_oneof![Just(Role::Orders), Just(Role::Trading), Just(Role::Portfolio)].prop_map(Step::Turn),
    ]
}

const SYMBOLS: [&str; 3] = ["A", "B", "C"];

fn run(steps: &[Step]) -> World {
    let mut w = World::new(
        2,
        RoleSettings {
            opening_cash_e4: 200_000_000,
            stale_ms: 5_000,
            ..Default::default()
        },
    );

    w.list("A", r#"{"symbol":"A"}"#);
    w.list("B", r#"{"symbol":"B","half_spread_bps":20,"lot":5}"#);
    w.list("C", r#"{"symbol":"C","collar_bps":0,"band_bps":500}"#);
    SYMBOLS.iter().for_each(|s| w.tick(s, "12.3456"));
    w.pump();
    for (i, s) in steps.iter().enumerate() {
        match s {
            Step::Order(u, s, q, buy) => {
                w.order(
                    &format!("u{u}"),
                    &format!("{}", i % 80),
                    SYMBOLS[*s as usize],
                    &q.to_string(),
                    if *buy { "buy" } else { "sell" },
                );
            }
            Step::Transfer(u, amount, into) => {
                let command = if *into { "deposit" } else { "withdraw" };
                w.command(
                    &format!("u{u}"),
                    &format!(r#""command":"{command}","order_id":"t{i}","amount":"{amount}.0001""#),
                );
            }
            Step::Tick(s, price) => w.tick(
                SYMBOLS[*s as usize],
                &format!("{}.{:04}", price / 10_000, price % 10_000),
            ),
            Step::Wait(ms) => w.now_ms += i64::from(*ms),
            Step::Turn(role) => w.turn_of(*role),
        }
    }

    w.pump();
    w
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn i1_i2_i7_i10(steps in prop::collection::vec(step(), 1..150)) {
        let w = run(&steps);
        let mut deposits = 0_i64;
        let mut house = 0_i64;
        let mut house_shares = std::collections::BTreeMap::<String, i64>::new();
        for t in w.records(topics::TRADES) {
            let t = t.tree();
            let q = t["quantity"].as_i64().unwrap();
            let p = t["price_e4"].as_i64().unwrap();
            let sign = if t["maker_side"] == "sell" { 1 } else { -1 };
            house += sign * q * p;
            *house_shares.entry(t["symbol"].as_str().unwrap().into()).or_default() -= sign * q;
        }

        let mut users = 0;
        for u in 0..4 {
            let user = format!("u{u}");
            let events = w.events(&user);
            let Some(last) = events.last() else { continue };
            let mut open = std::collections::BTreeSet::new();
            for (i, e) in events.iter().enumerate() {
                prop_assert_eq!(&e["user_seq"], i + 1);
                prop_assert!(e["cash_available_e4"].as_i64().unwrap() >= 0 && e["cash_reserved_e4"].as_i64().unwrap() >= 0);
                let amount = e["amount_e4"].as_i64().unwrap_or(0);
                match e["event"].as_str().unwrap() {
                    "Deposited" => deposits += amount,
                    "Withdrawn" => deposits -= amount,
                    "OrderPending" => prop_assert!(open.insert(e["order_id"].to_string())),
                    "OrderFilled" | "OrderCancelled" => prop_assert!(open.remove(&e["order_id"].to_string())),
                    "OrderRejected" => drop(open.remove(&e["order_id"].to_string())),
                    _ => {}
                }
            }

            prop_assert!(open.is_empty(), "every accepted order ended");
            prop_assert_eq!(&last["cash_reserved_e4"], 0);
            users += last["cash_available_e4"].as_i64().unwrap();

            // E6: the portfolio is a fold of the events, and its last version contains the last
            // event.
            let all = w.records(topics::PORTFOLIOS);
            let p = all.iter().rev().find(|r| r.key.as_deref() == Some(user.as_bytes())).expect("a portfolio");
            let p = PortfolioRecord::decode(p.value.as_deref().unwrap()).unwrap();
            prop_assert_eq!(p.user_seq, events.len() as u64);
            prop_assert_eq!(p.cash_available_e4, last["cash_available_e4"].as_i64().unwrap());
            for (symbol, h) in &p.positions {
                prop_assert!(h.quantity > 0 && h.reserved == 0);
                *house_shares.entry(symbol.clone()).or_default() += h.quantity;
            }
        }

        prop_assert_eq!(users + house, deposits, "cash: users and house have what was deposited");
        prop_assert!(house_shares.values().all(|n| *n == 0), "shares: the house is short what users hold");
        prop_assert_eq!(w.records(topics::NOTIFICATIONS).len(), w.records(topics::ORDER_EVENTS).len());
    }

    #[test]
    fn i9_the_same_input_gives_the_same_state(steps in prop::collection::vec(step(), 1..100)) {
        let a = run(&steps);
        let b = run(&steps);
        for role in Role::all() {
            prop_assert_eq!(a.state(role), b.state(role));
        }
    }
}
