//! The record that a task writes about itself with every transaction.
//!
//! [`Checkpoint`] is the last changelog record of each transaction: how far every input was read, which
//! transaction it was, and the digest of the state after it. A start compares it with the group's
//! committed offsets: equality proves that state and input position belong together, and a restore
//! knows where to stop without trusting any end of a partition. [`StoreMeta`] is the same in the
//! local store. [`JournalEntry`] is the same for replay, kept for ever, with the broadcast rows
//! that were used; [`super::journal`] spreads it over several records where they are many.

use super::broadcast::UsedBroadcastRow;
use super::digest::Digest;
use super::sequence_check::{InSequences, OutSequences};
use ports::topics::{TopicId, TopicPartition};
use ports::varint::{put, put_bytes, take_bytes, take_u64 as take};
use ports::{LogError, StoreError};

/// Key of the meta record in a changelog. State keys begin with a printable byte, so nothing
/// collides with it; and it is not four bytes long, which the broker's control records are.
pub const META_KEY: &[u8] = b"\x00meta";

/// Version of what this file encodes and of the state values that go with it; readers accept it and
/// older ones, and nothing newer. In version 1 `portfolio` kept a user's open sells in one value.
/// Since version 3 it keeps the positions of a large portfolio in rows of their own, and `orders`
/// notes at each open order when it came, and which mass cancels are under way. Since version 4
/// `trading` keeps orders that trade in parts, and what waits behind them; an older version would
/// lose them. Since version 5 `trading` notes what the house still offers such an order, and where
/// its quote is on its way through a book, and `orders` counts short positions. Since version 6
/// `orders` keeps the trades of its orders, and debts. What is encoded here has not changed since
/// version 1.
const VERSION: u64 = 6;

/// A task's position, identity of its state, and guard counters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checkpoint {
    /// Transactions of this task so far.
    pub transaction: u64,
    /// Next offset to read, by input partition, ascending.
    pub offsets: Vec<(TopicPartition, u64)>,
    /// Digest of the state.
    pub digest: Digest,
    /// Last sequence sent per guarded output partition.
    pub sent: Vec<(TopicPartition, u64)>,
    /// Last sequence seen per guarded input and upstream task.
    pub seen: Vec<(TopicId, u32, u64)>,
}

/// Bytes of this file's kinds that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum UnreadableMeta {
    /// Written by a version that this build does not know.
    #[error(
        "{what} is not readable by this version of processor (format {version}, this one knows {VERSION}); use the version that wrote it, or a newer one"
    )]
    Newer {
        /// The value's name.
        what: &'static str,
        /// Its format.
        version: u64,
    },
    /// Not what any version writes.
    #[error("{0} is damaged")]
    Damaged(&'static str),
}

impl std::convert::From<UnreadableMeta> for StoreError {
    /// A store that is damaged can be rebuilt; one that is newer must be left alone.
    fn from(e: UnreadableMeta) -> StoreError {
        match e {
            UnreadableMeta::Newer { .. } => StoreError::Invalid(e.to_string()),
            UnreadableMeta::Damaged(_) => StoreError::Corrupt(e.to_string()),
        }
    }
}

impl std::convert::From<UnreadableMeta> for LogError {
    fn from(e: UnreadableMeta) -> LogError {
        match e {
            UnreadableMeta::Newer { .. } => LogError::Invalid(e.to_string()),
            UnreadableMeta::Damaged(_) => LogError::Corrupt(e.to_string()),
        }
    }
}

fn put_positions(out: &mut Vec<u8>, positions: &[(TopicPartition, u64)]) {
    put(out, positions.len() as u64);
    for (at, offset) in positions {
        put(out, u64::from(at.topic.0));
        put(out, u64::from(at.partition));
        put(out, *offset);
    }
}

fn take_at(from: &mut &[u8]) -> Option<TopicPartition> {
    let topic = TopicId(u16::try_from(take(from)?).ok()?);
    Some(TopicPartition::new(topic, u32::try_from(take(from)?).ok()?))
}

fn take_positions(from: &mut &[u8]) -> Option<Vec<(TopicPartition, u64)>> {
    (0..take(from)?)
        .map(|_| Some((take_at(from)?, take(from)?)))
        .collect()
}

fn take_digest(from: &mut &[u8]) -> Option<Digest> {
    let (head, rest) = from.split_at_checked(16)?;
    *from = rest;
    Some(Digest(u128::from_be_bytes(head.try_into().ok()?)))
}

fn checked<T>(
    what: &'static str,
    mut bytes: &[u8],
    read: impl FnOnce(&mut &[u8]) -> Option<T>,
) -> Result<T, UnreadableMeta> {
    match take(&mut bytes) {
        Some(1..=VERSION) => read(&mut bytes)
            .filter(|_| bytes.is_empty())
            .ok_or(UnreadableMeta::Damaged(what)),
        Some(version) if version > VERSION => Err(UnreadableMeta::Newer { what, version }),
        _ => Err(UnreadableMeta::Damaged(what)),
    }
}

