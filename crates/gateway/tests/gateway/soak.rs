//! Many clients at once: a third of them disconnect at random and return, and one never reads. The
//! default is 200 clients for a few seconds. The target of 1,000:
//!
//! ```text
//! GATEWAY_SOAK_CLIENTS=1000 GATEWAY_SOAK_SECONDS=60 cargo test -p processor-gateway --test gateway soak -- --nocapture
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use client::simulate::Rng;
use gateway::GatewaySettings;

use crate::n3_slow::deaf;
use crate::support::{Sse, World, count, settings};

fn argument(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |v| {
        v.parse()
            .unwrap_or_else(|_| panic!("{name} must be a number"))
    })
}

struct Tally {
    /// Longest time from the writer to a client that stays, in milliseconds.
    slowest_ms: AtomicU64,
    received: AtomicU64,
    reconnects: AtomicU64,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn soak_clients_come_and_go_without_gap_or_repeat() {
    let clients = argument("GATEWAY_SOAK_CLIENTS", 200);
    let seconds = argument("GATEWAY_SOAK_SECONDS", 4);

    // Several clients for each user, as people have several screens.
    let users: Vec<String> = (0..clients.div_ceil(4))
        .map(|n| format!("user-{n}"))
        .collect();
    let world = Arc::new(World::new());
    let running = world
        .gateway(GatewaySettings {
            stall: Duration::from_secs(2),
            heartbeat: Duration::from_secs(1),
            memory: 16 << 20,
            ..settings()
        })
        .await;

    let at = running.address;
    let (over, tally) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(Tally {
            slowest_ms: 0.into(),
            received: 0.into(),
            reconnects: 0.into(),
        }),
    );

    let telling = {
        let world = world.clone();
        let users = users.clone();
        let over = over.clone();
        std::thread::spawn(move || {
            let mut rng = Rng::new(7);
            let began = Instant::now();
            while began.elapsed() < Duration::from_secs(seconds) {
                let batch: Vec<&str> = (0..20)
                    .map(|_| users[rng.below(users.len() as u64) as usize].as_str())
                    .collect();
                world.tell(batch);
                world.tell([users[0].as_str(); 20]);
                std::thread::sleep(Duration::from_millis(10));
            }

            over.store(true, Ordering::Release);
        })
    };

    let deaf_one = deaf(at, &users[0], 0).await;

    let all: Vec<_> = (0..clients)
        .map(|n| {
            let user = users[(n / 4) as usize].clone();
            let client = Client {
                at,
                user,
                leaves: n % 3 == 0,
                rng: Rng::new(n + 1),
                last: 0,
            };

            tokio::spawn(client.run(world.clone(), over.clone(), tally.clone()))
        })
        .collect();

    for client in all {
        client.await.expect("no gap, no repeat, nothing missing");
    }

    telling.join().expect("told");

    // The time of its disconnection depends on the kernel's buffers; N3 tests that. Here the deaf
    // client must only not delay the others.
    drop(deaf_one);
    let n = |v: &AtomicU64| v.load(Ordering::Relaxed);
    let told: u64 = users.iter().map(|u| world.told(u)).sum();
    println!(
        "{clients} clients, {told} notifications, {} received, {} reconnects, {} slow; at most {} ms from the writer to a client that stays",
        n(&tally.received),
        n(&tally.reconnects),
        count(&running.gateway, |m| &m.slow),
        n(&tally.slowest_ms)
    );

    assert!(n(&tally.reconnects) > clients / 3);
    assert!(n(&tally.slowest_ms) < 10_000, "somebody was slowed down");
    running.stop().await;
}

struct Client {
    at: std::net::SocketAddr,
    user: String,
    leaves: bool,
    rng: Rng,
    last: u64,
}

impl Client {
    /// Reads until the load has ended and all notifications were received. A leaving client
    /// disconnects now and then.
    async fn run(mut self, world: Arc<World>, over: Arc<AtomicBool>, tally: Arc<Tally>) {
        loop {
            let mut sse = Sse::after(self.at, &self.user, self.last).await;

            // The limit is a time and not a count. By a count, a busy user's client could not catch
            // up with its missed notifications.
            let leaves_at = Instant::now() + Duration::from_millis(self.rng.below(1_500));
            while !(self.leaves && Instant::now() >= leaves_at) {
                if over.load(Ordering::Acquire) && self.last == world.told(&self.user) {
                    return;
                }

                // Heartbeats count too, so that a quiet user's client sees the end of the run.
                let Some(said) = sse.next_any().await else {
                    panic!("{} at {}: cut off", self.user, self.last)
                };

                match said.event.as_str() {
                    "notification" => {
                        assert_eq!(said.id, Some(self.last + 1), "{}", self.user);
                        self.last += 1;
                        tally.received.fetch_add(1, Ordering::Relaxed);
                        let written_ms =
                            said.data["event"]["time_us"].as_i64().expect("a time") / 1000;
                        let late = u64::try_from(os::clock::wall_ms() - written_ms).unwrap_or(0);

                        // Only clients that stay: a client that returns asks for old notifications.
                        if !self.leaves {
                            tally.slowest_ms.fetch_max(late, Ordering::Relaxed);
                        }
                    }
                    "" | "hello" => {}
                    other => panic!("{} at {}: {other}", self.user, self.last),
                }
            }

            drop(sse);
            tally.reconnects.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(self.rng.below(200))).await;
        }
    }
}
