//! Publishes prices.

use std::sync::Arc;
use std::time::Duration;

use ports::{Log, LogError};
use serde::Serialize;
use wire::topics::MARKET_DATA;

use super::producer::encode;
use super::{ClientError, KeyedAppender, check_id};

#[derive(Serialize)]
struct OutgoingTick<'a> {
    symbol: &'a str,
    price: &'a str,
    timestamp: i64,
}

/// Publishes ticks. A burst waits until the log has room; no tick is dropped. Every price that can
/// be written is accepted, 0 too. The reader of the topic checks the price, and dead-letters a tick
/// with an invalid price.
pub struct MarketDataPublisher {
    ticks: KeyedAppender,
}

impl MarketDataPublisher {
    /// A publisher for the topic `market-data`.
    pub fn new(log: Arc<dyn Log>) -> Result<Self, ClientError> {
        Ok(MarketDataPublisher {
            ticks: KeyedAppender::new(&*log, MARKET_DATA)?,
        })
    }

    /// Queues a tick. The price is sent as its displayed decimal text (`"189.25"`, `7`).
    pub fn publish(
        &mut self,
        symbol: &str,
        price: impl std::fmt::Display,
        timestamp: i64,
    ) -> Result<(), ClientError> {
        check_id("symbol", symbol)?;
        let price = price.to_string();
        self.ticks.append(
            symbol,
            Some(&encode(&OutgoingTick {
                symbol,
                price: &price,
                timestamp,
            })?),
        )?;

        Ok(())
    }

    /// Waits until all published ticks are in the log.
    pub fn flush(&mut self, wait: Duration) -> Result<(), LogError> {
        self.ticks.flush(wait)
    }
}

impl Drop for MarketDataPublisher {
    fn drop(&mut self) {
        if let Err(e) = self.flush(Duration::from_secs(10)) {
            tracing::warn!("ticks may not have reached the log: {e}");
        }
    }
}
