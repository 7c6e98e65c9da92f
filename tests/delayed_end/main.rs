//! A request that ends a transaction, delayed on the wire until the client has given it up, retried
//! it and begun the next transaction: the broker takes it for the end of that one. The older
//! transaction protocol, the only one that the client library speaks, has nothing against it but a
//! new producer epoch. Seven scripts, each on a real broker behind a proxy that holds the request
//! back: a client that keeps its producer is torn as the table says; ours, which takes a new epoch
//! after the suspicious log line, is whole.

#![cfg(all(feature = "kafka", feature = "rocks", feature = "faults"))]

mod roles;
#[path = "../support/mod.rs"]
mod support;

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use log_kafka::{KafkaLog, KafkaSettings};
use ports::records::{Headers, Record, Records};
use ports::topics::{Cleanup, Partitions, TopicId, TopicPartition, TopicSpec, TopicTable};
use ports::{
    Committed, From, Limits, Log, Member, MemberInput, MemberSpec, Polled, Transaction,
    TransactionOutcome,
};
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use support::broker::unique_prefix;
use support::cluster::Cluster;
use support::proxy::{ADD_OFFSETS_TO_TXN, END_TXN};

const INPUT: TopicId = TopicId(0);
const OUTPUT: TopicId = TopicId(1);
const SOON: Duration = Duration::from_secs(30);
const NONE: i16 = 0;
const INVALID_PRODUCER_EPOCH: i16 = 47;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Commit,
    Abort,
    Dies,
}

/// N writes `n`, and its end is delayed. N+1 writes `a`, meets the delayed end, writes `b` (to the
/// same partition as `a`, or to one that it has not used yet) and ends.
#[derive(Clone, Copy, Debug)]
struct Script {
    n: End,
    same: bool,
    next: End,
    /// What a reader of committed records sees of N+1 of a client that keeps its producer: right
    /// after the delayed end, and in the end.
    early: &'static str,
    late: &'static str,
    /// Whether the client was told that N+1 went well.
    told_ok: bool,
}

const fn script(
    n: End,
    same: bool,
    next: End,
    early: &'static str,
    late: &'static str,
    told_ok: bool,
) -> Script {
    Script {
        n,
        same,
        next,
        early,
        late,
        told_ok,
    }
}

const SCRIPTS: [Script; 7] = [
    // Torn: half of it is there, the other half refused.
    script(End::Commit, true, End::Commit, "a", "a", false),
    // Whole in the end, but its first half was visible before it was decided.
    script(End::Commit, false, End::Commit, "a", "ab", true),
    // Torn: an aborted record is visible, and the abort is fatal.
    script(End::Commit, true, End::Abort, "a", "a", false),
    // Torn: an aborted record is visible although the abort went well.
    script(End::Commit, false, End::Abort, "a", "a", true),
    // Torn: half of a transaction of a process that died is visible.
    script(End::Commit, false, End::Dies, "a", "a", true),
    // Whole: nothing of it is there, and the commit is refused.
    script(End::Abort, true, End::Commit, "", "", false),
    // Torn: the commit went well, and its first record is lost.
    script(End::Abort, false, End::Commit, "", "b", true),
];

fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| Cluster::start(1))
}

/// One installation of two topics, and whatever goes by its name.
struct Stage {
    prefix: String,
    log: KafkaLog,
}

impl Stage {
    fn new(name: &str) -> Stage {
        let prefix = unique_prefix(name);
        let spec = |name| TopicSpec {
            name,
            partitions: Partitions::Many,
            cleanup: Cleanup::Keep,
            append_time: false,
            record_bytes_max: 1 << 20,
        };

        let specs = vec![spec("input"), spec("output")];
        let mut settings = KafkaSettings::new(&cluster().address());

        // Also how long librdkafka waits for an answer: half of it.
        settings.transaction_timeout = Duration::from_secs(4);
        let log = KafkaLog::new(settings, Arc::new(TopicTable::new(&prefix, specs.clone())));
        log.create_topic(INPUT, &specs[0], 1).expect("a topic");
        log.create_topic(OUTPUT, &specs[1], 3).expect("a topic");
        Stage { prefix, log }
    }

    fn instance(&self) -> String {
        format!("{}copy-1", self.prefix)
    }

    fn send(&self, producer: &BaseProducer, partition: i32, value: &str) {
        let topic = format!("{}output", self.prefix);
        producer
            .send(
                BaseRecord::<(), str>::to(&topic)
                    .partition(partition)
                    .payload(value),
            )
            .expect("there is room");

        drain(producer);
    }

