//! Orders over HTTP with the real roles on the same log: what a client sees is what the engine did.

#[path = "../../crates/gateway/tests/gateway/support.rs"]
#[allow(dead_code, reason = "other tests use more of it")]
mod gateway_support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use engine::restore::Standby;
use gateway::GatewaySettings;
use hyper::Method;
use ports::{Limits, Log};
use processor::runtime::supervisor::{Ends, Supervisor};
use processor::runtime::system::Installation;
use roles::{Role, RoleSettings};
use serde_json::{Value, json};
use store::rocks::SharedMemory;
use wire::topics::{INSTRUMENTS, MARKET_DATA, REFERENCE_PRICES, table};

use gateway_support::{LONG, World, ask, settings, until};

/// All roles in a thread of this process.
struct Roles {
    stop: tokio::sync::oneshot::Sender<()>,
    thread: std::thread::JoinHandle<()>,
    _state: tempfile::TempDir,
}

impl Roles {
    fn start(world: &World) -> Roles {
        let state = tempfile::tempdir().expect("a directory");
        let system = Installation {
            log: world.log.clone() as Arc<dyn Log>,
            topics: Arc::new(table("")),
            state: state.path().join("state"),
            instance: 1,
            roles: RoleSettings {
                rate_limit: 5,
                burst: 40,
                message_rate_factor: 100,
                ..RoleSettings::default()
            },
            limits: Limits {
                records: 10_000,
                bytes: 8 << 20,
                age: Duration::from_millis(50),
            },
            scrub_every: Duration::ZERO,
            leave: false,
            standby: Standby::None,
            lock_wait: Duration::from_secs(5),
            memory: SharedMemory::default(),
        };

        let (stop, stopped) = tokio::sync::oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async {
                let members = Role::all().into_iter().map(|r| system.member(r)).collect();
                let supervisor = Supervisor::start(
                    members,
                    system.topics.clone(),
                    system.state.clone(),
                    Ends::Together,
                );

                // A dropped sender (of a failed test) is a stop too.
                let until = async { stopped.await.unwrap_or_default() };
                supervisor
                    .run(until, Duration::from_secs(30))
                    .await
                    .expect("the roles end well");
            });
        });

        Roles {
            stop,
            thread,
            _state: state,
        }
    }

    fn stop(self) {
        self.stop.send(()).unwrap_or_default();
        self.thread.join().expect("the roles end");
    }
}

/// Sends a request, and again as a client does that was told to wait.
async fn send(
    at: SocketAddr,
    method: Method,
    path: &str,
    key: Option<&str>,
    body: &Value,
) -> (u16, Value) {
    let headers: Vec<_> = key.iter().map(|k| ("idempotency-key", *k)).collect();
    let body = match body {
        Value::Null => String::new(),
        body => body.to_string(),
    };
    ask(at, method, path, &headers, &body).await
}

