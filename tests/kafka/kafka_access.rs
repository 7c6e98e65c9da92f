//! The rights in docs/operating/security.md are enough for every role and client, and a client
//! cannot use the rights of the desk.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use wire::topics;

use crate::support;
use crate::support::broker::{Broker, ask, wire_text};
use crate::support::load::wait_for;
use crate::support::program::Program;

const PAGE: &str = include_str!("../../docs/operating/security.md");
const ROLES: [&str; 5] = ["orders", "trading", "portfolio", "notifications", "audit"];
const TOPIC: u8 = 2;
const GROUP: u8 = 3;
const CLUSTER: u8 = 4;
const TRANSACTIONAL_ID: u8 = 5;
const READ: u8 = 3;
const WRITE: u8 = 4;
const DESCRIBE: u8 = 8;
const DESCRIBE_CONFIGS: u8 = 10;
const IDEMPOTENT_WRITE: u8 = 12;
const LITERAL: u8 = 3;
const PREFIXED: u8 = 4;

/// Principal, topics to read, topics to write: the rows of the page's tables.
fn rows() -> Vec<(String, Vec<String>, Vec<String>)> {
    let words = |cell: &str| {
        cell.split('`')
            .skip(1)
            .step_by(2)
            .map(str::to_string)
            .collect::<Vec<_>>()
    };

    let lines = PAGE.lines().filter(|l| l.starts_with("| `"));
    let cells = lines.map(|l| {
        l.trim_matches('|')
            .split('|')
            .map(words)
            .collect::<Vec<_>>()
    });

    cells
        .map(|c| (c[0][0].clone(), c[1].clone(), c[2].clone()))
        .collect()
}

/// A broker that knows these users, allows no access by default, and allows `broker` all access.
fn strict_broker(users: &[String]) -> Broker {
    let known: String = users
        .iter()
        .map(|u| format!(" user_{u}=\"{u}-secret\""))
        .collect();
    let login = "org.apache.kafka.common.security.plain.PlainLoginModule required";
    let jaas = format!(
        "listener.name.plaintext.plain.sasl.jaas.config={login} username=\"broker\" password=\"broker-secret\" user_broker=\"broker-secret\"{known};"
    );
    let lines = [
        "listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:SASL_PLAINTEXT",
        "inter.broker.listener.name=PLAINTEXT",
        "sasl.enabled.mechanisms=PLAIN",
        "sasl.mechanism.inter.broker.protocol=PLAIN",
        "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        // The controller has a listener without logins.
        "super.users=User:broker;User:ANONYMOUS",
        "allow.everyone.if.no.acl.found=false",
        &jaas,
    ];

    Broker::start_with(&lines, true)
}

/// A right: principal, kind of resource, name, literal or prefix, operation.
type Right = (String, u8, String, u8, u8);

/// Grants rights, as the user `broker`. Our client libraries cannot send this request.
fn grant(broker: &Broker, rights: &[Right]) {
    let mut stream = TcpStream::connect(&broker.address).expect("the broker takes connections");
    assert_eq!(
        ask(&mut stream, (17, 1), &wire_text("PLAIN"))[..2],
        [0, 0],
        "the mechanism is served"
    );
    let login = b"\0broker\0broker-secret";
    let login = [
        &u32::try_from(login.len()).expect("short").to_be_bytes()[..],
        login,
    ]
    .concat();
    assert_eq!(ask(&mut stream, (36, 0), &login)[..2], [0, 0], "logged in");
    let mut fields = u32::try_from(rights.len())
        .expect("few")
        .to_be_bytes()
        .to_vec();
    for (principal, kind, name, pattern, operation) in rights {
        const ALLOW: u8 = 3;
        let who = wire_text(&format!("User:{principal}"));
        fields.extend(
            [
                &[*kind][..],
                &wire_text(name),
                &[*pattern],
                &who,
                &wire_text("*"),
                &[*operation, ALLOW],
            ]
            .concat(),
        );
    }

    let answer = ask(&mut stream, (30, 1), &fields);

    // Throttle time, number of results; each result is an error and a text, which is empty without
    // an error.
    let results = answer[8..].chunks_exact(4).collect::<Vec<_>>();
    assert_eq!(results.len(), rights.len(), "{answer:?}");
    assert!(
        results.iter().all(|r| **r == [0; 4]),
        "a right was refused: {answer:?}"
    );
}

