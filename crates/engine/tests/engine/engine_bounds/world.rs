//! A log in memory, a clock that moves with the work, and a role that executes the instructions in
//! its records. The test decides the end of each commit.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use engine::context::Ctx;
use engine::instance::{FatalError, Instance, InstanceSettings, TaskView};
use engine::role::{InvariantViolation, RoleFactory, RoleInput, RoleLogic, RoleSpec};
use log_local::LocalLog;
use ports::records::{Headers, Record, Records};
use ports::topics::*;
use ports::*;
use store::memory::MemoryStores;

pub const IN: TopicId = TopicId(0);
pub const OUT: TopicId = TopicId(1);
pub const CHANGELOG: TopicId = TopicId(2);
pub const DEAD: TopicId = TopicId(3);
pub const JOURNAL: TopicId = TopicId(4);
pub const TABLE: TopicId = TopicId(5);
pub const CLOCK: TopicId = TopicId(6);
pub const PARTITIONS: u32 = 3;

pub fn table() -> Arc<TopicTable> {
    let spec = |name, partitions, cleanup| TopicSpec {
        name,
        partitions,
        cleanup,
        append_time: false,
        record_bytes_max: 1 << 20,
    };

    use Cleanup::{Compact, Keep};
    use Partitions::{Many, One};
    let all = [
        ("in", Many, Keep),
        ("out", Many, Keep),
        ("changelog", Many, Compact),
        ("dead", Many, Keep),
        ("journal", Many, Keep),
        ("table", One, Compact),
        ("clock", Many, Keep),
    ];

    Arc::new(TopicTable::new(
        "",
        all.into_iter()
            .map(|(name, partitions, cleanup)| spec(name, partitions, cleanup))
            .collect(),
    ))
}

/// Moves with each processed record, each ended transaction and each sleep.
#[derive(Clone, Default)]
pub struct Ticks(pub Arc<AtomicU64>);

impl Ticks {
    pub fn pass(&self, us: u64) {
        self.0.fetch_add(us, Ordering::Relaxed);
    }
}

