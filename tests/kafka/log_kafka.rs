//! The Kafka adapter against a real broker: the conformance suite of the log port, and errors that
//! only Kafka can make.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use log_kafka::{KafkaLog, KafkaSettings};
use ports::records::Records;
use ports::topics::{Cleanup, Partitions, TopicId, TopicPartition, TopicSpec, TopicTable};
use ports::{
    Committed, Log, LogError, Member, MemberInput, MemberSpec, Polled, Transaction,
    TransactionOutcome,
};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{BaseProducer, Producer};

use crate::conformance::{self, INPUT, OUTPUT, WIDE, tp};
use crate::support::broker::{self, Broker};

struct SharedBroker;

impl conformance::Cluster for SharedBroker {
    fn log(&self, table: &TopicTable) -> Box<dyn Log> {
        Box::new(KafkaLog::new(
            KafkaSettings::new(&broker::shared().address),
            Arc::new(table.clone()),
        ))
    }
}

conformance!(|| SharedBroker);

/// Topics of the tests below.
fn small_table(prefix: &str) -> Arc<TopicTable> {
    Arc::new(conformance::table(prefix))
}

fn settings(broker: &str) -> KafkaSettings {
    KafkaSettings::new(broker)
}

fn log_on(broker: &str, table: &Arc<TopicTable>) -> KafkaLog {
    KafkaLog::new(settings(broker), Arc::clone(table))
}

fn make(log: &KafkaLog, table: &TopicTable, topics: &[TopicId], partitions: u32) {
    for topic in topics {
        log.create_topic(*topic, table.spec(*topic), partitions)
            .expect("the topic can be made");
    }
}

fn spec(table: &TopicTable, group: &str, instance: &str) -> MemberSpec {
    MemberSpec {
        group: format!("{}{group}", table.prefix()),
        instance: format!("{}{instance}", table.prefix()),
        inputs: vec![MemberInput {
            topic: INPUT,
            headers: false,
        }],
        linger: Duration::ZERO,
    }
}

/// Polls until partitions are assigned.
fn assigned(member: &mut dyn Member) -> Vec<TopicPartition> {
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut records = Records::new();
    loop {
        match member
            .poll(Duration::from_millis(50), WIDE, &mut records)
            .expect("polling works")
        {
            Polled::Assigned(p) => return p,
            _ => assert!(Instant::now() < deadline, "nothing was assigned"),
        }
    }
}

/// Resumes all partitions at the stable committed offsets, or at the start.
fn resume(
    log: &dyn Log,
    table: &TopicTable,
    member: &mut dyn Member,
    partitions: &[TopicPartition],
) {
    let positions: Vec<_> = match log
        .committed(&spec(table, "group", "x").group, partitions)
        .expect("offsets")
    {
        Committed::Stable(offsets) => partitions
            .iter()
            .zip(offsets)
            .map(|(at, o)| (*at, o.unwrap_or(0)))
            .collect(),
        Committed::Pending => panic!("nothing is pending"),
    };

    member.resume(&positions).expect("resuming works");
}

fn take(member: &mut dyn Member, count: usize) -> Vec<(TopicPartition, u64)> {
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut records = Records::new();
    let mut all = Vec::new();
    while all.len() < count {
        records.clear();
        let polled = member
            .poll(Duration::from_millis(50), WIDE, &mut records)
            .expect("polling works");
        assert_eq!(polled, Polled::Records);
        all.extend(records.iter().map(|r| (r.at, r.offset)));
        assert!(
            Instant::now() < deadline,
            "{} of {count} records came",
            all.len()
        );
    }

    all
}

fn append(log: &KafkaLog, at: TopicPartition, values: usize) {
    let mut appender = log.appender().expect("a writer");
    for i in 0..values {
        appender
            .append(&conformance::plain(at, &format!("v{i}")))
            .expect("appending works");
    }

    appender
        .flush(Duration::from_secs(30))
        .expect("flushing works");
}

fn one(at: TopicPartition, value: &str) -> Records {
    let mut out = Records::new();
    out.push(&conformance::plain(at, value));
    out
}

