//! The promises of the log port, one function each.

use std::time::{SystemTime, UNIX_EPOCH};

use ports::records::{HeaderBuf, Headers, Record, Records};
use ports::topics::{Cleanup, TopicPartition, TopicSpec};
use ports::{Limits, LogError, Polled, StartOffset, Transaction, TransactionOutcome};

use super::{
    CHANGELOG, COUNT, INPUT, OUTPUT, Owned, SECOND, SHORT, SINGLE, SPARE, TABLE, WIDE, World,
    batch, committed_at, end_of, numbered, plain, texts, tp,
};

/// A transaction over several partitions and topics is atomic, and returns the offsets of its
/// records.
pub fn a_transaction_is_all_of_it(w: &World<'_>) {
    let a = tp(INPUT, 0);
    let b = tp(INPUT, 3);
    w.append(a, &numbered("a", 5));
    w.append(b, &numbered("b", 5));
    let mut member = w.running(0);
    let seen = w.take(&mut *member, 10);
    let out = batch(&[
        (tp(OUTPUT, 0), "x"),
        (tp(OUTPUT, 1), "y"),
        (tp(CHANGELOG, 0), "z"),
        (tp(OUTPUT, 0), "x2"),
    ]);
    let offsets = [(a, end_of(&seen, a)), (b, end_of(&seen, b))];
    let appended = committed_at(member.transact(&Transaction {
        outputs: &out,
        offsets: &offsets,
    }));

    let mut read = w.read_all(OUTPUT, &[0, 1, 2, 3]);
    read.extend(w.read_all(CHANGELOG, &[0, 1, 2, 3]));
    let mut values = texts(&read);
    values.sort();
    assert_eq!(values, ["x", "x2", "y", "z"]);
    for at in [tp(OUTPUT, 0), tp(OUTPUT, 1), tp(CHANGELOG, 0)] {
        let last = read
            .iter()
            .filter(|r| r.at == at)
            .map(|r| r.offset)
            .max()
            .expect("a record");
        assert!(
            appended.contains(&(at, last)),
            "{at:?} ended at {last}, the transaction said {appended:?}"
        );
    }

    assert_eq!(appended.len(), 3);
    let asked = [a, b, tp(INPUT, 1)];
    let expected = vec![Some(offsets[0].1), Some(offsets[1].1), None];
    assert_eq!(w.committed(&asked), expected);
    let outside = w.second_handle();
    w.until("the offsets show outside", || {
        (outside.group_offsets(&w.group(), &asked).expect("offsets") == expected).then_some(())
    });

    assert!(!member.suspect(), "nothing odd happened");
}

/// Records of a fenced incarnation never become visible, and do not block later records.
pub fn what_is_not_committed_is_never_seen(w: &World<'_>) {
    let a = tp(INPUT, 0);
    w.append(a, &numbered("a", 3));
    let mut old = w.running(0);
    let seen = w.take(&mut *old, 3);
    let mut new = w.join(&*w.second_handle(), 0, &[INPUT]);
    let out = batch(&[
        (tp(OUTPUT, 0), "ghost"),
        (tp(OUTPUT, 1), "ghost"),
        (tp(CHANGELOG, 0), "ghost"),
    ]);
    let outcome = old.transact(&Transaction {
        outputs: &out,
        offsets: &[(a, end_of(&seen, a))],
    });

    assert!(
        !matches!(outcome, TransactionOutcome::Committed { .. }),
        "a fenced incarnation committed: {outcome:?}"
    );
    let partitions = w.assigned(&mut *new);
    assert_eq!(w.committed(&[a]), [None]);
    w.resume(&mut *new, &partitions);
    let again = w.take(&mut *new, 3);
    assert_eq!(texts(&again), ["a-0", "a-1", "a-2"]);
    let out = batch(&[(tp(OUTPUT, 0), "real"), (tp(CHANGELOG, 0), "real")]);
    committed_at(new.transact(&Transaction {
        outputs: &out,
        offsets: &[(a, end_of(&again, a))],
    }));

    assert_eq!(texts(&w.read_all(OUTPUT, &[0, 1])), ["real"]);
    assert_eq!(texts(&w.read_all(CHANGELOG, &[0])), ["real"]);
    drop(old);
}

