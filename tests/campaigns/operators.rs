//! Mistakes of operators, retention and foreign programs on a running system on a cluster. A role
//! never guesses: the role stops with a message that names the mismatch. After the mistake is
//! undone, the role continues as before.

use std::sync::Arc;
use std::time::{Duration, Instant};

use log_kafka::{KafkaLog, KafkaSettings};
use ports::Log;
use ports::records::{Headers, Record};
use ports::topics::{TopicId, TopicPartition};
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::{Offset, TopicPartitionList};
use wire::topics as t;

use crate::support::broker::{self, Broker};
use crate::support::load::wait_for;
use crate::support::program::Program;

const BUG: i32 = 70;
const CONFIG: i32 = 78;
const FIRST: [&str; 4] = ["Deposited", "OrderPending", "OrderAccepted", "OrderFilled"];
const NEXT: [&str; 3] = ["OrderPending", "OrderAccepted", "OrderFilled"];

struct Place {
    p: Program,
    log: KafkaLog,
    prefix: String,
    brokers: String,
    _dir: tempfile::TempDir,
}

impl Place {
    fn new(test: &str) -> Place {
        Place::on(&broker::shared().address, broker::unique_prefix(test))
    }

    fn on(brokers: &str, prefix: String) -> Place {
        let dir = tempfile::tempdir().expect("a directory");
        let p = Program::kafka(dir.path(), brokers, &prefix);
        std::fs::write(dir.path().join("l.csv"), "symbol\nAAPL\n").expect("file");
        p.good(&["topics", "create", "--partitions", "1"]);
        p.good(&["instruments", "load", "l.csv"]);
        let log = KafkaLog::new(KafkaSettings::new(brokers), Arc::new(t::table(&prefix)));
        let place = Place {
            p,
            log,
            prefix,
            brokers: brokers.to_string(),
            _dir: dir,
        };

        place.price();
        place
    }

    fn price(&self) {
        self.p.price_aapl();
    }

    fn order(&self, id: &str) -> Vec<String> {
        self.price();
        self.p.order_aapl(id)
    }

    fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.brokers);
        config
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        self.client().create().expect("an admin client")
    }

    fn name(&self, topic: TopicId) -> String {
        t::table(&self.prefix).name(topic).to_string()
    }

    fn committed(&self, role: &str, topic: TopicId) -> u64 {
        let at = [TopicPartition::new(topic, 0)];
        self.log
            .group_offsets(&format!("{}processor-{role}", self.prefix), &at)
            .expect("the group's offsets")[0]
            .expect("it committed")
    }

    /// Like an operator's tool, after the group has no members. Static members stay until their
    /// session ends.
    fn set_committed(&self, role: &str, topic: TopicId, offset: u64) {
        let group = format!("{}processor-{role}", self.prefix);
        let consumer: BaseConsumer = self
            .client()
            .set("group.id", &group)
            .create()
            .expect("a consumer");
        let mut offsets = TopicPartitionList::new();
        offsets
            .add_partition_offset(&self.name(topic), 0, Offset::Offset(offset as i64))
            .expect("an offset");
        wait_for("the group is empty", Duration::from_secs(40), || {
            consumer.commit(&offsets, CommitMode::Sync).is_ok()
        });
    }

    /// Starts a role that must refuse soon.
    fn refuses(&self, role: &str, code: i32, parts: &[&str]) {
        let began = Instant::now();
        self.p
            .start(&["run", "--role", role])
            .ends(Duration::from_secs(100))
            .fails(code, parts);
        println!(
            "{role} refused after {:.1} s",
            began.elapsed().as_secs_f64()
        );
    }

    fn append(&self, topic: TopicId, key: &[u8], value: &[u8]) {
        let mut appender = self.log.appender().expect("a writer");
        let at = TopicPartition::new(topic, 0);
        appender
            .append(&Record {
                at,
                offset: 0,
                timestamp_ms: 1,
                key: Some(key),
                value: Some(value),
                headers: Headers::default(),
            })
            .expect("sent");

        appender
            .flush(Duration::from_secs(20))
            .expect("it is in the log");
    }
}

