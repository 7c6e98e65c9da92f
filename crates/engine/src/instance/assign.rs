//! Assignment and revocation: from assigned partitions to running tasks, and back.

use std::collections::BTreeMap;

use faults::crash::{self, Point};
use faults::mutants::{self, Mutant};
use ports::TransactionOutcome;
use ports::topics::TopicPartition;

use super::super::commit::commit_positions;
use super::super::restore::{Assignment, Restored, RestorerReport, RestorerRequest};
use super::super::step_error::StepError;
use super::super::task::{Task, TaskParts};
use super::{FatalError, Incarnation, Instance};

impl Instance {
    pub(super) fn tell(&mut self, request: RestorerRequest) -> Result<(), FatalError> {
        self.restorer
            .send(request, &*self.clock)
            .map_err(FatalError::Bug)
    }

    /// Ends all tasks. The restorer receives their stores.
    pub(super) fn end_assignment(&mut self, work: &mut Incarnation) -> Result<(), FatalError> {
        work.restoring.clear();
        if !mutants::on(Mutant::LeftKept) {
            work.left.clear();
        }

        let stores = work.end_tasks();
        self.tell(RestorerRequest::Keep(stores))?;
        self.tell(RestorerRequest::Cease)
    }

    pub(super) fn assigned(
        &mut self,
        work: &mut Incarnation,
        partitions: &[TopicPartition],
    ) -> Result<(), StepError> {
        if !mutants::on(Mutant::LeftKept) {
            work.left.clear();
        }

        let mut inputs = BTreeMap::<u32, Vec<TopicPartition>>::new();
        let spec = self.spec.clone();
        for at in partitions {
            inputs.entry(at.partition).or_default().push(*at);
        }

        for (task, got) in &mut inputs {
            got.sort();
            let want = spec.inputs_of(*task, &work.partitions);
            if *got != want {
                // Check the likely cause first: somebody added partitions.
                self.check_topics()?;
                return Err(StepError::invalid(format!(
                    "task {task} of {} got {} of {} input partitions: is another kind of member in group {}?",
                    spec.name,
                    got.len(),
                    want.len(),
                    self.settings.group
                )));
            }
        }

        self.doubts.assigned(&inputs.keys().copied().collect());
        let mut stores = Vec::new();
        if mutants::on(Mutant::LostIgnored) {
            work.tasks.retain(|task, _| inputs.remove(task).is_some());
            work.tasks
                .values()
                .try_for_each(|task| work.member.resume(&task.meta().offsets))?;
        } else {
            stores = work.end_tasks();
        }

        self.assignments += 1;
        work.restoring = inputs.keys().copied().collect();
        let assignment = Assignment {
            number: self.assignments,
            tasks: inputs.into_iter().collect(),
        };

        self.tell(RestorerRequest::Keep(stores))
            .map_err(StepError::Stop)?;
        self.tell(RestorerRequest::Assign(assignment))
            .map_err(StepError::Stop)?;
        tracing::info!(role = spec.name, instance = %self.settings.instance, tasks = ?work.restoring, "joined");
        crash::point(Point::AssignTasks);
        Ok(())
    }

    /// Starts the tasks with a finished restore. Returns their number.
    pub(super) fn restore(&mut self, work: &mut Incarnation) -> Result<usize, StepError> {
        let share = self.settings.cache_bytes / (work.restoring.len() + work.tasks.len()).max(1);
        let mut ready = Vec::new();
        let mut failed = Ok(());
        for report in self.restorer.reports(&*self.clock, work.tasks.len()) {
            match report {
                RestorerReport::Ready(assignment, number, restored)
                    if assignment == self.assignments && work.restoring.remove(&number) =>
                {
                    ready.push((number, *restored));
                }
                // The report belongs to an earlier assignment; the restorer keeps the store.
                RestorerReport::Ready(_, number, restored) => self
                    .tell(RestorerRequest::Keep(vec![(number, restored.store)]))
                    .map_err(StepError::Stop)?,
                RestorerReport::Failed(assignment, number, e)
                    if assignment == self.assignments && work.restoring.contains(&number) =>
                {
                    failed = failed.and(Err(StepError::of_restore(number, e)));
                }
                RestorerReport::Failed(..) => {}
            }
        }

        let count = ready.len();
        if count > 0 {
            self.run_tasks(work, ready, share)?;
            self.tell(RestorerRequest::Running(work.tasks.len()))
                .map_err(StepError::Stop)?;
        }

        failed.map(|()| count)
    }

    /// Starts the restored tasks at their restored positions. All ready tasks start together,
    /// because each request to the log takes time.
    fn run_tasks(
        &mut self,
        work: &mut Incarnation,
        ready: Vec<(u32, Restored)>,
        share: usize,
    ) -> Result<(), StepError> {
        let mut positions = Vec::new();
        let mut adopted = Vec::new();
        let mut begun = Vec::new();
        for (number, done) in ready {
            if done.adopted {
                adopted.extend_from_slice(&done.meta.offsets);
            }

            positions.extend_from_slice(&done.meta.offsets);
            begun.push((number, done.meta.transaction, done.records));
            let parts = TaskParts {
                spec: self.spec.clone(),
                role: self.factory.make(number),
                topics: self.topics.clone(),
                partitions: work.partitions.clone(),
                cache_bytes: share,
            };

            let mut task = Task::new(number, parts, done.store, done.meta);
            (task.view.tables, task.changelog_offset) =
                (work.tables.clone(), done.changelog_offset);
            task.journal_part = self.pace.bounds().journal_part;
            crash::point(Point::ResumeBefore);
            work.tasks.insert(number, task);
        }

        work.member.resume(&positions)?;
        if !adopted.is_empty() {
            crash::point(Point::AdoptPositions);
            match commit_positions(&mut *work.member, &adopted) {
                Ok(false) => {}
                Ok(true) => return Err(StepError::suspect()),
                Err(TransactionOutcome::Refused(why)) => return Err(StepError::invalid(why)),
                Err(outcome) => return Err(StepError::of_transaction(outcome)),
            }

            crash::point(Point::AdoptCommitted);
        }

        for (task, transaction, records) in begun {
            if let Some(clock) = self.spec.clock {
                self.wake
                    .wake(&*self.log, clock, task, self.clock.now_us())?;
            }

            self.doubts.runs(task, self.clock.now_us());
            tracing::info!(role = self.spec.name, task, transaction, records, "running");
            crash::point(Point::ResumeAfter);
        }

        Ok(())
    }
}
