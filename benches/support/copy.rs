//! Copies a topic in transactions with rdkafka's safe interface: the baseline for the engine's
//! loops.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use log_kafka::KafkaLog;
use ports::Log;
use ports::records::{Headers, Record};
use ports::topics::{TopicId, TopicPartition, TopicTable};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Header, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};

pub const INPUT: TopicId = TopicId(0);
pub const OUTPUT: TopicId = TopicId(1);
pub const PARTITIONS: u32 = 6;
pub const VALUE: [u8; 120] = [b'x'; 120];

/// A topic of these benches.
/// Writes the input records.
pub fn fill(log: &KafkaLog, records: u64) {
    let mut appender = log.appender().expect("a writer");
    for i in 0..records {
        let key = i.to_string();
        let at = TopicPartition::new(INPUT, (i % u64::from(PARTITIONS)) as u32);
        let record = Record {
            at,
            offset: 0,
            timestamp_ms: 1,
            key: Some(key.as_bytes()),
            value: Some(&VALUE),
            headers: Headers::default(),
        };

        appender.append(&record).expect("appending works");
    }

    appender
        .flush(Duration::from_secs(60))
        .expect("flushing works");
}

/// The copy as an expert in rdkafka would write it: explicit partitions, a drain before the commit,
/// offsets last. With a `changelog`, each record's key and offset are also written there, as in a
/// loop with state.
pub fn bare(
    brokers: &str,
    table: &TopicTable,
    group: &str,
    batch: usize,
    records: u64,
    changelog: Option<TopicId>,
) -> f64 {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("transactional.id", format!("{}{group}", table.prefix()))
        .set("linger.ms", "0")
        .set("compression.type", "lz4")
        .set("queue.buffering.max.messages", "1000000")
        .create()
        .expect("a producer");

    producer
        .init_transactions(Duration::from_secs(20))
        .expect("init");
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", format!("{}{group}", table.prefix()))
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "earliest")
        .set("isolation.level", "read_committed")
        .set("fetch.queue.backoff.ms", "5")
        .create()
        .expect("a consumer");

    consumer
        .subscribe(&[table.name(INPUT)])
        .expect("subscribing works");
    let mut done = 0u64;
    let mut started = None;
    let mut positions: BTreeMap<i32, i64> = BTreeMap::new();
    while done < records {
        let mut taken = Vec::with_capacity(batch);
        while taken.len() < batch {
            let wait = if taken.is_empty() {
                Duration::from_secs(1)
            } else {
                Duration::ZERO
            };

            match consumer.poll(wait) {
                Some(Ok(message)) => taken.push(message),
                Some(Err(e)) => panic!("{e}"),
                None => break,
            }
        }

        if taken.is_empty() {
            continue;
        }

        started.get_or_insert_with(Instant::now);
        producer.begin_transaction().expect("begin");
        let metadata = consumer.group_metadata().expect("metadata");
        for m in &taken {
            positions.insert(m.partition(), m.offset() + 1);
            let headers = OwnedHeaders::new_with_capacity(2)
                .insert(Header {
                    key: "type",
                    value: Some("Copy"),
                })
                .insert(Header {
                    key: "src",
                    value: Some("copy-input/0/123456"),
                });

            let key = m.key().unwrap_or_default();
            let value = m.payload().unwrap_or_default();
            send(
                &producer,
                BaseRecord::to(table.name(OUTPUT))
                    .partition(m.partition())
                    .key(key)
                    .payload(value)
                    .timestamp(1)
                    .headers(headers),
            );

            if let Some(changelog) = changelog {
                let offset = m.offset().to_be_bytes();
                send(
                    &producer,
                    BaseRecord::to(table.name(changelog))
                        .partition(m.partition())
                        .key(key)
                        .payload(&offset[..])
                        .timestamp(1),
                );
            }
        }

        while producer.in_flight_count() > 0 {
            producer.poll(Duration::ZERO);
            std::thread::yield_now();
        }

        let mut offsets = TopicPartitionList::new();
        for (partition, next) in &positions {
            offsets
                .add_partition_offset(table.name(INPUT), *partition, Offset::Offset(*next))
                .expect("an offset");
        }

        producer
            .send_offsets_to_transaction(&offsets, &metadata, Duration::from_secs(10))
            .expect("offsets");
        producer
            .commit_transaction(Duration::from_secs(20))
            .expect("commit");
        done += taken.len() as u64;
    }

    done as f64 / started.expect("records came").elapsed().as_secs_f64()
}

fn send(producer: &BaseProducer, mut record: BaseRecord<'_, [u8], [u8]>) {
    while let Err((e, back)) = producer.send(record) {
        assert_eq!(
            e.rdkafka_error_code(),
            Some(rdkafka::error::RDKafkaErrorCode::QueueFull),
            "{e}"
        );
        producer.poll(Duration::from_millis(1));
        record = back;
    }
}
