//! Duties of a group member on a real broker. A backlog in one partition does not delay others, the
//! transaction of a dead instance is ended, and tasks are handed over. An idle member keeps its
//! state, and unreadable or refused requests are reported.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use log_kafka::{KafkaLog, KafkaSettings};
use ports::records::{Headers, Record, Records};
use ports::topics::{Cleanup, Partitions, TopicId, TopicPartition, TopicSpec, TopicTable};
use ports::{
    Appender, Committed, Limits, Log, LogError, Member, MemberInput, MemberSpec, Polled,
    StartOffset, Transaction, TransactionOutcome,
};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use crate::support::broker::{self, Broker};
use crate::support::door::Door;

const INPUT: TopicId = TopicId(0);
const OUTPUT: TopicId = TopicId(1);
const LIMITS: Limits = Limits {
    records: 1_000,
    bytes: 1 << 20,
    age: Duration::from_millis(50),
};
const SOON: Duration = Duration::from_secs(60);

struct Place {
    log: KafkaLog,
    table: Arc<TopicTable>,
    broker: String,
}

impl Place {
    fn new(broker: &str, test: &str, partitions: u32, properties: &[(&str, &str)]) -> Place {
        let spec = |name, append_time| TopicSpec {
            name,
            partitions: Partitions::Many,
            cleanup: Cleanup::Keep,
            append_time,
            record_bytes_max: 1 << 20,
        };

        let table = Arc::new(TopicTable::new(
            &broker::unique_prefix(test),
            vec![spec("input", true), spec("output", false)],
        ));
        let mut settings = KafkaSettings::new(broker);
        settings.properties = properties
            .iter()
            .map(|(k, v)| ((*k).into(), (*v).into()))
            .collect();
        let log = KafkaLog::new(settings, Arc::clone(&table));
        for topic in [INPUT, OUTPUT] {
            log.create_topic(topic, table.spec(topic), partitions)
                .expect("the topic can be made");
        }

        Place {
            log,
            table,
            broker: broker.into(),
        }
    }

    fn join(&self, number: u32) -> Box<dyn Member> {
        self.join_lingering(number, Duration::ZERO)
    }

    fn join_lingering(&self, number: u32, linger: Duration) -> Box<dyn Member> {
        let group = format!("{}group", self.table.prefix());
        let inputs = vec![MemberInput {
            topic: INPUT,
            headers: false,
        }];
        self.log
            .join(&MemberSpec {
                instance: format!("{group}-{number}"),
                group,
                inputs,
                linger,
            })
            .expect("joining works")
    }

    fn end(&self, topic: TopicId, partition: u32) -> (u64, u64) {
        let bounds = self
            .log
            .bounds(TopicPartition::new(topic, partition))
            .expect("bounds");
        (bounds.stable_end, bounds.end)
    }
}

fn append(appender: &mut dyn Appender, partition: u32, value: &str) {
    let at = TopicPartition::new(INPUT, partition);
    let value = Some(value.as_bytes());
    appender
        .append(&Record {
            at,
            offset: 0,
            timestamp_ms: 1,
            key: None,
            value,
            headers: Headers::default(),
        })
        .expect("appending works");
}

/// Polls until the member has this number of partitions, and resumes them at the group's offsets.
fn own(place: &Place, member: &mut dyn Member, partitions: usize) {
    let deadline = Instant::now() + SOON;
    let mut records = Records::new();
    loop {
        assert!(
            Instant::now() < deadline,
            "{partitions} partitions were not assigned"
        );
        let Polled::Assigned(mine) = member
            .poll(Duration::from_millis(50), LIMITS, &mut records)
            .expect("a poll")
        else {
            continue;
        };

        if mine.len() == partitions {
            return resume(place, member, &mine);
        }
    }
}

/// The same for two members of one group, with one partition each. One thread polls both in turns.
fn own_one_each(place: &Place, members: [&mut dyn Member; 2]) {
    let deadline = Instant::now() + SOON;
    let mut records = Records::new();
    let mut mine = [Vec::new(), Vec::new()];
    let [a, b] = members;
    while mine.iter().any(|m| m.len() != 1) {
        assert!(
            Instant::now() < deadline,
            "the partitions were not shared out: {mine:?}"
        );
        for (member, mine) in [&mut *a, &mut *b].into_iter().zip(&mut mine) {
            match member
                .poll(Duration::from_millis(20), LIMITS, &mut records)
                .expect("a poll")
            {
                Polled::Assigned(partitions) => *mine = partitions,
                Polled::Revoked { .. } => mine.clear(),
                Polled::Records => {}
            }
        }
    }

    resume(place, a, &mine[0]);
    resume(place, b, &mine[1]);
}

