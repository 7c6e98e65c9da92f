//! Reads records from partitions: fairly, in order, within limits, and without a lock during the
//! copy.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use ports::records::Records;
use ports::topics::TopicPartition;
use ports::{Limits, LogError};

use super::batch::PackedBatch;
use super::core::{Core, CoreState, PartId};
use super::storage::StoredPartition;

/// Maximum bytes of batches that a partition holds ready.
const READY_BYTES: usize = 512 * 1024;

/// Read position of a partition.
pub(crate) struct ReadPosition {
    pub at: TopicPartition,
    pub part: PartId,
    place: StoredPartition,
    headers: bool,
    /// Next offset to deliver.
    pub next: u64,
    /// True while no records are taken from this partition.
    pub passed_over: bool,
    ready: VecDeque<Arc<PackedBatch>>,
    /// Position inside the first ready batch.
    inside: Option<usize>,
}

impl ReadPosition {
    pub(crate) fn new(
        at: TopicPartition,
        part: PartId,
        place: StoredPartition,
        next: u64,
        headers: bool,
    ) -> Self {
        ReadPosition {
            at,
            part,
            place,
            headers,
            next,
            passed_over: false,
            ready: VecDeque::new(),
            inside: None,
        }
    }

    /// True if records are available.
    pub(crate) fn has_more(&self, state: &CoreState) -> bool {
        !self.passed_over && self.next < state.parts[self.part].end
    }

    /// Takes batches from the tail in memory. Returns false if the batches must come from the
    /// storage.
    fn fill(&mut self, state: &CoreState) -> bool {
        let part = &state.parts[self.part];
        if part
            .tail
            .front()
            .is_none_or(|first| first.base() > self.next)
        {
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
        let mut due = self.next;
        let read = core.storage.read(self.place, self.next, READY_BYTES)?;
        for batch in &read {
            // Only compaction removes records. Any other gap means lost records.
            if !self.place.compact && batch.base() > due {
                return Err(LogError::Corrupt(format!(
                    "{:?}: the records from offset {due} to {} are missing",
                    self.at,
                    batch.base() - 1
                )));
            }

            due = batch.last() + 1;
        }

        self.ready.extend(read);
        if self.ready.is_empty() {
            return Err(LogError::Corrupt(format!(
                "nothing was found at or after offset {} although the log goes further",
                self.next
            )));
        }

        Ok(())
    }

    /// Copies records until `into` has reached `records` or `bytes`.
    fn take(&mut self, into: &mut Records, records: usize, bytes: usize) {
        while let Some(batch) = self.ready.front() {
            let mut inside = self.inside.unwrap_or_else(|| batch.seek(self.next));
            loop {
                if into.len() >= records || into.size_bytes() >= bytes {
                    self.inside = Some(inside);
                    return;
                }

                let Some(record) = batch.next(self.at, self.headers, &mut inside) else {
                    break;
                };

                into.push(&record);
                self.next = record.offset + 1;
            }

            self.next = batch.last() + 1;
            self.inside = None;
            self.ready.pop_front();
        }
    }
}

/// Fills `into` from the positions, starting at index `first`, until a limit is reached or no
/// record is left.
pub(crate) fn fetch(
    core: &Core,
    positions: &mut [ReadPosition],
    first: usize,
    limits: Limits,
    into: &mut Records,
) -> Result<(), LogError> {
    let count = positions.len();
    let records = into.len().saturating_add(limits.records);
    let bytes = into.size_bytes().saturating_add(limits.bytes);
    let mut began = None;
    loop {
        let mut turns: Vec<(usize, bool)> = Vec::with_capacity(count);
        {
            let state = core.state();
            for i in (0..count).map(|i| (first + i) % count) {
                let position = &mut positions[i];
                if position.passed_over {
                    continue;
                }

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
            let record_room = records.saturating_sub(into.len());
            let byte_room = bytes.saturating_sub(into.size_bytes());
            if record_room == 0 || byte_room == 0 {
                return Ok(());
            }

            if !filled {
                positions[i].fill_from_storage(core)?;
            }

            let record_share = record_room.div_ceil(left);
            let byte_share = byte_room.div_ceil(left);
            positions[i].take(
                into,
                into.len() + record_share,
                into.size_bytes() + byte_share,
            );
            left -= 1;
            if !into.is_empty() && began.get_or_insert_with(Instant::now).elapsed() > limits.age {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::storage::{Storage, StorageCommit};
    use super::super::{LocalLog, LocalOptions, Memory};
    use super::*;
    use ports::records::{Headers, Record};
    use ports::topics::{Cleanup, Partitions, TopicId, TopicSpec, TopicTable};
    use ports::{Log, StartOffset};

    const AT: TopicPartition = TopicPartition::new(TopicId(0), 0);
    const PLACE: StoredPartition = StoredPartition {
        topic: 0,
        partition: 0,
        compact: false,
    };

    fn open(storage: &Memory) -> Result<LocalLog, LogError> {
        let spec = TopicSpec {
            name: "kept",
            partitions: Partitions::One,
            cleanup: Cleanup::Keep,
            append_time: false,
            record_bytes_max: 1 << 20,
        };

        LocalLog::with_storage(
            Box::new(storage.clone()),
            &TopicTable::new("", vec![spec]),
            LocalOptions {
                tail_bytes: 0,
                ..LocalOptions::default()
            },
        )
    }

    fn written() -> Memory {
        let storage = Memory::default();
        let log = open(&storage).expect("a new log");
        log.create_topic(AT.topic, log.handle.table.spec(AT.topic), 1)
            .expect("a topic");
        let mut appender = log.appender().expect("an appender");
        for value in [b"a", b"b", b"c"] {
            let headers = Headers::default();
            appender
                .append(&Record {
                    at: AT,
                    offset: 0,
                    timestamp_ms: 1,
                    key: None,
                    value: Some(value),
                    headers,
                })
                .expect("appended");

            appender.flush(Duration::from_secs(5)).expect("flushed");
        }

        storage
    }

    fn read(storage: &Memory) -> Result<usize, LogError> {
        let log = open(storage)?;
        let mut reader = log.reader(AT.topic, &[(0, StartOffset::Start)], false)?;
        let mut records = Records::new();
        while !reader.caught_up() {
            let limits = Limits {
                records: 10,
                bytes: 1 << 20,
                age: Duration::from_secs(1),
            };

            reader.poll(Duration::ZERO, limits, &mut records)?;
        }

        Ok(records.len())
    }

    /// An earlier reader continued behind the gap without an error.
    #[test]
    fn a_hole_in_a_topic_that_is_kept_is_damage() {
        let storage = written();
        assert_eq!(read(&storage).ok(), Some(3));
        storage.replace(PLACE, &[1], None).expect("a batch is gone");
        assert!(
            matches!(read(&storage), Err(LogError::Corrupt(why)) if why.contains("from offset 1 to 1 are missing"))
        );
    }

    #[test]
    fn an_end_that_a_group_has_read_past_is_damage() {
        let storage = written();
        storage
            .commit(&StorageCommit {
                batches: &[],
                group: "g",
                offsets: &[(PLACE, 3)],
            })
            .expect("an offset");

        assert_eq!(read(&storage).ok(), Some(3));
        storage
            .replace(PLACE, &[2], None)
            .expect("the last batch is gone");
        assert!(
            matches!(read(&storage), Err(LogError::Corrupt(why)) if why.contains("records were lost"))
        );
    }
}
