//! One instance of one role: the loop.
//!
//! ```text
//!            +--------------------------------------------------------------+
//!            v                                                              |
//!  joining: fence the predecessor, read broadcast tables to their end       |
//!            |                                                              |
//!            v                                                              | anything that is not a clean commit
//!  working:  poll --> restore new tasks --> process --> commit --> (again)  |
//!            |                                                    ----------+
//!            v
//!  stopped (fenced, invariant broken, configuration wrong, store unusable)
//! ```
//! There is one recovery path: drop everything and join again, exactly as after `kill -9`.
//! [`Instance::step`] does one turn and returns, so a caller can run many instances in one thread.

mod assign;
mod batch;
#[cfg(feature = "faults")]
mod mistakes;
mod turns;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use faults::crash::{self, Point};
use faults::mutants::{self, Mutant};
use ports::partitioner::partition;
use ports::records::Records;
use ports::topics::{TopicId, TopicTable};
use ports::{
    Clock, Limits, Log, LogError, Member, MemberInput, MemberSpec, Polled, Reader, SpawnThread,
    StartOffset, StateStore, StoreError, Stores,
};

use super::broadcast::Tables;
use super::doubts::Doubts;
use super::pace::{BatchPace, TransactionBounds};
use super::refusal::{RefusalAction, Refusals};
use super::rejections::Rejections;
use super::restore::beside::RestorerHandle;
use super::restore::{Restorer, RestorerRequest, Standby};
use super::role::{InvariantViolation, RoleFactory, RoleSpec};
use super::scrub::Scrubber;
use super::step_error::StepError;
use super::task::{Task, TaskError};
use super::timers::Wake;
pub(super) use turns::deal;
pub use view::TaskView;

/// Settings and bounds of the loop.
#[derive(Clone, Debug)]
pub struct InstanceSettings {
    pub group: String,
    /// Transactional id and static member name.
    pub instance: String,
    /// Most records, bytes and age of one transaction.
    pub limits: Limits,
    /// Longest wait for input on an idle system. An idle instance sees a broadcast row or a stop
    /// request this late at most.
    pub idle_wait: Duration,
    /// Longest wait for a predecessor's pending transaction after a take-over: the transaction
    /// timeout, the broker's check interval, and slack.
    pub takeover_wait: Duration,
    /// The process gives up after failing to join for this long. After a first successful join the
    /// loop retries for ever.
    pub startup_wait: Duration,
    /// Size of the cache of committed values in bytes, all tasks together.
    pub cache_bytes: usize,
    /// Selects the tasks of other instances for which this instance keeps warm copies.
    pub standby: Standby,
}

impl InstanceSettings {
    /// Member `instance` of `group`, with bounds for small records, and without standbys.
    pub fn new(group: &str, instance: &str) -> InstanceSettings {
        InstanceSettings {
            group: group.into(),
            instance: instance.into(),
            limits: Limits {
                records: 1_000,
                bytes: 4 << 20,
                age: Duration::from_millis(100),
            },
            idle_wait: Duration::from_millis(100),
            takeover_wait: Duration::from_secs(30),
            startup_wait: Duration::from_secs(30),
            cache_bytes: 16 << 20,
            standby: Standby::None,
        }
    }
}

/// Reason for the final stop of an instance.
#[derive(Debug, thiserror::Error)]
pub enum FatalError {
    /// A newer incarnation with the same name exists.
    #[error("fenced: {0}")]
    Fenced(String),
    /// Configuration, topics or local state do not fit.
    #[error("{0}")]
    Invalid(String),
    /// An invariant broke. Nothing was committed after the break.
    #[error("stopped by an invariant: {0}")]
    Bug(String),
    /// The log or a topic cannot take a required record. A restart does not help.
    #[error("{0}")]
    Refused(String),
    /// The log did not answer at start, or a disk failed. A supervisor should restart the process.
    #[error("{0}")]
    Failed(String),
}

/// Figures since the start of the process. Status files contain the same figures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Counters {
    /// Records processed in committed transactions.
    pub records_in: u64,
    /// Records written in committed transactions, changelog included.
    pub records_out: u64,
    pub transactions: u64,
    /// Incarnations after the first.
    pub recoveries: u64,
    /// Incarnations since the last commit or the last quiet period. A value above a few means: some
    /// record or request fails every time.
    #[serde(default)]
    pub without_progress: u64,
    /// Guarded records received twice and dropped. A value above 0 means that transactions are
    /// broken.
    pub repeats_dropped: u64,
    /// Records sent to `dead-letters`.
    pub dead_letters: u64,
    /// Stores scrubbed completely, with a correct digest.
    #[serde(default)]
    pub scrubs: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TurnResult {
    /// No work was found.
    Idle,
    /// Work was done; more may be waiting.
    Busy,
}

