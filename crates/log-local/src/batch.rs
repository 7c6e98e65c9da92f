//! Packed batches: all records of a transaction for a partition, as one run of bytes.
//!
//! A key for each record would cost the storage twenty-five inserts per order, but a batch is a
//! single insert. A batch is packed before any lock is taken. Records store their offset delta, as
//! in Kafka, so the base offset can be assigned at the append, under the lock. All readers share the same
//! batch without a copy.

use std::sync::Arc;

use ports::records::{Headers, Record};
use ports::topics::{TopicId, TopicPartition};

const FORMAT: u8 = 1;
/// Format, flags, two unused bytes, count u32, span u64, stamp i64, running maximum of times i64,
/// bytes appended to the partition so far u64.
const HEADER: usize = 40;
/// Distance u32, time i64, lengths of key, value and headers u32 each.
const RECORD: usize = 24;
const STAMPED: u8 = 1;
const NONE: u32 = u32::MAX;

/// Reason why a batch cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum UnreadableBatch {
    /// A newer version wrote the batch.
    #[error(
        "a batch has format {0}, this version knows {FORMAT}; use the version that wrote it, or a newer one"
    )]
    Newer(u8),
    /// No version writes such bytes.
    #[error("{0}")]
    Damaged(String),
}

/// A finished batch.
#[derive(Debug)]
pub struct PackedBatch {
    base: u64,
    bytes: Vec<u8>,
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn length(n: u32) -> usize {
    if n == NONE { 0 } else { n as usize }
}

impl PackedBatch {
    /// Takes over bytes from the storage. Checks the structure first, so that later reads cannot
    /// fail.
    pub fn parse(base: u64, bytes: Vec<u8>) -> Result<Arc<Self>, UnreadableBatch> {
        match bytes.first() {
            Some(&format) if format > FORMAT => Err(UnreadableBatch::Newer(format)),
            Some(&FORMAT) => Self::checked(base, bytes).map_err(UnreadableBatch::Damaged),
            _ => Err(UnreadableBatch::Damaged(format!(
                "the batch at offset {base} has no format"
            ))),
        }
    }

    fn checked(base: u64, bytes: Vec<u8>) -> Result<Arc<Self>, String> {
        if bytes.len() < HEADER {
            return Err(format!("the batch at offset {base} is cut short"));
        }

        let packed = PackedBatch { base, bytes };

        // The offset after the last record must fit into a u64, too.
        if base
            .checked_add(packed.span())
            .is_none_or(|last| last == u64::MAX)
        {
            return Err(format!("the batch at offset {base} ends nowhere"));
        }

        let mut at = HEADER;
        let mut count = 0;
        let mut last = None;
        while at < packed.bytes.len() {
            let rest = packed.bytes.len() - at;
            let size = (rest >= RECORD)
                .then(|| packed.size_at(at))
                .filter(|size| *size <= rest);
            let Some(size) = size else {
                return Err(format!(
                    "a record of the batch at offset {base} is cut short"
                ));
            };

            let distance = Some(u32_at(&packed.bytes, at));
            if distance <= last || distance.is_some_and(|d| u64::from(d) > packed.span()) {
                return Err(format!("the batch at offset {base} is not in order"));
            }

            let headers = at + size - length(u32_at(&packed.bytes, at + 20));
            if Headers::checked(&packed.bytes[headers..at + size]).is_none() {
                return Err(format!(
                    "headers in the batch at offset {base} are cut short"
                ));
            }

            (last, at, count) = (distance, at + size, count + 1);
        }

        if count != packed.count() {
            return Err(format!(
                "the batch at offset {base} holds {count} records and says {}",
                packed.count()
            ));
        }

        Ok(Arc::new(packed))
    }

    fn size_at(&self, at: usize) -> usize {
        RECORD
            + length(u32_at(&self.bytes, at + 12))
            + length(u32_at(&self.bytes, at + 16))
            + length(u32_at(&self.bytes, at + 20))
    }

    /// First offset of the batch's range.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// Number of records.
    pub fn count(&self) -> u32 {
        u32_at(&self.bytes, 4)
    }

    fn span(&self) -> u64 {
        u64_at(&self.bytes, 8)
    }

    /// Last offset of the batch's range. Compaction may have removed the record at this offset.
    pub fn last(&self) -> u64 {
        self.base + self.span()
    }

    /// Largest time in the partition up to the end of this batch. This time never falls, so a
    /// binary search can find a time.
    pub fn max_time(&self) -> i64 {
        u64_at(&self.bytes, 24) as i64
    }

