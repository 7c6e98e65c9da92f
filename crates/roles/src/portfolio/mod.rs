//! `portfolio`: computes portfolios from order events. The role is a projection: its loss loses no
//! money.
//!
//! A busy user has many events in a transaction, but only the last portfolio counts. So the role
//! caches portfolios during a batch, with the rows that the events touch (open sells; positions of
//! a large portfolio). The end of the batch writes each portfolio once: users in the order of their
//! first event, each with the changed rows. The cache is bounded. At the bound, the role writes the
//! whole cache, and the batch continues.

mod state;

use domain::portfolio::Holding;
use domain::status::{Side, Status};
use engine::context::{Cause, Ctx};
use engine::role::{InvariantViolation, RoleLogic};
#[cfg(feature = "faults")]
use faults::mutants;
use indexmap::IndexMap;
use ports::records::Record;
use rustc_hash::FxBuildHasher;
use wire::event::{Event, OrderEvent};
use wire::portfolio::{self as published, PORTFOLIO, POSITION, PortfolioRecord, PositionRecord};
use wire::topics;

use super::ingress::{internal_value, violation};
use state::{PortfolioRow, PortfolioRows, PortfolioState, Sell, position_key, sell_key};
pub(super) use state::{STATE_SCHEMA, prefix, show};

#[derive(Default)]
pub(super) struct PortfolioRole {
    /// Portfolios that the batch touched, each with the cause of its last event.
    touched: IndexMap<Box<str>, (Cause, PortfolioState), FxBuildHasher>,
    /// Estimated bytes that the cached portfolios will write.
    pending: usize,
    key: Vec<u8>,
    value: Vec<u8>,
}

/// Error for a state record that the role cannot read.
const UNREADABLE: &str =
    "state of a portfolio cannot be read; it was written by a newer version or is damaged";

/// Bound of the cache, in bytes to be written.
const PENDING_MAX: usize = 8 << 20;
/// Estimated maximum of bytes per user, per position in the user's record, and per row; state and
/// topic together.
const USER_BYTES: usize = 400;
const INLINE_BYTES: usize = 120;
const ROW_BYTES: usize = 500;

/// Reads one user's rows from state.
struct StoredRows<'s, 'c> {
    ctx: &'s mut Ctx<'c>,
    user: &'s str,
    key: &'s mut Vec<u8>,
}

impl StoredRows<'_, '_> {
    fn read<T: PortfolioRow>(&mut self) -> Result<Option<T>, &'static str> {
        self.ctx
            .get(self.key)
            .map(|bytes| T::read_row(bytes).ok_or(UNREADABLE))
            .transpose()
    }
}

impl PortfolioRows for StoredRows<'_, '_> {
    fn sell(&mut self, order_id: &str) -> Result<Option<Sell>, &'static str> {
        sell_key(self.user, order_id, self.key);
        self.read()
    }

    fn position(&mut self, symbol: &str) -> Result<Option<Holding>, &'static str> {
        position_key(self.user, symbol, self.key);
        self.read()
    }

    fn positions(&mut self) -> Result<Vec<(String, Holding)>, &'static str> {
        position_key(self.user, "", self.key);
        let begin = self.key.len();
        let mut all = Vec::new();
        let mut readable = true;
        self.ctx.scan(self.key, &mut |key, value| match (
            std::str::from_utf8(&key[begin..]),
            Holding::read_row(value),
        ) {
            (Ok(symbol), Some(holding)) => all.push((symbol.to_string(), holding)),
            _ => readable = false,
        });

        if readable { Ok(all) } else { Err(UNREADABLE) }
    }
}

impl RoleLogic for PortfolioRole {
    fn process(
        &mut self,
        ctx: &mut Ctx<'_>,
        record: &Record<'_>,
    ) -> Result<(), InvariantViolation> {
        let value = internal_value(ctx, record)?;
        let e = OrderEvent::decode(value).map_err(|fault| violation(ctx, fault))?;
        let cause = ctx.cause();
        if !self.touched.contains_key(e.user_id) {
            let state = match ctx.get(e.user_id.as_bytes()) {
                None => PortfolioState::new(e.user_id),
                Some(bytes) => match PortfolioState::read(e.user_id, bytes) {
                    Some(state) => state,
                    None => return Err(violation(ctx, UNREADABLE)),
                },
            };

            self.pending += USER_BYTES + INLINE_BYTES * state.portfolio.positions.len();
            self.touched.insert(e.user_id.into(), (cause, state));
        }

        let (last, state) = self.touched.get_mut(e.user_id).expect("just put there");
        *last = cause;
        let inline = state.portfolio.positions.len();
        let mut rows = StoredRows {
            ctx,
            user: e.user_id,
            key: &mut self.key,
        };

        if let Err(what) = fold(state, &e, &mut rows) {
            return Err(violation(
                ctx,
                format_args!("user {}, event {}: {what}", e.user_id, e.user_seq),
            ));
        }

        // An event touches one or two rows, or moves positions out of the record or back.
        self.pending += ROW_BYTES * (1 + inline.abs_diff(state.portfolio.positions.len()));
        if self.pending > PENDING_MAX {
            self.write(ctx)
        } else {
            Ok(())
        }
    }

