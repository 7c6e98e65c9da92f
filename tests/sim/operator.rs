//! Committed offsets that move back, move forward or get lost, and the operator who repairs them.
//!
//! An operator resets a group, a broker loses the end of `__consumer_offsets`, or offsets expire
//! while no consumer runs. No role may commit on the basis of moved offsets: the role stops until
//! an operator has repaired the offsets. Lost offsets are in the changelog, and the next start
//! takes them from there.

use std::collections::BTreeMap;

use engine::checkpoint::{Checkpoint, META_KEY};
use ports::topics::TopicPartition;
use roles::Role;

use super::cluster::INSTANCES;
use super::cluster::coordinator::TxnState;
use super::coverage::Kind;
use super::timing::*;
use super::world::{Event, Life, World};

/// Kind of change to committed offsets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Move {
    /// Back to an earlier transaction of the task, or to the beginning; all inputs, or one.
    Back,
    /// Past the processed records.
    Forward,
    /// Gone, as after a week of rest.
    Lost,
}

/// Moved offsets, and the actions of operators.
#[derive(Default)]
pub struct Moved {
    /// Role and task, with the last time at which the offsets were found wrong.
    tasks: BTreeMap<(usize, u32), u64>,
    /// Roles whose processes stay down until the offsets are repaired.
    closed: Vec<Role>,
}

/// A role may stop because of offsets that were repaired a moment ago.
const STALE: u64 = 12 * SECOND;

impl World {
    /// Moves offsets of a random role, either at once or with all processes of the role down, as
    /// Kafka demands of an operator.
    pub fn attack_offsets(&mut self, how: Move) {
        if self.plan.untransacted {
            return;
        }

        let role = self.roles[self.rng.index(self.roles.len())];
        if self.moved.closed.contains(&role) {
            return;
        }

        let stopped = self.rng.permille(600);
        if stopped {
            self.put_all_down(role);
        }

        let wipe = stopped && self.rng.permille(400);
        self.schedule(self.now, Event::Offsets { role, how, wipe });
    }

    /// Ends all processes of a role at the same time.
    pub fn put_all_down(&mut self, role: Role) {
        for p in 0..self.processes.len() {
            if self.processes[p].role == role && self.processes[p].life == Life::Running {
                (self.processes[p].doomed, self.processes[p].frozen) = (true, false);
                self.wake(p, 0);
            }
        }
    }

    pub fn move_offsets(&mut self, role: Role, how: Move, wipe: bool) {
        if wipe {
            for p in 0..self.processes.len() {
                let disk = self.processes[p].disk;
                if self.processes[p].role == role
                    && self.disks[disk].holder.is_none()
                    && !self.disks[disk].tasks.is_empty()
                {
                    self.disks[disk].tasks.clear();
                    self.cover(Kind::StoreWiped);
                }
            }
        }

        let tasks = self.oracle.role(role).map_or(0, |o| o.tasks.len() as u32);
        let one = self.rng.below(u64::from(tasks.max(1))) as u32;
        let all = self.rng.permille(400);
        for task in (0..tasks).filter(|t| all || *t == one) {
            self.move_offsets_of(role, task, how);
        }
    }

    fn move_offsets_of(&mut self, role: Role, task: u32, how: Move) {
        let Some(expected) = self.oracle.role(role).map(|o| &o.tasks[task as usize]) else {
            return;
        };

        let many = expected.transactions();
        if many == 0 {
            return;
        }

        let mut to: Vec<(TopicPartition, Option<u64>)> = match how {
            Move::Back => {
                let back = self.rng.skewed(1, many);
                expected
                    .offsets_after(many - back)
                    .map(|(at, next)| (at, Some(next)))
                    .collect()
            }
            Move::Forward => {
                let far = self.rng.skewed(1, 8);
                let ahead = |(at, next): (TopicPartition, u64)| {
                    (at, Some((next + far).min(self.cluster.part(at).end())))
                };

                expected.offsets_after(many).map(ahead).collect()
            }
            Move::Lost => expected
                .offsets_after(many)
                .map(|(at, _)| (at, None))
                .collect(),
        };

        // As if the operator had named only one topic of the group.
        if how != Move::Lost && self.rng.permille(250) {
            let keep = self.rng.index(to.len());
            to = vec![to[keep]];
        }

        self.trace(|| format!("offsets of {role} task {task}: {how:?} to {to:?}"));
        let offsets = &mut self.cluster.groups[role as usize].offsets;
        for (at, next) in to {
            match next {
                Some(next) => offsets.insert(at, next),
                None => offsets.remove(&at),
            };
        }

        if self.offsets_are_wrong(role as usize, task) {
            self.moved.tasks.insert((role as usize, task), self.now);
        }

        self.cover(match how {
            Move::Back => Kind::OffsetsBack,
            Move::Forward => Kind::OffsetsForward,
            Move::Lost => Kind::OffsetsLost,
        });
    }

