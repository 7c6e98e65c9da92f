//! A group member, like `log_kafka::member`. The member delivers records of the resumed partitions
//! only, and remembers its generation.

use std::time::Duration;

use faults::mutants::{self, Mutant};
use ports::records::{Headers, Record, Records};
use ports::topics::TopicPartition;
use ports::{
    Limits, LogError, Member, MemberSpec, Polled, Rejection, Transaction, TransactionOutcome,
};
use roles::Role;

use super::super::cluster::group::Claim;
use super::super::coverage::Kind;
use super::super::timing::*;
use super::super::world::with;
use super::transact::{Sender, Stop};
use super::{a_moment, pause, wait_until};

pub struct SimMember {
    process: usize,
    group: usize,
    txn: usize,
    instance: String,
    wants_headers: Vec<(ports::topics::TopicId, bool)>,
    sender: Sender,
    consumer: usize,
    /// Next offsets, sorted by partition. `None` while paused.
    positions: Vec<(TopicPartition, Option<u64>)>,
    /// Records taken from the queue beyond the limit of that poll.
    held: Records,
    /// Partitions whose records wait, because the engine still has earlier records of them.
    passed_over: Vec<TopicPartition>,
    /// Our membership at the time of the assignment.
    claim: Option<Claim>,
    ended: Option<String>,
    first: usize,
    /// For each delivered partition: the committed offset, and the number of consecutive
    /// transactions that passed the partition over.
    lanes: Vec<Lane>,
}

struct Lane {
    at: TopicPartition,
    done: u64,
    passed: usize,
}

impl SimMember {
    pub fn new(
        process: usize,
        group: usize,
        txn: usize,
        spec: &MemberSpec,
        sender: Sender,
        consumer: usize,
    ) -> SimMember {
        SimMember {
            process,
            group,
            txn,
            instance: spec.instance.clone(),
            wants_headers: spec.inputs.iter().map(|i| (i.topic, i.headers)).collect(),
            sender,
            consumer,
            positions: Vec::new(),
            held: Records::new(),
            passed_over: Vec::new(),
            claim: None,
            ended: None,
            first: 0,
            lanes: Vec::new(),
        }
    }

    fn fenced(&self) -> LogError {
        LogError::Fenced(format!(
            "another process runs as {}, and it started later",
            self.instance
        ))
    }

    /// Serves the consumer's control queue.
    fn control(&mut self) -> Result<Option<Polled>, LogError> {
        let (fenced, change) = with(|w| {
            let c = &mut w.consumers[self.consumer];
            let change = if c.fenced {
                None
            } else {
                c.changes.pop_front()
            };

            (c.fenced, change)
        });

        if fenced {
            return Err(self.fenced());
        }

        let Some(change) = change else {
            return Ok(None);
        };

        self.claim = None;
        self.held.clear();
        self.lanes.clear();
        self.passed_over.clear();
        match &change {
            Polled::Assigned(partitions) => {
                self.positions = partitions.iter().map(|at| (*at, None)).collect();
                let group = self.group;
                let txn = self.txn;
                self.claim = Some(with(|w| {
                    w.look_after(group, txn, partitions);
                    w.consumers[self.consumer].claim()
                }));
            }
            _ => {
                self.positions.clear();
                with(|w| w.consumer_revoked(self.consumer));
            }
        }

        Ok(Some(change))
    }

    /// Takes readable records fairly from all partitions. Sometimes takes more than the limits
    /// allow; the extra records stay in `held`.
    fn take(&mut self, limits: Limits, into: &mut Records) -> Result<(), LogError> {
        let records = into.len() + limits.records;
        let bytes = into.size_bytes().saturating_add(limits.bytes);
        let full = |into: &Records| into.len() >= records || into.size_bytes() >= bytes;
        if mutants::on(Mutant::SharedQueue) {
            return self.take_in_one_queue(&full, into);
        }

        let count = self.positions.len();
        if full(into) || count == 0 {
            return Ok(());
        }

        let before = std::mem::take(&mut self.held);
        let Self {
            positions,
            held,
            wants_headers,
            first,
            passed_over,
            ..
        } = self;

        with(|w| {
            let mut extra = if w.rng.permille(150) {
                w.rng.between(1, 4)
            } else {
                0
            };

            let now = w.now;

            // The next poll begins after the last partition that was served. A count of polls would
            // starve partitions: one gets no turn if each transaction takes as many polls as there
            // are partitions.
            let begin = *first;
            for i in (0..count).map(|i| (begin + i) % count) {
                let (at, position) = &mut positions[i];
                let is_passed_over = passed_over.contains(at);
                for r in before.iter().filter(|r| r.at == *at) {
                    if is_passed_over || full(into) {
                        held.push(&r);
                    } else {
                        into.push(&r);
                        *first = (i + 1) % count;
                    }
                }

                let Some(next) = position.as_mut().filter(|_| !is_passed_over) else {
                    continue;
                };

                let part = w.cluster.part(*at);
                if !w.cluster.brokers[part.leader].up {
                    continue;
                }

                if *next < part.start {
                    return Err(LogError::Corrupt(format!(
                        "{at:?} has no offset {next} any more: it begins at {}",
                        part.start
                    )));
                }

                let end = part.readable_end(now);
                let short = end < part.stable_end();
                let headers = wants_headers
                    .iter()
                    .any(|(t, wanted)| *t == at.topic && *wanted);
                for offset in part.committed(*next, end).filter(|o| !part.entry(*o).gone) {
                    let r = part.record(offset);
                    let r = if headers {
                        r
                    } else {
                        Record {
                            headers: Headers::default(),
                            ..r
                        }
                    };

                    if full(into) || held.iter().any(|r| r.at == *at) {
                        if extra == 0 {
                            break;
                        }

                        extra -= 1;
                        held.push(&r);
                    } else {
                        into.push(&r);
                        *first = (i + 1) % count;
                    }

                    *next = offset + 1;
                }

                if short {
                    w.coverage.hit(Kind::ShortFetch);
                }
            }

            Ok(())
        })
    }

