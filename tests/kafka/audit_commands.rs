//! The audit commands as a person types them; and the same checks through the library, on the
//! embedded log and on a real broker.

use std::path::Path;

use audit::anchor::Anchor;
use audit::chains::{Chains, heads};
use audit::export::ExportPlan;
use audit::export_verifier;
use audit::find::{Proof, find};
use audit::query_filter::Query;
use roles::RoleSettings;
use serde_json::Value;
use wire::topics as t;

use crate::support;
use crate::support::load::{Orders, Stream};
use crate::support::program::Program;
use crate::support::world::on_both;

/// An embedded log with one filled order of user 501.
fn traded(dir: &Path) -> Program {
    let p = Program::embedded(dir, "log");
    p.good(&["topics", "create", "--partitions", "2"]);
    std::fs::write(dir.join("l.csv"), "symbol,collar_bps\nAAPL,200\n").expect("a file");
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

    order(&p, "1001", "10");
    p
}

fn order(p: &Program, id: &str, quantity: &str) {
    let answer = p.good(&[
        "order",
        "--user",
        "501",
        "--id",
        id,
        "--symbol",
        "AAPL",
        "--quantity",
        quantity,
        "--side",
        "buy",
    ]);

    assert!(answer.contains("OrderFilled"), "{answer}");

    // The command ends with its answer. The followers of `orders` get their turn here.
    p.good(&[
        "order",
        "--user",
        "502",
        "--id",
        &format!("d{id}"),
        "--deposit",
        "1",
    ]);

    settle(p);
}

/// Runs the roles until audit has read all records.
fn settle(p: &Program) {
    let running = p.start_roles("all");
    support::load::wait_for(
        "audit to catch up",
        std::time::Duration::from_secs(60),
        || {
            let status: Value =
                serde_json::from_str(&p.good(&["status", "--format", "json"])).expect("JSON");
            status
                .as_array()
                .is_some_and(|rows| rows.iter().all(|r| r["lag"] == 0))
        },
    );

    running.stop();
}

fn json_lines(text: &str) -> Vec<Value> {
    text.lines()
        .map(|l| serde_json::from_str(l).expect("JSON lines"))
        .collect()
}