fn rights() -> Vec<Right> {
    let mut all: Vec<Right> = Vec::new();
    for (principal, reads, writes) in rows() {
        let mut right = |kind, name: &str, pattern, operation| {
            all.push((principal.clone(), kind, name.into(), pattern, operation))
        };

        reads
            .iter()
            .for_each(|topic| right(TOPIC, topic, LITERAL, READ));
        writes
            .iter()
            .for_each(|topic| right(TOPIC, topic, LITERAL, WRITE));
        right(GROUP, "processor-reader", LITERAL, DESCRIBE);
        if ROLES.contains(&&*principal) {
            [DESCRIBE, DESCRIBE_CONFIGS]
                .into_iter()
                .for_each(|o| right(TOPIC, "*", LITERAL, o));
            right(GROUP, &format!("processor-{principal}"), LITERAL, READ);
            [WRITE, DESCRIBE].into_iter().for_each(|o| {
                right(
                    TRANSACTIONAL_ID,
                    &format!("processor-{principal}-"),
                    PREFIXED,
                    o,
                )
            });

            [DESCRIBE, DESCRIBE_CONFIGS, IDEMPOTENT_WRITE]
                .into_iter()
                .for_each(|o| right(CLUSTER, "kafka-cluster", LITERAL, o));
        }

        match principal.as_str() {
            "orders" => right(GROUP, "processor-trading", LITERAL, DESCRIBE),
            "gateway" => {
                right(GROUP, "processor-gateway", LITERAL, READ);
                for operation in [WRITE, DESCRIBE] {
                    right(TRANSACTIONAL_ID, "processor-gateway-", PREFIXED, operation);
                }
            }
            "auditor" => right(GROUP, "processor-audit", LITERAL, DESCRIBE),
            _ => {}
        }
    }

    all
}

fn program(dir: &Path, broker: &Broker, user: &str) -> Program {
    let home = dir.join(user);
    std::fs::create_dir_all(&home).expect("a directory");
    let login = [
        ("security.protocol", "sasl_plaintext"),
        ("sasl.mechanism", "PLAIN"),
        ("sasl.username", user),
        ("sasl.password", &format!("{user}-secret")),
    ];
    let lines: String = login
        .iter()
        .map(|(k, v)| format!("\"{k}\" = \"{v}\"\n"))
        .collect();
    std::fs::write(
        home.join("processor.toml"),
        format!("brokers = \"{}\"\n\n[kafka]\n{lines}", broker.address),
    )
    .expect("a file");
    Program {
        dir: home,
        flags: Vec::new(),
    }
}

#[test]
fn the_page_names_topics_that_exist() {
    let table = topics::table("");
    for (principal, reads, writes) in rows() {
        for topic in reads.iter().chain(&writes) {
            assert!(
                table.find(topic).is_some(),
                "{principal}: there is no topic {topic}"
            );
        }
    }

    for role in roles::Role::all() {
        let (_, reads, _) = rows()
            .into_iter()
            .find(|(name, ..)| name == role.name())
            .expect("a row for each role");
        let spec = role.spec();
        for topic in spec
            .inputs
            .iter()
            .map(|i| i.topic)
            .chain(spec.broadcasts.iter().copied())
            .chain([spec.changelog])
        {
            assert!(
                reads.iter().any(|name| name == table.name(topic)),
                "{role} reads {}",
                table.name(topic)
            );
        }
    }
}

