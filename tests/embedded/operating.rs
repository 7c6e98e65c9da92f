//! Situations of operators on the embedded log: closed output pipes, full disks, signals, limits,
//! dead instances, lost offsets.

use std::fs::OpenOptions;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use log_local::{LocalLog, LocalOptions};
use ports::records::Records;
use ports::topics::TopicPartition;
use ports::{Limits, Log, MemberInput, MemberSpec, Polled, Transaction, TransactionOutcome};
use serde_json::Value;
use wire::topics as t;

use crate::support::forgotten;
use crate::support::load::wait_for;
use crate::support::program::Program;

const BUG: i32 = 70;
const CONFIG: i32 = 78;

struct Place {
    p: Program,
    dir: tempfile::TempDir,
}

impl Place {
    fn new(partitions: &str) -> Place {
        let dir = tempfile::tempdir().expect("a directory");
        let p = Program::embedded(dir.path(), "log");
        std::fs::write(dir.path().join("l.csv"), "symbol\nAAPL\n").expect("file");
        p.good(&["topics", "create", "--partitions", partitions]);
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

        Place { p, dir }
    }

    fn deposit(&self, id: &str) {
        let events = self.p.good(&[
            "order",
            "--user",
            "501",
            "--id",
            id,
            "--deposit",
            "10",
            "--format",
            "json",
        ]);

        assert!(events.contains("\"Deposited\""), "{events}");
    }

    fn log(&self) -> LocalLog {
        LocalLog::open(
            &self.dir.path().join("log"),
            &t::table(""),
            LocalOptions::default(),
        )
        .expect("the log")
    }

    /// Commits another position in the name of a role's group, as a tool for consumer groups does.
    fn commit(&self, group: &str, at: TopicPartition, offset: u64, inputs: &[TopicPartition]) {
        let log = self.log();
        let inputs = inputs
            .iter()
            .map(|at| MemberInput {
                topic: at.topic,
                headers: false,
            })
            .collect();

        let mut member = log
            .join(&MemberSpec {
                group: group.into(),
                instance: format!("{group}-1"),
                inputs,
                linger: Duration::ZERO,
            })
            .expect("joined");

        let (mut records, limits) = (
            Records::new(),
            Limits {
                records: 1,
                bytes: 1,
                age: Duration::ZERO,
            },
        );

        assert!(matches!(
            member.poll(Duration::ZERO, limits, &mut records),
            Ok(Polled::Assigned(_))
        ));
        let outcome = member.transact(&Transaction {
            outputs: &Records::new(),
            offsets: &[(at, offset)],
        });

        assert!(
            matches!(outcome, TransactionOutcome::Committed { .. }),
            "{outcome:?}"
        );
    }

    fn orders_at(&self, offset: u64) {
        let inputs = [
            TopicPartition::new(t::OPERATOR_COMMANDS, 0),
            TopicPartition::new(t::EXECUTIONS, 0),
        ];
        self.commit("processor-orders", inputs[0], offset, &inputs);
    }

    fn committed(&self, group: &str) -> Option<u64> {
        let at = [TopicPartition::new(t::OPERATOR_COMMANDS, 0)];
        LocalLog::open_read_only(&self.dir.path().join("log"), &t::table(""))
            .expect("the log")
            .group_offsets(group, &at)
            .expect("offsets")[0]
    }
}

/// Runs a command with the given stdout; returns exit code and stderr.
fn with_stdout(p: &Program, args: &[&str], stdout: Stdio) -> (Option<i32>, String) {
    let done = p
        .command(args)
        .stdout(stdout)
        .stderr(Stdio::piped())
        .output()
        .expect("it runs");
    (
        done.status.code(),
        String::from_utf8_lossy(&done.stderr).into_owned(),
    )
}

/// A pipe without a reader, as after `| head -1`.
fn closed_pipe() -> Stdio {
    let (read, write) = std::io::pipe().expect("a pipe");
    drop(read);
    write.into()
}

fn full_disk() -> Stdio {
    OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .expect("/dev/full")
        .into()
}

