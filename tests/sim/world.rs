//! The world of one run: a virtual clock, an event queue, the cluster, the processes and their
//! disks. One thread, one seed.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;

use ports::topics::{TopicPartition, TopicSpec, TopicTable};
use roles::{Role, RoleSettings};
use wire::topics;

use super::client::background::Consumer;
use super::cluster::net::{Connection, Cut, Frame, Target};
use super::cluster::{Cluster, Place, Response};
use super::coverage::{Coverage, Kind};
use super::operator::{Move, Moved};
use super::oracle::Oracle;
use super::plan::{Faults, Plan};
use super::progress::Progress;
use super::rng::Rng;
use super::store::Disk;
use super::timing::*;
use super::trace::Trace;
use super::traffic::Heavy;
use super::workload::Sent;

pub enum Event {
    Wake {
        process: usize,
        token: u64,
    },
    Thaw {
        process: usize,
        life: u32,
    },
    Start(usize),
    Arrive(Box<Frame>),
    Answer {
        connection: usize,
        to: Target,
        token: u64,
        response: Response,
    },
    Cut(usize),
    Marker {
        txn: usize,
        place: Place,
        pid: u64,
        epoch: u32,
        commit: bool,
    },
    Session {
        group: usize,
        instance: u32,
    },
    Rebalance(usize),
    Expire,
    Consumer(usize),
    Nemesis,
    Input,
    Follow,
    BrokerUp(usize),
    Heal,
    Look,
    Pulse,
    Offsets {
        role: Role,
        how: Move,
        wipe: bool,
    },
    PutRight(Role),
    Heavy(u32),
    TakeOver {
        group: usize,
        txn: usize,
        sure: bool,
    },
    ClockRight {
        broker: usize,
        skew_ms: i64,
    },
    TimeBoundsLifted,
}

impl Event {
    fn mark(&self) -> u64 {
        let (kind, a) = match self {
            Event::Wake { process, token } => (1, *process as u64 ^ token << 8),
            Event::Thaw { process, life } => (2, *process as u64 ^ u64::from(*life) << 8),
            Event::Start(p) => (3, *p as u64),
            Event::Arrive(f) => (4, f.token),
            Event::Answer { token, .. } => (5, *token),
            Event::Cut(c) => (6, *c as u64),
            Event::Marker {
                txn, epoch, commit, ..
            } => (
                7,
                *txn as u64 ^ u64::from(*epoch) << 8 ^ u64::from(*commit) << 40,
            ),
            Event::Session { group, instance } => (8, *group as u64 ^ u64::from(*instance) << 8),
            Event::Rebalance(g) => (9, *g as u64),
            Event::Expire => (10, 0),
            Event::Consumer(c) => (11, *c as u64),
            Event::Nemesis => (12, 0),
            Event::Input => (13, 0),
            Event::Follow => (14, 0),
            Event::BrokerUp(b) => (15, *b as u64),
            Event::Heal => (16, 0),
            Event::Look => (17, 0),
            Event::Pulse => (18, 0),
            Event::Offsets { role, how, .. } => (19, *role as u64 ^ (*how as u64) << 8),
            Event::PutRight(role) => (20, *role as u64),
            Event::Heavy(step) => (21, u64::from(*step)),
            Event::ClockRight { broker, .. } => (22, *broker as u64),
            Event::TimeBoundsLifted => (23, 0),
            Event::TakeOver { txn, sure, .. } => (24, *txn as u64 ^ u64::from(*sure) << 8),
        };

        kind ^ a << 8
    }
}

