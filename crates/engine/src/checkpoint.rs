//! The checkpoint of a task, written with every transaction.
//!
//! [`Checkpoint`] is the last changelog record of each transaction: input positions, transaction
//! number, and digest of the state. A start compares the checkpoint with the committed offsets of
//! the group. Equal offsets prove that state and input positions belong together. A restore stops
//! at the checkpoint and does not need the end offset of the partition.
//!
//! [`StoreMeta`] is the checkpoint in the local store. [`JournalEntry`] is the checkpoint for
//! replay. Journal entries are kept for ever and contain the broadcast rows used.
//! [`super::journal`] splits an entry with many rows into several records.

use ports::topics::{TopicId, TopicPartition};
use ports::varint::{put, put_bytes, take_bytes, take_u64 as take};
use ports::{LogError, StoreError};

use super::broadcast::UsedBroadcastRow;
use super::digest::Digest;
use super::sequence_check::{InSequences, OutSequences};

/// Key of the meta record in a changelog. State keys begin with a printable byte, so no state key
/// is equal to the meta key. The key is not four bytes long, unlike the keys of the broker's
/// control records.
pub const META_KEY: &[u8] = b"\x00meta";

/// Version of the encodings in this file and of the state values. Readers accept this version and
/// older versions, and refuse newer versions.
///
/// * 1: `portfolio` kept the open sells of a user in one value.
/// * 3: `portfolio` keeps the positions of a large portfolio in separate rows. `orders` notes the
///   arrival of each open order, and the mass cancels in progress.
/// * 4: `trading` keeps orders that trade in parts, and the inputs waiting behind them. An older
///   version would lose them.
/// * 5: `trading` notes the remaining offer of the house for such an order, and the position of a
///   quote on its way through a book. `orders` counts short positions.
/// * 6: `orders` keeps the trades of its orders, and debts.
///
/// The encodings of this file have not changed since version 1.
const VERSION: u64 = 6;

/// A task's positions, state digest, and sequence counters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checkpoint {
    /// Number of this task's transactions so far.
    pub transaction: u64,
    /// Next offset to read, by input partition, ascending.
    pub offsets: Vec<(TopicPartition, u64)>,
    pub digest: Digest,
    /// Last sequence sent per guarded output partition.
    pub sent: Vec<(TopicPartition, u64)>,
    /// Last sequence seen per guarded input and upstream task.
    pub seen: Vec<(TopicId, u32, u64)>,
}

/// Meta or journal bytes that cannot be decoded.
#[derive(Debug, thiserror::Error)]
pub enum UnreadableMeta {
    /// A newer version wrote the bytes.
    #[error(
        "{what} is not readable by this version of processor (format {version}, this one knows {VERSION}); use the version that wrote it, or a newer one"
    )]
    Newer {
        /// Name of the value, for people.
        what: &'static str,
        /// Format version of the value.
        version: u64,
    },
    /// No version writes such bytes.
    #[error("{0} is damaged")]
    Damaged(&'static str),
}

impl std::convert::From<UnreadableMeta> for StoreError {
    /// A damaged store can be rebuilt. A store of a newer version must stay untouched.
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
    /// The sequence counters of this checkpoint.
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

/// The checkpoint in the local store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreMeta {
    /// Offset of the last changelog meta record contained in the store. A restore continues behind
    /// this offset.
    pub changelog_offset: u64,
    /// True if `meta.digest` is verified against the content. False during a restore, because a
    /// compacted changelog passes through states that never existed.
    pub verified: bool,
    pub meta: Checkpoint,
}

impl StoreMeta {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put(&mut out, VERSION);
        put(&mut out, self.changelog_offset);
        put(&mut out, u64::from(self.verified));
        put_bytes(&mut out, &self.meta.encode());
        out
    }

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

/// Next offset of one input partition, if `offsets` contains the partition.
pub fn next_offset(offsets: &[(TopicPartition, u64)], at: TopicPartition) -> Option<u64> {
    offsets.iter().find(|(a, _)| *a == at).map(|(_, o)| *o)
}

/// Journal entry for replay: one transaction of one task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalEntry {
    /// Number of the task's transaction.
    pub transaction: u64,
    /// Next offsets after the transaction. The records between the previous entry's offsets and
    /// these offsets are the input of the transaction, in the order of `merge`.
    pub offsets: Vec<(TopicPartition, u64)>,
    /// Digest of the state after the transaction.
    pub digest: Digest,
    /// True in the first entry of an incarnation. A replay forgets all rows of earlier entries.
    pub forget: bool,
    /// Broadcast rows that the task used for the first time, or with a new value.
    pub rows: Vec<UsedBroadcastRow>,
    /// The role's settings from this transaction on. Each incarnation writes the settings once.
    /// Absent in journals from before settings were recorded; then the settings are unknown.
    pub settings: Option<Vec<u8>>,
}

/// Settings are encoded as a row of a table number that no topic has. Older versions skip the row.
const SETTINGS: TopicId = TopicId(u16::MAX);
/// The number of parts before an entry is encoded as the version of a row of this table number.
/// Versions without support for parts stop at the first part, before they read the entry.
const PARTS: TopicId = TopicId(u16::MAX - 1);

impl JournalEntry {
    /// Encodes the entry in one record. See [`JournalEntry::encode_all`] for several records.
    pub fn encode(&self) -> Vec<u8> {
        self.encode_with(&self.rows, 0)
    }

    /// Encodes the last record of an entry with rows in `parts` earlier records.
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

    /// Decodes an entry of one record.
    pub fn decode(bytes: &[u8]) -> Result<JournalEntry, UnreadableMeta> {
        match JournalEntry::decode_last(bytes)? {
            (entry, 0) => Ok(entry),
            _ => Err(UnreadableMeta::Damaged("a journal entry without its parts")),
        }
    }

    /// Decodes the last record of an entry. Also returns the number of parts before the record.
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

            // Each special row occurs at most once. A second special row is damage, because the
            // valid row is unknown.
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

    /// Golden bytes: every later version must read them.
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
