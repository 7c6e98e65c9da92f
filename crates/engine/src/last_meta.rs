//! The last stable meta record of changelog partitions: the position of each task after its last
//! transaction, independent of the group's offsets.
//!
//! A transaction commits its meta record and its offsets together. After a loss of offsets
//! (expired, group deleted) or a change of offsets by somebody, the last meta record still contains
//! the right offsets. The caller must have fenced other members first: joined the group, so that
//! nobody else commits meanwhile.
//!
//! Compaction keeps the last record of a key, and a transaction ends with its meta record, so the
//! last meta record is near the end. Reading begins near the end, and goes further back only if no
//! meta record was found.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ports::records::Records;
use ports::topics::{TopicId, TopicPartition, TopicTable};
use ports::{Bounds, Clock, Limits, Log, LogError, StartOffset};

use super::checkpoint::{Checkpoint, META_KEY};

/// Distance of the first look from the end, in offsets. Each further look goes back `FURTHER` times
/// as far.
const FIRST_LOOK: u64 = 1_000;
const FURTHER: u64 = 10;
const LIMITS: Limits = Limits {
    records: 10_000,
    bytes: 4 << 20,
    age: Duration::from_millis(200),
};
const POLL: Duration = Duration::from_millis(50);

/// The checkpoint of a task after its last transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastMeta {
    pub meta: Checkpoint,
    /// Offset of the meta record in the changelog.
    pub offset: u64,
}

/// Finds the last meta record of each given changelog partition. Tasks without a meta record are
/// absent from the result. Waits up to `give_up` for the end of open transactions, and up to
/// `give_up` for each further record. State records behind the last meta record mean a torn
/// transaction, and the result is an error.
pub fn last_meta(
    log: &dyn Log,
    clock: &dyn Clock,
    topics: &TopicTable,
    changelog: TopicId,
    tasks: &[u32],
    give_up: Duration,
) -> Result<BTreeMap<u32, LastMeta>, LogError> {
    last_meta_within(
        log,
        clock,
        topics,
        changelog,
        &settled(log, clock, topics, changelog, tasks, give_up)?,
        give_up,
    )
}

/// Like [`last_meta`], but within given bounds and while transactions continue. For read-only
/// tools.
pub fn last_meta_within(
    log: &dyn Log,
    clock: &dyn Clock,
    topics: &TopicTable,
    changelog: TopicId,
    bounds: &BTreeMap<u32, Bounds>,
    give_up: Duration,
) -> Result<BTreeMap<u32, LastMeta>, LogError> {
    let mut left: BTreeMap<u32, Bounds> = bounds
        .iter()
        .filter(|(_, b)| b.stable_end > b.start)
        .map(|(t, b)| (*t, *b))
        .collect();
    let mut found = BTreeMap::new();
    let mut look = FIRST_LOOK;
    while !left.is_empty() {
        for (task, last) in read(log, clock, topics, changelog, &left, look, give_up)? {
            found.insert(task, last);
        }

        left.retain(|task, b| !found.contains_key(task) && begin(b, look) != StartOffset::Start);
        look = look.saturating_mul(FURTHER);
    }

    Ok(found)
}

/// Fills in absent committed offsets from the last transaction of their task, for read-only tools.
/// Offsets stay absent if the changelog cannot be read. The role of the changelog reports the
/// reason.
pub fn fill_absent(
    log: &dyn Log,
    clock: &dyn Clock,
    topics: &TopicTable,
    changelog: TopicId,
    committed: &mut [(TopicPartition, Option<u64>)],
    give_up: Duration,
) -> Result<(), LogError> {
    let tasks: BTreeSet<u32> = committed
        .iter()
        .filter(|(_, committed)| committed.is_none())
        .map(|(at, _)| at.partition)
        .collect();
    let mut bounds = BTreeMap::new();
    for task in tasks {
        bounds.insert(task, log.bounds(TopicPartition::new(changelog, task))?);
    }

    let last = match last_meta_within(log, clock, topics, changelog, &bounds, give_up) {
        Err(LogError::Corrupt(why) | LogError::Invalid(why)) => {
            tracing::warn!(%why, "positions that the group does not have cannot be taken from {}", topics.name(changelog));
            return Ok(());
        }
        last => last?,
    };

    for (at, offset) in committed
        .iter_mut()
        .filter(|(_, committed)| committed.is_none())
    {
        *offset = last.get(&at.partition).and_then(|last| last.meta.next(*at));
    }

    Ok(())
}

