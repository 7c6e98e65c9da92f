//! Every setting of every client, in one place, each with its reason. All other settings keep
//! librdkafka's default.

use std::time::Duration;

use ports::MemberSpec;
use ports::topics::TopicTable;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};

use super::throttle;

/// Settings for the connection to the cluster.
#[derive(Clone)]
pub struct KafkaSettings {
    /// Bootstrap servers: `host:port,...`.
    pub brokers: String,
    /// librdkafka properties that are passed on unchanged (TLS, SASL, ...) and applied last. Every
    /// client that knows a property gets the property.
    pub properties: Vec<(String, String)>,
    /// Age at which the broker aborts an open transaction. A dead instance can hold up readers for
    /// this time.
    pub transaction_timeout: Duration,
    /// Replicas of new topics. `None`: the cluster's default.
    pub replication: Option<u16>,
    /// A call without an answer fails after this time.
    pub request_wait: Duration,
    /// Extra time for a call that ignores its time limit. After this time the process exits with
    /// [`super::EXIT_STUCK`].
    pub stuck_after: Duration,
}

/// Shows only the names of properties: the values may be passwords.
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

    /// The value of a passed-through property, if the property is set.
    fn property(&self, name: &str) -> Option<&str> {
        self.properties
            .iter()
            .rev()
            .find(|(k, _)| k == name)
            .map(|(_, v)| v.as_str())
    }

    /// Interval of a member's heartbeats. The heartbeat tells a replaced instance about its
    /// successor, hence 1 s and not librdkafka's 3 s.
    pub(super) fn heartbeat(&self) -> Duration {
        Duration::from_millis(
            self.property("heartbeat.interval.ms")
                .and_then(|v| v.parse().ok())
                .unwrap_or(1_000),
        )
    }

    /// The group removes a member after this time without a heartbeat.
    pub(super) fn session(&self) -> Duration {
        Duration::from_millis(
            self.property("session.timeout.ms")
                .and_then(|v| v.parse().ok())
                .unwrap_or(10_000),
        )
    }

    /// Time limit for a fenced instance to check whether its successor is alive: a rebalance and a
    /// session.
    pub(super) fn successor_wait(&self) -> Duration {
        self.session() * 3
    }

    fn base(&self) -> ClientConfig {
        let mut c = ClientConfig::new();
        c.set("bootstrap.servers", &self.brokers)
            .set("client.id", "processor")
            // `topics create` creates topics, with the required settings. No client may create a
            // topic implicitly.
            .set("allow.auto.create.topics", "false")
            // Nagle's algorithm would cause most of the latency of an idle commit.
            .set("socket.nagle.disable", "true")
            // Reconnect quickly after a broker restart. The default back-off grows to 10 s, longer
            // than most restarts.
            .set("reconnect.backoff.ms", "50")
            .set("reconnect.backoff.max.ms", "1000")
            .set_log_level(RDKafkaLogLevel::Info);

        c
    }

    fn finish(&self, mut c: ClientConfig) -> ClientConfig {
        for (name, value) in &self.properties {
            // The suspect filter (`stale_requests`) reads librdkafka's debug lines. Without
            // `broker` in this list the filter sees nothing.
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

        // As large as the largest topic limit. The sender checks the limits of smaller topics
        // itself, because librdkafka would send a refused record again without end.
        c.set("message.max.bytes", largest.to_string())
            // Below the smallest topic limit, so that only a single record can be too large, never
            // a batch.
            .set("batch.size", "900000")
            .set("batch.num.messages", "10000")
            // A transaction sends its records at once and then waits for their delivery. A linger
            // time would only add latency.
            .set("linger.ms", "0")
            .set("compression.type", "lz4")
            // The queue has space for more than one large transaction, so a full queue is rare.
            .set("queue.buffering.max.messages", "1000000")
            .set("queue.buffering.max.kbytes", "1048576")
            // Short, because a retried request waits this long. The back-off grows to the length of
            // a broker restart.
            .set("retry.backoff.ms", "5")
            .set("retry.backoff.max.ms", "500");

        c
    }

    pub(super) fn transactional(&self, topics: &TopicTable, instance: &str) -> ClientConfig {
        let mut c = self.producer(topics);
        let timeout = self.transaction_timeout.as_millis().max(3_000);
        c.set("transactional.id", instance)
            .set("transaction.timeout.ms", timeout.to_string())
            // The statistics show throttling by brokers (see `throttle`).
            .set(
                "statistics.interval.ms",
                throttle::EVERY.as_millis().to_string(),
            )
            // Must be below the transaction timeout, with time for one retry.
            .set("socket.timeout.ms", (timeout / 2).to_string())
            .set("request.timeout.ms", (timeout * 2 / 5).to_string())
            // A lost connection or a request timeout appears only in the log. At level Info the
            // line appears only once in 30 s (see `stale_requests`).
            .set("debug", super::in_flight::debug())
            .set_log_level(RDKafkaLogLevel::Debug);

        self.finish(c)
    }

    pub(super) fn appender(&self, topics: &TopicTable) -> ClientConfig {
        let mut c = self.producer(topics);
        c.set("enable.idempotence", "true")
            // A client that sends records one by one still gets batches, with 1 ms of linger.
            .set("linger.ms", "1")
            // Long enough for a broker restart, and short enough for a person who waits for the
            // error.
            .set("message.timeout.ms", "30000");
        self.finish(c)
    }

    fn consumer(&self) -> ClientConfig {
        let mut c = self.base();
        c.set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            // A missing position is an error that needs a decision, never a silent jump.
            .set("auto.offset.reset", "error")
            .set("check.crcs", "true")
            .set("fetch.min.bytes", "1")
            // Time that the broker parks a fetch request without new records. The broker answers as
            // soon as records are stable. A longer time would hurt: a broker handles one fetch
            // request of a client at a time. A resumed or drained partition must wait until the
            // parked request ends.
            .set("fetch.wait.max.ms", "50")
            .set("fetch.error.backoff.ms", "100")
            // The default back-off of 1 s would starve the loop after a full queue.
            .set("fetch.queue.backoff.ms", "5");

        c
    }

    /// Settings for a member's consumer. `partitions`: number of partitions of all its inputs.
    pub(super) fn member(&self, spec: &MemberSpec, partitions: u32) -> ClientConfig {
        let group = &*spec.group;
        let instance = &*spec.instance;
        let mut c = self.consumer();
        ahead(&mut c, partitions);
        if !spec.linger.is_zero() {
            // The linger time allows batches. The broker answers a fetch when many records have
            // come, or after half of the linger time. The other half remains for the records after
            // the first. Otherwise each commit of any producer would cause an answer.
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
            // Classic protocol and static membership (KIP-345): a restarted instance gets its
            // partitions back at once, without a rebalance. The new protocol (KIP-848) refuses the
            // instance until its predecessor's session ends.
            .set("group.protocol", "classic")
            .set("group.instance.id", group_instance(instance))
            // Partition i of every topic goes to the same member, in instance order.
            .set("partition.assignment.strategy", "range")
            // With this level, `committed` also waits for pending transactions.
            .set("isolation.level", "read_committed")
            .set("session.timeout.ms", self.session().as_millis().to_string())
            .set(
                "heartbeat.interval.ms",
                self.heartbeat().as_millis().to_string(),
            )
            // A member also polls during a restore. The interval only has to exceed one slow batch
            // plus one slow commit.
            .set("max.poll.interval.ms", "300000");

        self.finish(c)
    }

    /// Settings for a consumer outside any group, for `partitions` partitions of one topic. The
    /// partitions share one queue and its bounds.
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

        // librdkafka requires a group id before a manual assignment. The reader never joins the
        // group and never commits under it.
        c.set("group.id", "processor-reader")
            .set("isolation.level", "read_committed")
            .set("enable.partition.eof", "true");
        self.finish(c)
    }

    /// Settings for a client that only queries the cluster: without a group, or about the named
    /// group.
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

    pub(super) fn admin(&self) -> ClientConfig {
        let c = self.base();
        self.finish(c)
    }
}