    /// For a mutant: one queue for all partitions, first come, first served. While the queue is
    /// long, the member fetches no partition.
    fn take_in_one_queue(
        &mut self,
        full: &dyn Fn(&Records) -> bool,
        into: &mut Records,
    ) -> Result<(), LogError> {
        let Self {
            positions,
            held,
            wants_headers,
            ..
        } = self;
        with(|w| {
            for (at, position) in positions.iter_mut() {
                let Some(next) = position.as_mut().filter(|_| held.len() < 100) else {
                    continue;
                };

                let part = w.cluster.part(*at);
                if !w.cluster.brokers[part.leader].up || *next < part.start {
                    continue;
                }

                let headers = wants_headers
                    .iter()
                    .any(|(t, wanted)| *t == at.topic && *wanted);
                for offset in part
                    .committed(*next, part.readable_end(w.now))
                    .filter(|o| !part.entry(*o).gone)
                {
                    let r = part.record(offset);
                    held.push(&if headers {
                        r
                    } else {
                        Record {
                            headers: Headers::default(),
                            ..r
                        }
                    });

                    *next = offset + 1;
                }
            }
        });

        let all = std::mem::take(held);
        all.iter().for_each(|r| {
            if full(into) {
                held.push(&r)
            } else {
                into.push(&r)
            }
        });

        Ok(())
    }

    fn listen(&self) {
        with(|w| {
            for (at, next) in &self.positions {
                if next.is_some() {
                    let waiters = &mut w.cluster.part_mut(*at).waiters;
                    if !waiters.contains(&self.process) {
                        waiters.push(self.process);
                    }
                }
            }
        });
    }

    /// Every partition with readable records must get its turn, regardless of backlogs in other
    /// partitions.
    fn look_who_waits(&mut self, tx: &Transaction<'_>) {
        let most = PASSED_OVER_MAX * self.lanes.len();
        for lane in &mut self.lanes {
            let next = tx
                .offsets
                .iter()
                .find(|(at, _)| *at == lane.at)
                .map_or(lane.done, |(_, next)| *next);
            let moved = next > lane.done;
            lane.done = lane.done.max(next);
            with(|w| {
                let part = w.cluster.part(lane.at);
                let end = part.readable_end(w.now);
                let due = !moved
                    && w.cluster.has_leader(lane.at, w.now)
                    && part.committed(lane.done, end).any(|o| !part.entry(o).gone);
                lane.passed = if due { lane.passed + 1 } else { 0 };
                if lane.passed > 1 {
                    let at = lane.at;
                    let passed = lane.passed;
                    w.trace(|| {
                        format!("{at:?} has something to read, and was passed over {passed} times")
                    });
                }

                w.progress.silence.passed = w.progress.silence.passed.max(lane.passed as u64);
                if lane.passed > most && !w.plan.untransacted {
                    let at = w.table.show(lane.at).to_string();
                    w.violated(format!("fair: {at} has something to read and was passed over in {} transactions in a row", lane.passed));
                }
            });
        }
    }

    /// Tells two causes apart: another member has our instance id, or the broker only timed out our
    /// transaction.
    fn fenced_or_expired(&mut self, why: &str) -> TransactionOutcome {
        let until = with(|w| w.now) + FENCE_WAIT;
        loop {
            if with(|w| w.consumers[self.consumer].fenced) {
                return TransactionOutcome::Fenced(why.to_string());
            }

            if with(|w| w.now) >= until {
                return TransactionOutcome::Unknown(format!("{why}; no other instance has joined"));
            }

            // Serve rebalances in the meantime. Their events are void, because this incarnation
            // ends.
            with(|w| {
                let changes = std::mem::take(&mut w.consumers[self.consumer].changes);
                if changes.iter().any(|c| matches!(c, Polled::Revoked { .. })) {
                    w.consumer_revoked(self.consumer);
                }
            });

            pause(20 * MS);
        }
    }
}