pub struct Instance {
    log: Arc<dyn Log>,
    restorer: RestorerHandle,
    clock: Arc<dyn Clock>,
    factory: Box<dyn RoleFactory>,
    topics: Arc<TopicTable>,
    settings: InstanceSettings,
    spec: Arc<RoleSpec>,
    counters: Counters,
    joined_once: bool,
    started_us: u64,
    backoff: Duration,
    not_before_us: u64,
    work: Option<Incarnation>,
    /// Counts assignments. The loop discards results of restores for an earlier assignment.
    assignments: u64,
    doubts: Doubts,
    /// Partition counts at the start of the process. Changed counts would move keys between tasks.
    counts: Option<Arc<[u32]>>,
    recovered_us: u64,
    refusals: Refusals,
    /// The reason for the end of the last incarnation. Cleared by progress.
    trouble: Option<String>,
    scrubber: Scrubber,
    pace: BatchPace,
    rejections: Rejections,
    wake: Wake,
    /// The partition whose records are processed first in the next turn.
    first: turns::First,
    batch: Records,
    out: Records,
}

struct Incarnation {
    member: Box<dyn Member>,
    partitions: Arc<[u32]>,
    tables: Arc<Tables>,
    readers: Vec<Box<dyn Reader>>,
    /// Tasks that are assigned and do not run yet.
    restoring: BTreeSet<u32>,
    tasks: BTreeMap<u32, Task>,
    /// Records polled but not processed, because the last transaction was full. The next turn
    /// processes these records first. The end of the assignment drops them, and the new owner reads
    /// them again.
    left: Records,
    /// True if the member currently skips the partitions of the records in `left`.
    passes_over: bool,
}

impl Incarnation {
    /// Ends all tasks and returns their stores.
    fn end_tasks(&mut self) -> Vec<(u32, Box<dyn StateStore>)> {
        std::mem::take(&mut self.tasks)
            .into_iter()
            .map(|(number, task)| (number, task.into_store()))
            .collect()
    }
}

const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(2);
/// Longest wait for input between two slices of a scrub.
const SCRUB_WAIT: Duration = Duration::from_millis(5);
const CALM: Duration = Duration::from_secs(30);
/// Limits of one read of a broadcast table. Input records wait during the read, and a large table
/// may be written while tasks run.
const TABLE_LIMITS: Limits = Limits {
    records: 1_000,
    bytes: 1 << 20,
    age: Duration::from_millis(5),
};
/// Longest wait for input while the restorer works. A restored task starts to run this late at
/// most.
const RESTORING_WAIT: Duration = Duration::from_millis(5);

impl Instance {
    pub fn new(
        log: Arc<dyn Log>,
        stores: Box<dyn Stores>,
        clock: Box<dyn Clock>,
        factory: Box<dyn RoleFactory>,
        topics: Arc<TopicTable>,
        settings: InstanceSettings,
    ) -> Instance {
        let spec = Arc::new(factory.spec().clone());
        let clock: Arc<dyn Clock> = clock.into();
        let started_us = clock.now_us();
        let pace = BatchPace::new(
            settings.limits,
            TransactionBounds::default(),
            !spec.linger.is_zero(),
        );
        let group = settings.group.clone();
        let wait = settings.takeover_wait;
        let standby = settings.standby;
        let restorer = Restorer::new(
            log.clone(),
            topics.clone(),
            spec.clone(),
            stores,
            group,
            wait,
            standby,
        );

        Instance {
            log,
            restorer: RestorerHandle::Turns {
                restorer: Box::new(restorer),
                busy: false,
            },
            clock,
            factory,
            topics,
            settings,
            spec,
            counters: Counters::default(),
            joined_once: false,
            started_us,
            backoff: BACKOFF_MIN,
            not_before_us: 0,
            work: None,
            assignments: 0,
            doubts: Doubts::default(),
            counts: None,
            recovered_us: started_us,
            refusals: Refusals::default(),
            trouble: None,
            scrubber: Scrubber::new(),
            pace,
            rejections: Rejections::default(),
            wake: Wake::default(),
            first: turns::First::default(),
            batch: Records::new(),
            out: Records::new(),
        }
    }

    /// Sets the period of scrubbing (`scrub`). Without this call nothing is scrubbed.
    pub fn scrub_every(&mut self, every: Option<Duration>) {
        self.scrubber.set(every, self.clock.now_us());
    }