    /// Time of the last record. In a stamped batch all records have this time. `None` if compaction
    /// has left no record.
    pub fn last_time(&self) -> Option<i64> {
        const ANY: TopicPartition = TopicPartition::new(TopicId(0), 0);
        self.iter(ANY).last().map(|r| r.timestamp_ms)
    }

    /// Bytes appended to the partition up to and including this batch.
    pub fn log_bytes(&self) -> u64 {
        u64_at(&self.bytes, 32)
    }

    /// The bytes of the batch in the storage.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Start position of [`Self::next`] for the first record at or after `offset`.
    pub fn seek(&self, offset: u64) -> usize {
        let mut at = HEADER;
        while at < self.bytes.len() && self.base + u64::from(u32_at(&self.bytes, at)) < offset {
            at += self.size_at(at);
        }

        at
    }

    /// The record at position `at`. Moves `at` to the next record. `None` at the end.
    pub fn next(&self, tp: TopicPartition, headers: bool, at: &mut usize) -> Option<Record<'_>> {
        if *at >= self.bytes.len() {
            return None;
        }

        let b = &self.bytes;
        let time = if b[1] & STAMPED == 0 {
            u64_at(b, *at + 4)
        } else {
            u64_at(b, 16)
        };

        let mut from = *at + RECORD;
        let mut take = |n: u32| {
            (n != NONE).then(|| {
                let part = &b[from..from + n as usize];
                from += n as usize;
                part
            })
        };

        let key = take(u32_at(b, *at + 12));
        let value = take(u32_at(b, *at + 16));
        let packed = take(u32_at(b, *at + 20));
        let headers = Headers::packed(packed.filter(|_| headers).unwrap_or_default());
        let record = Record {
            at: tp,
            offset: self.base + u64::from(u32_at(b, *at)),
            timestamp_ms: time as i64,
            key,
            value,
            headers,
        };

        *at = from;
        Some(record)
    }

    pub fn iter(&self, tp: TopicPartition) -> impl Iterator<Item = Record<'_>> {
        let mut at = HEADER;
        std::iter::from_fn(move || self.next(tp, true, &mut at))
    }
}

/// A batch under construction.
pub struct Builder {
    bytes: Vec<u8>,
    count: u32,
    max_time: i64,
}

impl Default for Builder {
    fn default() -> Self {
        Builder {
            bytes: vec![0; HEADER],
            count: 0,
            max_time: i64::MIN,
        }
    }
}

impl Builder {
    /// Adds a record at the next offset.
    pub fn push(&mut self, r: &Record<'_>) {
        self.push_at(self.count, r);
    }

    /// Adds a record at a distance from the first record. Distances must rise.
    pub fn push_at(&mut self, distance: u32, r: &Record<'_>) {
        let size = |part: Option<&[u8]>| {
            part.map_or(NONE, |p| {
                u32::try_from(p.len()).expect("a record's part is below 4 GiB")
            })
        };

        let headers = r.headers.as_bytes();
        self.bytes.extend_from_slice(&distance.to_le_bytes());
        self.bytes.extend_from_slice(&r.timestamp_ms.to_le_bytes());
        for n in [size(r.key), size(r.value), size(Some(headers))] {
            self.bytes.extend_from_slice(&n.to_le_bytes());
        }

        self.bytes.extend_from_slice(r.key.unwrap_or_default());
        self.bytes.extend_from_slice(r.value.unwrap_or_default());
        self.bytes.extend_from_slice(headers);
        self.count += 1;
        self.max_time = self.max_time.max(r.timestamp_ms);
    }

    /// Size in bytes so far.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// True if no record was added yet.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Number of records so far.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Gives freshly appended records their offsets and, if the log stamps, their time. `before`
    /// has [`PackedBatch::max_time`] and [`PackedBatch::log_bytes`] at the end of the partition.
    pub fn append(self, base: u64, stamp: Option<i64>, before: (i64, u64)) -> PackedBatch {
        let span = u64::from(self.count.max(1) - 1);
        let bytes = before.1 + self.bytes.len() as u64;
        let max_time = stamp.unwrap_or(self.max_time).max(before.0);
        self.seal(base, span, stamp, max_time, bytes)
    }

    /// Builds the batch that replaces the batches from `base` to `last` after a compaction.
    pub fn replace(self, base: u64, last: &PackedBatch) -> PackedBatch {
        self.seal(
            base,
            last.last() - base,
            None,
            last.max_time(),
            last.log_bytes(),
        )
    }

