//! The engine's ports to the world. The engine knows nothing else: no Kafka, no RocksDB, no thread,
//! no clock of its own.
//!
//! Adapters: `log_kafka` (rdkafka), `log_local` (embedded in RocksDB, or in memory),
//! `store::rocks`, `store::memory`. A call may block up to the time it is given; a simulated
//! adapter answers at once and moves a virtual clock instead, so that many engines run in one
//! thread.
// clippy.toml lists what would make a result depend on more than its records.
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

/// Why a call to the log failed; each kind names what to do next.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LogError {
    /// The log did not answer, or something passing went wrong: recover (new incarnation, with
    /// backoff).
    #[error("the log is unavailable: {0}")]
    Unavailable(String),
    /// A newer incarnation took this one's place: stop, do not restart in a tight loop.
    #[error("fenced by a newer instance: {0}")]
    Fenced(String),
    /// Configuration or topics do not fit; the message says what to change.
    #[error("{0}")]
    Invalid(String),
    /// The log does not let us in, or not do what we must; the message says what to change. At the
    /// first start that is a configuration that does not fit. Later it may pass (a broker that
    /// restarts may not know its users yet): recover, and stop when it lasts.
    #[error("{0}")]
    Refused(String),
    /// The disk under an embedded log said no (full, read-only, ...): stop, and start again when it
    /// is well; what was committed is safe.
    #[error("{0}")]
    Io(String),
    /// The records that were read cannot be right: stop and let a person look.
    #[error("the log is corrupt: {0}")]
    Corrupt(String),
}

/// Bytes that a record takes in a batch beyond its key, value and headers, at most; a topic's limit
/// is on the whole.
pub const RECORD_OVERHEAD: usize = 256;

/// Bounds of one poll.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// At most this many records.
    pub records: usize,
    /// Stop taking more at this many bytes.
    pub bytes: usize,
    /// Stop taking more after this long, counted from the first record.
    pub age: Duration,
}

/// A membership: the instance, its group, and the topics that it reads.
#[derive(Clone, Debug)]
pub struct MemberSpec {
    /// Consumer group, e.g. `processor-orders`.
    pub group: String,
    /// Static member and transactional id, e.g. `processor-orders-2`. Joining fences whoever had
    /// it.
    pub instance: String,
    /// Topics to share out; partition i of each goes to the same member.
    pub inputs: Vec<MemberInput>,
    /// How long the member's owner gathers records before it commits; zero if somebody waits for
    /// each.
    pub linger: Duration,
}

/// One topic that a group reads.
#[derive(Clone, Copy, Debug)]
pub struct MemberInput {
    /// The topic.
    pub topic: TopicId,
    /// Whether the records' headers are wanted (they cost time to parse).
    pub headers: bool,
}

/// The result of a poll.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Polled {
    /// Records were added to the batch (maybe none).
    Records,
    /// These partitions are now ours, instead of all before. They stay paused until
    /// [`Member::resume`].
    Assigned(Vec<TopicPartition>),
    /// All partitions are gone. Records taken in the same poll are void. `lost`: somebody else may
    /// have them already.
    Revoked {
        /// True when they went without our consent.
        lost: bool,
    },
}

/// Records to append, and how far the inputs were read: all or nothing.
pub struct Transaction<'a> {
    /// Records with explicit partition, key, value, headers and time.
    pub outputs: &'a Records,
    /// Next offset to read, for every input partition of every touched task; never empty.
    pub offsets: &'a [(TopicPartition, u64)],
}

/// How a transaction ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TransactionOutcome {
    /// Decided, and in the log for ever.
    Committed {
        /// Last offset written, for each partition that got output.
        appended: Vec<(TopicPartition, u64)>,
        /// Something odd happened on the way (a timeout, a lost connection): begin the next one as
        /// a new incarnation.
        suspect: bool,
    },
    /// Certainly not.
    NotCommitted(String),
    /// Certainly not, because it did not fit into its time or into the client's queue. So many of
    /// the records it was `of` had been accepted by then.
    Late {
        /// The bound that ran out.
        why: String,
        /// Records that were accepted in time.
        done: usize,
        /// Records of the transaction.
        of: usize,
    },
    /// Certainly not, because the log looked at a record and will not have it. The same record
    /// would be refused again, however often it is sent.
    Rejected(Rejection),
    /// Nobody knows; only the stable committed offsets will tell.
    Unknown(String),
    /// A newer incarnation exists.
    Fenced(String),
    /// Not, and never until a person changes something; the message says what: stop.
    Refused(String),
}

/// A record that the log refuses for what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The rule, in words that stay the same from one attempt to the next.
    pub reason: String,
    /// For people: which record, which rule, and what to do about it.
    pub text: String,
}

