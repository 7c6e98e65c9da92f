//! `trading`: the last price of each symbol, and the fills. In house mode every market order that passes the last checks trades with the house.

mod state;

use std::fmt::Write;

use crate::domain::house;
use crate::domain::instrument::Instrument;
use crate::domain::price::{Priced, Taken, is_ahead, is_fresh};
use crate::domain::reason::Reason;
use crate::domain::status::Side;
use crate::engine::context::Ctx;
use crate::engine::records::Record;
use crate::engine::role::{Bug, Role};
use crate::wire::book::{BookOrder, EXECUTION, Execution, Outcome};
use crate::wire::trade::{REFERENCE_PRICE, ReferencePrice, TRADE, Trade};
use crate::wire::{tick, topics};

use super::RoleSettings;
use super::intake::{bug, own, vet};
use super::rows::{self, Rows};
use state::Buffers;
pub(super) use state::show;

/// The role's logic; see the module.
pub(super) struct Trading {
    stale_ms: i64,
    instruments: Rows<Instrument>,
    buffers: Buffers,
    trade_id: String,
    house: String,
}

impl Trading {
    pub(super) fn new(settings: &RoleSettings) -> Self {
        Trading {
            stale_ms: i64::try_from(settings.stale_ms).unwrap_or(i64::MAX),
            instruments: rows::instruments(),
            buffers: Buffers::default(),
            trade_id: String::new(),
            house: String::new(),
        }
    }

    fn tick(&mut self, ctx: &mut Ctx<'_>, record: &Record<'_>) -> Result<(), Bug> {
        let Some((key, value)) = vet(ctx, record) else { return Ok(()) };
        let t = match tick::decode(value) {
            Ok(t) if t.symbol.as_bytes() == key => t,
            Ok(_) => {
                ctx.dead_letter(record, "MALFORMED", "the record's key is not the tick's symbol");
                return Ok(());
            }
            Err(fault) => {
                ctx.dead_letter(record, "MALFORMED", fault);
                return Ok(());
            }
        };
        let Some(price_e4) = t.price.positive() else {
            ctx.dead_letter(record, "INVALID_PRICE", "the price is not a positive number of at most four decimals within bounds");
            return Ok(());
        };
        let Some(instrument) = self.instruments.get(ctx, &t.symbol).filter(Instrument::is_listed) else {
            ctx.dead_letter(record, "UNKNOWN_SYMBOL", "the symbol is not listed");
            return Ok(());
        };
        if t.timestamp_ns.is_some_and(|ts| is_ahead(ts, record.timestamp_ms)) {
            ctx.dead_letter(record, "FUTURE_TIMESTAMP", "the timestamp is more than one second ahead of the log's time");
            return Ok(());
        }
        let mut prices = state::load_prices(ctx, &mut self.buffers, &t.symbol)?;
        let mut source = state::load_source(ctx, &mut self.buffers, &t.symbol, t.source.as_deref())?;
        if source.is_late(t.seq, t.timestamp_ns) {
            prices.late += 1;
        } else {
            // A tick that is held was seen, too: sent again, it must not confirm itself.
            if t.seq.is_some() || t.timestamp_ns.is_some() {
                source.saw(t.seq, t.timestamp_ns);
                state::save_source(ctx, &mut self.buffers, &t.symbol, t.source.as_deref(), &source);
            }
            if prices.take(Priced { price_e4, time_ms: record.timestamp_ms }, &instrument) == Taken::Accepted
                && let Some(told) = prices.tell(self.stale_ms)
            {
                let value = self.buffers.fresh();
                ReferencePrice { symbol: &t.symbol, price_e4: told.price_e4, time_us: told.time_ms.saturating_mul(1_000) }.encode(value);
                ctx.emit(topics::REFERENCE_PRICES, t.symbol.as_bytes(), REFERENCE_PRICE, value);
            }
        }
        state::save_prices(ctx, &mut self.buffers, &t.symbol, &prices);
        Ok(())
    }

    fn order(&mut self, ctx: &mut Ctx<'_>, record: &Record<'_>) -> Result<(), Bug> {
        let value = own(ctx, record)?;
        let o = BookOrder::decode(value).map_err(|fault| bug(ctx, fault))?;
        let instrument = self.instruments.get(ctx, o.symbol);
        let last = state::load_prices(ctx, &mut self.buffers, o.symbol)?.last;
        let outcome = match decide(&o, instrument.as_ref(), last, record.timestamp_ms, self.stale_ms) {
            Decision::Fill(price_e4) => {
                let number = state::next_trade(ctx, &mut self.buffers)?;
                self.trade_id.clear();
                write!(self.trade_id, "{}-{number}", ctx.task()).expect("writing to a string");
                self.trade(ctx, &o, price_e4, record.timestamp_ms);
                Outcome::Fill { trade_id: &self.trade_id, price_e4, quantity: o.quantity }
            }
            Decision::Done(reason) => Outcome::Done(reason),
            Decision::Rejected(reason) => Outcome::Rejected(reason),
        };
        let value = self.buffers.fresh();
        Execution { user_id: o.user_id, order_id: o.order_id, outcome }.encode(value);
        ctx.emit(topics::EXECUTIONS, o.user_id.as_bytes(), EXECUTION, value);
        Ok(())
    }