    /// What a reader of committed records sees, without `n`.
    fn visible(&self) -> String {
        let all = [(0, From::Start), (1, From::Start), (2, From::Start)];
        let mut reader = self.log.reader(OUTPUT, &all, false).expect("a reader");
        let (mut records, limits) = (
            Records::new(),
            Limits {
                records: 100,
                bytes: 1 << 20,
                age: SOON,
            },
        );

        while !reader.caught_up() {
            reader
                .poll(Duration::from_millis(20), limits, &mut records)
                .expect("a read");
        }

        let mut seen: Vec<_> = records
            .iter()
            .map(|r| String::from_utf8_lossy(r.value.unwrap_or_default()).into_owned())
            .collect();
        seen.sort();
        seen.retain(|v| v != "n");
        seen.concat()
    }

    /// The delayed end's effects show a moment after it was answered: markers are written then.
    fn wait_visible(&self, want: &str) {
        let since = Instant::now();
        while self.visible() != want {
            assert!(
                since.elapsed() < SOON,
                "`{}` is visible where `{want}` was due",
                self.visible()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// A producer as anybody would make it.
fn producer(transactional_id: &str) -> BaseProducer {
    let producer: BaseProducer = rdkafka::ClientConfig::new()
        .set("bootstrap.servers", cluster().address())
        .set("transactional.id", transactional_id)
        .set("transaction.timeout.ms", "10000")
        .set("socket.timeout.ms", "2000")
        .set("request.timeout.ms", "1500")
        .set("linger.ms", "0")
        .create()
        .expect("a producer");

    producer
        .init_transactions(SOON)
        .expect("transactions can be used");
    producer
}

/// Waits until all that was sent has been answered.
fn drain(producer: &BaseProducer) {
    let since = Instant::now();
    while producer.in_flight_count() > 0 && since.elapsed() < SOON {
        producer.poll(Duration::from_millis(5));
    }
}

/// N by a bare producer: it writes `n` and ends, its request is held, and the client is told that
/// all is well. Answers the held request.
fn bare_first(stage: &Stage, producer: &BaseProducer, end: End) -> Arc<support::proxy::Ticket> {
    producer.begin_transaction().expect("N begins");
    stage.send(producer, 0, "n");
    let held = cluster().faults.hold(END_TXN, &stage.prefix, 1);
    let told = if end == End::Commit {
        producer.commit_transaction(SOON)
    } else {
        producer.abort_transaction(SOON)
    };

    assert_eq!(
        told.map_err(|e| e.to_string()),
        Ok(()),
        "librdkafka hides the timeout"
    );
    held.wait_held(Duration::ZERO);
    held
}

/// A client that keeps its producer.
fn keeps_its_producer(number: usize, s: Script) {
    let stage = Stage::new(&format!("bare{number}"));
    let client = producer(&stage.instance());
    let held = bare_first(&stage, &client, s.n);
    client.begin_transaction().expect("N+1 begins");
    stage.send(&client, 1, "a");
    held.release();
    assert_eq!(
        held.answer(SOON),
        NONE,
        "the broker takes the delayed end for that of N+1"
    );
    stage.wait_visible(s.early);
    stage.send(&client, if s.same { 1 } else { 2 }, "b");
    let told = match s.next {
        End::Commit => client.commit_transaction(Duration::from_secs(12)),
        End::Abort => client.abort_transaction(Duration::from_secs(12)),
        End::Dies => Ok(()),
    };

    println!("script {number} {s:?}: the client was told {told:?}");
    assert_eq!(told.is_ok(), s.told_ok, "{told:?}");
    if (s.same, s.next) == (true, End::Abort) {
        assert!(
            matches!(&told, Err(KafkaError::Transaction(e)) if e.is_fatal()),
            "{told:?}"
        );
    }

    // Its successor finishes what it left; without one, the broker would do so after the
    // transaction's timeout.
    drop(producer(&stage.instance()));
    stage.wait_visible(s.late);
}

/// As the engine uses it: one incarnation of our member, with one record in hand.
fn join(stage: &Stage) -> (Box<dyn Member>, TopicPartition, u64) {
    let spec = MemberSpec {
        group: format!("{}copy", stage.prefix),
        instance: stage.instance(),
        inputs: vec![MemberInput {
            topic: INPUT,
            headers: false,
        }],
        linger: Duration::ZERO,
    };

    let mut member = stage.log.join(&spec).expect("joining works");
    let mut records = Records::new();
    let since = Instant::now();
    let limits = Limits {
        records: 1,
        bytes: 1 << 20,
        age: SOON,
    };

    loop {
        assert!(since.elapsed() < SOON, "nothing came");
        if let Polled::Assigned(at) = member
            .poll(Duration::from_millis(50), limits, &mut records)
            .expect("a poll")
        {
            let Committed::Stable(offsets) =
                stage.log.committed(&spec.group, &at).expect("offsets")
            else {
                panic!("nothing is pending after joining")
            };

            member
                .resume(&[(at[0], offsets[0].unwrap_or(0))])
                .expect("resuming works");
        }

        if let Some(r) = records.iter().next() {
            return (member, r.at, r.offset);
        }
    }
}

fn outputs(values: &[(u32, &str)]) -> Records {
    let mut out = Records::new();
    for (partition, value) in values {
        let at = TopicPartition::new(OUTPUT, *partition);
        out.push(&Record {
            at,
            offset: 0,
            timestamp_ms: 1,
            key: None,
            value: Some(value.as_bytes()),
            headers: Headers::default(),
        });
    }

    out
}

/// Our member: suspicion after N makes it join anew, and the delayed end is refused.
fn takes_a_new_epoch(number: usize, s: Script) {
    let stage = Stage::new(&format!("ours{number}"));
    let mut appender = stage.log.appender().expect("an appender");
    for i in 0..4 {
        let at = TopicPartition::new(INPUT, 0);
        let value = format!("{i}");
        let record = Record {
            at,
            offset: 0,
            timestamp_ms: 1,
            key: None,
            value: Some(value.as_bytes()),
            headers: Headers::default(),
        };

        appender.append(&record).expect("an append");
    }

    appender.flush(SOON).expect("a flush");
    let faults = &cluster().faults;
    let held = if s.n == End::Commit {
        let (mut member, at, offset) = join(&stage);
        let held = faults.hold(END_TXN, &stage.prefix, 1);
        let outcome = member.transact(&Transaction {
            outputs: &outputs(&[(0, "n")]),
            offsets: &[(at, offset + 1)],
        });

        assert!(
            matches!(outcome, TransactionOutcome::Committed { suspect: true, .. }),
            "{outcome:?}"
        );
        assert!(member.suspect());
        held
    } else {
        // Ours never aborts; one who did had our name before us.
        bare_first(&stage, &producer(&stage.instance()), End::Abort)
    };

    // This is what the engine does on suspicion.
    let (mut member, at, offset) = join(&stage);
    assert_eq!(
        offset,
        u64::from(s.n == End::Commit),
        "N counts, or not, whatever the delayed request still wants"
    );

    // Both records are written and nothing is decided when the delayed end arrives.
    let committing = s.next == End::Commit;
    let paused = faults.hold(
        ADD_OFFSETS_TO_TXN,
        &stage.prefix,
        if committing { 1 } else { 1_000 },
    );
    let outcome = std::thread::scope(|scope| {
        let main = scope.spawn(|| {
            paused.wait_held(SOON);
            held.release();
            assert_eq!(
                held.answer(SOON),
                INVALID_PRODUCER_EPOCH,
                "the delayed end has an old epoch"
            );
            std::thread::sleep(Duration::from_millis(200));
            assert_eq!(
                stage.visible(),
                "",
                "nothing is visible before it is decided"
            );
            if committing {
                paused.release();
            }
        });

        let values = outputs(&[(1, "a"), (if s.same { 1 } else { 2 }, "b")]);
        let outcome = member.transact(&Transaction {
            outputs: &values,
            offsets: &[(at, offset + 1)],
        });

        main.join().expect("the delayed end was refused");
        outcome
    });

    println!("script {number} {s:?}: ours was told {outcome:?}");
    assert!(
        matches!(
            (&outcome, committing),
            (TransactionOutcome::Committed { .. }, true)
                | (
                    TransactionOutcome::NotCommitted(_) | TransactionOutcome::Late { .. },
                    false
                )
        ),
        "{outcome:?}"
    );

    drop(member);

    // Whoever comes next finds all of it or nothing, and continues there.
    let (_, _, next) = join(&stage);
    assert_eq!(next, offset + u64::from(committing));
    stage.wait_visible(if committing { "ab" } else { "" });
    paused.release();
}

#[test]
fn a_client_that_keeps_its_producer_is_torn() {
    // Together, since each of them mostly waits for a timeout.
    std::thread::scope(|scope| {
        for (i, s) in SCRIPTS.into_iter().enumerate() {
            scope.spawn(move || keeps_its_producer(i + 1, s));
        }
    });
}

#[test]
fn ours_is_whole() {
    std::thread::scope(|scope| {
        for (i, s) in SCRIPTS.into_iter().enumerate() {
            scope.spawn(move || takes_a_new_epoch(i + 1, s));
        }
    });
}