    /// Replaces the default bounds of transactions, for tests.
    pub fn bound_by(&mut self, bounds: TransactionBounds) {
        self.pace = BatchPace::new(self.settings.limits, bounds, !self.spec.linger.is_zero());
    }

    /// Moves restores to a thread beside the loop. Call before the first step. Without this call,
    /// restores take slices of the loop's turns.
    pub fn restore_in_thread(self, spawn: SpawnThread) -> std::io::Result<Instance> {
        let name = format!("{}-restore", self.spec.name);
        let clock = self.clock.clone();
        let restorer = self.restorer;
        Ok(Instance {
            restorer: restorer.into_thread(name, clock, spawn)?,
            ..self
        })
    }

    /// Runs one turn of the loop. An error is final: the instance has stopped.
    pub fn step(&mut self) -> Result<TurnResult, FatalError> {
        let result = match self.work.take() {
            None => self.join(),
            Some(mut work) => {
                let result = self.turn(&mut work);
                match result {
                    Ok(_) => self.work = Some(work),
                    // Stores stay open for the next incarnation. The next incarnation verifies
                    // their positions again, because another instance may have run the tasks
                    // meanwhile.
                    Err(_) => self.end_assignment(&mut work)?,
                }

                result
            }
        };

        match result {
            Ok(turn) => {
                if turn == TurnResult::Idle
                    && self.counters.without_progress > 0
                    && self.phase() == "running"
                {
                    let calm = Duration::from_micros(
                        self.clock.now_us().saturating_sub(self.recovered_us),
                    ) > CALM;
                    calm.then(|| self.progressed());
                }

                Ok(turn)
            }
            Err(StepError::Stop(stop)) => Err(stop),
            Err(StepError::Recover(why)) => self.recover(&why),
            Err(StepError::Refused(why)) => self.refused(why),
            Err(StepError::Doubt(task, why)) => {
                if self.doubts.found(task, &why, self.clock.now_us()) {
                    return Err(FatalError::Bug(why));
                }

                self.recover(&format!(
                    "invariant violated, perhaps by stale state after a pause; rejoining to check once more: {why}"
                ))
            }
        }
    }

    /// Leaves the group at once, so that other instances take over the tasks. The instance stops
    /// for good.
    pub fn leave(&mut self) {
        if let Some(mut work) = self.work.take() {
            work.member.leave();
        }
    }

    /// Handles a refusal by the log: the configuration is wrong, or access changed (see
    /// [`super::refusal`]).
    fn refused(&mut self, why: String) -> Result<TurnResult, FatalError> {
        match self.refusals.refused(self.clock.now_us()) {
            RefusalAction::Stop => return Err(FatalError::Invalid(why)),
            RefusalAction::Wait {
                tell: Some(seconds),
            } => {
                tracing::error!(role = self.spec.name, instance = %self.settings.instance, "{why}; trying again for {seconds} s, then the role ends");
            }
            RefusalAction::Wait { tell: None } => {}
        }

        self.recover(&why)
    }

    fn recover(&mut self, why: &str) -> Result<TurnResult, FatalError> {
        self.refusals.ended();
        let waited = Duration::from_micros(self.clock.now_us() - self.started_us);
        if !self.joined_once && waited > self.settings.startup_wait {
            return Err(FatalError::Failed(why.to_string()));
        }

        self.counters.recoveries += 1;
        self.counters.without_progress += 1;
        self.trouble = Some(why.to_string());
        tracing::warn!(
            role = self.spec.name,
            instance = %self.settings.instance,
            %why,
            without_progress = self.counters.without_progress,
            backoff_ms = self.backoff.as_millis() as u64,
            "recovering: everything since the last commit is done again by a new incarnation"
        );

        // Reset the backoff if the last recovery was more than 30 s ago.
        let now = self.clock.now_us();
        if Duration::from_micros(now - std::mem::replace(&mut self.recovered_us, now)) > CALM {
            self.backoff = BACKOFF_MIN;
        }

        self.not_before_us = self.clock.now_us() + self.backoff.as_micros() as u64;
        self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
        Ok(TurnResult::Busy)
    }

    fn progressed(&mut self) {
        self.counters.without_progress = 0;
        self.trouble = None;
    }

