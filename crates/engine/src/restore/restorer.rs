//! All restores of an instance. Requests, opens and reads cover many tasks at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use faults::crash::{self, Point};
use faults::mutants::{self, Mutant};
use ports::records::Records;
use ports::topics::{TopicPartition, TopicTable};
use ports::{
    Bounds, Clock, Committed, Limits, Log, LogError, Reader, StartOffset, StateStore, StoreError,
    Stores,
};

use super::standby::{Standby, Standbys};
use super::task::{Phase, Restore, RestoreStep};
use super::{
    Assignment, Env, RestoreError, RestoreProgress, Restored, RestorerReport, RestorerRequest,
};
use crate::checkpoint::{Checkpoint, META_KEY};
use crate::role::RoleSpec;

/// Most changelog readers at a time. Tasks of the same assignment share a reader.
const READERS_MAX: usize = 4;
/// Longest age of a chunk: the time limit of one poll.
pub(super) const CHUNK_AGE: Duration = Duration::from_millis(100);

/// A reader of several changelog partitions.
struct SharedReader {
    reader: Box<dyn Reader>,
    /// The tasks that still read.
    reading: BTreeSet<u32>,
}

pub struct Restorer {
    log: Arc<dyn Log>,
    topics: Arc<TopicTable>,
    spec: Arc<RoleSpec>,
    stores: Box<dyn Stores>,
    group: String,
    takeover_wait: Duration,
    standby: Standby,
    number: u64,
    restores: BTreeMap<u32, Restore>,
    bounds: BTreeMap<u32, Bounds>,
    readers: Vec<SharedReader>,
    /// Open stores without a task. A task that comes back finds its store open.
    kept: BTreeMap<u32, Box<dyn StateStore>>,
    /// Damaged stores and the reason, until quarantine.
    distrusted: BTreeMap<u32, String>,
    standbys: Standbys,
    running: usize,
    chunk: Records,
}

/// The facts for a step of a restore. A macro, because the result borrows some fields while other
/// fields change.
macro_rules! judging {
    ($me:ident, $clock:expr) => {
        Env {
            topics: &$me.topics,
            spec: &$me.spec,
            clock: $clock,
            takeover_wait: $me.takeover_wait,
        }
    };
}

impl Restorer {
    /// A restorer for one instance of a role.
    pub fn new(
        log: Arc<dyn Log>,
        topics: Arc<TopicTable>,
        spec: Arc<RoleSpec>,
        stores: Box<dyn Stores>,
        group: String,
        takeover_wait: Duration,
        standby: Standby,
    ) -> Restorer {
        Restorer {
            log,
            topics,
            spec,
            stores,
            group,
            takeover_wait,
            standby,
            number: 0,
            restores: BTreeMap::new(),
            bounds: BTreeMap::new(),
            readers: Vec::new(),
            kept: BTreeMap::new(),
            distrusted: BTreeMap::new(),
            standbys: Standbys::default(),
            running: 0,
            chunk: Records::new(),
        }
    }

    /// True while restores are in progress.
    pub fn is_restoring(&self) -> bool {
        !self.restores.is_empty()
    }

    /// True if the restorer keeps standbys.
    pub fn has_standbys(&self) -> bool {
        !self.standbys.is_empty()
    }

    /// Number of tasks running in the loop.
    pub fn running(&self) -> usize {
        self.running
    }

    /// Progress of each restore, and of each standby.
    pub fn progress(
        &self,
    ) -> (
        BTreeMap<u32, RestoreProgress>,
        BTreeMap<u32, RestoreProgress>,
    ) {
        (
            self.restores
                .iter()
                .map(|(task, r)| (*task, r.progress))
                .collect(),
            self.standbys.progress(),
        )
    }

    /// Handles a request of the loop.
    pub fn request(&mut self, request: RestorerRequest, clock: &dyn Clock) {
        match request {
            RestorerRequest::Assign(assignment) => self.assign(assignment, clock),
            RestorerRequest::Cease => self.cease(),
            RestorerRequest::Keep(stores) => self.kept.extend(stores),
            RestorerRequest::Distrust(task, why) => {
                self.kept.remove(&task);
                self.distrusted.insert(task, why);
            }
            RestorerRequest::Running(tasks) => self.running = tasks,
        }
    }

    fn cease(&mut self) {
        self.readers.clear();
        self.bounds.clear();
        for (task, restore) in std::mem::take(&mut self.restores) {
            if let Some(copy) = restore.copy {
                self.kept.insert(task, copy.store);
            }
        }

        self.running = 0;
    }