/// Work for the scheduler outside the world.
pub enum Action {
    None,
    Start(usize),
    Resume(usize),
    Kill(usize),
    Done,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Life {
    Running,
    /// Not running; will return.
    Down,
    /// Not running; stays away.
    Gone,
}

pub struct Process {
    pub role: Role,
    /// Number in the instance name.
    pub instance: u32,
    pub life: Life,
    /// Number of lives.
    pub lives: u32,
    pub frozen: bool,
    /// An event came while the process was frozen.
    owed: bool,
    token: u64,
    pub mailbox: Vec<(u64, Result<Response, Cut>)>,
    /// Ends at the next turn of its loop.
    pub asked_to_stop: bool,
    /// Dies at its next wait.
    pub doomed: bool,
    pub disk: usize,
    pub phase: &'static str,
    /// Number of its running tasks; counted only after the last fault.
    pub tasks: usize,
    pub hash_key: u64,
    pub wall_skew_ms: i64,
}

/// A producer from the view of its client's background.
pub struct Producer {
    pub suspect: bool,
    /// True if requests of a transaction may be in flight.
    pub busy: bool,
    pub alive: bool,
}

pub struct World {
    pub now: u64,
    pub rng: Rng,
    pub plan: Plan,
    queue: BinaryHeap<Reverse<(u64, u64, usize)>>,
    events: Vec<Option<Event>>,
    free: Vec<usize>,
    order: u64,
    /// Hash of all events, to compare two runs.
    pub hash: u64,
    pub steps: u64,
    pub tokens: u64,
    pub table: Arc<TopicTable>,
    pub settings: RoleSettings,
    pub cluster: Cluster,
    pub connections: Vec<Connection>,
    pub processes: Vec<Process>,
    pub producers: Vec<Producer>,
    pub consumers: Vec<Consumer>,
    pub disks: Vec<Disk>,
    /// Joins that wait for a rebalance: ticket, connection, receiver of the answer.
    pub joins: Vec<(u64, usize, Target)>,
    session_due: BTreeMap<(usize, u32), u64>,
    pub oracle: Oracle,
    pub coverage: Coverage,
    pub trace: Trace,
    pub healed: bool,
    pub left_to_send: u64,
    pub sent: u64,
    /// Orders of users, for repeats, replaces and cancels.
    pub orders: Vec<Sent>,
    /// The first violation of an invariant.
    pub violation: Option<String>,
    /// For scripts: the delay of the next request that ends a transaction.
    pub hold_end: Option<u64>,
    /// Actions of the sequence guard: repeats dropped, instances stopped.
    pub guard: (u64, u64),
    /// Roles of this run.
    pub roles: Vec<Role>,
    pub moved: Moved,
    /// True if a record was refused because of its time.
    pub times_refused: bool,
    pub progress: Progress,
    /// For a mutant: positions of a process's consumers.
    retained: Vec<(usize, TopicPartition, u64)>,
}

thread_local! {
    static WORLD: RefCell<Option<Box<World>>> = const { RefCell::new(None) };
}

/// Makes `world` the world of this thread.
pub fn enter(world: Box<World>) {
    WORLD.with_borrow_mut(|w| *w = Some(world));
}

/// Takes the world back.
pub fn leave() -> Box<World> {
    WORLD
        .with_borrow_mut(Option::take)
        .expect("a world was entered")
}

/// Runs `f` with access to the world. Calls must not be nested.
pub fn with<R>(f: impl FnOnce(&mut World) -> R) -> R {
    WORLD.with_borrow_mut(|w| f(w.as_mut().expect("a world was entered")))
}

/// The same topics with a smaller record size limit. Dead letters get more room, because they
/// contain the unreadable record.
fn small_records(table: &TopicTable, max: u32) -> TopicTable {
    let more = |t| if t == topics::DEAD_LETTERS { 65_536 } else { 0 };
    TopicTable::new(
        "",
        table
            .iter()
            .map(|t| TopicSpec {
                record_bytes_max: max + more(t),
                ..table.spec(t).clone()
            })
            .collect(),
    )
}

impl World {
    pub fn new(seed: u64, trace: Trace) -> Box<World> {
        let mut rng = Rng::new(seed);
        let plan = Plan::draw(&mut rng);
        let table = Arc::new(match plan.record_bytes_max {
            None => topics::table(""),
            Some(max) => small_records(&topics::table(""), max),
        });

        let mut settings = RoleSettings {
            rate_limit: 5,
            burst: 3,
            stale_ms: 4_000,
            opening_cash_e4: 100_000_000,
            client_transfers: seed.is_multiple_of(2),
            ..RoleSettings::default()
        };

        if plan
            .heavy
            .is_some_and(|h| !matches!(h, Heavy::Flood(_) | Heavy::Messages(_)))
        {
            (settings.rate_limit, settings.burst) = (100_000, 100_000);
        }

        let cluster = Cluster::new(&table, plan.partitions);
        let mut roles: Vec<Role> = plan.processes.iter().map(|(r, _)| *r).collect();
        roles.dedup();
        let mut w = World::make(seed, rng, plan, cluster, table, settings, roles, trace);
        w.begin();
        w
    }

