//! The log itself, shared by all handles of a process.
//!
//! Two locks. `turn` is held by whoever writes, from the check of its right to write until its records can be read; so transactions happen one
//! after another, and a join (which takes its turn too) finds its predecessor's transaction decided. `state` guards what is in memory and is held
//! for moments only: records are packed before the turn and copied out after, under no lock.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

use super::Options;
use super::batch::{Builder, Packed};
use super::compact::Wanted;
use super::groups::{Fenced, Groups, Ticket};
use super::storage::{Commit, Compacted, Place, Storage, TopicRow};
use crate::engine::crash::{self, Point};
use crate::engine::ports::LogError;

/// A partition's place in [`State::parts`].
pub type PartId = usize;

pub struct Core {
    pub storage: Box<dyn Storage>,
    pub options: Options,
    pub stop: AtomicBool,
    pub wanted: Wanted,
    /// Held by whoever compacts: two at once would write each other's work away.
    pub compacting: Mutex<()>,
    turn: Mutex<()>,
    state: Mutex<State>,
}

pub struct State {
    pub topics: Vec<Arc<Topic>>,
    pub parts: Vec<Part>,
    pub groups: Groups,
    compact_bytes: u64,
    offsets: FxHashMap<String, BTreeMap<PartId, u64>>,
    /// Woken when any group changes.
    sleepers: Vec<Arc<Condvar>>,
    broken: Option<String>,
}

pub struct Topic {
    pub row: TopicRow,
    /// Its first partition; the others follow.
    pub first: PartId,
}

pub struct Part {
    pub place: Place,
    append_time: bool,
    /// Offset of the next record.
    pub end: u64,
    /// The newest batches, for readers that keep up.
    pub tail: VecDeque<Arc<Packed>>,
    tail_bytes: usize,
    pub max_time: i64,
    pub log_bytes: u64,
    pub compacted: Compacted,
    sleepers: Vec<Arc<Condvar>>,
}

/// Why nothing was written.
pub enum Refused {
    Fenced,
    Stale,
    /// The storage failed in the middle.
    Broken(String),
}

impl Core {
    pub fn open(storage: Box<dyn Storage>, options: Options) -> Result<Self, LogError> {
        let loaded = storage.load()?;
        let groups = Groups::new(options.rejoin);
        let mut state = State {
            topics: vec![],
            parts: vec![],
            groups,
            compact_bytes: options.compact_bytes,
            offsets: FxHashMap::default(),
            sleepers: vec![],
            broken: None,
        };
        for row in loaded.topics {
            state.add(row);
        }
        for part in &mut state.parts {
            part.compacted = storage.compacted(part.place)?;
            if let Some(last) = storage.last(part.place)? {
                (part.end, part.max_time, part.log_bytes) = (last.last() + 1, last.max_time(), last.log_bytes());
            }
        }
        for (group, topic, partition, offset) in loaded.offsets {
            let known = state.topics.iter().find(|t| t.row.number == topic).filter(|t| partition < t.row.partitions);
            let Some(part) = known.map(|t| t.first + partition as usize) else {
                return Err(LogError::Corrupt(format!(
                    "group {group} has an offset in partition {partition} of a topic {topic} that does not exist"
                )));
            };
            let end = state.parts[part].end;
            if offset > end {
                return Err(LogError::Corrupt(format!(
                    "group {group} has read partition {partition} of topic {topic} up to offset {offset}, but it ends at {end}: records were lost"
                )));
            }
            state.offsets.entry(group).or_default().insert(part, offset);
        }
        let core = Core {
            storage,
            options,
            stop: AtomicBool::new(false),
            wanted: Wanted::default(),
            compacting: Mutex::default(),
            turn: Mutex::default(),
            state: Mutex::new(state),
        };
        core.want_compaction(&core.state());
        Ok(core)
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics while holding the log's state")
    }

    fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().expect("nobody panics while writing to the log")
    }

    /// Does something that no transaction may overlap. `change` says whether groups changed.
    pub fn exclusively<T>(&self, change: impl FnOnce(&mut State) -> (T, bool)) -> T {
        let _turn = self.turn();
        let mut state = self.state();
        let (found, changed) = change(&mut state);
        if changed {
            state.wake_groups();
        }
        found
    }

    pub fn writable(&self) -> Result<(), LogError> {
        self.storage.read_only().map_or(Ok(()), |why| Err(LogError::Invalid(why)))
    }

    /// Makes a topic that does not exist.
    pub fn add_topic(&self, make: impl FnOnce(&State) -> Result<Option<TopicRow>, LogError>) -> Result<(), LogError> {
        let _turn = self.turn();
        let row = make(&self.state())?;
        if let Some(row) = row {
            self.storage.add_topic(&row)?;
            self.state().add(row);
        }
        Ok(())
    }

    /// Appends packed records, and with a ticket moves its group's offsets in the same write. Gives the last offset of each partition.
    pub fn commit(
        &self,
        batches: Vec<(PartId, Builder)>,
        member: Option<(&Ticket, u64)>,
        offsets: &[(PartId, u64)],
    ) -> Result<Vec<(PartId, u64)>, Refused> {
        let _turn = self.turn();
        let now = (self.options.clock)();
        let (mut places, mut parts, mut moved) = (Vec::with_capacity(batches.len()), Vec::with_capacity(batches.len()), Vec::new());
        {
            let state = self.state();
            state.check().map_err(Refused::Broken)?;
            if let Some((ticket, generation)) = member {
                match state.groups.generation(ticket) {
                    Err(Fenced) => return Err(Refused::Fenced),
                    Ok(current) if current != generation => return Err(Refused::Stale),
                    Ok(_) => {}
                }
            }
            for (id, builder) in batches {
                let part = &state.parts[id];
                let stamp = part.append_time.then(|| now.max(part.max_time));
                places.push((part.place, Arc::new(builder.append(part.end, stamp, (part.max_time, part.log_bytes)))));
                parts.push(id);
            }
            moved.extend(offsets.iter().map(|(id, offset)| (state.parts[*id].place, *offset)));
        }
        let group = member.map_or("", |(ticket, _)| &ticket.group);
        crash::point(Point::LogWrite);
        let written = self.storage.commit(&Commit { batches: &places, group, offsets: &moved });
        crash::point(Point::LogWritten);
        let mut state = self.state();
        if let Err(e) = written {
            // Whether the write will show up after a restart is unknown; going on from here could contradict it.
            let why = format!("{e}; then start again: what was committed is safe");
            state.broken = Some(why.clone());
            state.wake_groups();
            return Err(Refused::Broken(why));
        }
        if !offsets.is_empty() {
            state.offsets.entry(group.to_string()).or_default().extend(offsets.iter().copied());
        }
        let mut appended = Vec::with_capacity(parts.len());
        for (id, (_, batch)) in parts.into_iter().zip(places) {
            appended.push((id, batch.last()));
            state.parts[id].publish(batch, self.options.tail_bytes);
        }
        self.want_compaction(&state);
        Ok(appended)
    }

    /// Tells the compactor which partitions have grown enough.
    fn want_compaction(&self, state: &State) {
        if state.due().is_some() && self.storage.read_only().is_none() {
            self.wanted.ask();
        }
    }

    /// Sleeps until something is appended to one of `parts`, a group changes, or the time has come. True unless the time has come.
    pub fn sleep<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        bell: &Arc<Condvar>,
        parts: impl Iterator<Item = PartId> + Clone,
        until: Instant,
    ) -> (MutexGuard<'a, State>, bool) {
        let left = until.saturating_duration_since(Instant::now());
        if left == Duration::ZERO {
            return (state, false);
        }
        for id in parts.clone() {
            state.parts[id].sleepers.push(bell.clone());
        }
        state.sleepers.push(bell.clone());
        let (mut state, _) = bell.wait_timeout(state, left).expect("nobody panics while holding the log's state");
        for id in parts {
            state.parts[id].sleepers.retain(|b| !Arc::ptr_eq(b, bell));
        }
        state.sleepers.retain(|b| !Arc::ptr_eq(b, bell));
        (state, true)
    }
}

impl State {
    fn add(&mut self, row: TopicRow) {
        let first = self.parts.len();
        for partition in 0..row.partitions {
            self.parts.push(Part {
                place: Place { topic: row.number, partition, compact: row.compact },
                append_time: row.append_time,
                end: 0,
                tail: VecDeque::new(),
                tail_bytes: 0,
                max_time: i64::MIN,
                log_bytes: 0,
                compacted: Compacted::default(),
                sleepers: Vec::new(),
            });
        }
        self.topics.push(Arc::new(Topic { row, first }));
    }

    pub fn topic(&self, name: &str) -> Option<&Arc<Topic>> {
        self.topics.iter().find(|t| t.row.name == name)
    }

    /// Why the log can no longer be written, if so.
    pub fn check(&self) -> Result<(), String> {
        self.broken.clone().map_or(Ok(()), Err)
    }

    pub fn offset(&self, group: &str, part: PartId) -> Option<u64> {
        self.offsets.get(group)?.get(&part).copied()
    }

    pub fn wake_groups(&mut self) {
        for bell in self.sleepers.drain(..) {
            bell.notify_all();
        }
    }

    pub fn compacted(&mut self, place: Place, to: Compacted) {
        if let Some(part) = self.parts.iter_mut().find(|p| p.place == place) {
            part.compacted = to;
        }
    }

    /// A partition that has grown enough since it was last compacted.
    pub fn due(&self) -> Option<Place> {
        let due = |p: &&Part| {
            p.place.compact && p.old_bytes().saturating_sub(p.compacted.log_bytes) > self.compact_bytes.max(p.compacted.kept_bytes)
        };
        self.parts.iter().find(due).map(|p| p.place)
    }

    /// Where compaction must stop, what the partition has grown to by then, and how far the last compaction got. What readers hold in memory stays
    /// as it is.
    pub fn compact_to(&self, place: Place) -> Option<(u64, u64, Compacted)> {
        let part = self.parts.iter().find(|p| p.place == place)?;
        Some((part.tail.front().map_or(part.end, |b| b.base()), part.old_bytes(), part.compacted))
    }
}

impl Part {
    /// Bytes ever appended, without what is in the tail.
    fn old_bytes(&self) -> u64 {
        self.log_bytes - self.tail_bytes as u64
    }

    fn publish(&mut self, batch: Arc<Packed>, keep: usize) {
        (self.end, self.max_time, self.log_bytes) = (batch.last() + 1, batch.max_time(), batch.log_bytes());
        self.tail_bytes += batch.as_bytes().len();
        self.tail.push_back(batch);
        while self.tail_bytes > keep && self.tail.len() > 1 {
            if let Some(old) = self.tail.pop_front() {
                self.tail_bytes -= old.as_bytes().len();
            }
        }
        for bell in self.sleepers.drain(..) {
            bell.notify_all();
        }
    }
}
