//! Several incarnations of one instance on a real broker, in several processes: frozen and thawed,
//! started twice, killed within a transaction. No instance may stay fenced for ever, no replaced
//! process may stay, and every record is copied exactly once.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use log_kafka::{KafkaLog, KafkaSettings};
use ports::records::{Headers, Record, Records};
use ports::topics::{Cleanup, Partitions, TopicId, TopicPartition, TopicSpec, TopicTable};
use ports::{
    Committed, Limits, Log, LogError, MemberInput, MemberSpec, Polled, StartOffset, Transaction,
    TransactionOutcome,
};

use crate::support::broker;

const INPUT: TopicId = TopicId(0);
const OUTPUT: TopicId = TopicId(1);
const WIDE: Limits = Limits {
    records: 100,
    bytes: 1 << 20,
    age: Duration::from_secs(1),
};

/// Clients write to the first topic, so the broker stamps its records. With old client timestamps a
/// restarted broker would take the producer for expired and forget it, together with the sequence
/// numbers of its records.
fn specs() -> Vec<TopicSpec> {
    let spec = |name, append_time| TopicSpec {
        name,
        partitions: Partitions::Many,
        cleanup: Cleanup::Keep,
        append_time,
        record_bytes_max: 1 << 20,
    };

    vec![spec("input", true), spec("output", false)]
}

fn log_on(broker: &str, prefix: &str) -> KafkaLog {
    let mut settings = KafkaSettings::new(broker);
    settings.transaction_timeout = Duration::from_secs(4);
    settings
        .properties
        .push(("session.timeout.ms".into(), "6000".into()));
    KafkaLog::new(settings, Arc::new(TopicTable::new(prefix, specs())))
}

fn make_topics(log: &KafkaLog) {
    for (topic, spec) in [INPUT, OUTPUT].into_iter().zip(specs()) {
        log.create_topic(topic, &spec, 2)
            .expect("the topic can be made");
    }
}

/// End of a worker.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Stopped,
    Fenced,
}

/// Copies input to output exactly once, and recovers from all errors except a newer instance. The
/// worker is the engine's loop without state.
fn work(
    log: &KafkaLog,
    prefix: &str,
    name: &str,
    stop: &AtomicBool,
    say: &mut dyn FnMut(&str),
) -> End {
    let spec = MemberSpec {
        group: format!("{prefix}group"),
        instance: format!("{prefix}{name}"),
        inputs: vec![MemberInput {
            topic: INPUT,
            headers: false,
        }],
        linger: Duration::ZERO,
    };

    loop {
        match incarnation(log, &spec, stop, say) {
            Ok(()) => return End::Stopped,
            Err(LogError::Fenced(_)) => return End::Fenced,
            Err(e) => say(&format!("recovering: {e}")),
        }
    }
}

fn incarnation(
    log: &KafkaLog,
    spec: &MemberSpec,
    stop: &AtomicBool,
    say: &mut dyn FnMut(&str),
) -> Result<(), LogError> {
    let mut member = log.join(spec)?;
    say("joined");
    let mut batch = Records::new();
    let mut out = Records::new();
    let mut waiting = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        if member.suspect() {
            return Err(LogError::Unavailable("suspect".into()));
        }

        batch.clear();
        match member.poll(Duration::from_millis(20), WIDE, &mut batch)? {
            Polled::Assigned(partitions) => {
                say("assigned");
                waiting = partitions;
            }
            Polled::Revoked { .. } => waiting.clear(),
            Polled::Records => {}
        }

        if !waiting.is_empty() {
            match log.committed(&spec.group, &waiting)? {
                Committed::Stable(offsets) => {
                    let positions: Vec<_> = waiting
                        .drain(..)
                        .zip(offsets)
                        .map(|(at, o)| (at, o.unwrap_or(0)))
                        .collect();
                    member.resume(&positions)?;
                    say("resumed");
                }
                Committed::Pending => say("offsets are pending"),
            }
        }

        if batch.is_empty() {
            continue;
        }

        out.clear();
        let mut offsets = BTreeMap::new();
        for r in batch.iter() {
            out.push(&Record {
                at: TopicPartition::new(OUTPUT, r.at.partition),
                offset: 0,
                ..r
            });

            offsets.insert(r.at, r.offset + 1);
        }

        let offsets: Vec<_> = offsets.into_iter().collect();
        match member.transact(&Transaction {
            outputs: &out,
            offsets: &offsets,
        }) {
            TransactionOutcome::Committed { suspect: false, .. } => say("committed"),
            TransactionOutcome::Committed { .. } => {
                return Err(LogError::Unavailable("suspect commit".into()));
            }
            TransactionOutcome::Fenced(why) => return Err(LogError::Fenced(why)),
            TransactionOutcome::Refused(why) => return Err(LogError::Invalid(why)),
            TransactionOutcome::NotCommitted(why)
            | TransactionOutcome::Unknown(why)
            | TransactionOutcome::Late { why, .. } => {
                return Err(LogError::Unavailable(why));
            }
            TransactionOutcome::Rejected(rejection) => {
                return Err(LogError::Invalid(rejection.text));
            }
        }
    }

    Ok(())
}

