//! All bytes of older versions stay readable for ever: state values of every role, meta records,
//! journal entries, messages, values and batches of the embedded log; and two whole directories, a
//! role's store and an embedded log.
//!
//! Each file in `tests/golden` is one record: its kind, its bytes, and the expected decoded value.
//! Files are never changed. A new version adds its own: `GOLDEN_WRITE=1 cargo test --test embedded golden::`
//! runs a small system and writes missing files. Files of older versions keep their names, because
//! the version is part of the name.

use std::path::{Path, PathBuf};

use audit::anchor::parse_all;
use audit::export_verifier as audit_file;
use engine::checkpoint::{Checkpoint, JournalEntry, META_KEY, StoreMeta};
use engine::journal::JournalPart;
use engine::restore::scan_digest;
use log_local::batch::PackedBatch;
use log_local::{LocalLog, LocalOptions, format};
use ports::topics::{TopicId, TopicPartition};
use ports::{Log, StateStore};
use processor::cli::decode;
use processor::runtime::replay::newest_store;
use roles::{Role, RoleSettings, show};
use serde_json::{Value, json};
use store::dir::read_identity;
use store::rocks::{RocksStore, SharedMemory};
use wire::audit::AuditEntry;
use wire::book::{BookCommand, Execution};
use wire::event::OrderEvent;
use wire::notification::Notification;
use wire::portfolio::{PortfolioRecord, PositionRecord};
use wire::topics as t;
use wire::trade::{ReferencePrice, Trade, TradeBusted};

use crate::support;
use crate::support::oracle::{hex, read_all};
use crate::support::program::Program;
use crate::support::world::World;

fn dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn unhex(v: &Value) -> Vec<u8> {
    let text = v.as_str().expect("hexadecimal");
    (0..text.len() / 2)
        .map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).expect("hexadecimal"))
        .collect()
}

fn positions(all: &[(TopicPartition, u64)]) -> Value {
    all.iter()
        .map(|(at, n)| json!([at.topic.0, at.partition, n]))
        .collect()
}

fn meta(m: &Checkpoint) -> Value {
    let seen: Value = m
        .seen
        .iter()
        .map(|(topic, task, n)| json!([topic.0, task, n]))
        .collect();
    json!({"transaction": m.transaction, "offsets": positions(&m.offsets), "digest": m.digest.to_string(), "sent": positions(&m.sent), "seen": seen})
}