#[test]
fn a_commit_is_not_held_up_by_a_flush() {
    let table = small_table(&broker::unique_prefix("latency"));
    let log = log_on(&broker::shared().address, &table);
    make(&log, &table, &[INPUT, OUTPUT], 1);
    append(&log, tp(INPUT, 0), 60);
    let mut member = log
        .join(&spec(&table, "group", "group-1"))
        .expect("joining works");
    let partitions = assigned(&mut *member);
    resume(&log, &table, &mut *member, &partitions);
    let seen = take(&mut *member, 60);
    let mut took = Vec::new();
    for (at, offset) in seen.iter().take(50) {
        let started = Instant::now();
        let outcome = member.transact(&Transaction {
            outputs: &one(tp(OUTPUT, 0), "v"),
            offsets: &[(*at, offset + 1)],
        });

        took.push(started.elapsed());
        assert!(
            matches!(
                outcome,
                TransactionOutcome::Committed { suspect: false, .. }
            ),
            "{outcome:?}"
        );

        // An idle member: the next record comes later.
        std::thread::sleep(Duration::from_millis(5));
    }

    took.sort_unstable();
    println!(
        "commit of one record: median {:?}, 90 of 100 within {:?}",
        took[25], took[45]
    );
    assert!(
        took[25] < Duration::from_millis(50),
        "the median of {took:?} smells of a flush that waits 100 ms"
    );
}

/// A killed instance left a transaction open. The transaction hides its offsets until the broker
/// aborts the transaction.
#[test]
fn a_dead_instances_transaction_is_pending_and_then_resolved() {
    let table = small_table(&broker::unique_prefix("pending"));
    let mut short = settings(&broker::shared().address);
    short.transaction_timeout = Duration::from_secs(4);
    let log = KafkaLog::new(short, Arc::clone(&table));
    make(&log, &table, &[INPUT, OUTPUT], 2);
    let group = spec(&table, "group", "x").group;

    // The state after kill -9 between adding offsets and the commit, made with the bare client.
    let producer: BaseProducer = rdkafka::ClientConfig::new()
        .set("bootstrap.servers", &broker::shared().address)
        .set("transactional.id", format!("{}dead", table.prefix()))
        .set("transaction.timeout.ms", "4000")
        .create()
        .expect("a producer");
    producer
        .init_transactions(Duration::from_secs(20))
        .expect("init");
    producer.begin_transaction().expect("begin");
    let consumer: BaseConsumer = rdkafka::ClientConfig::new()
        .set("bootstrap.servers", &broker::shared().address)
        .set("group.id", &group)
        .create()
        .expect("a consumer");
    let mut offsets = rdkafka::TopicPartitionList::new();
    offsets
        .add_partition_offset(table.name(INPUT), 0, rdkafka::Offset::Offset(7))
        .expect("an offset");
    let metadata = consumer.group_metadata().expect("metadata");
    producer
        .send_offsets_to_transaction(&offsets, &metadata, Duration::from_secs(10))
        .expect("offsets");

    let _member = log
        .join(&spec(&table, "group", "group-1"))
        .expect("joining works");
    let asked = [tp(INPUT, 0), tp(INPUT, 1)];
    assert_eq!(
        log.committed(&group, &asked).expect("an answer"),
        Committed::Pending
    );

    // From outside the group, pending offsets are simply invisible.
    assert_eq!(
        log.group_offsets(&group, &asked).expect("an answer"),
        [None, None]
    );
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        match log.committed(&group, &asked).expect("an answer") {
            Committed::Stable(offsets) => {
                assert_eq!(offsets, [None, None], "the broker aborted it");
                break;
            }
            Committed::Pending => assert!(Instant::now() < deadline, "still pending"),
        }
    }
}

