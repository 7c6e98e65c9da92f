//! Row A1 in a file: an export proves its own integrity, and any change to it is found and named.

use audit::anchor::{Anchor, ChainHead};
use audit::chains::heads;
use audit::damage::DamageKind;
use audit::export::{ExportError, ExportPlan, ExportSummary};
use audit::export_verifier::{self, FileDamage, Verified};
use domain::chain::payload_hash;
use ports::topics::TopicPartition;
use proptest::prelude::*;
use serde_json::Value;

use super::anchors::earlier;
use super::tape::Tape;
use super::world::{START_MS, busy};

fn export(
    tape: &Tape,
    from_ms: Option<i64>,
    to_ms: Option<i64>,
) -> Result<(Vec<u8>, ExportSummary), ExportError> {
    export_made(tape, from_ms, to_ms, "now")
}

fn export_made(
    tape: &Tape,
    from_ms: Option<i64>,
    to_ms: Option<i64>,
    created: &str,
) -> Result<(Vec<u8>, ExportSummary), ExportError> {
    let mut out = Vec::new();
    let export = ExportPlan {
        log: tape,
        topics: &tape.topics,
        from_ms,
        to_ms,
        created: created.into(),
    };

    let summary = export.write(&mut out, &mut |_| {})?;
    Ok((out, summary))
}

fn verify(file: &[u8], anchors: &[Anchor]) -> Result<ExportSummary, FileDamage> {
    verified(file, anchors).map(|v| v.summary)
}

fn verified(file: &[u8], anchors: &[Anchor]) -> Result<Verified, FileDamage> {
    export_verifier::verify(file, anchors, &mut |_| {}).expect("it can be read")
}

/// Some time after the last record.
const NINE: &str = "2027-01-15T09:00:00Z";
const TEN: &str = "2027-01-15T10:00:00Z";
const TEN_MS: i64 = START_MS + 2 * 3_600_000;

fn anchored(tape: &Tape, time: &str) -> Anchor {
    Anchor::new(time.into(), "tape".into(), heads(&tape.verify(&[])))
}

fn whole() -> &'static Vec<u8> {
    static FILE: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
    FILE.get_or_init(|| export(busy(), None, None).expect("an export").0)
}

fn lines(file: &[u8]) -> Vec<Vec<u8>> {
    file.split_inclusive(|b| *b == b'\n')
        .map(<[u8]>::to_vec)
        .collect()
}

#[test]
fn an_export_proves_itself_and_agrees_with_anchors() {
    let (file, written) = export(busy(), None, None).expect("an export");
    assert_eq!(verify(&file, &[]).as_ref(), Ok(&written));
    assert_eq!(written.lines as usize, lines(&file).len());
    let anchor = Anchor::new("noon".into(), "tape".into(), heads(&busy().verify(&[])));
    assert_eq!(anchor.heads.len() as u64, written.chains);
    assert_eq!(
        anchor.heads.iter().map(|h| h.entries).sum::<u64>(),
        written.records
    );
    assert_eq!(verify(&file, std::slice::from_ref(&anchor)), Ok(written));
}

#[test]
fn a_range_holds_its_records_and_the_heads_around_them() {
    let from = START_MS + 2_000;
    let to = START_MS + 5_000;
    let (file, summary) = export(busy(), Some(from), Some(to)).expect("an export");
    assert_eq!(verify(&file, &[]).as_ref(), Ok(&summary));
    assert!(
        summary.records > 20 && (summary.records as usize) < lines(whole()).len() / 2,
        "{summary:?} of {}",
        lines(whole()).len()
    );
    let mut found = 0;
    for line in lines(&file) {
        let v: Value = serde_json::from_slice(&line).expect("JSON");
        if v["type"] == "record" {
            let time = v["time_ms"].as_i64().expect("a time");
            assert!((from..to).contains(&time), "{time}");
            found += 1;
        }
    }

    assert_eq!(found, summary.records);
    let (nothing, summary) = export(busy(), Some(to + 1_000_000_000), None).expect("an export");
    assert_eq!(
        (summary.records, verify(&nothing, &[])),
        (0, Ok(summary.clone()))
    );
}

