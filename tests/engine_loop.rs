//! The loop over a log in memory, with a role that only counts: every way a transaction can end, every moment a process can die in, and the proofs
//! that a start makes. No broker, no disk.

mod support;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use processor::engine::context::Ctx;
use processor::engine::instance::{Instance, Settings, Stop, TaskView};
use processor::engine::meta::StoreMeta;
use processor::engine::ports::*;
use processor::engine::records::{Headers, Record, Records};
use processor::engine::role::{Bug, Input, Role, RoleFactory, RoleSpec};
use processor::engine::topics::*;
use processor::log::local::LocalLog;

const IN: TopicId = TopicId(0);
const OUT: TopicId = TopicId(1);
const CHANGELOG: TopicId = TopicId(2);
const DEAD: TopicId = TopicId(3);
const PARTITIONS: u32 = 2;

fn table() -> Arc<TopicTable> {
    let spec = |name, cleanup| TopicSpec { name, partitions: Partitions::Many, cleanup, append_time: false, record_bytes_max: 1 << 20 };
    Arc::new(TopicTable::new(
        "",
        vec![spec("in", Cleanup::Keep), spec("out", Cleanup::Keep), spec("changelog", Cleanup::Compact), spec("dead", Cleanup::Keep)],
    ))
}

struct SystemClock(std::time::Instant);

impl Clock for SystemClock {
    fn now_us(&self) -> u64 {
        self.0.elapsed().as_micros() as u64
    }
    fn sleep(&self, d: Duration) {
        std::thread::sleep(d);
    }
}

thread_local! {
    /// So many times a record looks impossible, though it is not.
    static LOOKS_WRONG: Cell<u32> = const { Cell::new(0) };
    /// So many polls find their position gone.
    static POSITION_GONE: Cell<u32> = const { Cell::new(0) };
    /// So many polls are refused.
    static REFUSED: Cell<u32> = const { Cell::new(0) };
}

fn once_less(left: &'static std::thread::LocalKey<Cell<u32>>) -> bool {
    let n = left.get();
    left.set(n.saturating_sub(1));
    n > 0
}

/// Counts records per key and says the count.
struct Counter;

impl Role for Counter {
    fn process(&mut self, ctx: &mut Ctx<'_>, r: &Record<'_>) -> Result<(), Bug> {
        let key = r.key.expect("keys are set");
        let state = [b"k", key].concat();
        let count = ctx.get(&state).map_or(0, |v| u64::from_be_bytes(v.try_into().expect("eight bytes"))) + 1;
        if r.value == Some(b"50") && once_less(&LOOKS_WRONG) {
            return Err(Bug("this cannot be".into()));
        }
        if r.value == Some(b"poison") {
            return Err(Bug("poison".into()));
        }
        ctx.put(&state, &count.to_be_bytes());
        ctx.emit(OUT, key, "Count", format!("{}={count}", String::from_utf8_lossy(key)).as_bytes());
        Ok(())
    }
}

struct Counters(RoleSpec);

impl RoleFactory for Counters {
    fn spec(&self) -> &RoleSpec {
        &self.0
    }
    fn make(&self, _task: u32) -> Box<dyn Role> {
        Box::new(Counter)
    }
}

fn factory() -> Box<dyn RoleFactory> {
    Box::new(Counters(RoleSpec {
        name: "counter",
        inputs: vec![Input { topic: IN, guarded: false }],
        broadcasts: vec![],
        guarded_outputs: vec![OUT],
        changelog: CHANGELOG,
        journal: None,
        dead_letters: DEAD,
        clock: None,
        linger: Duration::ZERO,
    }))
}

/// Stores that outlive an instance, and fail when told to.
#[derive(Clone, Default)]
struct Disk {
    tasks: Arc<Mutex<BTreeMap<u32, Files>>>,
    writes_left: Arc<AtomicUsize>,
    quarantined: Arc<AtomicUsize>,
    /// This many reads find a damaged block.
    damaged_reads: Arc<AtomicUsize>,
    /// So many attempts to open a store find that somebody else has it.
    held: Arc<AtomicUsize>,
}

#[derive(Clone, Default)]
struct Files {
    keys: BTreeMap<Vec<u8>, Vec<u8>>,
    meta: Option<Vec<u8>>,
}

struct Store {
    disk: Disk,
    task: u32,
}

