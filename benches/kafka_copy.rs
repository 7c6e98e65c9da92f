//! What the adapter costs: a transactional copy of a topic through [`Member`] against the same copy written straight with rdkafka's safe
//! interface (poll, send, drain, offsets, commit), on a broker started for it. Absolute numbers belong to the machine; the ratio is what counts.
//!
//! `cargo bench --bench kafka_copy` prints a table. `COPY_RECORDS` sets the number of records (default 300000).

#[path = "../tests/support/broker.rs"]
mod broker;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use processor::engine::ports::{Committed, Limits, Log, Member, MemberInput, MemberSpec, Outcome, Polled, Transaction};
use processor::engine::records::{HeaderBuf, Headers, Record, Records};
use processor::engine::topics::{Cleanup, Partitions, TopicId, TopicPartition, TopicSpec, TopicTable};
use processor::log::kafka::{KafkaLog, KafkaSettings};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Header, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};

const INPUT: TopicId = TopicId(0);
const OUTPUT: TopicId = TopicId(1);
const PARTITIONS: u32 = 6;
const VALUE: [u8; 120] = [b'x'; 120];

fn main() {
    let records: u64 = std::env::var("COPY_RECORDS").ok().and_then(|v| v.parse().ok()).unwrap_or(300_000);
    let broker = broker::Broker::start_for_measuring();
    let spec =
        |name| TopicSpec { name, partitions: Partitions::Many, cleanup: Cleanup::Keep, append_time: false, record_bytes_max: 1 << 20 };
    let table = Arc::new(TopicTable::new("copy-", vec![spec("input"), spec("output")]));
    let log = KafkaLog::new(KafkaSettings::new(&broker.address), Arc::clone(&table));
    for topic in [INPUT, OUTPUT] {
        log.create_topic(topic, table.spec(topic), PARTITIONS).expect("the topic can be made");
    }
    fill(&log, records);
    // Both once for nothing: the broker compiles its hot paths.
    bare(&broker.address, &table, "warm-up-bare", 5_000, records);
    adapted(&log, &table, "warm-up-adapted", 5_000, records, 1);
    println!("{records} records of {} bytes, {PARTITIONS} partitions, two headers, lz4; records in per second", VALUE.len());
    println!("| batch | bare rdkafka | adapter | adapter / bare | adapter, 4 records out per record in |");
    println!("|------:|-------------:|--------:|---------------:|-------------------------------------:|");
    for batch in [1_000, 5_000, 10_000] {
        let bare = bare(&broker.address, &table, &format!("bare-{batch}"), batch, records);
        let ours = adapted(&log, &table, &format!("adapted-{batch}"), batch, records, 1);
        let wide = adapted(&log, &table, &format!("wide-{batch}"), batch, records / 2, 4);
        println!("| {batch} | {bare:.0} | {ours:.0} | {:.2} | {wide:.0} |", ours / bare);
    }
}

fn fill(log: &KafkaLog, records: u64) {
    let mut appender = log.appender().expect("a writer");
    for i in 0..records {
        let key = i.to_string();
        let at = TopicPartition::new(INPUT, (i % u64::from(PARTITIONS)) as u32);
        let record = Record { at, offset: 0, timestamp_ms: 1, key: Some(key.as_bytes()), value: Some(&VALUE), headers: Headers::default() };
        appender.append(&record).expect("appending works");
    }
    appender.flush(Duration::from_secs(60)).expect("flushing works");
}

