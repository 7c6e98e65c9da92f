//! Encodes a journal entry in one or several records.
//!
//! A transaction may use many broadcast rows for the first time: after a start, or after a reload
//! of all listings. One record with all these rows could exceed every topic's limit, and the
//! transaction would be refused for ever. Rows beyond the limit of one record therefore go into
//! *parts*. The entry (positions, digest, settings) comes last and contains the number of its
//! parts. A small entry is still one record.
//!
//! A part begins with a version number unknown to older builds. An older build then reports a
//! journal of a newer version and stops.

use ports::varint::{put, take_u64 as take};

use super::broadcast::UsedBroadcastRow;
use super::checkpoint::{JournalEntry, UnreadableMeta, put_row, take_row};

/// Most bytes of rows in one record. A row has up to 64 KiB and a key, so a part stays far below
/// the topic's limit of 1 MiB. The bound also limits the memory of a replay, besides the rows
/// themselves.
pub const PART_BYTES: usize = 256 << 10;

/// Version of a part. Far above the versions in [`super::checkpoint`], which count other changes.
const VERSION: u64 = 1 << 16;

/// Largest size of an encoded row without key and value.
const ROW_OVERHEAD: usize = 24;

/// A part: some of the rows used by a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalPart {
    pub transaction: u64,
    /// Number of the part within its entry, from 0.
    pub number: u64,
    pub rows: Vec<UsedBroadcastRow>,
}

impl JournalPart {
    pub fn encode(&self) -> Vec<u8> {
        encode(self.transaction, self.number, &self.rows)
    }

    /// Decodes a part. `None` if the bytes are not a part; they may be an entry.
    pub fn decode(mut bytes: &[u8]) -> Result<Option<JournalPart>, UnreadableMeta> {
        const WHAT: &str = "a part of a journal entry";
        let b = &mut bytes;
        match take(b) {
            Some(VERSION) => {}
            Some(version) if version > VERSION => {
                return Err(UnreadableMeta::Newer {
                    what: WHAT,
                    version,
                });
            }
            _ => return Ok(None),
        }

        let mut read = || {
            let transaction = take(b)?;
            let number = take(b)?;
            let rows = (0..take(b)?).map(|_| take_row(b)).collect::<Option<_>>()?;
            b.is_empty().then_some(JournalPart {
                transaction,
                number,
                rows,
            })
        };

        read().map(Some).ok_or(UnreadableMeta::Damaged(WHAT))
    }
}

fn encode(transaction: u64, number: u64, rows: &[UsedBroadcastRow]) -> Vec<u8> {
    let mut out = Vec::with_capacity(32 + rows.iter().map(size).sum::<usize>());
    put(&mut out, VERSION);
    put(&mut out, transaction);
    put(&mut out, number);
    put(&mut out, rows.len() as u64);
    rows.iter()
        .for_each(|r| put_row(&mut out, r.table, &r.key, r.version, &r.value));
    out
}

/// Largest size of an encoded row in a journal record.
pub(super) fn size(row: &UsedBroadcastRow) -> usize {
    row.key.len() + row.value.len() + ROW_OVERHEAD
}

impl JournalEntry {
    /// Encodes the entry in order: parts if the rows exceed `part_bytes`, and the entry last.
    pub fn encode_all(&self, part_bytes: usize) -> Vec<Vec<u8>> {
        if self.rows.iter().map(size).sum::<usize>() <= part_bytes {
            return vec![self.encode()];
        }

        let mut records = Vec::new();
        let mut rest = &self.rows[..];
        while !rest.is_empty() {
            let mut room = part_bytes;

            // A row above the bound gets its own part.
            let fit = rest
                .iter()
                .take_while(|r| room.checked_sub(size(r)).map(|left| room = left).is_some())
                .count()
                .max(1);
            let (part, after) = rest.split_at(fit);
            records.push(encode(self.transaction, records.len() as u64, part));
            rest = after;
        }

        let parts = records.len() as u64;
        records.push(self.encode_behind(parts));
        records
    }
}

/// Joins entries from the records of a journal, read in order.
#[derive(Debug, Default)]
pub struct Assembler {
    transaction: u64,
    parts: u64,
    rows: Vec<UsedBroadcastRow>,
}