#[test]
fn roles_and_clients_run_with_only_the_rights_of_the_page() {
    const SOON: Duration = Duration::from_secs(90);
    let users: Vec<String> = rows().into_iter().map(|(user, ..)| user).collect();
    let broker = strict_broker(&users);
    let dir = tempfile::tempdir().expect("a directory");
    let p = |user: &str| program(dir.path(), &broker, user);
    let owner = p("broker");
    owner.good(&["topics", "create", "--partitions", "2"]);
    grant(&broker, &rights());

    let desk = p("desk");
    std::fs::write(desk.dir.join("l.csv"), "symbol\nAAPL\n").expect("file");
    desk.good(&["instruments", "load", "l.csv"]);
    let running: Vec<_> = ROLES
        .iter()
        .map(|role| p(role).start(&["run", "--role", role]))
        .collect();
    p("feed").good(&[
        "publish",
        "--symbols",
        "AAPL",
        "--count",
        "3",
        "--rate",
        "0",
    ]);

    desk.good(&["order", "--user", "501", "--id", "d", "--deposit", "100"]);
    let client = p("client");
    let filled = client.good(&[
        "order",
        "--user",
        "501",
        "--symbol",
        "AAPL",
        "--quantity",
        "1",
        "--side",
        "buy",
        "--format",
        "json",
    ]);

    assert!(filled.contains("OrderFilled"), "{filled}");

    // `orders` writes busts to `trades`.
    let fill: serde_json::Value = filled
        .lines()
        .filter_map(|l| serde_json::from_str(l).ok())
        .next_back()
        .expect("the fill");
    let id = |name: &str| fill[name].as_str().expect("an id").to_string();
    assert!(
        desk.good(&[
            "account",
            "bust",
            "501",
            &id("order_id"),
            &id("trade_id"),
            "--operator",
            "ana"
        ])
        .contains("TradeBusted")
    );

    let at_rest = || {
        let rows: serde_json::Value =
            serde_json::from_str(&owner.good(&["status", "--format", "json"])).expect("JSON");
        rows.as_array().expect("rows").iter().all(|r| r["lag"] == 0)
    };

    wait_for("every role to have read everything", SOON, at_rest);

    a_gateway_serves(&p("gateway"));
    an_auditor_looks(&p("auditor"), id("order_id").as_str());

    // The desk's topic is closed to clients, and so are the portfolios of all users.
    let refused = client.run(&[
        "order",
        "--user",
        "501",
        "--id",
        "mint",
        "--deposit",
        "1000000",
    ]);

    refused.fails(
        78,
        &["neither Read nor Write on topic operator-commands is granted"],
    );
    client
        .run(&["account", "stop", "501", "--operator", "eve"])
        .fails(78, &["controls"]);
    client
        .run(&["tail", "audit-log", "--from", "start", "--exit-at-end"])
        .fails(78, &["audit-log"]);

    client.run(&["status", "--role", "portfolio"]).fails(
        78,
        &["Describe on group processor-portfolio is not granted"],
    );

    // A command that bypasses the command line is refused by `orders` itself.
    let minted = r#"{"user_id":"501","order_id":"mint","command":"deposit","amount":"1000000"}"#;
    let topic = wire::topics::ORDER_COMMANDS;
    let properties = [
        ("security.protocol", "sasl_plaintext"),
        ("sasl.mechanism", "PLAIN"),
        ("sasl.username", "client"),
        ("sasl.password", "client-secret"),
    ];
    let mut settings = log_kafka::KafkaSettings::new(&broker.address);
    settings.properties = properties
        .map(|(k, v)| (k.to_string(), v.to_string()))
        .to_vec();
    let log = log_kafka::KafkaLog::new(settings, std::sync::Arc::new(topics::table("")));
    let mut commands = client::KeyedAppender::new(&log, topic).expect("the topic is there");
    commands
        .append("501", Some(minted.as_bytes()))
        .expect("sent");
    commands.flush(SOON).expect("written");
    wait_for("the answer", SOON, || {
        client
            .good(&["tail", "order-events", "--from", "start", "--exit-at-end"])
            .contains("NOT_AUTHORIZED")
    });

    running.into_iter().for_each(|r| drop(r.stop()));
    owner.good(&["verify"]);
}

/// The gateway reads the records that it shows, and writes the settings of users.
fn a_gateway_serves(p: &Program) {
    const SOON: Duration = Duration::from_secs(60);
    let address = format!("127.0.0.1:{}", support::broker::free_port());
    let gateway = p.start(&["gateway", "--listen", &address]);
    let ask = |head: &str, body: &str| {
        let Ok(mut stream) = TcpStream::connect(&address) else {
            return String::new();
        };

        stream
            .set_read_timeout(Some(Duration::from_secs(2)))
            .expect("a timeout");
        let kind = "content-type: application/json";
        let length = body.len();
        let text = format!(
            "{head} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n{kind}\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        stream.write_all(text.as_bytes()).expect("sent");

        // A stream has no end; the bytes until the timeout are enough.
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok();
        String::from_utf8_lossy(&answer).into_owned()
    };

    wait_for("the gateway to serve", SOON, || {
        ask("GET /healthz", "").starts_with("HTTP/1.1 200")
    });

    assert!(ask("GET /v1/users/501/notifications?after=0", "").contains("order-filled"));
    assert!(ask("GET /v1/users/501/portfolio", "").contains("cash_available"));
    let alert = ask(
        "PUT /v1/users/501/alerts/a",
        r#"{"symbol":"AAPL","above":"1.00"}"#,
    );

    assert!(alert.contains("registration"), "{alert}");
    let said = gateway.stop();
    assert!(
        !said.err.contains("granted") && !said.err.contains("refuse"),
        "{said:?}"
    );
}

/// An auditor reads all records, and changes none.
fn an_auditor_looks(p: &Program, order_id: &str) {
    assert!(p.good(&["audit", "verify"]).contains("whole"));
    assert!(
        p.good(&["audit", "find", "--order", order_id])
            .contains("decided by")
    );
    p.good(&["audit", "anchor"]);
    let stopped = p.run(&["account", "stop", "501", "--operator", "eve"]);
    stopped.fails(1, &["controls/0", "authorization failed"]);
    assert!(!p.good(&["account", "list"]).contains("501"));
}