/// Appends numbered records, a few each time, until stopped; returns their number.
fn feed(log: &KafkaLog, stop: &AtomicBool) -> usize {
    let mut appender = log.appender().expect("a writer");
    let mut n = 0;
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..5 {
            let value = n.to_string();
            let at = TopicPartition::new(INPUT, (n % 2) as u32);
            let record = Record {
                at,
                offset: 0,
                timestamp_ms: 1,
                key: None,
                value: Some(value.as_bytes()),
                headers: Headers::default(),
            };

            appender.append(&record).expect("appending works");
            n += 1;
        }

        appender
            .flush(Duration::from_secs(30))
            .expect("flushing works");
        std::thread::sleep(Duration::from_millis(20));
    }

    n
}

/// Waits for all `count` records, and checks that each exists once and in order: first the clients'
/// records, then the copies.
fn check(log: &KafkaLog, count: usize) {
    for (topic, what) in [(INPUT, "written"), (OUTPUT, "copied")] {
        check_topic(log, topic, what, count);
    }
}

fn check_topic(log: &KafkaLog, topic: TopicId, what: &str, count: usize) {
    let mut reader = log
        .reader(
            topic,
            &[(0, StartOffset::Start), (1, StartOffset::Start)],
            false,
        )
        .expect("a reader");
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut records = Records::new();
    let mut seen = [Vec::new(), Vec::new()];
    while seen[0].len() + seen[1].len() < count {
        assert!(
            Instant::now() < deadline,
            "{} of {count} records were {what}",
            seen[0].len() + seen[1].len()
        );
        records.clear();
        reader
            .poll(Duration::from_millis(200), WIDE, &mut records)
            .expect("reading works");
        for r in records.iter() {
            let n: usize = std::str::from_utf8(r.value.expect("a value"))
                .expect("text")
                .parse()
                .expect("a number");
            seen[r.at.partition as usize].push(n);
        }
    }

    for (partition, seen) in seen.iter().enumerate() {
        let expected: Vec<_> = (0..count).filter(|n| n % 2 == partition).collect();
        let odd = seen.windows(2).find(|w| w[1] != w[0] + 2);
        assert!(
            *seen == expected,
            "partition {partition}: {} {what} of {}, first break at {odd:?}",
            seen.len(),
            expected.len()
        );
    }
}

