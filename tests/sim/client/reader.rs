//! Reads the committed records of one topic outside any group, like `log_kafka::reader`. The target
//! of "caught up" is the stable ends at the creation of the reader.

use std::time::Duration;

use faults::mutants::{self, Mutant};
use ports::records::{Headers, Record, Records};
use ports::topics::{TopicId, TopicPartition};
use ports::{Bounds, Limits, LogError, Reader, StartOffset};

use super::super::coverage::Kind;
use super::super::process;
use super::super::world::with;
use super::{a_moment, wait_until};

pub struct Goal {
    partition: u32,
    next: u64,
    end: u64,
    from_start: Option<u64>,
}

impl Goal {
    pub fn new(partition: u32, from: StartOffset, bounds: Bounds) -> Result<Goal, LogError> {
        let next = match from {
            StartOffset::Start => bounds.start,
            StartOffset::End => bounds.stable_end,
            StartOffset::Offset(o) if o < bounds.start || o > bounds.end => {
                return Err(LogError::Invalid(format!(
                    "partition {partition} holds {bounds:?}; {o} is not there"
                )));
            }
            StartOffset::Offset(o) => o,
        };

        Ok(Goal {
            partition,
            next,
            end: bounds.stable_end,
            from_start: (from == StartOffset::Start).then_some(next),
        })
    }
}

pub struct SimReader {
    topic: TopicId,
    headers: bool,
    goals: Vec<Goal>,
    /// The last poll reached the end of the leader's readable records.
    at_end: bool,
}

impl SimReader {
    pub fn new(topic: TopicId, headers: bool, goals: Vec<Goal>) -> SimReader {
        SimReader {
            topic,
            headers,
            goals,
            at_end: false,
        }
    }

    fn take(&mut self, limits: Limits, into: &mut Records) -> Result<(), LogError> {
        let records = into.len() + limits.records;
        let bytes = into.size_bytes().saturating_add(limits.bytes);
        with(|w| {
            let now = w.now;
            self.at_end = true;
            for goal in &mut self.goals {
                let at = TopicPartition::new(self.topic, goal.partition);
                let part = w.cluster.part(at);
                if !w.cluster.has_leader(at, now) {
                    self.at_end = false;
                    continue;
                }

                if goal.next < part.start {
                    return Err(match goal.from_start == Some(goal.next) {
                        true => LogError::Unavailable(format!(
                            "the first records of {at:?} were just deleted; read again"
                        )),
                        false => LogError::Corrupt(format!(
                            "{at:?} has no offset {} any more",
                            goal.next
                        )),
                    });
                }

                let end = part.readable_end(now);
                let mut reached = end;
                for offset in part
                    .committed(goal.next, end)
                    .filter(|o| !part.entry(*o).gone)
                {
                    if into.len() >= records || into.size_bytes() >= bytes {
                        reached = offset;
                        self.at_end = false;
                        break;
                    }

                    let r = part.record(offset);
                    into.push(&if self.headers {
                        r
                    } else {
                        Record {
                            headers: Headers::default(),
                            ..r
                        }
                    });
                }

                goal.next = goal.next.max(reached);
                if end < part.stable_end() {
                    w.coverage.hit(Kind::ShortFetch);
                }
            }

            Ok(())
        })
    }
}

impl Reader for SimReader {
    fn poll(&mut self, wait: Duration, limits: Limits, into: &mut Records) -> Result<(), LogError> {
        let before = into.len();
        if wait.is_zero() {
            // Take only records that the background has fetched already.
            return self.take(limits, into);
        }

        a_moment(20, 150);
        let deadline = with(|w| w.now) + wait.as_micros() as u64;
        loop {
            self.take(limits, into)?;
            if into.len() > before || with(|w| w.now) >= deadline || self.caught_up() {
                return Ok(());
            }

            with(|w| {
                let me = process::current();
                for goal in &self.goals {
                    let waiters = &mut w
                        .cluster
                        .part_mut(TopicPartition::new(self.topic, goal.partition))
                        .waiters;
                    if !waiters.contains(&me) {
                        waiters.push(me);
                    }
                }
            });

            wait_until(deadline);
        }
    }

    fn caught_up(&self) -> bool {
        self.at_end && mutants::on(Mutant::EndTrusted) || self.goals.iter().all(|g| g.next >= g.end)
    }

    fn reached(&self, partition: u32) -> bool {
        let own = |g: &&Goal| g.partition == partition;
        self.at_end && mutants::on(Mutant::EndTrusted)
            || self.goals.iter().filter(own).all(|g| g.next >= g.end)
    }
}
