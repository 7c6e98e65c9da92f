//! Scratch directories below the root of local state.
//!
//! Each directory has its own name, and a lock that its process holds. A killed replay leaves a
//! directory without a held lock, and the next replay removes that directory. A process id in the
//! name would not be unique: in a container, every run has the same id.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use os::files;
use ports::LogError;

/// Prefix of the directory names.
const PREFIX: &str = ".replay-";
/// Lock for making a directory and for removing leftovers: a directory in the making must not be
/// removed.
const MAKING: &str = ".replay.lock";
/// A directory without a lock file is a leftover if it is older than this.
const OLD: Duration = Duration::from_secs(24 * 3600);

/// A scratch directory; dropping the value removes the directory.
pub(super) struct Scratch {
    dir: PathBuf,
    _lock: File,
}

impl Scratch {
    /// Makes a new directory below `state`, and removes the leftovers of dead processes.
    pub(super) fn new(state: &Path) -> Result<Scratch, LogError> {
        let cannot = |e: io::Error| {
            LogError::Io(format!(
                "a scratch directory cannot be made in {}: {e}; make that possible, or choose another --state",
                state.display()
            ))
        };

        files::create_dir(state).map_err(cannot)?;
        let making = lock_file(&state.join(MAKING)).map_err(cannot)?;
        making.lock().map_err(cannot)?;
        remove_leftovers(state);
        let dir = state.join(format!("{PREFIX}{}", uuid::Uuid::now_v7().simple()));
        files::create_dir(&dir).map_err(cannot)?;
        let lock = lock_file(&dir.join("lock"))
            .and_then(|lock| lock.lock().map(|()| lock))
            .map_err(cannot)?;
        Ok(Scratch { dir, _lock: lock })
    }

    /// Path for a store.
    pub(super) fn store(&self) -> PathBuf {
        self.dir.join("store")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(e) = std::fs::remove_dir_all(&self.dir) {
            tracing::warn!(
                "the scratch directory {} stays behind: {e}; the next replay removes it",
                self.dir.display()
            );
        }
    }
}

fn lock_file(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
}

/// Removes the directories whose lock is free. A directory that cannot be read or removed stays,
/// and does no harm.
fn remove_leftovers(state: &Path) {
    for entry in std::fs::read_dir(state).into_iter().flatten().flatten() {
        let dir = entry.path();
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) || !dir.is_dir() {
            continue;
        }

        let held = match OpenOptions::new()
            .read(true)
            .write(true)
            .open(dir.join("lock"))
        {
            Ok(lock) => matches!(lock.try_lock(), Err(TryLockError::WouldBlock)),
            // An older version (without locks) made the directory, or the directory is half made.
            // No replay runs for a day.
            Err(_) => entry
                .metadata()
                .and_then(|m| m.modified())
                .is_ok_and(|at| at.elapsed().is_ok_and(|age| age < OLD)),
        };

        if !held && let Err(e) = std::fs::remove_dir_all(&dir) {
            tracing::debug!("{} stays behind: {e}", dir.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(state: &Path) -> Vec<String> {
        let all = std::fs::read_dir(state)
            .expect("a directory")
            .flatten()
            .map(|e| e.file_name().to_string_lossy().into_owned());
        all.filter(|n| n.starts_with(PREFIX)).collect()
    }

    #[test]
    fn leftovers_go_and_what_is_in_use_stays() {
        let state = tempfile::tempdir().expect("a directory");
        let (state, used) = (
            state.path(),
            Scratch::new(state.path()).expect("a directory"),
        );
        std::fs::create_dir(used.store()).expect("a store");

        // Leftovers of killed processes: two of this version, half made, and two of an older
        // version, one of which may still run.
        for left in ["0", "1", "77-orders-0", "78-orders-0"] {
            let dir = state.join(format!("{PREFIX}{left}"));
            std::fs::create_dir_all(dir.join("store")).expect("a directory");
            let age = if left == "78-orders-0" {
                Duration::ZERO
            } else {
                OLD * 2
            };

            File::open(&dir)
                .and_then(|d| d.set_modified(std::time::SystemTime::now() - age))
                .expect("an age");
        }

        std::fs::write(state.join(format!("{PREFIX}0/lock")), "").expect("a file");
        let other = Scratch::new(state).expect("a directory");
        assert_eq!(names(state).len(), 3);
        assert!(used.store().is_dir() && !other.store().exists() && used.store() != other.store());
        drop((used, other));
        assert_eq!(names(state), [".replay-78-orders-0"]);
    }
}
