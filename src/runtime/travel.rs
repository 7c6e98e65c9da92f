//! `processor replay --until`: rebuilds a task's state at a past moment, in a scratch directory or
//! in a directory to keep.

use std::path::{Path, PathBuf};
use std::time::Duration;

use engine::checkpoint::StoreMeta;
use engine::last_meta::fill_absent;
use engine::point_in_time::{PointInTime, Travelled};
use engine::replay::{ReplayError, ReplaySettings};
use os::clock::SystemClock;
use os::files;
use ports::topics::{TopicId, TopicPartition};
use ports::{LogError, StoreError};
use roles::Role;
use store::dir::{StateIdentity, write_identity};
use store::rocks::RocksStore;

use super::scratch::Scratch;
use super::system::Installation;

/// Longest silence of the changelog during the read of its end.
const GIVE_UP: Duration = Duration::from_secs(30);

/// Rebuilds one task at `moment`; none if the task has never committed. `keep`: the store is kept
/// in `KEEP/<role>/<task>`.
pub fn travel_task(
    system: &Installation,
    role: Role,
    task: u32,
    moment: PointInTime,
    keep: Option<&Path>,
    progress: &mut dyn FnMut(u64),
) -> Result<Option<Travelled>, ReplayError> {
    let partitions = system.partitions()?;
    let factory = system.replay_factory(role, task)?;
    let own = |topic| {
        Some(TopicPartition::new(topic, task)).filter(|at| task < partitions[at.topic.0 as usize])
    };

    let spec = factory.spec();
    let inputs = spec.inputs.iter().filter_map(|i| own(i.topic)).collect();
    let Some(committed) = committed(system, role, inputs, spec.changelog)? else {
        return Ok(None);
    };

    let scratch;
    let dir = match keep {
        Some(keep) => place(system, role, task, keep)?,
        None => {
            scratch = Scratch::new(&system.state)?;
            scratch.store()
        }
    };

    let replay = ReplaySettings {
        log: &*system.log,
        topics: system.topics.clone(),
        factory: &*factory,
        partitions,
        task,
        progress,
    };

    let travelled = replay.until(
        Box::new(RocksStore::open(&dir, &system.memory)?),
        moment,
        &committed,
    )?;
    Ok(Some(travelled))
}

/// Positions of a role's inputs, as meta records list them; none if the task has never committed.
/// An input without a committed offset starts at its first record.
fn committed(
    system: &Installation,
    role: Role,
    mut inputs: Vec<TopicPartition>,
    changelog: TopicId,
) -> Result<Option<Vec<(TopicPartition, u64)>>, LogError> {
    inputs.sort();
    let group = system.log.group_offsets(&system.group(role), &inputs)?;
    let mut group: Vec<_> = inputs.into_iter().zip(group).collect();
    fill_absent(
        &*system.log,
        &SystemClock::new(),
        &system.topics,
        changelog,
        &mut group,
        GIVE_UP,
    )?;

    if group.iter().all(|(_, offset)| offset.is_none()) {
        return Ok(None);
    }

    let position = |(at, offset): (_, Option<u64>)| {
        let offset = offset.map_or_else(|| system.log.bounds(at).map(|b| b.start), Ok)?;
        Ok((at, offset))
    };

    group
        .into_iter()
        .map(position)
        .collect::<Result<_, _>>()
        .map(Some)
}

/// An empty directory for a kept store, labelled with its identity.
fn place(
    system: &Installation,
    role: Role,
    task: u32,
    keep: &Path,
) -> Result<PathBuf, ReplayError> {
    let parent = keep.join(role.name());
    let dir = parent.join(task.to_string());
    let cannot = |e: std::io::Error| {
        LogError::Invalid(format!(
            "cannot keep state in {}: {e}; name another directory",
            dir.display()
        ))
    };

    if dir.exists() {
        return Err(LogError::Invalid(format!(
            "{} is there already; name another directory to keep state in, or remove it",
            dir.display()
        ))
        .into());
    }

    files::create_dir(&dir).map_err(cannot)?;
    let identity = StateIdentity::new(
        &system.log.cluster_id()?,
        system.topics.prefix(),
        role.name(),
        system.tasks(role)?,
    );
    write_identity(&parent, &identity).map_err(cannot)?;
    Ok(dir)
}

/// Opens a kept store of a task, read-only.
pub fn kept_store(
    keep: &Path,
    role: Role,
    task: u32,
) -> Result<Option<(PathBuf, RocksStore, Option<StoreMeta>)>, StoreError> {
    use ports::StateStore as _;
    let dir = keep.join(role.name()).join(task.to_string());
    if !dir.is_dir() {
        return Ok(None);
    }

    let store = RocksStore::open_read_only(&dir)?;
    let meta = match store.meta()? {
        Some(bytes) => Some(StoreMeta::decode(&bytes)?),
        None => None,
    };

    Ok(Some((dir, store, meta)))
}