impl Assembler {
    /// Takes the next record of the journal. Returns the entry if the record completes an entry.
    pub fn take(&mut self, bytes: &[u8]) -> Result<Option<JournalEntry>, UnreadableMeta> {
        const APART: UnreadableMeta =
            UnreadableMeta::Damaged("a journal entry, whose parts do not belong together,");
        match JournalPart::decode(bytes)? {
            Some(part) => {
                if part.number != self.parts
                    || self.parts > 0 && part.transaction != self.transaction
                {
                    return Err(APART);
                }

                (self.transaction, self.parts) = (part.transaction, self.parts + 1);
                self.rows.extend(part.rows);
                Ok(None)
            }
            None => {
                let (mut entry, parts) = JournalEntry::decode_last(bytes)?;
                if parts != self.parts || parts > 0 && entry.transaction != self.transaction {
                    return Err(APART);
                }

                if parts > 0 {
                    let rest = std::mem::replace(&mut entry.rows, std::mem::take(&mut self.rows));
                    entry.rows.extend(rest);
                    self.parts = 0;
                }

                Ok(Some(entry))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::checkpoint::Checkpoint;
    use super::super::digest::Digest;
    use super::*;
    use ports::topics::{TopicId, TopicPartition};

    fn entry(rows: usize, bytes: usize) -> JournalEntry {
        let row = |i: usize| UsedBroadcastRow {
            table: TopicId(2),
            key: format!("S{i}").into_bytes().into(),
            version: i as u64 + 1,
            value: vec![b'x'; bytes].into(),
        };

        JournalEntry {
            transaction: 300,
            offsets: vec![(TopicPartition::new(TopicId(0), 2), 17)],
            digest: Digest(5),
            forget: true,
            rows: (0..rows).map(row).collect(),
            settings: Some(b"{}".to_vec()),
        }
    }

    fn read(records: &[Vec<u8>]) -> Result<Vec<JournalEntry>, UnreadableMeta> {
        let mut assembler = Assembler::default();
        let read = records
            .iter()
            .map(|bytes| assembler.take(bytes))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(read.into_iter().flatten().collect())
    }

    #[test]
    fn an_entry_that_fits_is_one_record_as_ever() {
        let e = entry(3, 10);
        assert_eq!(e.encode_all(PART_BYTES), [e.encode()]);
        assert_eq!(read(&e.encode_all(PART_BYTES)).unwrap(), [e]);
    }

    #[test]
    fn rows_that_are_too_many_for_one_record_go_into_parts() {
        for (rows, bytes) in [(600, 2_200), (17, 64 << 10), (3, 400 << 10)] {
            let e = entry(rows, bytes);
            let records = e.encode_all(PART_BYTES);
            assert!(records.len() > 2, "{}", records.len());
            assert!(
                records
                    .iter()
                    .all(|r| r.len() <= PART_BYTES.max(bytes + 64)),
                "{:?}",
                records.iter().map(Vec::len).collect::<Vec<_>>()
            );

            // Two large transactions with a small one between them.
            let all = [records.clone(), entry(1, 1).encode_all(PART_BYTES), records].concat();
            assert_eq!(read(&all).unwrap(), [e.clone(), entry(1, 1), e]);
        }
    }

    #[test]
    fn parts_that_do_not_belong_together_are_damage() {
        let records = entry(4, 100).encode_all(150);
        assert_eq!(records.len(), 5);
        for left_out in 0..4 {
            let mut cut = records.clone();
            cut.remove(left_out);
            assert!(
                matches!(read(&cut), Err(UnreadableMeta::Damaged(_))),
                "without part {left_out}"
            );
        }

        let mut other = entry(4, 100);
        other.transaction += 1;
        let mut mixed = records.clone();
        mixed[4] = other.encode_all(150).remove(4);
        assert!(matches!(read(&mixed), Err(UnreadableMeta::Damaged(_))));
        let mut doubled = records.clone();
        doubled.insert(1, records[0].clone());
        assert!(matches!(read(&doubled), Err(UnreadableMeta::Damaged(_))));
        for cut in 0..records[0].len() {
            assert!(read(&[records[0][..cut].to_vec()]).is_err(), "cut at {cut}");
        }

        // A part or the last record alone is not a complete entry.
        assert!(
            JournalEntry::decode(&records[0]).is_err()
                && JournalEntry::decode(&records[4]).is_err()
        );
    }

    /// A reader like those of builds before parts. The reader of meta records still works like
    /// this. Such a reader must not accept a part as a known record.
    #[test]
    fn a_version_from_before_parts_says_that_a_newer_one_wrote_them() {
        let records = entry(4, 100).encode_all(150);
        let refused = Checkpoint::decode(&records[0]).unwrap_err();
        assert!(
            matches!(
                refused,
                UnreadableMeta::Newer {
                    version: VERSION,
                    ..
                }
            ),
            "{refused}"
        );

        assert!(
            refused
                .to_string()
                .contains("use the version that wrote it, or a newer one"),
            "{refused}"
        );
    }

    /// Golden bytes: every later version must read them.
    #[test]
    fn a_part_of_version_1_is_read_for_ever() {
        let golden = [&[0x80, 0x80, 4, 0xac, 2, 1, 1, 2, 2, b'S', b'0', 1, 1, b'x'][..]].concat();
        let mut rows = entry(1, 1).rows;
        let part = JournalPart {
            transaction: 300,
            number: 1,
            rows: std::mem::take(&mut rows),
        };

        assert_eq!(JournalPart::decode(&golden).unwrap(), Some(part.clone()));
        assert_eq!(part.encode(), golden);

        // The entry behind two parts. Settings and the number of parts are encoded as rows.
        let last = [
            &[2, 0xac, 2, 1, 0, 2, 17][..],
            &5_u128.to_be_bytes(),
            &[
                1, 2, 0xff, 0xff, 3, 0, 0, 2, b'{', b'}', 0xfe, 0xff, 3, 0, 2, 0,
            ],
        ]
        .concat();

        let (read, parts) = JournalEntry::decode_last(&last).unwrap();
        assert_eq!(
            (read, parts),
            (
                JournalEntry {
                    rows: Vec::new(),
                    ..entry(0, 0)
                },
                2
            )
        );
    }
}