impl Checkpoint {
    /// Rebuilds the guard counters.
    pub fn sequences(&self, guarded: &[TopicId]) -> (OutSequences, InSequences) {
        let mut out = OutSequences::new(guarded);
        let mut seen = InSequences::default();
        self.sent.iter().for_each(|(at, last)| out.set(*at, *last));
        self.seen
            .iter()
            .for_each(|(topic, task, last)| seen.set(*topic, *task, *last));
        (out, seen)
    }

    /// Next offset of one input.
    pub fn next(&self, at: TopicPartition) -> Option<u64> {
        next_offset(&self.offsets, at)
    }

    /// To bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out =
            Vec::with_capacity(64 + 12 * (self.offsets.len() + self.sent.len() + self.seen.len()));
        put(&mut out, VERSION);
        put(&mut out, self.transaction);
        put_positions(&mut out, &self.offsets);
        out.extend_from_slice(&self.digest.0.to_be_bytes());
        put_positions(&mut out, &self.sent);
        put(&mut out, self.seen.len() as u64);
        for (topic, task, last) in &self.seen {
            put(&mut out, u64::from(topic.0));
            put(&mut out, u64::from(*task));
            put(&mut out, *last);
        }

        out
    }

    /// From bytes.
    pub fn decode(bytes: &[u8]) -> Result<Checkpoint, UnreadableMeta> {
        checked("a task's meta record", bytes, |b| {
            let transaction = take(b)?;
            let offsets = take_positions(b)?;
            let digest = take_digest(b)?;
            let sent = take_positions(b)?;
            let seen = (0..take(b)?)
                .map(|_| take_at(b).and_then(|at| Some((at.topic, at.partition, take(b)?))))
                .collect::<Option<_>>()?;
            Some(Checkpoint {
                transaction,
                offsets,
                digest,
                sent,
                seen,
            })
        })
    }
}

/// The meta record as the local store keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreMeta {
    /// Offset of the changelog's meta record that the store contains; a restore goes on behind it.
    pub changelog_offset: u64,
    /// Whether `meta.digest` is known to be the digest of the content. False in the middle of a
    /// restore: a compacted changelog passes through states that never were.
    pub verified: bool,
    /// The meta record.
    pub meta: Checkpoint,
}

impl StoreMeta {
    /// To bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put(&mut out, VERSION);
        put(&mut out, self.changelog_offset);
        put(&mut out, u64::from(self.verified));
        put_bytes(&mut out, &self.meta.encode());
        out
    }

    /// From bytes.
    pub fn decode(bytes: &[u8]) -> Result<StoreMeta, UnreadableMeta> {
        let (changelog_offset, verified, meta) = checked("a store's meta record", bytes, |b| {
            Some((take(b)?, take(b)? == 1, take_bytes(b)?.to_vec()))
        })?;

        Ok(StoreMeta {
            changelog_offset,
            verified,
            meta: Checkpoint::decode(&meta)?,
        })
    }
}

/// Next offset of one input, if it is among these.
pub fn next_offset(offsets: &[(TopicPartition, u64)], at: TopicPartition) -> Option<u64> {
    offsets.iter().find(|(a, _)| *a == at).map(|(_, o)| *o)
}

/// One transaction of one task, on record for replay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalEntry {
    /// Number of the task's transaction.
    pub transaction: u64,
    /// Next offsets after it. The records between these and the previous entry's are what it
    /// processed, in the order of [`super::merge`].
    pub offsets: Vec<(TopicPartition, u64)>,
    /// Digest of the state after it.
    pub digest: Digest,
    /// The first entry of an incarnation: forget all rows of the entries before.
    pub forget: bool,
    /// Broadcast rows used that differ from what the task had used before.
    pub rows: Vec<UsedBroadcastRow>,
    /// The settings that the role decides by from here on; said once by each incarnation. Absent in
    /// journals of before there was this: then nobody knows.
    pub settings: Option<Vec<u8>>,
}

/// Settings lie among the rows, as the row of a table that cannot be: versions before there was
/// this read over it.
const SETTINGS: TopicId = TopicId(u16::MAX);
/// Stands for how many parts come before an entry, as the version of a row. Versions from before
/// parts have met a part by then, and stopped.
const PARTS: TopicId = TopicId(u16::MAX - 1);

impl JournalEntry {
    /// To one record; see [`JournalEntry::encode_all`] for as many as it takes.
    pub fn encode(&self) -> Vec<u8> {
        self.encode_with(&self.rows, 0)
    }

    /// To the record that comes last, behind so many parts that have the rows.
    pub(super) fn encode_behind(&self, parts: u64) -> Vec<u8> {
        self.encode_with(&[], parts)
    }

    fn encode_with(&self, rows: &[UsedBroadcastRow], parts: u64) -> Vec<u8> {
        let mut out = Vec::new();
        put(&mut out, VERSION);
        put(&mut out, self.transaction);
        put_positions(&mut out, &self.offsets);
        out.extend_from_slice(&self.digest.0.to_be_bytes());
        put(&mut out, u64::from(self.forget));
        put(
            &mut out,
            rows.len() as u64 + u64::from(self.settings.is_some()) + u64::from(parts > 0),
        );
        rows.iter()
            .for_each(|r| put_row(&mut out, r.table, &r.key, r.version, &r.value));
        self.settings
            .iter()
            .for_each(|settings| put_row(&mut out, SETTINGS, &[], 0, settings));
        if parts > 0 {
            put_row(&mut out, PARTS, &[], parts, &[]);
        }

        out
    }

