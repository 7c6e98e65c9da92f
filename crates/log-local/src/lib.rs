//! The log of a single process: embedded in a directory ([`LocalLog::open`]) or in memory
//! ([`LocalLog::in_memory`]).
//!
//! The log keeps the promises of the port in a simple way. A transaction is one atomic write of the
//! storage, and writers take turns. So no transaction is ever open, every readable record is
//! stable, and a reader needs no isolation level. This log is not a broker: several processes need
//! Kafka.
#![warn(unreachable_pub)]

mod appender;
pub mod batch;
pub mod clock;
mod compact;
mod core;
mod fetch;
pub mod format;
mod groups;
mod member;
mod memory;
mod pending;
mod reader;
#[cfg(feature = "rocks")]
mod rocks;
mod storage;
mod syncer;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use ports::records::{Record, Records};
use ports::topics::{TopicId, TopicPartition, TopicSpec, TopicTable};
use ports::{
    Appender, Bounds, Committed, Log, LogError, Member, MemberSpec, Reader, StartOffset, TopicState,
};
use rustc_hash::FxHashMap;

use self::batch::Builder;
use self::clock::StampClock;
pub use self::compact::Compaction;
use self::core::{Core, CoreState, LocalTopic, PartId};
pub use self::memory::Memory;
pub use self::storage::Storage;
use self::storage::{StoredPartition, TopicRow};

/// The durability that a commit waits for before the acknowledgement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// The disk: an acknowledged commit survives a power failure. Concurrent commits share one
    /// sync.
    Disk,
    /// The operating system: an acknowledged commit survives the death of the process at any point.
    /// A power failure loses the data that the system had not written yet: whole transactions from
    /// the end of the log.
    #[default]
    Os,
}

/// Settings of a local log.
#[derive(Clone)]
pub struct LocalOptions {
    /// Stamps records of topics with append time. The stamps of a partition do not fall, unless the
    /// clock falls by more than [`clock::STEP_MS`].
    pub clock: StampClock,
    pub durability: Durability,
    /// Bytes at the end of each partition that stay in memory, for readers near the end.
    pub tail_bytes: usize,
    /// Growth in bytes after which a partition of a compacted topic is compacted (the partition
    /// must also have doubled).
    pub compact_bytes: u64,
    /// Lifetime of tombstones in ms, by record time. A reader that was away still sees the
    /// deletion.
    pub tombstones_ms: i64,
    /// Time that a member keeps its seat after it leaves.
    pub rejoin: Duration,
    /// Time that a client's record waits for more records before the write.
    pub linger: Duration,
}

impl Default for LocalOptions {
    fn default() -> Self {
        LocalOptions {
            clock: clock::of_the_machine(),
            durability: Durability::default(),
            tail_bytes: 2 << 20,
            compact_bytes: 64 << 20,
            tombstones_ms: 24 * 3600 * 1000,
            rejoin: Duration::from_millis(500),
            linger: Duration::from_micros(500),
        }
    }
}

/// The local log, for one table of topics. Clones and [`Self::with_topics`] share all state.
#[derive(Clone)]
pub struct LocalLog {
    handle: Arc<LogHandle>,
    owner: Arc<ThreadOwner>,
}

/// Stops the threads when the last log is dropped. The directory is free after the last member,
/// reader and writer are dropped too.
struct ThreadOwner {
    core: Arc<Core>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl ThreadOwner {
    fn start(&mut self, name: &str, work: fn(&Core)) -> Result<(), LogError> {
        let theirs = self.core.clone();
        let thread = std::thread::Builder::new()
            .name(name.to_string())
            .spawn(move || work(&theirs));
        let thread =
            thread.map_err(|e| LogError::Unavailable(format!("no thread can be started: {e}")))?;
        self.threads
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .push(thread);
        Ok(())
    }
}

impl Drop for ThreadOwner {
    fn drop(&mut self) {
        self.core.stop.store(true, Ordering::Release);
        self.core.wanted.ask();
        self.core.unsynced.stop();
        for thread in self
            .threads
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .drain(..)
        {
            // The thread has already printed its panic, and a destructor cannot pass the panic on.
            let _joined = thread.join();
        }
    }
}

/// The parts that members, readers and writers share: the log and the names of its topics.
pub(crate) struct LogHandle {
    core: Arc<Core>,
    table: Arc<TopicTable>,
    /// Topics found so far, by [`TopicId`]. Topics are never deleted.
    known: RwLock<Vec<Option<Arc<LocalTopic>>>>,
}

impl LocalLog {
    /// Creates a log in memory.
    pub fn in_memory(table: &TopicTable) -> Self {
        Self::with_storage(Box::new(Memory::default()), table, LocalOptions::default())
            .expect("memory cannot fail to open")
    }