/// Regression: `processor verify | head` always ended with 0, even after a bad result.
#[test]
fn a_verdict_is_not_lost_with_the_reader_of_its_lines() {
    let place = Place::new("1");
    place.deposit("1");
    place.deposit("2");
    for args in [
        &["verify"][..],
        &["replay", "--role", "orders"],
        &["audit", "verify"],
        &["status"],
    ] {
        assert_eq!(
            with_stdout(&place.p, args, closed_pipe()).0,
            Some(0),
            "{args:?}"
        );
        let (code, said) = with_stdout(&place.p, args, full_disk());
        assert!(
            code == Some(1) && said.contains("No space left"),
            "{args:?}: {code:?} {said}"
        );
    }

    place.p.good(&["audit", "export", "-o", "e.jsonl"]);
    let file = place.dir.path().join("e.jsonl");
    let mut lines: Vec<String> = std::fs::read_to_string(&file)
        .expect("the export")
        .lines()
        .map(String::from)
        .collect();
    let first = lines
        .iter()
        .position(|l| l.contains("order-events"))
        .expect("a record");
    lines.remove(first);
    std::fs::write(&file, lines.join("\n") + "\n").expect("changed");
    let rejected = ["order", "--user", "501", "--withdraw", "99999999"];
    place.orders_at(1);
    let damaged = ["audit", "verify", "--file", "e.jsonl"];
    for (args, code) in [(&["verify", "--role", "orders"][..], BUG), (&damaged, BUG)] {
        for stdout in [closed_pipe(), full_disk(), Stdio::piped()] {
            assert_eq!(
                with_stdout(&place.p, args, stdout).0,
                Some(code),
                "{args:?}"
            );
        }
    }

    place.p.good(&["repair", "offsets", "--role", "orders"]);
    for stdout in [closed_pipe(), full_disk(), Stdio::piped()] {
        let (code, said) = with_stdout(&place.p, &rejected, stdout);
        assert!(
            code == Some(1) && said.contains("INSUFFICIENT_FUNDS"),
            "{code:?} {said}"
        );
    }

    // An endless output still ends with its reader.
    assert_eq!(
        with_stdout(
            &place.p,
            &["tail", "order-events", "--from", "start"],
            closed_pipe()
        )
        .0,
        Some(0)
    );
}

/// Regression: a log line ended the process with 101, or stopped the process in the middle of a
/// write.
#[test]
fn nobody_who_reads_the_log_lines_is_no_reason_to_stop() {
    let place = Place::new("1");
    let (nobody, held) = std::io::pipe().expect("a pipe");
    for stderr in [closed_pipe(), full_disk(), held.into()] {
        let mut demo = place.p.command(&["demo", "--for", "1s", "--log", "trace"]);
        let mut child = demo
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .expect("it starts");
        let began = Instant::now();
        while child.try_wait().expect("a status").is_none() {
            assert!(
                began.elapsed() < Duration::from_secs(100),
                "it waits for a reader of its log lines"
            );
            std::thread::sleep(Duration::from_millis(20));
        }

        let done = child.wait_with_output().expect("its end");
        let said = String::from_utf8_lossy(&done.stdout);
        assert!(
            done.status.code() == Some(0) && said.contains("0 violations"),
            "{:?}: {said}",
            done.status
        );
    }

    drop(nobody);
}

#[test]
fn a_hangup_is_a_graceful_stop_and_nohup_ignores_it() {
    let place = Place::new("1");
    for signal in [libc::SIGHUP, libc::SIGTERM, libc::SIGINT] {
        let running = place.p.start_roles("orders,trading");
        running.signal(signal);
        let answer = running.ends(Duration::from_secs(30));
        assert!(
            answer.code == Some(0) && answer.err.contains("stopping"),
            "{signal}: {answer:?}"
        );
    }

    let mut c = place.p.command(&["run", "--role", "orders"]);

    // SAFETY: signal is async-signal-safe, and nohup does the same.
    unsafe {
        c.pre_exec(|| {
            libc::signal(libc::SIGHUP, libc::SIG_IGN);
            Ok(())
        });
    }

    let mut child = c
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    let pid = i32::try_from(child.id()).expect("a pid");
    wait_for("it runs", Duration::from_secs(30), || {
        place
            .p
            .good(&["status", "--role", "orders"])
            .contains("running")
    });

    // SAFETY: sends signals to a child that we started and have not waited for.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGHUP) }, 0);

    // Nothing tells that a signal was ignored. A program that obeys the signal ends in this time.
    std::thread::sleep(Duration::from_millis(500));
    assert!(
        child.try_wait().expect("a status").is_none(),
        "nohup means: ignore hangups"
    );

    // SAFETY: as above.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGTERM) }, 0);
    assert_eq!(child.wait().expect("its end").code(), Some(0));
}

