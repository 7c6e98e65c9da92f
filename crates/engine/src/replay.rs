//! Replay: executes a task's inputs again from offset zero into scratch state, and compares the
//! result with the recorded digests.
//!
//! Roles with results that depend on the merge order of several inputs have a journal. Each journal
//! entry contains the positions after one transaction and the broadcast rows used. A replay forms
//! the same batches and compares the digest after each transaction. Other roles are replayed input
//! by input up to the live position, and the digest is compared there.

use std::sync::Arc;
use std::time::Duration;

use ports::records::Records;
use ports::topics::{TopicId, TopicPartition, TopicTable};
use ports::{Log, LogError, StartOffset, StateStore, StoreError};

use super::broadcast::Tables;
use super::checkpoint::{Checkpoint, JournalEntry, UnreadableMeta, next_offset};
use super::cursor::{LIMITS, PartitionCursor, position};
use super::digest::Digest;
use super::journal::Assembler;
use super::merge::{by_log_time, by_task};
use super::pace::TransactionRoom;
use super::role::{RoleFactory, RoleSpec};
use super::task::{Task, TaskError, TaskParts};

/// Error of a replay.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The log failed, or the log no longer contains a needed record.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The role or the scratch store failed.
    #[error(transparent)]
    Task(#[from] TaskError),
    /// The journal and the inputs do not match.
    #[error("{0}")]
    Journal(String),
    /// A journal entry cannot be decoded.
    #[error(transparent)]
    Unreadable(#[from] UnreadableMeta),
    /// The requested moment is not in this task's past.
    #[error("{0}")]
    Moment(String),
}

/// A difference between replay and recorded results.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Divergence {
    /// Number of the task's transaction.
    pub transaction: u64,
    /// Input records of that transaction: partition, first offset, end.
    pub inputs: Vec<(TopicPartition, u64, u64)>,
    /// Recorded digest.
    pub recorded: Digest,
    /// Digest of the replay.
    pub replayed: Digest,
    /// The first input record with different output, if outputs show the difference.
    pub record: Option<String>,
}

/// Result of a replay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replayed {
    pub transactions: u64,
    pub records: u64,
    /// Digest at the end.
    pub digest: Digest,
    /// `None` if all digests are equal.
    pub divergence: Option<Divergence>,
}

/// The ports and settings of a replay.
pub struct ReplaySettings<'a> {
    pub log: &'a dyn Log,
    pub topics: Arc<TopicTable>,
    pub factory: &'a dyn RoleFactory,
    /// Partition counts by topic number.
    pub partitions: Arc<[u32]>,
    pub task: u32,
    /// Called sometimes with the number of records done.
    pub progress: &'a mut dyn FnMut(u64),
}

/// A task being re-executed.
pub(super) struct Run {
    pub(super) task: Task,
    cursors: Vec<PartitionCursor>,
    /// Broadcast rows according to the journal so far.
    tables: Tables,
    out: Records,
    batch: Records,
    pub(super) records: u64,
}

impl Run {
    pub(super) fn new(task: Task, cursors: Vec<PartitionCursor>) -> Run {
        Run {
            task,
            cursors,
            tables: Tables::default(),
            out: Records::new(),
            batch: Records::new(),
            records: 0,
        }
    }
}

