//! The same copy through the engine's whole loop. The role writes each record to the output, and
//! stores its key.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use engine::context::Ctx;
use engine::instance::{Instance, InstanceSettings};
use engine::role::{InvariantViolation, RoleFactory, RoleLogic, RoleSpec};
use os::clock::SystemClock;
use ports::records::Record;
use ports::topics::{Cleanup, TopicId, TopicSpec, TopicTable};
use ports::{Limits, Log};
use store::dir::StateIdentity;
use store::rocks::{RocksStores, SharedMemory};

use crate::copy::{INPUT, OUTPUT, PARTITIONS};

const CHANGELOG: TopicId = TopicId(2);
const DEAD_LETTERS: TopicId = TopicId(3);
/// Changelog of the bare copy. The loop would refuse a changelog that another program wrote.
pub const BARE_CHANGELOG: TopicId = TopicId(4);

/// Topics of both copies.
pub fn table(prefix: &str) -> Arc<TopicTable> {
    let keep = |name| TopicSpec::new(name, Cleanup::Keep);
    let compact = |name| TopicSpec::new(name, Cleanup::Compact);
    let topics = vec![
        keep("input"),
        keep("output"),
        compact("changelog"),
        keep("dead-letters"),
        compact("bare-changelog"),
    ];

    Arc::new(TopicTable::new(prefix, topics))
}

/// Set to raise one doubt: the next record fails, and the instance rechecks the record in a new
/// incarnation.
pub static DOUBT: AtomicBool = AtomicBool::new(false);

struct Copy;

impl RoleLogic for Copy {
    fn process(&mut self, ctx: &mut Ctx<'_>, r: &Record<'_>) -> Result<(), InvariantViolation> {
        let key = r.key.unwrap_or_default();
        let value = r.value.unwrap_or_default();
        if DOUBT.swap(false, Ordering::Relaxed) {
            return Err(InvariantViolation("this cannot be, says the bench".into()));
        }

        ctx.put(key, &r.offset.to_be_bytes());
        ctx.emit(OUTPUT, key, "Copy", value);
        Ok(())
    }
}

struct Copies(RoleSpec);

impl RoleFactory for Copies {
    fn spec(&self) -> &RoleSpec {
        &self.0
    }
    fn make(&self, _task: u32) -> Box<dyn RoleLogic> {
        Box::new(Copy)
    }
}

/// An instance that has not joined yet, with local state in `dir`.
pub fn instance(
    log: &Arc<dyn Log>,
    table: &Arc<TopicTable>,
    dir: &Path,
    partitions: u32,
    batch: usize,
) -> Instance {
    let cluster = log.cluster_id().expect("the log answers");
    let identity = StateIdentity::new(&cluster, table.prefix(), "copy", partitions);
    let stores = RocksStores::open(
        dir,
        "1",
        &identity,
        Duration::from_secs(5),
        &SharedMemory::default(),
    )
    .expect("local state");

    let spec = RoleSpec::new("copy", INPUT, CHANGELOG, DEAD_LETTERS);

    let settings = InstanceSettings {
        group: format!("{}loop", table.prefix()),
        instance: format!("{}loop-1", table.prefix()),
        limits: Limits {
            records: batch,
            bytes: 64 << 20,
            age: Duration::from_secs(1),
        },
        idle_wait: Duration::from_millis(100),
        takeover_wait: Duration::from_secs(30),
        startup_wait: Duration::from_secs(30),
        cache_bytes: 64 << 20,
        standby: engine::restore::Standby::None,
    };

    let clock = Box::new(SystemClock::new());
    Instance::new(
        log.clone(),
        Box::new(stores),
        clock,
        Box::new(Copies(spec)),
        table.clone(),
        settings,
    )
}

/// Copies all records. Returns records per second.
pub fn run(
    log: &Arc<dyn Log>,
    table: &Arc<TopicTable>,
    dir: &Path,
    batch: usize,
    records: u64,
) -> f64 {
    let mut instance = instance(log, table, dir, PARTITIONS, batch);
    while instance.phase() != "running" {
        instance.step().expect("joining works");
    }

    let began = Instant::now();
    while instance.counters().records_in < records {
        instance.step().expect("copying works");
    }

    records as f64 / began.elapsed().as_secs_f64()
}
