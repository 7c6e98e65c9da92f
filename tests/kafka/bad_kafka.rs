//! Bad environments on a cluster: unreachable brokers, missing or unfit topics, local state of
//! another cluster, a live twin. Each ends in a message with an instruction and in the exit code of
//! troubleshooting.md. After the repair no data is lost.

use std::sync::Arc;
use std::time::{Duration, Instant};

use log_kafka::{KafkaLog, KafkaSettings};
use ports::Log;
use ports::topics::{Cleanup, TopicId, TopicSpec};
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use serde_json::Value;
use wire::topics as t;

use crate::support;
use crate::support::broker::{self, Broker};
use crate::support::load::wait_for;
use crate::support::program::{Program, SmallDisk};

fn temp() -> tempfile::TempDir {
    tempfile::tempdir().expect("a directory")
}

/// A separate prefix on the shared broker.
fn place(test: &str, dir: &tempfile::TempDir) -> (Program, Arc<dyn Log>, String) {
    let (broker, prefix) = (&broker::shared().address, broker::unique_prefix(test));
    let log = KafkaLog::new(KafkaSettings::new(broker), Arc::new(t::table(&prefix)));
    (
        Program::kafka(dir.path(), broker, &prefix),
        Arc::new(log),
        prefix,
    )
}

fn set_up(p: &Program) {
    std::fs::write(p.dir.join("l.csv"), "symbol\nAAPL\n").expect("file");
    p.good(&["topics", "create", "--partitions", "2"]);
    p.good(&["instruments", "load", "l.csv"]);
    p.price_aapl();
}

const FIRST: [&str; 4] = ["Deposited", "OrderPending", "OrderAccepted", "OrderFilled"];

#[test]
fn no_broker() {
    let dir = temp();
    let p = Program::kafka(dir.path(), "127.0.0.1:1", "");
    std::fs::write(dir.path().join("l.csv"), "symbol\nAAPL\n").expect("file");
    let began = Instant::now();
    let all: [&[&str]; 8] = [
        &["run", "--role", "orders"],
        &["topics", "create"],
        &["topics", "check"],
        &["instruments", "load", "l.csv"],
        &["order", "--user", "1", "--deposit", "1"],
        &["tail", "trades"],
        &["status"],
        &["verify"],
    ];

    std::thread::scope(|s| {
        for args in all {
            let p = &p;
            s.spawn(move || {
                p.run(args).fails(
                    1,
                    &[
                        "no answer from 127.0.0.1:1",
                        "is it running? check --brokers",
                    ],
                )
            });
        }
    });

    assert!(
        began.elapsed() < Duration::from_secs(60),
        "a person waits {:?}",
        began.elapsed()
    );
}

