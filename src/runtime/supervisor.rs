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
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use engine::instance::{FatalError, Instance};
use faults::crash::{self, Point};
use os::clock::wall_ms;
use ports::topics::TopicTable;

mod report;

use report::{Heart, Reporter, SharedStatus, lock};

use super::status::{InstanceStatus, host};

/// Interval of status updates by the loop.
const STATUS_EVERY: Duration = Duration::from_millis(500);

/// Interval of the reminder that a role has ended and others continue.
const REMIND: Duration = Duration::from_secs(600);

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
        let starter = Starter {
            stop: stop.clone(),
            ends,
            working: Arc::new(AtomicUsize::new(members.len())),
            send,
            topics,
            state: state.clone(),
        };

        let members: Vec<_> = members.into_iter().map(|m| starter.start(m)).collect();
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
        self.watch(until.as_mut(), &mut left, &mut worst).await;
        self.stop.store(true, Ordering::Release);
        let in_time = self.stop_within(grace, left, &mut worst).await;
        if !in_time {
            return worst;
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

    /// Waits until `until` resolves, or no instance is left to wait for. Counts down `left`, the
    /// number of instances that have not ended.
    async fn watch(
        &mut self,
        mut until: Pin<&mut impl Future<Output = ()>>,
        left: &mut usize,
        worst: &mut Result<(), FatalError>,
    ) {
        let mut gone = Vec::new();
        let mut remind =
            tokio::time::interval_at(tokio::time::Instant::now() + self.remind, self.remind);
        while *left > 0 {
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
            *left -= 1;
            if let Err(e) = &ended.result {
                gone.push(format!(
                    "{} has ended for good, and does not run until it is started again: {e}",
                    ended.name
                ));
            }

            settle(
                worst,
                ended,
                if self.ends == Ends::Alone { *left } else { 0 },
            );
            if self.ends == Ends::Together {
                break;
            }
        }
    }

    /// Waits up to `grace` for the last `left` instances. Returns false if some of them still run.
    async fn stop_within(
        &mut self,
        grace: Duration,
        mut left: usize,
        worst: &mut Result<(), FatalError>,
    ) -> bool {
        let deadline = tokio::time::Instant::now() + grace;
        while left > 0 {
            match tokio::time::timeout_at(deadline, self.ended.recv()).await {
                Ok(Some(ended)) => {
                    settle(worst, ended, 0);
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
                    return false;
                }
            }
        }

        true
    }
}

/// Starts the threads of a supervisor's members.
struct Starter {
    stop: Arc<AtomicBool>,
    ends: Ends,
    /// Number of members that run; see [`live`].
    working: Arc<AtomicUsize>,
    send: tokio::sync::mpsc::UnboundedSender<EndedInstance>,
    topics: Arc<TopicTable>,
    state: PathBuf,
}

impl Starter {
    fn start(&self, m: InstanceSpec) -> RunningInstance {
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
            topics: self.topics.clone(),
            state: self.state.clone(),
            warned: false,
        };

        let stop = self.stop.clone();
        let ends = self.ends;
        let tell = self.send.clone();
        let mine = name.clone();
        let working = self.working.clone();
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
                self.send
                    .send(EndedInstance {
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

#[cfg(test)]
mod tests;