/// The usual soft limit is far below the hard limit, and below the need of twenty stores.
#[test]
fn a_low_soft_limit_of_open_files_is_raised() {
    let place = Place::new("2");
    let mut c = place
        .p
        .command(&["demo", "--for", "1s", "--log", "processor=debug"]);

    // SAFETY: setrlimit is async-signal-safe.
    unsafe {
        c.pre_exec(|| {
            let limit = libc::rlimit {
                rlim_cur: 40,
                rlim_max: 4096,
            };

            if libc::setrlimit(libc::RLIMIT_NOFILE, &limit) == 0 {
                Ok(())
            } else {
                Err(std::io::Error::last_os_error())
            }
        });
    }

    let done = c.output().expect("it runs");
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(
        done.status.code() == Some(0) && said.contains("the limit is raised"),
        "{:?} {said}",
        done.status
    );
}

/// A process id proves nothing: it may belong to another container, or may have been reused.
#[test]
fn status_tells_life_by_signs_of_life() {
    let place = Place::new("1");
    let running = place.p.start_roles("orders,trading");
    let status = || -> Vec<Value> {
        let rows: Value = serde_json::from_str(
            &place
                .p
                .good(&["status", "--role", "orders", "--format", "json"]),
        )
        .expect("JSON");
        rows.as_array().expect("rows").clone()
    };

    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").expect("a name");
    let pid = running.pid();
    assert!(
        status().iter().all(|r| r["state"] == "running"
            && r["host"] == host.trim()
            && !r["updated"].is_null()),
        "{:?}",
        status()
    );

    drop(running);

    // Another process with the same id: here the test process.
    let file = place.dir.path().join("log/state/orders/1/status.json");
    let text = std::fs::read_to_string(&file).expect("a status").replace(
        &format!("\"pid\":{pid}"),
        &format!("\"pid\":{}", std::process::id()),
    );
    std::fs::write(&file, &text).expect("written");
    wait_for("it counts as gone", Duration::from_secs(20), || {
        status().iter().all(|r| r["state"] == "gone")
    });

    let said = place.p.good(&["status", "--role", "orders"]);
    assert!(
        said.contains("no sign of life since 20") && said.contains("orders-1 on"),
        "{said}"
    );

    // A status of a version without a host field, with the id of a live process.
    let mut old: Value = serde_json::from_str(&text).expect("JSON");
    old.as_object_mut()
        .expect("an object")
        .retain(|k, _| !["host", "why", "turned_ms"].contains(&k.as_str()));
    std::fs::write(&file, old.to_string()).expect("written");
    assert!(status().iter().all(|r| r["state"] == "gone"));
    let running = place.p.start_roles("orders");
    assert!(status().iter().all(|r| r["state"] == "running"));
    running.stop();
    assert!(status().iter().all(|r| r["state"] == "stopped"));
    assert!(
        !place
            .p
            .good(&["status", "--role", "orders"])
            .contains("sign of life")
    );
}

/// Restores run outside a role's turns: each role has a thread for them.
#[test]
fn restores_have_a_thread_of_their_own() {
    let place = Place::new("1");
    let running = place.p.start_roles("all");
    let tasks = std::fs::read_dir(format!("/proc/{}/task", running.pid())).expect("its threads");
    let names: Vec<String> = tasks
        .filter_map(|t| std::fs::read_to_string(t.ok()?.path().join("comm")).ok())
        .collect();
    for role in ["orders", "trading", "portfolio", "notifications", "audit"] {
        // The kernel keeps fifteen bytes of a thread name.
        let name: String = format!("{role}-restore").chars().take(15).collect();
        assert!(
            names.iter().any(|n| n.trim() == name),
            "no thread {name} in {names:?}"
        );
    }

    running.stop();
}