    /// Creates a log on any storage.
    pub fn with_storage(
        storage: Box<dyn Storage>,
        table: &TopicTable,
        options: LocalOptions,
    ) -> Result<Self, LogError> {
        let core = Arc::new(Core::open(storage, options)?);
        let handle = LogHandle::new(core.clone(), table);

        // Create the owner first. If the second thread cannot start, the owner's drop stops the
        // first thread.
        let mut owner = ThreadOwner {
            core,
            threads: Mutex::default(),
        };

        if owner.core.storage.read_only().is_none() {
            owner.start("log-compactor", compact::run)?;
            if owner.core.syncs_later() {
                owner.start("log-syncer", syncer::run)?;
            }
        }

        Ok(LocalLog {
            handle,
            owner: Arc::new(owner),
        })
    }

    /// Opens or creates the embedded log in a directory. Only one process may open the log.
    #[cfg(feature = "rocks")]
    pub fn open(
        dir: &std::path::Path,
        table: &TopicTable,
        options: LocalOptions,
    ) -> Result<Self, LogError> {
        Self::with_storage(
            Box::new(rocks::Rocks::open(dir, options.durability)?),
            table,
            options,
        )
    }

    /// Opens an embedded log for reading, even while another process writes to the log. The result
    /// is a snapshot of this moment, and writes fail.
    #[cfg(feature = "rocks")]
    pub fn open_read_only(dir: &std::path::Path, table: &TopicTable) -> Result<Self, LogError> {
        Self::with_storage(
            Box::new(rocks::Rocks::open_read_only(dir)?),
            table,
            LocalOptions::default(),
        )
    }

    /// The same log for other topics.
    pub fn with_topics(&self, table: &TopicTable) -> Self {
        LocalLog {
            handle: LogHandle::new(self.owner.core.clone(), table),
            owner: self.owner.clone(),
        }
    }

    /// Compacts all compacted topics now, as far as possible. Batches in memory for readers are not
    /// compacted.
    pub fn compact(&self) -> Result<Compaction, LogError> {
        let core = &self.owner.core;
        core.writable()?;
        let places: Vec<StoredPartition> = core
            .state()
            .parts
            .iter()
            .map(|p| p.place)
            .filter(|p| p.compact)
            .collect();

        let mut all = Compaction::default();
        for place in places {
            let one = compact::compact(core, place)?;
            (all.read, all.dropped) = (all.read + one.read, all.dropped + one.dropped);
        }

        Ok(all)
    }
}

impl LogHandle {
    fn new(core: Arc<Core>, table: &TopicTable) -> Arc<Self> {
        let known = RwLock::new(vec![None; table.iter().count()]);
        Arc::new(LogHandle {
            core,
            table: Arc::new(table.clone()),
            known,
        })
    }

    fn find(&self, topic: TopicId) -> Option<Arc<LocalTopic>> {
        let known =
            |found: &[Option<Arc<LocalTopic>>]| found.get(topic.0 as usize).cloned().flatten();
        if let Some(found) = known(&self.known.read().unwrap_or_else(PoisonError::into_inner)) {
            return Some(found);
        }

        let found = self.core.state().topic(self.table.name(topic)).cloned()?;
        self.known.write().unwrap_or_else(PoisonError::into_inner)[topic.0 as usize] =
            Some(found.clone());
        Some(found)
    }

    fn topic(&self, topic: TopicId) -> Result<Arc<LocalTopic>, LogError> {
        let name = self.table.name(topic);
        self.find(topic).ok_or_else(|| {
            LogError::Invalid(format!(
                "topic {name} does not exist; make it with `processor topics create`"
            ))
        })
    }

