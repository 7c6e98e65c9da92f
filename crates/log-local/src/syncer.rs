//! Syncs commits to the disk every second, for logs whose commits do not wait for the disk. A power
//! failure then loses the commits of the last one or two seconds. Without this thread, the operating
//! system may keep dirty pages for half a minute.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::core::Core;

const EVERY: Duration = Duration::from_secs(1);

/// Counts commits, and wakes the thread at the end.
#[derive(Default)]
pub(crate) struct Unsynced {
    commits: AtomicU64,
    stopped: Mutex<bool>,
    bell: Condvar,
    /// True if the last sync failed and the failure was logged.
    failed: AtomicBool,
}

impl Unsynced {
    pub(crate) fn count(&self) {
        self.commits.fetch_add(1, Ordering::Release);
    }

    pub(crate) fn stop(&self) {
        *self.stopped.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.bell.notify_all();
    }

    /// Waits for the interval. Returns true if the log is closing.
    fn pause(&self) -> bool {
        let stopped = self.stopped.lock().unwrap_or_else(PoisonError::into_inner);
        let (stopped, _) = self
            .bell
            .wait_timeout_while(stopped, EVERY, |stopped| !*stopped)
            .unwrap_or_else(PoisonError::into_inner);
        *stopped
    }
}

/// The thread: runs until the log closes, and then syncs once more.
pub(crate) fn run(core: &Core) {
    let mut synced = 0;
    loop {
        let last = core.unsynced.pause();
        let commits = core.unsynced.commits.load(Ordering::Acquire);
        if commits != synced {
            match core.storage.sync() {
                Ok(()) => {
                    synced = commits;
                    core.unsynced.failed.store(false, Ordering::Relaxed);
                }
                Err(e) if !core.unsynced.failed.swap(true, Ordering::Relaxed) => {
                    tracing::warn!(
                        "the disk does not take the log: {e}; until it does, a power failure costs what came since"
                    );
                }
                Err(_) => {}
            }
        }

        if last {
            return;
        }
    }
}