/// Hazards 25 and 26: a task must not run from another position than its state's, nor skip unread
/// input.
#[test]
fn offsets_that_were_reset_and_input_that_was_deleted() {
    let place = Place::new("reset");
    let running = place.p.start_roles("all");
    assert_eq!(place.order("1"), FIRST);
    running.stop();
    let right = place.committed("orders", t::ORDER_COMMANDS);
    for wrong in [0, right + 1] {
        place.set_committed("orders", t::ORDER_COMMANDS, wrong);
        place.refuses(
            "orders",
            BUG,
            &[
                "orders task 0 refuses to run",
                "state and committed offsets do not belong together",
            ],
        );
    }

    place.set_committed("orders", t::ORDER_COMMANDS, right);
    let running = place.p.start_roles("all");
    assert_eq!(place.order("2"), NEXT);
    running.stop();

    let right = place.committed("orders", t::ORDER_COMMANDS);
    for n in 0..5 {
        place.append(
            t::ORDER_COMMANDS,
            b"501",
            format!("not an order {n}").as_bytes(),
        );
    }

    let mut offsets = TopicPartitionList::new();
    offsets
        .add_partition_offset(
            &place.name(t::ORDER_COMMANDS),
            0,
            Offset::Offset(right as i64 + 2),
        )
        .expect("an offset");

    let deletion = place.admin();
    let done = deletion.delete_records(&offsets, &AdminOptions::new());
    runtime().block_on(done).expect("records can be deleted");
    place.refuses(
        "orders",
        BUG,
        &[
            "has no offset",
            "were records deleted before they were processed?",
            "retention",
        ],
    );
}

/// Hazard 15: a changelog that was deleted and created again does not belong to the state.
#[test]
fn a_changelog_that_was_deleted() {
    let place = Place::new("gone");
    let running = place.p.start_roles("all");
    assert_eq!(place.order("1"), FIRST);
    running.stop();
    let changelog = place.name(t::ORDERS_CHANGELOG);
    runtime()
        .block_on(
            place
                .admin()
                .delete_topics(&[&changelog], &AdminOptions::new()),
        )
        .expect("it can be deleted");

    wait_for("the deletion is known", Duration::from_secs(30), || {
        let fresh = KafkaLog::new(
            KafkaSettings::new(&place.brokers),
            Arc::new(t::table(&place.prefix)),
        );
        matches!(fresh.partitions(t::ORDERS_CHANGELOG), Ok(None))
    });

    place.refuses("orders", CONFIG, &["orders-changelog", "does not exist"]);
    place.p.good(&["topics", "create", "--partitions", "1"]);
    place.refuses(
        "orders",
        BUG,
        &[
            "orders task 0 refuses to run",
            "of a changelog that ends at 0",
        ],
    );

    // The local state is now the last copy.
    place.p.run(&["rebuild", "--role", "orders"]).fails(
        BUG,
        &[
            "cannot be rebuilt",
            "which has no transaction",
            "Nothing was changed",
        ],
    );

    assert!(
        place
            .p
            .good(&["state", "list", "--role", "orders"])
            .contains("account/501"),
        "it is still there"
    );
}

/// Hazard 23: more partitions move keys to other tasks.
#[test]
fn partitions_that_were_added_under_a_running_role() {
    let place = Place::new("wider");
    let quick = place.p.with(&[
        "--fail-fast",
        "-X",
        "topic.metadata.refresh.interval.ms=1000",
    ]);
    let running = quick.start_roles("all");
    assert_eq!(place.order("1"), FIRST);
    let name = place.name(t::ORDER_COMMANDS);
    let more = NewPartitions::new(&name, 3);
    runtime()
        .block_on(
            place
                .admin()
                .create_partitions([&more], &AdminOptions::new()),
        )
        .expect("partitions can be added");

    running
        .ends(Duration::from_secs(60))
        .fails(CONFIG, &["order-commands", "partition"]);
    place.refuses(
        "orders",
        CONFIG,
        &["has 1 partitions, not 3", "topics check"],
    );
}

/// Hazard 28: a record from outside our transactions is not accepted as ours.
#[test]
fn a_stranger_who_writes_into_an_internal_topic() {
    let place = Place::new("stranger");
    let running = place.p.with(&["--fail-fast"]).start_roles("all");
    assert_eq!(place.order("1"), FIRST);
    place.append(t::BOOK_COMMANDS, b"AAPL", b"anything");
    running
        .ends(Duration::from_secs(60))
        .fails(BUG, &["task-seq", "book-commands", "who wrote it?"]);
}

/// Hazard 37: a broker forgets a transactional id that was idle for long. The role takes a new
/// epoch and continues.
#[test]
fn a_transactional_id_that_expired() {
    let broker = Broker::start_with(
        &[
            "transactional.id.expiration.ms=3000",
            "transaction.remove.expired.transaction.cleanup.interval.ms=1000",
            "producer.id.expiration.ms=3000",
        ],
        true,
    );

    let place = Place::on(&broker.address, broker::unique_prefix("expired"));
    let running = place.p.start_roles("all");
    assert_eq!(place.order("1"), FIRST);

    // The broker forgets the id after 3 s without a transaction, and looks once a second.
    std::thread::sleep(Duration::from_secs(8));
    assert_eq!(place.order("2"), NEXT);

    // As above.
    std::thread::sleep(Duration::from_secs(8));
    assert_eq!(place.order("3"), NEXT);
    let said = running.stop();
    assert!(
        said.err.contains("recovering"),
        "nothing expired, so nothing was shown:\n{}",
        said.err
    );
    place.p.good(&["verify"]);
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}
