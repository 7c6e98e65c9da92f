//! Re-executing a task's inputs from offset zero into scratch state, and comparing with what really happened.
//!
//! Roles whose result depends on how several inputs were merged have a journal: each entry names the positions after one transaction and the
//! broadcast rows it used, so the very same batches are formed again and the digest is compared after each of them. Other roles are replayed
//! input by input up to the live position, and the digest is compared there.

use std::sync::Arc;
use std::time::Duration;

use super::broadcast::Tables;
use super::digest::Digest;
use super::meta::{JournalEntry, Meta};
use super::ports::{From, Limits, Log, LogError, Reader, StateStore, StoreError};
use super::records::Records;
use super::role::{RoleFactory, RoleSpec};
use super::task::{Task, TaskError, TaskParts};
use super::topics::{TopicPartition, TopicTable};

/// Why a replay could not be done.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The log failed, or something needed is no longer in it.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The role or the scratch store failed.
    #[error(transparent)]
    Task(#[from] TaskError),
    /// The journal and the inputs do not fit together.
    #[error("{0}")]
    Journal(String),
}

/// Where a replay differs from what is on record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Divergence {
    /// Transaction of the task.
    pub transaction: u64,
    /// Input records of that transaction: partition, first offset, end.
    pub inputs: Vec<(TopicPartition, u64, u64)>,
    /// Digest on record.
    pub recorded: Digest,
    /// Digest of the replay.
    pub replayed: Digest,
    /// The first record whose output differs from what stands in the log, if outputs show it.
    pub record: Option<String>,
}

/// What a replay found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replayed {
    /// Transactions re-executed.
    pub transactions: u64,
    /// Records re-executed.
    pub records: u64,
    /// Digest at the end.
    pub digest: Digest,
    /// None if everything agrees.
    pub divergence: Option<Divergence>,
}

/// What a replay works with.
pub struct Replay<'a> {
    /// The log.
    pub log: &'a dyn Log,
    /// Names.
    pub topics: Arc<TopicTable>,
    /// The role.
    pub factory: &'a dyn RoleFactory,
    /// Partition counts by topic number.
    pub partitions: Arc<[u32]>,
    /// The task.
    pub task: u32,
    /// Told now and then how many records are done.
    pub progress: &'a mut dyn FnMut(u64),
}

const LIMITS: Limits = Limits { records: 20_000, bytes: 16 << 20, age: Duration::from_millis(200) };
const PATIENCE: Duration = Duration::from_secs(30);