/// Moved back, moved forward, and lost: `verify` reports each case as a start would, a dry run
/// shows it, and the repair corrects it.
#[test]
fn offsets_that_were_moved_or_lost_are_repaired() {
    let place = Place::new("1");
    for id in ["1", "2", "3"] {
        place.deposit(id);
    }

    let right = place.committed("processor-orders").expect("it committed");
    let verify = || place.p.run(&["verify", "--role", "orders"]);
    let dry = || {
        place.p.good(&[
            "repair",
            "offsets",
            "--role",
            "orders",
            "--dry-run",
            "--format",
            "json",
        ])
    };

    let actions = |text: &str| -> Vec<String> {
        let rows: Value = serde_json::from_str(text).expect("JSON");
        rows.as_array()
            .expect("rows")
            .iter()
            .map(|r| {
                format!(
                    "{} {} {}",
                    r["committed"],
                    r["last_meta"],
                    r["action"].as_str().unwrap_or("?")
                )
            })
            .collect()
    };

    verify().is_good();
    assert!(
        actions(&dry()).iter().all(|a| a.ends_with("fits")),
        "{:?}",
        actions(&dry())
    );
    for wrong in [right - 1, 0] {
        place.orders_at(wrong);
        let told = verify();
        assert_eq!(told.code, Some(BUG), "{told:?}");
        for part in [
            "a start refuses to run",
            &format!("operator-commands/0 is committed at {wrong}"),
            &format!("says {right}"),
            "`processor repair offsets --role orders`",
        ] {
            assert!(told.out.contains(part), "{part}: {}", told.out);
        }

        // Local state may be the last copy. `rebuild` must not delete it if the next start would
        // refuse to run.
        place.p.run(&["rebuild", "--role", "orders"]).fails(
            BUG,
            &["cannot be rebuilt", "repair offsets", "Nothing was changed"],
        );
        assert!(
            verify().out.contains("orders task 0: state: transaction"),
            "{}",
            verify().out
        );
        assert!(
            actions(&dry()).contains(&format!("{wrong} {right} would be set")),
            "{:?}",
            actions(&dry())
        );
        assert_eq!(
            place.committed("processor-orders"),
            Some(wrong),
            "a dry run changes nothing"
        );
        let done = place
            .p
            .good(&["repair", "offsets", "--role", "orders", "--format", "json"]);
        assert!(
            actions(&done).contains(&format!("{wrong} {right} set")),
            "{:?}",
            actions(&done)
        );
        assert_eq!(place.committed("processor-orders"), Some(right));
        verify().is_good();
    }

    forgotten::forget(&place.dir.path().join("log"), "processor-orders");
    assert_eq!(place.committed("processor-orders"), None);
    let told = verify();
    assert!(
        told.code == Some(0) && told.out.contains("the group's offsets are gone"),
        "{told:?}"
    );
    let rows: Value = serde_json::from_str(
        &place
            .p
            .good(&["status", "--role", "orders", "--format", "json"]),
    )
    .expect("JSON");
    let rows = rows.as_array().expect("rows");
    assert!(
        rows.iter()
            .all(|r| r["committed"].is_null() && r["lag"] == 0),
        "everything was read: {rows:?}"
    );
    let past = place.p.run(&[
        "replay",
        "--role",
        "orders",
        "--until",
        "operator-commands/0/0",
    ]);

    assert!(
        past.is_good().contains("operator-commands/0"),
        "the past is there, whatever the group has: {past:?}"
    );
    assert!(
        actions(&dry()).contains(&format!("null {right} would be set")),
        "{:?}",
        actions(&dry())
    );
    let said = place.p.run(&["repair", "offsets", "--role", "orders"]);
    assert!(
        said.is_good().contains("set") && said.err.contains("the offsets of 1 tasks were set"),
        "{said:?}"
    );
    assert_eq!(place.committed("processor-orders"), Some(right));

    // The offset of one input is lost. A start takes this offset from the meta record, and verify
    // says so.
    forgotten::forget(&place.dir.path().join("log"), "processor-orders");
    place.orders_at(right);
    assert!(
        actions(&dry())
            .iter()
            .any(|a| a.starts_with("null") && a.ends_with("would be set")),
        "{:?}",
        actions(&dry())
    );

    let told = verify();
    assert!(
        told.code == Some(0) && told.out.contains("the group's offsets are gone"),
        "{told:?}"
    );

    // No deposit is doubled or missing.
    place.deposit("4");
    let events = place
        .p
        .good(&["tail", "order-events", "--from", "start", "--exit-at-end"]);
    assert_eq!(
        events.lines().filter(|l| l.contains("Deposited")).count(),
        5,
        "four, and the one that opened the account: {events}"
    );
    place.p.good(&["verify"]);
    place.p.good(&["replay"]);
    let again = place.p.run(&["repair", "offsets", "--role", "all"]);
    assert!(
        again.is_good().contains("fits") && again.err.contains("nothing was changed"),
        "{again:?}"
    );
}

