//! The storage of the local log: a few calls that RocksDB and a map in memory can implement.

use std::sync::Arc;

use ports::LogError;
use ports::topics::{Cleanup, TopicSpec};
use serde::{Deserialize, Serialize};

use super::batch::PackedBatch;

/// A topic in the storage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicRow {
    /// Format of the row. The first rows have no such field.
    #[serde(default)]
    pub v: u8,
    /// Number of the topic in the storage. Not a `TopicId`: several prefixes share a storage.
    pub number: u16,
    /// Full name, with prefix.
    pub name: String,
    pub partitions: u32,
    /// True if the topic is compacted.
    pub compact: bool,
    /// True if the log stamps records (append time).
    pub append_time: bool,
    /// Maximum record size in bytes.
    pub record_bytes_max: u32,
}

impl TopicRow {
    pub fn new(number: u16, name: &str, spec: &TopicSpec, partitions: u32) -> Self {
        TopicRow {
            v: super::format::VERSION,
            number,
            name: name.to_string(),
            partitions,
            compact: spec.cleanup == Cleanup::Compact,
            append_time: spec.append_time,
            record_bytes_max: spec.record_bytes_max,
        }
    }

    /// Differences from the specification, as texts.
    pub fn mismatches(&self, spec: &TopicSpec) -> Vec<String> {
        let mut found = Vec::new();
        let kept = |compact: bool| if compact { "compact" } else { "keep" };
        let time = |append: bool| {
            if append {
                "append time"
            } else {
                "the writer's time"
            }
        };

        if self.compact != (spec.cleanup == Cleanup::Compact) {
            found.push(format!(
                "clean-up is {}, must be {}",
                kept(self.compact),
                kept(!self.compact)
            ));
        }

        if self.append_time != spec.append_time {
            found.push(format!(
                "records carry {}, must carry {}",
                time(self.append_time),
                time(spec.append_time)
            ));
        }

        if self.record_bytes_max < spec.record_bytes_max {
            found.push(format!(
                "records may have {} bytes, must be allowed {}",
                self.record_bytes_max, spec.record_bytes_max
            ));
        }

        found
    }
}

/// A partition of a topic in the storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StoredPartition {
    pub topic: u16,
    pub partition: u32,
    /// True if the topic is compacted. Only such batches are rewritten, so they are stored
    /// separately.
    pub compact: bool,
}

/// Compaction progress of a partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compacted {
    /// All batches before this offset were checked.
    pub to: u64,
    /// [`PackedBatch::log_bytes`] at this offset.
    pub log_bytes: u64,
    /// Bytes left after the compaction.
    pub kept_bytes: u64,
}

/// Content of the storage at the opening of the log.
#[derive(Default)]
pub struct Loaded {
    /// Topics by number.
    pub topics: Vec<TopicRow>,
    /// Group, topic number, partition, next offset.
    pub offsets: Vec<(String, u16, u32, u64)>,
}

/// New batches and, from a transaction, the new offsets of its group. The commit is atomic.
pub struct StorageCommit<'a> {
    pub batches: &'a [(StoredPartition, Arc<PackedBatch>)],
    pub group: &'a str,
    pub offsets: &'a [(StoredPartition, u64)],
}

/// Stores batches, topics and offsets. Calls of [`Self::commit`] and [`Self::add_topic`] come one
/// at a time, and so do calls of [`Self::sync`]. All other calls may come at any time.
pub trait Storage: Send + Sync {
    /// Id of the log, created together with the storage.
    fn cluster_id(&self) -> &str;
    /// Returns the reason if the storage cannot be written.
    fn read_only(&self) -> Option<String> {
        None
    }
    /// All topics and group offsets.
    fn load(&self) -> Result<Loaded, LogError>;
    fn add_topic(&self, row: &TopicRow) -> Result<(), LogError>;
    /// Makes the disk write all transactions that were committed before this call.
    fn sync(&self) -> Result<(), LogError> {
        Ok(())
    }
    /// Writes atomically.
    fn commit(&self, commit: &StorageCommit<'_>) -> Result<(), LogError>;
    /// Batches in order, from the batch that holds `from`, or else from the next batch. Returns at
    /// least one batch if one exists, and stops after `bytes` are reached.
    fn read(
        &self,
        at: StoredPartition,
        from: u64,
        bytes: usize,
    ) -> Result<Vec<Arc<PackedBatch>>, LogError>;
    /// The last batch.
    fn last(&self, at: StoredPartition) -> Result<Option<Arc<PackedBatch>>, LogError>;
    /// Compaction progress of the partition.
    fn compacted(&self, at: StoredPartition) -> Result<Compacted, LogError>;
    /// Replaces the batches that begin at the offsets `old` by one batch (or none), atomically.
    fn replace(
        &self,
        at: StoredPartition,
        old: &[u64],
        new: Option<&PackedBatch>,
    ) -> Result<(), LogError>;
    /// Stores the compaction progress of the partition.
    fn set_compacted(&self, at: StoredPartition, to: Compacted) -> Result<(), LogError>;
}