    fn assign(&mut self, assignment: Assignment, clock: &dyn Clock) {
        self.cease();
        self.number = assignment.number;
        let own: BTreeSet<u32> = assignment.tasks.iter().map(|(task, _)| *task).collect();
        let count = match self.standby {
            Standby::None => 0,
            // Without an answer of the log the instance has no standbys until the next assignment.
            _ => self
                .log
                .partitions(self.spec.changelog)
                .ok()
                .flatten()
                .unwrap_or(0),
        };

        let wanted = self.standby.tasks(&own, count);

        // Close stores of tasks that are neither ours nor standbys. Their files stay.
        self.kept
            .retain(|task, _| own.contains(task) || wanted.contains(task));
        let now_us = clock.now_us();
        self.restores = assignment
            .tasks
            .into_iter()
            .map(|(task, inputs)| (task, Restore::new(task, inputs, now_us)))
            .collect();
        for (task, mut copy) in self.standbys.assign(wanted) {
            if mutants::on(Mutant::StandbyTrusted) {
                copy.trust();
            }

            // The restore continues behind the standby. `records` counts only the records read by
            // the restore.
            if let Some(restore) = self.restores.get_mut(&task) {
                copy.records = 0;
                restore.copy = Some(copy);
                crash::point(Point::RestoreStandby);
            }
        }
    }

    /// Works for about `budget`. Waits up to `wait` for records if no other work exists. Returns
    /// true if more work may exist at once.
    pub fn step(
        &mut self,
        clock: &dyn Clock,
        budget: Duration,
        wait: Duration,
        reports: &mut Vec<RestorerReport>,
    ) -> bool {
        let until_us = clock.now_us() + budget.as_micros() as u64;
        let asked = self.ask(clock, reports);
        let opened = self.open(clock, until_us, reports);
        let mut worked = asked || opened;
        loop {
            let read = self.read(clock, if worked { Duration::ZERO } else { wait }, reports);
            worked |= read;
            if !read || clock.now_us() >= until_us {
                break;
            }
        }

        if self.restores.is_empty() && !worked {
            worked = self.standbys.tail(
                &*self.log,
                &*self.stores,
                &self.spec,
                &mut self.kept,
                clock,
                wait,
            );
        }

        worked
    }

    fn ask(&mut self, clock: &dyn Clock, reports: &mut Vec<RestorerReport>) -> bool {
        let now_us = clock.now_us();
        let due: Vec<u32> = self
            .restores
            .values()
            .filter(|r| r.phase == Phase::Ask && r.not_before_us <= now_us)
            .map(|r| r.task)
            .collect();
        if due.is_empty() {
            return false;
        }

        // One request covers all tasks. If a pending task holds up the request, ask for each task
        // alone.
        if self.ask_for(&due, clock, reports) == Some(false) && due.len() > 1 {
            for task in due {
                self.ask_for(&[task], clock, reports);
            }
        }

        true
    }

    /// Returns `Some(false)` if some offsets are pending, and `None` if the log failed.
    fn ask_for(
        &mut self,
        tasks: &[u32],
        clock: &dyn Clock,
        reports: &mut Vec<RestorerReport>,
    ) -> Option<bool> {
        let inputs: Vec<TopicPartition> = tasks
            .iter()
            .filter_map(|t| self.restores.get(t))
            .flat_map(|r| r.inputs.iter().copied())
            .collect();
        let answer = self.log.committed(&self.group, &inputs);
        let env = judging!(self, clock);
        match answer {
            Ok(Committed::Stable(offsets)) => {
                let mut offsets = offsets.into_iter();
                for task in tasks {
                    if let Some(r) = self.restores.get_mut(task) {
                        let own = offsets.by_ref().take(r.inputs.len()).collect();
                        r.told_offsets(own);
                    }
                }

                Some(true)
            }
            Ok(Committed::Pending) => {
                if let [task] = tasks
                    && let Some(r) = self.restores.get_mut(task)
                {
                    r.pending(&env);
                }

                Some(false)
            }
            Err(e) => {
                tasks
                    .iter()
                    .for_each(|task| self.log_failed(*task, &e, clock, reports));
                None
            }
        }
    }

    /// Handles a failure of the log during a restore. Temporary failures are retried.
    fn log_failed(
        &mut self,
        task: u32,
        e: &LogError,
        clock: &dyn Clock,
        reports: &mut Vec<RestorerReport>,
    ) {
        let env = judging!(self, clock);
        let Some(restore) = self.restores.get_mut(&task) else {
            return;
        };

        match e {
            LogError::Unavailable(_) => restore.failed(&env, e),
            e => self.fail(task, e.clone().into(), reports),
        }
    }

