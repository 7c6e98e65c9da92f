//! Restore of one task: the position required of its store, and the action for any other position.

use std::time::Duration;

use faults::crash::{self, Point};
use faults::mutants::{self, Mutant};
use ports::records::Record;
use ports::topics::TopicPartition;
use ports::{Bounds, LogError, StartOffset, StateStore};

use super::copy::StoreCopy;
use super::{Env, RestoreError, RestoreProgress, Restored};
use crate::checkpoint::Checkpoint;
use crate::last_meta::{OffsetComparison, fit};

/// Wait before the next request, while offsets or changelog may still change.
const AGAIN_US: u64 = 20_000;
/// First and longest wait before a retry after a failure of the log.
const FAILED_US: u64 = 200_000;
const FAILED_MAX_US: u64 = 5_000_000;
/// Offsets behind the changelog count only after this many looks. The process may have been frozen
/// between two answers.
const BEHIND_LOOKS: u32 = 3;

/// The next step of a restore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Wait for the group's committed offsets.
    Ask,
    /// Offsets are known; open the store.
    Open,
    /// Read the changelog from here into the store.
    Read(StartOffset),
    /// Read the changelog from here, only to find its last meta record.
    Look(StartOffset),
}

/// A restore in progress.
pub(super) struct Restore {
    pub task: u32,
    pub inputs: Vec<TopicPartition>,
    pub phase: Phase,
    /// No request before this time.
    pub not_before_us: u64,
    pub progress: RestoreProgress,
    /// The open store, while no task uses the store.
    pub copy: Option<StoreCopy>,
    /// Time of the last look, and the length of the wait until then.
    looked_us: u64,
    waited: Duration,
    /// Committed offsets in the last answer, by input.
    offsets: Vec<Option<u64>>,
    behind: u32,
    failures: u32,
    /// Reason of the store's quarantine.
    quarantined: Option<String>,
    /// The last meta record found by a look, if any.
    found: Option<Checkpoint>,
    /// True if the look began at the changelog's start.
    from_start: bool,
    /// True if the task must have its own reader, because a shared reader failed.
    pub alone: bool,
    /// True after the log line about the wait.
    told: bool,
}

/// Result of a step.
pub(super) enum RestoreStep {
    /// Continue with the current phase.
    On,
    Done(Box<Restored>),
    /// Quarantine and rebuild the store.
    StartOver(String),
}

impl Restore {
    /// A restore for a newly assigned task.
    pub(super) fn new(task: u32, inputs: Vec<TopicPartition>, now_us: u64) -> Restore {
        Restore {
            task,
            inputs,
            phase: Phase::Ask,
            not_before_us: 0,
            progress: RestoreProgress::default(),
            copy: None,
            looked_us: now_us,
            waited: Duration::ZERO,
            offsets: Vec::new(),
            behind: 0,
            failures: 0,
            quarantined: None,
            found: None,
            from_start: false,
            alone: false,
            told: false,
        }
    }

    pub(super) fn changelog(&self, env: &Env<'_>) -> TopicPartition {
        TopicPartition::new(env.spec.changelog, self.task)
    }

    /// Notes the group's committed offsets.
    pub(super) fn told_offsets(&mut self, offsets: Vec<Option<u64>>) {
        (self.offsets, self.phase) = (offsets, Phase::Open);
    }

    /// The committed offsets are still pending.
    pub(super) fn pending(&mut self, env: &Env<'_>) {
        if self.waited(env) >= env.takeover_wait && !std::mem::replace(&mut self.told, true) {
            let role = env.spec.name;
            let task = self.task;
            tracing::warn!(
                role,
                task,
                "committed offsets stay pending: a transaction hangs in the cluster, or its coordinator is down; asking again until it is decided"
            );
        }

        self.ask_again(env);
    }

    /// The log did not answer. Only this restore waits.
    pub(super) fn failed(&mut self, env: &Env<'_>, why: &LogError) {
        let wait = (FAILED_US << self.failures.min(8)).min(FAILED_MAX_US);
        if self.failures == 0 {
            tracing::warn!(role = env.spec.name, task = self.task, %why, "restore delayed: the log does not answer; asking again");
        }

        self.failures += 1;
        self.phase = Phase::Ask;
        self.not_before_us = env.clock.now_us() + wait;
    }

