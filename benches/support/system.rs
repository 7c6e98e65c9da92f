//! The installation that all benches use.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use engine::restore::Standby;
use ports::topics::TopicTable;
use ports::{Limits, Log};
use processor::runtime::system::Installation;
use roles::RoleSettings;
use store::rocks::SharedMemory;

/// Limits of one transaction's input.
pub const LIMITS: Limits = Limits {
    records: 10_000,
    bytes: 8 << 20,
    age: Duration::from_millis(50),
};

/// The installation on `log`.
pub fn system(log: Arc<dyn Log>, topics: Arc<TopicTable>, state: &Path) -> Installation {
    Installation {
        log,
        topics,
        state: state.to_path_buf(),
        instance: 1,
        roles: RoleSettings::default(),
        limits: LIMITS,
        scrub_every: Duration::ZERO,
        standby: Standby::None,
        leave: false,
        lock_wait: Duration::from_secs(5),
        memory: SharedMemory::default(),
    }
}
