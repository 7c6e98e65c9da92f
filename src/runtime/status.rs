//! A running instance's report about itself in `STATE/<role>/<instance>/status.json`.
//! `processor status` reads it beside the log's own figures; nothing in the system depends on it.
//!
//! The file is written every second or so as long as the process lives. Whether it does is told by
//! that alone: a process id means nothing in another container, and on the same machine it is given
//! to somebody else sooner or later.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use engine::instance::Counters;
use os::files;

/// Phase of an instance or a task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
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

impl Phase {
    /// As in the file.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Joining => "joining",
            Phase::Restoring => "restoring",
            Phase::Running => "running",
            Phase::Recovering => "recovering",
            Phase::Standby => "standby",
            Phase::Stopped => "stopped",
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
    /// Process id, where it runs.
    pub pid: u32,
    /// Name of the machine (or container) where it runs; empty in files of before there was this.
    #[serde(default)]
    pub host: String,
    /// Its state.
    pub state: Phase,
    /// When that began, milliseconds since 1970.
    pub since_ms: i64,
    /// Why it is not running, or why it ended, if it did not end well.
    #[serde(default)]
    pub why: Option<String>,
    /// When this was written: the last sign of life of the process.
    pub updated_ms: i64,
    /// When its loop last had something to tell; 0 in files of before there was this.
    #[serde(default)]
    pub turned_ms: i64,
    /// Its tasks.
    pub tasks: Vec<TaskStatus>,
    /// Its counters since it started.
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
    /// Its state.
    pub state: Phase,
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

/// Signs of life come every second; without one for so long an instance counts as gone. Clocks of
/// two machines may differ by this much either way.
pub const SILENCE_MS: i64 = 5_000;

/// An instance's life, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// The instance runs.
    Alive,
    /// The instance runs, and its loop has been in one turn since then: a commit that takes long, a
    /// broker that does not answer.
    Busy {
        /// Since when, milliseconds since 1970.
        since_ms: i64,
    },
    /// The instance ended, and said so.
    Ended,
    /// The instance gives no sign of life: killed, frozen, or its machine or disk is gone.
    Silent {
        /// Its last sign, milliseconds since 1970.
        since_ms: i64,
    },
}

/// Name of this machine or container.
pub fn host() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

impl InstanceStatus {
    /// Whether it lives, as of a moment.
    pub fn life(&self, now_ms: i64) -> Life {
        let silent = |ms: i64| now_ms.saturating_sub(ms).abs() > SILENCE_MS;
        match self.state {
            Phase::Stopped => Life::Ended,
            _ if silent(self.updated_ms) => Life::Silent {
                since_ms: self.updated_ms,
            },
            Phase::Running if self.turned_ms > 0 && silent(self.turned_ms) => Life::Busy {
                since_ms: self.turned_ms,
            },
            _ => Life::Alive,
        }
    }

    /// Where an instance's file is.
    pub fn path(state: &Path, role: &str, instance: u32) -> PathBuf {
        state
            .join(role)
            .join(instance.to_string())
            .join("status.json")
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

    /// All instances of a role that ever wrote here. Files that cannot be read are left out: they
    /// say nothing about the log.
    pub fn read_all(state: &Path, role: &str) -> Vec<InstanceStatus> {
        let Ok(dir) = std::fs::read_dir(state.join(role)) else {
            return Vec::new();
        };

        let mut all: Vec<InstanceStatus> = dir
            .flatten()
            .filter_map(|e| std::fs::read(e.path().join("status.json")).ok())
            .filter_map(|bytes| serde_json::from_slice(&bytes).ok())
            .collect();
        all.sort_by_key(|s| s.instance);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn life_is_told_by_signs_of_life_alone() {
        let at = |state, updated_ms, turned_ms| InstanceStatus {
            state,
            updated_ms,
            turned_ms,
            pid: 1,
            ..Default::default()
        };

        let now = 1_000_000;

        // Process 1 is there on every machine.
        assert_eq!(
            at(Phase::Running, now - 6_000, now - 6_000).life(now),
            Life::Silent {
                since_ms: now - 6_000
            }
        );
        assert_eq!(
            at(Phase::Running, now - 1_000, now - 1_500).life(now),
            Life::Alive
        );
        assert_eq!(
            at(Phase::Running, now - 1_000, now - 9_000).life(now),
            Life::Busy {
                since_ms: now - 9_000
            }
        );
        assert_eq!(
            at(Phase::Restoring, now - 1_000, now - 9_000).life(now),
            Life::Alive
        );
        assert_eq!(at(Phase::Stopped, 5, 5).life(now), Life::Ended);
        assert_eq!(
            at(Phase::Running, now + 3_600_000, 0).life(now),
            Life::Silent {
                since_ms: now + 3_600_000
            },
            "the clock was set back since"
        );
    }

    /// As versions before wrote it.
    #[test]
    fn old_files_are_read() {
        let old = r#"{"role":"orders","instance":1,"pid":77,"state":"running","since_ms":1,"updated_ms":2,"tasks":[{"task":0,"state":"running",
            "restored":0,"restore_end":0,"transaction":3,"digest":"00","inputs":[{"topic":"order-commands","partition":0,"next":4}]}],
            "counters":{"records_in":1,"records_out":2,"transactions":3,"recoveries":0,"repeats_dropped":0,"dead_letters":0}}"#;
        let read: InstanceStatus = serde_json::from_str(old).expect("readable");
        assert_eq!(
            (
                read.pid,
                read.host.as_str(),
                read.why,
                read.turned_ms,
                read.tasks.len()
            ),
            (77, "", None, 0, 1)
        );
    }
}
