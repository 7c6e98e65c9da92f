//! Status file of a running instance: `STATE/<role>/<instance>/status.json`. `processor status`
//! shows the file beside the figures of the log. No other part of the system depends on the file.
//!
//! The process writes the file about every second. Only the time of the last write shows that the
//! process lives. A process id is not enough: it has no meaning in another container, and the
//! operating system reuses it.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use os::files;
use serde::{Deserialize, Serialize};

pub use engine::instance::Counters;

/// Phase of an instance or a task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InstancePhase {
    /// Waits for the assignment of partitions.
    #[default]
    Joining,
    /// Restores local state up to the last commit.
    Restoring,
    /// Processes records.
    Running,
    /// Starts a new incarnation after an error.
    Recovering,
    /// Another instance runs the task; this instance keeps a warm copy.
    Standby,
    Stopped,
}

impl InstancePhase {
    /// Name in the status file.
    pub fn name(self) -> &'static str {
        match self {
            InstancePhase::Joining => "joining",
            InstancePhase::Restoring => "restoring",
            InstancePhase::Running => "running",
            InstancePhase::Recovering => "recovering",
            InstancePhase::Standby => "standby",
            InstancePhase::Stopped => "stopped",
        }
    }
}

/// Status of one instance of a role.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceStatus {
    pub role: String,
    pub instance: u32,
    /// Process id, on the machine `host`.
    pub pid: u32,
    /// Name of the machine or container. Empty in files of older versions.
    #[serde(default)]
    pub host: String,
    pub state: InstancePhase,
    /// Start of the current state, milliseconds since 1970.
    pub since_ms: i64,
    /// Reason for not running, or for an end with an error.
    #[serde(default)]
    pub why: Option<String>,
    /// Time of the last write, milliseconds since 1970: the last sign of life of the process.
    pub updated_ms: i64,
    /// Time of the loop's last report, milliseconds since 1970. 0 in files of older versions.
    #[serde(default)]
    pub turned_ms: i64,
    pub tasks: Vec<TaskStatus>,
    /// Counters since the start of the instance.
    pub counters: Counters,
    /// Reason for the last recovery, if no transaction was committed since.
    #[serde(default)]
    pub trouble: Option<String>,
}

/// Status of one task.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskStatus {
    /// Number of the task and of its partitions.
    pub task: u32,
    pub state: InstancePhase,
    /// Changelog offset up to which the state is restored.
    pub restored: u64,
    /// Changelog offset at which the restore ends.
    pub restore_end: u64,
    /// Number of the last transaction.
    pub transaction: u64,
    /// Digest of the state, in hexadecimal.
    pub digest: String,
    /// Read position of each input.
    pub inputs: Vec<InputStatus>,
}

/// Read position in one input partition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputStatus {
    /// Topic name, prefix included.
    pub topic: String,
    pub partition: u32,
    /// Next offset to read.
    pub next: u64,
}

/// Longest time between two signs of life; after a longer silence the instance counts as gone. The
/// process writes every second. The limit also allows for clock differences between two machines,
/// in both directions.
pub const SILENCE_MS: i64 = 5_000;

/// Life of an instance, by its status file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    Alive,
    /// The process lives, but its loop is in one long turn: a slow commit, or a broker that does
    /// not answer.
    Busy {
        /// Start of the turn, milliseconds since 1970.
        since_ms: i64,
    },
    /// The instance ended, and reported its end.
    Ended,
    /// No sign of life: the process was killed or is frozen, or its machine or disk is gone.
    Silent {
        /// Last sign of life, milliseconds since 1970.
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
    /// Life of the instance at time `now_ms`.
    pub fn life(&self, now_ms: i64) -> Life {
        let silent = |ms: i64| now_ms.saturating_sub(ms).abs() > SILENCE_MS;
        match self.state {
            InstancePhase::Stopped => Life::Ended,
            _ if silent(self.updated_ms) => Life::Silent {
                since_ms: self.updated_ms,
            },
            InstancePhase::Running if self.turned_ms > 0 && silent(self.turned_ms) => Life::Busy {
                since_ms: self.turned_ms,
            },
            _ => Life::Alive,
        }
    }

    /// Path of an instance's status file.
    pub fn path(state: &Path, role: &str, instance: u32) -> PathBuf {
        state
            .join(role)
            .join(instance.to_string())
            .join("status.json")
    }

    /// Replaces the file in one step, so that a reader never sees half of the content.
    pub fn write(&self, state: &Path) -> io::Result<()> {
        let path = Self::path(state, &self.role, self.instance);
        let fresh = path.with_extension("json.new");
        if let Some(dir) = path.parent() {
            files::create_dir(dir)?;
        }

        files::create(&fresh)?.write_all(&serde_json::to_vec(self)?)?;
        std::fs::rename(fresh, path)
    }

    /// Status of all instances of a role below `state`. A file that cannot be read is left out: the
    /// status files are no evidence about the log.
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

        // Process id 1 exists on every machine.
        assert_eq!(
            at(InstancePhase::Running, now - 6_000, now - 6_000).life(now),
            Life::Silent {
                since_ms: now - 6_000
            }
        );
        assert_eq!(
            at(InstancePhase::Running, now - 1_000, now - 1_500).life(now),
            Life::Alive
        );
        assert_eq!(
            at(InstancePhase::Running, now - 1_000, now - 9_000).life(now),
            Life::Busy {
                since_ms: now - 9_000
            }
        );
        assert_eq!(
            at(InstancePhase::Restoring, now - 1_000, now - 9_000).life(now),
            Life::Alive
        );
        assert_eq!(at(InstancePhase::Stopped, 5, 5).life(now), Life::Ended);
        assert_eq!(
            at(InstancePhase::Running, now + 3_600_000, 0).life(now),
            Life::Silent {
                since_ms: now + 3_600_000
            },
            "the clock was set back since"
        );
    }

    /// Files of older versions.
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
