//! A copy of all records of a log. Tests change, drop and move the records, and read them again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use audit::anchor::Anchor;
use audit::chains::{ChainReport, Chains};
use domain::chain;
use ports::records::{Headers, Record, Records};
use ports::topics::*;
use ports::*;
use wire::audit::AuditEntry;
use wire::topics as t;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    pub offset: u64,
    pub time_ms: i64,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<u8>,
}

#[derive(Clone)]
pub struct Tape {
    pub topics: TopicTable,
    pub partitions: BTreeMap<TopicPartition, Vec<Kept>>,
    /// Committed offsets of `audit`.
    pub audited: BTreeMap<TopicPartition, u64>,
    /// Number of readers so far.
    pub readers: Arc<AtomicUsize>,
}

pub const GROUP: &str = "processor-audit";

impl Tape {
    /// Copies all records of a log.
    pub fn of(log: &dyn Log, topics: &TopicTable) -> Tape {
        let mut partitions = BTreeMap::new();
        let mut audited = BTreeMap::new();
        for topic in topics.iter() {
            for p in 0..log.partitions(topic).expect("log").expect("topic") {
                let at = TopicPartition::new(topic, p);
                let mut all = Vec::new();
                let mut reader = log
                    .reader(topic, &[(p, StartOffset::Start)], true)
                    .expect("reader");
                let mut chunk = Records::new();
                let limits = Limits {
                    records: 1000,
                    bytes: 1 << 20,
                    age: Duration::ZERO,
                };

                while !reader.caught_up() {
                    chunk.clear();
                    reader
                        .poll(Duration::from_millis(10), limits, &mut chunk)
                        .expect("records");
                    all.extend(chunk.iter().map(|r| Kept {
                        offset: r.offset,
                        time_ms: r.timestamp_ms,
                        key: r.key.map(Into::into),
                        value: r.value.map(Into::into),
                        headers: r.headers.as_bytes().to_vec(),
                    }));
                }

                partitions.insert(at, all);
                if let Some(Some(offset)) =
                    log.group_offsets(GROUP, &[at]).expect("offsets").first()
                {
                    audited.insert(at, *offset);
                }
            }
        }

        Tape {
            topics: topics.clone(),
            partitions,
            audited,
            readers: Arc::default(),
        }
    }

    pub fn at(&mut self, at: TopicPartition) -> &mut Vec<Kept> {
        self.partitions.get_mut(&at).expect("a partition")
    }

    pub fn chains<'a>(&'a self, anchors: &'a [Anchor]) -> Chains<'a> {
        Chains {
            log: self,
            topics: &self.topics,
            group: GROUP,
            sources: true,
            anchors,
        }
    }

    pub fn verify(&self, anchors: &[Anchor]) -> Vec<ChainReport> {
        self.chains(anchors)
            .verify(&mut |_| {})
            .expect("a readable log")
    }

    /// The only damaged chain; all others must be whole.
    pub fn damaged(&self, anchors: &[Anchor]) -> ChainReport {
        let mut bad: Vec<_> = self
            .verify(anchors)
            .into_iter()
            .filter(|r| r.damage.is_some())
            .collect();
        assert_eq!(bad.len(), 1, "{bad:#?}");
        bad.remove(0)
    }

    /// Location of a chain's entries: partition of the audit log, and indexes in it.
    pub fn entries(&self, chain: &str) -> (TopicPartition, Vec<usize>) {
        let all = self
            .partitions
            .iter()
            .filter(|(at, _)| at.topic == t::AUDIT_LOG);
        let mut found: Vec<_> = all
            .map(|(at, kept)| {
                (
                    *at,
                    (0..kept.len())
                        .filter(|i| kept[*i].key.as_deref() == Some(chain.as_bytes()))
                        .collect::<Vec<_>>(),
                )
            })
            .filter(|(_, places)| !places.is_empty())
            .collect();

        assert_eq!(found.len(), 1, "a chain lies in one partition");
        found.remove(0)
    }

