//! Orders over HTTP. The tests play the role `orders`: they read the commands that the gateway
//! wrote, and write the events that answer them. So each answer comes when a test wants it.

use std::net::SocketAddr;
use std::time::Duration;

use domain::reason::Reason;
use domain::status::{Side, Status};
use gateway::GatewaySettings;
use gateway::access::AccessControl;
use hyper::Method;
use serde_json::{Value, json};
use wire::event::{Event, OrderEvent};
use wire::topics::{ORDER_COMMANDS, ORDER_EVENTS};

use crate::access::tokens;
use crate::support::{World, ask, request, settings, until};

const LIMIT: &str =
    r#"{"symbol":"AAPL","quantity":10,"order_type":"buy","type":"limit","limit_price":"189.25"}"#;
const MARKET: &str = r#"{"symbol":"AAPL","quantity":10,"order_type":"buy"}"#;

/// The role `orders`, played by a test.
struct Desk<'a> {
    world: &'a World,
    seq: u64,
}

/// An event about an order of user 501, as the command in [`LIMIT`] or [`MARKET`] causes it.
fn event<'a>(event: Event, id: &'a str, status: Status) -> OrderEvent<'a> {
    OrderEvent {
        time_us: 1_700_000_000_000_000,
        order_id: Some(id),
        cause_id: Some(id),
        symbol: Some("AAPL"),
        side: Some(Side::Buy),
        quantity: Some(10),
        cum_quantity: Some(0),
        leaves_quantity: Some(10),
        limit_price_e4: Some(1_892_500),
        status: Some(status),
        ..OrderEvent::new(event, "501")
    }
}

fn because(reason: Reason, e: OrderEvent<'_>) -> OrderEvent<'_> {
    OrderEvent {
        reason: Some(reason),
        text: Some(reason.text()),
        ..e
    }
}

fn by<'a>(cause: &'a str, e: OrderEvent<'a>) -> OrderEvent<'a> {
    OrderEvent {
        cause_id: Some(cause),
        ..e
    }
}

impl Desk<'_> {
    fn of(world: &World) -> Desk<'_> {
        Desk { world, seq: 0 }
    }

    fn commands(&self) -> Vec<(String, Value)> {
        let all = self.world.records(ORDER_COMMANDS);
        all.into_iter()
            .map(|(key, value, _)| (key, serde_json::from_slice(&value).expect("JSON")))
            .collect()
    }

    async fn wait_for_commands(&self, count: usize) {
        until("the command is written", || self.commands().len() == count).await;
    }

    fn tell(&mut self, events: &[OrderEvent<'_>]) {
        for e in events {
            self.seq += 1;
            let mut value = Vec::new();
            let e = OrderEvent {
                user_seq: self.seq,
                ..*e
            };
            e.encode(&mut value);
            self.world.put(ORDER_EVENTS, e.user_id, &value);
        }
    }

    /// An order that was accepted and rests.
    fn accept(&mut self, id: &str) {
        self.tell(&[
            event(Event::OrderPending, id, Status::PendingNew),
            event(Event::OrderAccepted, id, Status::New),
        ]);
    }
}

/// Status, headers and JSON of an answer.
struct Answer {
    status: u16,
    headers: hyper::HeaderMap,
    body: Value,
}