#[test]
fn verify_anchor_find_and_export_as_typed() {
    let dir = tempfile::tempdir().expect("a directory");
    let p = traded(dir.path());
    let whole = p.good(&["audit", "verify"]);
    assert!(
        whole.contains("ok   order-events/") && whole.contains("are whole, without anchors"),
        "{whole}"
    );
    for line in json_lines(&p.good(&["audit", "verify", "--format", "json"])) {
        assert!(
            line["ok"] == true
                && line["damage"].is_null()
                && line["head"].as_str().is_some_and(|h| h.len() == 64),
            "{line}"
        );
    }

    // A backup, an anchor, more trading, another anchor.
    copy(&dir.path().join("log"), &dir.path().join("backup"));
    p.good(&["audit", "anchor", "-o", "anchors.jsonl"]);
    order(&p, "1002", "5");
    p.good(&["audit", "anchor", "-o", "anchors.jsonl"]);
    let kept = std::fs::read_to_string(dir.path().join("anchors.jsonl")).expect("anchors");
    assert_eq!(kept.lines().count(), 2);
    assert!(
        p.good(&["audit", "verify", "--anchors", "anchors.jsonl"])
            .contains("as 2 anchors saw them")
    );

    // An unfinished last line is not continued.
    std::fs::write(dir.path().join("open.jsonl"), kept.trim_end()).expect("a file");
    p.good(&["audit", "anchor", "-o", "open.jsonl"]);
    assert!(
        p.good(&["audit", "verify", "--anchors", "open.jsonl"])
            .contains("as 3 anchors saw them")
    );
    std::fs::write(dir.path().join("half.jsonl"), &kept[..kept.len() - 20]).expect("a file");
    p.run(&["audit", "anchor", "-o", "half.jsonl"])
        .fails(78, &["half.jsonl, line 2"]);
    assert_eq!(
        std::fs::read_to_string(dir.path().join("half.jsonl")).expect("a file"),
        kept[..kept.len() - 20]
    );

    // The backup in place of the log: its chains are whole, but shorter than the anchors say.
    let backup = Program::embedded(dir.path(), "backup");
    backup.good(&["audit", "verify"]);
    let cut = backup.run(&["audit", "verify", "--anchors", "anchors.jsonl"]);
    cut.fails(70, &["chains are damaged"]);
    assert!(
        cut.out.contains("BAD  order-events/") && cut.out.contains(": truncated: the anchor of "),
        "{}",
        cut.out
    );
    backup
        .run(&["audit", "anchor", "-o", "anchors.jsonl"])
        .fails(70, &["no anchor is made over a damaged log", "truncated"]);
    std::fs::write(
        dir.path().join("changed.jsonl"),
        kept.replacen("\"entries\":", "\"entries\":1", 1),
    )
    .expect("a file");
    p.run(&["audit", "verify", "--anchors", "changed.jsonl"])
        .fails(78, &["line 1: changed"]);
    let other = Program::embedded(dir.path(), "other");
    other.good(&["topics", "create"]);
    other
        .run(&["audit", "verify", "--anchors", "anchors.jsonl"])
        .fails(78, &["is of log"]);

    // The same log under another prefix has none of these chains. The commands must neither call
    // the log whole nor add an empty anchor.
    let tenant = p.with(&["--topic-prefix", "b-"]);
    tenant.good(&["topics", "create", "--partitions", "2"]);
    tenant
        .run(&["audit", "verify", "--anchors", "anchors.jsonl"])
        .fails(78, &["prefix `b-`"]);
    tenant
        .run(&["audit", "anchor", "-o", "anchors.jsonl"])
        .fails(78, &["prefix `b-`"]);
    tenant
        .run(&["audit", "anchor", "-o", "b.jsonl"])
        .fails(1, &["nothing to anchor"]);
    assert_eq!(
        std::fs::read_to_string(dir.path().join("anchors.jsonl")).expect("anchors"),
        kept
    );
    assert!(
        p.good(&["audit", "anchor", "-o", "-"])
            .starts_with("{\"anchor\":1,")
    );
    assert!(!dir.path().join("-").exists() && !dir.path().join("b.jsonl").exists());

    // The order from command to notification, with the facts of the decision.
    let text = p.good(&["audit", "find", "--order", "1001"]);
    for part in [
        "+ ",
        "command order_id=1001",
        "decided by orders task",
        "(collar_bps=200)",
        "reference price ",
        "decided by trading",
        "last tick ",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }

    assert!(
        !text.contains("1002") && text.contains("OrderFilled") && text.contains("last_price="),
        "{text}"
    );
    let found = json_lines(&p.good(&["audit", "find", "--user", "501", "--format", "json"]));
    assert!(
        found
            .iter()
            .all(|r| r["audited"] == "chained" || r["audited"] == "internal")
    );
    let decided = found
        .iter()
        .find(|r| r["topic"] == "order-commands")
        .expect("the command");
    assert_eq!(
        decided["decision"]["instrument"]["value"]["collar_bps"], 200,
        "{decided}"
    );
    assert_eq!(
        p.good(&["audit", "find", "--user", "501", "--from", "2100-01-01"]),
        ""
    );

    // An export that can be verified alone.
    p.good(&["audit", "export", "-o", "all.jsonl"]);
    let nowhere = Program {
        dir: dir.path().to_path_buf(),
        flags: Vec::new(),
    };

    let verified = nowhere.run(&[
        "audit",
        "verify",
        "--file",
        "all.jsonl",
        "--anchors",
        "anchors.jsonl",
    ]);

    assert!(
        verified.is_good().starts_with("whole: ")
            && verified.out.contains("; anchors bind ")
            && verified.err.is_empty(),
        "{verified:?}"
    );

    // A chain without an anchor may have been rebuilt, in the log and in a file. The verification
    // with anchors must report such a chain.
    let one = Anchor::parse(kept.lines().last().expect("an anchor").as_bytes()).expect("an anchor");
    let less = Anchor::new(
        one.time.clone(),
        one.cluster.clone(),
        one.heads
            .iter()
            .filter(|h| !h.chain.starts_with("trades"))
            .cloned()
            .collect(),
    );

    std::fs::write(dir.path().join("less.jsonl"), format!("{}\n", less.line())).expect("a file");
    for command in [
        &["audit", "verify", "--anchors", "less.jsonl"][..],
        &[
            "audit",
            "verify",
            "--anchors",
            "less.jsonl",
            "--file",
            "all.jsonl",
        ],
    ] {
        p.run(command)
            .fails(1, &["no anchor binds anything of 1 chains: trades/"]);
    }

    // Records after the only anchor: whole, but not bound by the anchor.
    let first = kept.lines().next().expect("an anchor");
    std::fs::write(dir.path().join("first.jsonl"), format!("{first}\n")).expect("a file");
    let since = Anchor::parse(first.as_bytes()).expect("an anchor").time;
    p.good(&["audit", "export", "--from", &since, "-o", "late.jsonl"]);
    let unbound = nowhere.run(&[
        "audit",
        "verify",
        "--file",
        "late.jsonl",
        "--anchors",
        "first.jsonl",
    ]);

    assert!(
        unbound.out.contains("anchors bind 0 records of 0 chains"),
        "{}",
        unbound.out
    );
    unbound.fails(1, &["no anchor lies within this file"]);
    let json = json_lines(
        &nowhere
            .run(&[
                "audit",
                "verify",
                "--file",
                "late.jsonl",
                "--anchors",
                "first.jsonl",
                "--format",
                "json",
            ])
            .out,
    );

    assert!(
        json[0]["bound_records"] == 0
            && json[0]["unbound_chains"].as_array().map(Vec::len) > Some(0),
        "{json:?}"
    );
    let mut bytes = std::fs::read(dir.path().join("all.jsonl")).expect("a file");
    let place = bytes.len() / 2;
    bytes[place] ^= 1;
    let line = 1 + bytes[..place].iter().filter(|b| **b == b'\n').count();
    std::fs::write(dir.path().join("bad.jsonl"), &bytes).expect("a file");
    let bad = nowhere.run(&["audit", "verify", "--file", "bad.jsonl"]);
    bad.fails(70, &["the file is damaged"]);
    assert!(
        bad.out
            .starts_with(&format!("BAD  bad.jsonl line {line} ("))
            && bad.out.contains(": changed: "),
        "{}",
        bad.out
    );

    p.run(&["audit", "export", "-o", "all.jsonl"])
        .fails(2, &["exists", "another name"]);
    std::fs::write(dir.path().join("z.jsonl.part"), "of another export").expect("a file");
    p.run(&["audit", "export", "-o", "z.jsonl"])
        .fails(2, &["z.jsonl.part exists"]);
    assert_eq!(
        std::fs::read_to_string(dir.path().join("z.jsonl.part"))
            .ok()
            .as_deref(),
        Some("of another export")
    );
    assert!(
        p.good(&["audit", "export", "-o", "-"])
            .contains("\"type\":\"export\"")
            && !dir.path().join("-").exists()
    );

    // The history of the user's portfolio must end at the present portfolio.
    let history = json_lines(&p.good(&["portfolio", "501", "--history", "--format", "json"]));
    let now: Value =
        serde_json::from_str(&p.good(&["portfolio", "501", "--format", "json"])).expect("JSON");
    let last = history.last().expect("events");
    for field in [
        "user_seq",
        "cash_available",
        "cash_reserved",
        "realised",
        "fees",
        "equity",
    ] {
        assert_eq!(last[field], now[field], "{field}: {last} {now}");
    }

    assert_eq!(last["positions"]["AAPL"]["quantity"], 15);
    assert!(p.good(&["portfolio", "501", "--history"]).lines().count() == history.len() + 1);
}

