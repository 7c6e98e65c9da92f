//! The engine loop over an in-memory log, with a role that only counts. Tests make the log and the
//! stores fail.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use engine::context::Ctx;
use engine::instance::{FatalError, Instance, InstanceSettings, TaskView};
use engine::restore::Standby;
use engine::role::{InvariantViolation, RoleFactory, RoleLogic, RoleSpec};
use log_local::LocalLog;
use ports::records::{Headers, Record, Records};
use ports::topics::*;
use ports::*;

pub const IN: TopicId = TopicId(0);
pub const OUT: TopicId = TopicId(1);
pub const CHANGELOG: TopicId = TopicId(2);
pub const DEAD: TopicId = TopicId(3);
pub const PARTITIONS: u32 = 2;

pub fn table() -> Arc<TopicTable> {
    Arc::new(TopicTable::new(
        "",
        vec![
            TopicSpec::new("in", Cleanup::Keep),
            TopicSpec::new("out", Cleanup::Keep),
            TopicSpec::new("changelog", Cleanup::Compact),
            TopicSpec::new("dead", Cleanup::Keep),
        ],
    ))
}

pub struct SystemClock(std::time::Instant);

impl Default for SystemClock {
    fn default() -> Self {
        SystemClock(std::time::Instant::now())
    }
}

impl Clock for SystemClock {
    fn now_us(&self) -> u64 {
        self.0.elapsed().as_micros() as u64 + LATER_US.get()
    }
    fn sleep(&self, d: Duration) {
        std::thread::sleep(d);
    }
}

thread_local! {
    /// Number of records that look like a broken invariant, although they are correct.
    pub static LOOKS_WRONG: Cell<u32> = const { Cell::new(0) };
    /// Number of polls that find their position gone.
    pub static POSITION_GONE: Cell<u32> = const { Cell::new(0) };
    /// Extra time in microseconds on the clock of this thread's instances.
    pub static LATER_US: Cell<u64> = const { Cell::new(0) };
    /// Number of polls that are refused.
    pub static REFUSED: Cell<u32> = const { Cell::new(0) };
}

pub fn once_less(left: &'static std::thread::LocalKey<Cell<u32>>) -> bool {
    let n = left.get();
    left.set(n.saturating_sub(1));
    n > 0
}

/// Counts records per key and writes the count.
pub struct Counter;

impl RoleLogic for Counter {
    fn process(&mut self, ctx: &mut Ctx<'_>, r: &Record<'_>) -> Result<(), InvariantViolation> {
        let key = r.key.expect("keys are set");
        let state = [b"k", key].concat();
        let count = ctx.get(&state).map_or(0, |v| {
            u64::from_be_bytes(v.try_into().expect("eight bytes"))
        }) + 1;
        if r.value == Some(b"50") && once_less(&LOOKS_WRONG) {
            return Err(InvariantViolation("this cannot be".into()));
        }

        if r.value == Some(b"poison") {
            return Err(InvariantViolation("poison".into()));
        }

        ctx.put(&state, &count.to_be_bytes());
        ctx.emit(
            OUT,
            key,
            "Count",
            format!("{}={count}", String::from_utf8_lossy(key)).as_bytes(),
        );
        Ok(())
    }
}

pub struct Counters(RoleSpec);

impl RoleFactory for Counters {
    fn spec(&self) -> &RoleSpec {
        &self.0
    }
    fn make(&self, _task: u32) -> Box<dyn RoleLogic> {
        Box::new(Counter)
    }
}

pub fn factory() -> Box<dyn RoleFactory> {
    let spec = RoleSpec::new("counter", IN, CHANGELOG, DEAD);
    Box::new(Counters(RoleSpec {
        guarded_outputs: vec![OUT],
        ..spec
    }))
}

/// Stores that outlive an instance and fail on demand.
#[derive(Clone, Default)]
pub struct Disk {
    pub tasks: Arc<Mutex<BTreeMap<u32, Files>>>,
    pub writes_left: Arc<AtomicUsize>,
    pub quarantined: Arc<AtomicUsize>,
    /// Number of reads that find a damaged block.
    pub damaged_reads: Arc<AtomicUsize>,
    /// Number of attempts to open a store that find the store locked by another owner.
    pub held: Arc<AtomicUsize>,
}

