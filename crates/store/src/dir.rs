//! The directory of an instance: `STATE/<role>/<instance>`, with one store for each task.
//!
//! The process holds `lock` for its whole life. A successor waits for a predecessor that is still
//! shutting down. `identity` names the cluster, prefix, role and partition count of the state. The
//! check of `identity` prevents the use of state with another log or configuration.

use std::fs::{File, TryLockError};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use faults::crash::{self, Point};
use os::files;
use ports::StoreError;
use serde::{Deserialize, Serialize};

/// Format of the directory and of its stores.
pub const FORMAT: u32 = 1;

/// Name suffix of a store that is being removed.
const WIPED: &str = "wiped";

/// Identity of the state: the log and the configuration that the state belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateIdentity {
    /// See [`FORMAT`].
    pub format: u32,
    /// Cluster id of the log.
    pub cluster_id: String,
    /// Prefix of every topic name.
    pub topic_prefix: String,
    pub role: String,
    /// Partitions of the role's inputs. If this number changes, keys move between tasks.
    pub partitions: u32,
}

impl StateIdentity {
    /// An identity in the current format.
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

/// An instance's directory, locked until the drop.
#[derive(Debug)]
pub struct InstanceDir {
    path: PathBuf,
    _lock: File,
}

impl InstanceDir {
    /// Opens or creates `STATE/<role>/<instance>`. Waits up to `wait` for the current holder of the
    /// lock.
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

    /// Creates the directory if it is missing, and returns the errors of [`InstanceDir::open`],
    /// except for a held lock.
    pub fn look(state: &Path, instance: &str, wanted: &StateIdentity) -> Result<(), StoreError> {
        let path = make(state, instance, wanted)?;
        let lock = lock_file(&path)?;
        match fits(&path, wanted) {
            // The error advises to delete the directory, so it must also name a running holder.
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

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Path of a task's store.
    pub fn task(&self, task: u32) -> PathBuf {
        self.path.join(task.to_string())
    }

    /// Removes the stores of all tasks. Each store is renamed before its files are deleted. So a
    /// crash here leaves no store with missing files: a store without a part of its write-ahead log
    /// may still open, with a hole inside.
    pub fn wipe(&self) -> Result<(), StoreError> {
        self.remove_wiped()?;
        for path in self.dirs()? {
            let to = path.with_added_extension(WIPED);
            std::fs::rename(&path, &to).map_err(|e| io(&path, &e))?;
            crash::point(Point::RebuildWiping);
        }

        self.remove_wiped()
    }

    /// Removes renamed stores, also those of an earlier process that could not finish.
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

    /// Renames a task's store to `<task>.quarantine-<n>` and returns a message with the new path.
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

/// Creates the directory of an instance, readable by its owner only.
fn make(state: &Path, instance: &str, wanted: &StateIdentity) -> Result<PathBuf, StoreError> {
    let role = state.join(&wanted.role);
    let path = role.join(instance);
    for dir in [&role, &path] {
        files::private_dir(dir).map_err(|e| io(dir, &e))?;
    }

    Ok(path)
}

/// Returns true if the directory's identity matches, and false if the directory has no identity and
/// no stores.
fn fits(path: &Path, wanted: &StateIdentity) -> Result<bool, StoreError> {
    let Some(found) = read_identity(path)? else {
        // The identity is on the disk before the first store is created. So stores without an
        // identity were copied here, or have lost the identity.
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

/// True if a directory with a task number as its name contains any entry.
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

/// The identity of an instance's directory, for inspection from outside. `None` if the directory
/// has no identity yet.
pub fn read_identity(path: &Path) -> Result<Option<StateIdentity>, StoreError> {
    let file = path.join("identity");
    let bytes = match std::fs::read(&file) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(io(&file, &e)),
    };

    /// The format is parsed separately: a newer format may have other fields.
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

/// Error for state that a newer version wrote.
pub(crate) fn newer(path: &Path, format: u32) -> StoreError {
    StoreError::Invalid(format!(
        "the state in {} was written by a newer version (format {format}, this one knows {FORMAT}); use that version, or delete the directory and it is rebuilt",
        path.display()
    ))
}

/// An error of the file system, with advice.
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

/// Writes the identity of a directory.
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

    // Only for error messages: the name of the holder.
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
