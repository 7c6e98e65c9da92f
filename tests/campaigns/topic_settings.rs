//! Required settings of topics and brokers. `topics check` names each wrong setting and its cost,
//! and a start refuses or warns. `topics create --fix` corrects the setting without a loss. Also
//! the messages about brokers that answer but do not do their work.

use std::sync::Arc;
use std::time::Duration;

use log_kafka::{KafkaLog, KafkaSettings};
use ports::records::{Headers, Record, Records};
use ports::topics::{TopicId, TopicPartition};
use ports::{Limits, Log, StartOffset};
use serde_json::Value;
use wire::topics as t;

use crate::support;
use crate::support::broker::{self, Broker};
use crate::support::cluster::Cluster;
use crate::support::door::Door;
use crate::support::load::wait_for;
use crate::support::program::{Answer, Background, Program};

const CONFIG: i32 = 78;
const FAILED: i32 = 1;
const SOON: Duration = Duration::from_secs(60);
const FIRST: [&str; 4] = ["Deposited", "OrderPending", "OrderAccepted", "OrderFilled"];
const NEXT: [&str; 3] = ["OrderPending", "OrderAccepted", "OrderFilled"];
const CREATE: [&str; 4] = ["topics", "create", "--partitions", "1"];
const FIX: [&str; 5] = ["topics", "create", "--partitions", "1", "--fix"];
const CHECK: [&str; 2] = ["topics", "check"];

struct Place {
    p: Program,
    log: KafkaLog,
    brokers: String,
    prefix: String,
    _dir: tempfile::TempDir,
}

impl Place {
    fn empty(brokers: &str, test: &str) -> Place {
        let dir = tempfile::tempdir().expect("a directory");
        let prefix = broker::unique_prefix(test);
        let p = Program::kafka(dir.path(), brokers, &prefix);
        let log = KafkaLog::new(KafkaSettings::new(brokers), Arc::new(t::table(&prefix)));
        Place {
            p,
            log,
            brokers: brokers.into(),
            prefix,
            _dir: dir,
        }
    }

    fn new(brokers: &str, test: &str) -> Place {
        let place = Place::empty(brokers, test);
        place.p.good(&CREATE);
        place.list();
        place
    }

    fn list(&self) {
        std::fs::write(self.p.dir.join("l.csv"), "symbol\nAAPL\n").expect("file");
        self.p.good(&["instruments", "load", "l.csv"]);
        self.price();
    }

    fn price(&self) {
        self.p.price_aapl();
    }

    fn order(&self, id: &str) -> Vec<String> {
        self.price();
        self.p.order_aapl(id)
    }

    fn name(&self, topic: TopicId) -> String {
        t::table(&self.prefix).name(topic).to_string()
    }

    fn set(&self, topic: TopicId, name: &str, value: &str) {
        self.log
            .alter_topic(topic, &[(name, value)])
            .expect("a setting can be changed");
    }

    /// Result of `topics check` for each topic, after the brokers have told each other of the
    /// change.
    fn checked(&self, code: i32, parts: &[&str]) -> Answer {
        let mut last = None;
        wait_for("the check to see it", SOON, || {
            let answer = self.p.run(&CHECK);
            let said = format!("{}{}", answer.out, answer.err);
            let done = answer.code == Some(code) && parts.iter().all(|part| said.contains(part));
            println!("{code} {parts:?} {done}: {}", answer.err);
            last = Some(answer);
            done
        });

        last.expect("it was asked")
    }

    fn dead(&self) -> Vec<String> {
        let at = [(0, StartOffset::Start)];
        let mut reader = self
            .log
            .reader(t::DEAD_LETTERS, &at, true)
            .expect("a reader");
        let limits = Limits {
            records: 1_000,
            bytes: 1 << 20,
            age: Duration::from_secs(1),
        };

        let mut all = Records::new();
        while !reader.caught_up() {
            reader
                .poll(Duration::from_millis(100), limits, &mut all)
                .expect("it can be read");
        }

        all.iter()
            .map(|r| r.headers.text("reason").expect("a reason").to_string())
            .collect()
    }
}

