//! Promises of the log port that every adapter must keep. The test binary of each adapter brings a
//! [`Cluster`] and runs the same functions. The engine can then be tested on one log and trusted on
//! all logs.
//!
//! Use: `#[macro_use] #[path = "support/conformance.rs"] mod conformance;` at the root of the test,
//! implement [`Cluster`], then `conformance!(|| MyCluster::start());`.
//!
//! No function here sleeps for a fixed time: every wait is a condition with a deadline. No function
//! computes with offsets: the functions only compare offsets.
#![allow(dead_code)] // Each test binary uses its own part of the suite.

#[path = "conformance_cases.rs"]
mod cases;

pub use cases::*;

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ports::records::{Headers, Record, Records};
use ports::topics::{Cleanup, Partitions, TopicId, TopicPartition, TopicSpec, TopicTable};
use ports::{
    Committed, Limits, Log, Member, MemberInput, MemberSpec, Polled, Reader, StartOffset,
    TransactionOutcome,
};

/// The cluster under test.
pub trait Cluster {
    /// A new handle to the same cluster for these topics, as another process would have.
    fn log(&self, table: &TopicTable) -> Box<dyn Log>;
    /// Deadline of every wait for an event that must happen.
    fn patience(&self) -> Duration {
        Duration::from_secs(60)
    }
}

/// Partition count of the topics with many partitions.
pub const COUNT: u32 = 4;
/// Clients write this topic; the log stamps the time.
pub const INPUT: TopicId = TopicId(0);
/// A second input of the same group.
pub const SECOND: TopicId = TopicId(1);
/// An input with only one partition.
pub const SINGLE: TopicId = TopicId(2);
/// Output; the writer sets the times.
pub const OUTPUT: TopicId = TopicId(3);
/// Compacted, many partitions.
pub const CHANGELOG: TopicId = TopicId(4);
/// Compacted, one partition, broadcast.
pub const TABLE: TopicId = TopicId(5);
/// The set-up of the suite does not create this topic.
pub const SPARE: TopicId = TopicId(6);

/// The topics of the suite under a prefix.
pub fn table(prefix: &str) -> TopicTable {
    let spec = |name, partitions, cleanup, append_time| TopicSpec {
        name,
        partitions,
        cleanup,
        append_time,
        record_bytes_max: 1 << 20,
    };

    TopicTable::new(
        prefix,
        vec![
            spec("input", Partitions::Many, Cleanup::Keep, true),
            spec("second", Partitions::Many, Cleanup::Keep, false),
            spec("single", Partitions::One, Cleanup::Keep, false),
            spec("output", Partitions::Many, Cleanup::Keep, false),
            spec("changelog", Partitions::Many, Cleanup::Compact, false),
            spec("table", Partitions::One, Cleanup::Compact, true),
            spec("spare", Partitions::Many, Cleanup::Keep, false),
        ],
    )
}

/// One run of one function, with separate topics and group names.
pub struct World<'a> {
    cluster: &'a dyn Cluster,
    pub table: TopicTable,
    pub log: Box<dyn Log>,
}

static RUN: AtomicU32 = AtomicU32::new(0);

impl<'a> World<'a> {
    /// Creates the topics under a unique prefix.
    pub fn new(cluster: &'a dyn Cluster) -> Self {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("after 1970")
            .as_micros();
        let prefix = format!(
            "c{now:x}-{}-{}-",
            std::process::id(),
            RUN.fetch_add(1, Ordering::Relaxed)
        );
        let table = table(&prefix);
        let log = cluster.log(&table);
        for topic in table.iter().filter(|t| *t != SPARE) {
            let spec = table.spec(topic);
            let count = if spec.partitions == Partitions::One {
                1
            } else {
                COUNT
            };

            log.create_topic(topic, spec, count)
                .expect("a topic can be made");
        }

        World {
            cluster,
            table,
            log,
        }
    }

    /// Another handle to the same cluster and topics.
    pub fn second_handle(&self) -> Box<dyn Log> {
        self.cluster.log(&self.table)
    }

    /// Name of the consumer group.
    pub fn group(&self) -> String {
        format!("{}processor-orders", self.table.prefix())
    }

    /// Joins the group as an instance.
    pub fn join(&self, log: &dyn Log, instance: u32, inputs: &[TopicId]) -> Box<dyn Member> {
        log.join(&self.spec(instance, inputs))
            .expect("joining works")
    }

