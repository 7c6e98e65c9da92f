//! Runs the restorer: in its own thread, or without threads in slices of the loop's turn.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ports::{Clock, SpawnThread};

use super::{RestoreProgress, Restorer, RestorerReport, RestorerRequest};

/// Length of a slice of the loop's turn: without running tasks, and beside running tasks.
const ALONE: Duration = Duration::from_millis(200);
const BESIDE_TASKS: Duration = Duration::from_millis(10);
/// Length of a slice in the thread. The thread sees requests of the loop this late.
const SLICE: Duration = Duration::from_millis(100);
/// Longest wait of the thread for records, and for any work.
const WAIT: Duration = Duration::from_millis(20);
const IDLE: Duration = Duration::from_millis(50);
/// Longest pause after a slice while tasks run. On a machine short of processors the tasks get at
/// least half of the time.
const REST_MAX: Duration = Duration::from_millis(100);
/// Longest wait of the loop for the thread to close its stores at the end.
const CLOSING: Duration = Duration::from_secs(10);

/// Progress of restores and standbys, for people.
#[derive(Clone, Debug, Default)]
pub struct RestoreFigures {
    pub restores: BTreeMap<u32, RestoreProgress>,
    pub standbys: BTreeMap<u32, RestoreProgress>,
}

/// The loop's handle of the restorer.
pub enum RestorerHandle {
    /// The restorer runs in the loop's turns.
    Turns {
        restorer: Box<Restorer>,
        /// True if the last slice found work.
        busy: bool,
    },
    /// The restorer runs in a thread.
    Thread(RestoreThread),
}

/// The loop's handle of the restorer thread.
pub struct RestoreThread {
    requests: Option<Sender<RestorerRequest>>,
    reports: Receiver<RestorerReport>,
    shown: Arc<Mutex<RestoreFigures>>,
    /// Disconnected after the thread has closed its stores.
    ended: Receiver<()>,
}

impl RestorerHandle {
    /// Moves the restorer into its own thread.
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

    /// Sends a request to the restorer. An error means that the restorer's thread has
    /// panicked.
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

    /// True if the loop must not wait: restores in the loop's turns have work.
    pub fn needs_turns(&self) -> bool {
        matches!(self, RestorerHandle::Turns { restorer, busy: true } if restorer.is_restoring())
    }

    /// Results of restores since the last call. `tasks` is the number of running tasks.
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

    /// Progress of restores and standbys.
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
    /// Waits until the thread has closed the stores, so that the next opener in this process finds
    /// them free.
    fn drop(&mut self) {
        drop(self.requests.take());

        // Disconnected: the thread has ended. Timeout: the thread hangs in a call to the log, and
        // the end of the process closes the stores.
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
