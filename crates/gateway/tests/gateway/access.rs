//! Access rights over HTTP.

use gateway::GatewaySettings;
use gateway::access::{AccessControl, new_admin_token, new_token};
use hyper::Method;
use ports::LogError;

use crate::support::{Sse, World, ask, count, request, settings, until};

/// Marks an admin in a list of users.
const ADMIN: &str = "";

pub fn tokens(users: &[&str]) -> (tempfile::NamedTempFile, Vec<String>) {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let made: Vec<_> = users
        .iter()
        .map(|u| {
            if *u == ADMIN {
                new_admin_token()
            } else {
                new_token(u)
            }
            .expect("random")
        })
        .collect();

    let lines: Vec<_> = made.iter().map(|(_, line)| line.as_str()).collect();
    std::fs::write(file.path(), lines.join("\n")).expect("written");
    (
        file,
        made.into_iter()
            .map(|(token, _)| format!("Bearer {token}"))
            .collect(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_opens_its_user_and_an_admins_opens_all() {
    let world = World::new();
    world.tell(["501", "502"]);
    let (file, tokens) = tokens(&["501", "502", ADMIN]);
    let access = AccessControl::with_file(file.path()).expect("a good file");
    let running = world.gateway_with(access, settings()).await;
    until("ready", || running.gateway.history_is_read()).await;
    let at = running.address;
    let status = async |path: &str, token: Option<&str>| {
        let headers: Vec<_> = token.iter().map(|t| ("authorization", *t)).collect();
        request(at, Method::GET, path, &headers, "")
            .await
            .status()
            .as_u16()
    };

    for path in [
        "notifications?after=0",
        "notifications/ws",
        "portfolio",
        "preferences",
        "webhooks",
        "webhooks/a",
    ] {
        let path = format!("/v1/users/501/{path}");
        assert_eq!(status(&path, None).await, 401, "{path}");
        assert_eq!(status(&path, Some("Bearer ptk_wrong")).await, 401, "{path}");
        assert_eq!(status(&path, Some(&tokens[1])).await, 403, "{path}");
        assert!(
            ![401, 403].contains(&status(&path, Some(&tokens[0])).await),
            "{path}"
        );
        assert!(
            ![401, 403].contains(&status(&path, Some(&tokens[2])).await),
            "{path}"
        );
    }

    assert_eq!(
        (
            status("/metrics", None).await,
            status("/metrics", Some(&tokens[0])).await
        ),
        (401, 403)
    );

    assert_eq!(status("/metrics", Some(&tokens[2])).await, 200);
    assert_eq!(
        status("/healthz", None).await,
        200,
        "a load balancer has no token"
    );
    let mut mine = Sse::open(
        at,
        "/v1/users/501/notifications?after=0",
        &[("authorization", &tokens[0])],
    )
    .await;
    assert_eq!(mine.numbers(1).await, [1]);
    assert!(count(&running.gateway, |m| &m.denied) >= 18);

    // A removed token ends the streams that were opened with it.
    let kept = std::fs::read_to_string(file.path())
        .expect("readable")
        .lines()
        .skip(1)
        .collect::<Vec<_>>()
        .join("\n");
    std::fs::write(file.path(), kept).expect("written");
    let end = mine.next().await.expect("a last event");
    assert_eq!((end.event.as_str(), end.id), ("token_revoked", Some(1)));
    assert_eq!(
        status("/v1/users/501/webhooks", Some(&tokens[0])).await,
        401
    );
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_machines_are_let_in_with_tokens_only() {
    let world = World::new();
    for open in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"] {
        let settings = GatewaySettings {
            listen: open.parse().expect("an address"),
            ..settings()
        };

        let topics = std::sync::Arc::new(wire::topics::table(""));
        match gateway::start(world.log.clone(), topics, AccessControl::open(), settings).await {
            Err(LogError::Invalid(why)) => assert!(why.contains("--token-file"), "{why}"),
            Err(e) => panic!("{e}"),
            Ok(_) => panic!("{open} is open to the world"),
        }
    }

    let (file, _) = tokens(&["501"]);
    let access = AccessControl::with_file(file.path()).expect("a good file");
    let running = world
        .gateway_with(
            access,
            GatewaySettings {
                listen: "0.0.0.0:0".parse().expect("an address"),
                ..settings()
            },
        )
        .await;

    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn web_pages_of_other_sites_get_nothing() {
    let world = World::new();
    let running = world.gateway(settings()).await;
    let at = running.address;
    let path = "/v1/users/501/notifications";
    let rebound = request(at, Method::GET, path, &[("host", "evil.example")], "").await;
    assert_eq!(
        rebound.status(),
        403,
        "a name that was made to point at this machine"
    );
    let foreign = request(
        at,
        Method::GET,
        path,
        &[("origin", "https://evil.example")],
        "",
    )
    .await;

    assert_eq!(foreign.status(), 403);
    let own = format!("http://{at}");
    assert_eq!(
        request(at, Method::GET, path, &[("origin", &own)], "")
            .await
            .status(),
        200
    );
    running.stop().await;
}

/// Regression: a proxy that sent our own address in `Host` opened an open gateway to everyone.
#[tokio::test(flavor = "multi_thread")]
async fn forwarded_requests_are_answered_with_tokens_or_if_told() {
    let world = World::new();
    world.tell(["501"]);
    let (file, tokens) = tokens(&["501"]);
    let path = "/v1/users/501/webhooks";
    let of_proxies = [
        ("x-forwarded-for", "203.0.113.9"),
        ("via", "1.1 proxy"),
        ("forwarded", "for=203.0.113.9"),
        ("x-real-ip", "203.0.113.9"),
    ];
    let kinds = [
        (AccessControl::open(), 403),
        (AccessControl::open_to_proxies(), 200),
        (AccessControl::with_file(file.path()).expect("a file"), 200),
    ];
    for (access, want) in kinds {
        let running = world.gateway_with(access, settings()).await;
        until("ready", || running.gateway.history_is_read()).await;
        for header in of_proxies {
            let (status, body) = ask(
                running.address,
                Method::GET,
                path,
                &[header, ("authorization", &tokens[0])],
                "",
            )
            .await;

            assert_eq!(status, want, "{header:?}: {body}");
            assert!(status == 200 || body["error"] == "PASSED_ON", "{body}");
        }

        crate::support::until("ready", || running.gateway.history_is_read()).await;
        assert_eq!(
            ask(running.address, Method::GET, "/healthz", &of_proxies, "")
                .await
                .0,
            200,
            "a load balancer asks that, too"
        );

        running.stop().await;
    }
}

/// Every resource with GET also answers HEAD. A refused method gets a list of the allowed methods.
/// Each path has only one spelling.
#[tokio::test(flavor = "multi_thread")]
async fn methods_and_spellings() {
    let world = World::new();
    world.tell(["501"]);
    let running = world.gateway(settings()).await;
    let at = running.address;
    crate::support::until("ready", || running.gateway.history_is_read()).await;
    let hook = r#"{"url":"https://example.com/"}"#;
    assert!(
        [200, 201].contains(
            &ask(at, Method::PUT, "/v1/users/501/webhooks/w", &[], hook)
                .await
                .0
        )
    );

    let own = [
        "notifications?after=0",
        "preferences",
        "webhooks",
        "webhooks/w",
        "webhooks/none",
        "alerts",
        "portfolio",
        "nothing",
        "notifications/ws",
    ];

    let paths = own
        .iter()
        .map(|p| format!("/v1/users/501/{p}"))
        .chain(["/healthz", "/metrics", "/", "/x"].map(String::from));
    for path in paths {
        let head = request(at, Method::HEAD, &path, &[], "").await;
        let status = head.status();
        let headers = head.headers().clone();
        let body = http_body_util::BodyExt::collect(head.into_body())
            .await
            .expect("an end")
            .to_bytes();
        assert!(body.is_empty(), "{path}");
        let get = request(at, Method::GET, &path, &[], "").await;
        assert_eq!(
            (status, headers.get("content-type")),
            (get.status(), get.headers().get("content-type")),
            "{path}"
        );
        let unlike = request(at, Method::PATCH, &path, &[], "").await;
        match unlike.status().as_u16() {
            405 => {
                let allow = unlike.headers()["allow"].to_str().expect("a list");
                assert!(
                    allow.starts_with("GET, HEAD")
                        && (allow.contains("PUT") == path.ends_with("preferences")
                            || path.contains("webhooks/")),
                    "{path}: {allow}"
                );
            }
            status => assert_eq!(status, 404, "{path}"),
        }
    }

    let refused = request(at, Method::GET, "/v1/users/501/notifications/ws", &[], "").await;
    assert_eq!(
        (
            &refused.headers()["upgrade"],
            &refused.headers()["sec-websocket-version"]
        ),
        (&"websocket".parse().unwrap(), &"13".parse().unwrap())
    );

    for other in [
        "//metrics",
        "/%6detrics",
        "//v1/users/501/webhooks",
        "/v1/%75sers/501/webhooks",
        "/v1/users/%3501/webhooks",
        "/v1/users/501/%77ebhooks",
        "/v1/users/../webhooks",
        "/metrics/",
        "/./metrics",
        "/healthz%2f",
    ] {
        assert_eq!(ask(at, Method::GET, other, &[], "").await.0, 404, "{other}");
    }

    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_requests_are_explained() {
    let world = World::new();
    let running = world
        .gateway(GatewaySettings {
            streams_per_user: 1,
            ..settings()
        })
        .await;
    let at = running.address;
    for (method, path, status, part) in [
        (Method::GET, "/", 404, "/v1/users/{user}/notifications"),
        (Method::GET, "/v1/users/501/order", 404, "portfolio"),
        (Method::GET, "/v1/users//notifications", 400, "user"),
        (Method::POST, "/v1/users/501/notifications", 405, "GET"),
        (
            Method::GET,
            "/v1/users/501/notifications?after=x",
            400,
            "after `x`",
        ),
        (
            Method::GET,
            "/v1/users/501/notifications?after=-1",
            400,
            "number",
        ),
        (
            Method::GET,
            "/v1/users/501/notifications?kinds=filled",
            400,
            "order-filled",
        ),
        (
            Method::GET,
            "/v1/users/501/notifications?after",
            400,
            "number",
        ),
        (
            Method::GET,
            "/v1/users/501/notifications?kinds",
            400,
            "kinds=all",
        ),
        (
            Method::GET,
            "/v1/users/501/notifications?after=%3",
            400,
            "hex digits",
        ),
        (Method::GET, "/v1/users/50%/notifications", 400, "%25"),
        (Method::GET, "/v1/users/5%2f01/notifications", 400, "user"),
        (
            Method::GET,
            "/v1/users/501/notifications/ws",
            426,
            "WebSocket",
        ),
        (
            Method::GET,
            "/v1/users/501/webhooks/none",
            404,
            "no webhook none",
        ),
    ] {
        let (code, body) = ask(at, method, path, &[], "").await;
        assert_eq!(code, status, "{path}: {body}");
        assert!(
            body["message"].as_str().is_some_and(|m| m.contains(part)),
            "{path}: {body}"
        );
    }

    let held = Sse::after(at, "501", 0).await;
    crate::support::until("counted", || running.gateway.feed.followers("501") == 1).await;
    let (status, body) = ask(at, Method::GET, "/v1/users/501/notifications", &[], "").await;
    assert_eq!((status, &body["error"]), (429, &"TOO_MANY_STREAMS".into()));
    drop(held);
    let (status, metrics) = ask(at, Method::GET, "/metrics", &[], "").await;
    assert!(
        status == 200
            && metrics
                .as_str()
                .is_some_and(|m| m.contains("processor_gateway_streams ")),
        "{metrics}"
    );

    running.stop().await;
}

/// Ids may contain any printable character but `/`. In a path some of these characters need a `%`
/// escape.
#[tokio::test(flavor = "multi_thread")]
async fn every_user_that_may_exist_can_be_asked_for() {
    let world = World::new();
    let users = ["a?b", "a#b", "*", "100%"];
    world.tell(users);
    let (file, tokens) = tokens(&users);
    let running = world
        .gateway_with(
            AccessControl::with_file(file.path()).expect("a good file"),
            settings(),
        )
        .await;
    for (path, token) in ["a%3Fb", "a%23b", "%2a", "100%25"].iter().zip(&tokens) {
        let path =
            format!("/v1/users/{path}/notifications?after=0&kinds=order-filled%2Corder-rejected");
        let mut sse = Sse::open(running.address, &path, &[("authorization", token)]).await;
        assert_eq!(sse.numbers(1).await, [1], "{path}");
    }

    let mut ahead = Sse::open(
        running.address,
        "/v1/users/a%3Fb/notifications?after=9",
        &[("authorization", &tokens[0])],
    )
    .await;
    ahead.next().await.expect("hello");
    assert_eq!(
        ahead.next().await.expect("an event").data["snapshot"],
        "/v1/users/a%3Fb/portfolio",
        "links are written so too"
    );
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_connections_than_allowed_are_told_to_come_back() {
    let world = World::new();
    let running = world
        .gateway(GatewaySettings {
            connections: 2,
            ..settings()
        })
        .await;
    crate::support::until("ready", || running.gateway.history_is_read()).await;
    let a = Sse::after(running.address, "501", 0).await;
    let _b = Sse::after(running.address, "502", 0).await;
    let (status, full) = ask(running.address, Method::GET, "/healthz", &[], "").await;
    assert_eq!(
        (status, &full["error"]),
        (503, &"UNAVAILABLE".into()),
        "JSON like every error"
    );
    assert_eq!(count(&running.gateway, |m| &m.refused), 1);
    drop(a);
    crate::support::until("a place is free", || {
        count(&running.gateway, |m| &m.connections) == 1
    })
    .await;
    assert_eq!(
        request(running.address, Method::GET, "/healthz", &[], "")
            .await
            .status(),
        200
    );

    // A WebSocket counts as a connection too.
    crate::support::until("a place is free", || {
        count(&running.gateway, |m| &m.connections) == 1
    })
    .await;
    let _ws = crate::websocket::open(running.address, "/v1/users/501/notifications/ws").await;
    assert_eq!(
        request(running.address, Method::GET, "/healthz", &[], "")
            .await
            .status(),
        503
    );
    running.stop().await;
}
