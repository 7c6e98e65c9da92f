//! Looking into a database of files while another process writes it.
//!
//! A reader takes the list of files from one place and then opens them one after another. The owner
//! deletes a log or a table once another file holds its content; whoever opens in that moment
//! misses a file, or, worse, opens the rest and sees a hole that was never there. New files do no
//! harm. So a look counts only if no file went away while it was taken; else another one is taken.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long to try. An owner at full speed deletes a file every second or so; opening takes a
/// fraction of that.
const PATIENCE: Duration = Duration::from_secs(20);
/// At least so often, however long one attempt takes.
const TRIES_MIN: u32 = 5;
const PAUSE: Duration = Duration::from_millis(10);

/// What came of looking.
#[derive(Debug)]
pub enum Inspection<T> {
    /// Nothing was deleted meanwhile, so this is how things are: a success or a failure.
    Found(T),
    /// The owner deleted files during every one of so many attempts.
    Busy(u32),
}

/// Opens what is in a directory until no file of it was deleted meanwhile.
pub fn at_rest<T>(dir: &Path, open: impl Fn() -> T) -> Inspection<T> {
    at_rest_within(dir, PATIENCE, open)
}

fn at_rest_within<T>(dir: &Path, patience: Duration, open: impl Fn() -> T) -> Inspection<T> {
    let until = Instant::now() + patience;
    let mut tries = 0;
    loop {
        let before = names(dir);
        let found = open();

        // A directory that cannot be listed says nothing about its owner; the attempt itself has
        // met the same trouble.
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

/// The files that hold data. Locks, logs for people and files that are still being made come and go
/// without a meaning.
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
        // The owner has put the whole directory aside.
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
                // What is new does no harm, and a lock means nothing.
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