#[test]
fn audit_commands_say_what_is_wrong_with_how_they_are_used() {
    let dir = tempfile::tempdir().expect("a directory");
    let p = Program::embedded(dir.path(), "log");
    p.run(&["audit", "find"])
        .fails(2, &["--order", "--user", "--symbol"]);
    for command in [
        &["audit", "find", "--user", "501"][..],
        &["audit", "export"],
        &["portfolio", "501", "--history"],
    ] {
        let turned = [command, &["--from", "2026-02-01", "--to", "2026-01-31"]].concat();
        p.run(&turned)
            .fails(2, &["--from 2026-02-01 is later than --to 2026-01-31"]);
    }

    p.run(&["audit", "find", "--user", "a b"])
        .fails(2, &["--user"]);
    p.run(&["audit", "export", "--from", "yesterday"])
        .fails(2, &["2026-01-31T09:30:00Z"]);
    p.run(&["audit", "verify"]).fails(78, &["no embedded log"]);
    p.run(&["audit", "verify", "--file", "nothing.jsonl"])
        .fails(1, &["nothing.jsonl"]);
    p.run(&["audit", "verify", "--anchors", "nothing.jsonl"])
        .fails(78, &["nothing.jsonl"]);
    p.run(&["portfolio", "501", "--from", "2026-01-01"])
        .fails(2, &["--history"]);
    std::fs::write(dir.path().join("empty"), "").expect("a file");
    let cut = p.run(&["audit", "verify", "--file", "empty"]);
    cut.fails(70, &["damaged"]);
    assert!(cut.out.contains("truncated"), "{}", cut.out);
    for command in ["verify", "anchor", "find", "export"] {
        let help = p.good(&["audit", command, "--help"]);
        assert!(
            help.contains("Exit code:") && help.contains("Examples:"),
            "{help}"
        );
    }
}

