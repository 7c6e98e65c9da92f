//! The way of an order that comes: checked, matched, and what is left of it put where it belongs.

use super::super::reason::Reason;
use super::super::status::Side;
use super::{
    ASKS, BIDS, Book, HouseQuote, Life, Match, NIL, Order, PLACE, Party, Quote, Stage, StepBudget,
    SubmitOutcome, Watch,
};

/// The effect of a replacement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplaceKind {
    /// The order keeps its place.
    InPlace,
    /// The order leaves its place and comes anew.
    Anew,
    /// There is nothing left to trade: it is filled.
    Fills,
}

/// Why matching ended before the order was filled.
enum MatchStop {
    /// Nobody, or nobody at a price that suits.
    NoOne,
    /// Somebody, at a price that does not.
    TooFar,
    /// The next one is the same owner.
    Oneself,
    /// There is no more room in this step.
    Room,
}

/// The finding of a look through the book for an order that trades whole or not at all.
enum Looked {
    /// All of it can trade.
    Whole,
    /// The order cannot trade, and why.
    Short(Reason),
    /// There is no more room in this step; so many orders were passed, and so much is still to be
    /// found.
    Room(u64, i64),
}

/// Whether an order of that limit reaches a price on the other side.
pub(super) fn reaches(side: Side, limit_e4: i64, price_e4: i64) -> bool {
    if side == Side::Buy {
        price_e4 <= limit_e4
    } else {
        price_e4 >= limit_e4
    }
}

/// Whether the house comes before a user with that price, for an order of this side. At the same
/// price, the user comes first.
fn is_before(side: Side, quote: &Quote, price_e4: i64) -> bool {
    if side == Side::Buy {
        quote.price_e4 < price_e4
    } else {
        quote.price_e4 > price_e4
    }
}

impl<P: Party> Book<P> {
    /// Puts an order to the book. Every trade is told to `watch` as it happens. `house`: what it
    /// offers this order; what it gave is taken off. An order that needs more than `room` pauses,
    /// and [`Book::go_on`] goes on with it: until then nobody may touch the book, and then all is
    /// as if it had been one step.
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

    /// Goes on with an order that paused; with the same time as when it came, and with what the
    /// house still offers it.
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
            // A bid above what the seller's account can take: resting below it would leave the book
            // crossed.
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

    /// Whether an order of that limit would meet somebody, whatever its owner's account can take.
    fn would_cross(&self, side: Side, limit_e4: i64, now_ms: i64, house: &HouseQuote) -> bool {
        let user = self
            .next_maker(side, now_ms)
            .map(|slot| self.at(slot).limit_e4);
        [user, house.quote().map(|q| q.price_e4)]
            .into_iter()
            .flatten()
            .any(|price_e4| reaches(side, limit_e4, price_e4))
    }

    /// Takes those who come first on the other side and may not trade out of the book, as far as
    /// there is room.
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

    /// The effect of a replacement by these terms to a live order; an error changes nothing.
    /// `house`: what it offers the order.
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

    /// Makes an order smaller where it stands.
    pub fn shrink(&mut self, slot: u32, quantity: i64) {
        let order = self.at_mut(slot);
        order.leaves = quantity - order.cum;
    }

    /// The first order on the other side that is alive.
    fn next_maker(&self, side: Side, now_ms: i64) -> Option<u32> {
        self.first_live(if side == Side::Buy { ASKS } else { BIDS }, now_ms)
    }

    /// Whether an all-or-nothing order would be filled: looked at before anything is done. `from`:
    /// how many live and dead orders behind the first live one were passed before, and what was
    /// left to be found then.
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

        // The quantity that the house gives an order which its price suits, before the turn of a
        // user at this price.
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
            if let HouseQuote::At(quote) = house
                && quote.left > 0
                && slot.is_none_or(|slot| is_before(taker.side, quote, self.at(slot).limit_e4))
            {
                let price_e4 = quote.price_e4;
                if !taker.accepts(price_e4) {
                    return Some(MatchStop::TooFar);
                }

                if room.fills == 0 {
                    return Some(MatchStop::Room);
                }

                room.fills -= 1;
                let quantity = taker.leaves.min(quote.left);
                (taker.leaves, taker.cum, quote.left) = (
                    taker.leaves - quantity,
                    taker.cum + quantity,
                    quote.left - quantity,
                );
                watch.matched(Match {
                    taker,
                    maker: None,
                    price_e4,
                    quantity,
                });

                continue;
            }

            let Some(slot) = slot else {
                return Some(MatchStop::NoOne);
            };

            let maker = self.at_mut(slot);
            let price_e4 = maker.limit_e4;
            if !taker.accepts(price_e4) {
                return Some(MatchStop::TooFar);
            }

            if room.fills > 0 && !watch.may_trade(maker) {
                room.fills -= 1;
                self.remove(slot).into_iter().for_each(|o| watch.ended(o));
                continue;
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
        }

        None
    }

    /// Whether the best live bid is below the best live ask (I6), and the lists hold together.
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
