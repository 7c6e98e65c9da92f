//! Fields that an audit link binds besides a record's key and value: the time, the headers, and the
//! presence of key and value. And records that a file may leave out.

use audit::anchor::Anchor;
use audit::chains::heads;
use audit::damage::DamageKind;
use audit::export::{ExportPlan, sum};
use audit::export_verifier;
use audit::hex::hex;
use domain::chain;
use ports::records::{HeaderBuf, Headers};
use ports::topics::TopicPartition;
use serde_json::Value;
use sha2::{Digest, Sha256};
use wire::audit::AuditEntry;
use wire::topics as t;

use super::tape::Tape;
use super::world::busy;

const NINE: &str = "2027-01-15T09:00:00Z";
const TEN: &str = "2027-01-15T10:00:00Z";

fn anchor(tape: &Tape) -> Anchor {
    Anchor::new(NINE.into(), "tape".into(), heads(&tape.verify(&[])))
}

fn export(tape: &Tape) -> Vec<u8> {
    let mut out = Vec::new();
    let export = ExportPlan {
        log: tape,
        topics: &tape.topics,
        from_ms: None,
        to_ms: None,
        created: TEN.into(),
    };

    export.write(&mut out, &mut |_| {}).expect("an export");
    out
}

/// Writes a changed file with all checks that the file itself contains made right again.
fn anew(file: &[u8], mut change: impl FnMut(&mut Value)) -> Vec<u8> {
    let mut out = Vec::new();
    let mut sums = Sha256::new();
    for line in file.split_inclusive(|b| *b == b'\n') {
        let mut v: Value = serde_json::from_slice(line).expect("JSON");
        v.as_object_mut().expect("an object").shift_remove("sum");
        change(&mut v);
        if v["type"] == "end" {
            v["sums"] = hex(&<[u8; 32]>::from(sums.clone().finalize())).into();
        }

        let mut text = v.to_string();
        text.pop();
        let own = sum(text.as_bytes());
        sums.update(own);
        out.extend_from_slice(format!("{text},\"sum\":\"{}\"}}\n", hex(&own)).as_bytes());
    }

    out
}

/// Kind of damage and the chain; none if the file is whole.
fn said(file: &[u8], anchors: &[Anchor]) -> Option<(DamageKind, String)> {
    export_verifier::verify(file, anchors, &mut |_| {})
        .expect("readable")
        .err()
        .map(|d| (d.kind, format!("{}: {}", d.record, d.text)))
}

fn largest(tape: &Tape, topic: &str) -> (String, TopicPartition) {
    let anchor = anchor(tape);
    let name = anchor
        .heads
        .iter()
        .filter(|h| h.chain.contains(topic))
        .max_by_key(|h| h.entries)
        .expect("a chain")
        .chain
        .clone();

    let (topic, partition) = name.rsplit_once('/').expect("a name");
    let at = TopicPartition::new(
        tape.topics.find(topic).expect("a topic"),
        partition.parse().expect("a number"),
    );
    (name, at)
}

/// Regression: with every record's time moved by a day and every header replaced, the file was
/// reported whole, even with anchors.
#[test]
fn a1_times_and_headers_of_a_file_are_bound() {
    let file = export(busy());
    let anchors = [anchor(busy())];
    assert_eq!(said(&file, &anchors), None);
    let is_record = |v: &Value| v["type"] == "record" && v.get("payload").is_none();
    type Forge = fn(&mut Value);
    let ways: [(&str, Forge); 6] = [
        ("time", |v| {
            v["time_ms"] = (v["time_ms"].as_i64().unwrap_or(0) - 86_400_000).into()
        }),
        ("other headers", |v| {
            v["headers"] = serde_json::json!([["type", "4f"], ["reason", "58"]])
        }),
        ("no headers", |v| v["headers"] = serde_json::json!([])),
        ("an empty key", |v| {
            v["key"] = if v["key"].is_null() {
                "".into()
            } else {
                Value::Null
            }
        }),
        ("an older link", |v| v["v"] = 1.into()),
        ("no version", |v| {
            drop(v.as_object_mut().expect("an object").shift_remove("v"))
        }),
    ];

    for (what, forge) in ways {
        for anchors in [&anchors[..], &[]] {
            // All of them, and one alone.
            for only in [None, Some(40)] {
                let mut n = 0;
                let forged = anew(&file, |v| {
                    // A client's record without headers or key cannot lose them.
                    let has = what != "no headers"
                        || v["headers"].as_array().is_some_and(|h| !h.is_empty());
                    n += i32::from(is_record(v) && has);
                    if is_record(v) && has && only.is_none_or(|only| n == only) {
                        forge(v);
                    }
                });

                assert!(
                    said(&forged, anchors).is_some_and(|(kind, _)| kind == DamageKind::Changed),
                    "{what} {only:?}"
                );
            }
        }
    }
}