#[test]
fn an_anchor_within_the_range_binds_the_file() {
    let mut tape = busy().clone();
    let anchor = Anchor::new("noon".into(), "tape".into(), heads(&tape.verify(&[])));
    let name = anchor
        .heads
        .iter()
        .filter(|h| h.chain.starts_with("portfolios"))
        .max_by_key(|h| h.entries)
        .expect("heads")
        .chain
        .clone();

    // The file was rewritten, and all checks that the file itself contains were made right again.
    let (log, places) = tape.entries(&name);
    tape.forge(log, places[3], |e| e.payload_hash = [9; 32]);
    tape.rewrite(&name, 3);
    let file = forged(&tape);
    assert!(verify(&file, &[]).is_ok(), "by itself it is whole");
    let bad = verify(&file, &[anchor]).expect_err("the anchor knows better");
    assert_eq!(bad.kind, DamageKind::Rewritten);
    assert!(bad.record.starts_with(&name), "{bad:?}");
}

/// The tail of a file was cut off, chain by chain, with new sums and heads. An anchor that covers
/// more records must show this.
#[test]
fn a_file_that_is_later_than_an_anchor_reaches_it() {
    let cut = earlier(12);
    let anchor = [anchored(busy(), NINE)];
    let made =
        |tape: &Tape, from, to, created| export_made(tape, from, to, created).expect("an export").0;
    assert!(verified(&made(busy(), None, None, TEN), &anchor).is_ok());
    let short = made(&cut, None, None, TEN);
    assert!(verify(&short, &[]).is_ok(), "by itself it is whole");
    let first = anchor[0].heads.iter().filter(|h| h.entries > 12).count();
    assert!(first > 3);
    for file in [&short, &made(&cut, None, Some(TEN_MS), TEN)] {
        let bad = verified(file, &anchor).expect_err("it is as late as the anchor");
        assert_eq!(bad.kind, DamageKind::Truncated, "{bad:?}");
        assert!(
            bad.text.contains(NINE) && bad.text.contains("the file was made later"),
            "{bad:?}"
        );
    }

    // From the middle on: the file's part of a chain must reach the head in the anchor.
    let bad = verified(&made(&cut, Some(START_MS + 700), None, TEN), &anchor)
        .expect_err("open at its end");
    assert_eq!(bad.kind, DamageKind::Truncated, "{bad:?}");

    // A file made before the anchor, or ending before it, need not reach the anchor. The anchor
    // then does not bind the file either.
    for file in [
        made(&cut, None, None, "2027-01-15T08:30:00Z"),
        made(&cut, None, Some(START_MS + 1_800_000), TEN),
    ] {
        let v = verified(&file, &anchor).expect("it may end there");
        assert!(
            v.bound_records < v.summary.records && v.unbound.len() == first,
            "{v:?}"
        );
    }
}

#[test]
fn a_file_from_the_beginning_has_every_chain_that_an_anchor_saw() {
    let anchor = [anchored(busy(), NINE)];
    let mut tape = busy().clone();
    let at = TopicPartition::new(wire::topics::INSTRUMENTS, 0);
    let audit_log = tape.entries("instruments/0").0;
    tape.at(at).clear();
    tape.at(audit_log)
        .retain(|k| k.key.as_deref() != Some(b"instruments/0"));
    let file = export_made(&tape, None, None, TEN).expect("an export").0;
    assert!(verify(&file, &[]).is_ok(), "by itself it is whole");
    let bad = verified(&file, &anchor).expect_err("a chain is gone");
    assert_eq!(
        (bad.kind, bad.record.as_str()),
        (DamageKind::Truncated, "instruments/0 offset 0"),
        "{bad:?}"
    );

    // Anchors of another prefix on the same log do not cover this chain.
    let heads = anchor[0]
        .heads
        .iter()
        .map(|h| ChainHead {
            chain: format!("a-{}", h.chain),
            ..*h
        })
        .collect();

    let other = [Anchor::new(NINE.into(), "tape".into(), heads)];
    assert_eq!(verified(&file, &other).map(|v| v.bound_records), Ok(0));

    // The chains of a file may not begin in the middle if the file claims to be complete.
    let middle = export_made(busy(), Some(START_MS + 2_000), None, TEN)
        .expect("an export")
        .0;
    let bad = verify(
        &relabelled(
            &middle,
            &format!("\"from_ms\":{}", START_MS + 2_000),
            "\"from_ms\":null",
        ),
        &[],
    )
    .expect_err("it does not");

    assert_eq!((bad.kind, bad.line), (DamageKind::Deleted, 2), "{bad:?}");
}