#[test]
fn topic_settings_that_do_not_fit_are_named() {
    let table = small_table(&broker::unique_prefix("mismatch"));
    let log = log_on(&broker::shared().address, &table);
    make(&log, &table, &[OUTPUT], 3);
    let other = TopicSpec {
        name: "output",
        partitions: Partitions::One,
        cleanup: Cleanup::Compact,
        append_time: true,
        record_bytes_max: 2 << 20,
    };

    let state = log
        .describe_topic(OUTPUT, &other)
        .expect("an answer")
        .expect("it exists");
    let without_cost: Vec<_> = state
        .mismatches
        .iter()
        .map(|m| m.split(": ").next().expect("a text"))
        .collect();
    assert_eq!(
        without_cost,
        [
            "has 3 partitions, must have 1",
            "cleanup.policy is delete, must be compact",
            "message.timestamp.type is CreateTime, must be LogAppendTime",
            "max.message.bytes is 1048576, must be at least 2097152",
        ]
    );

    assert_eq!(
        log.describe_topic(OUTPUT, table.spec(OUTPUT))
            .expect("an answer")
            .expect("it exists")
            .mismatches,
        Vec::<String>::new()
    );
}

#[test]
fn a_missing_broker_is_said_to_be_missing() {
    let table = small_table("x-");
    let mut settings = settings("127.0.0.1:1");
    settings.request_wait = Duration::from_secs(1);
    let log = KafkaLog::new(settings, table);
    let e = log.cluster_id().expect_err("nobody is there");
    let said = e.to_string();
    assert!(
        said.starts_with("the log is unavailable: no answer from 127.0.0.1:1 in 1 s (")
            && said.contains("Connection refused"),
        "{said}"
    );
    assert!(said.ends_with("is it running? check --brokers"), "{said}");
    let e = log.partitions(INPUT).expect_err("nobody is there");
    assert!(e.to_string().contains("no answer from 127.0.0.1:1"), "{e}");
    let mut appender = log.appender().expect("made without asking anybody");
    appender
        .append(&conformance::plain(tp(INPUT, 0), "v"))
        .expect("queued");
    let e = appender
        .flush(Duration::from_secs(1))
        .expect_err("nobody took it");
    assert!(e.to_string().contains("check --brokers"), "{e}");
}

#[test]
fn a_record_too_large_for_its_topic_is_refused_before_sending() {
    let table = small_table(&broker::unique_prefix("large"));
    let log = log_on(&broker::shared().address, &table);
    make(&log, &table, &[INPUT, OUTPUT], 1);
    append(&log, tp(INPUT, 0), 1);
    let mut member = log
        .join(&spec(&table, "group", "group-1"))
        .expect("joining works");
    let partitions = assigned(&mut *member);
    resume(&log, &table, &mut *member, &partitions);
    let (at, offset) = take(&mut *member, 1)[0];
    let out = one(tp(OUTPUT, 0), &"x".repeat(600 << 10));
    let outcome = member.transact(&Transaction {
        outputs: &out,
        offsets: &[(at, offset + 1)],
    });

    let TransactionOutcome::Rejected(rejection) = outcome else {
        panic!("{outcome:?}")
    };

    let why = rejection.text;
    assert!(
        why.contains("max.message.bytes") && why.contains("output/0"),
        "{why}"
    );
}

/// The broker dies and returns between two transactions. No request of ours is in flight at that
/// time, so the same incarnation continues.
#[test]
fn a_connection_lost_between_transactions_leaves_nothing() {
    let broker = Broker::start();
    let table = small_table("between-");
    let log = log_on(&broker.address, &table);
    make(&log, &table, &[INPUT, OUTPUT], 1);
    append(&log, tp(INPUT, 0), 3);
    let mut member = log
        .join(&spec(&table, "group", "group-1"))
        .expect("joining works");
    let partitions = assigned(&mut *member);
    resume(&log, &table, &mut *member, &partitions);
    let seen = take(&mut *member, 3);
    let outcome = member.transact(&Transaction {
        outputs: &one(tp(OUTPUT, 0), "a"),
        offsets: &[(seen[0].0, seen[0].1 + 1)],
    });

    assert!(
        matches!(
            outcome,
            TransactionOutcome::Committed { suspect: false, .. }
        ),
        "{outcome:?}"
    );
    broker.kill();
    broker.restart();
    let outcome = member.transact(&Transaction {
        outputs: &one(tp(OUTPUT, 0), "b"),
        offsets: &[(seen[1].0, seen[1].1 + 1)],
    });

    println!("after the restart: {outcome:?}");

    // A late log line counts for the transaction that reads the line, so both results are right. A
    // lost transaction is not.
    assert!(
        matches!(outcome, TransactionOutcome::Committed { .. }),
        "{outcome:?}"
    );
}

