//! The log itself, shared by all handles of a process.
//!
//! Two locks. A writer holds `turn` from the check of its right to write until its records are
//! written. So transactions run one after another. A transaction counts (readers see the records,
//! the group's offsets move) after it is as durable as configured, see [`super::pending`]. A join
//! also takes `turn` and waits for pending transactions, so the predecessor's transaction is
//! decided. `state` guards the data in memory and is held for moments only: records are packed
//! before `turn` and copied after, under no lock.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use faults::crash::{self, Point};
use ports::LogError;
use rustc_hash::FxHashMap;

use super::batch::{Builder, PackedBatch};
use super::clock::STEP_MS;
use super::compact::CompactionSignal;
use super::groups::{Fenced, Groups, Ticket};
use super::pending::{PendingWrites, WrittenTransaction};
use super::storage::{Compacted, Storage, StorageCommit, StoredPartition, TopicRow};
use super::syncer::Unsynced;
use super::{Durability, LocalOptions};

/// A partition's index in [`CoreState::parts`].
pub(crate) type PartId = usize;

pub(crate) struct Core {
    pub storage: Box<dyn Storage>,
    pub options: LocalOptions,
    pub stop: AtomicBool,
    pub wanted: CompactionSignal,
    pub unsynced: Unsynced,
    /// Held during a compaction: two compactions at once would overwrite each other's work.
    pub compacting: Mutex<()>,
    turn: Mutex<()>,
    state: Mutex<CoreState>,
    pending: PendingWrites,
}

pub(crate) struct CoreState {
    pub topics: Vec<Arc<LocalTopic>>,
    pub parts: Vec<LocalPartition>,
    pub groups: Groups,
    compact_bytes: u64,
    offsets: FxHashMap<String, BTreeMap<PartId, u64>>,
    /// Woken when any group changes.
    sleepers: Vec<Arc<Condvar>>,
    broken: Option<String>,
}

pub(crate) struct LocalTopic {
    pub row: TopicRow,
    /// Index of the first partition. The other partitions follow.
    pub first: PartId,
}

pub(crate) struct LocalPartition {
    pub place: StoredPartition,
    append_time: bool,
    /// Offset of the next record for readers. All records before this offset are as durable as
    /// configured.
    pub end: u64,
    /// Offset of the next record to write.
    next: u64,
    /// The newest batches, for readers near the end.
    pub tail: VecDeque<Arc<PackedBatch>>,
    tail_bytes: usize,
    /// Stamp of the last record.
    stamp: i64,
    /// Largest written time, and number of bytes ever written.
    max_time: i64,
    log_bytes: u64,
    pub compacted: Compacted,
    sleepers: Vec<Arc<Condvar>>,
}

/// Reason why a write failed.
pub(crate) enum WriteRefused {
    Fenced,
    Stale,
    /// The storage failed during the write.
    Broken(String),
}

impl Core {
    pub(crate) fn open(storage: Box<dyn Storage>, options: LocalOptions) -> Result<Self, LogError> {
        let loaded = storage.load()?;
        let groups = Groups::new(options.rejoin);
        let mut state = CoreState {
            topics: vec![],
            parts: vec![],
            groups,
            compact_bytes: options.compact_bytes,
            offsets: FxHashMap::default(),
            sleepers: vec![],
            broken: None,
        };

        for row in loaded.topics {
            state.add(row);
        }

        for part in &mut state.parts {
            part.compacted = storage.compacted(part.place)?;
            if let Some(last) = storage.last(part.place)? {
                (part.end, part.next) = (last.last() + 1, last.last() + 1);
                (part.max_time, part.log_bytes) = (last.max_time(), last.log_bytes());
                part.stamp = last.last_time().unwrap_or(part.max_time);
            }
        }

        state.tell_of_the_future((options.clock)());
        for (group, topic, partition, offset) in loaded.offsets {
            let known = state
                .topics
                .iter()
                .find(|t| t.row.number == topic)
                .filter(|t| partition < t.row.partitions);
            let Some(part) = known.map(|t| t.first + partition as usize) else {
                return Err(LogError::Corrupt(format!(
                    "group {group} has an offset in partition {partition} of a topic {topic} that does not exist"
                )));
            };

            let end = state.parts[part].end;
            if offset > end {
                return Err(LogError::Corrupt(format!(
                    "group {group} has read partition {partition} of topic {topic} up to offset {offset}, but it ends at {end}: records were lost"
                )));
            }

            state.offsets.entry(group).or_default().insert(part, offset);
        }

        let core = Core {
            storage,
            options,
            stop: AtomicBool::new(false),
            wanted: CompactionSignal::default(),
            unsynced: Unsynced::default(),
            compacting: Mutex::default(),
            turn: Mutex::default(),
            state: Mutex::new(state),
            pending: PendingWrites::default(),
        };

        core.want_compaction(&core.state());
        Ok(core)
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, CoreState> {
        self.state
            .lock()
            .expect("nobody panics while holding the log's state")
    }

    fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn
            .lock()
            .expect("nobody panics while writing to the log")
    }

