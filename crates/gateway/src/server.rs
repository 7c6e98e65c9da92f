//! Accepts connections up to a bound. Each connection has small buffers, and ends with its stream.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use ports::LogError;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;

use crate::admission::{HalfOpenPeers, HalfOpenPlace};
use crate::connection_slot::ConnectionSlot;
use crate::context::GatewayContext;
use crate::router::{self, RequestContext};
use crate::settings::GatewaySettings;
use crate::write_timeout::Unread;
use crate::writer::Writers;

/// Maximum number of connections in the kernel's accept queue.
const BACKLOG: u32 = 1024;
/// Longest time for a client to send its request, and to send the next request.
const REQUEST_WAIT: Duration = Duration::from_secs(30);
/// Bytes of a response that are buffered before the client has to read.
const BUFFER: usize = 16 << 10;
const TOKENS_EVERY: Duration = Duration::from_secs(2);

/// Opens the listening socket.
pub(crate) fn bind(settings: &GatewaySettings) -> Result<TcpListener, LogError> {
    let listen = || {
        let socket = if settings.listen.is_ipv4() {
            TcpSocket::new_v4()?
        } else {
            TcpSocket::new_v6()?
        };

        socket.set_reuseaddr(true)?;

        // Accepted connections inherit this size. Without a bound, the kernel buffers megabytes for
        // a client that does not read.
        socket.set_send_buffer_size(settings.send_buffer)?;
        socket.bind(settings.listen)?;
        socket.listen(BACKLOG)
    };

    listen().map_err(|e: std::io::Error| {
        LogError::Invalid(format!(
            "cannot listen on {}: {e}; choose another with --listen",
            settings.listen
        ))
    })
}

/// Accepts connections until the gateway stops. Then open connections have `grace` to end.
pub(crate) async fn serve(gateway: Arc<GatewayContext>, writers: Writers, listener: TcpListener) {
    let places = Arc::new(Semaphore::new(gateway.settings.connections));
    let half_open = HalfOpenPeers::new(gateway.settings.half_open_per_address);
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = gateway.stopping() => break,
        };

        while connections.try_join_next().is_some() {}
        let (stream, from) = match accepted {
            Ok(accepted) => accepted,
            Err(e) => {
                // Most likely the process has no free file descriptor: wait until other connections
                // end.
                tracing::warn!("cannot accept a connection: {e}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };

        let Ok(place) = places.clone().try_acquire_owned() else {
            gateway.metrics.refused.fetch_add(1, Ordering::Relaxed);
            connections.spawn(refuse(
                stream,
                "there are too many connections (--max-connections); come back later",
            ));
            continue;
        };

        let Some(waits) = half_open.enter(from.ip()) else {
            gateway.metrics.half_open.fetch_add(1, Ordering::Relaxed);
            connections.spawn(refuse(
                stream,
                "this address has too many connections without a request; come back later",
            ));
            continue;
        };

        let gateway = gateway.clone();
        let writers = writers.clone();
        connections.spawn(async move {
            let place = ConnectionSlot::take(&gateway, place);
            let opened = Opened { place, waits };
            connection(gateway, writers, stream, from, opened).await;
        });
    }

    drop(listener);

    // Wait until all slots are free, including the slots of WebSockets.
    let all = places.acquire_many(u32::try_from(gateway.settings.connections).unwrap_or(u32::MAX));
    if tokio::time::timeout(gateway.settings.grace, all)
        .await
        .is_err()
    {
        connections.shutdown().await;
    }
}

async fn refuse(mut stream: TcpStream, message: &str) {
    let body = json!({ "error": "UNAVAILABLE", "message": message });
    let body = format!("{body}\n");
    let status = "HTTP/1.1 503 Service Unavailable";
    let headers = format!(
        "retry-after: 5\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}",
        body.len()
    );
    let answer = format!("{status}\r\n{headers}\r\n\r\n{body}");
    let work = async {
        // Read the request before answering. Closing a socket with unread data causes a TCP reset,
        // and the client would lose the response. A part of the request is enough, because every
        // request gets the same response.
        let _asked = stream.read(&mut [0; 4096]).await?;
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await
    };

    // Best effort: the client may not get the response.
    drop(tokio::time::timeout(Duration::from_secs(1), work).await);
}

/// The places of a connection that was let in.
struct Opened {
    place: Arc<ConnectionSlot>,
    /// Held until the first request.
    waits: HalfOpenPlace,
}

async fn connection(
    gateway: Arc<GatewayContext>,
    writers: Writers,
    stream: TcpStream,
    from: SocketAddr,
    opened: Opened,
) {
    let Opened { place, waits } = opened;
    let waits = Mutex::new(Some(waits));
    if let Err(e) = stream.set_nodelay(true) {
        tracing::debug!(%from, "no TCP_NODELAY: {e}");
    }

    let kill = Arc::new(Notify::new());
    let io = TokioIo::new(Unread::new(
        stream,
        gateway.settings.stall,
        place.stream_flag(),
    ));
    let service = service_fn(|request| {
        drop(waits.lock().expect("plain data").take());
        let context = RequestContext {
            gateway: gateway.clone(),
            writers: writers.clone(),
            kill: kill.clone(),
            slot: place.clone(),
            peer: from.ip(),
        };
        async move { Ok::<_, Infallible>(router::answer(context, request).await) }
    });

    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_WAIT)
        .max_buf_size(BUFFER);
    let mut serving = std::pin::pin!(builder.serve_connection(io, service).with_upgrades());
    let mut stopping = false;
    loop {
        tokio::select! {
            ended = &mut serving => {
                if let Err(e) = ended {
                    tracing::debug!(%from, "a connection ended: {e}");
                }

                return;
            }
            () = kill.notified() => return,
            () = gateway.stopping(), if !stopping => {
                stopping = true;
                serving.as_mut().graceful_shutdown();
            }
        }
    }
}

/// Reloads the token file if the file has changed, until the gateway stops.
pub(crate) async fn watch_tokens(gateway: Arc<GatewayContext>) {
    while gateway.access.needs_token() {
        tokio::select! {
            () = tokio::time::sleep(TOKENS_EVERY) => {}
            () = gateway.stopping() => return,
        }
        match gateway.access.reload() {
            Ok(None) => {}
            Ok(Some(0)) => tracing::warn!(
                "the token file has no token any more, or is gone: nobody is let in until it has one"
            ),
            Ok(Some(tokens)) => tracing::info!(tokens, "the token file was read again"),
            Err(e) => {
                tracing::error!(
                    "the token file cannot be used: {e}; the tokens that were read before stay in force"
                )
            }
        }
    }
}