    /// The topic with this number in the storage, if the topic is in our table.
    fn topic_id(&self, state: &CoreState, number: u16) -> Option<TopicId> {
        state
            .topics
            .iter()
            .find(|t| t.row.number == number)
            .and_then(|t| self.table.find(&t.row.name))
    }

    /// Index, stored partition and end of a partition.
    fn part(&self, at: TopicPartition) -> Result<(PartId, StoredPartition, u64), LogError> {
        let topic = self.topic(at.topic)?;
        let part = self.part_of(&topic, at)?;
        let state = self.core.state();
        Ok((part, state.parts[part].place, state.parts[part].end))
    }

    fn part_of(&self, topic: &LocalTopic, at: TopicPartition) -> Result<PartId, LogError> {
        if at.partition >= topic.row.partitions {
            let name = &topic.row.name;
            let count = topic.row.partitions;
            return Err(LogError::Invalid(format!(
                "topic {name} has {count} partitions and none with number {}",
                at.partition
            )));
        }

        Ok(topic.first + at.partition as usize)
    }

    /// Checks that the log accepts a record. The rules are the same as a broker's.
    fn check(&self, r: &Record<'_>) -> Result<PartId, LogError> {
        let topic = self.topic(r.at.topic)?;
        self.check_for(&topic, r)?;
        self.part_of(&topic, r.at)
    }

    fn check_for(&self, topic: &LocalTopic, r: &Record<'_>) -> Result<(), LogError> {
        let size = r.key.map_or(0, <[u8]>::len)
            + r.value.map_or(0, <[u8]>::len)
            + r.headers.as_bytes().len();
        let row = &topic.row;
        if size > row.record_bytes_max as usize {
            return Err(LogError::Invalid(format!(
                "a record of {size} bytes is too large for topic {}, which takes {}",
                row.name, row.record_bytes_max
            )));
        }

        if row.compact && r.key.is_none() {
            return Err(LogError::Invalid(format!(
                "a record without a key cannot go to topic {}, which is compacted",
                row.name
            )));
        }

        Ok(())
    }

    /// Sorts records into one batch for each partition. Takes no lock that other threads wait for.
    fn pack(&self, records: &Records) -> Result<Vec<(TopicPartition, PartId, Builder)>, LogError> {
        let mut packed: Vec<(TopicPartition, PartId, Arc<LocalTopic>, Builder)> = Vec::new();
        let mut places: FxHashMap<TopicPartition, usize> = FxHashMap::default();
        for r in records.iter() {
            let i = match places.get(&r.at) {
                Some(i) => *i,
                None => {
                    let topic = self.topic(r.at.topic)?;
                    packed.push((r.at, self.part_of(&topic, r.at)?, topic, Builder::default()));
                    places.insert(r.at, packed.len() - 1);
                    packed.len() - 1
                }
            };

            let (_, _, topic, builder) = &mut packed[i];
            self.check_for(topic, &r)?;
            builder.push(&r);
        }

        Ok(packed
            .into_iter()
            .map(|(at, part, _, builder)| (at, part, builder))
            .collect())
    }

    fn offsets(
        &self,
        group: &str,
        partitions: &[TopicPartition],
    ) -> Result<Vec<Option<u64>>, LogError> {
        let mut parts = Vec::with_capacity(partitions.len());
        for at in partitions {
            parts.push(self.part(*at)?.0);
        }

        let state = self.core.state();
        Ok(parts
            .into_iter()
            .map(|part| state.offset(group, part))
            .collect())
    }
}

impl Log for LocalLog {
    fn cluster_id(&self) -> Result<String, LogError> {
        Ok(self.handle.core.storage.cluster_id().to_string())
    }

    fn partitions(&self, topic: TopicId) -> Result<Option<u32>, LogError> {
        Ok(self.handle.find(topic).map(|t| t.row.partitions))
    }