    /// True if only the background thread syncs to the disk.
    pub(crate) fn syncs_later(&self) -> bool {
        self.options.durability == Durability::Os
    }

    /// Runs a change that must not overlap with a transaction. `change` also returns true if groups
    /// changed.
    pub(crate) fn exclusively<T>(&self, change: impl FnOnce(&mut CoreState) -> (T, bool)) -> T {
        let _turn = self.turn();

        // The writer of a failed transaction knows the error, and `state.check` reports it too.
        self.durable(self.pending.last()).ok();
        let mut state = self.state();
        let (found, changed) = change(&mut state);
        if changed {
            state.wake_groups();
        }

        found
    }

    pub(crate) fn writable(&self) -> Result<(), LogError> {
        self.storage
            .read_only()
            .map_or(Ok(()), |why| Err(LogError::Invalid(why)))
    }

    /// Creates a topic, if `make` returns a row.
    pub(crate) fn add_topic(
        &self,
        make: impl FnOnce(&CoreState) -> Result<Option<TopicRow>, LogError>,
    ) -> Result<(), LogError> {
        let _turn = self.turn();
        let row = make(&self.state())?;
        if let Some(row) = row {
            self.storage.add_topic(&row)?;
            self.state().add(row);
        }

        Ok(())
    }

    /// Appends packed records. With a ticket, moves the group's offsets in the same write. Returns
    /// the last offset of each partition.
    pub(crate) fn commit(
        &self,
        batches: Vec<(PartId, Builder)>,
        member: Option<(&Ticket, u64)>,
        offsets: &[(PartId, u64)],
    ) -> Result<Vec<(PartId, u64)>, WriteRefused> {
        let turn = self.turn();
        let now = (self.options.clock)();
        let mut places = Vec::with_capacity(batches.len());
        let mut parts = Vec::with_capacity(batches.len());
        let mut moved = Vec::new();
        {
            let mut state = self.state();
            state.check().map_err(WriteRefused::Broken)?;
            if let Some((ticket, generation)) = member {
                match state.groups.generation(ticket) {
                    Err(Fenced) => return Err(WriteRefused::Fenced),
                    Ok(current) if current != generation => return Err(WriteRefused::Stale),
                    Ok(_) => {}
                }
            }

            for (id, builder) in batches {
                let part = &mut state.parts[id];
                let stamp = part.append_time.then(|| part.stamp_at(now));
                let batch = builder.append(part.next, stamp, (part.max_time, part.log_bytes));
                (part.next, part.max_time, part.log_bytes) =
                    (batch.last() + 1, batch.max_time(), batch.log_bytes());
                part.stamp = stamp.unwrap_or(part.stamp);
                places.push((part.place, Arc::new(batch)));
                parts.push(id);
            }

            moved.extend(
                offsets
                    .iter()
                    .map(|(id, offset)| (state.parts[*id].place, *offset)),
            );
        }

        let group = member.map_or("", |(ticket, _)| &ticket.group);
        crash::point(Point::LogWrite);
        let written = self.storage.commit(&StorageCommit {
            batches: &places,
            group,
            offsets: &moved,
        });

        crash::point(Point::LogWritten);
        written.map_err(|e| self.broken(&e))?;
        let batches: Vec<_> = parts
            .into_iter()
            .zip(places.into_iter().map(|(_, batch)| batch))
            .collect();
        let appended = batches
            .iter()
            .map(|(id, batch)| (*id, batch.last()))
            .collect();
        let written = WrittenTransaction {
            batches,
            group: group.to_string(),
            offsets: offsets.to_vec(),
        };

        match self.options.durability {
            // Publish before the release of `turn`. Otherwise two writers could publish in another
            // order than they wrote.
            Durability::Os => {
                self.unsynced.count();
                self.publish([written]);
            }
            Durability::Disk => {
                let number = self.pending.add(written);
                drop(turn);
                self.durable(number)?;
            }
        }

        Ok(appended)
    }