/// The decoded value of a record, by its kind.
fn read(what: &str, key: &[u8], bytes: &[u8]) -> Value {
    let (kind, rest) = what.split_once(' ').unwrap_or((what, ""));
    match kind {
        "state" => {
            let role: Role = rest
                .split(' ')
                .next()
                .and_then(|r| r.parse().ok())
                .expect("a role");
            let (key, value) = show::show(role, key, bytes).expect("readable");
            json!({"key": key, "value": value})
        }
        "meta" => meta(&Checkpoint::decode(bytes).expect("readable")),
        "store-meta" => {
            let s = StoreMeta::decode(bytes).expect("readable");
            json!({"changelog_offset": s.changelog_offset, "verified": s.verified, "meta": meta(&s.meta)})
        }
        "journal" => {
            let j = JournalEntry::decode(bytes).expect("readable");
            let row = |r: &engine::broadcast::UsedBroadcastRow| json!({"table": r.table.0, "key": decode::text(&r.key), "version": r.version, "value": hex(&r.value)});
            let rows: Vec<Value> = j.rows.iter().map(row).collect();
            json!({"transaction": j.transaction, "offsets": positions(&j.offsets), "digest": j.digest.to_string(), "forget": j.forget, "rows": rows})
        }
        "journal-part" => {
            let p = JournalPart::decode(bytes)
                .expect("readable")
                .expect("a part");
            let row = |r: &engine::broadcast::UsedBroadcastRow| json!({"table": r.table.0, "key": decode::text(&r.key), "version": r.version, "value": hex(&r.value)});
            json!({"transaction": p.transaction, "number": p.number, "rows": p.rows.iter().map(row).collect::<Vec<_>>()})
        }
        "message" => {
            let ours = match rest {
                "Trade" => Trade::decode(bytes).is_ok(),
                "TradeBusted of trades" => TradeBusted::decode(bytes).is_ok(),
                "ReferencePrice" => ReferencePrice::decode(bytes).is_ok(),
                "Portfolio" => PortfolioRecord::decode(bytes).is_ok(),
                "Position" => PositionRecord::decode(bytes).is_ok(),
                "Notification" => Notification::decode(bytes).is_ok(),
                "AuditEntry" => AuditEntry::decode(bytes).is_ok(),
                "BookCommand" => BookCommand::decode(bytes).is_ok(),
                "Execution" => Execution::decode(bytes).is_ok(),
                _ => OrderEvent::decode(bytes).is_ok(),
            };

            assert!(ours, "{what} is not understood");
            decode::value(bytes)
        }
        "log" => match rest {
            "offset" => format::offset(bytes).expect("readable").into(),
            "progress" => {
                let c = format::progress(bytes).expect("readable");
                json!([c.to, c.log_bytes, c.kept_bytes])
            }
            _ => {
                let r = format::topic(bytes).expect("readable");
                json!({"number": r.number, "name": r.name, "partitions": r.partitions, "compact": r.compact, "append_time": r.append_time,
                    "record_bytes_max": r.record_bytes_max})
            }
        },
        "batch" => {
            let batch = PackedBatch::parse(7, bytes.to_vec()).expect("readable");
            let at = TopicPartition::new(TopicId(0), 0);
            let record = |r: ports::records::Record<'_>| {
                let headers: Vec<Value> = r
                    .headers
                    .iter()
                    .map(|(n, v)| json!([n, decode::text(v)]))
                    .collect();
                json!({"offset": r.offset, "time": r.timestamp_ms, "key": r.key.map(hex), "value": r.value.map(hex), "headers": headers})
            };

            json!({"records": batch.iter(at).map(record).collect::<Vec<_>>(), "max_time": batch.max_time(), "log_bytes": batch.log_bytes()})
        }
        other => panic!("nobody knows what {other} is"),
    }
}

#[test]
fn every_record_of_every_version_is_read() {
    let mut kinds = std::collections::BTreeMap::<String, u32>::new();
    for entry in std::fs::read_dir(dir().join("records"))
        .expect("golden files")
        .flatten()
    {
        let text = std::fs::read_to_string(entry.path()).expect("a file");
        let golden: Value = serde_json::from_str(&text).expect("JSON");
        let what = golden["what"].as_str().expect("what it is");
        let got = read(what, &unhex(&golden["key"]), &unhex(&golden["bytes"]));
        assert_eq!(got, golden["decoded"], "{}", entry.path().display());
        *kinds
            .entry(what.split(' ').take(2).collect::<Vec<_>>().join(" "))
            .or_default() += 1;
    }

    println!("{kinds:?}");
    for must in [
        "state orders",
        "state trading",
        "state portfolio",
        "state audit",
        "meta",
        "store-meta",
        "journal",
        "journal-part",
        "message OrderFilled",
        "message Trade",
        "message TradeBusted",
        "message AuditEntry",
        "message Execution",
        "message BookCommand",
        "message Portfolio",
        "message Position",
        "message Notification",
        "message ReferencePrice",
        "log offset",
        "log progress",
        "log topic",
        "batch",
    ] {
        assert!(kinds.keys().any(|k| k == must), "no golden file of {must}");
    }
}

/// Adds a record, unless the name exists.
fn write(name: &str, what: &str, key: &[u8], bytes: &[u8]) {
    let path = dir().join("records").join(format!("{name}.json"));
    if path.exists() {
        return;
    }

    let golden = json!({"what": what, "key": hex(key), "bytes": hex(bytes), "decoded": read(what, key, bytes)});
    std::fs::write(
        path,
        serde_json::to_string_pretty(&golden).expect("JSON") + "\n",
    )
    .expect("a file");
}

/// The name of a value that begins with its version. An empty value has only one version.
fn versioned(name: &str, bytes: &[u8]) -> String {
    format!("{name}-v{}", bytes.first().unwrap_or(&1))
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a directory");
    for entry in std::fs::read_dir(from).expect("a directory").flatten() {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        if path.is_dir() {
            copy(&path, &to.join(name));
        } else if !["LOG", "LOCK", "OPTIONS", "pid", "lock", "status"]
            .iter()
            .any(|skip| name.starts_with(skip))
        {
            std::fs::copy(&path, to.join(name)).expect("a copy");
        }
    }
}

