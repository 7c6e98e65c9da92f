//! Metrics of the gateway, in the text format of Prometheus.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use ports::LogError;
use ports::topics::TopicPartition;

use super::GatewayContext;

/// Counters and gauges of the gateway.
#[derive(Debug, Default)]
#[allow(missing_docs)]
pub struct Metrics {
    pub connections: AtomicU64,
    /// Open streams.
    pub streams: AtomicU64,
    /// Connections refused because of the maximum number of connections.
    pub refused: AtomicU64,
    /// Requests refused because the caller had no right to the path.
    pub denied: AtomicU64,
    /// Notifications put into the queues of streams.
    pub delivered: AtomicU64,
    /// Streams that ended because their client read too slowly.
    pub slow: AtomicU64,
    /// Webhook requests that succeeded.
    pub webhooks_ok: AtomicU64,
    pub webhooks_failed: AtomicU64,
    /// Notifications given up after the last retry.
    pub webhooks_dead: AtomicU64,
    /// Endpoints disabled because they answered HTTP 410.
    pub webhooks_disabled: AtomicU64,
    /// Price alerts that this gateway fired.
    pub alerts: AtomicU64,
}

/// The metrics as text. Blocks, because lag needs offsets from the log.
pub(crate) fn text(gateway: &GatewayContext) -> Result<String, LogError> {
    let m = &gateway.metrics;
    let feed = &gateway.feed;
    let extents = feed.extents();
    let mut lag = 0;
    for (partition, extent) in (0..).zip(&extents) {
        let end = gateway
            .log
            .bounds(TopicPartition::new(feed.topic, partition))?
            .stable_end;
        lag += end.saturating_sub(extent.next);
    }

    let n = |v: &AtomicU64| v.load(Ordering::Relaxed);
    let rows: [(&str, &str, &str, u64); 18] = [
        (
            "ready",
            "gauge",
            "1 once the history has been read",
            u64::from(feed.is_ready()),
        ),
        (
            "connections",
            "gauge",
            "open connections",
            n(&m.connections),
        ),
        ("streams", "gauge", "open streams", n(&m.streams)),
        (
            "connections_refused_total",
            "counter",
            "connections turned away because there were too many",
            n(&m.refused),
        ),
        (
            "requests_denied_total",
            "counter",
            "requests without the right to what they asked for",
            n(&m.denied),
        ),
        (
            "notifications_read_total",
            "counter",
            "notifications read from the log",
            n(&feed.read),
        ),
        (
            "notifications_odd_total",
            "counter",
            "records of the topic that are no notification",
            n(&feed.odd),
        ),
        (
            "notifications_lag",
            "gauge",
            "offsets between the end of the log and what was read; on Kafka the marks of transactions count, a few at rest",
            lag,
        ),
        (
            "notifications_delivered_total",
            "counter",
            "notifications handed to streams",
            n(&m.delivered),
        ),
        (
            "history_pages_total",
            "counter",
            "pages of history read from the log",
            n(&feed.pages),
        ),
        (
            "users",
            "gauge",
            "users with notifications in the history",
            extents.iter().map(|e| e.users as u64).sum(),
        ),
        (
            "memory_bytes",
            "gauge",
            "notifications in memory",
            extents.iter().map(|e| e.bytes as u64).sum(),
        ),
        (
            "slow_consumers_total",
            "counter",
            "streams ended because their client read too slowly",
            n(&m.slow),
        ),
        (
            "webhooks_delivered_total",
            "counter",
            "webhook requests that succeeded",
            n(&m.webhooks_ok),
        ),
        (
            "webhooks_failed_total",
            "counter",
            "webhook requests that failed",
            n(&m.webhooks_failed),
        ),
        (
            "webhooks_dead_total",
            "counter",
            "notifications given up after the last retry",
            n(&m.webhooks_dead),
        ),
        (
            "price_alerts_total",
            "counter",
            "price alerts that fired here",
            n(&m.alerts),
        ),
        (
            "webhooks_disabled_total",
            "counter",
            "endpoints disabled by their answer",
            n(&m.webhooks_disabled),
        ),
    ];

    let mut out = String::new();
    for (name, kind, help, value) in rows {
        writeln!(out, "# HELP processor_gateway_{name} {help}\n# TYPE processor_gateway_{name} {kind}\nprocessor_gateway_{name} {value}")
            .expect("writing to a string");
    }

    Ok(out)
}
