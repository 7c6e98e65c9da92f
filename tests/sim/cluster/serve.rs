//! The brokers: handling of requests, and of timers.

use ports::topics::TopicPartition;

use super::super::coverage::Kind;
use super::super::timing::*;
use super::super::world::{Event, World};
use super::coordinator::{Decided, TxnState};
use super::group::{Claim, GroupState, Join};
use super::net::Frame;
use super::{Code, INSTANCES, Place, Request, Response};

impl World {
    /// A request arrives at its broker.
    pub fn arrive(&mut self, frame: Box<Frame>) {
        let broker = self.connections[frame.connection].broker;
        let b = &self.cluster.brokers[broker];
        if !b.up {
            return;
        }

        if b.frozen_until > self.now {
            let until = b.frozen_until;
            return self.schedule(until, Event::Arrive(frame));
        }

        if frame.held {
            self.notice_stale(&frame.request);
        }

        self.trace(|| format!("broker {broker} handles {:?}", frame.request));
        if let Some(response) = self.serve(broker, &frame) {
            self.answer(frame.connection, frame.to, frame.token, response);
        }
    }

    /// Counts requests that arrive after the end of their transaction, when another transaction or
    /// epoch has begun.
    fn notice_stale(&mut self, request: &Request) {
        if let Request::AddPartitions {
            txn, epoch, serial, ..
        }
        | Request::AddOffsets {
            txn, epoch, serial, ..
        }
        | Request::EndTxn {
            txn, epoch, serial, ..
        } = request
        {
            let t = &self.cluster.txns[*txn];
            if t.epoch > *epoch || t.serial > *serial && t.state == TxnState::Ongoing {
                self.cover(Kind::StaleApplied);
            }
        }
    }

    fn serve(&mut self, broker: usize, frame: &Frame) -> Option<Response> {
        let request = &frame.request;
        if self.cluster.home(request) != broker {
            return Some(Response::Refused(Code::NotHere));
        }

        let now = self.now;
        let result = match request {
            Request::Init { txn } => self.loaded(*txn).and_then(|()| self.init(*txn)),
            Request::AddPartitions {
                txn,
                pid,
                epoch,
                parts,
                ..
            } => self
                .loaded(*txn)
                .and_then(|()| self.add(*txn, *pid, *epoch, parts, None)),
            Request::AddOffsets {
                txn,
                pid,
                epoch,
                group,
                ..
            } => self
                .loaded(*txn)
                .and_then(|()| self.add(*txn, *pid, *epoch, &[], Some(*group))),
            Request::EndTxn {
                txn,
                pid,
                epoch,
                commit,
                ..
            } => self.loaded(*txn).and_then(|()| {
                let decided = self.cluster.txns[*txn].end(*pid, *epoch, *commit)?;
                if let Some(d) = decided {
                    self.decided(*txn, d);
                }

                Ok(Response::Done)
            }),
            Request::Produce(p) if now < self.cluster.part(p.at).no_leader_until => {
                Err(Code::NotHere)
            }
            Request::Produce(p) => {
                let verified = !p.transactional
                    || self.cluster.txns[p.txn]
                        .verify(p.pid, p.epoch, Some(p.at), None)
                        .is_ok();
                let wall = self.cluster.wall_ms(broker, now);
                let result = self.cluster.part_mut(p.at).produce(p, verified, wall);
                if result.is_ok() && !p.transactional {
                    self.readable(p.at);
                }

                result.map(Response::Appended)
            }
            Request::TxnOffsets(o) => {
                let verified = self.cluster.txns[o.txn].verify(o.pid, o.epoch, None, Some(o.group));
                let g = &mut self.cluster.groups[o.group];
                if now < g.loading_until {
                    Err(Code::Loading)
                } else {
                    verified
                        .and_then(|()| g.txn_offsets(o.pid, o.epoch, &o.claim, &o.offsets))
                        .map(|()| Response::Done)
                }
            }
            Request::PlainOffsets(o) => self.cluster.groups[o.group]
                .plain_offsets(&o.claim, &o.offsets)
                .map(|()| Response::Done),
            Request::FetchOffsets { group, parts } => {
                let g = &self.cluster.groups[*group];
                match g.fetch(parts) {
                    _ if now < g.loading_until => Err(Code::Loading),
                    None => {
                        self.cover(Kind::PendingOffsets);
                        Err(Code::Unstable)
                    }
                    Some(offsets) => Ok(Response::Offsets(offsets)),
                }
            }
            Request::Join {
                group,
                instance,
                member,
            } => return self.join(*group, *instance, *member, frame),
            Request::Heartbeat { group, claim } => self.heartbeat(*group, claim),
        };

        if let Err(code) = &result {
            match code {
                Code::Concurrent => self.cover(Kind::Concurrent),
                Code::InvalidTxnState => self.cover(Kind::InvalidState),
                Code::ProducerFenced | Code::InvalidEpoch => self.cover(Kind::FencedEpoch),
                Code::IllegalGeneration | Code::UnknownMember | Code::FencedInstance
                    if matches!(request, Request::TxnOffsets(_)) =>
                {
                    self.cover(Kind::NoMember);
                }
                Code::FencedInstance => self.cover(Kind::FencedInstance),
                // The engine checks all sizes before it sends records.
                Code::TooLarge if !self.roles.is_empty() => {
                    self.violated("sizes: a record was sent that its topic cannot take".into())
                }
                Code::InvalidTimestamp => self.refuse_a_time(),
                _ => {}
            }
        }

        Some(result.unwrap_or_else(Response::Refused))
    }

