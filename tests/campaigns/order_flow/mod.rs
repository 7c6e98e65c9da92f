//! Real order flow: the feed of an exchange, row by row, as commands of many users. The commands go
//! through all five roles on a real broker, while instances are killed. `feed.rs` has the rule by
//! which rows become commands.
//!
//! ```text
//! cargo test --features campaigns,faults --test campaigns order_flow::                                 a feed that is made up, with the disorder of a real one
//! ORDER_FLOW=orders.csv cargo test --features campaigns,faults --test campaigns order_flow:: -- --nocapture
//! ```
//! The same flow runs twice through one book, and must lead to the same trades, orders and
//! portfolios. With one partition the commands have a fixed order. Then the flow runs through four
//! partitions and two instances. There the order in which users reach the book is not determined,
//! but every other result is. Last, the flow runs twice through one book with a house that quotes.
//! The price changes only while no command is in flight, because topics have no common order.

mod feed;
mod outcome;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use ports::records::Records;
use ports::{Limits, Log, Reader, StartOffset};
use wire::topics as t;

use crate::support::fleet::{Fleet, Name};
use crate::support::load::{Sender, wait_for};
use crate::support::oracle;
use crate::support::process::{Installation, replayed};
use crate::support::{broker, rest};
use feed::{SYMBOL, Step};
use outcome::Outcome;

const ROLES: [&str; 5] = ["orders", "trading", "portfolio", "notifications", "audit"];
/// Rows of the generated feed.
const ROWS: usize = 6_000;
/// Opening cash of the accounts, enough for short sales of the whole book.
const CASH: i64 = 100_000_000_000;
const SOON: Duration = Duration::from_secs(60);
/// Most commands without an answer at a kill, so that instances are at work.
const AHEAD: usize = 200;

fn rows() -> Vec<feed::Row> {
    match std::env::var_os("ORDER_FLOW") {
        Some(file) => feed::read(Path::new(&file)),
        None => feed::generate(2015, ROWS),
    }
}

/// The answers that a client has read so far.
struct Answers {
    reader: Box<dyn Reader>,
    batch: Records,
    seen: BTreeSet<(String, String)>,
}

impl Answers {
    fn new(log: &dyn Log) -> Answers {
        let count = log
            .partitions(t::ORDER_EVENTS)
            .expect("the log answers")
            .expect("the topic exists");
        let from: Vec<_> = (0..count).map(|p| (p, StartOffset::Start)).collect();
        Answers {
            reader: log.reader(t::ORDER_EVENTS, &from, true).expect("a reader"),
            batch: Records::new(),
            seen: BTreeSet::new(),
        }
    }

    fn wait(&mut self, s: &Step, fleet: &mut Fleet) {
        let key = (s.user.clone(), s.id.clone());
        wait_for(&format!("an answer to {}", s.json), SOON, || {
            self.batch.clear();
            let limits = Limits {
                records: 10_000,
                bytes: 8 << 20,
                age: Duration::from_millis(20),
            };

            self.reader
                .poll(Duration::from_millis(20), limits, &mut self.batch)
                .expect("a read");
            for e in self
                .batch
                .iter()
                .map(|r| oracle::decode(r.value.unwrap_or_default()))
            {
                let text = |field: &str| e[field].as_str().map(str::to_string);
                if let (Some(user), Some(id)) = (
                    text("user_id"),
                    text("cause_id").or_else(|| text("order_id")),
                ) {
                    self.seen.insert((user, id));
                }
            }

            fleet.check();
            self.seen.contains(&key)
        });
    }
}

struct Run {
    outcome: Outcome,
    answers: String,
    took: Duration,
}

/// Settings of a run.
struct Plan<'a> {
    name: &'a str,
    partitions: u32,
    instances: &'a [Name],
    kills: usize,
    /// Number of commands between two quotes of the house; none without a house.
    quotes: Option<usize>,
}

