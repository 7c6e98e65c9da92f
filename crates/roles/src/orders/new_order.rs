//! New orders: check, reserve the hold, save the record, send to the book.

use domain::account::Position;
use domain::book::FOREVER;
use domain::checks::{self, Facts, OrderRequest, Pricing, Reservation};
use domain::price::Priced;
use domain::status::{Side, Status};
use engine::role::InvariantViolation;
use wire::book::{BookAction, NewOrder};
use wire::command::{Command, Until, ValidatedOrder};
use wire::command_fingerprint::CommandFingerprint;
use wire::event::Event;

use super::account_tx::{AccountTx, about};
use super::commands::{CommandRefusal, Market};
use super::state::OrderRecord;
use crate::ingress::bug;

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

pub(super) fn order(
    desk: &mut AccountTx<'_, '_>,
    c: &Command<'_>,
    content: CommandFingerprint<'_>,
    market: &Market,
) -> Result<Result<(), CommandRefusal>, InvariantViolation> {
    let (Some(symbol), Some(side), Some(quantity)) = (c.symbol.as_deref(), c.side, c.quantity)
    else {
        return Err(bug(
            desk.ctx,
            "an order was decoded without symbol, side or quantity",
        ));
    };

    let served = c.served();
    let now_ms = desk.ctx.time_ms();
    let deadline_ms = served.and_then(|s| deadline(s.until, now_ms, market.day_ends_ms));
    let position = match side {
        // A buy may cover a short position.
        Side::Buy if desk.account.shorts == 0 => Position::default(),
        _ => desk.position(symbol)?,
    };

    let stays = served.is_some_and(|s| s.stays());
    let request = OrderRequest {
        side,
        quantity,
        pricing: served.map(|s| s.pricing),
        deadline_ms,
    };

    let facts = Facts {
        instrument: market.instrument.as_ref(),
        reference: market.reference,
        account: &desk.account,
        position: &position,
        now_ms,
        stale: market.stale,
        open_max: stays.then_some(market.open_max),
        bands: market.bands,
        margin: market.margin,
    };

    let (
        Reservation {
            terms,
            hold,
            stop_e4,
            borrowed_e4,
        },
        Some(ValidatedOrder { pricing, life, .. }),
    ) = (match checks::order(&request, &facts) {
        Ok(r) => (r, served),
        Err(reason) => return Ok(Err(reason.into())),
    })
    else {
        return Err(bug(
            desk.ctx,
            "an order that is not served passed the checks",
        ));
    };

    desk.borrow(symbol, borrowed_e4)?;
    desk.hold(side, symbol, &hold, true)?;
    if stays {
        desk.mark_open(symbol, &c.order_id, true)?;
    }

    let entry = OrderRecord {
        terms: Some(terms),
        hold,
        stays,
        ..OrderRecord::plain(Status::PendingNew, None, content)
    };

    let user = desk.user;
    desk.event(about(Event::OrderPending, user, &c.order_id, &entry));
    desk.note(&c.order_id, &entry);
    let new = NewOrder {
        side,
        quantity: terms.quantity,
        market: matches!(pricing, Pricing::Market | Pricing::Stop(_)),
        limit_e4: terms.limit_e4,
        ceiling_e4: if side == Side::Sell {
            terms.ceiling_e4
        } else {
            i64::MAX
        },
        stop_e4,
        life,
        deadline_ms: deadline_ms.unwrap_or(FOREVER),
        post_only: c.post_only,
        reference: market
            .reference
            .filter(|_| matches!(pricing, Pricing::Market))
            .map(|(price_e4, time_ms)| Priced { price_e4, time_ms }),
    };

    desk.ask(symbol, &c.order_id, BookAction::New(new));
    Ok(Ok(()))
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
