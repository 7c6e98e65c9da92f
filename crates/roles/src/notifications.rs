//! `notifications`: one sentence for the user per event. No state, because an event carries all the
//! facts.

use std::fmt::Write;

use domain::decimal::Money;
use domain::instrument::CURRENCY;
use domain::reason::Reason;
use domain::status::{Side, Status};
use engine::context::Ctx;
use engine::role::{InvariantViolation, RoleLogic};
use ports::records::Record;
use wire::event::{Event, OrderEvent};
use wire::notification::{self, NOTIFICATION};
use wire::topics;

use super::ingress::{internal_value, violation};

#[derive(Default)]
pub(super) struct Notifications {
    text: String,
    value: Vec<u8>,
}

impl RoleLogic for Notifications {
    fn process(
        &mut self,
        ctx: &mut Ctx<'_>,
        record: &Record<'_>,
    ) -> Result<(), InvariantViolation> {
        let raw = internal_value(ctx, record)?;
        let e = OrderEvent::decode(raw).map_err(|fault| violation(ctx, fault))?;
        self.text.clear();
        sentence(&e, &mut self.text).expect("writing to a string");
        self.value.clear();
        notification::encode(&e, &self.text, raw, &mut self.value);
        ctx.emit(
            topics::NOTIFICATIONS,
            e.user_id.as_bytes(),
            NOTIFICATION,
            &self.value,
        );
        Ok(())
    }
}

/// Writes the sentence for the user.
fn sentence(e: &OrderEvent<'_>, out: &mut String) -> std::fmt::Result {
    let id = e.order_id.unwrap_or("?");
    match e.event {
        Event::Deposited | Event::Withdrawn => transfer(e, out)?,
        Event::OrderPending => {
            subject(e, id, out)?;
            out.push_str(" has passed its checks and is on its way to the market");
        }
        Event::OrderAccepted => {
            subject(e, id, out)?;
            out.push_str(" is accepted");
        }
        Event::OrderFilled | Event::OrderPartiallyFilled => fill(e, id, out)?,
        // A refused command has the id of an earlier command. The event carries the unchanged
        // status of the earlier command.
        Event::OrderRejected if e.status.is_some_and(|s| s != Status::Rejected) => {
            refused(e, id, out)?;
        }
        Event::OrderRejected => {
            subject(e, id, out)?;
            out.push_str(" is rejected");
            because(e, out)?;
            if let Some(ms) = e.retry_after_ms {
                write!(out, "; try again in {ms} ms")?;
            }
        }
        Event::OrderCancelled | Event::OrderExpired => {
            subject(e, id, out)?;
            out.push_str(if e.event == Event::OrderCancelled {
                " is cancelled"
            } else {
                " has expired"
            });

            because(e, out)?;
            before(e, out)?;
        }
        Event::OrderStatus => {
            write!(
                out,
                "Order {id} came again and was not executed again; its status is {}",
                status(e)
            )?;
            before(e, out)?;
        }
        Event::DuplicateRejected => write!(
            out,
            "Order id {id} was used before with another {}; nothing was done",
            e.conflict_field.unwrap_or("content")
        )?,
        Event::OrderTriggered => write!(out, "The stop of order {id} was triggered")?,
        Event::OrderReplaced => replaced(e, id, out)?,
        Event::CancelRejected => {
            // Refused cancels and refused replaces share this event, which does not name the kind
            // of command. A command that named no order is its own cause.
            let what = if e.order_id == e.cause_id {
                "Command"
            } else {
                "A command about order"
            };

            write!(out, "{what} {id} was refused")?;
            because(e, out)?;
        }
        Event::TradeBusted => busted(e, id, out)?,
    }

    out.push('.');
    Ok(())
}

/// Writes `Order 1001 to buy 10 AAPL`.
fn subject(e: &OrderEvent<'_>, id: &str, out: &mut String) -> std::fmt::Result {
    write!(out, "Order {id}")?;
    order(e, out)
}