    fn fail(&mut self, task: u32, e: RestoreError, reports: &mut Vec<RestorerReport>) {
        self.restores.remove(&task);
        reports.push(RestorerReport::Failed(self.number, task, e));
    }

    fn open(
        &mut self,
        clock: &dyn Clock,
        until_us: u64,
        reports: &mut Vec<RestorerReport>,
    ) -> bool {
        let tasks: Vec<u32> = self
            .restores
            .values()
            .filter(|r| r.phase == Phase::Open)
            .map(|r| r.task)
            .collect();
        if tasks.is_empty() {
            return false;
        }

        // Ask for the bounds after the offsets. A record now in the changelog was decided before
        // the offsets, or comes from an illegal writer.
        let at: Vec<_> = tasks
            .iter()
            .map(|task| TopicPartition::new(self.spec.changelog, *task))
            .collect();
        let bounds = self.log.bounds_of(&at);

        // Open at least one store. The request itself may have used up the whole slice, because a
        // partition has no leader.
        let mut opened = false;
        let mut ready = Vec::with_capacity(tasks.len());
        for (task, bounds) in tasks.into_iter().zip(bounds) {
            match bounds {
                Ok(bounds) => ready.push((task, bounds)),
                Err(e) => self.log_failed(task, &e, clock, reports),
            }
        }

        for some in ready.chunks(self.stores.together().max(1)) {
            if std::mem::replace(&mut opened, true) && clock.now_us() > until_us {
                break;
            }

            let closed: Vec<u32> = some
                .iter()
                .map(|(task, _)| *task)
                .filter(|task| self.wants_opening(*task))
                .collect();
            let mut fresh: BTreeMap<u32, _> = closed
                .iter()
                .copied()
                .zip(self.stores.open_all(&closed))
                .collect();
            for (task, bounds) in some {
                self.open_one(*task, *bounds, fresh.remove(task), clock, reports);
            }
        }

        true
    }

    /// True if the task's store is closed and not marked as damaged.
    fn wants_opening(&self, task: u32) -> bool {
        let copied = self.restores.get(&task).is_none_or(|r| r.copy.is_some());
        !copied && !self.kept.contains_key(&task) && !self.distrusted.contains_key(&task)
    }

    fn open_one(
        &mut self,
        task: u32,
        bounds: Bounds,
        fresh: Option<Result<Box<dyn StateStore>, StoreError>>,
        clock: &dyn Clock,
        reports: &mut Vec<RestorerReport>,
    ) {
        crash::point(Point::RestoreOffsets);
        self.bounds.insert(task, bounds);
        if let Some(why) = self.distrusted.get(&task).cloned() {
            return self.start_over(task, why, clock, reports);
        }

        let Some(restore) = self.restores.get_mut(&task) else {
            return;
        };

        let result = match &restore.copy {
            Some(_) => Ok(()),
            None => match (self.kept.remove(&task), fresh) {
                (Some(store), _) => Ok(store),
                (None, Some(fresh)) => fresh,
                (None, None) => self.stores.open(task),
            }
            .map_err(RestoreError::from)
            .and_then(|store| restore.take(store)),
        };

        crash::point(Point::RestoreOpened);
        let env = judging!(self, clock);
        let markers = self.log.markers_take_offsets();
        let result = match result {
            Ok(()) => restore.opened(&env, bounds, markers),
            Err(RestoreError::Store(StoreError::Held(why))) => match restore.held(&env, &why) {
                Ok(()) => Ok(RestoreStep::On),
                Err(()) => Err(StoreError::Held(why).into()),
            },
            Err(e) => Err(e),
        };

        self.follow(task, result, clock, reports);
    }

    /// Acts on the result of a restore step.
    fn follow(
        &mut self,
        task: u32,
        result: Result<RestoreStep, RestoreError>,
        clock: &dyn Clock,
        reports: &mut Vec<RestorerReport>,
    ) {
        match result {
            Ok(RestoreStep::On) => {}
            Ok(RestoreStep::StartOver(why)) => self.start_over(task, why, clock, reports),
            Ok(RestoreStep::Done(restored)) => self.done(task, restored, clock, reports),
            // A damaged store is rebuilt. A damaged changelog cannot be rebuilt.
            Err(RestoreError::Store(StoreError::Corrupt(why))) => {
                self.start_over(task, why, clock, reports)
            }
            Err(RestoreError::Log(LogError::Corrupt(why))) => {
                self.unreadable(task, &why, clock, reports)
            }
            Err(RestoreError::Log(e)) => self.log_failed(task, &e, clock, reports),
            Err(e) => self.fail(task, e, reports),
        }
    }