#[test]
fn topics_that_are_missing_or_do_not_fit() {
    let dir = temp();
    let (p, log, prefix) = place("unfit", &dir);
    std::fs::write(dir.path().join("l.csv"), "symbol\nAAPL\n").expect("file");
    let all: [&[&str]; 5] = [
        &["run", "--role", "orders"],
        &["instruments", "load", "l.csv"],
        &["order", "--user", "1", "--deposit", "1"],
        &["status"],
        &["topics", "check"],
    ];

    for args in all {
        p.run(args)
            .fails(78, &["does not exist", "`processor topics create`"]);
    }

    // Topics made by hand: a topic with another number of partitions, and a topic whose settings
    // would lose data or time.
    let table = t::table(&prefix);
    let make = |topic: TopicId, change: fn(&mut TopicSpec), partitions: u32| {
        let mut spec = table.spec(topic).clone();
        change(&mut spec);
        log.create_topic(topic, &spec, partitions).expect("a topic");
    };

    make(t::BOOK_COMMANDS, |_| {}, 4);
    make(t::ORDER_EVENTS, |s| s.cleanup = Cleanup::Compact, 2);
    make(t::ORDER_COMMANDS, |s| s.append_time = false, 2);
    make(t::DEAD_LETTERS, |s| s.record_bytes_max = 1 << 20, 2);
    make(t::INSTRUMENTS, |_| {}, 2);
    let create = p.run(&["topics", "create", "--partitions", "2"]);
    create.fails(
        78,
        &[
            "5 of 23 topics do not fit",
            &format!("{prefix}book-commands: has 4 partitions, not 2"),
            &format!("{prefix}order-events: cleanup.policy is compact, must be delete"),
            &format!("{prefix}order-commands: message.timestamp.type is CreateTime, must be LogAppendTime"),
            &format!("{prefix}dead-letters: max.message.bytes is 1048576, must be at least 1114112"),
            &format!("{prefix}instruments: has 2 partitions, must have 1"),
            "say the same --partitions again, or use another --topic-prefix",
        ],
    );

    assert_eq!(
        log.partitions(t::TRADES).expect("the log answers"),
        None,
        "nothing was made beside what does not fit"
    );
    p.run(&["topics", "check"])
        .fails(78, &["do not fit", "book-commands"]);
    p.run(&["run", "--role", "orders"])
        .fails(78, &["does not exist", "topics create"]);

    // Only the counts: all topics exist, and one is wider than the others.
    let wide = Program::kafka(
        dir.path(),
        &broker::shared().address,
        &format!("{prefix}wide-"),
    );
    let wide_log = KafkaLog::new(
        KafkaSettings::new(&broker::shared().address),
        Arc::new(t::table(&format!("{prefix}wide-"))),
    );
    wide_log
        .create_topic(t::BOOK_COMMANDS, table.spec(t::BOOK_COMMANDS), 4)
        .expect("a topic");
    let narrow = wide.run(&["topics", "create", "--partitions", "2"]);
    narrow.fails(
        78,
        &["book-commands: has 4 partitions, not 2", "--partitions"],
    );
    for topic in table.iter().filter(|topic| *topic != t::BOOK_COMMANDS) {
        let spec = table.spec(topic);
        let one = spec.partitions == ports::topics::Partitions::One;
        wide_log
            .create_topic(topic, spec, if one { 1 } else { 2 })
            .expect("a topic");
    }

    for role in ["orders", "trading", "all"] {
        wide.run(&["run", "--role", role])
            .fails(78, &["book-commands", "4 partitions", "topics check"]);
    }

    // Follows the message: no topic here ever held a record, so the wide topic may be deleted and
    // created again.
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", &broker::shared().address)
        .create()
        .expect("an admin client");
    let unused = format!("{prefix}wide-book-commands");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime
        .block_on(admin.delete_topics(&[&unused], &AdminOptions::new()))
        .expect("it can be deleted");
    wait_for(
        "the topic to be gone and made again",
        Duration::from_secs(30),
        || wide.run(&["topics", "create", "--partitions", "2"]).code == Some(0),
    );
    set_up(&wide);
    let running = wide.start_roles("all");
    assert_eq!(wide.order_aapl("1"), FIRST);
    running.stop();

    // Or uses another prefix.
    let fresh = Program::kafka(
        dir.path(),
        &broker::shared().address,
        &format!("{prefix}fresh-"),
    )
    .with(&["--state", "state-fresh"]);
    set_up(&fresh);
    let running = fresh.start_roles("all");
    assert_eq!(fresh.order_aapl("1"), FIRST);
    running.stop();
}

#[test]
fn local_state_of_another_cluster_and_a_disk_that_says_no() {
    let Some(disk) = SmallDisk::new(48) else {
        return;
    };

    let dir = temp();
    let (p, _, prefix) = place("state", &dir);
    let state = disk.path.to_str().expect("text");
    let p = p.with(&["--state", state]);
    set_up(&p);
    let running = p.start_roles("all");
    assert_eq!(p.order_aapl("1"), FIRST);
    running.stop();

    let elsewhere =
        Program::embedded(dir.path(), "log").with(&["--state", state, "--topic-prefix", &prefix]);
    elsewhere.good(&["topics", "create", "--partitions", "2"]);
    elsewhere.run(&["run", "--role", "all"]).fails(
        78,
        &[
            "belongs to cluster",
            "use another --state directory, or delete this one",
        ],
    );

    disk.remount("ro");
    p.run(&["run", "--role", "all"]).fails(
        1,
        &[
            "Read-only file system",
            "make the directory writable",
            "--state",
        ],
    );

    disk.remount("rw");

    let running = p.with(&["--fail-fast"]).start_roles("all");
    disk.fill();

    // Sends orders until the disk of a store is full. The roles end, and the log keeps the
    // unprocessed commands.
    let log = KafkaLog::new(
        KafkaSettings::new(&broker::shared().address),
        Arc::new(t::table(&prefix)),
    );
    let mut sender = support::load::Sender::new(&log);
    let more = "x".repeat(60_000);
    let order_of = |i: u32| {
        format!(
            r#"{{"user_id":"u{i}","order_id":"order-{i}","symbol":"AAPL","quantity":1,"order_type":"buy","more":"{more}"}}"#
        )
    };

    let mut running = Some(running);
    let mut sent = 0;
    wait_for("the disk is full", Duration::from_secs(60), || {
        for _ in 0..200 {
            sender.send(t::ORDER_COMMANDS, &format!("u{sent}"), order_of(sent));
            sent += 1;
        }

        sender.flush();
        !running
            .as_mut()
            .is_some_and(support::program::Background::is_running)
    });

    running
        .take()
        .expect("just asked")
        .ends(Duration::from_secs(1))
        .fails(
            1,
            &[
                "No space left",
                "free some space and start again; nothing is lost",
            ],
        );

    disk.free();
    let running = p.start_roles("all");
    p.price_aapl();

    support::rest::wait_at_rest(&log, &prefix, Duration::from_secs(90), || {});
    let filled: std::collections::BTreeSet<_> = support::oracle::read_all(&log, t::ORDER_EVENTS)
        .iter()
        .filter(|e| e.text("event") == "OrderFilled")
        .map(|e| e.text("user_id").to_string())
        .collect();
    assert_eq!(
        filled.len(),
        sent as usize + 1,
        "every order was carried out"
    );
    assert_eq!(
        support::oracle::read_all(&log, t::TRADES).len(),
        sent as usize + 1,
        "once"
    );
    running.stop();
    let checks = p.good(&["verify", "--format", "json"]);
    assert!(
        checks
            .lines()
            .all(|l| serde_json::from_str::<Value>(l).expect("JSON")["ok"] == true),
        "{checks}"
    );
}

