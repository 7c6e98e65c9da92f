//! N1: after a reconnect a client gets exactly the missed notifications, and then the live ones.

use std::sync::Arc;
use std::time::Duration;

use wire::event::Event;

use crate::support::{Sse, World, settings, until};

#[tokio::test(flavor = "multi_thread")]
async fn n1_after_a_disconnect_there_is_no_gap_and_no_repeat() {
    let world = World::new();
    let running = world.gateway(settings()).await;
    let at = running.address;
    world.tell(["501"; 5]);
    let mut first = Sse::after(at, "501", 0).await;
    assert_eq!(first.numbers(5).await, [1, 2, 3, 4, 5]);
    let seen = first.last_id;
    drop(first);

    // The client is away while many notifications for several users are written.
    for _ in 0..300 {
        world.tell(["501", "502", "503", "504"]);
    }

    let headers = [("last-event-id", seen.to_string())];
    let headers: Vec<_> = headers.iter().map(|(n, v)| (*n, v.as_str())).collect();
    let mut second = Sse::open(at, "/v1/users/501/notifications?after=0", &headers).await;
    assert_eq!(
        second.next().await.expect("hello").data["resume_from"],
        5,
        "the header wins over the address"
    );
    let history = second.numbers(300).await;
    assert_eq!(history, (6..=305).collect::<Vec<_>>());

    // History first, then live, on the same connection.
    world.tell(["501", "501"]);
    assert_eq!(second.numbers(2).await, [306, 307]);
    running.stop().await;
}

/// A faulty switch from history to live would lose or double notifications. Many clients make this
/// switch here while notifications for their user arrive.
#[tokio::test(flavor = "multi_thread")]
async fn n1_the_seam_between_history_and_live_is_none() {
    let world = Arc::new(World::new());

    // Little memory, so that history comes from the log again and again.
    let running = world.gateway(gateway_settings(64 << 10)).await;
    let at = running.address;
    let total = 4_000;
    let theirs = world.clone();
    let telling = std::thread::spawn(move || {
        for n in 0..total {
            theirs.tell(["501"]);
            if n % 50 == 0 {
                theirs.tell(["502", "503", "504", "505"]);
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    });

    let client = |n: u64| async move {
        let mut last = n * 3;
        let mut connections = 0;
        while last < total {
            let mut sse = Sse::after(at, "501", last).await;
            connections += 1;

            // Each client disconnects after a different number of notifications.
            for _ in 0..(100 + n * 37) {
                if last == total {
                    break;
                }

                let said = sse.next().await.expect("the stream goes on");
                match said.event.as_str() {
                    "notification" => {
                        assert_eq!(said.id, Some(last + 1), "client {n}");
                        last += 1;
                    }
                    "hello" => {}
                    // With little memory a live client may be told of its lag. The client then
                    // resumes as usual.
                    "slow_consumer" => {
                        assert_eq!(said.id, Some(last));
                        break;
                    }
                    other => panic!("{other}"),
                }
            }
        }

        connections
    };

    let clients: Vec<_> = (0..8).map(|n| tokio::spawn(client(n))).collect();
    for c in clients {
        assert!(c.await.expect("no gap, no repeat") > 1);
    }

    telling.join().expect("told");
    running.stop().await;
}

fn gateway_settings(memory: usize) -> gateway::GatewaySettings {
    gateway::GatewaySettings {
        memory,
        ..settings()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_without_a_position_begins_now_and_says_where() {
    let world = World::new();
    world.tell(["501"; 7]);
    let running = world.gateway(settings()).await;
    let mut sse = Sse::open(running.address, "/v1/users/501/notifications", &[]).await;
    let hello = sse.next().await.expect("hello");
    assert_eq!((hello.event.as_str(), hello.id), ("hello", Some(7)));
    world.tell(["501"]);
    let said = sse.next().await.expect("a notification");
    assert_eq!(said.id, Some(8));
    assert_eq!(
        (&said.data["kind"], &said.data["event"]["last_price"]),
        (&"order-filled".into(), &"189.25".into())
    );

    // A client of a user who does not exist yet is told as soon as the user exists.
    let mut new = Sse::open(running.address, "/v1/users/new/notifications", &[]).await;
    assert_eq!(new.next().await.expect("hello").id, Some(0));
    world.tell(["new"]);
    assert_eq!(new.numbers(1).await, [1]);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kinds_are_filtered_and_heartbeats_carry_the_position_on() {
    let world = World::new();
    let running = world.gateway(settings()).await;
    let mut sse = Sse::open(
        running.address,
        "/v1/users/501/notifications?after=0&kinds=order-rejected,deposited",
        &[],
    )
    .await;
    world.tell_event(["501"], Event::Deposited);
    world.tell(["501"; 10]);
    world.tell_event(["501"], Event::OrderRejected);
    world.tell(["501"; 10]);
    assert_eq!(sse.numbers(2).await, [1, 12]);
    until_position(&mut sse, 22).await;
    until("its stream is counted", || {
        running.gateway.feed.followers("501") == 1
    })
    .await;
    drop(sse);
    until("who leaves is forgotten", || {
        running.gateway.feed.followers("501") == 0
    })
    .await;
    running.stop().await;
}

async fn until_position(sse: &mut Sse, position: u64) {
    while sse.last_id < position {
        let said = sse.next_any().await.expect("the stream goes on");
        assert!(said.event.is_empty(), "only heartbeats: {said:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_gateway_says_where_to_resume() {
    let world = World::new();
    world.tell(["501"; 3]);
    let running = world.gateway(settings()).await;
    let mut sse = Sse::after(running.address, "501", 1).await;
    assert_eq!(sse.numbers(2).await, [2, 3]);
    let stopping = tokio::spawn(running.stop());
    let end = sse.next().await.expect("a last event");
    assert_eq!(
        (end.event.as_str(), end.id, &end.data["resume_from"]),
        ("closing", Some(3), &3.into())
    );
    assert_eq!(sse.next().await, None);
    stopping.await.expect("stopped");

    // Another gateway on the same log continues from there.
    world.tell(["501"]);
    let running = world.gateway(settings()).await;
    assert_eq!(
        Sse::after(running.address, "501", 3).await.numbers(1).await,
        [4]
    );
    running.stop().await;
}