impl Replay<'_> {
    /// Replays up to the position in `live` (the meta record of a live store, or of the changelog) into an empty scratch store.
    pub fn run(mut self, scratch: Box<dyn StateStore>, live: &Meta) -> Result<Replayed, ReplayError> {
        let spec = Arc::new(self.factory.spec().clone());
        let starts = live.offsets.iter().map(|(at, _)| Ok((*at, self.log.bounds(*at)?.start))).collect::<Result<Vec<_>, LogError>>()?;
        let mut cursors = Vec::new();
        for input in &spec.inputs {
            for (at, start) in starts.iter().filter(|(at, _)| at.topic == input.topic) {
                cursors.push(Cursor::new(self.log, *at, *start, input.guarded)?);
            }
        }
        let parts = TaskParts {
            spec: spec.clone(),
            role: self.factory.make(self.task),
            topics: self.topics.clone(),
            partitions: self.partitions.clone(),
            cache_bytes: 64 << 20,
        };
        let task = Task::new(self.task, parts, scratch, Meta { offsets: starts, ..Meta::default() });
        match spec.journal {
            Some(journal) => self.by_journal(&spec, journal, task, cursors, live),
            None => self.by_position(task, cursors, live),
        }
    }

    fn by_journal(
        &mut self,
        spec: &RoleSpec,
        journal: super::topics::TopicId,
        mut task: Task,
        mut cursors: Vec<Cursor>,
        live: &Meta,
    ) -> Result<Replayed, ReplayError> {
        let mut entries = Cursor::new(self.log, TopicPartition::new(journal, self.task), 0, false)?;
        let (mut tables, mut out, mut batch, mut records) = (Tables::default(), Records::new(), Records::new(), 0u64);
        while task.meta().transaction < live.transaction {
            let entry = entries.next_value()?;
            let entry = JournalEntry::decode(&entry).map_err(|e| ReplayError::Journal(e.to_string()))?;
            if entry.transaction != task.meta().transaction + 1 {
                let (want, got) = (task.meta().transaction + 1, entry.transaction);
                return Err(ReplayError::Journal(format!("{} skips from transaction {want} to {got}", self.topics.name(journal))));
            }
            task.view.tables = Arc::default();
            if entry.forget {
                tables = Tables::default();
            }
            for row in &entry.rows {
                tables.force(row);
            }
            task.view.tables = Arc::new(std::mem::take(&mut tables));
            batch.clear();
            let before = task.meta().offsets.clone();
            for c in &mut cursors {
                c.take_until(position(&entry.offsets, c.at)?, &mut batch)?;
            }
            out.clear();
            let order = super::instance::processing_order(spec, &batch);
            task.process(order.iter().map(|(_, _, i)| batch.get(*i as usize)), &mut out)?;
            records += batch.len() as u64;
            (self.progress)(records);
            let replayed = task.prepare(&mut out).digest;
            let transaction = entry.transaction;
            if replayed != entry.digest {
                let inputs = before.iter().zip(&entry.offsets).map(|((at, a), (_, b))| (*at, *a, *b)).collect();
                let record = self.first_wrong_output(spec, &out)?;
                let divergence = Some(Divergence { transaction, inputs, recorded: entry.digest, replayed, record });
                return Ok(Replayed { transactions: transaction, records, digest: replayed, divergence });
            }
            task.post_commit(0).map_err(TaskError::from)?;
            tables = Arc::try_unwrap(std::mem::take(&mut task.view.tables)).unwrap_or_else(|shared| (*shared).clone());
        }
        Ok(self.verdict(&task, live, records))
    }

    fn by_position(&mut self, mut task: Task, mut cursors: Vec<Cursor>, live: &Meta) -> Result<Replayed, ReplayError> {
        let (mut out, mut batch, mut records) = (Records::new(), Records::new(), 0u64);
        for c in &mut cursors {
            let end = position(&live.offsets, c.at)?;
            while c.position < end {
                batch.clear();
                let got = c.take_some(end, &mut batch)?;
                out.clear();
                task.process(batch.iter(), &mut out)?;
                task.prepare(&mut out);
                task.post_commit(0).map_err(TaskError::from)?;
                records += batch.len() as u64;
                (self.progress)(records);
                if !got {
                    break;
                }
            }
        }
        Ok(self.verdict(&task, live, records))
    }

    fn verdict(&self, task: &Task, live: &Meta, records: u64) -> Replayed {
        let (digest, transactions) = (task.digest(), task.meta().transaction);
        let divergence = (digest != live.digest).then(|| Divergence {
            transaction: live.transaction,
            inputs: live.offsets.iter().map(|(at, o)| (*at, 0, *o)).collect(),
            recorded: live.digest,
            replayed: digest,
            record: None,
        });
        Replayed { transactions, records, digest, divergence }
    }

    /// Compares the outputs of one re-executed transaction with the log's, by `(src, n)`; names the first cause that differs.
    fn first_wrong_output(&self, spec: &RoleSpec, out: &Records) -> Result<Option<String>, ReplayError> {
        let ours = |t| t == spec.changelog || Some(t) == spec.journal;
        let mut by_partition: std::collections::BTreeMap<TopicPartition, Vec<usize>> = Default::default();
        for (i, r) in out.iter().enumerate().filter(|(_, r)| !ours(r.at.topic)) {
            by_partition.entry(r.at).or_default().push(i);
        }
        let name = |r: &super::records::Record<'_>| Some((r.headers.get("src")?.to_vec(), r.headers.get("n")?.to_vec()));
        let mut first: Option<usize> = None;
        for (at, wanted) in by_partition {
            let mut reader = self.log.reader(at.topic, &[(at.partition, From::Start)], true)?;
            let mut found: std::collections::BTreeMap<_, Vec<u8>> = Default::default();
            let mut chunk = Records::new();
            loop {
                chunk.clear();
                reader.poll(Duration::from_millis(200), LIMITS, &mut chunk)?;
                for r in chunk.iter() {
                    if let Some(key) = name(&r) {
                        found.insert(key, r.value.unwrap_or_default().to_vec());
                    }
                }
                if chunk.is_empty() && reader.caught_up() {
                    break;
                }
            }
            let wrong = wanted.into_iter().find(|i| {
                let r = out.get(*i);
                name(&r).and_then(|key| found.get(&key)).map(Vec::as_slice) != r.value
            });
            first = [first, wrong].into_iter().flatten().min();
        }
        Ok(first.and_then(|i| out.get(i).headers.text("src").map(str::to_string)))
    }
}