#[test]
fn a_role_that_runs_is_not_repaired() {
    let place = Place::new("1");
    place.deposit("1");
    let running = place.p.start_roles("orders");
    place
        .p
        .run(&["repair", "offsets", "--role", "orders"])
        .fails(CONFIG, &["in use"]);
    running.stop();
    place.p.run(&["repair", "offsets"]).fails(2, &["--role"]);
}

/// Roles in one process are independent of each other.
#[test]
fn one_roles_end_leaves_the_others_unless_told_otherwise() {
    let place = Place::new("1");
    place.deposit("1");
    let identity = place.dir.path().join("log/state/audit/1/identity");
    let kept = std::fs::read_to_string(&identity).expect("an identity");
    std::fs::write(
        &identity,
        kept.replace("\"partitions\": 1", "\"partitions\": 7"),
    )
    .expect("changed");
    let together = place.p.run(&["run", "--role", "all", "--fail-fast"]);
    together.fails(CONFIG, &["made for 7 partitions"]);
    place
        .p
        .run(&["demo", "--for", "30s"])
        .fails(CONFIG, &["made for 7 partitions"]);
    let running = place.p.start(&["run", "--role", "all"]);
    let runs = || {
        let rows: Value =
            serde_json::from_str(&place.p.good(&["status", "--format", "json"])).expect("JSON");
        let of = |r: &&Value| r["role"] != "audit";
        rows.as_array()
            .expect("rows")
            .iter()
            .filter(of)
            .all(|r| r["state"] == "running")
    };

    wait_for("the others run", Duration::from_secs(60), runs);
    let shown = std::fs::read_to_string(place.dir.path().join("log/state/audit/1/status.json"))
        .expect("a status");
    assert!(
        shown.contains("\"stopped\"") && shown.contains("made for 7 partitions"),
        "{shown}"
    );

    // Nothing tells that a role will go on. A role that ends with the others ends in this time.
    std::thread::sleep(Duration::from_secs(1));
    assert!(runs());
    running.signal(libc::SIGTERM);
    let end = running.ends(Duration::from_secs(30));
    end.fails(
        CONFIG,
        &["this role has ended for good, 4 others of this process go on"],
    );
    std::fs::write(&identity, kept).expect("as it was");
    place.p.good(&["verify"]);
}

/// Regression: a killed replay left its scratch directory to the next replay, under the same name
/// in a container.
#[test]
fn what_a_killed_replay_left_is_removed() {
    let place = Place::new("1");
    place.deposit("1");
    let state = place.dir.path().join("log/state");
    let left = state.join(".replay-0123");
    std::fs::create_dir_all(left.join("store")).expect("a directory");
    std::fs::write(left.join("lock"), "").expect("a lock that nobody holds");
    std::fs::write(left.join("store/CURRENT"), "rubbish").expect("a file");
    place.p.good(&["replay", "--role", "orders"]);
    place.p.good(&[
        "replay",
        "--role",
        "orders",
        "--until",
        "operator-commands/0/0",
    ]);

    assert_eq!(scratch(&state), 0);
}

fn scratch(state: &Path) -> usize {
    std::fs::read_dir(state)
        .expect("a directory")
        .flatten()
        .filter(|e| e.path().is_dir() && e.file_name().to_string_lossy().starts_with(".replay-"))
        .count()
}
