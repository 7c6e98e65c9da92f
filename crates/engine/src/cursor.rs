//! Reads one partition forward in pieces. A replay chooses the end of each piece.

use std::time::Duration;

use ports::records::Records;
use ports::topics::TopicPartition;
use ports::{Limits, Log, LogError, Reader, StartOffset};

use super::checkpoint::next_offset;
use super::replay::ReplayError;

/// Limits of one read.
pub(super) const LIMITS: Limits = Limits {
    records: 20_000,
    bytes: 16 << 20,
    age: Duration::from_millis(200),
};
/// Longest silence of the log in the middle of a partition.
const PATIENCE: Duration = Duration::from_secs(30);

/// The recorded position of one partition.
pub(super) fn position(
    positions: &[(TopicPartition, u64)],
    at: TopicPartition,
) -> Result<u64, ReplayError> {
    next_offset(positions, at)
        .ok_or_else(|| ReplayError::Journal(format!("no position for {at:?} on record")))
}

/// Reads one partition forward, in pieces that end at given offsets.
pub(super) struct PartitionCursor {
    pub(super) at: TopicPartition,
    reader: Box<dyn Reader>,
    ahead: Records,
    /// Index of the next record in `ahead`.
    used: usize,
    /// All records below this offset were returned.
    pub(super) position: u64,
}

impl PartitionCursor {
    /// Reads from the start of the partition. `headers`: true if the caller reads headers.
    pub(super) fn new(
        log: &dyn Log,
        at: TopicPartition,
        start: u64,
        headers: bool,
    ) -> Result<PartitionCursor, LogError> {
        let reader = log.reader(at.topic, &[(at.partition, StartOffset::Start)], headers)?;
        Ok(PartitionCursor {
            at,
            reader,
            ahead: Records::new(),
            used: 0,
            position: start,
        })
    }

    /// Moves records below `end` to `into`. Stops at the first record at or above `end`, or at the
    /// end of the partition.
    pub(super) fn take_until(&mut self, end: u64, into: &mut Records) -> Result<(), ReplayError> {
        while self.position < end && self.take_some(end, into)? {}
        self.position = self.position.max(end);
        Ok(())
    }

    /// Moves the buffered records below `end`. Returns false if no more records below `end` can
    /// come.
    pub(super) fn take_some(&mut self, end: u64, into: &mut Records) -> Result<bool, ReplayError> {
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

    /// Fills the buffer. Returns false at the end of the partition.
    fn fill(&mut self) -> Result<bool, ReplayError> {
        self.ahead.clear();
        self.used = 0;
        let mut waited = Duration::ZERO;
        while self.ahead.is_empty() && waited < PATIENCE {
            if self.reader.caught_up() {
                self.reader.poll(Duration::ZERO, LIMITS, &mut self.ahead)?;
                return Ok(!self.ahead.is_empty());
            }

            self.reader
                .poll(Duration::from_millis(100), LIMITS, &mut self.ahead)?;
            waited += Duration::from_millis(100);
        }

        if self.ahead.is_empty() {
            // A replay without the missing records would look like a divergence.
            return Err(LogError::Unavailable(format!(
                "no records of {:?} came for {} s",
                self.at,
                PATIENCE.as_secs()
            ))
            .into());
        }

        Ok(true)
    }

    /// The value of the next record. `None` at the end of the partition.
    pub(super) fn next_value(&mut self) -> Result<Option<Vec<u8>>, ReplayError> {
        if self.used == self.ahead.len() && !self.fill()? {
            return Ok(None);
        }

        self.used += 1;
        Ok(Some(
            self.ahead
                .get(self.used - 1)
                .value
                .unwrap_or_default()
                .to_vec(),
        ))
    }
}