impl Clock for Ticks {
    fn now_us(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
    fn sleep(&self, d: Duration) {
        self.pass(d.as_micros() as u64);
    }
}

/// Executes a record: `emit=N` writes N records, `look=K` uses a row, `big=N` keeps N bytes of
/// state. Counts records by key.
struct Does(Ticks);

impl RoleLogic for Does {
    fn process(&mut self, ctx: &mut Ctx<'_>, r: &Record<'_>) -> Result<(), InvariantViolation> {
        self.0.pass(20);
        if r.at.topic == CLOCK {
            return Ok(());
        }

        let key = r.key.expect("keys are set");
        let state = [b"k", key].concat();
        let count = ctx.get(&state).map_or(0, |v| {
            u64::from_be_bytes(v.try_into().expect("eight bytes"))
        }) + 1;
        ctx.put(&state, &count.to_be_bytes());
        let text = std::str::from_utf8(r.value.unwrap_or_default()).expect("text");
        for word in text.split(' ') {
            match word.split_once('=') {
                Some(("emit", n)) => {
                    for i in 1..n.parse::<u32>().expect("a number") {
                        ctx.emit(
                            OUT,
                            key,
                            "More",
                            format!("{} more {i}", String::from_utf8_lossy(key)).as_bytes(),
                        );
                    }
                }
                Some(("look", k)) => {
                    let _ = ctx.lookup(TABLE, k.as_bytes());
                }
                Some(("big", n)) => ctx.put(b"big", &vec![b'x'; n.parse().expect("a number")]),
                _ => {}
            }
        }

        ctx.emit(
            OUT,
            key,
            "Count",
            format!("{}={count}", String::from_utf8_lossy(key)).as_bytes(),
        );
        Ok(())
    }
}

pub struct Doing(RoleSpec, Ticks);

impl RoleFactory for Doing {
    fn spec(&self) -> &RoleSpec {
        &self.0
    }
    fn make(&self, _task: u32) -> Box<dyn RoleLogic> {
        Box::new(Does(self.1.clone()))
    }
}

pub fn factory(ticks: &Ticks) -> Box<dyn RoleFactory> {
    let input = |topic| RoleInput {
        topic,
        guarded: false,
    };

    let spec = RoleSpec {
        name: "does",
        inputs: vec![input(IN), input(CLOCK)],
        broadcasts: vec![TABLE],
        guarded_outputs: vec![OUT],
        changelog: CHANGELOG,
        journal: Some(JOURNAL),
        dead_letters: DEAD,
        clock: Some(CLOCK),
        linger: Duration::ZERO,
        headers: false,
    };

    Box::new(Doing(spec, ticks.clone()))
}

/// Decides the end of a transaction from its output; none is success. The second argument counts
/// transactions.
pub type Policy = Arc<dyn Fn(&Transaction<'_>, usize) -> Option<TransactionOutcome> + Send + Sync>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tx {
    pub records: usize,
    pub bytes: usize,
    /// Sizes of the journal records.
    pub journal: Vec<usize>,
    pub offsets: Vec<(TopicPartition, u64)>,
    pub committed: bool,
}

#[derive(Clone)]
pub struct Told {
    inner: LocalLog,
    policy: Policy,
    pub seen: Arc<Mutex<Vec<Tx>>>,
    /// Number of records read from the broadcast table.
    pub table_rows: Arc<AtomicU64>,
    ticks: Ticks,
}

struct ToldMember(Box<dyn Member>, Told);

impl Member for ToldMember {
    fn poll(
        &mut self,
        wait: Duration,
        limits: Limits,
        into: &mut Records,
    ) -> Result<Polled, LogError> {
        self.0.poll(wait, limits, into)
    }
    fn resume(&mut self, positions: &[(TopicPartition, u64)]) -> Result<(), LogError> {
        self.0.resume(positions)
    }
    fn skip_partitions(&mut self, partitions: &[TopicPartition]) {
        self.0.skip_partitions(partitions);
    }
    fn transact(&mut self, tx: &Transaction<'_>) -> TransactionOutcome {
        self.1.ticks.pass(5_000);
        let number = self.1.seen.lock().unwrap().len();
        let outcome = (self.1.policy)(tx, number).unwrap_or_else(|| self.0.transact(tx));
        self.1.seen.lock().unwrap().push(Tx {
            records: tx.outputs.len(),
            bytes: tx.outputs.size_bytes(),
            journal: tx
                .outputs
                .iter()
                .filter(|r| r.at.topic == JOURNAL)
                .map(|r| r.value.unwrap_or_default().len())
                .collect(),
            offsets: tx.offsets.to_vec(),
            committed: matches!(outcome, TransactionOutcome::Committed { .. }),
        });

        outcome
    }
    fn suspect(&self) -> bool {
        self.0.suspect()
    }
}

struct Counting(Box<dyn Reader>, Arc<AtomicU64>);

impl Reader for Counting {
    fn poll(&mut self, wait: Duration, limits: Limits, into: &mut Records) -> Result<(), LogError> {
        let before = into.len();
        self.0.poll(wait, limits, into)?;
        self.1
            .fetch_add((into.len() - before) as u64, Ordering::Relaxed);
        Ok(())
    }
    fn caught_up(&self) -> bool {
        self.0.caught_up()
    }
}

macro_rules! pass_on {
    ($($name:ident($($arg:ident: $type:ty),*) -> $out:ty;)*) => {
        $(fn $name(&self, $($arg: $type),*) -> Result<$out, LogError> { self.inner.$name($($arg),*) })*
    };
}

impl Log for Told {
    fn join(&self, spec: &MemberSpec) -> Result<Box<dyn Member>, LogError> {
        Ok(Box::new(ToldMember(self.inner.join(spec)?, self.clone())))
    }
    fn reader(
        &self,
        topic: TopicId,
        from: &[(u32, StartOffset)],
        headers: bool,
    ) -> Result<Box<dyn Reader>, LogError> {
        let reader = self.inner.reader(topic, from, headers)?;
        Ok(if topic == TABLE {
            Box::new(Counting(reader, self.table_rows.clone()))
        } else {
            reader
        })
    }
    pass_on! {
        cluster_id() -> String;
        partitions(topic: TopicId) -> Option<u32>;
        appender() -> Box<dyn Appender>;
        bounds(at: TopicPartition) -> Bounds;
        committed(group: &str, partitions: &[TopicPartition]) -> Committed;
        offset_at(at: TopicPartition, time_ms: i64) -> u64;
        group_offsets(group: &str, partitions: &[TopicPartition]) -> Vec<Option<u64>>;
        create_topic(topic: TopicId, spec: &TopicSpec, partitions: u32) -> ();
        describe_topic(topic: TopicId, spec: &TopicSpec) -> Option<TopicState>;
    }
}

impl Told {
    /// The same log with another policy.
    pub fn with_policy(
        self,
        policy: impl Fn(&Transaction<'_>, usize) -> Option<TransactionOutcome> + Send + Sync + 'static,
    ) -> Told {
        Told {
            policy: Arc::new(policy),
            ..self
        }
    }
}

pub struct World {
    pub log: Told,
    pub stores: MemoryStores,
    pub ticks: Ticks,
}

pub const LIMITS: Limits = Limits {
    records: 1_000,
    bytes: 8 << 20,
    age: Duration::from_millis(50),
};

impl World {
    pub fn new(
        policy: impl Fn(&Transaction<'_>, usize) -> Option<TransactionOutcome> + Send + Sync + 'static,
    ) -> World {
        let table = table();
        let ticks = Ticks::default();
        let inner = LocalLog::in_memory(&table);
        for t in table.iter() {
            let spec = table.spec(t);
            inner
                .create_topic(
                    t,
                    spec,
                    if spec.partitions == Partitions::One {
                        1
                    } else {
                        PARTITIONS
                    },
                )
                .unwrap();
        }

        let log = Told {
            inner,
            policy: Arc::new(policy),
            seen: Arc::default(),
            table_rows: Arc::default(),
            ticks: ticks.clone(),
        };

        World {
            log,
            stores: MemoryStores::default(),
            ticks,
        }
    }

    /// Appends records to one partition: key and instruction.
    pub fn send<'a>(&self, partition: u32, records: impl IntoIterator<Item = (&'a str, String)>) {
        let mut appender = self.log.appender().unwrap();
        for (key, value) in records {
            let at = TopicPartition::new(IN, partition);
            let key = Some(key.as_bytes());
            let value = Some(value.as_bytes());
            appender
                .append(&Record {
                    at,
                    offset: 0,
                    timestamp_ms: 1,
                    key,
                    value,
                    headers: Headers::default(),
                })
                .unwrap();
        }

        appender.flush(Duration::from_secs(5)).unwrap();
    }