    fn join(&self, spec: &MemberSpec) -> Result<Box<dyn Member>, LogError> {
        let core = &self.handle.core;
        core.writable()?;
        let mut inputs = Vec::with_capacity(spec.inputs.len());
        for input in &spec.inputs {
            let topic = self.handle.topic(input.topic)?;
            inputs.push((topic.row.number, topic.row.partitions));
        }

        let joined = core.exclusively(|state| {
            if let Err(why) = state.check() {
                return (Err(LogError::Io(why)), false);
            }

            let joined = state.groups.join(&spec.group, &spec.instance, &inputs);

            // Always wake all sleepers: a sleeping, fenced predecessor must see the fencing.
            (
                joined.map(|(ticket, _)| ticket).map_err(LogError::Invalid),
                true,
            )
        });

        let ticket = joined?;
        Ok(Box::new(member::LocalMember::new(
            self.handle.clone(),
            ticket,
            spec.inputs.clone(),
        )))
    }

    fn reader(
        &self,
        topic: TopicId,
        from: &[(u32, StartOffset)],
        headers: bool,
    ) -> Result<Box<dyn Reader>, LogError> {
        Ok(Box::new(reader::LocalReader::new(
            self.handle.clone(),
            topic,
            from,
            headers,
        )?))
    }

    fn appender(&self) -> Result<Box<dyn Appender>, LogError> {
        self.handle.core.writable()?;
        Ok(Box::new(appender::LocalAppender::new(self.handle.clone())?))
    }

    fn bounds(&self, at: TopicPartition) -> Result<Bounds, LogError> {
        let (_, _, end) = self.handle.part(at)?;
        Ok(Bounds {
            start: 0,
            stable_end: end,
            end,
        })
    }

    fn offset_at(&self, at: TopicPartition, time_ms: i64) -> Result<u64, LogError> {
        let (_, place, end) = self.handle.part(at)?;
        let read = |from, bytes| self.handle.core.storage.read(place, from, bytes);

        // The running maximum of times never falls from batch to batch, so a binary search finds
        // the batch. A scan from there finds the record.
        let mut low = 0;
        let mut high = end;
        while low < high {
            let middle = low + (high - low) / 2;
            match read(middle, 1)?.first() {
                Some(batch) if batch.max_time() < time_ms => low = batch.last() + 1,
                Some(batch) => high = batch.base().min(middle).max(low),
                None => high = middle,
            }
        }

        while low < end {
            let batches = read(low, 1 << 20)?;
            let Some(last) = batches.last() else { break };
            let found = batches
                .iter()
                .flat_map(|b| b.iter(at))
                .find(|r| r.offset >= low && r.timestamp_ms >= time_ms);
            if let Some(record) = found {
                return Ok(record.offset);
            }

            low = last.last() + 1;
        }

        Ok(end)
    }

    fn group_offsets(
        &self,
        group: &str,
        partitions: &[TopicPartition],
    ) -> Result<Vec<Option<u64>>, LogError> {
        self.handle.offsets(group, partitions)
    }

    fn committed(&self, group: &str, partitions: &[TopicPartition]) -> Result<Committed, LogError> {
        self.handle
            .offsets(group, partitions)
            .map(Committed::Stable)
    }

    fn create_topic(
        &self,
        topic: TopicId,
        spec: &TopicSpec,
        partitions: u32,
    ) -> Result<(), LogError> {
        let core = &self.handle.core;
        let name = self.handle.table.name(topic);
        core.add_topic(|state| match state.topic(name).map(|t| t.row.partitions) {
            Some(count) if count == partitions => Ok(None),
            Some(count) => Err(LogError::Invalid(format!(
                "topic {name} exists with {count} partitions, not {partitions}; counts cannot be changed: use {count}, or another prefix or directory"
            ))),
            None if partitions == 0 => Err(LogError::Invalid(format!("topic {name} needs at least one partition"))),
            None => {
                core.writable()?;
                let number = u16::try_from(state.topics.len()).map_err(|_| LogError::Invalid("this log has 65536 topics, which is the limit".into()))?;
                Ok(Some(TopicRow::new(number, name, spec, partitions)))
            }
        })
    }

    fn describe_topic(
        &self,
        topic: TopicId,
        spec: &TopicSpec,
    ) -> Result<Option<TopicState>, LogError> {
        Ok(self.handle.find(topic).map(|t| TopicState {
            partitions: t.row.partitions,
            mismatches: t.row.mismatches(spec),
        }))
    }
}