    fn batch_end(&mut self, ctx: &mut Ctx<'_>) -> Result<(), InvariantViolation> {
        self.write(ctx)
    }
}

impl PortfolioRole {
    /// Writes and publishes all cached portfolios.
    fn write(&mut self, ctx: &mut Ctx<'_>) -> Result<(), InvariantViolation> {
        #[cfg(feature = "faults")]
        if mutants::on(mutants::Mutant::HashOrder) {
            self.touched
                .sort_by_cached_key(|user, _| mutants::bucket(user.as_bytes()));
        }

        self.pending = 0;
        for (user, (cause, mut state)) in self.touched.drain(..) {
            ctx.set_cause(cause);
            state.count_apart();
            self.value.clear();
            state.put(&mut self.value);
            ctx.put(user.as_bytes(), &self.value);
            for (order_id, _, sell) in state.changed_sells() {
                sell_key(&user, order_id, &mut self.key);
                put_row(ctx, &self.key, sell, &mut self.value);
            }

            let user_seq = state.portfolio.user_seq;

            // The user's record comes last: it marks the positions before it as one consistent set.
            for (symbol, stored, now) in state.changed_positions() {
                position_key(&user, symbol, &mut self.key);
                put_row(ctx, &self.key, now, &mut self.value);
                let [stored, now] = [stored, now].map(|h| h.filter(|h| h.quantity != 0));
                if stored != now {
                    published::position_key(&user, symbol, &mut self.key);
                    self.value.clear();
                    let position = now.map(|h| PositionRecord {
                        user_id: &user,
                        user_seq,
                        symbol,
                        holding: *h,
                    });

                    position.iter().for_each(|p| p.encode(&mut self.value));
                    let value = position.map(|_| &self.value[..]);
                    ctx.emit_beside(
                        topics::PORTFOLIOS,
                        user.as_bytes(),
                        &self.key,
                        POSITION,
                        value,
                    );
                }
            }

            self.value.clear();
            state.portfolio.encode(&mut self.value);
            ctx.emit(topics::PORTFOLIOS, user.as_bytes(), PORTFOLIO, &self.value);
        }

        Ok(())
    }
}

fn put_row<T: PortfolioRow>(ctx: &mut Ctx<'_>, key: &[u8], row: Option<&T>, value: &mut Vec<u8>) {
    match row {
        Some(row) => {
            value.clear();
            row.put_row(value);
            ctx.put(key, value);
        }
        None => ctx.delete(key),
    }
}

/// For a fold outside the role: all rows are cached from the first event on.
struct NoRows;

impl PortfolioRows for NoRows {
    fn sell(&mut self, _order_id: &str) -> Result<Option<Sell>, &'static str> {
        Ok(None)
    }

    fn position(&mut self, _symbol: &str) -> Result<Option<Holding>, &'static str> {
        Ok(None)
    }

    fn positions(&mut self) -> Result<Vec<(String, Holding)>, &'static str> {
        Ok(Vec::new())
    }
}

/// A portfolio that is computed event by event outside the role, to show past states.
pub struct History(PortfolioState);

impl History {
    /// History of a user without events.
    pub fn of(user: &str) -> History {
        History(PortfolioState::in_memory(user))
    }

    /// Applies the user's next event; returns the portfolio after the event.
    pub fn fold(&mut self, e: &OrderEvent<'_>) -> Result<&PortfolioRecord, &'static str> {
        fold(&mut self.0, e, &mut NoRows)?;
        Ok(&self.0.portfolio)
    }

    /// Portfolio after the last event.
    pub fn portfolio(&self) -> &PortfolioRecord {
        &self.0.portfolio
    }
}

/// Applies one event. An error means that `orders` cannot have written these events.
fn fold(
    s: &mut PortfolioState,
    e: &OrderEvent<'_>,
    rows: &mut dyn PortfolioRows,
) -> Result<(), &'static str> {
    const INCOMPLETE: &str = "a field is missing";
    if e.user_seq != s.portfolio.user_seq + 1 {
        return Err("user_seq does not follow the one before it");
    }

