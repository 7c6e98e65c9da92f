//! State in memory, for tests and for replays into scratch state.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};

use ports::{StateStore, StoreError, StoreWrite, Stores};

#[derive(Default)]
struct MemoryContent {
    data: BTreeMap<Vec<u8>, Vec<u8>>,
    meta: Option<Vec<u8>>,
}

/// The stores of an instance. Clones share the stores, so that a test can end a task and open its
/// store again.
#[derive(Clone, Default)]
pub struct MemoryStores {
    tasks: Arc<Mutex<BTreeMap<u32, MemoryStore>>>,
}

impl Stores for MemoryStores {
    fn open(&self, task: u32) -> Result<Box<dyn StateStore>, StoreError> {
        Ok(Box::new(
            self.tasks
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .entry(task)
                .or_default()
                .clone(),
        ))
    }

    fn quarantine(&self, task: u32) -> Result<String, StoreError> {
        self.tasks
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&task);
        Ok(format!("nowhere: task {task} was kept in memory"))
    }
}

/// The store of one task. Clones share the content.
#[derive(Clone, Default)]
pub struct MemoryStore {
    content: Arc<RwLock<MemoryContent>>,
}

impl MemoryStore {
    fn read(&self) -> RwLockReadGuard<'_, MemoryContent> {
        self.content.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StateStore for MemoryStore {
    fn meta(&self) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.read().meta.clone())
    }

    fn get(&self, key: &[u8], into: &mut Vec<u8>) -> Result<bool, StoreError> {
        into.clear();
        let content = self.read();
        let found = content.data.get(key);
        into.extend_from_slice(found.map_or(&[], Vec::as_slice));
        Ok(found.is_some())
    }

    fn write(
        &mut self,
        changes: &mut dyn Iterator<Item = StoreWrite<'_>>,
        meta: &[u8],
    ) -> Result<(), StoreError> {
        let mut content = self.content.write().unwrap_or_else(PoisonError::into_inner);
        for (key, value) in changes {
            match value {
                Some(value) => content.data.insert(key.to_vec(), value.to_vec()),
                None => content.data.remove(key),
            };
        }

        content.meta = Some(meta.to_vec());
        Ok(())
    }

    fn scan(
        &self,
        prefix: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StoreError> {
        let content = self.read();
        let range = content
            .data
            .range::<[u8], _>((Bound::Included(prefix), Bound::Unbounded));
        for (key, value) in range.take_while(|(key, _)| key.starts_with(prefix)) {
            if !visit(key, value) {
                break;
            }
        }

        Ok(())
    }

    fn scan_after(
        &self,
        key: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StoreError> {
        let content = self.read();
        let from = key.map_or(Bound::Unbounded, Bound::Excluded);
        for (key, value) in content.data.range::<[u8], _>((from, Bound::Unbounded)) {
            if !visit(key, value) {
                break;
            }
        }

        Ok(())
    }
}