impl Store {
    fn with<T>(&self, f: impl FnOnce(&mut Files) -> T) -> T {
        f(self.disk.tasks.lock().unwrap().entry(self.task).or_default())
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
    fn write(&mut self, changes: &mut dyn Iterator<Item = Write<'_>>, meta: &[u8]) -> Result<(), StoreError> {
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
    fn scan(&self, prefix: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<(), StoreError> {
        let all = self.with(|f| f.keys.clone());
        all.iter().filter(|(k, _)| k.starts_with(prefix)).all(|(k, v)| visit(k, v));
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
        Ok(Box::new(Store { disk: self.clone(), task }))
    }
    fn quarantine(&self, task: u32) -> Result<String, StoreError> {
        self.quarantined.fetch_add(1, Ordering::Relaxed);
        self.tasks.lock().unwrap().remove(&task);
        Ok("aside".into())
    }
}

/// A log whose commits end as told: in this order, then well.
#[derive(Clone)]
struct Faulty {
    inner: LocalLog,
    plan: Arc<Mutex<Vec<Fault>>>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    /// Decided, but nobody heard of it.
    CommittedUnknown,
    /// Not written, and nobody knows.
    LostUnknown,
    NotCommitted,
    /// Committed after something odd.
    Suspect,
    Fine,
}

struct FaultyMember {
    inner: Box<dyn Member>,
    plan: Arc<Mutex<Vec<Fault>>>,
}

impl Member for FaultyMember {
    fn poll(&mut self, wait: Duration, limits: Limits, into: &mut Records) -> Result<Polled, LogError> {
        if once_less(&POSITION_GONE) {
            return Err(LogError::Corrupt("in/0 has no offset 7 any more".into()));
        }
        if once_less(&REFUSED) {
            return Err(LogError::Refused("no such user".into()));
        }
        self.inner.poll(wait, limits, into)
    }
    fn committed(&mut self, partitions: &[TopicPartition]) -> Result<Committed, LogError> {
        self.inner.committed(partitions)
    }
    fn resume(&mut self, positions: &[(TopicPartition, u64)]) -> Result<(), LogError> {
        self.inner.resume(positions)
    }
    fn transact(&mut self, tx: &Transaction<'_>) -> Outcome {
        let fault = self.plan.lock().unwrap().pop().unwrap_or(Fault::Fine);
        match fault {
            Fault::LostUnknown => return Outcome::Unknown("lost".into()),
            Fault::NotCommitted => return Outcome::NotCommitted("refused".into()),
            _ => {}
        }
        match (self.inner.transact(tx), fault) {
            (Outcome::Committed { .. }, Fault::CommittedUnknown) => Outcome::Unknown("no answer".into()),
            (Outcome::Committed { appended, .. }, Fault::Suspect) => Outcome::Committed { appended, suspect: true },
            (other, _) => other,
        }
    }
    fn suspect(&self) -> bool {
        self.inner.suspect()
    }
}

macro_rules! pass_on {
    ($($name:ident($($arg:ident: $type:ty),*) -> $out:ty;)*) => {
        $(fn $name(&self, $($arg: $type),*) -> Result<$out, LogError> { self.inner.$name($($arg),*) })*
    };
}

impl Log for Faulty {
    fn join(&self, spec: &MemberSpec) -> Result<Box<dyn Member>, LogError> {
        Ok(Box::new(FaultyMember { inner: self.inner.join(spec)?, plan: self.plan.clone() }))
    }
    pass_on! {
        cluster_id() -> String;
        partitions(topic: TopicId) -> Option<u32>;
        reader(topic: TopicId, from: &[(u32, From)], headers: bool) -> Box<dyn Reader>;
        appender() -> Box<dyn Appender>;
        bounds(at: TopicPartition) -> Bounds;
        offset_at(at: TopicPartition, time_ms: i64) -> u64;
        group_offsets(group: &str, partitions: &[TopicPartition]) -> Vec<Option<u64>>;
        create_topic(topic: TopicId, spec: &TopicSpec, partitions: u32) -> ();
        describe_topic(topic: TopicId, spec: &TopicSpec) -> Option<TopicState>;
    }
}

struct World {
    log: Faulty,
    disk: Disk,
}

impl World {
    fn new(plan: &[Fault]) -> World {
        let table = table();
        let inner = LocalLog::in_memory(&table);
        for t in table.iter() {
            inner.create_topic(t, table.spec(t), PARTITIONS).unwrap();
        }
        let disk = Disk::default();
        disk.writes_left.store(usize::MAX, Ordering::Relaxed);
        World { log: Faulty { inner, plan: Arc::new(Mutex::new(plan.iter().rev().copied().collect())) }, disk }
    }

    fn send(&self, n: std::ops::Range<u64>) {
        let mut appender = self.log.appender().unwrap();
        for i in n {
            let (key, value) = (format!("key{}", i % 7), format!("{i}"));
            let at = TopicPartition::new(IN, (i % 7 % u64::from(PARTITIONS)) as u32);
            let (key, value) = (Some(key.as_bytes()), Some(value.as_bytes()));
            appender.append(&Record { at, offset: 0, timestamp_ms: i as i64, key, value, headers: Headers::default() }).unwrap();
        }
        appender.flush(Duration::from_secs(5)).unwrap();
    }

    fn instance(&self) -> Instance {
        let settings = Settings {
            group: "counter".into(),
            instance: "counter-1".into(),
            limits: Limits { records: 10, bytes: 1 << 20, age: Duration::from_millis(5) },
            idle_wait: Duration::from_millis(1),
            takeover_wait: Duration::from_millis(300),
            startup_wait: Duration::from_secs(5),
            cache_bytes: 1 << 20,
        };
        let (log, clock) = (Arc::new(self.log.clone()), Box::new(SystemClock(std::time::Instant::now())));
        Instance::new(log, Box::new(self.disk.clone()), clock, factory(), table(), settings)
    }

    /// Steps until everything sent is committed.
    fn drain(&self, instance: &mut Instance) -> Result<(), Stop> {
        for _ in 0..20_000 {
            instance.step()?;
            let at: Vec<_> = (0..PARTITIONS).map(|p| TopicPartition::new(IN, p)).collect();
            let committed = self.log.group_offsets("counter", &at).unwrap();
            if at.iter().zip(committed).all(|(at, c)| c.unwrap_or(0) == self.log.bounds(*at).unwrap().end) && instance.phase() == "running"
            {
                return Ok(());
            }
        }
        panic!("no progress");
    }

    fn outputs(&self) -> Vec<String> {
        let all = support::oracle::read_all(&self.log, OUT);
        all.into_iter().map(|r| String::from_utf8(r.raw).unwrap()).collect()
    }

    /// Every record counted once, in order, and the stores right.
    fn check(&self, n: u64, instance: &Instance) {
        let mut last = BTreeMap::<String, u64>::new();
        for line in self.outputs() {
            let (key, count) = line.split_once('=').unwrap();
            let before = last.insert(key.to_string(), count.parse().unwrap()).unwrap_or(0);
            assert_eq!(before + 1, count.parse::<u64>().unwrap(), "{line}");
        }
        assert_eq!(last.values().sum::<u64>(), n, "{last:?}");
        let digests: Vec<String> = instance.tasks().values().map(digest).collect();
        let scanned = (0..PARTITIONS)
            .map(|task| processor::engine::restore::scan_digest(&Store { disk: self.disk.clone(), task }).unwrap().to_string());
        assert_eq!(digests, scanned.collect::<Vec<_>>());
    }
}

fn digest(view: &TaskView) -> String {
    match view {
        TaskView::Running { digest, .. } => digest.clone(),
        TaskView::Restoring(p) => panic!("still restoring: {p:?}"),
    }
}

#[test]
fn every_outcome_of_a_commit_leaves_every_record_counted_once() {
    use Fault::*;
    let plans: &[&[Fault]] = &[
        &[],
        &[CommittedUnknown],
        &[LostUnknown],
        &[NotCommitted],
        &[Suspect],
        &[Fine, CommittedUnknown, CommittedUnknown, LostUnknown, Fine, NotCommitted, Suspect, CommittedUnknown],
    ];
    for plan in plans {
        let world = World::new(plan);
        world.send(0..100);
        let mut instance = world.instance();
        world.drain(&mut instance).unwrap();
        world.check(100, &instance);
        let faults = plan.iter().filter(|f| **f != Fine).count() as u64;
        assert_eq!(instance.counters().recoveries, faults, "{plan:?}");
        assert_eq!(instance.counters().repeats_dropped, 0);
    }
}

#[test]
fn a_process_that_dies_between_commit_and_store_catches_up_from_the_changelog() {
    for survived in 0..8 {
        let world = World::new(&[]);
        world.disk.writes_left.store(survived, Ordering::Relaxed);
        world.send(0..100);
        let stopped = world.drain(&mut world.instance()).unwrap_err();
        assert!(stopped.to_string().contains("no space left"), "{stopped}");
        world.disk.writes_left.store(usize::MAX, Ordering::Relaxed);
        let mut instance = world.instance();
        world.drain(&mut instance).unwrap();
        world.check(100, &instance);
        assert_eq!(world.disk.quarantined.load(Ordering::Relaxed), 0, "state that is only behind is kept");
    }
}

#[test]
fn a_lost_disk_is_restored_whole() {
    let world = World::new(&[]);
    world.send(0..100);
    let mut instance = world.instance();
    world.drain(&mut instance).unwrap();
    drop(instance);
    world.disk.tasks.lock().unwrap().clear();
    world.send(100..150);
    let mut instance = world.instance();
    world.drain(&mut instance).unwrap();
    world.check(150, &instance);
}

#[test]
fn a_damaged_or_foreign_store_is_put_aside_and_rebuilt() {
    // Content that is not what the digest says is found by the next restore that reads it.
    let world = World::new(&[]);
    world.send(0..100);
    let mut instance = world.instance();
    world.drain(&mut instance).unwrap();
    drop(instance);
    let old = world.disk.tasks.lock().unwrap().clone();
    world.send(100..200);
    let mut instance = world.instance();
    world.drain(&mut instance).unwrap();
    drop(instance);
    let mut damaged = old;
    for files in damaged.values_mut() {
        files.keys.values_mut().for_each(|v| v[7] ^= 1);
    }
    *world.disk.tasks.lock().unwrap() = damaged;
    let mut instance = world.instance();
    world.drain(&mut instance).unwrap();
    world.check(200, &instance);
    assert_eq!(world.disk.quarantined.load(Ordering::Relaxed), PARTITIONS as usize);
}

#[test]
fn damage_found_while_running_is_rebuilt_and_not_met_again() {
    let world = World::new(&[]);
    world.send(0..100);
    let mut instance = world.instance();
    world.drain(&mut instance).unwrap();
    drop(instance);
    // The position is right, so a start would never look; only the first read of a key finds it.
    world.disk.damaged_reads.store(1, Ordering::Relaxed);
    world.send(100..200);
    let mut instance = world.instance();
    world.drain(&mut instance).unwrap();
    world.check(200, &instance);
    assert_eq!((instance.counters().recoveries, world.disk.quarantined.load(Ordering::Relaxed)), (1, 1));
}

#[test]
fn a_rebuild_that_dies_in_the_middle_goes_on() {
    let world = World::new(&[]);
    world.send(0..400);
    let mut instance = world.instance();
    world.drain(&mut instance).unwrap();
    drop(instance);
    for survived in 0..6 {
        world.disk.tasks.lock().unwrap().clear();
        world.disk.writes_left.store(survived, Ordering::Relaxed);
        let mut instance = world.instance();
        // With enough writes left the rebuild is simply done.
        let died = world.drain(&mut instance).is_err();
        assert_eq!(died, survived < 4, "{survived}");
        drop(instance);
        world.disk.writes_left.store(usize::MAX, Ordering::Relaxed);
        let mut instance = world.instance();
        world.drain(&mut instance).unwrap();
        world.check(400, &instance);
    }
    assert_eq!(world.disk.quarantined.load(Ordering::Relaxed), 0);
}

#[test]
fn state_without_committed_offsets_refuses_to_run() {
    let world = World::new(&[]);
    world.send(0..100);
    let mut instance = world.instance();
    world.drain(&mut instance).unwrap();
    drop(instance);
    // The same disk on a fresh log: somebody deleted the topics, or the offsets.
    let other = World { log: World::new(&[]).log, disk: world.disk.clone() };
    other.send(0..10);
    let stopped = other.drain(&mut other.instance()).unwrap_err();
    assert!(matches!(&stopped, Stop::Bug(text) if text.contains("no committed offsets")), "{stopped}");
    assert_eq!(other.outputs(), Vec::<String>::new());
}

#[test]
fn a_second_instance_with_the_same_name_fences_the_first() {
    let world = World::new(&[]);
    world.send(0..50);
    let mut first = world.instance();
    world.drain(&mut first).unwrap();
    let mut second = world.instance();
    world.send(50..100);
    world.drain(&mut second).unwrap();
    let fenced = (0..100).find_map(|_| first.step().err());
    assert!(matches!(fenced, Some(Stop::Fenced(_))), "{fenced:?}");
    world.check(100, &second);
}

/// On one machine the fenced one may need a moment to let go of the state; the newer one has joined by then, and waits, but not for ever.
#[test]
fn a_store_that_is_still_held_is_waited_for() {
    let world = World::new(&[]);
    world.send(0..50);
    world.disk.held.store(5, Ordering::Relaxed);
    let mut instance = world.instance();
    world.drain(&mut instance).unwrap();
    world.check(50, &instance);
    assert_eq!(instance.counters().recoveries, 0);
    world.disk.held.store(usize::MAX, Ordering::Relaxed);
    match world.drain(&mut world.instance()) {
        Err(Stop::Invalid(text)) => assert!(text.contains("held by process 1"), "{text}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_bug_stops_before_anything_is_committed() {
    let world = World::new(&[]);
    let mut appender = world.log.appender().unwrap();
    let at = TopicPartition::new(IN, 0);
    for value in ["1", "poison"] {
        let record =
            Record { at, offset: 0, timestamp_ms: 0, key: Some(b"key0"), value: Some(value.as_bytes()), headers: Headers::default() };
        appender.append(&record).unwrap();
    }
    appender.flush(Duration::from_secs(5)).unwrap();
    let stopped = world.drain(&mut world.instance()).unwrap_err();
    assert!(matches!(&stopped, Stop::Bug(text) if text.contains("in/0/1: poison")), "{stopped}");
    assert_eq!(world.outputs(), Vec::<String>::new());
}

/// A process that was frozen for longer than its session may be handed records that follow from what others have done since; or find its positions
/// gone. With fresh state it sees what they mean.
#[test]
fn what_cannot_be_is_looked_at_again_with_fresh_state() {
    for (wrong, gone) in [(1, 0), (0, 1)] {
        let world = World::new(&[]);
        world.send(0..100);
        LOOKS_WRONG.set(wrong);
        POSITION_GONE.set(gone);
        let mut instance = world.instance();
        world.drain(&mut instance).unwrap();
        world.check(100, &instance);
        assert_eq!(instance.counters().recoveries, 1, "one new incarnation");
    }
    for (wrong, gone) in [(2, 0), (0, 2)] {
        let world = World::new(&[]);
        world.send(0..100);
        LOOKS_WRONG.set(wrong);
        POSITION_GONE.set(gone);
        let stopped = world.drain(&mut world.instance()).unwrap_err();
        assert!(matches!(stopped, Stop::Bug(_)), "the second time it stops: {stopped}");
    }
}

/// A store that its changelog does not lead on from (here: it claims a position that was never committed) is no reason to stop.
#[test]
fn a_store_that_the_changelog_does_not_know_is_rebuilt() {
    let world = World::new(&[]);
    world.send(0..100);
    let mut instance = world.instance();
    world.drain(&mut instance).unwrap();
    drop(instance);
    for files in world.disk.tasks.lock().unwrap().values_mut() {
        let mut record = StoreMeta::decode(files.meta.as_ref().unwrap()).unwrap();
        record.meta.offsets[0].1 += 1;
        files.meta = Some(record.encode());
    }
    let mut instance = world.instance();
    world.drain(&mut instance).unwrap();
    world.check(100, &instance);
    assert_eq!(world.disk.quarantined.load(Ordering::Relaxed), PARTITIONS as usize);
}

/// A broker that restarts may not know its users for a moment. A role that was never let in has nothing to wait for.
#[test]
fn a_refusal_ends_a_role_that_was_never_let_in_and_is_waited_for_by_others() {
    let world = World::new(&[]);
    world.send(0..50);
    REFUSED.set(1);
    let stopped = world.drain(&mut world.instance()).unwrap_err();
    assert!(matches!(&stopped, Stop::Invalid(why) if why == "no such user"), "{stopped}");
    let mut instance = world.instance();
    world.drain(&mut instance).unwrap();
    world.send(50..100);
    REFUSED.set(4);
    world.drain(&mut instance).unwrap();
    world.check(100, &instance);
    assert_eq!(instance.counters().recoveries, 4);
}

#[test]
fn a_missing_topic_is_named() {
    let table = table();
    let inner = LocalLog::in_memory(&table);
    let world = World { log: Faulty { inner, plan: Arc::default() }, disk: Disk::default() };
    let stopped = (0..10).find_map(|_| world.instance().step().err()).expect("it stops");
    assert!(stopped.to_string().contains("topic in does not exist"), "{stopped}");
}
