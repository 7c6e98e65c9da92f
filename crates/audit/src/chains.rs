//! Verifies all chains of an installation, as a stream: each partition of the audit log, together
//! with the source partitions of its chains.
//!
//! Reads only, and may run beside the roles. Records that arrive during a run are left to the next
//! run. Memory grows with the number of chains only.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use domain::chain;
use engine::last_meta::fill_absent;
use os::clock::SystemClock;
use ports::partitioner;
use ports::records::Record;
use ports::topics::{Cleanup, TopicPartition, TopicTable};
use ports::{Log, LogError};
use wire::audit::AuditEntry;
use wire::topics::{AUDIT_CHANGELOG, AUDIT_LOG, AUDITED};

use super::anchor::{Anchor, ChainHead};
use super::chain_verifier::{
    ChainCheckpoint, ChainVerifier, Link, SourceRecordState, VerifiedPrefix,
};
use super::cursor::{AuditCursor, HeaderUse};
use super::damage::{Damage, DamageKind};

/// `SETTLE_TRIES` x `SETTLE_WAIT` is longer than any open transaction of the roles.
const SETTLE_TRIES: u32 = 300;
const SETTLE_WAIT: Duration = Duration::from_millis(100);
/// Longest silence of the changelog during the read of its end.
const GIVE_UP: Duration = Duration::from_secs(30);

/// The result for one chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainReport {
    /// `topic/partition` of the source, prefix included.
    pub name: String,
    /// Partition of the audit log with the entries of this chain.
    pub kept_in: TopicPartition,
    /// Good prefix of the chain.
    pub good: VerifiedPrefix,
    /// The first bad record, if there is one.
    pub damage: Option<Damage>,
}

/// Parameters of a verification of all chains.
pub struct Chains<'a> {
    pub log: &'a dyn Log,
    pub topics: &'a TopicTable,
    /// Consumer group of the audit role. Every record below a committed offset of this group must
    /// have an entry.
    pub group: &'a str,
    /// Compare the entries with the source records. If false, verify the links only.
    pub sources: bool,
    /// Anchors that were kept outside the log.
    pub anchors: &'a [Anchor],
}

/// A chain during verification.
struct ChainWithSource {
    source: Option<AuditCursor>,
    walker: ChainVerifier,
    cleanup: Cleanup,
    /// Committed offset of the audit role, fetched before any entry was read.
    audited: Option<u64>,
    at: TopicPartition,
}

/// Names and sources of all possible chains, in the order of the topics.
pub fn names(
    log: &dyn Log,
    topics: &TopicTable,
) -> Result<Vec<(String, TopicPartition)>, LogError> {
    let mut all = Vec::new();
    for topic in AUDITED {
        for p in 0..count(log, topics, topic)? {
            let at = TopicPartition::new(topic, p);
            all.push((topics.show(at).to_string(), at));
        }
    }

    Ok(all)
}

/// Number of partitions of a topic. A missing topic is an error.
pub fn count(
    log: &dyn Log,
    topics: &TopicTable,
    topic: ports::topics::TopicId,
) -> Result<u32, LogError> {
    log.partitions(topic)?.filter(|n| *n > 0).ok_or_else(|| {
        LogError::Invalid(format!(
            "topic {} does not exist; run `processor topics create` first",
            topics.name(topic)
        ))
    })
}

