//! `order-commands`: the checks in their fixed order, and what follows from them.

use crate::domain::account::{Position, may_withdraw};
use crate::domain::checks::{self, Facts, Request, Reservation};
use crate::domain::price::is_ahead;
use crate::domain::reason::Reason;
use crate::domain::status::{Side, Status};
use crate::engine::context::Ctx;
use crate::engine::records::Record;
use crate::engine::role::Bug;
use crate::roles::intake::{bug, vet};
use crate::wire::book::{BOOK_COMMAND, BookOrder};
use crate::wire::command::{self, Command, Kind, Malformed};
use crate::wire::content::{self, Content};
use crate::wire::event::{Event, OrderEvent};
use crate::wire::topics;

use super::Orders;
use super::desk::{Desk, about};
use super::state::{self, Entry, unreadable};

/// Why a command came to nothing.
struct Refusal {
    reason: Reason,
    retry_after_ms: Option<i64>,
}

impl From<Reason> for Refusal {
    fn from(reason: Reason) -> Self {
        Refusal { reason, retry_after_ms: None }
    }
}

impl Orders {
    pub(super) fn command(&mut self, ctx: &mut Ctx<'_>, record: &Record<'_>) -> Result<(), Bug> {
        let Some((key, value)) = vet(ctx, record) else { return Ok(()) };
        let c = match command::decode(value) {
            Ok(c) if c.user_id.as_bytes() == key => c,
            Ok(_) => {
                ctx.dead_letter(record, "MALFORMED", "the record's key is not the command's user_id");
                return Ok(());
            }
            Err(m) => return self.malformed(ctx, record, key, &m),
        };
        let known = state::load_order(ctx, &mut self.buffers, &c.user_id, &c.order_id, &mut self.entry);
        self.content.clear();
        content::put(&c, &mut self.content);
        let content = Content(&self.content);
        let mut desk = Desk::open(ctx, &mut self.buffers, &c.user_id, self.opening_cash_e4, &c.order_id)?;

        let first = match known {
            true => Some(Entry::read(&self.entry).ok_or_else(|| unreadable(desk.ctx, "an order"))?),
            false => None,
        };
        if let Err(reason) = check_age(self.max_age_ns, c.timestamp_ns, desk.ctx.time_ms()) {
            match &first {
                Some(first) => refuse_known(&mut desk, &c.order_id, first, reason, reason.text()),
                None => reject(&mut desk, &c, content, reason.into()),
            }
        } else if let Some(first) = &first {
            repeated(&mut desk, &c, content, first);
        } else {
            let limited = match (&self.limit, c.kind) {
                (Some(limit), Kind::New | Kind::Replace) => {
                    let now_us = desk.ctx.time_ms().saturating_mul(1_000);
                    limit.take(desk.account.clock, now_us).map(|clock| desk.account.clock = clock)
                }
                _ => Ok(()),
            };
            let outcome = match (limited, c.kind) {
                (Err(wait), _) => Err(Refusal { reason: Reason::RateLimited, retry_after_ms: Some(wait) }),
                (Ok(()), Kind::New) => {
                    let symbol = c.symbol.as_deref().unwrap_or_default();
                    let instrument = self.instruments.get(desk.ctx, symbol);
                    // The price of a symbol that is not listed decides nothing, so it is not looked at and not journaled.
                    let reference = instrument.and_then(|_| self.references.get(desk.ctx, symbol));
                    let facts = (instrument.as_ref(), reference, self.stale_ms);
                    order(&mut desk, &c, content, facts)?
                }
                (Ok(()), Kind::Deposit | Kind::Withdraw) => transfer(&mut desk, &c, content)?,
                // Known commands that this build does not serve yet are answered, never ignored.
                (Ok(()), Kind::Cancel | Kind::Replace | Kind::MassCancel) => Err(Reason::UnsupportedCharacteristic.into()),
            };
            if let Err(refusal) = outcome {
                reject(&mut desk, &c, content, refusal);
            }
        }
        desk.close();
        Ok(())
    }

    /// A dead letter; and if it is clear whose order it was, an answer, so that nobody waits in vain.
    fn malformed(&mut self, ctx: &mut Ctx<'_>, record: &Record<'_>, key: &[u8], m: &Malformed<'_>) -> Result<(), Bug> {
        ctx.dead_letter(record, "MALFORMED", m.text);
        let (Some(user), Some(order_id)) = (m.user_id.as_deref(), m.order_id.as_deref()) else { return Ok(()) };
        if user.as_bytes() != key {
            return Ok(());
        }
        let known = state::load_order(ctx, &mut self.buffers, user, order_id, &mut self.entry);
        let mut desk = Desk::open(ctx, &mut self.buffers, user, self.opening_cash_e4, order_id)?;
        if known {
            let first = Entry::read(&self.entry).ok_or_else(|| unreadable(desk.ctx, "an order"))?;
            refuse_known(&mut desk, order_id, &first, Reason::Malformed, m.text);
            desk.close();
            return Ok(());
        }
        desk.event(OrderEvent {
            order_id: Some(order_id),
            cause_id: Some(order_id),
            symbol: m.symbol.as_deref(),
            side: m.side,
            quantity: m.quantity,
            cum_quantity: Some(0),
            leaves_quantity: Some(0),
            status: Some(Status::Rejected),
            reason: Some(Reason::Malformed),
            text: Some(m.text),
            ..OrderEvent::new(Event::OrderRejected, user)
        });
        desk.close();
        Ok(())
    }
}

