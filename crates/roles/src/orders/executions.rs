//! `executions`: the role settles the outcomes of the book. Settlement never refuses an execution.
//! An execution that cannot be settled is a bug, and stops the task.

use domain::account::{LedgerParts, TradeLeg};
use domain::hold::Terms;
use domain::house;
use domain::reason::Reason;
use domain::status::{Liquidity, Side, Status};
use engine::context::Ctx;
use engine::role::InvariantViolation;
use ports::records::Record;
use wire::book::{Execution, OrderOutcome, Trigger};
use wire::event::{Event, OrderEvent};

use super::Orders;
use super::account_tx::{AccountTx, about};
use super::order_trades::Fill;
use super::state::{self, OrderRecord, unreadable};
use super::{dedup_window, mass};
use crate::ingress::{bug, own};

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
        let value = own(ctx, record)?;
        let x = Execution::decode(value).map_err(|fault| bug(ctx, fault))?;

        // A cancel never names itself, except here: this refusal tells a mass cancel to continue.
        if x.cause_id == Some(x.order_id) && matches!(x.outcome, OrderOutcome::CancelRefused(_)) {
            return mass::go_on(ctx, &mut self.buffers, x.user_id, x.order_id);
        }

        let refusal = matches!(
            x.outcome,
            OrderOutcome::CancelRefused(_) | OrderOutcome::ReplaceRefused(_)
        );
        let known = state::load_order(
            ctx,
            &mut self.buffers,
            x.user_id,
            x.order_id,
            &mut self.entry,
        );

        let entry = if known {
            Some(OrderRecord::read(&self.entry).ok_or_else(|| unreadable(ctx, "an order"))?)
        } else {
            None
        };

        // The book refuses a cancel because the order has ended. The id may be forgotten by now,
        // and may belong to another command.
        if let OrderOutcome::CancelRefused(reason) = x.outcome
            && entry.is_none_or(|e| e.terms.is_none() || e.is_open())
            && dedup_window::has_forgotten(ctx)?
        {
            return self.too_late(ctx, &x, reason);
        }

        let Some(entry) = entry else {
            return Err(bug(
                ctx,
                format_args!(
                    "an execution of order {} of user {}, which is not known",
                    x.order_id, x.user_id
                ),
            ));
        };

        let (Some(terms), Some(symbol), true) = (
            entry.terms,
            entry.content.symbol(),
            entry.is_open() || refusal,
        ) else {
            return Err(bug(
                ctx,
                format_args!(
                    "an execution of order {} of user {}, which is not open",
                    x.order_id, x.user_id
                ),
            ));
        };

        let mut open = OpenOrder {
            user: x.user_id,
            id: x.order_id,
            cause: x.cause_id.unwrap_or(x.order_id),
            symbol,
            terms,
            entry,
        };

        let mut desk = AccountTx::existing(ctx, &mut self.buffers, x.user_id)?;

        // The first execution of an order means that the book has accepted the order, unless the
        // execution is a rejection or a refusal.
        if open.entry.status == Status::PendingNew
            && !refusal
            && !matches!(x.outcome, OrderOutcome::Rejected(_))
        {
            open.entry.status = Status::New;
            desk.event(OrderEvent {
                cause_id: Some(x.order_id),
                ..open.event(Event::OrderAccepted)
            });
        }

        match x.outcome {
            OrderOutcome::Accepted => desk.note(open.id, &open.entry),
            OrderOutcome::Fill {
                trade_id,
                price_e4,
                quantity,
                liquidity,
            } => open.fill(&mut desk, trade_id, price_e4, quantity, liquidity)?,
            OrderOutcome::Done(reason) => open.end(
                &mut desk,
                Event::OrderCancelled,
                Status::Cancelled,
                Some(reason),
            )?,
            OrderOutcome::Expired => {
                open.end(&mut desk, Event::OrderExpired, Status::Expired, None)?
            }
            OrderOutcome::Rejected(reason) => open.end(
                &mut desk,
                Event::OrderRejected,
                Status::Rejected,
                Some(reason),
            )?,
            OrderOutcome::Triggered(by) => open.triggered(&mut desk, by)?,
            OrderOutcome::Replaced { quantity, limit_e4 } => {
                open.replaced(&mut desk, quantity, limit_e4)?
            }
            OrderOutcome::CancelRefused(reason) => open.refused(&mut desk, reason),
            OrderOutcome::ReplaceRefused(reason) => {
                if open.entry.is_open() {
                    open.answered(desk.ctx)?;
                    open.decided(&mut desk)?;
                    desk.note(open.id, &open.entry);
                } else {
                    // The order ended while the change was on its way. At most one change is on its
                    // way at a time.
                    desk.buffers.has_ended(open.user, open.id);
                }

                open.refused(&mut desk, reason);
            }
        }

        desk.close();
        Ok(())
    }

    fn too_late(
        &mut self,
        ctx: &mut Ctx<'_>,
        x: &Execution<'_>,
        reason: Reason,
    ) -> Result<(), InvariantViolation> {
        let mut desk = AccountTx::existing(ctx, &mut self.buffers, x.user_id)?;
        desk.event(OrderEvent {
            order_id: Some(x.order_id),
            cause_id: Some(x.cause_id.unwrap_or(x.order_id)),
            reason: Some(reason),
            text: Some(reason.text()),
            ..OrderEvent::new(Event::CancelRejected, x.user_id)
        });

        desk.close();
        Ok(())
    }
}

