//! Cancels and changes of orders. What they need is set aside here; whether they come in time is
//! for the book to say.

use crate::ingress::bug;
use domain::checks::{self, Facts};
use domain::hold::{Hold, Terms};
use domain::reason::Reason;
use domain::status::{Side, Status};
use engine::role::Bug;
use wire::book::Ask;
use wire::command::{Command, Kind};
use wire::command_fingerprint::CommandFingerprint;
use wire::event::{Event, OrderEvent};

use super::account_tx::{AccountTx, about};
use super::bust;
use super::commands::{CommandRefusal, Market};
use super::state::OrderRecord;

/// The command did not reach the book: for most reasons its id is used up, and the order it named
/// (if there is one) is as it was.
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

/// The order that a command named, if it may still trade.
fn open<'a>(named: Option<OrderRecord<'a>>) -> Result<(OrderRecord<'a>, Terms, &'a str), Reason> {
    // An order that was rejected never was one.
    let e = named
        .filter(|e| e.status != Status::Rejected)
        .ok_or(Reason::UnknownOrder)?;
    match (e.terms, e.content.symbol()) {
        (Some(terms), Some(symbol)) if e.is_open() => Ok((e, terms, symbol)),
        _ => Err(Reason::TooLateToCancel),
    }
}

/// The command went on its way.
pub(super) fn sent(desk: &mut AccountTx<'_, '_>, c: &Command<'_>, content: CommandFingerprint<'_>) {
    desk.note(
        &c.order_id,
        &OrderRecord::plain(Status::Filled, None, content),
    );
}

/// The reason of an order's end that was asked for.
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
                Ask::Cancel {
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
) -> Result<Result<(), CommandRefusal>, Bug> {
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

    // Until the book has spoken the order is bound to its old terms, but what it holds is enough
    // for either.
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
    let ask = Ask::Replace {
        cause_id: &c.order_id,
        quantity: new.quantity,
        limit_e4: new.limit_e4,
        ceiling_e4: new.ceiling_e4,
    };

    desk.ask(symbol, order_id, ask);
    Ok(Ok(()))
}

/// The new terms, what they need beyond what the order holds, and what of that comes from what is
/// held for a short position; or why they cannot be. `anew`: see
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

    // Whatever ends at once cannot be changed in time; what has no limit cannot get one.
    if !entry.stays {
        return Err(Reason::TooLateToCancel);
    }

    // One change at a time: what an order needs while two are under way depends on which of them
    // come through. The id may be tried again.
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

    // An order without a limit of its own counts by its stop, as when it came.
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

    // The bounds of the account were checked when the order came, and all holds rest on it.
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

    // Once a share is promised to the order it stays promised until the change is decided.
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

    // To sell less than before is never a short sale.
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
