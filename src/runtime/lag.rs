//! Lag of a consumer group.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use client;
use engine::last_meta::fill_absent;
use os::clock::SystemClock;
use ports::records::Records;
use ports::topics::TopicPartition;
use ports::{Limits, Log, LogError, StartOffset};
use roles::Role;
use wire::topics;

/// Below this distance between offset and end, the records are counted one by one: offsets also
/// count transaction markers, and markers are no records.
const COUNTED_BELOW: u64 = 64;
/// Longest silence of a changelog during the read of its end.
const GIVE_UP: Duration = Duration::from_secs(30);
const LIMITS: Limits = Limits {
    records: 1_000,
    bytes: 8 << 20,
    age: Duration::from_secs(1),
};

/// Position and lag of a group in one partition.
#[derive(Debug)]
pub struct Lag {
    pub at: TopicPartition,
    /// Committed offset, if any.
    pub committed: Option<u64>,
    /// End for readers of committed records (last stable offset).
    pub stable_end: u64,
    /// End with open transactions (high watermark).
    pub end: u64,
    /// Records from the committed offset to the end. Behind the stable end, each offset counts as a
    /// record.
    pub records: u64,
    /// Append time of the first record that an open transaction holds back, if known.
    pub held_since_ms: Option<i64>,
}

impl Lag {
    /// Offsets that nobody can read yet, because an open transaction holds them back.
    pub fn held(&self) -> u64 {
        self.end.saturating_sub(self.stable_end)
    }
}

/// Lag of a role's group in every input partition.
pub fn of_role(log: &dyn Log, role: Role, group: &str) -> Result<Vec<Lag>, LogError> {
    let table = topics::table("");
    let mut all = Vec::new();
    let spec = role.spec();
    for topic in spec.inputs.iter().map(|i| i.topic) {
        let at: Vec<_> = (0..client::partitions(log, topic)?)
            .map(|p| TopicPartition::new(topic, p))
            .collect();
        let committed = log.group_offsets(group, &at)?;

        // If the brokers have expired the committed offsets, a start continues from the last meta
        // record. Records below that position are no lag.
        let mut next: Vec<_> = at.iter().copied().zip(committed.iter().copied()).collect();
        fill_absent(
            log,
            &SystemClock::new(),
            &table,
            spec.changelog,
            &mut next,
            GIVE_UP,
        )?;

        let mut found = of_topic(log, &next)?;
        found
            .iter_mut()
            .zip(committed)
            .for_each(|(lag, committed)| lag.committed = committed);

        // In topics of clients, the timestamp of a record is its append time. Records of the roles
        // have the log time of their cause, and the transactions of roles are short.
        for lag in found
            .iter_mut()
            .filter(|lag| lag.held() > 0 && table.spec(topic).append_time)
        {
            lag.held_since_ms = log.held_since_ms(lag.at, lag.stable_end)?;
        }

        all.extend(found);
    }

    Ok(all)
}

/// Lag in some partitions of one topic.
fn of_topic(log: &dyn Log, at: &[(TopicPartition, Option<u64>)]) -> Result<Vec<Lag>, LogError> {
    let mut all = Vec::new();
    let mut close = Vec::new();
    for (at, committed) in at {
        let b = log.bounds(*at)?;
        let next = committed.unwrap_or(b.start).max(b.start);
        let records = b.stable_end.saturating_sub(next);
        if (1..COUNTED_BELOW).contains(&records) {
            close.push((at.partition, StartOffset::Offset(next)));
        }

        all.push(Lag {
            at: *at,
            committed: *committed,
            stable_end: b.stable_end,
            end: b.end,
            records,
            held_since_ms: None,
        });
    }

    let with_held = |mut all: Vec<Lag>| {
        all.iter_mut().for_each(|lag| lag.records += lag.held());
        all
    };

    let Some(topic) = at
        .first()
        .map(|(at, _)| at.topic)
        .filter(|_| !close.is_empty())
    else {
        return Ok(with_held(all));
    };

    let mut counted: BTreeMap<u32, u64> = close.iter().map(|(p, _)| (*p, 0)).collect();
    let ends: BTreeMap<u32, u64> = all
        .iter()
        .map(|lag| (lag.at.partition, lag.stable_end))
        .collect();
    let mut reader = log.reader(topic, &close, false)?;
    let mut batch = Records::new();
    let began = Instant::now();
    while !reader.caught_up() && began.elapsed() < Duration::from_secs(5) {
        batch.clear();
        reader.poll(Duration::from_millis(100), LIMITS, &mut batch)?;
        for r in batch
            .iter()
            .filter(|r| ends.get(&r.at.partition).is_some_and(|end| r.offset < *end))
        {
            counted.entry(r.at.partition).and_modify(|n| *n += 1);
        }
    }

    if reader.caught_up() {
        for lag in &mut all {
            lag.records = counted
                .get(&lag.at.partition)
                .copied()
                .unwrap_or(lag.records);
        }
    }

    Ok(with_held(all))
}
