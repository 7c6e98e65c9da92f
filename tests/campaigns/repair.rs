//! Forgotten or moved offsets, and input behind a client's open transaction, on a real broker: the
//! reports of `status` and `verify`, and the result of `repair offsets`.

use std::sync::Arc;
use std::time::Duration;

use log_kafka::{KafkaLog, KafkaSettings};
use ports::Log;
use ports::topics::{TopicId, TopicPartition};
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};
use serde_json::Value;
use wire::topics as t;

use crate::support::broker;
use crate::support::load::wait_for;
use crate::support::program::Program;

const BUG: i32 = 70;
const CONFIG: i32 = 78;
/// Short sessions: a group is empty soon after the stop of its roles.
const FLAGS: [&str; 2] = ["-X", "session.timeout.ms=6000"];

struct Place {
    p: Program,
    prefix: String,
    brokers: String,
    _dir: tempfile::TempDir,
}

impl Place {
    fn new(test: &str) -> Place {
        let brokers = broker::shared().address.clone();
        let prefix = broker::unique_prefix(test);
        let dir = tempfile::tempdir().expect("a directory");
        let p = Program::kafka(dir.path(), &brokers, &prefix).with(&FLAGS);
        std::fs::write(dir.path().join("l.csv"), "symbol\nAAPL\n").expect("file");
        p.good(&["topics", "create", "--partitions", "2"]);
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

        Place {
            p,
            prefix,
            brokers,
            _dir: dir,
        }
    }

    fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.brokers);
        config
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        self.client().create().expect("an admin client")
    }

    fn group(&self, role: &str) -> String {
        format!("{}processor-{role}", self.prefix)
    }

    fn name(&self, topic: TopicId) -> String {
        t::table(&self.prefix).name(topic).to_string()
    }

    fn committed(&self, role: &str, topic: TopicId) -> Vec<Option<u64>> {
        let log = KafkaLog::new(
            KafkaSettings::new(&self.brokers),
            Arc::new(t::table(&self.prefix)),
        );
        let at = [TopicPartition::new(topic, 0), TopicPartition::new(topic, 1)];
        log.group_offsets(&self.group(role), &at)
            .expect("the group's offsets")
    }

    /// Like an operator's tool, after the group has no members.
    fn set_committed(&self, role: &str, topic: TopicId, partition: i32, offset: u64) {
        let consumer: BaseConsumer = self
            .client()
            .set("group.id", self.group(role))
            .create()
            .expect("a consumer");
        let mut offsets = TopicPartitionList::new();
        offsets
            .add_partition_offset(&self.name(topic), partition, Offset::Offset(offset as i64))
            .expect("an offset");
        wait_for("the group is empty", Duration::from_secs(40), || {
            consumer.commit(&offsets, CommitMode::Sync).is_ok()
        });
    }

    /// Like a cluster after a week without members.
    fn forget(&self, role: &str) {
        let group = self.group(role);
        let admin = self.admin();
        wait_for("the group is gone", Duration::from_secs(40), || {
            let done = runtime().block_on(admin.delete_groups(&[&group], &AdminOptions::new()));
            done.is_ok_and(|all| all.iter().all(Result::is_ok))
        });
    }

    fn deposit(&self, user: &str, id: &str) {
        let events = self.p.good(&[
            "order",
            "--user",
            user,
            "--id",
            id,
            "--deposit",
            "10",
            "--format",
            "json",
        ]);

        assert!(events.contains("\"Deposited\""), "{events}");
    }

    fn deposits(&self) -> usize {
        let events = self
            .p
            .good(&["tail", "order-events", "--from", "start", "--exit-at-end"]);
        events.lines().filter(|l| l.contains("Deposited")).count()
    }

    fn repair(&self, more: &[&str]) -> Vec<Value> {
        let said = self.p.good(
            &[
                &["repair", "offsets", "--role", "orders", "--format", "json"],
                more,
            ]
            .concat(),
        );

        serde_json::from_str::<Value>(&said)
            .expect("JSON")
            .as_array()
            .expect("rows")
            .clone()
    }
}

fn all(rows: &[Value], action: &str) -> bool {
    !rows.is_empty() && rows.iter().all(|r| r["action"] == action)
}

