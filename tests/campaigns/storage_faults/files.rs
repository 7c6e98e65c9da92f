//! Files that are changed, cut, deleted, emptied, or replaced by another store's file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use engine::instance::FatalError;

use super::stage::{Baseline, Stage, copy_dir};

/// Result of a fault in a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    /// The fault had no effect, or the log repaired it.
    Right,
    /// Quarantined and rebuilt.
    Rebuilt,
    /// The role stopped with a reason.
    Stopped,
}

/// The files of a kind in the store from which all faults begin.
fn files(kind: &str) -> Vec<String> {
    let entries = std::fs::read_dir(Baseline::get().store()).expect("a directory");
    let mut names: Vec<String> = entries
        .flatten()
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect();
    names.retain(|n| {
        if kind.starts_with('.') {
            n.ends_with(kind)
        } else {
            n.starts_with(kind)
        }
    });

    names.sort();
    assert!(!names.is_empty(), "the store has no {kind}");
    names
}

/// Damages a copy, starts the role on the copy, probes and compares. Then starts once more on the
/// result.
fn after(what: &str, hurt: impl FnOnce(&Path)) -> End {
    let baseline = Baseline::get();
    let stage = baseline.stage();
    hurt(&stage.store());
    let mut instance = stage.instance(None);
    let started = stage.step_until(&mut instance, |i| i.phase() == "running");
    stage.probe();
    let end = match started.and_then(|()| stage.drain(&mut instance)) {
        Ok(()) if stage.put_aside() > 0 => End::Rebuilt,
        Ok(()) => End::Right,
        Err(stop) => {
            baseline.check_prefix(&stage, what);
            assert!(
                matches!(&stop, FatalError::Bug(_) | FatalError::Failed(_)),
                "{what}: {stop}"
            );
            println!("{what}: stopped: {stop}");
            return End::Stopped;
        }
    };

    baseline.check(&stage, what);
    drop(instance);
    let mut again = stage.instance(None);
    stage
        .drain(&mut again)
        .unwrap_or_else(|e| panic!("{what}: the second start: {e}"));
    baseline.check(&stage, what);
    end
}

/// Counts and prints the results of faults.
fn tally(kind: &str, ends: impl IntoIterator<Item = End>) -> BTreeMap<End, usize> {
    let mut all = BTreeMap::new();
    for end in ends {
        *all.entry(end).or_insert(0) += 1;
    }

    println!("{kind}: {all:?}");
    all
}

/// About `count` positions of a file, both ends among them.
fn places(length: usize, count: usize) -> Vec<usize> {
    let step = (length / count).max(1);
    let mut all: Vec<usize> = (0..length).step_by(step).collect();
    all.extend([
        length.saturating_sub(1),
        length.saturating_sub(5),
        length / 2,
    ]);
    all.sort_unstable();
    all.dedup();
    all
}

fn flips(kind: &str, count: usize) -> BTreeMap<End, usize> {
    let mut ends = Vec::new();
    for name in files(kind) {
        let length = std::fs::metadata(Baseline::get().store().join(&name))
            .expect("a file")
            .len() as usize;
        for (i, place) in places(length, count).into_iter().enumerate() {
            let mask = [0x01, 0x80, 0xff, 0x10][i % 4];
            ends.push(after(
                &format!("{name}: byte {place} of {length} changed by {mask:#x}"),
                |dir| {
                    change(&dir.join(&name), |bytes| bytes[place] ^= mask);
                },
            ));
        }
    }

    tally(&format!("flips in {kind}"), ends)
}

fn change(path: &Path, how: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(path).expect("a file");
    how(&mut bytes);
    std::fs::write(path, bytes).expect("a file");
}

#[test]
fn bytes_flipped_in_tables() {
    let ends = flips(".sst", 24);
    assert!(
        ends.contains_key(&End::Rebuilt),
        "damage in tables was never noticed: {ends:?}"
    );
    assert!(!ends.contains_key(&End::Stopped), "{ends:?}");
}

#[test]
fn bytes_flipped_in_the_write_ahead_log() {
    let ends = flips(".log", 48);
    assert!(!ends.contains_key(&End::Stopped), "{ends:?}");
}

#[test]
fn bytes_flipped_in_the_manifest() {
    let ends = flips("MANIFEST", 64);
    assert!(
        ends.contains_key(&End::Rebuilt),
        "damage in the MANIFEST was never noticed: {ends:?}"
    );
    assert!(!ends.contains_key(&End::Stopped), "{ends:?}");
}

