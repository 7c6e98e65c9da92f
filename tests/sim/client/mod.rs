//! The model client, the third adapter of the log port. The model client takes the same steps and
//! decisions as the adapter on librdkafka (`log_kafka`), on the model of the cluster.

pub mod background;
mod member;
mod reader;
pub mod rpc;
mod transact;

use std::time::Duration;

use ports::records::Record;
use ports::topics::{TopicId, TopicPartition, TopicSpec};
use ports::{
    Appender, Bounds, Clock, Committed, Log, LogError, Member, MemberSpec, Reader, StartOffset,
    TopicState,
};

use self::member::SimMember;
use self::reader::SimReader;
use super::cluster::Response;
use super::cluster::{Code, Request};
use super::process;
use super::timing::*;
use super::world::{self, with};

/// Waits until a time, or until the process is woken.
pub fn wait_until(until: u64) {
    let me = process::current();
    with(|w| w.sleep_until(me, until));
    process::suspend();
}

/// Waits for the full time; an early wake-up does not end the wait.
pub fn pause(us: u64) {
    let until = world::with(|w| w.now) + us;
    while with(|w| w.now) < until {
        wait_until(until);
    }
}

/// Waits for a short random time.
pub fn a_moment(low: u64, high: u64) {
    pause(with(|w| w.rng.between(low, high)));
}

/// The cluster from the view of a process.
pub struct SimLog;

pub struct SimClock;

impl Clock for SimClock {
    fn now_us(&self) -> u64 {
        with(|w| w.now)
    }

    fn sleep(&self, d: Duration) {
        pause(d.as_micros() as u64);
    }
}

/// The number at the end of an instance name.
fn number(instance: &str) -> u32 {
    instance
        .rsplit('-')
        .next()
        .and_then(|n| n.parse().ok())
        .unwrap_or(0)
}

fn missing(topic: TopicId) -> LogError {
    LogError::Invalid(format!(
        "topic {} does not exist",
        with(|w| w.table.name(topic).to_string())
    ))
}

/// Waits for a leader of the partition.
fn reach_leader(at: TopicPartition) -> Result<(), LogError> {
    a_moment(60, 500);
    let until = with(|w| w.now) + SECOND;
    while with(|w| !w.cluster.has_leader(at, w.now)) {
        if with(|w| w.now) >= until {
            return Err(LogError::Unavailable(format!(
                "the leader of {at:?} does not answer"
            )));
        }

        pause(50 * MS);
    }

    Ok(())
}

impl Log for SimLog {
    fn cluster_id(&self) -> Result<String, LogError> {
        Ok("sim".into())
    }

    fn partitions(&self, topic: TopicId) -> Result<Option<u32>, LogError> {
        Ok(with(|w| w.cluster.made(topic).map(|(_, count)| count)))
    }

    /// Fences first, then subscribes.
    fn join(&self, spec: &MemberSpec) -> Result<Box<dyn Member>, LogError> {
        if let Some(input) = spec
            .inputs
            .iter()
            .find(|i| with(|w| w.cluster.made(i.topic).is_none()))
        {
            return Err(missing(input.topic));
        }

        let inputs: Vec<TopicId> = spec.inputs.iter().map(|i| i.topic).collect();
        let (group, txn) = with(|w| {
            (
                w.cluster.group(&spec.group, &inputs),
                w.cluster.txn(&spec.instance),
            )
        });

        let me = process::current();
        let producer = with(|w| {
            w.producers.push(world::Producer {
                suspect: false,
                busy: true,
                alive: true,
            });

            w.producers.len() - 1
        });

        let mut calls = rpc::Calls::of_producer(me, producer);
        let deadline = with(|w| w.now) + TXN_TIMEOUT * 3;
        let answer = calls.one(Request::Init { txn }, deadline);
        let (pid, epoch) = match answer {
            Ok(Response::Producer { pid, epoch }) => (pid, epoch),
            other => {
                with(|w| w.end_producer(producer));
                return Err(LogError::Unavailable(format!(
                    "starting transactions as {}: {other:?}",
                    spec.instance
                )));
            }
        };

        let consumer = with(|w| {
            (w.producers[producer].suspect, w.producers[producer].busy) = (false, false);
            w.add_consumer(me, group, number(&spec.instance))
        });

        Ok(Box::new(SimMember::new(
            me,
            group,
            txn,
            spec,
            transact::Sender::new(txn, producer, pid, epoch),
            consumer,
        )))
    }

    fn reader(
        &self,
        topic: TopicId,
        from: &[(u32, StartOffset)],
        headers: bool,
    ) -> Result<Box<dyn Reader>, LogError> {
        if with(|w| w.cluster.made(topic).is_none()) {
            return Err(missing(topic));
        }

        let mut goals = Vec::with_capacity(from.len());
        for &(partition, from) in from {
            let bounds = self.bounds(TopicPartition::new(topic, partition))?;
            goals.push(reader::Goal::new(partition, from, bounds)?);
        }

        Ok(Box::new(SimReader::new(topic, headers, goals)))
    }

