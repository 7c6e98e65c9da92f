//! The state of `portfolio`: one record per user, and a row per open sell.

use std::collections::BTreeMap;

use client::simulate::Rng;
use domain::status::{Side, Status};
use ports::partitioner;
use ports::topics::TopicPartition;
use ports::varint::{put, put_bytes};
use roles::portfolio::History;
use roles::{Role, RoleSettings, show};
use serde_json::json;
use wire::event::{Event, OrderEvent};
use wire::portfolio::{PortfolioFold, PortfolioRecord, read_key};
use wire::topics;

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
        show::show(Role::Portfolio, key, value)
            .map(|(key, v)| format!("{key} {}", v["leaves_quantity"]))
            .expect("readable")
    })
    .collect()
}

/// The portfolios that a reader computes from some records of the topic.
fn folded<'a>(records: impl IntoIterator<Item = &'a Stored>) -> BTreeMap<String, PortfolioRecord> {
    let mut folds = BTreeMap::<String, PortfolioFold>::new();
    for r in records {
        let (user, symbol) = read_key(r.key.as_deref().expect("a key")).expect("text");
        folds
            .entry(user.to_string())
            .or_default()
            .take(symbol, r.value.as_deref())
            .expect("ours");
    }

    folds
        .into_iter()
        .filter_map(|(user, fold)| Some((user, fold.portfolio().expect("all of it")?)))
        .collect()
}

/// The last published portfolio of each user. It must equal the fold of the user's events outside
/// the role.
fn published(w: &World) -> BTreeMap<String, PortfolioRecord> {
    let last = folded(w.records(topics::PORTFOLIOS));
    let mut folds = BTreeMap::<String, History>::new();
    for r in w.records(topics::ORDER_EVENTS) {
        let e = OrderEvent::decode(value(r)).expect("ours");
        let now = folds
            .entry(e.user_id.to_string())
            .or_insert_with(|| History::of(e.user_id))
            .fold(&e)
            .expect("good events");
        if e.user_seq == last[e.user_id].user_seq {
            let mut now = now.clone();
            now.positions.retain(|_, h| h.quantity != 0);
            assert_eq!(now, last[e.user_id]);
        }
    }

    last
}

