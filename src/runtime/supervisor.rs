//! Runs instances, one thread each. The run ends with a signal, at the end of a given time, or with
//! the last instance.
//!
//! A stop sets a flag that each loop reads between two turns. A turn ends with a commit, so no work
//! is left half done. After the grace period, the supervisor leaves running threads to the
//! operating system: the next start recovers exactly as after a crash.
//!
//! Roles in one process are independent: a bug in `notifications` must not stop `orders`. With
//! [`Ends::Alone`], the other roles continue when a role ends. A role that ended with
//! [`FatalError::Failed`] is restarted, up to `RESTARTS` times in a row, as a service manager would
//! do. The process ends with the worst error of all roles, because an operator must see that error.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use engine::instance::{FatalError, Instance, TaskView};
use faults::crash::{self, Point};
use os::clock::wall_ms;
use ports::topics::TopicTable;

use super::status::{InputStatus, InstancePhase, InstanceStatus, TaskStatus, host};

/// Interval of status updates by the loop, and interval of status file writes, independent of the
/// loop.
const STATUS_EVERY: Duration = Duration::from_millis(500);
const SIGN_OF_LIFE: Duration = Duration::from_secs(1);

/// Interval of the reminder that a role has ended and others continue. Age up to which another
/// process's sign of life counts.
const REMIND: Duration = Duration::from_secs(600);
const FRESH_MS: i64 = 15_000;

/// Restarts in a row after a temporary failure. A run longer than [`CALM`] resets the count.
const RESTARTS: u32 = 10;
const CALM: Duration = Duration::from_secs(600);
const BACKOFF_MIN: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// Effect of one instance's end on the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ends {
    /// The first end stops the others.
    Together,
    /// The others continue, and an instance with a temporary failure is restarted.
    Alone,
}

/// A running set of instances.
pub struct Supervisor {
    stop: Arc<AtomicBool>,
    ends: Ends,
    members: Vec<RunningInstance>,
    ended: tokio::sync::mpsc::UnboundedReceiver<EndedInstance>,
    remind: Duration,
    _heart: Heart,
}

struct RunningInstance {
    name: String,
    thread: Option<JoinHandle<()>>,
    status: SharedStatus,
}

struct EndedInstance {
    name: String,
    result: Result<(), FatalError>,
}

/// An instance's status, shared by its loop, the thread that writes status files, and monitors.
type SharedStatus = Arc<Mutex<InstanceStatus>>;

fn lock(told: &SharedStatus) -> std::sync::MutexGuard<'_, InstanceStatus> {
    // A panic cannot leave plain data half written, so ignore the poison.
    told.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The statuses of running instances.
pub struct Monitor(Vec<SharedStatus>);

impl Monitor {
    /// The last report of every instance.
    pub fn statuses(&self) -> Vec<InstanceStatus> {
        self.0.iter().map(|s| lock(s).clone()).collect()
    }
}

/// The role, number and constructor of an instance.
pub struct InstanceSpec {
    pub role: &'static str,
    pub instance: u32,
    /// A stop makes the instance leave its consumer group.
    pub leave: bool,
    /// Makes the instance, in the thread of the instance. Called again for each restart.
    pub make: Box<dyn Fn() -> Result<Instance, FatalError> + Send>,
}