impl<'a> OpenOrder<'a> {
    fn event(&self, event: Event) -> OrderEvent<'a> {
        OrderEvent {
            cause_id: Some(self.cause),
            ..about(event, self.user, self.id, &self.entry)
        }
    }

    fn fill(
        &mut self,
        desk: &mut AccountTx<'_, '_>,
        trade_id: &'a str,
        price_e4: i64,
        quantity: i64,
        liquidity: Liquidity,
    ) -> Result<(), InvariantViolation> {
        let e = &mut self.entry;
        let t = &self.terms;
        let wrong = |what: &str| {
            InvariantViolation(format!(
                "a fill of order {} that cannot be booked: {what}",
                self.id
            ))
        };

        let value = house::value(quantity, price_e4)
            .filter(|_| quantity > 0 && quantity <= t.quantity - e.cum);
        let value = value.ok_or_else(|| wrong("it is more than the order"))?;

        // The book promises to trade within these bounds. All holds depend on this promise.
        let kept = house::acceptable(t.side, price_e4, t.limit_e4)
            && (t.side == Side::Buy || price_e4 <= t.ceiling_e4);
        if !kept {
            return Err(wrong("its price is outside the order's bounds"));
        }

        let freed = t
            .freed(&e.hold, e.cum, e.value_e4, quantity, value)
            .ok_or_else(|| wrong("its value is out of bounds"))?;
        let fee = t
            .fee(e.value_e4, value)
            .ok_or_else(|| wrong("its fee is out of bounds"))?;
        e.hold = e
            .hold
            .less(&freed)
            .ok_or_else(|| wrong("it frees more than the order holds"))?;
        (e.cum, e.value_e4) = (e.cum + quantity, e.value_e4 + value);
        let whole = e.cum == t.quantity;
        e.status = if whole {
            Status::Filled
        } else {
            Status::PartiallyFilled
        };

        let mut position = desk.position(self.symbol)?;
        let mut house = state::load_house(desk.ctx, desk.buffers, self.symbol)?;
        let trade = TradeLeg {
            side: t.side,
            quantity,
            value_e4: value,
            fee,
            with_house: liquidity == Liquidity::House,
            keeps: desk.buffers.margin,
        };

        desk.post(|account, totals| {
            account.settle(
                LedgerParts {
                    position: &mut position,
                    house: &mut house,
                    totals,
                },
                &trade,
                &freed,
            )
        })?;

        desk.save_position(self.symbol, &position)?;
        state::save_house(desk.ctx, desk.buffers, self.symbol, &house);
        if desk.buffers.keeps_trades {
            let fill = Fill {
                trade_id,
                quantity,
                price_e4,
                fee,
                with_house: trade.with_house,
                back: 0,
            };

            self.entry.fills =
                self.entry
                    .fills
                    .add(desk.ctx, desk.buffers, (self.user, self.id), fill);
        }

        if whole {
            self.close(desk)?;
        }

        let event = OrderEvent {
            trade_id: Some(trade_id),
            last_quantity: Some(quantity),
            last_price_e4: Some(price_e4),
            fee_e4: Some(fee.charged_e4),
            liquidity: Some(liquidity),
            // For the first fill, the value is quantity times price.
            cum_value_e4: Some(self.entry.value_e4).filter(|_| self.entry.cum > quantity),
            ..self.event(if whole {
                Event::OrderFilled
            } else {
                Event::OrderPartiallyFilled
            })
        };

        desk.event(event);
        desk.note(self.id, &self.entry);
        Ok(())
    }

    /// Releases the rest of the order's hold, and removes the order from the open orders.
    fn close(&mut self, desk: &mut AccountTx<'_, '_>) -> Result<(), InvariantViolation> {
        let hold = std::mem::take(&mut self.entry.hold);
        desk.hold(self.terms.side, self.symbol, &hold, false)?;
        if std::mem::take(&mut self.entry.stays) {
            desk.mark_open(self.symbol, self.id, false)?;
        }

        Ok(())
    }

    fn end(
        &mut self,
        desk: &mut AccountTx<'_, '_>,
        event: Event,
        status: Status,
        reason: Option<Reason>,
    ) -> Result<(), InvariantViolation> {
        self.close(desk)?;
        (self.entry.status, self.entry.reason) = (status, reason);
        desk.event(OrderEvent {
            reason,
            text: reason.map(Reason::text),
            ..self.event(event)
        });

        desk.note(self.id, &self.entry);
        Ok(())
    }

    /// The stop triggered. From now on the limit of the trigger binds the order. For a buy, the new
    /// limit is at most the old limit, so the hold may only be too large.
    fn triggered(
        &mut self,
        desk: &mut AccountTx<'_, '_>,
        by: Option<Trigger>,
    ) -> Result<(), InvariantViolation> {
        if let Some(by) = by {
            self.terms.limit_e4 = by.limit_e4;
            self.entry.terms = Some(self.terms);
            self.decided(desk)?;
        }

        desk.event(OrderEvent {
            trigger_price_e4: by.map(|by| by.price_e4),
            // Also set for an order without its own limit.
            limit_price_e4: by.map(|by| by.limit_e4).or(self.entry.limit_price()),
            ..self.event(Event::OrderTriggered)
        });

        desk.note(self.id, &self.entry);
        Ok(())
    }

    fn replaced(
        &mut self,
        desk: &mut AccountTx<'_, '_>,
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
        self.answered(desk.ctx)?;
        if self.terms.quantity == self.entry.cum {
            self.entry.status = Status::Filled;
            self.close(desk)?;
        } else {
            self.decided(desk)?;
        }

        desk.event(self.event(Event::OrderReplaced));
        desk.note(self.id, &self.entry);
        Ok(())
    }

    /// Counts down the changes that await the book's answer.
    fn answered(&mut self, ctx: &Ctx<'_>) -> Result<(), InvariantViolation> {
        let left = self.entry.pending.checked_sub(1);
        self.entry.pending =
            left.ok_or_else(|| bug(ctx, "an answer to a change that nobody asked for"))?;
        Ok(())
    }

    /// Reduces the hold to the need of the terms, once no change is on its way.
    fn decided(&mut self, desk: &mut AccountTx<'_, '_>) -> Result<(), InvariantViolation> {
        let e = &mut self.entry;
        if e.pending > 0 {
            return Ok(());
        }

        let mut need = self
            .terms
            .need(e.cum, e.value_e4, e.hold.shares)
            .ok_or_else(|| bug(desk.ctx, "the terms of an order left their bounds"))?;

        // The cash for each share sold short may stem from a change that the book refused, and
        // cover only the quantity of that change.
        if self.terms.side == Side::Sell {
            need.cash_e4 = need.cash_e4.min(e.hold.cash_e4);
        }

        let less = || {
            bug(
                desk.ctx,
                format_args!(
                    "order {} holds less than it needs: {:?} for {need:?} by {:?}",
                    self.id, e.hold, self.terms
                ),
            )
        };

        let surplus = e.hold.less(&need).ok_or_else(less)?;
        e.hold = need;
        desk.hold(self.terms.side, self.symbol, &surplus, false)
    }

    fn refused(&self, desk: &mut AccountTx<'_, '_>, reason: Reason) {
        desk.event(OrderEvent {
            reason: Some(reason),
            text: Some(reason.text()),
            ..self.event(Event::CancelRejected)
        });
    }
}
