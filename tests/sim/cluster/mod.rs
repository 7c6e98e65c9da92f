//! A model of a Kafka cluster: partition logs, the coordinator of transactions (old protocol), groups, brokers, and connections on which requests
//! can be delayed, lost, or delivered after their client has given up on them.

pub mod coordinator;
pub mod group;
pub mod net;
pub mod partition;
mod serve;

pub use self::serve::txn_name;

use std::rc::Rc;

use processor::engine::records::Records;
use processor::engine::topics::{Partitions, TopicId, TopicPartition, TopicTable};
use processor::roles::Role;

use self::coordinator::Txn;
use self::group::{Claim, Group, Membership};
use self::partition::Partition;
use super::timing::EPOCH_MS;

/// What a broker refuses a request with.
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
    /// Which of the records.
    pub picks: Vec<u32>,
}

/// Records that are part of a request.
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

/// A request of a client.
#[derive(Clone, Debug)]
pub enum Request {
    Init { txn: usize },
    AddPartitions { txn: usize, pid: u64, epoch: u32, serial: u64, parts: Rc<[TopicPartition]> },
    Produce(Rc<Produce>),
    AddOffsets { txn: usize, pid: u64, epoch: u32, serial: u64, group: usize },
    TxnOffsets(Rc<OffsetCommit>),
    EndTxn { txn: usize, pid: u64, epoch: u32, serial: u64, commit: bool },
    PlainOffsets(Rc<OffsetCommit>),
    FetchOffsets { group: usize, parts: Rc<[TopicPartition]> },
    Join { group: usize, instance: u32, member: u64 },
    Heartbeat { group: usize, claim: Claim },
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
    /// Frozen: takes requests, and answers when it goes on.
    pub frozen_until: u64,
    /// How far its clock is off.
    pub skew_ms: i64,
}

/// Which place a marker goes to.
#[derive(Clone, Copy, Debug)]
pub enum Place {
    Partition(TopicPartition),
    Group(usize),
}

/// Instances of a role that can have a name.
pub const INSTANCES: usize = 8;
pub const BROKERS: usize = 3;

pub struct Cluster {
    pub table: TopicTable,
    /// Partition counts by topic.
    pub counts: Rc<[u32]>,
    partitions: Vec<Partition>,
    first: Vec<usize>,
    /// By role and instance number.
    pub txns: Vec<Txn>,
    /// By role.
    pub groups: Vec<Group>,
    pub brokers: Vec<Broker>,
}

impl Cluster {
    pub fn new(table: &TopicTable, many: u32) -> Cluster {
        let counts: Rc<[u32]> = table.iter().map(|t| if table.spec(t).partitions == Partitions::One { 1 } else { many }).collect();
        let (mut partitions, mut first) = (Vec::new(), Vec::new());
        for t in table.iter() {
            first.push(partitions.len());
            let spec = table.spec(t);
            let compacted = spec.cleanup == processor::engine::topics::Cleanup::Compact;
            for p in 0..counts[t.0 as usize] {
                let leader = partitions.len() % BROKERS;
                partitions.push(Partition::new(TopicPartition::new(t, p), compacted, spec.append_time, leader));
            }
        }
        let txns = (0..5 * INSTANCES).map(|i| Txn::new(i as u64 + 1, i % BROKERS)).collect();
        let inputs = |r: Role| r.spec().inputs.iter().map(|i| (i.topic, counts[i.topic.0 as usize])).collect();
        let groups = Role::all().into_iter().enumerate().map(|(i, r)| Group::new(inputs(r), i % BROKERS)).collect();
        let brokers = (0..BROKERS).map(|_| Broker { up: true, frozen_until: 0, skew_ms: 0 }).collect();
        Cluster { table: table.clone(), counts, partitions, first, txns, groups, brokers }
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

    /// What a broker's clock says.
    pub fn wall_ms(&self, broker: usize, now: u64) -> i64 {
        EPOCH_MS + (now / 1_000) as i64 + self.brokers[broker].skew_ms
    }

    /// The broker that a request has to go to.
    pub fn home(&self, request: &Request) -> usize {
        match request {
            Request::Init { txn } | Request::AddPartitions { txn, .. } | Request::AddOffsets { txn, .. } | Request::EndTxn { txn, .. } => {
                self.txns[*txn].broker
            }
            Request::Produce(p) => self.part(p.at).leader,
            Request::TxnOffsets(o) | Request::PlainOffsets(o) => self.groups[o.group].broker,
            Request::FetchOffsets { group, .. } | Request::Join { group, .. } | Request::Heartbeat { group, .. } => {
                self.groups[*group].broker
            }
        }
    }
}
