//! The demo's clients: a feed that publishes a random walk, and traders that send orders. Both run
//! in their own threads until a flag is set.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use client::simulate::{PriceWalk, Traders};
use client::{MarketDataPublisher, OrderCommandProducer};
use os::clock::wall_ms;
use ports::Log;

#[derive(Default)]
pub(super) struct Gauge {
    /// Set to stop the threads.
    pub stop: AtomicBool,
    /// Set when every role runs. Earlier traffic would measure the start instead of the system.
    pub ready: AtomicBool,
    pub sent: AtomicU64,
    pub ticks: AtomicU64,
    /// First answers seen. At full speed, traders send at most [`WINDOW`] orders ahead of the
    /// answers.
    pub answered: AtomicU64,
    /// Set when every order has ended, or when the wait for them is over.
    pub settled: AtomicBool,
}

/// Most unanswered orders at full speed: enough to fill batches, and few enough for a useful
/// latency.
const WINDOW: u64 = 20_000;

/// Number of events due since `started`, at `per_second`.
fn due(started: Instant, per_second: u64) -> u64 {
    (started.elapsed().as_micros() * u128::from(per_second) / 1_000_000) as u64
}

/// Publishes ticks until the stop flag is set. Every symbol gets a price at once, so that the first
/// orders can trade.
pub(super) fn feed(
    log: Arc<dyn Log>,
    symbols: Vec<String>,
    seed: u64,
    per_second: u64,
    gauge: &Gauge,
) -> anyhow::Result<()> {
    let mut publisher = MarketDataPublisher::new(log)?;
    let count = symbols.len() as u64;
    let mut walk = PriceWalk::new(seed, symbols);
    let started = Instant::now();
    let mut published = 0;
    while !gauge.stop.load(Ordering::Relaxed) {
        while published < due(started, per_second) + count && !gauge.stop.load(Ordering::Relaxed) {
            let Some((symbol, price_e4)) = walk.tick() else {
                return Ok(());
            };

            let price = format!("{}.{:04}", price_e4 / 10_000, price_e4 % 10_000);
            publisher.publish(symbol, &price, wall_ms())?;
            published += 1;
            gauge.ticks.fetch_add(1, Ordering::Relaxed);
        }

        publisher.flush(Duration::from_secs(10))?;
        std::thread::sleep(Duration::from_millis(5));
    }

    Ok(())
}

/// Sends orders until the stop flag is set. `per_second` 0: as fast as answers arrive.
pub(super) fn trade(
    log: Arc<dyn Log>,
    mut traders: Traders,
    per_second: u64,
    gauge: &Gauge,
) -> anyhow::Result<()> {
    let mut producer = OrderCommandProducer::new(log)?;
    while !gauge.ready.load(Ordering::Relaxed) && !gauge.stop.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(2));
    }

    let started = Instant::now();
    let mut sent = 0u64;
    while !gauge.stop.load(Ordering::Relaxed) {
        let room = (gauge.answered.load(Ordering::Relaxed) + WINDOW).saturating_sub(sent);
        let wanted = if per_second == 0 {
            room
        } else {
            due(started, per_second).saturating_sub(sent).min(room)
        };

        for _ in 0..wanted.min(1000) {
            let Some(o) = traders.order() else {
                return Ok(());
            };

            producer.send_order(
                &o.order_id,
                &o.user_id,
                &o.symbol,
                o.quantity,
                o.side,
                wall_ms(),
            )?;

            sent += 1;
            gauge.sent.store(sent, Ordering::Relaxed);
        }

        if wanted < 1000 {
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    producer.flush(Duration::from_secs(10))?;
    Ok(())
}
