//! Standbys: warm copies of tasks that other instances run. A copy tails its changelog and is verified like any store, so that a task that comes
//! over begins to run where its copy is.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Progress;
use super::copy::StoreCopy;
use super::restorer::CHUNK_AGE;
use crate::engine::ports::{Clock, From, Limits, Log, Reader, StateStore, StoreError, Stores};
use crate::engine::records::Records;
use crate::engine::role::RoleSpec;
use crate::engine::topics::TopicPartition;

/// A standby that could not be opened or read is tried again after this long.
const AGAIN_US: u64 = 1_000_000;

/// Of which tasks an instance keeps warm copies, besides its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Standby {
    /// Of none.
    #[default]
    None,
    /// Of those that would come to it if up to so many other instances went away. Partitions are dealt out in runs, so these are the next ones on
    /// either side of its own.
    Neighbours(u32),
    /// Of all.
    All,
}

impl Standby {
    /// The tasks, given its own and how many there are.
    pub(super) fn tasks(self, own: &BTreeSet<u32>, count: u32) -> BTreeSet<u32> {
        let range = match (self, own.first(), own.last()) {
            (Standby::None, ..) => return BTreeSet::new(),
            (Standby::All, ..) => 0..count,
            // Without a share of its own it is the spare of everybody.
            (Standby::Neighbours(_), None, _) | (Standby::Neighbours(_), _, None) => 0..count,
            (Standby::Neighbours(n), Some(first), Some(last)) => {
                let width = (last - first + 1).saturating_mul(n);
                first.saturating_sub(width)..last.saturating_add(width).saturating_add(1).min(count)
            }
        };
        range.filter(|task| !own.contains(task)).collect()
    }
}

/// Copies of tasks that others run.
#[derive(Default)]
pub(super) struct Standbys {
    wanted: BTreeSet<u32>,
    copies: BTreeMap<u32, StoreCopy>,
    /// When each is opened again, if it could not be.
    again_us: BTreeMap<u32, u64>,
    progress: BTreeMap<u32, Progress>,
    reader: Option<Box<dyn Reader>>,
    /// When the next reader may be made.
    not_before_us: u64,
    chunk: Records,
}

impl Standbys {
    /// Whether there is nothing to keep warm.
    pub(super) fn is_empty(&self) -> bool {
        self.wanted.is_empty()
    }

    /// How far each is.
    pub(super) fn progress(&self) -> BTreeMap<u32, Progress> {
        self.progress.clone()
    }

    /// Keeps these warm from now on; hands over the copies of all others.
    pub(super) fn assign(&mut self, wanted: BTreeSet<u32>) -> BTreeMap<u32, StoreCopy> {
        let (stay, go) = std::mem::take(&mut self.copies).into_iter().partition(|(task, _)| wanted.contains(task));
        self.progress.retain(|task, _| wanted.contains(task));
        self.again_us.retain(|task, _| wanted.contains(task));
        (self.copies, self.wanted, self.reader, self.not_before_us) = (stay, wanted, None, 0);
        go
    }

    /// Keeps standbys warm; true if there was anything to do.
    pub(super) fn tail(
        &mut self,
        log: &dyn Log,
        stores: &dyn Stores,
        spec: &RoleSpec,
        kept: &mut BTreeMap<u32, Box<dyn StateStore>>,
        clock: &dyn Clock,
        wait: Duration,
    ) -> bool {
        let opened = self.open(stores, spec, kept, clock);
        self.read(log, stores, spec, clock, if opened { Duration::ZERO } else { wait }) || opened
    }

    /// Opens one standby that is not open yet.
    fn open(&mut self, stores: &dyn Stores, spec: &RoleSpec, kept: &mut BTreeMap<u32, Box<dyn StateStore>>, clock: &dyn Clock) -> bool {
        let now_us = clock.now_us();
        let due = |task: &&u32| !self.copies.contains_key(task) && self.again_us.get(task).is_none_or(|at| *at <= now_us);
        let Some(task) = self.wanted.iter().find(due).copied() else { return false };
        self.again_us.insert(task, now_us + AGAIN_US);
        let store = match kept.remove(&task) {
            Some(store) => Ok(store),
            None => stores.open(task),
        };
        match store.and_then(StoreCopy::of) {
            Ok(copy) => {
                self.copies.insert(task, copy);
                self.reader = None;
            }
            Err(StoreError::Corrupt(why)) => self.put_aside(stores, spec, task, &why),
            Err(e) => tracing::debug!(role = spec.name, task, "a standby waits: {e}"),
        }
        true
    }