#[test]
fn bytes_flipped_in_small_files() {
    for kind in ["CURRENT", "OPTIONS", "IDENTITY"] {
        let ends = flips(kind, 12);
        assert!(!ends.contains_key(&End::Stopped), "{kind}: {ends:?}");
    }
}

const KINDS: [&str; 6] = [".sst", ".log", "MANIFEST", "CURRENT", "OPTIONS", "IDENTITY"];

#[test]
fn files_cut_short_and_emptied() {
    for kind in KINDS {
        let mut ends = Vec::new();
        for name in files(kind) {
            let length = std::fs::metadata(Baseline::get().store().join(&name))
                .expect("a file")
                .len() as usize;
            for place in places(length, 10) {
                ends.push(after(
                    &format!("{name}: cut at {place} of {length}"),
                    |dir| change(&dir.join(&name), |b| b.truncate(place)),
                ));
                ends.push(after(
                    &format!("{name}: zeros from {place} of {length}"),
                    |dir| {
                        change(&dir.join(&name), |b| b[place..].fill(0));
                    },
                ));
            }
        }

        let ends = tally(&format!("{kind} cut or zeroed"), ends);
        assert!(!ends.contains_key(&End::Stopped), "{kind}: {ends:?}");
    }
}

#[test]
fn files_deleted() {
    let mut ends = Vec::new();
    for kind in KINDS {
        let all = files(kind);
        for name in &all {
            ends.push(after(&format!("{name} deleted"), |dir| {
                std::fs::remove_file(dir.join(name)).expect("it is there")
            }));
        }

        ends.push(after(&format!("all {kind} deleted"), |dir| {
            all.iter()
                .for_each(|name| std::fs::remove_file(dir.join(name)).expect("it is there"));
        }));
    }

    ends.push(after("everything deleted", |dir| {
        std::fs::remove_dir_all(dir).expect("it is there")
    }));

    ends.push(after("the directory emptied", |dir| {
        std::fs::remove_dir_all(dir).expect("it is there");
        std::fs::create_dir(dir).expect("a directory");
    }));

    let ends = tally("deleted", ends);
    assert!(!ends.contains_key(&End::Stopped), "{ends:?}");
}

/// A store of the same role with another history.
fn another(stage: &Stage) -> PathBuf {
    let mut instance = stage.instance(None);
    for n in 0..300 {
        stage.deposit(n % 7, 5_000_000 + n, 3);
    }

    stage.drain(&mut instance).expect("no fault");
    drop(instance);
    let mut again = stage.instance(None);
    stage.drain(&mut again).expect("no fault");
    stage.store()
}

#[test]
fn files_of_another_store() {
    let other_stage = Baseline::get().stage();
    let other = another(&other_stage);
    let theirs: Vec<PathBuf> = std::fs::read_dir(&other)
        .expect("a directory")
        .flatten()
        .map(|e| e.path())
        .collect();
    let mut ends = Vec::new();
    for kind in KINDS {
        for name in files(kind) {
            let same_kind = |p: &&PathBuf| {
                let n = p
                    .file_name()
                    .expect("a name")
                    .to_string_lossy()
                    .into_owned();
                if kind.starts_with('.') {
                    n.ends_with(kind)
                } else {
                    n.starts_with(kind)
                }
            };

            for (i, file) in theirs.iter().filter(same_kind).enumerate() {
                ends.push(after(
                    &format!("{name} replaced by file {i} of another store"),
                    |dir| {
                        std::fs::copy(file, dir.join(&name))
                            .map(drop)
                            .expect("a copy");
                    },
                ));
            }
        }
    }

    let tables = files(".sst");
    ends.push(after("two tables exchanged", |dir| {
        let a = dir.join(&tables[0]);
        let b = dir.join(&tables[tables.len() - 1]);
        let kept = std::fs::read(&a).expect("a file");
        std::fs::copy(&b, &a).expect("a copy");
        std::fs::write(&b, kept).expect("a file");
    }));

    // From the same log, but further: a store that is ahead of its changelog.
    ends.push(after("the whole store of another future", |dir| {
        std::fs::remove_dir_all(dir).expect("it is there");
        copy_dir(&other, dir);
    }));

    let ends = tally("another's", ends);
    assert!(!ends.contains_key(&End::Stopped), "{ends:?}");
}