    fn trade(&mut self, ctx: &mut Ctx<'_>, o: &BookOrder<'_>, price_e4: i64, time_ms: i64) {
        self.house.clear();
        write!(self.house, "house:{}", o.symbol).expect("writing to a string");
        let (user, house) = ((o.user_id, Some(o.order_id)), (self.house.as_str(), None));
        let (buyer, seller, maker_side) = match o.side {
            Side::Buy => (user, house, Side::Sell),
            Side::Sell => (house, user, Side::Buy),
        };
        let trade = Trade {
            trade_id: &self.trade_id,
            symbol: o.symbol,
            price_e4,
            quantity: o.quantity,
            buyer: buyer.0,
            seller: seller.0,
            buy_order_id: buyer.1,
            sell_order_id: seller.1,
            maker_side,
            time_us: time_ms.saturating_mul(1_000),
        };
        let value = self.buffers.fresh();
        trade.encode(value);
        ctx.emit(topics::TRADES, o.symbol.as_bytes(), TRADE, value);
    }
}

impl Role for Trading {
    fn process(&mut self, ctx: &mut Ctx<'_>, record: &Record<'_>) -> Result<(), Bug> {
        match record.at.topic {
            topics::MARKET_DATA => self.tick(ctx, record),
            topics::BOOK_COMMANDS => self.order(ctx, record),
            _ => Err(bug(ctx, "trading does not read this topic")),
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Decision {
    Fill(i64),
    Done(Reason),
    Rejected(Reason),
}

/// What becomes of a market order that nobody in the book fills. The book has the last word on whether the symbol trades and the price is fresh.
fn decide(o: &BookOrder<'_>, instrument: Option<&Instrument>, last: Option<Priced>, now_ms: i64, stale_ms: i64) -> Decision {
    let Some(i) = instrument.filter(|i| i.is_listed()) else { return Decision::Rejected(Reason::UnknownSymbol) };
    if !i.is_open() {
        return Decision::Rejected(Reason::SymbolHalted);
    }
    if !i.house {
        return Decision::Done(Reason::NoLiquidity);
    }
    let Some(last) = last else { return Decision::Rejected(Reason::NoReferencePrice) };
    if !is_fresh(last.time_ms, now_ms, stale_ms) {
        return Decision::Rejected(Reason::StalePrice);
    }
    match house::fill(o.side, o.quantity, last.price_e4, i, o.worst_price_e4, o.value_max_e4) {
        Some((price_e4, _)) => Decision::Fill(price_e4),
        None => Decision::Done(Reason::PriceBand),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::instrument::Listing;

    #[test]
    fn decisions() {
        let o = BookOrder {
            user_id: "u",
            order_id: "1",
            symbol: "A",
            side: Side::Buy,
            quantity: 10,
            worst_price_e4: 1_050_000,
            value_max_e4: 10_500_000,
        };
        let (good, last) = (Instrument::default(), Some(Priced { price_e4: 1_000_000, time_ms: 0 }));
        let with = |change: fn(&mut Instrument)| {
            let mut i = good;
            change(&mut i);
            decide(&o, Some(&i), last, 1_000, 1_000)
        };
        assert_eq!(with(|_| {}), Decision::Fill(1_000_000));
        assert_eq!(with(|i| i.half_spread_bps = 500), Decision::Fill(1_050_000));
        assert_eq!(with(|i| i.half_spread_bps = 501), Decision::Done(Reason::PriceBand));
        assert_eq!(with(|i| i.house = false), Decision::Done(Reason::NoLiquidity));
        assert_eq!(with(|i| i.status = Listing::Halted), Decision::Rejected(Reason::SymbolHalted));
        assert_eq!(with(|i| i.status = Listing::Delisted), Decision::Rejected(Reason::UnknownSymbol));
        assert_eq!(decide(&o, None, last, 0, 1), Decision::Rejected(Reason::UnknownSymbol));
        assert_eq!(decide(&o, Some(&good), None, 0, 1), Decision::Rejected(Reason::NoReferencePrice));
        assert_eq!(decide(&o, Some(&good), last, 1_001, 1_000), Decision::Rejected(Reason::StalePrice));
        let risen = Some(Priced { price_e4: 1_050_001, time_ms: 0 });
        assert_eq!(decide(&o, Some(&good), risen, 0, 1), Decision::Done(Reason::PriceBand));
    }
}
