//! The power fails while the embedded log is written: at random moments, again and again, from one
//! record of a process's disk requests.
//!
//! With `--durability disk` all acknowledged records must be there. With `os` (the default) a
//! complete prefix must be there, up to a second or two before the cut. In both cases the log
//! opens, an installation starts and continues, and `verify` finds no damage.
//!
//! `POWER_CUTS=200 POWER_SEED=7 cargo test --test embedded power_cut::` makes more cuts.
mod disk;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use client::simulate::Rng;
use log_local::{Durability, LocalLog, LocalOptions};
use ports::records::{Headers, Record, Records};
use ports::topics::{Cleanup, Partitions, TopicId, TopicPartition, TopicSpec, TopicTable};
use ports::{
    Limits, Log, MemberInput, MemberSpec, Polled, StartOffset, Transaction, TransactionOutcome,
};

use disk::{Disk, Entry};

const CHILD: &str = "POWER_CUT_CHILD";
const PATIENCE: Duration = Duration::from_secs(60);
const CLIENTS: u32 = 4;
const INPUT: TopicId = TopicId(0);
const OUTPUT: TopicId = TopicId(1);
const LIMITS: Limits = Limits {
    records: 10_000,
    bytes: 64 << 20,
    age: Duration::from_secs(1),
};
/// Longest accepted loss with `os`. The log requests a sync each second, and a loaded machine takes
/// a while to answer.
const LOST_MAX_MS: u64 = 10_000;

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name)
        .ok()
        .map_or(otherwise, |text| text.parse().expect("a number"))
}

fn table() -> TopicTable {
    let spec = |name, cleanup| TopicSpec {
        name,
        partitions: Partitions::Many,
        cleanup,
        append_time: true,
        record_bytes_max: 1 << 20,
    };

    TopicTable::new(
        "",
        vec![
            spec("input", Cleanup::Keep),
            spec("output", Cleanup::Compact),
        ],
    )
}

fn at(topic: TopicId, partition: u32) -> TopicPartition {
    TopicPartition::new(topic, partition)
}

/// The tests below run this under the recorder; by itself it does nothing. Clients append, a member
/// answers each of their records in a transaction, and a file lists the acknowledged numbers.
#[test]
fn child() {
    let Ok(durability) = std::env::var(CHILD) else {
        return;
    };

    let below = PathBuf::from(std::env::var("POWER_CUT_BELOW").expect("a directory"));
    let durability = if durability == "disk" {
        Durability::Disk
    } else {
        Durability::Os
    };

    // A small bound, so that compaction runs too.
    let options = LocalOptions {
        durability,
        compact_bytes: 4 << 20,
        ..LocalOptions::default()
    };

    let log = LocalLog::open(&below.join("log"), &table(), options).expect("the log opens");
    log.create_topic(INPUT, table().spec(INPUT), CLIENTS)
        .expect("a topic");
    log.create_topic(OUTPUT, table().spec(OUTPUT), CLIENTS)
        .expect("a topic");
    let told = Mutex::new(std::fs::File::create(below.join("acks")).expect("a file"));
    let tell = |line: String| {
        told.lock()
            .expect("not poisoned")
            .write_all(line.as_bytes())
            .expect("told")
    };

    let until = Instant::now() + Duration::from_secs(number("POWER_SECONDS", 4));
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let log = &log;
            let tell = &tell;
            scope.spawn(move || {
                let mut rng = Rng::new(u64::from(client) + 1);
                let mut appender = log.appender().expect("an appender");
                for n in 0_u64.. {
                    let mut value = vec![b'x'; 100 + rng.below(60_000) as usize];
                    value[..8].copy_from_slice(&n.to_le_bytes());
                    let key = Some(&b"k"[..]);
                    let headers = Headers::default();
                    appender
                        .append(&Record {
                            at: at(INPUT, client),
                            offset: 0,
                            timestamp_ms: 0,
                            key,
                            value: Some(&value),
                            headers,
                        })
                        .expect("appended");

                    appender.flush(PATIENCE).expect("flushed");
                    tell(format!("{client} {n}\n"));
                    if Instant::now() > until {
                        return;
                    }
                }
            });
        }

        let inputs = vec![MemberInput {
            topic: INPUT,
            headers: false,
        }];
        let mut member = log
            .join(&MemberSpec {
                group: "g".into(),
                instance: "g-0".into(),
                inputs,
                linger: Duration::ZERO,
            })
            .expect("joins");

        let mut records = Records::new();
        let Ok(Polled::Assigned(all)) = member.poll(PATIENCE, LIMITS, &mut records) else {
            panic!("no partitions")
        };

        member
            .resume(&all.iter().map(|at| (*at, 0)).collect::<Vec<_>>())
            .expect("resumes");
        while Instant::now() < until {
            records.clear();
            member
                .poll(Duration::from_millis(100), LIMITS, &mut records)
                .expect("polled");
            let mut outputs = Records::new();
            let mut next = BTreeMap::new();
            for r in records.iter() {
                let key = format!("{}", r.offset % 50);
                let value = r.offset.to_le_bytes();
                let headers = Headers::default();
                let at = at(OUTPUT, r.at.partition);
                outputs.push(&Record {
                    at,
                    offset: 0,
                    timestamp_ms: 0,
                    key: Some(key.as_bytes()),
                    value: Some(&value),
                    headers,
                });

                next.insert(r.at, r.offset + 1);
            }

            let offsets: Vec<_> = next.into_iter().collect();
            if !offsets.is_empty() {
                let outcome = member.transact(&Transaction {
                    outputs: &outputs,
                    offsets: &offsets,
                });

                assert!(
                    matches!(outcome, TransactionOutcome::Committed { .. }),
                    "{outcome:?}"
                );
                offsets
                    .iter()
                    .for_each(|(at, next)| tell(format!("g{} {}\n", at.partition, next - 1)));
            }
        }
    });
}

