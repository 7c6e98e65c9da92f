//! Cancels and replaces of orders. The role reserves the hold of a replace here. The book decides
//! if the command is in time.

use domain::checks::{self, Facts};
use domain::hold::{Hold, Terms};
use domain::reason::Reason;
use domain::status::{Side, Status};
use engine::role::InvariantViolation;
use wire::book::BookAction;
use wire::command::{Command, Kind};
use wire::command_fingerprint::CommandFingerprint;
use wire::event::{Event, OrderEvent};

use super::account_tx::{AccountTx, about};
use super::bust;
use super::commands::{CommandRefusal, Market};
use super::state::OrderRecord;
use crate::ingress::bug;

/// Refuses a command that did not reach the book. Most reasons use up the command's id. The named
/// order does not change.
pub(super) fn refuse(
    desk: &mut AccountTx<'_, '_>,
    c: &Command<'_>,
    content: CommandFingerprint<'_>,
    named: Option<&OrderRecord<'_>>,
    refusal: CommandRefusal,
) {
    let CommandRefusal {
        reason,
        retry_after_ms,
        field,
        ..
    } = refusal;
    let own = OrderRecord::plain(Status::Rejected, Some(reason), content);
    let user = desk.user;
    let (order_id, entry) = match (c.orig_order_id.as_deref(), named) {
        (Some(id), Some(named)) => (id, named),
        (Some(id), None) => (id, &own),
        (None, _) => (&*c.order_id, &own),
    };

    let text = match (c.kind, field) {
        (_, Some(field)) => format!("{}: its {field} differs", reason.text()).into(),
        (Kind::Bust, None) => bust::text(reason).map_or_else(|| refusal.text(c), Into::into),
        _ => refusal.text(c),
    };

    desk.event(OrderEvent {
        cause_id: Some(&c.order_id),
        reason: Some(reason),
        text: Some(&text),
        retry_after_ms,
        conflict_field: field,
        ..about(Event::CancelRejected, user, order_id, entry)
    });

    if desk.buffers.burns_id(reason) {
        desk.note(&c.order_id, &own);
    }
}

/// Returns the order that a command names, if the order may still trade.
fn open<'a>(named: Option<OrderRecord<'a>>) -> Result<(OrderRecord<'a>, Terms, &'a str), Reason> {
    // A rejected order never was an order.
    let e = named
        .filter(|e| e.status != Status::Rejected)
        .ok_or(Reason::UnknownOrder)?;
    match (e.terms, e.content.symbol()) {
        (Some(terms), Some(symbol)) if e.is_open() => Ok((e, terms, symbol)),
        _ => Err(Reason::TooLateToCancel),
    }
}

/// Records a command that was sent to the book.
pub(super) fn sent(desk: &mut AccountTx<'_, '_>, c: &Command<'_>, content: CommandFingerprint<'_>) {
    desk.note(
        &c.order_id,
        &OrderRecord::plain(Status::Filled, None, content),
    );
}

/// Reason for an order's end: `Operator` for an operator's command, else `users`.
pub(super) fn on_whose_word(c: &Command<'_>, users: Reason) -> Reason {
    if c.operator.is_some() {
        Reason::Operator
    } else {
        users
    }
}

pub(super) fn cancel(
    desk: &mut AccountTx<'_, '_>,
    c: &Command<'_>,
    content: CommandFingerprint<'_>,
    named: Option<OrderRecord<'_>>,
) -> Result<(), CommandRefusal> {
    match open(named) {
        Err(reason) => refuse(desk, c, content, named.as_ref(), reason.into()),
        Ok((_, _, symbol)) => {
            sent(desk, c, content);
            desk.ask(
                symbol,
                c.orig_order_id.as_deref().unwrap_or_default(),
                BookAction::Cancel {
                    cause_id: &c.order_id,
                    reason: on_whose_word(c, Reason::UserRequest),
                },
            );
        }
    }

    Ok(())
}

