//! Row A1 in the topics: every kind of damage, at every place, to records and to entries.

use audit::damage::DamageKind;
use ports::topics::{TopicId, TopicPartition};
use proptest::prelude::*;
use wire::topics as t;

use super::tape::{Kept, Tape};
use super::world::busy;

/// A chain with enough entries: the events of one partition.
fn chain(tape: &Tape) -> (String, TopicPartition) {
    let at = (0..3)
        .map(|p| TopicPartition::new(t::ORDER_EVENTS, p))
        .max_by_key(|at| tape.partitions[at].len())
        .expect("partitions");
    assert!(tape.partitions[&at].len() > 30);
    (tape.topics.show(at).to_string(), at)
}

fn swap_content(records: &mut [Kept], a: usize, b: usize) {
    let x = records[a].offset;
    let y = records[b].offset;
    records.swap(a, b);
    (records[a].offset, records[b].offset) = (x, y);
}

#[test]
fn a_whole_log_is_good() {
    let reports = busy().verify(&[]);
    assert!(
        reports.len() > 10 && reports.iter().all(|r| r.damage.is_none()),
        "{reports:#?}"
    );
    let records: usize = t::AUDITED
        .iter()
        .flat_map(|topic| {
            busy()
                .partitions
                .iter()
                .filter(|(at, _)| at.topic == *topic)
        })
        .map(|(_, k)| k.len())
        .sum();

    assert_eq!(
        reports.iter().map(|r| r.good.entries).sum::<u64>(),
        records as u64,
        "every record has its entry"
    );
}

#[test]
fn a1_a_changed_record_is_named() {
    let mut tape = busy().clone();
    let (name, at) = chain(&tape);
    let kept = &mut tape.at(at)[9];
    kept.value.as_mut().expect("a value")[40] ^= 1;
    let offset = kept.offset;
    let bad = tape.damaged(&[]);
    let d = bad.damage.expect("damage");
    assert_eq!(
        (bad.name, d.kind, d.offset),
        (name, DamageKind::Changed, offset)
    );
    assert_eq!(
        (bad.good.entries, bad.good.last),
        (9, Some(offset - 1)),
        "good up to the one before"
    );
}

#[test]
fn a1_a_deleted_record_is_named_and_so_is_a_deleted_entry() {
    let mut tape = busy().clone();
    let (name, at) = chain(&tape);
    let gone = tape.at(at).remove(9).offset;
    let bad = tape.damaged(&[]);
    let d = bad.damage.expect("damage");
    assert_eq!(
        (bad.name.as_str(), d.kind, d.offset, bad.good.entries),
        (name.as_str(), DamageKind::Deleted, gone, 9)
    );

    let mut tape = busy().clone();
    let (log, places) = tape.entries(&name);
    tape.at(log).remove(places[9]);
    let bad = tape.damaged(&[]);
    let d = bad.damage.expect("damage");
    assert_eq!(
        (bad.name.as_str(), d.kind, d.offset, bad.good.entries),
        (name.as_str(), DamageKind::Deleted, gone, 9),
        "{}",
        d.text
    );
}

#[test]
fn a1_swapped_records_and_swapped_entries_are_named() {
    let mut tape = busy().clone();
    let (name, at) = chain(&tape);
    swap_content(tape.at(at), 5, 20);
    let first = tape.at(at)[5].offset;
    let d = tape.damaged(&[]).damage.expect("damage");
    assert_eq!(
        (d.kind, d.offset),
        (DamageKind::Swapped, first),
        "{}",
        d.text
    );

    for (a, b) in [(5, 6), (5, 20), (0, 1)] {
        let mut tape = busy().clone();
        let (log, places) = tape.entries(&name);
        let here = tape.at(log)[places[a]].offset;
        swap_content(tape.at(log), places[a], places[b]);
        let bad = tape.damaged(&[]);
        let d = bad.damage.expect("damage");
        assert_eq!(
            (d.kind, d.at, bad.good.entries),
            (DamageKind::Swapped, Some(here), a as u64),
            "{}",
            d.text
        );
    }
}