/// Result of comparing a group's committed offsets with the last meta record of a task. A start,
/// `verify` and `repair` decide by this result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OffsetComparison {
    /// No offsets and no meta record: the task has never committed.
    Fresh,
    /// Offsets and meta record are equal.
    Equal,
    /// The group lacks some or all offsets, and the others are equal. A start takes the missing
    /// offsets from the meta record.
    Absent,
    /// Differences: input, committed offset, offset in the meta record. At least one committed
    /// offset exists.
    Differ(Vec<(TopicPartition, Option<u64>, Option<u64>)>),
}

impl OffsetComparison {
    /// True if a committed offset is above the meta record: the changelog lacks transactions.
    /// Otherwise the committed offsets are below, and a start would repeat transactions of the
    /// changelog.
    pub fn is_ahead(&self) -> bool {
        matches!(self, OffsetComparison::Differ(differ) if differ.iter().any(|(_, committed, meta)| committed > meta))
    }
}

/// Compares offsets. An input missing in the meta record was added by a later version and is
/// ignored.
pub fn fit(
    committed: &[(TopicPartition, Option<u64>)],
    last: Option<&Checkpoint>,
) -> OffsetComparison {
    let Some(meta) = last else {
        let differ: Vec<_> = committed
            .iter()
            .filter(|(_, c)| c.is_some())
            .map(|(at, c)| (*at, *c, None))
            .collect();
        return if differ.is_empty() {
            OffsetComparison::Fresh
        } else {
            OffsetComparison::Differ(differ)
        };
    };

    let known = committed
        .iter()
        .filter_map(|(at, c)| Some((*at, *c, Some(meta.next(*at)?))));
    let differ: Vec<_> = known.filter(|(_, c, m)| c != m).collect();
    match () {
        () if differ.is_empty() => OffsetComparison::Equal,
        () if differ.iter().all(|(_, c, _)| c.is_none()) => OffsetComparison::Absent,
        () => OffsetComparison::Differ(differ),
    }
}

fn begin(bounds: &Bounds, look: u64) -> StartOffset {
    match bounds.stable_end.saturating_sub(look) {
        at if at > bounds.start => StartOffset::Offset(at),
        _ => StartOffset::Start,
    }
}

/// Waits for the end of open transactions, and returns the bounds of the partitions.
fn settled(
    log: &dyn Log,
    clock: &dyn Clock,
    topics: &TopicTable,
    changelog: TopicId,
    tasks: &[u32],
    give_up: Duration,
) -> Result<BTreeMap<u32, Bounds>, LogError> {
    let began = clock.now_us();
    let mut done = BTreeMap::new();
    for task in tasks {
        let at = TopicPartition::new(changelog, *task);
        loop {
            let bounds = log.bounds(at)?;
            if bounds.stable_end >= bounds.end {
                done.insert(*task, bounds);
                break;
            }

            if waited(clock, began) >= give_up {
                return Err(LogError::Unavailable(format!(
                    "a transaction has been open in {} since offset {} for longer than {} s, so nobody knows which state is the last",
                    topics.show(at),
                    bounds.stable_end,
                    give_up.as_secs()
                )));
            }

            clock.sleep(POLL);
        }
    }

    Ok(done)
}

