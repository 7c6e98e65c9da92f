//! The model of a machine's disk: stores with atomic batches. A power loss takes the last batches.
//! Some damage is found by a checksum, some only by the digest. The disk can be full. The process
//! that uses the disk holds a lock until its end.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;

use engine::checkpoint::StoreMeta;
use ports::{StateStore, StoreError, StoreWrite, Stores};
use roles::Role;

use super::client::a_moment;
use super::coverage::Kind;
use super::world::with;

/// Number of batches that may not have reached the disk yet.
const TAIL: usize = 6;

#[derive(Default)]
pub struct Disk {
    pub holder: Option<usize>,
    pub full_until: u64,
    pub tasks: BTreeMap<u32, Files>,
    /// Tasks whose store was damaged once. No store is damaged twice: a second damage during the
    /// repair of the first would rightly stop the instance.
    hurt: BTreeSet<u32>,
}

impl Disk {
    /// Damage that a checksum finds.
    pub fn damage(&mut self, task: u32) {
        if self.hurt.insert(task)
            && let Some(files) = self.tasks.get_mut(&task)
        {
            files.damaged = true;
        }
    }

    /// Damage that no checksum finds, in a store that is not verified yet.
    pub fn flip(&mut self, which: usize) -> bool {
        let Disk { tasks, hurt, .. } = self;
        tasks.iter_mut().any(|(task, files)| {
            files.is_unverified() && !hurt.contains(task) && files.flip(which) && hurt.insert(*task)
        })
    }
}

/// Values before a batch.
struct Undo {
    keys: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    meta: Option<Vec<u8>>,
}

#[derive(Default)]
pub struct Files {
    pub data: BTreeMap<Vec<u8>, Vec<u8>>,
    pub meta: Option<Vec<u8>>,
    tail: VecDeque<Undo>,
    /// A checksum is wrong; the next read finds the damage.
    pub damaged: bool,
}

impl Files {
    /// Undoes the last batches, each as a whole.
    pub fn lose_tail(&mut self, batches: usize) -> bool {
        let mut lost = false;
        for _ in 0..batches {
            let Some(undo) = self.tail.pop_back() else {
                break;
            };

            for (key, value) in undo.keys.into_iter().rev() {
                match value {
                    Some(value) => self.data.insert(key, value),
                    None => self.data.remove(&key),
                };
            }

            self.meta = undo.meta;
            lost = true;
        }

        lost
    }

    fn stored(&self) -> Option<StoreMeta> {
        self.meta.as_ref().and_then(|m| StoreMeta::decode(m).ok())
    }

    /// True in the middle of a restore: the content is not verified yet.
    pub fn is_unverified(&self) -> bool {
        self.stored().is_some_and(|m| !m.verified)
    }

    /// Changes a bit that no checksum covers.
    fn flip(&mut self, which: usize) -> bool {
        // A flipped bit has reached the disk, so no power loss may return the store to its verified
        // state.
        self.tail.clear();
        let count = self.data.len();
        let Some(value) = self.data.values_mut().nth(which % count.max(1)) else {
            return false;
        };

        match value.last_mut() {
            Some(byte) => *byte ^= 1,
            None => value.push(1),
        }

        true
    }
}

pub struct SimStores {
    pub process: usize,
}

pub struct SimStore {
    process: usize,
    disk: usize,
    role: Role,
    task: u32,
}

impl Stores for SimStores {
    fn open(&self, task: u32) -> Result<Box<dyn StateStore>, StoreError> {
        a_moment(50, 400);
        with(|w| {
            let disk = w.processes[self.process].disk;
            let role = w.processes[self.process].role;
            match w.disks[disk].holder {
                Some(holder) if holder != self.process => {
                    w.cover(Kind::StoreHeld);
                    return Err(StoreError::Held(format!("held by process {holder}")));
                }
                _ => w.disks[disk].holder = Some(self.process),
            }

            let full = w.now < w.disks[disk].full_until;
            let new = !w.disks[disk].tasks.contains_key(&task);
            if full && new {
                w.cover(Kind::DiskFull);
                return Err(StoreError::Io("no space left".into()));
            }

            w.disks[disk].tasks.entry(task).or_default();
            Ok(Box::new(SimStore {
                process: self.process,
                disk,
                role,
                task,
            }) as Box<dyn StateStore>)
        })
    }

