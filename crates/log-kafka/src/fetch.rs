//! A member's partitions: one queue for each partition, read in turns.
//!
//! With one queue for all partitions, queued records come first, and librdkafka fetches nothing
//! while the queue is full. A backlog in one partition then delays all partitions. With separate
//! queues, librdkafka prefetches each partition up to a bound of its own. A poll divides the budget
//! evenly: a partition with less than an even share leaves the rest to the others. Each poll starts
//! with the next partition.
//!
//! A queue rings the bell when the empty queue gets an event (see [`super::bell`]). The member
//! takes the rings *before* it reads the queues. A partition counts as awake until a later read
//! finds the queue empty. So an event in between rings again and is not missed.

use std::ffi::CString;
use std::sync::Arc;
use std::time::Instant;

use ports::records::{HeaderBuf, NO_LOG_TIME, Record, Records};
use ports::topics::{TopicPartition, TopicTable};
use ports::{Limits, LogError, MemberInput};

use super::bell::Bell;
use super::classify::{self, Read};
use super::ffi::{ClientHandle, EventQueue, FetchedMessage};
use super::trouble::Trouble;

/// Maximum number of records per call of librdkafka.
const CHUNK: usize = 1_024;
/// First estimate of a record's size, in bytes.
const RECORD_BYTES: usize = 256;

struct PartitionQueue {
    at: TopicPartition,
    /// Next offset to deliver. `None` while paused.
    next: Option<u64>,
    headers: bool,
    /// True while the member takes nothing from this partition, although records may be in the
    /// queue.
    passed_over: bool,
    queue: EventQueue,
    /// True if the queue may have events.
    awake: bool,
    /// Records from the queue that exceeded the budget of the last poll. The next poll delivers
    /// these records first.
    held: Records,
    /// Number of `held` records that were delivered.
    released: usize,
    /// Running estimate of a record's size in bytes, to take no more records than asked for.
    record_bytes: usize,
    trouble: Trouble,
    /// The first record that the broker did not stamp.
    unstamped: Option<u64>,
    /// The error that ended the reading of this partition. The next poll without records returns
    /// the error, so that earlier records are committed first.
    failed: Option<LogError>,
}

/// The limits of a batch.
#[derive(Clone, Copy)]
struct PollBudget {
    records: usize,
    bytes: usize,
}

impl PollBudget {
    fn full(self, into: &Records) -> bool {
        into.len() >= self.records || into.size_bytes() >= self.bytes
    }
}

/// The partitions of a member.
pub(super) struct Slots {
    /// Sorted by partition.
    slots: Vec<PartitionQueue>,
    bell: Arc<Bell>,
    /// Index of the partition that begins the next poll.
    first: usize,
    buffer: Vec<usize>,
    headers: HeaderBuf,
    /// The first record without the broker's timestamp, in a topic that requires the broker's
    /// timestamp, since the last call of `take_unstamped`.
    unstamped: Option<(TopicPartition, u64)>,
}

impl Slots {
    pub(super) fn new(bell: Arc<Bell>) -> Self {
        Slots {
            slots: Vec::new(),
            bell,
            first: 0,
            buffer: Vec::new(),
            headers: HeaderBuf::default(),
            unstamped: None,
        }
    }

    /// Replaces the old partitions by these partitions, all paused.
    pub(super) fn assign(
        &mut self,
        h: ClientHandle,
        names: &TopicTable,
        inputs: &[MemberInput],
        partitions: &[TopicPartition],
    ) -> Result<(), LogError> {
        self.clear();
        for (&at, key) in partitions.iter().zip(0_u32..) {
            let name =
                CString::new(names.name(at.topic)).map_err(|e| LogError::Invalid(e.to_string()))?;
            let queue = i32::try_from(at.partition)
                .ok()
                .and_then(|partition| EventQueue::of_partition(h, &name, partition));
            let mut queue = queue
                .ok_or_else(|| LogError::Unavailable(format!("{} has no queue", names.show(at))))?;
            queue.connect(&self.bell, key);
            self.slots.push(PartitionQueue {
                at,
                next: None,
                headers: inputs.iter().any(|i| i.topic == at.topic && i.headers),
                passed_over: false,
                queue,
                awake: true,
                held: Records::new(),
                released: 0,
                record_bytes: RECORD_BYTES,
                trouble: Trouble::default(),
                unstamped: None,
                failed: None,
            });
        }

        debug_assert!(self.slots.is_sorted_by_key(|s| s.at));
        Ok(())
    }

    /// Gives up all partitions.
    pub(super) fn clear(&mut self) {
        // The dropped queues ring no more. Their old rings do no harm: new partitions are read once
        // anyway.
        self.slots.clear();
        self.first = 0;
    }

    /// True if the partition is assigned to this member.
    pub(super) fn has(&self, at: TopicPartition) -> bool {
        self.find(at).is_some()
    }

    /// The first partition and its next offset.
    pub(super) fn any(&self) -> Option<(TopicPartition, u64)> {
        self.slots.first().map(|s| (s.at, s.next.unwrap_or(0)))
    }

    /// Takes the first record without the broker's timestamp since the last call.
    pub(super) fn take_unstamped(&mut self) -> Option<(TopicPartition, u64)> {
        self.unstamped.take()
    }

    fn find(&self, at: TopicPartition) -> Option<usize> {
        self.slots.binary_search_by_key(&at, |s| s.at).ok()
    }

    /// Delivers from these offsets on. Records that were taken from the queues before are void.
    pub(super) fn resume(&mut self, positions: &[(TopicPartition, u64)]) {
        for &(at, offset) in positions {
            let Some(i) = self.find(at) else { continue };
            let slot = &mut self.slots[i];
            (slot.next, slot.awake, slot.released, slot.failed) = (Some(offset), true, 0, None);
            slot.held.clear();
        }
    }