/// A consumer in the place of a member, with the same effect as a late join request. Names are
/// padded as in the adapter.
fn ghost(broker: &str, member: &MemberSpec, input: &str) -> BaseConsumer {
    let late: BaseConsumer = rdkafka::ClientConfig::new()
        .set("bootstrap.servers", broker)
        .set("group.id", &member.group)
        .set(
            "group.instance.id",
            member.instance.replace("group-1", "group-000001"),
        )
        .set("partition.assignment.strategy", "range")
        .set("session.timeout.ms", "10000")
        .set("heartbeat.interval.ms", "1000")
        .create()
        .expect("a consumer");

    late.subscribe(&[input]).expect("subscribing");
    late
}

/// Takes the epoch of a member, as the broker does when it aborts an expired transaction.
fn bump(broker: &str, member: &MemberSpec) {
    let bump: BaseProducer = rdkafka::ClientConfig::new()
        .set("bootstrap.servers", broker)
        .set("transactional.id", &member.instance)
        .create()
        .expect("a producer");
    bump.init_transactions(Duration::from_secs(20))
        .expect("init");
}

/// Regression: a late join request of a dead process takes our membership in the group. The process
/// then ended ("a newer instance took over", not to be restarted), and no process was left.
#[test]
fn a_place_taken_by_a_late_request_is_taken_again() {
    let table = small_table(&broker::unique_prefix("late"));
    let log = log_on(&broker::shared().address, &table);
    make(&log, &table, &[INPUT, OUTPUT], 1);
    append(&log, tp(INPUT, 0), 2);
    let us = spec(&table, "group", "group-1");
    let mut member = log.join(&us).expect("joining works");
    let partitions = assigned(&mut *member);
    resume(&log, &table, &mut *member, &partitions);
    assert_eq!(take(&mut *member, 2).len(), 2);

    // The late consumer joins, and takes no epoch before.
    let late = ghost(&broker::shared().address, &us, table.name(INPUT));
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut records = Records::new();
    let error = loop {
        drop(late.poll(Duration::from_millis(50)));
        match member.poll(Duration::from_millis(50), WIDE, &mut records) {
            Ok(_) => assert!(Instant::now() < deadline, "the place was not taken"),
            Err(e) => break e,
        }
    };

    assert!(matches!(error, LogError::Unavailable(_)), "{error}");
    drop(late);
    drop(member);
    let mut member = log.join(&us).expect("joining works");
    let partitions = assigned(&mut *member);
    resume(&log, &table, &mut *member, &partitions);
    let seen = take(&mut *member, 2);
    let outcome = member.transact(&Transaction {
        outputs: &one(tp(OUTPUT, 0), "a"),
        offsets: &[(seen[1].0, seen[1].1 + 1)],
    });

    assert!(
        matches!(outcome, TransactionOutcome::Committed { .. }),
        "{outcome:?}"
    );

    // A real successor is recognised by the next heartbeat.
    let mut newer = log.join(&us).expect("joining works");
    let deadline = Instant::now() + Duration::from_secs(30);
    let error = loop {
        let polled = newer.poll(Duration::from_millis(20), WIDE, &mut Records::new());
        assert!(polled.is_ok(), "{polled:?}");
        match member.poll(Duration::from_millis(20), WIDE, &mut records) {
            Ok(_) => assert!(Instant::now() < deadline, "the older one stays"),
            Err(e) => break e,
        }
    };

    assert!(matches!(error, LogError::Fenced(_)), "{error}");
}