pub(super) fn replace(
    desk: &mut AccountTx<'_, '_>,
    c: &Command<'_>,
    content: CommandFingerprint<'_>,
    named: Option<OrderRecord<'_>>,
    market: &Market,
) -> Result<Result<(), CommandRefusal>, InvariantViolation> {
    let (entry, terms, symbol) = match open(named) {
        Ok(found) => found,
        Err(reason) => {
            refuse(desk, c, content, named.as_ref(), reason.into());
            return Ok(Ok(()));
        }
    };

    let looks = terms.side == Side::Sell || desk.account.shorts > 0;
    let position = if looks {
        desk.position(symbol)?
    } else {
        Default::default()
    };

    let facts = Facts {
        instrument: market.instrument.as_ref(),
        reference: market.reference,
        account: &desk.account,
        position: &position,
        now_ms: desk.ctx.time_ms(),
        stale: market.stale,
        open_max: None,
        bands: market.bands,
        margin: market.margin,
    };

    let (new, more, borrowed_e4) = match changed(c, &entry, terms, &facts, market.margin_of_changes)
    {
        Ok(found) => found,
        Err(reason) => {
            refuse(desk, c, content, Some(&entry), reason.into());
            return Ok(Ok(()));
        }
    };

    desk.borrow(symbol, borrowed_e4)?;
    desk.hold(terms.side, symbol, &more, true)?;

    // The old terms bind the order until the book answers. The hold covers both old and new terms.
    let terms = Terms {
        short_unit_e4: new.short_unit_e4,
        ..terms
    };

    let Some(order_id) = c.orig_order_id.as_deref() else {
        return Err(bug(
            desk.ctx,
            "a replacement was decoded without the order it names",
        ));
    };

    desk.note(
        order_id,
        &OrderRecord {
            terms: Some(terms),
            hold: entry.hold.plus(&more),
            pending: entry.pending + 1,
            ..entry
        },
    );

    sent(desk, c, content);
    let ask = BookAction::Replace {
        cause_id: &c.order_id,
        quantity: new.quantity,
        limit_e4: new.limit_e4,
        ceiling_e4: new.ceiling_e4,
    };

    desk.ask(symbol, order_id, ask);
    Ok(Ok(()))
}

/// Checks a replace. Returns the new terms, the additional hold, and the part of that hold that
/// comes from a short position's collateral. Errors are the reason of the refusal. `anew`: see
/// [`MARGIN_OF_CHANGES`](crate::settings::MARGIN_OF_CHANGES).
fn changed(
    c: &Command<'_>,
    entry: &OrderRecord<'_>,
    old: Terms,
    f: &Facts<'_>,
    anew: bool,
) -> Result<(Terms, Hold, i64), Reason> {
    let quantity = match c.quantity {
        Some(q) => q.positive().ok_or(Reason::IncorrectQuantity)?,
        None => old.quantity,
    };

    // An order that ends at once cannot be replaced in time. An order without a limit cannot get a
    // limit.
    if !entry.stays {
        return Err(Reason::TooLateToCancel);
    }

    // One replace at a time: with two in flight, the needed hold would depend on their outcomes.
    // The id stays free for a retry.
    if entry.pending > 0 {
        return Err(Reason::SystemBusy);
    }

    let has_limit = entry.content.limit_price().is_some();
    if (c.quantity.is_none() && c.limit_price.is_none()) || (c.limit_price.is_some() && !has_limit)
    {
        return Err(Reason::UnsupportedCharacteristic);
    }

    let i = checks::listed(f.instrument)?;
    let limit_e4 = match c.limit_price {
        Some(limit) => checks::on_tick(limit, i)?,
        None => old.limit_e4,
    };

    checks::lots(quantity, i)?;
    checks::clip(quantity, has_limit, i)?;

    // An order without its own limit counts by its stop price, as at its entry.
    checks::notional(
        quantity,
        if has_limit {
            limit_e4
        } else {
            entry.content.stop_price().unwrap_or(limit_e4)
        },
        i,
    )?;

    let mut new = Terms {
        quantity,
        limit_e4,
        ..old
    };

    let reference = f.reference.map(|(price, _)| price);
    let sells = old.side == Side::Sell;

    // The account's bounds were checked with this ceiling, and all holds depend on that check.
    if sells && limit_e4 > old.ceiling_e4 {
        return Err(Reason::NotionalLimit);
    }

    let shares = entry.hold.shares + f.position.sellable();
    let short = if sells {
        (quantity - entry.cum - shares).max(0)
    } else {
        0
    };

    if short > 0 && i.short_ok {
        let costs_more = quantity > old.quantity || limit_e4 < old.limit_e4;
        match reference {
            None if new.short_unit_e4 == 0 => return Err(Reason::NoReferencePrice),
            Some(price) if new.short_unit_e4 == 0 || anew && costs_more => {
                new.short_unit_e4 =
                    checks::short_unit(price, limit_e4, f.margin, i)?.max(old.short_unit_e4);
            }
            _ => {}
        }
    }

    // Shares that are reserved for the order stay reserved until the book answers.
    let need = old
        .need_until_decided(&new, entry.cum, entry.value_e4, shares)
        .ok_or(Reason::NotionalLimit)?;
    let more = need.beyond(&entry.hold);
    if limit_e4 != old.limit_e4 && has_limit {
        checks::near(
            old.side,
            limit_e4,
            entry.content.stop_price(),
            true,
            true,
            f,
            i,
        )?;
    }

    // A sell of fewer shares than before is never a short sale.
    let left = old.quantity - entry.cum;
    let more_short = if quantity - entry.cum > left {
        short
    } else {
        0
    };

    let borrowed_e4 = checks::funds(
        &more,
        more_short,
        if sells { 0 } else { quantity - entry.cum },
        f,
        i,
    )?;

    Ok((new, more, borrowed_e4))
}