/// Runs a command under the recorder.
fn recorded(work: &Path, command: &mut Command) -> Vec<Entry> {
    let below = work.join("disk");
    let record = work.join("record");
    std::fs::create_dir(&below).expect("a directory");
    let library = disk::recorder(work);
    let done = command
        .env("LD_PRELOAD", library)
        .env("POWER_CUT_BELOW", &below)
        .env("POWER_CUT_RECORD", &record)
        .stdin(Stdio::null())
        .output()
        .expect("the program starts");

    let said =
        String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{said}");
    let entries = disk::read(&record, &below);
    assert!(
        entries.iter().any(|e| e.kind == b'w') && entries.iter().any(|e| e.kind == b's'),
        "nothing was recorded: {said}"
    );
    entries
}

/// Cuts at random entries, in order. `check` gets the disk content and the number of entries at the
/// cut.
fn cuts(
    entries: &[Entry],
    count: u64,
    first: usize,
    work: &Path,
    mut check: impl FnMut(&Path, usize, &str),
) {
    let seed = number("POWER_SEED", 1);
    let mut rng = Rng::new(seed);
    let mut moments: Vec<usize> = (0..count)
        .map(|_| first + rng.below((entries.len() - first) as u64 + 1) as usize)
        .collect();
    moments.sort_unstable();
    let mut disk = Disk::default();
    let mut taken = 0;
    for moment in moments {
        entries[taken..moment].iter().for_each(|e| disk.take(e));
        taken = moment;
        let into = work.join("after");
        disk.cut(&mut rng, &into);
        check(
            &into,
            moment,
            &format!(
                "seed {seed}, cut after {moment} of {} entries",
                entries.len()
            ),
        );

        std::fs::remove_dir_all(&into).expect("removed");
    }
}

/// The acknowledged numbers of each writer, with their times.
fn told(entries: &[Entry]) -> BTreeMap<String, Vec<(u64, u64)>> {
    let mut all = BTreeMap::<String, Vec<(u64, u64)>>::new();
    for e in entries
        .iter()
        .filter(|e| e.kind == b'w' && e.path == "acks")
    {
        for line in String::from_utf8_lossy(&e.data).lines() {
            let (who, n) = line.split_once(' ').expect("a line");
            all.entry(who.to_string())
                .or_default()
                .push((n.parse().expect("a number"), e.at_ms));
        }
    }

    all
}

/// Count of numbers of each writer in a log; no number may be missing in between.
fn found(dir: &Path, what: &str) -> BTreeMap<String, u64> {
    let log = LocalLog::open(dir, &table(), LocalOptions::default())
        .unwrap_or_else(|e| panic!("{what}: the log does not open: {e}"));
    let mut all = BTreeMap::new();
    if log.partitions(INPUT).expect("an answer").is_none()
        || log.partitions(OUTPUT).expect("an answer").is_none()
    {
        return all;
    }

    for client in 0..CLIENTS {
        let mut reader = log
            .reader(INPUT, &[(client, StartOffset::Start)], false)
            .expect("a reader");
        let mut records = Records::new();
        let mut count = 0;
        while !reader.caught_up() {
            records.clear();
            reader
                .poll(PATIENCE, LIMITS, &mut records)
                .unwrap_or_else(|e| panic!("{what}: {e}"));
            for r in records.iter() {
                let n = u64::from_le_bytes(
                    r.value.expect("a value")[..8]
                        .try_into()
                        .expect("eight bytes"),
                );
                assert_eq!(n, count, "{what}: client {client}");
                count += 1;
            }
        }

        all.insert(client.to_string(), count);
        let next = log
            .group_offsets("g", &[at(INPUT, client)])
            .expect("offsets")[0]
            .unwrap_or(0);
        assert!(
            next <= count,
            "{what}: the group has read {next} of {count}"
        );
        all.insert(format!("g{client}"), next);

        // An answer is there if and only if its question counts as read. Of each key the last
        // record stays.
        let mut reader = log
            .reader(OUTPUT, &[(client, StartOffset::Start)], false)
            .expect("a reader");
        let mut last = BTreeMap::new();
        while !reader.caught_up() {
            records.clear();
            reader
                .poll(PATIENCE, LIMITS, &mut records)
                .unwrap_or_else(|e| panic!("{what}: {e}"));
            for r in records.iter() {
                last.insert(
                    r.key.expect("a key").to_vec(),
                    u64::from_le_bytes(r.value.expect("a value").try_into().expect("eight bytes")),
                );
            }
        }

        let want: BTreeMap<_, _> = (next.saturating_sub(50)..next)
            .map(|n| (format!("{}", n % 50).into_bytes(), n))
            .collect();
        assert_eq!(last, want, "{what}: answers to client {client}");
    }

    all
}