/// Stable committed offsets of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Committed {
    /// For each asked partition the next offset, or none if nothing was ever committed.
    Stable(Vec<Option<u64>>),
    /// A transaction is still pending; ask again.
    Pending,
}

/// Ends of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// First offset that is still there.
    pub start: u64,
    /// End for committed readers (last stable offset).
    pub stable_end: u64,
    /// End including open transactions (high watermark).
    pub end: u64,
}

/// One incarnation of one member of one group: reads, and writes in transactions. Made by
/// [`Log::join`], which fences its predecessor.
pub trait Member {
    /// Blocks up to `wait` for something to happen, then takes what is there at once, up to the
    /// limits. A change of assignment is answered alone.
    fn poll(
        &mut self,
        wait: Duration,
        limits: Limits,
        into: &mut Records,
    ) -> Result<Polled, LogError>;
    /// Starts delivery of assigned partitions at these offsets.
    fn resume(&mut self, positions: &[(TopicPartition, u64)]) -> Result<(), LogError>;
    /// Takes nothing from these partitions in the polls that follow, and from all others again: the
    /// instance has records of theirs left. A member that hands some over all the same does no
    /// harm.
    fn pass_over(&mut self, _partitions: &[TopicPartition]) {}
    /// Appends and commits in one transaction, fenced by the generation of the last poll. Blocks
    /// until decided or given up.
    fn transact(&mut self, tx: &Transaction<'_>) -> TransactionOutcome;
    /// Whether something odd was seen since the incarnation began (also outside a transaction).
    fn suspect(&self) -> bool;
    /// Leaves the group for good, so that others get its partitions at once and not when its
    /// session ends. Nothing else may follow.
    fn leave(&mut self) {}
}

/// Reads committed records of one topic from given offsets, outside any group.
pub trait Reader: Send {
    /// Blocks up to `wait` for a record, then takes what is there.
    fn poll(&mut self, wait: Duration, limits: Limits, into: &mut Records) -> Result<(), LogError>;
    /// True once every record that was stable when the reader was made has been delivered by
    /// `poll`.
    fn caught_up(&self) -> bool;
    /// The same for one of its partitions.
    fn reached(&self, _partition: u32) -> bool {
        self.caught_up()
    }
}

/// Where a reader begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// The first record that is still there.
    Start,
    /// Only what is appended from now on.
    End,
    /// This offset; an error if it is gone.
    Offset(u64),
}

/// Appends outside any transaction, as a client does: to its key's partition, with the broker's
/// time.
pub trait Appender: Send {
    /// Queues a record (waits when the queue is full). The partition in `at` is used as it is; so
    /// is the timestamp where the topic keeps it.
    fn append(&mut self, record: &Record<'_>) -> Result<(), LogError>;
    /// Waits until everything queued is in the log.
    fn flush(&mut self, wait: Duration) -> Result<(), LogError>;
}

/// The shape of a topic in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicState {
    /// How many partitions it has.
    pub partitions: u32,
    /// Settings that differ from its [`TopicSpec`], in words; empty when it fits.
    pub mismatches: Vec<String>,
}

