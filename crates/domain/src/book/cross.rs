//! Trades between resting orders and a new quote of the house.

use super::super::status::Side;
use super::matching::reaches;
use super::{ASKS, BIDS, Book, Party, Quote, StepBudget, Watch};

impl<P: Party> Book<P> {
    /// Matches the house's new quote against resting orders of one side, best price first. Each
    /// trade is at the limit of the resting order, because the order was there first. Each order
    /// gets at most `quote.left`. An order with quantity left keeps its place and is skipped for
    /// this quote; `passed` counts such orders for the next step. Returns false if the budget ran
    /// out: the caller must not change the book before that step.
    pub fn cross(
        &mut self,
        side: Side,
        quote: &Quote,
        passed: &mut u64,
        now_ms: i64,
        room: &mut StepBudget,
        watch: &mut impl Watch<P>,
    ) -> bool {
        let ladder = if side == Side::Buy { BIDS } else { ASKS };
        let mut next = self.first_live(ladder, now_ms);
        let mut skip = *passed;
        while let Some(slot) = next {
            let order = self.at(slot);
            if !reaches(side, order.limit_e4, quote.price_e4) {
                break;
            }

            let lives = self.lives(order, now_ms);
            let after = self.after(ladder, slot);
            if !lives || skip > 0 {
                skip -= u64::from(lives);
                next = after;
                continue;
            }

            if room.fills == 0 {
                return false;
            }

            next = after;
            room.fills -= 1;
            if !watch.may_trade(self.at(slot)) {
                self.remove(slot).into_iter().for_each(|o| watch.ended(o));
                continue;
            }

            let order = self.at_mut(slot);
            let quantity = order.leaves.min(quote.left);
            (order.leaves, order.cum) = (order.leaves - quantity, order.cum + quantity);
            if order.leaves > 0 {
                *passed += 1;
                watch.crossed(order, quantity);
            } else if let Some(order) = self.remove(slot) {
                watch.crossed(&order, quantity);
            }
        }

        true
    }
}