    /// Skips exactly these partitions until the next call.
    pub(super) fn skip_partitions(&mut self, partitions: &[TopicPartition]) {
        self.slots
            .iter_mut()
            .for_each(|s| s.passed_over = partitions.contains(&s.at));
    }

    /// Takes available records in turns, within the limits.
    pub(super) fn take(
        &mut self,
        names: &TopicTable,
        limits: Limits,
        into: &mut Records,
    ) -> Result<(), LogError> {
        if into.is_empty()
            && let Some(failed) = self.slots.iter_mut().find_map(|s| s.failed.take())
        {
            return Err(failed);
        }

        let room = PollBudget {
            records: into.len().saturating_add(limits.records),
            bytes: into.size_bytes().saturating_add(limits.bytes),
        };

        let count = self.slots.len();
        let first = self.first;
        let began = Instant::now();
        let mut turns = Vec::new();
        let start = into.len();
        while !room.full(into) {
            for key in self.bell.take() {
                if let Some(slot) = self.slots.get_mut(key as usize) {
                    slot.awake = true;
                }
            }

            turns.clear();
            turns.extend(
                (0..count)
                    .map(|i| (first + i) % count)
                    .filter(|i| self.slots[*i].has_more()),
            );
            for (left, i) in (1..=turns.len()).rev().zip(&turns) {
                if room.full(into) {
                    break;
                }

                let share = PollBudget {
                    records: into.len() + (room.records - into.len()).div_ceil(left),
                    bytes: into.size_bytes() + (room.bytes - into.size_bytes()).div_ceil(left),
                };

                self.slots[*i].take(names, share, &mut self.buffer, &mut self.headers, into);
                if let Some(offset) = self.slots[*i].unstamped.take() {
                    self.unstamped.get_or_insert((self.slots[*i].at, offset));
                }

                if into.len() > start && began.elapsed() >= limits.age {
                    self.first = (*i + 1) % count;
                    return Ok(());
                }
            }

            if turns.is_empty() {
                break;
            }
        }

        self.first = if count == 0 { 0 } else { (first + 1) % count };
        Ok(())
    }
}

impl PartitionQueue {
    fn has_more(&self) -> bool {
        self.next.is_some()
            && !self.passed_over
            && self.failed.is_none()
            && (self.awake || self.released < self.held.len())
    }

    /// Takes records until the batch has reached its share or the queue is empty.
    fn take(
        &mut self,
        names: &TopicTable,
        share: PollBudget,
        buffer: &mut Vec<usize>,
        headers: &mut HeaderBuf,
        into: &mut Records,
    ) {
        while self.released < self.held.len() && !share.full(into) {
            into.push(&self.held.get(self.released));
            self.released += 1;
        }

        if self.released == self.held.len() {
            self.held.clear();
            self.released = 0;
        }

        let PartitionQueue {
            at,
            next: Some(next),
            headers: wanted,
            queue,
            held,
            record_bytes,
            trouble,
            unstamped,
            failed,
            ..
        } = self
        else {
            return;
        };

        while self.awake && failed.is_none() && !share.full(into) {
            let start = into.len();
            let start_bytes = into.size_bytes();
            let by_bytes = (share.bytes - start_bytes) / (*record_bytes).max(1) + 1;
            let max = (share.records - start).min(by_bytes).min(CHUNK);
            let n = queue.take_ready(max, buffer, &mut |m| {
                if failed.is_none() {
                    *failed = deliver(
                        *at,
                        next,
                        *wanted,
                        trouble,
                        unstamped,
                        names,
                        m,
                        headers,
                        if share.full(into) { held } else { into },
                    );
                }
            });

            if into.len() > start {
                *record_bytes = (into.size_bytes() - start_bytes).div_ceil(into.len() - start);
            }

            self.awake = n == max;
        }
    }
}

/// Copies one record into the batch, if its offset is not below the next offset. Returns an error
/// if the message is an error that ends the reading.
#[allow(
    clippy::too_many_arguments,
    reason = "a partition's parts, borrowed one by one beside its queue"
)]
fn deliver(
    at: TopicPartition,
    next: &mut u64,
    wants_headers: bool,
    trouble: &mut Trouble,
    unstamped: &mut Option<u64>,
    names: &TopicTable,
    m: &FetchedMessage<'_>,
    headers: &mut HeaderBuf,
    into: &mut Records,
) -> Option<LogError> {
    if let Some(code) = m.error() {
        let place = names.show(at).to_string();
        if classify::read(code, false) == Read::PositionGone {
            return Some(LogError::Corrupt(format!(
                "{place} has no offset {next} any more ({}): were records deleted before they were processed? Its retention must be unlimited",
                m.error_text()
            )));
        }

        tracing::debug!("{place}: {}", m.error_text());
        return trouble.note(&place, *next, code, &m.error_text(), Instant::now());
    }

    let offset = u64::try_from(m.offset()).ok().filter(|o| o >= next)?;
    if trouble.is_some() {
        trouble.passed(&names.show(at).to_string());
    }

    *next = offset + 1;
    headers.clear();
    if wants_headers {
        m.headers(headers);
    }

    let timestamp_ms = m
        .log_time_ms(names.spec(at.topic).append_time)
        .unwrap_or_else(|| {
            unstamped.get_or_insert(offset);
            NO_LOG_TIME
        });

    into.push(&Record {
        at,
        offset,
        timestamp_ms,
        key: m.key(),
        value: m.value(),
        headers: headers.headers(),
    });

    None
}
