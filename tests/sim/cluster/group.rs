//! A consumer group of the classic protocol with static members (KIP-345): members, generation, and
//! offsets, stable and pending.
//!
//! The model joins and syncs in one step: the coordinator itself assigns the partitions, by the
//! `range` rule in the order of the instances.

use std::collections::BTreeMap;

use ports::topics::{TopicId, TopicPartition};

use super::Code;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    pub member: u64,
    pub generation: i64,
    pub partitions: Vec<TopicPartition>,
}

/// The membership of a static member.
pub struct Seat {
    pub member: u64,
    pub seen: u64,
    pub partitions: Vec<TopicPartition>,
    /// Ticket of a join that waits for the end of the rebalance.
    pub waiting: Option<u64>,
    /// True if the member belongs to the present generation.
    current: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GroupState {
    Empty,
    /// Members have until this time to rejoin.
    Preparing(u64),
    Stable,
}

pub struct Group {
    pub inputs: Vec<(TopicId, u32)>,
    pub generation: i64,
    pub state: GroupState,
    /// By instance number.
    pub seats: BTreeMap<u32, Seat>,
    pub offsets: BTreeMap<TopicPartition, u64>,
    /// Transactional id of the last committer of each offset.
    pub signed: BTreeMap<TopicPartition, usize>,
    /// Offsets of open transactions, by producer.
    pub pending: BTreeMap<u64, BTreeMap<TopicPartition, u64>>,
    /// Producer epochs known to this partition of the offsets topic.
    epochs: BTreeMap<u64, u32>,
    pub broker: usize,
    pub loading_until: u64,
    members: u64,
    /// Number of rebalances.
    pub round: u64,
    /// Number of the rebalance whose end is scheduled.
    pub timer: u64,
}

/// Result of a join.
pub enum Join {
    /// A static member has returned; no other member is disturbed.
    Back(Membership),
    /// The answer comes at the end of the rebalance.
    Wait,
}

/// A member's identity, as sent in offset commits and heartbeats.
#[derive(Clone, Copy, Debug)]
pub struct Claim {
    pub instance: u32,
    pub member: u64,
    pub generation: i64,
}

impl Group {
    pub fn new(inputs: Vec<(TopicId, u32)>, broker: usize) -> Group {
        Group {
            inputs,
            generation: 0,
            state: GroupState::Empty,
            seats: BTreeMap::new(),
            offsets: BTreeMap::new(),
            signed: BTreeMap::new(),
            pending: BTreeMap::new(),
            epochs: BTreeMap::new(),
            broker,
            loading_until: 0,
            members: 0,
            round: 0,
            timer: 0,
        }
    }

    /// A member asks to join. `member` is 0 without a member id. `ticket` identifies the request
    /// for a later answer.
    pub fn join(
        &mut self,
        instance: u32,
        member: u64,
        ticket: u64,
        now: u64,
        wait: u64,
    ) -> Result<Join, Code> {
        let stable = self.state == GroupState::Stable;
        if member == 0 {
            self.members += 1;
            let id = self.members;
            if let Some(seat) = self.seats.get_mut(&instance) {
                // The newer incarnation takes the membership. The older one gets the fencing error
                // at its next heartbeat.
                (seat.member, seat.seen) = (id, now);
                if stable {
                    let partitions = seat.partitions.clone();
                    return Ok(Join::Back(Membership {
                        member: id,
                        generation: self.generation,
                        partitions,
                    }));
                }

                seat.waiting = Some(ticket);
            } else {
                let seat = Seat {
                    member: id,
                    seen: now,
                    partitions: Vec::new(),
                    waiting: Some(ticket),
                    current: false,
                };

                self.seats.insert(instance, seat);
                self.prepare(now, wait);
            }

            return Ok(Join::Wait);
        }

        let seat = self.seats.get_mut(&instance).ok_or(Code::UnknownMember)?;
        if seat.member != member {
            return Err(Code::FencedInstance);
        }

        (seat.seen, seat.waiting) = (now, Some(ticket));
        if stable && seat.current {
            seat.waiting = None;
            let partitions = seat.partitions.clone();
            return Ok(Join::Back(Membership {
                member,
                generation: self.generation,
                partitions,
            }));
        }

        if stable {
            self.prepare(now, wait);
        }

        Ok(Join::Wait)
    }

    fn prepare(&mut self, now: u64, wait: u64) {
        if !matches!(self.state, GroupState::Preparing(_)) {
            self.state = GroupState::Preparing(now + wait);
            self.round += 1;
        }
    }

    /// True if the rebalance can end: all members have joined, or the time is over.
    pub fn ready(&self, now: u64) -> bool {
        match self.state {
            GroupState::Preparing(until) => {
                now >= until || self.seats.values().all(|s| s.waiting.is_some())
            }
            _ => false,
        }
    }