    fn join(&mut self) -> Result<TurnResult, StepError> {
        let now = self.clock.now_us();
        if now < self.not_before_us {
            self.clock.sleep(
                Duration::from_micros(self.not_before_us - now).min(self.settings.idle_wait),
            );
            return Ok(TurnResult::Idle);
        }

        let partitions = self.check_topics()?;
        let inputs = self
            .spec
            .inputs
            .iter()
            .map(|i| MemberInput {
                topic: i.topic,
                headers: i.guarded || self.spec.headers,
            })
            .collect();

        let group = self.settings.group.clone();
        let instance = self.settings.instance.clone();

        // Fence first. A predecessor cannot change any record read after this line.
        let member = self.log.join(&MemberSpec {
            group,
            instance,
            inputs,
            linger: self.spec.linger,
        })?;

        crash::point(Point::JoinMember);
        let mut tables = Tables::default();
        let mut readers = Vec::new();
        for topic in &self.spec.broadcasts {
            readers.push(self.load_table(*topic, &mut tables)?);
        }

        for topic in &self.spec.broadcasts {
            for row in self
                .factory
                .seed_broadcast(*topic, &*self.log, &*self.clock, &tables)?
                .iter()
            {
                tables.set(
                    *topic,
                    row.key.unwrap_or_default(),
                    0,
                    row.value.unwrap_or_default(),
                );
            }
        }

        crash::point(Point::JoinTables);
        self.joined_once = true;
        let restoring = BTreeSet::new();
        let tasks = BTreeMap::new();
        let tables = Arc::new(tables);
        let left = Records::new();
        self.work = Some(Incarnation {
            member,
            partitions,
            tables,
            readers,
            restoring,
            tasks,
            left,
            passes_over: false,
        });

        self.wake.begin();
        tracing::info!(role = self.spec.name, instance = %self.settings.instance, "predecessor fenced, asking the group for partitions");
        Ok(TurnResult::Busy)
    }

    /// Returns partition counts by topic number. Refuses missing topics, and partition counts that
    /// do not fit together.
    fn check_topics(&mut self) -> Result<Arc<[u32]>, StepError> {
        let mut counts = Vec::new();
        for topic in self.topics.iter() {
            let Some(n) = self.log.partitions(topic)? else {
                let name = self.topics.name(topic);
                if self.joined_once {
                    // The topic existed before. A broker that has just started may not know the
                    // topic yet.
                    return Err(StepError::Recover(format!(
                        "topic {name} is not known at the moment"
                    )));
                }

                return Err(StepError::invalid(format!(
                    "topic {name} does not exist; run `processor topics create` first"
                )));
            };

            counts.push(n);
        }

        if let Some(why) = self.topics.misfit(&counts) {
            return Err(StepError::invalid(why));
        }

        let counts: Arc<[u32]> = counts.into();
        if *self.counts.get_or_insert_with(|| counts.clone()) != counts {
            return Err(StepError::invalid(
                "the partition counts of the topics were changed, which moves keys to other tasks; nothing was processed under the new ones. Kafka cannot \
                 take partitions away: `processor topics check` shows which topics have more"
                    .into(),
            ));
        }

        Ok(counts)
    }

    fn load_table(
        &self,
        topic: TopicId,
        tables: &mut Tables,
    ) -> Result<Box<dyn Reader>, StepError> {
        let mut reader = self.log.reader(topic, &[(0, StartOffset::Start)], false)?;
        let mut chunk = Records::new();
        let mut quiet_us = self.clock.now_us();
        while !reader.caught_up() {
            chunk.clear();
            reader.poll(Duration::from_millis(100), self.settings.limits, &mut chunk)?;
            crash::point(Point::JoinTable);
            for r in chunk.iter() {
                if self.factory.accepts_broadcast(&r) {
                    tables.apply(&r);
                }

                quiet_us = self.clock.now_us();
            }

            if Duration::from_micros(self.clock.now_us() - quiet_us) > self.settings.startup_wait {
                return Err(StepError::Recover(format!(
                    "{} cannot be read to its end",
                    self.topics.name(topic)
                )));
            }
        }

        Ok(reader)
    }

