//! `processor replay`: re-executes tasks from offset 0, and compares the result with their live
//! stores.

use std::path::{Path, PathBuf};

use engine::checkpoint::{Checkpoint, StoreMeta};
use engine::replay::{ReplayError, ReplaySettings, Replayed};
use ports::{StateStore, StoreError};
use roles::Role;
use store::dir::io;
use store::rocks::RocksStore;

use super::scratch::Scratch;
use super::system::Installation;

pub struct TaskReplay {
    pub task: u32,
    /// Path of the compared store.
    pub store: PathBuf,
    /// Position and digest of the store at the start of the replay.
    pub live: Checkpoint,
    pub replayed: Replayed,
}

/// A store with its path and position.
pub type FoundStore = (PathBuf, Box<dyn StateStore>, StoreMeta);

/// The newest local store of a task among all instances below `state`. Opened read-only, so the
/// owner of the store may continue.
pub fn newest_store(state: &Path, role: Role, task: u32) -> Result<Option<FoundStore>, StoreError> {
    let mut newest: Option<FoundStore> = None;
    let root = state.join(role.name());
    let instances = match std::fs::read_dir(&root) {
        Ok(instances) => instances,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(io(&root, &e)),
    };

    for dir in instances {
        let path = dir
            .map_err(|e| io(&root, &e))?
            .path()
            .join(task.to_string());
        if !path.is_dir() || !RocksStore::was_made(&path) {
            continue;
        }

        let store = match RocksStore::open_read_only(&path) {
            Ok(store) => store,
            // The owner has put this store aside, and makes a new one.
            Err(StoreError::Invalid(_)) if !RocksStore::was_made(&path) => continue,
            Err(e) => return Err(e),
        };

        let Some(bytes) = store.meta()? else { continue };
        let meta = StoreMeta::decode(&bytes).map_err(StoreError::from)?;
        if newest
            .as_ref()
            .is_none_or(|(_, _, n)| n.meta.transaction < meta.meta.transaction)
        {
            newest = Some((path, Box::new(store), meta));
        }
    }

    Ok(newest)
}

/// Replays one task; none if the task has no local state to compare.
pub fn replay_task(
    system: &Installation,
    role: Role,
    task: u32,
    progress: &mut dyn FnMut(u64),
) -> Result<Option<TaskReplay>, ReplayError> {
    let Some((path, live_store, live)) = newest_store(&system.state, role, task)? else {
        return Ok(None);
    };

    drop(live_store);
    let factory = system.replay_factory(role, task)?;
    let scratch = Scratch::new(&system.state)?;
    let replay = ReplaySettings {
        log: &*system.log,
        topics: system.topics.clone(),
        factory: &*factory,
        partitions: system.partitions()?,
        task,
        progress,
    };

    let replayed = replay.run(
        Box::new(RocksStore::open(&scratch.store(), &system.memory)?),
        &live.meta,
    )?;
    Ok(Some(TaskReplay {
        task,
        store: path,
        live: live.meta,
        replayed,
    }))
}
