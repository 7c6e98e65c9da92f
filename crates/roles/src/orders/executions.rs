//! `executions`: the role settles the outcomes of the book. Settlement never refuses an execution.
//! An execution that cannot be settled is a bug, and stops the task.

use domain::hold::{Terms, WorkingOrder};
use domain::reason::Reason;
use domain::settlement::{self, ReportedFill};
use domain::status::{Liquidity, Side, Status};
use engine::context::Ctx;
use engine::role::InvariantViolation;
use ports::records::Record;
use wire::book::{Execution, OrderOutcome, Trigger};
use wire::event::{Event, OrderEvent};

use super::Orders;
use super::account_tx::{AccountTx, order_event};
use super::order_trades::Fill;
use super::state::{self, OrderRecord, OrdersBuffers};
use super::{dedup_window, mass};
use crate::ingress::{internal_value, violation};

/// The order that is being settled.
struct OpenOrder<'a> {
    user: &'a str,
    id: &'a str,
    /// Id of the command that caused the execution.
    cause: &'a str,
    symbol: &'a str,
    terms: Terms,
    entry: OrderRecord<'a>,
}

impl Orders {
    pub(super) fn execution(
        &mut self,
        ctx: &mut Ctx<'_>,
        record: &Record<'_>,
    ) -> Result<(), InvariantViolation> {
        let value = internal_value(ctx, record)?;
        let x = Execution::decode(value).map_err(|fault| violation(ctx, fault))?;

        // A cancel never names itself, except here: this refusal tells a mass cancel to continue.
        if x.cause_id == Some(x.order_id) && matches!(x.outcome, OrderOutcome::CancelRefused(_)) {
            return mass::go_on(ctx, &mut self.buffers, x.user_id, x.order_id);
        }

        let bytes = &mut self.records.own;
        let known = state::load_order(ctx, &mut self.buffers, x.user_id, x.order_id, bytes);
        let entry = match known {
            true => Some(state::read_order(ctx, bytes)?),
            false => None,
        };

        // The book refuses a cancel because the order has ended. The id may be forgotten by now,
        // and may belong to another command.
        if let OrderOutcome::CancelRefused(reason) = x.outcome
            && entry.is_none_or(|e| e.terms.is_none() || e.is_open())
            && dedup_window::has_forgotten(ctx)?
        {
            return too_late(ctx, &mut self.buffers, &x, reason);
        }

        let Some(entry) = entry else {
            return Err(misdirected(ctx, &x, "known"));
        };

        // Only a refusal may reach an order that has ended.
        let open = entry.is_open() || is_refusal(&x.outcome);
        let (Some(terms), Some(symbol), true) = (entry.terms, entry.content.symbol(), open) else {
            return Err(misdirected(ctx, &x, "open"));
        };

        let mut order = OpenOrder {
            user: x.user_id,
            id: x.order_id,
            cause: x.cause_id.unwrap_or(x.order_id),
            symbol,
            terms,
            entry,
        };

        let mut tx = AccountTx::load(ctx, &mut self.buffers, x.user_id)?;
        order.accept(&mut tx, &x.outcome);
        order.apply(&mut tx, x.outcome)?;
        tx.save();
        Ok(())
    }
}

/// True if the book refused a cancel or a replace of the order.
fn is_refusal(outcome: &OrderOutcome<'_>) -> bool {
    matches!(
        outcome,
        OrderOutcome::CancelRefused(_) | OrderOutcome::ReplaceRefused(_)
    )
}

/// Error for an execution of an order that does not wait for executions.
#[cold]
fn misdirected(ctx: &Ctx<'_>, x: &Execution<'_>, lacks: &str) -> InvariantViolation {
    let (id, user) = (x.order_id, x.user_id);
    violation(
        ctx,
        format_args!("an execution of order {id} of user {user}, which is not {lacks}"),
    )
}

/// Tells the user that a cancel came after the end of an order whose id is forgotten.
fn too_late(
    ctx: &mut Ctx<'_>,
    buffers: &mut OrdersBuffers,
    x: &Execution<'_>,
    reason: Reason,
) -> Result<(), InvariantViolation> {
    let mut tx = AccountTx::load(ctx, buffers, x.user_id)?;
    tx.emit(OrderEvent {
        order_id: Some(x.order_id),
        cause_id: Some(x.cause_id.unwrap_or(x.order_id)),
        reason: Some(reason),
        text: Some(reason.text()),
        ..OrderEvent::new(Event::CancelRejected, x.user_id)
    });

    tx.save();
    Ok(())
}