/// Changes the first line and corrects all sums.
fn relabelled(file: &[u8], from: &str, to: &str) -> Vec<u8> {
    use audit::export::sum;
    use audit::hex::hex;
    let all = lines(file);
    let mut sums = <sha2::Sha256 as sha2::Digest>::new();
    let mut out = Vec::new();
    for (i, line) in all.iter().enumerate() {
        let text = String::from_utf8(line.clone()).expect("text");
        let (head, _) = text.rsplit_once(",\"sum\":\"").expect("a sum");
        let mut head = head.to_string();
        if i == 0 {
            assert!(head.contains(from), "{head}");
            head = head.replacen(from, to, 1);
        }

        if i + 1 == all.len() {
            let (fields, _) = head.rsplit_once(",\"sums\":\"").expect("the sums");
            head = format!(
                "{fields},\"sums\":\"{}\"",
                hex(&sha2::Digest::finalize(sums.clone())[..])
            );
        }

        let own = sum(head.as_bytes());
        sha2::Digest::update(&mut sums, own);
        out.extend(format!("{head},\"sum\":\"{}\"}}\n", hex(&own)).bytes());
    }

    out
}

#[test]
fn how_much_of_a_file_anchors_bind_is_counted() {
    let early = anchored(&earlier(12), "2027-01-15T08:00:05Z");
    let late = anchored(busy(), NINE);
    let bound = |file: &[u8], anchors: &[Anchor]| {
        let v = verified(file, anchors).expect("whole");
        (
            v.bound_records,
            v.unbound.len() as u64,
            v.summary.records,
            v.summary.chains,
        )
    };

    let entries = |a: &Anchor| a.heads.iter().map(|h| h.entries).sum::<u64>();
    let (_, _, records, chains) = bound(whole(), &[]);
    assert_eq!(bound(whole(), &[]), (0, chains, records, chains));
    assert_eq!(
        bound(whole(), std::slice::from_ref(&early)),
        (
            entries(&early),
            chains - early.heads.len() as u64,
            records,
            chains
        )
    );

    assert_eq!(
        bound(whole(), &[early.clone(), late.clone()]),
        (records, 0, records, chains)
    );

    // A range before the only anchor may have been rewritten, because the anchor does not bind it.
    let mut tape = busy().clone();
    let at = *tape
        .partitions
        .keys()
        .find(|at| at.topic == wire::topics::ORDER_EVENTS)
        .expect("events");
    let name = tape.topics.show(at).to_string();
    tape.at(at)[0].value.as_mut().expect("a value")[40] ^= 1;
    let record = tape.at(at)[0].clone();
    let (log, places) = tape.entries(&name);
    tape.forge(log, places[0], |e| {
        e.payload_hash = payload_hash(record.key.as_deref(), record.value.as_deref())
    });

    tape.rewrite(&name, 0);
    let rewritten = export_made(&tape, None, Some(START_MS + 3_000), TEN)
        .expect("an export")
        .0;
    let v = verified(&rewritten, &[late]).expect("it cannot be known");
    assert!(
        v.unbound.contains(&name) && v.bound_records < v.summary.records,
        "{v:?}"
    );
}

