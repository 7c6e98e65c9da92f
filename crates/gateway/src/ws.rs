//! A stream over a WebSocket (RFC 6455): one JSON text message for each notification, ping and pong
//! as heartbeat, and a close frame whose reason names the sequence to resume from.

use std::sync::Arc;

use futures_util::{SinkExt, StreamExt};
use hyper::header::{
    CONNECTION, HeaderMap, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::sync::Notify;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message as Frame};

use crate::stream::{End, Outgoing, StreamMessage};

/// Maximum size of a client's message. A client needs only pongs and a close.
const INCOMING_MAX: usize = 4 << 10;

/// Response headers of a WebSocket handshake, or the error in the handshake.
pub(crate) fn accept(
    headers: &HeaderMap,
) -> Result<[(hyper::header::HeaderName, HeaderValue); 3], &'static str> {
    // A header may occur several times, each time with a list (RFC 9110).
    let has = |name, word: &str| {
        let lines = headers
            .get_all(name)
            .iter()
            .filter_map(|v: &HeaderValue| v.to_str().ok());
        lines
            .flat_map(|line| line.split(','))
            .any(|w| w.trim().eq_ignore_ascii_case(word))
    };

    if !has(UPGRADE, "websocket") || !has(CONNECTION, "upgrade") {
        return Err(
            "this path speaks WebSocket: connect with a WebSocket client, or take the path without /ws for Server-Sent Events",
        );
    }

    if !has(SEC_WEBSOCKET_VERSION, "13") {
        return Err("only version 13 of the WebSocket protocol is spoken here");
    }

    let key = headers
        .get(SEC_WEBSOCKET_KEY)
        .ok_or("Sec-WebSocket-Key is missing")?;
    let accept = HeaderValue::from_str(&derive_accept_key(key.as_bytes()))
        .map_err(|_| "Sec-WebSocket-Key is not valid")?;
    Ok([
        (UPGRADE, HeaderValue::from_static("websocket")),
        (CONNECTION, HeaderValue::from_static("Upgrade")),
        (SEC_WEBSOCKET_ACCEPT, accept),
    ])
}

/// Runs the stream after the protocol upgrade.
pub(crate) async fn run(
    upgrade: OnUpgrade,
    user: String,
    mut outgoing: Outgoing,
    kill: Arc<Notify>,
) {
    let io = match upgrade.await {
        Ok(io) => TokioIo::new(io),
        Err(e) => return tracing::debug!("a WebSocket was not taken up: {e}"),
    };

    let config = WebSocketConfig::default()
        .write_buffer_size(0)
        .read_buffer_size(INCOMING_MAX)
        .max_message_size(Some(INCOMING_MAX))
        .max_frame_size(Some(INCOMING_MAX));
    let mut ws = WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await;
    let talk = async {
        loop {
            tokio::select! {
                message = outgoing.queue.recv() => match message {
                    Some(message) => ws.send(frame(&message, &user)).await?,
                    None => break,
                },
                // Reading answers pings and detects a close.
                frame = ws.next() => match frame {
                    Some(Ok(Frame::Close(_))) | None => break,
                    Some(Ok(_)) => {}
                    Some(Err(e)) => return Err(e),
                },
            }
        }

        if let Some(last) = outgoing.last.get() {
            ws.send(frame(last, &user)).await?;
            if let StreamMessage::End(why, position) = last {
                let code = if *why == End::Slow {
                    CloseCode::Again
                } else {
                    CloseCode::Away
                };

                let reason = format!("{}: resume_from={position}", why.name()).into();
                ws.close(Some(CloseFrame { code, reason })).await?;
            }
        }

        // Wait for the client's close frame, and ignore all other messages.
        while let Some(Ok(_)) = ws.next().await {}
        Ok::<(), Error>(())
    };

    tokio::select! {
        ended = talk => if let Err(e) = ended {
            tracing::debug!(user, "a WebSocket ended: {e}");
        },
        () = kill.notified() => {}
    }
}

fn frame(message: &StreamMessage, user: &str) -> Frame {
    match message.parts(user) {
        Some((name, id, data)) => {
            Frame::text(json!({ "type": name, "id": id, "data": data }).to_string())
        }
        None => Frame::Ping(bytes::Bytes::new()),
    }
}
