//! One task: a role's logic and state for one partition.
//!
//! ```text
//!  created --> restoring --> running --> dropped
//!                  ^ (a wrong store is put aside, once)
//! ```
//! A failed task is dropped, never repaired. The next incarnation makes a new task and verifies its
//! state before the first record.

use std::sync::Arc;

use faults::crash::{self, Point};
use faults::mutants::{self, Mutant};
use ports::records::{Headers, Record, Records};
use ports::topics::{TopicPartition, TopicTable};
use ports::{StateStore, StoreError};

use super::broadcast::TableView;
use super::checkpoint::{Checkpoint, JournalEntry, META_KEY, StoreMeta};
use super::context::{Cause, Ctx, Outbox};
use super::digest::Digest;
use super::journal::PART_BYTES;
use super::overlay::Overlay;
use super::pace::{TransactionContent, TransactionRoom};
use super::role::{InvariantViolation, RoleLogic, RoleSpec};
use super::scrub::Scrub;
use super::sequence_check::{self, InSequences, SequenceCheck};

/// Reason for the end of a task.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// A mistake in our code, or a broken invariant.
    #[error(transparent)]
    Bug(#[from] InvariantViolation),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A newer version wrote a record between roles, or settings in a journal.
    #[error("{0}")]
    Newer(String),
}

/// A running task.
pub struct Task {
    number: u32,
    spec: Arc<RoleSpec>,
    role: Box<dyn RoleLogic>,
    store: Box<dyn StateStore>,
    overlay: Overlay,
    outbox: Outbox,
    seen: InSequences,
    /// The broadcast rows known to the task.
    pub view: TableView,
    meta: Checkpoint,
    /// Offset of the last meta record in the changelog. `None` before the first transaction.
    pub changelog_offset: Option<u64>,
    prepared: Option<Checkpoint>,
    /// Most bytes of rows in one journal record.
    pub journal_part: usize,
    /// Log time of the last record processed; state changes carry it.
    time_ms: i64,
    /// Progress of the current scrub of the store, if any.
    scrub: Option<Scrub>,
    /// Guarded records dropped as repeats. The counter stays at zero while transactions work.
    pub repeats: u64,
}

/// Parts of a task besides its state.
pub struct TaskParts {
    pub spec: Arc<RoleSpec>,
    pub role: Box<dyn RoleLogic>,
    pub topics: Arc<TopicTable>,
    /// Partition counts by topic number.
    pub partitions: Arc<[u32]>,
    /// Committed values kept in memory, in bytes.
    pub cache_bytes: usize,
}

impl Task {
    /// A task over a store with exactly the state of `meta`.
    pub fn new(
        number: u32,
        parts: TaskParts,
        store: Box<dyn StateStore>,
        meta: Checkpoint,
    ) -> Task {
        let (sent, seen) = meta.sequences(&parts.spec.guarded_outputs);
        let view = TableView::new(Arc::default(), parts.spec.journal.is_some());
        Task {
            number,
            spec: parts.spec,
            role: parts.role,
            store,
            overlay: Overlay::new(parts.cache_bytes),
            outbox: Outbox::new(parts.topics, parts.partitions, sent),
            seen,
            view,
            meta,
            changelog_offset: None,
            prepared: None,
            journal_part: PART_BYTES,
            time_ms: 0,
            scrub: None,
            repeats: 0,
        }
    }

    /// Position, digest and counters as of the last commit.
    pub fn meta(&self) -> &Checkpoint {
        &self.meta
    }

