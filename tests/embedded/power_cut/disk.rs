//! The possible contents of a disk after a power failure at any moment, computed from a record of a
//! process's disk requests.
//!
//! Only data and names covered by a completed sync are certain: data by the sync of its file, names
//! by the sync of their directory. Of the rest, a disk may hold any prefix. For each file the
//! prefix is a number of writes, the last of them torn. For each directory the prefix is a number
//! of changes. Now and then a file has later writes without earlier ones, with zeros between. A
//! file system leaves such a file if it wrote its pages back in another order.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};

use client::simulate::Rng;

/// One entry of the record; see `writes.c`.
pub struct Entry {
    pub kind: u8,
    pub at_ms: u64,
    pub path: String,
    pub offset: u64,
    pub data: Vec<u8>,
}

/// Reads a record, with paths relative to `below`.
pub fn read(record: &Path, below: &Path) -> Vec<Entry> {
    let bytes = std::fs::read(record).expect("a record");
    let mut rest = &bytes[..];
    let mut all = Vec::new();
    let root = below.display().to_string();
    let below = format!("{root}/");
    while !rest.is_empty() {
        let (head, tail) = rest.split_at(32);
        let n =
            |i: usize| u64::from_le_bytes(head[i * 8..i * 8 + 8].try_into().expect("eight bytes"));
        let names = (n(3) >> 40) as usize;
        let size = (n(3) & ((1 << 40) - 1)) as usize;
        let text = |bytes: &[u8]| {
            let path = String::from_utf8_lossy(bytes).into_owned();
            if path == root {
                String::new()
            } else {
                path.strip_prefix(&below)
                    .map_or(path.clone(), str::to_string)
            }
        };

        let (path, tail) = tail.split_at(names);
        let (data, tail) = tail.split_at(size);
        let kind = n(0) as u8;
        let data = if kind == b'r' {
            text(data).into_bytes()
        } else {
            data.to_vec()
        };

        all.push(Entry {
            kind,
            at_ms: n(1),
            path: text(path),
            offset: n(2),
            data,
        });

        rest = tail;
    }

    all
}

#[derive(Default)]
struct File {
    durable: Vec<u8>,
    pending: VecDeque<Op>,
    /// Number of pending writes that each sync in progress covers.
    syncs: VecDeque<usize>,
}

enum Op {
    Write(u64, Vec<u8>),
    Truncate(u64),
}

impl Op {
    fn apply(&self, to: &mut Vec<u8>, part: usize) {
        match self {
            Op::Write(at, data) => {
                let at = *at as usize;
                let data = &data[..part.min(data.len())];
                if to.len() < at + data.len() {
                    to.resize(at + data.len(), 0);
                }

                to[at..at + data.len()].copy_from_slice(data);
            }
            Op::Truncate(size) => to.resize(*size as usize, 0),
        }
    }

    fn size(&self) -> usize {
        if let Op::Write(_, data) = self {
            data.len()
        } else {
            0
        }
    }
}

enum Name {
    Create(String, usize),
    Rename(String, String),
    Gone(String),
    Dir(String),
}

/// The state of the disk after the recorded requests.
#[derive(Default)]
pub struct Disk {
    files: Vec<File>,
    live: BTreeMap<String, usize>,
    /// Changes of names, each with its directory.
    names: Vec<(String, Name)>,
    /// By directory: the number of certain changes, and the number that each sync in progress
    /// covers.
    certain: BTreeMap<String, usize>,
    dir_syncs: BTreeMap<String, VecDeque<usize>>,
}

fn parent(path: &str) -> String {
    path.rsplit_once('/').map_or("", |(dir, _)| dir).to_string()
}

impl Disk {
    pub fn take(&mut self, e: &Entry) {
        let file = self.live.get(&e.path).copied();
        match (e.kind, file) {
            (b'w', Some(f)) => self.files[f]
                .pending
                .push_back(Op::Write(e.offset, e.data.clone())),
            (b't', Some(f)) => self.files[f].pending.push_back(Op::Truncate(e.offset)),
            (b's', Some(f)) => {
                let covers = self.files[f].pending.len();
                self.files[f].syncs.push_back(covers);
            }
            (b'd', _) => self
                .dir_syncs
                .entry(e.path.clone())
                .or_default()
                .push_back(self.names.len()),
            (b'e', Some(f)) => {
                let file = &mut self.files[f];
                if let Some(covers) = file.syncs.pop_front() {
                    for op in file.pending.drain(..covers) {
                        op.apply(&mut file.durable, usize::MAX);
                    }

                    file.syncs
                        .iter_mut()
                        .for_each(|n| *n = n.saturating_sub(covers));
                }
            }
            (b'e', None) => {
                let upto = self
                    .dir_syncs
                    .get_mut(&e.path)
                    .and_then(VecDeque::pop_front);
                if let Some(upto) = upto {
                    self.certain.insert(e.path.clone(), upto);
                }
            }
            (b'c', _) => {
                self.files.push(File::default());
                self.live.insert(e.path.clone(), self.files.len() - 1);
                self.names.push((
                    parent(&e.path),
                    Name::Create(e.path.clone(), self.files.len() - 1),
                ));
            }
            (b'r', _) => {
                let to = String::from_utf8(e.data.clone()).expect("a path");
                let inside: Vec<String> = self
                    .live
                    .keys()
                    .filter(|p| **p == e.path || p.starts_with(&format!("{}/", e.path)))
                    .cloned()
                    .collect();
                for path in inside {
                    let f = self.live.remove(&path).expect("listed");
                    self.live
                        .insert(format!("{to}{}", &path[e.path.len()..]), f);
                }

                self.names
                    .push((parent(&to), Name::Rename(e.path.clone(), to)));
            }
            (b'u' | b'x', _) => {
                self.live.remove(&e.path);
                self.names
                    .push((parent(&e.path), Name::Gone(e.path.clone())));
            }
            (b'm', _) => self
                .names
                .push((parent(&e.path), Name::Dir(e.path.clone()))),
            // A file that was deleted while it was open.
            _ => {}
        }
    }