/// Regression: for a cancel and for an unreadable command, the output said "no listing", as if the
/// stock were not listed. For a wake-up the output said nothing.
#[test]
fn find_says_what_was_decided_upon_and_no_more() {
    let dir = tempfile::tempdir().expect("a directory");
    let p = Program::embedded(dir.path(), "log");
    p.good(&["topics", "create", "--partitions", "2"]);
    std::fs::write(dir.path().join("l.csv"), "symbol\nAAPL\n").expect("a file");
    p.good(&["instruments", "load", "l.csv"]);
    std::fs::write(
        dir.path().join("t.csv"),
        "timestamp,price\n1430438404,100\n",
    )
    .expect("a file");
    p.good(&["publish", "--file", "t.csv", "--symbol", "AAPL"]);
    let order = |id: &str, more: &[&str]| {
        let limit = [
            "order",
            "--user",
            "501",
            "--id",
            id,
            "--symbol",
            "AAPL",
            "--quantity",
            "1",
            "--side",
            "buy",
            "--type",
            "limit",
        ];

        p.good(&[&limit[..], &["--limit-price", "97"], more].concat());
    };

    order("1", &[]);
    p.good(&["order", "--user", "501", "--id", "c1", "--cancel", "1"]);
    let malformed =
        r#"{"user_id":"501","order_id":"m1","symbol":"AAPL","quantity":[],"order_type":"buy"}"#;
    p.run(&["order", "--json", malformed])
        .fails(1, &["MALFORMED"]);
    let unlisted =
        r#"{"user_id":"501","order_id":"n1","symbol":"NOPE","quantity":1,"order_type":"buy"}"#;
    p.run(&["order", "--json", unlisted])
        .fails(1, &["UNKNOWN_SYMBOL"]);
    let soon = jiff::Timestamp::now().as_millisecond() + 1_000;
    order("g1", &["--tif", "GTD", "--expire-at", &soon.to_string()]);
    let running = p.start_roles("all");
    support::load::wait_for(
        "the order to expire",
        std::time::Duration::from_secs(30),
        || {
            p.good(&["tail", "order-events", "--from", "start", "--exit-at-end"])
                .contains("OrderExpired")
        },
    );

    running.stop();
    settle(&p);

    let find = |id: &str| p.good(&["audit", "find", "--order", id]);
    for id in ["c1", "m1"] {
        let text = find(id);
        assert!(
            text.contains("decided by orders") && !text.contains("no listing"),
            "{text}"
        );
    }

    assert!(find("n1").contains(": no listing"), "{}", find("n1"));
    let expired = find("g1");
    assert!(
        expired.contains("OrderExpired") && expired.contains("wake-up of trading task "),
        "{expired}"
    );
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).expect("a directory");
    for entry in std::fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("copied");
        }
    }
}