/// The broker aborted a transaction that was open too long. The error looks like fencing, but no
/// newer instance exists, so the member recovers.
#[test]
fn an_expired_transaction_is_not_mistaken_for_a_newer_instance() {
    let table = small_table(&broker::unique_prefix("expired"));
    let log = log_on(&broker::shared().address, &table);
    make(&log, &table, &[INPUT, OUTPUT], 1);
    append(&log, tp(INPUT, 0), 2);
    let mut member = log
        .join(&spec(&table, "group", "group-1"))
        .expect("joining works");
    let partitions = assigned(&mut *member);
    resume(&log, &table, &mut *member, &partitions);
    let seen = take(&mut *member, 2);

    // The same effect without a long wait: another producer takes the epoch and does not join the
    // group.
    bump(&broker::shared().address, &spec(&table, "group", "group-1"));
    let outcome = member.transact(&Transaction {
        outputs: &one(tp(OUTPUT, 0), "a"),
        offsets: &[(seen[0].0, seen[0].1 + 1)],
    });

    assert!(
        matches!(outcome, TransactionOutcome::Unknown(_)),
        "{outcome:?}"
    );
    drop(member);
    let mut member = log
        .join(&spec(&table, "group", "group-1"))
        .expect("joining works");
    let partitions = assigned(&mut *member);
    resume(&log, &table, &mut *member, &partitions);
    let seen = take(&mut *member, 2);
    let outcome = member.transact(&Transaction {
        outputs: &one(tp(OUTPUT, 0), "b"),
        offsets: &[(seen[1].0, seen[1].1 + 1)],
    });

    assert!(
        matches!(outcome, TransactionOutcome::Committed { .. }),
        "{outcome:?}"
    );
}

/// The epoch and the group membership are lost after a long transaction. The cause may be the
/// broker's timeout and a late request. Regression: the process ended although no newer instance
/// existed. Only a live successor ends the member.
#[test]
fn a_long_transaction_ends_the_member_only_for_a_successor() {
    let broker = Broker::start();
    for (prefix, alive) in [("gone-", false), ("alive-", true)] {
        let table = small_table(prefix);
        let mut short = settings(&broker.address);
        short.transaction_timeout = Duration::from_secs(8);
        let log = KafkaLog::new(short, Arc::clone(&table));
        make(&log, &table, &[INPUT, OUTPUT], 1);
        append(&log, tp(INPUT, 0), 1);
        let us = spec(&table, "group", "group-1");
        let mut member = log.join(&us).expect("joining works");
        let partitions = assigned(&mut *member);
        resume(&log, &table, &mut *member, &partitions);
        let seen = take(&mut *member, 1);
        bump(&broker.address, &us);
        let late = ghost(&broker.address, &us, table.name(INPUT));
        let deadline = Instant::now() + Duration::from_secs(30);
        while late.assignment().expect("its assignment").count() == 0 {
            drop(late.poll(Duration::from_millis(50)));
            assert!(Instant::now() < deadline, "the place was not taken");
        }

        let (kept, gone) = if alive {
            (Some(late), None)
        } else {
            (None, Some(late))
        };

        drop(gone);
        broker.freeze();
        let done = AtomicBool::new(false);
        let outcome = std::thread::scope(|s| {
            s.spawn(|| {
                // Longer than half the transaction timeout.
                std::thread::sleep(Duration::from_secs(5));
                broker.thaw();
                while !done.load(Ordering::Relaxed) {
                    kept.iter()
                        .for_each(|k| drop(k.poll(Duration::from_millis(50))));
                    std::thread::sleep(Duration::from_millis(10));
                }
            });

            let outcome = member.transact(&Transaction {
                outputs: &one(tp(OUTPUT, 0), "a"),
                offsets: &[(seen[0].0, seen[0].1 + 1)],
            });

            done.store(true, Ordering::Relaxed);
            outcome
        });

        println!("{prefix}: {outcome:?}");
        assert_eq!(
            matches!(outcome, TransactionOutcome::Fenced(_)),
            alive,
            "{outcome:?}"
        );
        assert!(
            alive || matches!(outcome, TransactionOutcome::Unknown(_)),
            "{outcome:?}"
        );
        if !alive {
            drop(member);
            let mut member = log.join(&us).expect("joining works");
            let partitions = assigned(&mut *member);
            resume(&log, &table, &mut *member, &partitions);
            let seen = take(&mut *member, 1);
            let outcome = member.transact(&Transaction {
                outputs: &one(tp(OUTPUT, 0), "b"),
                offsets: &[(seen[0].0, seen[0].1 + 1)],
            });

            assert!(
                matches!(outcome, TransactionOutcome::Committed { .. }),
                "{outcome:?}"
            );
        }
    }
}
