//! Reads librdkafka's log lines, and finds lines after which a request of a transaction may still
//! be in flight.
//!
//! librdkafka speaks only the old transaction protocol (before KIP-890). In this protocol a delayed
//! request of one transaction can take effect in the next transaction. librdkafka retries timed-out
//! requests internally and then reports success. The only trace is a log line with facility
//! `REQTMOUT` or `FAIL`. After such a line the producer must be replaced before the next
//! transaction: the new epoch makes the stale request harmless.
//!
//! A `FAIL` while *connecting* is harmless: librdkafka has sent no request on that connection, and
//! the loss of the previous connection had its own line. If such a `FAIL` counted, a member could
//! not work while one of several brokers is down. Every new incarnation would see the refused
//! connection again.
//!
//! A `FAIL` *between* transactions is harmless too, if the last transaction had all its answers and
//! no suspect line. In this case no request of the producer is in flight. A request can only be
//! left behind if librdkafka sent the request again, after a line inside the transaction.
//! librdkafka queues that line before the waiting call returns, so the end of the transaction finds
//! the line. Brokers close connections after ten idle minutes (`connections.max.idle.ms`). Without
//! this rule an idle member would rejoin each time.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use faults::crash::{self, Point};
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::message::DeliveryResult;
use rdkafka::producer::ProducerContext;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaRespErr;

use super::ffi::{ClientHandle, GroupMetadata};
use super::throttle::Throttle;

/// True if a request may still be in flight after this log line. `busy`: requests of a transaction
/// may be in flight.
pub(super) fn is_suspect(facility: &str, line: &str, busy: bool) -> bool {
    match facility {
        // ApiVersions requests carry no transactional data. A frozen broker still accepts
        // connections, and its ApiVersions timeouts would make us rejoin for ever.
        "REQTMOUT" => !line.contains("ApiVersion"),
        "FAIL" if !busy => false,
        "FAIL" => ![
            "CONNECT",
            "TRY_CONNECT",
            "APIVERSION_QUERY",
            "SSL_HANDSHAKE",
        ]
        .iter()
        .any(|s| line.contains(&format!("in state {s}"))),
        _ => false,
    }
}

/// For tests only: keeps the producer after suspect lines, to show the damage.
#[cfg(feature = "faults")]
pub(super) fn keeps_producer() -> bool {
    static KEEPS: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *KEEPS.get_or_init(|| std::env::var_os("PROCESSOR_KEEP_PRODUCER").is_some())
}

/// Outside tests the producer is never kept.
#[cfg(not(feature = "faults"))]
pub(super) const fn keeps_producer() -> bool {
    false
}

/// Passes a log line of librdkafka to `tracing`. `level` is a syslog level. Debug lines serve only
/// [`is_suspect`] and are dropped here.
pub(super) fn trace_line(level: i32, facility: &str, line: &str) {
    match level {
        // `-X` properties go to consumers and producers. Each client warns about properties of the
        // other kind, so the warning has no value.
        _ if facility == "CONFWARN" => tracing::debug!(target: "librdkafka", "{facility}: {line}"),
        // librdkafka retries while a broker loads its coordinator. Every first start shows this
        // line, so the line is no warning.
        _ if facility == "GETPID" && line.ends_with("retrying") => {
            tracing::debug!(target: "librdkafka", "{facility}: {line}")
        }
        // The next call returns a fatal error of a client. The caller logs the error with the
        // consequence (fenced, or a new incarnation).
        _ if facility == "FATAL" => tracing::info!(target: "librdkafka", "{facility}: {line}"),
        0..=2 => tracing::error!(target: "librdkafka", "{facility}: {line}"),
        3..=4 => tracing::warn!(target: "librdkafka", "{facility}: {line}"),
        5..=6 => tracing::debug!(target: "librdkafka", "{facility}: {line}"),
        _ => {}
    }
}

fn syslog(level: RDKafkaLogLevel) -> i32 {
    match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => 2,
        RDKafkaLogLevel::Error => 3,
        RDKafkaLogLevel::Warning => 4,
        RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => 6,
        RDKafkaLogLevel::Debug => 7,
    }
}

/// Context of clients that only pass their log lines on.
pub(super) struct Quiet;

impl ClientContext for Quiet {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        trace_line(syslog(level), facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(target: "librdkafka", "{error}: {reason}");
    }
}

impl ConsumerContext for Quiet {}

impl ProducerContext for Quiet {
    type DeliveryOpaque = ();

