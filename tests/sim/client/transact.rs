//! The transaction, in the same steps as `log_kafka::transact`: outputs, then offsets, then commit;
//! and the meaning of each result.

use std::rc::Rc;

use faults::mutants::{self, Mutant};
use ports::Transaction;
use ports::records::Records;
use ports::topics::TopicPartition;

use super::super::cluster::group::Claim;
use super::super::cluster::{Code, OffsetCommit, Produce, RecordsBox, Request, Response};
use super::super::process;
use super::super::timing::*;
use super::super::world::with;
use super::rpc::{Calls, Failed};
use super::{Verdict, a_moment, classify, pause};

/// The failure of a transaction.
#[derive(Debug)]
pub enum Stop {
    Not(String),
    /// The deadline has passed; `done` of the records were accepted.
    Late {
        why: String,
        done: usize,
        of: usize,
    },
    /// The broker refuses a record for its content: the rule, and the record.
    Rejected {
        reason: String,
        text: String,
    },
    Unknown(String),
    ProducerFenced(String),
    InstanceFenced(String),
}

/// A producer: its epoch, and the next sequence number for each partition.
pub struct Sender {
    txn: usize,
    pub producer: usize,
    pid: u64,
    epoch: u32,
    sequences: Vec<(TopicPartition, u32)>,
    /// Time at which the last commit returned.
    committed_at: Option<u64>,
    /// Number of transactions begun. Only the coverage uses the number, to recognise stale
    /// requests.
    serial: u64,
}

impl Sender {
    pub fn new(txn: usize, producer: usize, pid: u64, epoch: u32) -> Sender {
        Sender {
            txn,
            producer,
            pid,
            epoch,
            sequences: Vec::new(),
            committed_at: None,
            serial: with(|w| w.cluster.txns[txn].serial),
        }
    }

    pub fn is_suspect(&self) -> bool {
        with(|w| w.producers[self.producer].suspect)
    }

    /// For a mutant: a new epoch for the same producer.
    pub fn begin_again(&mut self) -> bool {
        let deadline = with(|w| w.now) + TXN_TIMEOUT * 3;
        let answer = Calls::of_producer(process::current(), self.producer)
            .one(Request::Init { txn: self.txn }, deadline);
        let Ok(Response::Producer { pid, epoch }) = answer else {
            return false;
        };

        let producer = self.producer;
        with(|w| w.producers[producer].suspect = false);
        *self = Sender::new(self.txn, producer, pid, epoch);
        true
    }

    /// Runs the transaction. Returns the last offset written in each partition.
    pub fn run(
        &mut self,
        tx: &Transaction<'_>,
        claim: Option<Claim>,
        group: usize,
        consumer: usize,
    ) -> Result<Vec<(TopicPartition, u64)>, Stop> {
        let producer = self.producer;
        with(|w| w.producers[producer].busy = true);
        let end = self.steps(tx, claim, group, consumer);

        // After any result other than a commit, this producer is not used again.
        with(|w| w.producers[producer].busy = end.is_err());
        end
    }

    fn steps(
        &mut self,
        tx: &Transaction<'_>,
        claim: Option<Claim>,
        group: usize,
        consumer: usize,
    ) -> Result<Vec<(TopicPartition, u64)>, Stop> {
        let Some(mut claim) = claim else {
            return Err(Stop::Not(
                "nothing was polled since the assignment changed".into(),
            ));
        };

        if claim.generation < 0 {
            return Err(Stop::Not("not a member of the group any more".into()));
        }

        if self.is_suspect() {
            return Err(Stop::Not(
                "a connection or request failed before the transaction began".into(),
            ));
        }

        // Time for the work on the batch between poll and transaction.
        a_moment(20, 300);

        // A commit returns before its markers are written, and the broker refuses requests in the
        // meantime.
        let rest = self
            .committed_at
            .map_or(0, |at| (at + GAP).saturating_sub(with(|w| w.now)));
        if rest > 0 {
            pause(rest);
        }

        let deadline = with(|w| w.now) + TXN_TIMEOUT;
        let mut calls = Calls::of_producer(process::current(), self.producer);
        let records = Rc::new(RecordsBox(tx.outputs.clone()));
        let mut by_partition = picks(tx.outputs);
        self.serial += 1;
        let txn = self.txn;
        let pid = self.pid;
        let epoch = self.epoch;
        let serial = self.serial;

        // The producer learns the partitions one by one while records are queued. Mostly one
        // AddPartitions request carries all of them; sometimes the first goes alone.
        let parts: Vec<TopicPartition> = by_partition.iter().map(|(at, _)| *at).collect();
        let first = if parts.len() > 1 && with(|w| w.rng.permille(250)) {
            1
        } else {
            parts.len()
        };

        let mut appended = Vec::with_capacity(parts.len());
        for some in [&parts[..first], &parts[first..]]
            .into_iter()
            .filter(|p| !p.is_empty())
        {
            self.step(calls.one(
                Request::AddPartitions {
                    txn,
                    pid,
                    epoch,
                    serial,
                    parts: some.into(),
                },
                deadline,
            ))?;

            let mut batches = Vec::new();
            for (at, picks) in by_partition.drain(..some.len()) {
                let sequence = self.sequence(at, picks.len() as u32);
                let transactional = true;
                batches.push(Request::Produce(Rc::new(Produce {
                    txn,
                    pid,
                    epoch,
                    sequence,
                    transactional,
                    at,
                    records: records.clone(),
                    picks,
                })));
            }

            for (at, end) in some.iter().zip(calls.many(batches, deadline)) {
                if let Err(Failed::Refused(code @ (Code::TooLarge | Code::InvalidTimestamp))) = end
                {
                    let text = format!("a record for {at:?} is refused: {code:?}");
                    return Err(Stop::Rejected {
                        reason: format!("{code:?}"),
                        text,
                    });
                }

                match self.step(end)? {
                    Response::Appended(last) => appended.push((*at, last)),
                    other => return Err(Stop::Not(format!("{other:?}"))),
                }
            }
        }

        let work = with(|w| w.plan.record_us) * tx.outputs.len() as u64;
        if work > 0 {
            let left = deadline.saturating_sub(with(|w| w.now));
            pause(work.min(left));
            if work >= left {
                let done = (left / with(|w| w.plan.record_us)) as usize;
                let of = tx.outputs.len();
                return Err(Stop::Late {
                    why: "not all records were taken before the transaction's timeout".into(),
                    done,
                    of,
                });
            }
        }

        if !tx.offsets.is_empty() {
            self.step(calls.one(
                Request::AddOffsets {
                    txn,
                    pid,
                    epoch,
                    serial,
                    group,
                },
                deadline,
            ))?;

            if mutants::on(Mutant::LateMetadata) {
                claim = with(|w| w.consumers[consumer].claim());
            }

            let offsets = tx.offsets.to_vec();
            let commit = OffsetCommit {
                txn,
                pid,
                epoch,
                group,
                claim,
                offsets,
            };

            self.step(calls.one(Request::TxnOffsets(Rc::new(commit)), deadline))?;
        }

        match calls.one(
            Request::EndTxn {
                txn,
                pid,
                epoch,
                serial,
                commit: true,
            },
            deadline,
        ) {
            Ok(_) => {
                self.committed_at = Some(with(|w| w.now));
                appended.sort_unstable();
                Ok(appended)
            }
            Err(Failed::Refused(code)) if classify(code) == Verdict::ProducerFenced => {
                Err(Stop::ProducerFenced(format!("{code:?}")))
            }
            Err(failed) => Err(Stop::Unknown(format!("{failed:?}"))),
        }
    }

