//! Background work of a client, beside the thread that polls: joining, heartbeats, rebalances,
//! session loss. A frozen process stops this work too.

use std::collections::VecDeque;

use faults::mutants::{self, Mutant};
use ports::Polled;
use ports::topics::TopicPartition;

use super::super::cluster::group::Claim;
use super::super::cluster::net::{Cut, Owner, Target};
use super::super::cluster::{Code, Request, Response};
use super::super::coverage::Kind;
use super::super::timing::*;
use super::super::world::{Event, World};
use super::number;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Joining,
    Member,
    /// The application must serve a revocation before the consumer continues.
    Revoking,
}

pub struct Consumer {
    pub process: usize,
    pub group: usize,
    pub instance: u32,
    pub alive: bool,
    /// Member id; 0 if none yet, or forgotten.
    pub member: u64,
    /// Generation; -1 outside the group.
    pub generation: i64,
    state: State,
    /// Events that the application has not polled yet.
    pub changes: VecDeque<Polled>,
    /// Another member has taken this instance id.
    pub fenced: bool,
    /// Time of the coordinator's last good answer.
    heard: u64,
    /// Token of the request in flight.
    asked: Option<u64>,
    /// Answers that arrived while the process was frozen.
    while_frozen: Vec<(u64, Result<Response, Cut>)>,
    timer: u64,
}

impl Consumer {
    pub fn claim(&self) -> Claim {
        Claim {
            instance: self.instance,
            member: self.member,
            generation: self.generation,
        }
    }
}

impl World {
    /// Starts a consumer; the consumer joins at once.
    pub fn add_consumer(&mut self, process: usize, group: usize, instance: u32) -> usize {
        self.consumers.push(Consumer {
            process,
            group,
            instance,
            alive: true,
            member: 0,
            generation: -1,
            state: State::Joining,
            changes: VecDeque::new(),
            fenced: false,
            heard: self.now,
            asked: None,
            while_frozen: Vec::new(),
            timer: 0,
        });

        let c = self.consumers.len() - 1;
        self.consumer_in(c, 0);
        c
    }

    fn consumer_in(&mut self, c: usize, delay: u64) {
        let at = self.now + delay;
        self.consumers[c].timer = at;
        self.schedule(at, Event::Consumer(c));
    }

    /// The time for the next request (join or heartbeat) has come.
    pub fn consumer_timer(&mut self, c: usize) {
        let k = &self.consumers[c];
        if !k.alive || k.fenced || k.timer != self.now || self.processes[k.process].frozen {
            return;
        }

        if k.asked.is_some() {
            // No answer in time: reconnect and try again.
            self.consumers[c].asked = None;
            self.drop_connections(c);
        }

        let k = &self.consumers[c];
        if k.state == State::Member && self.now > k.heard + SESSION {
            // The session has expired without an answer: another member now has our partitions.
            return self.lose(c, true);
        }

        let request = match k.state {
            State::Joining => Request::Join {
                group: k.group,
                instance: k.instance,
                member: k.member,
            },
            State::Member | State::Revoking if k.generation >= 0 => Request::Heartbeat {
                group: k.group,
                claim: k.claim(),
            },
            _ => return,
        };

        let wait = if k.state == State::Joining {
            REBALANCE + SECOND
        } else {
            REQUEST_TIMEOUT
        };

        let broker = self.cluster.home(&request);
        match self.connect(Owner::Consumer(c), broker) {
            None => self.consumer_in(c, 50 * MS),
            Some(connection) => {
                let token = self.send(connection, Target::Consumer(c), request);
                self.consumers[c].asked = Some(token);
                self.consumer_in(c, wait);
            }
        }
    }

    fn drop_connections(&mut self, c: usize) {
        let open: Vec<usize> = (0..self.connections.len())
            .filter(|i| {
                self.connections[*i].open && self.connections[*i].owner == Owner::Consumer(c)
            })
            .collect();
        open.into_iter()
            .for_each(|i| self.connections[i].open = false);
    }

    /// Handles an answer, or a cut connection without an answer.
    pub fn consumer_hears(&mut self, c: usize, token: u64, result: Result<Response, Cut>) {
        let k = &mut self.consumers[c];
        if !k.alive || k.asked != Some(token) {
            return;
        }

        if self.processes[k.process].frozen {
            k.while_frozen.push((token, result));
            return;
        }

        k.asked = None;
        match result {
            Err(Cut) => self.consumer_in(c, 20 * MS),
            Ok(Response::Joined(m)) => {
                (k.member, k.generation, k.state, k.heard) =
                    (m.member, m.generation, State::Member, self.now);
                k.changes.push_back(Polled::Assigned(m.partitions));
                let process = k.process;
                self.consumer_in(c, HEARTBEAT);
                self.wake(process, 0);
            }
            Ok(Response::Refused(code)) => self.consumer_refused(c, code),
            Ok(_) => {
                k.heard = self.now;
                self.consumer_in(c, HEARTBEAT);
            }
        }
    }

