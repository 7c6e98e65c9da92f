//! The longest silence of a partition. For each partition, probe orders are sent four times a
//! second. User and symbol of a probe both belong to that partition. The path of a probe goes
//! through the tasks of `orders` and `trading` with that number, and back. The longest silence is
//! the longest time from a send to its outcome. The faults at that time are the cause.
//!
//! A partition is calm while no fault affects brokers, network or the instances that own the
//! partition. Faults of other instances must not silence a calm partition.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use client::simulate::Rng;
use ports::partitioner;
use ports::records::Records;
use ports::{Limits, Log, StartOffset};
use wire::topics as t;

use crate::crew::Name;
use crate::support::oracle::decode;
use crate::traffic::{Command, Source};

/// A fault has effects for this time: sessions of 10 s end, tasks move and are restored.
const AFTER: Duration = Duration::from_secs(12);
/// Instances report their tasks once a second.
const SEEN_LATE: Duration = Duration::from_secs(2);
/// The two roles in the path of an order.
pub const ON_THE_WAY: [&str; 2] = ["orders", "trading"];

/// Target of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whom {
    All,
    Instance(Name),
    Role(&'static str),
    Partition(u32),
}

struct Trouble {
    kind: &'static str,
    whom: Whom,
    from: Instant,
    /// None while the fault lasts.
    until: Option<Instant>,
}

/// All faults with target and time. All threads that cause faults share this list.
#[derive(Clone, Default)]
pub struct Troubles(Arc<Mutex<Vec<Trouble>>>);

impl Troubles {
    fn all(&self) -> MutexGuard<'_, Vec<Trouble>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a fault that begins now and lasts for `time`.
    pub fn lasting(&self, kind: &'static str, whom: Whom, time: Duration) {
        let from = Instant::now();
        self.all().push(Trouble {
            kind,
            whom,
            from,
            until: Some(from + time),
        });
    }

    /// Adds a fault that begins now and lasts until its end is reported.
    pub fn begin(&self, kind: &'static str, whom: Whom) -> usize {
        let mut all = self.all();
        all.push(Trouble {
            kind,
            whom,
            from: Instant::now(),
            until: None,
        });

        all.len() - 1
    }

    pub fn end(&self, number: usize) {
        self.all()[number].until = Some(Instant::now());
    }

    /// Faults that concerned a partition between two moments.
    fn met(
        &self,
        partition: u32,
        owners: &BTreeSet<Name>,
        from: Instant,
        to: Instant,
    ) -> BTreeSet<&'static str> {
        let all = self.all();
        let concerns = |t: &&Trouble| match t.whom {
            Whom::All => true,
            Whom::Instance(name) => owners.contains(&name),
            Whom::Role(role) => ON_THE_WAY.contains(&role),
            Whom::Partition(p) => p == partition,
        };

        let during =
            |t: &&Trouble| t.from <= to && t.until.is_none_or(|until| until + AFTER >= from);
        all.iter()
            .filter(concerns)
            .filter(during)
            .map(|t| t.kind)
            .collect()
    }
}

