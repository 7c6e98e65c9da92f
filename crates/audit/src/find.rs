//! Everything that happened to an order, a user or a symbol: the records, what caused them, what
//! was decided upon, and whether the audit log vouches for them.
//!
//! There is no index. Keys do most of what one would: a user's records are in one partition of each
//! topic, a symbol's too, and the log finds a time by halving. What is found is held in memory to
//! be put in order, so its number is limited; what is read is not held.

use std::collections::{BTreeMap, BTreeSet};

use super::chain_verifier::Here;
use super::chains::{self, count};
use super::cursor::AuditCursor;
use super::decision_inputs::{self, Inputs};
use super::query_filter::{self, QueryFilter};
use ports::partitioner;
use ports::records::{Record, Records};
use ports::topics::{TopicId, TopicPartition, TopicTable};
use ports::{Log, LogError};
use wire::topics as t;

/// A question to the audit log.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// An order (or transfer) id.
    pub order: Option<String>,
    /// A user.
    pub user: Option<String>,
    /// A symbol.
    pub symbol: Option<String>,
    /// First log time, milliseconds.
    pub from_ms: Option<i64>,
    /// Log time to stop at.
    pub to_ms: Option<i64>,
    /// Most records to hold.
    pub limit: usize,
    /// Whether a symbol's ticks are wanted, too.
    pub ticks: bool,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// The log failed.
    #[error(transparent)]
    Log(#[from] LogError),
    /// Too much to put in order.
    #[error("more than {0} records are asked for: say --from and --to, or raise --limit")]
    TooMany(usize),
}

/// The audit log's word about a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// Its entry has its hash.
    Chained,
    /// Its entry has another hash: it is not the record that was audited.
    Differs,
    /// The record has no entry (yet).
    Missing,
    /// Records of internal topics have none.
    Internal,
}

/// One record, with the facts about it.
#[derive(Clone, Debug)]
pub struct Hit {
    /// Whether it is only here because another record was caused by it.
    pub context: bool,
    /// How many causes are between it and what came from outside.
    pub depth: u32,
    /// The audit log's word about it.
    pub proof: Proof,
    /// The inputs of the decision about it, if a role decided.
    pub inputs: Option<Inputs>,
}

/// An answer: records, and for each of them what is known besides, in the order of time and cause.
#[derive(Default)]
pub struct Timeline {
    /// The records, in no order.
    pub records: Records,
    /// Places in `records`, in order, with what is known.
    pub hits: Vec<(usize, Hit)>,
}

impl Timeline {
    /// The records in order.
    pub fn iter(&self) -> impl Iterator<Item = (Record<'_>, &Hit)> {
        self.hits.iter().map(|(i, hit)| (self.records.get(*i), hit))
    }
}

/// Our records carry the time of their cause, so a partition's times may step back by as long as a
/// record waited on its way. Reading goes on this far behind the end of the range.
const LATE_MS: i64 = 10 * 60 * 1000;

type EntryPlace = (TopicPartition, u64);

/// A search under way.
struct Search<'a> {
    log: &'a dyn Log,
    topics: &'a TopicTable,
    query: &'a Query,
    wanted: QueryFilter,
    found: Records,
    places: BTreeSet<EntryPlace>,
}

/// Searches.
pub fn find(log: &dyn Log, topics: &TopicTable, query: &Query) -> Result<Timeline, FindError> {
    let mut s = Search {
        log,
        topics,
        query,
        wanted: QueryFilter::new(query),
        found: Records::new(),
        places: BTreeSet::new(),
    };

    // Commands first: they say whose the order is, and which orders are of the symbol.
    s.scan(t::ORDER_COMMANDS)?;

    // A log of an older version has no such topic, and is read all the same.
    if log.partitions(t::OPERATOR_COMMANDS)?.is_some() {
        s.scan(t::OPERATOR_COMMANDS)?;
    }

    s.wanted.commands_are_read();
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

    // Nor this one.
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
                true,
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
                if in_time(r) && wanted.is(r) {
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

    /// Fetches what caused the records found, back to what came from outside.
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

    /// Single records; what a compacted topic has dropped is passed over.
    fn fetch(&mut self, at: TopicPartition, offsets: &[u64]) -> Result<(), LogError> {
        /// Reading on costs less than asking anew.
        const NEAR: u64 = 5_000;
        let mut cursor: Option<(AuditCursor, u64)> = None;
        for offset in offsets {
            let mut c = match cursor.take() {
                Some((c, next)) if *offset >= next && *offset - next <= NEAR => c,
                _ => AuditCursor::range(self.log, at, *offset, u64::MAX, true)?,
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

/// The record that a record was caused by.
pub fn cause(topics: &TopicTable, r: &Record<'_>) -> Option<EntryPlace> {
    let mut parts = r.headers.text("src")?.rsplitn(3, '/');
    let offset = parts.next()?.parse().ok()?;
    let partition = parts.next()?.parse().ok()?;
    let topic = parts.next()?;

    // Clients' records may carry any header; only ours name their cause.
    let ours = !matches!(
        r.at.topic,
        t::ORDER_COMMANDS | t::OPERATOR_COMMANDS | t::MARKET_DATA | t::INSTRUMENTS | t::CONTROLS
    );
    ours.then_some((TopicPartition::new(topics.find(topic)?, partition), offset))
}

/// By time; at the same time by what it all came from; then causes before effects.
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
    let root = |mut i: usize| {
        let mut depth = 0;
        while let Some(up) = cause(topics, &found.get(i)).and_then(|c| places.get(&c)) {
            // A cause is older than its effect, so this ends; the bound is for records that others
            // wrote.
            if depth > 64 {
                break;
            }

            (i, depth) = (*up, depth + 1);
        }

        (i, depth)
    };

    let mut order: Vec<_> = (0..found.len())
        .map(|i| {
            let r = found.get(i);
            let (first, depth) = root(i);
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

/// Looks every audited record up in its chain.
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
        // Entries carry the time of their records.
        let mut cursor = AuditCursor::between(log, at, earliest.get(&at).copied(), None, false)?;
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
                let same = chains::here(&found.get(i), &link) == Here::Record(link.payload);
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

pub use query_filter::text_fields;