    /// Writes a possible disk content after a cut at this moment.
    pub fn cut(&self, rng: &mut Rng, into: &Path) {
        let mut dirs = BTreeSet::from([String::new()]);
        let mut names = BTreeMap::<String, usize>::new();

        // For each directory, the number of uncertain changes that survive.
        let mut luck = BTreeMap::<&str, usize>::new();
        for (n, (dir, _)) in self.names.iter().enumerate() {
            if n >= self.certain.get(dir).copied().unwrap_or(0) {
                *luck.entry(dir).or_default() += 1;
            }
        }

        luck.values_mut()
            .for_each(|n| *n = rng.below(*n as u64 + 1) as usize);
        for (n, (dir, name)) in self.names.iter().enumerate() {
            if n >= self.certain.get(dir).copied().unwrap_or(0) {
                let left = luck.get_mut(dir.as_str()).expect("counted");
                if *left == 0 {
                    continue;
                }

                *left -= 1;
            }

            match name {
                Name::Create(path, file) => drop(names.insert(path.clone(), *file)),
                Name::Gone(path) => {
                    names.remove(path);
                    dirs.remove(path);
                }
                Name::Dir(path) => drop(dirs.insert(path.clone())),
                Name::Rename(from, to) => {
                    let moved = |path: &str| format!("{to}{}", &path[from.len()..]);
                    let is_in =
                        |path: &String| path == from || path.starts_with(&format!("{from}/"));
                    for path in names
                        .keys()
                        .filter(|p| is_in(p))
                        .cloned()
                        .collect::<Vec<_>>()
                    {
                        let file = names.remove(&path).expect("listed");
                        names.insert(moved(&path), file);
                    }

                    for path in dirs
                        .iter()
                        .filter(|p| is_in(p))
                        .cloned()
                        .collect::<Vec<_>>()
                    {
                        dirs.remove(&path);
                        dirs.insert(moved(&path));
                    }
                }
            }
        }

        let reachable = |path: &str| {
            let mut dir = path.to_string();
            while !dir.is_empty() {
                if !dirs.contains(&dir) {
                    return false;
                }

                dir = parent(&dir);
            }

            true
        };

        std::fs::create_dir_all(into).expect("a directory");
        for dir in dirs.iter().filter(|d| reachable(d)) {
            std::fs::create_dir_all(into.join(dir)).expect("a directory");
        }

        for (path, file) in names.iter().filter(|(path, _)| reachable(&parent(path))) {
            std::fs::write(into.join(path), self.files[*file].after_cut(rng)).expect("a file");
        }
    }
}

impl File {
    fn after_cut(&self, rng: &mut Rng) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        if rng.below(4) == 0 {
            self.pending
                .iter()
                .filter(|_| rng.below(2) == 0)
                .for_each(|op| op.apply(&mut bytes, usize::MAX));
            return bytes;
        }

        let whole = rng.below(self.pending.len() as u64 + 1) as usize;
        self.pending
            .iter()
            .take(whole)
            .for_each(|op| op.apply(&mut bytes, usize::MAX));
        if let Some(torn) = self.pending.get(whole) {
            torn.apply(&mut bytes, rng.below(torn.size() as u64 + 1) as usize);
        }

        bytes
    }
}

/// The library that records, compiled once.
pub fn recorder(dir: &Path) -> PathBuf {
    let source = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/embedded/power_cut/writes.c"
    );
    let library = dir.join("writes.so");
    let done = std::process::Command::new("cc")
        .args(["-shared", "-fPIC", "-O2", "-o"])
        .arg(&library)
        .args([source, "-ldl", "-lpthread"])
        .output();
    let done = done.expect("a C compiler");
    assert!(
        done.status.success(),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
    library
}