#[test]
fn a1_truncation_is_named_on_both_sides() {
    let mut tape = busy().clone();
    let (_, at) = chain(&tape);
    let cut = tape.at(at).split_off(17);
    let d = tape.damaged(&[]).damage.expect("damage");
    assert_eq!(
        (d.kind, d.offset),
        (DamageKind::Truncated, cut[0].offset),
        "records: {}",
        d.text
    );

    let mut tape = busy().clone();
    let (name, _) = chain(&tape);
    let (log, places) = tape.entries(&name);
    let from = places[17];
    let mut place = 0;
    tape.at(log).retain(|k| {
        place += 1;
        place <= from || k.key.as_deref() != Some(name.as_bytes())
    });

    let d = tape
        .damaged(&[])
        .damage
        .expect("the audit role's position says that there was more");
    assert_eq!(
        (d.kind, d.offset),
        (DamageKind::Truncated, cut[0].offset),
        "entries: {}",
        d.text
    );
    tape.audited.clear();
    let d = tape
        .damaged(&[])
        .damage
        .expect("brokers forget positions; the last transaction of the audit role has them");
    assert_eq!(
        (d.kind, d.offset),
        (DamageKind::Truncated, cut[0].offset),
        "entries: {}",
        d.text
    );
}

#[test]
fn a1_what_was_inserted_is_named() {
    // A record without an entry, between two with an entry.
    let mut tape = busy().clone();
    let (name, at) = chain(&tape);
    for kept in &mut tape.at(at)[9..] {
        kept.offset += 1;
    }

    let mut stranger = tape.at(at)[8].clone();
    stranger.offset += 1;
    tape.at(at).insert(9, stranger);
    let (log, places) = tape.entries(&name);
    for place in places.iter().skip(9) {
        tape.forge(log, *place, |e| e.src_offset += 1);
    }

    tape.rewrite(&name, 9);
    *tape.audited.get_mut(&at).expect("audited") += 1;
    let d = tape.damaged(&[]).damage.expect("damage");
    assert_eq!((d.kind, d.offset), (DamageKind::Inserted, 9), "{}", d.text);

    // A doubled entry; an entry without a record; an entry that continues no earlier entry.
    for (change, want) in [(0, 5), (1, 10_000), (2, 8)] {
        let mut tape = busy().clone();
        let mut copy = tape.at(log)[places[if change == 0 { 5 } else { 7 }]].clone();
        copy.offset = tape.at(log)[places[8]].offset;
        tape.at(log).insert(places[8], copy);
        tape.at(log)
            .iter_mut()
            .enumerate()
            .for_each(|(i, k)| k.offset = i as u64);
        match change {
            1 => tape.forge(log, places[8], |e| {
                (e.prev_hash, e.src_offset) = (e.hash, 10_000)
            }),
            2 => tape.forge(log, places[8], |e| {
                (e.prev_hash, e.src_offset) = ([7; 32], 8)
            }),
            _ => {}
        }

        let bad = tape.damaged(&[]);
        let d = bad.damage.expect("damage");
        assert_eq!(
            (d.kind, d.offset, bad.good.entries),
            (DamageKind::Inserted, want, 8),
            "{change}: {}",
            d.text
        );
    }
}

#[test]
fn a1_a_record_changed_together_with_its_entry_is_named() {
    let mut tape = busy().clone();
    let (name, at) = chain(&tape);
    tape.at(at)[9].value.as_mut().expect("a value")[40] ^= 1;
    let kept = tape.at(at)[9].clone();
    let payload = domain::chain::payload_hash(kept.key.as_deref(), kept.value.as_deref());
    let (log, places) = tape.entries(&name);
    tape.forge(log, places[9], |e| e.payload_hash = payload);
    let bad = tape.damaged(&[]);
    let d = bad.damage.expect("damage");
    assert_eq!(
        (d.kind, d.offset, bad.good.entries),
        (DamageKind::Changed, kept.offset, 9),
        "{}",
        d.text
    );
}

#[test]
fn a1_entries_that_cannot_be_read_or_belong_elsewhere_are_named() {
    let (name, _) = chain(busy());
    let (log, places) = busy().entries(&name);
    let mut tape = busy().clone();
    tape.at(log)[places[9]].value = Some(b"junk".to_vec());
    let bad = tape.damaged(&[]);
    assert_eq!(
        bad.damage.map(|d| (d.kind, d.at)),
        Some((
            DamageKind::Changed,
            Some(busy().partitions[&log][places[9]].offset)
        ))
    );

    let mut tape = busy().clone();
    let other = (0..3)
        .map(|p| TopicPartition::new(t::AUDIT_LOG, p))
        .find(|at| *at != log)
        .expect("another partition");
    let mut copy = tape.at(log)[places[9]].clone();
    copy.offset = tape.at(other).last().expect("entries").offset + 1;
    tape.at(other).push(copy);
    let bad = tape.damaged(&[]);
    assert!(
        bad.name.starts_with("audit-log/")
            && bad.damage.is_some_and(|d| d.kind == DamageKind::Inserted)
    );
}

