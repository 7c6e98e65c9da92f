//! The ports of the engine. The engine reaches the outside only through these traits: no Kafka, no
//! RocksDB, no thread, no clock.
//!
//! Adapters: `log_kafka` (rdkafka), `log_local` (embedded in RocksDB, or in memory),
//! `store::rocks`, `store::memory`. A call may block up to the given time. A simulated adapter
//! answers at once and moves a virtual clock, so that many engines run in one thread.
// clippy.toml lists the calls and types with results that do not follow from the records alone.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]
#![warn(unreachable_pub)]

pub mod partitioner;
pub mod records;
pub mod scan;
pub mod topics;
pub mod varint;

use std::time::Duration;

use crate::records::{Record, Records};
use crate::topics::{Finding, TopicId, TopicPartition, TopicSpec};

/// Error of a call to the log. Each kind names the next action.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LogError {
    /// The log did not answer, or another temporary failure. Recover: new incarnation, with
    /// backoff.
    #[error("the log is unavailable: {0}")]
    Unavailable(String),
    /// A newer incarnation fenced this incarnation. Stop, and do not restart in a tight loop.
    #[error("fenced by a newer instance: {0}")]
    Fenced(String),
    /// Configuration or topics are wrong. The message says the required change.
    #[error("{0}")]
    Invalid(String),
    /// The log refuses a login or a right. The message says the required change. At the first start
    /// the configuration is wrong. Later the refusal may pass, because a restarted broker may not
    /// know its users yet: recover, and stop if the refusal lasts.
    #[error("{0}")]
    Refused(String),
    /// The disk under an embedded log failed (full, read-only, ...). Stop, and start again after
    /// repair. Committed records are safe.
    #[error("{0}")]
    Io(String),
    /// Records read from the log are damaged. Stop and let a person look.
    #[error("the log is corrupt: {0}")]
    Corrupt(String),
}

/// Largest overhead of a record in a batch beyond key, value and headers, in bytes. The topic's
/// limit includes the overhead.
pub const RECORD_OVERHEAD: usize = 256;

/// Bounds of one poll.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most records.
    pub records: usize,
    /// The poll stops at this many bytes.
    pub bytes: usize,
    /// The poll stops this long after the first record.
    pub age: Duration,
}

/// Membership: instance, group, and input topics.
#[derive(Clone, Debug)]
pub struct MemberSpec {
    /// Consumer group, e.g. `processor-orders`.
    pub group: String,
    /// Static member name (KIP-345) and transactional id (KIP-98), e.g. `processor-orders-2`.
    /// Joining fences the previous owner of the name.
    pub instance: String,
    /// Topics to share out. Partition i of every topic goes to the same member.
    pub inputs: Vec<MemberInput>,
    /// Time that the owner gathers records before a commit. Zero if a client waits for each record.
    pub linger: Duration,
}

/// One input topic of a group.
#[derive(Clone, Copy, Debug)]
pub struct MemberInput {
    pub topic: TopicId,
    /// True if the reader needs headers. Parsing headers costs time.
    pub headers: bool,
}

/// Result of a poll.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Polled {
    /// Records were added to the batch, possibly none.
    Records,
    /// The new complete set of partitions. They stay paused until [`Member::resume`].
    Assigned(Vec<TopicPartition>),
    /// All partitions were revoked. Records of the same poll are void. `lost`: another member may
    /// already own the partitions.
    Revoked {
        /// True if the group removed the partitions without our consent.
        lost: bool,
    },
}

/// Records to append and input offsets to commit, all or nothing.
pub struct Transaction<'a> {
    /// Records with explicit partition, key, value, headers and time.
    pub outputs: &'a Records,
    /// Next offset to read, for every input partition of every touched task; never empty.
    pub offsets: &'a [(TopicPartition, u64)],
}

/// Outcome of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TransactionOutcome {
    /// Committed.
    Committed {
        /// Last offset written in each partition with output.
        appended: Vec<(TopicPartition, u64)>,
        /// True after trouble during the transaction (a timeout, a lost connection). Start a new
        /// incarnation before the next transaction.
        suspect: bool,
    },
    /// Certainly not committed.
    NotCommitted(String),
    /// Certainly not committed, because the transaction exceeded its time or the client's queue.
    /// The log had accepted `done` of `of` records.
    Late {
        /// The bound exceeded.
        why: String,
        /// Records accepted in time.
        done: usize,
        /// All records of the transaction.
        of: usize,
    },
    /// Certainly not committed, because the log rejected a record. The log would reject the same
    /// record again.
    Rejected(Rejection),
    /// Outcome unknown. Only the stable committed offsets show the outcome.
    Unknown(String),
    /// A newer incarnation exists.
    Fenced(String),
    /// Not committed, until a person changes something. The message says the required change: stop.
    Refused(String),
}

/// A record that the log rejects because of its content or size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The rule, in words that are the same in every attempt.
    pub reason: String,
    /// For people: the record, the rule, and the way out.
    pub text: String,
}

