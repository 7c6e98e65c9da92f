//! Heartbeats come and tokens are checked again, regardless of other activity on the stream or
//! elsewhere.

use std::time::Duration;

use gateway::access::AccessControl;
use gateway::{GatewaySettings, RunningGateway};
use hyper::Method;
use wire::event::Event;

use crate::access::tokens;
use crate::support::{Sse, World, ask, settings};

/// Runs an action again and again, more often than the heartbeat interval.
async fn busily(mut what: impl AsyncFnMut()) {
    loop {
        what().await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn soon<T>(what: &str, busy: impl AsyncFnMut(), quiet: impl Future<Output = T>) -> T {
    tokio::select! {
        () = busily(busy) => unreachable!("it has no end"),
        got = tokio::time::timeout(Duration::from_secs(8), quiet) => got.unwrap_or_else(|_| panic!("{what}: not within 8 s")),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_taken_away_ends_a_busy_stream_too() {
    let world = World::new();
    let (file, tokens) = tokens(&["501", "502"]);
    let running = world
        .gateway_with(
            AccessControl::with_file(file.path()).expect("a good file"),
            settings(),
        )
        .await;
    let mut mine = Sse::open(
        running.address,
        "/v1/users/501/notifications?after=0",
        &[("authorization", &tokens[0])],
    )
    .await;
    mine.next().await.expect("hello");
    let kept = std::fs::read_to_string(file.path())
        .expect("readable")
        .lines()
        .skip(1)
        .collect::<Vec<_>>()
        .join("\n");
    std::fs::write(file.path(), kept).expect("written");
    let end = async {
        loop {
            let said = mine.next().await.expect("a last event");
            if said.event != "notification" {
                return said.event;
            }
        }
    };

    assert_eq!(
        soon("the end of the stream", async || world.tell(["501"]), end).await,
        "token_revoked"
    );
    running.stop().await;
}

/// Waits for the first heartbeat with a position of at least `position`.
async fn heartbeat(sse: &mut Sse, position: u64) {
    loop {
        let said = sse.next_any().await.expect("the stream goes on");
        if said.event.is_empty() && sse.last_id >= position {
            return;
        }
    }
}

async fn quiet(running: &RunningGateway, query: &str) -> Sse {
    let mut sse = Sse::open(
        running.address,
        &format!("/v1/users/quiet/notifications?{query}"),
        &[],
    )
    .await;
    assert_eq!(sse.next().await.expect("hello").event, "hello");
    sse
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_come_while_others_change_what_they_want() {
    let world = World::new();
    let running = world
        .gateway(GatewaySettings {
            heartbeat: Duration::from_millis(400),
            ..settings()
        })
        .await;
    let mut sse = quiet(&running, "after=0").await;
    let path = "/v1/users/502/preferences";
    let change = async || {
        assert_eq!(
            ask(running.address, Method::PUT, path, &[], "{}").await.0,
            200
        )
    };

    soon("a heartbeat", change, heartbeat(&mut sse, 0)).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_carry_the_position_past_unwanted_events() {
    let world = World::new();
    let running = world.gateway(settings()).await;
    let mut sse = quiet(&running, "after=0&kinds=order-rejected").await;
    soon(
        "a heartbeat",
        async || world.tell_event(["quiet"], Event::OrderPending),
        heartbeat(&mut sse, 1),
    )
    .await;
    running.stop().await;
}