/// Writes `: ` and the reason, if the event has one.
fn because(e: &OrderEvent<'_>, out: &mut String) -> std::fmt::Result {
    let reason = e.text.or(e.reason.map(Reason::text));
    reason.map_or(Ok(()), |r| write!(out, ": {r}"))
}

fn transfer(e: &OrderEvent<'_>, out: &mut String) -> std::fmt::Result {
    let what = if e.event == Event::Deposited {
        "deposited"
    } else {
        "withdrawn"
    };

    write!(
        out,
        "{} {CURRENCY} was {what}; ",
        Money(e.amount_e4.unwrap_or(0).into())
    )?;
    match e.cash_available_e4 {
        owed @ ..0 => write!(out, "{} {CURRENCY} is still owed", Money(-i128::from(owed))),
        available => write!(out, "{} {CURRENCY} is available", Money(available.into())),
    }
}

fn fill(e: &OrderEvent<'_>, id: &str, out: &mut String) -> std::fmt::Result {
    let done = if e.event == Event::OrderFilled {
        "filled"
    } else {
        "partly filled"
    };

    let quantity = e.last_quantity.unwrap_or(0);
    let price = Money(e.last_price_e4.unwrap_or(0).into());
    write!(out, "Order {id} is {done}: {} ", did(e))?;
    match traded(e).filter(|(all, ..)| *all > quantity) {
        // The order filled in several parts. The reader of this sentence alone must learn the
        // total.
        Some((all, average, about)) => {
            of_all(e, all, out)?;
            write!(
                out,
                " at {about}{average} {CURRENCY} on average, the last {quantity} at {price} {CURRENCY}"
            )
        }
        None => {
            of_all(e, quantity, out)?;
            write!(out, " at {price} {CURRENCY}")
        }
    }
}

/// A command was refused whose id belongs to an earlier command.
fn refused(e: &OrderEvent<'_>, id: &str, out: &mut String) -> std::fmt::Result {
    write!(out, "A command with the id {id} was refused")?;
    because(e, out)?;
    if e.quantity.is_some() {
        write!(out, "; order {id}")?;
        order(e, out)?;
        write!(out, " stands as it was ({})", status(e))
    } else {
        out.push_str("; what was done under this id before stands as it was");
        Ok(())
    }
}

fn replaced(e: &OrderEvent<'_>, id: &str, out: &mut String) -> std::fmt::Result {
    write!(out, "Order {id} was changed")?;
    if e.quantity.is_some() {
        out.push_str(" and is now one");
        order(e, out)?;
    }

    before(e, out)
}

fn busted(e: &OrderEvent<'_>, id: &str, out: &mut String) -> std::fmt::Result {
    let did = did(e);
    let trade = e.trade_id.unwrap_or("?");
    let quantity = e.last_quantity.unwrap_or(0);
    let symbol = e.symbol.unwrap_or("?");
    let price = Money(e.last_price_e4.unwrap_or(0).into());
    write!(
        out,
        "Trade {trade} of order {id}, {did} {quantity} {symbol} at {price} {CURRENCY}, was taken back by an operator"
    )?;
    if let Some(stays @ 1..) = e.cum_quantity {
        out.push_str("; ");
        of_all(e, stays, out)?;
        write!(out, " stay {did}")?;
    }

    if e.cash_available_e4 < 0 {
        let owed = Money(-i128::from(e.cash_available_e4));
        write!(out, "; the account owes {owed} {CURRENCY}")?;
    }

    Ok(())
}

/// Returns for example `partially filled`.
fn status(e: &OrderEvent<'_>) -> String {
    e.status.map_or("unknown", Status::name).replace('_', " ")
}

/// Writes ` to buy 10 AAPL at 189.25 USD or better`, as far as the event knows.
fn order(e: &OrderEvent<'_>, out: &mut String) -> std::fmt::Result {
    let (Some(side), Some(quantity), Some(symbol)) = (e.side, e.quantity, e.symbol) else {
        return Ok(());
    };

    write!(out, " to {} {quantity} {symbol}", side.name())?;
    e.limit_price_e4.map_or(Ok(()), |limit| {
        write!(out, " at {} {CURRENCY} or better", Money(limit.into()))
    })
}