    /// Only a cluster, for scripts that use the model like a broker.
    pub fn bare(table: &TopicTable) -> Box<World> {
        let mut rng = Rng::new(1);
        let plan = Plan {
            faults: Faults::default(),
            attacks: Vec::new(),
            ..Plan::draw(&mut rng)
        };

        let mut cluster = Cluster::empty(table);
        cluster.real_time = true;
        let settings = RoleSettings::default();
        let mut w = World::make(
            1,
            rng,
            plan,
            cluster,
            Arc::new(table.clone()),
            settings,
            Vec::new(),
            Trace::Off,
        );

        w.schedule(TXN_CHECK, Event::Expire);
        w
    }

    #[allow(clippy::too_many_arguments)]
    fn make(
        seed: u64,
        rng: Rng,
        plan: Plan,
        cluster: Cluster,
        table: Arc<TopicTable>,
        settings: RoleSettings,
        roles: Vec<Role>,
        trace: Trace,
    ) -> Box<World> {
        let mut oracle = Oracle::new(&table, &cluster.counts, settings, &roles);
        oracle.set_journal_part(plan.bounds.journal_part);
        Box::new(World {
            now: 0,
            queue: BinaryHeap::with_capacity(256),
            events: Vec::with_capacity(256),
            free: Vec::new(),
            order: 0,
            hash: seed,
            steps: 0,
            tokens: 0,
            table,
            settings,
            cluster,
            connections: Vec::new(),
            processes: Vec::new(),
            producers: Vec::new(),
            consumers: Vec::new(),
            disks: Vec::new(),
            joins: Vec::new(),
            session_due: BTreeMap::new(),
            oracle,
            coverage: Coverage::default(),
            trace,
            healed: false,
            left_to_send: plan.inputs,
            sent: 0,
            orders: Vec::new(),
            violation: None,
            hold_end: None,
            guard: (0, 0),
            roles,
            moved: Moved::default(),
            times_refused: false,
            progress: Progress::default(),
            retained: Vec::new(),
            rng,
            plan,
        })
    }

    /// The beginning of every run.
    fn begin(&mut self) {
        self.trace(|| "the run begins".to_string());
        self.bound_times(self.plan.ahead_ms_max);
        self.opening();
        for (role, instance) in self.plan.processes.clone() {
            self.add_process(role, instance, None);
        }

        for i in 0..self.processes.len() {
            let at = self.rng.below(800 * MS);
            self.schedule(at, Event::Start(i));
        }

        self.schedule(TXN_CHECK, Event::Expire);
        let first = self.rng.between(10 * MS, 300 * MS);
        self.schedule(first, Event::Input);
        if !self.plan.attacks.is_empty() {
            let first = self.rng.between(100 * MS, SECOND);
            self.schedule(first, Event::Nemesis);
        }

        self.schedule(700 * MS, Event::Follow);
        self.schedule(300 * MS, Event::Pulse);
        if self.plan.heavy.is_some() {
            let at = self.rng.between(self.plan.heal_at / 8, self.plan.heal_at);
            self.schedule(at, Event::Heavy(0));
        }

        self.schedule(self.plan.heal_at, Event::Heal);
    }

