//! One batch: polling, processing, and the outcome of the transaction.

use std::time::Duration;

use super::super::commit::{CommitError, commit};
use super::super::merge::{BatchRecord, by_log_time, by_task};
use super::super::pace::TransactionContent;
use super::super::rejections::TIMES;
use super::super::role::InvariantViolation;
use super::super::step_error::StepError;
use super::super::task::TaskError;
#[cfg(feature = "faults")]
use super::mistakes;
use super::turns::{First, LastTurns, choose};
use super::{BACKOFF_MIN, FatalError, Incarnation, Instance};
use faults::crash::{self, Point};
use faults::mutants::{self, Mutant};
use ports::topics::TopicPartition;
use ports::{Limits, LogError, Polled, Rejection, TransactionOutcome};

/// Work of all tasks in one turn.
#[derive(Default)]
struct Processed {
    /// Tasks that processed something, ascending.
    touched: Vec<u32>,
    /// Tasks that read a record of the clock topic.
    woken: Vec<u32>,
    /// Number of records processed.
    taken: usize,
    /// Position of the first processed record.
    first: Option<(TopicPartition, u64)>,
}

/// The roles' output of one turn, before the engine adds state changes.
struct Output {
    records: usize,
    dead_letters: u64,
}

impl Instance {
    /// Polls one batch. After the first record the poll continues for the role's linger time or
    /// until the batch is full. Records left over from the last batch come first, without any wait.
    /// The other partitions are polled beside the left-over records, so a backlog in one partition
    /// does not delay the others.
    pub(super) fn gather(
        &mut self,
        work: &mut Incarnation,
        wait: Duration,
    ) -> Result<Polled, LogError> {
        let limits = self.pace.limits(self.clock.now_us());
        self.batch.clear();
        std::mem::swap(&mut self.batch, &mut work.left);
        let left = self.batch.len();
        let mut partitions: Vec<TopicPartition> = self.batch.iter().map(|r| r.at).collect();
        partitions.sort_unstable();
        partitions.dedup();
        if left > 0 || work.passes_over {
            work.member.skip_partitions(&partitions);
            work.passes_over = left > 0;
        }

        if left > 0 {
            let all = work
                .tasks
                .keys()
                .map(|task| self.spec.inputs_of(*task, &work.partitions).len())
                .sum::<usize>();
            let limits = self.limits_beside(limits, all, all.saturating_sub(partitions.len()));
            let rest = mutants::on(Mutant::LeftKept).then(|| self.batch.clone());
            let polled = work.member.poll(Duration::ZERO, limits, &mut self.batch)?;
            if let Some(rest) = rest.filter(|_| polled != Polled::Records) {
                work.left = rest;
            }

            return Ok(polled);
        }

        let mut polled = work.member.poll(wait, limits, &mut self.batch)?;
        if self.batch.is_empty() || self.spec.linger.is_zero() {
            return Ok(polled);
        }

        let until = self.clock.now_us() + self.spec.linger.as_micros() as u64;
        while polled == Polled::Records
            && self.batch.len() < limits.records
            && self.batch.size_bytes() < limits.bytes
        {
            let left = until.saturating_sub(self.clock.now_us());
            if left == 0 {
                break;
            }

            let room = Limits {
                records: limits.records - self.batch.len(),
                bytes: limits.bytes - self.batch.size_bytes(),
                ..limits
            };

            polled = work
                .member
                .poll(Duration::from_micros(left), room, &mut self.batch)?;
        }

        Ok(polled)
    }

    /// Limits of the poll beside left-over records: `all` partitions, of which `others` have no
    /// left-over records. The instance keeps about two batches at most. Each of the other
    /// partitions always gets room for at least one record. Otherwise a partition would wait for
    /// the end of another partition's backlog.
    fn limits_beside(&self, limits: Limits, all: usize, others: usize) -> Limits {
        let most = self.settings.limits;
        let has = (self.batch.len(), self.batch.size_bytes());

        // A member may ignore `skip_partitions`. Its records must not pile up here.
        if others == 0 || has.0 >= most.records.saturating_mul(2).saturating_add(all) {
            return Limits {
                records: 0,
                bytes: 0,
                ..limits
            };
        }

        let share = |most: usize, has: usize| {
            (most.saturating_mul(2).saturating_sub(has) / (2 * others)).max(1)
        };

        Limits {
            records: limits.records.min(share(most.records, has.0)),
            bytes: limits.bytes.min(share(most.bytes, has.1)),
            ..limits
        }
    }