impl Chains<'_> {
    /// Approximate number of entries to read. The number includes transaction markers.
    pub fn total(&self) -> Result<u64, LogError> {
        let mut total = 0;
        for p in 0..count(self.log, self.topics, AUDIT_LOG)? {
            let bounds = self.log.bounds(TopicPartition::new(AUDIT_LOG, p))?;
            total += bounds.stable_end.saturating_sub(bounds.start);
        }

        Ok(total)
    }

    /// Verifies every chain. `progress` receives the number of entries read. The reports are in the
    /// order of the topics. Chains without entries are left out if no record needs an entry. A
    /// chain in an anchor is never left out: if its partition no longer exists, the report says
    /// that the chain is truncated at its start.
    pub fn verify(&self, progress: &mut dyn FnMut(u64)) -> Result<Vec<ChainReport>, LogError> {
        Ok(self.verify_after(None, progress)?.0)
    }

    /// Like [`Chains::verify`], but starts after the heads of `start` if the log still has those
    /// heads at their positions. Otherwise starts at the beginning. Also returns the offset up to
    /// which each partition of the audit log was read.
    pub fn verify_after(
        &self,
        start: Option<&Anchor>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(Vec<ChainReport>, Vec<u64>), LogError> {
        let start = match start {
            Some(anchor) if self.continues(anchor)? => Some(anchor),
            _ => None,
        };

        let partitions = count(self.log, self.topics, AUDIT_LOG)?;
        let all = names(self.log, self.topics)?;

        // Fetch the committed offsets before the entries: all records below them must have entries.
        let audited = self.audited(&all, partitions)?;
        let mut verification = Verification {
            chains: self,
            start,
            all: &all,
            partitions,
            audited,
            reports: BTreeMap::new(),
            strangers: Vec::new(),
            done: 0,
        };

        let positions = (0..partitions)
            .map(|p| verification.partition(p, progress))
            .collect::<Result<Vec<_>, LogError>>()?;
        progress(verification.done);
        let Verification {
            reports,
            mut strangers,
            ..
        } = verification;
        let mut reports: Vec<_> = reports.into_values().collect();
        reports.extend(self.vanished(&all, partitions));
        strangers.sort_by(|a, b| a.name.cmp(&b.name));
        strangers.dedup_by(|a, b| a.name == b.name);
        reports.extend(strangers);
        Ok((reports, positions))
    }

    /// Committed offsets of the audit role. Empty if the committed entries cannot be read in time:
    /// the ends of the chains are then not judged.
    fn audited(
        &self,
        all: &[(String, TopicPartition)],
        partitions: u32,
    ) -> Result<BTreeMap<TopicPartition, u64>, LogError> {
        let places: Vec<TopicPartition> = all.iter().map(|(_, at)| *at).collect();
        let mut offsets: Vec<_> = places
            .iter()
            .copied()
            .zip(self.log.group_offsets(self.group, &places)?)
            .collect();
        fill_absent(
            self.log,
            &SystemClock::new(),
            self.topics,
            AUDIT_CHANGELOG,
            &mut offsets,
            GIVE_UP,
        )?;

        if !self.settled(partitions)? {
            return Ok(BTreeMap::new());
        }

        Ok(offsets
            .into_iter()
            .filter_map(|(at, offset)| Some((at, offset?)))
            .collect())
    }

    /// Checks that the last entry before each of the anchor's positions is a head of the anchor.
    /// The hash of that entry binds all earlier entries of its chain. The next entries of the other
    /// chains in the partition verify those chains.
    fn continues(&self, anchor: &Anchor) -> Result<bool, LogError> {
        if anchor.positions.len() != count(self.log, self.topics, AUDIT_LOG)? as usize {
            return Ok(false);
        }

        for (p, position) in (0..)
            .zip(&anchor.positions)
            .filter(|(_, position)| **position > 0)
        {
            let mut last = AuditCursor::range(
                self.log,
                TopicPartition::new(AUDIT_LOG, p),
                position - 1,
                *position,
                HeaderUse::Skip,
            )?;

            let Some(r) = last.peek()?.filter(|r| r.offset == position - 1) else {
                return Ok(false);
            };

            let name = r
                .key
                .and_then(|k| std::str::from_utf8(k).ok())
                .unwrap_or_default();
            let is_head = |link: &Link| {
                anchor
                    .heads
                    .iter()
                    .any(|h| h.chain == name && h.offset == link.offset && h.hash == link.hash)
            };

            if !read_link(name, &r).is_ok_and(|link| is_head(&link)) {
                return Ok(false);
            }
        }

        Ok(true)
    }

    /// Reports chains that anchors recorded, but whose partitions do not exist.
    fn vanished(&self, all: &[(String, TopicPartition)], partitions: u32) -> Vec<ChainReport> {
        let seen: BTreeSet<&str> = self
            .anchors
            .iter()
            .flat_map(|a| &a.heads)
            .map(|h| h.chain.as_str())
            .collect();
        let gone = seen
            .into_iter()
            .filter(|name| !all.iter().any(|(n, _)| n == name));
        gone.map(|name| {
            let (good, damage) = ChainVerifier::new(name, self.checkpoints(name)).end(None);
            let text = |d: Damage| Damage {
                text: format!("{}; there is no such partition", d.text),
                ..d
            };

            let kept_in = TopicPartition::new(
                AUDIT_LOG,
                partitioner::partition(name.as_bytes(), partitions),
            );
            ChainReport {
                name: name.to_string(),
                kept_in,
                good,
                damage: damage.map(text),
            }
        })
        .collect()
    }

    /// Waits until the committed entries can be read. A broker may show committed offsets shortly
    /// before the entries of the same transaction. The entries are already in the log, so readers
    /// see them when the stable offset reaches the present end. Returns false on timeout.
    fn settled(&self, partitions: u32) -> Result<bool, LogError> {
        let places: Vec<_> = (0..partitions)
            .map(|p| TopicPartition::new(AUDIT_LOG, p))
            .collect();
        let ends = places
            .iter()
            .map(|at| Ok(self.log.bounds(*at)?.end))
            .collect::<Result<Vec<_>, LogError>>()?;
        for _ in 0..SETTLE_TRIES {
            let mut behind = false;
            for (at, end) in places.iter().zip(&ends) {
                behind |= self.log.bounds(*at)?.stable_end < *end;
            }

            if !behind {
                return Ok(true);
            }

            std::thread::sleep(SETTLE_WAIT);
        }

        Ok(false)
    }

    /// The anchors' checkpoints of a chain, sorted by offset.
    fn checkpoints(&self, name: &str) -> Vec<ChainCheckpoint> {
        checkpoints(self.anchors, name)
    }
}

