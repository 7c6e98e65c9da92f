//! Written transactions that are not on the disk yet, and their waiting writers.
//!
//! Writers take turns only for the write. Then each writer waits until its transaction is on the
//! disk. One waiting writer syncs all transactions written so far, and any number of writers share
//! the sync. A transaction counts (readers see the records, the group's offsets move) only after
//! the sync.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use super::batch::PackedBatch;
use super::core::PartId;

/// A written transaction.
pub(crate) struct WrittenTransaction {
    pub batches: Vec<(PartId, Arc<PackedBatch>)>,
    pub group: String,
    pub offsets: Vec<(PartId, u64)>,
}

#[derive(Default)]
pub(crate) struct PendingWrites {
    inner: Mutex<PendingInner>,
    done: Condvar,
}

#[derive(Default)]
struct PendingInner {
    queue: VecDeque<WrittenTransaction>,
    /// Number of transactions written so far.
    written: u64,
    /// Number of transactions on the disk.
    synced: u64,
    syncing: bool,
    failed: Option<String>,
}

impl PendingWrites {
    fn lock(&self) -> MutexGuard<'_, PendingInner> {
        self.inner
            .lock()
            .expect("nobody panics while holding what is pending")
    }

    /// Adds a transaction that was just written, and returns its number. The caller still has the
    /// turn, so the numbers follow the order of the writes.
    pub(crate) fn add(&self, written: WrittenTransaction) -> u64 {
        let mut inner = self.lock();
        inner.queue.push_back(written);
        inner.written += 1;
        inner.written
    }

    /// Number of the last written transaction.
    pub(crate) fn last(&self) -> u64 {
        self.lock().written
    }

    /// Waits until transaction `number` is on the disk and published. `sync` makes the disk write
    /// all written transactions, and `publish` publishes them. Only one caller at a time calls
    /// `sync` and `publish`, for all waiting callers.
    pub(crate) fn wait(
        &self,
        number: u64,
        sync: impl Fn() -> Result<(), String>,
        publish: impl Fn(Vec<WrittenTransaction>),
    ) -> Result<(), String> {
        let mut inner = self.lock();
        loop {
            if inner.synced >= number {
                return Ok(());
            }

            if let Some(why) = &inner.failed {
                return Err(why.clone());
            }

            if inner.syncing {
                inner = self
                    .done
                    .wait(inner)
                    .expect("nobody panics while holding what is pending");
                continue;
            }

            inner.syncing = true;
            let upto = inner.written;
            drop(inner);
            let done = sync();
            inner = self.lock();
            match done {
                Ok(()) => {
                    let count = usize::try_from(upto - inner.synced)
                        .unwrap_or(usize::MAX)
                        .min(inner.queue.len());
                    let ready: Vec<_> = inner.queue.drain(..count).collect();
                    drop(inner);
                    publish(ready);
                    inner = self.lock();
                    inner.synced = upto;
                }
                Err(why) => inner.failed = Some(why),
            }

            inner.syncing = false;
            self.done.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use super::*;

    fn one(offset: u64) -> WrittenTransaction {
        WrittenTransaction {
            batches: Vec::new(),
            group: "g".into(),
            offsets: vec![(0, offset)],
        }
    }

    #[test]
    fn many_share_one_wait_and_count_in_order() {
        let pending = PendingWrites::default();
        let syncs = AtomicU64::new(0);
        let turn = Mutex::new(0_u64);
        let published = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let number = {
                            let mut turn = turn.lock().expect("not poisoned");
                            *turn += 1;
                            pending.add(one(*turn))
                        };

                        let sync = || {
                            syncs.fetch_add(1, Ordering::Relaxed);
                            std::thread::sleep(Duration::from_millis(1));
                            Ok(())
                        };

                        let publish = |ready: Vec<WrittenTransaction>| {
                            published
                                .lock()
                                .expect("not poisoned")
                                .extend(ready.iter().map(|w| w.offsets[0].1));
                        };

                        pending.wait(number, sync, publish).expect("synced");
                        assert!(
                            published.lock().expect("not poisoned").contains(&number),
                            "who returns finds its own"
                        );
                    }
                });
            }
        });

        assert_eq!(
            *published.lock().expect("not poisoned"),
            (1..=400).collect::<Vec<_>>()
        );
        let syncs = syncs.load(Ordering::Relaxed);
        assert!(
            syncs < 200,
            "400 transactions of 8 threads had {syncs} waits for the disk"
        );
    }

    #[test]
    fn a_disk_that_fails_fails_all_who_wait_and_publishes_nothing() {
        let pending = PendingWrites::default();
        let first = pending.add(one(1));
        let publish = |_: Vec<WrittenTransaction>| panic!("nothing is on the disk");
        assert_eq!(
            pending.wait(first, || Err("no".into()), publish),
            Err("no".to_string())
        );
        let second = pending.add(one(2));
        assert_eq!(
            pending.wait(second, || Ok(()), publish),
            Err("no".to_string()),
            "and it stays so"
        );
    }
}