    /// Adds a process without starting it, on a separate machine or on the machine of another
    /// process.
    pub fn add_process(&mut self, role: Role, instance: u32, disk: Option<usize>) -> usize {
        let disk = disk.unwrap_or_else(|| {
            self.disks.push(Disk::default());
            self.disks.len() - 1
        });

        self.processes.push(Process {
            role,
            instance,
            life: Life::Down,
            lives: 0,
            frozen: false,
            owed: false,
            token: 0,
            mailbox: Vec::new(),
            asked_to_stop: false,
            doomed: false,
            disk,
            phase: "starting",
            tasks: 0,
            hash_key: 0,
            wall_skew_ms: 0,
        });

        self.processes.len() - 1
    }

    pub fn schedule(&mut self, at: u64, event: Event) {
        self.order += 1;
        let slot = match self.free.pop() {
            Some(slot) => {
                self.events[slot] = Some(event);
                slot
            }
            None => {
                self.events.push(Some(event));
                self.events.len() - 1
            }
        };

        self.queue.push(Reverse((at, self.order, slot)));
    }

    pub fn cover(&mut self, kind: Kind) {
        self.coverage.hit(kind);
    }

    pub fn trace(&mut self, text: impl FnOnce() -> String) {
        if self.trace.is_on() {
            self.trace.line(self.now, &text());
        }
    }

    /// Records a violation; the run ends.
    pub fn violated(&mut self, what: String) {
        self.trace(|| format!("VIOLATION: {what}"));
        self.violation.get_or_insert(what);
    }

    /// Schedules the wake-up of a process under a new token. The process may be doomed to die at
    /// this wait.
    pub fn sleep_until(&mut self, process: usize, until: u64) {
        let p = &mut self.processes[process];
        p.token += 1;
        let token = p.token;
        let at = until.max(self.now);
        let kill = self.plan.faults.kill_ppm;
        if !self.healed && self.rng.ppm(kill) {
            self.processes[process].doomed = true;
        }

        self.schedule(at, Event::Wake { process, token });
    }

    /// Wakes a process that waits.
    pub fn wake(&mut self, process: usize, delay: u64) {
        let token = self.processes[process].token;
        let at = self.now + delay;
        self.schedule(at, Event::Wake { process, token });
    }

    /// Takes the next event.
    pub fn next(&mut self) -> Action {
        if self.violation.is_some() {
            return Action::Done;
        }

        let Some(Reverse((at, _, slot))) = self.queue.pop() else {
            self.violated("nothing is going to happen any more".into());
            return Action::Done;
        };

        self.now = at;
        self.steps += 1;
        let event = self.events[slot].take().expect("a scheduled event");
        self.free.push(slot);
        self.hash = (self.hash ^ at ^ event.mark())
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(29);
        self.handle(event)
    }

