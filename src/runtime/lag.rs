//! How much a group still has to read.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::client;
use crate::engine::ports::{From, Limits, Log, LogError};
use crate::engine::records::Records;
use crate::engine::topics::TopicPartition;
use crate::roles::Role;

/// An offset may lag behind the end by transaction markers, which are no records. Below this distance the records are counted.
const COUNTED_BELOW: u64 = 64;
const LIMITS: Limits = Limits { records: 1_000, bytes: 8 << 20, age: Duration::from_secs(1) };

/// Where a group is in a partition.
#[derive(Debug)]
pub struct Lag {
    /// The partition.
    pub at: TopicPartition,
    /// Its committed offset, if it has one.
    pub committed: Option<u64>,
    /// The last stable offset.
    pub end: u64,
    /// Records in between.
    pub records: u64,
}

/// The lag of a role's group in every partition of its inputs.
pub fn of_role(log: &dyn Log, role: Role, group: &str) -> Result<Vec<Lag>, LogError> {
    let mut all = Vec::new();
    for topic in role.spec().inputs.iter().map(|i| i.topic) {
        let at: Vec<_> = (0..client::partitions(log, topic)?).map(|p| TopicPartition::new(topic, p)).collect();
        let committed = log.group_offsets(group, &at)?;
        all.extend(of_topic(log, &at, &committed)?);
    }
    Ok(all)
}

/// The lag in each of some partitions of one topic.
fn of_topic(log: &dyn Log, at: &[TopicPartition], committed: &[Option<u64>]) -> Result<Vec<Lag>, LogError> {
    let mut all = Vec::new();
    let mut close = Vec::new();
    for (at, committed) in at.iter().zip(committed) {
        let b = log.bounds(*at)?;
        let next = committed.unwrap_or(b.start).max(b.start);
        let records = b.stable_end.saturating_sub(next);
        if (1..COUNTED_BELOW).contains(&records) {
            close.push((at.partition, From::Offset(next)));
        }
        all.push(Lag { at: *at, committed: *committed, end: b.stable_end, records });
    }
    let Some(topic) = at.first().map(|a| a.topic).filter(|_| !close.is_empty()) else { return Ok(all) };
    let mut counted: BTreeMap<u32, u64> = close.iter().map(|(p, _)| (*p, 0)).collect();
    let ends: BTreeMap<u32, u64> = all.iter().map(|lag| (lag.at.partition, lag.end)).collect();
    let mut reader = log.reader(topic, &close, false)?;
    let mut batch = Records::new();
    let began = Instant::now();
    while !reader.caught_up() && began.elapsed() < Duration::from_secs(5) {
        batch.clear();
        reader.poll(Duration::from_millis(100), LIMITS, &mut batch)?;
        for r in batch.iter().filter(|r| ends.get(&r.at.partition).is_some_and(|end| r.offset < *end)) {
            counted.entry(r.at.partition).and_modify(|n| *n += 1);
        }
    }
    if reader.caught_up() {
        for lag in &mut all {
            lag.records = counted.get(&lag.at.partition).copied().unwrap_or(lag.records);
        }
    }
    Ok(all)
}
