//! A role's means while it handles a record: read and write the task's state, look up broadcast
//! tables, emit records.
//!
//! Nothing leaves the process here. Writes go to the overlay, output to the batch of the
//! transaction; both vanish if it does not commit.

use super::broadcast::{BroadcastRow, TableView};
use super::overlay::Overlay;
use super::pace::TransactionContent;
use super::sequence_check::OutSequences;
#[cfg(feature = "faults")]
use faults::mutants;
use ports::partitioner;
use ports::records::{HeaderBuf, Headers, Record, Records};
use ports::topics::{TopicId, TopicPartition, TopicTable};
use ports::{RECORD_OVERHEAD, StateStore, StoreError};

/// The record that output is caused by: its name and its time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cause {
    /// Topic and partition.
    pub at: TopicPartition,
    /// Offset.
    pub offset: u64,
    /// Log time; what we write carries it on.
    pub timestamp_ms: i64,
}

/// Output side of a task: where records go and how they are named. Lives as long as the task.
pub struct Outbox {
    /// Names, for `src` headers.
    pub topics: std::sync::Arc<TopicTable>,
    /// Partition counts by topic number; 0 where a topic is not ours to write.
    pub partitions: std::sync::Arc<[u32]>,
    /// Next sequence for each guarded output partition.
    pub sequences: OutSequences,
    headers: HeaderBuf,
    scratch: String,
    src: String,
    n: u32,
}

impl Outbox {
    /// For a task that has already sent what `sequences` says.
    pub fn new(
        topics: std::sync::Arc<TopicTable>,
        partitions: std::sync::Arc<[u32]>,
        sequences: OutSequences,
    ) -> Self {
        Outbox {
            topics,
            partitions,
            sequences,
            headers: HeaderBuf::default(),
            scratch: String::new(),
            src: String::new(),
            n: 0,
        }
    }

    fn caused_by(&mut self, cause: &Cause) {
        use std::fmt::Write;
        self.src.clear();
        self.n = 0;
        write!(self.src, "{}/{}", self.topics.show(cause.at), cause.offset)
            .expect("writing to a string");
    }
}

/// A role's view of its task while one record is processed.
pub struct Ctx<'a> {
    task: u32,
    cause: Cause,
    overlay: &'a mut Overlay,
    store: &'a dyn StateStore,
    tables: &'a mut TableView,
    outbox: &'a mut Outbox,
    out: &'a mut Records,
    dead_letters: TopicId,
    failed: Option<StoreError>,
}

impl<'a> Ctx<'a> {
    /// A context for one task; the engine makes it.
    pub fn new(
        task: u32,
        overlay: &'a mut Overlay,
        store: &'a dyn StateStore,
        tables: &'a mut TableView,
        outbox: &'a mut Outbox,
        out: &'a mut Records,
        dead_letters: TopicId,
    ) -> Self {
        let cause = Cause {
            at: TopicPartition::new(TopicId(0), task),
            offset: 0,
            timestamp_ms: 0,
        };

        Ctx {
            task,
            cause,
            overlay,
            store,
            tables,
            outbox,
            out,
            dead_letters,
            failed: None,
        }
    }

    /// Says which record causes what follows. The engine does it before each record; a role does it
    /// in `batch_end`.
    pub fn set_cause(&mut self, cause: Cause) {
        self.cause = cause;
        self.outbox.caused_by(&cause);
    }

    /// The record that is being processed.
    pub fn cause(&self) -> Cause {
        self.cause
    }

    /// Task number = partition number.
    pub fn task(&self) -> u32 {
        self.task
    }

    /// Log time of the record in hand, milliseconds since 1970. The only time there is.
    pub fn time_ms(&self) -> i64 {
        #[cfg(feature = "faults")]
        if mutants::on(mutants::Mutant::WallClock) {
            return mutants::wall_ms();
        }

        self.cause.timestamp_ms
    }

    /// Full name of a topic.
    pub fn topic_name(&self, topic: TopicId) -> &str {
        self.outbox.topics.name(topic)
    }

    /// `topic/partition/offset` of the record in hand.
    pub fn src(&self) -> &str {
        &self.outbox.src
    }

    /// The value of a key, with all earlier writes of this transaction. If the store fails, `None`,
    /// and the transaction will not commit.
    pub fn get(&mut self, key: &[u8]) -> Option<&[u8]> {
        match self.overlay.get(key, self.store) {
            Ok(v) => v,
            Err(e) => {
                self.failed.get_or_insert(e);
                None
            }
        }
    }

    /// Sets a key.
    pub fn put(&mut self, key: &[u8], value: &[u8]) {
        if let Err(e) = self.overlay.put(key, Some(value), self.store) {
            self.failed.get_or_insert(e);
        }
    }

    /// Removes a key.
    pub fn delete(&mut self, key: &[u8]) {
        if let Err(e) = self.overlay.put(key, None, self.store) {
            self.failed.get_or_insert(e);
        }
    }

    /// Visits all keys of a prefix with their values, in order, with all earlier writes of this
    /// transaction.
    pub fn scan(&mut self, prefix: &[u8], visit: &mut dyn FnMut(&[u8], &[u8])) {
        self.scan_after(prefix, None, &mut |key, value| {
            visit(key, value);
            true
        });
    }

    /// The same behind a key of the prefix, if one is given, and for as long as `visit` answers
    /// `true`.
    pub fn scan_after(
        &mut self,
        prefix: &[u8],
        after: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) {
        if let Err(e) = self.overlay.scan_after(prefix, after, self.store, visit) {
            self.failed.get_or_insert(e);
        }
    }

