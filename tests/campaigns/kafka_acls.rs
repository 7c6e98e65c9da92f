//! A cluster that denies a right that a role needs. A right that was never granted ends the role at
//! once, with exit code 78 and the name of the right. For a right that is removed later, the role
//! names the right and waits some minutes. After the grant the role continues at its position.

use std::time::Duration;

use crate::support::broker::{self, Broker, wire_text};
use crate::support::load::wait_for;
use crate::support::program::{Background, Program};

const TOPIC: u8 = 2;
const GROUP: u8 = 3;
const TRANSACTIONAL_ID: u8 = 5;
const READ: u8 = 3;
const WRITE: u8 = 4;
const ALL: u8 = 2;
const DENY: u8 = 2;
const ALLOW: u8 = 3;
const CREATE_ACLS: u16 = 30;
const DELETE_ACLS: u16 = 31;
const CLUSTER: u8 = 4;
const DESCRIBE_CONFIGS: u8 = 10;
const SOON: Duration = Duration::from_secs(60);

/// Every client of a plaintext listener is anonymous. Access without an entry is allowed.
fn guarded_broker() -> Broker {
    let authorizer =
        "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer";
    Broker::start_with(&[authorizer, "allow.everyone.if.no.acl.found=true"], true)
}

/// Sends one of the two requests about access lists; both have the same fields. Our client
/// libraries cannot send these requests.
fn acl(broker: &Broker, api: u16, kind: u8, name: &str, operation: u8, permission: u8) {
    const LITERAL: u8 = 3;
    let entry = [
        &[kind][..],
        &wire_text(name),
        &[LITERAL],
        &wire_text("User:ANONYMOUS"),
        &wire_text("*"),
        &[operation, permission],
    ]
    .concat();

    broker.ask(
        (api, 1),
        &[&1_u32.to_be_bytes()[..], &entry].concat(),
        &format!("to change {name}"),
    );
}

/// Denies one operation on a resource and allows all others.
fn deny(broker: &Broker, kind: u8, name: &str, operation: u8) {
    acl(broker, CREATE_ACLS, kind, name, ALL, ALLOW);
    acl(broker, CREATE_ACLS, kind, name, operation, DENY);
}

fn grant(broker: &Broker, kind: u8, name: &str, operation: u8) {
    acl(broker, DELETE_ACLS, kind, name, operation, DENY);
}

/// Topics with a listing, and a few prices for `trading` to read.
fn set_up(broker: &Broker, dir: &tempfile::TempDir, test: &str) -> (Program, String) {
    let prefix = broker::unique_prefix(test);
    let p = Program::kafka(dir.path(), &broker.address, &prefix)
        .with(&["--state", &format!("state-{prefix}")]);
    std::fs::write(p.dir.join("l.csv"), "symbol\nAAPL\n").expect("file");
    p.good(&["topics", "create", "--partitions", "2"]);
    p.good(&["instruments", "load", "l.csv"]);
    publish(&p);
    (p, prefix)
}

fn publish(p: &Program) {
    p.good(&[
        "publish",
        "--symbols",
        "AAPL",
        "--count",
        "3",
        "--rate",
        "0",
    ]);
}

/// Lag of `trading`.
fn lag(p: &Program) -> u64 {
    let rows: serde_json::Value =
        serde_json::from_str(&p.good(&["status", "--role", "trading", "--format", "json"]))
            .expect("JSON");
    rows.as_array()
        .expect("rows")
        .iter()
        .map(|r| r["lag"].as_u64().unwrap_or(u64::MAX / 8))
        .sum()
}

/// Number of recoveries of the role.
fn recoveries(p: &Program, prefix: &str) -> u64 {
    let path = p.dir.join(format!("state-{prefix}/trading/1/status.json"));
    let status: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(path).unwrap_or_default())
            .unwrap_or_default();
    status["counters"]["recoveries"].as_u64().unwrap_or(0)
}

