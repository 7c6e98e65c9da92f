//! A task's state at an earlier time: re-execution like a replay, with an earlier end.
//!
//! Time is log time, the only time of a task. The state at a moment is the result of all inputs up
//! to the moment, independent of the real processing time. A role with a journal stops after its
//! last transaction without later inputs, because only such states really existed. For other roles
//! the order between inputs does not matter, so each input is read exactly up to the moment.

use std::sync::Arc;
use std::time::Duration;

use ports::records::Records;
use ports::topics::{TopicId, TopicPartition, TopicTable};
use ports::{LogError, StartOffset, StateStore};

use super::checkpoint::Checkpoint;
use super::cursor::{LIMITS, PartitionCursor, position};
use super::journal::Assembler;
use super::replay::{Divergence, ReplayError, ReplaySettings, Run};
use super::role::RoleSpec;

/// The end of the re-execution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PointInTime {
    /// All records with a log time up to this time, in milliseconds since 1970.
    Time(i64),
    /// Up to this record. With a journal: the end of the transaction with the record. Without a
    /// journal: all other inputs up to the record's log time.
    Record(TopicPartition, u64),
}

/// The state at the point in time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Travelled {
    /// Positions of all inputs, digest, and sequence counters. The transaction number in `meta`
    /// counts only if [`Self::transaction`] is set.
    pub meta: Checkpoint,
    /// The task's transaction. `None` without a journal.
    pub transaction: Option<u64>,
    pub records: u64,
    /// The first difference between re-execution and journal. After a divergence the other fields
    /// have no meaning.
    pub divergence: Option<Divergence>,
}

impl ReplaySettings<'_> {
    /// Re-executes into an empty scratch store up to a moment. `committed` has the group's next
    /// offset for each input of the task.
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

    /// The position of a moment in each input. An error if the task has not reached the moment.
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

            // Only transaction markers may follow the last record, and nobody commits an offset for
            // markers.
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

    /// Offset and log time of the first record at or behind the offset `from`.
    fn read_one(&self, at: TopicPartition, from: u64) -> Result<Option<(u64, i64)>, ReplayError> {
        let bounds = self.log.bounds(at)?;
        if from >= bounds.stable_end {
            return Ok(None);
        }

        let mut reader = self.log.reader(
            at.topic,
            &[(at.partition, StartOffset::Offset(from.max(bounds.start)))],
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

/// The goal of a re-execution, in positions.
struct TaskGoal {
    /// End offset of each input. Empty if `record` is set.
    ends: Vec<(TopicPartition, u64)>,
    /// The record that the last transaction must include. Only with a journal.
    record: Option<(TopicPartition, u64)>,
}

impl TaskGoal {
    /// True if a transaction that ends at these positions is after the moment.
    fn passed_by(&self, offsets: &[(TopicPartition, u64)]) -> bool {
        offsets
            .iter()
            .any(|(at, offset)| self.ends.iter().any(|(a, end)| a == at && offset > end))
    }

    /// True if a transaction that ends at these positions includes the record.
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