    /// A row of a broadcast table. What was seen goes on record in the journal.
    pub fn lookup(&mut self, table: TopicId, key: &[u8]) -> Option<BroadcastRow<'_>> {
        self.tables.lookup(table, key)
    }

    /// Whether a broadcast table has nothing that a lookup could find or note.
    pub fn is_empty(&self, table: TopicId) -> bool {
        self.tables.is_empty(table)
    }

    /// Partition of a key in a topic, by the Java client's rule.
    pub fn partition_of(&self, topic: TopicId, key: &[u8]) -> u32 {
        partitioner::partition(key, self.outbox.partitions[topic.0 as usize])
    }

    /// Appends a record to its key's partition of a topic. `kind` is the `type` header; `src`, `n`,
    /// `v` and the time come from the cause.
    pub fn emit(&mut self, topic: TopicId, key: &[u8], kind: &str, value: &[u8]) {
        self.emit_beside(topic, key, key, kind, Some(value));
    }

    /// The same with a value of another format than [`VERSION`](super::sequence_check::VERSION).
    pub fn emit_as(
        &mut self,
        version: &[u8],
        topic: TopicId,
        key: &[u8],
        kind: &str,
        value: &[u8],
    ) {
        let at = TopicPartition::new(topic, self.partition_of(topic, key));
        self.write_headers(at, kind, version);
        self.append(at, Some(key), Some(value));
    }

    /// The same into the partition of another key, so that records which belong together lie
    /// together. No value: a tombstone.
    pub fn emit_beside(
        &mut self,
        topic: TopicId,
        beside: &[u8],
        key: &[u8],
        kind: &str,
        value: Option<&[u8]>,
    ) {
        let at = TopicPartition::new(topic, self.partition_of(topic, beside));
        self.write_headers(at, kind, super::sequence_check::VERSION);
        self.append(at, Some(key), value);
    }

    /// Sends a record that cannot be processed to `dead-letters`, key and value untouched, with the
    /// reason.
    pub fn dead_letter(&mut self, record: &Record<'_>, reason: &str, text: &str) {
        let count = self.outbox.partitions[self.dead_letters.0 as usize];
        let partition = match record.key {
            Some(key) => partitioner::partition(key, count),
            None => record.at.partition % count,
        };

        let at = TopicPartition::new(self.dead_letters, partition);
        self.write_headers(at, "DeadLetter", super::sequence_check::VERSION);
        let room = (self.outbox.topics.spec(self.dead_letters).record_bytes_max as usize)
            .saturating_sub(RECORD_OVERHEAD + 1024);
        let key = record.key.map_or(0, <[u8]>::len);
        let value = record.value.map_or(0, <[u8]>::len);
        if key + value + text.len() <= room {
            self.outbox
                .headers
                .push("reason", reason.as_bytes())
                .push("text", text.as_bytes());
            self.append(at, record.key, record.value);
            return;
        }

        // A compressed batch may hold records that no topic of ours could take. The original stays
        // where it is, and `src` finds it.
        let text = format!(
            "{reason}: {key} bytes of key and {value} of value are left out here; src names the record"
        );
        self.outbox
            .headers
            .push("reason", reason.as_bytes())
            .push("text", text.as_bytes());
        self.append(at, record.key.filter(|k| k.len() <= room), None);
    }

    fn write_headers(&mut self, at: TopicPartition, kind: &str, version: &[u8]) {
        use std::fmt::Write;
        let o = &mut *self.outbox;
        let mut number = itoa_buf(o.n);
        o.n += 1;
        o.headers
            .clear()
            .push("type", kind.as_bytes())
            .push(super::sequence_check::VERSION_HEADER, version)
            .push("src", o.src.as_bytes())
            .push("n", number.text());
        if let Some(sequence) = o.sequences.next(at) {
            o.scratch.clear();
            write!(o.scratch, "{}/{}", self.task, sequence).expect("writing to a string");
            o.headers
                .push(super::sequence_check::HEADER, o.scratch.as_bytes());
        }
    }

    fn append(&mut self, at: TopicPartition, key: Option<&[u8]>, value: Option<&[u8]>) {
        let headers = Headers::packed(self.outbox.headers.headers().as_bytes());
        self.out.push(&Record {
            at,
            offset: 0,
            timestamp_ms: self.cause.timestamp_ms,
            key,
            value,
            headers,
        });
    }

    /// The size of the transaction so far: this task's output and that of tasks before it, this
    /// task's state changes and rows for its journal.
    pub(super) fn written(&self) -> TransactionContent {
        let (changes, bytes) = self.overlay.written();
        let rows = self.tables.fresh_bytes();
        TransactionContent {
            records: self.out.len() + changes,
            bytes: self.out.size_bytes() + bytes + rows,
            row_bytes: rows,
        }
    }

    /// The store's failure, if there was one; the engine asks after each record.
    pub fn take_failure(&mut self) -> Option<StoreError> {
        self.failed.take()
    }
}

/// A small number as decimal text without an allocation.
struct Decimal {
    bytes: [u8; 10],
    start: usize,
}

fn itoa_buf(mut n: u32) -> Decimal {
    let mut d = Decimal {
        bytes: [0; 10],
        start: 10,
    };

    loop {
        d.start -= 1;
        d.bytes[d.start] = b'0' + (n % 10) as u8;
        n /= 10;
        if n == 0 {
            return d;
        }
    }
}

impl Decimal {
    fn text(&mut self) -> &[u8] {
        &self.bytes[self.start..]
    }
}
