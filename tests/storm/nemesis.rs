//! Faults chosen by a seed, for instances and for the network. Each kind is counted, so that the
//! report can name the kinds of a run.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use client::simulate::Rng;

use crate::crew::{Crew, Name};
use crate::silence::{ON_THE_WAY, Troubles, Whom};
use crate::support::cluster::Cluster;
use crate::support::program::SmallDisk;
use crate::support::proxy::{Act, END_TXN, Faults, Rule, TXN_OFFSET_COMMIT, Ticket, Way};

/// Number of faults by kind.
pub type Counts = BTreeMap<&'static str, u64>;

/// Further instances that come and go.
const EXTRA: [Name; 5] = [
    ("orders", 3),
    ("trading", 3),
    ("portfolio", 2),
    ("notifications", 2),
    ("audit", 2),
];

/// In a lull the nemesis leaves brokers and network alone. It still attacks one instance each of
/// `orders` and `trading`. The tasks of the other instances have no reason to be silent.
const CYCLE: Duration = Duration::from_secs(80);
const STORMY: Duration = Duration::from_secs(45);

/// True during a lull, at this time since the beginning.
pub fn is_lull(elapsed: Duration) -> bool {
    elapsed.as_millis() % CYCLE.as_millis() >= STORMY.as_millis()
}

/// True if a lull is near: no long fault may begin any more.
pub fn is_lull_near(elapsed: Duration) -> bool {
    is_lull(elapsed) || is_lull(elapsed + Duration::from_secs(12))
}

pub fn ms(rng: &mut Rng, from: u64, to: u64) -> Duration {
    Duration::from_millis(from + rng.below(to - from + 1))
}

pub fn pick<T: Copy>(rng: &mut Rng, all: &[T]) -> Option<T> {
    all.get(rng.below(all.len() as u64) as usize).copied()
}

/// Faults for instances and for the network.
pub struct Nemesis<'a> {
    rng: Rng,
    faults: &'a Faults,
    brokers: u32,
    /// A separate disk with the state of one instance.
    disk: Option<(&'a SmallDisk, Name)>,
    disk_free_at: Option<Instant>,
    calm_at: Option<Instant>,
    troubles: Troubles,
    /// In a lull: the attacked instances of the two roles in the path of an order.
    victims: Option<[Name; 2]>,
    next: Instant,
    /// Prints each action.
    loud: bool,
    began: Instant,
    pub counts: Counts,
}

impl<'a> Nemesis<'a> {
    pub fn new(
        seed: u64,
        cluster: &'a Cluster,
        brokers: u32,
        disk: Option<(&'a SmallDisk, Name)>,
        troubles: Troubles,
    ) -> Nemesis<'a> {
        let rng = Rng::new(seed);
        let now = Instant::now();
        Nemesis {
            rng,
            faults: &cluster.faults,
            brokers,
            disk,
            disk_free_at: None,
            calm_at: None,
            troubles,
            victims: None,
            next: now,
            loud: std::env::var_os("LOUD").is_some(),
            began: now,
            counts: Counts::new(),
        }
    }

    /// Runs a random number of faults every few seconds; call often.
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
        let lull = is_lull(self.began.elapsed());
        if !lull {
            self.victims = None;
        } else if self.victims.is_none() {
            // The same number for both roles: a spared instance then has the same tasks in both
            // roles.
            let number = 1 + self.rng.below(2) as u32;
            self.victims = Some(ON_THE_WAY.map(|role| (role, number)));
        }

