//! Reads one topic's committed records outside any group: restore, broadcast tables, `tail`,
//! `replay`.
//!
//! "Caught up" refers to the stable ends at the creation of the reader. A broker's end-of-partition
//! signal is not enough: the signal does not tell the log's end at the creation of the reader. A
//! partition is done in two cases:
//!
//! * a record at or past the end was delivered;
//! * the consumer's position is at or past the end and no records are left before the end. The last
//!   offsets of a partition are often transaction markers, which are never delivered.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ports::records::{HeaderBuf, NO_LOG_TIME, Record, Records};
use ports::topics::{TopicId, TopicPartition, TopicTable};
use ports::{Limits, LogError, Reader};
use rdkafka::consumer::BaseConsumer;
use rdkafka::error::RDKafkaErrorCode as Code;

use super::classify::{self, Read};
use super::ffi::{EventQueue, FetchedMessage};
use super::stale_requests::Quiet;
use super::trouble::Trouble;
use super::watchdog;

const SLICE: Duration = Duration::from_millis(50);
const CHUNK: usize = 1_024;

/// Progress of a partition.
pub(super) struct ReadGoal {
    pub(super) partition: u32,
    /// Next offset to deliver.
    pub(super) next: u64,
    /// Stable end at the creation of the reader.
    pub(super) end: u64,
    /// Start of the partition, if the reader begins at the start.
    pub(super) start: Option<u64>,
    pub(super) trouble: Trouble,
}

/// A reader of one topic over Kafka.
pub(super) struct KafkaReader {
    names: Arc<TopicTable>,
    topic: TopicId,
    headers: bool,
    /// Sorted by partition.
    goals: Vec<ReadGoal>,
    open: usize,
    buffer: Vec<usize>,
    scratch: HeaderBuf,
    clients: Option<ReaderClients>,
}

/// Clients that must be closed, in this order.
struct ReaderClients {
    data: EventQueue,
    consumer: BaseConsumer<Quiet>,
}

impl KafkaReader {
    pub(super) fn new(
        names: Arc<TopicTable>,
        topic: TopicId,
        headers: bool,
        mut goals: Vec<ReadGoal>,
        data: EventQueue,
        consumer: BaseConsumer<Quiet>,
    ) -> Self {
        goals.sort_by_key(|g| g.partition);
        let open = goals.iter().filter(|g| g.next < g.end).count();
        let clients = Some(ReaderClients { data, consumer });
        KafkaReader {
            names,
            topic,
            headers,
            goals,
            open,
            buffer: Vec::new(),
            scratch: HeaderBuf::default(),
            clients,
        }
    }

    fn serve_control(&self) -> Result<(), LogError> {
        let Some(c) = &self.clients else {
            return Ok(());
        };

        while let Some(event) = c.consumer.poll(Duration::ZERO) {
            match event {
                Ok(_) => {
                    return Err(LogError::Unavailable(
                        "a record came past the reader's queue; read again".into(),
                    ));
                }
                Err(e) => tracing::debug!("reading {}: {e}", self.names.name(self.topic)),
            }
        }

        Ok(())
    }
}

/// The state that a message needs, separate from the queue of the message.
struct Sink<'a> {
    names: &'a TopicTable,
    topic: TopicId,
    headers: bool,
    goals: &'a mut [ReadGoal],
    open: &'a mut usize,
    scratch: &'a mut HeaderBuf,
}

impl Sink<'_> {
    fn take(&mut self, m: &FetchedMessage<'_>, into: &mut Records) -> Result<(), LogError> {
        let Ok(partition) = u32::try_from(m.partition()) else {
            return Ok(());
        };

        let at = TopicPartition::new(self.topic, partition);
        let Ok(i) = self.goals.binary_search_by_key(&partition, |g| g.partition) else {
            return Ok(());
        };

        let goal = &mut self.goals[i];
        let offset = u64::try_from(m.offset()).ok();
        match (m.error(), offset) {
            (None, Some(offset)) if offset >= goal.next => {
                if goal.trouble.is_some() {
                    goal.trouble.passed(&self.names.show(at).to_string());
                }

                *self.open -= usize::from(goal.advance(offset + 1));
                self.scratch.clear();
                if self.headers {
                    m.headers(self.scratch);
                }

                let headers = self.scratch.headers();
                let timestamp_ms = m
                    .log_time_ms(self.names.spec(self.topic).append_time)
                    .unwrap_or(NO_LOG_TIME);
                into.push(&Record {
                    at,
                    offset,
                    timestamp_ms,
                    key: m.key(),
                    value: m.value(),
                    headers,
                });

                Ok(())
            }
            (None, _) => Ok(()),
            // The consumer's position is this offset, and all stable records before this offset
            // were delivered.
            (Some(Code::PartitionEOF), Some(offset)) => {
                *self.open -= usize::from(goal.advance(offset));
                Ok(())
            }
            (Some(code), _) => {
                let place = self.names.show(at).to_string();
                goal.failed(&place, code, &m.error_text())
            }
        }
    }
}

