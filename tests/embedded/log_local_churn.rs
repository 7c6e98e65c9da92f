//! Instances of one group come and go, are replaced by newer ones and continue as zombies.
//! Meanwhile a client writes and the log is compacted. Each instance copies its input to the output
//! in transactions. The output must always equal the input: no record lost, doubled or reordered.
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use log_local::{LocalLog, LocalOptions, Memory};
use ports::records::{Headers, Record, Records};
use ports::topics::{Cleanup, TopicId, TopicPartition, TopicSpec, TopicTable};
use ports::{
    Committed, Limits, Log, LogError, MemberInput, MemberSpec, Polled, StartOffset, Transaction,
    TransactionOutcome,
};

const INPUT: TopicId = TopicId(0);
const OUTPUT: TopicId = TopicId(1);
const STATE: TopicId = TopicId(2);
const PARTITIONS: u32 = 5;
const EACH: u64 = 40_000;
const PATIENCE: Duration = Duration::from_secs(120);

fn table() -> TopicTable {
    TopicTable::new(
        "",
        vec![
            TopicSpec::new("input", Cleanup::Keep),
            TopicSpec::new("output", Cleanup::Keep),
            TopicSpec::new("state", Cleanup::Compact),
        ],
    )
}

fn options() -> LocalOptions {
    LocalOptions {
        tail_bytes: 3_000,
        compact_bytes: 50_000,
        rejoin: Duration::from_millis(3),
        ..LocalOptions::default()
    }
}

/// Pseudo-random numbers that are the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

#[derive(Default)]
struct Count {
    commits: AtomicU64,
    refused: AtomicU64,
    fenced: AtomicU64,
    revoked: AtomicU64,
}

/// Runs one incarnation after another until all records are copied.
fn copier(log: &LocalLog, instance: u64, seed: u64, done: &AtomicBool, count: &Count) {
    let mut dice = Dice(seed);
    let mut input = Records::new();
    let mut output = Records::new();
    'incarnation: while !done.load(Ordering::Relaxed) {
        let inputs = vec![MemberInput {
            topic: INPUT,
            headers: false,
        }];
        let mut member = log
            .join(&MemberSpec {
                group: "g".into(),
                instance: format!("g-{instance}"),
                inputs,
                linger: Duration::ZERO,
            })
            .expect("joins");

        while !done.load(Ordering::Relaxed) {
            if dice.roll(25) == 0 {
                continue 'incarnation;
            }

            if dice.roll(80) == 0 {
                // For the other members, this instance goes away for good.
                drop(member);
                std::thread::sleep(Duration::from_millis(6));
                continue 'incarnation;
            }

            input.clear();
            let limits = Limits {
                records: 1 + dice.roll(100) as usize,
                bytes: 1 << 20,
                age: Duration::from_secs(1),
            };

            match member.poll(Duration::from_millis(5), limits, &mut input) {
                Ok(Polled::Records) => {}
                Ok(Polled::Revoked { .. }) => {
                    count.revoked.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
                Ok(Polled::Assigned(partitions)) => {
                    let Ok(Committed::Stable(offsets)) = log.committed("g", &partitions) else {
                        continue 'incarnation;
                    };

                    let from: Vec<_> = partitions
                        .into_iter()
                        .zip(offsets.into_iter().map(|o| o.unwrap_or(0)))
                        .collect();
                    member.resume(&from).expect("resumes");
                    continue;
                }
                Err(LogError::Fenced(_)) => {
                    count.fenced.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(dice.roll(20)));
                    continue 'incarnation;
                }
                Err(e) => panic!("{e}"),
            }

            let mut offsets = std::collections::BTreeMap::new();
            output.clear();
            for r in input.iter() {
                output.push(&Record {
                    at: TopicPartition::new(OUTPUT, r.at.partition),
                    ..r
                });

                output.push(&Record {
                    at: TopicPartition::new(STATE, r.at.partition),
                    key: Some(b"position"),
                    ..r
                });

                offsets.insert(r.at, r.offset + 1);
            }

            if offsets.is_empty() {
                continue;
            }

            match member.transact(&Transaction {
                outputs: &output,
                offsets: &offsets.into_iter().collect::<Vec<_>>(),
            }) {
                TransactionOutcome::Committed { .. } => {
                    count.commits.fetch_add(1, Ordering::Relaxed)
                }
                TransactionOutcome::NotCommitted(_) => {
                    count.refused.fetch_add(1, Ordering::Relaxed);
                    continue 'incarnation;
                }
                TransactionOutcome::Fenced(_) => {
                    count.fenced.fetch_add(1, Ordering::Relaxed);
                    continue 'incarnation;
                }
                other => panic!("{other:?}"),
            };
        }
    }
}

