//! Price alerts: each fires once, after the older notifications, for any number of gateways and
//! restarts.

use std::time::Duration;

use gateway::RunningGateway;
use hyper::Method;
use serde_json::{Value, json};
use wire::topics;
use wire::trade::ReferencePrice;

use crate::support::{Sse, World, ask, settings, until};

fn price(world: &World, symbol: &str, price_e4: i64) {
    let mut value = Vec::new();
    ReferencePrice {
        symbol,
        price_e4,
        time_us: price_e4,
    }
    .encode(&mut value);
    world.put(topics::REFERENCE_PRICES, symbol, &value);
}

async fn set(running: &RunningGateway, user: &str, id: &str, wish: Value) -> Value {
    let (status, answer) = ask(
        running.address,
        Method::PUT,
        &format!("/v1/users/{user}/alerts/{id}"),
        &[],
        &wish.to_string(),
    )
    .await;

    assert!(status == 201 || status == 200, "{status} {answer}");
    answer
}

/// Number of firings of an alert in the log.
fn fired(world: &World, user: &str, id: &str) -> usize {
    let key = format!("{user}/fired/{id}");
    world
        .records(topics::SUBSCRIPTIONS)
        .iter()
        .filter(|(k, ..)| *k == key)
        .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alert_fires_once_and_is_told_after_the_fills() {
    let world = World::new();
    let running = world.gateway(settings()).await;
    price(&world, "AAPL", 2_000_000);
    let shown = set(
        &running,
        "501",
        "up",
        json!({"symbol": "AAPL", "above": "190.00"}),
    )
    .await;

    assert_eq!(
        (&shown["above"], &shown["fired"]),
        (&"190.00".into(), &false.into()),
        "the price from before does not count"
    );
    set(
        &running,
        "501",
        "down",
        json!({"symbol": "AAPL", "below": "150"}),
    )
    .await;

    set(
        &running,
        "501",
        "other",
        json!({"symbol": "MSFT", "above": "1"}),
    )
    .await;

    set(
        &running,
        "502",
        "up",
        json!({"symbol": "AAPL", "above": "500"}),
    )
    .await;

    let mut sse = Sse::after(running.address, "501", 0).await;
    world.tell(["501"; 2]);
    for p in [
        1_899_999, 1_600_000, 1_900_000, 1_950_000, 1_899_999, 2_100_000,
    ] {
        price(&world, "AAPL", p);
    }

    assert_eq!(sse.numbers(2).await, [1, 2]);
    let told = sse.next().await.expect("an alert");
    assert_eq!(
        (told.event.as_str(), told.id, &told.data["id"]),
        ("price_alert", None, &"up".into())
    );
    assert_eq!(
        (&told.data["price"], &told.data["symbol"]),
        (&"190.00".into(), &"AAPL".into()),
        "at the first price that reached it"
    );
    price(&world, "AAPL", 1_500_000);
    assert_eq!(sse.next().await.expect("the other one").data["id"], "down");
    world.tell(["501"]);
    assert_eq!(sse.numbers(1).await, [3], "and then nothing more of them");
    assert_eq!(
        (
            fired(&world, "501", "up"),
            fired(&world, "501", "down"),
            fired(&world, "501", "other")
        ),
        (1, 1, 0)
    );

    assert_eq!(fired(&world, "502", "up"), 0);

    // A client that was away gets the alert too. Setting the alert again arms it.
    let mut late = Sse::after(running.address, "501", 3).await;
    late.next().await.expect("hello");
    assert_eq!(late.next().await.expect("told").event, "price_alert");
    let again = set(
        &running,
        "501",
        "up",
        json!({"symbol": "AAPL", "above": "220"}),
    )
    .await;

    assert_eq!(again["fired"], false);
    price(&world, "AAPL", 2_200_000);
    let told = sse.next().await.expect("it fires again");
    assert_eq!(
        (&told.data["id"], &told.data["price"]),
        (&"up".into(), &"220.00".into())
    );
    assert_eq!(
        ask(
            running.address,
            Method::DELETE,
            "/v1/users/501/alerts/up",
            &[],
            ""
        )
        .await
        .0,
        200
    );

    let left = ask(
        running.address,
        Method::GET,
        "/v1/users/501/alerts",
        &[],
        "",
    )
    .await
    .1;

    assert_eq!(left["alerts"].as_array().map(Vec::len), Some(2));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alert_survives_restarts_and_twins_and_fires_once() {
    let world = World::new();
    let first = world.gateway(settings()).await;
    set(
        &first,
        "501",
        "a",
        json!({"symbol": "AAPL", "above": "100"}),
    )
    .await;

    set(
        &first,
        "501",
        "b",
        json!({"symbol": "AAPL", "above": "200"}),
    )
    .await;

    first.stop().await;

    // While no gateway runs, the price rises above the limit and falls again.
    price(&world, "AAPL", 1_000_000);
    price(&world, "AAPL", 10_000);
    let second = world.gateway(settings()).await;
    until("it fires when one is back", || {
        fired(&world, "501", "a") == 1
    })
    .await;

    // Twins of the same number; the newer one replaces the older.
    let third = world.gateway(settings()).await;
    price(&world, "AAPL", 2_000_000);
    until("the other fires too", || fired(&world, "501", "b") >= 1).await;
    second.stop().await;
    third.stop().await;
    let fourth = world.gateway(settings()).await;
    price(&world, "AAPL", 3_000_000);

    // An alert that fires again would fire in this time.
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert_eq!(fired(&world, "501", "a"), 1, "never again");
    let shown = ask(
        fourth.address,
        Method::GET,
        "/v1/users/501/alerts/b",
        &[],
        "",
    )
    .await
    .1;

    assert_eq!(
        (&shown["fired"], &shown["price"]),
        (&true.into(), &"200.00".into()),
        "the first firing stands"
    );
    fourth.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_alerts_are_refused() {
    let world = World::new();
    let running = world.gateway(settings()).await;
    for (wish, part) in [
        (json!({"symbol": "AAPL"}), "either above or below"),
        (
            json!({"symbol": "AAPL", "above": "1", "below": "2"}),
            "either above or below",
        ),
        (
            json!({"symbol": "AAPL", "above": "1.23456"}),
            "four decimals",
        ),
        (json!({"symbol": "AAPL", "above": "0"}), "above 0"),
        (json!({"symbol": "AAPL", "above": 1.5}), "string"),
        (json!({"symbol": "A B", "above": "1"}), "symbol"),
        (json!({"above": "1"}), "symbol"),
    ] {
        let (status, e) = ask(
            running.address,
            Method::PUT,
            "/v1/users/501/alerts/a",
            &[],
            &wish.to_string(),
        )
        .await;

        assert!(
            status == 400 && e["message"].as_str().is_some_and(|m| m.contains(part)),
            "{wish}: {e}"
        );
    }

    assert_eq!(
        ask(
            running.address,
            Method::GET,
            "/v1/users/501/alerts/a",
            &[],
            ""
        )
        .await
        .0,
        404
    );

    running.stop().await;
}