/// New topics get exactly the settings that the check requires.
#[test]
fn new_topics_fit_and_wrong_settings_are_named_and_put_right() {
    let place = Place::new(&broker::shared().address, "settings");
    let fits = place.p.good(&CHECK);
    assert!(
        fits.contains("has 1 replica") && !fits.contains("must be"),
        "{fits}"
    );
    place
        .p
        .run(&["topics", "check", "--strict"])
        .fails(CONFIG, &["has 1 replica"]);
    let running = place.p.start_roles("all");
    assert_eq!(place.order("1"), FIRST);
    let warned = running.stop();
    assert!(warned.err.contains("has 1 replica"), "{}", warned.err);
    assert_eq!(
        warned.err.matches("and 20 more: has 1 replica:").count(),
        1,
        "a warning is told once: {}",
        warned.err
    );

    let wrong: &[(TopicId, &str, &str)] = &[
        (t::ORDER_EVENTS, "cleanup.policy", "compact"),
        (t::ORDERS_CHANGELOG, "cleanup.policy", "delete"),
        (t::AUDIT_CHANGELOG, "cleanup.policy", "compact,delete"),
        (t::MARKET_DATA, "message.timestamp.type", "CreateTime"),
        (t::TRADES, "message.timestamp.type", "LogAppendTime"),
        (t::ORDERS_JOURNAL, "retention.ms", "604800000"),
        (t::BOOK_COMMANDS, "retention.bytes", "1073741824"),
        (t::EXECUTIONS, "unclean.leader.election.enable", "true"),
        (t::DEAD_LETTERS, "max.message.bytes", "1048576"),
        (t::TRADING_JOURNAL, "segment.bytes", "1048576"),
        (t::NOTIFICATIONS, "message.timestamp.before.max.ms", "60000"),
        (
            t::TRADING_CHANGELOG,
            "message.timestamp.after.max.ms",
            "60000",
        ),
    ];

    for (topic, name, value) in wrong {
        place.set(*topic, name, value);
        let full = place.name(*topic);
        let said = format!("{name} is {value}, must be ");
        place.checked(
            CONFIG,
            &["1 of 23 topics do not fit", &full, &said, "--fix"],
        );
        place
            .p
            .run(&["run", "--role", "notifications"])
            .fails(CONFIG, &["no role was started", &full, &said, "--fix"]);
        place.p.good(&FIX);
        assert!(
            !place.p.good(&CHECK).contains("must be"),
            "{name} was put right"
        );
    }

    // A warning lets roles start, and the same command corrects it.
    place.set(t::ORDER_EVENTS, "message.timestamp.after.max.ms", "3600000");
    place.set(t::ORDERS_CHANGELOG, "min.cleanable.dirty.ratio", "1.0");
    place.checked(
        0,
        &["after.max.ms is 3600000", "is never compacted", "warning"],
    );
    place
        .p
        .run(&["topics", "check", "--strict"])
        .fails(CONFIG, &["after.max.ms is 3600000", "--fix"]);
    let running = place.p.start_roles("all");
    assert_eq!(place.order("2"), NEXT);
    let warned = running.stop();
    assert!(
        warned
            .err
            .contains("message.timestamp.after.max.ms is 3600000"),
        "{}",
        warned.err
    );

    place.p.good(&FIX);
    assert!(!place.p.good(&CHECK).contains("3600000"));
    let checks = place.p.good(&["verify", "--format", "json"]);
    assert!(
        checks
            .lines()
            .all(|l| serde_json::from_str::<Value>(l).expect("JSON")["ok"] == true),
        "{checks}"
    );
}

/// Brokers on which no role can work are reported before any role waits for them.
#[test]
fn brokers_that_do_not_fit_are_named_at_the_start() {
    let wrong = [
        "group.min.session.timeout.ms=20000",
        "transaction.max.timeout.ms=15000",
        "offsets.retention.minutes=60",
    ];
    let broker = Broker::start_with(&wrong, true);
    let place = Place::new(&broker.address, "brokers");
    let parts = [
        "broker 1",
        "group.min.session.timeout.ms is 20000",
        "transaction.max.timeout.ms is 15000, must be at least 20000",
    ];
    place
        .p
        .run(&["run", "--role", "orders"])
        .fails(CONFIG, &parts);
    let check = place.p.run(&CHECK);
    check.fails(
        CONFIG,
        &[
            &parts[..],
            &["the brokers do not fit", "docs/operating/kafka.md"],
        ]
        .concat(),
    );

    assert!(
        check
            .out
            .contains("offsets.retention.minutes is 60, less than a week"),
        "{}",
        check.out
    );

    // The roles set the session timeout themselves.
    let longer = place
        .p
        .with(&["-X", "session.timeout.ms=20000"])
        .run(&["run", "--role", "orders"]);
    longer.fails(CONFIG, &["transaction.max.timeout.ms"]);
    assert!(
        !longer.err.contains("group.min.session.timeout.ms"),
        "{}",
        longer.err
    );
}

