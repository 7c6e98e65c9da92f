//! A model of a Kafka cluster: partition logs, the transaction coordinator (old protocol), groups,
//! brokers and connections. Requests can be delayed, lost, or delivered after their client has
//! given up.

pub mod coordinator;
pub mod group;
pub mod net;
pub mod partition;
mod serve;

use std::rc::Rc;
use std::time::{SystemTime, UNIX_EPOCH};

use ports::records::Records;
use ports::topics::{Cleanup, Partitions, TopicId, TopicPartition, TopicSpec, TopicTable};
use roles::Role;

use self::coordinator::Txn;
use self::group::{Claim, Group, Membership};
use self::partition::Partition;
use super::timing::EPOCH_MS;

/// Error code of a broker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Code {
    NotHere,
    Loading,
    Concurrent,
    ProducerFenced,
    InvalidEpoch,
    InvalidMapping,
    InvalidTxnState,
    OutOfOrder,
    IllegalGeneration,
    UnknownMember,
    FencedInstance,
    Rebalancing,
    Unstable,
    TooLarge,
    InvalidTimestamp,
}

/// A batch for one partition.
#[derive(Debug)]
pub struct Produce {
    pub txn: usize,
    pub pid: u64,
    pub epoch: u32,
    pub sequence: u32,
    pub transactional: bool,
    pub at: TopicPartition,
    pub records: Rc<RecordsBox>,
    /// Indexes of the records in this batch.
    pub picks: Vec<u32>,
}

pub struct RecordsBox(pub Records);

impl std::fmt::Debug for RecordsBox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} records", self.0.len())
    }
}

impl std::ops::Deref for RecordsBox {
    type Target = Records;
    fn deref(&self) -> &Records {
        &self.0
    }
}

#[derive(Debug)]
pub struct OffsetCommit {
    pub txn: usize,
    pub pid: u64,
    pub epoch: u32,
    pub group: usize,
    pub claim: Claim,
    pub offsets: Vec<(TopicPartition, u64)>,
}

#[derive(Clone, Debug)]
pub enum Request {
    Init {
        txn: usize,
    },
    AddPartitions {
        txn: usize,
        pid: u64,
        epoch: u32,
        serial: u64,
        parts: Rc<[TopicPartition]>,
    },
    Produce(Rc<Produce>),
    AddOffsets {
        txn: usize,
        pid: u64,
        epoch: u32,
        serial: u64,
        group: usize,
    },
    TxnOffsets(Rc<OffsetCommit>),
    EndTxn {
        txn: usize,
        pid: u64,
        epoch: u32,
        serial: u64,
        commit: bool,
    },
    PlainOffsets(Rc<OffsetCommit>),
    FetchOffsets {
        group: usize,
        parts: Rc<[TopicPartition]>,
    },
    Join {
        group: usize,
        instance: u32,
        member: u64,
    },
    Heartbeat {
        group: usize,
        claim: Claim,
    },
}

#[derive(Clone, Debug)]
pub enum Response {
    Done,
    Producer { pid: u64, epoch: u32 },
    Appended(u64),
    Offsets(Vec<Option<u64>>),
    Joined(Membership),
    Refused(Code),
}

pub struct Broker {
    pub up: bool,
    /// A frozen broker accepts requests and answers them after this time.
    pub frozen_until: u64,
    /// Error of the broker's clock.
    pub skew_ms: i64,
}

/// Target of a transaction marker.
#[derive(Clone, Copy, Debug)]
pub enum Place {
    Partition(TopicPartition),
    Group(usize),
}

/// Number of instance names of a role.
pub const INSTANCES: usize = 8;
pub const BROKERS: usize = 3;

pub struct Cluster {
    pub table: TopicTable,
    /// Partition counts by topic; 0 for a topic that does not exist.
    pub counts: Vec<u32>,
    /// Specification of each topic at its creation.
    specs: Vec<Option<TopicSpec>>,
    /// Names of groups and of transactional ids, at the same index as in `groups` and `txns`.
    names: (Vec<String>, Vec<String>),
    /// True if the brokers' clocks show the real time, for tests of times.
    pub real_time: bool,
    partitions: Vec<Partition>,
    first: Vec<usize>,
    /// By role and instance number.
    pub txns: Vec<Txn>,
    /// By role.
    pub groups: Vec<Group>,
    pub brokers: Vec<Broker>,
}

impl Cluster {
    /// A cluster without topics, groups or transactional ids.
    pub fn empty(table: &TopicTable) -> Cluster {
        let brokers = (0..BROKERS)
            .map(|_| Broker {
                up: true,
                frozen_until: 0,
                skew_ms: 0,
            })
            .collect();

        let topics = table.iter().count();
        Cluster {
            table: table.clone(),
            counts: vec![0; topics],
            specs: vec![None; topics],
            names: (Vec::new(), Vec::new()),
            real_time: false,
            partitions: Vec::new(),
            first: vec![0; topics],
            txns: Vec::new(),
            groups: Vec::new(),
            brokers,
        }
    }