/// The copy through the adapter.
fn adapted(log: &KafkaLog, table: &TopicTable, group: &str, batch: usize, records: u64, out_per_in: usize) -> f64 {
    let inputs = vec![MemberInput { topic: INPUT, headers: false }];
    let spec = MemberSpec { group: format!("{}{group}", table.prefix()), instance: format!("{}{group}-1", table.prefix()), inputs };
    let mut member = log.join(&spec).expect("joining works");
    let limits = Limits { records: batch, bytes: 64 << 20, age: Duration::from_secs(1) };
    let (mut input, mut output) = (Records::new(), Records::new());
    let mut headers = HeaderBuf::default();
    headers.push("type", b"Copy").push("src", b"copy-input/0/123456");
    let (mut done, mut started) = (0u64, Instant::now());
    let mut positions = BTreeMap::new();
    while done < records {
        input.clear();
        match member.poll(Duration::from_secs(1), limits, &mut input).expect("polling works") {
            Polled::Assigned(partitions) => {
                resume(&mut *member, &partitions);
                started = Instant::now();
            }
            Polled::Revoked { .. } => panic!("nobody else is in the group"),
            Polled::Records if input.is_empty() => {}
            Polled::Records => {
                output.clear();
                for r in input.iter() {
                    positions.insert(r.at, r.offset + 1);
                    let at = TopicPartition::new(OUTPUT, r.at.partition);
                    for _ in 0..out_per_in {
                        output.push(&Record { at, offset: 0, headers: headers.headers(), ..r });
                    }
                }
                let offsets: Vec<_> = positions.iter().map(|(at, o)| (*at, *o)).collect();
                let outcome = member.transact(&Transaction { outputs: &output, offsets: &offsets });
                assert!(matches!(outcome, Outcome::Committed { .. }), "{outcome:?}");
                done += input.len() as u64;
            }
        }
    }
    done as f64 / started.elapsed().as_secs_f64()
}

fn resume(member: &mut dyn Member, partitions: &[TopicPartition]) {
    let Ok(Committed::Stable(offsets)) = member.committed(partitions) else { panic!("offsets are stable") };
    let positions: Vec<_> = partitions.iter().zip(offsets).map(|(at, o)| (*at, o.unwrap_or(0))).collect();
    member.resume(&positions).expect("resuming works");
}

/// The same, as somebody would write it who knows rdkafka well: drained before the commit, offsets last, explicit partitions.
fn bare(brokers: &str, table: &TopicTable, group: &str, batch: usize, records: u64) -> f64 {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("transactional.id", format!("{}{group}", table.prefix()))
        .set("linger.ms", "0")
        .set("compression.type", "lz4")
        .set("queue.buffering.max.messages", "1000000")
        .create()
        .expect("a producer");
    producer.init_transactions(Duration::from_secs(20)).expect("init");
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", format!("{}{group}", table.prefix()))
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "earliest")
        .set("isolation.level", "read_committed")
        .set("fetch.queue.backoff.ms", "5")
        .create()
        .expect("a consumer");
    consumer.subscribe(&[table.name(INPUT)]).expect("subscribing works");
    let (mut done, mut started) = (0u64, None);
    let mut positions: BTreeMap<i32, i64> = BTreeMap::new();
    while done < records {
        let mut taken = Vec::with_capacity(batch);
        while taken.len() < batch {
            let wait = if taken.is_empty() { Duration::from_secs(1) } else { Duration::ZERO };
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
                .insert(Header { key: "type", value: Some("Copy") })
                .insert(Header { key: "src", value: Some("copy-input/0/123456") });
            let mut record = BaseRecord::to(table.name(OUTPUT))
                .partition(m.partition())
                .key(m.key().unwrap_or_default())
                .payload(m.payload().unwrap_or_default())
                .timestamp(1)
                .headers(headers);
            while let Err((e, back)) = producer.send(record) {
                assert_eq!(e.rdkafka_error_code(), Some(rdkafka::error::RDKafkaErrorCode::QueueFull), "{e}");
                producer.poll(Duration::from_millis(1));
                record = back;
            }
        }
        while producer.in_flight_count() > 0 {
            producer.poll(Duration::ZERO);
            std::thread::yield_now();
        }
        let mut offsets = TopicPartitionList::new();
        for (partition, next) in &positions {
            offsets.add_partition_offset(table.name(INPUT), *partition, Offset::Offset(*next)).expect("an offset");
        }
        producer.send_offsets_to_transaction(&offsets, &metadata, Duration::from_secs(10)).expect("offsets");
        producer.commit_transaction(Duration::from_secs(20)).expect("commit");
        done += taken.len() as u64;
    }
    done as f64 / started.expect("records came").elapsed().as_secs_f64()
}
