//! Commands as typed, on a real broker: answers that come by way of several partitions, and tenants
//! that share a cluster.
#![cfg(all(feature = "kafka", feature = "rocks"))]

mod support;

use std::time::{Duration, Instant};

use serde_json::Value;
use support::broker;
use support::program::Program;

const SYMBOLS: u32 = 12;

fn events(text: &str) -> Vec<String> {
    text.lines()
        .map(|l| {
            serde_json::from_str::<Value>(l).expect("JSON lines")["event"]
                .as_str()
                .expect("a name")
                .to_string()
        })
        .collect()
}

/// Orders in twelve books on four partitions are cancelled by one command, which ends when the last
/// of them has ended. Then the chains of this prefix are asked for under another one.
#[test]
fn a_mass_cancel_ends_with_its_last_answer_and_anchors_know_their_prefix() {
    let dir = tempfile::tempdir().expect("a directory");
    let address = &broker::shared().address;
    let p = Program::kafka(dir.path(), address, &broker::unique_prefix("typed"));
    p.good(&["topics", "create", "--partitions", "4"]);
    let mut listings = "symbol,house\n".to_string();
    let mut ticks = "symbol,timestamp,price\n".to_string();
    for i in 0..SYMBOLS {
        listings += &format!("S{i},no\n");
        ticks += &format!("S{i},1430438404,100\n");
    }

    std::fs::write(dir.path().join("l.csv"), listings).expect("a file");
    std::fs::write(dir.path().join("t.csv"), ticks).expect("a file");
    p.good(&["instruments", "load", "l.csv"]);
    p.good(&["publish", "--file", "t.csv", "--speed", "max"]);
    let running = p.start_roles("orders,portfolio,notifications,audit");
    let trading = [
        p.start_roles("trading"),
        p.with(&["--instance", "2"]).start_roles("trading"),
    ];
    support::load::wait_for("books on both instances", Duration::from_secs(60), || {
        let status: Value =
            serde_json::from_str(&p.good(&["status", "--role", "trading", "--format", "json"]))
                .expect("JSON");
        let rows = status.as_array().expect("rows");
        let on = |n: u32| {
            rows.iter()
                .any(|r| r["instance"] == n && r["state"] == "running")
        };

        on(1) && on(2) && rows.iter().all(|r| r["state"] == "running")
    });

    let order = |i: u32, more: &[&str]| {
        let id = format!("o{i}");
        let symbol = format!("S{i}");
        let limit = [
            "--id",
            &id,
            "--symbol",
            &symbol,
            "--quantity",
            "1",
            "--side",
            "buy",
            "--type",
            "limit",
            "--limit-price",
            "97",
        ];

        p.good(
            &[
                &[
                    "order",
                    "--user",
                    "501",
                    "--format",
                    "json",
                    "--timeout",
                    "5m",
                ],
                &limit[..],
                more,
            ]
            .concat(),
        )
    };

    let began = Instant::now();
    assert_eq!(
        events(&order(0, &[])),
        ["Deposited", "OrderPending", "OrderAccepted"]
    );
    assert_eq!(
        events(&p.good(&[
            "order",
            "--user",
            "501",
            "--replace",
            "o0",
            "--quantity",
            "2",
            "--format",
            "json"
        ])),
        ["OrderReplaced"]
    );

    (1..SYMBOLS).for_each(|i| drop(order(i, &["--no-wait"])));

    // Half of the books sleep: their answers come much later than the others.
    trading[1].signal(libc::SIGSTOP);
    let mut cancelling = p.start(&[
        "order",
        "--user",
        "501",
        "--mass-cancel",
        "--format",
        "json",
        "--timeout",
        "5m",
    ]);

    std::thread::sleep(Duration::from_secs(4));
    assert!(cancelling.is_running(), "it ends before the last answer");
    trading[1].signal(libc::SIGCONT);
    let answer = cancelling.ends(Duration::from_secs(60));
    assert_eq!(
        events(answer.is_good()),
        vec!["OrderCancelled"; SYMBOLS as usize],
        "{answer:?}"
    );
    assert!(
        began.elapsed() < Duration::from_secs(120),
        "nobody waited for the time to be up"
    );

    support::load::wait_for("audit to see it", Duration::from_secs(30), || {
        p.run(&["audit", "anchor", "-o", "anchors.jsonl"]).code == Some(0)
    });

    trading.into_iter().for_each(|t| drop(t.stop()));
    running.stop();
    assert!(
        p.good(&["audit", "verify", "--anchors", "anchors.jsonl"])
            .contains("are whole, as ")
    );
    let other = Program::kafka(dir.path(), address, &broker::unique_prefix("other"));
    other.good(&["topics", "create", "--partitions", "1"]);
    let kept = std::fs::read(dir.path().join("anchors.jsonl")).expect("anchors");
    other
        .run(&["audit", "verify", "--anchors", "anchors.jsonl"])
        .fails(78, &["--topic-prefix"]);
    other
        .run(&["audit", "anchor", "-o", "anchors.jsonl"])
        .fails(78, &["--topic-prefix"]);
    assert_eq!(
        std::fs::read(dir.path().join("anchors.jsonl")).expect("anchors"),
        kept
    );
}