/// A process elsewhere must not use the local state of a live process.
#[test]
fn a_living_twin() {
    let dir = temp();
    let (p, _, prefix) = place("twin", &dir);
    set_up(&p);
    let mut first = p.start_roles("all");
    let other = Program::kafka(
        dir.path(),
        &broker::shared().address,
        &format!("{prefix}other-"),
    );
    other.good(&["topics", "create", "--partitions", "2"]);
    let held = format!("process {}", first.pid());
    let began = Instant::now();
    other.run(&["run", "--role", "orders"]).fails(
        78,
        &[
            "does not fit",
            "use another --state directory",
            "held by",
            &held,
            "leave it alone",
        ],
    );

    assert!(
        began.elapsed() < Duration::from_secs(60),
        "the wait is bounded: {:?}",
        began.elapsed()
    );
    assert!(first.is_running(), "the twin is left alone");
    assert_eq!(p.order_aapl("1"), FIRST);

    // Follows the message: another directory.
    let elsewhere = other.with(&["--state", "state-other"]);
    elsewhere.start_roles("orders").stop();
    first.stop();
}

/// A hanging broker cannot delay the second signal.
#[test]
fn a_second_signal_while_the_broker_hangs() {
    let broker = Broker::start();
    let dir = temp();
    let p = Program::kafka(dir.path(), &broker.address, "");
    set_up(&p);
    let mut running = p.start_roles("all");
    let log = KafkaLog::new(KafkaSettings::new(&broker.address), Arc::new(t::table("")));
    let mut sender = support::load::Sender::new(&log);
    for i in 0..5_000 {
        let user = format!("u{}", i % 50);
        sender.send(
            t::ORDER_COMMANDS,
            &user,
            format!(r#"{{"user_id":"{user}","order_id":"{i}","symbol":"AAPL","quantity":1,"order_type":"buy"}}"#),
        );
    }

    sender.flush();
    broker.freeze();

    // A commit must be under way: transactions begin many times in this time.
    std::thread::sleep(Duration::from_millis(500));
    running.signal(libc::SIGTERM);

    // A program that obeys the first signal at once would end in this time.
    std::thread::sleep(Duration::from_millis(500));
    assert!(running.is_running(), "a commit is under way");
    running.signal(libc::SIGTERM);
    let answer = running.ends(Duration::from_secs(5));
    assert_eq!(answer.code, Some(130), "{}", answer.err);
    broker.thaw();
    let running = p.start_roles("all");
    support::rest::wait_at_rest(&log, "", Duration::from_secs(90), || {});
    let told = support::oracle::read_all(&log, t::ORDER_EVENTS);
    let pending = told
        .iter()
        .filter(|e| e.text("event") == "OrderPending")
        .count();
    let limited = told
        .iter()
        .filter(|e| e.text("reason") == "RATE_LIMITED")
        .count();
    let filled = told
        .iter()
        .filter(|e| e.text("event") == "OrderFilled")
        .count();
    assert_eq!(
        (pending + limited, filled),
        (5_000, pending),
        "each order is answered once"
    );
    running.stop();
}