    /// Waits until transaction `number` is on the disk and published.
    fn durable(&self, number: u64) -> Result<(), WriteRefused> {
        let sync = || {
            self.storage.sync().map_err(|e| match self.broken(&e) {
                WriteRefused::Broken(why) => why,
                WriteRefused::Fenced | WriteRefused::Stale => e.to_string(),
            })
        };

        self.pending
            .wait(number, sync, |ready| self.publish(ready))
            .map_err(WriteRefused::Broken)
    }

    /// Marks the log as broken after a storage failure. The write may or may not be there after a
    /// restart, and further writes could contradict it.
    fn broken(&self, e: &LogError) -> WriteRefused {
        let why = format!("{e}; then start again: what was committed is safe");
        let mut state = self.state();
        state.broken = Some(why.clone());
        state.wake_groups();
        WriteRefused::Broken(why)
    }

    /// Publishes transactions: from here on they count.
    fn publish(&self, written: impl IntoIterator<Item = WrittenTransaction>) {
        let mut state = self.state();
        for WrittenTransaction {
            batches,
            group,
            offsets,
        } in written
        {
            for (id, batch) in batches {
                state.parts[id].publish(batch, self.options.tail_bytes);
            }
            if !offsets.is_empty() {
                state.offsets.entry(group).or_default().extend(offsets);
            }
        }
        self.want_compaction(&state);
    }

    /// Wakes the compactor if a partition has grown enough.
    fn want_compaction(&self, state: &CoreState) {
        if state.due().is_some() && self.storage.read_only().is_none() {
            self.wanted.ask();
        }
    }

    /// Sleeps until a record arrives in one of `parts`, a group changes, or `until` has passed.
    /// Returns false if `until` had passed before the call.
    pub(crate) fn sleep<'a>(
        &'a self,
        mut state: MutexGuard<'a, CoreState>,
        bell: &Arc<Condvar>,
        parts: impl Iterator<Item = PartId> + Clone,
        until: Instant,
    ) -> (MutexGuard<'a, CoreState>, bool) {
        let left = until.saturating_duration_since(Instant::now());
        if left == Duration::ZERO {
            return (state, false);
        }

        for id in parts.clone() {
            state.parts[id].sleepers.push(bell.clone());
        }

        state.sleepers.push(bell.clone());
        let (mut state, _) = bell
            .wait_timeout(state, left)
            .expect("nobody panics while holding the log's state");
        for id in parts {
            state.parts[id].sleepers.retain(|b| !Arc::ptr_eq(b, bell));
        }

        state.sleepers.retain(|b| !Arc::ptr_eq(b, bell));
        (state, true)
    }
}

