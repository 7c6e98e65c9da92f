//! The house in a book: its place, its quote, and the resting orders that its next quote reaches.

use domain::book::{HouseQuote, Order, Quote};
use domain::house;
use domain::instrument::Instrument;
use domain::price::{is_beyond, is_fresh};
use domain::reason::Reason;
use domain::status::Side;

use super::book_session::BookSession;
use super::execution_writer::OrderKey;
use super::gate::Ears;
use super::state::{Crossing, Dealer};
use crate::settings::{HOUSE_IN_BOOK, LAST_PROCESSED};

impl Dealer {
    /// House quote for the matching core.
    pub(super) fn house(self) -> HouseQuote {
        match self {
            Dealer::Outside(Ok(_)) => HouseQuote::Outside,
            Dealer::InBook(Some(quote)) => HouseQuote::At(quote),
            Dealer::Outside(Err(_)) | Dealer::InBook(None) => HouseQuote::Away,
        }
    }

    /// Place of the house after a trade with the order.
    pub(super) fn after(self, house: HouseQuote) -> Dealer {
        if let HouseQuote::At(quote) = house {
            Dealer::InBook(Some(quote))
        } else {
            self
        }
    }
}

impl BookSession<'_, '_> {
    /// Instrument, if the house has a place in this symbol's book.
    fn with_house(&self) -> Option<Instrument> {
        self.instrument
            .filter(|i| i.house && self.rules >= HOUSE_IN_BOOK)
    }

    /// Current offer of the house to orders of a side.
    fn quote(&self, side: Side) -> Option<Quote> {
        let i = self.with_house().filter(Instrument::is_open)?;
        let last = self
            .tick
            .filter(|t| is_fresh(t.time_ms, self.now_ms, self.stale))?;
        Some(Quote {
            price_e4: house::price(side, last.price_e4, i.half_spread_bps)?,
            left: i.house_max.unwrap_or(i64::MAX),
        })
    }

    /// Place of the house, as an order meets it.
    pub(super) fn dealer(&self, o: &Order<OrderKey>) -> Dealer {
        match self.with_house() {
            Some(_) => Dealer::InBook(self.quote(o.side)),
            None if o.market => {
                Dealer::Outside(self.price_outside(o.side, o.limit_e4, o.ceiling_e4))
            }
            None => Dealer::Outside(Err(Reason::NoLiquidity)),
        }
    }

    /// Current price of the house for a market order, if the house stands outside the book.
    fn price_outside(&self, side: Side, limit_e4: i64, ceiling_e4: i64) -> Result<i64, Reason> {
        let i = self
            .instrument
            .filter(|i| i.house)
            .ok_or(Reason::NoLiquidity)?;
        let last = self
            .tick
            .filter(|t| is_fresh(t.time_ms, self.now_ms, self.stale))
            .ok_or(Reason::NoLiquidity)?;
        let price = house::price(side, last.price_e4, i.half_spread_bps);
        price
            .filter(|p| {
                house::acceptable(side, *p, limit_e4) && (side == Side::Buy || *p <= ceiling_e4)
            })
            .ok_or(Reason::PriceBand)
    }

    /// Price that stops compare with: the last tick if the house has a place in the book. Otherwise
    /// the last tick or the last trade between users, whichever was processed later.
    pub(super) fn market_price(&self) -> Option<i64> {
        let trade = self.stand.trade.filter(|_| self.with_house().is_none());
        let last = match (self.tick, trade) {
            // A tick replaces the trade before it.
            _ if self.rules >= LAST_PROCESSED => trade.or(self.tick),
            // A trade with a wrong future timestamp would win until that time.
            (Some(tick), Some(trade))
                if tick.time_ms > trade.time_ms
                    || is_beyond(trade.time_ms, self.now_ms, self.stale) =>
            {
                Some(tick)
            }
            (tick, trade) => trade.or(tick),
        };

        last.map(|p| p.price_e4)
    }

    /// Quote after a tick at this price. The quote meets resting orders before any other act.
    /// Without a quote (no house, or a halt), the house owes the quote.
    pub(super) fn quote_anew(&mut self, price_e4: i64) -> Option<Crossing> {
        if self.rules < HOUSE_IN_BOOK || self.stand.book.is_empty() {
            return None;
        }

        let ask = self.quote(Side::Buy);
        let bid = self.quote(Side::Sell);
        self.stand.owed = ask.is_none() && bid.is_none();
        (!self.stand.owed).then_some(Crossing {
            price_e4,
            side: Side::Buy,
            ask,
            bid,
            passed: 0,
        })
    }

    /// Quote that the house owes resting orders, made from the last tick if possible now. The tick
    /// is not new, so a trade after the tick is still the later price.
    pub(super) fn owed(&mut self) -> Option<Crossing> {
        let price_e4 = self
            .tick
            .filter(|_| self.stand.owed && !self.stand.is_busy())?
            .price_e4;
        self.quote_anew(price_e4)
    }

    /// Matches the house's new quote against resting orders. Returns false if the budget ran out; a
    /// later record continues.
    pub(super) fn cross(&mut self, c: &mut Crossing) -> bool {
        loop {
            let buys = c.side == Side::Buy;
            if let Some(quote) = if buys { &c.ask } else { &c.bid } {
                let mut ears = Ears {
                    out: &mut self.out,
                    slots: &mut self.stand.slots,
                    gate: self.gate,
                    first: None,
                    last: None,
                };

                let book = &mut self.stand.book;
                if !book.cross(
                    c.side,
                    quote,
                    &mut c.passed,
                    self.now_ms,
                    &mut self.room.book,
                    &mut &mut ears,
                ) {
                    return false;
                }
            }

            if !buys {
                return true;
            }

            (c.side, c.passed) = (Side::Sell, 0);
        }
    }
}
