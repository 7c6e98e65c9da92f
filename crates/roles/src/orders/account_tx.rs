//! One user's account during one record: a unit of work. The record loads plain values, the rules
//! of the domain change them, and the unit saves each value once. The unit also numbers and stamps
//! the user's events, and opens the account before the first event.

use domain::account::{Account, CashTotals, Ledger, Position, Unbalanced};
use domain::hold::{Hold, average_price};
use domain::status::Side;
use engine::context::Ctx;
use engine::role::InvariantViolation;
use wire::book::{BOOK_COMMAND, BookAction, BookCommand};
use wire::command::Kind;
use wire::event::{Event, OrderEvent};
use wire::topics;

use super::open_orders;
use super::state::{self, OrderRecord, OrdersBuffers};
use crate::ingress::violation;

pub(super) struct AccountTx<'d, 'c> {
    pub ctx: &'d mut Ctx<'c>,
    pub buffers: &'d mut OrdersBuffers,
    pub user: &'d str,
    pub account: Account,
}

impl<'d, 'c> AccountTx<'d, 'c> {
    /// Loads the account of a user who must have an account.
    pub(super) fn load(
        ctx: &'d mut Ctx<'c>,
        buffers: &'d mut OrdersBuffers,
        user: &'d str,
    ) -> Result<Self, InvariantViolation> {
        let account = state::load_account(ctx, buffers, user)?
            .ok_or_else(|| violation(ctx, "an execution for a user without an account"))?;
        Ok(AccountTx {
            ctx,
            buffers,
            user,
            account,
        })
    }

