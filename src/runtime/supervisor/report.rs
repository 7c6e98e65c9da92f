//! Status files: what a loop reports, and the signs of life of its process.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use engine::instance::{FatalError, Instance, TaskView};
use os::clock::wall_ms;
use ports::topics::TopicTable;

use super::super::status::{InputStatus, InstancePhase, InstanceStatus, TaskStatus};

/// Interval of status file writes, independent of the loop.
const SIGN_OF_LIFE: Duration = Duration::from_secs(1);
/// Age up to which another process's sign of life counts.
const FRESH_MS: i64 = 15_000;

/// An instance's status, shared by its loop, the thread that writes status files, and monitors.
pub(super) type SharedStatus = Arc<Mutex<InstanceStatus>>;

pub(super) fn lock(told: &SharedStatus) -> MutexGuard<'_, InstanceStatus> {
    // A panic cannot leave plain data half written, so ignore the poison.
    told.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes the status files of running instances, independent of the length of a turn.
pub(super) struct Heart {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Heart {
    pub(super) fn start(members: Vec<SharedStatus>, state: PathBuf) -> Heart {
        let stop = Arc::new(AtomicBool::new(false));
        let ended = stop.clone();
        let beat = move || {
            while !ended.load(Ordering::Acquire) {
                std::thread::park_timeout(SIGN_OF_LIFE);
                for told in &members {
                    let mut status = lock(told);
                    if status.updated_ms > 0
                        && status.state != InstancePhase::Stopped
                        && !ended.load(Ordering::Acquire)
                    {
                        status.updated_ms = wall_ms();

                        // Ignore a write error: the loop writes the same file and reports the
                        // error.
                        status.write(&state).unwrap_or_default();
                    }
                }
            }
        };

        let thread = std::thread::Builder::new()
            .name("signs-of-life".into())
            .spawn(beat);
        if let Err(e) = &thread {
            tracing::warn!(
                "the thread that updates the status file cannot be started: {e}; the roles run, but `processor status` may show them as dead"
            );
        }

        Heart {
            stop,
            thread: thread.ok(),
        }
    }
}

impl Drop for Heart {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();

            // The panic hook has printed a panic, and a destructor cannot return an error.
            let _joined = thread.join();
        }
    }
}

/// Reports the state of one instance in its status file.
pub(super) struct Reporter {
    pub(super) name: String,
    pub(super) status: SharedStatus,
    pub(super) topics: Arc<TopicTable>,
    pub(super) state: PathBuf,
    /// The log has the warning that the file cannot be written.
    pub(super) warned: bool,
}

impl Reporter {
    pub(super) fn report(&mut self, instance: &Instance) {
        let state = match instance.phase() {
            "running" => InstancePhase::Running,
            "restoring" => InstancePhase::Restoring,
            "recovering" => InstancePhase::Recovering,
            _ => InstancePhase::Joining,
        };

        let tasks = instance
            .tasks()
            .into_iter()
            .map(|(task, view)| self.task(task, view))
            .collect();
        let counters = instance.counters();
        let trouble = instance.trouble().map(String::from);
        let why = trouble.clone().filter(|_| state != InstancePhase::Running);
        self.tell(state, why, |status| {
            (status.tasks, status.counters, status.trouble) = (tasks, counters, trouble)
        });
    }

    /// The role ended with a temporary failure, and is restarted soon.
    pub(super) fn waiting(&mut self, why: &str) {
        self.tell(InstancePhase::Recovering, Some(why.to_string()), |status| {
            status.tasks.clear()
        });
    }

    pub(super) fn ended(&mut self, why: Option<&FatalError>) {
        // If the instance was never made, the status file may belong to another, living process.
        let made = lock(&self.status).updated_ms > 0;
        if made || why.is_some() && !self.is_somebody_elses() {
            self.tell(InstancePhase::Stopped, why.map(ToString::to_string), |_| {});
        }
    }

    /// True if another process gives signs of life under this name.
    fn is_somebody_elses(&self) -> bool {
        let (role, instance) = {
            let status = lock(&self.status);
            (status.role.clone(), status.instance)
        };

        let files = InstanceStatus::read_all(&self.state, &role);
        let fresh = |s: &InstanceStatus| {
            s.state != InstancePhase::Stopped && wall_ms().saturating_sub(s.updated_ms) < FRESH_MS
        };

        files.iter().any(|s| s.instance == instance && fresh(s))
    }

    fn tell(
        &mut self,
        state: InstancePhase,
        why: Option<String>,
        more: impl FnOnce(&mut InstanceStatus),
    ) {
        let mut status = lock(&self.status);
        let now = wall_ms();
        if status.state != state {
            status.since_ms = now;
        }

        (
            status.state,
            status.why,
            status.updated_ms,
            status.turned_ms,
        ) = (state, why, now, now);
        more(&mut status);
        if let Err(e) = status.write(&self.state)
            && !std::mem::replace(&mut self.warned, true)
        {
            tracing::warn!(
                "cannot write the status file: {e}; `processor status` will not see this instance"
            );
        }
    }

    fn task(&self, task: u32, view: TaskView) -> TaskStatus {
        match view {
            TaskView::Restoring(p) => TaskStatus {
                task,
                state: InstancePhase::Restoring,
                restored: p.at,
                restore_end: p.end,
                ..Default::default()
            },
            TaskView::Standby(p) => TaskStatus {
                task,
                state: InstancePhase::Standby,
                restored: p.at,
                restore_end: p.end,
                ..Default::default()
            },
            TaskView::Running {
                transaction,
                digest,
                inputs,
            } => TaskStatus {
                task,
                state: InstancePhase::Running,
                transaction,
                digest,
                inputs: inputs
                    .into_iter()
                    .map(|(at, next)| InputStatus {
                        topic: self.topics.name(at.topic).to_string(),
                        partition: at.partition,
                        next,
                    })
                    .collect(),
                ..Default::default()
            },
        }
    }
}