    /// Ends the rebalance: a new generation and a new assignment. Returns the answers by ticket.
    pub fn complete(&mut self, now: u64) -> Vec<(u64, Membership)> {
        if self.seats.is_empty() {
            self.state = GroupState::Empty;
            return Vec::new();
        }

        self.generation += 1;
        self.state = GroupState::Stable;
        let count = self.seats.len() as u32;
        let mut answers = Vec::new();
        for (i, seat) in (0_u32..).zip(self.seats.values_mut()) {
            seat.partitions.clear();
            for (topic, n) in &self.inputs {
                let each = n / count;
                let more = n % count;
                let first = i * each + i.min(more);
                let share = each + u32::from(i < more);
                seat.partitions
                    .extend((first..first + share).map(|p| TopicPartition::new(*topic, p)));
            }

            seat.partitions.sort_unstable();
            let answered = seat.waiting.take();
            seat.current = answered.is_some();
            if let Some(ticket) = answered {
                seat.seen = now;
                let partitions = seat.partitions.clone();
                answers.push((
                    ticket,
                    Membership {
                        member: seat.member,
                        generation: self.generation,
                        partitions,
                    },
                ));
            }
        }

        answers
    }

    fn check(&self, claim: &Claim) -> Result<(), Code> {
        let seat = self.seats.get(&claim.instance).ok_or(Code::UnknownMember)?;
        if seat.member != claim.member {
            return Err(Code::FencedInstance);
        }

        if claim.generation != self.generation || !seat.current {
            Err(Code::IllegalGeneration)
        } else {
            Ok(())
        }
    }

    pub fn heartbeat(&mut self, claim: &Claim, now: u64) -> Result<(), Code> {
        let checked = self.check(claim);
        if let Some(seat) = self
            .seats
            .get_mut(&claim.instance)
            .filter(|s| s.member == claim.member)
        {
            seat.seen = now;
        }

        checked?;
        if matches!(self.state, GroupState::Preparing(_)) {
            Err(Code::Rebalancing)
        } else {
            Ok(())
        }
    }

    /// Removes a member after its session timeout. A member that waits for the answer to its join
    /// is never removed.
    pub fn expire(&mut self, instance: u32, now: u64, session: u64, wait: u64) -> bool {
        let silent = self
            .seats
            .get(&instance)
            .is_some_and(|s| s.waiting.is_none() && now >= s.seen + session);
        if silent {
            self.seats.remove(&instance);
            self.prepare(now, wait);
        }

        silent
    }

    /// Offsets of a transaction, valid only after its marker. A negative generation is not checked;
    /// the broker does the same.
    pub fn txn_offsets(
        &mut self,
        pid: u64,
        epoch: u32,
        claim: &Claim,
        offsets: &[(TopicPartition, u64)],
    ) -> Result<(), Code> {
        if claim.generation >= 0 {
            self.check(claim)?;
        }

        let known = self.epochs.entry(pid).or_insert(epoch);
        if epoch < *known {
            return Err(Code::InvalidEpoch);
        }

        *known = epoch;
        self.pending
            .entry(pid)
            .or_default()
            .extend(offsets.iter().copied());
        Ok(())
    }

    /// Offsets outside any transaction.
    pub fn plain_offsets(
        &mut self,
        claim: &Claim,
        offsets: &[(TopicPartition, u64)],
    ) -> Result<(), Code> {
        self.check(claim)?;
        self.offsets.extend(offsets.iter().copied());
        Ok(())
    }

    pub fn marker(&mut self, pid: u64, epoch: u32, commit: bool, txn: usize) {
        let known = self.epochs.entry(pid).or_insert(epoch);
        *known = epoch.max(*known);
        if let Some(offsets) = self.pending.remove(&pid).filter(|_| commit) {
            self.signed.extend(offsets.keys().map(|at| (*at, txn)));
            self.offsets.extend(offsets);
        }
    }

    /// The committed offset after all decided transactions are marked: the producer's pending
    /// offset, or else the stable offset.
    pub fn after(&self, pid: u64, at: TopicPartition) -> Option<u64> {
        self.pending
            .get(&pid)
            .and_then(|p| p.get(&at))
            .or_else(|| self.offsets.get(&at))
            .copied()
    }

    /// Stable offsets; none while any of the partitions has a pending offset.
    pub fn fetch(&self, parts: &[TopicPartition]) -> Option<Vec<Option<u64>>> {
        let pending = self
            .pending
            .values()
            .any(|p| parts.iter().any(|at| p.contains_key(at)));
        (!pending).then(|| {
            parts
                .iter()
                .map(|at| self.offsets.get(at).copied())
                .collect()
        })
    }
}