    fn handle(&mut self, event: Event) -> Action {
        match event {
            Event::Wake { process, token } => {
                let p = &mut self.processes[process];
                if p.life != Life::Running || p.token != token {
                    return Action::None;
                }

                if p.frozen {
                    p.owed = true;
                    return Action::None;
                }

                p.token += 1;
                if std::mem::take(&mut p.doomed) {
                    self.cover(Kind::KillInStep);
                    self.trace(|| format!("process {process} is killed at its wait"));
                    return self.put_down(process);
                }

                return Action::Resume(process);
            }
            Event::Thaw { process, life } => {
                let p = &mut self.processes[process];
                if p.lives != life || !p.frozen {
                    return Action::None;
                }

                p.frozen = false;
                self.trace(|| format!("process {process} goes on"));
                self.consumers_thaw(process);
                if std::mem::take(&mut self.processes[process].owed) {
                    self.wake(process, 0);
                }
            }
            Event::Start(process) => {
                if self.is_closed(self.processes[process].role) {
                    self.schedule(self.now + 200 * MS, Event::Start(process));
                } else if self.processes[process].life == Life::Down {
                    return Action::Start(process);
                }
            }
            Event::Arrive(frame) => self.arrive(frame),
            Event::Answer {
                connection,
                to,
                token,
                response,
            } => self.answered(connection, to, token, response),
            Event::Cut(connection) => self.cut(connection),
            Event::Marker {
                txn,
                place,
                pid,
                epoch,
                commit,
            } => self.marker(txn, place, pid, epoch, commit),
            Event::Session { group, instance } => {
                if self.session_due.get(&(group, instance)) == Some(&self.now) {
                    self.session_due.remove(&(group, instance));
                    self.session(group, instance);
                }
            }
            Event::Rebalance(group) => self.advance_group(group),
            Event::Expire => {
                self.expire_transactions();
                self.schedule(self.now + TXN_CHECK, Event::Expire);
            }
            Event::Consumer(c) => self.consumer_timer(c),
            Event::Nemesis => return self.nemesis(),
            Event::Input if self.left_to_send == 0 => {}
            Event::Input => {
                self.input();
                self.left_to_send -= 1;
                if self.left_to_send > 0 {
                    let mean = self.plan.heal_at / (self.plan.inputs + 1) * 2;
                    let gap = if self.rng.permille(400) {
                        self.rng.below(2 * MS)
                    } else {
                        self.rng.below(mean.max(2))
                    };

                    self.schedule(self.now + gap, Event::Input);
                }
            }
            Event::Follow => {
                self.follow();
                self.schedule(self.now + 500 * MS, Event::Follow);
            }
            Event::BrokerUp(b) => {
                self.cluster.brokers[b].up = true;
                self.trace(|| format!("broker {b} is back"));
            }
            Event::Heal => self.heal(),
            Event::Pulse => self.pulse(),
            Event::Offsets { role, how, wipe } => self.move_offsets(role, how, wipe),
            Event::PutRight(role) => self.put_right(role),
            Event::Heavy(step) => self.heavy(step),
            Event::ClockRight { broker, skew_ms } => {
                self.cluster.brokers[broker].skew_ms = skew_ms;
                self.trace(|| format!("the clock of broker {broker} is put right"));
            }
            Event::TimeBoundsLifted => self.bound_times(None),
            Event::TakeOver { group, txn, sure } => self.take_over(group, txn, sure),
            Event::Look => {
                let stopped_is_fine =
                    self.plan.untransacted && self.now > self.plan.heal_at + 5 * SECOND;
                if self.at_rest() || stopped_is_fine {
                    return Action::Done;
                }

                if self.now > self.plan.heal_at + PATIENCE {
                    let why = self.unrest();
                    self.violated(format!("no rest after the last fault: {why}"));
                    return Action::Done;
                }

                self.schedule(self.now + 250 * MS, Event::Look);
            }
        }

        Action::None
    }

    /// Records that a process is down from this moment; it may return.
    pub fn put_down(&mut self, process: usize) -> Action {
        if self.processes[process].phase == "restoring" {
            self.cover(Kind::KilledInRestore);
        }

        let p = &mut self.processes[process];
        (p.life, p.phase) = (Life::Down, "starting");
        p.token += 1;
        p.frozen = false;
        p.owed = false;
        p.mailbox.clear();
        self.process_ended(process);
        let delay = self.rng.skewed(5 * MS, 3 * SECOND);
        self.schedule(self.now + delay, Event::Start(process));
        Action::Kill(process)
    }

    /// Schedules the session check of a member, unless one is scheduled.
    pub fn watch_session(&mut self, group: usize, instance: u32, at: u64) {
        let due = self.session_due.entry((group, instance)).or_default();
        if *due <= self.now {
            *due = at;
            self.schedule(at, Event::Session { group, instance });
        }
    }

    /// For a mutant: keeps the consumer positions of a process at its last delivery.
    pub fn retain(&mut self, process: usize, positions: Vec<(TopicPartition, u64)>) {
        self.forget_retained(process);
        self.retained
            .extend(positions.into_iter().map(|(at, next)| (process, at, next)));
    }

    pub fn retained(&self, process: usize, at: TopicPartition) -> Option<u64> {
        self.retained
            .iter()
            .find(|(p, a, _)| *p == process && *a == at)
            .map(|(.., next)| *next)
    }

    pub fn forget_retained(&mut self, process: usize) {
        self.retained.retain(|(p, ..)| *p != process);
    }
}