    /// True if the committed offsets of a task differ from the offsets of its last transaction. If
    /// all offsets are absent, the result is false: the changelog has them.
    fn offsets_are_wrong(&self, role: usize, task: u32) -> bool {
        let Some(expected) = self
            .oracle
            .role(Role::all()[role])
            .map(|o| &o.tasks[task as usize])
        else {
            return false;
        };

        let g = &self.cluster.groups[role];
        let there = |at: &TopicPartition| g.offsets.get(at).copied();
        let mut due = expected.offsets_after(expected.transactions());
        due.clone().any(|(at, _)| there(&at).is_some())
            && due.any(|(at, next)| there(&at) != Some(next))
    }

    /// True if a role may stop because its offsets do not belong to its state.
    pub fn may_stop_over_offsets(&mut self, role: Role) -> bool {
        self.look_at_offsets();
        self.moved.tasks.keys().any(|(r, _)| *r == role as usize)
    }

    /// Drops entries of moves that a later commit has replaced some time ago.
    pub fn look_at_offsets(&mut self) {
        let now = self.now;
        let mut tasks = std::mem::take(&mut self.moved.tasks);
        tasks.retain(|(role, task), since| {
            if self.offsets_are_wrong(*role, *task) {
                *since = now;
            }

            now - *since < STALE
        });

        self.moved.tasks = tasks;
    }

    /// A role has stopped because of its offsets. An operator will read the reason later.
    pub fn call_an_operator(&mut self, role: Role) {
        self.cover(Kind::StoppedOverOffsets);
        let delay = self.rng.skewed(100 * MS, 4 * SECOND);
        self.schedule(self.now + delay, Event::PutRight(role));
    }

    /// True if no process may start this role at the moment.
    pub fn is_closed(&self, role: Role) -> bool {
        self.moved.closed.contains(&role)
    }

    /// The operator stops the role, ends its open transactions, and commits the offsets of the last
    /// meta records.
    pub fn put_right(&mut self, role: Role) {
        if !self.is_closed(role) {
            if !self.moved.tasks.keys().any(|(r, _)| *r == role as usize) {
                return;
            }

            self.moved.closed.push(role);
            self.put_all_down(role);
            self.trace(|| format!("an operator stops {role} to put its offsets right"));
        }

        let group = role as usize;
        for txn in group * INSTANCES..(group + 1) * INSTANCES {
            if self.cluster.txns[txn].state == TxnState::Ongoing {
                let d = self.cluster.txns[txn].fence();
                self.decided(txn, d);
            }
        }

        let changelog = role.spec().changelog;
        let undecided = self.cluster.txns[group * INSTANCES..(group + 1) * INSTANCES]
            .iter()
            .any(|t| t.left > 0)
            || self
                .cluster
                .topic(changelog)
                .any(|p| p.stable_end() != p.end())
            || !self.cluster.groups[group].pending.is_empty()
            || self
                .processes
                .iter()
                .any(|p| p.role == role && p.life == Life::Running);

        if undecided {
            return self.schedule(self.now + 100 * MS, Event::PutRight(role));
        }

        let mut right = Vec::new();
        for part in self.cluster.topic(changelog) {
            let last = part
                .committed(0, part.end())
                .filter(|o| part.record(*o).key == Some(META_KEY))
                .last();
            let meta = last.map(|o| Checkpoint::decode(part.record(o).value.unwrap_or_default()));
            right.extend(meta.into_iter().flatten().flat_map(|m| m.offsets));
        }

        self.trace(|| format!("an operator puts the offsets of {role} right: {right:?}"));
        self.cluster.groups[group].offsets.extend(right);
        self.moved.tasks.retain(|(r, _), _| *r != group);
        self.moved.closed.retain(|r| *r != role);
        self.cover(Kind::PutRight);
    }
}