#[test]
fn offsets_that_are_gone_or_were_moved_are_put_back() {
    let place = Place::new("repair");
    let running = place.p.start_roles("all");
    for n in 0..4 {
        place.deposit(&format!("5{n}"), &format!("a{n}"));
    }

    assert!(
        all(&place.repair(&["--dry-run"]), "fits"),
        "a look disturbs nobody"
    );
    let busy = place.p.run(&["repair", "offsets", "--role", "orders"]);
    busy.fails(
        CONFIG,
        &[
            "has members",
            "stop all its instances first",
            "Nothing was changed",
        ],
    );

    place.deposit("50", "b");
    running.stop();
    let right = place.committed("orders", t::OPERATOR_COMMANDS);
    assert!(right.iter().all(Option::is_some), "{right:?}");
    let deposits = place.deposits();

    // A week of rest.
    place.forget("orders");
    assert_eq!(
        place.committed("orders", t::OPERATOR_COMMANDS),
        [None, None]
    );
    let told = place.p.run(&["verify", "--role", "orders"]);
    assert!(
        told.code == Some(0) && told.out.contains("the group's offsets are gone"),
        "{told:?}"
    );
    assert!(all(&place.repair(&["--dry-run"]), "would be set"));
    assert!(all(&place.repair(&[]), "set"));
    assert_eq!(place.committed("orders", t::OPERATOR_COMMANDS), right);
    assert!(
        place
            .p
            .good(&["verify", "--role", "orders"])
            .contains("equals the committed offsets")
    );

    // A tool moves the offsets: back by one, and forward.
    let first = right[0].expect("committed");
    for wrong in [first - 1, first + 1] {
        place.set_committed("orders", t::OPERATOR_COMMANDS, 0, wrong);
        let told = place.p.run(&["verify", "--role", "orders"]);
        assert_eq!(told.code, Some(BUG), "{told:?}");
        assert!(
            told.out.contains("a start refuses to run")
                && told.out.contains(&format!("is committed at {wrong}")),
            "{told:?}"
        );
        assert!(!told.out.contains("will catch up"), "{told:?}");
        let rows = place.repair(&[]);
        assert_eq!(
            rows.iter().filter(|r| r["action"] == "set").count(),
            3,
            "one task, three inputs: {rows:?}"
        );
        assert_eq!(place.committed("orders", t::OPERATOR_COMMANDS), right);
    }

    let running = place.p.start_roles("all");
    place.deposit("50", "c");
    wait_for("all is read", Duration::from_secs(60), || {
        place.deposits() == deposits + 1
    });

    running.stop();
    place.p.good(&["verify"]);
    place.p.good(&["replay", "--role", "orders"]);

    // Records were deleted before they were read. No command can repair this, and nothing is
    // changed.
    place.forget("orders");
    let end = place.committed_end(t::OPERATOR_COMMANDS);
    let mut offsets = TopicPartitionList::new();
    let producer: BaseProducer = place.client().create().expect("a producer");
    for _ in 0..5 {
        let name = place.name(t::OPERATOR_COMMANDS);
        producer
            .send(
                BaseRecord::to(&name)
                    .key("x")
                    .payload("not an order")
                    .partition(0),
            )
            .map_err(|(e, _)| e)
            .expect("sent");
    }

    producer.flush(Duration::from_secs(20)).expect("written");
    offsets
        .add_partition_offset(
            &place.name(t::OPERATOR_COMMANDS),
            0,
            Offset::Offset(end as i64 + 3),
        )
        .expect("an offset");

    runtime()
        .block_on(place.admin().delete_records(&offsets, &AdminOptions::new()))
        .expect("records can be deleted");
    for more in [&["--dry-run"][..], &[]] {
        let refused = place
            .p
            .run(&[&["repair", "offsets", "--role", "orders"], more].concat());
        refused.fails(
            BUG,
            &[
                "nothing was changed",
                "operator-commands/0: offset",
                "were deleted before they were read",
            ],
        );
    }

    assert_eq!(
        place.committed("orders", t::OPERATOR_COMMANDS),
        [None, None]
    );
}