fn resume(place: &Place, member: &mut dyn Member, mine: &[TopicPartition]) {
    let deadline = Instant::now() + SOON;
    loop {
        if let Committed::Stable(offsets) = place
            .log
            .committed(&format!("{}group", place.table.prefix()), mine)
            .expect("offsets")
        {
            let positions: Vec<_> = mine
                .iter()
                .copied()
                .zip(offsets.into_iter().map(|o| o.unwrap_or(0)))
                .collect();
            return member.resume(&positions).expect("resuming works");
        }

        assert!(Instant::now() < deadline, "offsets stay pending");
    }
}

/// One turn: takes the available records and copies them. Returns the number of records by
/// partition.
fn copy(member: &mut dyn Member, wait: Duration) -> BTreeMap<u32, usize> {
    let mut batch = Records::new();
    let mut out = Records::new();
    let mut offsets = BTreeMap::new();
    let mut counts = BTreeMap::new();
    assert_eq!(
        member.poll(wait, LIMITS, &mut batch).expect("a poll"),
        Polled::Records
    );
    for r in batch.iter() {
        out.push(&Record {
            at: TopicPartition::new(OUTPUT, r.at.partition),
            offset: 0,
            ..r
        });

        offsets.insert(r.at, r.offset + 1);
        *counts.entry(r.at.partition).or_insert(0) += 1;
    }

    if !batch.is_empty() {
        let offsets: Vec<_> = offsets.into_iter().collect();
        let outcome = member.transact(&Transaction {
            outputs: &out,
            offsets: &offsets,
        });

        assert!(
            matches!(outcome, TransactionOutcome::Committed { .. }),
            "{outcome:?}"
        );
    }

    counts
}

/// Time from the append to the copy of a record of this partition, and the number of records of
/// partition 0 copied in that time.
fn time_one(place: &Place, member: &mut dyn Member, partition: u32) -> (Duration, usize) {
    let mut appender = place.log.appender().expect("a writer");
    append(&mut *appender, partition, "one");
    appender.flush(SOON).expect("flushing works");
    let began = Instant::now();
    let mut others = 0;
    loop {
        let counts = copy(member, Duration::from_millis(100));
        others += counts.get(&0).unwrap_or(&0);
        if counts.contains_key(&partition) {
            return (began.elapsed(), others);
        }

        assert!(
            began.elapsed() < Duration::from_secs(120),
            "the record never came; {others} of partition 0 did"
        );
    }
}

/// Regression: with one queue for all partitions the record waited for all records fetched before
/// it, 100 000 and more.
#[test]
fn a_backlog_in_one_partition_does_not_hold_up_another() {
    let place = Place::new(&broker::shared().address, "hot", 6, &[]);
    let mut member = place.join(1);
    own(&place, &mut *member, 6);
    let mut alone: Vec<_> = (0..15)
        .map(|_| time_one(&place, &mut *member, 1).0)
        .collect();
    alone.sort_unstable();
    let mut appender = place.log.appender().expect("a writer");
    let value = "x".repeat(150);
    (0..200_000).for_each(|_| append(&mut *appender, 0, &value));
    appender.flush(SOON).expect("flushing works");
    let mut done = 0;
    while done < 5_000 {
        done += copy(&mut *member, Duration::from_millis(100))
            .values()
            .sum::<usize>();
    }

    let mut beside: Vec<_> = (0..15).map(|_| time_one(&place, &mut *member, 1)).collect();
    done += beside.iter().map(|(_, others)| others).sum::<usize>();
    let most = beside
        .iter()
        .map(|(_, others)| *others)
        .max()
        .expect("some");
    beside.sort_unstable();
    let alone = alone[7];
    let beside = beside[7].0;
    println!(
        "alone {alone:?}, beside a backlog {beside:?} (medians); at most {most} records of the backlog went before"
    );
    assert!(
        most <= 8 * LIMITS.records,
        "{most} records of the backlog went before a record of another partition"
    );

    // The count above is the proof. The time has a wide bound, because a busy machine may delay
    // either of the two.
    assert!(
        beside <= 10 * alone.max(Duration::from_millis(50)),
        "alone {alone:?}, beside a backlog {beside:?}"
    );
    assert!(
        done < 190_000,
        "there is no backlog left after {done} records"
    );
}

