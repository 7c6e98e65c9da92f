//! Every setting of every client, in one place, each with its reason. What is not here is
//! librdkafka's default.

use std::time::Duration;

use rdkafka::config::{ClientConfig, RDKafkaLogLevel};

use super::throttle;
use ports::MemberSpec;
use ports::topics::TopicTable;

/// How to reach the cluster.
#[derive(Clone)]
pub struct KafkaSettings {
    /// `host:port,...`.
    pub brokers: String,
    /// librdkafka properties that are passed on as they are (TLS, SASL, ...), applied last. They go
    /// to every client that knows them.
    pub properties: Vec<(String, String)>,
    /// How long a transaction may stay open before the broker aborts it, and so how long a dead
    /// instance can hold up readers.
    pub transaction_timeout: Duration,
    /// Replicas of topics that are made; none: as many as the cluster gives by default.
    pub replication: Option<u16>,
    /// After this long without an answer a call is reported as failed.
    pub request_wait: Duration,
    /// A call that ignores its time limit is given this much more, then the process exits with
    /// [`super::EXIT_STUCK`].
    pub stuck_after: Duration,
}

/// Names of properties only: their values may be passwords.
impl std::fmt::Debug for KafkaSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<_> = self.properties.iter().map(|(name, _)| name).collect();
        f.debug_struct("KafkaSettings")
            .field("brokers", &self.brokers)
            .field("properties", &names)
            .finish_non_exhaustive()
    }
}

impl KafkaSettings {
    /// Defaults for a list of brokers.
    pub fn new(brokers: &str) -> Self {
        KafkaSettings {
            brokers: brokers.to_string(),
            properties: Vec::new(),
            transaction_timeout: Duration::from_secs(20),
            replication: None,
            request_wait: Duration::from_secs(10),
            stuck_after: Duration::from_secs(40),
        }
    }

    /// The value that a passed-through property sets, if it does.
    fn property(&self, name: &str) -> Option<&str> {
        self.properties
            .iter()
            .rev()
            .find(|(k, _)| k == name)
            .map(|(_, v)| v.as_str())
    }

    /// How often a member says that it is alive. A replaced instance learns of its successor by
    /// this, hence 1 s and not 3.
    pub(super) fn heartbeat(&self) -> Duration {
        Duration::from_millis(
            self.property("heartbeat.interval.ms")
                .and_then(|v| v.parse().ok())
                .unwrap_or(1_000),
        )
    }

    /// After this long without a heartbeat a member is put out of its group.
    pub(super) fn session(&self) -> Duration {
        Duration::from_millis(
            self.property("session.timeout.ms")
                .and_then(|v| v.parse().ok())
                .unwrap_or(10_000),
        )
    }

    /// How long a fenced instance may take to find out whether its successor is alive: a rebalance,
    /// and a session.
    pub(super) fn successor_wait(&self) -> Duration {
        self.session() * 3
    }

    fn base(&self) -> ClientConfig {
        let mut c = ClientConfig::new();
        c.set("bootstrap.servers", &self.brokers)
            .set("client.id", "processor")
            // Topics are made by `topics create`, with the settings that they need, never in
            // passing.
            .set("allow.auto.create.topics", "false")
            // Nagle's delay would be most of an idle commit.
            .set("socket.nagle.disable", "true")
            // Back quickly after a broker restart; the default grows to 10 s, longer than most
            // restarts.
            .set("reconnect.backoff.ms", "50")
            .set("reconnect.backoff.max.ms", "1000")
            .set_log_level(RDKafkaLogLevel::Info);

        c
    }

    fn finish(&self, mut c: ClientConfig) -> ClientConfig {
        for (name, value) in &self.properties {
            // The suspect filter reads librdkafka's own debug lines; without `broker` among them it
            // would be blind.
            if name == "debug" && c.get("debug").is_some() {
                c.set(name, format!("{value},broker"));
            } else {
                c.set(name, value);
            }
        }

        c
    }

