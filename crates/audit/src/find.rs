//! Finds all records of an order, a user or a symbol. Adds the causes of the records, the inputs of
//! the decisions, and the proof of the audit log.
//!
//! No index exists. The keys replace an index: each topic has the records of a user in one
//! partition, and the records of a symbol, too. The log finds a time by binary search. Found
//! records are held in memory for sorting, so their number is limited. Other records are read and
//! dropped.

use std::collections::{BTreeMap, BTreeSet};

use ports::partitioner;
use ports::records::{Record, Records};
use ports::topics::{TopicId, TopicPartition, TopicTable};
use ports::{Log, LogError};
use wire::topics as t;

use super::chain_verifier::SourceRecordState;
use super::chains::{self, count};
use super::cursor::{AuditCursor, HeaderUse};
use super::decision_inputs::{self, Inputs};
use super::query_filter::{Query, QueryFilter};

/// Reasons for a missing answer.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    #[error(transparent)]
    Log(#[from] LogError),
    /// More records than the limit, so they cannot be sorted.
    #[error("more than {0} records are asked for: say --from and --to, or raise --limit")]
    TooMany(usize),
}

/// Result of a record's comparison with the audit log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// The audit entry has the record's hash.
    Chained,
    /// The audit entry has another hash: the audited record was changed.
    Differs,
    /// The record has no audit entry (yet).
    Missing,
    /// Internal topics have no audit entries.
    Internal,
}

/// One found record, with the facts about it.
#[derive(Clone, Debug)]
pub struct Hit {
    /// The record is not wanted itself: it is the cause of a wanted record.
    pub context: bool,
    /// Number of causes between this record and the first external record.
    pub depth: u32,
    pub proof: Proof,
    /// Inputs of the decision about the record, if a role decided.
    pub inputs: Option<Inputs>,
}

/// The answer to a query, sorted by log time and cause.
#[derive(Default)]
pub struct Timeline {
    /// The records, unsorted.
    pub records: Records,
    /// Indexes into `records`, sorted, with the facts about each record.
    pub hits: Vec<(usize, Hit)>,
}

impl Timeline {
    /// The records, sorted.
    pub fn iter(&self) -> impl Iterator<Item = (Record<'_>, &Hit)> {
        self.hits.iter().map(|(i, hit)| (self.records.get(*i), hit))
    }
}

/// Records of the roles have the log time of their cause, so log times within a partition may step
/// back. The step is as long as a record waited for processing. Reading continues this far after
/// the end of the range.
const LATE_MS: i64 = 10 * 60 * 1000;

type EntryPlace = (TopicPartition, u64);

struct Search<'a> {
    log: &'a dyn Log,
    topics: &'a TopicTable,
    query: &'a Query,
    wanted: QueryFilter,
    found: Records,
    places: BTreeSet<EntryPlace>,
}

/// Answers a query.
pub fn find(log: &dyn Log, topics: &TopicTable, query: &Query) -> Result<Timeline, FindError> {
    let mut s = Search {
        log,
        topics,
        query,
        wanted: QueryFilter::new(query),
        found: Records::new(),
        places: BTreeSet::new(),
    };

    // Read the commands first: they give the user of an order, and the orders of a symbol.
    s.scan(t::ORDER_COMMANDS)?;

    // A log of an older version may lack this topic; skip the topic then.
    if log.partitions(t::OPERATOR_COMMANDS)?.is_some() {
        s.scan(t::OPERATOR_COMMANDS)?;
    }

    s.wanted.finish_command_pass();
    s.scan(t::ORDER_EVENTS)?;
    for topic in [
        t::BOOK_COMMANDS,
        t::EXECUTIONS,
        t::TRADES,
        t::NOTIFICATIONS,
        t::PORTFOLIOS,
        t::DEAD_LETTERS,
    ] {
        s.scan(topic)?;
    }

    // A log of an older version may lack this topic, too.
    if query.user.is_some() && log.partitions(t::CONTROLS)?.is_some() {
        s.scan(t::CONTROLS)?;
    }

    if query.order.is_none() && query.user.is_none() {
        s.scan(t::INSTRUMENTS)?;
        s.scan(t::REFERENCE_PRICES)?;
        if query.ticks {
            s.scan(t::MARKET_DATA)?;
        }
    }

    let asked = s.found.len();
    s.causes()?;
    let Search { found, .. } = s;
    let inputs = decision_inputs::of(log, topics, &found)?;
    let proofs = proofs(log, topics, &found)?;
    Ok(in_order(topics, found, asked, inputs, &proofs))
}