    /// Appends a wake-up, as the engine does.
    pub fn wake(&self, partition: u32) {
        let mut appender = self.log.appender().unwrap();
        let at = TopicPartition::new(CLOCK, partition);
        appender
            .append(&Record {
                at,
                offset: 0,
                timestamp_ms: 1,
                key: None,
                value: Some(b"now"),
                headers: Headers::default(),
            })
            .unwrap();

        appender.flush(Duration::from_secs(5)).unwrap();
    }

    pub fn rows(&self, rows: impl IntoIterator<Item = (String, Vec<u8>)>) {
        let mut appender = self.log.appender().unwrap();
        for (key, value) in rows {
            let at = TopicPartition::new(TABLE, 0);
            let key = Some(key.as_bytes());
            let value = Some(&value[..]);
            appender
                .append(&Record {
                    at,
                    offset: 0,
                    timestamp_ms: 1,
                    key,
                    value,
                    headers: Headers::default(),
                })
                .unwrap();
        }

        appender.flush(Duration::from_secs(5)).unwrap();
    }

    pub fn instance(&self, number: u32, limits: Limits) -> Instance {
        let settings = InstanceSettings {
            group: "does".into(),
            instance: format!("does-{number}"),
            limits,
            idle_wait: Duration::from_millis(1),
            takeover_wait: Duration::from_millis(300),
            startup_wait: Duration::from_secs(5),
            cache_bytes: 1 << 20,
            standby: engine::restore::Standby::None,
        };

        let log = Arc::new(self.log.clone());
        let clock = Box::new(self.ticks.clone());
        Instance::new(
            log,
            Box::new(self.stores.clone()),
            clock,
            factory(&self.ticks),
            table(),
            settings,
        )
    }

