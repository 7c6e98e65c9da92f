//! Users that an operator has switched off. Their orders end: each order before it would trade, and
//! all orders over time.

use domain::book::{Match, Order, Watch};
use domain::control::{Control, EVERYBODY};
use domain::reason::Reason;
use domain::status::Side;
use engine::context::Ctx;
use indexmap::IndexMap;
use rustc_hash::FxBuildHasher;
use wire::book::OrderOutcome;
use wire::topics;

use super::book_session::BookSession;
use super::execution_writer::{ExecutionWriter, OrderKey};
use crate::decoded_table::{self, DecodedTable};

/// Switched-off users.
pub(super) struct Gate {
    /// `None` under old rules, which end no orders.
    rows: Option<DecodedTable<Control>>,
}

impl Gate {
    pub(super) fn new(ends: bool) -> Gate {
        Gate {
            rows: ends.then(decoded_table::ends),
        }
    }

    /// Reason why a user may not trade. Without a kill switch no row exists, so nothing is
    /// journaled, and a replay finds none.
    pub(super) fn closed(&mut self, ctx: &mut Ctx<'_>, user: &str) -> Option<Reason> {
        let rows = self.rows.as_mut()?;
        if ctx.is_empty(topics::CONTROLS) {
            return None;
        }

        rows.get(ctx, user)
            .max(rows.get(ctx, EVERYBODY))
            .map(Control::reason)
    }
}

/// Observer of the matching core that writes executions to the owners.
pub(super) struct Ears<'e, 'o, 'c> {
    pub out: &'e mut ExecutionWriter<'o, 'c>,
    pub slots: &'e mut IndexMap<Box<[u8]>, u32, FxBuildHasher>,
    pub gate: &'e mut Gate,
    /// Prices of the first and last trade of the incoming order.
    pub first: Option<i64>,
    pub last: Option<i64>,
}

impl Watch<OrderKey> for &mut Ears<'_, '_, '_> {
    fn may_trade(&mut self, order: &Order<OrderKey>) -> bool {
        self.gate
            .closed(self.out.ctx, order.party.user_id())
            .is_none()
    }

    fn ended(&mut self, order: Order<OrderKey>) {
        self.slots.swap_remove(&order.party.key);
        self.out.delete(&order.party);
        let reason = self
            .gate
            .closed(self.out.ctx, order.party.user_id())
            .unwrap_or(Reason::KillSwitch);
        self.out
            .tell(&order.party, None, OrderOutcome::Done(reason));
    }

    fn matched(&mut self, m: Match<'_, OrderKey>) {
        self.out.matched(&m);
        if let Some(maker) = m.maker.filter(|maker| maker.leaves == 0) {
            self.slots.swap_remove(&maker.party.key);
        }

        self.last = Some(m.price_e4);
        self.first = self.first.or(self.last);
    }

    fn crossed(&mut self, order: &Order<OrderKey>, quantity: i64) {
        self.out.with_house(order, order.limit_e4, quantity, true);
        self.out.save_rest(order);
        if order.leaves == 0 {
            self.slots.swap_remove(&order.party.key);
        }
    }
}

impl BookSession<'_, '_> {
    /// Ends the order of a switched-off user, before any command to the order.
    pub(super) fn end_if_off(&mut self, owner: &OrderKey) {
        let Some(slot) = self.find(owner) else { return };
        if let Some(reason) = self.gate.closed(self.out.ctx, owner.user_id()) {
            self.take(slot);
            self.out.tell(owner, None, OrderOutcome::Done(reason));
        }
    }

    /// Ends up to `max` orders of switched-off users: each side by price and place, then waiting
    /// stops. Returns the number of ended orders, and true if more remain. While an order is still
    /// matching, the book must not change, so the function only looks.
    pub(super) fn end_switched_off(&mut self, max: usize) -> (usize, bool) {
        if self.out.ctx.is_empty(topics::CONTROLS) {
            return (0, false);
        }

        let max = if self.stand.is_busy() { 0 } else { max };
        let book = &self.stand.book;
        let gate = &mut *self.gate;
        let ctx = &mut *self.out.ctx;
        let sides = [Side::Buy, Side::Sell];
        let all = sides
            .into_iter()
            .flat_map(|side| book.side(side))
            .chain(sides.into_iter().flat_map(|side| book.stops(side)));
        let mut off =
            all.filter_map(|o| Some((o.party.clone(), gate.closed(ctx, o.party.user_id())?)));
        let ended: Vec<(OrderKey, Reason)> = off.by_ref().take(max).collect();
        let more = off.next().is_some();
        drop(off);
        for (owner, reason) in &ended {
            if let Some(slot) = self.stand.slots.get(&owner.key).copied() {
                self.take(slot);
                self.out.tell(owner, None, OrderOutcome::Done(*reason));
            }
        }

        (ended.len(), more)
    }
}
