//! Times of the model, in microseconds. Real times of seconds are divided by ten, because only the
//! order of the times matters.

pub const MS: u64 = 1_000;
pub const SECOND: u64 = 1_000_000;

/// Session timeout: a member without a heartbeat for this time is removed from its group.
pub const SESSION: u64 = SECOND;
pub const HEARTBEAT: u64 = 150 * MS;
/// Rebalance timeout: time for members to rejoin.
pub const REBALANCE: u64 = 3 * SECOND;
pub const TXN_TIMEOUT: u64 = 2 * SECOND;
/// Interval at which the coordinator checks for expired transactions.
pub const TXN_CHECK: u64 = SECOND;
/// Request timeout: two fifths of the transaction timeout, as in the real adapter.
pub const REQUEST_TIMEOUT: u64 = 800 * MS;
pub const COMMITTED_WAIT: u64 = 100 * MS;
/// After fencing: time to ask the group whether another member has our instance id.
pub const FENCE_WAIT: u64 = HEARTBEAT * 2 + 200 * MS;
pub const IDLE_WAIT: u64 = 400 * MS;
pub const TAKEOVER_WAIT: u64 = 4_500 * MS;
pub const STARTUP_WAIT: u64 = 30 * SECOND;
/// The system must be at rest within this time after the last fault.
pub const PATIENCE: u64 = 90 * SECOND;
/// While all is well, no task with readable records may be silent longer than this.
pub const SILENCE_MAX: u64 = 15 * SECOND;
/// Limit for passing over a partition with readable records, times the number of partitions of its
/// member. One round until its records are taken, and a second round until they are processed.
pub const PASSED_OVER_MAX: usize = 2;
/// Milliseconds since 1970 at the start of a run.
pub const EPOCH_MS: i64 = 1_800_000_000_000;
/// Delay between a commit and the next transaction.
pub const GAP: u64 = 1_500;