impl CoreState {
    fn add(&mut self, row: TopicRow) {
        let first = self.parts.len();
        for partition in 0..row.partitions {
            self.parts.push(LocalPartition {
                place: StoredPartition {
                    topic: row.number,
                    partition,
                    compact: row.compact,
                },
                append_time: row.append_time,
                end: 0,
                next: 0,
                tail: VecDeque::new(),
                tail_bytes: 0,
                stamp: i64::MIN,
                max_time: i64::MIN,
                log_bytes: 0,
                compacted: Compacted::default(),
                sleepers: Vec::new(),
            });
        }

        self.topics.push(Arc::new(LocalTopic { row, first }));
    }

    /// Warns if the newest stamp is far ahead of the clock: one of the two clocks was wrong.
    fn tell_of_the_future(&self, now_ms: i64) {
        let part = self
            .parts
            .iter()
            .filter(|p| p.append_time)
            .max_by_key(|p| p.stamp);
        let Some(ahead_ms) = part
            .map(|p| p.stamp.saturating_sub(now_ms))
            .filter(|ms| *ms > STEP_MS)
        else {
            return;
        };

        tracing::warn!(
            "the log's newest record is stamped {} s ahead of this machine's clock: one of the two clocks was wrong. New records are stamped by the clock as it is now, so times in the log fall; if the clock is wrong now, put it right and start again",
            ahead_ms / 1_000
        );
    }

    pub(crate) fn topic(&self, name: &str) -> Option<&Arc<LocalTopic>> {
        self.topics.iter().find(|t| t.row.name == name)
    }

    /// Returns the reason if the log can no longer be written.
    pub(crate) fn check(&self) -> Result<(), String> {
        self.broken.clone().map_or(Ok(()), Err)
    }

    pub(crate) fn offset(&self, group: &str, part: PartId) -> Option<u64> {
        self.offsets.get(group)?.get(&part).copied()
    }

    pub(crate) fn wake_groups(&mut self) {
        for bell in self.sleepers.drain(..) {
            bell.notify_all();
        }
    }

    pub(crate) fn compacted(&mut self, place: StoredPartition, to: Compacted) {
        if let Some(part) = self.parts.iter_mut().find(|p| p.place == place) {
            part.compacted = to;
        }
    }

    /// A partition that has grown enough since its last compaction.
    pub(crate) fn due(&self) -> Option<StoredPartition> {
        let due = |p: &&LocalPartition| {
            p.place.compact
                && p.old_bytes().saturating_sub(p.compacted.log_bytes)
                    > self.compact_bytes.max(p.compacted.kept_bytes)
        };

        self.parts.iter().find(due).map(|p| p.place)
    }

    /// The end offset for a compaction, the partition's size in bytes at that offset, and the
    /// progress of the last compaction. Batches in memory for readers are not compacted.
    pub(crate) fn compact_to(&self, place: StoredPartition) -> Option<(u64, u64, Compacted)> {
        let part = self.parts.iter().find(|p| p.place == place)?;
        Some((
            part.tail.front().map_or(part.end, |b| b.base()),
            part.old_bytes(),
            part.compacted,
        ))
    }
}

impl LocalPartition {
    /// Bytes ever appended, without batches in the tail and without unsynced batches.
    fn old_bytes(&self) -> u64 {
        let published = self.tail.back().map_or(self.log_bytes, |b| b.log_bytes());
        published.saturating_sub(self.tail_bytes as u64)
    }

    /// The stamp for the next records. Stamps do not fall if the clock goes back a little. A stamp
    /// far ahead came from a wrong clock, and new stamps do not wait for that time.
    fn stamp_at(&self, now_ms: i64) -> i64 {
        if self.stamp.saturating_sub(now_ms) > STEP_MS {
            now_ms
        } else {
            now_ms.max(self.stamp)
        }
    }

    fn publish(&mut self, batch: Arc<PackedBatch>, keep: usize) {
        self.end = batch.last() + 1;
        self.tail_bytes += batch.as_bytes().len();
        self.tail.push_back(batch);
        while self.tail_bytes > keep && self.tail.len() > 1 {
            if let Some(old) = self.tail.pop_front() {
                self.tail_bytes -= old.as_bytes().len();
            }
        }

        for bell in self.sleepers.drain(..) {
            bell.notify_all();
        }
    }
}
