//! One run: a seed from its beginning to its end.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use engine::instance::{Instance, InstanceSettings, TaskView};
use engine::restore::Standby;
use faults::mutants;
use ports::Limits;
use ports::topics::TopicTable;
use roles::{Role, RoleSettings, factory};
use wire::topics;

use super::client::{SimClock, SimLog};
use super::coverage::{Coverage, Kind};
use super::process::{self, Ended};
use super::progress::Silence;
use super::store::SimStores;
use super::timing::*;
use super::trace::Trace;
use super::world::{self, Action, Life, World, with};

pub struct Finding {
    pub seed: u64,
    /// The violated invariant, then the cause.
    pub violation: Option<String>,
    pub coverage: Coverage,
    pub hash: u64,
    pub steps: u64,
    pub virtual_us: u64,
    /// Actions of the sequence guard: repeats dropped, instances stopped.
    pub guard: (u64, u64),
    pub silence: Silence,
}

thread_local! {
    /// Event limit of a run, to tell a hanging run from a long one.
    static LIMIT: Cell<u64> = const { Cell::new(400_000) };
}

/// Runs a script on the model of a cluster, as its only process.
#[allow(
    dead_code,
    reason = "for the tests that compare the model with a broker"
)]
pub fn script(table: &TopicTable, body: impl FnOnce() + 'static) {
    world::enter(World::bare(table));
    let p = with(|w| {
        let p = w.add_process(Role::Orders, 0, None);
        w.processes[p].life = Life::Running;
        w.sleep_until(p, 0);
        p
    });

    process::spawn(p, move || {
        body();
        Ended::Asked
    });

    loop {
        match with(World::next) {
            Action::Resume(p) => match process::resume(p) {
                None => {}
                Some(Ended::Panicked(why)) => panic!("{why}"),
                Some(_) => break,
            },
            Action::Done => panic!("{:?}", with(|w| w.violation.clone())),
            _ => {}
        }
    }

    drop(world::leave());
}

pub fn run(seed: u64, trace: Trace) -> Finding {
    world::enter(World::new(seed, trace));
    loop {
        match with(World::next) {
            Action::None => {
                if with(|w| w.steps) > LIMIT.get() {
                    with(|w| w.violated("progress: more events than any run needs".into()));
                }
            }
            Action::Start(p) => start(p),
            Action::Resume(p) => {
                with(|w| {
                    let p = &w.processes[p];
                    let now = w.now;
                    mutants::set_machine(
                        EPOCH_MS + (now / 1_000) as i64 + p.wall_skew_ms + 3,
                        p.hash_key,
                    );
                });

                if let Some(ended) = process::resume(p) {
                    with(|w| w.ended(p, ended));
                }
            }
            Action::Kill(p) => {
                process::kill(p);
            }
            Action::Done => break,
        }
    }

    if with(|w| w.violation.is_none()) {
        with(World::finish);
    }

    for p in 0..with(|w| w.processes.len()) {
        process::kill(p);
    }

    let w = world::leave();
    Finding {
        seed,
        violation: w.violation,
        coverage: w.coverage,
        hash: w.hash,
        steps: w.steps,
        virtual_us: w.now,
        guard: w.guard,
        silence: w.progress.silence,
    }
}

fn start(p: usize) {
    with(|w| {
        let key = w.rng.next();
        let process = &mut w.processes[p];
        process.life = Life::Running;
        process.lives += 1;
        process.frozen = false;
        process.asked_to_stop = false;
        process.doomed = false;
        process.hash_key = key;
        w.forget_retained(p);
        let role = w.processes[p].role;
        let instance = w.processes[p].instance;
        let lives = w.processes[p].lives;
        w.trace(|| format!("process {p} starts as {role}-{instance}, life {lives}"));
        if lives > 1 {
            w.cover(Kind::Resettled);
        }
    });

    process::spawn(p, move || body(p));
    with(|w| {
        w.sleep_until(p, 0);
    });
}

/// Tasks with a standby before an assignment.
#[derive(Default)]
struct Warm {
    phase: &'static str,
    turns: u64,
    copies: BTreeSet<u32>,
}