fn position(positions: &[(TopicPartition, u64)], at: TopicPartition) -> Result<u64, ReplayError> {
    let found = positions.iter().find(|(a, _)| *a == at).map(|(_, o)| *o);
    found.ok_or_else(|| ReplayError::Journal(format!("no position for {at:?} on record")))
}

/// Reads one partition forward, in pieces that end at given offsets.
struct Cursor {
    at: TopicPartition,
    reader: Box<dyn Reader>,
    ahead: Records,
    /// Next record in `ahead`.
    used: usize,
    /// Everything below this offset was handed out.
    position: u64,
}

impl Cursor {
    fn new(log: &dyn Log, at: TopicPartition, start: u64, headers: bool) -> Result<Cursor, LogError> {
        let reader = log.reader(at.topic, &[(at.partition, From::Start)], headers)?;
        Ok(Cursor { at, reader, ahead: Records::new(), used: 0, position: start })
    }

    /// Moves records below `end` to `into`, until one at or above it shows up or the partition ends.
    fn take_until(&mut self, end: u64, into: &mut Records) -> Result<(), ReplayError> {
        while self.position < end && self.take_some(end, into)? {}
        self.position = self.position.max(end);
        Ok(())
    }

    /// Moves what is at hand and below `end`; false when there can be no more.
    fn take_some(&mut self, end: u64, into: &mut Records) -> Result<bool, ReplayError> {
        if self.used == self.ahead.len() && !self.fill()? {
            return Ok(false);
        }
        while self.used < self.ahead.len() {
            let r = self.ahead.get(self.used);
            if r.offset >= end {
                return Ok(false);
            }
            into.push(&r);
            self.position = r.offset + 1;
            self.used += 1;
        }
        Ok(true)
    }

    /// Reads on; false at the end of the partition.
    fn fill(&mut self) -> Result<bool, ReplayError> {
        self.ahead.clear();
        self.used = 0;
        let mut waited = Duration::ZERO;
        while self.ahead.is_empty() && waited < PATIENCE {
            if self.reader.caught_up() {
                self.reader.poll(Duration::ZERO, LIMITS, &mut self.ahead)?;
                return Ok(!self.ahead.is_empty());
            }
            self.reader.poll(Duration::from_millis(100), LIMITS, &mut self.ahead)?;
            waited += Duration::from_millis(100);
        }
        if self.ahead.is_empty() {
            // To go on without them would look like a divergence.
            return Err(LogError::Unavailable(format!("no records of {:?} came for {} s", self.at, PATIENCE.as_secs())).into());
        }
        Ok(true)
    }

    fn next_value(&mut self) -> Result<Vec<u8>, ReplayError> {
        if self.used == self.ahead.len() && !self.fill()? {
            return Err(ReplayError::Journal(format!("the journal ends too early in partition {}", self.at.partition)));
        }
        self.used += 1;
        Ok(self.ahead.get(self.used - 1).value.unwrap_or_default().to_vec())
    }
}

impl std::convert::From<StoreError> for ReplayError {
    fn from(e: StoreError) -> Self {
        ReplayError::Task(e.into())
    }
}
