//! Storage in memory, for tests, benches and data that may be lost.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use ports::LogError;

use super::batch::PackedBatch;
use super::storage::{Compacted, Loaded, Storage, StorageCommit, StoredPartition, TopicRow};

/// Keeps all data in maps. Clones share the maps: a test can close a log and reopen the data.
#[derive(Clone)]
pub struct Memory {
    id: String,
    kept: Arc<Mutex<StoredBatch>>,
}

#[derive(Default)]
struct StoredBatch {
    topics: Vec<TopicRow>,
    batches: BTreeMap<StoredPartition, BTreeMap<u64, Arc<PackedBatch>>>,
    offsets: BTreeMap<(String, u16, u32), u64>,
    compacted: BTreeMap<StoredPartition, Compacted>,
}

impl Default for Memory {
    fn default() -> Self {
        Memory {
            id: uuid::Uuid::now_v7().to_string(),
            kept: Arc::default(),
        }
    }
}

impl Memory {
    /// An independent copy of all data.
    pub fn fork(&self) -> Memory {
        let kept = self.kept();
        let copy = StoredBatch {
            topics: kept.topics.clone(),
            batches: kept.batches.clone(),
            offsets: kept.offsets.clone(),
            compacted: kept.compacted.clone(),
        };

        Memory {
            id: self.id.clone(),
            kept: Arc::new(Mutex::new(copy)),
        }
    }

    fn kept(&self) -> MutexGuard<'_, StoredBatch> {
        self.kept
            .lock()
            .expect("nobody panics while holding the maps")
    }
}

impl Storage for Memory {
    fn cluster_id(&self) -> &str {
        &self.id
    }

    fn load(&self) -> Result<Loaded, LogError> {
        let kept = self.kept();
        let offsets = kept
            .offsets
            .iter()
            .map(|((group, topic, partition), o)| (group.clone(), *topic, *partition, *o))
            .collect();
        Ok(Loaded {
            topics: kept.topics.clone(),
            offsets,
        })
    }

    fn add_topic(&self, row: &TopicRow) -> Result<(), LogError> {
        self.kept().topics.push(row.clone());
        Ok(())
    }

    fn commit(&self, commit: &StorageCommit<'_>) -> Result<(), LogError> {
        let mut kept = self.kept();
        for (at, batch) in commit.batches {
            kept.batches
                .entry(*at)
                .or_default()
                .insert(batch.base(), batch.clone());
        }

        for (at, offset) in commit.offsets {
            kept.offsets
                .insert((commit.group.to_string(), at.topic, at.partition), *offset);
        }

        Ok(())
    }

    fn read(
        &self,
        at: StoredPartition,
        from: u64,
        bytes: usize,
    ) -> Result<Vec<Arc<PackedBatch>>, LogError> {
        let kept = self.kept();
        let Some(batches) = kept.batches.get(&at) else {
            return Ok(Vec::new());
        };

        let start = batches
            .range(..=from)
            .next_back()
            .filter(|(_, b)| b.last() >= from)
            .map_or(from, |(base, _)| *base);
        let mut found = Vec::new();
        let mut size = 0;
        for batch in batches.range(start..).map(|(_, b)| b) {
            size += batch.as_bytes().len();
            found.push(batch.clone());
            if size >= bytes {
                break;
            }
        }

        Ok(found)
    }

    fn last(&self, at: StoredPartition) -> Result<Option<Arc<PackedBatch>>, LogError> {
        Ok(self
            .kept()
            .batches
            .get(&at)
            .and_then(|b| b.last_key_value().map(|(_, b)| b.clone())))
    }

    fn compacted(&self, at: StoredPartition) -> Result<Compacted, LogError> {
        Ok(self.kept().compacted.get(&at).copied().unwrap_or_default())
    }

    fn replace(
        &self,
        at: StoredPartition,
        old: &[u64],
        new: Option<&PackedBatch>,
    ) -> Result<(), LogError> {
        let mut kept = self.kept();
        let batches = kept.batches.entry(at).or_default();
        for base in old {
            batches.remove(base);
        }

        if let Some(new) = new {
            let copy = PackedBatch::parse(new.base(), new.as_bytes().to_vec())
                .map_err(|e| LogError::Corrupt(e.to_string()))?;
            batches.insert(new.base(), copy);
        }

        Ok(())
    }

    fn set_compacted(&self, at: StoredPartition, to: Compacted) -> Result<(), LogError> {
        self.kept().compacted.insert(at, to);
        Ok(())
    }
}