fn did(e: &OrderEvent<'_>) -> &'static str {
    if e.side == Some(Side::Sell) {
        "sold"
    } else {
        "bought"
    }
}

/// Writes `3 of 10 AAPL`, or `10 AAPL` if that is the whole order.
fn of_all(e: &OrderEvent<'_>, quantity: i64, out: &mut String) -> std::fmt::Result {
    write!(out, "{quantity}")?;
    if let Some(all) = e.quantity.filter(|all| *all > quantity) {
        write!(out, " of {all}")?;
    }

    write!(out, " {}", e.symbol.unwrap_or("?"))
}

/// CumQty, average price (half rounded up), and "about " if the average is not exact. Old events
/// lack the value.
fn traded(e: &OrderEvent<'_>) -> Option<(i64, Money, &'static str)> {
    let quantity = e.cum_quantity.filter(|n| *n > 0)?;
    let value = e.cum_value_e4?;
    let n = i128::from(quantity);
    let v = i128::from(value);
    Some((
        quantity,
        Money((v + n / 2).div_euclid(n)),
        if v % n == 0 { "" } else { "about " },
    ))
}

/// Writes `; 3 of 10 AAPL were bought before, at 100.00 USD`.
fn before(e: &OrderEvent<'_>, out: &mut String) -> std::fmt::Result {
    match (traded(e), e.cum_quantity) {
        (Some((quantity, average, about)), _) => {
            out.push_str("; ");
            of_all(e, quantity, out)?;
            let is = if quantity == 1 { "was" } else { "were" };
            write!(
                out,
                " {is} {} before, at {about}{average} {CURRENCY} on average",
                did(e)
            )
        }
        (None, Some(quantity @ 1..)) => {
            out.push_str("; ");
            of_all(e, quantity, out)?;
            write!(
                out,
                " {} {} before",
                if quantity == 1 { "was" } else { "were" },
                did(e)
            )
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            of(Event::Deposited, |e| (e.amount_e4, e.cash_available_e4) =
                (Some(10_000_000_000), 10_000_000_000)),
            "1000000.00 USD was deposited; 1000000.00 USD is available."
        );
        assert_eq!(
            of(Event::OrderFilled, |e| (e.last_quantity, e.last_price_e4) =
                (Some(10), Some(1_892_500))),
            "Order 1001 is filled: bought 10 AAPL at 189.25 USD."
        );
        assert_eq!(
            of(Event::OrderRejected, |e| (e.reason, e.retry_after_ms) =
                (Some(Reason::RateLimited), Some(100))),
            "Order 1001 to buy 10 AAPL is rejected: too many orders in a short time; try again in 100 ms."
        );
        assert_eq!(
            of(Event::OrderStatus, |e| e.status = Some(Status::PendingNew)),
            "Order 1001 came again and was not executed again; its status is pending new."
        );
        let refused = |e: &mut OrderEvent<'_>| {
            (e.reason, e.text, e.status) = (
                Some(Reason::Malformed),
                Some("no quantity"),
                Some(Status::PartiallyFilled),
            )
        };

        assert_eq!(
            of(Event::OrderRejected, refused),
            "A command with the id 1001 was refused: no quantity; order 1001 to buy 10 AAPL stands as it was (partially filled)."
        );
        assert_eq!(
            of(Event::OrderRejected, |e| (e.quantity, e.reason, e.status) =
                (None, Some(Reason::StaleOrder), Some(Status::Filled))),
            "A command with the id 1001 was refused: the command is older than this system accepts; what was done under this id before stands as it was."
        );
        assert_eq!(
            of(Event::OrderRejected, |e| (e.reason, e.status) =
                (Some(Reason::PriceBand), Some(Status::Rejected))),
            "Order 1001 to buy 10 AAPL is rejected: the price is too far from the reference price."
        );
        assert_eq!(
            of(Event::CancelRejected, |e| (e.cause_id, e.reason) =
                (Some("c"), Some(Reason::TooLateToCancel))),
            "A command about order 1001 was refused: it is too late, the order has ended."
        );
        assert_eq!(
            of(Event::CancelRejected, |e| (e.cause_id, e.reason) =
                (Some("1001"), Some(Reason::UnknownOrder))),
            "Command 1001 was refused: there is no such open order."
        );
        let parts = |e: &mut OrderEvent<'_>| {
            (e.quantity, e.cum_quantity, e.cum_value_e4) =
                (Some(100), Some(100), Some(60 * 1_001_000 + 40 * 1_010_000));
            (e.last_quantity, e.last_price_e4) = (Some(40), Some(1_010_000));
        };

        assert_eq!(
            of(Event::OrderFilled, parts),
            "Order 1001 is filled: bought 100 AAPL at 100.46 USD on average, the last 40 at 101.00 USD."
        );
        assert_eq!(
            of(Event::OrderPartiallyFilled, |e| {
                (e.cum_quantity, e.cum_value_e4, e.side) =
                    (Some(3), Some(3_000_001), Some(Side::Sell));
                (e.last_quantity, e.last_price_e4) = (Some(1), Some(1_000_001));
            }),
            "Order 1001 is partly filled: sold 3 of 10 AAPL at about 100.00 USD on average, the last 1 at 100.0001 USD."
        );

        assert_eq!(
            of(Event::OrderPartiallyFilled, |e| (
                e.cum_quantity,
                e.cum_value_e4,
                e.last_quantity,
                e.last_price_e4
            ) =
                (Some(6), Some(6_006_000), Some(6), Some(1_001_000))),
            "Order 1001 is partly filled: bought 6 of 10 AAPL at 100.10 USD."
        );

        let three = |e: &mut OrderEvent<'_>| {
            (e.reason, e.cum_quantity, e.cum_value_e4) =
                (Some(Reason::UserRequest), Some(3), Some(3_000_000))
        };

        assert_eq!(
            of(Event::OrderCancelled, three),
            "Order 1001 to buy 10 AAPL is cancelled: cancelled by the user; 3 of 10 AAPL were bought before, at 100.00 USD on average."
        );
        assert_eq!(
            of(Event::OrderExpired, |e| (
                e.cum_quantity,
                e.limit_price_e4
            ) = (Some(1), Some(990_000))),
            "Order 1001 to buy 10 AAPL at 99.00 USD or better has expired; 1 of 10 AAPL was bought before."
        );

        assert_eq!(
            of(Event::OrderReplaced, |e| (
                e.quantity,
                e.limit_price_e4,
                e.cum_quantity
            ) =
                (Some(20), Some(1_810_000), Some(0))),
            "Order 1001 was changed and is now one to buy 20 AAPL at 181.00 USD or better."
        );

        let back = |e: &mut OrderEvent<'_>| {
            (e.trade_id, e.last_quantity, e.last_price_e4) =
                (Some("3-1"), Some(4), Some(1_000_000));
            (e.cum_quantity, e.cash_available_e4) = (Some(6), -7_000_000);
        };

        assert_eq!(
            of(Event::TradeBusted, back),
            "Trade 3-1 of order 1001, bought 4 AAPL at 100.00 USD, was taken back by an operator; 6 of 10 AAPL stay bought; the account owes 700.00 USD."
        );
        assert_eq!(
            of(Event::Deposited, |e| (e.amount_e4, e.cash_available_e4) =
                (Some(10_000), -20_000)),
            "1.00 USD was deposited; 2.00 USD is still owed."
        );
        for event in Event::ALL {
            let text = of(*event, |_| {});
            assert!(text.ends_with('.') && text.len() > 15, "{text}");
        }
    }
}