    /// A cluster with all topics, and with the names of the roles' groups and transactional ids.
    pub fn new(table: &TopicTable, many: u32) -> Cluster {
        let mut c = Cluster::empty(table);
        for t in table.iter() {
            let spec = table.spec(t);
            c.make(
                t,
                spec,
                if spec.partitions == Partitions::One {
                    1
                } else {
                    many
                },
            );
        }

        for role in Role::all() {
            let inputs: Vec<_> = role.spec().inputs.iter().map(|i| i.topic).collect();
            c.group(&format!("processor-{role}"), &inputs);
            for n in 0..INSTANCES {
                c.txn(&format!("processor-{role}-{n}"));
            }
        }

        c
    }

    /// Creates a topic. If the topic exists with another partition count, returns its count.
    pub fn make(&mut self, topic: TopicId, spec: &TopicSpec, count: u32) -> Option<u32> {
        let i = topic.0 as usize;
        if self.specs[i].is_some() {
            return (self.counts[i] != count).then_some(self.counts[i]);
        }

        (self.specs[i], self.counts[i], self.first[i]) =
            (Some(spec.clone()), count, self.partitions.len());
        for p in 0..count {
            let leader = self.partitions.len() % BROKERS;
            let compacted = spec.cleanup == Cleanup::Compact;
            let at = TopicPartition::new(topic, p);
            self.partitions.push(Partition::new(
                at,
                compacted,
                spec.append_time,
                spec.record_bytes_max,
                leader,
            ));
        }

        None
    }

    /// Specification and partition count of a topic, if it exists.
    pub fn made(&self, topic: TopicId) -> Option<(&TopicSpec, u32)> {
        let i = topic.0 as usize;
        self.specs[i].as_ref().map(|spec| (spec, self.counts[i]))
    }

    /// Index of a group; an unknown group is created.
    pub fn group(&mut self, name: &str, inputs: &[TopicId]) -> usize {
        let inputs: Vec<_> = inputs
            .iter()
            .map(|t| (*t, self.counts[t.0 as usize]))
            .collect();
        if let Some(i) = self.names.0.iter().position(|n| n == name) {
            if self.groups[i].inputs.is_empty() {
                self.groups[i].inputs = inputs;
            }

            return i;
        }

        self.groups
            .push(Group::new(inputs, self.groups.len() % BROKERS));
        self.names.0.push(name.to_string());
        self.groups.len() - 1
    }

    /// Index of a transactional id; an unknown id is created.
    pub fn txn(&mut self, name: &str) -> usize {
        if let Some(i) = self.names.1.iter().position(|n| n == name) {
            return i;
        }

        self.txns.push(Txn::new(
            self.txns.len() as u64 + 1,
            self.txns.len() % BROKERS,
        ));
        self.names.1.push(name.to_string());
        self.txns.len() - 1
    }

    pub fn txn_name(&self, txn: usize) -> &str {
        &self.names.1[txn]
    }

    pub fn part(&self, at: TopicPartition) -> &Partition {
        &self.partitions[self.first[at.topic.0 as usize] + at.partition as usize]
    }

    pub fn part_mut(&mut self, at: TopicPartition) -> &mut Partition {
        &mut self.partitions[self.first[at.topic.0 as usize] + at.partition as usize]
    }

    pub fn all(&self) -> &[Partition] {
        &self.partitions
    }

    pub fn all_mut(&mut self) -> &mut [Partition] {
        &mut self.partitions
    }

    pub fn topic(&self, topic: TopicId) -> impl Iterator<Item = &Partition> {
        (0..self.counts[topic.0 as usize]).map(move |p| self.part(TopicPartition::new(topic, p)))
    }

    /// Time of a broker's clock.
    pub fn wall_ms(&self, broker: usize, now: u64) -> i64 {
        if self.real_time {
            let since = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .expect("after 1970");
            return since.as_millis() as i64;
        }

        EPOCH_MS + (now / 1_000) as i64 + self.brokers[broker].skew_ms
    }

    /// True if clients can read and write a partition now.
    pub fn has_leader(&self, at: TopicPartition, now: u64) -> bool {
        let p = self.part(at);
        self.brokers[p.leader].up && now >= p.no_leader_until
    }

    /// The broker that must receive a request.
    pub fn home(&self, request: &Request) -> usize {
        match request {
            Request::Init { txn }
            | Request::AddPartitions { txn, .. }
            | Request::AddOffsets { txn, .. }
            | Request::EndTxn { txn, .. } => self.txns[*txn].broker,
            Request::Produce(p) => self.part(p.at).leader,
            Request::TxnOffsets(o) | Request::PlainOffsets(o) => self.groups[o.group].broker,
            Request::FetchOffsets { group, .. }
            | Request::Join { group, .. }
            | Request::Heartbeat { group, .. } => self.groups[*group].broker,
        }
    }
}
