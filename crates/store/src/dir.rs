//! The directory of one instance: `STATE/<role>/<instance>`, with one store for each task below it.
//!
//! `lock` is held for the life of the process; a successor waits for a predecessor that is still
//! going away. `identity` says which cluster, prefix, role and partition count the state belongs
//! to, so that state is never read into a world it was not made in.

use std::fs::{File, TryLockError};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use faults::crash::{self, Point};
use os::files;
use ports::StoreError;

/// Format of the directory and of the stores in it.
pub const FORMAT: u32 = 1;

/// What the name of a store ends in that is being removed.
const WIPED: &str = "wiped";

/// What state belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateIdentity {
    /// See [`FORMAT`].
    pub format: u32,
    /// Identity of the log's cluster.
    pub cluster_id: String,
    /// What goes before every topic name.
    pub topic_prefix: String,
    /// The role.
    pub role: String,
    /// Partitions of the role's inputs; keys move between tasks if it changes.
    pub partitions: u32,
}

impl StateIdentity {
    /// An identity in today's format.
    pub fn new(cluster_id: &str, topic_prefix: &str, role: &str, partitions: u32) -> Self {
        StateIdentity {
            format: FORMAT,
            cluster_id: cluster_id.into(),
            topic_prefix: topic_prefix.into(),
            role: role.into(),
            partitions,
        }
    }

    fn differences(&self, wanted: &StateIdentity) -> Vec<String> {
        let mut found = Vec::new();
        if self.cluster_id != wanted.cluster_id {
            found.push(format!(
                "it belongs to cluster {}, this is cluster {}",
                self.cluster_id, wanted.cluster_id
            ));
        }

        if self.topic_prefix != wanted.topic_prefix {
            found.push(format!(
                "its topics begin with \"{}\", ours with \"{}\"",
                self.topic_prefix, wanted.topic_prefix
            ));
        }

        if self.role != wanted.role {
            found.push(format!(
                "it belongs to role {}, this is role {}",
                self.role, wanted.role
            ));
        }

        if self.partitions != wanted.partitions {
            found.push(format!(
                "it was made for {} partitions, the topics have {}",
                self.partitions, wanted.partitions
            ));
        }

        found
    }
}

/// An instance's directory, locked until it is dropped.
#[derive(Debug)]
pub struct InstanceDir {
    path: PathBuf,
    _lock: File,
}

impl InstanceDir {
    /// Makes or opens `STATE/<role>/<instance>`. Waits up to `wait` for whoever holds it.
    pub fn open(
        state: &Path,
        instance: &str,
        wanted: &StateIdentity,
        wait: Duration,
    ) -> Result<Self, StoreError> {
        let path = make(state, instance, wanted)?;
        let lock = lock(&path, wait)?;
        if !fits(&path, wanted)? {
            write_identity(&path, wanted).map_err(|e| io(&path, &e))?;
        }

        let dir = InstanceDir { path, _lock: lock };
        dir.remove_wiped()?;
        Ok(dir)
    }

    /// Makes the directory if it is not there, and says what [`InstanceDir::open`] would complain
    /// about, but for a holder.
    pub fn look(state: &Path, instance: &str, wanted: &StateIdentity) -> Result<(), StoreError> {
        let path = make(state, instance, wanted)?;
        let lock = lock_file(&path)?;
        match fits(&path, wanted) {
            // Whoever is told to delete it must know that somebody works in it.
            Err(StoreError::Invalid(why))
                if matches!(lock.try_lock(), Err(TryLockError::WouldBlock)) =>
            {
                let holder = holder(&path.join("lock"));
                Err(StoreError::Invalid(format!(
                    "{why}. It is held by {holder}: leave it alone while that runs"
                )))
            }
            other => other.map(drop),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where a task's store is.
    pub fn task(&self, task: u32) -> PathBuf {
        self.path.join(task.to_string())
    }

    /// Removes everything of every task. Each store first loses its name, so that whoever dies here
    /// leaves no store that lacks some of its files: without a part of its write-ahead log one may
    /// open all the same, with a hole in it.
    pub fn wipe(&self) -> Result<(), StoreError> {
        self.remove_wiped()?;
        for path in self.dirs()? {
            let to = path.with_added_extension(WIPED);
            std::fs::rename(&path, &to).map_err(|e| io(&path, &e))?;
            crash::point(Point::RebuildWiping);
        }

        self.remove_wiped()
    }

    /// What was wiped, also by a process that could not finish it.
    fn remove_wiped(&self) -> Result<(), StoreError> {
        for path in self
            .dirs()?
            .iter()
            .filter(|p| p.extension().is_some_and(|e| e == WIPED))
        {
            std::fs::remove_dir_all(path).map_err(|e| io(path, &e))?;
        }

        Ok(())
    }

    fn dirs(&self) -> Result<Vec<PathBuf>, StoreError> {
        let found = std::fs::read_dir(&self.path)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|e| io(&self.path, &e))?;
        Ok(found
            .into_iter()
            .map(|e| e.path())
            .filter(|p| p.is_dir())
            .collect())
    }

    /// Renames a task's store to `<task>.quarantine-<n>` and says so.
    pub fn quarantine(&self, task: u32) -> Result<String, StoreError> {
        let from = self.task(task);
        let free = (1_u32..)
            .map(|n| self.path.join(format!("{task}.quarantine-{n}")))
            .find(|p| !p.exists());
        let to = free.ok_or_else(|| {
            StoreError::Io(format!(
                "{} holds too many quarantined stores; delete some",
                self.path.display()
            ))
        })?;

        std::fs::rename(&from, &to).map_err(|e| io(&from, &e))?;
        Ok(to.display().to_string())
    }
}

/// Makes the directory of an instance, for its owner alone.
fn make(state: &Path, instance: &str, wanted: &StateIdentity) -> Result<PathBuf, StoreError> {
    let role = state.join(&wanted.role);
    let path = role.join(instance);
    for dir in [&role, &path] {
        files::private_dir(dir).map_err(|e| io(dir, &e))?;
    }

    Ok(path)
}

/// Whether the directory says that it is what is wanted; false if it says nothing yet, and holds
/// nothing.
fn fits(path: &Path, wanted: &StateIdentity) -> Result<bool, StoreError> {
    let Some(found) = read_identity(path)? else {
        // The label is on the disk before the first store is made. So stores without one were
        // brought here, or have lost it.
        return if holds_stores(path)? {
            Err(unlabelled(path))
        } else {
            Ok(false)
        };
    };

    let differences = found.differences(wanted);
    if differences.is_empty() {
        return Ok(true);
    }

    Err(StoreError::Invalid(format!(
        "the state in {} does not fit: {}; use another --state directory, or delete this one (it is rebuilt from the log)",
        path.display(),
        differences.join("; ")
    )))
}

/// Whether there is any file in a directory that has a task's name.
fn holds_stores(path: &Path) -> Result<bool, StoreError> {
    for entry in std::fs::read_dir(path).map_err(|e| io(path, &e))? {
        let entry = entry.map_err(|e| io(path, &e))?;
        let is_task = entry
            .file_name()
            .to_str()
            .is_some_and(|name| name.parse::<u32>().is_ok());
        if is_task
            && entry.path().is_dir()
            && std::fs::read_dir(entry.path())
                .map_err(|e| io(path, &e))?
                .next()
                .is_some()
        {
            return Ok(true);
        }
    }

    Ok(false)
}

fn unlabelled(path: &Path) -> StoreError {
    StoreError::Invalid(format!(
        "{} holds stores, but its identity file is gone, so nothing says which log they belong to; put the file back, or delete {0} (its state is rebuilt from the log)",
        path.display()
    ))
}

/// The identity of an instance's directory, for looking in from outside; none if it has none yet.
pub fn read_identity(path: &Path) -> Result<Option<StateIdentity>, StoreError> {
    let file = path.join("identity");
    let bytes = match std::fs::read(&file) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(io(&file, &e)),
    };