/// A verification on its way through the partitions of the audit log.
struct Verification<'a> {
    chains: &'a Chains<'a>,
    /// The anchor whose heads the verification starts after.
    start: Option<&'a Anchor>,
    /// Names and sources of all possible chains.
    all: &'a [(String, TopicPartition)],
    /// Number of partitions of the audit log.
    partitions: u32,
    /// Committed offsets of the audit role, fetched before any entry was read.
    audited: BTreeMap<TopicPartition, u64>,
    reports: BTreeMap<TopicPartition, ChainReport>,
    /// Entries whose chain is not kept in their partition.
    strangers: Vec<ChainReport>,
    /// Number of entries read.
    done: u64,
}

impl Verification<'_> {
    /// Verifies the chains of one partition of the audit log. Returns the offset up to which the
    /// partition was read.
    fn partition(&mut self, p: u32, progress: &mut dyn FnMut(u64)) -> Result<u64, LogError> {
        let kept_in = TopicPartition::new(AUDIT_LOG, p);
        let mut position = self.start.map_or(0, |anchor| anchor.positions[p as usize]);
        let mut entries = AuditCursor::range(
            self.chains.log,
            kept_in,
            position,
            u64::MAX,
            HeaderUse::Skip,
        )?;

        // Open the sources after the end of the entries is fixed: the record of each entry is then
        // present.
        let mut chains = self.open_chains(p)?;
        while let Some(r) = entries.peek()? {
            let key = r
                .key
                .and_then(|k| std::str::from_utf8(k).ok())
                .unwrap_or_default();
            match chains.get_mut(key) {
                Some(chain) => chain.entry(&r)?,
                None => self.strangers.push(stranger(self.chains.topics, &r)),
            }

            position = r.offset + 1;
            entries.skip();
            self.done += 1;
            if self.done.is_multiple_of(1024) {
                progress(self.done);
            }
        }

        for (name, chain) in chains {
            let at = chain.at;
            let (good, damage) = chain.end()?;
            if good.entries > 0 || damage.is_some() {
                let report = ChainReport {
                    name,
                    kept_in,
                    good,
                    damage,
                };

                self.reports.insert(at, report);
            }
        }

        Ok(position)
    }

    /// The chains of one partition of the audit log, by name.
    fn open_chains(&self, p: u32) -> Result<BTreeMap<String, ChainWithSource>, LogError> {
        let mine = self
            .all
            .iter()
            .filter(|(name, _)| partitioner::partition(name.as_bytes(), self.partitions) == p);
        mine.map(|(name, at)| Ok((name.clone(), self.open_chain(name, *at)?)))
            .collect()
    }

    fn open_chain(&self, name: &str, at: TopicPartition) -> Result<ChainWithSource, LogError> {
        let source = if self.chains.sources {
            Some(AuditCursor::whole(self.chains.log, at, HeaderUse::Read)?)
        } else {
            None
        };

        let checkpoints = self.chains.checkpoints(name);
        let head = self
            .start
            .and_then(|anchor| anchor.heads.iter().find(|h| h.chain == name));
        let walker = match head {
            None => ChainVerifier::new(name, checkpoints),
            Some(h) => {
                let good = VerifiedPrefix {
                    entries: h.entries,
                    last: Some(h.offset),
                    head: h.hash,
                };

                ChainVerifier::resuming(name, good, checkpoints)
            }
        };

        Ok(ChainWithSource {
            source,
            walker,
            cleanup: self.chains.topics.spec(at.topic).cleanup,
            audited: self.audited.get(&at).copied(),
            at,
        })
    }
}

/// The checkpoints of a chain from `anchors`, sorted by offset.
pub fn checkpoints(anchors: &[Anchor], name: &str) -> Vec<ChainCheckpoint> {
    let of = |a: &Anchor| {
        let head = a.heads.iter().find(|h| h.chain == name)?;
        let label = format!("the anchor of {}", a.time);
        Some(ChainCheckpoint {
            entries: Some(head.entries),
            offset: head.offset,
            hash: head.hash,
            label,
        })
    };

    let mut all: Vec<_> = anchors.iter().filter_map(of).collect();
    all.sort_by_key(|c| c.offset);
    all
}