    /// Another process or thread holds the store. The error means: for too long.
    pub(super) fn held(&mut self, env: &Env<'_>, why: &str) -> Result<(), ()> {
        // The holder may be a fenced predecessor on this machine, about to end. A frozen
        // predecessor first checks the state of its successor and keeps its directory meanwhile, so
        // wait twice as long as in other cases. The holder may also be the loop: a finished restore
        // for an earlier assignment is on its way to the loop, and the store comes back.
        if self.waited(env) >= env.takeover_wait * 2 {
            return Err(());
        }

        if !std::mem::replace(&mut self.told, true) {
            tracing::info!(
                role = env.spec.name,
                task = self.task,
                why,
                "waiting for local state"
            );
        }

        self.ask_again(env);
        Ok(())
    }

    /// Next step after opening the store. The caller must have asked for the changelog's bounds
    /// after the offsets.
    pub(super) fn opened(
        &mut self,
        env: &Env<'_>,
        bounds: Bounds,
        markers: bool,
    ) -> Result<RestoreStep, RestoreError> {
        self.failures = 0;
        self.progress.end = bounds.stable_end;
        let Some(at) = self.copy.as_ref().and_then(StoreCopy::at) else {
            if bounds.end == bounds.start {
                return self.judge(env, bounds);
            }

            self.phase = Phase::Read(StartOffset::Start);
            return Ok(RestoreStep::On);
        };

        self.progress.at = at;
        if at >= bounds.end {
            let why = format!(
                "state was last written at offset {at} of a changelog that ends at {}",
                bounds.end
            );
            return self.doubtful(env, &why, bounds);
        }

        if at + 1 < bounds.start {
            let why = format!(
                "state was last written at offset {at} of a changelog that begins at {}",
                bounds.start
            );
            return self.doubtful(env, &why, bounds);
        }

        if at >= bounds.stable_end {
            // A new leader does not know the last stable offset yet.
            self.ask_again(env);
            return Ok(RestoreStep::On);
        }

        // Only the commit marker can follow our last meta record, if markers take an offset in this
        // log.
        if bounds.stable_end <= at + 1 + u64::from(markers) {
            return self.judge(env, bounds);
        }

        self.phase = Phase::Read(StartOffset::Offset(at + 1));
        Ok(RestoreStep::On)
    }

    /// Decides after all records up to the stable end are read: compares the checkpoint with the
    /// committed offsets.
    pub(super) fn judge(
        &mut self,
        env: &Env<'_>,
        bounds: Bounds,
    ) -> Result<RestoreStep, RestoreError> {
        let Some(copy) = &self.copy else {
            self.ask_again(env);
            return Ok(RestoreStep::On);
        };

        let Some(meta) = copy.meta().cloned() else {
            return self.judge_empty(env, bounds);
        };

        let from_log = copy.from_log;
        let offsets = self.compare(&meta);
        if mutants::on(Mutant::AbsentIsFresh) && self.offsets.iter().all(Option::is_none) {
            return Ok(self.done(Checkpoint::default(), false));
        }

        match offsets {
            OffsetComparison::Equal | OffsetComparison::Fresh => self.equal(env, &meta, bounds),
            // First read the changelog. Only then can the restore tell the valid position.
            OffsetComparison::Absent if from_log => self.adopt(env, &meta, bounds),
            OffsetComparison::Absent => Ok(self.look(bounds)),
            OffsetComparison::Differ(_) if !offsets.is_ahead() => {
                self.behind += 1;
                if self.behind < BEHIND_LOOKS {
                    self.ask_again(env);
                    Ok(RestoreStep::On)
                } else if from_log {
                    Err(self.behind_the_changelog(env, &meta))
                } else {
                    Ok(self.look(bounds))
                }
            }
            OffsetComparison::Differ(_) => {
                if mutants::on(Mutant::RestoreToStable) || mutants::on(Mutant::EndTrusted) {
                    return self.finish(env, &meta, false);
                }

                if self.waited(env) < env.takeover_wait {
                    self.ask_again(env);
                    Ok(RestoreStep::On)
                } else if from_log {
                    Err(self.ahead_of_the_changelog(env, Some(&meta)))
                } else {
                    Ok(self.look(bounds))
                }
            }
        }
    }

    /// Committed offsets are equal to the last stable meta record.
    fn equal(
        &mut self,
        env: &Env<'_>,
        meta: &Checkpoint,
        bounds: Bounds,
    ) -> Result<RestoreStep, RestoreError> {
        if self.awaits_the_end_of_a_transaction(env, bounds) {
            return Ok(RestoreStep::On);
        }

        self.finish(env, meta, false)
    }