/// The longest loss over all cuts, in milliseconds.
fn log_survives(durability: &str) -> u64 {
    let work = tempfile::tempdir().expect("a directory");
    let mut child = Command::new(std::env::current_exe().expect("this program"));
    child
        .args([
            "--exact",
            "power_cut::child",
            "--nocapture",
            "--test-threads",
            "1",
        ])
        .env(CHILD, durability);
    let entries = recorded(work.path(), &mut child);
    let mut lost = 0;
    let mut acknowledged = 0;
    cuts(
        &entries,
        number("POWER_CUTS", 25),
        0,
        work.path(),
        |disk, moment, what| {
            let told = told(&entries[..moment]);
            acknowledged = acknowledged.max(told.values().map(|all| all.len() as u64).sum());
            let dir = disk.join("log");
            let found = if dir.is_dir() {
                found(&dir, what)
            } else {
                BTreeMap::new()
            };

            let now_ms = moment.checked_sub(1).map_or(0, |last| entries[last].at_ms);
            for (who, numbers) in told {
                let have = found.get(&who).copied().unwrap_or(0);
                if let Some((n, at_ms)) = numbers.iter().find(|(n, _)| *n >= have) {
                    assert!(
                        durability != "disk",
                        "{what}: {n} of {who} was acknowledged, and there are {have}"
                    );
                    lost = lost.max(now_ms - at_ms);
                }
            }
        },
    );

    assert!(acknowledged > 100, "only {acknowledged} were acknowledged");
    println!("{durability}: {acknowledged} acknowledged; at most {lost} ms of them were lost");
    lost
}

#[test]
fn with_disk_nothing_that_was_acknowledged_is_lost() {
    assert_eq!(log_survives("disk"), 0);
}

#[test]
fn with_os_the_log_ends_a_moment_before() {
    let lost_ms = log_survives("os");
    assert!(lost_ms < LOST_MAX_MS, "{lost_ms} ms");
}

fn processor(dir: &Path, args: &[&str]) -> Command {
    let mut c = Command::new(env!("CARGO_BIN_EXE_processor"));
    c.args(args).current_dir(dir).stdin(Stdio::null());
    for (name, _) in
        std::env::vars().filter(|(n, _)| n.starts_with("PROCESSOR_") || n == "KAFKA_BROKERS")
    {
        c.env_remove(name);
    }

    c
}

/// All roles, stores and status files on one disk.
fn installation_survives(durability: &str) {
    let work = tempfile::tempdir().expect("a directory");
    let log = work.path().join("disk/log");
    let log = log.to_str().expect("text");
    let mut demo = processor(
        work.path(),
        &[
            "demo",
            "--users",
            "20",
            "--for",
            "4s",
            "--durability",
            durability,
            "--embedded",
            log,
        ],
    );

    let entries = recorded(work.path(), &mut demo);

    // The installation begins to exist when its topics and listings have been made.
    let ready = entries
        .iter()
        .position(|e| e.kind == b'r' && e.path.contains("status.json"))
        .expect("roles ran");
    cuts(
        &entries,
        number("POWER_CUTS", 25).div_ceil(5),
        ready,
        work.path(),
        |disk, _, what| {
            let good = |args: &[&str]| {
                let done = processor(disk, &[args, &["--embedded", "log"]].concat())
                    .output()
                    .expect("the program starts");
                let said = String::from_utf8_lossy(&done.stdout).into_owned()
                    + &String::from_utf8_lossy(&done.stderr);
                assert!(
                    done.status.success(),
                    "{durability}, {what}: {args:?}: {said}"
                );
                said
            };

            let said = good(&["demo", "--users", "20", "--for", "1s"]);
            assert!(said.contains("0 violations"), "{what}: {said}");
            good(&["verify"]);
        },
    );
}

#[test]
fn with_disk_an_installation_goes_on_after_any_cut() {
    installation_survives("disk");
}

#[test]
fn with_os_an_installation_goes_on_after_any_cut() {
    installation_survives("os");
}