/// An export of a tape without the records of its compacted topics: the lines of these topics
/// contain only hashes.
fn forged(tape: &Tape) -> Vec<u8> {
    let mut bare = tape.clone();
    let compacted =
        |at: &TopicPartition| tape.topics.spec(at.topic).cleanup == ports::topics::Cleanup::Compact;

    bare.partitions
        .iter_mut()
        .filter(|(at, _)| compacted(at))
        .for_each(|(_, kept)| kept.clear());
    export(&bare, None, None).expect("an export").0
}

#[test]
fn damage_is_not_exported() {
    let mut tape = busy().clone();
    let at = *tape
        .partitions
        .keys()
        .find(|at| at.topic == wire::topics::TRADES)
        .expect("trades");
    tape.at(at)[0].value.as_mut().expect("a value")[5] ^= 1;
    let refused = export(&tape, None, None).expect_err("it is damaged");
    assert!(
        matches!(&refused, ExportError::Damaged { damage, .. } if damage.kind == DamageKind::Changed),
        "{refused}"
    );
}

#[test]
fn a1_a_line_with_a_new_sum_is_named_by_the_chain() {
    let mut all = lines(whole());
    let i = all
        .iter()
        .position(|l| l.windows(15).any(|w| w == b"\"type\":\"record\""))
        .expect("a record")
        + 5;
    let text = String::from_utf8(all[i].clone()).expect("text");
    let (head, _) = text.split_once(",\"sum\":\"").expect("a sum");
    let changed = head.replacen("\"value\":\"", "\"value\":\"00", 1);
    let sum = audit::export::sum(changed.as_bytes());
    all[i] = format!("{changed},\"sum\":\"{}\"}}\n", audit::hex::hex(&sum)).into_bytes();
    let bad = verify(&all.concat(), &[]).expect_err("damage");
    assert_eq!(
        (bad.kind, bad.line),
        (DamageKind::Changed, i as u64 + 1),
        "{bad:?}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// One flipped bit anywhere: the report names its line.
    #[test]
    fn a1_a_flipped_bit_is_found_in_its_line(place in any::<prop::sample::Index>(), bit in 0_u8..8) {
        let mut file = whole().clone();
        let place = place.index(file.len());
        file[place] ^= 1 << bit;
        let line = 1 + whole()[..place].iter().filter(|b| **b == b'\n').count() as u64;
        let bad = verify(&file, &[]).expect_err("damage");
        prop_assert_eq!(bad.line, line, "{:?}", bad);
        prop_assert!(matches!(bad.kind, DamageKind::Changed | DamageKind::Truncated), "{:?}", bad);
    }

    /// Cut anywhere.
    #[test]
    fn a1_a_file_cut_short_is_found(place in any::<prop::sample::Index>()) {
        let place = place.index(whole().len());
        let bad = verify(&whole()[..place], &[]).expect_err("damage");
        prop_assert_eq!(bad.kind, DamageKind::Truncated, "{:?}", bad);
        prop_assert_eq!(bad.line, 1 + whole()[..place].iter().filter(|b| **b == b'\n').count() as u64);
    }

    /// Lines removed, doubled or exchanged: the report names the first wrong line and the reason.
    #[test]
    fn a1_lines_out_of_place_are_found(a in any::<prop::sample::Index>(), b in any::<prop::sample::Index>(), what in 0..3) {
        let mut all = lines(whole());
        let mut a = a.index(all.len());
        let mut b = b.index(all.len());
        if a > b {
            std::mem::swap(&mut a, &mut b);
        }

        let want = match what {
            0 => { all.remove(a); (if a + 1 == lines(whole()).len() { DamageKind::Truncated } else { DamageKind::Deleted }, a) }
            1 if a != b => { all.swap(a, b); (DamageKind::Swapped, a) }
            1 => return Ok(()),
            _ => { let copy = all[a].clone(); all.insert(b + 1, copy); (DamageKind::Inserted, b + 1) }
        };

        let bad = verify(&all.concat(), &[]).expect_err("damage");
        prop_assert_eq!((bad.kind, bad.line), (want.0, want.1 as u64 + 1), "{:?}", bad);
    }
}
