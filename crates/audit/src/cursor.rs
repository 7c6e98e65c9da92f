//! One partition read forward, record by record, with a look at the next one. Holds one chunk in
//! memory, however long the partition is.

use std::time::Duration;

use engine::checkpoint::JournalEntry;
use engine::journal::Assembler;
use ports::records::{Record, Records};
use ports::topics::{TopicPartition, TopicTable};
use ports::{From, Limits, Log, LogError, Reader};

const LIMITS: Limits = Limits {
    records: 4_000,
    bytes: 2 << 20,
    age: Duration::from_millis(50),
};
const SLICE: Duration = Duration::from_millis(50);
const PATIENCE: Duration = Duration::from_secs(30);

/// See the module. Ends where the partition ended when it was made.
pub struct AuditCursor {
    at: TopicPartition,
    reader: Option<Box<dyn Reader>>,
    chunk: Records,
    used: usize,
    end: u64,
}

impl AuditCursor {
    /// Everything of a partition.
    pub fn whole(
        log: &dyn Log,
        at: TopicPartition,
        headers: bool,
    ) -> Result<AuditCursor, LogError> {
        Self::range(log, at, 0, u64::MAX, headers)
    }

    /// Offsets `from..to`, as far as they are there.
    pub fn range(
        log: &dyn Log,
        at: TopicPartition,
        from: u64,
        to: u64,
        headers: bool,
    ) -> Result<AuditCursor, LogError> {
        let bounds = log.bounds(at)?;
        let end = to.min(bounds.stable_end);
        let place = if from <= bounds.start {
            From::Start
        } else {
            From::Offset(from)
        };

        let reader = if from.max(bounds.start) < end {
            Some(log.reader(at.topic, &[(at.partition, place)], headers)?)
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

    /// Records with a log time in `from_ms..to_ms`, by the log's index of times: it begins at the
    /// first record that is as late, and ends before the first that is too late.
    pub fn between(
        log: &dyn Log,
        at: TopicPartition,
        from_ms: Option<i64>,
        to_ms: Option<i64>,
        headers: bool,
    ) -> Result<AuditCursor, LogError> {
        let (from, to) = offsets(log, at, from_ms, to_ms)?;
        Self::range(log, at, from, to, headers)
    }

    /// The next record, if there is one.
    pub fn peek(&mut self) -> Result<Option<Record<'_>>, LogError> {
        if self.used == self.chunk.len() {
            self.fill()?;
        }

        Ok((self.used < self.chunk.len()).then(|| self.chunk.get(self.used)))
    }

    /// Goes past the record that `peek` showed.
    pub fn skip(&mut self) {
        self.used += 1;
    }

    /// Calls `visit` with every record until it answers `false`.
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
            // Asked before the poll: what is there when it is true is delivered by one more poll.
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

/// Calls `visit` with every entry of a task's journal, from its beginning, until it answers
/// `false`.
pub fn journal(
    log: &dyn Log,
    topics: &TopicTable,
    at: TopicPartition,
    visit: &mut dyn FnMut(JournalEntry) -> bool,
) -> Result<(), LogError> {
    let mut records = AuditCursor::whole(log, at, false)?;
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

/// The offsets of a range of time.
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