/// The broker answers and is running, but its internal topics need two more brokers.
#[test]
fn one_broker_that_must_make_three_replicas_of_its_own_topics() {
    let three = [
        "offsets.topic.replication.factor=3",
        "transaction.state.log.replication.factor=3",
    ];
    let broker = Broker::start_with(&three, true);
    let place = Place::new(&broker.address, "three");
    place.checked(
        0,
        &[
            "does not exist yet",
            "3 replicas (offsets.topic.replication.factor)",
            "1 of them is there",
        ],
    );

    for args in [&["status"][..], &["run", "--role", "orders"]] {
        let answer = place.p.run(args);
        answer.fails(
            FAILED,
            &[
                "the brokers answer, but cannot make __",
                "3 replicas",
                "1 broker is there",
            ],
        );

        assert!(!answer.err.contains("is it running?"), "{}", answer.err);
    }

    let more = Place::empty(&broker.address, "more");
    more.p
        .run(&["topics", "create", "--replication", "3"])
        .fails(
            CONFIG,
            &["cannot give it 3 replicas", "a smaller --replication"],
        );
    more.p.good(&[
        "topics",
        "create",
        "--partitions",
        "1",
        "--replication",
        "1",
    ]);
}

/// The addresses that the brokers advertise lead nowhere.
#[test]
fn a_wrong_advertised_listener_is_named() {
    let nowhere = broker::free_port();
    let broker = Broker::start_with(
        &[&format!(
            "advertised.listeners=PLAINTEXT://127.0.0.1:{nowhere}"
        )],
        true,
    );
    let place = Place::empty(&broker.address, "nowhere");
    let answer = place.p.run(&CREATE);
    answer.fails(
        FAILED,
        &[
            "advertised.listeners",
            &format!("127.0.0.1:{nowhere}"),
            &format!("answer at {}", broker.address),
        ],
    );

    assert!(!answer.err.contains("is it running?"), "{}", answer.err);
}

/// The same under running roles: the advertised address leads nowhere from some moment on. The
/// status of the roles names the address, and the roles continue after the correction.
#[test]
fn a_role_names_an_advertised_listener_that_leads_nowhere() {
    let (door, broker) = Door::before(true);
    let place = Place::new(&broker.address, "door");
    let running = place.p.start_roles("all");
    assert_eq!(place.order("1"), FIRST);
    door.close();
    let status = |role: &str, field: &str| -> String {
        let text = std::fs::read_to_string(place.p.dir.join(format!("state/{role}/1/status.json")))
            .unwrap_or_default();
        let status: Value = serde_json::from_str(&text).unwrap_or_default();
        status[field].as_str().unwrap_or_default().to_string()
    };

    let named = format!(
        "gives {} as its address (advertised.listeners)",
        door.address
    );
    let roles = ["orders", "trading", "portfolio", "notifications", "audit"];
    wait_for("the address is named", SOON * 3, || {
        roles
            .iter()
            .any(|role| status(role, "trouble").contains(&named))
    });

    // Killed, not stopped: then the harness lets the controller fence the broker before the start.
    // A lone broker that could not reach itself has markers of transactions left to write; started
    // at once, the broker may skip them, and committed offsets stay pending for ever.
    broker.kill();
    broker.set(&[&format!(
        "advertised.listeners=PLAINTEXT://{}",
        broker.address
    )]);
    broker.restart();

    // A call of librdkafka may hang when its coordinator goes away. The watchdog then ends the
    // process, and a supervisor restarts it.
    let mut running = Some(running);
    wait_for("the roles go on", SOON * 3, || {
        if !running.as_mut().is_some_and(Background::is_running) {
            let end = running.take().expect("a process that ended").ends(SOON);
            end.fails(
                FAILED,
                &["has not returned within its time", "start it again"],
            );
            running = Some(place.p.start(&["run", "--role", "all"]));
        }

        roles.iter().all(|role| status(role, "state") == "running")
    });

    assert_eq!(place.order("2"), NEXT);
    running.expect("a running process").stop();
}

/// Kafka's metric names replace `.` by `_`, so both prefixes would have the same name.
#[test]
fn a_prefix_that_collides_is_told_why() {
    let broker = &broker::shared().address;
    let first = Place::new(broker, "col.lide");
    let second = Program::kafka(&first.p.dir, broker, &first.prefix.replace('.', "_"));
    second.run(&CREATE).fails(
        CONFIG,
        &["differ only in `.` and `_`", "use another --topic-prefix"],
    );

    // Follows the advice.
    Program::kafka(&first.p.dir, broker, &first.prefix.replace('.', "-")).good(&CREATE);
}