/// Instances that have reported each task, with the time of the first report.
#[derive(Default)]
pub struct Owners(BTreeMap<(&'static str, u32), Vec<(Instant, Name)>>);

impl Owners {
    pub fn note(&mut self, name: Name, task: u32) {
        let known = self.0.entry((name.0, task)).or_default();
        if known.last().is_none_or(|(_, last)| *last != name) {
            known.push((Instant::now(), name));
        }
    }

    /// Owners of a partition between two moments.
    fn between(&self, partition: u32, from: Instant, to: Instant) -> BTreeSet<Name> {
        let mut found = BTreeSet::new();
        for role in ON_THE_WAY {
            let known = self
                .0
                .get(&(role, partition))
                .map_or(&[][..], Vec::as_slice);
            let begun = known
                .iter()
                .rposition(|(at, _)| *at + SEEN_LATE <= from)
                .unwrap_or(0);
            found.extend(
                known[begun..]
                    .iter()
                    .filter(|(at, _)| *at <= to + SEEN_LATE)
                    .map(|(_, name)| *name),
            );
        }

        found
    }
}

/// Send time of each probe, by partition and number.
type Sent = Arc<Mutex<BTreeMap<(u32, u64), Instant>>>;

/// Makes the probe orders, one partition after the other.
pub struct Probes {
    /// A user and a symbol for each partition.
    ways: Vec<(String, String)>,
    next: u64,
    sent: Sent,
}

impl Probes {
    pub fn new(partitions: u32, symbols: u64) -> Probes {
        let of = |name: &str| partitioner::partition(name.as_bytes(), partitions);
        let way = |p: u32| {
            let user = (0..)
                .map(|n| format!("q{n}"))
                .find(|u| of(u) == p)
                .expect("there is one");
            let symbol = (0..symbols)
                .map(|n| format!("S{n}"))
                .find(|s| of(s) == p)
                .expect("a symbol in every partition");
            (user, symbol)
        };

        Probes {
            ways: (0..partitions).map(way).collect(),
            next: 0,
            sent: Sent::default(),
        }
    }

    pub fn sent(&self) -> Sent {
        self.sent.clone()
    }

    pub fn users(&self) -> Vec<String> {
        self.ways.iter().map(|w| w.0.clone()).collect()
    }
}

impl Source for Probes {
    fn next(&mut self, _: &mut Rng) -> Command {
        let partition = self.next % self.ways.len() as u64;
        let number = self.next / self.ways.len() as u64;
        self.next += 1;
        let (user, symbol) = &self.ways[partition as usize];
        self.sent
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert((partition as u32, number), Instant::now());
        Command::buy(&format!("{partition}-{number}"), user, symbol, 1)
    }
}

/// Reads the outcomes of the probes, without the proxies.
pub struct Watch {
    stop: Arc<AtomicBool>,
    sent: Sent,
    thread: JoinHandle<BTreeMap<(u32, u64), Instant>>,
}

impl Watch {
    pub fn start(log: Arc<dyn Log>, probes: &Probes) -> Watch {
        let stop = Arc::new(AtomicBool::new(false));
        let until = stop.clone();
        let users = probes.users();
        let thread = std::thread::spawn(move || watch(&*log, &users, &until));
        Watch {
            stop,
            sent: probes.sent(),
            thread,
        }
    }

    /// The outcome of all probes. Call at rest.
    pub fn stop(self, troubles: &Troubles, owners: &Owners) -> Silence {
        self.stop.store(true, Ordering::Relaxed);
        let seen = self.thread.join().expect("the watch ends well");
        let sent = self
            .sent
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        Silence::of(&sent, &seen, troubles, owners)
    }
}

fn watch(log: &dyn Log, users: &[String], stop: &AtomicBool) -> BTreeMap<(u32, u64), Instant> {
    let count = log
        .partitions(t::ORDER_EVENTS)
        .expect("the log answers")
        .expect("the topic exists");
    let mut reader = None;
    let mut next: Vec<StartOffset> = vec![StartOffset::Start; count as usize];
    let mut found = BTreeMap::new();
    let mut chunk = Records::new();
    let limits = Limits {
        records: 10_000,
        bytes: 8 << 20,
        age: Duration::from_millis(20),
    };

    loop {
        let last = stop.load(Ordering::Relaxed);
        if reader.is_none() {
            let from: Vec<_> = (0..count).zip(next.iter().copied()).collect();
            reader = log.reader(t::ORDER_EVENTS, &from, false).ok();
        }

        chunk.clear();
        let polled = reader
            .as_mut()
            .map(|r| r.poll(Duration::from_millis(100), limits, &mut chunk));
        if !matches!(polled, Some(Ok(()))) {
            // A broker is away: read again from the last position.
            reader = None;
            std::thread::sleep(Duration::from_millis(100));
        }

        let now = Instant::now();
        for r in chunk.iter() {
            next[r.at.partition as usize] = StartOffset::Offset(r.offset + 1);
            if !r
                .key
                .is_some_and(|key| users.iter().any(|u| u.as_bytes() == key))
            {
                continue;
            }

            let event = decode(r.value.unwrap_or_default());

            // Any outcome after the second hop: usually filled, or refused by the book.
            let order = event["order_id"]
                .as_str()
                .and_then(|id| id.split_once('-'))
                .filter(|_| event["event"] == "OrderFilled");
            if let Some((partition, number)) =
                order.and_then(|(p, n)| Some((p.parse().ok()?, n.parse().ok()?)))
            {
                found.entry((partition, number)).or_insert(now);
            }
        }

        if last && reader.as_ref().is_some_and(|r| r.caught_up()) && chunk.is_empty() {
            return found;
        }
    }
}

/// Result of the probes.
#[derive(Clone, Debug, Default)]
pub struct Silence {
    pub probes: usize,
    pub calm: usize,
    /// Longest silence of a calm partition.
    pub longest_calm: Duration,
    /// Partition of the longest calm silence, and its begin.
    pub calm_at: (u32, Duration),
    pub longest: Duration,
    /// Partition of the longest silence, and the faults at that time.
    pub cause: String,
    /// Number of probes by kind of fault.
    pub met: BTreeMap<&'static str, usize>,
    /// Probes without an outcome.
    pub unanswered: usize,
}

impl Silence {
    fn of(
        sent: &BTreeMap<(u32, u64), Instant>,
        seen: &BTreeMap<(u32, u64), Instant>,
        troubles: &Troubles,
        owners: &Owners,
    ) -> Silence {
        let mut s = Silence::default();
        let began = sent.values().min().copied().unwrap_or_else(Instant::now);
        for (probe, at) in sent {
            s.probes += 1;
            let Some(end) = seen.get(probe) else {
                s.unanswered += 1;
                continue;
            };

            let partition = probe.0;
            let took = end.saturating_duration_since(*at);
            let owned_by = owners.between(partition, *at, *end);
            let mut met = troubles.met(partition, &owned_by, *at, *end);
            if owned_by.len() != ON_THE_WAY.len() {
                met.insert("tasks moved");
            }

            for kind in &met {
                *s.met.entry(*kind).or_default() += 1;
            }

            if met.is_empty() {
                s.calm += 1;
                if took > s.longest_calm {
                    (s.longest_calm, s.calm_at) = (took, (partition, at.duration_since(began)));
                }
            }

            if took > s.longest {
                let met: Vec<_> = met.into_iter().collect();
                let met = if met.is_empty() {
                    "nothing was being done".to_string()
                } else {
                    met.join(", ")
                };

                (s.longest, s.cause) = (
                    took,
                    format!(
                        "partition {partition} from {:.0} s on: {met}",
                        at.duration_since(began).as_secs_f64()
                    ),
                );
            }
        }

        s
    }
}