/// A worker in another process: this test binary, started again.
struct Worker {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Worker {
    fn start(broker: &str, prefix: &str, name: &str) -> Worker {
        let mut child = Command::new(std::env::current_exe().expect("this binary"))
            .args(["--exact", "kafka_instances::worker_process", "--nocapture"])
            .env("WORKER", format!("{broker} {prefix} {name}"))
            .stdout(Stdio::piped())
            .spawn()
            .expect("a second process");
        let out = child.stdout.take().expect("its output");
        let lines = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&lines);
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                into.lock().expect("lines").push(line);
            }
        });

        Worker { child, lines }
    }

    fn count(&self, what: &str) -> usize {
        self.lines
            .lock()
            .expect("lines")
            .iter()
            .filter(|l| l.contains(what))
            .count()
    }

    fn wait_for(&self, what: &str, times: usize) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.count(what) < times {
            assert!(
                Instant::now() < deadline,
                "`{what}` did not come {times} times: {:?}",
                self.lines.lock().expect("lines")
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn signal(&self, name: &str) {
        let done = Command::new("kill")
            .args(["-s", name, &self.child.id().to_string()])
            .status()
            .expect("kill");
        assert!(done.success());
    }

    fn kill(mut self) {
        self.child.kill().expect("kill -9");
        self.child.wait().expect("its end");
    }
}

/// The code of the second process. Without the variable this test does nothing.
#[test]
fn worker_process() {
    let Ok(args) = std::env::var("WORKER") else {
        return;
    };

    let args: Vec<_> = args.split(' ').collect();
    let log = log_on(args[0], args[1]);
    let end = work(
        &log,
        args[1],
        args[2],
        &AtomicBool::new(false),
        &mut |line| println!("{line}"),
    );

    println!("end: {end:?}");
}

/// Frozen beyond session and transaction timeout. No other instance takes the work; the worker
/// recovers and continues.
#[test]
fn a_frozen_instance_recovers_when_thawed() {
    let (broker, prefix) = (&broker::shared().address, broker::unique_prefix("frozen"));
    let log = log_on(broker, &prefix);
    make_topics(&log);
    let stop = AtomicBool::new(false);
    std::thread::scope(|s| {
        let _stop = StopAtEnd(&[&stop]);
        let feeder = s.spawn(|| feed(&log, &stop));
        let worker = Worker::start(broker, &prefix, "a-1");
        worker.wait_for("committed", 20);
        worker.signal("STOP");

        // The freeze must outlast the session and the transaction timeout of the worker.
        std::thread::sleep(Duration::from_secs(10));
        let before = worker.count("committed");
        worker.signal("CONT");
        worker.wait_for("committed", before + 20);
        assert_eq!(worker.count("end:"), 0, "a single instance must not stop");
        stop.store(true, Ordering::Relaxed);
        let count = feeder.join().expect("the feeder's end");
        check(&log, count);
        println!("joined {} times", worker.count("joined"));
        worker.kill();
    });
}

/// The instance is frozen for a long time. Another instance takes its tasks over and ends its open
/// transaction under its transactional id. Its producer is then fenced, but its group membership is
/// free, so the instance returns and works again.
#[test]
fn an_instance_whose_transaction_another_ended_comes_back() {
    let (broker, prefix) = (&broker::shared().address, broker::unique_prefix("ended"));
    let log = log_on(broker, &prefix);
    make_topics(&log);
    let stop = AtomicBool::new(false);
    std::thread::scope(|s| {
        let _stop = StopAtEnd(&[&stop]);
        let feeder = s.spawn(|| feed(&log, &stop));
        let stays = Worker::start(broker, &prefix, "a-1");
        stays.wait_for("committed", 20);
        let frozen = Worker::start(broker, &prefix, "a-2");
        frozen.wait_for("committed", 20);
        let before = stays.count("resumed");
        frozen.signal("STOP");
        stays.wait_for("resumed", before + 1);
        let so_far = stays.count("committed");
        stays.wait_for("committed", so_far + 20);
        let before = frozen.count("committed");
        frozen.signal("CONT");
        frozen.wait_for("committed", before + 20);
        let so_far = stays.count("committed");
        stays.wait_for("committed", so_far + 20);
        assert_eq!(
            (stays.count("end:"), frozen.count("end:")),
            (0, 0),
            "nobody stops over this"
        );
        stop.store(true, Ordering::Relaxed);
        let count = feeder.join().expect("the feeder's end");
        check(&log, count);
        println!(
            "joined {} and {} times",
            stays.count("joined"),
            frozen.count("joined")
        );
        stays.kill();
        frozen.kill();
    });
}

/// Started twice under one name while working: the older process ends, the newer continues, and
/// they do not fence each other for ever.
#[test]
fn of_two_processes_with_one_name_the_older_ends() {
    let (broker, prefix) = (&broker::shared().address, broker::unique_prefix("twice"));
    let log = log_on(broker, &prefix);
    make_topics(&log);
    let stop = AtomicBool::new(false);
    std::thread::scope(|s| {
        let _stop = StopAtEnd(&[&stop]);
        let feeder = s.spawn(|| feed(&log, &stop));
        let older = Worker::start(broker, &prefix, "a-1");
        older.wait_for("committed", 20);
        let newer = Worker::start(broker, &prefix, "a-1");
        older.wait_for("end: Fenced", 1);
        let so_far = newer.count("committed");
        newer.wait_for("committed", so_far + 50);
        assert_eq!(newer.count("end:"), 0, "the newer one stays");
        println!(
            "joined {} and {} times",
            older.count("joined"),
            newer.count("joined")
        );
        assert_eq!(newer.count("joined"), 1, "nobody fenced it");
        stop.store(true, Ordering::Relaxed);
        let count = feeder.join().expect("the feeder's end");
        check(&log, count);
        older.kill();
        newer.kill();
    });
}

/// Killed with -9 again and again under load. Its successor under the same name continues at once.
#[test]
fn killed_instances_lose_and_repeat_nothing() {
    let (broker, prefix) = (&broker::shared().address, broker::unique_prefix("killed"));
    let log = log_on(broker, &prefix);
    make_topics(&log);
    let stop = AtomicBool::new(false);
    std::thread::scope(|s| {
        let _stop = StopAtEnd(&[&stop]);
        let feeder = s.spawn(|| feed(&log, &stop));
        for round in 0..6 {
            let started = Instant::now();
            let worker = Worker::start(broker, &prefix, "a-1");
            worker.wait_for("committed", 1);
            println!("round {round}: first commit after {:?}", started.elapsed());
            worker.wait_for("committed", 10 + round);
            worker.kill();
        }

        let last = Worker::start(broker, &prefix, "a-1");
        stop.store(true, Ordering::Relaxed);
        let count = feeder.join().expect("the feeder's end");
        check(&log, count);
        last.kill();
    });
}

/// Sets the flag at every exit from the scope. A failed assertion then does not wait for threads
/// that never stop.
struct StopAtEnd<'a>(&'a [&'a AtomicBool]);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0
            .iter()
            .for_each(|flag| flag.store(true, Ordering::Relaxed));
    }
}

