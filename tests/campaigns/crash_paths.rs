//! Crash points that the loads of `crash_points*.rs` do not reach: a sweep and a mass cancel in
//! parts, and offsets that a cluster has forgotten. A start takes forgotten offsets from the
//! changelog, or `repair offsets` commits them. The program dies at each point and is restarted. At
//! the end every effect is there exactly once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use log_local::{LocalLog, LocalOptions};
use ports::Log;
use ports::topics::{TopicId, TopicPartition};
use serde_json::{Value, json};
use wire::topics as t;

use crate::support::forgotten::forget;
use crate::support::load::Sender;
use crate::support::oracle::{self, Seen, Verdict};
use crate::support::program::Program;
use crate::support::rest;

const ORDERS: &str = "processor-orders";
/// Sizes of a part, as in the product, and numbers of orders that make some parts.
const MATCH_PART: usize = 1_000;
const MASS_PART: usize = 500;
const MAKERS: usize = 2 * MATCH_PART + 300;
const RESTING: usize = 2 * MASS_PART + 200;
/// Three deposits that are sent, and the opening cash.
const DEPOSITS: usize = 4;

struct Place {
    p: Program,
    dir: tempfile::TempDir,
}

impl Place {
    /// One partition per topic, so every life processes the commands in their send order.
    fn new() -> Place {
        let dir = tempfile::tempdir().expect("a directory");
        let flags = [
            "--rate-limit",
            "0",
            "--stale-ms",
            "1000000000",
            "--opening-cash",
            "100000000",
        ];

        let p = Program::embedded(dir.path(), "log").with(&flags);
        p.good(&["topics", "create", "--partitions", "1"]);
        let place = Place { p, dir };
        place.send(|s| {
            s.send(
                t::INSTRUMENTS,
                "BOOK",
                r#"{"symbol":"BOOK","house":false,"short_ok":true}"#,
            );
            s.flush();
            s.send(
                t::MARKET_DATA,
                "BOOK",
                r#"{"symbol":"BOOK","price":"100","timestamp":1625159076}"#,
            );
        });

        place.comes_to_rest();
        place
    }

    fn path(&self) -> std::path::PathBuf {
        self.dir.path().join("log")
    }

    fn log(&self) -> LocalLog {
        LocalLog::open(&self.path(), &t::table(""), LocalOptions::default())
            .expect("nobody else has the log")
    }

    fn send(&self, what: impl FnOnce(&mut Sender)) {
        let log = self.log();
        let mut sender = Sender::new(&log);
        what(&mut sender);
        sender.flush();
    }

    fn dies(&self, at: &str) {
        self.p.dies(&["run", "--role", "all"], at);
    }

    /// Runs all roles until they have read all their inputs.
    fn comes_to_rest(&self) {
        let began = Instant::now();
        loop {
            let running = self.p.start_roles("all");

            // The roles hold the log, so the test sees only after their end whether all is read.
            std::thread::sleep(Duration::from_secs(2));
            running.stop();
            let log: Arc<dyn Log> = Arc::new(self.log());
            let Some(why) = rest::unread(&*log, "").expect("the log answers") else {
                return;
            };

            assert!(
                began.elapsed() < Duration::from_secs(300),
                "not at rest: {why}"
            );
        }
    }

    fn read(&self, topic: TopicId) -> Vec<Seen> {
        oracle::read_all(&self.log(), topic)
    }

    /// Every event has its notification, local state equals the log, and a replay gives the same
    /// result.
    fn is_whole(&self) {
        let mut v = Verdict::default();
        let log = self.log();
        oracle::check_notifications(&mut v, &log, &oracle::read_all(&log, t::ORDER_EVENTS));
        oracle::check_audit(&mut v, &log, &t::table(""));
        assert_eq!(oracle::read_all(&log, t::DEAD_LETTERS).len(), 0);
        drop(log);
        v.assert_clean();
        let verified = self.p.good(&["verify"]);
        assert!(verified.lines().all(|l| l.starts_with("ok")), "{verified}");
        let replays = self.p.good(&["replay"]);
        assert_eq!(replays.matches("equal").count(), 5, "{replays}");
    }
}

fn limit(user: &str, id: &str, side: &str, quantity: usize, price: &str) -> String {
    let order = json!({"order_id": id, "user_id": user, "symbol": "BOOK", "quantity": quantity, "order_type": side, "type": "limit", "limit_price": price});
    order.to_string()
}

/// Number of `event` events, by order.
fn told(events: &[Seen], event: &str) -> BTreeMap<String, usize> {
    let mut all = BTreeMap::new();
    for e in events.iter().filter(|e| e.text("event") == event) {
        *all.entry(e.text("order_id").to_string()).or_default() += 1;
    }

    all
}

/// The trades, without their times.
fn trades(place: &Place) -> Vec<Value> {
    let timeless = |mut t: Seen| {
        let trade = t.value.as_object_mut().expect("a trade");
        trade.retain(|name, _| !name.contains("time"));
        t.value
    };

    place.read(t::TRADES).into_iter().map(timeless).collect()
}

