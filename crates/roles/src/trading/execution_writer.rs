//! Writes executions, trades, and the state rows of orders.

use std::fmt::Write;

use domain::book::{Match, Order, Party};
use domain::status::{Liquidity, Side};
use engine::context::Ctx;
use engine::role::InvariantViolation;
use wire::book::{EXECUTION, Execution, OrderOutcome};
use wire::topics;
use wire::trade::{TRADE, Trade};

use super::state::{self, TradingBuffers};

/// User and order id, as in the order's state key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OrderKey {
    pub(super) key: Box<[u8]>,
    user: usize,
}

impl OrderKey {
    pub(super) fn new(user_id: &str, order_id: &str) -> OrderKey {
        OrderKey {
            key: [user_id.as_bytes(), b"\0", order_id.as_bytes()]
                .concat()
                .into(),
            user: user_id.len(),
        }
    }

    pub(super) fn read(key: &[u8]) -> Option<OrderKey> {
        let user = key.iter().position(|b| *b == 0)?;
        std::str::from_utf8(key).ok()?;
        Some(OrderKey {
            key: key.into(),
            user,
        })
    }

    pub(super) fn user_id(&self) -> &str {
        std::str::from_utf8(&self.key[..self.user]).unwrap_or_default()
    }

    pub(super) fn order_id(&self) -> &str {
        std::str::from_utf8(&self.key[self.user + 1..]).unwrap_or_default()
    }
}

impl Party for OrderKey {
    fn same(&self, other: &OrderKey) -> bool {
        self.key[..self.user] == other.key[..other.user]
    }
}

/// Writes executions and trades.
pub(super) struct ExecutionWriter<'o, 'c> {
    pub ctx: &'o mut Ctx<'c>,
    pub buffers: &'o mut TradingBuffers,
    pub symbol: &'o str,
    pub text: &'o mut TextBuffers,
    /// Arrival time of the current act at the book.
    pub now_ms: i64,
    /// Error of the trade counter.
    pub failed: Option<InvariantViolation>,
}

/// Reusable buffers for texts.
#[derive(Default)]
pub(super) struct TextBuffers {
    trade_id: String,
    house: String,
}

impl ExecutionWriter<'_, '_> {
    pub(super) fn tell(
        &mut self,
        owner: &OrderKey,
        cause_id: Option<&str>,
        outcome: OrderOutcome<'_>,
    ) {
        let user_id = owner.user_id();
        let order_id = owner.order_id();
        let value = self.buffers.fresh();
        Execution {
            user_id,
            order_id,
            cause_id,
            outcome,
        }
        .encode(value);

        self.ctx
            .emit(topics::EXECUTIONS, user_id.as_bytes(), EXECUTION, value);
    }

    /// Writes a fill of `owner`'s order by the current trade.
    fn filled(&mut self, owner: &OrderKey, price_e4: i64, quantity: i64, liquidity: Liquidity) {
        let id = std::mem::take(&mut self.text.trade_id);
        self.tell(
            owner,
            None,
            OrderOutcome::Fill {
                trade_id: &id,
                price_e4,
                quantity,
                liquidity,
            },
        );

        self.text.trade_id = id;
    }

    fn number(&mut self) {
        match state::next_trade(self.ctx, self.buffers) {
            Ok(number) => {
                self.text.trade_id.clear();
                write!(self.text.trade_id, "{}-{number}", self.ctx.task())
                    .expect("writing to a string");
            }
            Err(e) => drop(self.failed.get_or_insert(e)),
        }
    }

    /// Writes a trade. `rested`: `order` was the maker.
    fn trade(
        &mut self,
        order: &Order<OrderKey>,
        other: (&str, Option<&str>),
        price_e4: i64,
        quantity: i64,
        rested: bool,
    ) {
        let user = (order.party.user_id(), Some(order.party.order_id()));
        let (buyer, seller) = if order.side == Side::Buy {
            (user, other)
        } else {
            (other, user)
        };

        let maker_side = if (order.side == Side::Buy) == rested {
            Side::Buy
        } else {
            Side::Sell
        };

        let trade = Trade {
            trade_id: &self.text.trade_id,
            symbol: self.symbol,
            price_e4,
            quantity,
            buyer: buyer.0,
            seller: seller.0,
            buy_order_id: buyer.1,
            sell_order_id: seller.1,
            maker_side,
            time_us: self.now_ms.saturating_mul(1_000),
        };

        let value = self.buffers.fresh();
        trade.encode(value);
        self.ctx
            .emit(topics::TRADES, self.symbol.as_bytes(), TRADE, value);
    }

    pub(super) fn matched(&mut self, m: &Match<'_, OrderKey>) {
        let Some(maker) = m.maker else {
            return self.with_house(m.taker, m.price_e4, m.quantity, false);
        };

        self.number();
        self.trade(
            m.taker,
            (maker.party.user_id(), Some(maker.party.order_id())),
            m.price_e4,
            m.quantity,
            false,
        );

        self.filled(&m.taker.party, m.price_e4, m.quantity, Liquidity::Taker);
        self.filled(&maker.party, m.price_e4, m.quantity, Liquidity::Maker);
        self.save_rest(maker);
    }

    /// Writes a trade of an order with the house.
    pub(super) fn with_house(
        &mut self,
        order: &Order<OrderKey>,
        price_e4: i64,
        quantity: i64,
        rested: bool,
    ) {
        self.number();
        let mut name = std::mem::take(&mut self.text.house);
        name.clear();
        write!(name, "house:{}", self.symbol).expect("writing to a string");
        self.trade(order, (&name, None), price_e4, quantity, rested);
        self.text.house = name;
        self.filled(&order.party, price_e4, quantity, Liquidity::House);
    }

    /// Saves the rest of a resting order that has traded.
    pub(super) fn save_rest(&mut self, order: &Order<OrderKey>) {
        if order.leaves == 0 {
            self.delete(&order.party)
        } else {
            self.save(order)
        }
    }

    /// Saves the row of an order in the book.
    pub(super) fn save(&mut self, o: &Order<OrderKey>) {
        state::save_order(self.ctx, self.buffers, self.symbol, &o.party.key, o);
    }

    /// Deletes the row of an order that left the book.
    pub(super) fn delete(&mut self, owner: &OrderKey) {
        state::delete_order(self.ctx, self.buffers, self.symbol, &owner.key);
    }
}
