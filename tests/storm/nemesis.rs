//! What goes wrong, chosen by a seed: to instances, on the wire, and to brokers. Each kind is counted, so that a run can say what it has met.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use processor::client::simulate::Rng;

use crate::crew::{Crew, Name};
use crate::support::cluster::Cluster;
use crate::support::program::SmallDisk;
use crate::support::proxy::{Act, END_TXN, Faults, Rule, TXN_OFFSET_COMMIT, Ticket, Way};

/// How often each kind of trouble was made.
pub type Counts = BTreeMap<&'static str, u64>;

/// Further instances that come and go.
const EXTRA: [Name; 5] = [("orders", 3), ("trading", 3), ("portfolio", 2), ("notifications", 2), ("audit", 2)];

/// How long brokers may take until all follow again.
const IN_SYNC: Duration = Duration::from_secs(180);

fn ms(rng: &mut Rng, from: u64, to: u64) -> Duration {
    Duration::from_millis(from + rng.below(to - from + 1))
}

fn pick<T: Copy>(rng: &mut Rng, all: &[T]) -> Option<T> {
    all.get(rng.below(all.len() as u64) as usize).copied()
}

/// Trouble for instances and on the wire.
pub struct Nemesis<'a> {
    rng: Rng,
    faults: &'a Faults,
    brokers: u32,
    /// The state of one instance is on this disk.
    disk: Option<(&'a SmallDisk, Name)>,
    disk_free_at: Option<Instant>,
    calm_at: Option<Instant>,
    next: Instant,
    /// Says what it does.
    loud: bool,
    began: Instant,
    pub counts: Counts,
}

impl<'a> Nemesis<'a> {
    pub fn new(seed: u64, cluster: &'a Cluster, brokers: u32, disk: Option<(&'a SmallDisk, Name)>) -> Nemesis<'a> {
        let (rng, now) = (Rng::new(seed), Instant::now());
        Nemesis {
            rng,
            faults: &cluster.faults,
            brokers,
            disk,
            disk_free_at: None,
            calm_at: None,
            next: now,
            loud: std::env::var_os("LOUD").is_some(),
            began: now,
            counts: Counts::new(),
        }
    }

    /// Does a random set of things every few seconds; to be called often.
    pub fn tend(&mut self, crew: &mut Crew) {
        let now = Instant::now();
        if self.disk_free_at.is_some_and(|at| now >= at) {
            self.free_disk();
        }
        if self.calm_at.is_some_and(|at| now >= at) {
            (1..=self.brokers).for_each(|b| self.faults.set_latency(b, Duration::ZERO));
            self.calm_at = None;
        }
        if now < self.next {
            return;
        }
        self.next = now + ms(&mut self.rng, 1_000, 3_500);
        // None, one, two or three.
        for _ in 0..self.rng.below(4) {
            self.strike(crew);
        }
    }

    fn free_disk(&mut self) {
        if let (Some((disk, _)), true) = (self.disk, self.disk_free_at.take().is_some()) {
            disk.free();
        }
    }

    /// What was made to last ends.
    pub fn heal(&mut self, crew: &Crew) {
        self.free_disk();
        self.faults.heal();
        for name in crew.wanted() {
            set_clock(&crew.clock_file(name), 0);
        }
    }

    fn strike(&mut self, crew: &mut Crew) {
        let rng = &mut self.rng;
        let Some(name) = pick(rng, &crew.running()) else { return };
        let broker = 1 + rng.below(u64::from(self.brokers)) as u32;
        let of = format!("-processor-{}-{}", name.0, name.1);
        let kind = match rng.below(100) {
            0..30 => {
                crew.kill9(name);
                // Often several at once, as when a machine goes.
                for _ in 0..rng.below(4) {
                    pick(rng, &crew.running()).into_iter().for_each(|n| crew.kill9(n));
                }
                "kill -9"
            }
            30..38 => {
                let time = if rng.below(4) == 0 { ms(rng, 8_000, 60_000) } else { ms(rng, 1_000, 5_000) };
                crew.freeze(name, time);
                // One that is away for long may be thought dead, and replaced.
                if time > Duration::from_secs(8) && rng.below(2) == 0 {
                    crew.twin(name, rng.below(2) == 0);
                }
                "freeze"
            }
            38..43 => {
                crew.stop(name, ms(rng, 0, 5_000));
                "clean stop"
            }
            43..46 => {
                crew.twin(name, false);
                "twin, same state"
            }
            46..49 => {
                crew.twin(name, true);
                "twin, other state"
            }
            49..53 => self.scale(crew),
            53..56 => {
                crew.wipe(name);
                "state deleted"
            }
            56..59 => match self.disk {
                Some((disk, _)) if self.disk_free_at.is_none() => {
                    disk.fill();
                    self.disk_free_at = Some(Instant::now() + ms(rng, 2_000, 10_000));
                    "disk full"
                }
                _ => return,
            },
            59..63 => {
                let days = [-400, -1, 1, 400][rng.below(4) as usize];
                set_clock(&crew.clock_file(name), days * 86_400 + rng.below(1_000) as i64);
                "clock jump"
            }
            63..75 => {
                // Long enough for the client to give up, and for the next transaction to be under way.
                let time = if rng.below(3) == 0 { ms(rng, 500, 4_000) } else { ms(rng, 4_500, 15_000) };
                self.faults.add(Rule { api: END_TXN, of, act: Act::Hold(Ticket::new(), time), times: 1 });
                "EndTxn held"
            }
            75..81 => {
                self.faults.add(Rule { api: END_TXN, of, act: Act::DropAnswer, times: 1 });
                "EndTxn's answer dropped"
            }
            81..86 => {
                let act = Act::Delay(ms(rng, 100, 6_000));
                self.faults.add(Rule { api: TXN_OFFSET_COMMIT, of: String::new(), act, times: 1 + rng.below(3) as u32 });
                "offset commit delayed"
            }
            86..91 => {
                let way = if rng.below(2) == 0 { Way::ToBroker } else { Way::ToClient };
                self.faults.cut(broker, way, ms(rng, 500, 9_000));
                "one direction cut"
            }
            91..96 => {
                self.faults.set_latency(broker, ms(rng, 1, 40));
                self.calm_at = Some(Instant::now() + ms(rng, 3_000, 12_000));
                "latency"
            }
            _ => {
                self.faults.drop_connections(broker, 1 + rng.below(4) as usize);
                "connections lost"
            }
        };
        *self.counts.entry(kind).or_default() += 1;
        if self.loud {
            println!("{:>7.1} s: {kind} ({name:?}, broker {broker})", self.began.elapsed().as_secs_f64());
        }
    }

    fn scale(&mut self, crew: &mut Crew) -> &'static str {
        let name = pick(&mut self.rng, &EXTRA).expect("there are some");
        if crew.wanted().contains(&name) {
            if self.rng.below(2) == 0 {
                crew.dismiss(name)
            } else {
                crew.kill9(name)
            }
            crew.dismiss(name);
            "one fewer"
        } else {
            crew.want(name);
            "one more"
        }
    }
}

