//! Commands with a verdict, and outputs that fail: the exit code is always the verdict's, even if
//! no reader reads the lines.

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use domain::chain::{GENESIS, Hash};
use log_local::{LocalLog, LocalOptions};
use ports::Log;
use ports::records::{Headers, Record};
use ports::topics::{TopicId, TopicPartition};
use wire::audit::AuditEntry;
use wire::topics as t;

use crate::support::load::wait_for;
use crate::support::program::Program;

const OK: i32 = 0;
const FAILED: i32 = 1;
const BUG: i32 = 70;
const CONFIG: i32 = 78;

/// Every command with a verdict: its exit code on a good log, and on a damaged one. `D` stands for
/// a damaged file.
const JUDGES: &[(&str, i32, i32)] = &[
    ("verify", OK, BUG),
    ("verify --format json", OK, BUG),
    ("verify --role audit", OK, BUG),
    ("audit verify", OK, BUG),
    ("audit verify --format json", OK, BUG),
    ("audit verify --file e.jsonl", OK, BUG),
    ("audit verify --file e.jsonl --format json", OK, BUG),
    ("audit find --user 501", OK, BUG),
    ("audit find --user 501 --format json", OK, BUG),
    ("replay", OK, BUG),
    ("portfolio 501", OK, BUG),
    ("portfolio 501 --history", OK, BUG),
    ("portfolio 501 --history --format json", OK, BUG),
    ("repair offsets --role orders --dry-run", OK, BUG),
    ("topics check", OK, OK),
    ("status", OK, OK),
    ("state list --role orders", OK, OK),
    ("account list", OK, OK),
    ("config show", OK, OK),
    ("tail order-events --from start --exit-at-end", OK, OK),
];

/// The output of these commands is the result. A failed write of the output is therefore a failure.
const WRITERS: &[(&str, i32)] = &[("audit export", BUG), ("audit anchor", BUG)];

/// Kind of failure of an output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Out {
    Read,
    /// `>&-`
    Closed,
    /// The reader was gone before the start.
    NoReader,
    /// The reader goes after the first byte.
    Breaks,
    FullDisk,
}

const OUTS: [Out; 5] = [
    Out::Read,
    Out::Closed,
    Out::NoReader,
    Out::Breaks,
    Out::FullDisk,
];

fn run(p: &Program, typed: &str, out: Out) -> (Option<i32>, String) {
    let args: Vec<&str> = typed.split_whitespace().collect();
    let mut c = p.command(&args);
    let (mut read, write) = std::io::pipe().expect("a pipe");
    match out {
        Out::Read => drop(c.stdout(Stdio::null())),
        // SAFETY: close is async-signal-safe, and the descriptor is the child's own.
        Out::Closed => unsafe {
            c.stdout(Stdio::null());
            c.pre_exec(|| {
                libc::close(1);
                Ok(())
            });
        },
        Out::NoReader | Out::Breaks => drop(c.stdout(write)),
        Out::FullDisk => drop(
            c.stdout(
                OpenOptions::new()
                    .write(true)
                    .open("/dev/full")
                    .expect("/dev/full"),
            ),
        ),
    }

    let child = c.stderr(Stdio::piped()).spawn().expect("it starts");

    // The command holds a write end, which would keep the pipe open.
    drop(c);
    if out == Out::Breaks {
        // A command without output ends the pipe itself.
        read.read_exact(&mut [0]).unwrap_or_default();
    }

    drop(read);
    let done = child.wait_with_output().expect("its end");
    (
        done.status.code(),
        String::from_utf8_lossy(&done.stderr).into_owned(),
    )
}

fn log(dir: &Path) -> LocalLog {
    LocalLog::open(&dir.join("log"), &t::table(""), LocalOptions::default()).expect("the log")
}

fn append(log: &LocalLog, topic: TopicId, key: &[u8], value: &[u8]) {
    let at = TopicPartition::new(topic, 0);
    let mut appender = log.appender().expect("an appender");
    let record = Record {
        at,
        offset: 0,
        timestamp_ms: 1_700_000_000_000,
        key: Some(key),
        value: Some(value),
        headers: Headers::default(),
    };

    appender
        .append(&record)
        .and_then(|()| appender.flush(Duration::from_secs(5)))
        .expect("appended");
}