/// Reads to the stable end and returns the last meta record of each partition.
fn read(
    log: &dyn Log,
    clock: &dyn Clock,
    topics: &TopicTable,
    changelog: TopicId,
    bounds: &BTreeMap<u32, Bounds>,
    look: u64,
    give_up: Duration,
) -> Result<Vec<(u32, LastMeta)>, LogError> {
    let from: Vec<_> = bounds
        .iter()
        .map(|(task, b)| (*task, begin(b, look)))
        .collect();
    let mut reader = log.reader(changelog, &from, false)?;
    let mut chunk = Records::new();
    let mut heard = clock.now_us();
    let mut metas: BTreeMap<u32, (u64, Vec<u8>)> = BTreeMap::new();
    let mut ends: BTreeMap<u32, u64> = BTreeMap::new();
    while !reader.caught_up() {
        chunk.clear();
        reader.poll(POLL, LIMITS, &mut chunk)?;

        // Records behind the bounds are newer, and may be the first half of a transaction.
        for r in chunk.iter().filter(|r| {
            bounds
                .get(&r.at.partition)
                .is_some_and(|b| r.offset < b.stable_end)
        }) {
            ends.insert(r.at.partition, r.offset);
            if r.key == Some(META_KEY) {
                let (offset, bytes) = metas.entry(r.at.partition).or_default();
                *offset = r.offset;
                bytes.clear();
                bytes.extend_from_slice(r.value.unwrap_or_default());
            }
        }

        if !chunk.is_empty() {
            heard = clock.now_us();
        } else if waited(clock, heard) >= give_up {
            let name = topics.name(changelog);
            return Err(LogError::Unavailable(format!(
                "{name} cannot be read to its end: no record came for {} s",
                give_up.as_secs()
            )));
        }
    }

    for (task, begin) in &from {
        let at = topics.show(TopicPartition::new(changelog, *task));
        let why = match (metas.get(task), ends.get(task)) {
            (Some((offset, _)), Some(end)) if end > offset => {
                format!("behind its last meta record at offset {offset}")
            }
            (None, Some(_)) if *begin == StartOffset::Start => {
                "and no meta record at all".to_string()
            }
            _ => continue,
        };

        let end = ends.get(task).copied().unwrap_or_default();
        return Err(LogError::Corrupt(format!(
            "{at} has state at offset {end} {why}: a transaction was torn, or somebody else wrote there"
        )));
    }

    metas
        .into_iter()
        .map(|(task, (offset, bytes))| {
            Ok((
                task,
                LastMeta {
                    meta: Checkpoint::decode(&bytes)?,
                    offset,
                },
            ))
        })
        .collect()
}