/// The price that a step names.
fn price(s: &Step) -> Option<&str> {
    s.json.split_once(r#""limit_price":""#)?.1.split('"').next()
}

/// Sends the flow through a new installation.
fn run(broker: &broker::Broker, steps: &[Step], plan: &Plan<'_>) -> Run {
    let &Plan {
        name,
        partitions,
        instances,
        kills,
        quotes,
    } = plan;

    let dir = tempfile::tempdir().expect("a directory");
    let prefix = broker::unique_prefix(name);
    let installation = Installation::ample(&broker.address, &prefix, dir.path(), CASH);
    let log = installation.log();
    installation.run(&["topics", "create", "--partitions", &partitions.to_string()]);
    let mut sender = Sender::new(&*log);
    let house = quotes.is_some();
    let listing = format!(
        r#"{{"symbol":"{SYMBOL}","house":{house},"half_spread_bps":5,"house_max":20000,"short_ok":true,"collar_bps":5000}}"#
    );
    sender.send(t::INSTRUMENTS, SYMBOL, listing);
    let tick = |price: &str| format!(r#"{{"symbol":"{SYMBOL}","price":"{price}"}}"#);
    sender.send(
        t::MARKET_DATA,
        SYMBOL,
        tick(steps.iter().find_map(price).expect("a row with a price")),
    );
    sender.flush();
    let mut fleet = Fleet::new(installation.clone());
    instances.iter().for_each(|name| fleet.start(*name));
    wait_for("a reference price", SOON, || {
        !oracle::read_all(&*log, t::REFERENCE_PRICES).is_empty()
    });

    let began = Instant::now();
    let mut answers = Answers::new(&*log);
    let mut changing = BTreeMap::<&str, &Step>::new();
    let every = steps.len() / (kills + 1);
    let mut killed = 0;
    for (i, s) in steps.iter().enumerate() {
        // Only one replace of an order at a time, as the contract demands. The next replace waits
        // for the answer.
        if s.changes
            && let Some(before) = changing.insert(&s.order, s)
        {
            sender.flush();
            answers.wait(before, &mut fleet);
        }

        if let Some(quotes) = quotes
            && i > 0
            && i % (steps.len() / (quotes + 1)) == 0
        {
            sender.flush();
            rest::wait_at_rest(&*log, &prefix, SOON, || fleet.check());
            sender.send(
                t::MARKET_DATA,
                SYMBOL,
                tick(
                    steps[i..]
                        .iter()
                        .find_map(price)
                        .expect("a row with a price"),
                ),
            );

            sender.flush();
            rest::wait_at_rest(&*log, &prefix, SOON, || fleet.check());
        }

        sender.send(t::ORDER_COMMANDS, &s.user, &s.json);
        if killed < kills && i == (killed + 1) * every {
            sender.flush();
            answers.wait(&steps[i.saturating_sub(AHEAD)], &mut fleet);
            let name = instances[killed % instances.len()];
            fleet.kill9(name);
            fleet.start(name);
            killed += 1;
        }
    }

    sender.flush();
    rest::wait_at_rest(&*log, &prefix, Duration::from_secs(300), || fleet.check());
    let took = began.elapsed();
    let verified = installation.run(&["verify"]);
    fleet.stop_all();
    let replays = [(); 2].map(|()| installation.run(&["replay"]));

    let (outcome, counts, v) = outcome::judge(&*log, &t::table(&prefix), steps, CASH * 10_000);
    println!(
        "order flow, {name}: {} commands in {:.1} s, {} events, {} trades, {} audit entries, {} kills; wrong {}; outcome {}",
        v.commands,
        took.as_secs_f64(),
        v.events,
        v.trades,
        v.audit_entries,
        fleet.kills.values().sum::<u32>(),
        v.wrong.len(),
        outcome::digest(&outcome)
    );

    v.assert_clean();
    assert_eq!(v.commands, steps.len());
    assert!(
        v.trades > steps.len() / 200,
        "the flow hardly trades: {}",
        v.trades
    );
    assert_eq!(oracle::read_all(&*log, t::DEAD_LETTERS).len(), 0);
    assert_eq!(replayed(&replays[0]), replayed(&replays[1]));
    assert_eq!(
        replays[0].matches("equal").count(),
        ROLES.len() * partitions as usize,
        "{}",
        replays[0]
    );
    assert!(verified.lines().all(|l| l.starts_with("ok")), "{verified}");
    Run {
        outcome,
        answers: outcome::table(&counts),
        took,
    }
}

#[test]
fn a_real_feed_leads_to_the_same_outcome_twice() {
    let broker = broker::Broker::start();
    let steps = feed::steps(&rows());
    let each: Vec<Name> = ROLES.iter().map(|role| (*role, 1)).collect();
    let first = twice(
        &broker,
        &steps,
        &Plan {
            name: "first",
            partitions: 1,
            instances: &each,
            kills: 0,
            quotes: None,
        },
    );

    let two: Vec<Name> = each
        .iter()
        .copied()
        .chain([("trading", 2), ("orders", 2), ("portfolio", 2)])
        .collect();
    let spread = run(
        &broker,
        &steps,
        &Plan {
            name: "spread",
            partitions: 4,
            instances: &two,
            kills: 16,
            quotes: None,
        },
    );

    print!("{}", spread.answers);
    println!(
        "{:.1} s, {:.1} s on four partitions",
        first.took.as_secs_f64(),
        spread.took.as_secs_f64()
    );
    let house = twice(
        &broker,
        &steps,
        &Plan {
            name: "house",
            partitions: 1,
            instances: &each,
            kills: 0,
            quotes: Some(3),
        },
    );

    assert!(
        house.outcome.trades.len() > first.outcome.trades.len(),
        "the house hardly trades"
    );
}

/// The same flow again, with kills: the same outcome.
fn twice(broker: &broker::Broker, steps: &[Step], plan: &Plan<'_>) -> Run {
    let first = run(broker, steps, plan);
    print!("{}", first.answers);
    let second = run(
        broker,
        steps,
        &Plan {
            name: &format!("{}-killed", plan.name),
            kills: 10,
            ..*plan
        },
    );

    assert_eq!(
        outcome::first_difference(&first.outcome, &second.outcome),
        None
    );
    assert_eq!(
        outcome::digest(&first.outcome),
        outcome::digest(&second.outcome)
    );
    println!(
        "{}: {:.1} s, {:.1} s with kills",
        plan.name,
        first.took.as_secs_f64(),
        second.took.as_secs_f64()
    );
    first
}
