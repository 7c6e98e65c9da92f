//! Broadcast tables: compacted one-partition topics that every instance holds whole, read to their
//! end before the first command.
//!
//! A decision may depend on which version of a row was in force, and compaction forgets old
//! versions. So each task notes in its journal every row it used that it had not noted before; a
//! replay takes the rows from there and needs no broadcast topic at all.

use std::collections::BTreeMap;
use std::sync::Arc;

use indexmap::IndexMap;
use rustc_hash::FxBuildHasher;

use ports::records::Record;
use ports::topics::TopicId;

/// A row: its value and the offset of the record that brought it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BroadcastRow<'a> {
    /// Rises with every change of the row.
    pub version: u64,
    /// The record's value.
    pub value: &'a [u8],
}

#[derive(Clone, Debug)]
struct StoredBroadcastRow {
    version: u64,
    value: Arc<[u8]>,
}

/// Rows of some tables. A removed row stays as an empty value, so that its removal is seen.
#[derive(Clone, Debug, Default)]
pub struct Tables {
    rows: BTreeMap<TopicId, IndexMap<Box<[u8]>, StoredBroadcastRow, FxBuildHasher>>,
}

impl Tables {
    /// Folds a record in; true if it changed anything. Records that do not suit a table are the
    /// role's to ignore: here bytes are bytes.
    pub fn apply(&mut self, r: &Record<'_>) -> bool {
        let Some(key) = r.key else { return false };
        self.set(r.at.topic, key, r.offset + 1, r.value.unwrap_or_default())
    }

    /// Sets a row unless it is as new already. Version 0 is for rows that are not in the topic
    /// (yet).
    pub fn set(&mut self, table: TopicId, key: &[u8], version: u64, value: &[u8]) -> bool {
        let rows = self.rows.entry(table).or_default();
        match rows.get_mut(key) {
            Some(old) if old.version >= version && version > 0 => false,
            Some(old) => {
                *old = StoredBroadcastRow {
                    version,
                    value: value.into(),
                };

                true
            }
            None => {
                rows.insert(
                    key.into(),
                    StoredBroadcastRow {
                        version,
                        value: value.into(),
                    },
                );

                true
            }
        }
    }

    /// Sets a row to what a task saw, in a replay; absence included.
    pub fn force(&mut self, seen: &UsedBroadcastRow) {
        let rows = self.rows.entry(seen.table).or_default();
        rows.insert(
            seen.key.clone(),
            StoredBroadcastRow {
                version: seen.version,
                value: (*seen.value).into(),
            },
        );
    }

    /// The row of a key; none if it never was or was removed.
    pub fn get(&self, table: TopicId, key: &[u8]) -> Option<BroadcastRow<'_>> {
        let s = self.rows.get(&table)?.get(key)?;
        (!s.value.is_empty()).then_some(BroadcastRow {
            version: s.version,
            value: &s.value,
        })
    }

    /// All rows of a table that are there, in the order in which their keys were first seen.
    pub fn iter(&self, table: TopicId) -> impl Iterator<Item = (&[u8], BroadcastRow<'_>)> {
        let rows = self.rows.get(&table).into_iter().flatten();
        rows.filter(|(_, s)| !s.value.is_empty()).map(|(k, s)| {
            (
                &**k,
                BroadcastRow {
                    version: s.version,
                    value: &s.value,
                },
            )
        })
    }
}

/// A row that a task used for the first time at this version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsedBroadcastRow {
    /// The table.
    pub table: TopicId,
    /// The row's key.
    pub key: Box<[u8]>,
    /// The version used.
    pub version: u64,
    /// Its value; empty: there was no such row.
    pub value: Box<[u8]>,
}

/// Tables as one task sees them: shared rows, and a note of what the task has used.
#[derive(Debug, Default)]
pub struct TableView {
    /// The rows; shared by the tasks of an instance, replaced between batches.
    pub tables: Arc<Tables>,
    journaled: bool,
    /// The version last noted of each row; absence counts as [`ABSENT`].
    noted: BTreeMap<TopicId, IndexMap<Box<[u8]>, u64, FxBuildHasher>>,
    fresh: Vec<UsedBroadcastRow>,
    fresh_bytes: usize,
    /// Whether something was taken from this view before.
    taken: bool,
}

/// Stands for "there was no such row" among noted versions.
pub const ABSENT: u64 = u64::MAX;

impl TableView {
    /// A view; `journaled` says whether use is noted.
    pub fn new(tables: Arc<Tables>, journaled: bool) -> Self {
        TableView {
            tables,
            journaled,
            ..Default::default()
        }
    }

    /// The row of a key, noted when it is not what this task saw last.
    pub fn lookup(&mut self, table: TopicId, key: &[u8]) -> Option<BroadcastRow<'_>> {
        let row = self.tables.get(table, key);
        if self.journaled {
            let version = row.map_or(ABSENT, |r| r.version);
            let noted = self.noted.entry(table).or_default();

            // A row that never was is what a replay assumes anyway; noting it would let strangers'
            // symbols fill the memory.
            if noted.get(key).copied().unwrap_or(ABSENT) != version {
                noted.insert(key.into(), version);
                let value = row.map_or(&[][..], |r| r.value).into();
                let seen = UsedBroadcastRow {
                    table,
                    key: key.into(),
                    version,
                    value,
                };

                self.fresh_bytes += super::journal::size(&seen);
                self.fresh.push(seen);
            }
        }

        row
    }

    /// Whether a table has no row, and never had one that this task saw: then no lookup finds or
    /// notes anything.
    pub fn is_empty(&self, table: TopicId) -> bool {
        let none = |rows: Option<usize>| rows.is_none_or(|n| n == 0);
        none(self.tables.rows.get(&table).map(IndexMap::len))
            && none(self.noted.get(&table).map(IndexMap::len))
    }

    /// Bytes that the rows seen anew will take in the journal, at most.
    pub fn fresh_bytes(&self) -> usize {
        self.fresh_bytes
    }

    /// The rows seen anew since the last call; they go into the journal with the transaction. The
    /// flag says that this is the first call: whatever an earlier incarnation noted counts no more,
    /// rows may have vanished since.
    pub fn take_fresh(&mut self) -> (bool, Vec<UsedBroadcastRow>) {
        self.fresh_bytes = 0;
        (
            !std::mem::replace(&mut self.taken, true),
            std::mem::take(&mut self.fresh),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_noted_when_it_is_not_what_was_seen_last() {
        let table = TopicId(0);
        let mut tables = Tables::default();
        let mut view = TableView::new(Arc::default(), true);
        let mut look = |tables: &Tables| {
            view.tables = Arc::new(tables.clone());
            view.lookup(table, b"k");
            view.take_fresh()
                .1
                .into_iter()
                .map(|s| (s.version, s.value.to_vec()))
                .collect::<Vec<_>>()
        };

        assert_eq!(look(&tables), [], "absent as ever");
        tables.set(table, b"k", 1, b"one");
        assert_eq!(look(&tables), [(1, b"one".to_vec())]);
        assert_eq!(look(&tables), [], "seen before");
        tables.set(table, b"k", 2, b"");
        assert_eq!(look(&tables), [(ABSENT, vec![])], "gone");
        tables.set(table, b"k", 3, b"two");
        assert_eq!(look(&tables), [(3, b"two".to_vec())]);
        assert!(
            !tables.set(table, b"k", 2, b"old"),
            "an older version does not come back"
        );
    }
}