    /// Checks for an open transaction in the changelog, because its meta record may become the last
    /// one. Only the task's owner writes the changelog, so the transaction belongs to a
    /// predecessor, and the take-over ends the transaction. The wait is bounded by `takeover_wait`.
    fn awaits_the_end_of_a_transaction(&mut self, env: &Env<'_>, bounds: Bounds) -> bool {
        let open = bounds.stable_end < bounds.end && self.waited(env) < env.takeover_wait;
        if open {
            self.ask_again(env);
        }

        open
    }

    /// Neither the store nor the changelog has a meta record.
    fn judge_empty(&mut self, env: &Env<'_>, bounds: Bounds) -> Result<RestoreStep, RestoreError> {
        if self.awaits_the_end_of_a_transaction(env, bounds) {
            return Ok(RestoreStep::On);
        }

        if self.offsets.iter().all(Option::is_none) {
            return Ok(self.done(Checkpoint::default(), false));
        }

        if self.waited(env) < env.takeover_wait {
            self.ask_again(env);
            return Ok(RestoreStep::On);
        }

        Err(self.ahead_of_the_changelog(env, None))
    }

    /// The store's position is outside the changelog's bounds.
    fn doubtful(
        &mut self,
        env: &Env<'_>,
        why: &str,
        bounds: Bounds,
    ) -> Result<RestoreStep, RestoreError> {
        if self.waited(env) < env.takeover_wait {
            self.ask_again(env);
            return Ok(RestoreStep::On);
        }

        if bounds.stable_end == bounds.start {
            // An empty changelog cannot rebuild any state.
            let forgotten = match self.offsets.iter().all(Option::is_none) {
                true => "; the group has no committed offsets either",
                false => "",
            };

            return Err(self.refuse(env, &format!("{why}{forgotten}"), &self.no_way_out(env)));
        }

        Ok(self.look(bounds))
    }

    /// Looks for the last meta record of the changelog, before the store is put into quarantine.
    fn look(&mut self, bounds: Bounds) -> RestoreStep {
        let at = self
            .copy
            .as_ref()
            .and_then(StoreCopy::at)
            .filter(|at| (bounds.start..bounds.stable_end).contains(at));
        self.found = None;
        self.from_start = at.is_none();
        self.phase = Phase::Look(at.map_or(StartOffset::Start, StartOffset::Offset));
        RestoreStep::On
    }

    /// The changelog cannot be read from the restore's position. Reading from the start may work,
    /// because older records may have been deleted. A look shows whether the changelog leads to the
    /// committed position. Only then is the store put into quarantine: the store may be the last
    /// good copy.
    pub(super) fn unreadable(&mut self, env: &Env<'_>, why: &str) -> Result<(), RestoreError> {
        let begun_at_start = match self.phase {
            Phase::Look(_) => self.from_start,
            Phase::Read(from) => from == StartOffset::Start,
            Phase::Ask | Phase::Open => false,
        };

        if begun_at_start {
            let role = env.spec.name;
            let task = self.task;
            let changed = self.changed();
            return Err(RestoreError::Doubt(format!(
                "{role} task {task} refuses to run: its changelog cannot be read: {why}. {changed}"
            )));
        }

        (self.found, self.from_start, self.phase) = (None, true, Phase::Look(StartOffset::Start));
        Ok(())
    }

    /// Notes a meta record found by a look.
    pub(super) fn saw(&mut self, meta: Checkpoint) {
        self.found = Some(meta);
    }

    /// Decides after a look has reached the stable end.
    pub(super) fn looked(
        &mut self,
        env: &Env<'_>,
        bounds: Bounds,
    ) -> Result<RestoreStep, RestoreError> {
        if self.found.is_none() && !std::mem::replace(&mut self.from_start, true) {
            self.phase = Phase::Look(StartOffset::Start);
            return Ok(RestoreStep::On);
        }

        let Some(last) = self.found.take() else {
            let have = self
                .copy
                .as_ref()
                .and_then(StoreCopy::meta)
                .map_or(0, |m| m.transaction);
            return match self.offsets.iter().all(Option::is_none) {
                true => {
                    let why = format!(
                        "the group has no committed offsets and the changelog contains no state, but local state contains {have} transactions"
                    );
                    Err(self.refuse(env, &why, &self.no_way_out(env)))
                }
                false => Err(self.ahead_of_the_changelog(env, None)),
            };
        };

        let own = self.copy.as_ref().and_then(StoreCopy::meta) == Some(&last);
        if own && let Some(copy) = &mut self.copy {
            copy.from_log = true;
        }

        let offsets = self.compare(&last);
        match offsets {
            // The changelog leads to the committed position, but the store differs from the
            // changelog.
            OffsetComparison::Equal | OffsetComparison::Fresh | OffsetComparison::Absent
                if !own =>
            {
                Ok(RestoreStep::StartOver(
                    "it does not hold what the changelog's last transaction says".into(),
                ))
            }
            OffsetComparison::Equal | OffsetComparison::Fresh => self.equal(env, &last, bounds),
            OffsetComparison::Absent => self.adopt(env, &last, bounds),
            OffsetComparison::Differ(_) if !offsets.is_ahead() => {
                Err(self.behind_the_changelog(env, &last))
            }
            OffsetComparison::Differ(_) => Err(self.ahead_of_the_changelog(env, Some(&last))),
        }
    }