/// Makes an instance's wall clock wrong by so many seconds.
pub fn set_clock(file: &Path, seconds: i64) {
    let file = std::fs::File::options().write(true).create(true).truncate(false).open(file).expect("a clock file");
    file.write_all_at(&seconds.to_ne_bytes(), 0).expect("a clock file");
}

/// Trouble for brokers, in a thread of its own, because each takes its time. One broker at a time, and the next one when all are in sync again; but for
/// `two_down`, which takes leaders away altogether.
pub struct Brokers {
    stop: Arc<AtomicBool>,
    pub faults: Arc<AtomicU64>,
    counts: Arc<Mutex<Counts>>,
    thread: JoinHandle<()>,
}

impl Brokers {
    pub fn start(seed: u64, cluster: Arc<Cluster>, brokers: u32, two_down: bool) -> Brokers {
        let (stop, faults, counts) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)), Arc::new(Mutex::new(Counts::new())));
        let mut at_work = AtBrokers {
            rng: Rng::new(seed ^ 0x6272_6f6b_6572),
            cluster,
            brokers,
            two_down,
            stop: stop.clone(),
            faults: faults.clone(),
            counts: counts.clone(),
        };
        let thread = std::thread::Builder::new().name("brokers".into()).spawn(move || at_work.run()).expect("a thread");
        Brokers { stop, faults, counts, thread }
    }

    /// Returns when all brokers are back.
    pub fn stop(self) -> Counts {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("all brokers are back");
        std::mem::take(&mut *self.counts.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

struct AtBrokers {
    rng: Rng,
    cluster: Arc<Cluster>,
    brokers: u32,
    two_down: bool,
    stop: Arc<AtomicBool>,
    faults: Arc<AtomicU64>,
    counts: Arc<Mutex<Counts>>,
}

impl AtBrokers {
    fn run(&mut self) {
        while !self.stop.load(Ordering::Relaxed) {
            let pause = ms(&mut self.rng, 4_000, 14_000);
            self.wait(pause);
            self.cluster.wait_in_sync(IN_SYNC);
            self.strike();
        }
        self.cluster.wait_in_sync(IN_SYNC);
    }

    fn wait(&self, time: Duration) {
        let since = Instant::now();
        while since.elapsed() < time && !self.stop.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn note(&self, kind: &'static str) {
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner).entry(kind).or_default() += 1;
        self.faults.fetch_add(1, Ordering::Relaxed);
    }

    fn strike(&mut self) {
        let broker = 1 + self.rng.below(u64::from(self.brokers)) as u32;
        match self.rng.below(10) {
            0..4 => {
                self.note("broker kill -9");
                self.cluster.kill(broker);
                let away = ms(&mut self.rng, 0, 12_000);
                self.wait(away);
                self.back(broker);
            }
            4..7 => {
                self.note("broker frozen");
                self.cluster.freeze(broker);
                let long = self.rng.below(4) == 0;
                let away = if long { ms(&mut self.rng, 10_000, 40_000) } else { ms(&mut self.rng, 1_000, 8_000) };
                self.wait(away);
                self.cluster.thaw(broker);
            }
            7 | 8 => {
                self.note("broker stopped, leaders and coordinators move");
                self.cluster.stop(broker);
                let away = ms(&mut self.rng, 0, 5_000);
                self.wait(away);
                self.back(broker);
            }
            _ if self.two_down => {
                let other = broker % self.brokers + 1;
                self.note("broker kill -9");
                self.note("broker kill -9");
                self.note("two brokers down");
                self.cluster.kill(broker);
                self.cluster.kill(other);
                let away = ms(&mut self.rng, 1_000, 8_000);
                self.wait(away);
                self.cluster.restart(broker);
                self.cluster.restart(other);
                self.cluster.wait_started(broker);
                self.cluster.wait_started(other);
            }
            _ => {
                for broker in 1..=self.brokers {
                    self.note("broker in a rolling restart");
                    self.cluster.stop(broker);
                    self.back(broker);
                    self.cluster.wait_in_sync(IN_SYNC);
                }
            }
        }
    }

    fn back(&self, broker: u32) {
        self.cluster.restart(broker);
        self.cluster.wait_started(broker);
    }
}