/// The second of two incarnations with the same instance name wins. The log refuses all later
/// requests of the first.
pub fn the_newer_incarnation_fences_the_older(w: &World<'_>) {
    let a = tp(INPUT, 0);
    w.append(a, &numbered("a", 1));
    let mut old = w.running(0);
    let first = w.take(&mut *old, 1);
    committed_at(old.transact(&Transaction {
        outputs: &batch(&[(tp(OUTPUT, 0), "before")]),
        offsets: &[(a, end_of(&first, a))],
    }));

    let mut new = w.join(&*w.second_handle(), 0, &[INPUT]);
    assert_eq!(
        w.committed(&[a]),
        [Some(end_of(&first, a))],
        "the predecessor's last transaction is decided when join returns"
    );
    w.append(a, &numbered("b", 1));
    let partitions = w.assigned(&mut *new);
    w.resume(&mut *new, &partitions);
    let second = w.take(&mut *new, 1);
    assert_eq!(texts(&second), ["b-0"]);
    let outcome = old.transact(&Transaction {
        outputs: &batch(&[(tp(OUTPUT, 0), "zombie")]),
        offsets: &[(a, end_of(&second, a))],
    });

    assert!(
        matches!(
            outcome,
            TransactionOutcome::Fenced(_) | TransactionOutcome::NotCommitted(_)
        ),
        "the older one got {outcome:?}"
    );
    let mut records = Records::new();
    w.until("the older one learns that it is fenced", || {
        match old.poll(SHORT, WIDE, &mut records) {
            Err(LogError::Fenced(_)) => Some(()),
            Err(e) => panic!("fenced was due, not: {e}"),
            Ok(Polled::Records) => None,
            Ok(Polled::Revoked { .. }) => Some(()),
            Ok(Polled::Assigned(p)) => panic!("a fenced member was given {p:?}"),
        }
    });

    committed_at(new.transact(&Transaction {
        outputs: &batch(&[(tp(OUTPUT, 0), "after")]),
        offsets: &[(a, end_of(&second, a))],
    }));

    assert_eq!(texts(&w.read_all(OUTPUT, &[0])), ["before", "after"]);
}

/// Every reader gets the records of a partition in the order of their transactions, with rising
/// offsets.
pub fn a_partition_keeps_its_order(w: &World<'_>) {
    let a = tp(INPUT, 1);
    w.append(a, &numbered("a", 40));
    let mut member = w.running(0);
    let seen = w.take(&mut *member, 40);
    assert_eq!(texts(&seen), numbered("a", 40));
    assert!(seen.windows(2).all(|r| r[0].offset < r[1].offset));
    for chunk in seen.chunks(7) {
        let mut out = Records::new();
        for r in chunk {
            let text = r.text();
            out.push(&plain(tp(OUTPUT, 2), &text));
            out.push(&plain(tp(SECOND, 0), &text));
        }

        committed_at(member.transact(&Transaction {
            outputs: &out,
            offsets: &[(a, end_of(chunk, a))],
        }));
    }

    for (topic, partition) in [(OUTPUT, 2), (SECOND, 0)] {
        let read = w.read_all(topic, &[partition]);
        assert_eq!(texts(&read), numbered("a", 40));
        assert!(read.windows(2).all(|r| r[0].offset < r[1].offset));
    }
}

/// A new incarnation continues exactly at the position of the last transaction, also in the middle
/// of a batch that was written at once.
pub fn reading_resumes_in_the_middle(w: &World<'_>) {
    let a = tp(INPUT, 0);
    let b = tp(INPUT, 1);
    w.append(a, &numbered("a", 10));
    w.append(b, &numbered("b", 10));
    let mut member = w.running(0);
    let seen = w.take(&mut *member, 20);
    let of_a: Vec<_> = seen.iter().filter(|r| r.at == a).cloned().collect();
    let offsets = [(a, end_of(&of_a[..4], a)), (b, end_of(&seen, b))];
    committed_at(member.transact(&Transaction {
        outputs: &batch(&[(tp(OUTPUT, 0), "o")]),
        offsets: &offsets,
    }));

    drop(member);
    let mut member = w.running(0);
    let rest = w.take(&mut *member, 6);
    assert_eq!(texts(&rest), numbered("a", 10)[4..]);
    let mut records = Records::new();
    assert_eq!(
        member
            .poll(SHORT, WIDE, &mut records)
            .expect("polling works"),
        Polled::Records
    );
    assert!(records.is_empty(), "nothing else is due");
}