    fn delivery(&self, _: &DeliveryResult<'_>, (): ()) {}
}

/// Context of a member's producer. [`super::transact`] serves the producer's events. Only events
/// during the close arrive here.
pub(super) type ProducerWatch = Quiet;

/// A change of assignment, as seen by the rebalance callback.
pub(super) enum AssignmentChange {
    /// Carries the group metadata, with the generation of this assignment.
    Assigned {
        partitions: Vec<(String, i32)>,
        group: Option<GroupMetadata>,
    },
    Revoked {
        lost: bool,
    },
}

/// Context of a member's consumer. Answers rebalances, and stores the changes until the member
/// asks.
pub(super) struct MemberWatch {
    changes: Mutex<VecDeque<Result<AssignmentChange, String>>>,
    closing: AtomicBool,
    throttle: Throttle,
}

impl MemberWatch {
    pub(super) fn of(instance: &str) -> MemberWatch {
        let throttle = Throttle::of(format!("the consumer of {instance}"));
        MemberWatch {
            changes: Mutex::default(),
            closing: AtomicBool::new(false),
            throttle,
        }
    }

    /// Takes the next change that the member does not know yet.
    pub(super) fn next_change(&self) -> Option<Result<AssignmentChange, String>> {
        self.changes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop_front()
    }

    /// From now on, rebalances are only acknowledged.
    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }
}

impl ClientContext for MemberWatch {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        trace_line(syslog(level), facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(target: "librdkafka", "{error}: {reason}");
    }

    fn stats_raw(&self, statistics: &[u8]) {
        self.throttle.note(statistics, Instant::now());
    }
}

impl ConsumerContext for MemberWatch {
    /// Runs inside `poll`, on the member's own thread. The default body of rdkafka ignores failures
    /// and starts at the committed offsets. The engine decides about positions, so this callback
    /// assigns every partition paused. The engine then resumes each partition.
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        err: RDKafkaRespErr,
        list: &mut TopicPartitionList,
    ) {
        let change = if err == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS
            && !self.closing.load(Ordering::Relaxed)
        {
            let partitions: Vec<_> = list
                .elements()
                .iter()
                .map(|e| (e.topic().to_string(), e.partition()))
                .collect();
            let group = GroupMetadata::of(ClientHandle::of(consumer.client()));
            let taken = list
                .set_all_offsets(Offset::Beginning)
                .and_then(|()| consumer.assign(list))
                .and_then(|()| consumer.pause(list));
            crash::point(Point::AssignCallback);
            taken
                .map(|()| AssignmentChange::Assigned { partitions, group })
                .map_err(|e| format!("taking over partitions: {e}"))
        } else {
            // Ask before `unassign`: afterwards the answer is always false.
            let lost = consumer.assignment_lost();
            crash::point(Point::RevokeCallback);
            consumer
                .unassign()
                .map(|()| AssignmentChange::Revoked { lost })
                .map_err(|e| format!("giving up partitions: {e}"))
        };

        self.changes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push_back(change);
    }
}

#[cfg(test)]
mod tests {
    use super::is_suspect;

    #[test]
    fn only_what_may_have_left_a_request_behind_is_suspect() {
        let busy = |facility, line| is_suspect(facility, line, true);
        assert!(busy(
            "REQTMOUT",
            "[thrd:x]: Timed out EndTxnRequest in flight"
        ));
        assert!(busy(
            "FAIL",
            "127.0.0.1:9092/1: Disconnected (after 1234ms in state UP)"
        ));
        assert!(busy(
            "FAIL",
            "[thrd:x]: x: Disconnected (_TRANSPORT): identical to last error: error log suppressed"
        ));
        assert!(!busy(
            "FAIL",
            "x: Connect to ipv4#127.0.0.1:9092 failed: Connection refused (after 0ms in state CONNECT)"
        ));

        // A connection in use authenticates again from time to time, with transactional requests in
        // flight.
        assert!(busy(
            "FAIL",
            "x: Disconnected (after 5ms in state AUTH_HANDSHAKE)"
        ));
        assert!(!busy("STATE", "Broker changed state CONNECT -> UP"));
    }

    #[test]
    fn a_connection_closed_between_transactions_leaves_nothing() {
        assert!(!is_suspect(
            "FAIL",
            "127.0.0.1:9092/1: Disconnected (after 600123ms in state UP)",
            false
        ));

        // A request that timed out was sent, even if the line comes between transactions.
        assert!(is_suspect(
            "REQTMOUT",
            "[thrd:x]: Timed out ProduceRequest in flight",
            false
        ));
    }
}
