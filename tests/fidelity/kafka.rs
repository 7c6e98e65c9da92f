//! The scripts on a real broker, through the bare client.

use std::time::{Duration, Instant};

use log_kafka::{KafkaLog, KafkaSettings};
use ports::Log;
use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::Message;
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer, ProducerContext, ThreadedProducer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::broker;
use super::conformance::{INPUT, OUTPUT, table};
use super::scripts::Side;

const WAIT: Duration = Duration::from_secs(20);

#[derive(Clone)]
struct Quiet;

impl ClientContext for Quiet {}

impl ProducerContext for Quiet {
    type DeliveryOpaque = ();
    fn delivery(&self, _: &DeliveryResult<'_>, (): ()) {}
}

struct Kafka {
    names: (String, String, String),
    prefix: String,
    open: Vec<ThreadedProducer<Quiet>>,
}

/// Runs a script on separate topics.
pub fn observe(name: &str, script: fn(&mut dyn Side) -> Vec<String>) -> Vec<String> {
    let prefix = broker::unique_prefix(&format!("fidelity-{name}"));
    let table = std::sync::Arc::new(table(&prefix));
    let log = KafkaLog::new(KafkaSettings::new(&broker::shared().address), table.clone());
    for topic in [INPUT, OUTPUT] {
        log.create_topic(topic, table.spec(topic), 2)
            .expect("a topic can be made");
    }

    let names = (
        table.name(INPUT).to_string(),
        table.name(OUTPUT).to_string(),
        format!("{prefix}group"),
    );
    script(&mut Kafka {
        names,
        prefix,
        open: Vec::new(),
    })
}

fn config() -> ClientConfig {
    let mut c = ClientConfig::new();
    c.set("bootstrap.servers", &broker::shared().address);
    c
}

fn kind(result: Result<(), KafkaError>) -> String {
    let Err(e) = result else { return "ok".into() };
    match e.rdkafka_error_code() {
        Some(Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch) => "fenced".into(),
        Some(Code::UnknownMemberId) => "unknown member".into(),
        _ => format!("{e:?}"),
    }
}

impl Kafka {
    fn consumer(&self, committed: bool) -> BaseConsumer {
        let level = if committed {
            "read_committed"
        } else {
            "read_uncommitted"
        };

        config()
            .set("group.id", &self.names.2)
            .set("isolation.level", level)
            .set("enable.auto.commit", "false")
            .create()
            .expect("a consumer")
    }

    /// Last stable offset and end offset.
    fn bounds(&self, partition: u32) -> (i64, i64) {
        let at = |committed| {
            self.consumer(committed)
                .fetch_watermarks(&self.names.1, partition as i32, WAIT)
                .expect("bounds")
                .1
        };

        let stable = at(true);
        (stable, at(false))
    }
}

impl Side for Kafka {
    fn open(&mut self, id: &str) -> usize {
        let id = format!("{}{id}", self.prefix);
        let p: ThreadedProducer<Quiet> = config()
            .set("transactional.id", id)
            .set("transaction.timeout.ms", "4000")
            .set("socket.timeout.ms", "3000")
            .set("linger.ms", "0")
            .create_with_context(Quiet)
            .expect("a producer");

        let deadline = Instant::now() + WAIT;
        while let Err(e) = p.init_transactions(Duration::from_secs(5)) {
            assert!(Instant::now() < deadline, "{e}");
        }

        self.open.push(p);
        self.open.len() - 1
    }

    fn begin(&mut self, producer: usize) -> String {
        kind(self.open[producer].begin_transaction())
    }

    fn send(&mut self, producer: usize, partition: u32, value: &str) -> String {
        let p = &self.open[producer];
        let record = BaseRecord::<str, str>::to(&self.names.1)
            .partition(partition as i32)
            .key(value)
            .payload(value);
        if let Err((e, _)) = p.send(record) {
            return kind(Err(e));
        }

        let deadline = Instant::now() + WAIT;
        while p.in_flight_count() > 0 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }

        "ok".into()
    }

    fn offset(&mut self, producer: usize, next: u64, as_stranger: bool) -> String {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&self.names.0, 0, Offset::Offset(next as i64))
            .expect("an offset");

        // A consumer that never joined has generation -1. A stranger is a member of a group that
        // this group does not know.
        let consumer = self.consumer(true);
        if as_stranger {
            consumer
                .subscribe(&[&self.names.0])
                .expect("a subscription");
            let deadline = Instant::now() + Duration::from_secs(40);
            while consumer.assignment().expect("an assignment").count() == 0 {
                drop(consumer.poll(Duration::from_millis(50)));
                assert!(Instant::now() < deadline, "the member joins");
            }
        }

        let metadata = consumer.group_metadata().expect("metadata");
        if as_stranger {
            // The member leaves, so the group no longer knows its member id.
            drop(consumer);

            // The broker needs a moment to remove the member.
            std::thread::sleep(Duration::from_millis(500));
        }

        kind(self.open[producer].send_offsets_to_transaction(&list, &metadata, WAIT))
    }

    fn commit(&mut self, producer: usize) -> String {
        kind(self.open[producer].commit_transaction(WAIT))
    }

    fn abort(&mut self, producer: usize) -> String {
        kind(self.open[producer].abort_transaction(WAIT))
    }

    fn visible(&mut self, partition: u32) -> String {
        let (stable, _) = self.bounds(partition);
        let consumer = self.consumer(true);
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&self.names.1, partition as i32, Offset::Offset(0))
            .expect("an offset");
        consumer.assign(&list).expect("an assignment");
        let mut values = Vec::new();
        let mut quiet = Instant::now();
        let patience = if stable == 0 {
            Duration::from_millis(200)
        } else {
            Duration::from_millis(1_500)
        };

        while quiet.elapsed() < patience {
            if let Some(Ok(m)) = consumer.poll(Duration::from_millis(50)) {
                values.push(String::from_utf8_lossy(m.payload().unwrap_or_default()).into_owned());
                quiet = Instant::now();
            }
        }

        format!("[{}]", values.join(","))
    }

    fn settle(&mut self, partition: u32) {
        let deadline = Instant::now() + WAIT;
        loop {
            let (stable, end) = self.bounds(partition);
            if stable == end && self.committed() != "pending" {
                return;
            }

            assert!(Instant::now() < deadline, "the markers come");
        }
    }

    fn ends(&mut self, partition: u32) -> String {
        let (stable, end) = self.bounds(partition);
        format!(
            "{}, {end}",
            if stable == end {
                "decided"
            } else {
                "undecided"
            }
        )
    }

    fn committed(&mut self) -> String {
        let mut list = TopicPartitionList::new();
        list.add_partition(&self.names.0, 0);
        match self
            .consumer(true)
            .committed_offsets(list, Duration::from_secs(2))
        {
            Ok(found) => match found.elements()[0].offset() {
                Offset::Offset(o) => o.to_string(),
                _ => "none".into(),
            },
            Err(KafkaError::MetadataFetch(Code::OperationTimedOut)) => "pending".into(),
            Err(e) => format!("{e:?}"),
        }
    }

    fn outlive_the_timeout(&mut self, partition: u32) {
        // Only time lets the transaction timeout (4 s) pass; then the broker needs a while.
        std::thread::sleep(Duration::from_secs(4));
        self.settle(partition);
    }
}