    fn done(
        &mut self,
        task: u32,
        mut restored: Box<Restored>,
        clock: &dyn Clock,
        reports: &mut Vec<RestorerReport>,
    ) {
        let Some(restore) = self.restores.get(&task) else {
            return;
        };

        // The checkpoint may lack an input: of a newer version, or of a fresh task. Such an input
        // starts at its committed offset, or at the start of its partition.
        let mut offsets = Vec::with_capacity(restore.inputs.len());
        let committed: Vec<_> = restore.committed().collect();
        for (at, committed) in committed {
            let start = match restored.meta.next(at).or(committed) {
                Some(next) => Ok(next),
                None => self.log.bounds(at).map(|b| b.start),
            };

            match start {
                Ok(next) => offsets.push((at, next)),
                Err(e) => {
                    self.kept.insert(task, restored.store);
                    return self.log_failed(task, &e, clock, reports);
                }
            }
        }

        restored.meta.offsets = offsets;
        self.restores.remove(&task);
        self.bounds.remove(&task);
        reports.push(RestorerReport::Ready(self.number, task, restored));
    }

    /// Quarantines a store and restarts the restore at the start of the changelog. The second time,
    /// the task refuses to run.
    fn start_over(
        &mut self,
        task: u32,
        why: String,
        clock: &dyn Clock,
        reports: &mut Vec<RestorerReport>,
    ) {
        let env = judging!(self, clock);
        let Some(restore) = self.restores.get_mut(&task) else {
            return;
        };

        self.kept.remove(&task);
        if let Err(e) = restore.begin_anew(&env, &why) {
            return self.fail(task, e, reports);
        }

        crash::point(Point::RestoreDamaged);
        let place = match self.stores.quarantine(task) {
            Ok(place) => place,
            Err(e) => return self.fail(task, e.into(), reports),
        };

        crash::point(Point::RestoreQuarantined);
        let role = self.spec.name;
        tracing::warn!(role, task, %why, %place, "local state put aside; rebuilding it from the changelog");
        self.distrusted.remove(&task);
        restore.put_aside(&env, why);
    }

    /// Handles a changelog that cannot be read at the current position.
    fn unreadable(
        &mut self,
        task: u32,
        why: &str,
        clock: &dyn Clock,
        reports: &mut Vec<RestorerReport>,
    ) {
        let env = judging!(self, clock);
        let Some(restore) = self.restores.get_mut(&task) else {
            return;
        };

        if let Err(e) = restore.unreadable(&env, why) {
            self.fail(task, e, reports);
        }
    }

    /// Reads one chunk from each reader. Returns true if records came or a task's reading ended.
    fn read(
        &mut self,
        clock: &dyn Clock,
        wait: Duration,
        reports: &mut Vec<RestorerReport>,
    ) -> bool {
        self.make_readers(clock, reports);
        let mut worked = false;
        let mut wait = wait;
        for i in 0..self.readers.len() {
            let mut chunk = std::mem::take(&mut self.chunk);
            chunk.clear();
            let polled =
                self.readers[i]
                    .reader
                    .poll(std::mem::take(&mut wait), limits(), &mut chunk);
            let reading: Vec<u32> = self.readers[i].reading.iter().copied().collect();
            match polled {
                Ok(()) => {
                    for task in reading {
                        worked |= self.take(i, task, &chunk, clock, reports);
                    }
                }
                Err(e) => {
                    self.readers[i].reading.clear();
                    self.reader_failed(&reading, &e, clock, reports);
                }
            }

            worked |= !chunk.is_empty();
            self.chunk = chunk;
        }

        self.readers.retain(|r| !r.reading.is_empty());
        worked
    }