/// A cluster (or its stand-in), as one process sees it. Topics are those of the
/// [`crate::topics::TopicTable`] it was made with.
pub trait Log: Send + Sync {
    /// Identity of the cluster; a store remembers it.
    fn cluster_id(&self) -> Result<String, LogError>;
    /// Number of partitions; none if the topic does not exist.
    fn partitions(&self, topic: TopicId) -> Result<Option<u32>, LogError>;
    /// Joins a group as a new incarnation. Returns when the predecessor with the same instance name
    /// is fenced and its last transaction decided.
    fn join(&self, spec: &MemberSpec) -> Result<Box<dyn Member>, LogError>;
    /// A reader of some partitions of a topic. `headers`: whether records carry them.
    fn reader(
        &self,
        topic: TopicId,
        from: &[(u32, From)],
        headers: bool,
    ) -> Result<Box<dyn Reader>, LogError>;
    /// A writer for clients.
    fn appender(&self) -> Result<Box<dyn Appender>, LogError>;
    /// Where a partition begins and ends.
    fn bounds(&self, at: TopicPartition) -> Result<Bounds, LogError>;
    /// The same for many partitions, in one request where the log has one; an error of one
    /// partition is that one's.
    fn bounds_of(&self, at: &[TopicPartition]) -> Vec<Result<Bounds, LogError>> {
        at.iter().map(|at| self.bounds(*at)).collect()
    }
    /// Whether the end of a transaction takes an offset of its own behind its records, as on Kafka.
    fn ends_take_offsets(&self) -> bool {
        false
    }
    /// A group's stable committed offsets: transactions that are still pending are waited for, for
    /// a moment. Whoever asks has joined the group before, so that no predecessor can change them
    /// any more.
    fn committed(&self, group: &str, partitions: &[TopicPartition]) -> Result<Committed, LogError>;
    /// First offset whose log time is at or after `time_ms`; the end if there is none.
    fn offset_at(&self, at: TopicPartition, time_ms: i64) -> Result<u64, LogError>;
    /// When the record at the stable end was appended, where an open transaction holds it back;
    /// none if there is no such record, or nobody can tell.
    fn held_since_ms(
        &self,
        _at: TopicPartition,
        _stable_end: u64,
    ) -> Result<Option<i64>, LogError> {
        Ok(None)
    }
    /// The members of a group at the moment, as seen from outside, each in words; members of this
    /// process may be left out.
    fn group_members(&self, _group: &str) -> Result<Vec<String>, LogError> {
        Ok(Vec::new())
    }
    /// Committed offsets of any group, read from outside; pending ones do not show.
    fn group_offsets(
        &self,
        group: &str,
        partitions: &[TopicPartition],
    ) -> Result<Vec<Option<u64>>, LogError>;
    /// Makes a topic; replication as the cluster's default.
    fn create_topic(
        &self,
        topic: TopicId,
        spec: &TopicSpec,
        partitions: u32,
    ) -> Result<(), LogError>;
    /// How the topic is, compared with what it must be; none if it does not exist.
    fn describe_topic(
        &self,
        topic: TopicId,
        spec: &TopicSpec,
    ) -> Result<Option<TopicState>, LogError>;
    /// Settings that do not fit, of all topics that exist and of the cluster. A log without
    /// settings has none.
    fn findings(&self) -> Result<Vec<Finding>, LogError> {
        Ok(Vec::new())
    }
    /// Gives a topic these settings and leaves its others as they are. A log without settings has
    /// nothing to change.
    fn alter_topic(&self, topic: TopicId, changes: &[(&str, &str)]) -> Result<(), LogError> {
        let _ = topic;
        let _ = changes;
        Ok(())
    }
}

/// Why a store failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk said no (full, read-only, ...): stop; what was committed is in the log.
    #[error("local state: {0}")]
    Io(String),
    /// Its content cannot be trusted: quarantine it and rebuild from the changelog.
    #[error("local state is damaged: {0}")]
    Corrupt(String),
    /// Another process still has it: ask again for a while. Whoever joined before asking has fenced
    /// that process, so it will end.
    #[error("{0}")]
    Held(String),
    /// The store belongs to another cluster, or was written by a newer version; the message says
    /// what to do.
    #[error("{0}")]
    Invalid(String),
}

/// One change of a store: a key and its new value, or none to delete it.
pub type StoreWrite<'a> = (&'a [u8], Option<&'a [u8]>);

/// Key-value state of one task. A cache of its changelog partition, never the truth.
pub trait StateStore: Send {
    /// The meta record written with the last batch.
    fn meta(&self) -> Result<Option<Vec<u8>>, StoreError>;
    /// Reads one key into `into` (cleared first); false if it is absent.
    fn get(&self, key: &[u8], into: &mut Vec<u8>) -> Result<bool, StoreError>;
    /// Applies changes and the meta record, atomically.
    fn write(
        &mut self,
        changes: &mut dyn Iterator<Item = StoreWrite<'_>>,
        meta: &[u8],
    ) -> Result<(), StoreError>;
    /// Visits all keys of a prefix in order; `false` stops.
    fn scan(
        &self,
        prefix: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StoreError>;
    /// Visits all keys behind one in order, all of them if none is given; `false` stops. A store
    /// that can seek should.
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
    /// Opens (or makes) the store of a task.
    fn open(&self, task: u32) -> Result<Box<dyn StateStore>, StoreError>;
    /// How many are best opened together.
    fn together(&self) -> usize {
        1
    }
    /// Opens several, and answers in their order.
    fn open_all(&self, tasks: &[u32]) -> Vec<Result<Box<dyn StateStore>, StoreError>> {
        tasks.iter().map(|task| self.open(*task)).collect()
    }
    /// Puts a damaged or stale store aside, so that the next open makes an empty one. Returns where
    /// it went.
    fn quarantine(&self, task: u32) -> Result<String, StoreError>;
}

/// Starts a thread under a name. The engine has none of its own: a simulation has no threads.
pub type SpawnThread = fn(String, Box<dyn FnOnce() + Send>) -> std::io::Result<()>;

/// Time that only ever moves forward, for ages and backoff. It never decides what a record means.
pub trait Clock: Send + Sync {
    /// Microseconds since some moment.
    fn now_us(&self) -> u64;
    /// Waits (a simulated clock only moves on).
    fn sleep(&self, d: Duration);
}
