//! A task's state as it was: the same re-execution as a replay, ended earlier.
//!
//! Time is log time, the only one there is: the state at a moment is what comes of all inputs up to
//! that moment, whenever they were really handled. A role with a journal passes only through the
//! states that it really was in, so it ends with the last transaction that took in nothing later.
//! The others have no order between inputs that matters; each of their inputs is read exactly up to
//! the moment.

use std::sync::Arc;
use std::time::Duration;

use super::checkpoint::Checkpoint;
use super::cursor::{LIMITS, PartitionCursor, position};
use super::journal::Assembler;
use super::replay::{Divergence, ReplayError, ReplaySettings, Run};
use super::role::RoleSpec;
use ports::records::Records;
use ports::topics::{TopicId, TopicPartition, TopicTable};
use ports::{From, LogError, StateStore};

/// Where to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PointInTime {
    /// With everything whose log time is not after this, milliseconds since 1970.
    Time(i64),
    /// With this record: behind the transaction that took it in, or, without a journal, at its log
    /// time in all other inputs.
    Record(TopicPartition, u64),
}

/// The state that was there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Travelled {
    /// Positions of all inputs, digest, and guard counters; the transaction counts only if
    /// [`Self::transaction`] says so.
    pub meta: Checkpoint,
    /// The task's transaction, where the journal tells.
    pub transaction: Option<u64>,
    /// Records re-executed.
    pub records: u64,
    /// Where re-execution parts from the journal; then the rest means nothing.
    pub divergence: Option<Divergence>,
}