    fn loaded(&self, txn: usize) -> Result<(), Code> {
        if self.now < self.cluster.txns[txn].loading_until {
            Err(Code::Loading)
        } else {
            Ok(())
        }
    }

    pub fn init(&mut self, txn: usize) -> Result<Response, Code> {
        let (result, decided) = self.cluster.txns[txn].init();
        if let Some(d) = decided {
            self.decided(txn, d);
        }

        result.map(|epoch| Response::Producer {
            pid: self.cluster.txns[txn].pid,
            epoch,
        })
    }

    fn add(
        &mut self,
        txn: usize,
        pid: u64,
        epoch: u32,
        parts: &[TopicPartition],
        group: Option<usize>,
    ) -> Result<Response, Code> {
        if self.cluster.txns[txn].add(pid, epoch, parts, group, self.now)? {
            self.cover(Kind::Readded);
        }

        Ok(Response::Done)
    }

    /// The decision about a transaction is in the coordinator's log. The markers follow, each after
    /// its own delay.
    pub fn decided(&mut self, txn: usize, d: Decided) {
        self.cover(if d.commit { Kind::Commit } else { Kind::Abort });
        let t = &self.cluster.txns[txn];
        let places: Vec<Place> = t
            .partitions
            .iter()
            .map(|at| Place::Partition(*at))
            .chain(t.groups.iter().map(|g| Place::Group(*g)))
            .collect();
        let name = self.cluster.txn_name(txn).to_string();
        self.trace(|| {
            format!(
                "transaction of {name} decided: {}",
                if d.commit { "commit" } else { "abort" }
            )
        });

        if d.commit {
            self.check_commit(txn);
        }

        let late = self.rng.permille(self.plan.faults.late_markers);
        for place in places {
            let mut delay = self.rng.between(50, 800);
            if late && self.rng.permille(500) {
                delay = self.rng.skewed(5 * MS, 3 * SECOND);
                self.cover(Kind::LateMarker);
                self.hand_over_now(txn / INSTANCES, &place, delay);
            }

            let at = self.now + delay;
            self.schedule(
                at,
                Event::Marker {
                    txn,
                    place,
                    pid: d.pid,
                    epoch: d.epoch,
                    commit: d.commit,
                },
            );
        }
    }

