//! SIGINT, SIGTERM and SIGHUP: the first signal asks for a graceful stop. The second signal ends
//! the process at once, which is as safe as a crash.
//!
//! SIGHUP is handled like the other two: the terminal or the connection is gone, or a service
//! manager asks for a reload. Without a handler, systemd counts an end by SIGHUP as a success.
//! Under `nohup`, SIGHUP stays ignored. Every Rust program ignores SIGPIPE. SIGQUIT keeps its
//! default: the process ends at once, with a core dump if the machine writes core dumps.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use engine::instance::FatalError;

use super::stderr;

pub const FORCED: i32 = 130;

fn failed(e: std::io::Error) -> FatalError {
    FatalError::Failed(format!("cannot listen for signals: {e}"))
}

/// Resolves at the first signal; a second signal then ends the process with [`FORCED`]. Call inside
/// a tokio runtime.
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

            // The receiver is dropped only when the process ends.
            first.send(()).unwrap_or_default();
        }
    });

    Ok(async move {
        // The sender lives as long as the runtime. A dropped sender means a stop, too.
        received.await.unwrap_or_default();
    })
}

/// True if the process was started with SIGHUP ignored (`nohup`). Read before the first handler is
/// installed, because a handler ends the ignoring. False if the system does not show the mask.
fn hangup_is_ignored() -> bool {
    static IGNORED: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *IGNORED.get_or_init(|| {
        std::fs::read_to_string("/proc/self/status").is_ok_and(|status| ignores_hangup(&status))
    })
}

/// SIGHUP is signal 1: the lowest bit of the mask.
fn ignores_hangup(status: &str) -> bool {
    let mask = status
        .lines()
        .find_map(|l| l.strip_prefix("SigIgn:"))
        .map(str::trim);
    mask.and_then(|m| u64::from_str_radix(m, 16).ok())
        .is_some_and(|m| m & 1 == 1)
}

/// Like [`first_of`], for work without a runtime: the flag is true after the first signal. The work
/// reads the flag between two steps.
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

            // Keep the runtime alive, so that the second signal is handled.
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
