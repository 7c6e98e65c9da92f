//! What the local log keeps, and where: a few calls that a map in memory can answer as well as
//! RocksDB.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::batch::PackedBatch;
use ports::LogError;
use ports::topics::{Cleanup, TopicSpec};

/// A topic as the storage remembers it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicRow {
    /// Format of the row; absent in the first ones.
    #[serde(default)]
    pub v: u8,
    /// Its number in the storage; not a `TopicId`, for several prefixes share one storage.
    pub number: u16,
    /// Full name.
    pub name: String,
    /// Partitions.
    pub partitions: u32,
    /// Whether only the last record of a key is kept.
    pub compact: bool,
    /// Whether the log stamps records.
    pub append_time: bool,
    /// Largest record.
    pub record_bytes_max: u32,
}

impl TopicRow {
    /// A row for a new topic.
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

    /// What differs from the specification, in words.
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

/// One partition of one topic of the storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StoredPartition {
    /// The topic's number.
    pub topic: u16,
    /// The partition.
    pub partition: u32,
    /// Whether its topic is compacted; such batches are kept apart, for they alone are rewritten.
    pub compact: bool,
}

/// How far a partition was compacted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compacted {
    /// Every batch before this offset was looked at.
    pub to: u64,
    /// [`PackedBatch::log_bytes`] there.
    pub log_bytes: u64,
    /// Bytes that were left of it.
    pub kept_bytes: u64,
}

/// What there was when the log was opened.
#[derive(Default)]
pub struct Loaded {
    /// Topics by number.
    pub topics: Vec<TopicRow>,
    /// Group, topic number, partition, next offset.
    pub offsets: Vec<(String, u16, u32, u64)>,
}

/// New batches and, from a transaction, where its group has got to; all or nothing.
pub struct StorageCommit<'a> {
    /// Batches with their places.
    pub batches: &'a [(StoredPartition, Arc<PackedBatch>)],
    /// The group.
    pub group: &'a str,
    /// Its offsets.
    pub offsets: &'a [(StoredPartition, u64)],
}

/// Keeps batches, topics and offsets. Calls of [`Self::commit`] and [`Self::add_topic`] come one at
/// a time, and so do those of [`Self::sync`]; everything else at any time.
pub trait Storage: Send + Sync {
    /// Identity, made with the storage.
    fn cluster_id(&self) -> &str;
    /// Why nothing can be written, if so.
    fn read_only(&self) -> Option<String> {
        None
    }
    /// Topics and offsets.
    fn load(&self) -> Result<Loaded, LogError>;
    /// Makes a topic.
    fn add_topic(&self, row: &TopicRow) -> Result<(), LogError>;
    /// Has the disk write all that was committed before this call.
    fn sync(&self) -> Result<(), LogError> {
        Ok(())
    }
    /// Writes atomically.
    fn commit(&self, commit: &StorageCommit<'_>) -> Result<(), LogError>;
    /// Batches in order from the one that holds `from`, or else the next: at least one if there is
    /// any, and no more once `bytes` are reached.
    fn read(
        &self,
        at: StoredPartition,
        from: u64,
        bytes: usize,
    ) -> Result<Vec<Arc<PackedBatch>>, LogError>;
    /// The last batch.
    fn last(&self, at: StoredPartition) -> Result<Option<Arc<PackedBatch>>, LogError>;
    /// How far the partition was compacted.
    fn compacted(&self, at: StoredPartition) -> Result<Compacted, LogError>;
    /// Puts one batch (or none) in the place of those that begin at the offsets of `old`,
    /// atomically.
    fn replace(
        &self,
        at: StoredPartition,
        old: &[u64],
        new: Option<&PackedBatch>,
    ) -> Result<(), LogError>;
    /// Remembers how far the partition was compacted.
    fn set_compacted(&self, at: StoredPartition, to: Compacted) -> Result<(), LogError>;
}