/// One order meets 2300 others, in three parts. The trades must be the same as in a run without
/// crashes.
#[test]
fn a_sweep_dies_between_its_parts_and_trades_everything_once() {
    let sent = |s: &mut Sender| {
        for n in 0..MAKERS {
            let user = format!("maker{}", n % 7);
            s.send(
                t::ORDER_COMMANDS,
                &user,
                limit(
                    &user,
                    &format!("m{n}"),
                    "sell",
                    1,
                    &format!("100.{:02}", n % 90),
                ),
            );
        }

        s.send(
            t::ORDER_COMMANDS,
            "taker",
            limit("taker", "all", "buy", MAKERS, "101"),
        );

        // This order waits behind the sweep.
        s.send(
            t::ORDER_COMMANDS,
            "late",
            limit("late", "next", "buy", 1, "99"),
        );
    };

    let place = Place::new();
    place.send(sent);
    for at in [
        "match.part:1",
        "match.part:2",
        "match.goes_on:1",
        "match.goes_on:2",
        "match.goes_on:1",
    ] {
        place.dies(at);
    }

    place.comes_to_rest();
    let events = place.read(t::ORDER_EVENTS);
    let filled = told(&events, "OrderFilled");
    assert_eq!(
        (filled.len(), filled.values().max()),
        (MAKERS + 1, Some(&1))
    );
    assert_eq!(told(&events, "OrderAccepted").len(), MAKERS + 2);
    let all = trades(&place);
    assert_eq!(all.len(), MAKERS);
    place.is_whole();

    let calm = Place::new();
    calm.send(sent);
    calm.comes_to_rest();
    assert!(
        trades(&calm) == all,
        "the trades of a sweep that died are others"
    );
}

/// 1200 resting orders of one user end in three parts.
#[test]
fn a_mass_cancel_killed_between_parts_ends_each_order_once() {
    let place = Place::new();
    place.send(|s| {
        (0..RESTING).for_each(|n| {
            s.send(
                t::ORDER_COMMANDS,
                "many",
                limit("many", &format!("r{n}"), "buy", 1, "99"),
            )
        });
    });

    place.comes_to_rest();
    place.send(|s| {
        s.send(
            t::ORDER_COMMANDS,
            "many",
            json!({"order_id": "end", "user_id": "many", "command": "mass_cancel"}).to_string(),
        );
        s.send(
            t::ORDER_COMMANDS,
            "many",
            limit("many", "later", "buy", 1, "98"),
        );
    });

    for at in [
        "mass.part:1",
        "mass.goes_on:1",
        "mass.goes_on:2",
        "mass.goes_on:1",
    ] {
        place.dies(at);
    }

    place.comes_to_rest();
    let events = place.read(t::ORDER_EVENTS);
    let cancelled = told(&events, "OrderCancelled");
    assert_eq!(
        (cancelled.len(), cancelled.values().max()),
        (RESTING, Some(&1))
    );
    assert!(
        !cancelled.contains_key("later"),
        "an order that came behind the mass cancel stays"
    );
    place.is_whole();
}

/// A group with forgotten offsets gets the offsets from its changelog, even if the start dies at
/// any point.
#[test]
fn a_start_killed_over_forgotten_offsets_does_nothing_twice() {
    let place = deposits();
    let points = [
        "adopt.positions",
        "log.write:1",
        "log.written:1",
        "adopt.committed",
        "resume.after",
        "commit.decided",
    ];

    for (n, at) in points.into_iter().enumerate() {
        forget(&place.path(), ORDERS);
        deposit(&place, &format!("next{n}"));
        place.p.dies(&["run", "--role", "orders"], at);

        // The next start may or may not find the offsets, which depends on the point of the crash.
        place.comes_to_rest();
        assert_eq!(deposited(&place), DEPOSITS + 1 + n, "{at}");
        place.is_whole();
    }
}

/// The same for the command that commits the offsets again.
#[test]
fn a_repair_of_offsets_dies_and_the_next_one_ends_well() {
    let place = deposits();
    let right = offsets(&place);
    for at in [
        "repair.joined",
        "repair.judged",
        "log.write:1",
        "log.written:1",
        "repair.committed",
    ] {
        forget(&place.path(), ORDERS);
        let repair = ["repair", "offsets", "--role", "orders"];
        place.p.dies(&repair, at);
        let now = offsets(&place);
        let done = ["log.written:1", "repair.committed"].contains(&at);
        assert_eq!(
            now,
            if done {
                right.clone()
            } else {
                vec![None; right.len()]
            },
            "{at}"
        );

        place.p.good(&repair);
        assert_eq!(offsets(&place), right, "{at}");
    }

    deposit(&place, "last");
    place.comes_to_rest();
    assert_eq!(deposited(&place), DEPOSITS + 1);
    place.is_whole();
}

/// Committed offsets of `orders`.
fn offsets(place: &Place) -> Vec<Option<u64>> {
    let inputs = [t::OPERATOR_COMMANDS, t::EXECUTIONS].map(|topic| TopicPartition::new(topic, 0));
    place
        .log()
        .group_offsets(ORDERS, &inputs)
        .expect("the log answers")
}

/// A place with three deposits, at rest.
fn deposits() -> Place {
    let place = Place::new();
    ["a", "b", "c"].iter().for_each(|id| deposit(&place, id));
    place.comes_to_rest();
    assert_eq!(deposited(&place), DEPOSITS);
    place
}

fn deposit(place: &Place, id: &str) {
    let command = json!({"order_id": id, "user_id": "saver", "command": "deposit", "amount": "10"})
        .to_string();
    place.send(|s| s.send(t::OPERATOR_COMMANDS, "saver", command));
}

fn deposited(place: &Place) -> usize {
    place
        .read(t::ORDER_EVENTS)
        .iter()
        .filter(|e| e.text("event") == "Deposited")
        .count()
}