    /// Processes records of this task in the given order and appends output to `out`. Stops when
    /// the transaction is full, but takes at least one record. Returns the number of records taken.
    /// Positions cover only the records taken, so the rest may come in any later batch.
    pub fn process<'r>(
        &mut self,
        records: impl Iterator<Item = Record<'r>>,
        out: &mut Records,
        room: TransactionRoom,
    ) -> Result<usize, TaskError> {
        let mut next = std::mem::take(&mut self.meta.offsets);
        let result = self.process_all(records, out, room, &mut next);
        self.meta.offsets = next;
        result
    }

    /// Content that `prepare` will add to the transaction, without the journal entry and the meta
    /// record.
    pub fn to_prepare(&self) -> TransactionContent {
        let (changes, bytes) = self.overlay.written();
        let rows = self.view.fresh_bytes();
        TransactionContent {
            records: changes,
            bytes: bytes + rows,
            row_bytes: rows,
        }
    }

    fn process_all<'r>(
        &mut self,
        records: impl Iterator<Item = Record<'r>>,
        out: &mut Records,
        room: TransactionRoom,
        next: &mut [(TopicPartition, u64)],
    ) -> Result<usize, TaskError> {
        let spec = &self.spec;
        let mut taken = 0;
        let mut ctx = Ctx::new(
            self.number,
            &mut self.overlay,
            &*self.store,
            &mut self.view,
            &mut self.outbox,
            out,
            spec.dead_letters,
        );

        for r in records {
            crash::point(Point::ProcessRecord);
            taken += 1;
            let position = next.iter_mut().find(|(at, _)| *at == r.at).ok_or_else(|| {
                InvariantViolation(format!(
                    "task {} got a record of a partition that is not its own: {:?}",
                    self.number, r.at
                ))
            })?;

            if r.offset < position.1 {
                return Err(InvariantViolation(format!(
                    "offsets went back in {:?}: {} where at least {} was due",
                    r.at, r.offset, position.1
                ))
                .into());
            }

            position.1 = r.offset + 1;
            self.time_ms = r.timestamp_ms;
            ctx.set_cause(Cause {
                at: r.at,
                offset: r.offset,
                timestamp_ms: r.timestamp_ms,
            });

            if spec
                .inputs
                .iter()
                .any(|i| i.guarded && i.topic == r.at.topic)
            {
                match check(&mut self.seen, &r, ctx.src())? {
                    SequenceCheck::Next => {}
                    _ if mutants::on(Mutant::GuardOff) => {}
                    SequenceCheck::Repeat => {
                        self.repeats += 1;
                        continue;
                    }
                    SequenceCheck::Gap { due, came } => {
                        let src = ctx.src();
                        return Err(InvariantViolation(format!("{src}: a record of ours is missing: sequence {came} came where {due} was due")).into());
                    }
                }
            }

            let done = self.role.process(&mut ctx, &r);

            // A failing store shows the role too little, so the role's result is void.
            if let Some(e) = ctx.take_failure() {
                return Err(e.into());
            }

            done.map_err(|InvariantViolation(text)| {
                InvariantViolation(format!("{}: {text}", ctx.src()))
            })?;
            if room.is_used_up_by(ctx.written().and(self.role.held_back())) {
                break;
            }
        }

        let done = self.role.batch_end(&mut ctx);
        match ctx.take_failure() {
            Some(e) => Err(e.into()),
            None => Ok(done.map(|()| taken)?),
        }
    }

    /// Adds the state changes, the journal entry and, last, the meta record to the transaction.
    pub fn prepare(&mut self, out: &mut Records) -> &Checkpoint {
        let changelog = TopicPartition::new(self.spec.changelog, self.number);
        let timestamp_ms = self.time_ms;
        let mut push = |at, key, value: Option<&[u8]>| {
            out.push(&Record {
                at,
                offset: 0,
                timestamp_ms,
                key,
                value,
                headers: Headers::default(),
            })
        };

        for (key, value) in self.overlay.changes() {
            push(changelog, Some(key), value);
        }

        let meta = Checkpoint {
            transaction: self.meta.transaction + 1,
            offsets: self.meta.offsets.clone(),
            digest: self.overlay.digest_after(self.meta.digest),
            sent: self.outbox.sequences.iter().collect(),
            seen: self.seen.iter().collect(),
        };

        if let Some(topic) = self.spec.journal {
            let (forget, rows) = self.view.take_fresh();
            let settings = if forget { self.role.settings() } else { None };
            let transaction = meta.transaction;
            let offsets = meta.offsets.clone();
            let digest = meta.digest;
            let entry = JournalEntry {
                transaction,
                offsets,
                digest,
                forget,
                rows,
                settings,
            };

            let most = self.outbox.topics.spec(topic).record_bytes_max as usize;
            let too_much = || entry.rows.iter().map(|row| row.value.len()).sum::<usize>() > most;
            let part = if mutants::on(Mutant::SizeBeforePrepare) && too_much() {
                usize::MAX
            } else {
                self.journal_part
            };

            for record in entry.encode_all(part) {
                push(TopicPartition::new(topic, self.number), None, Some(&record));
            }
        }

        push(changelog, Some(META_KEY), Some(&meta.encode()));
        self.prepared.insert(meta)
    }

    /// Applies the committed transaction to the store. Call only after the log has committed.
    /// `changelog_offset` is the offset of the transaction's meta record.
    pub fn post_commit(&mut self, changelog_offset: u64) -> Result<(), StoreError> {
        let meta = self
            .prepared
            .take()
            .expect("prepare comes before post_commit");
        let record = StoreMeta {
            changelog_offset,
            verified: true,
            meta,
        };

        self.store
            .write(&mut self.overlay.changes(), &record.encode())?;
        if let Some(scrub) = &mut self.scrub {
            scrub.moved(&self.overlay);
        }

        self.changelog_offset = Some(changelog_offset);
        self.overlay.committed();
        self.meta = record.meta;
        Ok(())
    }

    /// Replaces the role logic, for a replay under other settings. Call only between transactions.
    pub fn decide_by(&mut self, role: Box<dyn RoleLogic>) {
        self.role = role;
    }

    /// True if the role merges the records of its inputs by log time.
    pub fn merges_by_log_time(&self) -> bool {
        self.role.merges_by_log_time()
    }

    /// The log time of the role's next wake-up, in milliseconds.
    pub fn alarm_ms(&self) -> Option<i64> {
        self.role.alarm_ms()
    }

    /// For a mutant: writes the store before the outcome of the transaction is known.
    pub(super) fn write_early(&mut self) -> Result<(), StoreError> {
        let meta = self.prepared.clone().expect("prepare comes before");
        let record = StoreMeta {
            changelog_offset: self.last_changelog_offset(),
            verified: true,
            meta,
        };

        self.store
            .write(&mut self.overlay.changes(), &record.encode())
    }

    /// For mutants: the changelog offset in the store's last meta record.
    pub(super) fn last_changelog_offset(&self) -> u64 {
        let stored = self
            .store
            .meta()
            .ok()
            .flatten()
            .and_then(|bytes| StoreMeta::decode(&bytes).ok());
        stored.map_or(0, |record| record.changelog_offset)
    }

    /// For a mutant: whether the task has processed anything.
    #[cfg(feature = "faults")]
    pub(super) fn has_worked(&self) -> bool {
        self.time_ms != 0
    }

    /// For a mutant: goes back to the state of the store, in place. Returns false if the store has
    /// no readable meta record.
    #[cfg(feature = "faults")]
    pub(super) fn go_back(&mut self) -> bool {
        let Some(record) = self
            .store
            .meta()
            .ok()
            .flatten()
            .and_then(|bytes| StoreMeta::decode(&bytes).ok())
        else {
            return false;
        };

        self.overlay.forget();
        self.meta = record.meta;
        let (sent, seen) = self.meta.sequences(&self.spec.guarded_outputs);
        (self.outbox.sequences, self.seen, self.prepared) = (sent, seen, None);
        true
    }

    /// Scrubs at most `keys` keys of the store, between transactions. Returns true at the end of a
    /// scrub without damage.
    pub(super) fn scrub(&mut self, keys: usize) -> Result<bool, StoreError> {
        let done =
            self.scrub
                .get_or_insert_default()
                .slice(&*self.store, keys, self.meta.digest)?;
        if done {
            self.scrub = None;
        }

        Ok(done)
    }

    /// Ends the task and returns the store. The store contains exactly the committed state.
    pub fn into_store(self) -> Box<dyn StateStore> {
        self.store
    }

    /// Digest as of the last commit.
    pub fn digest(&self) -> Digest {
        self.meta.digest
    }
}

fn check(seen: &mut InSequences, r: &Record<'_>, src: &str) -> Result<SequenceCheck, TaskError> {
    // A record of an unknown format could be misread.
    if let Some(version) = r
        .headers
        .get(sequence_check::VERSION_HEADER)
        .filter(|v| *v != sequence_check::VERSION)
    {
        let theirs = String::from_utf8_lossy(version);
        let ours = String::from_utf8_lossy(sequence_check::VERSION);
        return Err(TaskError::Newer(format!(
            "{src}: a record of format {theirs}, this version reads {ours}; upgrade this role, too"
        )));
    }

    let header = r
        .headers
        .get(sequence_check::HEADER)
        .and_then(sequence_check::parse);
    let (task, sequence) = header.ok_or_else(|| {
        InvariantViolation(format!(
            "{src}: a record without a {} header stands in an internal topic: who wrote it?",
            sequence_check::HEADER
        ))
    })?;

    Ok(seen.check(r.at.topic, task, sequence))
}