#[test]
fn a1_an_entry_with_another_time_is_named() {
    let mut tape = busy().clone();
    let (name, _) = chain(&tape);
    let (log, places) = tape.entries(&name);
    tape.forge(log, places[9], |e| e.log_time_ms += 1);
    let bad = tape.damaged(&[]);
    assert_eq!(
        (bad.damage.map(|d| (d.kind, d.offset)), bad.good.entries),
        (Some((DamageKind::Changed, 9)), 9)
    );
}

#[test]
fn a_compacted_source_may_have_gaps_but_no_other_content() {
    let mut tape = busy().clone();
    let at = TopicPartition::new(t::REFERENCE_PRICES, 0);
    assert!(tape.at(at).len() > 4);
    tape.at(at).remove(1);
    assert!(tape.verify(&[]).iter().all(|r| r.damage.is_none()));
    tape.at(at)[1].value.as_mut().expect("a value")[3] ^= 1;
    assert_eq!(
        tape.damaged(&[]).damage.map(|d| (d.kind, d.offset)),
        Some((DamageKind::Changed, 2))
    );
}

fn audited_topic() -> impl Strategy<Value = TopicId> {
    prop::sample::select(
        &[
            t::ORDER_COMMANDS,
            t::MARKET_DATA,
            t::ORDER_EVENTS,
            t::TRADES,
            t::NOTIFICATIONS,
        ][..],
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// For any damage to any record or entry, the first reported record is the damaged one.
    #[test]
    fn a1_random_damage_is_found_where_it_is(
        topic in audited_topic(), p in 0_u32..3, pick in any::<prop::sample::Index>(), byte in any::<prop::sample::Index>(), bit in 0_u8..8, what in 0..6,
    ) {
        let mut tape = busy().clone();
        let at = TopicPartition::new(topic, p);
        let n = tape.at(at).len();
        prop_assume!(n > 2);
        let name = tape.topics.show(at).to_string();
        let i = pick.index(n);
        let offset = tape.at(at)[i].offset;
        let (log, places) = tape.entries(&name);
        let flip = |kept: &mut Kept| {
            let value = kept.value.as_mut().expect("a value");
            let place = byte.index(value.len());
            value[place] ^= 1 << bit;
        };

        let j = (i + 1).min(n - 1);
        let want = match what {
            0 => { flip(&mut tape.at(at)[i]); Some((DamageKind::Changed, offset)) }
            1 => { tape.at(at).remove(i); Some((if i + 1 == n { DamageKind::Truncated } else { DamageKind::Deleted }, offset)) }
            2 => { tape.at(log).remove(places[i]); Some((if i + 1 == n { DamageKind::Truncated } else { DamageKind::Deleted }, offset)) }
            3 if i != j => {
                let kept = tape.at(at);
                let same = kept[i].value == kept[j].value && kept[i].key == kept[j].key;
                swap_content(kept, i, j);
                (!same).then_some((DamageKind::Swapped, offset))
            }
            4 if i != j => { swap_content(tape.at(log), places[i], places[j]); Some((DamageKind::Swapped, tape.partitions[&at][j].offset)) }
            5 => {
                // Any bit of an entry, unless only the encoding of the entry changes.
                flip(&mut tape.at(log)[places[i]]);
                let entry = |tape: &Tape| wire::audit::AuditEntry::decode(tape.partitions[&log][places[i]].value.as_deref().unwrap_or_default())
                    .map(|e| (e.src_topic.to_string(), e.src_partition, e.src_offset, e.log_time_ms, e.payload_hash, e.meta_hash, e.prev_hash, e.hash)).ok();
                let harmless = entry(&tape) == entry(busy());
                let bad = tape.verify(&[]).into_iter().filter(|r| r.damage.is_some()).collect::<Vec<_>>();
                prop_assert_eq!(bad.len(), usize::from(!harmless));
                prop_assert!(bad.iter().all(|r| r.name == name && r.good.entries == i as u64), "{:?}", bad);
                return Ok(());
            }
            _ => None,
        };

        let Some(want) = want else { return Ok(()) };
        let bad = tape.damaged(&[]);
        let d = bad.damage.clone().expect("damage");
        prop_assert_eq!((bad.name.as_str(), d.kind, d.offset), (name.as_str(), want.0, want.1), "{}", d.text);
        prop_assert_eq!(bad.good.entries, i as u64);
    }
}