    pub(super) fn process(&mut self, work: &mut Incarnation) -> Result<(), StepError> {
        crash::point(Point::LoopPolled);
        let began_us = self.clock.now_us();
        let done = self.process_tasks(work, began_us)?;
        crash::point(Point::ProcessDone);

        let output = Output {
            records: self.out.len(),
            dead_letters: self.out.count_topic(self.spec.dead_letters),
        };
        match commit(
            &self.spec,
            &self.topics,
            &mut *work.member,
            &mut work.tasks,
            &done.touched,
            &mut self.out,
        ) {
            Ok(suspect) => {
                self.committed(work, &done, &output, began_us);
                if suspect {
                    return Err(StepError::suspect());
                }

                Ok(())
            }
            #[cfg(feature = "faults")]
            Err(CommitError::Transaction(TransactionOutcome::Unknown(why)))
                if mutants::on(Mutant::UnknownIsAbort) =>
            {
                mistakes::go_back(work, &done.touched, why)
            }
            Err(CommitError::Transaction(outcome)) => {
                Err(self.not_committed(outcome, &done, &output))
            }
            Err(CommitError::TooLarge(why)) => Err(StepError::Stop(FatalError::Refused(why))),
            Err(CommitError::NoOffset(task)) => Err(StepError::Recover(format!(
                "committed, but the log did not say where task {task}'s meta record is"
            ))),
            // The broker accepted this request, so our state cannot be stale: fail at once.
            Err(CommitError::TaskFailed(_, TaskError::Bug(e))) => Err(e.into()),
            Err(CommitError::TaskFailed(number, e)) => Err(self.failed(number, e)),
        }
    }

    /// Counts a committed transaction, and forgets what its success disproves.
    fn committed(&mut self, work: &Incarnation, done: &Processed, output: &Output, began_us: u64) {
        crash::point(Point::CommitDone);
        if !work.left.is_empty() {
            crash::point(Point::BatchLeft);
        }

        let repeats: u64 = work.tasks.values().map(|t| t.repeats).sum();
        let c = &mut self.counters;
        c.records_in += done.taken as u64;
        c.records_out += self.out.len() as u64;
        c.transactions += 1;
        c.dead_letters += output.dead_letters;
        c.repeats_dropped = c.repeats_dropped.max(repeats);

        let now_us = self.clock.now_us();
        self.doubts.committed(&done.touched, now_us);
        self.backoff = BACKOFF_MIN;
        // A transaction of state alone, as a wake-up causes, proves no right to write output.
        let state = |t| t == self.spec.changelog || Some(t) == self.spec.journal;
        if self.out.iter().any(|r| !state(r.at.topic)) {
            self.refusals.allowed();
        }

        self.progressed();
        let took_us = self.clock.now_us().saturating_sub(began_us);
        self.pace.well(done.taken, output.records, took_us);
        done.touched
            .iter()
            .for_each(|task| self.rejections.past(*task));
        done.woken.iter().for_each(|task| self.wake.read(*task));
    }

    /// Decides what follows from a transaction that ended with this outcome.
    fn not_committed(
        &mut self,
        outcome: TransactionOutcome,
        done: &Processed,
        output: &Output,
    ) -> StepError {
        // Usually a commit of unknown outcome had no answer in time. A transaction that was too
        // large is a possible reason.
        let accepted = match &outcome {
            TransactionOutcome::Late { done, of, .. } => Some((*done, *of)),
            TransactionOutcome::Unknown(_) => Some((self.out.len(), self.out.len())),
            _ => None,
        };
        match outcome {
            TransactionOutcome::Rejected(Rejection { reason, text }) => {
                return self.rejected(done.taken, &done.first, &reason, &text);
            }
            // The first transaction of a process shows whether the process may write at all.
            TransactionOutcome::Refused(why) if self.counters.transactions == 0 => {
                return StepError::invalid(why);
            }
            _ => {}
        }

        match (StepError::of_transaction(outcome), accepted) {
            (StepError::Recover(why), Some((accepted, of))) => {
                let taken = done.taken;
                self.pace.late(taken, output.records, accepted, of);
                let next = self.pace.next();
                StepError::Recover(format!(
                    "{why}; it took in {taken} records, and the next transaction takes at most {next}"
                ))
            }
            (error, _) => error,
        }
    }

