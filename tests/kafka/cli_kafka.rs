//! Commands as typed, on a real broker: answers from several partitions, and tenants that share a
//! cluster.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support;
use crate::support::broker;
use crate::support::program::Program;

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

/// One command cancels orders in twelve books on four partitions, and ends after the last answer.
/// Then the audit commands ask for the chains of this prefix under another prefix.
#[test]
fn a_mass_cancel_ends_with_its_answer_and_anchors_have_prefixes() {
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

    // Half of the books are frozen, so their answers come much later than the others.
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

    // A command that does not wait for all answers would end in this time.
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

/// The commands of "Five minutes on Kafka" in README, line by line, and the results that README
/// promises.
#[test]
fn the_five_minutes_of_the_readme_are_as_it_says() {
    const SOON: Duration = Duration::from_secs(120);
    let page = include_str!("../../README.md");
    let part = page
        .split("\n## ")
        .find(|part| part.starts_with("Five minutes on Kafka"))
        .expect("the part");
    let dir = tempfile::tempdir().expect("a directory");
    let address = &broker::shared().address;
    let p = Program::kafka(dir.path(), address, &broker::unique_prefix("readme"));
    let mut running = Vec::new();
    let mut told = String::new();
    let mut awaited = false;
    for line in typed_in(part) {
        let at_rest = || {
            let status = p.run(&["status", "--format", "json"]);
            let rows: Value = serde_json::from_str(&status.out).unwrap_or_default();
            rows.as_array().is_some_and(|rows| {
                rows.len() >= 5 * 6 && rows.iter().all(|r| r["state"] == "running")
            })
        };

        match line.as_str() {
            "make kafka" | "export KAFKA_BROKERS=localhost:9092" => {}
            "kill -9 %1" => {
                let first: support::program::Background = running.remove(0);
                first.signal(libc::SIGKILL);
                first.ends(SOON);
            }
            line if line.ends_with('&') => {
                let args = words(line.trim_end_matches('&'));
                running.push(p.start(&args[1..].iter().map(String::as_str).collect::<Vec<_>>()));
                awaited = false;
            }
            line if line.contains(" | ") => {
                let (input, command) = line.split_once(" | ").expect("a pipe");
                let made = std::process::Command::new("sh")
                    .args(["-c", input])
                    .output();
                std::fs::write(dir.path().join("input"), made.expect("sh").stdout).expect("a file");
                let args = words(&command.replace(" -", " input"));
                p.good(&args[1..].iter().map(String::as_str).collect::<Vec<_>>());
            }
            line => {
                // A person types more slowly than roles start.
                if !awaited && running.len() > 1 && !line.contains(" status ") {
                    support::load::wait_for("all tasks to run", SOON, at_rest);
                    awaited = true;
                }

                let args = words(line);
                let answer = p.run(&args[1..].iter().map(String::as_str).collect::<Vec<_>>());
                let refused = answer.out.contains("DuplicateRejected");
                assert_eq!(answer.code, Some(i32::from(refused)), "{line}: {answer:?}");
                told += &answer.out;
            }
        }
    }

    let shown = part.split("```\n").find(|block| block.contains("_e4="));
    for line in shown.expect("what comes of it").lines() {
        let event = line.split_whitespace().next().unwrap_or_default();
        let number = line.split_whitespace().find(|w| w.starts_with("user_seq="));
        let as_shown = |l: &&str| l.starts_with(event) && number.is_some_and(|n| l.contains(n));
        let found = told
            .lines()
            .find(as_shown)
            .unwrap_or_else(|| panic!("{line} in {told}"));
        for field in line.split_whitespace().filter(|w| w.contains('=')) {
            let varies = ["trade_id=", "last_price_e4="]
                .iter()
                .any(|f| field.starts_with(f));
            let name = field.split_inclusive('=').next().unwrap_or_default();
            assert!(
                found.contains(if varies { name } else { field }),
                "{field} in {found}"
            );
        }
    }

    let of_502 = told.lines().rfind(|l| l.contains("user_id=502"));
    assert!(
        of_502.is_some_and(|l| l.starts_with("OrderFilled")),
        "{told}"
    );
    assert!(
        told.contains("records chained"),
        "verify looks at chains: {told}"
    );
    running.into_iter().for_each(|r| drop(r.stop()));
}

/// The lines of the blocks marked `sh`, without comments.
fn typed_in(part: &str) -> Vec<String> {
    let blocks = part.split("```sh\n").skip(1);
    let lines = blocks
        .filter_map(|b| b.split("```").next())
        .flat_map(str::lines);
    lines
        .map(|l| l.split(" #").next().unwrap_or_default().trim().to_string())
        .filter(|l| !l.is_empty())
        .collect()
}

/// Splits a line like a shell, as far as README needs it.
fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(String::from).collect()
}
