//! N2: failed webhooks are tried again under the same id, in order, until they are accepted, given
//! up or stopped.

use std::collections::BTreeMap;
use std::time::Duration;

use gateway::webhooks::sign;
use gateway::{GatewaySettings, RunningGateway};
use hyper::Method;
use serde_json::{Value, json};
use wire::event::Event;
use wire::topics;

use crate::endpoint::{Endpoint, Got};
use crate::support::{World, ask, count, old_user, settings, until};

fn quick() -> GatewaySettings {
    let schedule = [30, 40, 50, 60, 70, 80].map(Duration::from_millis).to_vec();
    GatewaySettings {
        schedule,
        webhook_timeout: Duration::from_millis(300),
        ..settings()
    }
}

async fn register(running: &RunningGateway, user: &str, id: &str, wish: Value) -> Value {
    until("ready", || running.gateway.history_is_read()).await;
    let path = format!("/v1/users/{user}/webhooks/{id}");
    let (status, answer) = ask(running.address, Method::PUT, &path, &[], &wish.to_string()).await;
    assert!(status == 201 || status == 200, "{status} {answer}");
    answer
}

async fn shown(running: &RunningGateway, user: &str, id: &str) -> Value {
    ask(
        running.address,
        Method::GET,
        &format!("/v1/users/{user}/webhooks/{id}"),
        &[],
        "",
    )
    .await
    .1
}