fn waited(clock: &dyn Clock, since_us: u64) -> Duration {
    Duration::from_micros(clock.now_us().saturating_sub(since_us))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use log_local::LocalLog;
    use ports::records::{Headers, Record};
    use ports::topics::{Cleanup, Partitions, TopicSpec};
    use ports::{Appender, Committed, Member, MemberSpec, Reader, TopicState};

    const CHANGELOG: TopicId = TopicId(0);
    const GIVE_UP: Duration = Duration::from_secs(5);

    /// Time passes only during sleeps and time requests.
    #[derive(Default)]
    struct Steps(AtomicU64);

    impl Clock for Steps {
        fn now_us(&self) -> u64 {
            self.0.fetch_add(1_000, Ordering::Relaxed) + 1_000
        }
        fn sleep(&self, d: Duration) {
            self.0.fetch_add(d.as_micros() as u64, Ordering::Relaxed);
        }
    }

    fn table() -> TopicTable {
        let spec = TopicSpec {
            name: "changelog",
            partitions: Partitions::Many,
            cleanup: Cleanup::Compact,
            append_time: false,
            record_bytes_max: 1 << 20,
        };

        TopicTable::new("p-", vec![spec])
    }

    fn empty(partitions: u32) -> LocalLog {
        let log = LocalLog::in_memory(&table());
        log.create_topic(CHANGELOG, table().spec(CHANGELOG), partitions)
            .expect("a topic");
        log
    }

    fn meta(transaction: u64) -> Checkpoint {
        Checkpoint {
            transaction,
            offsets: vec![(TopicPartition::new(CHANGELOG, 0), transaction * 10)],
            ..Checkpoint::default()
        }
    }

    fn append(log: &LocalLog, partition: u32, records: &[(&[u8], &[u8])]) {
        let mut appender = log.appender().expect("an appender");
        for (key, value) in records {
            let at = TopicPartition::new(CHANGELOG, partition);
            let record = Record {
                at,
                offset: 0,
                timestamp_ms: 1,
                key: Some(key),
                value: Some(value),
                headers: Headers::default(),
            };

            appender.append(&record).expect("appended");
        }

        appender.flush(GIVE_UP).expect("flushed");
    }

    fn find(log: &dyn Log, tasks: &[u32]) -> Result<BTreeMap<u32, LastMeta>, LogError> {
        last_meta(log, &Steps::default(), &table(), CHANGELOG, tasks, GIVE_UP)
    }

    #[test]
    fn the_last_of_each_partition_and_none_where_there_is_none() {
        let log = empty(3);
        for n in 1..=3 {
            append(&log, 0, &[(b"k", b"v"), (META_KEY, &meta(n).encode())]);
        }

        append(&log, 2, &[(META_KEY, &meta(7).encode())]);
        let found = find(&log, &[0, 1, 2]).expect("readable");
        assert_eq!(
            found,
            BTreeMap::from([
                (
                    0,
                    LastMeta {
                        meta: meta(3),
                        offset: 5
                    }
                ),
                (
                    2,
                    LastMeta {
                        meta: meta(7),
                        offset: 0
                    }
                )
            ])
        );

        assert_eq!(find(&log, &[]).expect("nothing to read"), BTreeMap::new());
    }

    /// The last transaction may be larger than the first look and the second look.
    #[test]
    fn further_back_than_one_look() {
        let log = empty(1);
        let state: Vec<(Vec<u8>, &[u8])> = (0..15_000_u32)
            .map(|n| (n.to_be_bytes().to_vec(), b"v".as_slice()))
            .collect();
        let state: Vec<(&[u8], &[u8])> = state.iter().map(|(k, v)| (k.as_slice(), *v)).collect();
        append(&log, 0, &[(META_KEY, &meta(1).encode())]);
        append(&log, 0, &state);
        append(&log, 0, &[(META_KEY, &meta(2).encode())]);
        assert_eq!(
            find(&log, &[0]).expect("readable")[&0],
            LastMeta {
                meta: meta(2),
                offset: 15_001
            }
        );
    }

    #[test]
    fn state_behind_the_last_meta_record_is_damage() {
        let log = empty(1);
        append(&log, 0, &[(META_KEY, &meta(1).encode())]);
        for size in [1, 1_500] {
            append(&log, 0, &vec![(b"k".as_slice(), b"v".as_slice()); size]);
            let why = find(&log, &[0]).expect_err("torn").to_string();
            assert!(
                why.contains("p-changelog/0 has state at offset")
                    && why.contains("last meta record at offset 0"),
                "{why}"
            );
        }

        let log = empty(1);
        append(&log, 0, &[(b"k", b"v")]);
        let why = find(&log, &[0]).expect_err("never closed").to_string();
        assert!(
            why.contains("p-changelog/0 has state at offset 0 and no meta record at all"),
            "{why}"
        );
    }

    #[test]
    fn a_newer_meta_record_is_refused_and_a_damaged_one_is_damage() {
        let log = empty(2);
        append(&log, 0, &[(META_KEY, b"\x7f")]);
        append(&log, 1, &[(META_KEY, b"")]);
        assert!(
            matches!(find(&log, &[0]), Err(LogError::Invalid(why)) if why.contains("format 127"))
        );
        assert!(matches!(find(&log, &[1]), Err(LogError::Corrupt(_))));
    }

    /// A log with an open transaction during the given number of looks.
    struct Open(LocalLog, AtomicU64);

    impl Log for Open {
        fn bounds(&self, at: TopicPartition) -> Result<Bounds, LogError> {
            let bounds = self.0.bounds(at)?;
            let open = self
                .1
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1))
                .is_ok();
            Ok(if open {
                Bounds {
                    end: bounds.end + 1,
                    ..bounds
                }
            } else {
                bounds
            })
        }
        fn committed(
            &self,
            group: &str,
            partitions: &[TopicPartition],
        ) -> Result<Committed, LogError> {
            self.0.committed(group, partitions)
        }
        fn cluster_id(&self) -> Result<String, LogError> {
            self.0.cluster_id()
        }
        fn partitions(&self, topic: TopicId) -> Result<Option<u32>, LogError> {
            self.0.partitions(topic)
        }
        fn join(&self, spec: &MemberSpec) -> Result<Box<dyn Member>, LogError> {
            self.0.join(spec)
        }
        fn reader(
            &self,
            topic: TopicId,
            from: &[(u32, StartOffset)],
            headers: bool,
        ) -> Result<Box<dyn Reader>, LogError> {
            self.0.reader(topic, from, headers)
        }
        fn appender(&self) -> Result<Box<dyn Appender>, LogError> {
            self.0.appender()
        }
        fn offset_at(&self, at: TopicPartition, time_ms: i64) -> Result<u64, LogError> {
            self.0.offset_at(at, time_ms)
        }
        fn group_offsets(
            &self,
            group: &str,
            partitions: &[TopicPartition],
        ) -> Result<Vec<Option<u64>>, LogError> {
            self.0.group_offsets(group, partitions)
        }
        fn create_topic(
            &self,
            topic: TopicId,
            spec: &TopicSpec,
            partitions: u32,
        ) -> Result<(), LogError> {
            self.0.create_topic(topic, spec, partitions)
        }
        fn describe_topic(
            &self,
            topic: TopicId,
            spec: &TopicSpec,
        ) -> Result<Option<TopicState>, LogError> {
            self.0.describe_topic(topic, spec)
        }
    }

    #[test]
    fn what_comes_behind_the_bounds_is_not_looked_at() {
        let log = empty(1);
        append(&log, 0, &[(b"k", b"v"), (META_KEY, &meta(1).encode())]);
        let bounds = BTreeMap::from([(
            0,
            log.bounds(TopicPartition::new(CHANGELOG, 0))
                .expect("bounds"),
        )]);
        append(&log, 0, &[(b"k", b"w")]);
        let found = last_meta_within(
            &log,
            &Steps::default(),
            &table(),
            CHANGELOG,
            &bounds,
            GIVE_UP,
        )
        .expect("readable");

        assert_eq!(found[&0].meta, meta(1));
    }

    #[test]
    fn how_offsets_and_meta_records_fit() {
        let at = |p| TopicPartition::new(CHANGELOG, p);
        let meta = Checkpoint {
            offsets: vec![(at(0), 10), (at(1), 20)],
            ..Checkpoint::default()
        };

        let of = |a: Option<u64>, b: Option<u64>, last| fit(&[(at(0), a), (at(1), b)], last);
        assert_eq!(
            (of(None, None, None), of(None, None, Some(&meta))),
            (OffsetComparison::Fresh, OffsetComparison::Absent)
        );
        assert_eq!(of(Some(10), Some(20), Some(&meta)), OffsetComparison::Equal);
        assert_eq!(
            of(Some(9), Some(20), Some(&meta)),
            OffsetComparison::Differ(vec![(at(0), Some(9), Some(10))]),
            "moved back"
        );
        assert_eq!(
            of(Some(10), Some(21), Some(&meta)),
            OffsetComparison::Differ(vec![(at(1), Some(21), Some(20))]),
            "moved forward"
        );
        assert_eq!(
            of(Some(10), None, Some(&meta)),
            OffsetComparison::Absent,
            "one is gone: a start takes it from the meta record"
        );
        let both = of(Some(9), None, Some(&meta));
        assert_eq!(
            both,
            OffsetComparison::Differ(vec![(at(0), Some(9), Some(10)), (at(1), None, Some(20))]),
            "one is gone, and the other moved back"
        );
        assert!(
            !both.is_ahead()
                && of(Some(9), Some(21), Some(&meta)).is_ahead()
                && of(None, Some(1), None).is_ahead()
        );
        assert_eq!(
            of(None, Some(1), None),
            OffsetComparison::Differ(vec![(at(1), Some(1), None)]),
            "committed by nobody that we know"
        );
        let older = Checkpoint {
            offsets: vec![(at(0), 10)],
            ..Checkpoint::default()
        };

        assert_eq!(
            (
                of(Some(10), None, Some(&older)),
                of(Some(10), Some(3), Some(&older))
            ),
            (OffsetComparison::Equal, OffsetComparison::Equal),
            "a new input"
        );
    }

    #[test]
    fn an_open_transaction_is_waited_for_but_not_for_ever() {
        let log = empty(1);
        append(&log, 0, &[(META_KEY, &meta(1).encode())]);
        let found = find(&Open(log.clone(), AtomicU64::new(3)), &[0]).expect("it ended");
        assert_eq!(found[&0].meta, meta(1));
        let why = find(&Open(log, AtomicU64::new(u64::MAX)), &[0]).expect_err("it never ends");
        assert!(
            matches!(&why, LogError::Unavailable(why) if why.contains("a transaction has been open in p-changelog/0")),
            "{why}"
        );
    }
}
