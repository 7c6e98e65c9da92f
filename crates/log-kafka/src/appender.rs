//! Appends like a client: idempotent, to explicit partitions, outside any transaction.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ports::records::Record;
use ports::topics::{TopicId, TopicTable};
use ports::{Appender, LogError};

use super::config::KafkaSettings;
use super::survey;
use super::transact::{TransactError, TransactionalProducer};
use super::watchdog;

/// Longest wait for space in a full queue. Records time out earlier, so the wait ends with space or
/// with an error.
const ROOM_WAIT: Duration = Duration::from_secs(60);
/// Number of appends between two serves of the deliveries. Errors then surface soon, and delivery
/// reports do not pile up.
const SERVE_EVERY: u32 = 256;

/// A client's writer over Kafka.
pub(super) struct KafkaAppender {
    names: Arc<TopicTable>,
    settings: Arc<KafkaSettings>,
    /// Topic of the last record. A failure is most likely about this topic.
    last: Option<TopicId>,
    since_served: u32,
    sender: Option<TransactionalProducer>,
}

impl KafkaAppender {
    pub(super) fn new(
        names: Arc<TopicTable>,
        settings: Arc<KafkaSettings>,
        sender: TransactionalProducer,
    ) -> Self {
        KafkaAppender {
            names,
            settings,
            last: None,
            since_served: 0,
            sender: Some(sender),
        }
    }

    fn sender(&mut self) -> &mut TransactionalProducer {
        self.sender
            .as_mut()
            .expect("the client is there until the appender is dropped")
    }

    fn failed(&mut self) -> Result<(), LogError> {
        let names = self.names.clone();
        let failure = self
            .sender()
            .take_failure()
            .map(|failed| self.sender().show(&names, &failed));
        match failure {
            None => Ok(()),
            Some(why) => Err(self.unavailable(
                format!(
                    "a record was not accepted by {}: {why}",
                    self.settings.brokers
                ),
                "",
            )),
        }
    }

    /// Error text with the cause, if the cluster shows a cause, else with `hint`.
    fn unavailable(&self, what: String, hint: &str) -> LogError {
        let topics: Vec<_> = self.last.iter().map(|id| self.names.name(*id)).collect();
        let said = survey::diagnosed(&self.settings, what.clone(), &topics);
        LogError::Unavailable(if said == what { what + hint } else { said })
    }
}

impl Appender for KafkaAppender {
    fn append(&mut self, record: &Record<'_>) -> Result<(), LogError> {
        self.since_served += 1;
        if self.since_served >= SERVE_EVERY {
            self.since_served = 0;
            self.sender().serve(Duration::ZERO);
        }

        self.failed()?;
        self.last = Some(record.at.topic);
        let names = Arc::clone(&self.names);

        // A full queue, a fatal error of the producer, or a partition that is temporarily unknown.
        // A new writer may succeed.
        self.sender()
            .send(&names, record, Instant::now() + ROOM_WAIT)
            .map_err(TransactError::of_a_record)
    }

    fn flush(&mut self, wait: Duration) -> Result<(), LogError> {
        let _guard = watchdog::exit_after("flushing", wait + Duration::from_secs(60));
        let done = self.sender().drain(Instant::now() + wait);
        self.failed()?;
        if done {
            return Ok(());
        }

        let left = self.sender().outstanding();
        let what = format!(
            "{left} records were not acknowledged by {} in {wait:?}",
            self.settings.brokers
        );
        Err(self.unavailable(what, "; is it running? check --brokers"))
    }
}

impl Drop for KafkaAppender {
    fn drop(&mut self) {
        if let Some(sender) = self.sender.take() {
            watchdog::drop_aside("closing a writer's client", sender);
        }
    }
}
