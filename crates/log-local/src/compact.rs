//! Compaction: old records are removed, except the last record of each key.
//!
//! The compactor notes the keys of all records since the last compaction, with their last offsets.
//! Then it reads all batches older than the newest batches once, from the oldest on, and rewrites
//! them without obsolete records. A stop at any moment leaves a log with the same latest value for
//! each key. Offsets do not change: a batch covers its range of offsets even if compaction removed
//! some of its records. The rewrite costs at most as many written bytes as the original log.

use std::sync::atomic::Ordering;
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use ports::LogError;
use ports::topics::{TopicId, TopicPartition};
use rustc_hash::FxHashMap;
use xxhash_rust::xxh3::xxh3_128;

use super::batch::{Builder, PackedBatch};
use super::core::Core;
use super::storage::{Compacted, StoredPartition};

/// Maximum number of noted keys per compaction; bounds memory to about 200 MB. Later keys wait for
/// the next compaction.
const KEYS_MAX: usize = 4_000_000;
/// Wait after a failed compaction.
const FAILED_WAIT: Duration = Duration::from_secs(60);
const READ_BYTES: usize = 1 << 20;
/// Small neighbouring batches are merged up to this size.
const BATCH_BYTES: usize = 256 << 10;
/// Placeholder for the partition of a packed batch. Compaction does not use the topic.
const ANY: TopicPartition = TopicPartition::new(TopicId(0), 0);

/// Wakes the compactor.
#[derive(Default)]
pub(crate) struct CompactionSignal {
    asked: Mutex<bool>,
    bell: Condvar,
}

impl CompactionSignal {
    pub(crate) fn ask(&self) {
        *self.asked.lock().expect("nobody panics while asking") = true;
        self.bell.notify_one();
    }

    /// Waits for `wait`, or until the log closes.
    fn pause(&self, core: &Core, wait: Duration) {
        let asked = self.asked.lock().expect("nobody panics while asking");
        let ended = |_: &mut bool| !core.stop.load(Ordering::Acquire);
        let _woken = self
            .bell
            .wait_timeout_while(asked, wait, ended)
            .expect("nobody panics while asking");
    }

    fn wait(&self, core: &Core) {
        let mut asked = self.asked.lock().expect("nobody panics while asking");
        while !*asked && !core.stop.load(Ordering::Acquire) {
            asked = self.bell.wait(asked).expect("nobody panics while asking");
        }

        *asked = false;
    }
}

/// Result of a compaction of a partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compaction {
    /// Records that were read.
    pub read: u64,
    /// Records that were removed.
    pub dropped: u64,
}

/// The compactor's thread: compacts partitions with enough growth until the log closes.
pub(crate) fn run(core: &Core) {
    while !core.stop.load(Ordering::Acquire) {
        let due = core.state().due();
        let Some(place) = due else {
            core.wanted.wait(core);
            continue;
        };

        match compact(core, place) {
            Ok(done) => {
                tracing::debug!(
                    topic = place.topic,
                    partition = place.partition,
                    read = done.read,
                    dropped = done.dropped,
                    "compacted"
                )
            }
            // The cause may pass, for example a full disk or too many open files.
            Err(e) => {
                tracing::warn!(
                    topic = place.topic,
                    partition = place.partition,
                    "compaction failed and the log only grows; the next attempt is in {FAILED_WAIT:?}: {e}"
                );
                core.wanted.pause(core, FAILED_WAIT);
            }
        }
    }
}