#[derive(Clone, Default)]
pub struct Files {
    pub keys: BTreeMap<Vec<u8>, Vec<u8>>,
    pub meta: Option<Vec<u8>>,
}

pub struct Store {
    pub disk: Disk,
    pub task: u32,
}

impl Store {
    fn with<T>(&self, f: impl FnOnce(&mut Files) -> T) -> T {
        f(self
            .disk
            .tasks
            .lock()
            .unwrap()
            .entry(self.task)
            .or_default())
    }
}

impl StateStore for Store {
    fn meta(&self) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.with(|f| f.meta.clone()))
    }
    fn get(&self, key: &[u8], into: &mut Vec<u8>) -> Result<bool, StoreError> {
        into.clear();
        if self.disk.damaged_reads.load(Ordering::Relaxed) > 0 {
            self.disk.damaged_reads.fetch_sub(1, Ordering::Relaxed);
            return Err(StoreError::Corrupt("a block's checksum is wrong".into()));
        }

        Ok(self.with(|f| f.keys.get(key).map(|v| into.extend_from_slice(v)).is_some()))
    }
    fn write(
        &mut self,
        changes: &mut dyn Iterator<Item = StoreWrite<'_>>,
        meta: &[u8],
    ) -> Result<(), StoreError> {
        let left = self.disk.writes_left.load(Ordering::Relaxed);
        if left == 0 {
            return Err(StoreError::Io("no space left".into()));
        }

        self.disk.writes_left.store(left - 1, Ordering::Relaxed);
        self.with(|f| {
            for (k, v) in changes {
                match v {
                    Some(v) => f.keys.insert(k.to_vec(), v.to_vec()),
                    None => f.keys.remove(k),
                };
            }

            f.meta = Some(meta.to_vec());
        });

        Ok(())
    }
    fn scan(
        &self,
        prefix: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StoreError> {
        let all = self.with(|f| f.keys.clone());
        all.iter()
            .filter(|(k, _)| k.starts_with(prefix))
            .all(|(k, v)| visit(k, v));
        Ok(())
    }
}

impl Stores for Disk {
    fn open(&self, task: u32) -> Result<Box<dyn StateStore>, StoreError> {
        let held = self.held.load(Ordering::Relaxed);
        if held > 0 {
            self.held.store(held - 1, Ordering::Relaxed);
            return Err(StoreError::Held("held by process 1".into()));
        }

        Ok(Box::new(Store {
            disk: self.clone(),
            task,
        }))
    }
    fn quarantine(&self, task: u32) -> Result<String, StoreError> {
        self.quarantined.fetch_add(1, Ordering::Relaxed);
        self.tasks.lock().unwrap().remove(&task);
        Ok("aside".into())
    }
}

/// A log whose commits end as planned: the plan in order, afterwards success.
#[derive(Clone)]
pub struct Faulty {
    pub inner: LocalLog,
    pub plan: Arc<Mutex<Vec<Fault>>>,
    /// Offsets that the group reports until the first commit, in place of the real offsets.
    pub offsets: Arc<Mutex<BTreeMap<TopicPartition, Option<u64>>>>,
    /// Changelog partitions without a leader.
    pub headless: Arc<Mutex<Vec<u32>>>,
    /// Changelog partitions with unreadable records.
    pub unreadable: Arc<Mutex<Vec<u32>>>,
    /// Changelog partitions that deliver one record per millisecond, and the number of such polls.
    pub slow: Arc<Mutex<Vec<u32>>>,
    pub slowly: Arc<AtomicUsize>,
    /// Number of transactions without any output.
    pub bare: Arc<AtomicUsize>,
}