/// Stable committed offsets of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Committed {
    /// The next offset of each requested partition. `None` if no offset is committed.
    Stable(Vec<Option<u64>>),
    /// A transaction is still pending: ask again.
    Pending,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// First existing offset.
    pub start: u64,
    /// End for committed readers (last stable offset).
    pub stable_end: u64,
    /// End including open transactions (high watermark).
    pub end: u64,
}

/// One incarnation of one member of one group. Reads records, and writes in transactions. Made by
/// [`Log::join`], which fences the predecessor.
pub trait Member {
    /// Waits up to `wait` for an event, then takes the available records up to the limits. A change
    /// of assignment is returned alone.
    fn poll(
        &mut self,
        wait: Duration,
        limits: Limits,
        into: &mut Records,
    ) -> Result<Polled, LogError>;
    /// Starts delivery of assigned partitions at the given offsets.
    fn resume(&mut self, positions: &[(TopicPartition, u64)]) -> Result<(), LogError>;
    /// Skips the given partitions in the following polls, and delivers all others again. The
    /// instance still has records of the skipped partitions. A member may ignore the request.
    fn skip_partitions(&mut self, _partitions: &[TopicPartition]) {}
    /// Appends and commits in one transaction, fenced by the generation of the last poll (KIP-447).
    /// Blocks until the outcome or the timeout.
    fn transact(&mut self, tx: &Transaction<'_>) -> TransactionOutcome;
    /// True after trouble since the start of the incarnation, also outside a transaction.
    fn suspect(&self) -> bool;
    /// Leaves the group for good. Other members get the partitions at once and not at the session
    /// timeout. No other call may follow.
    fn leave(&mut self) {}
}

/// Reads committed records of one topic from given offsets, outside any group.
pub trait Reader: Send {
    /// Waits up to `wait` for a record, then takes the available records.
    fn poll(&mut self, wait: Duration, limits: Limits, into: &mut Records) -> Result<(), LogError>;
    /// True after `poll` has delivered every record that was stable when the reader was made.
    fn caught_up(&self) -> bool;
    /// Like [`Self::caught_up`], for one partition.
    fn reached(&self, _partition: u32) -> bool {
        self.caught_up()
    }
}

/// Start position of a reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartOffset {
    /// The first existing record.
    Start,
    /// Only records appended from now on.
    End,
    /// The given offset. An error if the offset no longer exists.
    Offset(u64),
}

/// Appends outside transactions, like a client.
pub trait Appender: Send {
    /// Queues a record and waits while the queue is full. The partition in `at` is used without
    /// change. The timestamp is used if the topic keeps timestamps of writers.
    fn append(&mut self, record: &Record<'_>) -> Result<(), LogError>;
    /// Waits until the log has all queued records.
    fn flush(&mut self, wait: Duration) -> Result<(), LogError>;
}

/// The current state of a topic in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicState {
    /// Number of partitions.
    pub partitions: u32,
    /// Differences from the [`TopicSpec`], in words. Empty if all settings fit.
    pub mismatches: Vec<String>,
}

/// A cluster, or a substitute for a cluster, for one process. Topics are those of the log's
/// [`crate::topics::TopicTable`].
pub trait Log: Send + Sync {
    /// Identity of the cluster. A store remembers the identity.
    fn cluster_id(&self) -> Result<String, LogError>;
    /// Number of partitions. `None` if the topic does not exist.
    fn partitions(&self, topic: TopicId) -> Result<Option<u32>, LogError>;
    /// Joins a group as a new incarnation. Returns after the predecessor with the same instance
    /// name is fenced and its last transaction is decided.
    fn join(&self, spec: &MemberSpec) -> Result<Box<dyn Member>, LogError>;
    /// A reader of some partitions of a topic. `headers`: true if records must include headers.
    fn reader(
        &self,
        topic: TopicId,
        from: &[(u32, StartOffset)],
        headers: bool,
    ) -> Result<Box<dyn Reader>, LogError>;
    /// A writer outside transactions.
    fn appender(&self) -> Result<Box<dyn Appender>, LogError>;
    /// Start and ends of a partition.
    fn bounds(&self, at: TopicPartition) -> Result<Bounds, LogError>;
    /// Bounds of many partitions, in one request if possible. An error of one partition does not
    /// affect the others.
    fn bounds_of(&self, at: &[TopicPartition]) -> Vec<Result<Bounds, LogError>> {
        at.iter().map(|at| self.bounds(*at)).collect()
    }
    /// True if a transaction marker takes an offset behind the records, as on Kafka.
    fn markers_take_offsets(&self) -> bool {
        false
    }
    /// A group's stable committed offsets. Waits briefly for pending transactions. The caller must
    /// have joined the group before, so that no predecessor can still change the offsets.
    fn committed(&self, group: &str, partitions: &[TopicPartition]) -> Result<Committed, LogError>;
    /// First offset with a log time at or after `time_ms`. The end offset if no such record exists.
    fn offset_at(&self, at: TopicPartition, time_ms: i64) -> Result<u64, LogError>;
    /// Append time of the record at the stable end, if an open transaction holds the stable end
    /// back. `None` without such a record, or if unknown.
    fn held_since_ms(
        &self,
        _at: TopicPartition,
        _stable_end: u64,
    ) -> Result<Option<i64>, LogError> {
        Ok(None)
    }
    /// Current members of a group as seen from outside, in words. Members of this process may be
    /// missing.
    fn group_members(&self, _group: &str) -> Result<Vec<String>, LogError> {
        Ok(Vec::new())
    }
    /// Committed offsets of any group, read from outside. Pending offsets are not shown.
    fn group_offsets(
        &self,
        group: &str,
        partitions: &[TopicPartition],
    ) -> Result<Vec<Option<u64>>, LogError>;
    /// Creates a topic with the cluster's default replication.
    fn create_topic(
        &self,
        topic: TopicId,
        spec: &TopicSpec,
        partitions: u32,
    ) -> Result<(), LogError>;
    /// Compares a topic with its requirements. `None` if the topic does not exist.
    fn describe_topic(
        &self,
        topic: TopicId,
        spec: &TopicSpec,
    ) -> Result<Option<TopicState>, LogError>;
    /// Wrong settings of all existing topics and of the cluster. Empty for a log without settings.
    fn findings(&self) -> Result<Vec<Finding>, LogError> {
        Ok(Vec::new())
    }
    /// Changes the given settings of a topic and keeps all others. A log without settings does
    /// nothing.
    fn alter_topic(&self, topic: TopicId, changes: &[(&str, &str)]) -> Result<(), LogError> {
        let _ = topic;
        let _ = changes;
        Ok(())
    }
}