impl ReplaySettings<'_> {
    /// Re-executes into an empty scratch store up to a moment. `committed`: how far the task's
    /// group has read each of its inputs.
    pub fn until(
        mut self,
        scratch: Box<dyn StateStore>,
        moment: PointInTime,
        committed: &[(TopicPartition, u64)],
    ) -> Result<Travelled, ReplayError> {
        let spec = Arc::new(self.factory.spec().clone());
        let goal = self.goal(&spec, moment, committed)?;
        let inputs: Vec<TopicPartition> = committed.iter().map(|(at, _)| *at).collect();
        let (task, cursors) = self.start(&spec, scratch, &inputs)?;
        let mut run = Run::new(task, cursors);
        let divergence = match spec.journal {
            Some(journal) => self.follow(&spec, journal, &mut run, &goal)?,
            None => {
                self.by_position(&mut run, &goal.ends)?;
                None
            }
        };

        let meta = run.task.meta().clone();
        let transaction = spec.journal.map(|_| meta.transaction);
        Ok(Travelled {
            meta,
            transaction,
            records: run.records,
            divergence,
        })
    }

    fn follow(
        &mut self,
        spec: &RoleSpec,
        journal: TopicId,
        run: &mut Run,
        goal: &TaskGoal,
    ) -> Result<Option<Divergence>, ReplayError> {
        let mut entries =
            PartitionCursor::new(self.log, TopicPartition::new(journal, self.task), 0, false)?;
        let mut whole = Assembler::default();
        while let Some(record) = entries.next_value()? {
            let Some(entry) = whole.take(&record)? else {
                continue;
            };

            if goal.passed_by(&entry.offsets) {
                return Ok(None);
            }

            if let Some(divergence) = self.entry(spec, journal, run, &entry)? {
                return Ok(Some(divergence));
            }

            if goal.reached_by(&entry.offsets) {
                return Ok(None);
            }
        }

        match goal.record {
            None => Ok(None),
            Some((at, offset)) => Err(not_yet(
                &self.topics,
                at,
                position(&run.task.meta().offsets, at)?,
                offset,
            )),
        }
    }

    /// A moment's position in each input; an error if the task has not come that far.
    fn goal(
        &self,
        spec: &RoleSpec,
        moment: PointInTime,
        committed: &[(TopicPartition, u64)],
    ) -> Result<TaskGoal, ReplayError> {
        let (time_ms, record) = match moment {
            PointInTime::Time(ms) => (ms, None),
            PointInTime::Record(at, offset) => {
                let Some((_, next)) = committed.iter().find(|(a, _)| *a == at) else {
                    let inputs: Vec<_> = committed
                        .iter()
                        .map(|(at, _)| self.topics.show(*at).to_string())
                        .collect();
                    let name = spec.name;
                    let task = self.task;
                    let text = format!(
                        "{} is no input of {name} task {task}; its inputs are {}",
                        self.topics.show(at),
                        inputs.join(", ")
                    );
                    return Err(ReplayError::Moment(text));
                };

                if offset >= *next {
                    return Err(not_yet(&self.topics, at, *next, offset));
                }

                if spec.journal.is_some() {
                    return Ok(TaskGoal {
                        ends: Vec::new(),
                        record: Some((at, offset)),
                    });
                }

                (self.time_of(at, offset)?, Some((at, offset)))
            }
        };

        let mut ends = Vec::new();
        for (at, next) in committed {
            let end = match record {
                Some((a, offset)) if a == *at => offset + 1,
                _ => self.log.offset_at(*at, time_ms.saturating_add(1))?,
            };

            // Behind the last record there may be markers of transactions, which nobody commits an
            // offset for.
            if end > *next
                && let Some(unread) = self.first_between(*at, *next, end)?
            {
                return Err(not_yet(&self.topics, *at, *next, unread));
            }

            ends.push((*at, end.min(*next)));
        }

        Ok(TaskGoal { ends, record: None })
    }

    fn time_of(&self, at: TopicPartition, offset: u64) -> Result<i64, ReplayError> {
        let found = self.read_one(at, offset)?;
        match found {
            Some((o, time_ms)) if o == offset => Ok(time_ms),
            _ => Err(ReplayError::Moment(format!(
                "there is no record {}/{offset} (it may have been compacted away): name another, or a time",
                self.topics.show(at)
            ))),
        }
    }

    fn first_between(
        &self,
        at: TopicPartition,
        from: u64,
        end: u64,
    ) -> Result<Option<u64>, ReplayError> {
        Ok(self
            .read_one(at, from)?
            .map(|(offset, _)| offset)
            .filter(|offset| *offset < end))
    }

    /// Offset and time of the first record from an offset on.
    fn read_one(&self, at: TopicPartition, from: u64) -> Result<Option<(u64, i64)>, ReplayError> {
        let bounds = self.log.bounds(at)?;
        if from >= bounds.stable_end {
            return Ok(None);
        }

        let mut reader = self.log.reader(
            at.topic,
            &[(at.partition, From::Offset(from.max(bounds.start)))],
            false,
        )?;
        let mut found = Records::new();
        for _ in 0..300 {
            let last = reader.caught_up();
            reader.poll(
                if last {
                    Duration::ZERO
                } else {
                    Duration::from_millis(100)
                },
                LIMITS,
                &mut found,
            )?;

            if !found.is_empty() || last {
                return Ok((!found.is_empty())
                    .then(|| found.get(0))
                    .map(|r| (r.offset, r.timestamp_ms)));
            }
        }

        Err(LogError::Unavailable(format!(
            "no records of {} came for 30 s",
            self.topics.show(at)
        ))
        .into())
    }
}

/// A moment in a task's own terms.
struct TaskGoal {
    /// With a time: where each input ends.
    ends: Vec<(TopicPartition, u64)>,
    /// With a journal: the record that must be in.
    record: Option<(TopicPartition, u64)>,
}

impl TaskGoal {
    /// Whether a transaction that ended at these positions came after the moment.
    fn passed_by(&self, offsets: &[(TopicPartition, u64)]) -> bool {
        offsets
            .iter()
            .any(|(at, offset)| self.ends.iter().any(|(a, end)| a == at && offset > end))
    }

    /// Whether it was the last one before it.
    fn reached_by(&self, offsets: &[(TopicPartition, u64)]) -> bool {
        self.record
            .is_some_and(|(at, record)| offsets.iter().any(|(a, next)| *a == at && *next > record))
    }
}

fn not_yet(topics: &TopicTable, at: TopicPartition, next: u64, wanted: u64) -> ReplayError {
    let at = topics.show(at);
    ReplayError::Moment(format!(
        "that moment has not been reached: {at} is read up to offset {next}, and it takes {wanted}; wait until the role has caught up"
    ))
}