/// With a limit on age, a command may be neither older than it nor from the future. Without one, or without a timestamp, time decides nothing.
fn check_age(max_ns: Option<i128>, timestamp_ns: Option<i128>, now_ms: i64) -> Result<(), Reason> {
    let (Some(max), Some(timestamp)) = (max_ns, timestamp_ns) else { return Ok(()) };
    if is_ahead(timestamp, now_ms) {
        return Err(Reason::FutureTimestamp);
    }
    if i128::from(now_ms) * 1_000_000 - timestamp > max { Err(Reason::StaleOrder) } else { Ok(()) }
}

/// The id was used before: the same command is told how it stands, another one is refused; neither does anything.
fn repeated(desk: &mut Desk<'_, '_>, c: &Command<'_>, content: Content<'_>, first: &Entry<'_>) {
    let user = desk.user;
    desk.event(match first.content.conflict(content) {
        None => OrderEvent {
            reason: first.reason,
            text: Some("the same command was handled before; this is how it stands"),
            ..about(Event::OrderStatus, user, &c.order_id, first)
        },
        Some(field) => OrderEvent {
            reason: Some(Reason::DuplicateOrder),
            text: Some(Reason::DuplicateOrder.text()),
            conflict_field: Some(field),
            ..about(Event::DuplicateRejected, user, &c.order_id, first)
        },
    });
}

/// A command that is refused before its id is even looked up, while the id belongs to an order: that order is untouched, and the event says how it
/// stands, so that nobody takes it for ended.
fn refuse_known(desk: &mut Desk<'_, '_>, order_id: &str, first: &Entry<'_>, reason: Reason, text: &str) {
    let user = desk.user;
    desk.event(OrderEvent { reason: Some(reason), text: Some(text), ..about(Event::OrderRejected, user, order_id, first) });
}

fn reject(desk: &mut Desk<'_, '_>, c: &Command<'_>, content: Content<'_>, refusal: Refusal) {
    let Refusal { reason, retry_after_ms } = refusal;
    let entry = Entry { status: Status::Rejected, reason: Some(reason), cum: 0, hold_e4: 0, content };
    let user = desk.user;
    desk.event(OrderEvent {
        reason: Some(reason),
        text: Some(reason.text()),
        retry_after_ms,
        ..about(Event::OrderRejected, user, &c.order_id, &entry)
    });
    if reason.burns_id() {
        desk.note(&c.order_id, &entry);
    }
}

fn transfer(desk: &mut Desk<'_, '_>, c: &Command<'_>, content: Content<'_>) -> Result<Result<(), Refusal>, Bug> {
    let deposits = c.kind == Kind::Deposit;
    let Some(amount) = c.amount.and_then(|a| a.positive()) else { return Ok(Err(Reason::InvalidAmount.into())) };
    if deposits && !desk.account.can_deposit(amount) {
        return Ok(Err(Reason::InvalidAmount.into()));
    }
    if !deposits && let Err(reason) = may_withdraw(&desk.account, amount) {
        return Ok(Err(reason.into()));
    }
    desk.post(|account, totals| if deposits { account.deposit(totals, amount) } else { account.withdraw(totals, amount) })?;
    let entry = Entry { status: Status::Filled, reason: None, cum: 0, hold_e4: 0, content };
    let user = desk.user;
    desk.event(about(if deposits { Event::Deposited } else { Event::Withdrawn }, user, &c.order_id, &entry));
    desk.note(&c.order_id, &entry);
    Ok(Ok(()))
}

type Market<'a> = (Option<&'a crate::domain::instrument::Instrument>, Option<(i64, i64)>, i64);

fn order(desk: &mut Desk<'_, '_>, c: &Command<'_>, content: Content<'_>, market: Market<'_>) -> Result<Result<(), Refusal>, Bug> {
    let (Some(symbol), Some(side), Some(quantity)) = (c.symbol.as_deref(), c.side, c.quantity) else {
        return Err(bug(desk.ctx, "an order was decoded without symbol, side or quantity"));
    };
    let (instrument, reference, stale_ms) = market;
    let mut position = match side {
        Side::Buy => Position::default(),
        Side::Sell => state::load_position(desk.ctx, desk.buffers, desk.user, symbol)?,
    };
    let request = Request { side, quantity, served: c.is_served_order() };
    let now_ms = desk.ctx.time_ms();
    let facts = Facts { instrument, reference, account: &desk.account, position: &position, now_ms, stale_ms };
    let Reservation { quantity, worst_e4, hold_e4 } = match checks::market(&request, &facts) {
        Ok(r) => r,
        Err(reason) => return Ok(Err(reason.into())),
    };
    let reserved = match side {
        Side::Buy => desk.account.reserve_buy(hold_e4),
        Side::Sell => desk.account.reserve_sell(&mut position, quantity, hold_e4),
    };
    reserved.map_err(|e| bug(desk.ctx, e))?;
    if side == Side::Sell {
        state::save_position(desk.ctx, desk.buffers, desk.user, symbol, &position);
    }
    let entry = Entry { status: Status::PendingNew, reason: None, cum: 0, hold_e4, content };
    let user = desk.user;
    desk.event(about(Event::OrderPending, user, &c.order_id, &entry));
    desk.note(&c.order_id, &entry);
    let book = BookOrder { user_id: user, order_id: &c.order_id, symbol, side, quantity, worst_price_e4: worst_e4, value_max_e4: hold_e4 };
    desk.buffers.value.clear();
    book.encode(&mut desk.buffers.value);
    desk.ctx.emit(topics::BOOK_COMMANDS, symbol.as_bytes(), BOOK_COMMAND, &desk.buffers.value);
    Ok(Ok(()))
}
