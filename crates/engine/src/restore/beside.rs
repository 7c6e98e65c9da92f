//! Where the restorer runs: in a thread of its own, or, where there are no threads, in slices of
//! the loop's turn.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::{RestoreProgress, Restorer, RestorerReport, RestorerRequest};
use ports::{Clock, SpawnThread};

/// A slice of the loop's turn, while no task runs and while some do.
const ALONE: Duration = Duration::from_millis(200);
const BESIDE_TASKS: Duration = Duration::from_millis(10);
/// A slice in the thread: requests of the loop are seen this late.
const SLICE: Duration = Duration::from_millis(100);
/// Longest wait of the thread for records, and for something to do.
const WAIT: Duration = Duration::from_millis(20);
const IDLE: Duration = Duration::from_millis(50);
/// Longest rest after a slice, while tasks run: they get at least every other moment of a machine
/// that is short of processors.
const REST_MAX: Duration = Duration::from_millis(100);
/// How long the loop waits for the thread to close its stores when it ends itself.
const CLOSING: Duration = Duration::from_secs(10);

/// How far restores and standbys are, for people.
#[derive(Clone, Debug, Default)]
pub struct RestoreFigures {
    /// By task.
    pub restores: BTreeMap<u32, RestoreProgress>,
    /// By task.
    pub standbys: BTreeMap<u32, RestoreProgress>,
}

/// The loop's end of it.
pub enum RestorerHandle {
    /// In the loop's own turns.
    Turns {
        /// The restorer.
        restorer: Box<Restorer>,
        /// Whether the last slice found something to do.
        busy: bool,
    },
    /// In a thread.
    Thread(RestoreThread),
}

/// The loop's end of the thread that restores.
pub struct RestoreThread {
    requests: Option<Sender<RestorerRequest>>,
    reports: Receiver<RestorerReport>,
    shown: Arc<Mutex<RestoreFigures>>,
    /// Closed when the thread has closed its stores.
    ended: Receiver<()>,
}

impl RestorerHandle {
    /// Moves the restorer into a thread of its own.
    pub fn into_thread(
        self,
        name: String,
        clock: Arc<dyn Clock>,
        spawn: SpawnThread,
    ) -> std::io::Result<RestorerHandle> {
        let RestorerHandle::Turns { restorer, .. } = self else {
            return Ok(self);
        };

        let (requests, theirs) = channel();
        let (theirs_too, reports) = channel();
        let (at_the_end, ended) = channel();
        let shown = Arc::new(Mutex::new(RestoreFigures::default()));
        let shows = shown.clone();
        let end = at_the_end;
        spawn(
            name,
            Box::new(move || {
                run(*restorer, &*clock, &theirs, &theirs_too, &shows);
                drop::<Sender<()>>(end);
            }),
        )?;

        Ok(RestorerHandle::Thread(RestoreThread {
            requests: Some(requests),
            reports,
            shown,
            ended,
        }))
    }

    /// Tells the restorer something. One that is gone has panicked, which its own thread has said.
    pub fn send(&mut self, request: RestorerRequest, clock: &dyn Clock) -> Result<(), String> {
        match self {
            RestorerHandle::Turns { restorer, busy } => {
                *busy = true;
                restorer.request(request, clock);
                Ok(())
            }
            RestorerHandle::Thread(there) => match there.requests.as_ref().map(|r| r.send(request))
            {
                Some(Ok(())) => Ok(()),
                _ => Err("the restorer has ended".into()),
            },
        }
    }

    /// Whether the loop must come round at once: restores are done in its turns, and have something
    /// to do.
    pub fn needs_turns(&self) -> bool {
        matches!(self, RestorerHandle::Turns { restorer, busy: true } if restorer.is_restoring())
    }

    /// Results of restores since the last call; `tasks`: how many tasks run.
    pub fn reports(&mut self, clock: &dyn Clock, tasks: usize) -> Vec<RestorerReport> {
        match self {
            RestorerHandle::Turns { restorer, busy } => {
                let mut reports = Vec::new();
                if restorer.is_restoring() || restorer.has_standbys() {
                    let (budget, wait) = if tasks == 0 && restorer.is_restoring() {
                        (ALONE, WAIT)
                    } else {
                        (BESIDE_TASKS, Duration::ZERO)
                    };

                    *busy = restorer.step(clock, budget, wait, &mut reports);
                }

                reports
            }
            RestorerHandle::Thread(there) => there.reports.try_iter().collect(),
        }
    }

    /// How far it is.
    pub fn shown(&self) -> RestoreFigures {
        match self {
            RestorerHandle::Turns { restorer, .. } => {
                let (restores, standbys) = restorer.progress();
                RestoreFigures { restores, standbys }
            }
            RestorerHandle::Thread(there) => there
                .shown
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone(),
        }
    }
}

impl Drop for RestoreThread {
    /// Waits until the stores are closed, so that whoever opens them next in this process finds
    /// them free.
    fn drop(&mut self) {
        drop(self.requests.take());

        // Disconnected: it is through. Too late: it hangs in a call to the log, and the process's
        // end closes what is open.
        let _late: Result<(), RecvTimeoutError> = self.ended.recv_timeout(CLOSING);
    }
}

fn run(
    mut restorer: Restorer,
    clock: &dyn Clock,
    requests: &Receiver<RestorerRequest>,
    reports: &Sender<RestorerReport>,
    shown: &Mutex<RestoreFigures>,
) {
    let mut out = Vec::new();
    loop {
        loop {
            match requests.try_recv() {
                Ok(request) => restorer.request(request, clock),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return,
            }
        }

        let began_us = clock.now_us();
        let worked = restorer.step(clock, SLICE, WAIT, &mut out);
        let took = Duration::from_micros(clock.now_us() - began_us);
        for report in out.drain(..) {
            if reports.send(report).is_err() {
                return;
            }
        }

        {
            let (restores, standbys) = restorer.progress();
            *shown.lock().unwrap_or_else(PoisonError::into_inner) =
                RestoreFigures { restores, standbys };
        }

        let wait = match (worked, restorer.running() > 0) {
            (true, true) => took.min(REST_MAX),
            (true, false) => continue,
            (false, _) if restorer.is_restoring() => WAIT / 4,
            (false, _) if restorer.has_standbys() => WAIT / 4,
            (false, _) => IDLE,
        };

        match requests.recv_timeout(wait) {
            Ok(request) => restorer.request(request, clock),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}
