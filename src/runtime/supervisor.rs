//! Runs instances, one thread each, until a signal, the end of a given time, or the first of them to stop for good.
//!
//! A stop is asked for by a flag that each loop sees between two turns; a turn ends with a commit, so nothing is left half done. What does not end
//! within the grace is left to the operating system: the next start recovers exactly as after a crash.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::clock::wall_ms;
use super::status::{InputStatus, InstanceStatus, State, TaskStatus};
use crate::engine::crash::{self, Point};
use crate::engine::instance::{Instance, Stop, TaskView};
use crate::engine::topics::TopicTable;

/// How often a status file is written.
const STATUS_EVERY: Duration = Duration::from_millis(500);

/// A running set of instances.
pub struct Supervisor {
    stop: Arc<AtomicBool>,
    members: Vec<Running>,
    ended: tokio::sync::mpsc::UnboundedReceiver<Ended>,
}

struct Running {
    name: String,
    thread: Option<std::thread::JoinHandle<()>>,
    status: Arc<Mutex<InstanceStatus>>,
}

struct Ended {
    name: String,
    result: Result<(), Stop>,
}

/// What running instances say of themselves.
pub struct Monitor(Vec<Arc<Mutex<InstanceStatus>>>);

impl Monitor {
    /// Every instance as of its last report.
    pub fn statuses(&self) -> Vec<InstanceStatus> {
        self.0.iter().map(|s| s.lock().expect("a status is plain data").clone()).collect()
    }
}

/// One instance to run and how it is called.
pub struct Member {
    /// Role name.
    pub role: &'static str,
    /// Instance number.
    pub instance: u32,
    /// Whether it leaves its group when it is stopped.
    pub leave: bool,
    /// Makes the instance, in its own thread.
    pub make: Box<dyn FnOnce() -> Result<Instance, Stop> + Send>,
}

impl Supervisor {
    /// Starts a thread for every member. `state` is where status files go.
    pub fn start(members: Vec<Member>, topics: Arc<TopicTable>, state: PathBuf) -> Supervisor {
        let stop = Arc::new(AtomicBool::new(false));
        // Unbounded, but each member sends exactly one message.
        let (send, ended) = tokio::sync::mpsc::unbounded_channel();
        let members = members
            .into_iter()
            .map(|m| {
                let name = format!("{}-{}", m.role, m.instance);
                let status = Arc::new(Mutex::new(InstanceStatus {
                    role: m.role.to_string(),
                    instance: m.instance,
                    pid: std::process::id(),
                    since_ms: wall_ms(),
                    ..Default::default()
                }));
                let reporter = Reporter { status: status.clone(), topics: topics.clone(), state: state.clone(), warned: false };
                let (stop, send, thread_name) = (stop.clone(), send.clone(), name.clone());
                let thread = std::thread::Builder::new().name(name.clone()).spawn(move || {
                    let run = std::panic::AssertUnwindSafe(|| run(m.make, m.leave, &stop, reporter));
                    let result = std::panic::catch_unwind(run).unwrap_or_else(|panic| {
                        let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
                        Err(Stop::Bug(format!("panicked: {}", text.unwrap_or("no message"))))
                    });
                    // The receiver is gone only when the process is on its way out.
                    send.send(Ended { name: thread_name, result }).unwrap_or_default();
                });
                Running { name, thread: Some(thread.expect("a thread can be started")), status }
            })
            .collect();
        Supervisor { stop, members, ended }
    }

    /// A view of the instances that outlives [`Supervisor::run`].
    pub fn monitor(&self) -> Monitor {
        Monitor(self.members.iter().map(|m| m.status.clone()).collect())
    }

