//! Listens to librdkafka: what it logs, and which lines mean that a request of a transaction may
//! still be under way somewhere.
//!
//! The old transaction protocol, the only one librdkafka speaks, lets a delayed request of one
//! transaction take effect in the next. librdkafka retries timed-out requests inside and then
//! reports success; the only trace is a log line with facility `REQTMOUT` or `FAIL`. After such a
//! line the producer must be replaced before the next transaction: the new epoch makes the stale
//! request harmless.
//!
//! A `FAIL` while *connecting* is no such trace: nothing was ever sent on that connection, and the
//! loss of the one before had its own line. Were it counted, a member could not work while one
//! broker of several is down, because every new incarnation would see the refused connection again.
//!
//! Nor is a `FAIL` *between* transactions, when every request of the last one was answered and no
//! line told of trouble in it: then nothing of ours is on any wire. A request can only be left
//! behind if librdkafka sent it again, that is, after a line inside the transaction; and that line
//! is in the queue before the call that waited for the request returns, so the transaction's own
//! end finds it. Brokers close connections that were idle for ten minutes
//! (`connections.max.idle.ms`), and an idle member would otherwise begin anew each time.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

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
use faults::crash::{self, Point};

/// Whether a log line means that a request may have been left on the wire. `busy`: whether requests
/// of a transaction may be under way.
pub(super) fn is_suspect(facility: &str, line: &str, busy: bool) -> bool {
    match facility {
        // A greeting carries no transaction: a frozen broker that still takes connections would
        // make us join again without end.
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

/// For tests only: whether this process keeps its producer whatever happened, to show what that
/// does.
#[cfg(feature = "faults")]
pub(super) fn keeps_producer() -> bool {
    static KEEPS: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *KEEPS.get_or_init(|| std::env::var_os("PROCESSOR_KEEP_PRODUCER").is_some())
}

/// Never, outside tests.
#[cfg(not(feature = "faults"))]
pub(super) const fn keeps_producer() -> bool {
    false
}

/// Passes a log line of librdkafka on to `tracing`. Levels are syslog's. Debug lines are only there
/// for [`is_suspect`] and dropped.
pub(super) fn trace_line(level: i32, facility: &str, line: &str) {
    match level {
        // `-X` properties go to consumers and producers alike; that one of them does not know a
        // property is no news.
        _ if facility == "CONFWARN" => tracing::debug!(target: "librdkafka", "{facility}: {line}"),
        // A broker that is still loading its coordinator is asked again; that is how every first
        // start looks, and no reason to worry anybody.
        _ if facility == "GETPID" && line.ends_with("retrying") => {
            tracing::debug!(target: "librdkafka", "{facility}: {line}")
        }
        // A fatal error of a client comes back from the next call, and is told there with its
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

/// Context of clients that only need their log lines passed on.
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

/// Context of a member's producer. Its events are served by [`super::transact`]; only what comes
/// while it is being closed arrives here.
pub(super) type ProducerWatch = Quiet;

/// A change of assignment, as the callback saw it.
pub(super) enum AssignmentChange {
    /// With who we are in the group now: the generation that this assignment belongs to.
    Assigned {
        partitions: Vec<(String, i32)>,
        group: Option<GroupMetadata>,
    },
    Revoked {
        lost: bool,
    },
}

/// Context of a member's consumer: answers rebalances and remembers them for the poll that served
/// them.
pub(super) struct MemberWatch {
    changes: Mutex<VecDeque<Result<AssignmentChange, String>>>,
    closing: AtomicBool,
    throttle: Throttle,
}

impl MemberWatch {
    /// For the member of this instance.
    pub(super) fn of(instance: &str) -> MemberWatch {
        let throttle = Throttle::of(format!("the consumer of {instance}"));
        MemberWatch {
            changes: Mutex::default(),
            closing: AtomicBool::new(false),
            throttle,
        }
    }

    /// The next change that the member has not been told of.
    pub(super) fn next_change(&self) -> Option<Result<AssignmentChange, String>> {
        self.changes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop_front()
    }

    /// From now on rebalances are only acknowledged.
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
    /// Runs inside `poll`, on the member's own thread. The default body ignores failures and starts
    /// fetching at the committed offsets, which is not for the client to decide: here everything is
    /// assigned paused, until the engine says where each partition resumes.
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
            // Asked before giving them up: afterwards the answer is always no.
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

        // A connection in use authenticates again now and then, with requests of a transaction on
        // it.
        assert!(busy(
            "FAIL",
            "x: Disconnected (after 5ms in state AUTH_HANDSHAKE)"
        ));
        assert!(!busy("STATE", "Broker changed state CONNECT -> UP"));
    }

    #[test]
    fn a_connection_that_closes_between_transactions_leaves_nothing_behind() {
        assert!(!is_suspect(
            "FAIL",
            "127.0.0.1:9092/1: Disconnected (after 600123ms in state UP)",
            false
        ));

        // A request that timed out was sent, whenever the line came.
        assert!(is_suspect(
            "REQTMOUT",
            "[thrd:x]: Timed out ProduceRequest in flight",
            false
        ));
    }
}