    fn quarantine(&self, task: u32) -> Result<String, StoreError> {
        a_moment(50, 400);
        with(|w| {
            let disk = w.processes[self.process].disk;
            w.disks[disk].tasks.remove(&task);
            w.cover(Kind::Quarantined);
            w.trace(|| format!("the store of task {task} on disk {disk} is put aside"));
            Ok("aside".into())
        })
    }
}

impl SimStore {
    /// A read; it finds existing damage.
    fn look<R>(&self, f: impl FnOnce(&Files) -> R) -> Result<R, StoreError> {
        with(|w| {
            let rate = if w.healed {
                0
            } else {
                w.plan.faults.disk_ppm / 20
            };

            let hit = w.rng.ppm(rate);
            if hit {
                w.disks[self.disk].damage(self.task);
            }

            let Some(files) = w.disks[self.disk].tasks.get(&self.task) else {
                return Err(StoreError::Corrupt("a file is missing".into()));
            };

            if files.damaged {
                w.cover(Kind::DamageFound);
                return Err(StoreError::Corrupt("a block's checksum is wrong".into()));
            }

            Ok(f(&w.disks[self.disk].tasks[&self.task]))
        })
    }
}

impl StateStore for SimStore {
    fn meta(&self) -> Result<Option<Vec<u8>>, StoreError> {
        self.look(|f| f.meta.clone())
    }

    fn get(&self, key: &[u8], into: &mut Vec<u8>) -> Result<bool, StoreError> {
        into.clear();
        self.look(|f| f.data.get(key).map(|v| into.extend_from_slice(v)).is_some())
    }

    fn write(
        &mut self,
        changes: &mut dyn Iterator<Item = StoreWrite<'_>>,
        meta: &[u8],
    ) -> Result<(), StoreError> {
        // A process can die before or after a batch, never within.
        a_moment(10, 120);
        with(|w| {
            let rate = if w.healed { 0 } else { w.plan.faults.disk_ppm };
            if w.now < w.disks[self.disk].full_until || w.rng.ppm(rate) {
                w.cover(Kind::DiskFull);
                return Err(StoreError::Io("no space left".into()));
            }

            if let Ok(record) = StoreMeta::decode(meta) {
                if record.verified {
                    w.check_store(self.role, self.task, &record);
                }

                let disk = self.disk;
                let task = self.task;
                let n = record.meta.transaction;
                let sure = record.verified;
                w.trace(|| {
                    format!(
                        "disk {disk} gets task {task} at transaction {n}{}",
                        if sure { "" } else { ", not verified" }
                    )
                });
            }

            let Some(files) = w.disks[self.disk].tasks.get_mut(&self.task) else {
                return Err(StoreError::Io("the directory is gone".into()));
            };

            let mut undo = Undo {
                keys: Vec::new(),
                meta: files.meta.replace(meta.to_vec()),
            };

            for (key, value) in changes {
                let old = match value {
                    Some(value) => files.data.insert(key.to_vec(), value.to_vec()),
                    None => files.data.remove(key),
                };

                undo.keys.push((key.to_vec(), old));
            }

            files.tail.push_back(undo);
            if files.tail.len() > TAIL {
                files.tail.pop_front();
            }

            if files.is_unverified() {
                let process = self.process;
                w.unverified(process);
            }

            Ok(())
        })?;

        a_moment(10, 60);
        Ok(())
    }

    fn scan(
        &self,
        prefix: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StoreError> {
        let all: Vec<(Vec<u8>, Vec<u8>)> = self.look(|f| {
            let range = f
                .data
                .range::<[u8], _>((Bound::Included(prefix), Bound::Unbounded));
            range
                .take_while(|(k, _)| k.starts_with(prefix))
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect()
        })?;

        all.iter().all(|(k, v)| visit(k, v));
        Ok(())
    }
}