    fn spec(&self, instance: u32, inputs: &[TopicId]) -> MemberSpec {
        let inputs = inputs
            .iter()
            .map(|&topic| MemberInput {
                topic,
                headers: true,
            })
            .collect();

        MemberSpec {
            group: self.group(),
            instance: format!("{}-{instance}", self.group()),
            inputs,
            linger: Duration::ZERO,
        }
    }

    /// Repeats `step` until `step` returns a value.
    pub fn until<T>(&self, what: &str, mut step: impl FnMut() -> Option<T>) -> T {
        let deadline = Instant::now() + self.cluster.patience();
        loop {
            if let Some(found) = step() {
                return found;
            }

            assert!(Instant::now() < deadline, "gave up waiting until {what}");
        }
    }

    /// Polls until partitions are assigned.
    pub fn assigned(&self, member: &mut dyn Member) -> Vec<TopicPartition> {
        let mut records = Records::new();
        self.until("partitions are assigned", || {
            match member.poll(SHORT, WIDE, &mut records) {
                Ok(Polled::Assigned(partitions)) => Some(partitions),
                Ok(_) => None,
                Err(e) => panic!("polling failed: {e}"),
            }
        })
    }

    /// Polls all members until the assignments satisfy `good`. The entry of a member is none if its
    /// last event was a revocation.
    fn settle(
        &self,
        what: &str,
        members: &mut [&mut Box<dyn Member>],
        mut good: impl FnMut(&[Option<Vec<TopicPartition>>]) -> bool,
    ) {
        let mut now: Vec<Option<Vec<TopicPartition>>> = vec![None; members.len()];
        let mut records = Records::new();
        self.until(what, || {
            for (member, now) in members.iter_mut().zip(&mut now) {
                match member.poll(SHORT, WIDE, &mut records) {
                    Ok(Polled::Assigned(partitions)) => *now = Some(partitions),
                    Ok(Polled::Revoked { .. }) => *now = None,
                    Ok(Polled::Records) => {}
                    Err(e) => panic!("polling failed: {e}"),
                }
            }

            good(&now).then_some(())
        });
    }

    /// Stable committed offsets of the group.
    pub fn committed(&self, partitions: &[TopicPartition]) -> Vec<Option<u64>> {
        self.until("the committed offsets are stable", || {
            match self
                .log
                .committed(&self.group(), partitions)
                .expect("offsets can be asked")
            {
                Committed::Stable(offsets) => Some(offsets),
                Committed::Pending => None,
            }
        })
    }

    /// Resumes all partitions at the committed offset of the group, or at the beginning.
    pub fn resume(&self, member: &mut dyn Member, partitions: &[TopicPartition]) {
        let offsets = self.committed(partitions);
        let positions: Vec<_> = partitions
            .iter()
            .zip(offsets)
            .map(|(at, o)| {
                (
                    *at,
                    o.unwrap_or_else(|| self.log.bounds(*at).expect("bounds").start),
                )
            })
            .collect();

        member.resume(&positions).expect("resuming works");
    }

    /// Polls until at least `count` records have arrived.
    pub fn take(&self, member: &mut dyn Member, count: usize) -> Vec<Owned> {
        let mut records = Records::new();
        let mut all = Vec::new();
        self.until("the records arrive", || {
            records.clear();
            match member.poll(SHORT, WIDE, &mut records) {
                Ok(Polled::Records) => all.extend(records.iter().map(|r| Owned::of(&r))),
                other => panic!("records were due, not {other:?}"),
            }

            (all.len() >= count).then_some(())
        });

        all
    }

    /// Appends `values` to a partition as a client, and waits until the log has them.
    pub fn append(&self, at: TopicPartition, values: &[String]) {
        let mut appender = self.log.appender().expect("a client can write");
        for value in values {
            appender.append(&plain(at, value)).expect("appending works");
        }

        appender
            .flush(self.cluster.patience())
            .expect("flushing works");
    }

    /// Reads partitions of a topic from the start until caught up. A commit is decided before it is
    /// visible, so the function first waits until no transaction is pending.
    pub fn read_all(&self, topic: TopicId, partitions: &[u32]) -> Vec<Owned> {
        for partition in partitions {
            self.until("nothing is pending", || {
                let bounds = self.log.bounds(tp(topic, *partition)).expect("bounds");
                (bounds.stable_end == bounds.end).then_some(())
            });
        }

        let from: Vec<_> = partitions
            .iter()
            .map(|p| (*p, StartOffset::Start))
            .collect();
        let mut reader = self
            .log
            .reader(topic, &from, true)
            .expect("a reader can be made");
        self.drain(&mut *reader)
    }