/// A transaction may move offsets without any output.
pub fn a_transaction_may_have_no_output(w: &World<'_>) {
    let a = tp(INPUT, 0);
    w.append(a, &numbered("a", 2));
    let mut member = w.running(0);
    let seen = w.take(&mut *member, 2);
    let appended = committed_at(member.transact(&Transaction {
        outputs: &Records::new(),
        offsets: &[(a, end_of(&seen, a))],
    }));

    assert!(appended.is_empty());
    assert_eq!(w.committed(&[a]), [Some(end_of(&seen, a))]);
}

/// A member receives no records between assignment and resume.
pub fn assigned_partitions_stay_paused(w: &World<'_>) {
    w.append(tp(INPUT, 0), &numbered("a", 3));
    let mut member = w.join(&*w.log, 0, &[INPUT]);
    let partitions = w.assigned(&mut *member);
    assert_eq!(w.committed(&partitions), vec![None; partitions.len()]);
    let mut records = Records::new();
    for _ in 0..5 {
        assert_eq!(
            member
                .poll(SHORT, WIDE, &mut records)
                .expect("polling works"),
            Polled::Records
        );
    }

    assert!(records.is_empty(), "records came before resume");
    w.resume(&mut *member, &partitions);
    assert_eq!(w.take(&mut *member, 3).len(), 3);
}

/// Partition i of every input goes to the same member, in the order of the instance names, each
/// exactly once. A member that leaves gives its partitions back.
pub fn members_share_co_partitioned_inputs(w: &World<'_>) {
    let inputs = [INPUT, SECOND, SINGLE];
    let all = |range: std::ops::Range<u32>| {
        let mut partitions: Vec<_> = range
            .clone()
            .flat_map(|p| [tp(INPUT, p), tp(SECOND, p)])
            .collect();
        partitions.extend(range.filter(|p| *p == 0).map(|p| tp(SINGLE, p)));
        partitions.sort();
        partitions
    };

    let is = |found: &Option<Vec<TopicPartition>>, expected: Vec<TopicPartition>| {
        found.as_ref().is_some_and(|found| {
            let mut found = found.clone();
            found.sort();
            found == expected
        })
    };

    // Instance 10 joins first but sorts after instance 2: the order is numeric.
    let mut ten = w.join(&*w.log, 10, &inputs);
    w.settle("the first has everything", &mut [&mut ten], |now| {
        is(&now[0], all(0..COUNT))
    });

    let second_handle = w.second_handle();
    let mut two = w.join(&*second_handle, 2, &inputs);
    w.settle("both have their half", &mut [&mut two, &mut ten], |now| {
        is(&now[0], all(0..2)) && is(&now[1], all(2..COUNT))
    });

    drop(ten);
    w.settle(
        "the one that stays has everything",
        &mut [&mut two],
        |now| is(&now[0], all(0..COUNT)),
    );
}

/// After its partitions were revoked, a member cannot commit its earlier reads.
pub fn a_stale_generation_cannot_commit(w: &World<'_>) {
    let a = tp(INPUT, 0);
    w.append(a, &numbered("a", 3));
    let mut old = w.running(0);
    let seen = w.take(&mut *old, 3);
    let second_handle = w.second_handle();
    let mut other = w.join(&*second_handle, 1, &[INPUT]);
    let mut records = Records::new();
    w.until("the first member's partitions are revoked", || {
        let polled = old.poll(SHORT, WIDE, &mut records).expect("polling works");
        if matches!(polled, Polled::Revoked { .. }) {
            return Some(());
        }

        other
            .poll(SHORT, WIDE, &mut records)
            .expect("polling works");
        None
    });

    let outcome = old.transact(&Transaction {
        outputs: &batch(&[(tp(OUTPUT, 0), "stale")]),
        offsets: &[(a, end_of(&seen, a))],
    });

    assert!(
        !matches!(outcome, TransactionOutcome::Committed { .. }),
        "a stale generation committed: {outcome:?}"
    );
    assert_eq!(w.committed(&[a]), [None]);
    assert!(w.read_all(OUTPUT, &[0]).is_empty());
}