impl ReadGoal {
    /// Advances the position. Returns true if this step reached the end.
    fn advance(&mut self, next: u64) -> bool {
        let was_open = self.next < self.end;
        self.next = self.next.max(next);
        was_open && self.next >= self.end
    }

    /// Decides about an error of the partition. Returns an error if reading cannot go on.
    fn failed(&mut self, place: &str, code: Code, text: &str) -> Result<(), LogError> {
        match classify::read(code, false) {
            // The partition began at this offset when the reader was created. The next reader
            // begins later.
            Read::PositionGone if self.start == Some(self.next) => Err(LogError::Unavailable(
                format!("the first records of {place} were just deleted; read again"),
            )),
            Read::PositionGone => Err(LogError::Corrupt(format!(
                "{place} has no offset {} any more ({text}): its older records were deleted",
                self.next
            ))),
            // The topic existed when the reader was created. The next reader gets an error if the
            // topic is gone.
            Read::NoTopic => Err(LogError::Unavailable(format!(
                "{place} is not known at the moment"
            ))),
            _ => {
                tracing::debug!("reading {place}: {text}");
                self.trouble
                    .note(place, self.next, code, text, Instant::now())
                    .map_or(Ok(()), Err)
            }
        }
    }
}

/// Number of records to ask for, by the average size of the records taken so far.
fn records_in_room(limits: Limits, taken: usize, bytes: usize) -> usize {
    let average = if taken == 0 {
        256
    } else {
        bytes.div_ceil(taken).max(1)
    };

    (limits.records - taken)
        .min(CHUNK)
        .min((limits.bytes - bytes.min(limits.bytes)) / average + 1)
}

impl KafkaReader {
    /// Takes at most `max` messages from the queue. Returns the number of messages.
    fn take_chunk(
        &mut self,
        wait: Duration,
        max: usize,
        into: &mut Records,
    ) -> Result<usize, LogError> {
        let Some(c) = &self.clients else {
            return Ok(0);
        };

        let mut sink = Sink {
            names: &self.names,
            topic: self.topic,
            headers: self.headers,
            goals: &mut self.goals,
            open: &mut self.open,
            scratch: &mut self.scratch,
        };

        let mut failed = None;
        let n = c.data.take(wait, max, &mut self.buffer, &mut |m| {
            // Deliver nothing behind an unreadable record: librdkafka continues behind the record.
            if failed.is_none() {
                failed = sink.take(m, into).err();
            }
        });

        failed.map_or(Ok(n), Err)
    }
}

impl Reader for KafkaReader {
    fn poll(&mut self, wait: Duration, limits: Limits, into: &mut Records) -> Result<(), LogError> {
        let _guard = watchdog::exit_after("reading", wait + Duration::from_secs(60));
        let deadline = Instant::now() + wait;
        let start = into.len();
        let start_bytes = into.size_bytes();
        let mut first: Option<Instant> = None;
        self.serve_control()?;
        loop {
            let taken = into.len() - start;
            let bytes = into.size_bytes() - start_bytes;
            if taken >= limits.records
                || bytes >= limits.bytes && taken > 0
                || first.is_some_and(|t| t.elapsed() >= limits.age)
            {
                break;
            }

            let left = if taken == 0 {
                deadline.saturating_duration_since(Instant::now())
            } else {
                Duration::ZERO
            };

            if self.clients.is_none() {
                break;
            }

            let max = records_in_room(limits, taken, bytes);
            let n = self.take_chunk(left.min(SLICE), max, into)?;
            if into.len() > start {
                first.get_or_insert_with(Instant::now);
            }

            if n == 0 && (into.len() > start || left.is_zero()) {
                break;
            }

            if n == 0 {
                self.serve_control()?;
            }
        }

        Ok(())
    }

    fn caught_up(&self) -> bool {
        self.open == 0
    }

    fn reached(&self, partition: u32) -> bool {
        self.goals
            .iter()
            .all(|g| g.partition != partition || g.next >= g.end)
    }
}

impl Drop for KafkaReader {
    fn drop(&mut self) {
        if let Some(clients) = self.clients.take() {
            watchdog::drop_aside("closing a reader's client", clients);
        }
    }
}
