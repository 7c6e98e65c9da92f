//! Metrics of the gateway, in the text format of Prometheus.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use ports::LogError;

use crate::feed::Feed;
use crate::orders::OrderIndex;

/// A metric: name, type (`gauge` or `counter`), help text and value.
type MetricRow = (&'static str, &'static str, &'static str, u64);

/// Declares each metric once: the field that counts, and its row in the text.
macro_rules! metrics {
    ($($field:ident, $kind:literal, $name:literal, $help:literal;)*) => {
        /// Counters and gauges of the gateway.
        #[derive(Debug, Default)]
        pub struct Metrics {
            $(#[doc = $help] pub $field: AtomicU64,)*
        }

        impl Metrics {
            fn rows(&self) -> Vec<MetricRow> {
                vec![$(($name, $kind, $help, self.$field.load(Ordering::Relaxed)),)*]
            }
        }
    };
}

metrics! {
    connections, "gauge", "connections", "open connections";
    streams, "gauge", "streams", "open streams";
    refused, "counter", "connections_refused_total",
        "connections turned away because there were too many";
    half_open, "counter", "half_open_refused_total",
        "connections turned away because their address had too many without a request";
    limited, "counter", "requests_limited_total",
        "requests turned away because their address or token sent too many";
    denied, "counter", "requests_denied_total",
        "requests without the right to what they asked for";
    delivered, "counter", "notifications_delivered_total", "notifications handed to streams";
    slow, "counter", "slow_consumers_total", "streams ended because their client read too slowly";
    webhooks_ok, "counter", "webhooks_delivered_total", "webhook requests that succeeded";
    webhooks_failed, "counter", "webhooks_failed_total", "webhook requests that failed";
    webhooks_dead, "counter", "webhooks_dead_total", "notifications given up after the last retry";
    webhooks_disabled, "counter", "webhooks_disabled_total", "endpoints disabled by their answer";
    alerts, "counter", "price_alerts_total", "price alerts that fired here";
    commands, "counter", "commands_total", "commands about orders taken over HTTP";
    commands_unanswered, "counter", "commands_unanswered_total",
        "commands in the log whose answer did not come in time";
    commands_unknown, "counter", "commands_unknown_total",
        "commands of which the log did not say whether it has them";
}

/// The metrics as text. Blocks, because the lag needs offsets from the log.
pub(crate) fn text(
    metrics: &Metrics,
    feed: &Feed,
    orders: &OrderIndex,
) -> Result<String, LogError> {
    let mut out = String::new();
    let rows = feed_rows(feed)?.into_iter().chain(order_rows(orders));
    for (name, kind, help, value) in rows.chain(metrics.rows()) {
        let name = format!("processor_gateway_{name}");
        writeln!(
            out,
            "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}"
        )
        .expect("writing to a string");
    }

    Ok(out)
}

fn feed_rows(feed: &Feed) -> Result<[MetricRow; 7], LogError> {
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let extents = feed.extents();
    let users = extents.iter().map(|e| e.users as u64).sum();
    let bytes = extents.iter().map(|e| e.bytes as u64).sum();
    let ready = u64::from(feed.is_ready());

    Ok([
        ("ready", "gauge", "1 once the history has been read", ready),
        (
            "notifications_read_total",
            "counter",
            "notifications read from the log",
            count(&feed.read),
        ),
        (
            "notifications_odd_total",
            "counter",
            "records of the topic that are no notification",
            count(&feed.odd),
        ),
        (
            "notifications_lag",
            "gauge",
            "offsets between the end of the log and what was read; on Kafka the marks of transactions count, a few at rest",
            feed.lag()?,
        ),
        (
            "history_pages_total",
            "counter",
            "pages of history read from the log",
            count(&feed.pages),
        ),
        (
            "users",
            "gauge",
            "users with notifications in the history",
            users,
        ),
        ("memory_bytes", "gauge", "notifications in memory", bytes),
    ])
}

fn order_rows(orders: &OrderIndex) -> [MetricRow; 3] {
    [
        (
            "commands_waiting",
            "gauge",
            "commands that wait for their answer",
            orders.waiting(),
        ),
        (
            "orders_memory_bytes",
            "gauge",
            "orders and trades in memory",
            orders.bytes(),
        ),
        (
            "order_events_odd_total",
            "counter",
            "records of the topic that are no event",
            orders.odd.load(Ordering::Relaxed),
        ),
    ]
}