    s.portfolio.user_seq = e.user_seq;
    s.portfolio.cash_available_e4 = e.cash_available_e4;
    s.portfolio.cash_reserved_e4 = e.cash_reserved_e4;
    let order = || Some((e.order_id?, e.symbol?, e.side?));
    match e.event {
        Event::OrderPending => {
            let (order_id, symbol, side) = order().ok_or(INCOMPLETE)?;
            if side == Side::Sell {
                s.hold(order_id, symbol, e.leaves_quantity.ok_or(INCOMPLETE)?, rows)?;
            }
        }
        Event::OrderFilled | Event::OrderPartiallyFilled => {
            let (order_id, symbol, side) = order().ok_or(INCOMPLETE)?;
            let (Some(quantity), Some(price)) = (e.last_quantity, e.last_price_e4) else {
                return Err(INCOMPLETE);
            };

            if side == Side::Sell {
                s.release(order_id, Some(quantity), rows)?;
            }

            s.trade(symbol, side, (quantity, price, e.fee_e4.unwrap_or(0)), rows)?;
        }
        Event::TradeBusted => {
            let (_, symbol, side) = order().ok_or(INCOMPLETE)?;
            let (Some(quantity), Some(price)) = (e.last_quantity, e.last_price_e4) else {
                return Err(INCOMPLETE);
            };

            // Reverse the trade at its own price.
            s.trade(
                symbol,
                side.opposite(),
                (quantity, price, e.fee_e4.unwrap_or(0)),
                rows,
            )?;
        }
        Event::OrderCancelled | Event::OrderExpired | Event::OrderRejected => {
            // An order that `orders` rejected never had a hold; an order that the book rejected had
            // a hold. A refused command with the id of an open order carries that order's status,
            // and ends no order.
            if let (Some(order_id), true) = (e.order_id, e.status.is_some_and(Status::is_terminal))
            {
                s.release(order_id, None, rows)?;
                e.symbol.into_iter().for_each(|symbol| s.drop_empty(symbol));
            }
        }
        Event::OrderReplaced => {
            let (order_id, symbol, side) = order().ok_or(INCOMPLETE)?;
            if side == Side::Sell {
                s.release(order_id, None, rows)?;
                s.hold(order_id, symbol, e.leaves_quantity.ok_or(INCOMPLETE)?, rows)?;
                s.drop_empty(symbol);
            }
        }
        _ => {}
    }

    s.settle(rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::portfolio::Holding;

    #[test]
    fn sells_hold_shares_until_they_end() {
        let mut s = PortfolioState::new("u");
        let mut seq = 0;
        let mut on = |s: &mut PortfolioState, event, side, quantity: i64, status| {
            seq += 1;
            let e = OrderEvent {
                user_seq: seq,
                order_id: Some("1"),
                symbol: Some("A"),
                side: Some(side),
                quantity: Some(quantity),
                leaves_quantity: Some(quantity),
                last_quantity: Some(quantity),
                last_price_e4: Some(100),
                status: Some(status),
                ..OrderEvent::new(event, "u")
            };

            fold(s, &e, &mut NoRows).expect("a good event");
            s.portfolio.positions.get("A").copied()
        };

        assert_eq!(
            on(&mut s, Event::OrderFilled, Side::Buy, 5, Status::Filled),
            Some(Holding {
                quantity: 5,
                reserved: 0,
                cost_basis_e4: 500
            })
        );

        for end in [Event::OrderCancelled, Event::OrderRejected] {
            assert_eq!(
                on(
                    &mut s,
                    Event::OrderPending,
                    Side::Sell,
                    3,
                    Status::PendingNew
                ),
                Some(Holding {
                    quantity: 5,
                    reserved: 3,
                    cost_basis_e4: 500
                })
            );

            let refused = on(
                &mut s,
                Event::OrderRejected,
                Side::Sell,
                3,
                Status::PendingNew,
            );

            assert_eq!(
                refused.map(|h| h.reserved),
                Some(3),
                "the id came again in a command that was refused"
            );
            assert_eq!(
                on(&mut s, end, Side::Sell, 3, Status::Cancelled),
                Some(Holding {
                    quantity: 5,
                    reserved: 0,
                    cost_basis_e4: 500
                })
            );

            assert_eq!(
                on(
                    &mut s,
                    Event::OrderRejected,
                    Side::Sell,
                    3,
                    Status::Rejected
                )
                .map(|h| h.reserved),
                Some(0),
                "nothing to release"
            );
        }

        on(
            &mut s,
            Event::OrderPending,
            Side::Sell,
            5,
            Status::PendingNew,
        );

        assert_eq!(
            on(&mut s, Event::OrderFilled, Side::Sell, 5, Status::Filled),
            None
        );
        let e = OrderEvent {
            user_seq: 1,
            ..OrderEvent::new(Event::Deposited, "u")
        };

        assert!(fold(&mut s, &e, &mut NoRows).is_err(), "a repeat");
    }
}
