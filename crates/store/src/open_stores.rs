//! How many stores are open at a time.
//!
//! An open store takes five descriptors and one for each of its tables. Where a process may open
//! few files, the stores that were written to least lately are closed, and open again when their
//! task needs them. A task whose store is closed costs nothing, so an instance may have more tasks
//! than its limit has room for: records of quiet tasks then wait some milliseconds longer, and
//! nothing fails in the middle.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};

use rocksdb::DB;

use super::open_generations::Lives;
use os::files;

/// What a store takes at most: its own five, as many tables as [`super::rocks`] allows, and those
/// that a compaction writes.
pub(super) const STORE_MAX: usize = 32;
/// What a store takes when it opens, for a moment also the files of its life before.
const STORE_NEW: usize = 12;
/// So much of the limit is for everything else: connections, logs, tables that stores write until
/// the next look.
const ELSE: usize = 64;
/// So many stores stay open whatever the limit is: with fewer, a transaction of a few tasks would
/// open each store anew.
const STAY: usize = 4;
/// Stores get tables while they are written to. So every so many writes there is another look.
const LOOK_EVERY: u64 = 64;

/// An open database.
pub(super) struct OpenDatabase {
    pub db: DB,
    pub lives: Lives,
}

/// A store's database, or what is remembered of one that was closed to make room.
pub(super) enum DatabaseState {
    Open(OpenDatabase),
    /// The meta record that must be found again.
    Closed(Option<Vec<u8>>),
}

/// A store as the room knows it.
pub(super) struct StoreSlot {
    /// Only its owner waits for this lock. Others try, and leave a store alone that is in use.
    pub state: RwLock<DatabaseState>,
    is_open: AtomicBool,
    used: AtomicU64,
}

/// The stores of a process, and how many of them may be open.
#[derive(Default)]
pub(super) struct OpenStores {
    slots: Mutex<Vec<Weak<StoreSlot>>>,
    uses: AtomicU64,
    told: AtomicBool,
    most: Option<usize>,
}

impl OpenStores {
    /// A room for so many stores, whatever the process may open.
    pub(super) fn at_most(stores: usize) -> OpenStores {
        OpenStores {
            most: Some(stores),
            ..OpenStores::default()
        }
    }

    /// Takes a store in that has just been opened.
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

        // Several may have been opened together.
        self.make(0);
        slot
    }

    fn tick(&self) -> u64 {
        self.uses.fetch_add(1, Ordering::Relaxed)
    }

    /// Notes that a store was written to. Now and then, closes others if files have become scarce.
    pub(super) fn wrote(&self, slot: &StoreSlot) {
        let now = self.tick();
        slot.used.store(now, Ordering::Relaxed);
        if now.is_multiple_of(LOOK_EVERY) {
            self.make(0);
        }
    }

    /// Closes stores until there is room for one that is about to be opened.
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

        // The files are counted only where the limit could be met at all, because that takes longer
        // the more there are.
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

    /// Closes the store that was written to least lately, of those that nobody is using. False:
    /// there is none, or no more than those that stay open.
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

    /// A store that was closed is open again.
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

        // A store that cannot be read stays open, so that its owner meets the error.
        let Ok(meta) = open.db.get(super::rocks::META) else {
            return false;
        };

        *state = DatabaseState::Closed(meta);
        self.is_open.store(false, Ordering::Relaxed);
        true
    }

    /// Closes the database for good. Whoever opens it next finds it free, also while another thread
    /// was about to close it.
    pub(super) fn end(&self) {
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = DatabaseState::Closed(None);
        self.is_open.store(false, Ordering::Relaxed);
    }
}
