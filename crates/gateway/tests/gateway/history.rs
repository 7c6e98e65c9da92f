//! Notifications that are no longer in memory come from the log. If the log does not have them any
//! more, the client gets `resync_required`.

use std::sync::atomic::Ordering;
use std::time::Duration;

use domain::portfolio::Holding;
use gateway::GatewaySettings;
use hyper::Method;
use wire::portfolio::{PortfolioRecord, PositionRecord};
use wire::topics;

use crate::support::{Sse, World, ask, old_user, settings, until};

#[tokio::test(flavor = "multi_thread")]
async fn what_left_the_memory_is_read_from_the_log() {
    let world = World::new();
    for _ in 0..700 {
        world.tell(["501", "502", "503", "504", "505"]);
    }

    let running = world
        .gateway(GatewaySettings {
            memory: 30 << 10,
            ..settings()
        })
        .await;
    let at = running.address;
    for (user, after) in [
        ("501", 0),
        ("502", 1),
        ("503", 63),
        ("504", 64),
        ("505", 65),
        ("501", 699),
    ] {
        let left = usize::try_from(700 - after).expect("small");
        assert_eq!(
            Sse::after(at, user, after).await.numbers(left).await,
            (after + 1..=700).collect::<Vec<_>>(),
            "{user} after {after}"
        );
    }

    assert!(
        running.gateway.feed.pages.load(Ordering::Relaxed) > 20,
        "the log was read"
    );
    let held: usize = running.gateway.feed.extents().iter().map(|e| e.bytes).sum();
    assert!(held <= 30 << 10, "{held} bytes in memory");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_older_than_the_history_is_gone_and_said_so() {
    let world = World::new();
    world.tell(["501"; 10]);

    // Longer than the history of the gateway.
    tokio::time::sleep(Duration::from_millis(300)).await;
    world.tell(["501"; 5]);
    let running = world
        .gateway(GatewaySettings {
            history: Some(Duration::from_millis(250)),
            ..settings()
        })
        .await;
    let mut sse = Sse::after(running.address, "501", 4).await;
    assert_eq!(sse.next().await.expect("hello").id, Some(4));
    let gone = sse.next().await.expect("an event");
    assert_eq!(
        (gone.event.as_str(), gone.id),
        ("resync_required", Some(10))
    );
    assert_eq!(
        (&gone.data["after"], &gone.data["first_user_seq"]),
        (&4.into(), &11.into())
    );
    assert_eq!(gone.data["snapshot"], "/v1/users/501/portfolio");
    assert_eq!(
        sse.numbers(5).await,
        [11, 12, 13, 14, 15],
        "and the stream goes on with what there is"
    );
    let mut whole = Sse::after(running.address, "501", 10).await;
    assert_eq!(
        whole.numbers(5).await,
        [11, 12, 13, 14, 15],
        "nothing is missing after 10"
    );
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_that_never_was_is_corrected() {
    let world = World::new();
    world.tell(["501"; 3]);
    let running = world.gateway(settings()).await;
    until("ready", || running.gateway.history_is_read()).await;
    let mut sse = Sse::after(running.address, "501", 900).await;
    assert_eq!(sse.next().await.expect("hello").event, "hello");
    let gone = sse.next().await.expect("an event");
    assert_eq!(
        (gone.event.as_str(), gone.id, &gone.data["first_user_seq"]),
        ("resync_required", Some(3), &4.into())
    );
    world.tell(["501"]);
    assert_eq!(sse.numbers(1).await, [4]);
    running.stop().await;
}

/// The user has no notification within the history when the client connects. Only the first new
/// notification then shows that the client's position never existed.
#[tokio::test(flavor = "multi_thread")]
async fn a_position_that_never_was_is_corrected_without_history_too() {
    let world = World::new();
    let running = old_user(&world, "501", settings()).await;
    let mut ahead = Sse::after(running.address, "501", 1_000).await;
    let mut right = Sse::after(running.address, "501", 10).await;
    assert_eq!(ahead.next().await.expect("hello").id, Some(1_000));
    world.tell(["501"; 2]);
    assert_eq!(
        right.numbers(2).await,
        [11, 12],
        "who has the right position is not disturbed"
    );
    let gone = ahead.next().await.expect("an event");
    assert_eq!(
        (gone.event.as_str(), gone.id, &gone.data["first_user_seq"]),
        ("resync_required", Some(10), &11.into())
    );
    assert_eq!(
        ahead.numbers(2).await,
        [11, 12],
        "and nothing of what came is left out"
    );
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_begins_now_misses_nothing_that_is_too_old() {
    let world = World::new();
    let running = old_user(&world, "501", settings()).await;
    let mut sse = Sse::open(running.address, "/v1/users/501/notifications", &[]).await;
    assert_eq!(
        sse.next().await.expect("hello").id,
        Some(0),
        "nobody knows the number yet"
    );
    world.tell(["501"; 3]);

    // `numbers` panics at a `resync_required`.
    assert_eq!(sse.numbers(3).await, [11, 12, 13]);
    running.stop().await;
}

/// Another gateway may be a little ahead of this one. The position then becomes valid, and no
/// notification is sent twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_position_a_little_ahead_comes_true() {
    let world = World::new();
    world.tell(["501"; 3]);
    let running = world
        .gateway(GatewaySettings {
            ahead: Duration::from_secs(20),
            ..settings()
        })
        .await;
    until("read", || running.gateway.feed.latest("501") == Some(3)).await;
    let mut sse = Sse::after(running.address, "501", 5).await;
    assert_eq!(sse.next().await.expect("hello").id, Some(5));
    for _ in 0..3 {
        world.tell(["501"]);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    assert_eq!(sse.numbers(1).await, [6]);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_are_no_notifications_do_no_harm() {
    let world = World::new();
    world.tell(["501"]);
    for junk in [
        &b""[..],
        b"junk",
        b"{}",
        b"\x81\xa8user_seq\xa1x",
        b"\x81\xa8user_seq\xff",
        b"\xc1",
    ] {
        world.put(topics::NOTIFICATIONS, "501", junk);
    }

    world.tell(["501"]);
    let running = world.gateway(settings()).await;
    assert_eq!(
        Sse::after(running.address, "501", 0).await.numbers(2).await,
        [1, 2]
    );
    assert_eq!(running.gateway.feed.odd.load(Ordering::Relaxed), 6);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_snapshot_is_the_latest_portfolio() {
    let world = World::new();
    let portfolio = |seq: u64| {
        let p = serde_json::json!({"user_id": "501", "user_seq": seq, "cash_available_e4": 10_000, "cash_reserved_e4": 0, "realised_e4": 0, "fees_e4": 0,
            "positions": {"AAPL": {"quantity": 1, "reserved": 0, "cost_basis_e4": 5}}});
        rmp_serde::to_vec_named(&p).expect("encodes")
    };

    for seq in 1..=3 {
        world.put(topics::PORTFOLIOS, "501", &portfolio(seq));
        world.put(topics::PORTFOLIOS, "502", &portfolio(seq));
    }

    let running = world.gateway(settings()).await;
    let path = "/v1/users/501/portfolio";
    let wait = async {
        while ask(running.address, Method::GET, path, &[], "").await.1["user_seq"] != 3 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };

    tokio::time::timeout(crate::support::LONG, wait)
        .await
        .expect("the latest");
    let (status, value) = ask(running.address, Method::GET, path, &[], "").await;
    assert_eq!(status, 200);
    assert_eq!(
        (
            &value["cash_available"],
            &value["positions"]["AAPL"]["cost_basis"]
        ),
        (&"1.00".into(), &"0.0005".into())
    );

    assert_eq!(
        ask(
            running.address,
            Method::GET,
            "/v1/users/nobody/portfolio",
            &[],
            ""
        )
        .await
        .0,
        404
    );

    running.stop().await;
}

/// A large portfolio is stored in many records. The snapshot is complete, and always shows the
/// state after one event of the user.
#[tokio::test(flavor = "multi_thread")]
async fn the_snapshot_of_a_large_portfolio_has_all_its_positions() {
    let world = World::new();
    let held = |quantity: i64| Holding {
        quantity,
        ..Holding::default()
    };

    let user = |seq: u64, inline: &[(&str, i64)], apart: u64| {
        let mut p = PortfolioRecord {
            user_id: "501".into(),
            user_seq: seq,
            positions_apart: apart,
            ..PortfolioRecord::default()
        };

        p.positions = inline
            .iter()
            .map(|(symbol, quantity)| (symbol.to_string(), held(*quantity)))
            .collect();
        let mut out = Vec::new();
        p.encode(&mut out);
        world.put(topics::PORTFOLIOS, "501", &out);
    };

    let position = |seq: u64, symbol: &str, quantity: Option<i64>| {
        let mut out = Vec::new();
        let value = quantity.map(|quantity| {
            PositionRecord {
                user_id: "501",
                user_seq: seq,
                symbol,
                holding: held(quantity),
            }
            .encode(&mut out);

            &out[..]
        });

        world.put_beside(topics::PORTFOLIOS, "501", &format!("501/{symbol}"), value);
    };

    let running = world.gateway(settings()).await;
    let shown = async |seq: u64| {
        let wait = async {
            loop {
                let (status, value) = ask(
                    running.address,
                    Method::GET,
                    "/v1/users/501/portfolio",
                    &[],
                    "",
                )
                .await;

                if status == 200 && value["user_seq"] == seq {
                    let positions = value["positions"].as_object().expect("positions");
                    return positions
                        .iter()
                        .map(|(symbol, p)| format!("{symbol} {}", p["quantity"]))
                        .collect::<Vec<_>>()
                        .join(", ");
                }

                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };

        tokio::time::timeout(crate::support::LONG, wait)
            .await
            .expect("the latest")
    };

    user(1, &[("A", 1), ("B", 2)], 0);
    assert_eq!(shown(1).await, "A 1, B 2");
    position(2, "A", Some(5));
    assert_eq!(shown(1).await, "A 1, B 2", "the event is not through yet");
    user(2, &[("B", 2)], 1);
    assert_eq!(shown(2).await, "A 5, B 2");
    position(3, "B", Some(2));
    position(3, "A", None);
    user(3, &[], 1);
    assert_eq!(shown(3).await, "B 2");

    // A gateway that starts now reads the whole portfolio first.
    let other = world.gateway(settings()).await;
    let wait = async {
        while ask(
            other.address,
            Method::GET,
            "/v1/users/501/portfolio",
            &[],
            "",
        )
        .await
        .1["positions"]["B"]["quantity"]
            != 2
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };

    tokio::time::timeout(crate::support::LONG, wait)
        .await
        .expect("the same");
    other.stop().await;
    position(4, "B", None);
    user(4, &[("B", 2)], 0);
    assert_eq!(shown(4).await, "B 2");
    assert_eq!(
        ask(
            running.address,
            Method::GET,
            "/v1/users/501%2FB/portfolio",
            &[],
            ""
        )
        .await
        .0,
        400,
        "a position is no user"
    );

    running.stop().await;
}
