//! Matching of an incoming order: check, trade, and placement of the rest.

use super::super::reason::Reason;
use super::super::status::Side;
use super::{
    ASKS, BIDS, Book, HouseQuote, Life, Match, NIL, Order, PLACE, Party, Quote, Stage, StepBudget,
    SubmitOutcome, Watch,
};

/// Effect of a replace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplaceKind {
    /// The order keeps its place.
    InPlace,
    /// The order loses its place and is matched again.
    Anew,
    /// The new quantity is at or below CumQty, so the order is filled.
    Fills,
}

/// Reason why matching ended before the order was filled.
enum MatchStop {
    /// No counterparty is left.
    NoOne,
    /// The best counterparty has no acceptable price.
    TooFar,
    /// The best counterparty is the same owner.
    Oneself,
    /// The step's budget is used up.
    Room,
}

/// Result of the search for a fill-or-kill order.
enum Looked {
    /// The whole order can trade.
    Whole,
    /// The order cannot trade, with the reason.
    Short(Reason),
    /// The step's budget is used up: number of passed orders, and quantity still to be found.
    Room(u64, i64),
}

/// True if an order with this limit reaches a price on the other side.
pub(super) fn reaches(side: Side, limit_e4: i64, price_e4: i64) -> bool {
    if side == Side::Buy {
        price_e4 <= limit_e4
    } else {
        price_e4 >= limit_e4
    }
}

/// True if the house trades before a user at this price, for an order of this side. At the same
/// price, the user trades first.
fn is_before(side: Side, quote: &Quote, price_e4: i64) -> bool {
    if side == Side::Buy {
        quote.price_e4 < price_e4
    } else {
        quote.price_e4 > price_e4
    }
}

/// The house's quote, if the house trades before the best user, who offers `best_e4`.
#[inline]
fn house_before(house: &mut HouseQuote, side: Side, best_e4: Option<i64>) -> Option<&mut Quote> {
    match house {
        HouseQuote::At(quote)
            if quote.left > 0 && best_e4.is_none_or(|best_e4| is_before(side, quote, best_e4)) =>
        {
            Some(quote)
        }
        _ => None,
    }
}

/// Trades with the house at its quote. Returns the reason to stop.
#[inline]
fn trade_with_house<P: Party>(
    taker: &mut Order<P>,
    quote: &mut Quote,
    room: &mut StepBudget,
    watch: &mut impl Watch<P>,
) -> Option<MatchStop> {
    let price_e4 = quote.price_e4;
    if !taker.accepts(price_e4) {
        return Some(MatchStop::TooFar);
    }

    if room.fills == 0 {
        return Some(MatchStop::Room);
    }

    room.fills -= 1;
    let quantity = taker.leaves.min(quote.left);
    (taker.leaves, taker.cum) = (taker.leaves - quantity, taker.cum + quantity);
    quote.left -= quantity;
    watch.matched(Match {
        taker,
        maker: None,
        price_e4,
        quantity,
    });

    None
}

impl<P: Party> Book<P> {
    /// Matches an incoming order. `watch` receives every trade. `house` is the house's offer for
    /// this order; traded quantity is subtracted. An order that needs more than `room` pauses, and
    /// [`Book::go_on`] continues. Until then the caller must not change the book. The result is the
    /// same as in one step.
    pub fn submit(
        &mut self,
        order: Order<P>,
        now_ms: i64,
        house: &mut HouseQuote,
        room: &mut StepBudget,
        mut watch: impl Watch<P>,
    ) -> SubmitOutcome<P> {
        if order.deadline_ms <= now_ms {
            return SubmitOutcome::Rejected(order, Reason::TooLateToEnter);
        }

        if order.stop_e4.is_some() {
            return SubmitOutcome::Rests(self.place(order));
        }

        if order.post_only {
            self.clear_way(order.side, now_ms, room, &mut watch);
        }

        if order.post_only && self.would_cross(order.side, order.limit_e4, now_ms, house) {
            return SubmitOutcome::Rejected(order, Reason::PostOnlyWouldCross);
        }

        let stage = if order.life == Life::Fok {
            Stage::Looks {
                passed: 0,
                left: order.leaves,
            }
        } else {
            Stage::Trades
        };

        self.go_on(order, stage, now_ms, house, room, watch)
    }