impl Faulty {
    pub fn over(inner: LocalLog, plan: &[Fault]) -> Faulty {
        let plan = Arc::new(Mutex::new(plan.iter().rev().copied().collect()));
        Faulty {
            inner,
            plan,
            offsets: Arc::default(),
            headless: Arc::default(),
            unreadable: Arc::default(),
            slow: Arc::default(),
            slowly: Arc::default(),
            bare: Arc::default(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// Committed, but the answer is lost.
    CommittedUnknown,
    /// Not written, and the answer is lost.
    LostUnknown,
    NotCommitted,
    /// Committed, after a suspicious event.
    Suspect,
    Fine,
}

pub struct FaultyMember {
    pub inner: Box<dyn Member>,
    pub log: Faulty,
}

impl Member for FaultyMember {
    fn poll(
        &mut self,
        wait: Duration,
        limits: Limits,
        into: &mut Records,
    ) -> Result<Polled, LogError> {
        if once_less(&POSITION_GONE) {
            return Err(LogError::Corrupt("in/0 has no offset 7 any more".into()));
        }

        if once_less(&REFUSED) {
            return Err(LogError::Refused("no such user".into()));
        }

        self.inner.poll(wait, limits, into)
    }
    fn resume(&mut self, positions: &[(TopicPartition, u64)]) -> Result<(), LogError> {
        self.inner.resume(positions)
    }
    fn transact(&mut self, tx: &Transaction<'_>) -> TransactionOutcome {
        let fault = self.log.plan.lock().unwrap().pop().unwrap_or(Fault::Fine);
        self.log
            .bare
            .fetch_add(usize::from(tx.outputs.is_empty()), Ordering::Relaxed);
        self.log.offsets.lock().unwrap().clear();
        match fault {
            Fault::LostUnknown => return TransactionOutcome::Unknown("lost".into()),
            Fault::NotCommitted => return TransactionOutcome::NotCommitted("refused".into()),
            _ => {}
        }

        match (self.inner.transact(tx), fault) {
            (TransactionOutcome::Committed { .. }, Fault::CommittedUnknown) => {
                TransactionOutcome::Unknown("no answer".into())
            }
            (TransactionOutcome::Committed { appended, .. }, Fault::Suspect) => {
                TransactionOutcome::Committed {
                    appended,
                    suspect: true,
                }
            }
            (other, _) => other,
        }
    }
    fn suspect(&self) -> bool {
        self.inner.suspect()
    }
}

/// Reads a partition with a damaged copy on its leader.
struct UnreadableReader(u32);

impl Reader for UnreadableReader {
    fn poll(
        &mut self,
        _wait: Duration,
        _limits: Limits,
        _into: &mut Records,
    ) -> Result<(), LogError> {
        Err(LogError::Corrupt(format!(
            "changelog/{} cannot be read from offset 7: wrong checksum",
            self.0
        )))
    }
    fn caught_up(&self) -> bool {
        false
    }
    fn reached(&self, _partition: u32) -> bool {
        false
    }
}

/// Reads one record per poll; each poll takes a millisecond.
struct SlowReader {
    inner: Box<dyn Reader>,
    polls: Arc<AtomicUsize>,
}

impl Reader for SlowReader {
    fn poll(
        &mut self,
        _wait: Duration,
        limits: Limits,
        into: &mut Records,
    ) -> Result<(), LogError> {
        std::thread::sleep(Duration::from_millis(1));
        self.polls.fetch_add(1, Ordering::Relaxed);
        self.inner.poll(
            Duration::ZERO,
            Limits {
                records: 1,
                ..limits
            },
            into,
        )
    }
    fn caught_up(&self) -> bool {
        self.inner.caught_up()
    }
    fn reached(&self, partition: u32) -> bool {
        self.inner.reached(partition)
    }
}

macro_rules! pass_on {
    ($($name:ident($($arg:ident: $type:ty),*) -> $out:ty;)*) => {
        $(fn $name(&self, $($arg: $type),*) -> Result<$out, LogError> { self.inner.$name($($arg),*) })*
    };
}

impl Log for Faulty {
    fn join(&self, spec: &MemberSpec) -> Result<Box<dyn Member>, LogError> {
        Ok(Box::new(FaultyMember {
            inner: self.inner.join(spec)?,
            log: self.clone(),
        }))
    }
    fn bounds(&self, at: TopicPartition) -> Result<Bounds, LogError> {
        match at.topic == CHANGELOG && self.headless.lock().unwrap().contains(&at.partition) {
            true => Err(LogError::Unavailable("the partition has no leader".into())),
            false => self.inner.bounds(at),
        }
    }
    fn committed(&self, group: &str, partitions: &[TopicPartition]) -> Result<Committed, LogError> {
        let bent = self.offsets.lock().unwrap();
        let Committed::Stable(told) = self.inner.committed(group, partitions)? else {
            panic!("nothing is pending in memory")
        };

        let offset = |(at, told)| bent.get(at).copied().unwrap_or(told);
        Ok(Committed::Stable(
            partitions.iter().zip(told).map(offset).collect(),
        ))
    }
    fn reader(
        &self,
        topic: TopicId,
        from: &[(u32, StartOffset)],
        headers: bool,
    ) -> Result<Box<dyn Reader>, LogError> {
        let reader = self.inner.reader(topic, from, headers)?;
        let unreadable = self.unreadable.lock().unwrap();
        match from
            .iter()
            .find(|(partition, _)| topic == CHANGELOG && unreadable.contains(partition))
        {
            Some((partition, _)) => Ok(Box::new(UnreadableReader(*partition))),
            None if topic == CHANGELOG
                && self
                    .slow
                    .lock()
                    .unwrap()
                    .iter()
                    .any(|slow| from.iter().any(|(p, _)| p == slow)) =>
            {
                Ok(Box::new(SlowReader {
                    inner: reader,
                    polls: self.slowly.clone(),
                }))
            }
            None => Ok(reader),
        }
    }
    pass_on! {
        cluster_id() -> String;
        partitions(topic: TopicId) -> Option<u32>;
        appender() -> Box<dyn Appender>;
        offset_at(at: TopicPartition, time_ms: i64) -> u64;
        group_offsets(group: &str, partitions: &[TopicPartition]) -> Vec<Option<u64>>;
        create_topic(topic: TopicId, spec: &TopicSpec, partitions: u32) -> ();
        describe_topic(topic: TopicId, spec: &TopicSpec) -> Option<TopicState>;
    }
}

pub struct World {
    pub log: Faulty,
    pub disk: Disk,
}

impl World {
    pub fn new(plan: &[Fault]) -> World {
        let table = table();
        let inner = LocalLog::in_memory(&table);
        for t in table.iter() {
            inner.create_topic(t, table.spec(t), PARTITIONS).unwrap();
        }

        let disk = Disk::default();
        disk.writes_left.store(usize::MAX, Ordering::Relaxed);
        World {
            log: Faulty::over(inner, plan),
            disk,
        }
    }

    pub fn send(&self, n: std::ops::Range<u64>) {
        let mut appender = self.log.appender().unwrap();
        for i in n {
            let key = format!("key{}", i % 7);
            let value = format!("{i}");
            let at = TopicPartition::new(IN, (i % 7 % u64::from(PARTITIONS)) as u32);
            let key = Some(key.as_bytes());
            let value = Some(value.as_bytes());
            appender
                .append(&Record {
                    at,
                    offset: 0,
                    timestamp_ms: i as i64,
                    key,
                    value,
                    headers: Headers::default(),
                })
                .unwrap();
        }

        appender.flush(Duration::from_secs(5)).unwrap();
    }

    pub fn instance(&self) -> Instance {
        self.instance_of("counter-1", Standby::None)
    }

    pub fn instance_of(&self, name: &str, standby: Standby) -> Instance {
        let settings = InstanceSettings {
            group: "counter".into(),
            instance: name.into(),
            limits: Limits {
                records: 10,
                bytes: 1 << 20,
                age: Duration::from_millis(5),
            },
            idle_wait: Duration::from_millis(1),
            takeover_wait: Duration::from_millis(300),
            startup_wait: Duration::from_secs(5),
            cache_bytes: 1 << 20,
            standby,
        };

        let log = Arc::new(self.log.clone());
        let clock = Box::new(SystemClock(std::time::Instant::now()));
        Instance::new(
            log,
            Box::new(self.disk.clone()),
            clock,
            factory(),
            table(),
            settings,
        )
    }

    /// Steps until all input records are committed.
    pub fn drain(&self, instance: &mut Instance) -> Result<(), FatalError> {
        for _ in 0..20_000 {
            instance.step()?;
            let at: Vec<_> = (0..PARTITIONS)
                .map(|p| TopicPartition::new(IN, p))
                .collect();
            let committed = self.log.group_offsets("counter", &at).unwrap();
            if at
                .iter()
                .zip(committed)
                .all(|(at, c)| c.unwrap_or(0) == self.log.bounds(*at).unwrap().end)
                && instance.phase() == "running"
            {
                return Ok(());
            }
        }

        panic!("no progress");
    }

    /// Steps until `good` holds.
    pub fn run_until(&self, instance: &mut Instance, mut good: impl FnMut(&Instance) -> bool) {
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        while !good(instance) {
            assert!(
                std::time::Instant::now() < deadline,
                "no progress: {} {:?}",
                instance.phase(),
                instance.tasks()
            );
            instance.step().unwrap();
        }
    }

    /// Steps until the instance stops with a fatal error.
    pub fn run_into(&self, instance: &mut Instance) -> FatalError {
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        loop {
            assert!(
                std::time::Instant::now() < deadline,
                "it goes on: {} {:?}",
                instance.phase(),
                instance.tasks()
            );
            if let Err(stop) = instance.step() {
                return stop;
            }
        }
    }

    /// Committed offset of an input partition.
    pub fn committed(&self, partition: u32) -> u64 {
        self.log
            .group_offsets("counter", &[TopicPartition::new(IN, partition)])
            .unwrap()[0]
            .unwrap_or(0)
    }

    /// The committed values of the output topic, by partition and offset.
    pub fn outputs(&self) -> Vec<String> {
        let count = self.log.partitions(OUT).unwrap().unwrap();
        let from: Vec<_> = (0..count).map(|p| (p, StartOffset::Start)).collect();
        let mut reader = self.log.reader(OUT, &from, true).unwrap();
        let limits = Limits {
            records: 50_000,
            bytes: 32 << 20,
            age: Duration::from_millis(500),
        };

        let mut chunk = Records::new();
        let mut all = Vec::new();
        loop {
            // This check comes before the poll: the poll then returns all records up to that moment.
            let last = reader.caught_up();
            let wait = if last {
                Duration::ZERO
            } else {
                Duration::from_millis(50)
            };
            chunk.clear();
            reader.poll(wait, limits, &mut chunk).unwrap();
            all.extend(chunk.iter().map(|r| {
                let text = String::from_utf8(r.value.unwrap_or_default().to_vec());
                (r.at.partition, r.offset, text.unwrap())
            }));
            if last && chunk.is_empty() {
                all.sort();
                return all.into_iter().map(|(.., text)| text).collect();
            }
        }
    }

    /// Checks that every record was counted once, in order, and that the stores are right.
    pub fn check(&self, n: u64, instance: &Instance) {
        let mut last = BTreeMap::<String, u64>::new();
        for line in self.outputs() {
            let (key, count) = line.split_once('=').unwrap();
            let before = last
                .insert(key.to_string(), count.parse().unwrap())
                .unwrap_or(0);
            assert_eq!(before + 1, count.parse::<u64>().unwrap(), "{line}");
        }

        assert_eq!(last.values().sum::<u64>(), n, "{last:?}");
        let digests: Vec<String> = instance.tasks().values().map(digest).collect();
        let scanned = (0..PARTITIONS).map(|task| {
            engine::restore::scan_digest(&Store {
                disk: self.disk.clone(),
                task,
            })
            .unwrap()
            .to_string()
        });

        assert_eq!(digests, scanned.collect::<Vec<_>>());
    }
}

pub fn digest(view: &TaskView) -> String {
    match view {
        TaskView::Running { digest, .. } => digest.clone(),
        TaskView::Restoring(p) | TaskView::Standby(p) => panic!("not running: {p:?}"),
    }
}
