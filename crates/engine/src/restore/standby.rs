//! Standbys: warm copies of tasks that other instances run. A copy tails its changelog and is
//! verified like any store. An assigned task therefore starts at the position of its copy.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use ports::records::Records;
use ports::topics::TopicPartition;
use ports::{Clock, Limits, Log, Reader, StartOffset, StateStore, StoreError, Stores};

use super::RestoreProgress;
use super::copy::StoreCopy;
use super::restorer::CHUNK_AGE;
use crate::role::RoleSpec;

/// Wait before a retry after a failed open or read.
const AGAIN_US: u64 = 1_000_000;

/// Selects the tasks of other instances for which this instance keeps warm copies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Standby {
    /// No tasks.
    #[default]
    None,
    /// Tasks that would move to this instance after the loss of up to so many other instances.
    Neighbours(u32),
    /// All tasks.
    All,
}

impl Standby {
    /// The selected tasks, given the instance's own tasks and the number of all tasks.
    pub(super) fn tasks(self, own: &BTreeSet<u32>, count: u32) -> BTreeSet<u32> {
        let range = match (self, own.first(), own.last()) {
            (Standby::None, ..) => return BTreeSet::new(),
            (Standby::All, ..) => 0..count,
            // An instance without tasks is a spare for all other instances.
            (Standby::Neighbours(_), None, _) | (Standby::Neighbours(_), _, None) => 0..count,
            (Standby::Neighbours(n), Some(first), Some(last)) => {
                after_losses(n, *first..*last + 1, count)
            }
        };

        range.filter(|task| !own.contains(task)).collect()
    }
}

/// The share of one instance by Kafka's range assignor: contiguous ranges, and the first ranges are
/// one longer.
fn share(instances: u32, index: u32, count: u32) -> Range<u32> {
    let each = count / instances;
    let longer = count % instances;
    let from = index * each + index.min(longer);
    from..from + each + u32::from(index < longer)
}

/// All tasks that can move to the instance with the tasks `own` after the loss of up to `n` other
/// instances. An instance does not know the number of instances. The function therefore tries every
/// number that would give the instance its current share. The index of the instance falls by the
/// number of lost instances before it.
fn after_losses(n: u32, own: Range<u32>, count: u32) -> Range<u32> {
    let n = n.min(count);
    let mut all = own.clone();
    for instances in 1..=count.saturating_add(n) {
        let each = count / instances;
        let longer = count % instances;
        let front = longer * (each + 1);
        let index = if own.start < front {
            own.start / (each + 1)
        } else {
            longer + (own.start - front) / each.max(1)
        };

        if share(instances, index, count) != own {
            continue;
        }

        for left in instances.saturating_sub(n).max(1)..instances {
            let first = share(left, index.saturating_sub(instances - left), count);
            let last = share(left, index.min(left - 1), count);
            all = all.start.min(first.start)..all.end.max(last.end);
        }
    }

    all
}

#[derive(Default)]
pub(super) struct Standbys {
    wanted: BTreeSet<u32>,
    copies: BTreeMap<u32, StoreCopy>,
    /// Time of the next attempt to open each copy.
    again_us: BTreeMap<u32, u64>,
    progress: BTreeMap<u32, RestoreProgress>,
    reader: Option<Box<dyn Reader>>,
    /// Earliest time for the next reader.
    not_before_us: u64,
    chunk: Records,
}

impl Standbys {
    /// True if no standbys are wanted.
    pub(super) fn is_empty(&self) -> bool {
        self.wanted.is_empty()
    }

    /// Progress of each standby.
    pub(super) fn progress(&self) -> BTreeMap<u32, RestoreProgress> {
        self.progress.clone()
    }

    /// Replaces the set of standbys. Returns the copies of all other tasks.
    pub(super) fn assign(&mut self, wanted: BTreeSet<u32>) -> BTreeMap<u32, StoreCopy> {
        let (stay, go) = std::mem::take(&mut self.copies)
            .into_iter()
            .partition(|(task, _)| wanted.contains(task));
        self.progress.retain(|task, _| wanted.contains(task));
        self.again_us.retain(|task, _| wanted.contains(task));
        (self.copies, self.wanted, self.reader, self.not_before_us) = (stay, wanted, None, 0);
        go
    }