    /// Polls a reader until the reader is caught up.
    pub fn drain(&self, reader: &mut dyn Reader) -> Vec<Owned> {
        let mut records = Records::new();
        let mut all = Vec::new();
        self.until("the reader is caught up", || {
            records.clear();
            reader
                .poll(SHORT, WIDE, &mut records)
                .expect("reading works");
            all.extend(records.iter().map(|r| Owned::of(&r)));
            reader.caught_up().then_some(())
        });

        all
    }

    /// A member that owns all partitions and resumes at the committed offsets.
    pub fn running(&self, instance: u32) -> Box<dyn Member> {
        let mut member = self.join(&*self.log, instance, &[INPUT]);
        let partitions = self.assigned(&mut *member);
        self.resume(&mut *member, &partitions);
        member
    }
}

const SHORT: Duration = Duration::from_millis(20);
/// Bounds that no test of this suite reaches.
pub const WIDE: Limits = Limits {
    records: 100_000,
    bytes: 64 << 20,
    age: Duration::from_secs(5),
};

/// A copy of a record that outlives the batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owned {
    pub at: TopicPartition,
    pub offset: u64,
    pub timestamp_ms: i64,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(String, Vec<u8>)>,
}

impl Owned {
    pub fn of(r: &Record<'_>) -> Self {
        Owned {
            at: r.at,
            offset: r.offset,
            timestamp_ms: r.timestamp_ms,
            key: r.key.map(<[u8]>::to_vec),
            value: r.value.map(<[u8]>::to_vec),
            headers: r
                .headers
                .iter()
                .map(|(n, v)| (n.to_string(), v.to_vec()))
                .collect(),
        }
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.value.clone().expect("a value")).expect("text")
    }
}

pub fn tp(topic: TopicId, partition: u32) -> TopicPartition {
    TopicPartition::new(topic, partition)
}

/// A record with the same text as key and value.
pub fn plain(at: TopicPartition, value: &str) -> Record<'_> {
    let bytes = Some(value.as_bytes());
    Record {
        at,
        offset: 0,
        timestamp_ms: 1_625_159_076_000,
        key: bytes,
        value: bytes,
        headers: Headers::default(),
    }
}

fn numbered(name: &str, n: usize) -> Vec<String> {
    (0..n).map(|i| format!("{name}-{i}")).collect()
}

fn texts(records: &[Owned]) -> Vec<String> {
    records.iter().map(Owned::text).collect()
}

fn batch(records: &[(TopicPartition, &str)]) -> Records {
    let mut out = Records::new();
    for (at, value) in records {
        out.push(&plain(*at, value));
    }

    out
}

fn committed_at(outcome: TransactionOutcome) -> Vec<(TopicPartition, u64)> {
    match outcome {
        TransactionOutcome::Committed { appended, .. } => appended,
        other => panic!("the transaction should have been committed, but: {other:?}"),
    }
}

fn end_of(records: &[Owned], at: TopicPartition) -> u64 {
    records
        .iter()
        .filter(|r| r.at == at)
        .map(|r| r.offset)
        .max()
        .expect("a record of the partition")
        + 1
}

/// Makes one `#[test]` of each function of the suite. The argument is a closure that returns a
/// [`Cluster`].
#[macro_export]
macro_rules! conformance {
    ($cluster:expr) => {
        $crate::conformance_tests! { $cluster;
            a_transaction_is_all_of_it, what_is_not_committed_is_never_seen, the_newer_incarnation_fences_the_older,
            a_partition_keeps_its_order, reading_resumes_in_the_middle, a_transaction_may_have_no_output, assigned_partitions_stay_paused,
            members_share_co_partitioned_inputs, a_stale_generation_cannot_commit, a_changelog_is_restored_from_an_offset,
            a_broadcast_table_is_read_and_followed, a_reader_can_begin_at_the_end, bounds_and_times_find_records,
            every_part_of_a_record_comes_back, a_poll_respects_its_limits, times_are_stamped_or_kept, topics_are_made_once,
            the_cluster_has_one_identity, joining_needs_the_topics,
        }
    };
}

/// Implementation of [`conformance!`].
#[macro_export]
macro_rules! conformance_tests {
    ($cluster:expr; $($name:ident,)*) => {
        $(#[test]
        fn $name() {
            let cluster = ($cluster)();
            $crate::conformance::$name(&$crate::conformance::World::new(&cluster));
        })*
    };
}
