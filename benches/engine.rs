//! Engine and roles without a network: each role over a log in memory, and all roles in one thread.
//!
//! The input of a role comes from an earlier run of all roles. All figures are per order, so that
//! they are comparable; `orders` reads commands only.

#[path = "support/load.rs"]
mod load;
#[path = "support/system.rs"]
mod place;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use engine::instance::{Instance, InstanceSettings};
use engine::role::{RoleFactory, RoleLogic as Logic, RoleSpec};
use log_local::LocalLog;
use os::clock::SystemClock;
use ports::records::{Record, Records};
use ports::topics::{TopicId, TopicPartition};
use ports::{Clock, Limits, Log, LogError, StartOffset, Stores};
use processor::runtime::system::Installation;
use roles::Role;
use store::memory::MemoryStores;
use wire::topics;

use place::LIMITS;

const ORDERS: u64 = 5_000;

fn system(state: &Path) -> Installation {
    let table = Arc::new(topics::table("bench-"));
    let system = place::system(Arc::new(LocalLog::in_memory(&table)), table, state);
    system
        .create_topics(load::PARTITIONS, &mut |_, _| {})
        .expect("topics in memory");
    system
}

/// A role with a linger of zero. No input comes from outside, so lingering would only add waiting
/// time.
struct Eager(Box<dyn RoleFactory>, RoleSpec);

impl RoleFactory for Eager {
    fn spec(&self) -> &RoleSpec {
        &self.1
    }
    fn make(&self, task: u32) -> Box<dyn Logic> {
        self.0.make(task)
    }
    fn accepts_broadcast(&self, record: &Record<'_>) -> bool {
        self.0.accepts_broadcast(record)
    }
    fn seed_broadcast(
        &self,
        topic: TopicId,
        log: &dyn Log,
        clock: &dyn Clock,
        loaded: &engine::broadcast::Tables,
    ) -> Result<Records, LogError> {
        self.0.seed_broadcast(topic, log, clock, loaded)
    }
}

fn instance(system: &Installation, role: Role, stores: Box<dyn Stores>) -> Instance {
    let settings = InstanceSettings {
        group: system.group(role),
        instance: format!("{}-1", system.group(role)),
        limits: LIMITS,
        idle_wait: Duration::ZERO,
        takeover_wait: Duration::from_secs(5),
        startup_wait: Duration::from_secs(5),
        cache_bytes: 64 << 20,
        standby: engine::restore::Standby::None,
    };

    let factory = system.factory(role).expect("the topics are there");
    let spec = RoleSpec {
        linger: Duration::ZERO,
        ..factory.spec().clone()
    };

    let clock = Box::new(SystemClock::new());
    Instance::new(
        system.log.clone(),
        stores,
        clock,
        Box::new(Eager(factory, spec)),
        system.topics.clone(),
        settings,
    )
}

fn partitions(log: &dyn Log, topic: TopicId) -> Vec<TopicPartition> {
    let count = log
        .partitions(topic)
        .expect("the log answers")
        .expect("the topic is there");
    (0..count).map(|p| TopicPartition::new(topic, p)).collect()
}

fn drained(system: &Installation, role: Role) -> bool {
    role.spec().inputs.iter().all(|input| {
        let at = partitions(&*system.log, input.topic);
        let committed = system
            .log
            .group_offsets(&system.group(role), &at)
            .expect("the log answers");
        at.iter().zip(committed).all(|(at, next)| {
            next.unwrap_or(0) == system.log.bounds(*at).expect("the log answers").end
        })
    })
}

/// Runs until all input is processed. Returns the time since all members had their tasks.
fn run(system: &Installation, members: &mut [(Role, Instance)]) -> Duration {
    while members.iter().any(|(_, i)| i.phase() != "running") {
        for (_, instance) in members.iter_mut() {
            instance.step().expect("joining works");
        }
    }

    let began = Instant::now();
    while !members.iter().all(|(role, _)| drained(system, *role)) {
        for (_, instance) in members.iter_mut() {
            instance.step().expect("processing works");
        }
    }

    began.elapsed()
}

fn read(log: &dyn Log, topic: TopicId) -> Records {
    let from: Vec<_> = partitions(log, topic)
        .iter()
        .map(|at| (at.partition, StartOffset::Start))
        .collect();
    let mut reader = log.reader(topic, &from, true).expect("a reader");
    let mut all = Records::new();
    while !reader.caught_up() {
        reader
            .poll(
                Duration::ZERO,
                Limits {
                    records: usize::MAX,
                    bytes: usize::MAX,
                    age: Duration::MAX,
                },
                &mut all,
            )
            .expect("reading works");
    }

    all
}

/// All records that any role read in a run of all roles.
fn history(state: &Path) -> Vec<Records> {
    let system = system(state);
    load::prepare(&system);
    load::orders(&*system.log, ORDERS);
    run_all(&system);
    system
        .topics
        .iter()
        .map(|topic| read(&*system.log, topic))
        .collect()
}

fn run_all(system: &Installation) -> Duration {
    let memory = |role| (role, instance(system, role, Box::<MemoryStores>::default()));
    run(system, &mut Role::all().map(memory))
}

/// A log that contains the input of one role only.
fn before(state: &Path, role: Role, history: &[Records]) -> Installation {
    let system = system(state);
    let mut appender = system.log.appender().expect("a writer");
    let spec = role.spec();
    let mut wanted: Vec<TopicId> = spec
        .inputs
        .iter()
        .map(|i| i.topic)
        .chain(spec.broadcasts)
        .collect();

    // Leave out executions: they answer book commands that this run has not sent yet.
    wanted.retain(|t| role != Role::Orders || *t != topics::EXECUTIONS);
    for topic in wanted {
        history[topic.0 as usize]
            .iter()
            .for_each(|r| appender.append(&r).expect("appending works"));
    }

    appender
        .flush(Duration::from_secs(60))
        .expect("flushing works");
    drop(appender);
    system
}

fn engine(c: &mut Criterion) {
    let dir = tempfile::tempdir().expect("a directory");
    let history = history(dir.path());
    let mut group = c.benchmark_group("orders through");
    group
        .sampling_mode(SamplingMode::Flat)
        .sample_size(10)
        .throughput(Throughput::Elements(ORDERS));
    for role in Role::all() {
        group.bench_function(format!("{role}, state in memory"), |b| {
            b.iter_custom(|n| {
                let once = |_| {
                    let system = before(dir.path(), role, &history);
                    run(
                        &system,
                        &mut [(
                            role,
                            instance(&system, role, Box::<MemoryStores>::default()),
                        )],
                    )
                };

                (0..n).map(once).sum()
            });
        });
    }

    group.bench_function("orders, state in RocksDB", |b| {
        b.iter_custom(|n| {
            let once = |_| {
                let state = tempfile::tempdir().expect("a directory");
                let system = before(state.path(), Role::Orders, &history);
                let stores = Box::new(system.local_state(Role::Orders).expect("local state"));
                run(
                    &system,
                    &mut [(Role::Orders, instance(&system, Role::Orders, stores))],
                )
            };

            (0..n).map(once).sum()
        });
    });

    group.bench_function("all five roles in one thread", |b| {
        b.iter_custom(|n| {
            let once = |_| {
                let system = system(dir.path());
                load::prepare(&system);
                load::orders(&*system.log, ORDERS);
                run_all(&system)
            };

            (0..n).map(once).sum()
        });
    });

    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3)).without_plots();
    targets = engine
}
criterion_main!(benches);
