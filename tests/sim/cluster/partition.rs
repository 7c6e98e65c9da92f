//! The log of one partition: records and markers at dense offsets, the last stable offset, the
//! producer state of the leader, compaction, retention.
//!
//! Compaction and retention only mark records as gone and keep them in memory, because the oracle
//! needs all records.

use ports::records::{Record, Records};
use ports::topics::TopicPartition;

use super::{Code, Produce};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// Part of a transaction without its marker so far.
    Open,
    /// Readable: written outside transactions, or the commit marker is present.
    Committed,
    Aborted,
    /// A transaction marker.
    Marker,
}

#[derive(Clone, Copy, Debug)]
pub struct Entry {
    pub state: State,
    pub gone: bool,
    pub pid: u64,
    /// Index in the partition's arena.
    slot: u32,
}

/// Producer state of a leader.
struct Producer {
    pid: u64,
    epoch: u32,
    next: u32,
    /// Base sequence and last offset of the last five batches.
    recent: Vec<(u32, u64)>,
    /// First offset of the open transaction.
    open: Option<u64>,
}

pub struct Partition {
    pub at: TopicPartition,
    pub compacted: bool,
    pub append_time: bool,
    /// Size limit of a record.
    pub record_bytes_max: u32,
    /// Limit for record times ahead of the broker's clock, in topics with producer timestamps.
    pub ahead_ms_max: Option<i64>,
    pub start: u64,
    pub leader: usize,
    /// No broker leads the partition until this time.
    pub no_leader_until: u64,
    /// A new leader does not know the high watermark at once. Until this time, fetches end at this
    /// offset.
    pub short: Option<(u64, u64)>,
    /// Processes that wait for readable records.
    pub waiters: Vec<usize>,
    /// Tombstones with the time of their first compaction.
    pub tombstones: Vec<(u64, u64)>,
    entries: Vec<Entry>,
    records: Records,
    producers: Vec<Producer>,
}

impl Partition {
    pub fn new(
        at: TopicPartition,
        compacted: bool,
        append_time: bool,
        record_bytes_max: u32,
        leader: usize,
    ) -> Partition {
        Partition {
            at,
            compacted,
            append_time,
            record_bytes_max,
            ahead_ms_max: None,
            start: 0,
            leader,
            no_leader_until: 0,
            short: None,
            waiters: Vec::new(),
            tombstones: Vec::new(),
            entries: Vec::new(),
            records: Records::new(),
            producers: Vec::new(),
        }
    }

    /// High watermark.
    pub fn end(&self) -> u64 {
        self.entries.len() as u64
    }

    /// Last stable offset.
    pub fn stable_end(&self) -> u64 {
        self.producers
            .iter()
            .filter_map(|p| p.open)
            .min()
            .unwrap_or(self.end())
    }

    /// End of the range that a read_committed reader can read now.
    pub fn readable_end(&self, now: u64) -> u64 {
        let stable = self.stable_end();
        self.short
            .filter(|(until, _)| now < *until)
            .map_or(stable, |(_, end)| stable.min(end))
    }

    pub fn entry(&self, offset: u64) -> Entry {
        self.entries[offset as usize]
    }

