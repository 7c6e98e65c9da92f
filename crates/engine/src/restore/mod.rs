//! Restore: brings the stores of assigned tasks to the group's committed position. A store already
//! there needs no reading.
//!
//! ```text
//!  Restorer (one per instance, beside the loop)
//!    ask     committed offsets of all tasks in one request, stable ones only
//!    open    stores that are not open from before
//!    read    changelogs: one reader for all tasks, up to the stable end that was asked for after the offsets
//!    judge   the last stable meta record must be the committed offsets, and its digest that of the content
//! ```
//! A task runs only at the **last** stable meta record of its changelog. Three cases differ:
//!
//! * Committed offsets older than the meta record: somebody moved the offsets. Running from there
//!   would publish the same results again, so the task refuses.
//! * Committed offsets newer than the meta record: a predecessor's transaction is still pending.
//!   The restore waits for a bounded time.
//! * No committed offsets, but a meta record: the brokers have expired the offsets (a group idle
//!   for `offsets.retention.minutes`). The restore takes the offsets from the meta record.
//!
//! Trouble with one changelog partition affects only its own task. The restorer works beside the
//! running tasks. With threads the restorer has its own thread ([`beside`]). Without threads (the
//! simulation, tests) the restorer works in short slices of the loop's turn.
//!
//! | file | content |
//! |---|---|
//! | `task` | one task's restore: what is compared with what, and what follows |
//! | `copy` | a store on its way along its changelog |
//! | `restorer` | all restores of an instance: one request, one reader for many |
//! | `standby` | warm copies of tasks that other instances run |
//! | `beside` | where the restorer runs |

pub mod beside;
mod copy;
mod restorer;
mod standby;
mod task;

use std::time::Duration;

use ports::topics::{TopicPartition, TopicTable};
use ports::{Clock, LogError, StateStore, StoreError};

use super::checkpoint::Checkpoint;
use super::digest::{self, Digest};
use super::role::RoleSpec;
pub use restorer::Restorer;
pub use standby::Standby;

/// Error of a restore.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The log failed, and retries do not help.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The local store failed, and quarantine does not help.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// State and committed offsets do not match, but the answers may be stale. Check again with
    /// fresh state.
    #[error("{0}")]
    Doubt(String),
    /// State and committed offsets still do not match after repeated checks for the longest time of
    /// a predecessor's transaction.
    #[error("{0}")]
    Stop(String),
}

/// Progress of a restore or a standby.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RestoreProgress {
    /// Changelog offset reached.
    pub at: u64,
    /// Changelog end in the last answer of the log.
    pub end: u64,
    /// Records applied so far.
    pub records: u64,
}

/// A finished restore.
pub struct Restored {
    /// The store, with verified content.
    pub store: Box<dyn StateStore>,
    /// The checkpoint of the store, equal to the group's position.
    pub meta: Checkpoint,
    /// Changelog offset of the checkpoint's meta record. `None` before the first transaction.
    pub changelog_offset: Option<u64>,
    /// Changelog records applied; 0 if the store was already complete.
    pub records: u64,
    /// True if the group lacked some or all offsets. The offsets in `meta` then come from the
    /// changelog, and must be committed before the task processes a record.
    pub adopted: bool,
}

/// The tasks of one assignment, with their input partitions.
#[derive(Clone, Debug, Default)]
pub struct Assignment {
    /// Number of the assignment. Results for earlier assignments are void.
    pub number: u64,
    /// Input partitions by task.
    pub tasks: Vec<(u32, Vec<TopicPartition>)>,
}

/// A request of the loop to the restorer.
pub enum RestorerRequest {
    /// The complete set of tasks of this instance.
    Assign(Assignment),
    /// The assignment is over. Stores stay open, because most tasks come back.
    Cease,
    /// Stores of tasks that have ended.
    Keep(Vec<(u32, Box<dyn StateStore>)>),
    /// The running task found damage in its store.
    Distrust(u32, String),
    /// Number of tasks running beside the restores.
    Running(usize),
}

/// An answer of the restorer to the loop.
pub enum RestorerReport {
    /// The task of the assignment may run: assignment, task, result.
    Ready(u64, u32, Box<Restored>),
    /// The task of the assignment cannot run: assignment, task, error.
    Failed(u64, u32, RestoreError),
}

/// Facts and ports for the steps of a restore.
pub(super) struct Env<'a> {
    /// Topic names, for messages.
    pub topics: &'a TopicTable,
    pub spec: &'a RoleSpec,
    /// The clock for bounded waits.
    pub clock: &'a dyn Clock,
    /// Longest wait for a predecessor's pending transaction.
    pub takeover_wait: Duration,
}

/// Digest of all keys and values in a store.
pub fn scan_digest(store: &dyn StateStore) -> Result<Digest, StoreError> {
    let mut sum = Digest::ZERO;
    store.scan(b"", &mut |key, value| {
        sum = sum.replace(Digest::ZERO, digest::of(key, value));
        true
    })?;

    Ok(sum)
}