async fn send(
    at: SocketAddr,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Answer {
    use http_body_util::BodyExt;
    let mut all = headers.to_vec();
    if !body.is_empty() {
        all.push(("content-type", "application/json"));
    }

    let response = request(at, method, path, &all, body).await;
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let bytes = response
        .into_body()
        .collect()
        .await
        .expect("a body")
        .to_bytes();
    let body = serde_json::from_slice(&bytes).expect("JSON");
    Answer {
        status,
        headers,
        body,
    }
}

/// Sends a request beside the test.
fn sending(
    at: SocketAddr,
    method: Method,
    path: &str,
    key: &str,
    body: &str,
) -> tokio::task::JoinHandle<Answer> {
    let (path, key, body) = (path.to_string(), key.to_string(), body.to_string());
    tokio::spawn(async move { send(at, method, &path, &[("idempotency-key", &key)], &body).await })
}

/// Sends a change, and answers it with an event as soon as its command is written.
async fn asked(
    at: SocketAddr,
    desk: &mut Desk<'_>,
    method: Method,
    path: &str,
    body: &str,
    e: OrderEvent<'_>,
) -> Answer {
    let key = e.cause_id.expect("a cause");
    let written = desk.commands().len();
    let asked = sending(at, method, path, key, body);
    desk.wait_for_commands(written + 1).await;
    desk.tell(&[e]);
    asked.await.expect("an answer")
}

async fn ready(running: &gateway::RunningGateway) {
    let at = running.address;
    for _ in 0..1000 {
        if ask(at, Method::GET, "/healthz", &[], "").await.0 == 200 {
            return;
        }

        tokio::time::sleep(Duration::from_millis(10)).await;
    }

    panic!("the gateway does not become ready");
}

async fn gateway(world: &World, settings: GatewaySettings) -> gateway::RunningGateway {
    // These tests ask for more than a person does.
    let running = world
        .gateway(GatewaySettings {
            address_rate: 0,
            token_rate: 0,
            ..settings
        })
        .await;
    ready(&running).await;
    running
}

const ORDERS: &str = "/v1/users/501/orders";

#[tokio::test(flavor = "multi_thread")]
async fn one_post_is_one_record_and_its_acceptance_is_the_answer() {
    let world = World::new();
    let mut desk = Desk::of(&world);
    let running = gateway(&world, settings()).await;
    let at = running.address;
    let posted = sending(at, Method::POST, ORDERS, "\"o-1\"", LIMIT);
    desk.wait_for_commands(1).await;
    let (key, command) = desk.commands().remove(0);
    assert_eq!(key, "501");
    let mut want: Value = serde_json::from_str(LIMIT).expect("JSON");
    (want["user_id"], want["order_id"]) = ("501".into(), "o-1".into());
    assert_eq!(command, want);

    desk.accept("o-1");
    let answer = posted.await.expect("an answer");
    assert_eq!(answer.status, 201);
    assert_eq!(answer.headers["location"], "/v1/users/501/orders/o-1");
    assert_eq!(answer.headers["content-type"], "application/json");
    let order = &answer.body;
    assert_eq!(
        (&order["status"], &order["limit_price"], &order["order_id"]),
        (&json!("new"), &json!("189.25"), &json!("o-1"))
    );

    // A market order is answered at its end, and with wait=accepted at its acceptance.
    for (query, events) in [("", 3), ("?wait=accepted", 2)] {
        let id = format!("m-{events}");
        let written = desk.commands().len();
        let path = format!("{ORDERS}{query}");
        let posted = sending(at, Method::POST, &path, &id, MARKET);
        desk.wait_for_commands(written + 1).await;
        let without_limit = |e| OrderEvent {
            limit_price_e4: None,
            ..e
        };
        let fill = OrderEvent {
            cum_quantity: Some(10),
            leaves_quantity: Some(0),
            trade_id: Some("t-1"),
            last_quantity: Some(10),
            last_price_e4: Some(1_890_000),
            ..event(Event::OrderFilled, &id, Status::Filled)
        };
        let all = [
            event(Event::OrderPending, &id, Status::PendingNew),
            event(Event::OrderAccepted, &id, Status::New),
            fill,
        ]
        .map(without_limit);
        desk.tell(&all[..events]);
        let answer = posted.await.expect("an answer");
        assert_eq!(answer.status, 201, "{query}");
        let want = if events == 3 { "filled" } else { "new" };
        assert_eq!(answer.body["status"], want);
    }

    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_of_the_engine_has_its_status() {
    let world = World::new();
    let mut desk = Desk::of(&world);
    let running = gateway(&world, settings()).await;
    let at = running.address;
    let rejected = |reason| because(reason, event(Event::OrderRejected, "x", Status::Rejected));
    let limited = OrderEvent {
        retry_after_ms: Some(1_200),
        ..rejected(Reason::RateLimited)
    };
    let duplicate = OrderEvent {
        conflict_field: Some("quantity"),
        ..because(
            Reason::DuplicateOrder,
            event(Event::DuplicateRejected, "x", Status::New),
        )
    };
    let refused_before = because(
        Reason::InsufficientFunds,
        event(Event::OrderStatus, "x", Status::Rejected),
    );
    for (e, status) in [
        (event(Event::OrderStatus, "x", Status::New), 200),
        (refused_before, 422),
        (duplicate, 409),
        (rejected(Reason::InsufficientFunds), 422),
        (rejected(Reason::UnknownSymbol), 422),
        (rejected(Reason::KillSwitch), 403),
        (rejected(Reason::AccountDisabled), 403),
        (limited, 429),
    ] {
        let written = desk.commands().len();
        let posted = sending(at, Method::POST, ORDERS, "x", LIMIT);
        desk.wait_for_commands(written + 1).await;
        desk.tell(&[e]);
        let answer = posted.await.expect("an answer");
        assert_eq!(answer.status, status, "{:?} {}", e.reason, answer.body);
        if status == 200 {
            assert_eq!(answer.body["status"], "new");
            continue;
        }

        let reason = e.reason.expect("a reason");
        let body = answer.body;
        assert_eq!(answer.headers["content-type"], "application/problem+json");
        assert_eq!(body["type"], "about:blank");
        assert_eq!(body["status"], status);
        assert!(body["title"].is_string() && body["detail"] == reason.text());
        assert_eq!(
            (&body["reason"], &body["reason_code"]),
            (&json!(reason.name()), &json!(reason.code()))
        );
        let conflict = e.conflict_field.map_or(Value::Null, Value::from);
        assert_eq!(body["conflict_field"], conflict);
        let wait = answer.headers.get("retry-after").map(|v| v.as_bytes());
        assert_eq!(wait, (status == 429).then_some(&b"2"[..]));
    }

    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_answer_in_time_the_command_is_accepted() {
    let world = World::new();
    let mut desk = Desk::of(&world);
    let running = gateway(&world, settings()).await;
    let at = running.address;
    for query in ["?wait=none", "?timeout=50ms", "?wait=final&timeout=50ms"] {
        let path = format!("{ORDERS}{query}");
        let answer = send(at, Method::POST, &path, &[], LIMIT).await;
        assert_eq!(answer.status, 202, "{query}");
        let id = answer.body["order_id"].as_str().expect("an id").to_string();
        assert_eq!(answer.headers["location"], format!("{ORDERS}/{id}"));
        let (_, command) = desk.commands().pop().expect("a command");
        assert_eq!(command["order_id"], id);
        let early = send(at, Method::GET, &format!("{ORDERS}/{id}"), &[], "").await;
        assert_eq!(early.status, 404, "{query}");
        desk.accept(&id);
    }

    // The final stage of an order that rests does not come: the order is shown as far as it is.
    let written = desk.commands().len();
    let path = format!("{ORDERS}?wait=final&timeout=500ms");
    let posted = sending(at, Method::POST, &path, "f-1", LIMIT);
    desk.wait_for_commands(written + 1).await;
    desk.accept("f-1");
    let answer = posted.await.expect("an answer");
    assert_eq!(
        (answer.status, &answer.body["status"]),
        (202, &json!("new"))
    );
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_in_itself_is_not_written() {
    let world = World::new();
    let desk = Desk::of(&world);
    let running = gateway(&world, settings()).await;
    let at = running.address;
    let one = format!("{ORDERS}/o-1");
    let put = |more: &str| format!("{}{more}}}", &LIMIT[..LIMIT.len() - 1]);
    let both = put(r#","order_id":"a""#);
    let cases: &[(Method, &str, &str, &str, u16)] = &[
        (Method::POST, ORDERS, "a", "[]", 400),
        (Method::POST, ORDERS, "a", "{", 400),
        (Method::POST, ORDERS, "a", &put(r#","user_id":"502""#), 400),
        (Method::POST, ORDERS, "a", &put(r#","command":"bust""#), 400),
        (Method::POST, ORDERS, "b", &both, 400),
        (Method::POST, ORDERS, "a/b", LIMIT, 400),
        (
            Method::POST,
            ORDERS,
            "a",
            &put(r#","reduce_only":true"#),
            422,
        ),
        (Method::POST, ORDERS, "a", &put(r#","tif":"SOON""#), 422),
        (
            Method::POST,
            "/v1/users/501/orders?wait=long",
            "a",
            LIMIT,
            400,
        ),
        (
            Method::POST,
            "/v1/users/501/orders?wiat=none",
            "a",
            LIMIT,
            400,
        ),
        (Method::POST, "/v1/users/house:A/orders", "a", LIMIT, 400),
        (Method::PATCH, &one, "a", "{}", 400),
        (Method::PATCH, &one, "a", r#"{"quantity":0}"#, 422),
        (Method::DELETE, "/v1/users/501/orders?symbl=A", "a", "", 400),
        (Method::DELETE, "/v1/users/501/orders?symbol=", "a", "", 400),
        (Method::PUT, ORDERS, "a", LIMIT, 405),
        (Method::POST, &one, "a", LIMIT, 405),
        (Method::GET, "/v1/users/501/orders/%6f", "a", "", 404),
        (Method::GET, "/v1/users/501/orders/a/b", "a", "", 404),
    ];
    for (method, path, key, body, status) in cases {
        let answer = send(at, method.clone(), path, &[("idempotency-key", key)], body).await;
        assert_eq!(
            answer.status, *status,
            "{method} {path} {body} {}",
            answer.body
        );
        assert_eq!(answer.headers["content-type"], "application/problem+json");
        assert_eq!(answer.body["status"], *status);
        if *status == 405 {
            assert!(answer.headers.contains_key("allow"));
        }
    }

    let kind = [("content-type", "text/plain")];
    let plain = request(at, Method::POST, ORDERS, &kind, LIMIT).await;
    assert_eq!(plain.status(), 415);
    assert!(desk.commands().is_empty());
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn gateway_that_dies_before_the_answer_is_made_up_by_another() {
    let world = World::new();
    let mut desk = Desk::of(&world);
    let first = gateway(&world, settings()).await;
    let second = gateway(&world, settings()).await;
    let posted = sending(first.address, Method::POST, ORDERS, "o-1", LIMIT);
    desk.wait_for_commands(1).await;
    first.stop().await;
    let answer = posted.await.expect("an answer");
    assert_eq!(
        (answer.status, &answer.body["order_id"]),
        (202, &json!("o-1"))
    );

    // The order is handled while nobody waits. The same request at the other gateway is a repeat.
    desk.accept("o-1");
    let again = sending(second.address, Method::POST, ORDERS, "o-1", LIMIT);
    desk.wait_for_commands(2).await;
    let [one, two] = &desk.commands()[..] else {
        panic!("two records");
    };
    assert_eq!(one, two);
    desk.tell(&[event(Event::OrderStatus, "o-1", Status::New)]);
    let answer = again.await.expect("an answer");
    assert_eq!(
        (answer.status, &answer.body["status"]),
        (200, &json!("new"))
    );

    // A gateway that starts later knows the order from the log.
    let third = gateway(&world, settings()).await;
    for at in [second.address, third.address] {
        let got = send(at, Method::GET, &format!("{ORDERS}/o-1"), &[], "").await;
        assert_eq!((got.status, &got.body["status"]), (200, &json!("new")));
        let names: Vec<_> = got.body["events"]
            .as_array()
            .expect("events")
            .iter()
            .map(|e| e["event"].as_str().unwrap_or_default())
            .collect();
        assert_eq!(names, ["OrderPending", "OrderAccepted", "OrderStatus"]);
    }

    second.stop().await;
    third.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fill_of_an_earlier_order_does_not_answer_a_repeat() {
    let world = World::new();
    let mut desk = Desk::of(&world);
    let running = gateway(&world, settings()).await;
    desk.accept("o-1");
    let other = LIMIT.replace(r#""quantity":10"#, r#""quantity":11"#);
    let posted = sending(running.address, Method::POST, ORDERS, "o-1", &other);
    desk.wait_for_commands(1).await;
    let fill = OrderEvent {
        last_quantity: Some(10),
        last_price_e4: Some(1),
        ..event(Event::OrderFilled, "o-1", Status::Filled)
    };
    let duplicate = because(
        Reason::DuplicateOrder,
        event(Event::DuplicateRejected, "o-1", Status::Filled),
    );
    desk.tell(&[fill, duplicate]);
    assert_eq!(posted.await.expect("an answer").status, 409);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_gateways_answer_the_same_order_at_the_same_moment() {
    let world = World::new();
    let mut desk = Desk::of(&world);
    let both = [
        gateway(&world, settings()).await,
        gateway(&world, settings()).await,
    ];
    let posted =
        [&both[0], &both[1]].map(|g| sending(g.address, Method::POST, ORDERS, "o-1", LIMIT));
    desk.wait_for_commands(2).await;
    desk.accept("o-1");
    desk.tell(&[event(Event::OrderStatus, "o-1", Status::New)]);
    for answer in posted {
        let answer = answer.await.expect("an answer");
        assert!(matches!(answer.status, 200 | 201), "{}", answer.status);
        assert_eq!(answer.body["order_id"], "o-1");
    }

    for g in both {
        g.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn waiters_are_bounded_and_requests_of_one_id_take_turns() {
    let world = World::new();
    let mut desk = Desk::of(&world);
    let running = gateway(
        &world,
        GatewaySettings {
            commands: 2,
            ..settings()
        },
    )
    .await;
    let at = running.address;
    let first = sending(at, Method::POST, ORDERS, "o-1", LIMIT);
    desk.wait_for_commands(1).await;
    let second = sending(at, Method::POST, ORDERS, "o-1", LIMIT);

    // The second one has its place as soon as a third one finds none.
    let answer = loop {
        let path = format!("{ORDERS}/x?timeout=1ms");
        let answer = send(at, Method::DELETE, &path, &[], "").await;
        if answer.status == 503 && answer.body["error"] == "UNAVAILABLE" {
            break answer;
        }
    };
    assert_eq!(answer.headers["retry-after"], "1");
    let of_o1 = || {
        let ours = |c: &(String, Value)| c.1["order_id"] == "o-1";
        desk.commands().iter().filter(|c| ours(c)).count()
    };
    assert_eq!(of_o1(), 1, "the second waits for the first");
    desk.accept("o-1");
    assert_eq!(first.await.expect("an answer").status, 201);
    until("the second is written", || {
        let ours = |c: &(String, Value)| c.1["order_id"] == "o-1";
        let desk = Desk::of(&world);
        desk.commands().iter().filter(|c| ours(c)).count() == 2
    })
    .await;
    desk.tell(&[event(Event::OrderStatus, "o-1", Status::New)]);
    assert_eq!(second.await.expect("an answer").status, 200);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_and_cancels_are_answered_by_their_own_events() {
    let world = World::new();
    let mut desk = Desk::of(&world);
    let running = gateway(&world, settings()).await;
    let at = running.address;
    let one = format!("{ORDERS}/o-1");
    desk.accept("o-1");
    desk.accept("o-2");
    let replaced = OrderEvent {
        quantity: Some(5),
        leaves_quantity: Some(5),
        ..by("r-1", event(Event::OrderReplaced, "o-1", Status::New))
    };
    let answer = asked(
        at,
        &mut desk,
        Method::PATCH,
        &one,
        r#"{"quantity":5}"#,
        replaced,
    )
    .await;
    assert_eq!((answer.status, &answer.body["quantity"]), (200, &json!(5)));
    assert_eq!(answer.body["command_id"], "r-1");

    let refusals = [
        (Reason::SystemBusy, 409, 3),
        (Reason::PriceBand, 422, 8),
        (Reason::UnknownOrder, 404, 1),
        (Reason::TooLateToCancel, 409, 0),
        (Reason::KillSwitch, 403, 99),
    ];
    for (reason, status, code) in refusals {
        let id = format!("r-{}", reason.name());
        let refused = because(reason, event(Event::CancelRejected, "o-1", Status::New));
        let refused = by(&id, refused);
        let answer = asked(
            at,
            &mut desk,
            Method::PATCH,
            &one,
            r#"{"quantity":5}"#,
            refused,
        )
        .await;
        assert_eq!(
            (answer.status, &answer.body["reason_code"]),
            (status, &json!(code)),
            "{id}"
        );
    }

    let cancelled = because(
        Reason::UserRequest,
        by(
            "c-1",
            event(Event::OrderCancelled, "o-1", Status::Cancelled),
        ),
    );
    let answer = asked(at, &mut desk, Method::DELETE, &one, "", cancelled).await;
    assert_eq!(
        (
            answer.status,
            &answer.body["status"],
            &answer.body["reason"]
        ),
        (200, &json!("cancelled"), &json!("USER_REQUEST"))
    );
    let (_, command) = desk.commands().pop().expect("a command");
    assert_eq!(
        command,
        json!({"command": "cancel", "user_id": "501", "order_id": "c-1", "orig_order_id": "o-1"})
    );

    let cancelled = by(
        "m-1",
        event(Event::OrderCancelled, "o-2", Status::Cancelled),
    );
    let path = format!("{ORDERS}?symbol=AAPL");
    let answer = asked(at, &mut desk, Method::DELETE, &path, "", cancelled).await;
    assert_eq!(answer.status, 200);
    assert_eq!(
        (&answer.body["ended"], &answer.body["open"]),
        (&json!(["o-2"]), &json!([]))
    );
    let (_, command) = desk.commands().pop().expect("a command");
    assert_eq!(
        (&command["command"], &command["symbol"]),
        (&json!("mass_cancel"), &json!("AAPL"))
    );
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_have_pages_and_say_from_when_on_they_know() {
    let world = World::new();
    let mut desk = Desk::of(&world);
    for id in ["a", "b", "c"] {
        desk.accept(id);
    }

    let fill = OrderEvent {
        cum_quantity: Some(10),
        leaves_quantity: Some(0),
        trade_id: Some("3-1"),
        last_quantity: Some(10),
        last_price_e4: Some(1_890_000),
        fee_e4: Some(100),
        ..event(Event::OrderFilled, "b", Status::Filled)
    };
    desk.tell(&[fill]);
    let running = gateway(
        &world,
        GatewaySettings {
            history: None,
            read_only: true,
            ..settings()
        },
    )
    .await;
    let at = running.address;
    let get = async |path: &str| send(at, Method::GET, path, &[], "").await;
    let ids = |answer: &Answer| -> Vec<String> {
        let all = answer.body["orders"].as_array().expect("orders");
        all.iter()
            .map(|o| o["order_id"].as_str().expect("an id").to_string())
            .collect()
    };
    let first = get("/v1/users/501/orders?limit=2").await;
    assert_eq!(
        (first.status, ids(&first)),
        (200, vec!["a".into(), "b".into()])
    );
    assert_eq!(first.body["since_ms"], Value::Null);
    let next = first.body["next"].as_u64().expect("more");
    let rest = get(&format!("/v1/users/501/orders?limit=2&after={next}")).await;
    assert_eq!(
        (ids(&rest), &rest.body["next"]),
        (vec!["c".into()], &Value::Null)
    );
    let open = get("/v1/users/501/orders?status=open&symbol=AAPL").await;
    assert_eq!(ids(&open), ["a", "c"]);
    assert_eq!(ids(&get("/v1/users/501/orders?status=closed").await), ["b"]);
    assert_eq!(ids(&get("/v1/users/502/orders").await), [] as [String; 0]);

    let trades = get("/v1/users/501/trades").await;
    assert_eq!(
        trades.body["trades"],
        json!([{"trade_id": "3-1", "order_id": "b", "symbol": "AAPL", "side": "buy", "quantity": 10, "price": "189.00",
            "fee": "0.01", "user_seq": 7, "time_us": 1_700_000_000_000_000_i64, "taken_back": false}])
    );
    let order = get("/v1/users/501/orders/b").await;
    assert_eq!(order.body["cum_value"], "1890.00");
    assert_eq!(order.body["events"][2]["last_price"], "189.00");
    let unknown = get("/v1/users/501/orders/z").await;
    assert_eq!(
        (unknown.status, &unknown.body["error"]),
        (404, &json!("NOT_FOUND"))
    );

    // Order entry is off, and nothing is written.
    for method in [Method::POST, Method::DELETE] {
        let answer = send(at, method, ORDERS, &[], LIMIT).await;
        assert_eq!(
            (answer.status, &answer.body["error"]),
            (403, &json!("ORDER_ENTRY_OFF"))
        );
    }

    assert!(desk.commands().is_empty());
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_need_the_users_token() {
    let world = World::new();
    let desk = Desk::of(&world);
    let (file, tokens) = tokens(&["501", "502"]);
    let access = AccessControl::with_file(file.path()).expect("a good file");
    let running = world.gateway_with(access, settings()).await;
    ready(&running).await;
    let at = running.address;
    for (token, status) in [(None, 401), (Some(&tokens[1]), 403)] {
        let headers: Vec<_> = token
            .iter()
            .map(|t| ("authorization", t.as_str()))
            .collect();
        for (method, path) in [
            (Method::POST, ORDERS),
            (Method::GET, ORDERS),
            (Method::DELETE, "/v1/users/501/orders/a"),
            (Method::GET, "/v1/users/501/trades"),
        ] {
            let answer = send(at, method, path, &headers, "").await;
            assert_eq!(answer.status, status, "{path}");
            assert_eq!(answer.headers["content-type"], "application/problem+json");
        }
    }

    let path = format!("{ORDERS}?wait=none");
    let mine = [("authorization", tokens[0].as_str())];
    assert_eq!(
        send(at, Method::POST, &path, &mine, LIMIT).await.status,
        202
    );
    assert_eq!(desk.commands().len(), 1);
    running.stop().await;
}