/// Compacts a partition as far as possible.
pub(crate) fn compact(core: &Core, place: StoredPartition) -> Result<Compaction, LogError> {
    let _alone = core
        .compacting
        .lock()
        .expect("nobody panics while compacting");
    let Some((memory, grown, before)) = core.state().compact_to(place) else {
        return Ok(Compaction::default());
    };

    let newest = core.storage.last(place)?.map_or(0, |b| b.base());
    let (last, to) = note_keys(core, place, before.to, memory.min(newest))?;
    let mut work = Rewrite {
        core,
        place,
        oldest_tombstone: (core.options.clock)() - core.options.tombstones_ms,
        last,
        done: Compaction::default(),
        kept: 0,
        pending: PendingBatches::default(),
    };

    let mut next = 0;
    let mut log_bytes = before.log_bytes;
    'all: while next < to && to > before.to {
        for batch in core.storage.read(place, next, READ_BYTES)? {
            if batch.base() >= to {
                break 'all;
            }

            if core.stop.load(Ordering::Acquire) {
                return Ok(work.done);
            }

            work.add(&batch)?;
            (next, log_bytes) = (batch.last() + 1, batch.log_bytes());
        }
    }

    work.flush()?;
    let mut after = Compacted {
        to,
        log_bytes,
        kept_bytes: work.kept,
    };

    if to > before.to {
        core.storage.set_compacted(place, after)?;
    } else {
        // Compaction was not possible yet. Ask again only after more growth.
        after = Compacted {
            log_bytes: grown,
            ..before
        };
    }

    core.state().compacted(place, after);
    Ok(work.done)
}

/// Finds the last offset of each key between two offsets. Also returns the offset after the last
/// batch read.
fn note_keys(
    core: &Core,
    place: StoredPartition,
    from: u64,
    to: u64,
) -> Result<(FxHashMap<u128, u64>, u64), LogError> {
    let mut last = FxHashMap::default();
    let mut next = from;
    while next < to && last.len() < KEYS_MAX && !core.stop.load(Ordering::Acquire) {
        let batches = core.storage.read(place, next, READ_BYTES)?;
        let mut moved = false;
        for batch in batches.iter().take_while(|b| b.base() < to) {
            for (key, offset) in batch
                .iter(ANY)
                .filter_map(|r| r.key.map(|key| (key, r.offset)))
            {
                last.insert(xxh3_128(key), offset);
            }

            (next, moved) = (batch.last() + 1, true);
        }

        if !moved {
            next = to;
        }
    }

    Ok((last, next.min(to)))
}

struct Rewrite<'a> {
    core: &'a Core,
    place: StoredPartition,
    last: FxHashMap<u128, u64>,
    oldest_tombstone: i64,
    done: Compaction,
    kept: u64,
    pending: PendingBatches,
}

/// Batches that will be merged into a new batch.
#[derive(Default)]
struct PendingBatches {
    old: Vec<u64>,
    builder: Builder,
    dropped: u64,
    last: Option<std::sync::Arc<PackedBatch>>,
}

impl Rewrite<'_> {
    fn add(&mut self, batch: &std::sync::Arc<PackedBatch>) -> Result<(), LogError> {
        let first = self.pending.old.first().copied().unwrap_or(batch.base());
        if self.pending.builder.len() >= BATCH_BYTES || u32::try_from(batch.last() - first).is_err()
        {
            self.flush()?;
        }

        let first = self.pending.old.first().copied().unwrap_or(batch.base());
        self.pending.old.push(batch.base());
        self.pending.last = Some(batch.clone());
        for record in batch.iter(ANY) {
            self.done.read += 1;
            let newer = record
                .key
                .and_then(|key| self.last.get(&xxh3_128(key)))
                .is_some_and(|last| *last > record.offset);
            let expired = record.value.is_none() && record.timestamp_ms < self.oldest_tombstone;
            if newer || expired {
                self.pending.dropped += 1;
                continue;
            }

            let distance = u32::try_from(record.offset - first)
                .map_err(|_| LogError::Corrupt("a batch spans too many offsets".to_string()))?;
            self.pending.builder.push_at(distance, &record);
        }

        Ok(())
    }

    fn flush(&mut self) -> Result<(), LogError> {
        let PendingBatches {
            old,
            builder,
            dropped,
            last,
        } = std::mem::take(&mut self.pending);
        let (Some(first), Some(last)) = (old.first(), last) else {
            return Ok(());
        };

        if builder.count() > 0 {
            self.kept += builder.len() as u64;
        }

        if dropped > 0 || old.len() > 1 {
            let new = (builder.count() > 0).then(|| builder.replace(*first, &last));
            self.core.storage.replace(self.place, &old, new.as_ref())?;
            self.done.dropped += dropped;
        }

        Ok(())
    }
}