/// The content of a log as one number per topic.
fn log_content(dir: &Path, prefix: &str) -> Value {
    let table = t::table(prefix);
    let log = LocalLog::open(dir, &table, LocalOptions::default()).expect("an old log opens");
    let mut all = serde_json::Map::new();

    // A log of an older version lacks the topics of later versions; `topics create` adds them.
    for topic in table
        .iter()
        .filter(|t| log.partitions(*t).expect("the log answers").is_some())
    {
        let records = read_all(&log, topic);
        let sum = records.iter().fold(0_u128, |sum, r| {
            sum.wrapping_add(
                engine::digest::of(
                    &[
                        &r.key[..],
                        &r.offset.to_be_bytes(),
                        &r.time_ms.to_be_bytes(),
                    ]
                    .concat(),
                    &r.raw,
                )
                .0,
            )
        });

        all.insert(
            table.name(topic).to_string(),
            json!([records.len(), format!("{sum:032x}")]),
        );
    }

    Value::Object(all)
}

#[test]
fn whole_directories_of_every_version_are_read() {
    if std::env::var_os("GOLDEN_WRITE").is_some() {
        write_all();
    }

    let mut found = 0;
    for entry in std::fs::read_dir(dir().join("dirs"))
        .expect("golden directories")
        .flatten()
    {
        let expected: Value = serde_json::from_str(
            &std::fs::read_to_string(entry.path().join("expected.json")).expect("a file"),
        )
        .expect("JSON");
        let scratch = tempfile::tempdir().expect("a directory");
        copy(&entry.path(), scratch.path());
        assert_eq!(
            log_content(&scratch.path().join("log"), "golden-"),
            expected["log"],
            "{}",
            entry.path().display()
        );
        for role in Role::all() {
            let place = scratch.path().join("state").join(role.name()).join("1");
            let identity = read_identity(&place).expect("readable").expect("labelled");
            assert_eq!(identity.role, role.name());
            let store = RocksStore::open(&place.join("0"), &SharedMemory::default())
                .expect("an old store opens");
            let record = StoreMeta::decode(&store.meta().expect("a read").expect("a meta record"))
                .expect("readable");
            let digest = scan_digest(&store).expect("a scan");
            assert_eq!(
                (digest, json!(digest.to_string())),
                (record.meta.digest, expected["state"][role.name()].clone()),
                "{role}"
            );
        }

        found += 1;
    }

    assert!(found > 0, "no golden directory");
}

/// Exports and anchors of every format verify, also after later writes.
#[test]
fn exports_of_every_format_are_verified() {
    let read = |name: &str| std::fs::read(dir().join("exports").join(name)).expect("a golden file");
    for format in [1, 2] {
        let anchors = parse_all(&read(&format!("anchor-of-{format}.jsonl"))).expect("an anchor");
        let found = audit_file::verify(
            &read(&format!("format-{format}.jsonl"))[..],
            &anchors,
            &mut |_| {},
        )
        .expect("readable");
        let found = found.expect("whole");
        assert!(
            found.bound_records == found.summary.records && found.unbound.is_empty(),
            "{found:?}"
        );
    }
}

