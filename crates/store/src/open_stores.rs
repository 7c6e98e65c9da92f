//! Limits the number of open stores.
//!
//! An open store takes five file descriptors, and one for each table. If the process may open few
//! files, the least recently written stores are closed. A closed store opens again when its task
//! needs the store. A task with a closed store takes no descriptor, so an instance may have more
//! tasks than its limit allows open stores. Records of quiet tasks then wait a few milliseconds
//! longer, and no operation fails halfway.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};

use os::files;
use rocksdb::DB;

use super::open_generations::Lives;

/// Maximum descriptors of a store: its own five, the tables that [`super::rocks`] allows, and the
/// tables that a compaction writes.
pub(super) const STORE_MAX: usize = 32;
/// Descriptors of a store while it opens, including files of its previous generation.
const STORE_NEW: usize = 12;
/// Descriptors reserved for all other files: connections, logs, tables written before the next
/// check.
const ELSE: usize = 64;
/// Minimum number of open stores, whatever the limit is. With fewer, a transaction of a few tasks
/// would reopen each store.
const STAY: usize = 4;
/// Number of writes between two checks: stores get new tables with writes.
const LOOK_EVERY: u64 = 64;

pub(super) struct OpenDatabase {
    pub db: DB,
    pub lives: Lives,
}

/// A store's database, or the saved part of a database that was closed to free descriptors.
pub(super) enum DatabaseState {
    Open(OpenDatabase),
    /// The meta record that the reopened database must have.
    Closed(Option<Vec<u8>>),
}

/// A store in the list of open stores.
pub(super) struct StoreSlot {
    /// Only the owner waits for this lock. Other threads only try, and skip a store in use.
    pub state: RwLock<DatabaseState>,
    is_open: AtomicBool,
    used: AtomicU64,
}

/// The stores of a process, with their limit.
#[derive(Default)]
pub(super) struct OpenStores {
    slots: Mutex<Vec<Weak<StoreSlot>>>,
    uses: AtomicU64,
    told: AtomicBool,
    most: Option<usize>,
}

impl OpenStores {
    /// Allows this number of open stores, independent of the process's limit.
    pub(super) fn at_most(stores: usize) -> OpenStores {
        OpenStores {
            most: Some(stores),
            ..OpenStores::default()
        }
    }

    /// Registers a store that has just been opened.
    pub(super) fn add(&self, open: OpenDatabase) -> Arc<StoreSlot> {
        let slot = StoreSlot {
            state: RwLock::new(DatabaseState::Open(open)),
            is_open: AtomicBool::new(true),
            used: AtomicU64::new(self.tick()),
        };

        let slot = Arc::new(slot);
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.retain(|s| s.strong_count() > 0);
        slots.push(Arc::downgrade(&slot));
        drop(slots);

        // Several stores may have been opened at the same time.
        self.make(0);
        slot
    }

    fn tick(&self) -> u64 {
        self.uses.fetch_add(1, Ordering::Relaxed)
    }

    /// Notes a write to a store. At intervals, closes other stores if descriptors are scarce.
    pub(super) fn wrote(&self, slot: &StoreSlot) {
        let now = self.tick();
        slot.used.store(now, Ordering::Relaxed);
        if now.is_multiple_of(LOOK_EVERY) {
            self.make(0);
        }
    }

    /// Closes stores until a new store can be opened.
    pub(super) fn make_for_one(&self) {
        self.make(1);
    }

    fn make(&self, coming: usize) {
        while self.is_full(coming) && self.close_one(STAY.saturating_sub(coming)) {}
    }

    fn is_full(&self, coming: usize) -> bool {
        let open = self.open().len();
        if let Some(most) = self.most {
            return open + coming > most;
        }

        let Some(limit) = files::descriptors_max() else {
            return false;
        };

        // Counting the open files takes longer with more files. So the count runs only if the
        // stores could reach the limit at all.
        (open + coming) * STORE_MAX + ELSE > limit
            && files::descriptors().is_some_and(|now| {
                now + coming * STORE_NEW > limit.saturating_sub(ELSE.max(limit / 8))
            })
    }

    fn open(&self) -> Vec<Arc<StoreSlot>> {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots
            .iter()
            .filter_map(Weak::upgrade)
            .filter(|s| s.is_open.load(Ordering::Relaxed))
            .collect()
    }

    /// Closes the least recently written store that is not in use. Returns false if no store can be
    /// closed: all are in use, or only `stay` stores are open.
    pub(super) fn close_one(&self, stay: usize) -> bool {
        let mut open = self.open();
        if open.len()
            <= self
                .most
                .map_or(stay, |most| stay.min(most.saturating_sub(1)))
        {
            return false;
        }

        open.sort_by_key(|s| s.used.load(Ordering::Relaxed));
        let closed = open.iter().any(|slot| slot.close());
        if closed && !self.told.swap(true, Ordering::Relaxed) {
            let limit = files::descriptors_max().unwrap_or(0);
            tracing::warn!(
                limit,
                open = open.len(),
                "the limit of open files is too low for all stores to stay open: those that were used least lately are closed, and a record of their task \
                 then waits until its store is open again. Raise the limit (`ulimit -n`, or `LimitNOFILE=` for systemd): a store takes up to {STORE_MAX}"
            );
        }

        closed
    }

    /// Marks a closed store as open again.
    pub(super) fn reopened(&self, slot: &StoreSlot) {
        slot.used.store(self.tick(), Ordering::Relaxed);
        slot.is_open.store(true, Ordering::Relaxed);
    }
}

impl StoreSlot {
    /// Closes the database unless it is in use.
    fn close(&self) -> bool {
        let Ok(mut state) = self.state.try_write() else {
            return false;
        };

        let DatabaseState::Open(open) = &*state else {
            return false;
        };

        // A store with read errors stays open, so that its owner gets the error.
        let Ok(meta) = open.db.get(super::rocks::META) else {
            return false;
        };

        *state = DatabaseState::Closed(meta);
        self.is_open.store(false, Ordering::Relaxed);
        true
    }

    /// Closes the database finally. The next opener finds the database free, even if another thread
    /// was about to close it.
    pub(super) fn end(&self) {
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = DatabaseState::Closed(None);
        self.is_open.store(false, Ordering::Relaxed);
    }
}
