//! Ends the process when a call of librdkafka hangs. Some calls ignore their time limit: adding
//! offsets while the group coordinator dies can hang for ever. An exit is as safe as `kill -9`,
//! which the recovery path handles. A hanging member would keep its partitions and do nothing.
//!
//! The watchdog counts its own ticks. A process that was frozen and resumed has not used the call's
//! time, although the clock says so.

use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

/// Exit code of a process that ended because a call to Kafka hung. The code means a temporary
/// failure: restart the process.
pub const EXIT_STUCK: i32 = 1;

const TICK: Duration = Duration::from_millis(100);

struct WatchedCall {
    id: u64,
    what: &'static str,
    ticks_left: u64,
    exits: bool,
}

#[derive(Default)]
struct Watched {
    entries: Vec<WatchedCall>,
    next_id: u64,
}

fn watched() -> &'static Mutex<Watched> {
    static WATCHED: OnceLock<Mutex<Watched>> = OnceLock::new();
    WATCHED.get_or_init(|| {
        let started = std::thread::Builder::new()
            .name("kafka-watchdog".into())
            .spawn(watch);
        if let Err(e) = started {
            tracing::warn!("no watchdog over calls to Kafka: {e}");
        }

        Mutex::new(Watched::default())
    })
}

fn watch() {
    loop {
        std::thread::sleep(TICK);
        let mut w = watched().lock().unwrap_or_else(PoisonError::into_inner);
        for e in &mut w.entries {
            if e.ticks_left > 0 {
                e.ticks_left -= 1;
                continue;
            }

            if e.exits {
                tracing::error!(
                    "`{}` has not returned within its time; ending the process, start it again (exit code {EXIT_STUCK})",
                    e.what
                );
                std::process::exit(EXIT_STUCK);
            }

            tracing::warn!("`{}` takes longer than expected; still waiting", e.what);
            e.ticks_left = 600;
        }
    }
}

/// The watchdog watches the call as long as the guard lives.
pub(super) struct Guard(u64);

/// Ends the process if the guard still exists after `limit`.
pub(super) fn exit_after(what: &'static str, limit: Duration) -> Guard {
    enter(what, limit, true)
}

/// Logs a warning if the guard still exists after `limit`, and again every minute.
pub(super) fn warn_after(what: &'static str, limit: Duration) -> Guard {
    enter(what, limit, false)
}

fn enter(what: &'static str, limit: Duration, exits: bool) -> Guard {
    let ticks_left = u64::try_from(limit.as_millis() / TICK.as_millis()).unwrap_or(u64::MAX);
    let mut w = watched().lock().unwrap_or_else(PoisonError::into_inner);
    w.next_id += 1;
    let id = w.next_id;
    w.entries.push(WatchedCall {
        id,
        what,
        ticks_left,
        exits,
    });

    Guard(id)
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut w = watched().lock().unwrap_or_else(PoisonError::into_inner);
        w.entries.retain(|e| e.id != self.0);
    }
}

/// Drops clients in a separate thread. Closing a client can wait for a dead coordinator, and the
/// caller has work to do. A hanging thread is left alone: a static member sends no LeaveGroup on
/// close (KIP-345), so nothing depends on the close.
pub(super) fn drop_aside<T: Send + 'static>(what: &'static str, clients: T) {
    let work = move || {
        let _guard = warn_after(what, Duration::from_secs(30));
        drop(clients);
    };

    if let Err(e) = std::thread::Builder::new()
        .name("kafka-close".into())
        .spawn(work)
    {
        tracing::warn!("no thread to close a client: {e}");
    }
}
