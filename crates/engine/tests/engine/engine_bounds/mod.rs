//! Bounds of a transaction, and the handling of transactions that cannot be committed. Transactions
//! are bounded by construction, become smaller after a failure, and are not retried for ever. Over
//! a log in memory and a clock that moves with the work.

mod replays;
mod world;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use engine::instance::FatalError;
use engine::pace::TransactionBounds;
use ports::topics::TopicPartition;
use ports::{Limits, Log, Rejection, TransactionOutcome};

use world::*;

fn numbered(n: usize, what: &str) -> impl Iterator<Item = (&'static str, String)> + '_ {
    const KEYS: [&str; 3] = ["a", "b", "c"];
    (0..n).map(move |i| (KEYS[i % 3], what.to_string()))
}

fn bounds(records: usize) -> TransactionBounds {
    TransactionBounds {
        records,
        ..TransactionBounds::default()
    }
}

/// Regression: forty commands with two thousand outputs each made one transaction of eighty
/// thousand records.
#[test]
fn a_batch_ends_early_when_there_is_enough_output() {
    let world = World::new(|_, _| None);
    world.send(0, numbered(40, "emit=2000"));
    let mut instance = world.instance(1, LIMITS);
    instance.bound_by(bounds(5_000));
    world.drain(&mut instance).unwrap();
    assert_eq!(world.check().values().sum::<u64>(), 40);
    let all = world.transactions();
    let most = all.iter().map(|t| t.records).max().unwrap();
    assert!(most <= 5_000 + 2_010, "a transaction of {most} records");
    assert!((14..=22).contains(&all.len()), "{} transactions", all.len());
    assert_eq!(
        (
            instance.counters().recoveries,
            instance.counters().records_in
        ),
        (0, 40 + u64::from(PARTITIONS))
    );

    // Bytes and rows are bounded in the same way.
    let world = World::new(|_, _| None);
    world.send(0, (0..50).map(|i| ("a", format!("big={}", 10_000 + i))));
    world.rows((0..50).map(|i| (format!("S{i}"), vec![b'x'; 10_000])));
    world.send(1, (0..50).map(|i| ("b", format!("look=S{i}"))));
    let mut instance = world.instance(1, LIMITS);
    instance.bound_by(TransactionBounds {
        bytes: 30_000,
        row_bytes: 25_000,
        ..TransactionBounds::default()
    });

    world.drain(&mut instance).unwrap();
    assert_eq!(
        world.check().into_iter().collect::<Vec<_>>(),
        [("a".to_string(), 50), ("b".to_string(), 50)]
    );
    let most = world.transactions().iter().map(|t| t.bytes).max().unwrap();
    assert!(most < 60_000, "a transaction of {most} bytes");
}

/// Rows of any number and size fit; a small journal is still one record.
#[test]
fn a_journal_takes_as_many_records_as_it_needs() {
    let world = World::new(|_, _| None);
    world.rows(
        (0..900)
            .map(|i| (format!("S{i}"), vec![b'x'; 2_200]))
            .chain((0..17).map(|i| (format!("L{i}"), vec![b'y'; 63 << 10]))),
    );
    world.send(
        0,
        (0..900)
            .map(|i| ("a", format!("look=S{i}")))
            .chain((0..17).map(|i| ("a", format!("look=L{i}")))),
    );
    world.send(1, [("b", "look=S1".to_string())]);
    let mut instance = world.instance(1, LIMITS);

    // No bound except the topic's: 3 MiB of rows in one transaction.
    instance.bound_by(TransactionBounds {
        row_bytes: usize::MAX,
        ..TransactionBounds::default()
    });

    world.drain(&mut instance).unwrap();
    assert_eq!(world.check().values().sum::<u64>(), 918);
    assert_eq!(instance.counters().recoveries, 0);
    let all = world.transactions();
    assert!(
        all.iter().any(|t| t.journal.len() >= 10),
        "{:?}",
        all.iter().map(|t| t.journal.len()).collect::<Vec<_>>()
    );
    assert!(
        all.iter()
            .flat_map(|t| &t.journal)
            .all(|size| *size <= 256 << 10)
    );
    replays::replays(&world, &instance);

    // As usual: several transactions, each with few parts.
    let world = World::new(|_, _| None);
    world.rows((0..900).map(|i| (format!("S{i}"), vec![b'x'; 2_200])));
    world.send(0, (0..900).map(|i| ("a", format!("look=S{i}"))));
    let mut instance = world.instance(1, LIMITS);
    world.drain(&mut instance).unwrap();
    let all = world.transactions();

    // Entries without rows belong to other tasks, which were woken in the same transaction.
    let parts = all
        .iter()
        .map(|t| t.journal.iter().filter(|size| **size > 1_000).count())
        .max()
        .unwrap();
    assert!(
        (2..=5).contains(&parts),
        "{parts} records of journal in a transaction"
    );
    replays::replays(&world, &instance);
}

/// A log that is too slow for more than a fixed number of records. The same batch would be retried
/// for ever.
#[test]
fn a_late_transaction_comes_back_smaller_until_one_fits() {
    for told in [true, false] {
        let world = World::new(move |tx, _| {
            let of = tx.outputs.len();
            (of > 400).then(|| {
                if told {
                    TransactionOutcome::Late {
                        why: "no time".into(),
                        done: 400,
                        of,
                    }
                } else {
                    TransactionOutcome::Unknown("no answer".into())
                }
            })
        });

        world.send(0, numbered(20_000, "emit=3"));
        let mut instance = world.instance(
            1,
            Limits {
                records: 10_000,
                ..LIMITS
            },
        );

        world.drain(&mut instance).unwrap();
        assert_eq!(world.check().values().sum::<u64>(), 20_000);
        let all = world.transactions();
        let late = all.iter().filter(|t| !t.committed).count();
        let well = all.iter().filter(|t| t.committed).count();
        assert!(late < 30, "{late} transactions were late");
        assert!(well < 1_000, "{well} transactions");
        assert_eq!(instance.counters().without_progress, 0);
        assert_eq!(instance.trouble(), None);
    }
}

/// One record that cannot be made smaller: retried with the smallest size until the outage ends.
#[test]
fn an_outage_is_waited_for_without_a_limit_and_counted() {
    let world = World::new(|_, n| {
        (n < 60).then(|| TransactionOutcome::Late {
            why: "brokers are away".into(),
            done: 0,
            of: 9,
        })
    });

    world.send(0, numbered(100, "emit=1"));
    let mut instance = world.instance(1, LIMITS);
    let mut most = 0;
    for _ in 0..400_000 {
        instance.step().expect("an outage ends nothing");
        most = most.max(instance.counters().without_progress);
        if instance.counters().without_progress > 3 {
            let trouble = instance.trouble().expect("the cause");
            assert!(
                trouble.contains("brokers are away")
                    && trouble.contains("the next transaction takes at most"),
                "{trouble}"
            );
        }

        if world.is_drained() {
            break;
        }
    }

    assert_eq!(
        (
            most,
            instance.counters().without_progress,
            instance.trouble()
        ),
        (60, 0, None)
    );

    assert_eq!(world.check().values().sum::<u64>(), 100);
}

fn refuses(key: &'static [u8]) -> impl Fn(&ports::Transaction<'_>) -> Option<TransactionOutcome> {
    move |tx| {
        let rejection = || Rejection {
            reason: "MESSAGE_TOO_LARGE out".into(),
            text: "a record for out/1 is too large: raise max.message.bytes of out".into(),
        };

        writes(tx, OUT, key).then(|| TransactionOutcome::Rejected(rejection()))
    }
}

/// A record that brokers refuse for its content ends the role. All earlier records are committed,
/// and outages in between do not count.
#[test]
fn the_third_refusal_of_the_same_record_ends_the_role() {
    let outages = Arc::new(AtomicUsize::new(0));
    let refusals = Arc::new(AtomicUsize::new(0));
    let o = outages.clone();
    let r = refusals.clone();
    let refuse = refuses(b"bad");
    let world = World::new(move |tx, n| {
        // Every second attempt fails because brokers are away.
        let refused = refuse(tx)?;
        if n % 2 == 0 {
            o.fetch_add(1, Ordering::Relaxed);
            return Some(TransactionOutcome::NotCommitted("brokers are away".into()));
        }

        r.fetch_add(1, Ordering::Relaxed);
        Some(refused)
    });

    world.send(
        1,
        numbered(300, "emit=2")
            .chain([("bad", "emit=1".to_string())])
            .chain(numbered(300, "emit=2")),
    );
    world.send(0, (0..50).map(|_| ("z", "emit=1".to_string())));
    let mut instance = world.instance(1, LIMITS);
    let stopped = world.drain(&mut instance).unwrap_err();
    let text = stopped.to_string();
    assert!(matches!(stopped, FatalError::Refused(_)), "{text}");
    for part in [
        "in/1/300",
        "refused 3 times",
        "raise max.message.bytes of out",
        "nothing is lost",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }

    assert!(
        (3..20).contains(&refusals.load(Ordering::Relaxed)),
        "{refusals:?}"
    );
    assert!(outages.load(Ordering::Relaxed) > 1);
    let done = world
        .log
        .group_offsets("does", &[TopicPartition::new(IN, 1)])
        .unwrap();
    assert_eq!(done, [Some(300)], "all before the record is done");

    // An operator has raised the limit.
    let World { log, stores, ticks } = world;
    let well = World {
        log: log.with_policy(|_, _| None),
        stores,
        ticks,
    };

    let mut instance = well.instance(1, LIMITS);
    well.drain(&mut instance).unwrap();
    assert_eq!(well.check().values().sum::<u64>(), 651);
}

/// A limit on the size of a batch does not stop the role if smaller batches get through.
#[test]
fn what_is_refused_only_together_gets_through_in_pieces() {
    let world = World::new(|tx, _| {
        let rejection = Rejection {
            reason: "MESSAGE_TOO_LARGE out".into(),
            text: "too large".into(),
        };

        (tx.outputs.iter().filter(|r| r.at.topic == OUT).count() > 50)
            .then_some(TransactionOutcome::Rejected(rejection))
    });

    world.send(0, numbered(2_000, "emit=2"));
    let mut instance = world.instance(1, LIMITS);
    world.drain(&mut instance).unwrap();
    assert_eq!(world.check().values().sum::<u64>(), 2_000);
}

/// State changes, journal and meta records are checked too. Regression: the log refused such a
/// record for ever.
#[test]
fn a_record_that_its_topic_can_never_take_ends_the_role_at_once() {
    let world = World::new(|_, _| None);
    world.send(0, [("a", "emit=1".to_string())]);
    let mut instance = world.instance(1, LIMITS);
    world.drain(&mut instance).unwrap();
    world.send(0, [("a", "big=2000000".to_string())]);
    let stopped = world.drain(&mut instance).unwrap_err();
    let text = stopped.to_string();
    assert!(matches!(stopped, FatalError::Refused(_)), "{text}");
    for part in [
        "changelog/0",
        "key \"big\"",
        "2000259 bytes",
        "1048576 bytes",
        "Nothing of its transaction was committed",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }

    assert_eq!(instance.counters().recoveries, 0);
}

/// Records left over belong to the assignment under which they were polled.
#[test]
fn what_is_left_goes_with_the_assignment() {
    let world = World::new(|_, _| None);
    for partition in 0..PARTITIONS {
        world.send(
            partition,
            numbered(200, "emit=100").map(|(k, v)| {
                (
                    ["a", "b", "c"][partition as usize],
                    v + if k == "a" { "" } else { " x" },
                )
            }),
        );
    }

    let mut first = world.instance(1, LIMITS);
    first.bound_by(bounds(1_000));
    let mut others = Vec::new();
    for i in 0..20_000 {
        first.step().unwrap();
        others
            .iter_mut()
            .try_for_each(|o: &mut engine::instance::Instance| o.step().map(drop))
            .unwrap();

        // Other instances come and go while records are left over.
        if i % 40 == 15 && others.len() < 2 {
            let mut other = world.instance(2 + others.len() as u32, LIMITS);
            other.bound_by(bounds(700));
            others.push(other);
        }

        if i % 90 == 80 {
            others.pop();
        }

        if world.is_drained() {
            break;
        }
    }

    assert!(world.is_drained());
    assert_eq!(world.check().values().sum::<u64>(), 600);
}

/// Tasks take turns in the room of a transaction.
#[test]
fn a_low_task_number_is_no_privilege() {
    let world = World::new(|_, _| None);
    for (partition, key) in (0..PARTITIONS).zip(["a", "b", "c"]) {
        world.send(partition, (0..60).map(|_| (key, "emit=50".to_string())));
    }

    let mut instance = world.instance(1, LIMITS);

    // Room for two input records.
    instance.bound_by(bounds(100));
    let at: Vec<_> = (0..PARTITIONS)
        .map(|p| TopicPartition::new(IN, p))
        .collect();
    while !world.is_drained() {
        instance.step().unwrap();
        let done: Vec<_> = world
            .log
            .group_offsets("does", &at)
            .unwrap()
            .into_iter()
            .map(Option::unwrap_or_default)
            .collect();

        let least = done.iter().min().unwrap();
        let most = done.iter().max().unwrap();
        assert!(most - least <= 6, "{done:?}");
    }

    assert_eq!(world.check().values().sum::<u64>(), 180);
}

/// The rest of one partition's backlog delays no other partition, in the same task or in another.
/// Each waits for at most as many transactions as there are partitions. Regression: the other
/// inputs of the task waited until the whole rest was done.
#[test]
fn what_is_left_of_a_backlog_holds_up_no_other_partition() {
    let world = World::new(|_, _| None);
    let mut instance = world.instance(
        1,
        Limits {
            records: 50,
            ..LIMITS
        },
    );

    world.drain(&mut instance).unwrap();

    // Room for one record of the backlog in each transaction.
    instance.bound_by(bounds(50));
    world.send(0, numbered(400, "emit=60"));
    let mut longest = 0;
    for round in 0..12 {
        // All other partitions get a record, sometimes before the batch is taken and sometimes
        // while most of the batch is left.
        for _ in 0..round {
            instance.step().unwrap();
        }

        let mut others = vec![TopicPartition::new(CLOCK, 0)];
        others.extend(
            (1..PARTITIONS)
                .flat_map(|p| [TopicPartition::new(IN, p), TopicPartition::new(CLOCK, p)]),
        );
        for p in 0..PARTITIONS {
            world.wake(p);
            if p > 0 {
                world.send(p, [(["", "q", "r"][p as usize], "emit=60".to_string())]);
            }
        }

        let before = world.transactions().len();
        let mut waits = 0;
        let due: Vec<_> = others
            .iter()
            .map(|at| Some(world.log.bounds(*at).unwrap().end))
            .collect();
        while world.log.group_offsets("does", &others).unwrap() != due {
            instance.step().unwrap();
            waits = world.transactions().len() - before;
            assert!(
                waits < 100,
                "round {round}: {:?} of {due:?}",
                world.log.group_offsets("does", &others).unwrap()
            );
        }

        longest = longest.max(waits);
    }

    assert!(!world.is_drained(), "the backlog lasted");
    assert!(
        longest <= 2 * 2 * PARTITIONS as usize,
        "{longest} transactions"
    );
    world.drain(&mut instance).unwrap();
    assert_eq!(world.check().values().sum::<u64>(), 400 + 12 * 2);
}

/// Beside a backlog, an order in a quiet partition waits for a short transaction and not for a full
/// batch. The order then has a transaction of its own.
#[test]
fn a_quiet_partition_waits_for_short_turns_only() {
    let world = World::new(|_, _| None);

    // 20 us each and 5 ms a transaction: a full batch of 10 000 takes 205 ms.
    world.send(0, numbered(600_000, ""));
    let mut instance = world.instance(
        1,
        Limits {
            records: 10_000,
            ..LIMITS
        },
    );

    let mut waits = Vec::new();
    let quiet = TopicPartition::new(IN, 1);
    while instance.counters().records_in < 10 {
        instance.step().unwrap();
    }

    for n in 1..=25 {
        world.send(1, [("q", String::new())]);
        let sent = world.ticks.0.load(Ordering::Relaxed);
        while world.log.group_offsets("does", &[quiet]).unwrap()[0] != Some(n) {
            instance.step().unwrap();
        }

        waits.push((world.ticks.0.load(Ordering::Relaxed) - sent) / 1_000);

        // The next order comes a quarter of a second later.
        let until = world.ticks.0.load(Ordering::Relaxed) + 250_000;
        while world.ticks.0.load(Ordering::Relaxed) < until && !world.is_drained() {
            instance.step().unwrap();
        }
    }

    assert!(!world.is_drained(), "the backlog lasted");

    // Alone it takes 5 ms. Here it comes between two transactions. In the middle of a transaction
    // it would also wait for the rest of that transaction.
    assert!(waits[1..].iter().all(|ms| *ms <= 15), "{waits:?} ms");
    let short = world
        .transactions()
        .iter()
        .rev()
        .filter(|t| t.records > 100)
        .take(20)
        .map(|t| t.records)
        .max()
        .unwrap();

    assert!(
        (500..=1_000).contains(&short),
        "four times a commit's time at most: {short} records"
    );

    // Afterwards no other partition has records, and batches are full again.
    world.drain(&mut instance).unwrap();
    let largest = world
        .transactions()
        .iter()
        .rev()
        .take(20)
        .map(|t| t.records)
        .max()
        .unwrap();

    assert!(largest > 9_000, "{largest}");
}

/// One unread wake-up has the same effect as many. Regression: an instance with repeated recoveries
/// added a wake-up each time.
#[test]
fn wake_ups_do_not_pile_up() {
    let world =
        World::new(|_, n| (n < 40).then(|| TransactionOutcome::NotCommitted("not now".into())));
    world.send(0, numbered(10, "emit=1"));
    let mut instance = world.instance(1, LIMITS);
    world.drain(&mut instance).unwrap();
    let sent: u64 = (0..PARTITIONS)
        .map(|p| world.log.bounds(TopicPartition::new(CLOCK, p)).unwrap().end)
        .sum();
    assert_eq!(instance.counters().recoveries, 40);

    // Forty attempts with up to two seconds between them are a little more than a minute: one
    // wake-up per task in ten seconds.
    assert!(sent <= u64::from(PARTITIONS) * 9, "{sent} wake-ups");
}

/// A table of any size may be written while tasks run.
#[test]
fn reading_a_large_table_takes_no_turn_for_itself() {
    let world = World::new(|_, _| None);
    world.rows([("S0".to_string(), b"x".to_vec())]);
    let mut instance = world.instance(1, LIMITS);
    world.send(0, [("a", "look=S0".to_string())]);
    world.drain(&mut instance).unwrap();
    let before = world.log.table_rows.load(Ordering::Relaxed);
    world.rows((0..50_000).map(|i| (format!("S{i}"), vec![b'y'; 40])));
    world.send(0, [("a", "look=S7".to_string())]);
    world.drain(&mut instance).unwrap();
    let read = world.log.table_rows.load(Ordering::Relaxed) - before;
    assert!(
        read <= 2_000,
        "{read} rows were read before the record was processed"
    );
    for _ in 0..200 {
        instance.step().unwrap();
    }

    assert_eq!(
        world.log.table_rows.load(Ordering::Relaxed) - before,
        50_000,
        "and all of it is read"
    );
    replays::replays(&world, &instance);
}

/// The split of a backlog into transactions has no effect on the outputs.
#[test]
fn other_bounds_lead_to_the_same_state_and_output() {
    let mut known = None::<(Vec<String>, Vec<_>)>;
    for (limits, output, row_bytes) in [
        (1_000, 150_000, 1 << 20),
        (7, 150_000, 1 << 20),
        (1_000, 40, 1 << 20),
        (50, 60, 300),
        (1, 1, 1),
    ] {
        let world = World::new(|_, _| None);
        world.rows((0..60).map(|i| (format!("S{i}"), vec![b'x'; 90])));
        for partition in 0..PARTITIONS {
            let key = ["a", "b", "c"][partition as usize];
            world.send(
                partition,
                (0..150).map(|i| {
                    (
                        key,
                        format!("emit={} look=S{} big={}", i % 9 + 1, i % 60, i % 5),
                    )
                }),
            );
        }

        let mut instance = world.instance(
            1,
            Limits {
                records: limits,
                age: Duration::from_secs(5),
                ..LIMITS
            },
        );

        instance.bound_by(TransactionBounds {
            records: output,
            row_bytes,
            journal_part: 200,
            ..TransactionBounds::default()
        });

        world.drain(&mut instance).unwrap();
        replays::replays(&world, &instance);

        // Tasks may take turns in an output partition, but the output of each task stays in order.
        let mut out = world.outputs();
        out.sort_by_key(|(_, line)| line.as_bytes()[0]);
        let got = (digests(&instance), out);
        assert!(
            *known.get_or_insert_with(|| got.clone()) == got,
            "limits {limits}, {output}, {row_bytes}"
        );
    }
}