/// Regression: all open sells were in one value. The value became too large for the changelog, and
/// was written again with every batch.
#[test]
fn ten_thousand_open_sells_fit() {
    const SELLS: usize = 10_000;
    let mut w = World::new(
        1,
        RoleSettings {
            rate_limit: 0,
            stale_ms: 1_000_000_000,
            ..Default::default()
        },
    );

    let user = "u".repeat(64);
    let symbol = "S".repeat(64);
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

/// Users `s` and `t` with four open sells each, one of them partly filled.
fn market() -> World {
    let mut w = floor(RoleSettings::default());
    w.list("AAPL", r#"{"symbol":"AAPL"}"#);
    w.pump();
    w.order("t", "stock", "AAPL", "1000", "buy");
    w.pump();
    w.list("AAPL", r#"{"symbol":"AAPL","house":false}"#);
    for (n, id) in ["1", "2", "3", "4"].into_iter().enumerate() {
        w.limit("s", id, "AAPL", 10, "sell", &format!("10{n}"), "");
        w.limit("t", id, "AAPL", 10, "sell", "104", "");
    }

    w.pump();
    w.limit("b", "1", "AAPL", 4, "buy", "100", "");
    w.pump();
    w
}

/// Each kind of event for an open sell, one batch each.
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
    assert_eq!(
        sells(&w, "s"),
        ["sell/s/1 6", "sell/s/2 10", "sell/s/3 10", "sell/s/4 10"]
    );
    go_on(&mut w);
    assert_eq!(sells(&w, "s"), ["sell/s/3 5", "sell/s/4 10", "sell/s/5 7"]);
    assert_eq!(sells(&w, "t").len(), 4);
    assert_eq!(published(&w)["s"].positions["AAPL"].reserved, 22);
}

/// State in the form of version 1: a user's rows are part of the user's record.
fn version_1(now: &State) -> State {
    let users = now.iter().filter(|(key, _)| !key.contains(&0));
    let old = |(user, record): (&Vec<u8>, &Vec<u8>)| {
        let begin = [&user[..], b"\0"].concat();
        let rows: Vec<_> = now
            .iter()
            .filter_map(|(key, row)| Some((key.strip_prefix(&begin[..])?, row)))
            .collect();
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
    let mut w = market();
    let mut other = market();
    let old = version_1(state(&w));
    assert_eq!(old.len(), 3);
    let (_, shown) = show::show(Role::Portfolio, b"s", &old[&b"s"[..]]).expect("readable");
    assert_eq!(
        shown["open_sells"]["1"],
        json!({"symbol": "AAPL", "leaves_quantity": 6})
    );
    w.set_state(Role::Portfolio, 0, old.clone());
    go_on(&mut w);
    other.restart(Role::Portfolio);
    go_on(&mut other);
    assert_eq!(
        state(&w)[&b"t"[..]],
        old[&b"t"[..]],
        "whom nothing happened to"
    );
    assert_eq!(sells(&w, "s"), ["sell/s/3 5", "sell/s/4 10", "sell/s/5 7"]);
    for w in [&mut w, &mut other] {
        w.command("t", r#""command":"deposit","order_id":"d","amount":1"#);
        w.pump();
    }

    assert_eq!(state(&w), state(&other));
    assert_eq!(published(&w), published(&other));
}

/// Writes events of one user, and also folds every event into one map.
struct Trader {
    user: String,
    seq: u64,
    fold: History,
    /// The portfolio to publish after each event, if the history is kept.
    was: Option<Vec<PortfolioRecord>>,
}

impl Trader {
    fn new(user: &str) -> Trader {
        Trader {
            user: user.into(),
            seq: 0,
            fold: History::of(user),
            was: None,
        }
    }

    fn now(&self) -> PortfolioRecord {
        let mut now = self.fold.portfolio().clone();
        now.positions.retain(|_, h| h.quantity != 0);
        now
    }

    fn say(
        &mut self,
        w: &mut World,
        event: Event,
        symbol: &str,
        side: Side,
        quantity: i64,
        order_id: &str,
    ) {
        self.seq += 1;
        let e = OrderEvent {
            user_seq: self.seq,
            order_id: Some(order_id),
            symbol: Some(symbol),
            side: Some(side),
            quantity: Some(quantity),
            leaves_quantity: Some(quantity),
            last_quantity: Some(quantity),
            last_price_e4: Some(1_000 + self.seq as i64 % 77),
            fee_e4: Some(self.seq as i64 % 3),
            cash_available_e4: self.seq as i64 * 10,
            status: Some(if event == Event::OrderPending {
                Status::PendingNew
            } else {
                Status::Filled
            }),
            ..OrderEvent::new(event, &self.user)
        };

        w.event(&e);
        self.fold.fold(&e).expect("a good event");
        let now = self.was.is_some().then(|| self.now());
        if let (Some(was), Some(now)) = (&mut self.was, now) {
            was.push(now);
        }
    }

    fn holds(&self, symbol: &str) -> i64 {
        self.fold
            .portfolio()
            .positions
            .get(symbol)
            .map_or(0, |h| h.quantity)
    }
}

/// The topic as compaction may leave it. Of the records before `cut`, only those remain that no
/// later record before `cut` replaces; tombstones may be missing.
fn compacted(all: &[Stored], cut: usize, tombstones: bool) -> Vec<&Stored> {
    let last: BTreeMap<_, _> = all[..cut]
        .iter()
        .enumerate()
        .map(|(n, r)| (&r.key, n))
        .collect();
    let stays =
        |n: usize, r: &Stored| n >= cut || (last[&r.key] == n && (tombstones || r.value.is_some()));
    all.iter()
        .enumerate()
        .filter(|(n, r)| stays(*n, r))
        .map(|(_, r)| r)
        .collect()
}

#[test]
fn an_event_in_25000_positions_writes_only_what_it_changed() {
    const POSITIONS: usize = 25_000;
    let mut w = World::new(2, RoleSettings::default());
    let user = "u".repeat(64);
    let symbol = |n: usize| format!("{n:064}");
    let mut trader = Trader::new(&user);
    w.turn_max = 1_000;
    for n in 0..POSITIONS {
        trader.say(&mut w, Event::OrderFilled, &symbol(n), Side::Buy, 5, "1");
        if n % 1_000 == 999 {
            w.turn_of(Role::Portfolio);
        }
    }

    assert!(
        w.largest_turn_of(Role::Portfolio) <= 2 * 1_000 + 600,
        "{}",
        w.largest_turn_of(Role::Portfolio)
    );
    let all = w.records(topics::PORTFOLIOS);
    assert!(
        largest(all.iter().filter_map(|r| Some(r.value.as_ref()?.len()))) <= 64 << 10,
        "no record is large"
    );
    assert!(
        largest(
            w.state(Role::Portfolio)
                .into_iter()
                .flat_map(|s| s.values().map(Vec::len))
        ) <= 32 << 10
    );

    assert_eq!(folded(all)[&user], trader.now());
    let count = w.records(topics::PORTFOLIOS).len();
    w.reset_largest_turn();
    trader.say(&mut w, Event::OrderFilled, &symbol(17), Side::Sell, 5, "2");
    w.turn_of(Role::Portfolio);
    let partition = partitioner::partition(user.as_bytes(), 2);
    let all = w.partition(TopicPartition::new(topics::PORTFOLIOS, partition));
    assert_eq!(
        (all.len(), all.len() - count),
        (w.records(topics::PORTFOLIOS).len(), 2),
        "all of it lies where its user's records lie"
    );
    assert_eq!(
        all[count].key,
        Some(format!("{user}/{}", symbol(17)).into_bytes())
    );
    assert_eq!(
        (&all[count].value, all[count].header("type")),
        (&None, "Position".to_string())
    );
    assert_eq!(
        (all[count + 1].header("type"), all[count + 1].header("n")),
        ("Portfolio".to_string(), "1".to_string())
    );
    assert_eq!(
        (
            folded(all)[&user].positions.len(),
            w.largest_turn_of(Role::Portfolio)
        ),
        (POSITIONS - 1, 4),
        "two of state, two published"
    );

    assert_eq!(folded(all)[&user], trader.now());
}

/// Random trades of two users whose portfolios repeatedly grow over the bound and shrink below it,
/// in batches of any size and with restarts.
///
/// After every published record of a user, a reader has the portfolio as it was after some event.
/// At the end of each transaction the reader has the present portfolio. Compaction up to any point
/// changes none of this, and the state does not depend on the batches.
fn crossings(seed: u64) {
    let mut rng = Rng::new(seed);
    let mut w = World::new(1, RoleSettings::default());
    let mut at_once = World::new(1, RoleSettings::default());
    let mut traders: Vec<_> = ["u", "u!"]
        .map(|user| Trader {
            was: Some(Vec::new()),
            ..Trader::new(user)
        })
        .into();
    let mut turned = Vec::new();
    for n in 0..8_000_u64 {
        let trader = &mut traders[rng.below(2) as usize];

        // Grows and shrinks by turns.
        let grows = (n / 1_600).is_multiple_of(2);
        let symbol = format!("S{}", rng.below(600));
        let held = trader.holds(&symbol);
        let order = format!("{n}");
        match rng.below(10) {
            0 => {
                trader.say(&mut w, Event::OrderPending, &symbol, Side::Sell, 3, &order);
                if rng.below(2) == 0 {
                    trader.say(
                        &mut w,
                        Event::OrderCancelled,
                        &symbol,
                        Side::Sell,
                        3,
                        &order,
                    );
                }
            }
            1 => trader.say(&mut w, Event::OrderFilled, &symbol, Side::Sell, 2, &order),
            _ if grows => trader.say(
                &mut w,
                Event::OrderFilled,
                &symbol,
                Side::Buy,
                1 + rng.below(4) as i64,
                &order,
            ),
            _ => {
                // Closes the next position in its list.
                let next = trader
                    .fold
                    .portfolio()
                    .positions
                    .range(symbol.clone()..)
                    .find(|(_, h)| h.quantity != 0);
                let (symbol, held) = next.map_or((symbol, held), |(s, h)| (s.clone(), h.quantity));
                let side = if held < 0 { Side::Buy } else { Side::Sell };
                trader.say(
                    &mut w,
                    Event::OrderFilled,
                    &symbol,
                    side,
                    held.abs().max(1),
                    &order,
                );
            }
        }

        if rng.below(if n % 500 < 50 { 300 } else { 12 }) == 0 {
            w.turn_of(Role::Portfolio);
            turned.push(w.records(topics::PORTFOLIOS).len());
        }

        if rng.below(500) == 0 {
            w.turn_of(Role::Portfolio);
            w.restart(Role::Portfolio);
        }
    }

    w.turn_of(Role::Portfolio);
    for r in w.records(topics::ORDER_EVENTS) {
        at_once.event(&OrderEvent::decode(value(r)).expect("ours"));
    }

    at_once.turn_of(Role::Portfolio);
    assert_eq!(
        state(&w),
        state(&at_once),
        "seed {seed}: whatever the batches"
    );
    let all = w.partition(TopicPartition::new(topics::PORTFOLIOS, 0));
    let mut folds: BTreeMap<String, PortfolioFold> = BTreeMap::new();
    let mut apart = BTreeMap::<String, bool>::new();
    let mut changes = 0;
    for (n, r) in all.iter().enumerate() {
        let (user, symbol) = read_key(r.key.as_deref().expect("a key")).expect("text");
        let fold = folds.entry(user.to_string()).or_default();
        fold.take(symbol, r.value.as_deref()).expect("ours");
        if symbol.is_some() && n % 9 != 0 {
            continue;
        }

        let Some(seen) = fold
            .portfolio()
            .unwrap_or_else(|e| panic!("seed {seed}: {e}"))
        else {
            continue;
        };

        let trader = traders
            .iter()
            .find(|t| t.user == user)
            .expect("one of them");
        assert_eq!(
            seen,
            trader.was.as_ref().expect("kept")[seen.user_seq as usize - 1],
            "seed {seed}: at any moment"
        );
        if symbol.is_none() {
            changes += usize::from(
                apart.insert(user.to_string(), !fold.is_whole()) == Some(fold.is_whole()),
            );
            assert!(value(r).len() < 32 << 10);
        }
    }

    assert!(
        changes >= 6,
        "seed {seed}: {changes} times from one form to the other"
    );
    let due: BTreeMap<_, _> = traders.iter().map(|t| (t.user.clone(), t.now())).collect();
    for _ in 0..20 {
        let cut = rng.below(all.len() as u64 + 1) as usize;
        assert_eq!(
            folded(compacted(all, cut, rng.below(2) == 0)),
            due,
            "seed {seed}: compacted up to {cut}"
        );
        let end = turned[rng.below(turned.len() as u64) as usize];
        assert_eq!(
            folded(compacted(&all[..end], cut.min(end), false)),
            folded(&all[..end]),
            "seed {seed}: at the end of a transaction"
        );
    }
}

#[test]
fn readers_are_right_while_a_portfolio_splits_or_joins() {
    let seeds = std::env::var("PORTFOLIO_SEEDS")
        .map_or(2, |n| n.parse().expect("PORTFOLIO_SEEDS is a number"));
    (1..=seeds).for_each(crossings);
}

/// A user of version 2 whose many positions barely fitted into one record.
#[test]
fn one_record_of_version_2_moves_in_parts_and_stays_right() {
    const POSITIONS: usize = 9_000;
    let symbol = |n: usize| format!("{n:064}");
    let mut trader = Trader::new("u");
    let mut elsewhere = World::new(1, RoleSettings::default());
    for n in 0..POSITIONS {
        trader.say(
            &mut elsewhere,
            Event::OrderFilled,
            &symbol(n),
            Side::Buy,
            5,
            "1",
        );
    }

    let p = trader.now();
    let mut old = vec![2];
    put(&mut old, p.user_seq);
    let signed = |out: &mut Vec<u8>, n: i64| ports::varint::put_signed(out, i128::from(n));
    [
        p.cash_available_e4,
        p.cash_reserved_e4,
        p.realised_e4,
        p.fees_e4,
    ]
    .into_iter()
    .for_each(|n| signed(&mut old, n));

    put(&mut old, p.positions.len() as u64);
    for (symbol, h) in &p.positions {
        put_bytes(&mut old, symbol.as_bytes());
        [h.quantity, h.reserved, h.cost_basis_e4]
            .into_iter()
            .for_each(|n| signed(&mut old, n));
    }

    let mut w = World::new(1, RoleSettings::default());
    w.set_state(Role::Portfolio, 0, [(b"u".to_vec(), old)].into());
    let mut whole = Vec::new();
    p.encode(&mut whole);
    w.append(topics::PORTFOLIOS, "u", &whole);
    for n in 0..30 {
        let side = if n % 3 == 0 { Side::Sell } else { Side::Buy };
        trader.say(&mut w, Event::OrderFilled, &symbol(n * 299), side, 5, "2");
        w.turn_of(Role::Portfolio);
        assert_eq!(
            folded(w.records(topics::PORTFOLIOS))["u"],
            trader.now(),
            "after event {n}"
        );
    }

    assert!(
        w.largest_turn_of(Role::Portfolio) < 1_100,
        "{} records",
        w.largest_turn_of(Role::Portfolio)
    );
    assert!(
        state(&w)[&b"u"[..]].len() < 100,
        "nothing is left in the record"
    );
    elsewhere.turn_of(Role::Portfolio);
    for r in w.records(topics::ORDER_EVENTS) {
        elsewhere.event(&OrderEvent::decode(value(r)).expect("ours"));
    }
    elsewhere.turn_of(Role::Portfolio);
    assert_eq!(
        state(&w),
        state(&elsewhere),
        "as if it had been kept like this from the beginning"
    );
}
