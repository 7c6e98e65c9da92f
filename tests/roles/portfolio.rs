//! What `portfolio` keeps: one record per user, and a row per open sell.

use std::collections::BTreeMap;

use processor::engine::varint::{put, put_bytes};
use processor::roles::portfolio::History;
use processor::roles::{Role, RoleSettings, show};
use processor::wire::event::OrderEvent;
use processor::wire::portfolio::Portfolio;
use processor::wire::topics;
use serde_json::json;

use super::driver::{Stored, World};
use super::market::floor;

type State = BTreeMap<Vec<u8>, Vec<u8>>;

fn state(w: &World) -> &State {
    w.state(Role::Portfolio)[0]
}

fn largest(values: impl Iterator<Item = usize>) -> usize {
    values.max().expect("a value")
}

fn value(r: &Stored) -> &[u8] {
    r.value.as_deref().expect("a value")
}

/// The rows of a user's open sells, readable.
fn sells(w: &World, user: &str) -> Vec<String> {
    let begin = show::prefix(Role::Portfolio, &format!("sell/{user}/"));
    let rows = state(w).iter().filter(|(key, _)| key.starts_with(&begin));
    rows.map(|(key, value)| {
        show::show(Role::Portfolio, key, value).map(|(key, v)| format!("{key} {}", v["leaves_quantity"])).expect("readable")
    })
    .collect()
}

/// The last published portfolio of each user, which must also be what folding their events outside the role gives.
fn published(w: &World) -> BTreeMap<String, Portfolio> {
    let last: BTreeMap<_, _> =
        w.records(topics::PORTFOLIOS).iter().map(|r| Portfolio::decode(value(r)).expect("ours")).map(|p| (p.user_id.clone(), p)).collect();
    let mut folds = BTreeMap::<String, History>::new();
    for r in w.records(topics::ORDER_EVENTS) {
        let e = OrderEvent::decode(value(r)).expect("ours");
        let now = folds.entry(e.user_id.to_string()).or_insert_with(|| History::of(e.user_id)).fold(&e).expect("good events");
        if e.user_seq == last[e.user_id].user_seq {
            let mut now = now.clone();
            now.positions.retain(|_, h| h.quantity != 0);
            assert_eq!(now, last[e.user_id]);
        }
    }
    last
}

/// They once lay in one value, which then no changelog took, and was written again with every batch.
#[test]
fn ten_thousand_open_sells_fit() {
    const SELLS: usize = 10_000;
    let mut w = World::new(1, RoleSettings { rate_limit: 0, stale_ms: 1_000_000_000, ..Default::default() });
    let (user, symbol) = ("u".repeat(64), "S".repeat(64));
    w.list(&symbol, &format!(r#"{{"symbol":"{symbol}"}}"#));
    w.tick(&symbol, "1");
    w.pump();
    w.order(&user, "stock", &symbol, &SELLS.to_string(), "buy");
    w.pump();
    let id = |n: usize| format!("{n:0>64}");
    for n in 0..SELLS {
        w.limit(&user, &id(n), &symbol, 1, "sell", "1.04", "");
        if n % 1_000 == 999 {
            w.pump();
        }
    }
    let held = |w: &World| published(w)[&user].positions[&symbol].reserved;
    assert_eq!((state(&w).len(), held(&w)), (1 + SELLS, SELLS as i64));
    assert!(largest(state(&w).values().map(Vec::len)) < 64 << 10);
    assert!(largest(w.records(topics::PORTFOLIOS).iter().map(|r| value(r).len())) < 64 << 10);
    w.cancel(&user, "c", &id(5_000));
    w.pump();
    assert_eq!((state(&w).len(), held(&w)), (SELLS, SELLS as i64 - 1));
    w.command(&user, r#""command":"mass_cancel","order_id":"all""#);
    w.pump();
    assert_eq!((state(&w).len(), held(&w)), (1, 0));
}

/// Users `s` and `t` with four open sells each, one of them traded in part.
fn market() -> World {
    let mut w = floor(RoleSettings::default());
    w.list("AAPL", r#"{"symbol":"AAPL"}"#);
    w.pump();
    w.order("t", "stock", "AAPL", "1000", "buy");
    w.pump();
    for (n, id) in ["1", "2", "3", "4"].into_iter().enumerate() {
        w.limit("s", id, "AAPL", 10, "sell", &format!("10{n}"), "");
        w.limit("t", id, "AAPL", 10, "sell", "104", "");
    }
    w.pump();
    w.limit("b", "1", "AAPL", 4, "buy", "100", "");
    w.pump();
    w
}

/// Everything that may happen to an open sell, one batch each.
fn go_on(w: &mut World) {
    w.limit("b", "2", "AAPL", 3, "buy", "100", "");
    w.pump();
    w.cancel("s", "c", "2");
    w.pump();
    w.replace("s", "r", "3", r#""quantity":5"#);
    w.pump();
    w.limit("s", "5", "AAPL", 7, "sell", "103", "");
    w.pump();
    w.limit("b", "3", "AAPL", 3, "buy", "100", "");
    w.pump();
}

#[test]
fn rows_follow_their_orders() {
    let mut w = market();
    assert_eq!(sells(&w, "s"), ["sell/s/1 6", "sell/s/2 10", "sell/s/3 10", "sell/s/4 10"]);
    go_on(&mut w);
    assert_eq!(sells(&w, "s"), ["sell/s/3 5", "sell/s/4 10", "sell/s/5 7"]);
    assert_eq!(sells(&w, "t").len(), 4);
    assert_eq!(published(&w)["s"].positions["AAPL"].reserved, 22);
}

/// As version 1 wrote it: a user's rows are part of their record.
fn version_1(now: &State) -> State {
    let users = now.iter().filter(|(key, _)| !key.contains(&0));
    let old = |(user, record): (&Vec<u8>, &Vec<u8>)| {
        let begin = [&user[..], b"\0"].concat();
        let rows: Vec<_> = now.iter().filter_map(|(key, row)| Some((key.strip_prefix(&begin[..])?, row))).collect();
        assert_eq!(record[0], 2);
        let mut bytes = [&[1], &record[1..]].concat();
        put(&mut bytes, rows.len() as u64);
        for (order_id, row) in rows {
            put_bytes(&mut bytes, order_id);
            bytes.extend_from_slice(&row[1..]);
        }
        (user.clone(), bytes)
    };
    users.map(old).collect()
}

#[test]
fn what_version_1_kept_goes_on() {
    let (mut w, mut other) = (market(), market());
    let old = version_1(state(&w));
    assert_eq!(old.len(), 3);
    let (_, shown) = show::show(Role::Portfolio, b"s", &old[&b"s"[..]]).expect("readable");
    assert_eq!(shown["open_sells"]["1"], json!({"symbol": "AAPL", "leaves_quantity": 6}));
    w.set_state(Role::Portfolio, 0, old.clone());
    go_on(&mut w);
    other.restart(Role::Portfolio);
    go_on(&mut other);
    assert_eq!(state(&w)[&b"t"[..]], old[&b"t"[..]], "whom nothing happened to");
    assert_eq!(sells(&w, "s"), ["sell/s/3 5", "sell/s/4 10", "sell/s/5 7"]);
    for w in [&mut w, &mut other] {
        w.command("t", r#""command":"deposit","order_id":"d","amount":1"#);
        w.pump();
    }
    assert_eq!(state(&w), state(&other));
    assert_eq!(published(&w), published(&other));
}
