//! Reads one partition forward, record by record, with `peek` for the next record. Memory holds one
//! chunk, for a partition of any length.

use std::time::Duration;

use engine::checkpoint::JournalEntry;
use engine::journal::Assembler;
use ports::records::{Record, Records};
use ports::topics::{TopicPartition, TopicTable};
use ports::{Limits, Log, LogError, Reader, StartOffset};

const LIMITS: Limits = Limits {
    records: 4_000,
    bytes: 2 << 20,
    age: Duration::from_millis(50),
};
const SLICE: Duration = Duration::from_millis(50);
const PATIENCE: Duration = Duration::from_secs(30);

/// Whether a cursor reads the headers of the records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderUse {
    Read,
    Skip,
}

/// A forward reader of one partition. Stops at the end that the partition had when the cursor was
/// made.
pub struct AuditCursor {
    at: TopicPartition,
    reader: Option<Box<dyn Reader>>,
    chunk: Records,
    used: usize,
    end: u64,
}

impl AuditCursor {
    /// A cursor over the whole partition.
    pub fn whole(
        log: &dyn Log,
        at: TopicPartition,
        headers: HeaderUse,
    ) -> Result<AuditCursor, LogError> {
        Self::range(log, at, 0, u64::MAX, headers)
    }

    /// A cursor over the offsets `from..to`, as far as the partition has them.
    pub fn range(
        log: &dyn Log,
        at: TopicPartition,
        from: u64,
        to: u64,
        headers: HeaderUse,
    ) -> Result<AuditCursor, LogError> {
        let bounds = log.bounds(at)?;
        let end = to.min(bounds.stable_end);
        let place = if from <= bounds.start {
            StartOffset::Start
        } else {
            StartOffset::Offset(from)
        };

        let reader = if from.max(bounds.start) < end {
            Some(log.reader(
                at.topic,
                &[(at.partition, place)],
                headers == HeaderUse::Read,
            )?)
        } else {
            None
        };

        Ok(AuditCursor {
            at,
            reader,
            chunk: Records::new(),
            used: 0,
            end,
        })
    }

    /// A cursor over the log times `from_ms..to_ms`, by the time index of the log. Starts at the
    /// first record at or after `from_ms`. Ends before the first record at or after `to_ms`.
    pub fn between(
        log: &dyn Log,
        at: TopicPartition,
        from_ms: Option<i64>,
        to_ms: Option<i64>,
        headers: HeaderUse,
    ) -> Result<AuditCursor, LogError> {
        let (from, to) = offsets(log, at, from_ms, to_ms)?;
        Self::range(log, at, from, to, headers)
    }

    /// The next record; none at the end.
    pub fn peek(&mut self) -> Result<Option<Record<'_>>, LogError> {
        if self.used == self.chunk.len() {
            self.fill()?;
        }

        Ok((self.used < self.chunk.len()).then(|| self.chunk.get(self.used)))
    }

    /// Moves past the record that `peek` returned.
    pub fn skip(&mut self) {
        self.used += 1;
    }

    /// Calls `visit` with every record until `visit` returns `false`.
    pub fn each(&mut self, visit: &mut dyn FnMut(&Record<'_>) -> bool) -> Result<(), LogError> {
        while let Some(record) = self.peek()? {
            let go_on = visit(&record);
            self.skip();
            if !go_on {
                break;
            }
        }

        Ok(())
    }

    fn fill(&mut self) -> Result<(), LogError> {
        self.chunk.clear();
        self.used = 0;
        let mut waited = Duration::ZERO;
        while let Some(reader) = &mut self.reader {
            // Ask before the poll: if `last` is true, one more poll returns all remaining records.
            let last = reader.caught_up();
            reader.poll(
                if last { Duration::ZERO } else { SLICE },
                LIMITS,
                &mut self.chunk,
            )?;
            let past = (0..self.chunk.len()).find(|i| self.chunk.get(*i).offset >= self.end);
            if past.is_some() || last && self.chunk.is_empty() {
                self.reader = None;
            }

            if let Some(past) = past {
                let mut kept = Records::new();
                (0..past).for_each(|i| kept.push(&self.chunk.get(i)));
                self.chunk = kept;
            }

            if !self.chunk.is_empty() {
                break;
            }

            waited += SLICE;
            if waited > PATIENCE {
                let at = self.at;
                return Err(LogError::Unavailable(format!(
                    "no records of {at:?} came for {} s; are the brokers well?",
                    PATIENCE.as_secs()
                )));
            }
        }

        Ok(())
    }
}

/// Calls `visit` with every journal entry of a task, from the start, until `visit` returns `false`.
pub fn journal(
    log: &dyn Log,
    topics: &TopicTable,
    at: TopicPartition,
    visit: &mut dyn FnMut(JournalEntry) -> bool,
) -> Result<(), LogError> {
    let mut records = AuditCursor::whole(log, at, HeaderUse::Skip)?;
    let mut whole = Assembler::default();
    while let Some(r) = records.peek()? {
        let entry = whole.take(r.value.unwrap_or_default());
        let entry = entry
            .map_err(|e| LogError::Corrupt(format!("{}/{}: {e}", topics.show(r.at), r.offset)))?;
        if entry.is_some_and(|entry| !visit(entry)) {
            break;
        }

        records.skip();
    }

    Ok(())
}

/// The offsets of a range of log times.
pub fn offsets(
    log: &dyn Log,
    at: TopicPartition,
    from_ms: Option<i64>,
    to_ms: Option<i64>,
) -> Result<(u64, u64), LogError> {
    let from = from_ms.map_or(Ok(0), |ms| log.offset_at(at, ms))?;
    let to = to_ms.map_or(Ok(u64::MAX), |ms| log.offset_at(at, ms))?;
    Ok((from, to))
}