impl Search<'_> {
    fn scan(&mut self, topic: TopicId) -> Result<(), FindError> {
        let partitions = count(self.log, self.topics, topic)?;
        for p in self.wanted.partitions(topic, partitions) {
            let at = TopicPartition::new(topic, p);
            let from = self.query.from_ms;
            let to = self.query.to_ms;
            let mut cursor = AuditCursor::between(
                self.log,
                at,
                from,
                to.map(|ms| ms.saturating_add(LATE_MS)),
                HeaderUse::Read,
            )?;

            let in_time = |r: &Record<'_>| {
                from.is_none_or(|ms| r.timestamp_ms >= ms)
                    && to.is_none_or(|ms| r.timestamp_ms < ms)
            };

            let mut too_many = false;
            let limit = self.query.limit;
            let wanted = &mut self.wanted;
            let found = &mut self.found;
            let places = &mut self.places;
            cursor.each(&mut |r| {
                if in_time(r) && wanted.matches(r) {
                    found.push(r);
                    places.insert((r.at, r.offset));
                    too_many = found.len() > limit;
                }

                !too_many
            })?;

            if too_many {
                return Err(FindError::TooMany(limit));
            }
        }

        Ok(())
    }

    /// Fetches the causes of the found records, up to the first external records.
    fn causes(&mut self) -> Result<(), FindError> {
        let mut from = 0;
        while from < self.found.len() {
            let causes =
                (from..self.found.len()).filter_map(|i| cause(self.topics, &self.found.get(i)));
            let missing: BTreeSet<EntryPlace> =
                causes.filter(|c| !self.places.contains(c)).collect();
            from = self.found.len();
            let mut by_partition: BTreeMap<TopicPartition, Vec<u64>> = BTreeMap::new();
            missing
                .iter()
                .for_each(|(at, offset)| by_partition.entry(*at).or_default().push(*offset));
            for (at, offsets) in by_partition {
                self.fetch(at, &offsets)?;
            }

            if self.found.len() > self.query.limit.saturating_mul(2) {
                return Err(FindError::TooMany(self.query.limit));
            }
        }

        Ok(())
    }

    /// Fetches single records. A record that compaction removed is skipped.
    fn fetch(&mut self, at: TopicPartition, offsets: &[u64]) -> Result<(), LogError> {
        /// Up to this distance, reading forward costs less than a new cursor.
        const NEAR: u64 = 5_000;
        let mut cursor: Option<(AuditCursor, u64)> = None;
        for offset in offsets {
            let mut c = match cursor.take() {
                Some((c, next)) if *offset >= next && *offset - next <= NEAR => c,
                _ => AuditCursor::range(self.log, at, *offset, u64::MAX, HeaderUse::Read)?,
            };

            while let Some(r) = c.peek()? {
                if r.offset >= *offset {
                    if r.offset == *offset && self.places.insert((at, *offset)) {
                        self.found.push(&r);
                    }

                    break;
                }

                c.skip();
            }

            cursor = Some((c, *offset));
        }

        Ok(())
    }
}

/// The cause of a record.
pub fn cause(topics: &TopicTable, r: &Record<'_>) -> Option<EntryPlace> {
    let mut parts = r.headers.text("src")?.rsplitn(3, '/');
    let offset = parts.next()?.parse().ok()?;
    let partition = parts.next()?.parse().ok()?;
    let topic = parts.next()?;

    // A client may set any header, so only the headers of our own records are trusted.
    let ours = !matches!(
        r.at.topic,
        t::ORDER_COMMANDS | t::OPERATOR_COMMANDS | t::MARKET_DATA | t::INSTRUMENTS | t::CONTROLS
    );
    ours.then_some((TopicPartition::new(topics.find(topic)?, partition), offset))
}

