//! Measures progress: the time that each task leaves readable records unread. A system that stands
//! still would pass all safety checks.

use std::collections::BTreeMap;

use ports::topics::TopicPartition;

use super::cluster::INSTANCES;
use super::cluster::coordinator::Txn;
use super::timing::*;
use super::world::{Event, Life, World};

/// Interval of the checks.
const PULSE: u64 = 200 * MS;

/// The longest silences of a run, in microseconds.
#[derive(Clone, Copy, Default)]
pub struct Silence {
    /// At any time.
    pub any: u64,
    /// While the cluster, the role's processes and its offsets were well.
    pub well: u64,
    /// Of one restore, while all was well.
    pub restore: u64,
    /// Highest number of consecutive transactions that passed a partition over.
    pub passed: u64,
}

#[derive(Default)]
pub struct Progress {
    /// By role and task: time since readable records wait for a commit.
    due: BTreeMap<(usize, u32), u64>,
    /// By role: time since all is well.
    well: BTreeMap<usize, u64>,
    /// By process: time since it restores while all is well.
    restoring: BTreeMap<usize, u64>,
    pub silence: Silence,
}

impl World {
    /// True if no fault can block a role.
    fn is_well(&self, role: roles::Role) -> bool {
        let brokers = self
            .cluster
            .brokers
            .iter()
            .all(|b| b.up && b.frozen_until <= self.now);
        let here = |p: &super::world::Process| {
            p.life == Life::Gone || p.life == Life::Running && !p.frozen
        };

        let calm = self.healed || self.plan.attacks.is_empty() && self.plan.faults.is_none();

        // A transaction cannot end while one of its partitions has no leader. Such a transaction
        // blocks its instance, as in Kafka.
        let ids = role as usize * INSTANCES..(role as usize + 1) * INSTANCES;
        let stuck = |t: &Txn| {
            t.left > 0
                && t.partitions
                    .iter()
                    .any(|at| !self.cluster.has_leader(*at, self.now))
        };

        let calm = calm && !self.cluster.txns[ids].iter().any(stuck);

        // At its start, `orders` reads the position of `trading`. If the group has no offsets, the
        // position comes from the changelog of `trading`.
        let asked = roles::Role::Trading.spec().changelog;
        let seeds = role != roles::Role::Orders
            || self
                .cluster
                .topic(asked)
                .all(|p| self.cluster.has_leader(p.at, self.now));
        calm && seeds
            && brokers
            && !self.is_closed(role)
            && self.processes.iter().filter(|p| p.role == role).all(here)
    }

    /// Checks every task.
    pub fn pulse(&mut self) {
        self.look_at_offsets();
        let now = self.now;
        for role in self.roles.clone() {
            let r = role as usize;
            if self.is_well(role) {
                self.progress.well.entry(r).or_insert(now);
            } else {
                self.progress.well.remove(&r);
            }

            let Some(oracle) = self.oracle.role(role) else {
                continue;
            };

            for (task, expected) in (0_u32..).zip(&oracle.tasks) {
                let due = expected
                    .position()
                    .iter()
                    .any(|(at, next)| self.cluster.part(*at).anything_from(*next));
                match due {
                    true => _ = self.progress.due.entry((r, task)).or_insert(now),
                    false => _ = self.progress.due.remove(&(r, task)),
                }
            }
        }

        let all: Vec<_> = self.progress.due.keys().copied().collect();
        for (role, task) in all {
            let changelog = roles::Role::all()[role].spec().changelog;
            if self
                .cluster
                .has_leader(TopicPartition::new(changelog, task), now)
            {
                self.heard(role, task);
            } else {
                self.progress.due.remove(&(role, task));
            }
        }

        self.look_at_restores();
        self.schedule(now + PULSE, Event::Pulse);
    }

    /// Measures restores in progress.
    fn look_at_restores(&mut self) {
        for p in 0..self.processes.len() {
            let role = self.processes[p].role;
            let phase = self.processes[p].phase;
            let life = self.processes[p].life;
            let changelog = role.spec().changelog;
            let leaders = self
                .cluster
                .topic(changelog)
                .all(|part| self.cluster.has_leader(part.at, self.now));
            if life != Life::Running
                || phase != "restoring"
                || !leaders
                || !self.progress.well.contains_key(&(role as usize))
            {
                self.progress.restoring.remove(&p);
                continue;
            }

            let since = *self.progress.restoring.entry(p).or_insert(self.now);
            let long = self.now - since;
            self.progress.silence.restore = self.progress.silence.restore.max(long);
            if long > SILENCE_MAX {
                self.violated(format!("progress: process {p} of {role} has been restoring for {} ms while all was well", long / MS));
            }
        }
    }

    /// Measures a silence that continues, or that a commit has just ended.
    fn heard(&mut self, role: usize, task: u32) {
        let Some(since) = self.progress.due.get(&(role, task)).copied() else {
            return;
        };

        let now = self.now;
        let s = &mut self.progress.silence;
        s.any = s.any.max(now - since);
        let Some(well) = self.progress.well.get(&role) else {
            return;
        };

        let silent = now - since.max(*well);
        s.well = s.well.max(silent);
        if silent > SILENCE_MAX {
            let name = roles::Role::all()[role];
            self.violated(format!(
                "progress: {name} task {task} has been silent for {} ms while all was well",
                silent / MS
            ));
        }
    }

    /// A task has committed.
    pub fn moved_on(&mut self, role: usize, task: u32) {
        self.heard(role, task);
        self.progress.due.remove(&(role, task));
    }
}