        // None, one, two or three.
        for _ in 0..self.rng.below(4) {
            if lull {
                self.strike_in_a_lull(crew)
            } else {
                self.strike(crew)
            }
        }
    }

    fn strike_in_a_lull(&mut self, crew: &mut Crew) {
        let spared =
            |n: &Name| ON_THE_WAY.contains(&n.0) && self.victims.is_some_and(|v| !v.contains(n));
        let all: Vec<Name> = crew.running().into_iter().filter(|n| !spared(n)).collect();
        let rng = &mut self.rng;
        let Some(name) = pick(rng, &all) else { return };
        let kind = match rng.below(8) {
            0..4 => {
                crew.kill9(name);
                "kill -9"
            }
            4 => {
                crew.freeze(name, ms(rng, 1_000, 15_000));
                "freeze"
            }
            5 => {
                crew.stop(name, ms(rng, 0, 5_000));
                "clean stop"
            }
            6 => {
                crew.wipe(name);
                "state deleted"
            }
            _ => {
                crew.twin(name, false);
                "twin, same state"
            }
        };

        self.note(
            kind,
            name,
            Duration::from_secs(if kind == "freeze" { 15 } else { 5 }),
        );
    }

    fn note(&mut self, kind: &'static str, name: Name, time: Duration) {
        self.troubles.lasting(kind, Whom::Instance(name), time);
        *self.counts.entry(kind).or_default() += 1;
        if self.loud {
            println!(
                "{:>7.1} s: {kind} ({name:?})",
                self.began.elapsed().as_secs_f64()
            );
        }
    }

    fn free_disk(&mut self) {
        if let (Some((disk, _)), true) = (self.disk, self.disk_free_at.take().is_some()) {
            disk.free();
        }
    }

    /// Ends all lasting faults.
    pub fn heal(&mut self, crew: &Crew) {
        self.free_disk();
        self.faults.heal();
        for name in crew.wanted() {
            set_clock(&crew.clock_file(name), 0);
        }
    }

    fn strike(&mut self, crew: &mut Crew) {
        let rng = &mut self.rng;
        let Some(name) = pick(rng, &crew.running()) else {
            return;
        };

        let broker = 1 + rng.below(u64::from(self.brokers)) as u32;
        let of = format!("-processor-{}-{}", name.0, name.1);
        let mut whom = (Whom::Instance(name), Duration::from_secs(5));
        let kind = match rng.below(100) {
            0..30 => {
                crew.kill9(name);

                // Often several at once, as in a machine failure.
                for _ in 0..rng.below(4) {
                    if let Some(other) = pick(rng, &crew.running()) {
                        crew.kill9(other);
                        self.troubles.lasting(
                            "kill -9",
                            Whom::Instance(other),
                            Duration::from_secs(5),
                        );
                    }
                }

                "kill -9"
            }
            30..38 => {
                let time = if rng.below(4) == 0 {
                    ms(rng, 8_000, 60_000)
                } else {
                    ms(rng, 1_000, 5_000)
                };

                crew.freeze(name, time);
                whom.1 = time;

                // An instance that is frozen for long may be taken for dead, and replaced.
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
            49..52 => self.scale(crew),
            52 => {
                crew.hang_up(name);
                "SIGHUP"
            }
            53 => {
                crew.make_deaf(name, ms(rng, 0, 5_000));
                "nobody reads its log"
            }
            54 | 55 => {
                crew.wipe(name);
                "state deleted"
            }
            56..59 => match self.disk {
                Some((disk, _)) if self.disk_free_at.is_none() => {
                    disk.fill();
                    whom.1 = Duration::from_secs(15);
                    self.disk_free_at = Some(Instant::now() + ms(rng, 2_000, 10_000));
                    "disk full"
                }
                _ => return,
            },
            59..63 => {
                let days = [-400, -1, 1, 400][rng.below(4) as usize];
                set_clock(
                    &crew.clock_file(name),
                    days * 86_400 + rng.below(1_000) as i64,
                );
                "clock jump"
            }
            63..75 => {
                // Long enough for the client to give up (8 s) and to begin the next transaction.
                let time = if rng.below(3) == 0 {
                    ms(rng, 500, 4_000)
                } else {
                    ms(rng, 8_500, 20_000)
                };

                whom.1 = time + Duration::from_secs(10);
                self.faults.add(Rule {
                    api: END_TXN,
                    of,
                    act: Act::Hold(Ticket::new(), time),
                    times: 1,
                });

                "EndTxn held"
            }
            75..81 => {
                self.faults.add(Rule {
                    api: END_TXN,
                    of,
                    act: Act::DropAnswer,
                    times: 1,
                });

                "EndTxn's answer dropped"
            }
            81..86 => {
                let act = Act::Delay(ms(rng, 100, 6_000));
                whom = (Whom::All, Duration::from_secs(20));
                self.faults.add(Rule {
                    api: TXN_OFFSET_COMMIT,
                    of: String::new(),
                    act,
                    times: 1 + rng.below(3) as u32,
                });

                "offset commit delayed"
            }
            86..91 => {
                let way = if rng.below(2) == 0 {
                    Way::ToBroker
                } else {
                    Way::ToClient
                };

                let time = ms(rng, 500, 12_000);
                whom = (Whom::All, time);
                self.faults.cut(broker, way, time);
                "one direction cut"
            }
            91..96 => {
                self.faults.set_latency(broker, ms(rng, 1, 40));
                let time = ms(rng, 3_000, 12_000);
                whom = (Whom::All, time);
                self.calm_at = Some(Instant::now() + time);
                "latency"
            }
            _ => {
                whom = (Whom::All, Duration::ZERO);
                self.faults
                    .drop_connections(broker, 1 + rng.below(4) as usize);
                "connections lost"
            }
        };

        self.troubles.lasting(kind, whom.0, whom.1);
        *self.counts.entry(kind).or_default() += 1;
        if self.loud {
            println!(
                "{:>7.1} s: {kind} ({name:?}, broker {broker})",
                self.began.elapsed().as_secs_f64()
            );
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

/// Sets the error of an instance's wall clock in seconds.
pub fn set_clock(file: &Path, seconds: i64) {
    let file = std::fs::File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(file)
        .expect("a clock file");
    file.write_all_at(&seconds.to_ne_bytes(), 0)
        .expect("a clock file");
}
