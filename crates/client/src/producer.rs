//! Sends commands of users.

use std::sync::Arc;
use std::time::Duration;

use domain::ids;
use ports::{Log, LogError};
use serde::Serialize;
use wire::topics::ORDER_COMMANDS;

use super::instruments::Listings;
use super::{ClientError, KeyedAppender, check_id};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OrderSide {
    Buy,
    Sell,
}

impl OrderSide {
    /// The word on the wire.
    pub fn name(self) -> &'static str {
        match self {
            OrderSide::Buy => "buy",
            OrderSide::Sell => "sell",
        }
    }
}

#[derive(Serialize)]
struct OrderFields<'a> {
    order_id: &'a str,
    user_id: &'a str,
    symbol: &'a str,
    quantity: u64,
    order_type: OrderSide,
    timestamp: i64,
}

/// Sends orders that the listings allow.
///
/// Sending only queues the order. [`OrderCommandProducer::flush`] waits until all orders are in the
/// log, and the drop of the producer does the same. Sending the same id again after a doubt is
/// safe: the engine executes the order once.
pub struct OrderCommandProducer {
    instruments: Listings,
    commands: KeyedAppender,
}

impl OrderCommandProducer {
    /// Reads the listings to their end.
    pub fn new(log: Arc<dyn Log>) -> Result<Self, ClientError> {
        let instruments = Listings::load(&log)?;
        Ok(OrderCommandProducer {
            instruments,
            commands: KeyedAppender::new(&*log, ORDER_COMMANDS)?,
        })
    }

    /// Sends a market order. An unlisted symbol, a test issue, or an invalid id or quantity is an
    /// error, and nothing is sent.
    pub fn send_order(
        &mut self,
        order_id: &str,
        user_id: &str,
        symbol: &str,
        quantity: u64,
        side: OrderSide,
        timestamp: i64,
    ) -> Result<(), ClientError> {
        check_id("order_id", order_id)?;
        check_id("user_id", user_id)?;
        check_id("symbol", symbol)?;
        if !ids::valid_user(user_id) {
            let why = "is an account of the system itself; orders need a user of your own";
            return Err(ClientError::BadField {
                field: "user_id",
                value: user_id.into(),
                why,
            });
        }

        if quantity == 0 {
            return Err(ClientError::BadField {
                field: "quantity",
                value: "0".into(),
                why: "must be at least 1",
            });
        }

        self.instruments.check(symbol)?;
        let order = OrderFields {
            order_id,
            user_id,
            symbol,
            quantity,
            order_type: side,
            timestamp,
        };

        self.send_raw(user_id, &encode(&order)?)?;
        Ok(())
    }

    /// Sends a command's bytes (MessagePack or JSON) without a check. Returns the user's partition.
    pub fn send_raw(&mut self, user_id: &str, value: &[u8]) -> Result<u32, LogError> {
        self.commands.append(user_id, Some(value))
    }

    /// Waits until all sent commands are in the log.
    pub fn flush(&mut self, wait: Duration) -> Result<(), LogError> {
        self.commands.flush(wait)
    }
}

impl Drop for OrderCommandProducer {
    fn drop(&mut self) {
        if let Err(e) = self.flush(Duration::from_secs(10)) {
            tracing::warn!("orders may not have reached the log: {e}");
        }
    }
}

/// Encodes a MessagePack map with field names.
pub(super) fn encode(value: &impl Serialize) -> Result<Vec<u8>, LogError> {
    rmp_serde::to_vec_named(value)
        .map_err(|e| LogError::Invalid(format!("the record cannot be encoded: {e}")))
}
