//! A shown record equals the stored record. No content of a record may control the terminal or add
//! a line of its own.

use std::path::Path;
use std::time::Duration;

use log_local::{LocalLog, LocalOptions};
use ports::Log;
use ports::records::{HeaderBuf, Record};
use ports::topics::{TopicId, TopicPartition};
use wire::topics as t;

use crate::support::program::Program;

const LIE: &str = "+\u{a0}2026-11-30T00:00:00.000Z\u{a0}order-events/0/999\u{a0}\u{a0}OrderFilled\u{a0}user_id:victim";

fn embedded(dir: &Path) -> Program {
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

    p
}

fn append(dir: &Path, topic: TopicId, key: &str, headers: &[(&str, &str)], value: &[u8]) {
    let log =
        LocalLog::open(&dir.join("log"), &t::table(""), LocalOptions::default()).expect("the log");
    let mut appender = log.appender().expect("an appender");
    let mut packed = HeaderBuf::default();
    for (name, value) in headers {
        packed.push(name, value.as_bytes());
    }

    let at = TopicPartition::new(topic, 0);
    let record = Record {
        at,
        offset: 0,
        timestamp_ms: 1_700_000_000_000,
        key: Some(key.as_bytes()),
        value: Some(value),
        headers: packed.headers(),
    };

    appender
        .append(&record)
        .and_then(|()| appender.flush(Duration::from_secs(5)))
        .expect("appended");
}

/// Regression: an unknown field of an order, a header and a key printed lines with the `+` of
/// audited records, and set the window title.
#[test]
fn a_client_writes_no_line_of_the_operators_terminal() {
    let dir = tempfile::tempdir().expect("a directory");
    let p = embedded(dir.path());
    let note = format!("\u{1b}[1A\u{1b}[2K\n{LIE}\u{1b}]0;owned\u{7}\u{9b}2J\u{202e}");
    let mut order = serde_json::json!({"order_id": "9", "user_id": "mallory", "symbol": "AAPL", "quantity": 1, "order_type": "buy"});
    order["note"] = note.as_str().into();
    order[format!("x\n{LIE}=")] = 1.into();
    p.run(&["order", "--json", &order.to_string()]);
    append(
        dir.path(),
        t::ORDER_COMMANDS,
        "mallory",
        &[("type", &format!("OrderFilled\n{LIE}"))],
        order.to_string().as_bytes(),
    );

    append(
        dir.path(),
        t::ORDER_COMMANDS,
        &format!("mal\n{LIE}"),
        &[],
        b"mallory\x1b[2J",
    );

    p.good(&[
        "account",
        "stop",
        "mallory",
        "--operator",
        "ana",
        "--text",
        &note,
    ]);

    p.run(&["order", "--user", "mallory", "--deposit", "1"]);
    let commands: &[&[&str]] = &[
        &["tail", "order-commands", "--from", "start", "--exit-at-end"],
        &["tail", "dead-letters", "--from", "start", "--exit-at-end"],
        &["tail", "controls", "--from", "start", "--exit-at-end"],
        &["tail", "audit-log", "--from", "start", "--exit-at-end"],
        &["audit", "find", "--user", "mallory"],
        &["account", "list"],
        &["portfolio", "mallory"],
        &["portfolio", "mallory", "--history"],
        &["state", "list", "--role", "orders"],
        &["verify"],
    ];

    for command in commands {
        for format in ["text", "json"] {
            let answer = p.run(&[command, &["--format", format][..]].concat());
            for said in [&answer.out, &answer.err] {
                let bad =
                    |c: char| c.is_control() && c != '\n' || ['\u{202e}', '\u{a0}'].contains(&c);
                assert!(!said.chars().any(bad), "{command:?}: {said:?}");
                let invented = said.lines().find(|l| {
                    l.contains("order-events/0/999") && !l.contains("note") && !l.contains("\"x\\n")
                });

                let key_or_text = |l: &str| {
                    l.contains("0x6d616c") || l.contains("\"mal\\n") || l.contains("\\u001b")
                };

                assert!(
                    invented.is_none_or(key_or_text),
                    "{command:?} has a line of its own: {said}"
                );
            }

            assert!(
                !answer.out.contains(" OrderFilled\n") && !answer.out.is_empty(),
                "{command:?}: {answer:?}"
            );
        }
    }

    let shown = p.good(&["tail", "order-commands", "--from", "start", "--exit-at-end"]);
    assert!(
        shown.contains(r#"note="\u001b[1A\u001b[2K\n+\u00a02026-11-30T"#),
        "{shown}"
    );
    assert!(
        !shown.contains("\"OrderFilled"),
        "a client's header is no type: {shown}"
    );
}

/// Regression: digits went through a float, and only one of two equal keys was shown.
#[test]
fn the_digits_and_keys_that_were_sent() {
    let dir = tempfile::tempdir().expect("a directory");
    let p = embedded(dir.path());
    let deposit = r#"{"command":"deposit","order_id":"d1","user_id":"u1","amount":90071992547409.9301,"event":"x","amount_e4":7}"#;
    p.good(&["order", "--json", deposit]);
    append(
        dir.path(),
        t::ORDER_COMMANDS,
        "u1",
        &[],
        br#"{"order_id":"d2","user_id":"u1","amount":1.10,"amount":2e0}"#,
    );

    for format in ["text", "json"] {
        let tail = ["operator-commands", "order-commands"]
            .map(|topic| {
                p.good(&[
                    "tail",
                    topic,
                    "--from",
                    "start",
                    "--exit-at-end",
                    "--format",
                    format,
                ])
            })
            .concat();

        let find = p.good(&["audit", "find", "--user", "u1", "--format", format]);
        let (of, twice) = match format {
            "text" => (
                "amount=90071992547409.9301 event=x amount_e4=7",
                "amount=1.10 amount=2e0",
            ),
            _ => (
                r#""amount":90071992547409.9301,"event":"x","amount_e4":7"#,
                r#""amount":1.10,"amount":2e0"#,
            ),
        };

        for said in [tail, find] {
            assert!(said.contains(of) && said.contains(twice), "{said}");
        }
    }
}
