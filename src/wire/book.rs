//! Between `orders` and `trading`: `book-commands` (keyed by symbol) and `executions` (keyed by user). Internal, yet maps like everything else, so
//! that an old record stays readable when fields are added.

use super::event::named;
use super::input::{Fault, read_map};
use super::writer::MapWriter;
use crate::domain::reason::Reason;
use crate::domain::status::{Side, words};

/// `type` header of book commands.
pub const BOOK_COMMAND: &str = "BookCommand";
/// `type` header of executions.
pub const EXECUTION: &str = "Execution";

/// A reserved order on its way to the book.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BookOrder<'a> {
    /// Whose it is; the execution goes back to this key.
    pub user_id: &'a str,
    /// Which order.
    pub order_id: &'a str,
    /// Which stock.
    pub symbol: &'a str,
    /// Which way.
    pub side: Side,
    /// How many.
    pub quantity: i64,
    /// It must not trade at a worse price, ...
    pub worst_price_e4: i64,
    /// ... nor for more money than this in total, which is what the account has set aside.
    pub value_max_e4: i64,
}

impl<'a> BookOrder<'a> {
    /// Appends its MessagePack form.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut w = MapWriter::begin(out);
        w.text("user_id", self.user_id).text("order_id", self.order_id).text("symbol", self.symbol).text("side", self.side.name());
        w.int("quantity", self.quantity).int("worst_price_e4", self.worst_price_e4).int("value_max_e4", self.value_max_e4);
        w.end();
    }

    /// Reads what [`BookOrder::encode`] wrote.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, Fault> {
        let (mut user, mut order, mut symbol, mut side) = (None, None, None, None);
        let (mut quantity, mut worst, mut value_max) = (None, None, None);
        let fault = read_map(bytes, |name, v| match name {
            "user_id" => user = v.plain_text(),
            "order_id" => order = v.plain_text(),
            "symbol" => symbol = v.plain_text(),
            "side" => side = named(v, Side::from_name).flatten(),
            "quantity" => quantity = v.i64(),
            "worst_price_e4" => worst = v.i64(),
            "value_max_e4" => value_max = v.i64(),
            _ => {}
        })?;
        const ODD: Fault = "a book command without one of its fields";
        match fault {
            Some(fault) => Err(fault),
            None => Ok(BookOrder {
                user_id: user.ok_or(ODD)?,
                order_id: order.ok_or(ODD)?,
                symbol: symbol.ok_or(ODD)?,
                side: side.ok_or(ODD)?,
                quantity: quantity.ok_or(ODD)?,
                worst_price_e4: worst.ok_or(ODD)?,
                value_max_e4: value_max.ok_or(ODD)?,
            }),
        }
    }
}

words! {
    /// What the book did with an order.
    Kind {
        /// All of it traded with the house; taken into the book by that.
        Fill = 1, "fill";
        /// Taken into the book, and ended without a trade.
        Done = 2, "done";
        /// Not taken into the book.
        Rejected = 3, "rejected";
    }
}

/// How an order fared.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Outcome<'a> {
    /// Traded whole with the house.
    Fill {
        /// Unique under one prefix.
        trade_id: &'a str,
        /// At this price.
        price_e4: i64,
        /// So many.
        quantity: i64,
    },
    /// Ended without a trade.
    Done(Reason),
    /// Not taken.
    Rejected(Reason),
}

/// One outcome of one order.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Execution<'a> {
    /// Whose order.
    pub user_id: &'a str,
    /// Which order.
    pub order_id: &'a str,
    /// What came of it.
    pub outcome: Outcome<'a>,
}

impl<'a> Execution<'a> {
    /// Appends its MessagePack form.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut w = MapWriter::begin(out);
        w.text("user_id", self.user_id).text("order_id", self.order_id);
        match self.outcome {
            Outcome::Fill { trade_id, price_e4, quantity } => {
                w.text("kind", Kind::Fill.name()).text("trade_id", trade_id).int("price_e4", price_e4).int("quantity", quantity);
            }
            Outcome::Done(reason) => {
                w.text("kind", Kind::Done.name()).text("reason", reason.name());
            }
            Outcome::Rejected(reason) => {
                w.text("kind", Kind::Rejected.name()).text("reason", reason.name());
            }
        }
        w.end();
    }

    /// Reads what [`Execution::encode`] wrote.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, Fault> {
        let (mut user, mut order, mut kind, mut reason) = (None, None, None, None);
        let (mut trade, mut price, mut quantity) = (None, None, None);
        let fault = read_map(bytes, |name, v| match name {
            "user_id" => user = v.plain_text(),
            "order_id" => order = v.plain_text(),
            "kind" => kind = named(v, Kind::from_name).flatten(),
            "reason" => reason = named(v, Reason::from_name).flatten(),
            "trade_id" => trade = v.plain_text(),
            "price_e4" => price = v.i64(),
            "quantity" => quantity = v.i64(),
            _ => {}
        })?;
        const ODD: Fault = "an execution without one of its fields";
        if let Some(fault) = fault {
            return Err(fault);
        }
        let outcome = match kind.ok_or(ODD)? {
            Kind::Fill => Outcome::Fill { trade_id: trade.ok_or(ODD)?, price_e4: price.ok_or(ODD)?, quantity: quantity.ok_or(ODD)? },
            Kind::Done => Outcome::Done(reason.ok_or(ODD)?),
            Kind::Rejected => Outcome::Rejected(reason.ok_or(ODD)?),
        };
        Ok(Execution { user_id: user.ok_or(ODD)?, order_id: order.ok_or(ODD)?, outcome })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips() {
        let order = BookOrder {
            user_id: "u",
            order_id: "1",
            symbol: "A",
            side: Side::Sell,
            quantity: 1,
            worst_price_e4: 2,
            value_max_e4: i64::MAX,
        };
        let mut out = Vec::new();
        order.encode(&mut out);
        assert_eq!(BookOrder::decode(&out), Ok(order));
        for outcome in [
            Outcome::Fill { trade_id: "0-1", price_e4: 5, quantity: 6 },
            Outcome::Done(Reason::NoLiquidity),
            Outcome::Rejected(Reason::StalePrice),
        ] {
            let e = Execution { user_id: "u", order_id: "1", outcome };
            out.clear();
            e.encode(&mut out);
            assert_eq!(Execution::decode(&out), Ok(e));
        }
    }
}