impl<'a> OpenOrder<'a> {
    fn event(&self, event: Event) -> OrderEvent<'a> {
        OrderEvent {
            cause_id: Some(self.cause),
            ..order_event(event, self.user, self.id, &self.entry)
        }
    }

    /// The first execution of an order means that the book has accepted the order, unless the
    /// execution is a rejection or a refusal.
    fn accept(&mut self, tx: &mut AccountTx<'_, '_>, outcome: &OrderOutcome<'_>) {
        if self.entry.status == Status::PendingNew
            && !is_refusal(outcome)
            && !matches!(outcome, OrderOutcome::Rejected(_))
        {
            self.entry.status = Status::New;
            tx.emit(OrderEvent {
                cause_id: Some(self.id),
                ..self.event(Event::OrderAccepted)
            });
        }
    }

    /// Settles an outcome of the book.
    fn apply(
        &mut self,
        tx: &mut AccountTx<'_, '_>,
        outcome: OrderOutcome<'a>,
    ) -> Result<(), InvariantViolation> {
        match outcome {
            OrderOutcome::Accepted => {
                tx.save_order(self.id, &self.entry);
                Ok(())
            }
            OrderOutcome::Fill {
                trade_id,
                price_e4,
                quantity,
                liquidity,
            } => {
                let fill = ReportedFill {
                    quantity,
                    price_e4,
                    with_house: liquidity == Liquidity::House,
                };

                self.fill(tx, trade_id, fill, liquidity)
            }
            OrderOutcome::Done(reason) => {
                self.end(tx, Event::OrderCancelled, Status::Cancelled, Some(reason))
            }
            OrderOutcome::Expired => self.end(tx, Event::OrderExpired, Status::Expired, None),
            OrderOutcome::Rejected(reason) => {
                self.end(tx, Event::OrderRejected, Status::Rejected, Some(reason))
            }
            OrderOutcome::Triggered(by) => self.triggered(tx, by),
            OrderOutcome::Replaced { quantity, limit_e4 } => self.replaced(tx, quantity, limit_e4),
            OrderOutcome::CancelRefused(reason) => {
                self.refused(tx, reason);
                Ok(())
            }
            OrderOutcome::ReplaceRefused(reason) => self.replace_refused(tx, reason),
        }
    }

    fn fill(
        &mut self,
        tx: &mut AccountTx<'_, '_>,
        trade_id: &'a str,
        fill: ReportedFill,
        liquidity: Liquidity,
    ) -> Result<(), InvariantViolation> {
        let mut order = self.entry.working(self.terms);
        let mut ledger = tx.load_ledger(self.symbol)?;
        let keeps = tx.buffers.margin;
        let fee = settlement::settle(&mut order, &mut tx.account, &mut ledger, &fill, keeps)
            .map_err(|e| {
                let id = self.id;
                violation(
                    tx.ctx,
                    format_args!("a fill of order {id} that cannot be booked: {e}"),
                )
            })?;

        tx.save_ledger(self.symbol, &ledger)?;
        self.book(&order);
        if tx.buffers.keeps_trades {
            let trade = Fill {
                trade_id,
                quantity: fill.quantity,
                price_e4: fill.price_e4,
                fee,
                with_house: fill.with_house,
                back: 0,
            };

            let fills = self.entry.fills;
            self.entry.fills = fills.add(tx.ctx, tx.buffers, (self.user, self.id), trade);
        }

        if order.is_filled() {
            self.leave_open_orders(tx)?;
        }

        tx.emit(OrderEvent {
            trade_id: Some(trade_id),
            last_quantity: Some(fill.quantity),
            last_price_e4: Some(fill.price_e4),
            fee_e4: Some(fee.charged_e4),
            liquidity: Some(liquidity),
            // For the first fill, the value is quantity times price.
            cum_value_e4: Some(self.entry.value_e4).filter(|_| self.entry.cum > fill.quantity),
            ..self.event(if order.is_filled() {
                Event::OrderFilled
            } else {
                Event::OrderPartiallyFilled
            })
        });

        tx.save_order(self.id, &self.entry);
        Ok(())
    }

    /// Takes over the values of an order after a fill.
    fn book(&mut self, order: &WorkingOrder) {
        let e = &mut self.entry;
        (e.hold, e.cum, e.value_e4) = (order.hold, order.cum, order.value_e4);
        e.status = if order.is_filled() {
            Status::Filled
        } else {
            Status::PartiallyFilled
        };
    }

    /// Removes the order from the user's open orders, if the order was among them.
    fn leave_open_orders(&mut self, tx: &mut AccountTx<'_, '_>) -> Result<(), InvariantViolation> {
        if std::mem::take(&mut self.entry.stays) {
            tx.remove_open_order(self.symbol, self.id)?;
        }

        Ok(())
    }

    /// Releases the rest of the order's hold, and removes the order from the open orders.
    fn close(&mut self, tx: &mut AccountTx<'_, '_>) -> Result<(), InvariantViolation> {
        let hold = std::mem::take(&mut self.entry.hold);
        tx.release(self.terms.side, self.symbol, &hold)?;
        self.leave_open_orders(tx)
    }

    fn end(
        &mut self,
        tx: &mut AccountTx<'_, '_>,
        event: Event,
        status: Status,
        reason: Option<Reason>,
    ) -> Result<(), InvariantViolation> {
        self.close(tx)?;
        (self.entry.status, self.entry.reason) = (status, reason);
        tx.emit(OrderEvent {
            reason,
            text: reason.map(Reason::text),
            ..self.event(event)
        });

        tx.save_order(self.id, &self.entry);
        Ok(())
    }

    /// The stop triggered. From now on the limit of the trigger binds the order. For a buy, the new
    /// limit is at most the old limit, so the hold may only be too large.
    fn triggered(
        &mut self,
        tx: &mut AccountTx<'_, '_>,
        by: Option<Trigger>,
    ) -> Result<(), InvariantViolation> {
        if let Some(by) = by {
            self.terms.limit_e4 = by.limit_e4;
            self.entry.terms = Some(self.terms);
            self.decided(tx)?;
        }

        tx.emit(OrderEvent {
            trigger_price_e4: by.map(|by| by.price_e4),
            // Also set for an order without its own limit.
            limit_price_e4: by.map(|by| by.limit_e4).or(self.entry.limit_price()),
            ..self.event(Event::OrderTriggered)
        });

        tx.save_order(self.id, &self.entry);
        Ok(())
    }

    fn replaced(
        &mut self,
        tx: &mut AccountTx<'_, '_>,
        quantity: i64,
        limit_e4: i64,
    ) -> Result<(), InvariantViolation> {
        // A new quantity at or below CumQty fills the order.
        self.terms = Terms {
            quantity: quantity.max(self.entry.cum),
            limit_e4,
            ..self.terms
        };

        self.entry.terms = Some(self.terms);
        self.answered(tx.ctx)?;
        if self.terms.quantity == self.entry.cum {
            self.entry.status = Status::Filled;
            self.close(tx)?;
        } else {
            self.decided(tx)?;
        }

        tx.emit(self.event(Event::OrderReplaced));
        tx.save_order(self.id, &self.entry);
        Ok(())
    }

    /// Counts down the changes that await the book's answer.
    fn answered(&mut self, ctx: &Ctx<'_>) -> Result<(), InvariantViolation> {
        let left = self.entry.pending.checked_sub(1);
        self.entry.pending =
            left.ok_or_else(|| violation(ctx, "an answer to a change that nobody asked for"))?;
        Ok(())
    }

    /// Reduces the hold to the need of the terms, once no change is on its way.
    fn decided(&mut self, tx: &mut AccountTx<'_, '_>) -> Result<(), InvariantViolation> {
        let e = &mut self.entry;
        if e.pending > 0 {
            return Ok(());
        }

        let mut need = self
            .terms
            .need(e.cum, e.value_e4, e.hold.shares)
            .ok_or_else(|| violation(tx.ctx, "the terms of an order left their bounds"))?;

        // The cash for each share sold short may stem from a change that the book refused, and
        // cover only the quantity of that change.
        if self.terms.side == Side::Sell {
            need.cash_e4 = need.cash_e4.min(e.hold.cash_e4);
        }

        let less = || {
            violation(
                tx.ctx,
                format_args!(
                    "order {} holds less than it needs: {:?} for {need:?} by {:?}",
                    self.id, e.hold, self.terms
                ),
            )
        };

        let surplus = e.hold.checked_sub(&need).ok_or_else(less)?;
        e.hold = need;
        tx.release(self.terms.side, self.symbol, &surplus)
    }

    fn replace_refused(
        &mut self,
        tx: &mut AccountTx<'_, '_>,
        reason: Reason,
    ) -> Result<(), InvariantViolation> {
        if self.entry.is_open() {
            self.answered(tx.ctx)?;
            self.decided(tx)?;
            tx.save_order(self.id, &self.entry);
        } else {
            // The order ended while the change was on its way. At most one change is on its way at
            // a time.
            tx.buffers.has_ended(self.user, self.id);
        }

        self.refused(tx, reason);
        Ok(())
    }

    fn refused(&self, tx: &mut AccountTx<'_, '_>, reason: Reason) {
        tx.emit(OrderEvent {
            reason: Some(reason),
            text: Some(reason.text()),
            ..self.event(Event::CancelRejected)
        });
    }
}