    /// Waits until one instance stops for good (its reason) or `until` is over (`Ok`), then stops the others within `grace`.
    pub async fn run(mut self, until: impl Future<Output = ()>, grace: Duration) -> Result<(), Stop> {
        let first = tokio::select! {
            ended = self.ended.recv() => ended,
            () = until => None,
        };
        self.stop.store(true, Ordering::Release);
        let mut result = Ok(());
        let mut left = self.members.len();
        let mut settle = |ended: Ended| {
            if let Err(e) = ended.result {
                tracing::error!(instance = %ended.name, "{e}");
                if result.is_ok() {
                    result = Err(e);
                }
            }
        };
        if let Some(ended) = first {
            settle(ended);
            left -= 1;
        }
        let deadline = tokio::time::Instant::now() + grace;
        while left > 0 {
            match tokio::time::timeout_at(deadline, self.ended.recv()).await {
                Ok(Some(ended)) => {
                    settle(ended);
                    left -= 1;
                }
                Ok(None) => break,
                Err(_) => {
                    let names: Vec<_> = self.members.iter().filter(|m| !finished(m)).map(|m| m.name.as_str()).collect();
                    tracing::warn!(?names, grace_ms = grace.as_millis() as u64, "did not stop in time; leaving it to the next start");
                    return result;
                }
            }
        }
        for m in &mut self.members {
            if let Some(thread) = m.thread.take() {
                thread.join().map_err(|_| Stop::Bug(format!("{} panicked while closing", m.name)))?;
            }
        }
        result
    }
}

fn finished(m: &Running) -> bool {
    m.thread.as_ref().is_none_or(std::thread::JoinHandle::is_finished)
}

fn run(make: impl FnOnce() -> Result<Instance, Stop>, leave: bool, stop: &AtomicBool, mut reporter: Reporter) -> Result<(), Stop> {
    let mut instance = make()?;
    let mut reported: Option<(Instant, &'static str)> = None;
    while !stop.load(Ordering::Acquire) {
        let turn = instance.step();
        let phase = instance.phase();
        if turn.is_err() || reported.is_none_or(|(at, told)| told != phase || at.elapsed() >= STATUS_EVERY) {
            reported = Some((Instant::now(), phase));
            reporter.report(&instance, turn.is_err());
        }
        turn?;
    }
    crash::point(Point::StopAsked);
    reporter.report(&instance, true);
    if leave {
        instance.leave();
    }
    Ok(())
}

struct Reporter {
    status: Arc<Mutex<InstanceStatus>>,
    topics: Arc<TopicTable>,
    state: PathBuf,
    warned: bool,
}

impl Reporter {
    fn report(&mut self, instance: &Instance, stopped: bool) {
        let state = match instance.phase() {
            _ if stopped => State::Stopped,
            "running" => State::Running,
            "restoring" => State::Restoring,
            "recovering" => State::Recovering,
            _ => State::Joining,
        };
        let tasks = instance.tasks().into_iter().map(|(task, view)| self.task(task, view)).collect();
        let counters = instance.counters();
        let mut status = self.status.lock().expect("a status is plain data");
        let now = wall_ms();
        if status.state != state {
            status.since_ms = now;
        }
        (status.state, status.updated_ms, status.tasks, status.counters) = (state, now, tasks, counters);
        status.trouble = instance.trouble().map(str::to_string);
        if let Err(e) = status.write(&self.state)
            && !std::mem::replace(&mut self.warned, true)
        {
            tracing::warn!("cannot write the status file: {e}; `processor status` will not see this instance");
        }
    }

    fn task(&self, task: u32, view: TaskView) -> TaskStatus {
        match view {
            TaskView::Restoring(p) => {
                TaskStatus { task, state: State::Restoring, restored: p.at, restore_end: p.end, ..Default::default() }
            }
            TaskView::Standby(p) => TaskStatus { task, state: State::Standby, restored: p.at, restore_end: p.end, ..Default::default() },
            TaskView::Running { transaction, digest, inputs } => TaskStatus {
                task,
                state: State::Running,
                transaction,
                digest,
                inputs: inputs
                    .into_iter()
                    .map(|(at, next)| InputStatus { topic: self.topics.name(at.topic).to_string(), partition: at.partition, next })
                    .collect(),
                ..Default::default()
            },
        }
    }
}