/// The broker's advertised address leads nowhere while a transaction is in flight. The error of the
/// transaction must say so, and not only report a timeout.
#[test]
fn a_transaction_that_reaches_nobody_names_the_listener() {
    let (door, broker) = Door::before(true);
    let mut place = Place::new(&broker.address, "door", 1, &[]);
    let mut settings = KafkaSettings::new(&broker.address);
    settings.transaction_timeout = Duration::from_secs(6);
    place.log = KafkaLog::new(settings, Arc::clone(&place.table));
    let mut member = place.join(1);
    own(&place, &mut *member, 1);
    let value = vec![b'x'; 1_000];
    let mut out = Records::new();
    for _ in 0..20_000 {
        let at = TopicPartition::new(OUTPUT, 0);
        out.push(&Record {
            at,
            offset: 0,
            timestamp_ms: 1,
            key: None,
            value: Some(&value),
            headers: Headers::default(),
        });
    }

    let offsets = [(TopicPartition::new(INPUT, 0), 0)];
    let outcome = std::thread::scope(|s| {
        s.spawn(|| {
            // The door closes at any moment of the transactions; this is one of them.
            std::thread::sleep(Duration::from_millis(500));
            door.close();
        });

        // Transactions follow each other, so a transaction is in flight when the door closes.
        loop {
            let outcome = member.transact(&Transaction {
                outputs: &out,
                offsets: &offsets,
            });

            if !matches!(outcome, TransactionOutcome::Committed { .. }) {
                return outcome;
            }
        }
    });

    println!("{outcome:?}");
    let (TransactionOutcome::NotCommitted(why)
    | TransactionOutcome::Late { why, .. }
    | TransactionOutcome::Unknown(why)) = outcome
    else {
        panic!("{outcome:?}")
    };

    let named = format!(
        "gives {} as its address (advertised.listeners)",
        door.address
    );
    assert!(why.contains(&named), "{why}");
}

/// A live instance ends the transaction of a dead one at once. Brokers alone would wait 20 s and
/// more.
#[test]
fn a_dead_owners_transaction_is_ended_by_who_takes_over() {
    let broker = Broker::start_with(&[broker::DEFAULT_ABORTS], true);
    let place = Place::new(
        &broker.address,
        "dead",
        2,
        &[("session.timeout.ms", "6000")],
    );
    let mut survivor = place.join(1);
    own(&place, &mut *survivor, 2);
    let mut dying = place.join(2);
    own_one_each(&place, [&mut *survivor, &mut *dying]);
    let mut appender = place.log.appender().expect("a writer");
    append(&mut *appender, 1, "signed");
    appender.flush(SOON).expect("flushing works");
    while copy(&mut *dying, Duration::from_millis(100)).is_empty() {}

    // The state after `kill -9` in the middle of the next transaction.
    drop(dying);
    let id = format!("{}group-2", place.table.prefix());
    let producer: BaseProducer = rdkafka::ClientConfig::new()
        .set("bootstrap.servers", &place.broker)
        .set("transactional.id", &id)
        .set("transaction.timeout.ms", "20000")
        .create()
        .expect("a producer");
    producer.init_transactions(SOON).expect("init");
    producer.begin_transaction().expect("begin");
    producer
        .send(
            BaseRecord::<(), str>::to(place.table.name(OUTPUT))
                .partition(0)
                .payload("open"),
        )
        .expect("queued");

    while producer.in_flight_count() > 0 {
        producer.poll(Duration::from_millis(10));
    }

    let (stable, end) = place.end(OUTPUT, 0);
    assert!(stable < end, "the transaction is open");
    own(&place, &mut *survivor, 2);
    let taken_over = Instant::now();
    while place.end(OUTPUT, 0).0 < end {
        assert_eq!(
            copy(&mut *survivor, Duration::from_millis(20)),
            BTreeMap::new()
        );
        assert!(
            taken_over.elapsed() < Duration::from_secs(60),
            "the transaction stays open"
        );
    }

    println!("ended {:?} after the take-over", taken_over.elapsed());
    assert!(
        taken_over.elapsed() < Duration::from_secs(5),
        "{:?}",
        taken_over.elapsed()
    );
}

/// A static member keeps its membership for its session (KIP-345). This is right for a restart, but
/// wrong for a member that leaves for good.
#[test]
fn who_leaves_hands_over_at_once() {
    let place = Place::new(
        &broker::shared().address,
        "leave",
        2,
        &[("session.timeout.ms", "30000")],
    );
    let mut stays = place.join(1);
    own(&place, &mut *stays, 2);
    let mut leaves = place.join(2);
    own_one_each(&place, [&mut *stays, &mut *leaves]);
    let began = Instant::now();
    leaves.leave();
    own(&place, &mut *stays, 2);
    println!("handed over in {:?}", began.elapsed());
    assert!(
        began.elapsed() < Duration::from_secs(8),
        "{:?}",
        began.elapsed()
    );
}

