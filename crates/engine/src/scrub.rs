//! Looking through running stores, a few keys at a time: is what lies there still what was written?
//!
//! A block that is read is checked by its checksum; one that nobody reads could rot for years, and
//! a file that was lost whole leaves no wrong checksum behind. So from time to time each task's
//! store is read from its first key to its last, in slices between turns, and summed up.
//! Transactions that commit meanwhile move the sum of the part that was passed already. At the end
//! it must be the digest of the meta record; if it is not, the store is put aside and rebuilt by
//! the next incarnation.

use std::collections::BTreeMap;
use std::time::Duration;

use super::digest::{self, Digest};
use super::overlay::Overlay;
use super::task::Task;
use ports::{StateStore, StoreError};

/// Keys of one slice while there is nothing else to do, and while there is.
const IDLE_KEYS: usize = 2_000;
const BUSY_KEYS: usize = 100;

/// The first round begins this soon: right after a start damage is likeliest.
const FIRST_AFTER: Duration = Duration::from_secs(60);

/// How far one store was looked through.
#[derive(Default)]
pub(super) struct Scrub {
    /// The last key that was read.
    passed: Option<Vec<u8>>,
    sum: Digest,
}

impl Scrub {
    /// Reads on; true when all was read and is as it must be.
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

    /// A transaction is being written: what it changes in the part that was read moves the sum.
    pub(super) fn moved(&mut self, overlay: &Overlay) {
        if let Some(passed) = &self.passed {
            self.sum = overlay.digest_after_up_to(self.sum, passed);
        }
    }
}

/// Which store's turn it is.
pub(super) struct Scrubber {
    every: Option<Duration>,
    due_us: u64,
    left: Vec<u32>,
}

impl Scrubber {
    /// One that does nothing until [`Self::set`].
    pub(super) fn new() -> Scrubber {
        Scrubber {
            every: None,
            due_us: 0,
            left: Vec::new(),
        }
    }

    /// A round begins this often; never, if none is given.
    pub(super) fn set(&mut self, every: Option<Duration>, now_us: u64) {
        self.every = every.filter(|e| !e.is_zero());
        self.due_us = self
            .every
            .map_or(0, |e| now_us + e.min(FIRST_AFTER).as_micros() as u64);
    }

    /// Whether a round is under way, so that an idle loop should not sleep long.
    pub(super) fn busy(&self) -> bool {
        !self.left.is_empty()
    }

    /// Does a slice. True when a store was found to be right; an error names the task whose store
    /// is not.
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

        // The task may have moved to another instance.
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