    fn producer(&self, topics: &TopicTable) -> ClientConfig {
        let mut c = self.base();
        let largest = topics
            .iter()
            .map(|t| topics.spec(t).record_bytes_max)
            .max()
            .unwrap_or(1_000_000);

        // As large as the largest topic allows; smaller topics are checked by us before sending,
        // since a refused record would be sent for ever.
        c.set("message.max.bytes", largest.to_string())
            // Below the smallest topic limit, so that only a single record can ever be too large,
            // not a batch.
            .set("batch.size", "900000")
            .set("batch.num.messages", "10000")
            // A transaction hands over its records at once and then waits for them: lingering only
            // adds to its latency.
            .set("linger.ms", "0")
            .set("compression.type", "lz4")
            // More than one large transaction fits, so that a full queue is the exception.
            .set("queue.buffering.max.messages", "1000000")
            .set("queue.buffering.max.kbytes", "1048576")
            // Short, because a retried request waits this long, and growing to what a restart
            // takes.
            .set("retry.backoff.ms", "5")
            .set("retry.backoff.max.ms", "500");

        c
    }

    /// The transactional producer of a member.
    pub(super) fn transactional(&self, topics: &TopicTable, instance: &str) -> ClientConfig {
        let mut c = self.producer(topics);
        let timeout = self.transaction_timeout.as_millis().max(3_000);
        c.set("transactional.id", instance)
            .set("transaction.timeout.ms", timeout.to_string())
            // How brokers hold it back is in there, see `throttle`.
            .set(
                "statistics.interval.ms",
                throttle::EVERY.as_millis().to_string(),
            )
            // Must stay below the transaction's timeout, with room for a retry inside it.
            .set("socket.timeout.ms", (timeout / 2).to_string())
            .set("request.timeout.ms", (timeout * 2 / 5).to_string())
            // A lost connection or a timed-out request shows in the log only, and at level Info
            // only once in 30 s: see `stale_requests`.
            .set("debug", super::in_flight::debug())
            .set_log_level(RDKafkaLogLevel::Debug);

        self.finish(c)
    }

    /// The idempotent producer of a client.
    pub(super) fn appender(&self, topics: &TopicTable) -> ClientConfig {
        let mut c = self.producer(topics);
        c.set("enable.idempotence", "true")
            // A client that sends records one by one still gets batches, for one millisecond.
            .set("linger.ms", "1")
            // Long enough for a broker restart, short enough for a person to wait for the message.
            .set("message.timeout.ms", "30000");
        self.finish(c)
    }

    fn consumer(&self) -> ClientConfig {
        let mut c = self.base();
        c.set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            // A position that is gone is an error to look at, never a silent jump.
            .set("auto.offset.reset", "error")
            .set("check.crcs", "true")
            .set("fetch.min.bytes", "1")
            // How long a request is parked when there is nothing; records are sent the moment they
            // are stable. Not longer, because a broker is asked for one thing at a time: a
            // partition that was resumed, or whose queue has drained, meanwhile waits until the
            // parked request is over.
            .set("fetch.wait.max.ms", "50")
            .set("fetch.error.backoff.ms", "100")
            // The default back-off of 1 s would starve the loop once a queue was full.
            .set("fetch.queue.backoff.ms", "5");

        c
    }

    /// The consumer of a member whose inputs have so many partitions.
    pub(super) fn member(&self, spec: &MemberSpec, partitions: u32) -> ClientConfig {
        let group = &*spec.group;
        let instance = &*spec.instance;
        let mut c = self.consumer();
        ahead(&mut c, partitions);
        if !spec.linger.is_zero() {
            // Nobody waits for these records one by one: a fetch is answered when many have come or
            // when half of the linger is over (the other half is left for the records after the
            // first), instead of at every commit of everybody.
            c.set("fetch.min.bytes", "65536").set(
                "fetch.wait.max.ms",
                (spec.linger / 2).as_millis().max(1).to_string(),
            );
        }

        c.set("group.id", group)
            .set(
                "statistics.interval.ms",
                throttle::EVERY.as_millis().to_string(),
            )
            // Classic protocol and static membership: a restarted instance gets its partitions back
            // at once, without a rebalance; under the new protocol it is refused until its
            // predecessor's session ends.
            .set("group.protocol", "classic")
            .set("group.instance.id", group_instance(instance))
            // Partition i of every topic goes to the same member, in instance order.
            .set("partition.assignment.strategy", "range")
            // Also makes `committed` wait for pending transactions.
            .set("isolation.level", "read_committed")
            .set("session.timeout.ms", self.session().as_millis().to_string())
            .set(
                "heartbeat.interval.ms",
                self.heartbeat().as_millis().to_string(),
            )
            // Restoring polls all the time; this only has to outlast one slow batch and one slow
            // commit.
            .set("max.poll.interval.ms", "300000");

        self.finish(c)
    }

