//! SIGINT and SIGTERM: the first asks for a graceful stop, the second ends the process at once (which is safe: it is a crash like any other).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::engine::instance::Stop;

/// Exit code of a forced stop.
pub const FORCED: i32 = 130;

fn failed(e: std::io::Error) -> Stop {
    Stop::Failed(format!("cannot listen for signals: {e}"))
}

/// Resolves at the first signal; from then on a second one ends the process with [`FORCED`]. Call it inside a tokio runtime.
pub fn first_of() -> Result<impl Future<Output = ()>, Stop> {
    use tokio::signal::unix::{SignalKind, signal};
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

/// The same for work that has no runtime and looks between two steps: true after the first signal.
pub fn flag() -> Result<Arc<AtomicBool>, Stop> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
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
    std::thread::Builder::new().name("signals".into()).spawn(listen).map_err(failed)?;
    Ok(flag)
}
