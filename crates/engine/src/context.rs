//! The interface of a role while the role handles a record: read and write task state, look up
//! broadcast tables, emit records.
//!
//! Nothing leaves the process here. Writes go to the overlay, and output goes to the batch of the
//! transaction. An aborted transaction drops both.

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

/// The input record that causes output: position and log time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cause {
    pub at: TopicPartition,
    pub offset: u64,
    /// Log time in milliseconds. Output records carry the same time.
    pub timestamp_ms: i64,
}

/// Output side of a task: partitions, headers and sequences of records. Lives as long as the task.
pub struct Outbox {
    /// Topic names for `src` headers.
    pub topics: std::sync::Arc<TopicTable>,
    /// Partition counts by topic number; 0 for topics that the role does not write.
    pub partitions: std::sync::Arc<[u32]>,
    /// Last sequence of each guarded output partition.
    pub sequences: OutSequences,
    headers: HeaderBuf,
    scratch: String,
    src: String,
    n: u32,
}

impl Outbox {
    /// An outbox that continues behind the given sequences.
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
    /// A context for one task. Called by the engine.
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

    /// Sets the record that causes the following output. The engine calls this function before each
    /// record. A role calls the function in `batch_end`.
    pub fn set_cause(&mut self, cause: Cause) {
        self.cause = cause;
        self.outbox.caused_by(&cause);
    }

    /// The input record in hand.
    pub fn cause(&self) -> Cause {
        self.cause
    }

    /// Task number = partition number.
    pub fn task(&self) -> u32 {
        self.task
    }

    /// Log time of the record in hand, milliseconds since 1970. Roles have no other clock.
    pub fn time_ms(&self) -> i64 {
        #[cfg(feature = "faults")]
        if mutants::on(mutants::Mutant::WallClock) {
            return mutants::wall_ms();
        }

        self.cause.timestamp_ms
    }

    pub fn topic_name(&self, topic: TopicId) -> &str {
        self.outbox.topics.name(topic)
    }

    /// `topic/partition/offset` of the record in hand.
    pub fn src(&self) -> &str {
        &self.outbox.src
    }

    /// The value of a key, including earlier writes of this transaction. If the store fails, the
    /// result is `None`, and the transaction will not commit.
    pub fn get(&mut self, key: &[u8]) -> Option<&[u8]> {
        match self.overlay.get(key, self.store) {
            Ok(v) => v,
            Err(e) => {
                self.failed.get_or_insert(e);
                None
            }
        }
    }

    pub fn put(&mut self, key: &[u8], value: &[u8]) {
        if let Err(e) = self.overlay.put(key, Some(value), self.store) {
            self.failed.get_or_insert(e);
        }
    }

    pub fn delete(&mut self, key: &[u8]) {
        if let Err(e) = self.overlay.put(key, None, self.store) {
            self.failed.get_or_insert(e);
        }
    }

    /// Visits all keys with a prefix and their values, in key order, including earlier writes of
    /// this transaction.
    pub fn scan(&mut self, prefix: &[u8], visit: &mut dyn FnMut(&[u8], &[u8])) {
        self.scan_after(prefix, None, &mut |key, value| {
            visit(key, value);
            true
        });
    }

    /// Like [`Self::scan`], but starts behind the key `after`, if given. Stops when `visit` returns
    /// `false`.
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

    /// A row of a broadcast table. The journal records every row returned here.
    pub fn lookup(&mut self, table: TopicId, key: &[u8]) -> Option<BroadcastRow<'_>> {
        self.tables.lookup(table, key)
    }

    /// True if a broadcast table is empty, so that a lookup would find and note no row.
    pub fn is_empty(&self, table: TopicId) -> bool {
        self.tables.is_empty(table)
    }

    /// Partition of a key in a topic, by the Java client's rule.
    pub fn partition_of(&self, topic: TopicId, key: &[u8]) -> u32 {
        partitioner::partition(key, self.outbox.partitions[topic.0 as usize])
    }

    /// Appends a record to the partition of its key. `kind` is the `type` header. The headers `src`
    /// and `n` and the time come from the cause. The header `v` is the current value format.
    pub fn emit(&mut self, topic: TopicId, key: &[u8], kind: &str, value: &[u8]) {
        self.emit_beside(topic, key, key, kind, Some(value));
    }

    /// Like [`Self::emit`], with a value format other than
    /// [`VERSION`](super::sequence_check::VERSION).
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

    /// Like [`Self::emit`], but into the partition of the key `beside`, so that related records
    /// share a partition. `None` as value is a tombstone.
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

    /// Sends an unprocessable record to `dead-letters` with the reason. Key and value stay
    /// unchanged.
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

        // A compressed batch may contain records over the limits of all our topics. The original
        // stays in the input topic, and `src` names its position.
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

    /// Size of the transaction so far: output of this task and earlier tasks, state changes of this
    /// task, and rows for its journal.
    pub(super) fn written(&self) -> TransactionContent {
        let (changes, bytes) = self.overlay.written();
        let rows = self.tables.fresh_bytes();
        TransactionContent {
            records: self.out.len() + changes,
            bytes: self.out.size_bytes() + bytes + rows,
            row_bytes: rows,
        }
    }

    /// Returns the first failure of the store, if any. The engine calls this function after each
    /// record.
    pub fn take_failure(&mut self) -> Option<StoreError> {
        self.failed.take()
    }
}

/// A small number as decimal text, without allocation.
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