    /// Read on its own first: a newer format may have other fields.
    #[derive(Deserialize)]
    struct VersionedIdentity {
        format: u32,
    }

    let unreadable = |e: serde_json::Error| {
        StoreError::Invalid(format!(
            "{} is unreadable ({e}); delete {} and its state is rebuilt from the log",
            file.display(),
            path.display()
        ))
    };

    let VersionedIdentity { format } = serde_json::from_slice(&bytes).map_err(unreadable)?;
    if format > FORMAT {
        return Err(newer(path, format));
    }

    serde_json::from_slice(&bytes).map(Some).map_err(unreadable)
}

/// The state was written by a version that knows more.
pub(crate) fn newer(path: &Path, format: u32) -> StoreError {
    StoreError::Invalid(format!(
        "the state in {} was written by a newer version (format {format}, this one knows {FORMAT}); use that version, or delete the directory and it is rebuilt",
        path.display()
    ))
}

/// A file system's answer, with what to do about it.
pub fn io(path: &Path, e: &std::io::Error) -> StoreError {
    let advice = match e.kind() {
        _ if files::is_out_of_descriptors(e) => files::DESCRIPTORS_ADVICE,
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            "free some space and start again; nothing is lost"
        }
        ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied => {
            "make the directory writable for this user, or choose another with --state"
        }
        _ => "put that right and start again; nothing is lost",
    };

    StoreError::Io(format!("{}: {e}; {advice}", path.display()))
}

/// Labels a directory.
pub fn write_identity(path: &Path, identity: &StateIdentity) -> std::io::Result<()> {
    files::replace(
        &path.join("identity"),
        &serde_json::to_vec_pretty(identity)?,
    )
}

fn lock_file(dir: &Path) -> Result<File, StoreError> {
    let path = dir.join("lock");
    files::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(|e| io(&path, &e))
}

fn lock(dir: &Path, wait: Duration) -> Result<File, StoreError> {
    let path = dir.join("lock");
    let mut file = lock_file(dir)?;
    let until = Instant::now() + wait;
    let mut told = false;
    loop {
        match file.try_lock() {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) if Instant::now() < until => {
                if !std::mem::replace(&mut told, true) {
                    tracing::info!(
                        "{} is held by {}; waiting up to {wait:?} for it to go away",
                        dir.display(),
                        holder(&path)
                    );
                }

                std::thread::sleep(Duration::from_millis(20));
            }
            Err(TryLockError::WouldBlock) => {
                return Err(StoreError::Held(format!(
                    "{} is held by {}; stop it, or use another --instance or --state",
                    dir.display(),
                    holder(&path)
                )));
            }
            Err(TryLockError::Error(e)) => return Err(io(&path, &e)),
        }
    }

    // Only names the holder in a message.
    file.set_len(0)
        .and_then(|()| file.write_all(std::process::id().to_string().as_bytes()))
        .map_err(|e| io(&path, &e))?;
    Ok(file)
}

fn holder(lock: &Path) -> String {
    match std::fs::read_to_string(lock) {
        Ok(pid) if !pid.is_empty() => format!("process {pid}"),
        _ => "another process".to_string(),
    }
}
