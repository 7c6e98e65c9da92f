//! What a client program needs: send orders that are checked against the listings first, publish
//! prices at any pace. The roles trust none of it and repeat every check.
#![warn(unreachable_pub)]

pub mod decimal;
pub mod instruments;
mod producer;
mod publisher;
pub mod simulate;

pub use producer::{OrderCommandProducer, OrderSide};
pub use publisher::MarketDataPublisher;

use std::time::{Duration, Instant};

use ports::partitioner;
use ports::records::{Headers, Record};
use ports::topics::{TopicId, TopicPartition};
use ports::{Appender, Log, LogError};
use wire::topics;

/// Why a client's call was refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nothing was sent: the symbol is not listed.
    #[error(
        "symbol {0} is not listed: load it with `processor instruments load`, or check the spelling"
    )]
    UnknownSymbol(String),
    /// Nothing was sent: the listing may not be traded.
    #[error("symbol {symbol} cannot be traded: {why}")]
    NotTradable {
        /// The symbol.
        symbol: String,
        /// What its listing says.
        why: String,
    },
    /// Nothing was sent: a field cannot be right.
    #[error("{field} `{value}`: {why}")]
    BadField {
        /// The field's name on the wire.
        field: &'static str,
        /// What was given.
        value: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The log failed.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// How long a burst may wait for room before the log counts as gone.
const PATIENCE: Duration = Duration::from_secs(60);

/// The number of partitions of a topic that must exist.
pub fn partitions(log: &dyn Log, topic: TopicId) -> Result<u32, LogError> {
    log.partitions(topic)?.filter(|n| *n > 0).ok_or_else(|| {
        let name = topics::table("").name(topic).to_string();
        LogError::Invalid(format!("topic {name} does not exist: run `processor topics create` first (with the same --topic-prefix)"))
    })
}

/// Appends to one topic, each record to its key's partition, waiting when the log cannot take more.
pub struct KeyedAppender {
    topic: TopicId,
    count: u32,
    appender: Box<dyn Appender>,
}

impl KeyedAppender {
    /// For a topic that exists.
    pub fn new(log: &dyn Log, topic: TopicId) -> Result<Self, LogError> {
        Ok(KeyedAppender {
            topic,
            count: partitions(log, topic)?,
            appender: log.appender()?,
        })
    }

    /// Queues a record; waits for room instead of dropping it. Returns the partition.
    pub fn append(&mut self, key: &str, value: Option<&[u8]>) -> Result<u32, LogError> {
        self.append_with(key, value, Headers::default())
    }

    /// The same with headers, for what a record without a value has to say.
    pub fn append_with(
        &mut self,
        key: &str,
        value: Option<&[u8]>,
        headers: Headers<'_>,
    ) -> Result<u32, LogError> {
        let partition = partitioner::partition(key.as_bytes(), self.count);
        let at = TopicPartition::new(self.topic, partition);
        let record = Record {
            at,
            offset: 0,
            timestamp_ms: now_ms(),
            key: Some(key.as_bytes()),
            value,
            headers,
        };

        let began = Instant::now();
        let mut pause = Duration::from_millis(5);
        loop {
            match self.appender.append(&record) {
                Ok(()) => return Ok(partition),
                Err(LogError::Unavailable(_)) if began.elapsed() < PATIENCE => {
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(Duration::from_millis(500));
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// Waits until all that was queued is in the log.
    pub fn flush(&mut self, wait: Duration) -> Result<(), LogError> {
        self.appender.flush(wait)
    }
}

/// Milliseconds since 1970: a client's claim, no more.
pub fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

/// An id as `wire` allows it: 1 to 64 bytes of printable ASCII without `/`.
pub fn check_id(field: &'static str, value: &str) -> Result<(), ClientError> {
    let legal = |b: u8| (0x21..=0x7e).contains(&b) && b != b'/';
    if value.is_empty() || value.len() > 64 || !value.bytes().all(legal) {
        return Err(ClientError::BadField {
            field,
            value: value.into(),
            why: "must be 1 to 64 printable ASCII characters without blanks and `/`",
        });
    }

    Ok(())
}