    pub fn marker(&mut self, txn: usize, place: Place, pid: u64, epoch: u32, commit: bool) {
        match place {
            Place::Partition(at) if self.now < self.cluster.part(at).no_leader_until => {
                let until = self.cluster.part(at).no_leader_until;
                return self.schedule(
                    until,
                    Event::Marker {
                        txn,
                        place,
                        pid,
                        epoch,
                        commit,
                    },
                );
            }
            Place::Partition(at) => {
                self.cluster.part_mut(at).marker(pid, epoch, commit);
                self.readable(at);
            }
            Place::Group(g) => self.cluster.groups[g].marker(pid, epoch, commit, txn),
        }

        self.cluster.txns[txn].marked();
    }

    /// Wakes the processes that wait for readable records.
    pub fn readable(&mut self, at: TopicPartition) {
        let waiters = std::mem::take(&mut self.cluster.part_mut(at).waiters);
        for p in waiters {
            let delay = self.rng.between(30, 300);
            self.wake(p, delay);
        }
    }

    fn join(
        &mut self,
        group: usize,
        instance: u32,
        member: u64,
        frame: &Frame,
    ) -> Option<Response> {
        let now = self.now;
        let g = &mut self.cluster.groups[group];
        if now < g.loading_until {
            return Some(Response::Refused(Code::Loading));
        }

        let ticket = frame.token;
        match g.join(instance, member, ticket, now, REBALANCE) {
            Err(code) => Some(Response::Refused(code)),
            Ok(Join::Back(m)) => {
                self.watch_session(group, instance, now + SESSION);
                self.cover(Kind::StaticRejoin);
                Some(Response::Joined(m))
            }
            Ok(Join::Wait) => {
                self.joins.push((ticket, frame.connection, frame.to));
                self.watch_session(group, instance, now + SESSION);
                self.advance_group(group);
                None
            }
        }
    }

    /// Ends a rebalance if it can end.
    pub fn advance_group(&mut self, group: usize) {
        let now = self.now;
        let g = &mut self.cluster.groups[group];
        if let GroupState::Preparing(until) = g.state
            && !g.ready(now)
        {
            if g.timer != g.round {
                g.timer = g.round;
                self.schedule(until, Event::Rebalance(group));
            }

            return;
        }

        if !g.ready(now) {
            return;
        }

        let answers = g.complete(now);
        let generation = g.generation;
        self.cover(Kind::Rebalance);
        self.new_leaders(group);
        self.trace(|| format!("group {group} has generation {generation}: {answers:?}"));
        for (ticket, membership) in answers {
            if let Some(i) = self.joins.iter().position(|(t, ..)| *t == ticket) {
                let (token, connection, to) = self.joins.swap_remove(i);
                self.answer(connection, to, token, Response::Joined(membership));
            }
        }
    }

    fn heartbeat(&mut self, group: usize, claim: &Claim) -> Result<Response, Code> {
        let now = self.now;
        let g = &mut self.cluster.groups[group];
        if now < g.loading_until {
            return Err(Code::Loading);
        }

        g.heartbeat(claim, now).map(|()| Response::Done)
    }

    /// Checks the session of a member.
    pub fn session(&mut self, group: usize, instance: u32) {
        let now = self.now;
        let g = &mut self.cluster.groups[group];
        let Some(seen) = g.seats.get(&instance).map(|s| s.seen) else {
            return;
        };

        if g.expire(instance, now, SESSION, REBALANCE) {
            self.cover(Kind::SessionExpired);
            self.trace(|| format!("instance {instance} of group {group} was silent for too long"));
            self.advance_group(group);
        } else {
            self.watch_session(group, instance, (seen + SESSION).max(now + HEARTBEAT));
        }
    }

    /// Aborts transactions that have exceeded their timeout.
    pub fn expire_transactions(&mut self) {
        for txn in 0..self.cluster.txns.len() {
            let t = &mut self.cluster.txns[txn];
            if t.state == TxnState::Ongoing
                && self.now >= t.since + TXN_TIMEOUT
                && self.now >= t.loading_until
            {
                let d = t.fence();
                self.cover(Kind::TimedOut);
                self.decided(txn, d);
            }
        }
    }
}