/// An entry for a record that is not audited yet, with invented hashes.
fn forged_entry(log: &LocalLog, topic: TopicId, value: &[u8]) {
    let offset = log
        .bounds(TopicPartition::new(topic, 0))
        .expect("bounds")
        .end;
    append(log, topic, b"501", value);
    let (src_topic, invented): (_, Hash) = (t::table(""), [9; 32]);
    let mut entry = Vec::new();
    AuditEntry {
        src_topic: src_topic.name(topic),
        src_partition: 0,
        src_offset: offset,
        log_time_ms: 1_700_000_000_000,
        payload_hash: invented,
        meta_hash: Some(invented),
        prev_hash: GENESIS,
        hash: invented,
    }
    .encode(&mut entry);

    append(
        log,
        t::AUDIT_LOG,
        format!("{}/0", src_topic.name(topic)).as_bytes(),
        &entry,
    );
}

fn damage(p: &Program, dir: &Path) {
    // A replay reads the journal up to its role's position. The journal must therefore continue
    // behind the damage.
    append(&log(dir), t::ORDERS_JOURNAL, b"", b"\xc1");
    p.good(&[
        "order",
        "--user",
        "501",
        "--id",
        "3",
        "--symbol",
        "AAPL",
        "--quantity",
        "1",
        "--side",
        "buy",
        "--no-wait",
    ]);

    let running = p.start_roles("orders,trading");
    wait_for("it is read", Duration::from_secs(60), || {
        let status: serde_json::Value =
            serde_json::from_str(&p.good(&["status", "--role", "orders", "--format", "json"]))
                .expect("JSON");
        status
            .as_array()
            .is_some_and(|rows| rows.iter().all(|r| r["lag"] == 0))
    });

    running.stop();
    let log = log(dir);
    let order =
        br#"{"order_id":"x1","user_id":"501","symbol":"AAPL","quantity":1,"order_type":"buy"}"#;
    forged_entry(&log, t::ORDER_COMMANDS, order);

    // Foreign records in topics that only roles may write.
    for topic in [t::ORDER_EVENTS, t::PORTFOLIOS, t::ORDERS_CHANGELOG] {
        append(&log, topic, b"501", b"\xc1");
    }

    let file = dir.join("e.jsonl");
    let mut lines: Vec<String> = std::fs::read_to_string(&file)
        .expect("the export")
        .lines()
        .map(String::from)
        .collect();
    lines.remove(lines.len() / 2);
    std::fs::write(file, lines.join("\n") + "\n").expect("changed");
}

fn traded(dir: &Path) -> Program {
    let p = Program::embedded(dir, "log");
    std::fs::write(dir.join("l.csv"), "symbol\nAAPL\n").expect("a file");
    p.good(&["topics", "create", "--partitions", "1"]);
    p.good(&["instruments", "load", "l.csv"]);
    p.good(&[
        "publish",
        "--symbols",
        "AAPL",
        "--count",
        "3",
        "--rate",
        "0",
    ]);

    for id in ["1", "2"] {
        p.good(&[
            "order",
            "--user",
            "501",
            "--id",
            id,
            "--symbol",
            "AAPL",
            "--quantity",
            "1",
            "--side",
            "buy",
        ]);
    }

    p.good(&["audit", "export", "-o", "e.jsonl"]);
    p
}

#[test]
fn the_code_is_the_verdicts_whatever_becomes_of_the_output() {
    let dir = tempfile::tempdir().expect("a directory");
    let p = traded(dir.path());
    let mut wrong = Vec::new();
    let mut look = |typed: &str, whole: bool, out: Out, want: i32| {
        let (code, said) = run(&p, typed, out);
        if code != Some(want) || said.contains("panicked") {
            wrong.push(format!(
                "{typed}, {}, {out:?}: {code:?} and not {want}: {said}",
                if whole { "whole" } else { "damaged" }
            ));
        }
    };

    for whole in [true, false] {
        for out in OUTS {
            for (typed, good, bad) in JUDGES {
                // On a good log, only the full disk is an error.
                let verdict = if whole { *good } else { *bad };
                look(
                    typed,
                    whole,
                    out,
                    if verdict == OK && out == Out::FullDisk {
                        FAILED
                    } else {
                        verdict
                    },
                );
            }

            for (typed, bad) in WRITERS {
                let lost = matches!(out, Out::NoReader | Out::FullDisk);
                match (whole, out) {
                    // A few lines fit into the pipe before its reader is gone.
                    (true, Out::Breaks) => {}
                    (true, _) => look(typed, whole, out, if lost { FAILED } else { OK }),
                    (false, _) => look(typed, whole, out, *bad),
                }
            }
        }

        if whole {
            damage(&p, dir.path());
        }
    }

    for out in OUTS {
        // This position is after the damage, and does not exist on the good log.
        look(
            "replay --role orders --until order-commands/0/2",
            false,
            out,
            BUG,
        );

        // A log with another partition count is a verdict too.
        look("topics create --partitions 3", false, out, CONFIG);
    }

    assert!(
        wrong.is_empty(),
        "{} wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}