    fn put_aside(&mut self, stores: &dyn Stores, spec: &RoleSpec, task: u32, why: &str) {
        self.copies.remove(&task);
        self.progress.remove(&task);
        self.reader = None;
        match stores.quarantine(task) {
            Ok(place) => {
                tracing::warn!(role = spec.name, task, why, %place, "a standby's state put aside; copying it anew from the changelog");
            }
            Err(e) => tracing::warn!(role = spec.name, task, why, "a standby's state cannot be put aside ({e}); trying again"),
        }
    }

    fn read(&mut self, log: &dyn Log, stores: &dyn Stores, spec: &RoleSpec, clock: &dyn Clock, wait: Duration) -> bool {
        let limits = Limits { records: 10_000, bytes: 4 << 20, age: CHUNK_AGE };
        if self.reader.is_none() && !self.make_reader(log, spec, clock) {
            return false;
        }
        let mut chunk = std::mem::take(&mut self.chunk);
        chunk.clear();
        let polled = self.reader.as_mut().map_or(Ok(()), |reader| reader.poll(wait, limits, &mut chunk));
        if let Err(e) = polled {
            tracing::debug!(role = spec.name, "standbys wait: {e}");
            self.reader = None;
            // Each looks again where it is; one that lost its place in the changelog is judged when its task is assigned.
            self.not_before_us = clock.now_us() + AGAIN_US;
        }
        let mut broken = Vec::new();
        for (task, copy) in &mut self.copies {
            let mut records = chunk.iter().filter(|r| r.at.partition == *task).peekable();
            let result = match records.peek() {
                Some(_) => copy.apply(records).map_err(|e| e.to_string()),
                // Nothing came: the copy stands at the end, and its content must be that of the last transaction.
                None if chunk.is_empty() && copy.is_whole() && self.reader.as_ref().is_some_and(|r| r.reached(*task)) => {
                    copy.verify().unwrap_or_else(|e| Err(e.to_string()))
                }
                None => Ok(()),
            };
            match result {
                Err(why) => broken.push((*task, why)),
                Ok(()) => {
                    let p = self.progress.entry(*task).or_default();
                    (p.at, p.records) = (copy.at().unwrap_or(0), copy.records);
                    p.end = p.end.max(p.at + 1);
                }
            }
        }
        let worked = !chunk.is_empty();
        self.chunk = chunk;
        broken.into_iter().for_each(|(task, why)| self.put_aside(stores, spec, task, &why));
        worked
    }

    fn make_reader(&mut self, log: &dyn Log, spec: &RoleSpec, clock: &dyn Clock) -> bool {
        let now_us = clock.now_us();
        // Several are opened one after the other: one reader for all of them, not one for each.
        if self.copies.is_empty() || self.not_before_us > now_us || self.wanted.iter().any(|t| !self.again_us.contains_key(t)) {
            return false;
        }
        self.not_before_us = now_us + AGAIN_US;
        let at: Vec<_> = self.copies.keys().map(|task| TopicPartition::new(spec.changelog, *task)).collect();
        let mut from = Vec::new();
        for (at, bounds) in at.iter().zip(log.bounds_of(&at)) {
            let Ok(bounds) = bounds else { continue };
            self.progress.entry(at.partition).or_default().end = bounds.stable_end;
            match self.copies.get(&at.partition).and_then(StoreCopy::at) {
                None => from.push((at.partition, From::Start)),
                Some(o) if (bounds.start..=bounds.stable_end).contains(&(o + 1)) => from.push((at.partition, From::Offset(o + 1))),
                // The copy lies outside the changelog: for its restore to judge.
                Some(_) => {}
            }
        }
        if from.is_empty() {
            return false;
        }
        match log.reader(spec.changelog, &from, false) {
            Ok(reader) => self.reader = Some(reader),
            Err(e) => tracing::debug!(role = spec.name, "standbys wait: {e}"),
        }
        self.reader.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standbys_are_the_tasks_that_could_come_over() {
        let own = |r: std::ops::Range<u32>| r.collect::<BTreeSet<u32>>();
        let of = |s: Standby, o: std::ops::Range<u32>| s.tasks(&own(o), 6).into_iter().collect::<Vec<_>>();
        assert_eq!(of(Standby::None, 2..4), [0_u32; 0]);
        assert_eq!(of(Standby::All, 2..4), [0, 1, 4, 5]);
        assert_eq!(of(Standby::Neighbours(1), 2..4), [0, 1, 4, 5]);
        assert_eq!(of(Standby::Neighbours(1), 0..2), [2, 3]);
        assert_eq!(of(Standby::Neighbours(1), 5..6), [4]);
        assert_eq!(of(Standby::Neighbours(2), 0..1), [1, 2]);
        assert_eq!(of(Standby::Neighbours(1), 0..0), [0, 1, 2, 3, 4, 5], "a spare instance");
    }
}
