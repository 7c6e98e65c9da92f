//! Library for client programs: sends orders after a check against the listings, and publishes
//! prices at any rate. The roles do not trust clients and repeat every check.
#![warn(unreachable_pub)]

pub mod decimal;
pub mod instruments;
mod producer;
mod publisher;
pub mod simulate;

pub use producer::{OrderCommandProducer, OrderSide};
pub use publisher::MarketDataPublisher;

use std::time::{Duration, Instant};

use domain::ids;
use os::clock::wall_ms;
use ports::partitioner;
use ports::records::{Headers, Record};
use ports::topics::{TopicId, TopicPartition};
use ports::{Appender, Log, LogError};
use wire::topics;

/// Error of a client call.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The symbol is not listed. Nothing was sent.
    #[error(
        "symbol {0} is not listed: load it with `processor instruments load`, or check the spelling"
    )]
    UnknownSymbol(String),
    /// The listing may not be traded. Nothing was sent.
    #[error("symbol {symbol} cannot be traded: {why}")]
    NotTradable {
        symbol: String,
        /// Reason from the listing.
        why: String,
    },
    /// A field has an invalid value. Nothing was sent.
    #[error("{field} `{value}`: {why}")]
    BadField {
        /// Name of the field on the wire.
        field: &'static str,
        /// The given value.
        value: String,
        /// The broken rule.
        why: &'static str,
    },
    /// The log failed.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// Longest time that a burst waits for room before the log counts as unavailable.
const PATIENCE: Duration = Duration::from_secs(60);

/// The number of partitions of a topic. An error if the topic does not exist.
pub fn partitions(log: &dyn Log, topic: TopicId) -> Result<u32, LogError> {
    log.partitions(topic)?.filter(|n| *n > 0).ok_or_else(|| {
        let name = topics::table("").name(topic).to_string();
        LogError::Invalid(format!("topic {name} does not exist: run `processor topics create` first (with the same --topic-prefix)"))
    })
}

/// Appends to one topic, each record to the partition of its key. Waits while the log is full.
pub struct KeyedAppender {
    topic: TopicId,
    count: u32,
    appender: Box<dyn Appender>,
}

impl KeyedAppender {
    /// The topic must exist.
    pub fn new(log: &dyn Log, topic: TopicId) -> Result<Self, LogError> {
        Ok(KeyedAppender {
            topic,
            count: partitions(log, topic)?,
            appender: log.appender()?,
        })
    }

    /// Queues a record. Waits for room instead of dropping the record. Returns the partition.
    pub fn append(&mut self, key: &str, value: Option<&[u8]>) -> Result<u32, LogError> {
        self.append_with(key, value, Headers::default())
    }

    /// Like [`KeyedAppender::append`], with headers. A record without a value may need headers.
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
            timestamp_ms: wall_ms(),
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

    /// Waits until all queued records are in the log.
    pub fn flush(&mut self, wait: Duration) -> Result<(), LogError> {
        self.appender.flush(wait)
    }
}

/// Checks an id as the roles do: see [`ids::valid`].
pub fn check_id(field: &'static str, value: &str) -> Result<(), ClientError> {
    if !ids::valid(value) {
        return Err(ClientError::BadField {
            field,
            value: value.into(),
            why: "must be 1 to 64 printable ASCII characters without blanks and `/`",
        });
    }

    Ok(())
}
