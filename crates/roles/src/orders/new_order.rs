//! New orders: check, reserve the hold, save the record, send to the book.

use domain::account::Position;
use domain::book::FOREVER;
use domain::checks::{self, OrderRequest, Pricing, Reservation};
use domain::price::Priced;
use domain::status::{Side, Status};
use engine::role::InvariantViolation;
use wire::book::{BookAction, NewOrder};
use wire::command::{Until, ValidatedOrder};
use wire::event::Event;

use super::account_tx::{AccountTx, order_event};
use super::decision::{CommandInHand, Decision, Market};
use super::state::OrderRecord;
use crate::ingress::violation;

const DAY_MS: i64 = 86_400_000;

/// Time from which an order must not trade.
fn deadline(until: Until, now_ms: i64, day_ends_ms: i64) -> Option<i64> {
    match until {
        Until::Ended => None,
        Until::DayEnd => Some(
            now_ms
                .saturating_sub(day_ends_ms)
                .div_euclid(DAY_MS)
                .saturating_add(1)
                .saturating_mul(DAY_MS)
                .saturating_add(day_ends_ms),
        ),
        // Round up, because the deadline has not come at the millisecond before. Clamp:
        // out-of-range times become `FOREVER` or 0.
        Until::Time(ns) => {
            let ms = ns.saturating_add(999_999).div_euclid(1_000_000);
            Some(i64::try_from(ms).unwrap_or(if ms < 0 { 0 } else { FOREVER }))
        }
    }
}

/// Handles a new order.
pub(super) fn enter(
    tx: &mut AccountTx<'_, '_>,
    command: &CommandInHand<'_>,
    market: &Market,
) -> Result<Decision, InvariantViolation> {
    let c = command.command;
    let (Some(symbol), Some(side), Some(quantity)) = (c.symbol.as_deref(), c.side, c.quantity)
    else {
        return Err(violation(
            tx.ctx,
            "an order was decoded without symbol, side or quantity",
        ));
    };

    let served = c.served();
    let now_ms = tx.ctx.time_ms();
    let request = OrderRequest {
        side,
        quantity,
        pricing: served.map(|s| s.pricing),
        deadline_ms: served.and_then(|s| deadline(s.until, now_ms, market.day_ends_ms)),
    };

    // A buy may cover a short position.
    let position = match side {
        Side::Buy if tx.account.shorts == 0 => Position::default(),
        _ => tx.load_position(symbol)?,
    };

    let stays = served.is_some_and(|s| s.stays());
    let open_max = stays.then_some(market.open_max);
    let facts = market.facts(&tx.account, &position, now_ms, open_max);
    let reservation = match checks::order(&request, &facts) {
        Ok(reservation) => reservation,
        Err(reason) => return Ok(reason.into()),
    };
    let served =
        served.ok_or_else(|| violation(tx.ctx, "an order that is not served passed the checks"))?;

    let hold = reservation.hold;
    tx.reserve(side, symbol, position, &hold, reservation.borrowed_e4)?;
    if stays {
        tx.add_open_order(symbol, &c.order_id)?;
    }

    let entry = OrderRecord {
        terms: Some(reservation.terms),
        hold,
        stays,
        ..OrderRecord::plain(Status::PendingNew, None, command.content)
    };

    tx.emit(order_event(
        Event::OrderPending,
        tx.user,
        &c.order_id,
        &entry,
    ));
    tx.save_order(&c.order_id, &entry);

    let new = NewOrder {
        deadline_ms: request.deadline_ms.unwrap_or(FOREVER),
        post_only: c.post_only,
        ..for_the_book(&reservation, &served, market.reference)
    };

    tx.send_to_book(symbol, &c.order_id, BookAction::New(new));
    Ok(Decision::Accepted)
}

/// The order for the book, without a deadline.
fn for_the_book(
    reservation: &Reservation,
    served: &ValidatedOrder,
    reference: Option<(i64, i64)>,
) -> NewOrder {
    let pricing = served.pricing;
    let terms = reservation.terms;
    NewOrder {
        side: terms.side,
        quantity: terms.quantity,
        market: matches!(pricing, Pricing::Market | Pricing::Stop(_)),
        limit_e4: terms.limit_e4,
        ceiling_e4: if terms.side == Side::Sell {
            terms.ceiling_e4
        } else {
            i64::MAX
        },
        stop_e4: reservation.stop_e4,
        life: served.life,
        deadline_ms: FOREVER,
        post_only: false,
        reference: reference
            .filter(|_| matches!(pricing, Pricing::Market))
            .map(|(price_e4, time_ms)| Priced { price_e4, time_ms }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines() {
        assert_eq!(deadline(Until::Ended, 5, 0), None);
        assert_eq!(deadline(Until::DayEnd, 0, 0), Some(DAY_MS));
        assert_eq!(deadline(Until::DayEnd, DAY_MS - 1, 0), Some(DAY_MS));
        assert_eq!(deadline(Until::DayEnd, DAY_MS, 0), Some(2 * DAY_MS));
        assert_eq!(
            deadline(Until::DayEnd, 5, 1_000),
            Some(1_000),
            "a day that ends a second after midnight"
        );
        assert_eq!(deadline(Until::Time(2_000_000), 0, 0), Some(2));
        assert_eq!(deadline(Until::Time(2_000_001), 0, 0), Some(3));
        assert_eq!(deadline(Until::Time(i128::MAX), 0, 0), Some(FOREVER));
        assert_eq!(
            deadline(Until::Time(i128::MIN), 0, 0),
            Some(0),
            "long ago, not never"
        );
    }
}