impl Supervisor {
    /// Starts a thread for every member. `state` is the root directory of the status files.
    pub fn start(
        members: Vec<InstanceSpec>,
        topics: Arc<TopicTable>,
        state: PathBuf,
        ends: Ends,
    ) -> Supervisor {
        let stop = Arc::new(AtomicBool::new(false));

        // A process with one role is restarted by its service manager.
        let ends = if members.len() < 2 {
            Ends::Together
        } else {
            ends
        };

        // The channel is unbounded, but each member sends exactly one message.
        let (send, ended) = tokio::sync::mpsc::unbounded_channel();
        let working = Arc::new(AtomicUsize::new(members.len()));
        let members: Vec<_> = members
            .into_iter()
            .map(|m| {
                let name = format!("{}-{}", m.role, m.instance);
                let status = Arc::new(Mutex::new(InstanceStatus {
                    role: m.role.to_string(),
                    instance: m.instance,
                    pid: std::process::id(),
                    host: host(),
                    since_ms: wall_ms(),
                    ..Default::default()
                }));

                let reporter = Reporter {
                    name: name.clone(),
                    status: status.clone(),
                    topics: topics.clone(),
                    state: state.clone(),
                    warned: false,
                };

                let stop = stop.clone();
                let tell = send.clone();
                let mine = name.clone();
                let working = working.clone();
                let live = move || {
                    let result = live(&m, &stop, reporter, ends, &working);

                    // The receiver is dropped only when the process ends.
                    tell.send(EndedInstance { name: mine, result })
                        .unwrap_or_default();
                };

                let thread = match std::thread::Builder::new().name(name.clone()).spawn(live) {
                    Ok(thread) => Some(thread),
                    Err(e) => {
                        let result = Err(FatalError::Failed(format!(
                            "no thread can be started for {name}: {e}"
                        )));
                        send.send(EndedInstance {
                            name: name.clone(),
                            result,
                        })
                        .unwrap_or_default();
                        None
                    }
                };

                RunningInstance {
                    name,
                    thread,
                    status,
                }
            })
            .collect();

        let heart = Heart::start(members.iter().map(|m| m.status.clone()).collect(), state);
        Supervisor {
            stop,
            ends,
            members,
            ended,
            remind: REMIND,
            _heart: heart,
        }
    }

    /// A view of the instances that outlives [`Supervisor::run`].
    pub fn monitor(&self) -> Monitor {
        Monitor(self.members.iter().map(|m| m.status.clone()).collect())
    }

    /// Waits until `until` resolves or the last instance has ended (the first, with
    /// [`Ends::Together`]). Then stops the remaining instances, within `grace`. Returns the worst
    /// error.
    pub async fn run(
        mut self,
        until: impl Future<Output = ()>,
        grace: Duration,
    ) -> Result<(), FatalError> {
        tokio::pin!(until);
        let mut left = self.members.len();
        let mut worst = Ok(());
        let mut gone = Vec::new();
        let mut remind =
            tokio::time::interval_at(tokio::time::Instant::now() + self.remind, self.remind);
        while left > 0 {
            let ended = tokio::select! {
                ended = self.ended.recv() => ended,
                () = &mut until => None,
                _ = remind.tick() => {
                    for said in &gone {
                        tracing::error!("{said}; {left} others of this process go on without it");
                    }

                    continue;
                }
            };

            let Some(ended) = ended else { break };
            left -= 1;
            if let Err(e) = &ended.result {
                gone.push(format!(
                    "{} has ended for good, and does not run until it is started again: {e}",
                    ended.name
                ));
            }

            settle(
                &mut worst,
                ended,
                if self.ends == Ends::Alone { left } else { 0 },
            );
            if self.ends == Ends::Together {
                break;
            }
        }

        self.stop.store(true, Ordering::Release);
        let deadline = tokio::time::Instant::now() + grace;
        while left > 0 {
            match tokio::time::timeout_at(deadline, self.ended.recv()).await {
                Ok(Some(ended)) => {
                    settle(&mut worst, ended, 0);
                    left -= 1;
                }
                Ok(None) => break,
                Err(_) => {
                    let names: Vec<_> = self
                        .members
                        .iter()
                        .filter(|m| !finished(m))
                        .map(|m| m.name.as_str())
                        .collect();
                    tracing::warn!(
                        ?names,
                        grace_ms = grace.as_millis() as u64,
                        "these instances did not stop in time; the process ends, and the next start fences them"
                    );
                    return worst;
                }
            }
        }

        for m in &mut self.members {
            if let Some(thread) = m.thread.take() {
                thread
                    .join()
                    .map_err(|_| FatalError::Bug(format!("{} panicked while closing", m.name)))?;
            }
        }

        worst
    }
}

/// Logs the end of an instance, and keeps the worst error.
fn settle(worst: &mut Result<(), FatalError>, ended: EndedInstance, others: usize) {
    let Err(e) = ended.result else { return };
    match others {
        0 => tracing::error!(instance = %ended.name, "{e}"),
        n => {
            tracing::error!(instance = %ended.name, "{e}; this role has ended for good, {n} others of this process go on")
        }
    }

    if worst
        .as_ref()
        .err()
        .is_none_or(|before| badness(before) < badness(&e))
    {
        *worst = Err(e);
    }
}

/// Severity of an error: a bug (exit code 70), then a wrong configuration (78), a takeover (75),
/// and a temporary failure (1).
fn badness(stop: &FatalError) -> u8 {
    match stop {
        FatalError::Failed(_) => 1,
        FatalError::Fenced(_) => 2,
        FatalError::Invalid(_) => 3,
        FatalError::Bug(_) | FatalError::Refused(_) => 4,
    }
}