/// Replicas on three brokers: the requested number, the number that the cluster gives, and the
/// message if too few are in sync.
#[test]
fn replicas_and_how_many_must_have_a_record() {
    let cluster = Cluster::start(3);
    let place = Place::new(&cluster.direct(), "nodes");
    let said = place.p.good(&["topics", "check", "--strict"]);
    assert!(!said.contains("replica"), "{said}");
    let one = Place::empty(&cluster.direct(), "one");
    one.p.good(&[
        "topics",
        "create",
        "--partitions",
        "1",
        "--replication",
        "1",
    ]);

    one.checked(0, &["has 1 replica"]);
    place.set(t::ORDER_EVENTS, "min.insync.replicas", "1");
    place.checked(0, &["min.insync.replicas is 1, must be at least 2"]);
    place.p.good(&FIX);
    place.set(t::ORDER_EVENTS, "min.insync.replicas", "3");
    place.checked(0, &["one broker that is down stops the roles"]);
    place.p.good(&FIX);

    // A record needs two of three brokers, and one is left.
    cluster.stop(2);
    cluster.stop(3);
    let left = cluster.direct();
    let left = left.split(',').next().expect("an address");
    let mut settings = KafkaSettings::new(left);
    settings.properties = vec![("message.timeout.ms".into(), "3000".into())];
    let log = KafkaLog::new(settings, Arc::new(t::table(&place.prefix)));
    let mut appender = log.appender().expect("a writer");
    let at = TopicPartition::new(t::ORDER_COMMANDS, 0);
    let sent = appender.append(&Record {
        at,
        offset: 0,
        timestamp_ms: 1,
        key: Some(b"1"),
        value: Some(b"x"),
        headers: Headers::default(),
    });

    let answer = sent
        .and_then(|()| appender.flush(Duration::from_secs(20)))
        .expect_err("too few are in sync")
        .to_string();
    println!("{answer}");
    assert!(
        answer.contains("NOT_ENOUGH_REPLICAS") || answer.contains("has no leader"),
        "{answer}"
    );
    assert!(
        answer.contains("order-commands") || answer.contains("__"),
        "{answer}"
    );
    cluster.restart(2);
    cluster.restart(3);
    cluster.wait_started(2);
    cluster.wait_started(3);
    let running = place.p.start_roles("all");
    assert_eq!(place.order("1"), FIRST);
    running.stop();
}

/// zstd on every kind of topic, and from a client that uses zstd: roles read, restore and replay
/// such records.
#[test]
fn zstd_is_read_like_any_other_compression() {
    let place = Place::new(&broker::shared().address, "zstd");
    for topic in t::table(&place.prefix).iter() {
        place.set(topic, "compression.type", "zstd");
    }

    place.p.good(&CHECK);
    let zstd = place.p.with(&["-X", "compression.type=zstd"]);
    let running = zstd.start_roles("all");
    let mut settings = KafkaSettings::new(&place.brokers);
    settings.properties = vec![("compression.type".into(), "zstd".into())];
    let client = KafkaLog::new(settings, Arc::new(t::table(&place.prefix)));
    let mut sender = support::load::Sender::new(&client);
    for i in 0..500 {
        let order = format!(
            r#"{{"user_id":"501","order_id":"z{i}","symbol":"AAPL","quantity":1,"order_type":"buy"}}"#
        );
        sender.send(t::ORDER_COMMANDS, "501", order);
    }

    sender.flush();
    support::rest::wait_at_rest(&place.log, &place.prefix, SOON, || {});
    assert_eq!(
        place.order("1").last().map(String::as_str),
        Some("OrderFilled")
    );
    running.stop();

    // Only from the log.
    std::fs::remove_dir_all(place.p.dir.join("state")).expect("local state");
    let running = place.p.start_roles("all");
    assert_eq!(place.order("2"), NEXT);
    running.stop();
    place.p.good(&["replay", "--role", "orders"]);
}

