//! Some calls of librdkafka ignore their time limit (adding offsets while the group's coordinator
//! dies can hang for ever). A thread watches them and ends the process when one overstays: that is
//! as safe as `kill -9`, which the recovery path handles anyway, and better than a member that
//! holds its partitions and does nothing.
//!
//! Time is counted in the watchdog's own ticks. A process that was frozen and thawed has not used
//! its time, although the clock says so.

use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

/// Exit code of a process that was ended because a call to Kafka hung (as for a temporary failure:
/// start it again).
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

            tracing::warn!("`{}` is taking unusually long", e.what);
            e.ticks_left = 600;
        }
    }
}

/// While it lives, the call it stands for is being watched.
pub(super) struct Guard(u64);

/// The process ends if the guard is still there after `limit`.
pub(super) fn exit_after(what: &'static str, limit: Duration) -> Guard {
    enter(what, limit, true)
}

/// A warning is logged if the guard is still there after `limit`, and again every minute.
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

/// Drops clients in a thread of its own: closing one can wait for a coordinator that is gone, and
/// the caller has work to do. The thread is left alone if it hangs; a static member sends no
/// farewell, so nothing depends on it.
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