impl ReplaySettings<'_> {
    /// Replays up to the position in `live` into an empty scratch store. `live` is the checkpoint
    /// of a live store or of the changelog.
    pub fn run(
        mut self,
        scratch: Box<dyn StateStore>,
        live: &Checkpoint,
    ) -> Result<Replayed, ReplayError> {
        let spec = Arc::new(self.factory.spec().clone());
        let inputs: Vec<TopicPartition> = live.offsets.iter().map(|(at, _)| *at).collect();
        let (task, cursors) = self.start(&spec, scratch, &inputs)?;
        match spec.journal {
            Some(journal) => self.by_journal(&spec, journal, task, cursors, live),
            None => {
                let mut run = Run::new(task, cursors);
                self.by_position(&mut run, &live.offsets)?;
                Ok(self.verdict(&run.task, live, run.records))
            }
        }
    }

    /// A new task, with cursors at the start of its inputs.
    pub(super) fn start(
        &self,
        spec: &Arc<RoleSpec>,
        scratch: Box<dyn StateStore>,
        inputs: &[TopicPartition],
    ) -> Result<(Task, Vec<PartitionCursor>), ReplayError> {
        let starts = inputs
            .iter()
            .map(|at| Ok((*at, self.log.bounds(*at)?.start)))
            .collect::<Result<Vec<_>, LogError>>()?;
        let mut cursors = Vec::new();
        for input in &spec.inputs {
            for (at, start) in starts.iter().filter(|(at, _)| at.topic == input.topic) {
                cursors.push(PartitionCursor::new(
                    self.log,
                    *at,
                    *start,
                    input.guarded || spec.headers,
                )?);
            }
        }

        let parts = TaskParts {
            spec: spec.clone(),
            role: self.factory.make(self.task),
            topics: self.topics.clone(),
            partitions: self.partitions.clone(),
            cache_bytes: 64 << 20,
        };

        Ok((
            Task::new(
                self.task,
                parts,
                scratch,
                Checkpoint {
                    offsets: starts,
                    ..Checkpoint::default()
                },
            ),
            cursors,
        ))
    }

    fn by_journal(
        &mut self,
        spec: &RoleSpec,
        journal: TopicId,
        task: Task,
        cursors: Vec<PartitionCursor>,
        live: &Checkpoint,
    ) -> Result<Replayed, ReplayError> {
        let mut entries =
            PartitionCursor::new(self.log, TopicPartition::new(journal, self.task), 0, false)?;
        let mut run = Run::new(task, cursors);
        let mut whole = Assembler::default();
        while run.task.meta().transaction < live.transaction {
            let Some(record) = entries.next_value()? else {
                return Err(ReplayError::Journal(format!(
                    "the journal ends too early in partition {}",
                    self.task
                )));
            };

            let Some(entry) = whole.take(&record)? else {
                continue;
            };

            if let Some(divergence) = self.entry(spec, journal, &mut run, &entry)? {
                let transactions = divergence.transaction;
                let digest = divergence.replayed;
                return Ok(Replayed {
                    transactions,
                    records: run.records,
                    digest,
                    divergence: Some(divergence),
                });
            }
        }

        Ok(self.verdict(&run.task, live, run.records))
    }

    /// Re-executes one transaction and compares the digest with the recorded digest.
    pub(super) fn entry(
        &mut self,
        spec: &RoleSpec,
        journal: TopicId,
        run: &mut Run,
        entry: &JournalEntry,
    ) -> Result<Option<Divergence>, ReplayError> {
        let Run {
            task,
            cursors,
            tables,
            out,
            batch,
            records,
        } = run;

        if entry.transaction != task.meta().transaction + 1 {
            let want = task.meta().transaction + 1;
            let got = entry.transaction;
            return Err(ReplayError::Journal(format!(
                "{} skips from transaction {want} to {got}",
                self.topics.name(journal)
            )));
        }

        task.view.tables = Arc::default();
        if entry.forget {
            *tables = Tables::default();
        }

        for row in &entry.rows {
            tables.force(row);
        }

        // Use the settings of the incarnation that began here. Old journals do not contain
        // settings.
        if entry.forget {
            task.decide_by(match &entry.settings {
                Some(settings) => self
                    .factory
                    .make_under(settings, self.task)
                    .map_err(TaskError::Newer)?,
                None => self.factory.make_unrecorded(self.task),
            });
        }

        task.view.tables = Arc::new(std::mem::take(tables));
        batch.clear();
        let before = task.meta().offsets.clone();
        for c in cursors {
            // Older entries lack inputs added by a later version. Nothing of such an input had been
            // processed then.
            c.take_until(
                next_offset(&entry.offsets, c.at).unwrap_or(c.position),
                batch,
            )?;
        }

        out.clear();
        let mut order = by_task(spec, batch);
        if task.merges_by_log_time() {
            by_log_time(&mut order, batch);
        }

        task.process(
            order.iter().map(|place| batch.get(place.index as usize)),
            out,
            TransactionRoom::UNBOUNDED,
        )?;
        *records += batch.len() as u64;
        (self.progress)(*records);
        let replayed = task.prepare(out).digest;
        if replayed != entry.digest {
            let started = |at| {
                before
                    .iter()
                    .find(|(a, _)| *a == at)
                    .map_or(0, |(_, next)| *next)
            };

            let inputs = entry
                .offsets
                .iter()
                .map(|(at, end)| (*at, started(*at), *end))
                .collect();
            let record = self.first_wrong_output(spec, out)?;
            return Ok(Some(Divergence {
                transaction: entry.transaction,
                inputs,
                recorded: entry.digest,
                replayed,
                record,
            }));
        }

        task.post_commit(0).map_err(TaskError::from)?;
        *tables = Arc::try_unwrap(std::mem::take(&mut task.view.tables))
            .unwrap_or_else(|shared| (*shared).clone());
        Ok(None)
    }

    /// Re-executes input by input, each up to its end in `ends`.
    pub(super) fn by_position(
        &mut self,
        run: &mut Run,
        ends: &[(TopicPartition, u64)],
    ) -> Result<(), ReplayError> {
        let Run {
            task,
            cursors,
            out,
            batch,
            records,
            ..
        } = run;

        for c in cursors {
            let end = position(ends, c.at)?;
            while c.position < end {
                batch.clear();
                let got = c.take_some(end, batch)?;
                out.clear();
                task.process(batch.iter(), out, TransactionRoom::UNBOUNDED)?;
                task.prepare(out);
                task.post_commit(0).map_err(TaskError::from)?;
                *records += batch.len() as u64;
                (self.progress)(*records);
                if !got {
                    break;
                }
            }
        }

        Ok(())
    }

    fn verdict(&self, task: &Task, live: &Checkpoint, records: u64) -> Replayed {
        let digest = task.digest();
        let transactions = task.meta().transaction;
        let divergence = (digest != live.digest).then(|| Divergence {
            transaction: live.transaction,
            inputs: live.offsets.iter().map(|(at, o)| (*at, 0, *o)).collect(),
            recorded: live.digest,
            replayed: digest,
            record: None,
        });

        Replayed {
            transactions,
            records,
            digest,
            divergence,
        }
    }

    /// Compares the outputs of one re-executed transaction with the log by `(src, n)`. Returns the
    /// first cause with different output.
    fn first_wrong_output(
        &self,
        spec: &RoleSpec,
        out: &Records,
    ) -> Result<Option<String>, ReplayError> {
        let ours = |t| t == spec.changelog || Some(t) == spec.journal;
        let mut by_partition: std::collections::BTreeMap<TopicPartition, Vec<usize>> =
            Default::default();
        for (i, r) in out.iter().enumerate().filter(|(_, r)| !ours(r.at.topic)) {
            by_partition.entry(r.at).or_default().push(i);
        }

        let name = |r: &ports::records::Record<'_>| {
            Some((r.headers.get("src")?.to_vec(), r.headers.get("n")?.to_vec()))
        };

        let mut first: Option<usize> = None;
        for (at, wanted) in by_partition {
            let mut reader =
                self.log
                    .reader(at.topic, &[(at.partition, StartOffset::Start)], true)?;
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

impl std::convert::From<StoreError> for ReplayError {
    fn from(e: StoreError) -> Self {
        ReplayError::Task(e.into())
    }
}
