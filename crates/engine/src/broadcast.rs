//! Broadcast tables: compacted topics of one partition. Every instance keeps all rows in memory and
//! reads the topics to their end before the first command.
//!
//! A decision may depend on the version of a row, and compaction removes old versions. Each task
//! therefore notes in its journal every used row version that is new to the task. A replay takes
//! the rows from the journal and needs no broadcast topic.

use std::collections::BTreeMap;
use std::sync::Arc;

use indexmap::IndexMap;
use ports::records::Record;
use ports::topics::TopicId;
use rustc_hash::FxBuildHasher;

/// A row: value and version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BroadcastRow<'a> {
    /// Rises with every change of the row. The record's offset plus 1, or 0 for a row that is not
    /// in the topic.
    pub version: u64,
    pub value: &'a [u8],
}

#[derive(Clone, Debug)]
struct StoredBroadcastRow {
    version: u64,
    value: Arc<[u8]>,
}

/// Rows of several tables. A removed row stays as an empty value, so that tasks notice the removal.
#[derive(Clone, Debug, Default)]
pub struct Tables {
    rows: BTreeMap<TopicId, IndexMap<Box<[u8]>, StoredBroadcastRow, FxBuildHasher>>,
}

impl Tables {
    /// Applies a record. Returns true if a row changed. The role must filter records that do not
    /// fit the table, because the content is not checked here.
    pub fn apply(&mut self, r: &Record<'_>) -> bool {
        let Some(key) = r.key else { return false };
        self.set(r.at.topic, key, r.offset + 1, r.value.unwrap_or_default())
    }

    /// Sets a row, unless the stored version is as new. Version 0 is for rows that are not in the
    /// topic (yet), and always replaces the row.
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

    /// Sets a row to the value recorded in a journal, for a replay. An empty value means that the
    /// row was absent.
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

    /// The row of a key. `None` if the row never existed or was removed.
    pub fn get(&self, table: TopicId, key: &[u8]) -> Option<BroadcastRow<'_>> {
        let s = self.rows.get(&table)?.get(key)?;
        (!s.value.is_empty()).then_some(BroadcastRow {
            version: s.version,
            value: &s.value,
        })
    }

    /// All existing rows of a table, in the order of their first appearance.
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

/// A row version that a task used for the first time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsedBroadcastRow {
    pub table: TopicId,
    pub key: Box<[u8]>,
    pub version: u64,
    /// The row's value. Empty if the row was absent.
    pub value: Box<[u8]>,
}

/// The tables for one task: shared rows, and notes about the rows used.
#[derive(Debug, Default)]
pub struct TableView {
    /// The rows. The tasks of an instance share them; the engine replaces them between batches.
    pub tables: Arc<Tables>,
    journaled: bool,
    /// The last noted version of each row; absence is noted as [`ABSENT`].
    noted: BTreeMap<TopicId, IndexMap<Box<[u8]>, u64, FxBuildHasher>>,
    fresh: Vec<UsedBroadcastRow>,
    fresh_bytes: usize,
    /// True after the first call of [`Self::take_fresh`].
    taken: bool,
}

/// The noted version of an absent row.
pub const ABSENT: u64 = u64::MAX;

impl TableView {
    /// A view. `journaled` selects whether used rows are noted.
    pub fn new(tables: Arc<Tables>, journaled: bool) -> Self {
        TableView {
            tables,
            journaled,
            ..Default::default()
        }
    }

    /// The row of a key. A version that is new to this task is noted.
    pub fn lookup(&mut self, table: TopicId, key: &[u8]) -> Option<BroadcastRow<'_>> {
        let row = self.tables.get(table, key);
        if self.journaled {
            let version = row.map_or(ABSENT, |r| r.version);
            let noted = self.noted.entry(table).or_default();

            // A replay assumes absence for unknown rows. Noting the absence would let unknown
            // symbols from clients fill the memory.
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

    /// True if a table has no rows and the task has noted no rows of the table. A lookup then finds
    /// and notes nothing.
    pub fn is_empty(&self, table: TopicId) -> bool {
        let none = |rows: Option<usize>| rows.is_none_or(|n| n == 0);
        none(self.tables.rows.get(&table).map(IndexMap::len))
            && none(self.noted.get(&table).map(IndexMap::len))
    }

    /// Largest size of the newly noted rows in the journal.
    pub fn fresh_bytes(&self) -> usize {
        self.fresh_bytes
    }

    /// Takes the rows noted since the last call, for the journal entry of the transaction. The flag
    /// is true at the first call. Notes of earlier incarnations are then void, because rows may
    /// have vanished since.
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
