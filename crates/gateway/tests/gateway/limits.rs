//! Limits at the door, and a log that does not answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use gateway::GatewaySettings;
use gateway::access::AccessControl;
use hyper::Method;
use log_local::LocalLog;
use ports::records::Record;
use ports::topics::{TopicId, TopicPartition, TopicSpec};
use ports::{
    Appender, Bounds, Committed, Log, LogError, Member, MemberSpec, Reader, StartOffset, TopicState,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use wire::topics::{ORDER_COMMANDS, ORDER_EVENTS};

use crate::access::tokens;
use crate::support::{World, ask, count, request, settings, until};

const ORDER: &str = r#"{"symbol":"AAPL","quantity":10,"order_type":"buy"}"#;

/// A log that can refuse commands, or refuse to show the events.
struct HinderedLog {
    log: Arc<LocalLog>,
    takes_commands: Arc<AtomicBool>,
    shows_events: bool,
}

struct HinderedAppender {
    appender: Box<dyn Appender>,
    takes_commands: Arc<AtomicBool>,
    refused: bool,
}

impl Appender for HinderedAppender {
    fn append(&mut self, record: &Record<'_>) -> Result<(), LogError> {
        if record.at.topic == ORDER_COMMANDS && !self.takes_commands.load(Ordering::Relaxed) {
            self.refused = true;
            return Ok(());
        }

        self.appender.append(record)
    }

    fn flush(&mut self, wait: Duration) -> Result<(), LogError> {
        self.appender.flush(wait)?;
        if self.refused {
            return Err(LogError::Unavailable("broker 10.0.0.7:9092 is down".into()));
        }

        Ok(())
    }
}

impl Log for HinderedLog {
    fn cluster_id(&self) -> Result<String, LogError> {
        self.log.cluster_id()
    }

    fn partitions(&self, topic: TopicId) -> Result<Option<u32>, LogError> {
        self.log.partitions(topic)
    }

    fn join(&self, spec: &MemberSpec) -> Result<Box<dyn Member>, LogError> {
        self.log.join(spec)
    }

    fn reader(
        &self,
        topic: TopicId,
        from: &[(u32, StartOffset)],
        headers: bool,
    ) -> Result<Box<dyn Reader>, LogError> {
        if topic == ORDER_EVENTS && !self.shows_events {
            return Err(LogError::Refused("no right to order-events".into()));
        }

        self.log.reader(topic, from, headers)
    }

    fn appender(&self) -> Result<Box<dyn Appender>, LogError> {
        Ok(Box::new(HinderedAppender {
            appender: self.log.appender()?,
            takes_commands: self.takes_commands.clone(),
            refused: false,
        }))
    }

    fn bounds(&self, at: TopicPartition) -> Result<Bounds, LogError> {
        self.log.bounds(at)
    }

    fn committed(&self, group: &str, partitions: &[TopicPartition]) -> Result<Committed, LogError> {
        self.log.committed(group, partitions)
    }

    fn offset_at(&self, at: TopicPartition, time_ms: i64) -> Result<u64, LogError> {
        self.log.offset_at(at, time_ms)
    }

    fn group_offsets(
        &self,
        group: &str,
        partitions: &[TopicPartition],
    ) -> Result<Vec<Option<u64>>, LogError> {
        self.log.group_offsets(group, partitions)
    }

    fn create_topic(
        &self,
        topic: TopicId,
        spec: &TopicSpec,
        partitions: u32,
    ) -> Result<(), LogError> {
        self.log.create_topic(topic, spec, partitions)
    }

    fn describe_topic(
        &self,
        topic: TopicId,
        spec: &TopicSpec,
    ) -> Result<Option<TopicState>, LogError> {
        self.log.describe_topic(topic, spec)
    }
}

async fn hindered(
    world: &World,
    takes_commands: &Arc<AtomicBool>,
    shows_events: bool,
) -> gateway::RunningGateway {
    let log = HinderedLog {
        log: world.log.clone(),
        takes_commands: takes_commands.clone(),
        shows_events,
    };
    let topics = Arc::new(wire::topics::table(""));
    gateway::start(Arc::new(log), topics, AccessControl::open(), settings())
        .await
        .expect("the gateway starts")
}

#[tokio::test(flavor = "multi_thread")]
async fn log_without_an_answer_leaves_the_outcome_unknown() {
    let world = World::new();
    let takes = Arc::new(AtomicBool::new(false));
    let running = hindered(&world, &takes, true).await;
    let at = running.address;
    until("the history is read", || running.gateway.history_is_read()).await;
    let path = "/v1/users/501/orders?wait=none";
    let key = [("idempotency-key", "o-1")];

    // Nothing of the inside is in the answer, and the same request again is safe.
    let (status, body) = loop {
        let answer = ask(at, Method::POST, path, &key, ORDER).await;
        if answer.1["error"] != "UNAVAILABLE" {
            break answer;
        }
    };
    assert_eq!((status, &body["error"]), (503, &"OUTCOME_UNKNOWN".into()));
    assert_eq!(body["command_id"], "o-1");
    assert!(!body.to_string().contains("10.0.0.7"), "{body}");
    takes.store(true, Ordering::Relaxed);
    let (status, _) = ask(at, Method::POST, path, &key, ORDER).await;
    assert_eq!(status, 202);
    assert_eq!(world.records(ORDER_COMMANDS).len(), 1);
    assert_eq!(count(&running.gateway, |m| &m.commands_unknown), 1);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn gateway_that_may_not_read_events_serves_the_rest() {
    let world = World::new();
    world.tell(["501"]);
    let running = hindered(&world, &Arc::default(), false).await;
    let at = running.address;
    until("the history is read", || running.gateway.history_is_read()).await;
    let health = async || ask(at, Method::GET, "/healthz", &[], "").await.0;
    while health().await != 200 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }

    for (method, body) in [(Method::GET, ""), (Method::POST, ORDER)] {
        let (status, body) = ask(at, method, "/v1/users/501/orders", &[], body).await;
        assert_eq!((status, &body["error"]), (503, &"UNAVAILABLE".into()));
    }

    let (status, _) = ask(at, Method::GET, "/v1/users/501/preferences", &[], "").await;
    assert_eq!(status, 200);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_and_addresses_have_a_rate() {
    let world = World::new();
    let (file, tokens) = tokens(&["501", "502"]);
    let access = || AccessControl::with_file(file.path()).expect("a good file");
    let path = |user: &str| format!("/v1/users/{user}/preferences");

    let of_tokens = GatewaySettings {
        token_rate: 1,
        address_rate: 0,
        ..settings()
    };
    let running = world.gateway_with(access(), of_tokens).await;
    let at = running.address;
    let get = async |at, n: usize, user: &str| {
        let headers = [("authorization", tokens[n].as_str())];
        request(at, Method::GET, &path(user), &headers, "").await
    };
    let mut limited = 0;
    for _ in 0..20 {
        let answer = get(at, 0, "501").await;
        match answer.status().as_u16() {
            200 => {}
            429 => {
                limited += 1;
                assert!(answer.headers().contains_key("retry-after"));
            }
            other => panic!("{other}"),
        }
    }

    assert!(limited > 0);
    assert_eq!(get(at, 1, "502").await.status(), 200, "another token");
    assert_eq!(count(&running.gateway, |m| &m.limited), limited);
    running.stop().await;

    let of_addresses = GatewaySettings {
        token_rate: 0,
        address_rate: 1,
        ..settings()
    };
    let running = world.gateway_with(access(), of_addresses).await;
    let at = running.address;
    until("ready", || running.gateway.history_is_read()).await;
    let mut seen = Vec::new();
    for _ in 0..20 {
        let answer = request(at, Method::GET, "/v1/users/501/trades", &[], "").await;
        seen.push(answer.status().as_u16());
    }

    assert!(seen.contains(&401) && seen.contains(&429), "{seen:?}");
    let (status, _) = ask(at, Method::GET, "/healthz", &[], "").await;
    assert_eq!(status, 200, "a load balancer is let in");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_without_a_request_are_bounded_by_address() {
    let world = World::new();
    let running = world
        .gateway(GatewaySettings {
            half_open_per_address: 2,
            ..settings()
        })
        .await;
    let at = running.address;
    let open = async || TcpStream::connect(at).await.expect("a connection");
    let mut first = open().await;
    let _second = open().await;
    until("both are accepted", || {
        count(&running.gateway, |m| &m.connections) == 2
    })
    .await;

    // A third one is turned away, also with a request.
    let mut third = open().await;
    let ask = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n";
    third.write_all(ask).await.expect("written");
    let mut answer = String::new();
    third.read_to_string(&mut answer).await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert_eq!(count(&running.gateway, |m| &m.half_open), 1);

    // The first one sends its request and keeps its connection: its place is free.
    first.write_all(ask).await.expect("written");
    let mut some = [0; 12];
    first.read_exact(&mut some).await.expect("an answer");
    let response = request(at, Method::GET, "/v1/users/501/alerts", &[], "").await;
    assert_eq!(response.status(), 200);
    running.stop().await;
}