    /// Opens and tails standbys. Returns true if any work was done.
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
        self.read(
            log,
            stores,
            spec,
            clock,
            if opened { Duration::ZERO } else { wait },
        ) || opened
    }

    /// Opens the next closed standby.
    fn open(
        &mut self,
        stores: &dyn Stores,
        spec: &RoleSpec,
        kept: &mut BTreeMap<u32, Box<dyn StateStore>>,
        clock: &dyn Clock,
    ) -> bool {
        let now_us = clock.now_us();
        let due = |task: &&u32| {
            !self.copies.contains_key(task)
                && self.again_us.get(task).is_none_or(|at| *at <= now_us)
        };

        let Some(task) = self.wanted.iter().find(due).copied() else {
            return false;
        };

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
            Err(e) => tracing::warn!(
                role = spec.name,
                task,
                why,
                "a standby's state cannot be put aside ({e}); trying again"
            ),
        }
    }

    fn read(
        &mut self,
        log: &dyn Log,
        stores: &dyn Stores,
        spec: &RoleSpec,
        clock: &dyn Clock,
        wait: Duration,
    ) -> bool {
        let limits = Limits {
            records: 10_000,
            bytes: 4 << 20,
            age: CHUNK_AGE,
        };

        if self.reader.is_none() && !self.make_reader(log, spec, clock) {
            return false;
        }

        let mut chunk = std::mem::take(&mut self.chunk);
        chunk.clear();
        let polled = self
            .reader
            .as_mut()
            .map_or(Ok(()), |reader| reader.poll(wait, limits, &mut chunk));
        if let Err(e) = polled {
            tracing::debug!(role = spec.name, "standbys wait: {e}");
            self.reader = None;

            // Each copy continues later at its own position. A copy outside the changelog is
            // checked by the restore of its task.
            self.not_before_us = clock.now_us() + AGAIN_US;
        }

        let mut broken = Vec::new();
        for (task, copy) in &mut self.copies {
            let mut records = chunk.iter().filter(|r| r.at.partition == *task).peekable();
            let result = match records.peek() {
                Some(_) => copy.apply(records).map_err(|e| e.to_string()),
                // No records came. The copy is at the changelog's end, so its content must match
                // the last transaction.
                None if chunk.is_empty()
                    && copy.is_whole()
                    && self.reader.as_ref().is_some_and(|r| r.reached(*task)) =>
                {
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
        broken
            .into_iter()
            .for_each(|(task, why)| self.put_aside(stores, spec, task, &why));
        worked
    }

    fn make_reader(&mut self, log: &dyn Log, spec: &RoleSpec, clock: &dyn Clock) -> bool {
        let now_us = clock.now_us();

        // Wait until all standbys have been tried: one reader serves all copies.
        if self.copies.is_empty()
            || self.not_before_us > now_us
            || self.wanted.iter().any(|t| !self.again_us.contains_key(t))
        {
            return false;
        }

        self.not_before_us = now_us + AGAIN_US;
        let at: Vec<_> = self
            .copies
            .keys()
            .map(|task| TopicPartition::new(spec.changelog, *task))
            .collect();
        let mut from = Vec::new();
        for (at, bounds) in at.iter().zip(log.bounds_of(&at)) {
            let Ok(bounds) = bounds else { continue };
            self.progress.entry(at.partition).or_default().end = bounds.stable_end;
            match self.copies.get(&at.partition).and_then(StoreCopy::at) {
                None => from.push((at.partition, StartOffset::Start)),
                Some(o) if (bounds.start..=bounds.stable_end).contains(&(o + 1)) => {
                    from.push((at.partition, StartOffset::Offset(o + 1)))
                }
                // The copy is outside the changelog. The restore of the task decides.
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

    /// The share of each instance, computed step by step.
    fn shares(instances: u32, partitions: u32) -> Vec<BTreeSet<u32>> {
        let each = partitions / instances;
        let longer = partitions % instances;
        let mut next = 0;
        let share = |n: u32| {
            let from = next;
            next += each + u32::from(n < longer);
            (from..next).collect()
        };

        (0..instances).map(share).collect()
    }

    /// The loss of an instance also moves tasks between the remaining instances. Every moved task
    /// must find a copy at its new instance. The loss of two instances at once is tested too.
    #[test]
    fn a_task_that_moves_after_a_loss_has_a_copy_where_it_goes() {
        assert_eq!(
            shares(3, 7),
            [
                (0..3).collect(),
                (3..5).collect(),
                (5..7).collect::<BTreeSet<_>>()
            ]
        );

        let mut between_survivors = 0;
        let mut copied = 0;
        let mut all = 0;
        for (instances, partitions) in (2..=6).flat_map(|i| (1..=24).map(move |p| (i, p))) {
            let before = shares(instances, partitions);
            let numbers = || 0..before.len();
            let pairs =
                numbers().flat_map(|a| numbers().filter(move |b| a < *b).map(move |b| vec![a, b]));
            for lost in numbers()
                .map(|n| vec![n])
                .chain(pairs)
                .filter(|lost| lost.len() < before.len())
            {
                let after = shares(instances - lost.len() as u32, partitions);
                let stay = numbers().filter(|n| !lost.contains(n));
                for (own, now) in stay.map(|n| &before[n]).zip(&after) {
                    let copies = Standby::Neighbours(lost.len() as u32).tasks(own, partitions);
                    if lost.len() == 1 {
                        (copied, all) =
                            (copied + copies.len(), all + partitions as usize - own.len());
                    }

                    for task in now.difference(own) {
                        let what = format!(
                            "{instances} instances, {partitions} partitions, {lost:?} lost"
                        );
                        assert!(
                            copies.contains(task),
                            "{what}: task {task} comes to {own:?}, which has copies of {copies:?}"
                        );
                        between_survivors +=
                            u32::from(!lost.iter().any(|n| before[*n].contains(task)));
                    }
                }
            }
        }

        assert!(between_survivors > 100, "{between_survivors}");
        assert!(
            copied * 3 < all * 2,
            "copies of {copied} tasks where all would be {all}"
        );
    }

    #[test]
    fn standbys_are_the_tasks_that_could_come_over() {
        let own = |r: std::ops::Range<u32>| r.collect::<BTreeSet<u32>>();
        let of = |s: Standby, o: std::ops::Range<u32>| {
            s.tasks(&own(o), 6).into_iter().collect::<Vec<_>>()
        };

        assert_eq!(of(Standby::None, 2..4), [0_u32; 0]);
        assert_eq!(of(Standby::All, 2..4), [0, 1, 4, 5]);
        assert_eq!(of(Standby::Neighbours(1), 2..4), [0, 1, 4, 5]);
        assert_eq!(
            of(Standby::Neighbours(1), 0..2),
            [2],
            "of three; the third would have 3, 4 and 5"
        );
        assert_eq!(of(Standby::Neighbours(1), 5..6), [4]);
        assert_eq!(
            of(Standby::Neighbours(2), 0..1),
            [1],
            "of six; four have at most two"
        );
        assert_eq!(of(Standby::Neighbours(1), 0..3), [3, 4, 5], "of two");
        assert_eq!(of(Standby::Neighbours(9), 2..4), [0, 1, 4, 5]);
        assert_eq!(
            Standby::Neighbours(1)
                .tasks(&own(2..3), 3)
                .into_iter()
                .collect::<Vec<_>>(),
            [0, 1],
            "of two or three"
        );

        assert_eq!(
            of(Standby::Neighbours(1), 0..0),
            [0, 1, 2, 3, 4, 5],
            "a spare instance"
        );
    }
}