    fn consumer_refused(&mut self, c: usize, code: Code) {
        let k = &mut self.consumers[c];
        match (code, k.state) {
            (Code::FencedInstance, _) => {
                k.fenced = true;
                let process = k.process;
                self.wake(process, 0);
            }
            (Code::Rebalancing, State::Member) => {
                k.heard = self.now;
                k.state = State::Revoking;
                k.changes.push_back(Polled::Revoked { lost: false });
                let process = k.process;
                self.consumer_in(c, HEARTBEAT);
                self.wake(process, 0);
            }
            (Code::Rebalancing, _) => {
                k.heard = self.now;
                self.consumer_in(c, HEARTBEAT);
            }
            (Code::UnknownMember, State::Joining) => {
                k.member = 0;
                self.consumer_in(c, 10 * MS);
            }
            (Code::UnknownMember | Code::IllegalGeneration, _) => {
                self.lose(c, code == Code::UnknownMember)
            }
            // The coordinator moves at the moment.
            _ => self.consumer_in(c, 30 * MS),
        }
    }

    /// The consumer loses its assignment without a revocation.
    fn lose(&mut self, c: usize, forget_member: bool) {
        self.cover(Kind::Lost);
        let k = &mut self.consumers[c];
        k.generation = -1;
        if forget_member {
            k.member = 0;
        }

        let told = k.state == State::Revoking;
        k.state = State::Revoking;
        if told {
            k.changes
                .retain(|change| !matches!(change, Polled::Revoked { .. }));
        }

        k.changes.push_back(Polled::Revoked { lost: true });
        let process = k.process;
        self.trace(|| format!("consumer {c} of process {process} has lost its assignment"));
        self.wake(process, 0);
    }

    /// The application has given up its partitions: join again.
    pub fn consumer_revoked(&mut self, c: usize) {
        let k = &mut self.consumers[c];
        k.state = State::Joining;
        k.asked = None;
        self.consumer_in(c, 0);
    }

    /// A process continues after a freeze; its consumers read the clock again.
    pub fn consumers_thaw(&mut self, process: usize) {
        for c in 0..self.consumers.len() {
            if self.consumers[c].process != process || !self.consumers[c].alive {
                continue;
            }

            // Either thread may run first: the application, or the background thread.
            let delay = self.rng.skewed(10, 20 * MS);
            let heard = std::mem::take(&mut self.consumers[c].while_frozen);
            if self.consumers[c].asked.is_none() || heard.is_empty() {
                self.consumer_in(c, delay);
            }

            for (token, result) in heard {
                self.consumer_hears(c, token, result);
            }
        }
    }

    /// An event on a producer's connections may have left a request in flight.
    pub fn suspicion(&mut self, producer: usize) {
        // Between transactions no request of ours is in flight. A request that was sent twice was
        // noticed at that time.
        if !mutants::on(Mutant::ProducerKept) && self.producers[producer].busy {
            self.producers[producer].suspect = true;
        }
    }

    /// An instance gets partitions. Open transactions of a dead former owner on these partitions
    /// are then ended. The group stores the last committer's transactional id beside the offsets.
    pub fn look_after(&mut self, group: usize, own: usize, partitions: &[TopicPartition]) {
        let g = &self.cluster.groups[group];
        let mut owners: Vec<usize> = partitions
            .iter()
            .filter_map(|at| g.signed.get(at).copied())
            .filter(|txn| *txn != own)
            .collect();
        owners.sort_unstable();
        owners.dedup();
        for txn in owners {
            // Mostly quick; sometimes so late that the former owner is back.
            let delay = if self.rng.permille(800) {
                self.rng.between(MS, 20 * MS)
            } else {
                self.rng.skewed(20 * MS, 6 * SECOND)
            };

            let sure = self.rng.permille(500);
            if sure && self.is_seated(group, txn) {
                continue;
            }

            self.schedule(self.now + delay, Event::TakeOver { group, txn, sure });
        }
    }

    /// True if the owner of a transactional id is a member of its group.
    fn is_seated(&self, group: usize, txn: usize) -> bool {
        self.cluster.groups[group]
            .seats
            .contains_key(&number(self.cluster.txn_name(txn)))
    }

    /// Initialises the transactional id of a dead instance. `sure`: the caller saw its absence some
    /// time ago, so the membership is not checked again.
    pub fn take_over(&mut self, group: usize, txn: usize, sure: bool) {
        if !sure && self.is_seated(group, txn) {
            return;
        }

        self.cover(if self.is_seated(group, txn) {
            Kind::TakenOverAlive
        } else {
            Kind::TakenOver
        });

        let name = self.cluster.txn_name(txn).to_string();
        self.trace(|| format!("{name} is gone, somebody thinks: what it left open is ended"));
        if let Err(Code::Concurrent) = self.init(txn) {
            self.schedule(self.now + 20 * MS, Event::TakeOver { group, txn, sure });
        }
    }

    /// All clients of a process end with their connections. Requests that they sent stay in flight.
    pub fn process_ended(&mut self, process: usize) {
        for c in 0..self.consumers.len() {
            if self.consumers[c].process == process {
                self.end_consumer(c);
            }
        }

        let disk = self.processes[process].disk;
        if self.disks[disk].holder == Some(process) {
            self.disks[disk].holder = None;
        }
    }

    pub fn end_consumer(&mut self, c: usize) {
        self.consumers[c].alive = false;
        self.drop_connections(c);
    }

    pub fn end_producer(&mut self, producer: usize) {
        self.producers[producer].alive = false;
        for c in &mut self.connections {
            if c.owner == Owner::Producer(producer) {
                c.open = false;
            }
        }
    }
}