/// Regression: contents of 74 commands were replaced by their hashes, as if compaction had dropped
/// them.
#[test]
fn a2_contents_are_left_out_of_compacted_topics_only() {
    let file = export(busy());
    let withheld = |topic: &'static str| {
        let mut inside = false;
        anew(&file, |v| {
            if v["type"] == "chain" {
                inside = v["chain"].as_str().is_some_and(|c| c.contains(topic));
            }

            if v["type"] == "record" && inside && v.get("payload").is_none() {
                let unhex = |v: &Value| v.as_str().map(|s| audit::hex::unhex(s).expect("bytes"));

                let key = unhex(&v["key"]);
                let value = unhex(&v["value"]);
                let headers: Vec<(String, Vec<u8>)> = v["headers"]
                    .as_array()
                    .expect("a list")
                    .iter()
                    .map(|h| {
                        (
                            h[0].as_str().expect("a name").to_string(),
                            unhex(&h[1]).expect("bytes"),
                        )
                    })
                    .collect();

                let time = v["time_ms"].as_i64().expect("a time");
                let bound = headers.iter().map(|(n, v)| (n.as_str(), v.as_slice()));
                let meta = chain::meta_hash(time, key.is_some(), value.is_some(), bound);
                let payload = chain::payload_hash(key.as_deref(), value.as_deref());
                let o = v.as_object_mut().expect("an object");
                ["key", "value", "headers"]
                    .iter()
                    .for_each(|f| drop(o.shift_remove(*f)));
                o.insert("payload".into(), hex(&payload).into());
                o.insert("meta".into(), hex(&meta).into());
            }
        })
    };

    for topic in ["order-commands", "order-events", "dead-letters"] {
        let (kind, text) = said(&withheld(topic), &[]).expect("it is withheld");
        assert!(
            kind == DamageKind::Changed && text.contains("left out"),
            "{topic}: {text}"
        );
    }

    for topic in ["instruments", "portfolios"] {
        let v = export_verifier::verify(&withheld(topic)[..], &[], &mut |_| {})
            .expect("readable")
            .expect("compaction may have dropped them");
        assert!(v.gone > 0, "{topic}: and how many are gone is said");
    }

    assert_eq!(
        export_verifier::verify(&file[..], &[], &mut |_| {})
            .expect("readable")
            .expect("whole")
            .gone,
        0
    );
}

/// Regression: the times of a tick and of a command were moved by an hour, together with their
/// entries' times. No damage was reported, even with anchors.
#[test]
fn a4_times_in_the_log_are_bound() {
    for topic in ["market-data", "order-commands"] {
        let mut tape = busy().clone();
        let anchors = [anchor(&tape)];
        let (name, at) = largest(&tape, topic);
        let (log, places) = tape.entries(&name);
        let moved = tape.partitions[&at][2].time_ms - 3_600_000;
        tape.at(at)[2].time_ms = moved;
        let old = tape.at(log)[places[2]].value.clone().expect("an entry");
        let mut e = AuditEntry::decode(&old).expect("an entry");
        e.log_time_ms = moved;
        let mut value = Vec::new();
        e.encode(&mut value);
        tape.at(log)[places[2]].value = Some(value);
        let bad = tape.damaged(&[]);
        let damage = bad.damage.expect("damage");
        assert_eq!(
            (bad.name.as_str(), damage.kind, damage.offset),
            (
                name.as_str(),
                DamageKind::Changed,
                tape.partitions[&at][2].offset
            )
        );

        // After the link is made again, only an anchor can show the change.
        let meta = {
            let k = &tape.partitions[&at][2];
            chain::meta_hash(
                k.time_ms,
                k.key.is_some(),
                k.value.is_some(),
                Headers::packed(&k.headers).iter(),
            )
        };

        tape.forge(log, places[2], |e| e.meta_hash = Some(meta));
        tape.rewrite(&name, 2);
        assert!(tape.verify(&[]).iter().all(|r| r.damage.is_none()));
        assert_eq!(
            tape.damaged(&anchors).damage.expect("damage").kind,
            DamageKind::Rewritten
        );
    }
}

#[test]
fn headers_and_absent_values_in_the_log_are_bound() {
    let (name, at) = largest(busy(), "dead-letters");
    let damage = |change: &dyn Fn(&mut super::tape::Kept)| {
        let mut tape = busy().clone();
        change(&mut tape.at(at)[0]);
        let bad = tape.damaged(&[]);
        assert_eq!(bad.name, name);
        bad.damage.expect("damage")
    };

    // Reasons of dead letters are only in headers.
    let lie = damage(&|k| {
        let mut headers = HeaderBuf::default();
        for (n, v) in Headers::packed(&k.headers).iter() {
            headers.push(n, if n == "reason" { b"OVERSIZE" } else { v });
        }

        k.headers = headers.headers().as_bytes().to_vec();
    });

    assert!(
        lie.kind == DamageKind::Changed && lie.text.contains("headers"),
        "{lie:?}"
    );

    // A null value delists a symbol; an empty value is ignored.
    assert_ne!(
        chain::meta_hash(1, true, false, std::iter::empty()),
        chain::meta_hash(1, true, true, std::iter::empty()),
        "a null value and an empty one"
    );
    let mut tape = busy().clone();
    let at = TopicPartition::new(t::INSTRUMENTS, 0);
    let k = &mut tape.at(at)[0];
    (k.key, k.value) = (
        None,
        Some(
            [
                k.key.clone().unwrap_or_default(),
                k.value.clone().unwrap_or_default(),
            ]
            .concat(),
        ),
    );

    assert_eq!(tape.damaged(&[]).name, "instruments/0");
}

