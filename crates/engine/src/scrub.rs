//! Scrubbing of running stores, a few keys at a time, to find latent sector errors and lost files.
//!
//! A checksum protects a block only if somebody reads the block. A block that nobody reads may stay
//! damaged for years, and a lost file leaves no wrong checksum. Each task's store is therefore read
//! periodically from the first key to the last key, in slices between turns. The scrub adds up the
//! digest of the keys read so far. Commits during the scrub update the sum for keys already read.
//! At the end the sum must equal the digest in the meta record. If the sums differ, the next
//! incarnation quarantines and rebuilds the store.

use std::collections::BTreeMap;
use std::time::Duration;

use ports::{StateStore, StoreError};

use super::digest::{self, Digest};
use super::overlay::Overlay;
use super::task::Task;

/// Keys in one slice: on an idle loop, and on a busy loop.
const IDLE_KEYS: usize = 2_000;
const BUSY_KEYS: usize = 100;

/// Longest wait for the first scrub. Damage is most likely right after a start.
const FIRST_AFTER: Duration = Duration::from_secs(60);

/// Progress of the scrub of one store.
#[derive(Default)]
pub(super) struct Scrub {
    /// The last key read.
    passed: Option<Vec<u8>>,
    sum: Digest,
}

impl Scrub {
    /// Reads the next slice. Returns true at the end, if the sum equals `digest`.
    pub(super) fn slice(
        &mut self,
        store: &dyn StateStore,
        keys: usize,
        digest: Digest,
    ) -> Result<bool, StoreError> {
        let mut read = 0;
        let mut sum = self.sum;
        let mut last = Vec::new();
        store.scan_after(self.passed.as_deref(), &mut |key, value| {
            sum = sum.replace(Digest::ZERO, digest::of(key, value));
            read += 1;
            if read == keys {
                last = key.to_vec();
            }

            read < keys
        })?;

        self.sum = sum;
        if read == keys {
            self.passed = Some(last);
            return Ok(false);
        }

        if sum == digest {
            return Ok(true);
        }

        Err(StoreError::Corrupt(format!(
            "its content has digest {sum} where {digest} was written"
        )))
    }

    /// Updates the sum for the changes of a transaction to keys already read.
    pub(super) fn moved(&mut self, overlay: &Overlay) {
        if let Some(passed) = &self.passed {
            self.sum = overlay.digest_after_up_to(self.sum, passed);
        }
    }
}

/// The schedule of scrubs.
pub(super) struct Scrubber {
    every: Option<Duration>,
    due_us: u64,
    left: Vec<u32>,
}

impl Scrubber {
    /// A scrubber that does nothing until [`Self::set`].
    pub(super) fn new() -> Scrubber {
        Scrubber {
            every: None,
            due_us: 0,
            left: Vec::new(),
        }
    }

    /// Sets the period between rounds. `None` or zero switches scrubbing off.
    pub(super) fn set(&mut self, every: Option<Duration>, now_us: u64) {
        self.every = every.filter(|e| !e.is_zero());
        self.due_us = self
            .every
            .map_or(0, |e| now_us + e.min(FIRST_AFTER).as_micros() as u64);
    }

    /// True if a round is in progress. An idle loop should then sleep only briefly.
    pub(super) fn busy(&self) -> bool {
        !self.left.is_empty()
    }

    /// Scrubs one slice. Returns true at the end of a healthy store. The error names the task with
    /// the damaged store.
    pub(super) fn turn(
        &mut self,
        tasks: &mut BTreeMap<u32, Task>,
        now_us: u64,
        idle: bool,
    ) -> Result<bool, (u32, StoreError)> {
        let Some(every) = self.every else {
            return Ok(false);
        };

        if self.left.is_empty() && now_us >= self.due_us {
            self.left = tasks.keys().rev().copied().collect();
            self.due_us = now_us + every.as_micros() as u64;
        }

        let Some(&number) = self.left.last() else {
            return Ok(false);
        };

        // Another instance may own the task now.
        let Some(task) = tasks.get_mut(&number) else {
            self.left.pop();
            return Ok(false);
        };

        let done = task
            .scrub(if idle { IDLE_KEYS } else { BUSY_KEYS })
            .map_err(|e| (number, e))?;
        if done {
            self.left.pop();
        }

        Ok(done)
    }
}
