//! Restoring: bringing the stores of assigned tasks to the group's committed position, or finding
//! that they are there already.
//!
//! ```text
//!  Restorer (one per instance, beside the loop)
//!    ask     committed offsets of all tasks in one request, stable ones only
//!    open    stores that are not open from before
//!    read    changelogs: one reader for all tasks, up to the stable end that was asked for after the offsets
//!    judge   the last stable meta record must be the committed offsets, and its digest that of the content
//! ```
//! A task runs only at the **last** stable meta record of its changelog. Offsets that are older
//! than it were moved by somebody, and running there would publish again what is published. Offsets
//! that are newer wait for a predecessor's transaction, for a bounded time. Offsets that are
//! absent, while the changelog has a meta record, were forgotten by the brokers (a group that is
//! idle for `offsets.retention.minutes`): they are taken from that record.
//!
//! Trouble with one changelog partition keeps to its own task. Everything here is done beside the
//! running tasks: in a thread of its own where the process has threads ([`beside`]), and in short
//! slices of the loop's turn where it has none (the simulation, tests).
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

use super::checkpoint::Checkpoint;
use super::digest::{self, Digest};
use super::role::RoleSpec;
use ports::topics::{TopicPartition, TopicTable};
use ports::{Clock, LogError, StateStore, StoreError};

pub use restorer::Restorer;
pub use standby::Standby;

/// Why a restore ended badly.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The log failed in a way that asking again does not help.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The local store failed in a way that putting it aside does not help.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// State and committed position do not belong together, if what was asked is still true.
    #[error("{0}")]
    Doubt(String),
    /// They do not, although they were compared again and again for as long as a predecessor's
    /// transaction may take.
    #[error("{0}")]
    Stop(String),
}

/// How far a restore or a standby is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RestoreProgress {
    /// Changelog offset reached.
    pub at: u64,
    /// Changelog end when it was last asked for.
    pub end: u64,
    /// Records applied so far.
    pub records: u64,
}

/// A finished restore.
pub struct Restored {
    /// The store, verified.
    pub store: Box<dyn StateStore>,
    /// Its position, which is the group's.
    pub meta: Checkpoint,
    /// Where in the changelog that position's meta record is; none before the first transaction.
    pub changelog_offset: Option<u64>,
    /// Changelog records that were applied; 0 if the store was right as it was.
    pub records: u64,
    /// The group had no offsets (or not all): these were taken from the changelog and must be
    /// committed before anything is processed.
    pub adopted: bool,
}

/// Restores of which tasks: the assignment that they belong to, and the partitions of each.
#[derive(Clone, Debug, Default)]
pub struct Assignment {
    /// Counts assignments; what was asked for by an earlier one is void.
    pub number: u64,
    /// Input partitions by task.
    pub tasks: Vec<(u32, Vec<TopicPartition>)>,
}

/// A request of the loop to the restorer.
pub enum RestorerRequest {
    /// These tasks are ours now, and no others.
    Assign(Assignment),
    /// The assignment is over; stores stay open, because most tasks come back.
    Cease,
    /// Stores of tasks that do not run any more.
    Keep(Vec<(u32, Box<dyn StateStore>)>),
    /// A store was found damaged while it ran.
    Distrust(u32, String),
    /// How many tasks run beside the restores.
    Running(usize),
}

/// An answer of the restorer to the loop.
pub enum RestorerReport {
    /// A task of that assignment may run.
    Ready(u64, u32, Box<Restored>),
    /// A task of that assignment cannot run.
    Failed(u64, u32, RestoreError),
}

/// Facts and ports that the judgement of a restore needs.
pub(super) struct Env<'a> {
    /// Names of topics, for messages.
    pub topics: &'a TopicTable,
    /// The role's description.
    pub spec: &'a RoleSpec,
    /// For bounded waits.
    pub clock: &'a dyn Clock,
    /// How long a predecessor's pending transaction is waited for.
    pub takeover_wait: Duration,
}

/// Digest of everything in a store.
pub fn scan_digest(store: &dyn StateStore) -> Result<Digest, StoreError> {
    let mut sum = Digest::ZERO;
    store.scan(b"", &mut |key, value| {
        sum = sum.replace(Digest::ZERO, digest::of(key, value));
        true
    })?;

    Ok(sum)
}