/// A log of an older version continues under this version. Its chains continue too, from links of
/// version 1 to links of version 2, and `audit` replays with the old result.
#[test]
fn chains_of_an_old_log_go_on_and_are_replayed() {
    let scratch = tempfile::tempdir().expect("a directory");
    copy(&dir().join("dirs/v1/log"), &scratch.path().join("log"));
    let p = Program::embedded(scratch.path(), "log").with(&[
        "--topic-prefix",
        "golden-",
        "--state",
        "state",
    ]);
    p.good(&[
        "topics",
        "create",
        "--partitions",
        &support::world::PARTITIONS.to_string(),
    ]);
    p.good(&[
        "publish",
        "--symbols",
        "AAPL",
        "--count",
        "3",
        "--rate",
        "0",
    ]);

    for id in ["a", "b", "c"] {
        p.good(&["order", "--user", "501", "--id", id, "--deposit", "1"]);
    }

    let log = LocalLog::open_read_only(&scratch.path().join("log"), &t::table("golden-"))
        .expect("the log");
    let versions: Vec<String> = read_all(&log, t::AUDIT_LOG)
        .into_iter()
        .map(|r| r.headers["v"].clone())
        .collect();
    assert!(
        versions.iter().any(|v| v == "1") && versions.iter().any(|v| v == "2"),
        "{versions:?}"
    );
    assert!(p.good(&["audit", "verify"]).contains("are whole"));
    let replayed = p.run(&["replay", "--role", "audit"]);
    assert!(
        replayed.is_good().contains("equal") && !replayed.out.contains("DIVERGED"),
        "{replayed:?}"
    );
    p.good(&["audit", "export", "-o", "e.jsonl"]);
    p.good(&["audit", "anchor", "-o", "a.jsonl"]);
    assert!(
        p.good(&[
            "audit",
            "verify",
            "--file",
            "e.jsonl",
            "--anchors",
            "a.jsonl"
        ])
        .starts_with("whole: ")
    );

    // The second anchor continues from the first.
    p.good(&["order", "--user", "501", "--id", "d", "--deposit", "1"]);
    p.good(&["audit", "anchor", "-o", "a.jsonl"]);
    assert!(
        p.good(&["audit", "verify", "--anchors", "a.jsonl"])
            .contains("as 2 anchors saw them")
    );
}

