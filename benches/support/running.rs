//! Instances in separate threads, and the time of their last work.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use engine::instance::TurnResult;
use ports::topics::{TopicId, TopicPartition};
use processor::runtime::system::Installation;
use roles::Role;

/// If no role had work for this long, the system is at rest.
const REST: Duration = Duration::from_millis(500);
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Default)]
struct Gauge {
    running: AtomicBool,
    /// End of the last turn with work, in microseconds since the start.
    busy_us: AtomicU64,
}

/// Some running roles.
pub struct Running {
    began: Instant,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    gauges: Vec<Arc<Gauge>>,
}

impl Running {
    /// Starts an instance of each role, and waits until all have their tasks.
    pub fn start(system: &Installation, roles: &[Role]) -> Running {
        let mut all = Running {
            began: Instant::now(),
            stop: Arc::default(),
            threads: Vec::new(),
            gauges: Vec::new(),
        };

        all.add(system, roles);
        all
    }

    /// Starts more instances.
    pub fn add(&mut self, system: &Installation, roles: &[Role]) {
        for role in roles {
            let member = system.member(*role);
            let stop = self.stop.clone();
            let gauge = Arc::new(Gauge::default());
            let began = self.began;
            self.gauges.push(gauge.clone());
            self.threads.push(std::thread::spawn(move || {
                let mut instance = (member.make)().expect("an instance");
                while !stop.load(Ordering::Relaxed) {
                    if instance.step().expect("a turn") == TurnResult::Busy {
                        gauge
                            .busy_us
                            .store(began.elapsed().as_micros() as u64, Ordering::Relaxed);
                    }

                    gauge
                        .running
                        .store(instance.phase() == "running", Ordering::Relaxed);
                }
            }));
        }

        let asked = Instant::now();
        while !self
            .gauges
            .iter()
            .all(|g| g.running.load(Ordering::Relaxed))
        {
            self.alive();
            assert!(asked.elapsed() < PATIENCE, "the roles do not start");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn alive(&self) {
        assert!(
            !self.threads.iter().any(JoinHandle::is_finished),
            "a role ended; see above"
        );
    }

    /// Waits until all sent commands are processed. Returns the time of the last work of any role.
    pub fn rest(&self, system: &Installation) -> Instant {
        let asked = Instant::now();
        loop {
            self.alive();
            let last = self
                .gauges
                .iter()
                .map(|g| g.busy_us.load(Ordering::Relaxed))
                .max()
                .unwrap_or(0);
            let last = self.began + Duration::from_micros(last);
            if last.elapsed() > REST && consumed(system, Role::Orders, wire::topics::ORDER_COMMANDS)
            {
                return last;
            }

            assert!(asked.elapsed() < PATIENCE, "the roles do not come to rest");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads
            .into_iter()
            .for_each(|t| t.join().expect("a role's thread ends"));
    }
}

/// True if a role has committed all of a topic that clients write.
fn consumed(system: &Installation, role: Role, topic: TopicId) -> bool {
    let count = system
        .log
        .partitions(topic)
        .expect("the log answers")
        .expect("the topic is there");
    let at: Vec<_> = (0..count).map(|p| TopicPartition::new(topic, p)).collect();
    let committed = system
        .log
        .group_offsets(&system.group(role), &at)
        .expect("the log answers");
    at.iter()
        .zip(committed)
        .all(|(at, next)| next.unwrap_or(0) == system.log.bounds(*at).expect("the log answers").end)
}