impl Warm {
    fn look(&mut self, loop_: &Instance, phase: &'static str) {
        let was = std::mem::replace(&mut self.phase, phase);
        if phase == "running" && was == "restoring" {
            let here = |v: &TaskView| matches!(v, TaskView::Running { .. });
            let taken = loop_
                .tasks()
                .iter()
                .filter(|(task, view)| here(view) && self.copies.contains(task))
                .count();
            (0..taken).for_each(|_| with(|w| w.cover(Kind::StandbyTaken)));
        }

        self.turns += 1;
        if phase != "restoring" && self.turns.is_multiple_of(16) {
            let copies = loop_
                .tasks()
                .into_iter()
                .filter(|(_, view)| matches!(view, TaskView::Standby(p) if p.at > 0));
            self.copies = copies.map(|(task, _)| task).collect();
        }
    }
}

fn body(p: usize) -> Ended {
    let (role, instance, table, settings, limits, plan, counts, standby) = with(|w| {
        let process = &w.processes[p];
        let limits = Limits {
            records: w.plan.batch_records,
            bytes: 1 << 20,
            age: Duration::from_millis(50),
        };

        // An operator changes the configuration between two lives, and never on all instances at
        // once.
        let settings = RoleSettings {
            rate_limit: w.settings.rate_limit + process.lives % 3,
            message_rate_factor: process.lives % 4,
            dedup_window_ms: w.plan.window_ms.filter(|_| process.lives % 4 != 0),
            mass_cancel_part: 1 + u64::from(process.lives % 3),
            match_part: 1 + u64::from(process.lives % 3),
            stale_ms: w.settings.stale_ms + u64::from(process.instance % 2) * 500,
            ..w.settings
        };

        let standby = if process.lives % 2 == 0 {
            w.plan.standby
        } else {
            Standby::None
        };

        (
            process.role,
            process.instance,
            w.table.clone(),
            settings,
            limits,
            w.plan.clone(),
            w.cluster.counts.clone(),
            standby,
        )
    });

    let group = format!("processor-{role}");
    let settings_of_loop = InstanceSettings {
        instance: format!("{group}-{instance}"),
        group,
        limits,
        idle_wait: Duration::from_micros(IDLE_WAIT),
        takeover_wait: Duration::from_micros(TAKEOVER_WAIT),
        startup_wait: Duration::from_micros(STARTUP_WAIT),
        cache_bytes: plan.cache_bytes,
        standby,
    };

    let logic = factory(
        role,
        settings,
        table.clone(),
        counts[topics::ORDER_COMMANDS.0 as usize],
    );
    let mut loop_ = Instance::new(
        Arc::new(SimLog),
        Box::new(SimStores { process: p }),
        Box::new(SimClock),
        logic,
        table,
        settings_of_loop,
    );

    loop_.bound_by(plan.bounds);
    let mut restored = false;
    let mut known = 0;
    let mut warm = Warm::default();
    loop {
        if let Err(stop) = loop_.step() {
            return Ended::Stopped(stop);
        }

        let phase = loop_.phase();
        let healed = with(|w| w.healed);
        let tasks = if healed && phase == "running" {
            loop_.running()
        } else {
            0
        };

        if standby != Standby::None {
            warm.look(&loop_, phase);
        }

        let asked = with(|w| {
            if phase != w.processes[p].phase {
                w.trace(|| format!("process {p} is {phase}"));
            }

            if phase == "restoring" && !restored {
                w.cover(Kind::Restored);
            }

            restored = phase == "restoring";
            let repeats = loop_.counters().repeats_dropped;
            if repeats > 0 && !w.plan.untransacted {
                w.violated(format!(
                    "sequence guard: {repeats} repeated records came by"
                ));
            }

            w.guard.0 += repeats - known;
            known = repeats;
            let process = &mut w.processes[p];
            (process.phase, process.tasks) = (phase, tasks);
            process.asked_to_stop
        });

        if asked {
            return Ended::Asked;
        }
    }
}