/// The heads of the good chains, for a new anchor.
pub fn heads(reports: &[ChainReport]) -> Vec<ChainHead> {
    let head = |r: &ChainReport| {
        Some(ChainHead {
            chain: r.name.clone(),
            entries: r.good.entries,
            offset: r.good.last?,
            hash: r.good.head,
        })
    };

    reports.iter().filter_map(head).collect()
}

/// Decodes an entry as a link of `chain`. The error gives the reason if the record is no valid
/// entry.
pub fn read_link(chain: &str, r: &Record<'_>) -> Result<Link, String> {
    let e = AuditEntry::decode(r.value.unwrap_or_default()).map_err(str::to_string)?;
    let named = format!("{}/{}", e.src_topic, e.src_partition);
    if named != chain {
        return Err(format!("it says that it is of {named}"));
    }

    Ok(Link {
        at: r.offset,
        offset: e.src_offset,
        payload: e.payload_hash,
        meta: e.meta_hash,
        prev: e.prev_hash,
        hash: e.hash,
        time_ms: e.log_time_ms,
    })
}

fn stranger(topics: &TopicTable, r: &Record<'_>) -> ChainReport {
    let key = r.key.map(String::from_utf8_lossy).unwrap_or_default();
    let name = format!("{} ({key})", topics.show(r.at));
    let text = format!("an entry under the key `{key}`, whose chain is not kept in this partition");
    let damage = Damage {
        kind: DamageKind::Inserted,
        offset: 0,
        at: Some(r.offset),
        text,
    };

    ChainReport {
        name,
        kept_in: r.at,
        good: VerifiedPrefix::default(),
        damage: Some(damage),
    }
}

impl ChainWithSource {
    fn entry(&mut self, r: &Record<'_>) -> Result<(), LogError> {
        let e = match read_link(self.walker.name(), r) {
            Ok(e) => e,
            Err(why) => {
                self.walker.unreadable(r.offset, &why);
                return Ok(());
            }
        };

        let (gap, here) = match &mut self.source {
            None => (None, SourceRecordState::Unknown),
            Some(source) => beside(source, &e, self.walker.good().last, self.cleanup)?,
        };

        self.walker.link(&e, gap, here);
        Ok(())
    }

    /// Every record below the committed offset of the audit role must have an entry.
    fn end(mut self) -> Result<(VerifiedPrefix, Option<Damage>), LogError> {
        let mut missing = None;
        let last = self.walker.good().last;
        if let (Some(source), Some(audited), true) =
            (&mut self.source, self.audited, self.walker.is_good())
        {
            while let Some(r) = source.peek()? {
                if last.is_none_or(|last| r.offset > last) {
                    missing = Some(r.offset).filter(|o| *o < audited);
                    break;
                }

                source.skip();
            }
        }

        // Without the source, this function cannot find a record without an entry. The role
        // committed its offset in the same transaction as the entries below it.
        Ok(self.walker.end(missing))
    }
}

/// Moves `source` to the entry's record. Returns the offset of a skipped record without an entry,
/// and the content at the entry's offset.
pub fn beside(
    source: &mut AuditCursor,
    e: &Link,
    last: Option<u64>,
    cleanup: Cleanup,
) -> Result<(Option<u64>, SourceRecordState), LogError> {
    let mut gap = None;
    while let Some(r) = source.peek()? {
        if r.offset > e.offset {
            return Ok((
                gap,
                absent(cleanup, SourceRecordState::Missing { more: true }),
            ));
        }

        if r.offset == e.offset {
            let here = here(&r, e);
            source.skip();
            return Ok((gap, here));
        }

        if last.is_none_or(|last| r.offset > last) {
            gap.get_or_insert(r.offset);
        }

        source.skip();
    }

    Ok((
        gap,
        absent(cleanup, SourceRecordState::Missing { more: false }),
    ))
}

/// Compares a record with the entry of its offset. The source must be read with headers.
pub fn here(r: &Record<'_>, e: &Link) -> SourceRecordState {
    let payload = chain::payload_hash(r.key, r.value);
    let meta = || {
        chain::meta_hash(
            r.timestamp_ms,
            r.key.is_some(),
            r.value.is_some(),
            r.headers.iter(),
        )
    };

    match () {
        () if payload != e.payload => SourceRecordState::Record(payload),
        () if r.timestamp_ms != e.time_ms => SourceRecordState::Time(r.timestamp_ms),
        () if e.meta.is_some_and(|bound| bound != meta()) => SourceRecordState::Headers,
        () => SourceRecordState::Record(payload),
    }
}

/// The state of a missing record: `missing`, unless compaction may have removed the record.
fn absent(cleanup: Cleanup, missing: SourceRecordState) -> SourceRecordState {
    match cleanup {
        Cleanup::Compact => SourceRecordState::Compacted,
        Cleanup::Keep => missing,
    }
}