    /// The record at an offset; the offset must not be a marker's.
    pub fn record(&self, offset: u64) -> Record<'_> {
        Record {
            offset,
            ..self
                .records
                .get(self.entries[offset as usize].slot as usize)
        }
    }

    /// Offsets of committed records in a range, including removed records.
    pub fn committed(&self, from: u64, to: u64) -> impl Iterator<Item = u64> + '_ {
        (from..to.min(self.end())).filter(|o| self.entries[*o as usize].state == State::Committed)
    }

    /// Offsets written by the open transaction of a producer.
    pub fn written_by(&self, pid: u64) -> impl Iterator<Item = u64> + '_ {
        let first = self
            .producers
            .iter()
            .find(|p| p.pid == pid)
            .and_then(|p| p.open);
        let from = first.unwrap_or(self.end());
        let to = self.end();
        (from..to).filter(move |o| {
            let e = &self.entries[*o as usize];
            e.pid == pid && e.state == State::Open
        })
    }

    /// True if a read_committed reader at this offset still has records to read.
    pub fn anything_from(&self, from: u64) -> bool {
        self.committed(from, self.end())
            .any(|o| !self.entries[o as usize].gone)
    }

    /// Appends a record outside any transaction.
    pub fn append(&mut self, r: &Record<'_>, wall_ms: i64) -> u64 {
        self.push(r, wall_ms, 0, State::Committed)
    }

    fn push(&mut self, r: &Record<'_>, wall_ms: i64, pid: u64, state: State) -> u64 {
        let timestamp_ms = if self.append_time {
            wall_ms
        } else {
            r.timestamp_ms
        };

        self.entries.push(Entry {
            state,
            gone: false,
            pid,
            slot: self.records.len() as u32,
        });

        self.records.push(&Record {
            at: self.at,
            timestamp_ms,
            ..*r
        });

        self.end() - 1
    }

    fn producer(&mut self, pid: u64) -> &mut Producer {
        let found = self.producers.iter().position(|p| p.pid == pid);
        let i = found.unwrap_or_else(|| {
            self.producers.push(Producer {
                pid,
                epoch: 0,
                next: 0,
                recent: Vec::new(),
                open: None,
            });

            self.producers.len() - 1
        });

        &mut self.producers[i]
    }

    /// Appends a batch of a producer. `verified`: the coordinator confirms that the producer's
    /// transaction contains this partition.
    pub fn produce(&mut self, b: &Produce, verified: bool, wall_ms: i64) -> Result<u64, Code> {
        let p = self.producer(b.pid);
        if b.epoch < p.epoch {
            return Err(Code::InvalidEpoch);
        }

        if b.transactional && p.open.is_none() && !verified {
            return Err(Code::InvalidTxnState);
        }

        if b.epoch == p.epoch {
            if let Some((_, last)) = p
                .recent
                .iter()
                .find(|(sequence, _)| *sequence == b.sequence)
            {
                return Ok(*last);
            }

            if b.sequence != p.next {
                return Err(Code::OutOfOrder);
            }
        } else {
            if b.sequence != 0 {
                return Err(Code::OutOfOrder);
            }

            (p.epoch, p.next) = (b.epoch, 0);
            p.recent.clear();
        }

        for r in b.picks.iter().map(|i| b.records.get(*i as usize)) {
            let size = r.key.map_or(0, <[u8]>::len)
                + r.value.map_or(0, <[u8]>::len)
                + r.headers.as_bytes().len();
            if size > self.record_bytes_max as usize {
                return Err(Code::TooLarge);
            }

            if !self.append_time
                && self
                    .ahead_ms_max
                    .is_some_and(|max| r.timestamp_ms > wall_ms + max)
            {
                return Err(Code::InvalidTimestamp);
            }
        }

        let first = self.end();
        let state = if b.transactional {
            State::Open
        } else {
            State::Committed
        };

        for i in &b.picks {
            self.push(&b.records.get(*i as usize), wall_ms, b.pid, state);
        }

        let last = self.end() - 1;
        let p = self.producer(b.pid);
        p.next += b.picks.len() as u32;
        p.recent.push((b.sequence, last));
        if p.recent.len() > 5 {
            p.recent.remove(0);
        }

        if b.transactional {
            p.open.get_or_insert(first);
        }

        Ok(last)
    }

    /// Writes a marker, which ends a producer's transaction in this partition.
    pub fn marker(&mut self, pid: u64, epoch: u32, commit: bool) {
        let state = if commit {
            State::Committed
        } else {
            State::Aborted
        };

        let end = self.end();
        let p = self.producer(pid);
        if epoch > p.epoch {
            (p.epoch, p.next) = (epoch, 0);
            p.recent.clear();
        }

        if let Some(first) = p.open.take() {
            for e in &mut self.entries[first as usize..end as usize] {
                if e.pid == pid && e.state == State::Open {
                    e.state = state;
                }
            }
        }

        self.entries.push(Entry {
            state: State::Marker,
            gone: false,
            pid,
            slot: u32::MAX,
        });
    }

    /// Removes records below `limit` that a later record of the same key replaces, and tombstones
    /// that are old enough. Returns the numbers of removed records and tombstones.
    pub fn compact(&mut self, limit: u64, now: u64, tombstones_live: u64) -> (u64, u64) {
        let limit = limit.min(self.stable_end()).min(self.end());
        let mut newest = std::collections::BTreeMap::<Box<[u8]>, u64>::new();
        let mut records = 0;
        let mut tombstones = 0;
        for offset in (self.start..limit).rev() {
            let e = self.entries[offset as usize];
            if e.gone || e.state != State::Committed {
                continue;
            }

            let r = self.record(offset);
            let key = r.key.unwrap_or_default();
            let tombstone = r.value.is_none();
            if newest.contains_key(key) {
                self.entries[offset as usize].gone = true;
                records += 1;
                continue;
            }

            newest.insert(key.into(), offset);
            if tombstone {
                match self.tombstones.iter().find(|(o, _)| *o == offset) {
                    None => self.tombstones.push((offset, now)),
                    Some((_, since)) if now - since > tombstones_live => {
                        self.entries[offset as usize].gone = true;
                        tombstones += 1;
                    }
                    Some(_) => {}
                }
            }
        }

        (records, tombstones)
    }

    /// Deletes all records below an offset.
    pub fn truncate_start(&mut self, to: u64) -> bool {
        let moved = to > self.start;
        for offset in self.start..to.max(self.start) {
            self.entries[offset as usize].gone = true;
        }

        self.start = self.start.max(to);
        moved
    }
}
