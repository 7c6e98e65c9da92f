//! N1 and N2 on a real broker: two gateways on one installation are killed in turn while orders
//! flow. Clients reconnect to either gateway. Every client gets each of its notifications once and
//! in order, every endpoint gets all of them, and every price alert fires.

#[path = "../../crates/gateway/tests/gateway/endpoint.rs"]
#[allow(dead_code, reason = "other tests use more of it")]
mod endpoint;
#[path = "../../crates/gateway/tests/gateway/support.rs"]
#[allow(dead_code, reason = "other tests use more of it")]
mod gateway;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hyper::Method;
use serde_json::json;
use wire::topics as t;

use crate::support::load::{Orders, Sender, Stream, reference};
use crate::support::oracle::read_all;
use crate::support::process::{Installation, Process, tail};
use crate::support::rest::wait_at_rest;
use crate::support::{broker, load};
use endpoint::Endpoint;
use gateway::{Sse, try_request};

const USERS: u64 = 6;
const SYMBOLS: u64 = 3;
const PARTITIONS: u32 = 3;
/// Commands per second.
const RATE: u64 = 30;
const KILLS: usize = 8;
const BETWEEN: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(120);

struct Gateways {
    installation: Installation,
    at: [SocketAddr; 2],
    running: Vec<Process>,
}

impl Gateways {
    fn start(installation: &Installation) -> Gateways {
        let at = [(); 2].map(|()| SocketAddr::from(([127, 0, 0, 1], broker::free_port())));
        let mut all = Gateways {
            installation: installation.clone(),
            at,
            running: Vec::new(),
        };

        all.running = (0..2).map(|i| all.one(i)).collect();
        all
    }

    fn one(&self, i: usize) -> Process {
        let listen = self.at[i].to_string();
        let args = [
            "gateway",
            "--listen",
            &listen,
            "--heartbeat",
            "500ms",
            "--allow-private-webhooks",
            "--webhook-retries",
            "200ms,500ms,1s,2s",
        ];

        self.installation.spawn(
            "gateway",
            1 + u32::try_from(i).expect("a small number"),
            &args,
            &[],
        )
    }

    fn kill(&mut self, i: usize) {
        assert!(
            self.running[i].is_running(),
            "a gateway ended by itself:\n{}",
            tail(&self.running[i].log)
        );
        self.running[i].kill9();
        self.running[i] = self.one(i);
    }
}

