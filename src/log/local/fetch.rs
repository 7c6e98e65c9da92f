//! Taking records out of partitions: fairly, in order, within limits, copying under no lock.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use super::batch::Packed;
use super::core::{Core, PartId, State};
use super::storage::Place;
use crate::engine::ports::{Limits, LogError};
use crate::engine::records::Records;
use crate::engine::topics::TopicPartition;

/// How much one partition holds ready at a time.
const READY_BYTES: usize = 512 * 1024;

/// How far a partition was read.
pub struct Position {
    pub at: TopicPartition,
    pub part: PartId,
    place: Place,
    headers: bool,
    /// Next offset to deliver.
    pub next: u64,
    ready: VecDeque<Arc<Packed>>,
    /// Where in the first ready batch.
    inside: Option<usize>,
}

impl Position {
    pub fn new(at: TopicPartition, part: PartId, place: Place, next: u64, headers: bool) -> Self {
        Position { at, part, place, headers, next, ready: VecDeque::new(), inside: None }
    }

    /// Whether there is something to take.
    pub fn has_more(&self, state: &State) -> bool {
        self.next < state.parts[self.part].end
    }

    /// Takes batches from the tail in memory. False if they must come from the storage.
    fn fill(&mut self, state: &State) -> bool {
        let part = &state.parts[self.part];
        if part.tail.front().is_none_or(|first| first.base() > self.next) {
            return false;
        }
        let from = part.tail.partition_point(|b| b.last() < self.next);
        let mut size = 0;
        for batch in part.tail.range(from..) {
            self.ready.push_back(batch.clone());
            size += batch.as_bytes().len();
            if size >= READY_BYTES {
                break;
            }
        }
        true
    }

    fn fill_from_storage(&mut self, core: &Core) -> Result<(), LogError> {
        self.ready.extend(core.storage.read(self.place, self.next, READY_BYTES)?);
        if self.ready.is_empty() {
            return Err(LogError::Corrupt(format!("nothing was found at or after offset {} although the log goes further", self.next)));
        }
        Ok(())
    }

    /// Copies records until the batch is as long or as large as given.
    fn take(&mut self, into: &mut Records, records: usize, bytes: usize) {
        while let Some(batch) = self.ready.front() {
            let mut inside = self.inside.unwrap_or_else(|| batch.seek(self.next));
            loop {
                if into.len() >= records || into.size_bytes() >= bytes {
                    self.inside = Some(inside);
                    return;
                }
                let Some(record) = batch.next(self.at, self.headers, &mut inside) else { break };
                into.push(&record);
                self.next = record.offset + 1;
            }
            self.next = batch.last() + 1;
            self.inside = None;
            self.ready.pop_front();
        }
    }
}

/// Fills `into` from the positions, beginning at one of them, until a limit is reached or nothing is left.
pub fn fetch(core: &Core, positions: &mut [Position], first: usize, limits: Limits, into: &mut Records) -> Result<(), LogError> {
    let count = positions.len();
    let (records, bytes) = (into.len().saturating_add(limits.records), into.size_bytes().saturating_add(limits.bytes));
    let mut began = None;
    loop {
        let mut turns: Vec<(usize, bool)> = Vec::with_capacity(count);
        {
            let state = core.state();
            for i in (0..count).map(|i| (first + i) % count) {
                let position = &mut positions[i];
                if !position.ready.is_empty() {
                    turns.push((i, true));
                } else if position.has_more(&state) {
                    turns.push((i, position.fill(&state)));
                }
            }
        }
        if turns.is_empty() {
            return Ok(());
        }
        let mut left = turns.len();
        for (i, filled) in turns {
            let (record_room, byte_room) = (records.saturating_sub(into.len()), bytes.saturating_sub(into.size_bytes()));
            if record_room == 0 || byte_room == 0 {
                return Ok(());
            }
            if !filled {
                positions[i].fill_from_storage(core)?;
            }
            let (record_share, byte_share) = (record_room.div_ceil(left), byte_room.div_ceil(left));
            positions[i].take(into, into.len() + record_share, into.size_bytes() + byte_share);
            left -= 1;
            if !into.is_empty() && began.get_or_insert_with(Instant::now).elapsed() > limits.age {
                return Ok(());
            }
        }
    }
}
