//! N3: a client that does not read costs a bounded amount of memory, delays no other client, and
//! learns its position for the resume.

use std::time::{Duration, Instant};

use gateway::GatewaySettings;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::support::{Sse, World, count, settings, until};

/// Opens a stream and never reads it.
pub async fn deaf(at: std::net::SocketAddr, user: &str, after: u64) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a small buffer");
    let mut stream = socket.connect(at).await.expect("connected");
    let request =
        format!("GET /v1/users/{user}/notifications?after={after} HTTP/1.1\r\nhost: {at}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    stream
}

/// Resident memory of this process in KiB.
fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status
        .lines()
        .find(|l| l.starts_with("VmRSS:"))
        .expect("a line");
    line.split_whitespace()
        .nth(1)
        .and_then(|n| n.parse().ok())
        .expect("a number")
}

#[tokio::test(flavor = "multi_thread")]
async fn n3_a_slow_reader_is_disconnected_and_slows_nobody() {
    let world = World::new();
    let running = world
        .gateway(GatewaySettings {
            memory: 8 << 20,
            ..settings()
        })
        .await;
    let at = running.address;
    let mut slow = deaf(at, "501", 0).await;
    let mut quick = Sse::after(at, "501", 0).await;
    until("both are there", || {
        count(&running.gateway, |m| &m.streams) == 2
    })
    .await;

    let total = 20_000;
    let began = Instant::now();
    let reading = tokio::spawn(async move {
        let mut last = 0;
        while last < total {
            match quick.next().await {
                Some(said) if said.event == "notification" => {
                    assert_eq!(said.id, Some(last + 1));
                    last += 1;
                }
                Some(said) if said.event == "hello" => {}
                other => panic!("{other:?}"),
            }
        }

        began.elapsed()
    });

    for _ in 0..total / 100 {
        world.tell(["501"; 100]);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }

    let took = reading
        .await
        .expect("the quick one gets everything in order");
    assert!(took < Duration::from_secs(30), "{took:?}");
    until("the slow one is given up", || {
        count(&running.gateway, |m| &m.slow) == 1
    })
    .await;
    until("its connection is cut", || {
        count(&running.gateway, |m| &m.streams) == 0
    })
    .await;

    // The bytes left in the kernel's buffers form a prefix without gaps. The client resumes at the
    // end of this prefix.
    let mut text = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(10), slow.read_to_end(&mut text)).await;

    // The connection must be closed, by a reset or by a normal end.
    drop(ended.expect("the connection was closed"));
    let text = String::from_utf8_lossy(&text);
    let ids: Vec<u64> = text
        .lines()
        .filter_map(|l| l.strip_prefix("id: "))
        .filter_map(|n| n.parse().ok())
        .collect();
    let last = ids.last().copied().unwrap_or(0);
    assert!(last < total, "it did not get everything");
    let numbers: Vec<u64> = ids.iter().copied().filter(|n| *n > 0).collect();
    assert!(
        numbers.windows(2).all(|w| w[1] == w[0] + 1 || w[1] == w[0]),
        "{numbers:?}"
    );
    let mut again = Sse::after(at, "501", last).await;
    let left = usize::try_from(total - last).expect("small");
    assert_eq!(
        again.numbers(left).await,
        (last + 1..=total).collect::<Vec<_>>()
    );
    running.stop().await;
}

/// A client that reads too late finds its position in the last event.
#[tokio::test(flavor = "multi_thread")]
async fn n3_the_last_event_of_a_slow_reader_names_its_position() {
    let world = World::new();
    let running = world
        .gateway(GatewaySettings {
            stall: Duration::from_millis(200),
            grace: Duration::from_secs(20),
            ..settings()
        })
        .await;

    world.tell(["501"; 3_000]);
    let mut slow = deaf(running.address, "501", 0).await;
    until("it is given up", || {
        count(&running.gateway, |m| &m.slow) == 1
    })
    .await;
    let mut text = Vec::new();
    slow.read_to_end(&mut text).await.expect("an orderly end");
    let text = String::from_utf8_lossy(&text);
    let end = text.rfind("event: slow_consumer").expect("the last event");
    let ids: Vec<u64> = text
        .lines()
        .filter_map(|l| l.strip_prefix("id: "))
        .filter_map(|n| n.parse().ok())
        .collect();
    let position = *ids.last().expect("an id");
    assert!(
        text[end..].contains(&format!("\"resume_from\":{position}")),
        "{}",
        &text[end..]
    );
    assert_eq!(
        &ids[..ids.len() - 1],
        (0..=position).collect::<Vec<_>>(),
        "everything up to the position came before it"
    );
    assert!(position < 3_000);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn n3_memory_is_bounded_whatever_clients_do() {
    let world = World::new();
    world.tell(["501"; 30_000]);

    // A stall time of a minute keeps all clients connected at once.
    let running = world
        .gateway(GatewaySettings {
            stall: Duration::from_secs(60),
            memory: 1 << 20,
            streams_per_user: 1000,
            ..settings()
        })
        .await;

    let running_at = running.address;
    until("ready", || running.gateway.history_is_read()).await;
    let before = resident_kib();
    let mut all = Vec::new();
    for _ in 0..300 {
        all.push(deaf(running_at, "501", 0).await);
    }

    until("all are there", || {
        count(&running.gateway, |m| &m.streams) == 300
    })
    .await;

    // Time for the gateway to fill all buffers: a gateway without bounds would take gigabytes.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let grown = resident_kib().saturating_sub(before);

    // 30 000 notifications for 300 clients would be gigabytes. A page of history, a short queue and
    // small buffers are some hundred kilobytes each.
    assert!(
        grown < 300 * 400,
        "{grown} KiB for 300 clients that do not read"
    );
    let mut quick = Sse::after(running_at, "501", 29_000).await;
    assert_eq!(
        quick.numbers(1_000).await.len(),
        1_000,
        "and others are served"
    );
    drop(all);
    until("all are forgotten", || {
        count(&running.gateway, |m| &m.streams) == 1
    })
    .await;
    running.stop().await;
}

/// No token is needed for this attack, because the client asks only for refusals.
#[tokio::test(flavor = "multi_thread")]
async fn who_asks_and_asks_and_never_reads_loses_the_place() {
    let world = World::new();
    let running = world
        .gateway(GatewaySettings {
            connections: 1,
            ..settings()
        })
        .await;
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a small buffer");
    let stream = socket.connect(running.address).await.expect("connected");
    let (held, mut asking) = stream.into_split();
    let asks = tokio::spawn(async move {
        let many = "GET /nothing HTTP/1.1\r\nhost: evil.example\r\n\r\n".repeat(1_000);

        // Until the connection is cut.
        while asking.write_all(many.as_bytes()).await.is_ok() {}
    });

    until("it is there", || {
        count(&running.gateway, |m| &m.denied) > 100
    })
    .await;
    assert_eq!(count(&running.gateway, |m| &m.connections), 1);
    until("its place is free", || {
        count(&running.gateway, |m| &m.connections) == 0
    })
    .await;
    asks.await.expect("cut off");
    drop(held);
    running.stop().await;
}