/// Repeats a PUT to both gateways in turn until the PUT is accepted.
async fn put(at: [SocketAddr; 2], path: &str, body: &str) {
    let began = Instant::now();
    for i in (0..2).cycle() {
        let answer = try_request(
            at[i],
            Method::PUT,
            path,
            &[("content-type", "application/json")],
            body,
        )
        .await;

        match answer.map(|a| a.status().as_u16()) {
            Some(200 | 201) => return,
            None | Some(503) => {}
            Some(other) => panic!("{path}: {other}"),
        }

        assert!(began.elapsed() < PATIENCE, "no gateway takes {path}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// All that a client has received at the end.
#[derive(Debug, Default)]
struct Client {
    seen: u64,
    connections: u64,
    alerts: BTreeSet<String>,
}

/// Reads a user's notifications, and switches to the other gateway when a connection ends. Stops
/// after the last notification and the alert.
async fn client(at: [SocketAddr; 2], user: String, last: Arc<AtomicU64>) -> Client {
    let mut c = Client::default();
    let began = Instant::now();
    for turn in 0.. {
        let path = format!("/v1/users/{user}/notifications?after={}", c.seen);
        let answer = try_request(at[turn % 2], Method::GET, &path, &[], "")
            .await
            .filter(|a| a.status() == 200);
        let Some(answer) = answer else {
            assert!(began.elapsed() < 2 * PATIENCE, "{user}: no gateway answers");
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };

        c.connections += 1;
        let mut sse = Sse::of(answer);
        while let Some(said) = sse.next_any().await {
            match said.event.as_str() {
                "notification" => {
                    assert_eq!(said.id, Some(c.seen + 1), "{user}: a gap or a repeat");
                    c.seen += 1;
                }
                "price_alert" => drop(c.alerts.insert(said.data["registration"].to_string())),
                "hello" | "" | "slow_consumer" | "unavailable" => {}
                other => panic!("{user}: {other} {}", said.data),
            }

            if c.seen == last.load(Ordering::Relaxed) && !c.alerts.is_empty() {
                return c;
            }

            assert!(
                began.elapsed() < 2 * PATIENCE,
                "{user} has seen {} and {} alerts",
                c.seen,
                c.alerts.len()
            );
        }
    }

    unreachable!("turns have no end")
}

#[test]
fn n1_n2_killed_gateways_miss_and_repeat_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let (broker, prefix) = (broker::Broker::start(), broker::unique_prefix("gateway"));
    let installation = Installation::ample(&broker.address, &prefix, dir.path(), 100_000_000);
    let log = installation.log();
    installation.run(&["topics", "create", "--partitions", &PARTITIONS.to_string()]);
    reference(&mut Sender::new(&*log), SYMBOLS);
    let mut roles = installation.start("all", 1);
    let mut gateways = Gateways::start(&installation);
    let at = gateways.at;

    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let users: Vec<_> = (0..USERS).map(|n| format!("u{n}")).collect();

    // Every seventh request fails, which causes retries.
    let endpoint = runtime.block_on(Endpoint::start(
        |_, before| if before % 7 == 6 { 500 } else { 200 },
    ));
    for user in &users {
        let url = endpoint.url(&format!("/{user}"));
        runtime.block_on(put(
            at,
            &format!("/v1/users/{user}/webhooks/main"),
            &json!({"url": url, "after": 0}).to_string(),
        ));
        runtime.block_on(put(
            at,
            &format!("/v1/users/{user}/alerts/a"),
            &json!({"symbol": "S1", "above": "1.00"}).to_string(),
        ));
    }

    let ends: BTreeMap<_, _> = users
        .iter()
        .map(|u| (u.clone(), Arc::new(AtomicU64::new(u64::MAX))))
        .collect();
    let clients: Vec<_> = ends
        .iter()
        .map(|(user, end)| runtime.spawn(client(at, user.clone(), end.clone())))
        .collect();

    let stream = Stream::start(log.clone(), Orders::new(11, USERS, SYMBOLS), RATE);
    for n in 0..KILLS {
        std::thread::sleep(BETWEEN);
        gateways.kill(n % 2);
    }

    std::thread::sleep(BETWEEN);
    let sent = stream.stop();
    wait_at_rest(&*log, &prefix, PATIENCE, || {
        assert!(
            roles.is_running(),
            "the roles stopped:\n{}",
            tail(&roles.log)
        )
    });

    let mut told = BTreeMap::<String, u64>::new();
    for n in read_all(&*log, t::NOTIFICATIONS) {
        let seq = n.value["user_seq"].as_u64().expect("a number");
        let last = told.entry(n.text("user_id").to_string()).or_default();
        assert_eq!(seq, *last + 1);
        *last = seq;
    }

    for (user, end) in &ends {
        end.store(told[user], Ordering::Relaxed);
    }

    let mut connections = 0;
    for (user, c) in users.iter().zip(clients) {
        let c = runtime.block_on(c).expect("no gap, no repeat");
        assert_eq!(
            (c.seen, c.alerts.len()),
            (told[user], 1),
            "{user}: one registration, one alert, however often it is told"
        );
        connections += c.connections;
    }

    // Webhooks: at least once, under one id, and new ones in order.
    let path = |user: &str| format!("/{user}");
    let delivered = |user: &str| {
        endpoint
            .got(&path(user))
            .iter()
            .filter(|g| g.answered == 200)
            .map(endpoint::Got::seq)
            .collect::<BTreeSet<_>>()
    };

    load::wait_for("every endpoint has everything", PATIENCE, || {
        users.iter().all(|u| delivered(u).len() as u64 == told[u])
    });

    let mut requests = 0;
    let mut repeats = 0;
    for user in &users {
        let got = endpoint.got(&path(user));
        let mut ids = BTreeMap::new();
        let mut first = 0;
        for g in &got {
            let id = g.headers["webhook-id"].clone();
            assert_eq!(
                ids.entry(g.seq()).or_insert_with(|| id.clone()),
                &id,
                "{user}: one notification, one id"
            );
            if g.answered == 200 && g.seq() == first + 1 {
                first += 1;
            } else {
                assert!(
                    g.seq() <= first + 1,
                    "{user}: {} came before {}",
                    g.seq(),
                    first + 1
                );
                repeats += 1;
            }
        }

        assert_eq!(
            (first, ids.values().collect::<BTreeSet<_>>().len() as u64),
            (told[user], told[user]),
            "{user}: as many ids as notifications"
        );
        requests += got.len();
    }

    let all: u64 = told.values().sum();
    println!(
        "{sent} commands, {all} notifications of {USERS} users, {KILLS} kills of two gateways: {connections} connections, no gap, no repeat; \
         {requests} webhook requests, {repeats} of them answered 500 or repeated"
    );
    gateways.running.into_iter().for_each(Process::stop);
    roles.stop();
}