/// An input topic is switched to the clients' timestamps under running roles. The first record with
/// a client timestamp is reported, no such record decides anything, and the printed instruction
/// works.
#[test]
fn a_time_that_the_client_chose_decides_nothing() {
    let place = Place::new(&broker::shared().address, "switched");
    let running = place.p.with(&["--fail-fast"]).start_roles("all");
    assert_eq!(place.order("1"), FIRST);
    place
        .log
        .alter_topic(
            t::ORDER_COMMANDS,
            &[
                ("message.timestamp.type", "CreateTime"),
                (
                    "message.timestamp.after.max.ms",
                    i64::MAX.to_string().as_str(),
                ),
            ],
        )
        .expect("changed");

    let year_2100 = 4_102_444_800_000;
    let order = |id: &str| {
        format!(
            r#"{{"user_id":"501","order_id":"{id}","symbol":"AAPL","quantity":1,"order_type":"buy"}}"#
        )
    };

    let send = |id: &str| {
        let mut appender = place.log.appender().expect("a writer");
        let at = TopicPartition::new(t::ORDER_COMMANDS, 0);
        let value = order(id);
        let record = Record {
            at,
            offset: 0,
            timestamp_ms: year_2100,
            key: Some(b"501"),
            value: Some(value.as_bytes()),
            headers: Headers::default(),
        };

        appender
            .append(&record)
            .and_then(|()| appender.flush(Duration::from_secs(20)))
            .expect("it is in the log");
    };

    // Brokers apply a setting after some time; until then they still stamp records.
    place.checked(CONFIG, &["message.timestamp.type is CreateTime"]);
    send("2100");
    running.ends(SOON).fails(
        CONFIG,
        &[
            "order-commands/0/",
            "message.timestamp.type",
            "is CreateTime, must be LogAppendTime",
            "--fix",
        ],
    );

    place
        .p
        .run(&["run", "--role", "all"])
        .fails(CONFIG, &["message.timestamp.type is CreateTime", "--fix"]);
    place.p.good(&FIX);
    let running = place.p.start_roles("all");
    wait_for("the record to be put aside", SOON, || {
        place.dead() == ["NO_LOG_TIME"]
    });

    assert_eq!(
        place.order("2"),
        NEXT,
        "its partition goes on, and the user's limits are as if nothing had been"
    );
    let said = running.stop();
    assert!(
        said.err.contains("go to dead-letters (NO_LOG_TIME)"),
        "{}",
        said.err
    );
    let checks = place.p.good(&["verify", "--format", "json"]);
    assert!(
        checks
            .lines()
            .all(|l| serde_json::from_str::<Value>(l).expect("JSON")["ok"] == true),
        "{checks}"
    );
    place.p.good(&["replay", "--role", "orders"]);
}

/// One broker's clock is two hours ahead while a command comes, and then right again.
#[test]
fn a_brokers_clock_that_was_ahead_is_outlived() {
    let dir = tempfile::tempdir().expect("a directory");
    let library = dir.path().join("clock.so");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/clock.c");
    let made = std::process::Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .arg(&library)
        .arg(source)
        .arg("-ldl")
        .status();
    assert!(made.expect("a C compiler").success());
    let offset = dir.path().join("offset");
    std::fs::write(&offset, 0_i64.to_le_bytes()).expect("a file");
    let ahead = |seconds: i64| {
        use std::io::{Seek, Write};
        let mut file = std::fs::File::options()
            .write(true)
            .open(&offset)
            .expect("the file");
        file.rewind()
            .and_then(|()| file.write_all(&seconds.to_le_bytes()))
            .expect("written in place");
    };

    let env = [("LD_PRELOAD", &library), ("CLOCK_OFFSET_FILE", &offset)]
        .map(|(name, path)| (name.to_string(), path.display().to_string()));
    let broker = Broker::start_under(&[], true, env.to_vec());
    let place = Place::new(&broker.address, "clock");
    let running = place.p.start_roles("all");
    assert_eq!(place.order("1"), FIRST);
    running.stop();
    ahead(7_200);
    place.p.good(&[
        "order",
        "--user",
        "501",
        "--id",
        "ahead",
        "--deposit",
        "1",
        "--no-wait",
    ]);

    ahead(0);
    let mut times = Vec::new();
    for topic in ["order-commands", "operator-commands"] {
        for line in place
            .p
            .good(&["tail", topic, "--from", "start", "--exit-at-end", "--json"])
            .lines()
        {
            let record: Value = serde_json::from_str(line).expect("JSON");
            times.push(record["timestamp_ms"].as_i64().expect("a time"));
        }
    }

    assert!(
        times.len() == 2 && times[1] - times[0] > 7_000_000,
        "the broker's clock was ahead: {times:?}"
    );
    let running = place.p.start_roles("all");
    assert_eq!(
        place.order("2").last().map(String::as_str),
        Some("OrderFilled")
    );
    let said = running.stop();
    assert!(!said.err.contains("InvalidTimestamp"), "{}", said.err);
}
