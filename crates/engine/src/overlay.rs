//! Uncommitted state of one task. Reads look in three layers: writes of the open transaction, then
//! a cache of committed values, then the store.
//!
//! The store is written only after the log has committed. Until then all changes stay here and can
//! be dropped without a trace. The overlay also computes the state digest, a sum over all keys. The
//! digest compares a live, a restored and a replayed store.

use indexmap::IndexMap;
use ports::{StateStore, StoreError, StoreWrite};
use rustc_hash::FxBuildHasher;

use super::digest::{self, Digest};

type Map<V> = IndexMap<Box<[u8]>, V, FxBuildHasher>;

struct OverlaySlot {
    value: Option<Box<[u8]>>,
    /// Digest share of the committed value under this slot.
    base: Digest,
    dirty: bool,
}

pub struct Overlay {
    slots: Map<OverlaySlot>,
    dirty: usize,
    dirty_bytes: usize,
    cache: ReadCache,
    scratch: Vec<u8>,
}

impl Overlay {
    /// An empty overlay with a cache of up to `cache_bytes` of committed values.
    pub fn new(cache_bytes: usize) -> Self {
        Overlay {
            slots: Map::default(),
            dirty: 0,
            dirty_bytes: 0,
            cache: ReadCache::new(cache_bytes),
            scratch: Vec::new(),
        }
    }

    /// The value of a key in the open transaction.
    pub fn get(&mut self, key: &[u8], store: &dyn StateStore) -> Result<Option<&[u8]>, StoreError> {
        if let Some(i) = self.slots.get_index_of(key) {
            return Ok(self.slots[i].value.as_deref());
        }

        if self.cache.touch(key) {
            return Ok(self.cache.peek(key));
        }

        if store.get(key, &mut self.scratch)? {
            self.cache
                .insert(key.into(), self.scratch.as_slice().into());
            return Ok(self.cache.peek(key));
        }

        // Remember the absence for this transaction. Most absent keys are written next.
        self.slots.insert(
            key.into(),
            OverlaySlot {
                value: None,
                base: Digest::ZERO,
                dirty: false,
            },
        );

        Ok(None)
    }

    /// Writes a key, or removes the key if `value` is `None`.
    pub fn put(
        &mut self,
        key: &[u8],
        value: Option<&[u8]>,
        store: &dyn StateStore,
    ) -> Result<(), StoreError> {
        let size = value.map_or(0, <[u8]>::len);
        if let Some(slot) = self.slots.get_mut(key) {
            match slot.dirty {
                true => {
                    self.dirty_bytes =
                        self.dirty_bytes - slot.value.as_ref().map_or(0, |v| v.len()) + size
                }
                false => {
                    self.dirty += 1;
                    self.dirty_bytes += key.len() + size;
                }
            }

            slot.dirty = true;
            slot.value = value.map(Into::into);
            return Ok(());
        }

        let base = if self.cache.touch(key) {
            self.cache
                .peek(key)
                .map_or(Digest::ZERO, |v| digest::of(key, v))
        } else if store.get(key, &mut self.scratch)? {
            digest::of(key, &self.scratch)
        } else {
            Digest::ZERO
        };

        self.slots.insert(
            key.into(),
            OverlaySlot {
                value: value.map(Into::into),
                base,
                dirty: true,
            },
        );

        self.dirty += 1;
        self.dirty_bytes += key.len() + size;
        Ok(())
    }

