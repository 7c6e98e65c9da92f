//! SIGINT and SIGTERM: the first asks for a graceful stop, the second ends the process at once (which is safe: it is a crash like any other).

use crate::engine::instance::Stop;

/// Exit code of a forced stop.
pub const FORCED: i32 = 130;

/// Resolves at the first signal; from then on a second one ends the process with [`FORCED`]. Call it inside a tokio runtime.
pub fn first_of() -> Result<impl Future<Output = ()>, Stop> {
    use tokio::signal::unix::{SignalKind, signal};
    let failed = |e: std::io::Error| Stop::Failed(format!("cannot listen for signals: {e}"));
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let (send, received) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let mut send = Some(send);
        loop {
            tokio::select! { _ = interrupt.recv() => (), _ = terminate.recv() => () }
            let Some(first) = send.take() else { std::process::exit(FORCED) };
            eprintln!("stopping; a second signal ends it at once");
            // Nobody listens any more only when the process is ending anyway.
            first.send(()).unwrap_or_default();
        }
    });
    Ok(async move {
        // The sender lives as long as the runtime; if it is gone, that is a stop too.
        received.await.unwrap_or_default();
    })
}
