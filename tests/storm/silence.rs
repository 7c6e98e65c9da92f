//! How long a partition may be silent. A probe order for each partition, four times a second, whose
//! user and symbol both belong to that partition: its way leads through the task of `orders` and
//! the task of `trading` with that number, and back. The longest time from sending one to its
//! outcome is the longest silence, and what was being done meanwhile is its cause. A partition is
//! calm when brokers and wire are left alone and nothing is done to the instances that own it;
//! whatever is done to others must not silence it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use client::simulate::Rng;
use ports::partitioner;
use ports::records::Records;
use ports::{From, Limits, Log};
use wire::topics as t;

use crate::crew::Name;
use crate::support::oracle::decode;
use crate::traffic::{Command, Source};

/// What was done keeps its effect for this long: sessions of 10 s end, tasks move and are restored.
const AFTER: Duration = Duration::from_secs(12);
/// Instances say once a second which tasks they run.
const SEEN_LATE: Duration = Duration::from_secs(2);
/// The two roles that an order's way leads through.
pub const ON_THE_WAY: [&str; 2] = ["orders", "trading"];

/// To whom something is done.
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
    /// None: it goes on.
    until: Option<Instant>,
}

/// What was done to whom, and when. Shared by all that do it.
#[derive(Clone, Default)]
pub struct Troubles(Arc<Mutex<Vec<Trouble>>>);

impl Troubles {
    fn all(&self) -> MutexGuard<'_, Vec<Trouble>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something begins now and lasts.
    pub fn lasting(&self, kind: &'static str, whom: Whom, time: Duration) {
        let from = Instant::now();
        self.all().push(Trouble {
            kind,
            whom,
            from,
            until: Some(from + time),
        });
    }

    /// Something begins; it goes on until it is ended.
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

    /// What concerned a partition between two moments.
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

/// Who has said that it runs which task, and since when.
#[derive(Default)]
pub struct Owners(BTreeMap<(&'static str, u32), Vec<(Instant, Name)>>);

impl Owners {
    /// An instance says that it runs a task.
    pub fn note(&mut self, name: Name, task: u32) {
        let known = self.0.entry((name.0, task)).or_default();
        if known.last().is_none_or(|(_, last)| *last != name) {
            known.push((Instant::now(), name));
        }
    }

    /// Those of a partition between two moments.
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

/// When each probe was sent: by partition and number.
type Sent = Arc<Mutex<BTreeMap<(u32, u64), Instant>>>;

/// Makes the probe orders, one partition after the other.
pub struct Probes {
    /// A user and a symbol of each partition.
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

/// Reads how the probes fare, past the proxies.
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

    /// What became of all probes. Call it when all is at rest.
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
    let mut next: Vec<From> = vec![From::Start; count as usize];
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
            // A broker is away: from where it was.
            reader = None;
            std::thread::sleep(Duration::from_millis(100));
        }

        let now = Instant::now();
        for r in chunk.iter() {
            next[r.at.partition as usize] = From::Offset(r.offset + 1);
            if !r
                .key
                .is_some_and(|key| users.iter().any(|u| u.as_bytes() == key))
            {
                continue;
            }

            let event = decode(r.value.unwrap_or_default());

            // Anything behind the second hop: filled as a rule, or refused by the book.
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

/// What the probes have shown.
#[derive(Clone, Debug, Default)]
pub struct Silence {
    pub probes: usize,
    pub calm: usize,
    /// The longest, while its partition was calm.
    pub longest_calm: Duration,
    /// Its partition, and when it began.
    pub calm_at: (u32, Duration),
    pub longest: Duration,
    /// Of that one: its partition, and what was being done.
    pub cause: String,
    /// How many probes met each kind of trouble.
    pub met: BTreeMap<&'static str, usize>,
    /// Probes that nobody answered.
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