    fn seal(
        mut self,
        base: u64,
        span: u64,
        stamp: Option<i64>,
        max_time: i64,
        log_bytes: u64,
    ) -> PackedBatch {
        let b = &mut self.bytes;
        b[0] = FORMAT;
        b[1] = if stamp.is_some() { STAMPED } else { 0 };
        b[4..8].copy_from_slice(&self.count.to_le_bytes());
        b[8..16].copy_from_slice(&span.to_le_bytes());
        b[16..24].copy_from_slice(&stamp.unwrap_or_default().to_le_bytes());
        b[24..32].copy_from_slice(&max_time.to_le_bytes());
        b[32..40].copy_from_slice(&log_bytes.to_le_bytes());
        PackedBatch {
            base,
            bytes: self.bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: TopicPartition = TopicPartition::new(TopicId(1), 2);

    fn record<'a>(key: Option<&'a [u8]>, value: Option<&'a [u8]>, time: i64) -> Record<'a> {
        Record {
            at: AT,
            offset: 0,
            timestamp_ms: time,
            key,
            value,
            headers: Headers::default(),
        }
    }

    #[test]
    fn records_come_back_from_where_one_seeks() {
        let mut b = Builder::default();
        b.push(&record(Some(b"a"), None, 7));
        b.push(&record(None, Some(b""), 5));
        b.push_at(9, &record(Some(b""), Some(b"c"), 6));
        let packed = b.append(100, None, (6, 1_000));
        assert_eq!((packed.count(), packed.max_time()), (3, 7));
        let found: Vec<_> = packed
            .iter(AT)
            .map(|r| {
                (
                    r.offset,
                    r.timestamp_ms,
                    r.key.map(<[u8]>::len),
                    r.value.map(<[u8]>::len),
                )
            })
            .collect();

        assert_eq!(
            found,
            [
                (100, 7, Some(1), None),
                (101, 5, None, Some(0)),
                (109, 6, Some(0), Some(1))
            ]
        );

        let mut at = packed.seek(102);
        assert_eq!(packed.next(AT, true, &mut at).map(|r| r.offset), Some(109));
        assert!(packed.next(AT, true, &mut at).is_none());
    }

    #[test]
    fn a_stamp_overrides_all_times_and_never_falls() {
        let mut b = Builder::default();
        b.push(&record(None, None, 7));
        let packed = b.append(0, Some(50), (60, 0));
        assert_eq!(
            packed.iter(AT).map(|r| r.timestamp_ms).collect::<Vec<_>>(),
            [50]
        );
        assert_eq!(packed.max_time(), 60);
    }

    #[test]
    fn damage_is_seen_before_it_is_read() {
        let mut b = Builder::default();
        b.push(&record(Some(b"key"), Some(b"value"), 7));
        b.push(&record(Some(b"key"), Some(b"value"), 7));
        let bytes = b.append(0, None, (0, 0)).bytes;
        assert!(PackedBatch::parse(0, bytes.clone()).is_ok());
        for cut in 0..bytes.len() {
            assert!(
                PackedBatch::parse(0, bytes[..cut].to_vec()).is_err(),
                "cut at {cut}"
            );
        }

        let mut long = bytes.clone();
        long[HEADER + 12] = 200;
        assert!(PackedBatch::parse(0, long).is_err());
        let mut newer = bytes;
        newer[0] = 9;
        assert!(matches!(
            PackedBatch::parse(0, newer),
            Err(UnreadableBatch::Newer(9))
        ));
    }

    /// Earlier versions accepted both kinds of damage, and the reader of the records then panicked.
    #[test]
    fn damaged_headers_and_ends_are_seen_before_they_are_read() {
        let mut headers = ports::records::HeaderBuf::default();
        headers.push("src", b"t/0/1");
        let mut b = Builder::default();
        b.push(&Record {
            headers: headers.headers(),
            ..record(None, Some(b"v"), 7)
        });

        let bytes = b.append(0, None, (0, 0)).bytes;
        assert!(PackedBatch::parse(0, bytes.clone()).is_ok());
        let mut long = bytes.clone();
        long[HEADER + RECORD + 1] = 200;
        assert!(
            matches!(PackedBatch::parse(0, long), Err(UnreadableBatch::Damaged(why)) if why.contains("headers"))
        );
        assert!(
            matches!(PackedBatch::parse(u64::MAX, bytes), Err(UnreadableBatch::Damaged(why)) if why.contains("nowhere"))
        );
    }
}
