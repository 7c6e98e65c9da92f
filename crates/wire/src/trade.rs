//! `trades`, with trades and busts, and `reference-prices`.

use domain::status::Side;

use super::event::named;
use super::input::{Fault, read_map};
use super::writer::MapWriter;

/// `type` header of trades.
pub const TRADE: &str = "Trade";
/// `type` header of busts.
pub const TRADE_BUSTED: &str = "TradeBusted";
/// `type` header of reference prices.
pub const REFERENCE_PRICE: &str = "ReferencePrice";

/// One trade. The contract defines the field names. The house has no order ids.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct Trade<'a> {
    pub trade_id: &'a str,
    pub symbol: &'a str,
    pub price_e4: i64,
    pub quantity: i64,
    pub buyer: &'a str,
    pub seller: &'a str,
    pub buy_order_id: Option<&'a str>,
    pub sell_order_id: Option<&'a str>,
    pub maker_side: Side,
    pub time_us: i64,
}

impl<'a> Trade<'a> {
    /// Appends the trade as MessagePack.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut w = MapWriter::begin(out);
        w.text("trade_id", self.trade_id)
            .text("symbol", self.symbol)
            .int("price_e4", self.price_e4)
            .int("quantity", self.quantity);
        w.text("buyer", self.buyer).text("seller", self.seller);
        w.maybe_text("buy_order_id", self.buy_order_id)
            .maybe_text("sell_order_id", self.sell_order_id);
        w.text("maker_side", self.maker_side.name())
            .int("time_us", self.time_us);
        w.end();
    }

    /// Decodes a trade that [`Trade::encode`] wrote.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, Fault> {
        const ODD: Fault = "a trade without one of its fields";
        let f = TradeFields::read(bytes, "quantity")?;
        Ok(Trade {
            trade_id: f.trade_id.ok_or(ODD)?,
            symbol: f.symbol.ok_or(ODD)?,
            price_e4: f.price_e4.ok_or(ODD)?,
            quantity: f.quantity.ok_or(ODD)?,
            buyer: f.buyer.ok_or(ODD)?,
            seller: f.seller.ok_or(ODD)?,
            buy_order_id: f.buy_order_id,
            sell_order_id: f.sell_order_id,
            maker_side: f.maker_side.ok_or(ODD)?,
            time_us: f.time_us.ok_or(ODD)?,
        })
    }
}

/// The fields of a trade or bust that a record has.
#[derive(Default)]
struct TradeFields<'a> {
    trade_id: Option<&'a str>,
    symbol: Option<&'a str>,
    price_e4: Option<i64>,
    quantity: Option<i64>,
    buyer: Option<&'a str>,
    seller: Option<&'a str>,
    buy_order_id: Option<&'a str>,
    sell_order_id: Option<&'a str>,
    maker_side: Option<Side>,
    time_us: Option<i64>,
}

impl<'a> TradeFields<'a> {
    /// Reads a record whose quantity has the name `quantity`.
    fn read(bytes: &'a [u8], quantity: &str) -> Result<Self, Fault> {
        let mut f = TradeFields::default();
        let fault = read_map(bytes, |name, v| match name {
            "trade_id" => f.trade_id = v.plain_text(),
            "symbol" => f.symbol = v.plain_text(),
            "price_e4" => f.price_e4 = v.i64(),
            "buyer" => f.buyer = v.plain_text(),
            "seller" => f.seller = v.plain_text(),
            "buy_order_id" => f.buy_order_id = v.plain_text(),
            "sell_order_id" => f.sell_order_id = v.plain_text(),
            "maker_side" => f.maker_side = named(v, Side::from_name).flatten(),
            "time_us" => f.time_us = v.i64(),
            _ if name == quantity => f.quantity = v.i64(),
            _ => {}
        })?;

        fault.map_or(Ok(f), Err)
    }
}

/// A bust: an earlier trade, or a part of the trade, is taken back. A named side is busted. In a
/// trade between two users, each side is busted by a record of its own. The trade stands while one
/// side stands. The quantity has a name of its own, so that no reader takes a bust for a trade.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct TradeBusted<'a> {
    pub trade_id: &'a str,
    pub symbol: &'a str,
    pub price_e4: i64,
    pub busted_quantity: i64,
    pub buyer: Option<&'a str>,
    pub seller: Option<&'a str>,
    pub buy_order_id: Option<&'a str>,
    pub sell_order_id: Option<&'a str>,
    pub time_us: i64,
}

impl<'a> TradeBusted<'a> {
    /// Appends the bust as MessagePack.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut w = MapWriter::begin(out);
        w.text("trade_id", self.trade_id)
            .text("symbol", self.symbol)
            .int("price_e4", self.price_e4);
        w.int("busted_quantity", self.busted_quantity)
            .maybe_text("buyer", self.buyer)
            .maybe_text("seller", self.seller);
        w.maybe_text("buy_order_id", self.buy_order_id)
            .maybe_text("sell_order_id", self.sell_order_id)
            .int("time_us", self.time_us);
        w.end();
    }

    /// Decodes a bust that [`TradeBusted::encode`] wrote.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, Fault> {
        const ODD: Fault = "a trade that was taken back, without one of its fields";
        let f = TradeFields::read(bytes, "busted_quantity")?;
        Ok(TradeBusted {
            trade_id: f.trade_id.ok_or(ODD)?,
            symbol: f.symbol.ok_or(ODD)?,
            price_e4: f.price_e4.ok_or(ODD)?,
            busted_quantity: f.quantity.ok_or(ODD)?,
            buyer: f.buyer,
            seller: f.seller,
            buy_order_id: f.buy_order_id,
            sell_order_id: f.sell_order_id,
            time_us: f.time_us.ok_or(ODD)?,
        })
    }
}

/// The price against which orders are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct ReferencePrice<'a> {
    pub symbol: &'a str,
    pub price_e4: i64,
    pub time_us: i64,
}

impl<'a> ReferencePrice<'a> {
    /// Appends the price as MessagePack.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut w = MapWriter::begin(out);
        w.text("symbol", self.symbol)
            .int("price_e4", self.price_e4)
            .int("time_us", self.time_us);
        w.end();
    }

    /// Decodes a price that [`ReferencePrice::encode`] wrote.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, Fault> {
        let mut symbol = None;
        let mut price = None;
        let mut time = None;
        let fault = read_map(bytes, |name, v| match name {
            "symbol" => symbol = v.plain_text(),
            "price_e4" => price = v.i64(),
            "time_us" => time = v.i64(),
            _ => {}
        })?;

        const ODD: Fault = "a reference price without one of its fields";
        match fault {
            Some(fault) => Err(fault),
            None => Ok(ReferencePrice {
                symbol: symbol.ok_or(ODD)?,
                price_e4: price.filter(|p| *p > 0).ok_or(ODD)?,
                time_us: time.ok_or(ODD)?,
            }),
        }
    }
}