fn churn(log: &LocalLog) {
    let table = table();
    for topic in table.iter() {
        log.create_topic(topic, table.spec(topic), PARTITIONS)
            .expect("a topic");
    }

    let done = AtomicBool::new(false);
    let count = Count::default();
    std::thread::scope(|scope| {
        // Two of the four have the same name and repeatedly fence each other.
        for (thread, instance) in [(1, 1), (2, 2), (3, 10), (4, 2)] {
            let done = &done;
            let count = &count;
            scope.spawn(move || copier(log, instance, 0x9E37_79B9 * thread, done, count));
        }

        let mut reader = log
            .reader(
                OUTPUT,
                &(0..PARTITIONS)
                    .map(|p| (p, StartOffset::Start))
                    .collect::<Vec<_>>(),
                false,
            )
            .expect("a reader");

        scope.spawn(move || {
            let mut appender = log.appender().expect("a client can write");
            for i in 0..EACH {
                for partition in 0..PARTITIONS {
                    let value = i.to_be_bytes();
                    let at = TopicPartition::new(INPUT, partition);
                    let r = Record {
                        at,
                        offset: 0,
                        timestamp_ms: 7,
                        key: None,
                        value: Some(&value),
                        headers: Headers::default(),
                    };

                    appender.append(&r).expect("appending works");
                }
            }

            appender.flush(PATIENCE).expect("flushing works");
        });

        // Reads all the time, like a client that must never see a record vanish, come twice or come
        // early.
        let mut next = [0; PARTITIONS as usize];
        let mut records = Records::new();
        let until = Instant::now() + PATIENCE;
        while next.iter().any(|n| *n < EACH) {
            records.clear();
            reader
                .poll(
                    Duration::from_millis(50),
                    Limits {
                        records: 500,
                        bytes: 1 << 20,
                        age: PATIENCE,
                    },
                    &mut records,
                )
                .expect("reading works");

            for r in records.iter() {
                let next = &mut next[r.at.partition as usize];
                let value =
                    u64::from_be_bytes(r.value.expect("a value").try_into().expect("eight bytes"));
                if value != *next {
                    done.store(true, Ordering::Relaxed);
                    panic!(
                        "partition {} has {value} where {next} was due",
                        r.at.partition
                    );
                }

                *next += 1;
            }

            if Instant::now() > until {
                done.store(true, Ordering::Relaxed);
                panic!("not done in time: {next:?}");
            }
        }

        done.store(true, Ordering::Relaxed);
    });

    for partition in 0..PARTITIONS {
        let end = |topic| {
            log.bounds(TopicPartition::new(topic, partition))
                .expect("bounds")
                .end
        };

        assert_eq!((end(OUTPUT), end(STATE)), (EACH, EACH));
        assert_eq!(
            log.group_offsets("g", &[TopicPartition::new(INPUT, partition)])
                .expect("offsets"),
            [Some(end(INPUT))]
        );
    }

    let n = |c: &AtomicU64| c.load(Ordering::Relaxed);
    println!(
        "{} commits, {} refused, {} fenced, {} revoked",
        n(&count.commits),
        n(&count.refused),
        n(&count.fenced),
        n(&count.revoked)
    );

    assert!(
        n(&count.fenced) > 0 && n(&count.revoked) > 0,
        "the test did not do what it is for"
    );
}

#[test]
fn in_memory_the_output_is_the_input() {
    churn(
        &LocalLog::with_storage(Box::new(Memory::default()), &table(), options())
            .expect("the log opens"),
    );
}

#[test]
fn embedded_the_output_is_the_input() {
    let dir = tempfile::tempdir().expect("a directory");
    churn(&LocalLog::open(dir.path(), &table(), options()).expect("the log opens"));
}
