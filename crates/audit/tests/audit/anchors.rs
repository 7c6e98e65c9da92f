//! Row A1 for damage that a chain alone cannot show: history that was cut short or rewritten as a
//! whole, compared with an anchor kept elsewhere.

use audit::anchor::{Anchor, ChainHead};
use audit::chains::heads;
use audit::damage::DamageKind;
use domain::chain::payload_hash;
use ports::topics::TopicPartition;
use wire::topics as t;

use super::tape::Tape;
use super::world::busy;

/// The tape at the time when each chain had at most `n` entries.
pub fn earlier(n: usize) -> Tape {
    let mut tape = busy().clone();
    for topic in t::AUDITED {
        for p in 0..tape
            .partitions
            .keys()
            .filter(|at| at.topic == topic)
            .count()
        {
            let at = TopicPartition::new(topic, p as u32);
            if tape.at(at).is_empty() {
                continue;
            }

            tape.at(at).truncate(n);
            let end = tape.at(at).last().map_or(0, |k| k.offset + 1);
            tape.audited.insert(at, end);
            let name = tape.topics.show(at).to_string();
            let (log, places) = tape.entries(&name);
            let drop: Vec<_> = places.into_iter().skip(n).collect();
            let mut place = 0;
            tape.at(log).retain(|_| {
                place += 1;
                !drop.contains(&(place - 1))
            });
        }
    }

    tape
}

fn anchor(tape: &Tape, time: &str) -> Anchor {
    Anchor::new(time.into(), "tape".into(), heads(&tape.verify(&[])))
}

#[test]
fn a_growing_log_agrees_with_all_its_anchors() {
    let anchors = [earlier(5), earlier(20), busy().clone()].map(|t| anchor(&t, "then"));
    assert!(anchors[0].root != anchors[1].root && anchors.iter().all(|a| a.heads.len() > 10));
    assert!(busy().verify(&anchors).iter().all(|r| r.damage.is_none()));
    let read_back =
        anchors.map(|a| Anchor::parse(a.line().to_string().as_bytes()).expect("reads back"));
    assert!(busy().verify(&read_back).iter().all(|r| r.damage.is_none()));
}

#[test]
fn a1_history_cut_short_everywhere_is_named_by_an_anchor() {
    let kept = [anchor(busy(), "noon")];
    let cut = earlier(12);
    assert!(
        cut.verify(&[]).iter().all(|r| r.damage.is_none()),
        "without an anchor it looks whole"
    );
    let bad: Vec<_> = cut
        .verify(&kept)
        .into_iter()
        .filter(|r| r.damage.is_some())
        .collect();
    assert!(!bad.is_empty());
    for r in bad {
        let d = r.damage.expect("damage");
        assert_eq!(
            (d.kind, d.offset, r.good.entries),
            (DamageKind::Truncated, r.good.last.unwrap_or(0) + 1, 12)
        );
        assert!(d.text.contains("the anchor of noon"), "{}", d.text);
    }
}

#[test]
fn a1_history_rewritten_as_a_whole_is_named_by_an_anchor() {
    let kept = [
        anchor(&earlier(8), "morning"),
        anchor(&earlier(25), "noon"),
        anchor(busy(), "evening"),
    ];
    let mut tape = busy().clone();
    let at = (0..3)
        .map(|p| TopicPartition::new(t::ORDER_EVENTS, p))
        .max_by_key(|at| tape.partitions[at].len())
        .expect("partitions");
    let name = tape.topics.show(at).to_string();
    tape.at(at)[14].value.as_mut().expect("a value")[40] ^= 1;
    let record = tape.at(at)[14].clone();
    let (log, places) = tape.entries(&name);
    tape.forge(log, places[14], |e| {
        e.payload_hash = payload_hash(record.key.as_deref(), record.value.as_deref())
    });

    tape.rewrite(&name, 14);
    assert!(
        tape.verify(&[]).iter().all(|r| r.damage.is_none()),
        "without an anchor it looks whole"
    );
    let bad = tape.damaged(&kept);
    let d = bad.damage.expect("damage");
    assert_eq!((d.kind, d.offset), (DamageKind::Rewritten, 24));
    assert!(
        d.text.contains("noon") && d.text.contains("up to offset 7") && d.text.contains("morning"),
        "{}",
        d.text
    );
}

#[test]
fn a_chain_that_vanished_as_a_whole_is_named_by_an_anchor() {
    let kept = [anchor(busy(), "noon")];
    let mut tape = busy().clone();
    let at = TopicPartition::new(t::INSTRUMENTS, 0);
    let audit_log = tape.entries("instruments/0").0;
    tape.at(at).clear();
    tape.at(audit_log)
        .retain(|k| k.key.as_deref() != Some(b"instruments/0"));
    assert!(tape.verify(&[]).iter().all(|r| r.damage.is_none()));
    let bad = tape.damaged(&kept);
    assert_eq!(
        (bad.name.as_str(), bad.damage.map(|d| d.kind)),
        ("instruments/0", Some(DamageKind::Truncated))
    );
}

/// Regression: checkpoints were looked up only for existing chains. An anchor of a log with other
/// topics therefore found everything whole.
#[test]
fn a_chain_of_a_partition_that_is_gone_is_named_by_an_anchor() {
    let mut kept = anchor(busy(), "noon");
    let mut gone = kept.heads[0].clone();
    gone.chain = "order-events/77".into();
    kept.heads.push(gone.clone());
    let kept = [Anchor::new(kept.time, kept.cluster, kept.heads)];
    let bad = busy().damaged(&kept);
    let d = bad.damage.expect("damage");
    assert_eq!(
        (bad.name.as_str(), d.kind, d.offset, bad.good.entries),
        ("order-events/77", DamageKind::Truncated, 0, 0)
    );
    assert!(
        d.text.contains(&format!(
            "the anchor of noon saw the chain up to offset {}",
            gone.offset
        )),
        "{}",
        d.text
    );

    // An anchor in which every chain has another prefix.
    let heads: Vec<_> = kept[0]
        .heads
        .iter()
        .map(|h| ChainHead {
            chain: format!("a-{}", h.chain),
            ..*h
        })
        .collect();

    let other = [Anchor::new("noon".into(), "tape".into(), heads)];
    assert!(other[0].is_of("a-") && !other[0].is_of(""));
    let bad = busy()
        .verify(&other)
        .into_iter()
        .filter(|r| r.damage.is_some())
        .count();
    assert_eq!(bad, other[0].heads.len());
}
