//! Times of the model, in microseconds. A tenth of the real ones where those are seconds: what
//! matters is which is longer than which.

pub const MS: u64 = 1_000;
pub const SECOND: u64 = 1_000_000;

/// A member that was not heard of for so long is put out of its group.
pub const SESSION: u64 = SECOND;
pub const HEARTBEAT: u64 = 150 * MS;
/// How long a rebalance waits for members that are slow to rejoin.
pub const REBALANCE: u64 = 3 * SECOND;
pub const TXN_TIMEOUT: u64 = 2 * SECOND;
/// How often the coordinator looks for transactions that stay open too long.
pub const TXN_CHECK: u64 = SECOND;
/// A request without an answer; two fifths of the transaction's timeout, as in the real adapter.
pub const REQUEST_TIMEOUT: u64 = 800 * MS;
pub const COMMITTED_WAIT: u64 = 100 * MS;
/// After being fenced: how long the group is asked whether somebody has our place.
pub const FENCE_WAIT: u64 = HEARTBEAT * 2 + 200 * MS;
pub const IDLE_WAIT: u64 = 400 * MS;
pub const TAKEOVER_WAIT: u64 = 4_500 * MS;
pub const STARTUP_WAIT: u64 = 30 * SECOND;
/// Everything must have come to rest so long after the last fault.
pub const PATIENCE: u64 = 90 * SECOND;
/// No task with something to read may be silent for so long while all is well.
pub const SILENCE_MAX: u64 = 15 * SECOND;
/// A partition with something to read may be passed over so often, for each partition that its
/// member reads: once round until its records are taken, and once more until they are processed.
pub const PASSED_OVER_MAX: usize = 2;
/// Milliseconds since 1970 when a run begins.
pub const EPOCH_MS: i64 = 1_800_000_000_000;
/// How long the next transaction is held back after a commit.
pub const GAP: u64 = 1_500;