    /// Loads the account of a user who is about to get an event. The first command that may open
    /// the account does so. `opening` returns the opening cash, or `None` if the command may not
    /// open an account.
    pub(super) fn load_or_open(
        ctx: &'d mut Ctx<'c>,
        buffers: &'d mut OrdersBuffers,
        user: &'d str,
        opening: impl FnOnce(&mut Ctx<'c>) -> Option<i64>,
        cause_id: &str,
    ) -> Result<Self, InvariantViolation> {
        let found = state::load_account(ctx, buffers, user)?;
        let mut tx = AccountTx {
            ctx,
            buffers,
            user,
            account: found.unwrap_or_default(),
        };

        if found.is_some_and(|account| !account.unopened) {
            return Ok(tx);
        }

        let opening_cash_e4 = opening(tx.ctx);
        tx.account.unopened = opening_cash_e4.is_none();
        if let Some(opening_cash_e4) = opening_cash_e4.filter(|cash| *cash > 0) {
            tx.post_cash(|account, totals| account.deposit(totals, opening_cash_e4))?;
            tx.emit(OrderEvent {
                cause_id: Some(cause_id),
                amount_e4: Some(opening_cash_e4),
                ..OrderEvent::new(Event::Deposited, user)
            });
        }

        Ok(tx)
    }

    /// Saves the account, and ends the unit.
    pub(super) fn save(self) {
        state::save_account(self.ctx, self.buffers, self.user, &self.account);
    }

    /// Posts between the account and the task's totals.
    pub(super) fn post_cash(
        &mut self,
        posting: impl FnOnce(&mut Account, &mut CashTotals) -> Result<(), Unbalanced>,
    ) -> Result<(), InvariantViolation> {
        let mut totals = state::load_totals(self.ctx)?;
        posting(&mut self.account, &mut totals).map_err(|e| violation(self.ctx, e))?;
        state::save_totals(self.ctx, self.buffers, &totals);
        Ok(())
    }

    /// Loads the ledger accounts that a trade of this symbol changes.
    pub(super) fn load_ledger(&mut self, symbol: &str) -> Result<Ledger, InvariantViolation> {
        Ok(Ledger {
            position: self.load_position(symbol)?,
            house: state::load_house(self.ctx, self.buffers, symbol)?,
            totals: state::load_totals(self.ctx)?,
        })
    }

    /// Saves the ledger accounts of a symbol.
    pub(super) fn save_ledger(
        &mut self,
        symbol: &str,
        ledger: &Ledger,
    ) -> Result<(), InvariantViolation> {
        state::save_totals(self.ctx, self.buffers, &ledger.totals);
        self.save_position(symbol, &ledger.position)?;
        state::save_house(self.ctx, self.buffers, symbol, &ledger.house);
        Ok(())
    }

    /// Loads the position of a symbol.
    pub(super) fn load_position(&mut self, symbol: &str) -> Result<Position, InvariantViolation> {
        state::load_position(self.ctx, self.buffers, self.user, symbol)
    }

    /// Saves the position of a symbol, and its marker if the position is short.
    pub(super) fn save_position(
        &mut self,
        symbol: &str,
        position: &Position,
    ) -> Result<(), InvariantViolation> {
        state::save_position(self.ctx, self.buffers, self.user, symbol, position);

        // Old rules set no markers, so none can exist.
        let short = position.short > 0 && self.buffers.margin;
        let marked = self.account.shorts;
        let (ctx, b) = (&mut *self.ctx, &mut *self.buffers);
        let count = if short && state::mark_short(ctx, b, self.user, symbol) {
            marked.checked_add(1)
        } else if !short && marked > 0 && state::unmark_short(ctx, b, self.user, symbol) {
            marked.checked_sub(1)
        } else {
            return Ok(());
        };

        self.account.shorts = count.ok_or_else(|| {
            violation(self.ctx, "more short positions were closed than were open")
        })?;
        Ok(())
    }

    /// Reserves an order's hold. `borrowed_e4` of its cash comes from the collateral of the short
    /// position that the order covers. `position` is as it was checked.
    pub(super) fn reserve(
        &mut self,
        side: Side,
        symbol: &str,
        mut position: Position,
        hold: &Hold,
        borrowed_e4: i64,
    ) -> Result<(), InvariantViolation> {
        if borrowed_e4 > 0 {
            self.account
                .release_collateral(&mut position, borrowed_e4)
                .map_err(|e| violation(self.ctx, e))?;
        }

        self.account
            .reserve(&mut position, hold)
            .map_err(|e| violation(self.ctx, e))?;

        // The hold of a buy has no shares.
        let holds = side == Side::Sell && *hold != Hold::default();
        if holds || borrowed_e4 > 0 {
            self.save_position(symbol, &position)?;
        }

        Ok(())
    }

    /// Releases an order's hold, or a part of the hold. Only sells touch the position.
    pub(super) fn release(
        &mut self,
        side: Side,
        symbol: &str,
        hold: &Hold,
    ) -> Result<(), InvariantViolation> {
        if *hold == Hold::default() {
            return Ok(());
        }

        let mut position = match side {
            Side::Sell => self.load_position(symbol)?,
            Side::Buy => Position::default(),
        };

        self.account
            .release(&mut position, hold)
            .map_err(|e| violation(self.ctx, e))?;
        match side {
            Side::Sell => self.save_position(symbol, &position),
            Side::Buy => Ok(()),
        }
    }

    /// Counts a new order that may stay open. The order's first event is the next event.
    pub(super) fn add_open_order(
        &mut self,
        symbol: &str,
        order_id: &str,
    ) -> Result<(), InvariantViolation> {
        let order = (self.user, symbol, order_id);
        open_orders::add(self.ctx, self.buffers, order, self.account.user_seq + 1);
        let count = self.account.open_orders.checked_add(1);
        self.account.open_orders =
            count.ok_or_else(|| violation(self.ctx, "too many open orders"))?;
        Ok(())
    }

    /// Removes an order from the open orders.
    pub(super) fn remove_open_order(
        &mut self,
        symbol: &str,
        order_id: &str,
    ) -> Result<(), InvariantViolation> {
        open_orders::remove(self.ctx, self.buffers, (self.user, symbol, order_id));
        let count = self.account.open_orders.checked_sub(1);
        self.account.open_orders =
            count.ok_or_else(|| violation(self.ctx, "more orders ended than were open"))?;
        Ok(())
    }

    /// Saves the record of an order, or of another command's id.
    pub(super) fn save_order(&mut self, order_id: &str, entry: &OrderRecord<'_>) {
        state::save_order(self.ctx, self.buffers, self.user, order_id, entry);
    }

    /// Emits the next event of the user.
    pub(super) fn emit(&mut self, mut e: OrderEvent<'_>) {
        self.account.user_seq += 1;
        e.user_seq = self.account.user_seq;
        e.time_us = self.ctx.time_ms().saturating_mul(1_000);
        e.cash_available_e4 = self.account.balance_e4();
        e.cash_reserved_e4 = self.account.reserved_e4;
        let unanswered = i64::try_from(std::mem::take(&mut self.account.messages.unanswered))
            .unwrap_or(i64::MAX);
        e.unanswered = Some(unanswered).filter(|n| *n > 0);
        if !self.buffers.tells_terms {
            e = without_terms(e);
        }

        self.buffers.value.clear();
        e.encode(&mut self.buffers.value);
        self.ctx.emit(
            topics::ORDER_EVENTS,
            self.user.as_bytes(),
            e.event.name(),
            &self.buffers.value,
        );
    }

    /// Sends a command to the book.
    pub(super) fn send_to_book(&mut self, symbol: &str, order_id: &str, ask: BookAction<'_>) {
        self.buffers.value.clear();
        BookCommand {
            user_id: self.user,
            order_id,
            symbol,
            ask,
        }
        .encode(&mut self.buffers.value);

        self.ctx.emit(
            topics::BOOK_COMMANDS,
            symbol.as_bytes(),
            BOOK_COMMAND,
            &self.buffers.value,
        );
    }
}

/// The event as rules before [`TERMS_TOLD`](crate::settings::TERMS_TOLD) wrote the event.
fn without_terms(event: OrderEvent<'_>) -> OrderEvent<'_> {
    OrderEvent {
        order_type: None,
        tif: None,
        stop_price_e4: None,
        expire_at_us: None,
        post_only: false,
        average_price_e4: None,
        ..event
    }
}

/// True if an event carries the value of the order's earlier trades (`cum_value_e4`), or, after a
/// bust, the value that is left.
fn has_value(event: Event) -> bool {
    matches!(
        event,
        Event::OrderTriggered
            | Event::OrderReplaced
            | Event::OrderCancelled
            | Event::OrderExpired
            | Event::TradeBusted
    )
}

/// Event about an order (or transfer), with the fields of its record.
pub(super) fn order_event<'a>(
    event: Event,
    user: &'a str,
    order_id: &'a str,
    entry: &OrderRecord<'a>,
) -> OrderEvent<'a> {
    let is_order = entry.content.kind() == Some(Kind::New);
    OrderEvent {
        order_id: Some(order_id),
        cause_id: Some(order_id),
        symbol: entry.content.symbol(),
        side: entry.content.side(),
        quantity: if is_order { entry.quantity() } else { None },
        cum_quantity: is_order.then_some(entry.cum),
        leaves_quantity: is_order.then(|| entry.leaves()),
        cum_value_e4: Some(entry.value_e4)
            .filter(|value| is_order && entry.cum > 0 && *value > 0 && has_value(event)),
        status: Some(entry.status),
        limit_price_e4: if is_order { entry.limit_price() } else { None },
        amount_e4: entry.content.amount(),
        ..with_terms(OrderEvent::new(event, user), entry, is_order)
    }
}

/// Adds the fields of the order that no execution changes, and the average price.
fn with_terms<'a>(
    event: OrderEvent<'a>,
    entry: &OrderRecord<'a>,
    is_order: bool,
) -> OrderEvent<'a> {
    if !is_order {
        return event;
    }

    let content = entry.content;
    OrderEvent {
        order_type: content.order_type(),
        tif: content.tif(),
        stop_price_e4: content.stop_price(),
        expire_at_us: content.expire_at_us(),
        post_only: content.post_only(),
        average_price_e4: average_price(entry.value_e4, entry.cum),
        ..event
    }
}
