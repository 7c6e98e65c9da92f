//! A wait for many queues at once: each queue rings one bell when the empty queue gets an event.

use std::collections::BTreeSet;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Stores the keys that rang until the member takes them.
#[derive(Default)]
pub(super) struct Bell {
    keys: Mutex<BTreeSet<u32>>,
    rung: Condvar,
}

impl Bell {
    /// Rings for this key. Takes only the bell's own lock, and holds the lock for a short time.
    pub(super) fn ring(&self, key: u32) {
        self.keys().insert(key);
        self.rung.notify_all();
    }

    /// Waits until a queue rings, or has rung since the last [`Bell::take`].
    pub(super) fn wait(&self, wait: Duration) {
        let deadline = Instant::now() + wait;
        let mut keys = self.keys();
        while keys.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }

            keys = self
                .rung
                .wait_timeout(keys, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// The queues that rang since the last call.
    pub(super) fn take(&self) -> BTreeSet<u32> {
        std::mem::take(&mut self.keys())
    }

    fn keys(&self) -> MutexGuard<'_, BTreeSet<u32>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_ring_before_the_wait_is_not_lost_and_one_during_it_ends_it() {
        let bell = Arc::new(Bell::default());
        bell.ring(3);
        bell.ring(3);
        bell.wait(Duration::from_secs(60));
        assert_eq!(bell.take(), BTreeSet::from([3]));
        let other = Arc::clone(&bell);
        let ringer = std::thread::spawn(move || other.ring(5));
        bell.wait(Duration::from_secs(60));
        assert_eq!(bell.take(), BTreeSet::from([5]));
        ringer.join().expect("it only rings");
        bell.wait(Duration::from_millis(1));
        assert!(bell.take().is_empty());
    }
}
