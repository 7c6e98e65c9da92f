//! A log with notifications, a gateway on the log, and clients that read as browsers do.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gateway::access::AccessControl;
use gateway::{self, GatewayContext, GatewaySettings, RunningGateway};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use log_local::LocalLog;
use ports::partitioner;
use ports::records::{HeaderBuf, Headers, Record, Records};
use ports::topics::{Partitions, TopicId, TopicPartition};
use ports::{Appender, Limits, Log, StartOffset};
use serde_json::Value;
use tokio::net::TcpStream;
use wire::event::{Event, OrderEvent};
use wire::{notification, topics};

pub const PARTITIONS: u32 = 3;
pub const LONG: Duration = Duration::from_secs(60);

/// The log, and the number of notifications by user.
pub struct World {
    pub log: Arc<LocalLog>,
    appender: Mutex<Box<dyn Appender>>,
    told: Mutex<BTreeMap<String, u64>>,
}

impl World {
    pub fn new() -> World {
        let table = topics::table("");
        let log = LocalLog::in_memory(&table);
        for topic in table.iter() {
            let count = if table.spec(topic).partitions == Partitions::One {
                1
            } else {
                PARTITIONS
            };

            log.create_topic(topic, table.spec(topic), count)
                .expect("a topic");
        }

        let appender = Mutex::new(log.appender().expect("a writer"));
        World {
            log: Arc::new(log),
            appender,
            told: Mutex::default(),
        }
    }

    /// Writes a notification with the next number for each user. The log has them when the function
    /// returns.
    pub fn tell<'a>(&self, users: impl IntoIterator<Item = &'a str>) {
        self.tell_event(users, Event::OrderFilled);
    }

    pub fn tell_event<'a>(&self, users: impl IntoIterator<Item = &'a str>, event: Event) {
        let mut appender = self.appender.lock().expect("a writer");
        let mut told = self.told.lock().expect("a map");
        for user in users {
            let seq = told.entry(user.to_string()).or_default();
            *seq += 1;
            let e = OrderEvent {
                user_seq: *seq,
                time_us: now() * 1000,
                last_price_e4: Some(1_892_500),
                order_id: Some("o-1"),
                ..OrderEvent::new(event, user)
            };

            let mut raw = Vec::new();
            let mut value = Vec::new();
            e.encode(&mut raw);
            notification::encode(&e, "Something happened.", &raw, &mut value);
            let at = TopicPartition::new(
                topics::NOTIFICATIONS,
                partitioner::partition(user.as_bytes(), PARTITIONS),
            );
            let key = Some(user.as_bytes());
            let value = Some(value.as_slice());
            appender
                .append(&Record {
                    at,
                    offset: 0,
                    timestamp_ms: now(),
                    key,
                    value,
                    headers: Headers::default(),
                })
                .expect("appended");
        }

        appender.flush(LONG).expect("written");
    }

    pub fn told(&self, user: &str) -> u64 {
        self.told
            .lock()
            .expect("a map")
            .get(user)
            .copied()
            .unwrap_or(0)
    }

    /// Appends any record.
    pub fn put(&self, topic: TopicId, key: &str, value: &[u8]) {
        self.put_beside(topic, key, key, Some(value));
    }

    /// Appends to the partition of another key.
    pub fn put_beside(&self, topic: TopicId, beside: &str, key: &str, value: Option<&[u8]>) {
        let mut appender = self.appender.lock().expect("a writer");
        let count = self.log.partitions(topic).expect("known").expect("there");
        let at = TopicPartition::new(topic, partitioner::partition(beside.as_bytes(), count));
        let headers = HeaderBuf::default();
        let r = Record {
            at,
            offset: 0,
            timestamp_ms: now(),
            key: Some(key.as_bytes()),
            value,
            headers: headers.headers(),
        };

        appender.append(&r).expect("appended");
        appender.flush(LONG).expect("written");
    }

    fn all(&self, topic: TopicId) -> Records {
        let count = self.log.partitions(topic).expect("known").expect("there");
        let from: Vec<_> = (0..count).map(|p| (p, StartOffset::Start)).collect();
        let mut reader = self.log.reader(topic, &from, true).expect("a reader");
        let mut records = Records::new();
        let limits = Limits {
            records: 1_000_000,
            bytes: 1 << 30,
            age: LONG,
        };

        while !reader.caught_up() {
            reader
                .poll(Duration::from_millis(10), limits, &mut records)
                .expect("readable");
        }

        records
    }

    /// All records of a topic: key, value, headers.
    pub fn records(&self, topic: TopicId) -> Vec<(String, Vec<u8>, BTreeMap<String, String>)> {
        let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
        let one = |r: Record<'_>| {
            let headers = r
                .headers
                .iter()
                .map(|(n, v)| (n.to_string(), text(v)))
                .collect();
            (
                r.key.map(text).unwrap_or_default(),
                r.value.unwrap_or_default().to_vec(),
                headers,
            )
        };

        self.all(topic).iter().map(one).collect()
    }

    /// The times of all records of a topic.
    pub fn times(&self, topic: TopicId) -> Vec<i64> {
        self.all(topic).iter().map(|r| r.timestamp_ms).collect()
    }

    pub async fn gateway(&self, settings: GatewaySettings) -> RunningGateway {
        self.gateway_with(AccessControl::open(), settings).await
    }

    pub async fn gateway_with(
        &self,
        access: AccessControl,
        settings: GatewaySettings,
    ) -> RunningGateway {
        gateway::start(
            self.log.clone(),
            Arc::new(topics::table("")),
            access,
            settings,
        )
        .await
        .expect("the gateway starts")
    }
}

