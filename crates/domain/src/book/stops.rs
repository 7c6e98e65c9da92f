//! Stops: trigger condition and order.
//!
//! A price that passes stops arms them. Stops trigger in the order in which the price reaches them,
//! equal stops by place. Their trades may arm more stops. The book's owner decides the number that
//! triggers at once. An armed stop stays armed, even if the price goes back before the trigger.

use super::super::status::Side;
use super::{BUY_STOPS, Book, Order, Party, SELL_STOPS};

impl<P: Party> Book<P> {
    /// Arms the stops that a market price has reached.
    pub fn price(&mut self, price_e4: i64) {
        if self
            .first_stop(Side::Buy)
            .is_some_and(|stop| stop <= price_e4)
        {
            self.head.rose_to = Some(self.head.rose_to.map_or(price_e4, |p| p.max(price_e4)));
        }

        if self
            .first_stop(Side::Sell)
            .is_some_and(|stop| stop >= price_e4)
        {
            self.head.fell_to = Some(self.head.fell_to.map_or(price_e4, |p| p.min(price_e4)));
        }
    }

    /// True if a stop would trigger at once at this market price.
    pub fn would_fire(&self, side: Side, stop_e4: i64, price_e4: Option<i64>) -> bool {
        match side {
            Side::Buy => price_e4
                .max(self.head.rose_to)
                .is_some_and(|p| stop_e4 <= p),
            Side::Sell => [price_e4, self.head.fell_to]
                .into_iter()
                .flatten()
                .min()
                .is_some_and(|p| stop_e4 >= p),
        }
    }

    /// Removes the next armed stop from the book, and returns it as a normal order with the price
    /// that the market has reached. Dead stops are skipped; their removal is a separate step.
    pub fn pop_triggered_stop(&mut self, now_ms: i64) -> Option<(Order<P>, i64)> {
        for (ladder, side) in [(BUY_STOPS, Side::Buy), (SELL_STOPS, Side::Sell)] {
            let mark = if side == Side::Buy {
                self.head.rose_to
            } else {
                self.head.fell_to
            };

            let Some(mark) = mark else { continue };
            let armed = |o: &Order<P>| {
                o.stop_e4.is_some_and(|s| {
                    if side == Side::Buy {
                        s <= mark
                    } else {
                        s >= mark
                    }
                })
            };

            // Armed stops come before all other stops.
            if let Some(slot) = self
                .first_live(ladder, now_ms)
                .filter(|s| armed(self.at(*s)))
            {
                return self
                    .remove(slot)
                    .map(|o| (Order { stop_e4: None, ..o }, mark));
            }

            match side {
                Side::Buy => self.head.rose_to = None,
                Side::Sell => self.head.fell_to = None,
            }
        }

        None
    }

    /// True if armed stops are waiting.
    pub fn has_fired(&self) -> bool {
        self.head.rose_to.is_some() || self.head.fell_to.is_some()
    }

    fn first_stop(&self, side: Side) -> Option<i64> {
        let ladder = if side == Side::Buy {
            BUY_STOPS
        } else {
            SELL_STOPS
        };

        let (key, _) = self.ladders[ladder].best()?;
        Some(if side == Side::Buy { -key } else { key })
    }
}
