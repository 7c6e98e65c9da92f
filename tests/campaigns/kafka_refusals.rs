//! Records that brokers refuse for their size, after an operator lowered a topic's
//! `max.message.bytes`. A batch that is only too large as a whole is sent in pieces. A record that
//! can never be accepted ends its role with 70, and the message names the setting to change. After
//! the change no record is lost.

use std::sync::Arc;
use std::time::Duration;

use log_kafka::{KafkaLog, KafkaSettings};
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use serde_json::Value;
use wire::topics as t;

use crate::support;
use crate::support::broker::Broker;
use crate::support::load::{Sender, wait_for};
use crate::support::program::Program;
use crate::support::rest::wait_at_rest;

const LONG: Duration = Duration::from_secs(120);

struct Place {
    broker: Broker,
    program: Program,
    log: Arc<KafkaLog>,
    _dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        let broker = Broker::start();
        let dir = tempfile::tempdir().expect("a directory");
        let program = Program::kafka(dir.path(), &broker.address, "");
        std::fs::write(dir.path().join("l.csv"), "symbol\nAAPL\n").expect("file");
        program.good(&["topics", "create", "--partitions", "2"]);
        program.good(&["instruments", "load", "l.csv"]);
        program.good(&[
            "publish",
            "--symbols",
            "AAPL",
            "--count",
            "3",
            "--rate",
            "0",
        ]);

        let log = Arc::new(KafkaLog::new(
            KafkaSettings::new(&broker.address),
            Arc::new(t::table("")),
        ));
        Place {
            broker,
            program,
            log,
            _dir: dir,
        }
    }

    fn limit(&self, topic: &str, bytes: u32) {
        let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
            .set("bootstrap.servers", &self.broker.address)
            .create()
            .expect("an admin client");
        let bytes = bytes.to_string();
        let change = AlterConfig::new(ResourceSpecifier::Topic(topic))
            .set("max.message.bytes", &bytes)
            .set("retention.ms", "-1");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let done = runtime.block_on(
            admin.alter_configs([&change], &AdminOptions::new().request_timeout(Some(LONG))),
        );
        done.expect("the broker answers")
            .into_iter()
            .for_each(|r| drop(r.expect("the topic is changed")));
    }

    fn send(&self, users: std::ops::Range<u32>, each: u32) {
        let mut sender = Sender::new(&*self.log);
        for i in 0..each {
            for user in users.clone() {
                let order = format!(
                    r#"{{"user_id":"u{user}","order_id":"{i}","symbol":"AAPL","quantity":1,"order_type":"buy"}}"#
                );
                sender.send(t::ORDER_COMMANDS, &format!("u{user}"), order);
            }
        }

        sender.flush();
    }

    fn filled(&self) -> usize {
        support::oracle::read_all(&*self.log, t::ORDER_EVENTS)
            .iter()
            .filter(|e| e.text("event") == "OrderFilled")
            .count()
    }

    fn recoveries(&self) -> u64 {
        let bytes =
            std::fs::read(self.program.dir.join("state/orders/1/status.json")).unwrap_or_default();
        serde_json::from_slice::<Value>(&bytes)
            .map_or(0, |v| v["counters"]["recoveries"].as_u64().unwrap_or(0))
    }
}

#[test]
fn a_record_that_its_topic_does_not_take_any_more_ends_the_role() {
    let place = Place::new();

    // A start checks the topics, so this limit is lowered under a running role.
    let running = place.program.start_roles("orders");
    place.limit("order-events", 200);
    place.send(0..1, 1);

    // Broker restarts in the meantime do not count.
    wait_for("the first refusal", LONG, || place.recoveries() > 0);
    place.broker.stop();
    place.broker.restart();
    let ended = running.ends(LONG);
    let named = [
        "order-commands/",
        "order-events/",
        "u0",
        "MESSAGE_TOO_LARGE",
        "raise max.message.bytes of order-events to 1048576",
        "refused 3 times",
        "nothing is lost",
    ];

    ended.fails(70, &named);
    place.limit("order-events", 1 << 20);
    let running = place.program.start_roles("all");
    wait_at_rest(&*place.log, "", LONG, || {});
    assert_eq!(place.filled(), 1);
    running.stop();
}

#[test]
fn what_is_only_too_large_together_gets_through_in_pieces() {
    let place = Place::new();
    let mut running = place.program.start_roles("all");
    place.limit("order-events", 6_000);
    place.send(0..10, 50);
    wait_at_rest(&*place.log, "", LONG, || {});
    assert!(running.is_running());
    assert_eq!(place.filled(), 500);
    assert!(place.recoveries() > 0, "the limit was met");
    running.stop();
}
