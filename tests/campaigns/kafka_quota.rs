//! A client over its quota: brokers delay the answers. The role is slower but completes its work,
//! and logs the reason.

use std::time::Duration;

use log_kafka::{KafkaLog, KafkaSettings};
use wire::topics as t;

use crate::support::broker::{Broker, wire_text};
use crate::support::load::{Sender, wait_for};
use crate::support::program::Program;

/// Sets or removes the quota of every client with our client id. Our client libraries cannot send
/// the request.
fn quota(broker: &Broker, key: &str, bytes_a_second: Option<f64>) {
    const ALTER_CLIENT_QUOTAS: u16 = 49;
    let one = 1_u32.to_be_bytes();
    let entity = [&one[..], &wire_text("client-id"), &wire_text("processor")].concat();
    let change = [
        &one[..],
        &wire_text(key),
        &bytes_a_second.unwrap_or(0.0).to_be_bytes(),
        &[u8::from(bytes_a_second.is_none())],
    ]
    .concat();

    // One entry; the 0 asks for the change itself, not only for a validation.
    broker.ask(
        (ALTER_CLIENT_QUOTAS, 0),
        &[&one[..], &entity, &change, &[0]].concat(),
        &format!("the quota {key}"),
    );
}

fn lag(p: &Program) -> u64 {
    let rows: serde_json::Value =
        serde_json::from_str(&p.good(&["status", "--role", "audit", "--format", "json"]))
            .expect("JSON");
    rows.as_array()
        .expect("rows")
        .iter()
        .map(|r| r["lag"].as_u64().unwrap_or(u64::MAX / 8))
        .sum()
}

fn recoveries(p: &Program) -> u64 {
    let path = p.dir.join("state/audit/1/status.json");
    let status: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(path).unwrap_or_default())
            .unwrap_or_default();
    status["counters"]["recoveries"].as_u64().unwrap_or(0)
}

#[test]
fn a_throttled_role_gets_through_and_says_so() {
    let broker = Broker::start();
    let dir = tempfile::tempdir().expect("a directory");
    let p = Program::kafka(dir.path(), &broker.address, "").with(&["--state", "state"]);
    p.good(&["topics", "create", "--partitions", "2"]);
    let log = KafkaLog::new(
        KafkaSettings::new(&broker.address),
        std::sync::Arc::new(t::table("")),
    );
    let mut sender = Sender::new(&log);
    for i in 0..6_000 {
        let user = format!("u{}", i % 50);
        let pad = format!(
            "{:x}",
            u128::from(i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060)
        );
        sender.send(
            t::ORDER_COMMANDS,
            &user,
            format!(r#"{{"user_id":"{user}","order_id":"{i}","command":"deposit","amount":"1","x":"{pad}"}}"#),
        );
    }

    sender.flush();
    for key in ["producer_byte_rate", "consumer_byte_rate"] {
        quota(&broker, key, Some(40_000.0));
    }

    let running = p.start_roles("audit");
    wait_for(
        "all to be audited, though slowly",
        Duration::from_secs(400),
        || lag(&p) == 0,
    );
    let recovered = recoveries(&p);
    let said = running.stop().err;
    for part in ["is throttled: broker", "has a quota"] {
        assert!(said.contains(part), "{part}: {said}");
    }

    assert!(
        recovered <= 6,
        "{recovered} recoveries: a quota was taken for an outage: {said}"
    );
    for key in ["producer_byte_rate", "consumer_byte_rate"] {
        quota(&broker, key, None);
    }

    p.good(&["verify", "--role", "audit"]);
}