    fn turn(&mut self, work: &mut Incarnation) -> Result<TurnResult, StepError> {
        if work.member.suspect() {
            return Err(StepError::Recover(
                "a connection or request failed; taking a new epoch before the next transaction"
                    .into(),
            ));
        }

        let wait = match work.restoring.is_empty() {
            _ if self.restorer.needs_turns() => Duration::ZERO,
            true if self.scrubber.busy() => self.settings.idle_wait.min(SCRUB_WAIT),
            true => self.settings.idle_wait,
            false => self.settings.idle_wait.min(RESTORING_WAIT),
        };

        match self.gather(work, wait)? {
            Polled::Assigned(partitions) => {
                self.assigned(work, &partitions)?;
                return Ok(TurnResult::Busy);
            }
            Polled::Revoked { lost: true } if mutants::on(Mutant::LostIgnored) => {
                return Ok(TurnResult::Busy);
            }
            Polled::Revoked { lost } => {
                if !mutants::on(Mutant::LeftKept) {
                    work.left.clear();
                }

                tracing::info!(role = self.spec.name, instance = %self.settings.instance, lost, "partitions revoked");
                crash::point(Point::RevokeTasks);
                self.end_assignment(work).map_err(StepError::Stop)?;
                return Ok(TurnResult::Busy);
            }
            Polled::Records => {}
        }

        let changed = refresh_tables(&*self.factory, work)?;
        if let Some(clock) = self.spec.clock {
            self.wake(work, clock, &changed)?;
        }

        let mut turn = match self.restore(work)? {
            0 if work.restoring.is_empty() => TurnResult::Idle,
            _ => TurnResult::Busy,
        };

        if work.restoring.is_empty() && !work.tasks.is_empty() {
            self.refusals.ran(self.clock.now_us());
            self.doubts.all_run(self.clock.now_us());
        }

        if !self.batch.is_empty() {
            self.process(work)?;
            turn = TurnResult::Busy;
        }

        match self.scrubber.turn(
            &mut work.tasks,
            self.clock.now_us(),
            turn == TurnResult::Idle,
        ) {
            Ok(done) => self.counters.scrubs += u64::from(done),
            Err((number, e)) => return Err(self.failed(number, e.into())),
        }

        #[cfg(feature = "faults")]
        if turn == TurnResult::Idle && mutants::on(Mutant::TimerWithoutOffsets) {
            mistakes::timer(&self.spec, &self.topics, work)?;
        }

        Ok(turn)
    }

    /// Wakes the tasks with a due alarm, and the tasks that own changed rows of broadcast tables.
    fn wake(
        &mut self,
        work: &mut Incarnation,
        clock: TopicId,
        changed: &[Box<[u8]>],
    ) -> Result<(), LogError> {
        let now_us = self.clock.now_us();
        self.wake.saw(&self.batch, now_us);
        let mut tasks: Vec<u32> = changed
            .iter()
            .map(|key| partition(key, work.partitions[clock.0 as usize]))
            .collect();
        tasks.sort_unstable();
        tasks.dedup();
        for task in tasks.into_iter().filter(|t| work.tasks.contains_key(t)) {
            self.wake.wake(&*self.log, clock, task, now_us)?;
        }

        self.wake.ring(
            &*self.log,
            clock,
            work.tasks.iter().map(|(n, t)| (*n, t.alarm_ms())),
            now_us,
        )
    }

    /// Converts the failure of a task to a step error. Damage is reported to the restorer, because
    /// a restore would accept the position and never check the content.
    fn failed(&mut self, number: u32, e: TaskError) -> StepError {
        match e {
            TaskError::Store(StoreError::Corrupt(why)) => {
                match self.tell(RestorerRequest::Distrust(number, why.clone())) {
                    Ok(()) => StoreError::Corrupt(why).into(),
                    Err(stop) => StepError::Stop(stop),
                }
            }
            TaskError::Bug(InvariantViolation(why)) => StepError::Doubt(Some(number), why),
            e => e.into(),
        }
    }
}

/// Reads new records of the broadcast topics. Returns the keys of the changed rows.
fn refresh_tables(
    factory: &dyn RoleFactory,
    work: &mut Incarnation,
) -> Result<Vec<Box<[u8]>>, LogError> {
    let mut fresh = Records::new();
    for reader in &mut work.readers {
        reader.poll(Duration::ZERO, TABLE_LIMITS, &mut fresh)?;
    }

    if fresh.is_empty() {
        return Ok(Vec::new());
    }

    // Release the tasks' handles first. Otherwise `Arc::make_mut` copies all rows.
    work.tasks
        .values_mut()
        .for_each(|t| t.view.tables = Arc::default());
    debug_assert_eq!(
        Arc::strong_count(&work.tables),
        1,
        "somebody else holds the tables, and every change copies all of them"
    );
    let tables = Arc::make_mut(&mut work.tables);
    let mut changed = Vec::new();
    for r in fresh.iter().filter(|r| factory.accepts_broadcast(r)) {
        if tables.apply(&r) {
            changed.push(r.key.unwrap_or_default().into());
        }
    }

    work.tasks
        .values_mut()
        .for_each(|t| t.view.tables = work.tables.clone());
    Ok(changed)
}
