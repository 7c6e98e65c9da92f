//! Broker faults, in a separate thread, because each fault takes long. One broker at a time; the
//! next one follows when all are in sync again. Only `two_down` takes leaders away altogether.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use client::simulate::Rng;

use crate::nemesis::{Counts, is_lull_near, ms};
use crate::silence::{Troubles, Whom};
use crate::support::cluster::Cluster;

/// Time limit until all brokers are in sync again.
const IN_SYNC: Duration = Duration::from_secs(180);

/// The thread that causes the broker faults.
pub struct Brokers {
    stop: Arc<AtomicBool>,
    pub faults: Arc<AtomicU64>,
    counts: Arc<Mutex<Counts>>,
    thread: JoinHandle<()>,
}

impl Brokers {
    pub fn start(
        seed: u64,
        cluster: Arc<Cluster>,
        brokers: u32,
        two_down: bool,
        troubles: Troubles,
    ) -> Brokers {
        let stop = Arc::new(AtomicBool::new(false));
        let faults = Arc::new(AtomicU64::new(0));
        let counts = Arc::new(Mutex::new(Counts::new()));
        let mut at_work = AtBrokers {
            rng: Rng::new(seed ^ 0x6272_6f6b_6572),
            cluster,
            brokers,
            two_down,
            troubles,
            began: Instant::now(),
            stop: stop.clone(),
            faults: faults.clone(),
            counts: counts.clone(),
        };

        let thread = std::thread::Builder::new()
            .name("brokers".into())
            .spawn(move || at_work.run())
            .expect("a thread");
        Brokers {
            stop,
            faults,
            counts,
            thread,
        }
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
    troubles: Troubles,
    began: Instant,
    stop: Arc<AtomicBool>,
    faults: Arc<AtomicU64>,
    counts: Arc<Mutex<Counts>>,
}

impl AtBrokers {
    fn run(&mut self) {
        while !self.stop.load(Ordering::Relaxed) {
            let pause = ms(&mut self.rng, 4_000, 14_000);
            self.wait(pause);
            if is_lull_near(self.began.elapsed()) {
                continue;
            }

            let trouble = self.troubles.begin("brokers", Whom::All);
            self.strike();
            self.cluster.wait_in_sync(IN_SYNC);
            self.troubles.end(trouble);
        }
    }

    fn wait(&self, time: Duration) {
        let since = Instant::now();
        while since.elapsed() < time && !self.stop.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn note(&self, kind: &'static str) {
        *self
            .counts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(kind)
            .or_default() += 1;
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
                let away = if long {
                    ms(&mut self.rng, 10_000, 40_000)
                } else {
                    ms(&mut self.rng, 1_000, 8_000)
                };

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