/// Maximum number of prefetched records for one partition: about two large transactions.
const AHEAD_RECORDS: u32 = 20_000;
/// Maximum prefetched kilobytes for all partitions of a client. librdkafka checks the limit before
/// a fetch, and counts received bytes without its own overhead (about 500 bytes a record). So an
/// answer of up to `fetch.max.bytes` may come on top.
const AHEAD_KBYTES: u32 = 64 << 10;

/// Bounds the prefetch of a client whose partitions have their own queues. librdkafka applies these
/// bounds to each queue: `rd_kafka_toppar_fetch_decide` checks the length and size of the
/// partition's own queue, and follows the queue only if it is forwarded.
fn ahead(c: &mut ClientConfig, partitions: u32) {
    let partitions = partitions.max(1);
    let kbytes = (AHEAD_KBYTES / partitions).clamp(128, AHEAD_KBYTES / 4);
    let records = (AHEAD_RECORDS * 6 / partitions).clamp(1_000, AHEAD_RECORDS);
    c.set("queued.min.messages", records.to_string())
        .set("queued.max.messages.kbytes", kbytes.to_string())
        // Maximum compressed bytes of one partition in an answer. The broker sends a larger record
        // nevertheless (KIP-74).
        .set(
            "fetch.message.max.bytes",
            (kbytes * 1_024).min(2 << 20).to_string(),
        )
        .set("fetch.max.bytes", (16 << 20).to_string());
}

/// The static member name (`group.instance.id`, KIP-345) of an instance, with a padded number. The
/// group assigns partitions in the order of these names, and 2 must come before 10.
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
    fn passed_properties_come_last_and_keep_the_suspect_filter() {
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
