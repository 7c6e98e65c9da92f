//! An EndTxn request is delayed on the wire. The client gives the request up, tries again and
//! begins the next transaction. The broker then takes the delayed request for the end of the next
//! transaction. The older transaction protocol is the only one that the client library speaks. Its
//! only protection is a new producer epoch (KIP-890 closes the gap in protocol v2).
//!
//! Seven scripts run on a real broker behind a proxy that holds the request back. A client that
//! keeps its producer is torn as the table says. Our client takes a new epoch after the suspicious
//! log line, and its transactions stay whole.

mod roles;

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use log_kafka::{KafkaLog, KafkaSettings};
use ports::records::{Headers, Record, Records};
use ports::topics::{Cleanup, TopicId, TopicPartition, TopicSpec, TopicTable};
use ports::{
    Committed, Limits, Log, Member, MemberInput, MemberSpec, Polled, StartOffset, Transaction,
    TransactionOutcome,
};
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use crate::support;
use crate::support::broker::unique_prefix;
use crate::support::cluster::Cluster;
use crate::support::proxy::{ADD_OFFSETS_TO_TXN, END_TXN};

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

/// Transaction N writes `n`, and its end is delayed. N+1 writes `a`, meets the delayed end, writes
/// `b` and ends. `b` goes to the same partition as `a`, or to a partition that N+1 has not used
/// yet.
#[derive(Clone, Copy, Debug)]
struct Script {
    n: End,
    same: bool,
    next: End,
    /// Records of N+1 that a read_committed reader sees if the client keeps its producer: right
    /// after the delayed end, and at the end.
    early: &'static str,
    late: &'static str,
    /// True if the client was told that N+1 succeeded.
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
    // Torn: half of the transaction is there, the other half was refused.
    script(End::Commit, true, End::Commit, "a", "a", false),
    // Whole at the end, but its first half was visible before the decision.
    script(End::Commit, false, End::Commit, "a", "ab", true),
    // Torn: an aborted record is visible, and the abort is fatal.
    script(End::Commit, true, End::Abort, "a", "a", false),
    // Torn: an aborted record is visible although the abort succeeded.
    script(End::Commit, false, End::Abort, "a", "a", true),
    // Torn: half of a dead process's transaction is visible.
    script(End::Commit, false, End::Dies, "a", "a", true),
    // Whole: no record is there, and the commit is refused.
    script(End::Abort, true, End::Commit, "", "", false),
    // Torn: the commit succeeded, but its first record is lost.
    script(End::Abort, false, End::Commit, "", "b", true),
];

fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| Cluster::start(1))
}

/// One installation of two topics, with its names.
struct Stage {
    prefix: String,
    log: KafkaLog,
}

impl Stage {
    fn new(name: &str) -> Stage {
        let prefix = unique_prefix(name);
        let spec = |name| TopicSpec::new(name, Cleanup::Keep);

        let specs = vec![spec("input"), spec("output")];
        let mut settings = KafkaSettings::new(&cluster().address());

        // librdkafka waits half of this time for an answer.
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

    /// The records that a read_committed reader sees, without `n`.
    fn visible(&self) -> String {
        let all = [
            (0, StartOffset::Start),
            (1, StartOffset::Start),
            (2, StartOffset::Start),
        ];
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

    /// The effects of the delayed end appear a moment after its answer, when the markers are
    /// written.
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

/// A plain producer.
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

/// Waits until all sent requests have been answered.
fn drain(producer: &BaseProducer) {
    let since = Instant::now();
    while producer.in_flight_count() > 0 && since.elapsed() < SOON {
        producer.poll(Duration::from_millis(5));
    }
}

/// Transaction N by a bare producer: it writes `n` and ends. Its request is held, and the client is
/// told that the end succeeded. Returns the held request.
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

    // A successor finishes the open transaction. Without a successor, the broker would abort it
    // after the transaction timeout.
    drop(producer(&stage.instance()));
    stage.wait_visible(s.late);
}

/// One incarnation of our member with one record in hand, as in the engine.
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

/// Our member: a suspicion after N makes the member join again, and the broker refuses the delayed
/// end.
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
        // Our client never aborts. Here another producer used our transactional id before and
        // aborted.
        bare_first(&stage, &producer(&stage.instance()), End::Abort)
    };

    // The engine does the same after a suspicion.
    let (mut member, at, offset) = join(&stage);
    assert_eq!(
        offset,
        u64::from(s.n == End::Commit),
        "N counts, or not, whatever the delayed request still wants"
    );

    // Both records are written and the transaction is undecided when the delayed end arrives.
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

            // Records that the delayed end made visible would be read in this time.
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

    // The successor finds all of the transaction or none, and continues there.
    let (_, _, next) = join(&stage);
    assert_eq!(next, offset + u64::from(committing));
    stage.wait_visible(if committing { "ab" } else { "" });
    paused.release();
}

#[test]
fn a_client_that_keeps_its_producer_is_torn() {
    // All at once, because each script mostly waits for a timeout.
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
