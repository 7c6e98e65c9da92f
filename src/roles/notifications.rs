//! `notifications`: tells users what happened, one sentence per event. No state: an event says everything.

use std::fmt::Write;

use crate::domain::decimal::Money;
use crate::domain::instrument::CURRENCY;
use crate::domain::reason::Reason;
use crate::domain::status::Side;
use crate::engine::context::Ctx;
use crate::engine::records::Record;
use crate::engine::role::{Bug, Role};
use crate::wire::event::{Event, OrderEvent};
use crate::wire::notification::{self, NOTIFICATION};
use crate::wire::topics;

use super::intake::{bug, own};

/// The role's logic; see the module.
#[derive(Default)]
pub(super) struct Notifications {
    text: String,
    value: Vec<u8>,
}

impl Role for Notifications {
    fn process(&mut self, ctx: &mut Ctx<'_>, record: &Record<'_>) -> Result<(), Bug> {
        let raw = own(ctx, record)?;
        let e = OrderEvent::decode(raw).map_err(|fault| bug(ctx, fault))?;
        self.text.clear();
        sentence(&e, &mut self.text).expect("writing to a string");
        self.value.clear();
        notification::encode(&e, &self.text, raw, &mut self.value);
        ctx.emit(topics::NOTIFICATIONS, e.user_id.as_bytes(), NOTIFICATION, &self.value);
        Ok(())
    }
}

/// What a person is told.
fn sentence(e: &OrderEvent<'_>, out: &mut String) -> std::fmt::Result {
    let id = e.order_id.unwrap_or("?");
    let reason = e.text.or(e.reason.map(Reason::text));
    match e.event {
        Event::Deposited | Event::Withdrawn => {
            let what = if e.event == Event::Deposited { "deposited" } else { "withdrawn" };
            write!(out, "{} {CURRENCY} was {what}; ", Money(e.amount_e4.unwrap_or(0).into()))?;
            return write!(out, "{} {CURRENCY} is available.", Money(e.cash_available_e4.into()));
        }
        Event::OrderPending => {
            write!(out, "Order {id}")?;
            order(e, out)?;
            out.push_str(" has passed its checks and is on its way to the market");
        }
        Event::OrderAccepted => {
            write!(out, "Order {id}")?;
            order(e, out)?;
            out.push_str(" is accepted");
        }
        Event::OrderFilled | Event::OrderPartiallyFilled => {
            let done = if e.event == Event::OrderFilled { "filled" } else { "partly filled" };
            let did = if e.side == Some(Side::Sell) { "sold" } else { "bought" };
            let (quantity, symbol) = (e.last_quantity.unwrap_or(0), e.symbol.unwrap_or("?"));
            write!(out, "Order {id} is {done}: {did} {quantity} {symbol} at {} {CURRENCY}", Money(e.last_price_e4.unwrap_or(0).into()))?;
        }
        Event::OrderRejected => {
            write!(out, "Order {id}")?;
            order(e, out)?;
            out.push_str(" is rejected");
            reason.map_or(Ok(()), |r| write!(out, ": {r}"))?;
            if let Some(ms) = e.retry_after_ms {
                write!(out, "; try again in {ms} ms")?;
            }
        }
        Event::OrderCancelled | Event::OrderExpired => {
            write!(out, "Order {id}")?;
            order(e, out)?;
            out.push_str(if e.event == Event::OrderCancelled { " is cancelled" } else { " has expired" });
            reason.map_or(Ok(()), |r| write!(out, ": {r}"))?;
        }
        Event::OrderStatus => {
            let status = e.status.map_or("unknown", |s| s.name()).replace('_', " ");
            write!(out, "Order {id} came again and was not executed again; its status is {status}")?;
        }
        Event::DuplicateRejected => {
            write!(out, "Order id {id} was used before with another {}; nothing was done", e.conflict_field.unwrap_or("content"))?;
        }
        Event::OrderTriggered => write!(out, "The stop of order {id} was triggered")?,
        Event::OrderReplaced => write!(out, "Order {id} was changed")?,
        Event::CancelRejected => {
            write!(out, "Order {id} could not be cancelled")?;
            reason.map_or(Ok(()), |r| write!(out, ": {r}"))?;
        }
        Event::TradeBusted => write!(out, "Trade {} of order {id} was taken back", e.trade_id.unwrap_or("?"))?,
    }
    out.push('.');
    Ok(())
}

/// ` to buy 10 AAPL`, as far as it is known.
fn order(e: &OrderEvent<'_>, out: &mut String) -> std::fmt::Result {
    match (e.side, e.quantity, e.symbol) {
        (Some(side), Some(quantity), Some(symbol)) => write!(out, " to {} {quantity} {symbol}", side.name()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::status::Status;

    #[test]
    fn sentences() {
        let of = |event, change: fn(&mut OrderEvent<'_>)| {
            let mut e = OrderEvent {
                order_id: Some("1001"),
                symbol: Some("AAPL"),
                side: Some(Side::Buy),
                quantity: Some(10),
                ..OrderEvent::new(event, "501")
            };
            change(&mut e);
            let mut text = String::new();
            sentence(&e, &mut text).expect("text");
            text
        };
        assert_eq!(
            of(Event::Deposited, |e| (e.amount_e4, e.cash_available_e4) = (Some(10_000_000_000), 10_000_000_000)),
            "1000000.00 USD was deposited; 1000000.00 USD is available."
        );
        assert_eq!(
            of(Event::OrderFilled, |e| (e.last_quantity, e.last_price_e4) = (Some(10), Some(1_892_500))),
            "Order 1001 is filled: bought 10 AAPL at 189.25 USD."
        );
        assert_eq!(
            of(Event::OrderRejected, |e| (e.reason, e.retry_after_ms) = (Some(Reason::RateLimited), Some(100))),
            "Order 1001 to buy 10 AAPL is rejected: too many orders in a short time; try again in 100 ms."
        );
        assert_eq!(
            of(Event::OrderStatus, |e| e.status = Some(Status::PendingNew)),
            "Order 1001 came again and was not executed again; its status is pending new."
        );
        for event in Event::ALL {
            let text = of(*event, |_| {});
            assert!(text.ends_with('.') && text.len() > 15, "{text}");
        }
    }
}