/// Removes a right from a running role. The role logs the refusal as an error, and continues when
/// the right is back.
fn waits_for(
    broker: &Broker,
    p: &Program,
    prefix: &str,
    mut running: Background,
    (kind, name, operation): (u8, &str, u8),
    said: &str,
) {
    let before = recoveries(p, prefix);
    deny(broker, kind, name, operation);
    publish(p);
    wait_for("the refusal to be met twice", SOON, || {
        recoveries(p, prefix) >= before + 2
    });

    assert!(running.is_running());
    grant(broker, kind, name, operation);
    wait_for("everything to be read", SOON, || lag(p) == 0);
    let said_all = running.stop().err;
    let loudly = said_all
        .lines()
        .find(|l| l.contains("ERROR") && l.contains(said));
    assert!(
        loudly.is_some_and(|l| l.contains("trying again for")),
        "{said}: {said_all}"
    );
}

/// A user without the right to read settings gets a message, and can still run roles. A check
/// without this right does not report success.
#[test]
fn settings_that_may_not_be_read() {
    let broker = guarded_broker();
    let dir = tempfile::tempdir().expect("a directory");
    let (p, prefix) = set_up(&broker, &dir, "settings");
    p.good(&["topics", "check"]);
    deny(&broker, CLUSTER, "kafka-cluster", DESCRIBE_CONFIGS);
    wait_for("the cluster's right to be missed", SOON, || {
        p.good(&["topics", "check"])
            .contains("the right DescribeConfigs on the cluster is missing")
    });

    let topic = format!("{prefix}order-events");
    deny(&broker, TOPIC, &topic, DESCRIBE_CONFIGS);
    wait_for("the topic's right to be missed", SOON, || {
        p.run(&["topics", "check"]).code == Some(78)
    });

    p.run(&["topics", "check"]).fails(
        78,
        &[&topic, "the right DescribeConfigs on the topic is missing"],
    );
    let running = p.start_roles("trading");
    wait_for("everything to be read", SOON, || lag(&p) == 0);
    let said = running.stop();
    assert!(
        said.err
            .contains("the right DescribeConfigs on the topic is missing"),
        "{}",
        said.err
    );
    grant(&broker, TOPIC, &topic, DESCRIBE_CONFIGS);
    wait_for("the right to be back", SOON, || {
        p.run(&["topics", "check"]).code == Some(0)
    });
}

#[test]
fn a_missing_right_is_named_and_ends_the_role() {
    let broker = guarded_broker();
    let dir = tempfile::tempdir().expect("a directory");
    let role = ["run", "--role", "trading"];

    let (p, prefix) = set_up(&broker, &dir, "topic");
    let output = format!("{prefix}reference-prices");
    deny(&broker, TOPIC, &output, WRITE);
    p.run(&role).fails(
        78,
        &[
            "Topic authorization failed",
            "Write on topics",
            &output,
            "kafka-acls.sh",
        ],
    );

    grant(&broker, TOPIC, &output, WRITE);
    let running = p.start_roles("trading");
    wait_for("everything to be read", SOON, || lag(&p) == 0);
    running.stop();

    let (p, prefix) = set_up(&broker, &dir, "id");
    let id = format!("{prefix}processor-trading-1");
    deny(&broker, TRANSACTIONAL_ID, &id, WRITE);
    p.run(&role).fails(
        78,
        &[
            "Write and Describe on transactional id",
            &id,
            "kafka-acls.sh",
        ],
    );

    grant(&broker, TRANSACTIONAL_ID, &id, WRITE);
    let running = p.start_roles("trading");
    wait_for("everything to be read", SOON, || lag(&p) == 0);

    // Removed at work: the next transaction finds out.
    waits_for(
        &broker,
        &p,
        &prefix,
        running,
        (TRANSACTIONAL_ID, &id, WRITE),
        "Write and Describe on transactional id",
    );

    let (p, prefix) = set_up(&broker, &dir, "group");
    let group = format!("{prefix}processor-trading");
    let running = p.start_roles("trading");
    wait_for("everything to be read", SOON, || lag(&p) == 0);
    waits_for(
        &broker,
        &p,
        &prefix,
        running,
        (GROUP, &group, READ),
        "Group authorization failed",
    );

    let (p, prefix) = set_up(&broker, &dir, "input");
    let input = format!("{prefix}market-data");
    deny(&broker, TOPIC, &input, READ);
    p.run(&role).fails(78, &["Topic authorization failed"]);
    grant(&broker, TOPIC, &input, READ);
    let running = p.start_roles("trading");
    wait_for("everything to be read", SOON, || lag(&p) == 0);
    running.stop();
}