/// Index of the first external record that led to record `i`, and the number of causes in between.
fn first_cause(
    topics: &TopicTable,
    found: &Records,
    places: &BTreeMap<EntryPlace, usize>,
    mut i: usize,
) -> (usize, u32) {
    let mut depth = 0;
    while let Some(up) = cause(topics, &found.get(i)).and_then(|c| places.get(&c)) {
        // A cause is older than its effect, so the loop ends. The bound protects against records
        // that other programs wrote.
        if depth > 64 {
            break;
        }

        (i, depth) = (*up, depth + 1);
    }

    (i, depth)
}

/// Sorts by log time, then by the first external record, then causes before effects.
fn in_order(
    topics: &TopicTable,
    found: Records,
    asked: usize,
    mut inputs: BTreeMap<usize, Inputs>,
    proofs: &[Proof],
) -> Timeline {
    let places: BTreeMap<EntryPlace, usize> = (0..found.len())
        .map(|i| ((found.get(i).at, found.get(i).offset), i))
        .collect();
    let mut order: Vec<_> = (0..found.len())
        .map(|i| {
            let r = found.get(i);
            let (first, depth) = first_cause(topics, &found, &places, i);
            let from = found.get(first);
            let n = r
                .headers
                .text("n")
                .and_then(|n| n.parse::<u32>().ok())
                .unwrap_or(0);
            (
                (
                    from.timestamp_ms.max(r.timestamp_ms),
                    from.at,
                    from.offset,
                    depth,
                    n,
                    r.at,
                    r.offset,
                ),
                i,
                depth,
            )
        })
        .collect();

    order.sort_unstable();
    let hits = order
        .into_iter()
        .map(|(_, i, depth)| {
            (
                i,
                Hit {
                    context: i >= asked,
                    depth,
                    proof: proofs[i],
                    inputs: inputs.remove(&i),
                },
            )
        })
        .collect();

    Timeline {
        records: found,
        hits,
    }
}

/// Compares every audited record with the entry in its chain.
fn proofs(log: &dyn Log, topics: &TopicTable, found: &Records) -> Result<Vec<Proof>, LogError> {
    let mut proofs = vec![Proof::Internal; found.len()];
    let mut open: BTreeMap<TopicPartition, BTreeMap<(String, u64), usize>> = BTreeMap::new();
    let mut earliest: BTreeMap<TopicPartition, i64> = BTreeMap::new();
    let partitions = count(log, topics, t::AUDIT_LOG)?;
    for (i, r) in found
        .iter()
        .enumerate()
        .filter(|(_, r)| t::AUDITED.contains(&r.at.topic))
    {
        let name = topics.show(r.at).to_string();
        let at = TopicPartition::new(
            t::AUDIT_LOG,
            partitioner::partition(name.as_bytes(), partitions),
        );
        proofs[i] = Proof::Missing;
        let since = earliest.entry(at).or_insert(r.timestamp_ms);
        *since = r.timestamp_ms.min(*since);
        open.entry(at).or_default().insert((name, r.offset), i);
    }

    for (at, mut open) in open {
        // Entries have the log time of their records.
        let mut cursor =
            AuditCursor::between(log, at, earliest.get(&at).copied(), None, HeaderUse::Skip)?;
        let names: BTreeSet<String> = open.keys().map(|(name, _)| name.clone()).collect();
        cursor.each(&mut |r| {
            let Some(name) = r
                .key
                .and_then(|k| std::str::from_utf8(k).ok())
                .filter(|k| names.contains(*k))
            else {
                return true;
            };

            if let Ok(link) = chains::read_link(name, r)
                && let Some(i) = open.remove(&(name.to_string(), link.offset))
            {
                let same =
                    chains::here(&found.get(i), &link) == SourceRecordState::Record(link.payload);
                proofs[i] = if same { Proof::Chained } else { Proof::Differs };
            }

            !open.is_empty()
        })?;
    }

    Ok(proofs)
}

/// Name of a record: `topic/partition/offset`.
pub fn name(topics: &TopicTable, r: &Record<'_>) -> String {
    format!("{}/{}", topics.show(r.at), r.offset)
}
