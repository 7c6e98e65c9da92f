//! Price alerts. A user names a symbol and a price, and gets one message when the reference price
//! reaches that price.
//!
//! The gateway that serves the user's partition watches `reference-prices` from the offset at which
//! the alert was set. When an alert fires, the gateway writes **one record** under the alert's own
//! key in `subscriptions`. The record is the decision and the message at once, so a crash cannot
//! separate decision and message.
//!
//! For a moment two gateways may serve the partition and write that record. Every reader uses the
//! first record. So an alert fires exactly once. The message is *sent* at least once, to every
//! stream that the user opens, until the user removes the alert or sets the alert again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ports::records::Records;
use ports::topics::TopicPartition;
use ports::{Limits, LogError, StartOffset};
use tokio::sync::watch;
use wire::topics::REFERENCE_PRICES;
use wire::trade::ReferencePrice;

use crate::context::GatewayContext;
use crate::retry_policy::RetryPolicy;
use crate::subscriptions::{Alert, Fired, fired_key};
use crate::webhooks::Owned;
use crate::writer::Writer;

const LIMITS: Limits = Limits {
    records: 5_000,
    bytes: 1 << 20,
    age: Duration::from_millis(10),
};
const WAIT: Duration = Duration::from_millis(50);
const BACKOFF: Duration = Duration::from_millis(500);
/// Number of recent prices kept for alerts that are set while the watcher reads. A new alert looks
/// back only a few milliseconds.
const LOOK_BACK: usize = 4_096;

/// A price read from `reference-prices`.
#[derive(Clone, Debug)]
struct Price {
    offset: u64,
    symbol: String,
    price_e4: i64,
    time_us: i64,
}

/// Alerts that have not fired, by symbol: user, id and alert.
type Armed = BTreeMap<String, Vec<(String, String, Alert)>>;

/// Watches prices until `stop` is set. Retries passing errors of the log, and returns the others.
pub(crate) fn run(
    g: &GatewayContext,
    writer: &Writer,
    owned: watch::Receiver<Owned>,
    stop: &AtomicBool,
) -> Result<(), LogError> {
    let mut passing = RetryPolicy::default();
    while !stop.load(Ordering::Acquire) {
        let mut watcher = Watcher {
            g,
            writer,
            owned: owned.clone(),
            fired: BTreeSet::new(),
            recent: VecDeque::new(),
        };

        if let Err(e) = watcher.watch(stop, &mut passing) {
            let why = passing.wait(e)?;
            tracing::warn!("price alerts paused: {why}; trying again in {BACKOFF:?}");
            std::thread::sleep(BACKOFF);
        }
    }

    Ok(())
}

struct Watcher<'a> {
    g: &'a GatewayContext,
    writer: &'a Writer,
    owned: watch::Receiver<Owned>,
    /// Registrations whose `Fired` record was written but has not come back from the log yet.
    fired: BTreeSet<String>,
    recent: VecDeque<Price>,
}

impl Watcher<'_> {
    /// Watches prices until the assigned partitions change.
    fn watch(&mut self, stop: &AtomicBool, passing: &mut RetryPolicy) -> Result<(), LogError> {
        let ours = self.owned.borrow_and_update().clone();
        while self.g.subscriptions.next_offset() < ours.subscriptions_end {
            if stop.load(Ordering::Acquire) {
                return Ok(());
            }

            std::thread::sleep(Duration::from_millis(5));
        }

        let mut changes = self.g.subscriptions.watch();
        changes.mark_unchanged();
        let mut armed = self.armed(&ours);

        // Begin at the oldest `from`: prices that were reached while no gateway watched fire now.
        let bounds = self
            .g
            .log
            .bounds(TopicPartition::new(REFERENCE_PRICES, 0))?;
        let oldest = armed
            .values()
            .flatten()
            .map(|(.., a)| a.from)
            .min()
            .unwrap_or(bounds.stable_end);
        let from = oldest.clamp(bounds.start, bounds.stable_end.max(bounds.start));
        let mut reader =
            self.g
                .log
                .reader(REFERENCE_PRICES, &[(0, StartOffset::Offset(from))], false)?;
        let mut batch = Records::new();
        while !stop.load(Ordering::Acquire) && !self.owned.has_changed().unwrap_or(false) {
            if changes.has_changed().unwrap_or(false) {
                changes.mark_unchanged();
                armed = self.armed(&ours);
                for price in self.recent.clone() {
                    self.judge(&armed, &price)?;
                }
            }

            batch.clear();
            reader.poll(WAIT, LIMITS, &mut batch)?;
            passing.works();
            for r in batch.iter() {
                let Some(p) = r.value.and_then(|v| ReferencePrice::decode(v).ok()) else {
                    continue;
                };

                let price = Price {
                    offset: r.offset,
                    symbol: p.symbol.into(),
                    price_e4: p.price_e4,
                    time_us: p.time_us,
                };

                self.judge(&armed, &price)?;
                if self.recent.len() == LOOK_BACK {
                    self.recent.pop_front();
                }

                self.recent.push_back(price);
            }
        }

        Ok(())
    }

    fn armed(&mut self, ours: &Owned) -> Armed {
        let mut armed = Armed::new();
        let mut waiting = BTreeSet::new();
        for (user, subscriber) in self.g.subscriptions.with_alerts() {
            if !ours.partitions.contains(&self.g.feed.partition(&user)) {
                continue;
            }

            for (id, alert) in &subscriber.alerts {
                if subscriber.fired(id).is_none() {
                    waiting.insert(alert.registration.clone());
                    armed.entry(alert.symbol.clone()).or_default().push((
                        user.clone(),
                        id.clone(),
                        alert.clone(),
                    ));
                }
            }
        }

        self.fired.retain(|r| waiting.contains(r));
        armed
    }

    /// Fires the alerts that the price has reached.
    fn judge(&mut self, armed: &Armed, price: &Price) -> Result<(), LogError> {
        for (user, id, alert) in armed.get(&price.symbol).into_iter().flatten() {
            if price.offset < alert.from
                || !alert.reached(price.price_e4)
                || self.fired.contains(&alert.registration)
            {
                continue;
            }

            let fired = Fired {
                registration: alert.registration.clone(),
                price_e4: price.price_e4,
                time_us: price.time_us,
            };

            let value = serde_json::to_vec(&fired).expect("plain data can be written");
            let written = self
                .writer
                .subscribe_blocking(fired_key(user, id), Some(value));
            written.map_err(LogError::Unavailable)?;
            self.fired.insert(alert.registration.clone());
            self.g.metrics.alerts.fetch_add(1, Ordering::Relaxed);
        }

        Ok(())
    }
}