    /// The committed offsets are gone: expired, or deleted by somebody. Takes the offsets of the
    /// last transaction.
    fn adopt(
        &mut self,
        env: &Env<'_>,
        meta: &Checkpoint,
        bounds: Bounds,
    ) -> Result<RestoreStep, RestoreError> {
        if self.awaits_the_end_of_a_transaction(env, bounds) {
            return Ok(RestoreStep::On);
        }

        let role = env.spec.name;
        let task = self.task;
        let transaction = meta.transaction;
        tracing::warn!(
            role,
            task,
            transaction,
            "the group has no committed offsets here, though the changelog has transactions: the brokers forgot them, or somebody deleted them; \
             taking them from the last transaction in the changelog and committing them anew"
        );

        self.finish(env, meta, true)
    }

    fn compare(&self, meta: &Checkpoint) -> OffsetComparison {
        let committed: Vec<_> = self.committed().collect();
        fit(&committed, Some(meta))
    }

    /// For a mutant: true if the store's meta record is equal to the committed offsets.
    pub(super) fn fits(&self) -> bool {
        self.copy
            .as_ref()
            .and_then(StoreCopy::meta)
            .is_some_and(|meta| self.compare(meta) == OffsetComparison::Equal)
    }

    /// For a mutant: applies records up to the first meta record equal to the committed offsets.
    pub(super) fn apply_to_the_first<'r>(
        &mut self,
        records: impl Iterator<Item = Record<'r>>,
    ) -> Result<(), RestoreError> {
        for r in records {
            if self.fits() {
                break;
            }

            if let Some(copy) = &mut self.copy {
                copy.apply(std::iter::once(r))?;
            }
        }

        Ok(())
    }

    /// Verifies the content after the position was accepted.
    fn finish(
        &mut self,
        env: &Env<'_>,
        meta: &Checkpoint,
        adopted: bool,
    ) -> Result<RestoreStep, RestoreError> {
        let Some(copy) = &mut self.copy else {
            self.ask_again(env);
            return Ok(RestoreStep::On);
        };

        crash::point(Point::RestoreReached);
        if let Err(why) = copy.verify()? {
            return Ok(RestoreStep::StartOver(why));
        }

        Ok(self.done(meta.clone(), adopted))
    }

    /// Ends the restore. For inputs that the checkpoint lacks, the restorer asks the log for start
    /// offsets.
    fn done(&mut self, meta: Checkpoint, adopted: bool) -> RestoreStep {
        let Some(copy) = self.copy.take() else {
            return RestoreStep::On;
        };

        let changelog_offset = copy.at();
        let records = copy.records;
        RestoreStep::Done(Box::new(Restored {
            store: copy.store,
            meta,
            changelog_offset,
            records,
            adopted,
        }))
    }

    /// Prepares a restart with an empty store after quarantine. Returns an error if the store was
    /// already rebuilt once.
    pub(super) fn begin_anew(&mut self, env: &Env<'_>, why: &str) -> Result<(), RestoreError> {
        self.copy = None;
        if let Some(first) = &self.quarantined {
            let text = format!("rebuilding its state did not help (first: {first}; now: {why})");
            return Err(self.refuse(env, &text, &self.no_way_out(env)));
        }

        Ok(())
    }

    /// Notes the quarantine of the store, and starts over.
    pub(super) fn put_aside(&mut self, env: &Env<'_>, why: String) {
        self.quarantined = Some(why);
        (self.looked_us, self.waited) = (env.clock.now_us(), Duration::ZERO);
        self.progress = RestoreProgress::default();
        self.ask_again(env);
        self.not_before_us = 0;
    }

    /// Takes an open store for this restore.
    pub(super) fn take(&mut self, store: Box<dyn StateStore>) -> Result<(), RestoreError> {
        self.copy = Some(StoreCopy::of(store)?);
        Ok(())
    }

    /// Total wait of this restore. A freeze of the process counts only as a short wait.
    fn waited(&mut self, env: &Env<'_>) -> Duration {
        let now = env.clock.now_us();
        let since = Duration::from_micros(now - std::mem::replace(&mut self.looked_us, now));
        self.waited += since.min(env.takeover_wait / 20);
        self.waited
    }

    /// Committed offsets and changelog may still change. Ask for both again in a moment.
    fn ask_again(&mut self, env: &Env<'_>) {
        self.waited(env);
        self.phase = Phase::Ask;
        self.not_before_us = env.clock.now_us() + AGAIN_US;
    }

    fn behind_the_changelog(&self, env: &Env<'_>, last: &Checkpoint) -> RestoreError {
        let changelog = env.topics.name(env.spec.changelog);
        let why = format!(
            "the group's committed offsets ({}) are older than transaction {} in {changelog} ({}): somebody reset them, or the brokers lost the \
             newest ones; running from there would carry out again what is carried out",
            self.show_offsets(env),
            last.transaction,
            show_meta(env, last)
        );

        let text = self.text(env, &why, &self.repair(env));
        RestoreError::Doubt(text)
    }

    fn ahead_of_the_changelog(&self, env: &Env<'_>, last: Option<&Checkpoint>) -> RestoreError {
        let changelog = env.topics.show(self.changelog(env)).to_string();
        let offsets = self.show_offsets(env);
        match last {
            Some(last) => {
                let why = format!(
                    "the group's committed offsets ({offsets}) are ahead of the last transaction in {changelog} (number {}: {}): somebody moved \
                     them, or the brokers lost the end of the changelog",
                    last.transaction,
                    show_meta(env, last)
                );
                self.refuse(env, &why, &self.repair(env))
            }
            None => {
                let why = format!(
                    "the group has committed offsets ({offsets}), but {changelog} contains no state: was the topic deleted?"
                );
                self.refuse(env, &why, &self.no_way_out(env))
            }
        }
    }

    fn refuse(&self, env: &Env<'_>, why: &str, advice: &str) -> RestoreError {
        let text = self.text(env, why, advice);
        if self.waited < env.takeover_wait {
            RestoreError::Doubt(text)
        } else {
            RestoreError::Stop(text)
        }
    }

    fn text(&self, env: &Env<'_>, why: &str, advice: &str) -> String {
        let role = env.spec.name;
        let task = self.task;
        let changed = self.changed();
        format!(
            "{role} task {task} refuses to run: state and committed offsets do not belong together: {why}. {changed} {advice}"
        )
    }

    fn changed(&self) -> &'static str {
        match self.quarantined {
            Some(_) => "The local state was put aside, the log is as it was.",
            None => "Nothing was changed.",
        }
    }

    fn repair(&self, env: &Env<'_>) -> String {
        format!(
            "`processor repair offsets --role {} --dry-run` shows what the offsets should be; without --dry-run it sets them to the last \
             transaction, then start again",
            env.spec.name
        )
    }

    fn no_way_out(&self, env: &Env<'_>) -> String {
        format!(
            "Delete nothing: bring {} back from a backup or a mirror; if there is none, keep this installation for reading and begin a new one \
             under another --topic-prefix",
            env.topics.name(env.spec.changelog)
        )
    }

    fn show_offsets(&self, env: &Env<'_>) -> String {
        let one = |(at, o): (&TopicPartition, &Option<u64>)| match o {
            Some(o) => format!("{}: {o}", env.topics.show(*at)),
            None => format!("{}: none", env.topics.show(*at)),
        };

        self.inputs
            .iter()
            .zip(&self.offsets)
            .map(one)
            .collect::<Vec<_>>()
            .join(", ")
    }

    /// The committed offset of each input, if any.
    pub(super) fn committed(&self) -> impl Iterator<Item = (TopicPartition, Option<u64>)> + '_ {
        self.inputs
            .iter()
            .copied()
            .zip(self.offsets.iter().copied())
    }
}

fn show_meta(env: &Env<'_>, meta: &Checkpoint) -> String {
    meta.offsets
        .iter()
        .map(|(at, o)| format!("{}: {o}", env.topics.show(*at)))
        .collect::<Vec<_>>()
        .join(", ")
}