/// A changelog is read from an offset up to the stable end at that time. Empty partitions and
/// aborted tails do not block the reader.
pub fn a_changelog_is_restored_from_an_offset(w: &World<'_>) {
    assert!(
        w.read_all(CHANGELOG, &[0, 1]).is_empty(),
        "an empty partition is caught up"
    );
    let a = tp(INPUT, 0);
    let log = tp(CHANGELOG, 2);
    w.append(a, &numbered("a", 6));
    let mut member = w.running(0);
    let seen = w.take(&mut *member, 6);
    let mut ends = Vec::new();
    for (i, r) in seen.iter().enumerate() {
        let key = format!("k{i}");
        let meta = format!("meta-{i}");
        let out = batch(&[(log, &key), (log, &meta)]);
        let appended = committed_at(member.transact(&Transaction {
            outputs: &out,
            offsets: &[(a, r.offset + 1)],
        }));

        ends.push(appended[0].1);
    }

    let newer = w.join(&*w.second_handle(), 0, &[INPUT]);
    let ghost = member.transact(&Transaction {
        outputs: &batch(&[(log, "ghost")]),
        offsets: &[(a, end_of(&seen, a))],
    });

    assert!(!matches!(ghost, TransactionOutcome::Committed { .. }));
    let all = w.read_all(CHANGELOG, &[2]);
    assert_eq!(all.len(), 12, "{:?}", texts(&all));
    let mut reader = w
        .log
        .reader(
            CHANGELOG,
            &[
                (2, StartOffset::Offset(ends[2] + 1)),
                (3, StartOffset::Start),
            ],
            true,
        )
        .expect("a reader");

    let tail = w.drain(&mut *reader);
    assert_eq!(
        texts(&tail),
        ["k3", "meta-3", "k4", "meta-4", "k5", "meta-5"]
    );
    assert_eq!(tail.last().expect("records").offset, ends[5]);
    let end = w.log.bounds(log).expect("bounds").stable_end;
    let mut reader = w
        .log
        .reader(CHANGELOG, &[(2, StartOffset::Offset(end))], true)
        .expect("a reader at the end");
    assert!(w.drain(&mut *reader).is_empty());
    drop(newer);
}

/// A reader reads a one-partition table from the start, then follows it live.
pub fn a_broadcast_table_is_read_and_followed(w: &World<'_>) {
    let at = tp(TABLE, 0);
    w.append(at, &numbered("row", 20));
    let mut reader = w
        .log
        .reader(TABLE, &[(0, StartOffset::Start)], false)
        .expect("a reader");
    assert_eq!(texts(&w.drain(&mut *reader)), numbered("row", 20));
    for round in 0..3 {
        w.append(at, &[format!("live-{round}")]);
        let mut records = Records::new();
        let mut got = Vec::new();
        w.until("the row arrives", || {
            records.clear();
            reader
                .poll(SHORT, WIDE, &mut records)
                .expect("reading works");
            got.extend(records.iter().map(|r| Owned::of(&r)));
            (!got.is_empty()).then_some(())
        });

        assert_eq!(texts(&got), [format!("live-{round}")]);
    }

    assert!(reader.caught_up());
}

/// A reader from the end sees only later records.
pub fn a_reader_can_begin_at_the_end(w: &World<'_>) {
    let at = tp(INPUT, 2);
    w.append(at, &numbered("old", 3));
    let mut reader = w
        .log
        .reader(INPUT, &[(2, StartOffset::End)], false)
        .expect("a reader");
    assert!(w.drain(&mut *reader).is_empty());
    w.append(at, &numbered("new", 2));
    let mut records = Records::new();
    let mut got = Vec::new();
    w.until("the new records arrive", || {
        records.clear();
        reader
            .poll(SHORT, WIDE, &mut records)
            .expect("reading works");
        got.extend(records.iter().map(|r| Owned::of(&r)));
        (got.len() >= 2).then_some(())
    });

    assert_eq!(texts(&got), ["new-0", "new-1"]);
}