/// A user with ten notifications, all older than the history; and a gateway.
pub async fn old_user(world: &World, user: &str, settings: GatewaySettings) -> RunningGateway {
    world.tell([user; 10]);

    // Longer than the history of the gateway.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let running = world
        .gateway(GatewaySettings {
            history: Some(Duration::from_millis(250)),
            ..settings
        })
        .await;
    until("ready", || running.gateway.history_is_read()).await;
    assert_eq!(running.gateway.feed.latest(user), None);
    running
}

/// Any port, and short times.
pub fn settings() -> GatewaySettings {
    GatewaySettings {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        heartbeat: Duration::from_millis(200),
        stall: Duration::from_millis(500),
        grace: Duration::from_millis(500),
        ahead: Duration::from_millis(100),
        positions_every: Duration::from_millis(10),
        private_webhooks: true,
        ..GatewaySettings::default()
    }
}

fn now() -> i64 {
    os::clock::wall_ms()
}

/// Waits until `holds` is true.
pub async fn until(what: &str, holds: impl Fn() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };

    tokio::time::timeout(LONG, wait)
        .await
        .unwrap_or_else(|_| panic!("{what}: not within a minute"));
}

/// One request on a separate connection.
pub async fn request(
    at: SocketAddr,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Response<Incoming> {
    try_request(at, method, path, headers, body)
        .await
        .expect("an answer")
}

/// As [`request`], for a gateway that may be down. None if the gateway is down, or dies before its
/// answer.
pub async fn try_request(
    at: SocketAddr,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Option<Response<Incoming>> {
    let stream = TcpStream::connect(at).await.ok()?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
    tokio::spawn(connection);
    let mut r = Request::builder().method(method).uri(path);
    if !headers.iter().any(|(n, _)| *n == "host") {
        r = r.header("host", at.to_string());
    }

    for (name, value) in headers {
        r = r.header(*name, *value);
    }

    sender
        .send_request(
            r.body(Full::new(Bytes::from(body.to_string())))
                .expect("a request"),
        )
        .await
        .ok()
}

/// Status and JSON of an answer.
pub async fn ask(
    at: SocketAddr,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> (u16, Value) {
    let mut all = headers.to_vec();
    if !body.is_empty() {
        all.push(("content-type", "application/json"));
    }

    let response = request(at, method, path, &all, body).await;
    let status = response.status().as_u16();
    let body = tokio::time::timeout(LONG, response.into_body().collect()).await;
    let bytes = body
        .unwrap_or_else(|_| panic!("{path}: a body without an end"))
        .expect("a body")
        .to_bytes();
    (
        status,
        serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned())),
    )
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Said {
    pub id: Option<u64>,
    pub event: String,
    pub data: Value,
}

pub struct Sse {
    body: Incoming,
    text: String,
    /// `Last-Event-ID` of a browser that reconnects.
    pub last_id: u64,
}

impl Sse {
    pub async fn open(at: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Sse {
        let response = request(at, Method::GET, path, headers, "").await;
        assert_eq!(response.status(), 200, "{path}");
        Sse::of(response)
    }

    pub fn of(response: Response<Incoming>) -> Sse {
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Sse {
            body: response.into_body(),
            text: String::new(),
            last_id: 0,
        }
    }

    /// A user's stream after a position.
    pub async fn after(at: SocketAddr, user: &str, after: u64) -> Sse {
        Sse::open(
            at,
            &format!("/v1/users/{user}/notifications?after={after}"),
            &[],
        )
        .await
    }

    /// The next event, including heartbeats (without a name); none at the end.
    pub async fn next_any(&mut self) -> Option<Said> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let said = parse(event);
                self.text = rest.to_string();
                self.last_id = said.id.unwrap_or(self.last_id);
                return Some(said);
            }

            let frame = tokio::time::timeout(LONG, self.body.frame())
                .await
                .expect("a sign of life within a minute")?;
            let data = frame.ok()?.into_data().expect("data");
            self.text
                .push_str(std::str::from_utf8(&data).expect("UTF-8 at event borders"));
        }
    }

    /// The next event other than a heartbeat.
    pub async fn next(&mut self) -> Option<Said> {
        loop {
            let said = self.next_any().await?;
            if !said.event.is_empty() {
                return Some(said);
            }
        }
    }

    /// Numbers of the next `count` notifications. Panics at any event other than hello.
    pub async fn numbers(&mut self, count: usize) -> Vec<u64> {
        let mut numbers = Vec::new();
        while numbers.len() < count {
            let said = self.next().await.expect("the stream goes on");
            match said.event.as_str() {
                "hello" => {}
                "notification" => {
                    assert_eq!(said.id, said.data["user_seq"].as_u64());
                    numbers.push(said.id.expect("an id"));
                }
                other => panic!("unexpected {other}: {}", said.data),
            }
        }

        numbers
    }
}

fn parse(event: &str) -> Said {
    let mut said = Said::default();
    for line in event.lines() {
        match line.split_once(": ") {
            Some(("id", id)) => said.id = Some(id.parse().expect("a number")),
            Some(("event", name)) => said.event = name.to_string(),
            Some(("data", data)) => said.data = serde_json::from_str(data).expect("JSON"),
            _ => assert!(
                line.starts_with(": heartbeat") || line.starts_with("retry: "),
                "{line}"
            ),
        }
    }

    said
}

/// The value of a gateway counter.
pub fn count(
    g: &GatewayContext,
    which: fn(&gateway::Metrics) -> &std::sync::atomic::AtomicU64,
) -> u64 {
    which(&g.metrics).load(std::sync::atomic::Ordering::Relaxed)
}
