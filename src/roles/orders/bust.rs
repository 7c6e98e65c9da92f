//! Trades that an operator takes back. Only the account of the user who is named is touched, and the house takes the other side: whoever traded with that
//! user keeps the trade, until it is taken back there as well. So each side is decided where its account is, and none waits for the other.

use crate::domain::account::{Books, Settled};
use crate::domain::hold::Fee;
use crate::domain::house;
use crate::domain::reason::Reason;
use crate::domain::status::Status;
use crate::engine::role::Bug;
use crate::roles::intake::bug;
use crate::wire::command::Command;
use crate::wire::content::Content;
use crate::wire::event::{Event, OrderEvent};

use super::changes::sent;
use super::commands::Refusal;
use super::desk::{Desk, about};
use super::state::{self, Entry};

/// Takes back what an order traded. Refused if there is no such order, while it may still trade (the id is free then), for a trade that was taken back
/// before, and if what the trade brought is not there any more.
pub(super) fn trade(
    desk: &mut Desk<'_, '_>,
    c: &Command<'_>,
    content: Content<'_>,
    named: Option<Entry<'_>>,
) -> Result<Result<(), Refusal>, Bug> {
    let (Some(order_id), Some(trade_id)) = (c.orig_order_id.as_deref(), c.trade_id.as_deref()) else {
        return Err(bug(desk.ctx, "a bust was decoded without the order or the trade it names"));
    };
    let Some((entry, symbol)) = named.and_then(|e| Some((e, e.content.symbol()?))).filter(|(e, _)| e.status != Status::Rejected) else {
        return Ok(Err(Reason::UnknownOrder.into()));
    };
    if entry.is_open() {
        return Ok(Err(Reason::SystemBusy.into()));
    }
    if state::was_busted(desk.ctx, desk.buffers, desk.user, order_id, trade_id) {
        return Ok(Err(Reason::TooLateToCancel.into()));
    }
    let trade = match facts(c, &entry) {
        Ok(trade) => trade,
        Err(reason) => return Ok(Err(reason.into())),
    };
    let mut position = desk.position(symbol)?;
    if let Err(reason) = desk.account.may_take_back(&position, &trade) {
        return Ok(Err(reason.into()));
    }
    let mut house = state::load_house(desk.ctx, desk.buffers, symbol)?;
    desk.post(|account, totals| account.take_back(Books { position: &mut position, house: &mut house, totals }, &trade))?;
    desk.save_position(symbol, &position)?;
    state::save_house(desk.ctx, desk.buffers, symbol, &house);
    state::mark_busted(desk.ctx, desk.buffers, desk.user, order_id, trade_id);
    let entry = Entry { cum: entry.cum - trade.quantity, ..entry };
    let user = desk.user;
    desk.event(OrderEvent {
        cause_id: Some(&c.order_id),
        trade_id: Some(trade_id),
        last_quantity: Some(trade.quantity),
        last_price_e4: c.price.and_then(|p| p.positive()),
        fee_e4: Some(-trade.fee.charged_e4),
        ..about(Event::TradeBusted, user, order_id, &entry)
    });
    desk.note(order_id, &entry);
    sent(desk, c, content);
    Ok(Ok(()))
}

/// The text of a reason.
pub(super) fn text(reason: Reason) -> &'static str {
    match reason {
        Reason::UnknownOrder => "there is no such order",
        Reason::SystemBusy => "the order may still trade; cancel it first",
        Reason::TooLateToCancel => "the trade was taken back before",
        Reason::IncorrectQuantity => "the order has not traded so many",
        Reason::InvalidAmount => "no trade has such a price or such a fee",
        Reason::ShortSellNotPermitted => "the shares are not there any more, or are promised to other orders",
        Reason::InsufficientFunds => "the money is not there any more, or is promised to other orders",
        _ => reason.text(),
    }
}

/// The trade as the operator describes it, as far as the order allows it.
fn facts(c: &Command<'_>, entry: &Entry<'_>) -> Result<Settled, Reason> {
    let side = entry.content.side().ok_or(Reason::UnknownOrder)?;
    let quantity = c.quantity.and_then(|q| q.positive()).filter(|q| *q <= entry.cum).ok_or(Reason::IncorrectQuantity)?;
    let value_e4 = c.price.and_then(|p| p.positive()).and_then(|price| house::value(quantity, price)).ok_or(Reason::InvalidAmount)?;
    let charged_e4 = match c.fee {
        None => 0,
        Some(fee) => fee.not_negative().filter(|fee| *fee <= value_e4).ok_or(Reason::InvalidAmount)?,
    };
    // The amount that rounding took beyond the exact fee stays where it was booked: the next fee is not known to be of the same trade.
    Ok(Settled { side, quantity, value_e4, fee: Fee { charged_e4, exact_e4: charged_e4 }, with_house: true, keeps: false })
}