    /// Gives one task its records of a chunk. Returns true if the task's reading has ended.
    fn take(
        &mut self,
        reader: usize,
        task: u32,
        chunk: &Records,
        clock: &dyn Clock,
        reports: &mut Vec<RestorerReport>,
    ) -> bool {
        let Some(restore) = self.restores.get_mut(&task) else {
            self.readers[reader].reading.remove(&task);
            return false;
        };

        let mut records = chunk.iter().filter(|r| r.at.partition == task).peekable();
        let any = records.peek().is_some();
        let result = match (restore.phase, any) {
            (_, false) => Ok(()),
            (Phase::Look(_), true) => look_at(restore, records),
            (_, true) if mutants::on(Mutant::FirstMeta) => restore.apply_to_the_first(records),
            (_, true) => restore
                .copy
                .as_mut()
                .map_or(Ok(()), |copy| copy.apply(records)),
        };

        if any {
            let last = chunk
                .iter()
                .filter(|r| r.at.partition == task)
                .map(|r| r.offset)
                .last();
            restore.progress.at = last.unwrap_or(restore.progress.at);
            restore.progress.records = restore.copy.as_ref().map_or(0, |c| c.records);
        }

        if let Err(e) = result {
            self.readers[reader].reading.remove(&task);
            self.follow(task, Err(e), clock, reports);
            return true;
        }

        let reached = self.readers[reader].reader.reached(task)
            || mutants::on(Mutant::FirstMeta) && restore.fits();
        if !reached {
            return false;
        }

        self.readers[reader].reading.remove(&task);
        let Some(bounds) = self.bounds.get(&task).copied() else {
            return true;
        };

        let env = judging!(self, clock);
        let Some(restore) = self.restores.get_mut(&task) else {
            return true;
        };

        let result = match restore.phase {
            Phase::Look(_) => restore.looked(&env, bounds),
            _ => restore.judge(&env, bounds),
        };

        self.follow(task, result, clock, reports);
        true
    }

    fn make_readers(&mut self, clock: &dyn Clock, reports: &mut Vec<RestorerReport>) {
        let busy: BTreeSet<u32> = self
            .readers
            .iter()
            .flat_map(|r| r.reading.iter().copied())
            .collect();
        let mut waiting: Vec<(u32, StartOffset, bool)> = Vec::new();
        for (task, restore) in &self.restores {
            if let (Phase::Read(from) | Phase::Look(from), false) =
                (restore.phase, busy.contains(task))
            {
                waiting.push((*task, from, restore.alone));
            }
        }

        while !waiting.is_empty() && self.readers.len() < READERS_MAX {
            let together = waiting.iter().position(|w| !w.2).is_some();
            let (now, later): (Vec<_>, Vec<_>) = match together {
                true => waiting.into_iter().partition(|w| !w.2),
                false => {
                    let mut rest = waiting;
                    let first = rest.remove(0);
                    (vec![first], rest)
                }
            };

            waiting = later;
            let from: Vec<(u32, StartOffset)> =
                now.iter().map(|(task, from, _)| (*task, *from)).collect();
            let tasks: Vec<u32> = from.iter().map(|(task, _)| *task).collect();
            match self.log.reader(self.spec.changelog, &from, false) {
                Ok(reader) => {
                    crash::point(Point::RestoreReader);
                    self.readers.push(SharedReader {
                        reader,
                        reading: tasks.into_iter().collect(),
                    });
                }
                Err(e) => self.reader_failed(&tasks, &e, clock, reports),
            }
        }
    }

    /// Handles the failure of a shared reader. The error does not name the task, so each task gets
    /// its own reader.
    fn reader_failed(
        &mut self,
        tasks: &[u32],
        e: &LogError,
        clock: &dyn Clock,
        reports: &mut Vec<RestorerReport>,
    ) {
        for task in tasks {
            match (self.restores.get_mut(task), e) {
                (Some(restore), LogError::Corrupt(why)) if restore.alone => {
                    self.unreadable(*task, why, clock, reports)
                }
                (Some(restore), _) => {
                    restore.alone = true;
                    let again = LogError::Unavailable(e.to_string());

                    // A permanent error ends the restore only if the task has its own reader.
                    match tasks.len() {
                        1 => self.log_failed(*task, e, clock, reports),
                        _ => self.log_failed(*task, &again, clock, reports),
                    }
                }
                (None, _) => {}
            }
        }
    }
}

/// Limits of one chunk, for all tasks of a reader.
fn limits() -> Limits {
    let records = if crash::armed(Point::RestoreChunk) {
        8
    } else {
        50_000
    };

    Limits {
        records,
        bytes: 16 << 20,
        age: CHUNK_AGE,
    }
}

/// Notes the meta records in a chunk.
fn look_at<'r>(
    restore: &mut Restore,
    records: impl Iterator<Item = ports::records::Record<'r>>,
) -> Result<(), RestoreError> {
    for r in records.filter(|r| r.key == Some(META_KEY)) {
        restore.saw(Checkpoint::decode(r.value.unwrap_or_default()).map_err(LogError::from)?);
    }

    Ok(())
}