    pub fn is_drained(&self) -> bool {
        let at: Vec<_> = (0..PARTITIONS)
            .flat_map(|p| [TopicPartition::new(IN, p), TopicPartition::new(CLOCK, p)])
            .collect();
        let committed = self.log.group_offsets("does", &at).unwrap();

        // Every task is woken when it begins to run; this record may still be in flight.
        let due = |at: &TopicPartition| {
            self.log
                .bounds(*at)
                .unwrap()
                .end
                .max(u64::from(at.topic == CLOCK))
        };

        at.iter()
            .zip(committed)
            .all(|(at, c)| c.unwrap_or(0) == due(at))
    }

    /// Steps until all sent records are committed, wake-ups included.
    pub fn drain(&self, instance: &mut Instance) -> Result<(), FatalError> {
        for _ in 0..200_000 {
            instance.step()?;
            if self.is_drained() && instance.phase() == "running" {
                return Ok(());
            }
        }

        panic!("no progress");
    }

    /// Output by partition, in order.
    pub fn outputs(&self) -> Vec<(u32, String)> {
        let from: Vec<_> = (0..PARTITIONS).map(|p| (p, StartOffset::Start)).collect();
        let mut reader = self.log.reader(OUT, &from, false).unwrap();
        let mut all = Records::new();
        let limits = Limits {
            records: 1_000_000,
            bytes: 1 << 30,
            age: Duration::from_secs(60),
        };

        while !reader.caught_up() {
            reader
                .poll(Duration::from_millis(10), limits, &mut all)
                .unwrap();
        }

        all.iter()
            .map(|r| {
                (
                    r.at.partition,
                    String::from_utf8_lossy(r.value.unwrap_or_default()).into_owned(),
                )
            })
            .collect()
    }

    /// Checks that every record was counted once, in order; returns the count of each key.
    pub fn check(&self) -> BTreeMap<String, u64> {
        let mut last = BTreeMap::<String, u64>::new();
        for (_, line) in self.outputs() {
            let Some((key, count)) = line.split_once('=') else {
                continue;
            };

            let before = last
                .insert(key.to_string(), count.parse().unwrap())
                .unwrap_or(0);
            assert_eq!(before + 1, count.parse::<u64>().unwrap(), "{line}");
        }

        last
    }

    pub fn transactions(&self) -> Vec<Tx> {
        self.log.seen.lock().unwrap().clone()
    }
}

pub fn digests(instance: &Instance) -> Vec<String> {
    let views = instance.tasks();
    views
        .values()
        .map(|view| match view {
            TaskView::Running { digest, .. } => digest.clone(),
            TaskView::Restoring(p) | TaskView::Standby(p) => panic!("not running: {p:?}"),
        })
        .collect()
}

/// True if a transaction's output contains a record with this key.
pub fn writes(tx: &Transaction<'_>, topic: TopicId, key: &[u8]) -> bool {
    tx.outputs
        .iter()
        .any(|r| r.at.topic == topic && r.key == Some(key))
}