/// Runs a small system and keeps its records.
fn write_all() {
    std::fs::create_dir_all(dir().join("records")).expect("a directory");
    let mut w = World::embedded("golden", RoleSettings::default());
    w.list("AAPL", "189.25");
    let commands = [
        r#"{"user_id":"501","order_id":"1","symbol":"AAPL","quantity":10,"order_type":"buy"}"#,
        r#"{"user_id":"501","order_id":"1","symbol":"AAPL","quantity":10,"order_type":"buy"}"#,
        r#"{"user_id":"501","order_id":"1","symbol":"AAPL","quantity":11,"order_type":"buy"}"#,
        r#"{"user_id":"501","order_id":"2","symbol":"AAPL","quantity":4,"order_type":"sell"}"#,
        r#"{"user_id":"501","order_id":"3","symbol":"NOPE","quantity":4,"order_type":"buy"}"#,
        r#"{"user_id":"501","order_id":"4","command":"deposit","amount":"25.50"}"#,
        r#"{"user_id":"501","order_id":"5","command":"withdraw","amount":"5"}"#,
        r#"{"user_id":"501","order_id":"6","symbol":"AAPL","quantity":2,"order_type":"sell","type":"limit","limit_price":"190"}"#,
        r#"{"user_id":"501","order_id":"7","command":"bust","operator":"ana","orig_order_id":"1","trade_id":"0-1","quantity":4,"price":"189.25"}"#,
    ];

    for command in commands {
        w.sender
            .send(wire::command::topic(command.as_bytes()), "501", command);
        w.sender.flush();
        w.rest();
    }

    for role in Role::all() {
        for task in 0..support::world::PARTITIONS {
            let Some((_, store, record)) =
                newest_store(&w.system.state, role, task).expect("a store")
            else {
                continue;
            };

            write(
                &versioned(&format!("store-meta-{role}"), &record.encode()),
                "store-meta",
                b"",
                &record.encode(),
            );
            write(
                &versioned(&format!("meta-{role}"), &record.meta.encode()),
                "meta",
                META_KEY,
                &record.meta.encode(),
            );
            store
                .scan(b"", &mut |key, value| {
                    let (shown, _) = show::show(role, key, value).expect("readable");
                    let kind = shown.split('/').next().expect("a word").to_string();
                    let kind = if role == Role::Audit {
                        "chain".to_string()
                    } else {
                        kind
                    };

                    let order = shown
                        .rsplit('/')
                        .next()
                        .filter(|_| kind == "order")
                        .map(|id| format!("-{id}"))
                        .unwrap_or_default();
                    write(
                        &versioned(&format!("state-{role}-{kind}{order}"), value),
                        &format!("state {role} {kind}"),
                        key,
                        value,
                    );
                    true
                })
                .expect("a scan");
        }
    }

    for (topic, name) in [
        (t::ORDERS_JOURNAL, "orders"),
        (t::TRADING_JOURNAL, "trading"),
    ] {
        let entries = read_all(&*w.log, topic);
        let with_rows = entries
            .iter()
            .filter(|r| JournalEntry::decode(&r.raw).is_ok_and(|j| !j.rows.is_empty()));
        for (i, r) in with_rows.take(1).chain(entries.last()).enumerate() {
            write(
                &versioned(&format!("journal-{name}-{i}"), &r.raw),
                "journal",
                b"",
                &r.raw,
            );
        }
    }

    for topic in w.topics.iter() {
        for r in w.read(topic) {
            if let Some(kind) = r.headers.get("type").filter(|k| *k != "DeadLetter") {
                let version = &r.headers["v"];

                // The only name that two topics share.
                let of = if topic == t::TRADES && kind == "TradeBusted" {
                    " of trades"
                } else {
                    ""
                };

                write(
                    &format!("message-{kind}{}-v{version}", of.replace(' ', "-")),
                    &format!("message {kind}{of}"),
                    &r.key,
                    &r.raw,
                );
            }
        }
    }

    write("log-offset-v0", "log offset", b"", &300_u64.to_le_bytes());
    write("log-offset-v1", "log offset", b"", &format::put_offset(300));
    let compacted = format::progress(&[[1; 8], [2; 8], [3; 8]].concat()).expect("the first format");
    write(
        "log-progress-v0",
        "log progress",
        b"",
        &[[1; 8], [2; 8], [3; 8]].concat(),
    );
    write(
        "log-progress-v1",
        "log progress",
        b"",
        &format::put_progress(compacted),
    );
    let row = br#"{"number":3,"name":"trades","partitions":6,"compact":false,"append_time":false,"record_bytes_max":1048576}"#;
    write("log-topic-v0", "log topic", b"", row);
    write(
        "log-topic-v1",
        "log topic",
        b"",
        &format::put_topic(&format::TopicRow {
            v: 1,
            ..format::topic(row).expect("the first format")
        }),
    );

    let mut builder = log_local::batch::Builder::default();
    let mut headers = ports::records::HeaderBuf::default();
    headers.push("src", b"order-commands/0/1").push("n", b"0");
    let at = TopicPartition::new(TopicId(0), 0);
    for (key, value) in [(Some(&b"k"[..]), None), (None, Some(&b"value"[..]))] {
        builder.push(&ports::records::Record {
            at,
            offset: 0,
            timestamp_ms: 5,
            key,
            value,
            headers: headers.headers(),
        });
    }

    write(
        "batch-v1",
        "batch",
        b"",
        builder.append(7, None, (9, 1_000)).as_bytes(),
    );
    let target = dir().join("dirs/v1");
    if target.exists() {
        return;
    }

    let state = w.system.state.clone();
    let root = w.stop_and_keep();
    copy(&root.path().join("log"), &target.join("log"));
    let mut digests = serde_json::Map::new();
    for role in Role::all() {
        let from = state.join(role.name()).join("1");
        let used = |task: &u32| {
            newest_store(&state, role, *task)
                .expect("a store")
                .is_some()
        };

        let task = (0..support::world::PARTITIONS)
            .find(used)
            .expect("a task that did something")
            .to_string();
        copy(
            &from.join(&task),
            &target.join("state").join(role.name()).join("1/0"),
        );
        std::fs::copy(
            from.join("identity"),
            target.join("state").join(role.name()).join("1/identity"),
        )
        .expect("a copy");
        let store = RocksStore::open_read_only(&from.join(&task)).expect("it opens");
        digests.insert(
            role.name().into(),
            scan_digest(&store).expect("a scan").to_string().into(),
        );
    }

    let expected =
        json!({"log": log_content(&root.path().join("log"), "golden-"), "state": digests});
    std::fs::write(
        target.join("expected.json"),
        serde_json::to_string_pretty(&expected).expect("JSON"),
    )
    .expect("a file");
}
