//! Whether anything moves: how long each task lets what it could read lie. Safety alone is easily had by a system that stands still.

use std::collections::BTreeMap;

use processor::engine::topics::TopicPartition;

use super::timing::*;
use super::world::{Event, Life, World};

/// How often it is looked.
const PULSE: u64 = 200 * MS;

/// The longest silences of a run, in microseconds.
#[derive(Clone, Copy, Default)]
pub struct Silence {
    /// At any time.
    pub any: u64,
    /// While the cluster, the role's processes and its offsets were well.
    pub well: u64,
    /// Most transactions in a row that passed a partition over.
    pub passed: u64,
}

#[derive(Default)]
pub struct Progress {
    /// By role and task: since when something can be read and is not committed.
    due: BTreeMap<(usize, u32), u64>,
    /// Since when all is well, by role.
    well: BTreeMap<usize, u64>,
    pub silence: Silence,
}

impl World {
    /// Whether nothing is wrong that could hold a role up.
    fn is_well(&self, role: processor::roles::Role) -> bool {
        let brokers = self.cluster.brokers.iter().all(|b| b.up && b.frozen_until <= self.now);
        let here = |p: &super::world::Process| p.life == Life::Gone || p.life == Life::Running && !p.frozen;
        let calm = self.healed || self.plan.attacks.is_empty() && self.plan.faults.is_none();
        calm && brokers && !self.is_closed(role) && self.processes.iter().filter(|p| p.role == role).all(here)
    }

    /// Looks at every task.
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
            let Some(oracle) = self.oracle.role(role) else { continue };
            for (task, expected) in (0_u32..).zip(&oracle.tasks) {
                let due = expected.position().iter().any(|(at, next)| self.cluster.part(*at).anything_from(*next));
                match due {
                    true => _ = self.progress.due.entry((r, task)).or_insert(now),
                    false => _ = self.progress.due.remove(&(r, task)),
                }
            }
        }
        let all: Vec<_> = self.progress.due.keys().copied().collect();
        for (role, task) in all {
            let changelog = processor::roles::Role::all()[role].spec().changelog;
            if self.cluster.has_leader(TopicPartition::new(changelog, task), now) {
                self.heard(role, task);
            } else {
                self.progress.due.remove(&(role, task));
            }
        }
        self.schedule(now + PULSE, Event::Pulse);
    }

    /// Measures a silence that goes on, or that a commit has just ended.
    fn heard(&mut self, role: usize, task: u32) {
        let Some(since) = self.progress.due.get(&(role, task)).copied() else { return };
        let (now, s) = (self.now, &mut self.progress.silence);
        s.any = s.any.max(now - since);
        let Some(well) = self.progress.well.get(&role) else { return };
        let silent = now - since.max(*well);
        s.well = s.well.max(silent);
        if silent > SILENCE_MAX {
            let name = processor::roles::Role::all()[role];
            self.violated(format!("progress: {name} task {task} has been silent for {} ms while all was well", silent / MS));
        }
    }

    /// A task has committed.
    pub fn moved_on(&mut self, role: usize, task: u32) {
        self.heard(role, task);
        self.progress.due.remove(&(role, task));
    }
}