/// Bounds enclose the records. A time finds the first record at or after this time.
pub fn bounds_and_times_find_records(w: &World<'_>) {
    let a = tp(INPUT, 0);
    let at = tp(OUTPUT, 1);
    let empty = w.log.bounds(at).expect("bounds");
    assert_eq!((empty.start, empty.stable_end), (empty.end, empty.end));
    assert_eq!(w.log.offset_at(at, 0).expect("offset"), empty.end);
    w.append(a, &numbered("a", 3));
    let mut member = w.running(0);
    let seen = w.take(&mut *member, 3);
    for (i, r) in seen.iter().enumerate() {
        let mut out = Records::new();
        out.push(&Record {
            timestamp_ms: 1_000_000 + 1_000 * i as i64,
            ..plain(at, "v")
        });

        committed_at(member.transact(&Transaction {
            outputs: &out,
            offsets: &[(a, r.offset + 1)],
        }));
    }

    let read = w.read_all(OUTPUT, &[1]);
    let bounds = w.log.bounds(at).expect("bounds");
    assert!(
        bounds.start <= read[0].offset
            && read[2].offset < bounds.stable_end
            && bounds.stable_end <= bounds.end
    );
    for (time, expected) in [
        (0, 0),
        (1_000_000, 0),
        (1_000_001, 1),
        (1_001_000, 1),
        (1_002_000, 2),
    ] {
        // A log may have internal entries between the records. The test compares the first record
        // read from the offset, not the offset.
        let found = w.log.offset_at(at, time).expect("offset");
        assert_eq!(
            read.iter().position(|r| r.offset >= found),
            Some(expected),
            "at time {time}"
        );
    }

    assert!(w.log.offset_at(at, 1_002_001).expect("offset") > read[2].offset);
}

/// Keys, values and headers are read back unchanged. Absent and empty are different.
pub fn every_part_of_a_record_comes_back(w: &World<'_>) {
    let a = tp(INPUT, 0);
    let at = tp(OUTPUT, 0);
    let mut headers = HeaderBuf::default();
    headers
        .push("type", b"OrderPending")
        .push("empty", b"")
        .push("bytes", &[0, 255, 128])
        .push("type", b"again");
    let headers = headers.headers();
    type Parts<'a> = (Option<&'a [u8]>, Option<&'a [u8]>, Headers<'a>);
    let parts: [Parts<'_>; 5] = [
        (Some(b"k"), Some(b"v"), headers),
        (None, Some(b"no key"), Headers::default()),
        (Some(b"no value"), None, headers),
        (Some(b"empty value"), Some(b""), Headers::default()),
        (Some(b""), Some(&[7; 70_000]), headers),
    ];

    let record = |at, (key, value, headers)| Record {
        at,
        offset: 0,
        timestamp_ms: 5,
        key,
        value,
        headers,
    };

    let mut appender = w.log.appender().expect("a client can write");
    for part in parts {
        appender.append(&record(a, part)).expect("appending works");
    }

    appender
        .flush(w.cluster.patience())
        .expect("flushing works");
    let mut member = w.running(0);
    let seen = w.take(&mut *member, parts.len());
    let mut out = Records::new();
    for part in parts {
        out.push(&record(at, part));
    }

    committed_at(member.transact(&Transaction {
        outputs: &out,
        offsets: &[(a, end_of(&seen, a))],
    }));

    let read = w.read_all(OUTPUT, &[0]);
    for found in [&seen, &read] {
        assert_eq!(found.len(), parts.len());
        for (found, part) in found.iter().zip(parts) {
            let expected = Owned::of(&record(found.at, part));
            assert_eq!(
                (&found.key, &found.value, &found.headers),
                (&expected.key, &expected.value, &expected.headers)
            );
        }
    }
}

/// A poll respects its limits and loses no records. Every partition gets its turn.
pub fn a_poll_respects_its_limits(w: &World<'_>) {
    for partition in 0..COUNT {
        w.append(
            tp(INPUT, partition),
            &numbered(&format!("p{partition}"), 50),
        );
    }

    let mut member = w.running(0);
    let mut records = Records::new();
    let mut all = Vec::new();
    let few = Limits { records: 7, ..WIDE };
    let small = Limits { bytes: 40, ..WIDE };
    let mut turn = 0;
    w.until("all records arrive", || {
        records.clear();
        turn += 1;
        let limits = if turn % 2 == 0 { few } else { small };
        assert_eq!(
            member
                .poll(SHORT, limits, &mut records)
                .expect("polling works"),
            Polled::Records
        );
        assert!(records.len() <= limits.records);
        let largest = records
            .iter()
            .map(|r| r.key.map_or(0, <[u8]>::len) + r.value.map_or(0, <[u8]>::len))
            .max()
            .unwrap_or(0);
        assert!(
            records.size_bytes() <= limits.bytes + largest,
            "{} bytes in one poll",
            records.size_bytes()
        );
        all.extend(records.iter().map(|r| Owned::of(&r)));
        (all.len() >= 50 * COUNT as usize).then_some(())
    });

    for partition in 0..COUNT {
        let of: Vec<_> = all
            .iter()
            .filter(|r| r.at.partition == partition)
            .cloned()
            .collect();
        assert_eq!(texts(&of), numbered(&format!("p{partition}"), 50));
    }
}