    /// Changes an entry and makes its hash again, like an attacker who knows the hash rule.
    pub fn forge(
        &mut self,
        at: TopicPartition,
        place: usize,
        change: impl FnOnce(&mut AuditEntry<'_>),
    ) {
        let old = self.at(at)[place].value.clone().expect("a value");
        let mut e = AuditEntry::decode(&old).expect("an entry");
        change(&mut e);
        e.hash = chain::link(
            &e.prev_hash,
            &format!("{}/{}/{}", e.src_topic, e.src_partition, e.src_offset),
            &e.payload_hash,
            e.meta_hash.as_ref(),
        );
        let mut value = Vec::new();
        e.encode(&mut value);
        self.at(at)[place].value = Some(value);
    }

    /// Makes the hashes of a chain right again, from an index on.
    pub fn rewrite(&mut self, chain: &str, from: usize) {
        let (at, places) = self.entries(chain);
        let decode = |kept: &Kept| {
            AuditEntry::decode(kept.value.as_deref().expect("a value"))
                .expect("an entry")
                .hash
        };

        let mut prev = from
            .checked_sub(1)
            .map_or([0; 32], |i| decode(&self.at(at)[places[i]]));
        for place in &places[from..] {
            self.forge(at, *place, |e| e.prev_hash = prev);
            prev = decode(&self.at(at)[*place]);
        }
    }
}

struct TapeReader {
    records: Vec<(TopicPartition, Kept)>,
    next: usize,
}

impl Reader for TapeReader {
    fn poll(
        &mut self,
        _wait: Duration,
        limits: Limits,
        into: &mut Records,
    ) -> Result<(), LogError> {
        // A few records at a time, so that some tests cross a chunk.
        for (at, k) in self
            .records
            .iter()
            .skip(self.next)
            .take(limits.records.min(17))
        {
            let key = k.key.as_deref();
            let value = k.value.as_deref();
            into.push(&Record {
                at: *at,
                offset: k.offset,
                timestamp_ms: k.time_ms,
                key,
                value,
                headers: Headers::packed(&k.headers),
            });

            self.next += 1;
        }

        Ok(())
    }

    fn caught_up(&self) -> bool {
        self.next == self.records.len()
    }
}

fn no<T>() -> Result<T, LogError> {
    Err(LogError::Invalid("a tape is only read".into()))
}

impl Log for Tape {
    fn cluster_id(&self) -> Result<String, LogError> {
        Ok("tape".into())
    }
    fn partitions(&self, topic: TopicId) -> Result<Option<u32>, LogError> {
        Ok(Some(
            self.partitions
                .keys()
                .filter(|at| at.topic == topic)
                .count() as u32,
        ))
    }
    fn join(&self, _spec: &MemberSpec) -> Result<Box<dyn Member>, LogError> {
        no()
    }
    fn reader(
        &self,
        topic: TopicId,
        from: &[(u32, StartOffset)],
        _headers: bool,
    ) -> Result<Box<dyn Reader>, LogError> {
        self.readers.fetch_add(1, Ordering::Relaxed);
        let mut records = Vec::new();
        for (p, from) in from {
            let at = TopicPartition::new(topic, *p);
            let first = match from {
                StartOffset::Start => 0,
                StartOffset::Offset(o) => *o,
                StartOffset::End => u64::MAX,
            };

            records.extend(
                self.partitions[&at]
                    .iter()
                    .filter(|k| k.offset >= first)
                    .map(|k| (at, k.clone())),
            );
        }

        Ok(Box::new(TapeReader { records, next: 0 }))
    }
    fn appender(&self) -> Result<Box<dyn Appender>, LogError> {
        no()
    }
    fn committed(
        &self,
        _group: &str,
        _partitions: &[TopicPartition],
    ) -> Result<Committed, LogError> {
        no()
    }
    fn bounds(&self, at: TopicPartition) -> Result<Bounds, LogError> {
        let end = self.partitions[&at].last().map_or(0, |k| k.offset + 1);
        Ok(Bounds {
            start: 0,
            stable_end: end,
            end,
        })
    }
    fn offset_at(&self, at: TopicPartition, time_ms: i64) -> Result<u64, LogError> {
        let found = self.partitions[&at]
            .iter()
            .find(|k| k.time_ms >= time_ms)
            .map(|k| k.offset);
        Ok(found.unwrap_or(self.bounds(at)?.end))
    }
    fn group_offsets(
        &self,
        _group: &str,
        partitions: &[TopicPartition],
    ) -> Result<Vec<Option<u64>>, LogError> {
        Ok(partitions
            .iter()
            .map(|at| self.audited.get(at).copied())
            .collect())
    }
    fn create_topic(
        &self,
        _topic: TopicId,
        _spec: &TopicSpec,
        _partitions: u32,
    ) -> Result<(), LogError> {
        no()
    }
    fn describe_topic(
        &self,
        _topic: TopicId,
        _spec: &TopicSpec,
    ) -> Result<Option<TopicState>, LogError> {
        no()
    }
}
