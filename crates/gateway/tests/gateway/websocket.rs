//! The same promises over a WebSocket.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use gateway::GatewaySettings;
use serde_json::Value;
use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::support::{LONG, World, count, settings, until};

type Socket = WebSocketStream<TcpStream>;

pub async fn open(at: std::net::SocketAddr, path: &str) -> Socket {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a small buffer");
    let stream = socket.connect(at).await.expect("connected");
    tokio_tungstenite::client_async(format!("ws://{at}{path}"), stream)
        .await
        .expect("a WebSocket")
        .0
}

/// The next message of the gateway; pings are skipped.
async fn next(ws: &mut Socket) -> Option<Value> {
    loop {
        match tokio::time::timeout(LONG, ws.next())
            .await
            .expect("a sign of life")?
            .ok()?
        {
            Message::Text(text) => return Some(serde_json::from_str(&text).expect("JSON")),
            Message::Close(_) => return None,
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn n1_a_websocket_resumes_without_gap_or_repeat() {
    let world = World::new();
    world.tell(["501"; 3]);
    let running = world.gateway(settings()).await;
    let mut ws = open(
        running.address,
        "/v1/users/501/notifications/ws?resume_from=0",
    )
    .await;
    let hello = next(&mut ws).await.expect("hello");
    assert_eq!((&hello["type"], &hello["id"]), (&"hello".into(), &0.into()));
    for seq in 1..=3 {
        let m = next(&mut ws).await.expect("a notification");
        assert_eq!(
            (&m["type"], &m["id"], &m["data"]["user_seq"]),
            (&"notification".into(), &seq.into(), &seq.into())
        );
    }

    // The gateway reads messages of a client and ignores them.
    ws.send(Message::text("{\"resume_from\":0}"))
        .await
        .expect("sent");
    ws.close(None).await.expect("closed");
    until("gone", || count(&running.gateway, |m| &m.streams) == 0).await;
    world.tell(["501"; 400]);
    let mut ws = open(
        running.address,
        "/v1/users/501/notifications/ws?resume_from=3",
    )
    .await;
    assert_eq!(next(&mut ws).await.expect("hello")["id"], 3);
    for seq in 4..=403 {
        assert_eq!(next(&mut ws).await.expect("a notification")["id"], seq);
    }

    world.tell(["501"]);
    assert_eq!(next(&mut ws).await.expect("live")["id"], 404);
    let stopping = tokio::spawn(running.stop());
    let end = next(&mut ws).await.expect("a last message");
    assert_eq!(
        (&end["type"], &end["data"]["resume_from"]),
        (&"closing".into(), &404.into())
    );
    stopping.await.expect("stopped");
}

#[tokio::test(flavor = "multi_thread")]
async fn n3_a_slow_websocket_is_closed_with_its_position() {
    let world = World::new();
    world.tell(["501"; 5_000]);
    let running = world
        .gateway(GatewaySettings {
            stall: Duration::from_millis(200),
            grace: Duration::from_secs(20),
            ..settings()
        })
        .await;

    let mut ws = open(
        running.address,
        "/v1/users/501/notifications/ws?resume_from=0",
    )
    .await;
    until("given up", || count(&running.gateway, |m| &m.slow) == 1).await;
    let mut last = 0;
    let mut end = None;
    let close = loop {
        match tokio::time::timeout(LONG, ws.next())
            .await
            .expect("in time")
            .expect("not yet")
            .expect("well formed")
        {
            Message::Text(text) => {
                let m: Value = serde_json::from_str(&text).expect("JSON");
                match m["type"].as_str() {
                    Some("notification") => {
                        assert_eq!(m["id"], last + 1);
                        last += 1;
                    }
                    Some("slow_consumer") => end = m["data"]["resume_from"].as_u64(),
                    _ => {}
                }
            }
            Message::Close(frame) => break frame.expect("a reason"),
            _ => {}
        }
    };

    assert_eq!(end, Some(last));
    assert!(last < 5_000);
    assert_eq!(
        (close.code, close.reason.as_str()),
        (
            CloseCode::Again,
            format!("slow_consumer: resume_from={last}").as_str()
        )
    );

    running.stop().await;
}

/// HTTP allows a list to stand in several lines of a header.
#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_may_spread_its_lists_over_lines() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let world = World::new();
    let running = world.gateway(settings()).await;
    let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
    for (lines, want) in [
        (
            "Connection: keep-alive\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 8\r\nSec-WebSocket-Version: 13",
            "101",
        ),
        (
            "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13",
            "101",
        ),
        (
            "Connection: keep-alive\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13",
            "426",
        ),
        (
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 8",
            "426",
        ),
    ] {
        let mut stream = TcpStream::connect(running.address)
            .await
            .expect("connected");
        let host = running.address;
        let asked = format!(
            "GET /v1/users/501/notifications/ws HTTP/1.1\r\nHost: {host}\r\n{lines}\r\n{key}\r\n\r\n"
        );
        stream.write_all(asked.as_bytes()).await.expect("sent");
        let mut answer = [0; 12];
        tokio::time::timeout(LONG, stream.read_exact(&mut answer))
            .await
            .expect("in time")
            .expect("an answer");
        assert_eq!(
            String::from_utf8_lossy(&answer),
            format!("HTTP/1.1 {want}"),
            "{lines}"
        );
    }

    running.stop().await;
}