    /// Visits the keys with a prefix in key order, as the open transaction sees them. Starts behind
    /// `after`, or at the first key. Stops when `visit` returns `false`. An early stop costs only
    /// the keys already visited.
    pub fn scan_after(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        store: &dyn StateStore,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StoreError> {
        let wanted = |key: &[u8]| key.starts_with(prefix) && after.is_none_or(|after| key > after);
        let mut written: Vec<(&[u8], Option<&[u8]>)> =
            self.changes().filter(|(k, _)| wanted(k)).collect();
        written.sort_unstable();
        let mut next = written.into_iter().peekable();
        let mut goes_on = true;
        let mut merge = |key: &[u8], value: &[u8]| {
            if !key.starts_with(prefix) {
                return false;
            }

            while let Some((k, v)) = next.next_if(|(k, _)| *k < key) {
                goes_on = goes_on && v.is_none_or(|v| visit(k, v));
            }

            goes_on = goes_on
                && match next.next_if(|(k, _)| *k == key) {
                    Some((_, v)) => v.is_none_or(|v| visit(key, v)),
                    None => visit(key, value),
                };

            goes_on
        };

        match after {
            None => store.scan(prefix, &mut merge)?,
            Some(after) => store.scan_after(Some(after), &mut merge)?,
        }

        while goes_on && let Some((k, v)) = next.next() {
            goes_on = v.is_none_or(|v| visit(k, v));
        }

        Ok(())
    }

    pub fn is_clean(&self) -> bool {
        self.dirty == 0
    }

    /// Number of keys written by the open transaction, and bytes of their keys and values.
    pub fn written(&self) -> (usize, usize) {
        (self.dirty, self.dirty_bytes)
    }

    /// All writes, in the order of the first access to each key.
    pub fn changes(&self) -> impl Iterator<Item = StoreWrite<'_>> {
        self.slots
            .iter()
            .filter(|(_, s)| s.dirty)
            .map(|(k, s)| (&**k, s.value.as_deref()))
    }

    /// The digest after the open transaction.
    pub fn digest_after(&self, before: Digest) -> Digest {
        self.slots
            .iter()
            .filter(|(_, s)| s.dirty)
            .fold(before, |d, (k, s)| {
                let new = s
                    .value
                    .as_deref()
                    .map_or(Digest::ZERO, |v| digest::of(k, v));
                d.replace(s.base, new)
            })
    }

    /// For a mutant: drops all writes.
    #[cfg(feature = "faults")]
    pub(super) fn forget(&mut self) {
        self.slots.clear();
        (self.dirty, self.dirty_bytes) = (0, 0);
    }

    /// The digest after the open transaction, but only with the writes to keys up to `last`.
    pub fn digest_after_up_to(&self, before: Digest, last: &[u8]) -> Digest {
        self.slots
            .iter()
            .filter(|(k, s)| s.dirty && &***k <= last)
            .fold(before, |d, (k, s)| {
                let new = s
                    .value
                    .as_deref()
                    .map_or(Digest::ZERO, |v| digest::of(k, v));
                d.replace(s.base, new)
            })
    }

    /// Moves the writes to the cache of committed values. Call after the log and the store have the
    /// transaction.
    pub fn committed(&mut self) {
        for (key, slot) in self.slots.drain(..) {
            match slot.value {
                Some(value) if slot.dirty => self.cache.insert(key, value),
                None if slot.dirty => self.cache.remove(&key),
                _ => {}
            }
        }

        (self.dirty, self.dirty_bytes) = (0, 0);
    }
}

/// Cache of committed values, bounded in bytes, in two generations. A full young generation
/// replaces the old generation.
struct ReadCache {
    young: Map<Box<[u8]>>,
    old: Map<Box<[u8]>>,
    young_bytes: usize,
    generation_bytes: usize,
}

impl ReadCache {
    fn new(bytes: usize) -> Self {
        ReadCache {
            young: Map::default(),
            old: Map::default(),
            young_bytes: 0,
            generation_bytes: bytes / 2,
        }
    }

    /// True if the cache contains the key. Moves the key to the young generation.
    fn touch(&mut self, key: &[u8]) -> bool {
        if self.young.contains_key(key) {
            return true;
        }

        match self.old.swap_remove_entry(key) {
            Some((k, v)) => {
                self.insert(k, v);
                true
            }
            None => false,
        }
    }

    fn peek(&self, key: &[u8]) -> Option<&[u8]> {
        self.young
            .get(key)
            .or_else(|| self.old.get(key))
            .map(|v| &**v)
    }

    fn insert(&mut self, key: Box<[u8]>, value: Box<[u8]>) {
        const OVERHEAD: usize = 64;
        if self.young_bytes > self.generation_bytes {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }

        self.old.swap_remove(&key);
        self.young_bytes += key.len() + value.len() + OVERHEAD;
        self.young.insert(key, value);
    }

    fn remove(&mut self, key: &[u8]) {
        self.young.swap_remove(key);
        self.old.swap_remove(key);
    }
}