/// The log stamps records of clients, and keeps the times of our own records.
pub fn times_are_stamped_or_kept(w: &World<'_>) {
    let a = tp(INPUT, 0);
    let before = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970")
        .as_millis() as i64;
    w.append(a, &numbered("a", 3));
    let mut member = w.running(0);
    let seen = w.take(&mut *member, 3);
    let after = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970")
        .as_millis() as i64;
    for r in &seen {
        assert!(
            (before - 1..=after + 1).contains(&r.timestamp_ms),
            "{} is not between {before} and {after}",
            r.timestamp_ms
        );
    }

    assert!(
        seen.windows(2)
            .all(|r| r[0].timestamp_ms <= r[1].timestamp_ms)
    );
    let mut out = Records::new();
    for time in [7_000, 5_000, 9_000] {
        out.push(&Record {
            timestamp_ms: time,
            ..plain(tp(OUTPUT, 0), "v")
        });
    }

    committed_at(member.transact(&Transaction {
        outputs: &out,
        offsets: &[(a, end_of(&seen, a))],
    }));

    let times: Vec<_> = w
        .read_all(OUTPUT, &[0])
        .iter()
        .map(|r| r.timestamp_ms)
        .collect();
    assert_eq!(times, [7_000, 5_000, 9_000]);
}

/// Creating a topic again is accepted if the partition count is the same. Another count is refused,
/// and the error names both counts.
pub fn topics_are_made_once(w: &World<'_>) {
    assert_eq!(w.log.partitions(SPARE).expect("an answer"), None);
    let spec = w.table.spec(SPARE).clone();
    assert_eq!(w.log.describe_topic(SPARE, &spec).expect("an answer"), None);
    w.log.create_topic(SPARE, &spec, 5).expect("it is made");
    let other = w.second_handle();
    w.until("the topic shows everywhere", || {
        (other.partitions(SPARE).expect("an answer") == Some(5)).then_some(())
    });

    other
        .create_topic(SPARE, &spec, 5)
        .expect("the same again is fine");
    let refused = other
        .create_topic(SPARE, &spec, 7)
        .expect_err("another count is refused");
    let text = refused.to_string();
    assert!(
        matches!(refused, LogError::Invalid(_)) && text.contains('5') && text.contains('7'),
        "{text}"
    );
    let state = other
        .describe_topic(SPARE, &spec)
        .expect("an answer")
        .expect("it exists");
    assert_eq!((state.partitions, state.mismatches), (5, vec![]));
    let compacted = TopicSpec {
        cleanup: Cleanup::Compact,
        ..spec
    };

    let state = other
        .describe_topic(SPARE, &compacted)
        .expect("an answer")
        .expect("it exists");
    assert!(!state.mismatches.is_empty(), "the clean-up differs");
}

/// All handles return the same cluster id.
pub fn the_cluster_has_one_identity(w: &World<'_>) {
    let id = w.log.cluster_id().expect("an identity");
    assert!(!id.is_empty());
    assert_eq!(w.second_handle().cluster_id().expect("an identity"), id);
}

/// A group cannot join without its topics; the error names the missing topic.
pub fn joining_needs_the_topics(w: &World<'_>) {
    let refused = w
        .log
        .join(&w.spec(0, &[INPUT, SPARE]))
        .err()
        .expect("the topic does not exist");
    assert!(matches!(refused, LogError::Invalid(_)), "{refused}");
    assert!(
        refused.to_string().contains(w.table.name(SPARE)),
        "{refused}"
    );
}