/// The broker closes idle connections. An idle member has no request on these connections and
/// continues unchanged.
#[test]
fn idle_connections_closed_by_the_broker_end_no_incarnation() {
    let broker = Broker::start_with(&["connections.max.idle.ms=5000"], true);
    let place = Place::new(&broker.address, "idle", 2, &[]);
    let mut member = place.join(1);
    own(&place, &mut *member, 2);
    assert!(time_one(&place, &mut *member, 1).0 < SOON);
    let began = Instant::now();
    let mut records = Records::new();
    while began.elapsed() < Duration::from_secs(30) {
        assert_eq!(
            member
                .poll(Duration::from_millis(100), LIMITS, &mut records)
                .expect("a poll"),
            Polled::Records
        );
        assert!(!member.suspect(), "after {:?}", began.elapsed());
    }

    assert!(time_one(&place, &mut *member, 0).0 < Duration::from_secs(5));
    assert!(!member.suspect());
}

/// The error of a poll after empty polls.
fn refusal(place: &Place, member: &mut dyn Member) -> LogError {
    let deadline = Instant::now() + SOON;
    let mut records = Records::new();
    loop {
        assert!(Instant::now() < deadline, "nothing is said");
        match member.poll(Duration::from_millis(50), LIMITS, &mut records) {
            Ok(Polled::Assigned(mine)) => resume(place, member, &mine),
            Ok(_) => {}
            Err(e) => return e,
        }
    }
}

#[test]
fn a_group_that_refuses_the_member_is_named_with_its_bounds() {
    let place = Place::new(
        &broker::shared().address,
        "session",
        1,
        &[("session.timeout.ms", "5000")],
    );
    let e = refusal(&place, &mut *place.join(1));
    let LogError::Refused(why) = e else {
        panic!("{e:?}")
    };

    for part in [
        "does not take this member in",
        "session.timeout.ms is 5000",
        "6000 to 1800000",
        "group.min.session.timeout.ms",
    ] {
        assert!(why.contains(part), "{part}: {why}");
    }
}

/// Librdkafka reports a batch with a wrong checksum once and continues behind it. The records of
/// the batch would be lost silently.
#[test]
fn damage_on_the_brokers_disk_ends_reading_and_skips_nothing() {
    let broker = Broker::start();
    let place = Place::new(&broker.address, "damage", 1, &[]);
    let mut appender = place.log.appender().expect("a writer");
    for value in ["the first", "the damaged", "the last"] {
        append(&mut *appender, 0, value);
        appender.flush(SOON).expect("flushing works");
    }

    broker.stop();
    let file = broker
        .data()
        .join(format!("{}-0", place.table.name(INPUT)))
        .join("00000000000000000000.log");
    let mut bytes = std::fs::read(&file).expect("a segment");
    let at = bytes
        .windows(11)
        .position(|w| w == b"the damaged")
        .expect("the record is there as it is");
    bytes[at] ^= 1;
    std::fs::write(&file, bytes).expect("a segment");
    broker.restart();

    let damaged = |e: LogError| {
        let LogError::Corrupt(why) = e else {
            panic!("{e:?}")
        };

        for part in [
            "input/0 cannot be read from offset 1",
            "CRC",
            "let a replica with a good copy lead",
            "nothing was skipped",
        ] {
            assert!(why.contains(part), "{part}: {why}");
        }
    };

    let mut reader = place
        .log
        .reader(INPUT, &[(0, StartOffset::Start)], false)
        .expect("a reader");
    let deadline = Instant::now() + SOON;
    let mut records = Records::new();
    let e = loop {
        assert!(Instant::now() < deadline, "nothing is said");
        if let Err(e) = reader.poll(Duration::from_millis(50), LIMITS, &mut records) {
            break e;
        }
    };

    damaged(e);
    assert!(records.len() <= 1, "nothing behind the damage");

    let mut member = place.join(1);
    own(&place, &mut *member, 1);
    let mut records = Records::new();
    let mut seen = Vec::new();
    let e = loop {
        assert!(Instant::now() < deadline, "nothing is said");
        records.clear();
        match member.poll(Duration::from_millis(50), LIMITS, &mut records) {
            Ok(_) => seen.extend(records.iter().map(|r| r.offset)),
            Err(e) => break e,
        }
    };

    damaged(e);
    assert_eq!(
        seen,
        [0],
        "what is before the damage is delivered, and nothing behind it"
    );
}