    /// As [`Sender::run`], but without a transaction. The sequence guard must then drop the
    /// repeats.
    pub fn run_untransacted(
        &mut self,
        tx: &Transaction<'_>,
        claim: Option<Claim>,
        group: usize,
    ) -> Result<Vec<(TopicPartition, u64)>, Stop> {
        let Some(claim) = claim else {
            return Err(Stop::Not(
                "nothing was polled since the assignment changed".into(),
            ));
        };

        a_moment(20, 300);
        let deadline = with(|w| w.now) + TXN_TIMEOUT;
        let mut calls = Calls::of_producer(process::current(), self.producer);
        let records = Rc::new(RecordsBox(tx.outputs.clone()));
        let txn = self.txn;
        let pid = self.pid;
        let epoch = self.epoch;
        let mut batches = Vec::new();
        let mut parts = Vec::new();
        for (at, picks) in picks(tx.outputs) {
            let sequence = self.sequence(at, picks.len() as u32);
            parts.push(at);
            let transactional = false;
            batches.push(Request::Produce(Rc::new(Produce {
                txn,
                pid,
                epoch,
                sequence,
                transactional,
                at,
                records: records.clone(),
                picks,
            })));
        }

        let mut appended = Vec::new();
        for (at, end) in parts.into_iter().zip(calls.many(batches, deadline)) {
            match self.step(end)? {
                Response::Appended(last) => appended.push((at, last)),
                other => return Err(Stop::Not(format!("{other:?}"))),
            }
        }

        let commit = OffsetCommit {
            txn,
            pid,
            epoch,
            group,
            claim,
            offsets: tx.offsets.to_vec(),
        };

        self.step(calls.one(Request::PlainOffsets(Rc::new(commit)), deadline))?;
        Ok(appended)
    }

    fn sequence(&mut self, at: TopicPartition, count: u32) -> u32 {
        match self.sequences.iter_mut().find(|(a, _)| *a == at) {
            Some((_, next)) => {
                *next += count;
                *next - count
            }
            None => {
                self.sequences.push((at, count));
                0
            }
        }
    }

    /// Until the commit request is sent, a failure certainly means no commit.
    fn step(&self, end: Result<Response, Failed>) -> Result<Response, Stop> {
        end.map_err(|failed| match failed {
            Failed::Refused(code) if classify(code) == Verdict::ProducerFenced => {
                Stop::ProducerFenced(format!("{code:?}"))
            }
            Failed::Refused(Code::FencedInstance) => {
                Stop::InstanceFenced("the group has another member in our place".into())
            }
            other => Stop::Not(format!("{other:?}")),
        })
    }
}

/// Record indexes by partition, with the partitions in the order of their first record.
fn picks(records: &Records) -> Vec<(TopicPartition, Vec<u32>)> {
    let mut all: Vec<(TopicPartition, Vec<u32>)> = Vec::new();
    for (i, r) in records.iter().enumerate() {
        match all.iter_mut().find(|(at, _)| *at == r.at) {
            Some((_, picks)) => picks.push(i as u32),
            None => all.push((r.at, vec![i as u32])),
        }
    }

    all
}
