//! Reads a database of files while another process writes.
//!
//! A reader first reads the list of files and then opens one file after another. The owner deletes
//! a log or a table after another file has the content. A reader at that moment misses a file, or
//! opens the others and finds a gap that never existed. New files do no harm. A read therefore
//! counts only if no file vanished meanwhile. Otherwise the reader tries again.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

/// Longest time of attempts. A busy owner deletes a file about every second, and opening takes a
/// fraction of a second.
const PATIENCE: Duration = Duration::from_secs(20);
/// Minimum number of attempts, for any duration of one attempt.
const TRIES_MIN: u32 = 5;
const PAUSE: Duration = Duration::from_millis(10);

/// Result of the attempts.
#[derive(Debug)]
pub enum Inspection<T> {
    /// No file was deleted meanwhile, so the result is valid: a success or a failure.
    Found(T),
    /// The owner deleted files during each attempt. The field is the number of attempts.
    Busy(u32),
}

/// Repeats `open` until no file of the directory was deleted meanwhile.
pub fn at_rest<T>(dir: &Path, open: impl Fn() -> T) -> Inspection<T> {
    at_rest_within(dir, PATIENCE, open)
}

fn at_rest_within<T>(dir: &Path, patience: Duration, open: impl Fn() -> T) -> Inspection<T> {
    let until = Instant::now() + patience;
    let mut tries = 0;
    loop {
        let before = names(dir);
        let found = open();

        // A directory that cannot be listed tells nothing about its owner. The attempt had the same
        // trouble.
        let (Ok(before), Ok(after)) = (before, names(dir)) else {
            return Inspection::Found(found);
        };

        if after.is_superset(&before) {
            return Inspection::Found(found);
        }

        tries += 1;
        if tries >= TRIES_MIN && Instant::now() >= until {
            return Inspection::Busy(tries);
        }

        drop(found);
        std::thread::sleep(PAUSE);
    }
}

/// Names of data files. Locks, logs for people and unfinished files may come and go without any
/// effect.
fn names(dir: &Path) -> io::Result<BTreeSet<OsString>> {
    let counts = |name: &OsString| {
        let name = name.to_string_lossy();
        name == "CURRENT"
            || name.starts_with("MANIFEST-")
            || [".log", ".sst", ".blob"]
                .iter()
                .any(|end| name.ends_with(end))
    };

    let all: io::Result<Vec<_>> = match std::fs::read_dir(dir) {
        Ok(entries) => entries.map(|entry| entry.map(|e| e.file_name())).collect(),
        // The owner moved the whole directory away.
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(e),
    };

    all.map(|all| all.into_iter().filter(counts).collect())
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn a_look_counts_when_nothing_was_deleted_meanwhile() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = |name: &str| dir.path().join(name);
        for name in ["CURRENT", "000001.log", "000002.log", "LOCK"] {
            std::fs::write(file(name), "").expect("written");
        }

        let tries = Cell::new(0);
        let look = at_rest(dir.path(), || {
            tries.set(tries.get() + 1);
            match tries.get() {
                1 => std::fs::remove_file(file("000001.log")).expect("deleted"),
                2 => std::fs::rename(file("000002.log"), file("000003.log")).expect("renamed"),
                // A new file does no harm, and a lock has no meaning.
                _ => {
                    std::fs::write(file("000004.sst"), "").expect("written");
                    std::fs::remove_file(file("LOCK")).unwrap_or_default();
                }
            }

            tries.get()
        });

        assert!(matches!(look, Inspection::Found(3)), "{look:?}");
        let busy = at_rest_within(dir.path(), Duration::ZERO, || {
            tries.set(tries.get() + 1);
            std::fs::rename(
                file(&format!("00000{}.log", tries.get() - 1)),
                file(&format!("00000{}.log", tries.get())),
            )
            .expect("renamed");
        });

        assert!(matches!(busy, Inspection::Busy(TRIES_MIN)), "{busy:?}");
    }
}