/// Rows A1 and A2 on both logs. The tests in `crates/audit/tests/audit` change records, which a real log does
/// not allow.
#[test]
fn a1_a2_on_both_logs() {
    on_both("audit", RoleSettings::default(), |w| {
        w.list("AAPL", "189.25");
        for i in 0..40 {
            let user = format!("u{}", i % 4);
            let quantity = 1 + i;
            let order = format!(
                r#"{{"user_id":"{user}","order_id":"o{i}","symbol":"AAPL","quantity":{quantity},"order_type":"buy"}}"#
            );
            w.sender.send(t::ORDER_COMMANDS, &user, order);
        }

        w.sender.flush();
        w.rest();
        let group = format!("{}processor-audit", w.topics.prefix());
        let mut chains = Chains {
            log: &*w.log,
            topics: &w.topics,
            group: &group,
            sources: true,
            anchors: &[],
        };

        let reports = chains.verify(&mut |_| {}).expect("readable");
        assert!(
            reports.iter().all(|r| r.damage.is_none()),
            "{}: {reports:#?}",
            w.name
        );
        let records: usize = t::AUDITED.iter().map(|topic| w.read(*topic).len()).sum();
        assert_eq!(
            reports.iter().map(|r| r.good.entries).sum::<u64>(),
            records as u64,
            "{}",
            w.name
        );
        let cluster = w.log.cluster_id().expect("an id");
        let anchors = [Anchor::new("then".into(), cluster, heads(&reports))];
        chains.anchors = &anchors;
        assert_eq!(
            chains.verify(&mut |_| {}).expect("readable"),
            reports,
            "{}",
            w.name
        );

        let query = Query {
            order: Some("o7".into()),
            limit: 1000,
            ..Query::default()
        };

        let timeline = find(&*w.log, &w.topics, &query).expect("an answer");
        let decided = timeline.iter().filter(|(_, h)| h.inputs.is_some()).count();
        let chained = timeline
            .iter()
            .filter(|(_, h)| h.proof == Proof::Chained)
            .count();
        assert_eq!(decided, 2, "{}: orders and trading", w.name);

        // The command, three events, three notifications and a trade.
        assert_eq!(chained, 8, "{}", w.name);

        let mut out = Vec::new();
        let export = ExportPlan {
            log: &*w.log,
            topics: &w.topics,
            from_ms: None,
            to_ms: None,
            created: "now".into(),
        };

        let written = export.write(&mut out, &mut |_| {}).expect("written");
        assert_eq!(written.records, records as u64, "{}", w.name);
        let verified = export_verifier::verify(&out[..], &anchors, &mut |_| {}).expect("readable");
        assert_eq!(
            verified.map(|v| (v.bound_records, v.summary)),
            Ok((records as u64, written)),
            "{}",
            w.name
        );
    });
}

/// While roles write, a verification must not report damage for records that come a moment later.
#[test]
fn verifying_beside_running_roles_raises_no_false_alarm() {
    on_both("live", RoleSettings::default(), |w| {
        support::load::reference(&mut w.sender, 5);
        w.rest();
        let load = Stream::start(w.log.clone(), Orders::new(3, 20, 5), 400);
        let group = format!("{}processor-audit", w.topics.prefix());
        let mut kept = Vec::new();
        let mut grown = 0;
        let began = std::time::Instant::now();
        while began.elapsed() < std::time::Duration::from_secs(8) || kept.len() < 3 {
            let chains = Chains {
                log: &*w.log,
                topics: &w.topics,
                group: &group,
                sources: true,
                anchors: &kept,
            };

            let reports = chains.verify(&mut |_| {}).expect("readable");
            let bad: Vec<_> = reports.iter().filter(|r| r.damage.is_some()).collect();
            assert!(bad.is_empty(), "{}: {bad:#?}", w.name);
            let entries: u64 = reports.iter().map(|r| r.good.entries).sum();
            assert!(entries >= grown, "{}", w.name);
            grown = entries;
            kept.push(Anchor::new(
                format!("run {}", kept.len()),
                w.log.cluster_id().expect("an id"),
                heads(&reports),
            ));
        }

        load.stop();
        assert!(
            grown > kept[0].heads.iter().map(|h| h.entries).sum(),
            "{}: nothing happened meanwhile",
            w.name
        );
    });
}