    /// Continues a paused order. The caller passes the time of the order's arrival, and the rest of
    /// the house's offer.
    pub fn go_on(
        &mut self,
        mut order: Order<P>,
        stage: Stage,
        now_ms: i64,
        house: &mut HouseQuote,
        room: &mut StepBudget,
        mut watch: impl Watch<P>,
    ) -> SubmitOutcome<P> {
        if let Stage::Looks { passed, left } = stage {
            match self.look(&order, (passed, left), now_ms, house, room, &mut watch) {
                Looked::Whole => {}
                Looked::Short(reason) => return SubmitOutcome::Cancelled(order, reason),
                Looked::Room(passed, left) => {
                    return SubmitOutcome::Pauses(order, Stage::Looks { passed, left });
                }
            }
        }
        match self.fill(&mut order, now_ms, house, room, &mut watch) {
            None => SubmitOutcome::Filled(order),
            Some(MatchStop::Room) => SubmitOutcome::Pauses(order, Stage::Trades),
            Some(MatchStop::Oneself) => SubmitOutcome::Cancelled(order, Reason::SelfTradePrevented),
            Some(MatchStop::TooFar) if order.market => {
                SubmitOutcome::Unfilled(order, Reason::PriceBand)
            }
            Some(_) if order.market => SubmitOutcome::Unfilled(order, Reason::NoLiquidity),
            // The best bid is above the maximum price of this sell. Resting below that bid would
            // cross the book.
            Some(MatchStop::TooFar)
                if self.would_cross(order.side, order.limit_e4, now_ms, house) =>
            {
                SubmitOutcome::Cancelled(order, Reason::PriceBand)
            }
            Some(_) if order.life != Life::Rest => {
                SubmitOutcome::Cancelled(order, Reason::IocRemainder)
            }
            Some(_) => SubmitOutcome::Rests(self.place(order)),
        }
    }

    /// True if an order with this limit would meet a counterparty, ignoring the maximum price of a
    /// sell.
    fn would_cross(&self, side: Side, limit_e4: i64, now_ms: i64, house: &HouseQuote) -> bool {
        let user = self
            .next_maker(side, now_ms)
            .map(|slot| self.at(slot).limit_e4);
        [user, house.quote().map(|q| q.price_e4)]
            .into_iter()
            .flatten()
            .any(|price_e4| reaches(side, limit_e4, price_e4))
    }

    /// Removes resting orders without the right to trade from the front of the other side, within
    /// the budget.
    pub fn clear_way(
        &mut self,
        side: Side,
        now_ms: i64,
        room: &mut StepBudget,
        watch: &mut impl Watch<P>,
    ) {
        while room.fills > 0
            && let Some(slot) = self.next_maker(side, now_ms)
            && !watch.may_trade(self.at(slot))
        {
            room.fills -= 1;
            self.remove(slot).into_iter().for_each(|o| watch.ended(o));
        }
    }

    /// Effect of a replace on a live order; an error changes nothing. `house` is the house's offer
    /// for the order.
    pub fn check_replace(
        &self,
        slot: u32,
        quantity: i64,
        limit_e4: i64,
        now_ms: i64,
        house: &HouseQuote,
    ) -> Result<ReplaceKind, Reason> {
        let order = self
            .get(slot)
            .filter(|o| self.lives(o, now_ms))
            .ok_or(Reason::TooLateToCancel)?;
        if quantity <= order.cum {
            return Ok(ReplaceKind::Fills);
        }

        if limit_e4 == order.limit_e4 && quantity <= order.quantity() {
            return Ok(ReplaceKind::InPlace);
        }

        if order.post_only && self.would_cross(order.side, limit_e4, now_ms, house) {
            return Err(Reason::PostOnlyWouldCross);
        }

        Ok(ReplaceKind::Anew)
    }

    /// Reduces an order's quantity at its place.
    pub fn shrink(&mut self, slot: u32, quantity: i64) {
        let order = self.at_mut(slot);
        order.leaves = quantity - order.cum;
    }

    /// First live order of the other side.
    fn next_maker(&self, side: Side, now_ms: i64) -> Option<u32> {
        self.first_live(if side == Side::Buy { ASKS } else { BIDS }, now_ms)
    }