    /// A consumer outside any group, for so many partitions of one topic. They share one queue, and
    /// so its bounds.
    pub(super) fn reader(&self, partitions: u32) -> ClientConfig {
        let mut c = self.consumer();
        let (records, kbytes) = if partitions == 1 {
            (AHEAD_RECORDS, AHEAD_KBYTES / 4)
        } else {
            (AHEAD_RECORDS * 4, AHEAD_KBYTES)
        };

        c.set(
            "fetch.message.max.bytes",
            if partitions == 1 {
                "2097152"
            } else {
                "1048576"
            },
        )
        .set("queued.min.messages", records.to_string())
        .set("queued.max.messages.kbytes", kbytes.to_string());

        // librdkafka wants a group name before it lets anybody assign; nothing is ever joined or
        // committed under it.
        c.set("group.id", "processor-reader")
            .set("isolation.level", "read_committed")
            .set("enable.partition.eof", "true");
        self.finish(c)
    }

    /// A client that only asks questions: without a group, or about the group it names.
    pub(super) fn inquirer(&self, group: Option<&str>, committed_only: bool) -> ClientConfig {
        let mut c = self.consumer();
        if let Some(group) = group {
            c.set("group.id", group);
        }

        c.set(
            "isolation.level",
            if committed_only {
                "read_committed"
            } else {
                "read_uncommitted"
            },
        );

        self.finish(c)
    }

    /// The administrator.
    pub(super) fn admin(&self) -> ClientConfig {
        let c = self.base();
        self.finish(c)
    }
}

/// Fetched ahead for one partition at most: about two large transactions.
const AHEAD_RECORDS: u32 = 20_000;
/// Fetched ahead for all partitions of one client together. Librdkafka looks before it fetches and
/// counts what has come, without its own overhead (about 500 bytes a record); so an answer of
/// `fetch.max.bytes` may come on top.
const AHEAD_KBYTES: u32 = 64 << 10;

/// Bounds what is fetched ahead for a client whose partitions have queues of their own: librdkafka
/// holds each queue to these bounds by itself (`rd_kafka_toppar_fetch_decide` looks at the length
/// and size of the partition's own queue, and only follows it where it is forwarded to).
fn ahead(c: &mut ClientConfig, partitions: u32) {
    let partitions = partitions.max(1);
    let kbytes = (AHEAD_KBYTES / partitions).clamp(128, AHEAD_KBYTES / 4);
    let records = (AHEAD_RECORDS * 6 / partitions).clamp(1_000, AHEAD_RECORDS);
    c.set("queued.min.messages", records.to_string())
        .set("queued.max.messages.kbytes", kbytes.to_string())
        // The most bytes of one partition in one answer, compressed; the broker sends a larger
        // record all the same.
        .set(
            "fetch.message.max.bytes",
            (kbytes * 1_024).min(2 << 20).to_string(),
        )
        .set("fetch.max.bytes", (16 << 20).to_string());
}

/// The instance's static name in its group, with its number padded: the group hands out partitions
/// in the order of these names, and 2 comes before 10.
pub(super) fn group_instance(instance: &str) -> String {
    let digits = instance.len()
        - instance
            .trim_end_matches(|c: char| c.is_ascii_digit())
            .len();
    let (name, number) = instance.split_at(instance.len() - digits);
    if digits == 0 {
        instance.to_string()
    } else {
        format!("{name}{number:0>6}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instances_sort_by_number() {
        assert_eq!(
            group_instance("p-processor-orders-2"),
            "p-processor-orders-000002"
        );
        assert!(group_instance("orders-2") < group_instance("orders-10"));
        assert_eq!(group_instance("orders"), "orders");
    }

    #[test]
    fn passed_properties_come_last_and_keep_the_suspect_filter_alive() {
        let mut settings = KafkaSettings::new("a:1");
        settings.properties = vec![
            ("linger.ms".into(), "7".into()),
            ("debug".into(), "protocol".into()),
        ];
        let table = TopicTable::new("", Vec::new());
        let c = settings.transactional(&table, "i-1");
        assert_eq!(
            (c.get("linger.ms"), c.get("debug")),
            (Some("7"), Some("protocol,broker"))
        );
        assert_eq!(settings.reader(1).get("debug"), Some("protocol"));
    }
}