fn finished(m: &RunningInstance) -> bool {
    m.thread.as_ref().is_none_or(JoinHandle::is_finished)
}

/// Runs a member, and restarts the member after a temporary failure, with [`Ends::Alone`].
///
/// `working`: number of members that run now. Ended members and members that wait for a restart do
/// not count. At 0 the process ends, and the service manager decides: if all roles fail, the cause
/// is the process (its disk, its brokers).
fn live(
    member: &InstanceSpec,
    stop: &AtomicBool,
    mut reporter: Reporter,
    ends: Ends,
    working: &AtomicUsize,
) -> Result<(), FatalError> {
    let mut restarts = Restarts::default();
    loop {
        let began = Instant::now();
        let run = std::panic::AssertUnwindSafe(|| run(member, stop, &mut reporter));
        let result = std::panic::catch_unwind(run).unwrap_or_else(|panic| {
            let text = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or(panic.downcast_ref::<&str>().copied());
            Err(FatalError::Bug(format!(
                "panicked: {}",
                text.unwrap_or("no message")
            )))
        });

        let others = working.fetch_sub(1, Ordering::AcqRel) - 1;
        let Err(FatalError::Failed(why)) = &result else {
            reporter.ended(result.as_ref().err());
            return result;
        };

        let Some(wait) = (ends == Ends::Alone && others > 0)
            .then(|| restarts.next(began.elapsed()))
            .flatten()
        else {
            reporter.ended(result.as_ref().err());
            return result;
        };

        tracing::error!(
            instance = %reporter.name,
            "{why}; this role has ended and is started again in {} s (start {} of {RESTARTS}); the others go on",
            wait.as_secs(),
            restarts.made
        );
        reporter.waiting(why);
        let until = Instant::now() + wait;
        while Instant::now() < until {
            if stop.load(Ordering::Acquire) {
                reporter.ended(None);
                return Ok(());
            }

            if working.load(Ordering::Acquire) == 0 {
                reporter.ended(result.as_ref().err());
                return result;
            }

            std::thread::sleep(Duration::from_millis(50));
        }

        working.fetch_add(1, Ordering::AcqRel);
    }
}

/// Counts the restarts of a role, and computes the backoff.
#[derive(Default)]
struct Restarts {
    made: u32,
}

impl Restarts {
    /// Backoff before the next restart; none after [`RESTARTS`] restarts in a row.
    fn next(&mut self, ran: Duration) -> Option<Duration> {
        if ran > CALM {
            self.made = 0;
        }

        let wait = BACKOFF_MIN
            .saturating_mul(1 << self.made.min(16))
            .min(BACKOFF_MAX);
        self.made += 1;
        (self.made <= RESTARTS).then_some(wait)
    }
}

fn run(
    member: &InstanceSpec,
    stop: &AtomicBool,
    reporter: &mut Reporter,
) -> Result<(), FatalError> {
    let mut instance = (member.make)()?;
    let mut reported: Option<(Instant, &'static str)> = None;
    while !stop.load(Ordering::Acquire) {
        let turn = instance.step();
        let phase = instance.phase();
        if turn.is_err()
            || reported.is_none_or(|(at, told)| told != phase || at.elapsed() >= STATUS_EVERY)
        {
            reported = Some((Instant::now(), phase));
            reporter.report(&instance);
        }

        turn?;
    }

    crash::point(Point::StopAsked);
    reporter.report(&instance);
    if member.leave {
        instance.leave();
        crash::point(Point::StopLeft);
    }

    Ok(())
}

/// Writes the status files of running instances, independent of the length of a turn.
struct Heart {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Heart {
    fn start(members: Vec<SharedStatus>, state: PathBuf) -> Heart {
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

struct Reporter {
    name: String,
    status: SharedStatus,
    topics: Arc<TopicTable>,
    state: PathBuf,
    warned: bool,
}

impl Reporter {
    fn report(&mut self, instance: &Instance) {
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
    fn waiting(&mut self, why: &str) {
        self.tell(InstancePhase::Recovering, Some(why.to_string()), |status| {
            status.tasks.clear()
        });
    }

    fn ended(&mut self, why: Option<&FatalError>) {
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

#[cfg(test)]
mod tests;