/// Error of a store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk failed (full, read-only, ...): stop. Committed records are in the log.
    #[error("local state: {0}")]
    Io(String),
    /// The content is damaged: quarantine the store and rebuild from the changelog.
    #[error("local state is damaged: {0}")]
    Corrupt(String),
    /// Another process still holds the store: retry for a while. The caller has joined the group
    /// and fenced the other process, so the other process will end.
    #[error("{0}")]
    Held(String),
    /// The store belongs to another cluster, or a newer version wrote the store. The message says
    /// the way out.
    #[error("{0}")]
    Invalid(String),
}

/// One change of a store: a key and its new value. `None` deletes the key.
pub type StoreWrite<'a> = (&'a [u8], Option<&'a [u8]>);

/// Key-value state of one task. The store is a cache of the changelog partition; the changelog is
/// the truth.
pub trait StateStore: Send {
    /// The meta record written with the last batch.
    fn meta(&self) -> Result<Option<Vec<u8>>, StoreError>;
    /// Reads one key into `into`, after clearing `into`. Returns false if the key is absent.
    fn get(&self, key: &[u8], into: &mut Vec<u8>) -> Result<bool, StoreError>;
    /// Applies changes and the meta record atomically.
    fn write(
        &mut self,
        changes: &mut dyn Iterator<Item = StoreWrite<'_>>,
        meta: &[u8],
    ) -> Result<(), StoreError>;
    /// Visits all keys with a prefix in order. Stops if `visit` returns `false`.
    fn scan(
        &self,
        prefix: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StoreError>;
    /// Visits all keys behind `key` in order, or all keys without `key`. Stops if `visit` returns
    /// `false`. A store with seek support should override this function.
    fn scan_after(
        &self,
        key: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StoreError> {
        self.scan(b"", &mut |k, v| {
            key.is_some_and(|key| k <= key) || visit(k, v)
        })
    }
}

/// The local stores of one instance.
pub trait Stores: Send {
    /// Opens or creates the store of a task.
    fn open(&self, task: u32) -> Result<Box<dyn StateStore>, StoreError>;
    /// Best number of stores to open together.
    fn together(&self) -> usize {
        1
    }
    /// Opens several stores. Results have the order of `tasks`.
    fn open_all(&self, tasks: &[u32]) -> Vec<Result<Box<dyn StateStore>, StoreError>> {
        tasks.iter().map(|task| self.open(*task)).collect()
    }
    /// Moves a damaged or stale store away, so that the next open makes an empty store. Returns the
    /// new place.
    fn quarantine(&self, task: u32) -> Result<String, StoreError>;
}

/// Starts a thread with a name. The engine starts no threads itself, because a simulation has no
/// threads.
pub type SpawnThread = fn(String, Box<dyn FnOnce() + Send>) -> std::io::Result<()>;

/// Monotonic time for ages and backoff. The clock never decides about the meaning of a record.
pub trait Clock: Send + Sync {
    /// Microseconds since an arbitrary start.
    fn now_us(&self) -> u64;
    /// Waits. A simulated clock only moves forward.
    fn sleep(&self, d: Duration);
}