/// Two ways to restore forgotten offsets die at every step: the repair command, and a start that
/// takes them from the changelog. Some crashes leave the offsets in an open transaction. The next
/// run completes the work, and no record is processed twice.
#[cfg(feature = "faults")]
#[test]
fn a_repair_and_a_start_killed_over_offsets_are_made_good() {
    let place = Place::new("dies");
    let running = place.p.start_roles("all");
    (0..3).for_each(|n| place.deposit(&format!("5{n}"), "first"));
    running.stop();
    let right = place.committed("orders", t::OPERATOR_COMMANDS);
    for at in [
        "repair.joined",
        "tx.offsets",
        "tx.end_in_flight",
        "repair.committed",
    ] {
        place.forget("orders");
        place.p.dies(&["repair", "offsets", "--role", "orders"], at);
        let rows = place.repair(&[]);
        assert!(all(&rows, "set") || all(&rows, "fits"), "{at}: {rows:?}");
        assert_eq!(
            place.committed("orders", t::OPERATOR_COMMANDS),
            right,
            "{at}"
        );
    }

    let mut deposits = place.deposits();
    for at in [
        "adopt.positions",
        "tx.offsets",
        "tx.end_in_flight",
        "adopt.committed",
    ] {
        place.forget("orders");
        place.p.dies(&["run", "--role", "orders"], at);
        let running = place.p.start_roles("all");
        place.deposit("50", at);
        deposits += 1;
        assert_eq!(place.deposits(), deposits, "{at}");
        running.stop();
    }

    let verified = place.p.good(&["verify"]);
    assert!(verified.lines().all(|l| l.starts_with("ok")), "{verified}");
    assert_eq!(place.p.good(&["replay"]).matches("equal").count(), 10);
}

impl Place {
    fn committed_end(&self, topic: TopicId) -> u64 {
        let log = KafkaLog::new(
            KafkaSettings::new(&self.brokers),
            Arc::new(t::table(&self.prefix)),
        );
        log.bounds(TopicPartition::new(topic, 0))
            .expect("bounds")
            .stable_end
    }
}

/// A client that stops inside a transaction blocks all later records of that partition. Regression:
/// `status` reported lag 0.
#[test]
fn input_behind_a_clients_open_transaction_is_lag_and_is_named() {
    let place = Place::new("held");
    let running = place.p.start_roles("orders,trading");
    place.deposit("50", "a");
    let mut config = place.client();
    config
        .set("transactional.id", format!("{}client", place.prefix))
        .set("transaction.timeout.ms", "600000");
    let client: BaseProducer = config.create().expect("a producer");
    client
        .init_transactions(Duration::from_secs(20))
        .expect("transactions");
    client.begin_transaction().expect("begun");
    let name = place.name(t::OPERATOR_COMMANDS);
    for _ in 0..3 {
        client
            .send(BaseRecord::to(&name).key("x").payload("{}").partition(0))
            .map_err(|(e, _)| e)
            .expect("sent");
    }

    client.flush(Duration::from_secs(20)).expect("written");
    let other: BaseProducer = place.client().create().expect("a producer");
    for _ in 0..4 {
        other
            .send(BaseRecord::to(&name).key("y").payload("{}").partition(0))
            .map_err(|(e, _)| e)
            .expect("sent");
    }

    other.flush(Duration::from_secs(20)).expect("written");
    let row = || -> Value {
        let rows: Value = serde_json::from_str(
            &place
                .p
                .good(&["status", "--role", "orders", "--format", "json"]),
        )
        .expect("JSON");
        rows.as_array()
            .expect("rows")
            .iter()
            .find(|r| r["topic"] == name.as_str() && r["partition"] == 0)
            .expect("its row")
            .clone()
    };

    let held = row();
    assert_eq!(
        (&held["lag"], held["end"].as_u64()),
        (&Value::from(7), held["stable_end"].as_u64().map(|e| e + 7)),
        "{held}"
    );
    assert!(
        held["held_since"]
            .as_str()
            .is_some_and(|t| t.starts_with("20")),
        "{held}"
    );
    wait_for("people are told", Duration::from_secs(30), || {
        place
            .p
            .good(&["status", "--role", "orders"])
            .contains("7 records wait behind a transaction that has been open since 20")
    });

    running.stop();
    wait_for("verify tells it too", Duration::from_secs(60), || {
        let told = place.p.run(&["verify", "--role", "orders"]);
        told.out.contains("7 records wait behind a transaction")
    });
    place.p.good(&["verify", "--role", "orders"]);
    client
        .abort_transaction(Duration::from_secs(20))
        .expect("aborted");
    let running = place.p.start_roles("orders,trading");
    wait_for("all is read", Duration::from_secs(60), || {
        row()["lag"] == 0 && row()["held_since"].is_null()
    });

    running.stop();
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}
