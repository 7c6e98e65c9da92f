//! SIGINT, SIGTERM and SIGHUP: the first asks for a graceful stop, the second ends the process at
//! once (which is safe: it is a crash like any other).
//!
//! A hangup (the terminal or the connection went away, or a service manager was told to reload) is
//! a stop like any other: ended by the signal itself, a process looks to systemd as if it had ended
//! well. Under `nohup` hangups are ignored, as they were meant to be. SIGPIPE is ignored by every
//! Rust program; SIGQUIT keeps its meaning, which is to end at once, with a core dump where the
//! machine keeps these.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::stderr;
use engine::instance::FatalError;

/// Exit code of a forced stop.
pub const FORCED: i32 = 130;

fn failed(e: std::io::Error) -> FatalError {
    FatalError::Failed(format!("cannot listen for signals: {e}"))
}

/// Resolves at the first signal; from then on a second one ends the process with [`FORCED`]. Call
/// it inside a tokio runtime.
pub fn first_of() -> Result<impl Future<Output = ()>, FatalError> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut hangup = if hangup_is_ignored() {
        None
    } else {
        Some(signal(SignalKind::hangup()).map_err(failed)?)
    };

    let (send, received) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let mut send = Some(send);
        loop {
            let hung_up = async {
                match &mut hangup {
                    Some(hangup) => hangup.recv().await,
                    None => std::future::pending().await,
                }
            };

            tokio::select! { _ = interrupt.recv() => (), _ = terminate.recv() => (), _ = hung_up => () }
            let Some(first) = send.take() else {
                std::process::exit(FORCED)
            };

            stderr::note("stopping; a second signal ends it at once");

            // Nobody listens any more only when the process is ending anyway.
            first.send(()).unwrap_or_default();
        }
    });

    Ok(async move {
        // The sender lives as long as the runtime; if it is gone, that is a stop too.
        received.await.unwrap_or_default();
    })
}

/// Whether this process was started with hangups ignored (`nohup`). Asked before we listen for
/// them, which would end that. Where the system does not say, they are not.
fn hangup_is_ignored() -> bool {
    static IGNORED: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *IGNORED.get_or_init(|| {
        std::fs::read_to_string("/proc/self/status").is_ok_and(|status| ignores_hangup(&status))
    })
}

/// Signal 1 is the lowest bit of the mask.
fn ignores_hangup(status: &str) -> bool {
    let mask = status
        .lines()
        .find_map(|l| l.strip_prefix("SigIgn:"))
        .map(str::trim);
    mask.and_then(|m| u64::from_str_radix(m, 16).ok())
        .is_some_and(|m| m & 1 == 1)
}

/// The same for work that has no runtime and looks between two steps: true after the first signal.
pub fn flag() -> Result<Arc<AtomicBool>, FatalError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(failed)?;
    let first = {
        let _inside = runtime.enter();
        first_of()?
    };

    let flag = Arc::new(AtomicBool::new(false));
    let seen = flag.clone();
    let listen = move || {
        runtime.block_on(async {
            first.await;
            seen.store(true, Ordering::Release);

            // Goes on listening for the second one.
            std::future::pending::<()>().await;
        });
    };

    std::thread::Builder::new()
        .name("signals".into())
        .spawn(listen)
        .map_err(failed)?;
    Ok(flag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nohup_has_set() {
        assert!(ignores_hangup(
            "Name:\tprocessor\nSigIgn:\t0000000000001001\n"
        ));
        assert!(
            !ignores_hangup("Name:\tprocessor\nSigIgn:\t0000000000001000\n")
                && !ignores_hangup("")
                && !ignores_hangup("SigIgn: x")
        );
    }
}