impl Member for SimMember {
    fn poll(
        &mut self,
        wait: Duration,
        limits: Limits,
        into: &mut Records,
    ) -> Result<Polled, LogError> {
        let before = into.len();
        a_moment(20, 120);
        let deadline = with(|w| w.now) + wait.as_micros() as u64;
        loop {
            if let Some(change) = self.control()? {
                into.clear();
                return Ok(change);
            }

            self.take(limits, into)?;
            if into.len() > before {
                break;
            }

            if with(|w| w.now) >= deadline {
                return Ok(Polled::Records);
            }

            self.listen();
            wait_until(deadline);
        }

        if with(|w| w.rng.permille(100)) {
            a_moment(20, 200);
        }

        // Check again: records of an assignment that has just ended would be processed in vain.
        if let Some(change) = self.control()? {
            into.clear();
            return Ok(change);
        }

        Ok(Polled::Records)
    }

    fn resume(&mut self, positions: &[(TopicPartition, u64)]) -> Result<(), LogError> {
        a_moment(20, 100);
        let held = std::mem::take(&mut self.held);
        held.iter()
            .filter(|r| !positions.iter().any(|(at, _)| *at == r.at))
            .for_each(|r| self.held.push(&r));
        for (at, offset) in positions {
            let slot = self.positions.iter_mut().find(|(p, _)| p == at);
            let Some((_, next)) = slot else {
                return Err(LogError::Unavailable(format!(
                    "{at:?} is not assigned to {}",
                    self.instance
                )));
            };

            let mut offset = *offset;
            if mutants::on(Mutant::NotRewound) {
                let kept = with(|w| w.retained(self.process, *at));
                offset = offset.max(kept.unwrap_or(0));
            }

            *next = Some(offset);
            self.lanes.retain(|lane| lane.at != *at);
            self.lanes.push(Lane {
                at: *at,
                done: offset,
                passed: 0,
            });
        }

        Ok(())
    }

    fn skip_partitions(&mut self, partitions: &[TopicPartition]) {
        self.passed_over = partitions.to_vec();
    }

    fn transact(&mut self, tx: &Transaction<'_>) -> TransactionOutcome {
        if let Some(why) = &self.ended {
            if !mutants::on(Mutant::UnknownIsAbort) || !self.sender.begin_again() {
                return TransactionOutcome::NotCommitted(format!(
                    "this incarnation has ended: {why}"
                ));
            }

            self.ended = None;
        }

        let mut positions = Vec::new();
        let mut tx = Transaction {
            outputs: tx.outputs,
            offsets: tx.offsets,
        };

        if mutants::on(Mutant::Position) {
            let here = |at: &TopicPartition| {
                self.positions
                    .iter()
                    .find(|(p, _)| p == at)
                    .and_then(|(_, next)| *next)
            };

            positions.extend(
                tx.offsets
                    .iter()
                    .map(|(at, next)| (*at, here(at).unwrap_or(*next))),
            );
            tx.offsets = &positions;
        }

        if mutants::on(Mutant::NotRewound) {
            let now: Vec<_> = self
                .positions
                .iter()
                .filter_map(|(at, next)| next.map(|next| (*at, next)))
                .collect();
            with(|w| w.retain(self.process, now));
        }

        let off = with(|w| w.plan.untransacted) && self.group == Role::Orders as usize;
        let run = match off {
            true => self.sender.run_untransacted(&tx, self.claim, self.group),
            false => self.sender.run(&tx, self.claim, self.group, self.consumer),
        };

        let outcome = match run {
            Ok(appended) => {
                self.look_who_waits(&tx);
                let suspect = self.sender.is_suspect();
                if suspect {
                    with(|w| w.cover(Kind::Suspect));
                }

                return TransactionOutcome::Committed { appended, suspect };
            }
            Err(Stop::Not(why)) => TransactionOutcome::NotCommitted(why),
            Err(Stop::Late { why, done, of }) => {
                with(|w| w.cover(Kind::LateTransaction));
                TransactionOutcome::Late { why, done, of }
            }
            Err(Stop::Rejected { reason, text }) => {
                TransactionOutcome::Rejected(Rejection { reason, text })
            }
            Err(Stop::Unknown(why)) => TransactionOutcome::Unknown(why),
            Err(Stop::InstanceFenced(why)) => TransactionOutcome::Fenced(why),
            Err(Stop::ProducerFenced(why)) => self.fenced_or_expired(&why),
        };

        with(|w| {
            if matches!(outcome, TransactionOutcome::Unknown(_)) {
                w.cover(Kind::Unknown);
            }

            let p = self.process;
            let txn = self.txn;
            let name = w.cluster.txn_name(txn).to_string();
            w.trace(|| format!("process {p}: transaction of {name}: {outcome:?}"));
        });

        self.ended = Some(format!("{outcome:?}"));
        outcome
    }

    fn suspect(&self) -> bool {
        let suspect = self.sender.is_suspect();
        if suspect {
            with(|w| w.cover(Kind::Suspect));
        }

        suspect
    }
}

impl Drop for SimMember {
    fn drop(&mut self) {
        with(|w| {
            w.end_consumer(self.consumer);
            w.end_producer(self.sender.producer);
        });
    }
}
