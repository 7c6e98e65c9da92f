//! Cost of the adapter: a transactional copy of a topic through [`Member`], against the same copy
//! with rdkafka's safe interface (poll, send, drain, offsets, commit). The bench starts its own
//! broker. Absolute figures depend on the machine; the ratio is the result.
//!
//! `cargo bench --bench kafka_copy` prints a table. `COPY_RECORDS` sets the number of records
//! (default 300000).

#[path = "../tests/support/broker.rs"]
mod broker;
#[path = "support/copy.rs"]
mod copy;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use log_kafka::{KafkaLog, KafkaSettings};
use ports::records::{HeaderBuf, Record, Records};
use ports::topics::{Cleanup, TopicPartition, TopicSpec, TopicTable};
use ports::{
    Committed, Limits, Log, Member, MemberInput, MemberSpec, Polled, Transaction,
    TransactionOutcome,
};

use copy::{INPUT, OUTPUT, PARTITIONS, VALUE, bare, fill};

fn main() {
    let records: u64 = std::env::var("COPY_RECORDS")
        .ok()
        .and_then(|v| v.parse().ok())
        .unwrap_or(300_000);
    let broker = broker::Broker::start_for_measuring();
    let table = Arc::new(TopicTable::new(
        "copy-",
        vec![
            TopicSpec::new("input", Cleanup::Keep),
            TopicSpec::new("output", Cleanup::Keep),
        ],
    ));

    let log = KafkaLog::new(KafkaSettings::new(&broker.address), Arc::clone(&table));
    for id in [INPUT, OUTPUT] {
        log.create_topic(id, table.spec(id), PARTITIONS)
            .expect("the topic can be made");
    }

    fill(&log, records);

    // Run both copies once to warm up: the broker compiles its hot paths.
    bare(
        &broker.address,
        &table,
        "warm-up-bare",
        5_000,
        records,
        None,
    );

    adapted(&log, &table, "warm-up-adapted", 5_000, records, 1);
    println!(
        "{records} records of {} bytes, {PARTITIONS} partitions, two headers, lz4; records in per second",
        VALUE.len()
    );
    println!(
        "| batch | bare rdkafka | adapter | adapter / bare | adapter, 4 records out per record in |"
    );
    println!(
        "|------:|-------------:|--------:|---------------:|-------------------------------------:|"
    );
    for batch in [1_000, 5_000, 10_000] {
        let bare = bare(
            &broker.address,
            &table,
            &format!("bare-{batch}"),
            batch,
            records,
            None,
        );

        let ours = adapted(&log, &table, &format!("adapted-{batch}"), batch, records, 1);
        let wide = adapted(
            &log,
            &table,
            &format!("wide-{batch}"),
            batch,
            records / 2,
            4,
        );

        println!(
            "| {batch} | {bare:.0} | {ours:.0} | {:.2} | {wide:.0} |",
            ours / bare
        );
    }
}

/// The copy through the adapter.
fn adapted(
    log: &KafkaLog,
    table: &TopicTable,
    group: &str,
    batch: usize,
    records: u64,
    out_per_in: usize,
) -> f64 {
    let inputs = vec![MemberInput {
        topic: INPUT,
        headers: false,
    }];
    let spec = MemberSpec {
        group: format!("{}{group}", table.prefix()),
        instance: format!("{}{group}-1", table.prefix()),
        inputs,
        linger: Duration::ZERO,
    };

    let mut member = log.join(&spec).expect("joining works");
    let limits = Limits {
        records: batch,
        bytes: 64 << 20,
        age: Duration::from_secs(1),
    };

    let mut input = Records::new();
    let mut output = Records::new();
    let mut headers = HeaderBuf::default();
    headers
        .push("type", b"Copy")
        .push("src", b"copy-input/0/123456");
    let mut done = 0u64;
    let mut started = Instant::now();
    let mut positions = BTreeMap::new();
    while done < records {
        input.clear();
        match member
            .poll(Duration::from_secs(1), limits, &mut input)
            .expect("polling works")
        {
            Polled::Assigned(partitions) => {
                resume(log, &spec.group, &mut *member, &partitions);
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
                        output.push(&Record {
                            at,
                            offset: 0,
                            headers: headers.headers(),
                            ..r
                        });
                    }
                }

                let offsets: Vec<_> = positions.iter().map(|(at, o)| (*at, *o)).collect();
                let outcome = member.transact(&Transaction {
                    outputs: &output,
                    offsets: &offsets,
                });

                assert!(
                    matches!(outcome, TransactionOutcome::Committed { .. }),
                    "{outcome:?}"
                );
                done += input.len() as u64;
            }
        }
    }

    done as f64 / started.elapsed().as_secs_f64()
}

fn resume(log: &KafkaLog, group: &str, member: &mut dyn Member, partitions: &[TopicPartition]) {
    let Ok(Committed::Stable(offsets)) = log.committed(group, partitions) else {
        panic!("offsets are stable")
    };

    let positions: Vec<_> = partitions
        .iter()
        .zip(offsets)
        .map(|(at, o)| (*at, o.unwrap_or(0)))
        .collect();
    member.resume(&positions).expect("resuming works");
}
