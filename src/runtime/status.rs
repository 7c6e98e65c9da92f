//! What a running instance tells about itself in `STATE/<role>/<instance>/status.json`. `processor status` reads it beside the log's own figures;
//! nothing in the system depends on it.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use crate::engine::instance::Counters;
use crate::files;

/// Phase of an instance or a task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Waiting for its share of the partitions.
    #[default]
    Joining,
    /// Bringing local state up to what was committed.
    Restoring,
    /// Processing.
    Running,
    /// Beginning anew after something went wrong.
    Recovering,
    /// A task that another instance runs; a warm copy is kept here.
    Standby,
    /// Ended.
    Stopped,
}

impl State {
    /// As in the file.
    pub fn name(self) -> &'static str {
        match self {
            State::Joining => "joining",
            State::Restoring => "restoring",
            State::Running => "running",
            State::Recovering => "recovering",
            State::Standby => "standby",
            State::Stopped => "stopped",
        }
    }
}

/// One instance of one role.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceStatus {
    /// The role.
    pub role: String,
    /// Its number.
    pub instance: u32,
    /// Process id.
    pub pid: u32,
    /// What it is doing.
    pub state: State,
    /// When that began, milliseconds since 1970.
    pub since_ms: i64,
    /// When this was written.
    pub updated_ms: i64,
    /// Its tasks.
    pub tasks: Vec<TaskStatus>,
    /// What it has done since it started.
    pub counters: Counters,
    /// Why it began anew the last time, if nothing was committed since.
    #[serde(default)]
    pub trouble: Option<String>,
}

/// One task.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskStatus {
    /// Its number, which is its partitions' number.
    pub task: u32,
    /// What it is doing.
    pub state: State,
    /// Changelog offset up to which state is restored.
    pub restored: u64,
    /// Changelog offset at which the restore ends.
    pub restore_end: u64,
    /// Number of its last transaction.
    pub transaction: u64,
    /// Digest of its state, in hexadecimal.
    pub digest: String,
    /// How far its inputs are read.
    pub inputs: Vec<InputStatus>,
}

/// One input partition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputStatus {
    /// Full name of the topic.
    pub topic: String,
    /// The partition.
    pub partition: u32,
    /// Next offset to read.
    pub next: u64,
}

impl InstanceStatus {
    /// Where an instance's file is.
    pub fn path(state: &Path, role: &str, instance: u32) -> PathBuf {
        state.join(role).join(instance.to_string()).join("status.json")
    }

    /// Replaces the file in one step, so that a reader never sees half of it.
    pub fn write(&self, state: &Path) -> io::Result<()> {
        let path = Self::path(state, &self.role, self.instance);
        let fresh = path.with_extension("json.new");
        if let Some(dir) = path.parent() {
            files::create_dir(dir)?;
        }
        files::create(&fresh)?.write_all(&serde_json::to_vec(self)?)?;
        std::fs::rename(fresh, path)
    }

    /// All instances of a role that ever wrote here. Files that cannot be read are left out: they say nothing about the log.
    pub fn read_all(state: &Path, role: &str) -> Vec<InstanceStatus> {
        let Ok(dir) = std::fs::read_dir(state.join(role)) else { return Vec::new() };
        let mut all: Vec<InstanceStatus> = dir
            .flatten()
            .filter_map(|e| std::fs::read(e.path().join("status.json")).ok())
            .filter_map(|bytes| serde_json::from_slice(&bytes).ok())
            .collect();
        all.sort_by_key(|s| s.instance);
        all
    }
}