    /// Checks that a fill-or-kill order would be filled, before any trade. `from` holds the
    /// progress of earlier steps: the number of passed orders after the first live order (dead
    /// orders included), and the quantity still to be found.
    fn look(
        &self,
        order: &Order<P>,
        from: (u64, i64),
        now_ms: i64,
        house: &HouseQuote,
        room: &mut StepBudget,
        watch: &mut impl Watch<P>,
    ) -> Looked {
        let (mut passed, mut left) = from;

        // Quantity that the house gives this order before a user at this price, if the house's
        // price is acceptable.
        let quote = house.quote().filter(|q| order.accepts(q.price_e4));
        let from_house = |price_e4| {
            quote
                .filter(|q| is_before(order.side, q, price_e4))
                .map_or(0, |q| q.left)
        };

        let ladder = if order.side == Side::Buy { ASKS } else { BIDS };
        let mut next = match self.looked.get() {
            Some((at, slot)) if at == passed && passed > 0 => slot,
            _ => self.behind(ladder, self.first_live(ladder, now_ms), passed),
        };

        while let Some(slot) = next {
            if room.looks == 0 {
                self.looked.set(Some((passed, next)));
                return Looked::Room(passed, left);
            }

            (room.looks, passed) = (room.looks - 1, passed + 1);
            let maker = self.at(slot);
            if self.lives(maker, now_ms) && watch.may_trade(maker) {
                if left <= from_house(maker.limit_e4) {
                    return Looked::Whole;
                }

                if !order.accepts(maker.limit_e4) {
                    break;
                }

                if maker.party.same(&order.party) {
                    return Looked::Short(Reason::SelfTradePrevented);
                }

                left = left.saturating_sub(maker.leaves);
                if left <= from_house(maker.limit_e4) {
                    return Looked::Whole;
                }
            }

            next = self.after(ladder, slot);
        }

        let whole = *house == HouseQuote::Outside || quote.is_some_and(|q| left <= q.left);
        if whole {
            Looked::Whole
        } else {
            Looked::Short(Reason::FokUnfilled)
        }
    }

    fn fill(
        &mut self,
        taker: &mut Order<P>,
        now_ms: i64,
        house: &mut HouseQuote,
        room: &mut StepBudget,
        watch: &mut impl Watch<P>,
    ) -> Option<MatchStop> {
        while taker.leaves > 0 {
            let slot = self.next_maker(taker.side, now_ms);
            let best_e4 = slot.map(|slot| self.at(slot).limit_e4);
            let stop = match (house_before(house, taker.side, best_e4), slot) {
                (Some(quote), _) => trade_with_house(taker, quote, room, watch),
                (None, Some(slot)) => self.trade_with(slot, taker, room, watch),
                (None, None) => Some(MatchStop::NoOne),
            };

            if stop.is_some() {
                return stop;
            }
        }

        None
    }

    /// Trades with the first order of the other side, or ends the order if the order may not trade.
    /// Returns the reason to stop.
    #[inline]
    fn trade_with(
        &mut self,
        slot: u32,
        taker: &mut Order<P>,
        room: &mut StepBudget,
        watch: &mut impl Watch<P>,
    ) -> Option<MatchStop> {
        let maker = self.at_mut(slot);
        let price_e4 = maker.limit_e4;
        if !taker.accepts(price_e4) {
            return Some(MatchStop::TooFar);
        }

        if room.fills > 0 && !watch.may_trade(maker) {
            room.fills -= 1;
            self.remove(slot).into_iter().for_each(|o| watch.ended(o));
            return None;
        }

        if maker.party.same(&taker.party) {
            return Some(MatchStop::Oneself);
        }

        if room.fills == 0 {
            return Some(MatchStop::Room);
        }

        room.fills -= 1;
        let quantity = taker.leaves.min(maker.leaves);
        (taker.leaves, taker.cum) = (taker.leaves - quantity, taker.cum + quantity);
        (maker.leaves, maker.cum) = (maker.leaves - quantity, maker.cum + quantity);
        if maker.leaves > 0 {
            watch.matched(Match {
                taker,
                maker: Some(maker),
                price_e4,
                quantity,
            });
        } else if let Some(maker) = self.remove(slot) {
            watch.matched(Match {
                taker,
                maker: Some(&maker),
                price_e4,
                quantity,
            });
        }

        None
    }

    /// Checks that the best live bid is below the best live ask (I6), and that the lists are
    /// consistent.
    pub fn check(&self, now_ms: i64) -> Result<(), &'static str> {
        for slot in (0..5)
            .filter(|l| *l != super::DEADLINES)
            .flat_map(|l| self.walk(l))
        {
            let links = self.nodes[slot as usize].links[PLACE];
            if links.next != NIL && self.at(links.next).seq <= self.at(slot).seq {
                return Err("a queue is out of order");
            }

            if self.at(slot).leaves <= 0 {
                return Err("an order without anything left is in the book");
            }
        }

        for ladder in (0..5).filter(|l| *l != super::DEADLINES) {
            if self.first_live(ladder, now_ms)
                != self
                    .walk(ladder)
                    .find(|slot| self.lives(self.at(*slot), now_ms))
            {
                return Err("a living order is passed over");
            }
        }

        let best = |side| self.next_maker(side, now_ms).map(|slot| self.at(slot));
        if let (Some(ask), Some(bid)) = (best(Side::Buy), best(Side::Sell))
            && bid.limit_e4 >= ask.limit_e4
        {
            return Err("the book is crossed");
        }

        Ok(())
    }
}