    /// Lets the tasks process records until the transaction is full. The rest of the batch goes to
    /// `work.left`. A partition that got nothing begins the next turn. A partition with records
    /// therefore waits for as many turns as partitions exist, at most.
    fn process_tasks(
        &mut self,
        work: &mut Incarnation,
        now_us: u64,
    ) -> Result<Processed, StepError> {
        let order = by_task(&self.spec, &self.batch);
        let mut groups: Vec<&[BatchRecord]> = order.chunk_by(|a, b| a.task == b.task).collect();
        let behind = groups.partition_point(|g| g[0].task < self.first.task);
        groups.rotate_left(behind);
        let counts: Vec<(u32, usize)> = groups.iter().map(|g| (g[0].task, g.len())).collect();
        let more = self.batch.len() >= self.pace.limits(now_us).records;
        let shares = self.pace.share(&counts, more, now_us);
        self.out.clear();
        work.left.clear();
        let mut done = Processed::default();
        let mut room = self.pace.room();
        let mut turns = LastTurns::default();
        for (group, share) in groups.iter().zip(shares) {
            let number = group[0].task;
            let first = self.first.input.filter(|_| number == self.first.task);
            let full = room.is_used_up_by(TransactionContent {
                records: self.out.len(),
                bytes: self.out.size_bytes(),
                row_bytes: 0,
            });

            let mut taken: &[BatchRecord] = &[];
            let mut chosen = choose(group, &self.batch, share, first);
            if !chosen.is_empty() && (!full || done.taken == 0) {
                let task = work.tasks.get_mut(&number).ok_or_else(|| {
                    InvariantViolation(format!(
                        "a record came for task {number}, which does not run"
                    ))
                })?;

                let batch = &self.batch;
                if task.merges_by_log_time() {
                    by_log_time(&mut chosen, batch);
                }

                let r = batch.get(chosen[0].index as usize);
                done.first.get_or_insert((r.at, r.offset));
                let n = match task.process(
                    chosen.iter().map(|place| batch.get(place.index as usize)),
                    &mut self.out,
                    room,
                ) {
                    Ok(n) => n,
                    Err(e) => return Err(self.failed(number, e)),
                };

                chosen[..n].sort_unstable();
                taken = &chosen[..n];
                room = room.beside(task.to_prepare());
                done.touched.push(number);
                done.taken += taken.len();
                if self.spec.clock.is_some_and(|clock| {
                    taken
                        .iter()
                        .any(|place| batch.get(place.index as usize).at.topic == clock)
                }) {
                    done.woken.push(number);
                }
            }

            turns.took(group, first, taken);
            if !mutants::on(Mutant::LeftForgotten) {
                let left = group
                    .iter()
                    .filter(|place| taken.binary_search(place).is_err());
                left.for_each(|place| work.left.push(&self.batch.get(place.index as usize)));
            }
        }

        self.first = turns.next().unwrap_or(First {
            input: None,
            ..self.first
        });

        done.touched.sort_unstable();
        Ok(done)
    }

    /// The log rejected an output record. Later transactions take fewer records until one input
    /// record is known as the cause. That record is tried [`TIMES`] times, then the role stops.
    fn rejected(
        &mut self,
        taken: usize,
        first: &Option<(TopicPartition, u64)>,
        reason: &str,
        text: &str,
    ) -> StepError {
        self.pace.refused(taken);
        let (Some((at, offset)), 1) = (first, taken) else {
            let next = self.pace.next();
            return StepError::Recover(format!(
                "not committed: {text}. The transaction took in {taken} records; the next takes at most {next}, until the one to blame is known"
            ));
        };

        let times = self.rejections.again(*at, *offset, reason);
        let record = format!("{}/{offset}", self.topics.show(*at));
        if times < TIMES {
            return StepError::Recover(format!(
                "not committed: {text}. {record} leads to that; refused {times} of {TIMES} times"
            ));
        }

        StepError::Stop(FatalError::Refused(format!(
            "what record {record} leads to was refused {times} times, while brokers were there: {text}. Nothing behind that record is processed until then;              nothing is lost, and the role goes on from there when it is started again"
        )))
    }
}