#[tokio::test(flavor = "multi_thread")]
async fn n2_three_failures_then_success_is_one_delivery_with_one_id() {
    let world = World::new();
    let endpoint = Endpoint::start(|_, before| if before < 3 { 500 } else { 200 }).await;
    let running = world.gateway(quick()).await;
    world.tell(["501"; 4]);
    until("read", || running.gateway.feed.latest("501") == Some(4)).await;
    let made = register(
        &running,
        "501",
        "main",
        json!({"url": endpoint.url("/hook")}),
    )
    .await;

    let secret = made["secret"].as_str().expect("shown once").to_string();
    assert_eq!(
        shown(&running, "501", "main").await.get("secret"),
        None,
        "and never again"
    );
    world.tell(["501"]);
    until("delivered", || {
        count(&running.gateway, |m| &m.webhooks_ok) == 1
    })
    .await;

    // A delivery that is repeated would come in this time.
    tokio::time::sleep(Duration::from_millis(200)).await;

    let got = endpoint.got("/hook");
    assert_eq!(
        got.iter().map(|g| g.answered).collect::<Vec<_>>(),
        [500, 500, 500, 200]
    );
    assert!(
        got.iter().all(|g| g.seq() == 5),
        "only what came after the registration"
    );
    assert!(
        got.iter()
            .all(|g| g.headers["webhook-id"] == got[0].headers["webhook-id"]),
        "one id over all attempts"
    );
    assert_eq!(
        got.iter().filter(|g| g.answered == 200).count(),
        1,
        "one effective delivery"
    );
    let key = sign::key(&secret).expect("a secret");
    for g in &got {
        let time: i64 = g.headers["webhook-timestamp"].parse().expect("seconds");
        assert!((os::clock::wall_ms() / 1000 - time).abs() < 60);
        assert_eq!(
            g.headers["webhook-signature"],
            sign::signature(&key, &g.headers["webhook-id"], time, &g.body)
        );
        assert_eq!(g.headers["content-type"], "application/json");
    }

    let body: Value = serde_json::from_slice(&got[0].body).expect("JSON");
    assert_eq!(
        (&body["type"], &body["data"]["event"]["last_price"]),
        (&"order-filled".into(), &"189.25".into())
    );

    // The next notification has a different id.
    world.tell(["501"]);
    until("delivered", || {
        count(&running.gateway, |m| &m.webhooks_ok) == 2
    })
    .await;
    assert_ne!(
        endpoint.got("/hook")[4].headers["webhook-id"],
        got[0].headers["webhook-id"]
    );
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn n2_order_holds_per_endpoint_and_a_slow_one_delays_no_other() {
    let world = World::new();
    let endpoint = Endpoint::start(|path, before| match path {
        "/stuck" => 0,
        _ if before % 5 == 1 => 503,
        _ => 204,
    });

    let endpoint = endpoint.await;
    let running = world.gateway(quick()).await;
    for id in ["stuck", "good"] {
        register(
            &running,
            "501",
            id,
            json!({"url": endpoint.url(&format!("/{id}"))}),
        )
        .await;
    }

    register(
        &running,
        "502",
        "other",
        json!({"url": endpoint.url("/other")}),
    )
    .await;

    world.tell(["501", "502"].repeat(20));
    until("delivered", || {
        count(&running.gateway, |m| &m.webhooks_ok) == 40
    })
    .await;
    for path in ["/good", "/other"] {
        let accepted: Vec<u64> = endpoint
            .got(path)
            .iter()
            .filter(|g| g.answered == 204)
            .map(Got::seq)
            .collect();
        assert_eq!(accepted, (1..=20).collect::<Vec<_>>(), "{path}");
        let all: Vec<u64> = endpoint.got(path).iter().map(Got::seq).collect();
        assert!(all.is_sorted(), "nothing overtakes what failed: {all:?}");
    }

    assert!(endpoint.got("/stuck").iter().all(|g| g.seq() == 1));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn n2_a_notification_refused_often_becomes_a_dead_letter() {
    let world = World::new();

    // The failures of the endpoint (500) between the refusals (422) do not count against the
    // notification.
    let endpoint = Endpoint::start(|_, before| {
        if [1, 2, 3].contains(&before) {
            500
        } else if before < 10 {
            422
        } else {
            200
        }
    })
    .await;

    let running = world.gateway(quick()).await;
    register(
        &running,
        "501",
        "main",
        json!({"url": endpoint.url("/hook")}),
    )
    .await;

    world.tell(["501"; 2]);
    until("the second is delivered", || {
        count(&running.gateway, |m| &m.webhooks_ok) == 1
    })
    .await;
    let got = endpoint.got("/hook");
    assert_eq!(
        got.iter().map(Got::seq).collect::<Vec<_>>(),
        [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2],
        "refused once and six times more"
    );
    let dead = world.records(topics::DEAD_LETTERS);
    let (key, value, headers) = dead.first().expect("a dead letter");
    assert_eq!(
        (dead.len(), key.as_str(), headers["reason"].as_str()),
        (1, "501", "WEBHOOK_UNDELIVERABLE")
    );
    assert!(
        headers["text"].contains("main") && headers["text"].contains("422"),
        "{headers:?}"
    );
    let source = world.records(topics::NOTIFICATIONS);
    let partition = ports::partitioner::partition(b"501", crate::support::PARTITIONS);
    assert_eq!(headers["src"], format!("notifications/{partition}/0"));
    assert!(
        source.iter().any(|(k, v, _)| k == "501" && v == value),
        "the letter holds the notification untouched"
    );
    running.stop().await;
}

/// Regression: after three hours of downtime an endpoint was not tried for eight more hours. Each
/// notification behind the first then had another day and a half of retries.
#[tokio::test(flavor = "multi_thread")]
async fn a_failing_endpoint_is_tried_at_the_last_pause_until_give_up() {
    let world = World::new();
    let endpoint = Endpoint::start(|path, before| {
        if path == "/back" && before >= 30 {
            200
        } else {
            503
        }
    })
    .await;

    let pauses = [10, 20].map(Duration::from_millis).to_vec();
    let long = world
        .gateway(GatewaySettings {
            schedule: pauses.clone(),
            give_up: Duration::from_secs(3_600),
            ..quick()
        })
        .await;

    register(&long, "501", "main", json!({"url": endpoint.url("/back")})).await;
    world.tell(["501"; 2]);
    until("both are delivered", || {
        count(&long.gateway, |m| &m.webhooks_ok) == 2
    })
    .await;
    assert_eq!(
        endpoint
            .got("/back")
            .iter()
            .map(Got::seq)
            .collect::<Vec<_>>(),
        [vec![1; 31], vec![2]].concat(),
        "30 failures are no end"
    );

    long.stop().await;

    let world = World::new();
    let short = world
        .gateway(GatewaySettings {
            schedule: pauses,
            give_up: Duration::from_millis(200),
            ..quick()
        })
        .await;

    register(&short, "501", "main", json!({"url": endpoint.url("/down")})).await;
    world.tell(["501"; 2]);
    until("both are given up", || {
        count(&short.gateway, |m| &m.webhooks_dead) == 2
    })
    .await;
    let got = endpoint.got("/down");
    assert!(
        [1, 2]
            .iter()
            .all(|seq| got.iter().filter(|g| g.seq() == *seq).count() > 2),
        "each was tried for a while"
    );
    short.stop().await;
}

/// Regression: endpoints that never answer used up all delivery slots, for all users.
#[tokio::test(flavor = "multi_thread")]
async fn endpoints_that_never_answer_hold_up_no_other_user() {
    let world = World::new();
    let endpoint = Endpoint::start(|path, _| if path == "/stuck" { 0 } else { 200 }).await;
    let patience = Duration::from_secs(60);
    let running = world
        .gateway(GatewaySettings {
            schedule: vec![patience],
            webhook_timeout: patience,
            ..quick()
        })
        .await;

    let thieves: Vec<String> = (0..40).map(|n| format!("t{n}")).collect();
    for user in &thieves {
        for id in 0..10 {
            register(
                &running,
                user,
                &id.to_string(),
                json!({"url": endpoint.url("/stuck")}),
            )
            .await;
        }
    }

    register(
        &running,
        "501",
        "main",
        json!({"url": endpoint.url("/good")}),
    )
    .await;

    let began = std::time::Instant::now();
    world.tell(thieves.iter().map(String::as_str));
    until("all places are taken", || {
        endpoint.got("/stuck").len() >= 256
    })
    .await;
    world.tell(["501"]);
    until("delivered", || {
        count(&running.gateway, |m| &m.webhooks_ok) == 1
    })
    .await;
    assert!(began.elapsed() < patience / 2, "{:?}", began.elapsed());
    running.stop().await;
}

/// `(src, n)` identifies a record for ever. The record has the time of its cause.
#[tokio::test(flavor = "multi_thread")]
async fn two_endpoints_that_give_up_write_letters_of_two_names() {
    let world = World::new();
    let endpoint = Endpoint::start(|_, _| 500).await;
    let running = world
        .gateway(GatewaySettings {
            schedule: vec![Duration::from_millis(200)],
            give_up: Duration::from_millis(100),
            ..quick()
        })
        .await;

    for id in ["a", "b"] {
        register(
            &running,
            "501",
            id,
            json!({"url": endpoint.url(&format!("/{id}"))}),
        )
        .await;
    }

    world.tell(["501"]);
    until("both give up", || {
        world.records(topics::DEAD_LETTERS).len() == 2
    })
    .await;
    let names: Vec<_> = world
        .records(topics::DEAD_LETTERS)
        .into_iter()
        .map(|(.., h)| (h["src"].clone(), h["n"].clone()))
        .collect();
    assert_eq!(names[0].0, names[1].0);
    assert_ne!(names[0].1, names[1].1);
    for (_, n) in &names {
        assert!(
            n.parse::<i32>().expect("a number") >= 1 << 30,
            "{n} is none of a role's"
        );
    }

    let told = world.times(topics::NOTIFICATIONS)[0];
    assert_eq!(world.times(topics::DEAD_LETTERS), [told, told]);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_was_corrected_is_tried_at_once() {
    let world = World::new();
    let endpoint = Endpoint::start(|path, _| if path == "/wrong" { 500 } else { 200 }).await;
    let day = || GatewaySettings {
        schedule: vec![Duration::from_secs(86_400)],
        ..quick()
    };

    let running = world.gateway(day()).await;
    register(
        &running,
        "501",
        "main",
        json!({"url": endpoint.url("/wrong")}),
    )
    .await;

    world.tell(["501"]);
    until("it failed", || {
        count(&running.gateway, |m| &m.webhooks_failed) == 1
    })
    .await;
    until("that is known", || {
        world
            .records(topics::SUBSCRIPTIONS)
            .iter()
            .any(|(k, ..)| k == "501/position/main")
    })
    .await;

    let corrected = register(
        &running,
        "501",
        "main",
        json!({"url": endpoint.url("/right")}),
    )
    .await;

    assert_eq!(
        (&corrected["failed_attempts"], &corrected["next_attempt_ms"]),
        (&0.into(), &Value::Null)
    );
    until("delivered", || {
        count(&running.gateway, |m| &m.webhooks_ok) == 1
    })
    .await;

    // The same result if another gateway, without webhook delivery, takes the correction.
    register(
        &running,
        "501",
        "main",
        json!({"url": endpoint.url("/wrong")}),
    )
    .await;

    // The first deliveries may still go to the old, right address.
    tokio::time::sleep(Duration::from_millis(200)).await;
    world.tell(["501"]);
    until("it failed again", || {
        count(&running.gateway, |m| &m.webhooks_failed) == 2
    })
    .await;
    running.stop().await;
    let clerk = world
        .gateway(GatewaySettings {
            webhooks: false,
            ..day()
        })
        .await;
    until("the position is read", || {
        clerk
            .gateway
            .subscriptions()
            .of("501")
            .position("main")
            .is_some_and(|p| p.attempts == 1)
    })
    .await;

    register(
        &clerk,
        "501",
        "main",
        json!({"url": endpoint.url("/right")}),
    )
    .await;

    clerk.stop().await;
    let running = world.gateway(day()).await;
    let right = || {
        endpoint
            .got("/right")
            .iter()
            .map(Got::seq)
            .collect::<Vec<_>>()
    };

    until("delivered", || right().last() == Some(&world.told("501"))).await;
    assert_eq!(right(), (1..=world.told("501")).collect::<Vec<_>>());
    running.stop().await;
}

/// The user has no notification within the history, so the endpoint has no number to begin after.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_endpoint_of_a_quiet_user_begins_with_the_next_event() {
    let world = World::new();
    let endpoint = Endpoint::start(|_, _| 200).await;
    let running = old_user(&world, "501", quick()).await;
    register(
        &running,
        "501",
        "main",
        json!({"url": endpoint.url("/hook")}),
    )
    .await;

    running.stop().await;

    // Written while no gateway runs. A gateway with more history also finds the notifications
    // before the endpoint.
    world.tell(["501"]);
    let running = world.gateway(quick()).await;
    world.tell(["501"]);
    until("delivered", || {
        count(&running.gateway, |m| &m.webhooks_ok) == 2
    })
    .await;
    assert_eq!(
        endpoint
            .got("/hook")
            .iter()
            .map(Got::seq)
            .collect::<Vec<_>>(),
        [11, 12]
    );

    assert_eq!(count(&running.gateway, |m| &m.webhooks_dead), 0);
    assert_eq!(shown(&running, "501", "main").await["error"], Value::Null);

    // An endpoint with a start number that never existed reports an error and continues.
    register(
        &running,
        "501",
        "far",
        json!({"url": endpoint.url("/far"), "after": 900}),
    )
    .await;

    until("it is served", || {
        running.gateway.feed.followers("501") == 2
    })
    .await;
    world.tell(["501"]);
    until("corrected", || {
        endpoint.got("/far").iter().any(|g| g.seq() == 13)
    })
    .await;
    assert_eq!(count(&running.gateway, |m| &m.webhooks_dead), 0);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn n2_a_gone_endpoint_is_disabled_until_it_is_put_again() {
    let world = World::new();
    let endpoint = Endpoint::start(|_, before| if before == 1 { 410 } else { 200 }).await;
    let running = world.gateway(quick()).await;
    let wish = json!({"url": endpoint.url("/hook")});
    register(&running, "501", "main", wish.clone()).await;
    world.tell(["501"; 5]);
    until("disabled", || {
        count(&running.gateway, |m| &m.webhooks_disabled) == 1
    })
    .await;
    until("known", || {
        running.gateway.feed.latest("501").is_some_and(|n| n >= 5)
    })
    .await;

    // A delivery to a disabled endpoint would come in this time.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(endpoint.got("/hook").len(), 2, "nothing is sent any more");
    let now = shown(&running, "501", "main").await;
    assert_eq!((&now["enabled"], &now["after"]), (&false.into(), &1.into()));
    running.stop().await;

    // Another gateway sends none either, until the user enables the endpoint. Delivery then
    // continues at the old position.
    let running = world.gateway(quick()).await;
    until("ready", || running.gateway.history_is_read()).await;

    // As above: nothing may come in this time.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(endpoint.got("/hook").len(), 2);
    register(&running, "501", "main", wish).await;
    until("delivered", || {
        count(&running.gateway, |m| &m.webhooks_ok) == 4
    })
    .await;
    assert_eq!(
        endpoint
            .got("/hook")
            .iter()
            .map(Got::seq)
            .collect::<Vec<_>>(),
        [1, 2, 2, 3, 4, 5]
    );

    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn n2_delivery_goes_on_after_a_restart_without_a_loss() {
    let world = World::new();
    let endpoint =
        Endpoint::start(|_, before| if (20..23).contains(&before) { 500 } else { 200 }).await;
    let mut running = world.gateway(quick()).await;
    register(
        &running,
        "501",
        "main",
        json!({"url": endpoint.url("/hook")}),
    )
    .await;

    for _ in 0..6 {
        world.tell(["501"; 10]);
        tokio::time::sleep(Duration::from_millis(40)).await;

        // As after a crash: another gateway of the same number takes the partitions over while this
        // one still runs.
        let next = world.gateway(quick()).await;
        tokio::time::sleep(Duration::from_millis(40)).await;
        running.stop().await;
        running = next;
    }

    let seen = || {
        endpoint
            .got("/hook")
            .iter()
            .filter(|g| g.answered == 200)
            .map(Got::seq)
            .collect::<std::collections::BTreeSet<_>>()
    };

    until("all are delivered", || seen().len() == 60).await;

    // A replaced gateway may repeat a notification, under the same id.
    let mut ids = BTreeMap::new();
    for g in endpoint.got("/hook") {
        assert_eq!(
            *ids.entry(g.seq())
                .or_insert(g.headers["webhook-id"].clone()),
            g.headers["webhook-id"]
        );
    }

    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn preferences_and_kinds_decide_what_is_sent() {
    let world = World::new();
    let endpoint = Endpoint::start(|_, _| 200).await;
    let running = world.gateway(quick()).await;
    let at = running.address;
    let preferences = "/v1/users/501/preferences";
    let (status, set) = ask(
        at,
        Method::PUT,
        preferences,
        &[],
        r#"{"webhook":["order-filled","order-rejected"],"stream":["deposited"]}"#,
    )
    .await;

    assert_eq!((status, &set["stream"]), (200, &json!(["deposited"])));
    assert_eq!(ask(at, Method::GET, preferences, &[], "").await.1, set);
    register(&running, "501", "all", json!({"url": endpoint.url("/all")})).await;
    register(
        &running,
        "501",
        "few",
        json!({"url": endpoint.url("/few"), "kinds": ["order-rejected", "deposited"]}),
    )
    .await;

    let mut sse = crate::support::Sse::after(at, "501", 0).await;
    for event in [
        Event::Deposited,
        Event::OrderFilled,
        Event::OrderRejected,
        Event::OrderPending,
    ] {
        world.tell_event(["501"], event);
    }

    until("delivered", || {
        count(&running.gateway, |m| &m.webhooks_ok) == 3
    })
    .await;
    assert_eq!(
        endpoint
            .got("/all")
            .iter()
            .map(Got::seq)
            .collect::<Vec<_>>(),
        [2, 3]
    );

    assert_eq!(
        endpoint
            .got("/few")
            .iter()
            .map(Got::seq)
            .collect::<Vec<_>>(),
        [3]
    );

    assert_eq!(
        sse.numbers(1).await,
        [1],
        "streams follow the preferences too"
    );
    for (wrong, part) in [
        (r#"{"webhook":["order-filed"]}"#, "order-filled"),
        (r#"{"mail":[]}"#, "mail"),
        ("[", "body"),
    ] {
        let (status, e) = ask(at, Method::PUT, preferences, &[], wrong).await;
        assert!(
            status == 400 && e["message"].as_str().is_some_and(|m| m.contains(part)),
            "{wrong}: {e}"
        );
    }

    assert_eq!(
        ask(at, Method::DELETE, preferences, &[], "").await.1,
        json!({"stream": null, "webhook": null})
    );
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_are_listed_changed_removed_and_bad_ones_refused() {
    let world = World::new();
    let running = world
        .gateway(GatewaySettings {
            private_webhooks: false,
            ..quick()
        })
        .await;
    let at = running.address;
    until("ready", || running.gateway.history_is_read()).await;
    let put = async |id: &str, wish: Value| {
        ask(
            at,
            Method::PUT,
            &format!("/v1/users/501/webhooks/{id}"),
            &[],
            &wish.to_string(),
        )
        .await
    };

    for (wish, part) in [
        (json!({"url": "http://example.com/"}), "https"),
        (
            json!({"url": "https://127.0.0.1/"}),
            "--allow-private-webhooks",
        ),
        (
            json!({"url": "https://[::ffff:10.0.0.1]/"}),
            "not a public address",
        ),
        (
            json!({"url": "https://169.254.169.254/latest/meta-data"}),
            "not a public address",
        ),
        (
            json!({"url": "https://example.com/", "kinds": ["nonsense"]}),
            "order-filled",
        ),
        (
            json!({"url": "https://example.com/", "secret": "short"}),
            "whsec_",
        ),
        (
            json!({"url": "https://example.com/", "unknown": 1}),
            "unknown",
        ),
        (json!({}), "url"),
    ] {
        let (status, e) = put("a", wish.clone()).await;
        assert!(
            status == 400 && e["message"].as_str().is_some_and(|m| m.contains(part)),
            "{wish}: {e}"
        );
    }

    let (status, first) = put("a", json!({"url": "https://example.com/1"})).await;
    assert_eq!((status, first["enabled"].clone()), (201, true.into()));
    let (status, second) = put("a", json!({"url": "https://example.com/2"})).await;
    assert_eq!(
        (status, second["url"].clone(), second.get("secret")),
        (200, "https://example.com/2".into(), None)
    );
    for n in 1..10 {
        assert_eq!(
            put(&format!("b{n}"), json!({"url": "https://example.com/"}))
                .await
                .0,
            201
        );
    }

    assert_eq!(
        put("c", json!({"url": "https://example.com/"})).await.0,
        409
    );
    let all = ask(at, Method::GET, "/v1/users/501/webhooks", &[], "")
        .await
        .1;
    assert_eq!(all["webhooks"].as_array().map(Vec::len), Some(10));
    assert_eq!(
        ask(at, Method::DELETE, "/v1/users/501/webhooks/a", &[], "")
            .await
            .0,
        200
    );
    assert_eq!(
        ask(at, Method::DELETE, "/v1/users/501/webhooks/a", &[], "")
            .await
            .0,
        404
    );
    assert_eq!(
        ask(at, Method::GET, "/v1/users/501/webhooks/a", &[], "")
            .await
            .0,
        404
    );
    let plain = crate::support::request(
        at,
        Method::PUT,
        "/v1/users/501/webhooks/d",
        &[("content-type", "text/plain")],
        "{}",
    )
    .await;

    assert_eq!(
        plain.status(),
        415,
        "what a web page can send without asking is not taken"
    );
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_hold_against_requests_at_the_same_time() {
    let world = World::new();
    let running = world.gateway(quick()).await;
    until("ready", || running.gateway.history_is_read()).await;
    let at = running.address;
    let accepted = async |what: &str, wish: Value, requests: usize| {
        let put = |n: usize| {
            let path = format!("/v1/users/501/{what}/{n}");
            let body = wish.to_string();
            tokio::spawn(async move { ask(at, Method::PUT, &path, &[], &body).await.0 })
        };

        let mut accepted = 0;
        for answer in (0..requests).map(put).collect::<Vec<_>>() {
            let status = answer.await.expect("answered");
            assert!(status == 201 || status == 409, "{status}");
            accepted += usize::from(status == 201);
        }

        accepted
    };

    assert_eq!(
        accepted("webhooks", json!({"url": "https://example.com/"}), 30).await,
        10
    );
    assert_eq!(
        accepted("alerts", json!({"symbol": "AAPL", "above": "1"}), 70).await,
        50
    );
    running.stop().await;
}