/// A listing with a price that the roles know. `orders` learns of both by broadcast, so an order
/// that nobody could afford is sent until it is refused for its price.
async fn list(world: &World, at: SocketAddr, symbol: &str) {
    let listing = json!({ "symbol": symbol });
    world.put(INSTRUMENTS, symbol, listing.to_string().as_bytes());
    let began = std::time::Instant::now();
    let mut n = 0;
    loop {
        n += 1;
        let tick = json!({ "symbol": symbol, "price": "100.00" });
        world.put(MARKET_DATA, symbol, tick.to_string().as_bytes());
        // Broadcast rows have no offset to wait for.
        tokio::time::sleep(Duration::from_millis(100)).await;
        let order = json!({"symbol": symbol, "quantity": 1_000_000, "order_type": "buy", "type": "limit", "limit_price": "100.00"});
        let key = format!("probe-{symbol}-{n}");
        let (status, body) = send(
            at,
            Method::POST,
            "/v1/users/probe/orders",
            Some(&key),
            &order,
        )
        .await;
        if (status, &body["reason"]) == (422, &json!("INSUFFICIENT_FUNDS")) {
            break;
        }

        assert!(began.elapsed() < LONG, "{status} {body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_go_through_the_engine_and_come_back() {
    let world = World::new();
    let roles = Roles::start(&world);
    let of = GatewaySettings {
        history: None,
        ..settings()
    };
    let running = world.gateway(of.clone()).await;
    let at = running.address;
    let health = async || ask(at, Method::GET, "/healthz", &[], "").await.0;
    while health().await != 200 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }

    list(&world, at, "AAPL").await;
    let orders = "/v1/users/501/orders";
    let wait = "/v1/users/501/orders?timeout=60s";
    let buy = json!({"symbol": "AAPL", "quantity": 10, "order_type": "buy"});
    let resting = json!({"symbol": "AAPL", "quantity": 7, "order_type": "buy", "type": "limit", "limit_price": 98.5});

    // A market order is filled by the house, once: the same again is answered and not executed.
    let (status, order) = send(at, Method::POST, wait, Some("m-1"), &buy).await;
    assert_eq!(
        (status, &order["status"]),
        (201, &json!("filled")),
        "{order}"
    );
    assert_eq!(order["cum_value"], "1000.00");
    let (status, again) = send(at, Method::POST, wait, Some("m-1"), &buy).await;
    assert_eq!(
        (status, &again["status"]),
        (200, &json!("filled")),
        "{again}"
    );
    let (status, other) = send(at, Method::POST, wait, Some("m-1"), &resting).await;
    assert_eq!(
        (status, &other["reason"]),
        (409, &json!("DUPLICATE_ORDER")),
        "{other}"
    );
    assert!(other["conflict_field"].is_string());

    // An order that rests is changed, and cancelled.
    let (status, order) = send(at, Method::POST, wait, Some("l-1"), &resting).await;
    assert_eq!((status, &order["status"]), (201, &json!("new")), "{order}");
    assert_eq!(order["limit_price"], "98.50");
    let one = "/v1/users/501/orders/l-1?timeout=60s";
    let (status, order) = send(at, Method::PATCH, one, None, &json!({"quantity": 5})).await;
    assert_eq!((status, &order["quantity"]), (200, &json!(5)), "{order}");
    let (status, order) = send(at, Method::DELETE, one, Some("c-1"), &Value::Null).await;
    assert_eq!(
        (status, &order["status"]),
        (200, &json!("cancelled")),
        "{order}"
    );
    let (status, again) = send(at, Method::DELETE, one, Some("c-1"), &Value::Null).await;
    assert_eq!(
        (status, &again["status"]),
        (200, &json!("cancelled")),
        "{again}"
    );
    let (status, late) = send(at, Method::DELETE, one, Some("c-2"), &Value::Null).await;
    assert_eq!(
        (status, &late["reason"]),
        (409, &json!("TOO_LATE_TO_CANCEL")),
        "{late}"
    );
    let unknown = "/v1/users/501/orders/zzz?timeout=60s";
    let (status, none) = send(at, Method::DELETE, unknown, None, &Value::Null).await;
    assert_eq!(
        (status, &none["reason"]),
        (404, &json!("UNKNOWN_ORDER")),
        "{none}"
    );

    // All at once; then there is nothing to cancel.
    for id in ["l-2", "l-3"] {
        assert_eq!(
            send(at, Method::POST, wait, Some(id), &resting).await.0,
            201
        );
    }

    let stop = json!({"symbol": "AAPL", "quantity": 5, "order_type": "sell", "type": "stop", "stop_price": "90.00"});
    let (status, order) = send(at, Method::POST, wait, Some("s-1"), &stop).await;
    assert_eq!((status, &order["status"]), (201, &json!("new")), "{order}");
    let (status, all) = send(at, Method::DELETE, wait, None, &Value::Null).await;
    assert_eq!(status, 200, "{all}");
    assert_eq!(all["ended"], json!(["l-2", "l-3", "s-1"]));
    let (status, all) = send(at, Method::DELETE, wait, None, &Value::Null).await;
    assert_eq!(
        (status, &all["ended"], &all["open"]),
        (200, &json!([]), &json!([]))
    );

    // Refused by a rule.
    let dear = json!({"symbol": "AAPL", "quantity": 1_000_000, "order_type": "buy", "type": "limit", "limit_price": "100.00"});
    let (status, refused) = send(at, Method::POST, wait, Some("r-1"), &dear).await;
    assert_eq!(
        (status, &refused["reason"]),
        (422, &json!("INSUFFICIENT_FUNDS"))
    );
    let (status, refused) = send(at, Method::POST, wait, Some("r-1"), &dear).await;
    assert_eq!(
        (status, &refused["reason"]),
        (422, &json!("INSUFFICIENT_FUNDS")),
        "the same again is refused again"
    );
    let nowhere = json!({"symbol": "NOPE", "quantity": 1, "order_type": "buy"});
    let (status, refused) = send(at, Method::POST, wait, None, &nowhere).await;
    assert_eq!(
        (status, &refused["reason"]),
        (422, &json!("UNKNOWN_SYMBOL"))
    );

    // The portfolio catches up with the orders, and is worth what the price says.
    let portfolio = async || {
        ask(at, Method::GET, "/v1/users/501/portfolio", &[], "")
            .await
            .1
    };
    let began = std::time::Instant::now();
    let shown = loop {
        let shown = portfolio().await;
        if shown["cash_reserved"] == "0.00" && shown["positions"]["AAPL"]["mark"].is_string() {
            break shown;
        }

        assert!(began.elapsed() < LONG, "{shown}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(shown["positions"]["AAPL"]["market_value"], "1000.00");
    assert_eq!(
        (&shown["equity"], &shown["unrealised"]),
        (&json!("1000000.00"), &json!("0.00"))
    );
    until("a price is told", || {
        !world.records(REFERENCE_PRICES).is_empty()
    })
    .await;

    // A gateway that starts now tells the same.
    let later = world.gateway(of).await;
    let began = std::time::Instant::now();
    for path in [orders, "/v1/users/501/trades", "/v1/users/501/orders/l-1"] {
        let here = ask(at, Method::GET, path, &[], "").await;
        let there = loop {
            let there = ask(later.address, Method::GET, path, &[], "").await;
            if there.0 != 503 {
                break there;
            }

            assert!(began.elapsed() < LONG, "{}", there.1);
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        assert_eq!(here, there, "{path}");
        assert_eq!(here.0, 200);
    }

    // Too many at once.
    let mut limited = None;
    for n in 0..100 {
        let path = "/v1/users/flood/orders?wait=accepted&timeout=60s";
        let key = format!("f-{n}");
        let (status, body) = send(at, Method::POST, path, Some(&key), &buy).await;
        if status == 429 {
            limited = Some(body);
            break;
        }
    }

    let limited = limited.expect("the engine's limit");
    assert_eq!(limited["reason"], "RATE_LIMITED");
    assert!(limited["retry_after_ms"].is_number());
    later.stop().await;
    running.stop().await;
    roles.stop();
}