/// Chains of version 1 stay valid and continue under version 2; no chain returns to version 1.
#[test]
fn chains_of_both_versions_verify_and_none_goes_back() {
    let (name, at) = largest(busy(), "order-events");
    let mut tape = busy().clone();
    let (log, places) = tape.entries(&name);
    let half = places.len() / 2;
    for place in &places[..half] {
        tape.forge(log, *place, |e| e.meta_hash = None);
    }

    tape.rewrite(&name, 0);
    assert!(
        tape.verify(&[]).iter().all(|r| r.damage.is_none()),
        "{:?}",
        tape.damaged(&[])
    );
    let file = export(&tape);
    assert_eq!(said(&file, &[anchor(&tape)]), None);
    tape.forge(log, places[half + 3], |e| e.meta_hash = None);
    tape.rewrite(&name, half + 3);
    let bad = tape.damaged(&[]).damage.expect("damage");
    assert_eq!(
        (bad.kind, bad.offset),
        (DamageKind::Changed, tape.partitions[&at][half + 3].offset),
        "{bad:?}"
    );
    assert!(
        bad.text.contains("version 1 behind one of version 2"),
        "{bad:?}"
    );
}

/// The log at the time when this part of each partition of the audit log had been written.
fn before(part: usize) -> Tape {
    let mut tape = busy().clone();
    let mut last = std::collections::BTreeMap::new();
    let logs: Vec<_> = tape
        .partitions
        .keys()
        .copied()
        .filter(|at| at.topic == t::AUDIT_LOG)
        .collect();
    for log in logs {
        let n = tape.at(log).len() * part / 4;
        tape.at(log).truncate(n);
        for k in tape.at(log).clone() {
            let e = AuditEntry::decode(k.value.as_deref().expect("a value")).expect("an entry");
            last.insert(
                TopicPartition::new(
                    busy().topics.find(e.src_topic).expect("a topic"),
                    e.src_partition,
                ),
                e.src_offset + 1,
            );
        }
    }

    for topic in t::AUDITED {
        let all: Vec<_> = tape
            .partitions
            .keys()
            .copied()
            .filter(|at| at.topic == topic)
            .collect();
        for at in all {
            let end = last.get(&at).copied().unwrap_or(0);
            tape.at(at).retain(|k| k.offset < end);
            tape.audited.insert(at, end);
        }
    }

    tape
}

/// A new anchor continues from the last anchor. If the log does not match the last anchor,
/// everything is read again.
#[test]
fn anchoring_goes_on_where_the_last_anchor_left_off() {
    let early = before(2);
    let (reports, positions) = early
        .chains(&[])
        .verify_after(None, &mut |_| {})
        .expect("readable");
    assert!(reports.iter().all(|r| r.damage.is_none()), "{reports:?}");
    let first = Anchor::new(NINE.into(), "tape".into(), heads(&reports)).read_to(positions);
    assert_eq!(
        Anchor::parse(first.line().to_string().as_bytes()),
        Ok(first.clone()),
        "positions are kept"
    );
    let read = |tape: &Tape, start: Option<&Anchor>| {
        let mut most = 0;
        let anchors = [first.clone()];
        let (reports, positions) = tape
            .chains(&anchors)
            .verify_after(start, &mut |done| most = done)
            .expect("readable");
        (most, reports, positions)
    };

    let (all, want, ends) = read(busy(), None);
    let (few, got, same) = read(busy(), Some(&first));
    assert!(few > 0 && few < all, "{few} of {all} entries");
    assert_eq!((got, same), (want, ends));

    // Positions of another log, a log that was cut, a log that was rewritten: everything is read
    // again, and the damage is found.
    let elsewhere = first.clone().read_to(
        first
            .positions
            .iter()
            .map(|p| p.saturating_sub(1))
            .collect(),
    );

    assert_eq!(read(busy(), Some(&elsewhere)).0, all);
    assert!(read(&before(1), Some(&first)).1.iter().any(|r| {
        r.damage
            .as_ref()
            .is_some_and(|d| d.kind == DamageKind::Truncated)
    }));
    let mut tape = busy().clone();
    for name in first
        .heads
        .iter()
        .map(|h| h.chain.clone())
        .collect::<Vec<_>>()
    {
        let (log, places) = tape.entries(&name);
        tape.forge(log, places[0], |e| e.payload_hash = [9; 32]);
        tape.rewrite(&name, 0);
    }

    assert!(read(&tape, Some(&first)).1.iter().any(|r| {
        r.damage
            .as_ref()
            .is_some_and(|d| d.kind == DamageKind::Changed)
    }));
}