    /// From the only record that it is in.
    pub fn decode(bytes: &[u8]) -> Result<JournalEntry, UnreadableMeta> {
        match JournalEntry::decode_last(bytes)? {
            (entry, 0) => Ok(entry),
            _ => Err(UnreadableMeta::Damaged("a journal entry without its parts")),
        }
    }

    /// From its last record, with the number of parts before it.
    pub(super) fn decode_last(bytes: &[u8]) -> Result<(JournalEntry, u64), UnreadableMeta> {
        checked("a journal entry", bytes, |b| {
            let transaction = take(b)?;
            let offsets = take_positions(b)?;
            let digest = take_digest(b)?;
            let forget = take(b)? == 1;
            let mut rows = (0..take(b)?)
                .map(|_| take_row(b))
                .collect::<Option<Vec<_>>>()?;
            let mut aside = |table| {
                rows.iter()
                    .position(|r| r.table == table)
                    .map(|i| rows.remove(i))
            };

            let settings = aside(SETTINGS);
            let parts = aside(PARTS);

            // Each is there once at most; of two, nobody could say which counts.
            if rows.iter().any(|r| r.table >= PARTS)
                || parts
                    .as_ref()
                    .is_some_and(|p| p.version == 0 || !p.key.is_empty() || !p.value.is_empty())
            {
                return None;
            }

            let settings = settings.map(|r| r.value.into());
            let parts = parts.map_or(0, |r| r.version);
            Some((
                JournalEntry {
                    transaction,
                    offsets,
                    digest,
                    forget,
                    rows,
                    settings,
                },
                parts,
            ))
        })
    }
}

pub(super) fn put_row(out: &mut Vec<u8>, table: TopicId, key: &[u8], version: u64, value: &[u8]) {
    put(out, u64::from(table.0));
    put_bytes(out, key);
    put(out, version);
    put_bytes(out, value);
}

pub(super) fn take_row(b: &mut &[u8]) -> Option<UsedBroadcastRow> {
    let table = TopicId(u16::try_from(take(b)?).ok()?);
    Some(UsedBroadcastRow {
        table,
        key: take_bytes(b)?.into(),
        version: take(b)?,
        value: take_bytes(b)?.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta() -> Checkpoint {
        let at = |t, p| TopicPartition::new(TopicId(t), p);
        Checkpoint {
            transaction: 300,
            offsets: vec![(at(0, 2), 17), (at(11, 2), 0)],
            digest: Digest(0x1234_5678_9abc_def0_1122_3344_5566_7788),
            sent: vec![(at(3, 2), 9)],
            seen: vec![(TopicId(11), 4, 12)],
        }
    }

    #[test]
    fn what_is_written_comes_back() {
        let m = meta();
        assert_eq!(Checkpoint::decode(&m.encode()).unwrap(), m);
        let s = StoreMeta {
            changelog_offset: 77,
            verified: true,
            meta: m.clone(),
        };

        assert_eq!(StoreMeta::decode(&s.encode()).unwrap(), s);
        let rows = vec![UsedBroadcastRow {
            table: TopicId(2),
            key: (*b"AAPL").into(),
            version: 3,
            value: (*b"x").into(),
        }];
        let mut j = JournalEntry {
            transaction: 1,
            offsets: m.offsets.clone(),
            digest: m.digest,
            forget: true,
            rows,
            settings: None,
        };

        assert_eq!(JournalEntry::decode(&j.encode()).unwrap(), j);
        j.settings = Some(b"{}".to_vec());
        assert_eq!(JournalEntry::decode(&j.encode()).unwrap(), j);
    }

    /// Bytes written once: every later version must read them.
    #[test]
    fn old_versions_are_read_for_ever() {
        let golden = |version: u8| {
            [
                &[version, 0xac, 2, 2, 0, 2, 17, 11, 2, 0][..],
                &0x1234_5678_9abc_def0_1122_3344_5566_7788_u128.to_be_bytes(),
                &[1, 3, 2, 9, 1, 11, 4, 12],
            ]
            .concat()
        };

        for version in 1..=6 {
            assert_eq!(
                Checkpoint::decode(&golden(version)).unwrap(),
                meta(),
                "version {version}"
            );
        }

        assert_eq!(meta().encode(), golden(6));
    }

    #[test]
    fn a_newer_version_and_damage_are_refused() {
        let mut bytes = meta().encode();
        bytes[0] = 7;
        assert!(
            Checkpoint::decode(&bytes)
                .unwrap_err()
                .to_string()
                .contains("format 7")
        );
        let whole = meta().encode();
        for cut in 0..whole.len() {
            assert!(Checkpoint::decode(&whole[..cut]).is_err(), "cut at {cut}");
        }
    }
}