/// The broker dies and returns under a working member.
#[test]
fn a_broker_that_is_killed_and_restarted_costs_nothing_but_time() {
    let broker = broker::Broker::start();
    let log = log_on(&broker.address, "crash-");
    make_topics(&log);
    let commits = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    let stop_feeding = AtomicBool::new(false);
    std::thread::scope(|s| {
        let _stop = StopAtEnd(&[&stop, &stop_feeding]);
        let feeder = s.spawn(|| feed(&log, &stop_feeding));
        let worker = s.spawn(|| {
            let worker_log = log_on(&broker.address, "crash-");
            work(&worker_log, "crash-", "a-1", &stop, &mut |line| {
                if line == "committed" {
                    commits.fetch_add(1, Ordering::Relaxed);
                } else {
                    println!("{line}");
                }
            })
        });

        let wait = |n: usize| {
            let until = commits.load(Ordering::Relaxed) + n;
            let deadline = Instant::now() + Duration::from_secs(90);
            while commits.load(Ordering::Relaxed) < until {
                assert!(Instant::now() < deadline, "the member does not go on");
                std::thread::sleep(Duration::from_millis(20));
            }
        };

        wait(20);
        let kills = std::env::var("BROKER_KILLS")
            .ok()
            .and_then(|n| n.parse().ok())
            .unwrap_or(2);
        for _ in 0..kills {
            let killed = Instant::now();
            broker.kill();
            broker.restart();
            let back = killed.elapsed();
            wait(20);
            println!(
                "back after {back:?}, 20 commits after {:?}",
                killed.elapsed()
            );
        }

        stop_feeding.store(true, Ordering::Relaxed);
        let count = feeder.join().expect("the feeder's end");
        check(&log, count);
        stop.store(true, Ordering::Relaxed);
        assert_eq!(worker.join().expect("the worker's end"), End::Stopped);
    });
}
