//! What happens to an order that comes: checked, matched, and what is left of it put where it belongs.

use super::super::reason::Reason;
use super::super::status::Side;
use super::{ASKS, BIDS, Book, Life, Match, NIL, Order, PLACE, Party, Verdict};

/// What a replacement would do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The order keeps its place.
    InPlace,
    /// It leaves its place and comes anew.
    Anew,
    /// There is nothing left to trade: it is filled.
    Fills,
}

/// Why matching ended before the order was filled.
enum Stop {
    /// Nobody, or nobody at a price that suits.
    NoOne,
    /// Somebody, at a price that does not.
    TooFar,
    /// The next one is the same owner.
    Oneself,
}

impl<P: Party> Book<P> {
    /// Puts an order to the book. Every trade is told to `on_match` as it happens. `backstop`: somebody outside the book would take the rest of a market
    /// order, which matters for "all or nothing".
    pub fn submit(&mut self, mut order: Order<P>, now_ms: i64, backstop: bool, mut on_match: impl FnMut(Match<'_, P>)) -> Verdict<P> {
        if order.deadline_ms <= now_ms {
            return Verdict::Rejected(order, Reason::TooLateToEnter);
        }
        if order.stop_e4.is_some() {
            return Verdict::Rests(self.place(order));
        }
        if order.post_only && self.would_cross(&order, now_ms) {
            return Verdict::Rejected(order, Reason::PostOnlyWouldCross);
        }
        if order.life == Life::Fok
            && let Err(reason) = self.can_fill(&order, now_ms, backstop)
        {
            return Verdict::Cancelled(order, reason);
        }
        let stop = self.fill(&mut order, now_ms, &mut on_match);
        match stop {
            None => Verdict::Filled(order),
            Some(Stop::Oneself) => Verdict::Cancelled(order, Reason::SelfTradePrevented),
            Some(Stop::TooFar) if order.market => Verdict::Unfilled(order, Reason::PriceBand),
            Some(_) if order.market => Verdict::Unfilled(order, Reason::NoLiquidity),
            // A bid above what the seller's account can take: resting below it would leave the book crossed.
            Some(Stop::TooFar) if self.would_cross_unbounded(&order, now_ms) => Verdict::Cancelled(order, Reason::PriceBand),
            Some(_) if order.life != Life::Rest => Verdict::Cancelled(order, Reason::IocRemainder),
            Some(_) => Verdict::Rests(self.place(order)),
        }
    }

    /// Whether an order would trade on arrival.
    pub fn would_cross(&self, order: &Order<P>, now_ms: i64) -> bool {
        self.would_cross_unbounded(order, now_ms)
    }

    fn would_cross_unbounded(&self, order: &Order<P>, now_ms: i64) -> bool {
        self.next_maker(order.side, now_ms).is_some_and(|slot| match order.side {
            Side::Buy => self.at(slot).limit_e4 <= order.limit_e4,
            Side::Sell => self.at(slot).limit_e4 >= order.limit_e4,
        })
    }

    /// What a replacement by these terms would do to a live order; an error changes nothing.
    pub fn check_replace(&self, slot: u32, quantity: i64, limit_e4: i64, now_ms: i64) -> Result<Change, Reason> {
        let order = self.get(slot).filter(|o| self.lives(o, now_ms)).ok_or(Reason::TooLateToCancel)?;
        if quantity <= order.cum {
            return Ok(Change::Fills);
        }
        if limit_e4 == order.limit_e4 && quantity <= order.quantity() {
            return Ok(Change::InPlace);
        }
        if order.post_only {
            let opposite = self.next_maker(order.side, now_ms).map(|s| self.at(s).limit_e4);
            let crosses = opposite.is_some_and(|p| if order.side == Side::Buy { p <= limit_e4 } else { p >= limit_e4 });
            if crosses {
                return Err(Reason::PostOnlyWouldCross);
            }
        }
        Ok(Change::Anew)
    }

    /// Makes an order smaller where it stands.
    pub fn shrink(&mut self, slot: u32, quantity: i64) {
        let order = self.at_mut(slot);
        order.leaves = quantity - order.cum;
    }

    /// The first order on the other side that is alive.
    fn next_maker(&self, side: Side, now_ms: i64) -> Option<u32> {
        let ladder = if side == Side::Buy { ASKS } else { BIDS };
        // Only while dead orders wait to be cleared away must they be passed over.
        if !self.is_doomed() && self.next_deadline().is_none_or(|d| d > now_ms) {
            return self.ladders[ladder].best().map(|(_, list)| self.lists[list as usize].head);
        }
        self.walk(ladder).find(|slot| self.lives(self.at(*slot), now_ms))
    }

    /// Whether an all-or-nothing order would be filled: looked at before anything is done.
    fn can_fill(&self, order: &Order<P>, now_ms: i64, backstop: bool) -> Result<(), Reason> {
        let mut left = order.leaves;
        let ladder = if order.side == Side::Buy { ASKS } else { BIDS };
        for maker in self.walk(ladder).map(|slot| self.at(slot)).filter(|m| self.lives(m, now_ms)) {
            if !order.accepts(maker.limit_e4) {
                break;
            }
            if maker.party.same(&order.party) {
                return Err(Reason::SelfTradePrevented);
            }
            left = left.saturating_sub(maker.leaves);
            if left <= 0 {
                return Ok(());
            }
        }
        if backstop { Ok(()) } else { Err(Reason::FokUnfilled) }
    }

    fn fill(&mut self, taker: &mut Order<P>, now_ms: i64, on_match: &mut impl FnMut(Match<'_, P>)) -> Option<Stop> {
        while taker.leaves > 0 {
            let Some(slot) = self.next_maker(taker.side, now_ms) else { return Some(Stop::NoOne) };
            let maker = self.at_mut(slot);
            let price_e4 = maker.limit_e4;
            if !taker.accepts(price_e4) {
                return Some(Stop::TooFar);
            }
            if maker.party.same(&taker.party) {
                return Some(Stop::Oneself);
            }
            let quantity = taker.leaves.min(maker.leaves);
            (taker.leaves, taker.cum) = (taker.leaves - quantity, taker.cum + quantity);
            (maker.leaves, maker.cum) = (maker.leaves - quantity, maker.cum + quantity);
            if maker.leaves > 0 {
                on_match(Match { taker, maker, price_e4, quantity });
            } else if let Some(maker) = self.remove(slot) {
                on_match(Match { taker, maker: &maker, price_e4, quantity });
            }
        }
        None
    }

    /// Whether the best live bid is below the best live ask (I6), and the lists hold together.
    pub fn check(&self, now_ms: i64) -> Result<(), &'static str> {
        let best = |side| self.next_maker(side, now_ms).map(|slot| self.at(slot));
        if let (Some(ask), Some(bid)) = (best(Side::Buy), best(Side::Sell))
            && bid.limit_e4 >= ask.limit_e4
        {
            return Err("the book is crossed");
        }
        for slot in (0..5).filter(|l| *l != super::DEADLINES).flat_map(|l| self.walk(l)) {
            let links = self.nodes[slot as usize].links[PLACE];
            if links.next != NIL && self.at(links.next).seq <= self.at(slot).seq {
                return Err("a queue is out of order");
            }
            if self.at(slot).leaves <= 0 {
                return Err("an order without anything left is in the book");
            }
        }
        Ok(())
    }
}