    fn appender(&self) -> Result<Box<dyn Appender>, LogError> {
        Ok(Box::new(SimAppender))
    }

    fn bounds(&self, at: TopicPartition) -> Result<Bounds, LogError> {
        reach_leader(at)?;
        Ok(with(|w| {
            let p = w.cluster.part(at);
            Bounds {
                start: p.start,
                stable_end: p.stable_end(),
                end: p.end(),
            }
        }))
    }

    fn markers_take_offsets(&self) -> bool {
        true
    }

    /// The question uses the connections of the process's own consumer.
    fn committed(&self, group: &str, partitions: &[TopicPartition]) -> Result<Committed, LogError> {
        let me = process::current();
        let group = with(|w| w.cluster.group(group, &[]));
        let Some(consumer) = with(|w| w.consumers.iter().rposition(|c| c.process == me)) else {
            return Err(LogError::Unavailable("no consumer to ask with".into()));
        };

        let deadline = with(|w| w.now) + COMMITTED_WAIT;
        let request = Request::FetchOffsets {
            group,
            parts: partitions.into(),
        };

        match rpc::Calls::of_consumer(me, consumer).one(request, deadline) {
            Ok(Response::Offsets(offsets)) => Ok(Committed::Stable(offsets)),
            Err(rpc::Failed::TimedOut | rpc::Failed::Refused(Code::Unstable)) => {
                Ok(Committed::Pending)
            }
            other => Err(LogError::Unavailable(format!(
                "committed offsets of group {group}: {other:?}"
            ))),
        }
    }

    fn offset_at(&self, at: TopicPartition, time_ms: i64) -> Result<u64, LogError> {
        reach_leader(at)?;
        Ok(with(|w| {
            let p = w.cluster.part(at);
            let found = p
                .committed(p.start, p.stable_end())
                .find(|o| !p.entry(*o).gone && p.record(*o).timestamp_ms >= time_ms);
            found.unwrap_or(p.stable_end())
        }))
    }

    fn group_offsets(
        &self,
        group: &str,
        partitions: &[TopicPartition],
    ) -> Result<Vec<Option<u64>>, LogError> {
        a_moment(60, 500);
        let group = with(|w| w.cluster.group(group, &[]));
        let deadline = with(|w| w.now) + SECOND;
        loop {
            if let Some(offsets) = with(|w| w.cluster.groups[group].fetch(partitions)) {
                return Ok(offsets);
            }

            if with(|w| w.now) >= deadline {
                return Err(LogError::Unavailable(
                    "committed offsets stay pending".into(),
                ));
            }

            pause(20 * MS);
        }
    }

    fn create_topic(
        &self,
        topic: TopicId,
        spec: &TopicSpec,
        partitions: u32,
    ) -> Result<(), LogError> {
        match with(|w| w.cluster.make(topic, spec, partitions)) {
            None => Ok(()),
            Some(found) => Err(LogError::Invalid(format!(
                "the topic exists with {found} partitions, not {partitions}"
            ))),
        }
    }

    fn describe_topic(
        &self,
        topic: TopicId,
        spec: &TopicSpec,
    ) -> Result<Option<TopicState>, LogError> {
        Ok(with(|w| {
            let (made, partitions) = w.cluster.made(topic)?;
            let same = made.cleanup == spec.cleanup && made.append_time == spec.append_time;
            Some(TopicState {
                partitions,
                mismatches: if same {
                    Vec::new()
                } else {
                    vec!["its settings differ".into()]
                },
            })
        }))
    }
}

/// Appends like a client.
struct SimAppender;

impl Appender for SimAppender {
    fn append(&mut self, record: &Record<'_>) -> Result<(), LogError> {
        with(|w| {
            let wall = w.cluster.wall_ms(0, w.now);
            w.cluster.part_mut(record.at).append(record, wall);
            w.readable(record.at);
        });

        Ok(())
    }

    fn flush(&mut self, _: Duration) -> Result<(), LogError> {
        Ok(())
    }
}

/// Meaning of a broker error for a transaction, as in `log_kafka::classify`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    Again,
    Not,
    ProducerFenced,
    InstanceFenced,
}

fn classify(code: Code) -> Verdict {
    match code {
        Code::FencedInstance => Verdict::InstanceFenced,
        Code::ProducerFenced | Code::InvalidEpoch => Verdict::ProducerFenced,
        Code::NotHere | Code::Loading | Code::Concurrent | Code::Unstable => Verdict::Again,
        _ => Verdict::Not,
    }
}
