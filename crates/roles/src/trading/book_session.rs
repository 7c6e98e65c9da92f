//! One symbol's book during one record. Each step changes the book in memory and its rows in state,
//! and writes executions to the owners.

use std::ops::Range;

use domain::book::{self, Book, Life, Order, ReplaceKind, Stage, SubmitOutcome};
use domain::house;
use domain::instrument::Instrument;
use domain::price::{FreshnessLimits, Priced, is_beyond, is_fresh};
use domain::reason::Reason;
use domain::status::Side;
use engine::context::Ctx;
use engine::role::InvariantViolation;
use faults::crash::{self, Point};
use indexmap::IndexMap;
use rustc_hash::FxBuildHasher;
use wire::book::{BookAction, BookCommand, NewOrder, OrderOutcome, Trigger};

use super::execution_writer::{ExecutionWriter, OrderKey};
use super::gate::{Ears, Gate};
use super::state::{
    self, ArrivalMoment, BookHead, Crossing, Dealer, Rest, Taker, TradingBuffers, WaitingAct,
};
use crate::ingress::violation;
use crate::settings::{HOUSE_IN_BOOK, LAST_PROCESSED, OWED_TO_WHAT_RESTS, STOPS_BY_TRIGGER};

/// Maximum of stops that trigger together, for one tick or command, before and after it. The rest
/// trigger in later transactions.
const FIRE_MAX: usize = 64;
/// Maximum of steps per record: triggered stops, and commands and prices that leave the waiting
/// line.
const STEPS_MAX: usize = 1_000;
/// Orders that an all-or-nothing order may examine per record, for each trade in the budget. An
/// examination costs less than a trade.
const LOOKS: usize = 20;

/// A symbol's book in memory: a copy of the state, loaded at the first access to the symbol.
pub(super) struct SymbolBook {
    pub book: Book<OrderKey>,
    pub slots: IndexMap<Box<[u8]>, u32, FxBuildHasher>,
    /// Last trade between users that stops have compared their prices with.
    pub trade: Option<Priced>,
    /// The house owes resting orders a quote.
    pub owed: bool,
    /// Order whose matching continues in later records, because it used up the record's budget.
    rest: Option<Rest<OrderKey>>,
    /// Numbers of the acts that wait behind `rest`, in state.
    line: Range<u64>,
    saved: BookHead,
}

impl SymbolBook {
    /// Rebuilds the book from state, queues included.
    pub(super) fn load(
        ctx: &mut Ctx<'_>,
        b: &mut TradingBuffers,
        symbol: &str,
    ) -> Result<SymbolBook, InvariantViolation> {
        let saved = state::load_head(ctx, b, symbol)?;
        let rest = state::load_rest(ctx, b, symbol, OrderKey::read)?;
        let line = state::load_line(ctx, b, symbol);
        let mut stand = SymbolBook {
            book: Book::new(saved.head),
            slots: IndexMap::default(),
            trade: saved.trade,
            owed: saved.owed,
            rest,
            line,
            saved,
        };

        for order in state::load_orders(ctx, b, symbol, OrderKey::read)? {
            let key = order.party.key.clone();
            let slot = stand.book.restore(order);
            stand.slots.insert(key, slot);
        }

        Ok(stand)
    }

    /// True if an order is still matching or an act is waiting. New commands and prices then join
    /// the line.
    pub(super) fn is_busy(&self) -> bool {
        self.rest.is_some() || !self.line.is_empty()
    }

    pub(super) fn save(&mut self, ctx: &mut Ctx<'_>, b: &mut TradingBuffers, symbol: &str) {
        let now = BookHead {
            head: self.book.head(),
            trade: self.trade,
            owed: self.owed,
        };

        if now != self.saved {
            state::save_head(ctx, b, symbol, &now);
            self.saved = now;
        }
    }
}

/// Budget for the consequences of one record, over all books.
#[derive(Clone, Copy)]
pub(super) struct RecordBudget {
    pub book: book::StepBudget,
    pub steps: usize,
}

impl RecordBudget {
    /// Budget for `fills` trades; 0 means no bound.
    pub(super) fn new(fills: u64) -> RecordBudget {
        match usize::try_from(fills).unwrap_or(usize::MAX) {
            0 => RecordBudget {
                book: book::StepBudget::UNBOUNDED,
                steps: usize::MAX,
            },
            fills => RecordBudget {
                book: book::StepBudget {
                    fills,
                    looks: fills.saturating_mul(LOOKS),
                },
                steps: STEPS_MAX,
            },
        }
    }
}

/// A book with the facts that its decisions depend on.
pub(super) struct BookSession<'o, 'c> {
    pub stand: &'o mut SymbolBook,
    pub out: ExecutionWriter<'o, 'c>,
    pub instrument: Option<Instrument>,
    /// Last accepted tick.
    pub tick: Option<Priced>,
    pub now_ms: i64,
    pub stale: FreshnessLimits,
    /// Version of the desk's rules.
    pub rules: u64,
    /// Switched-off users, if the rules end their orders.
    pub gate: &'o mut Gate,
    pub room: &'o mut RecordBudget,
}

impl BookSession<'_, '_> {
    pub(super) fn is_open(&self) -> bool {
        self.instrument.is_some_and(|i| i.is_open())
    }

    /// Reason why new orders may not enter now.
    fn closed(&self) -> Option<Reason> {
        match self.instrument.filter(Instrument::is_listed) {
            None => Some(Reason::UnknownSymbol),
            Some(i) => (!i.is_open()).then_some(Reason::SymbolHalted),
        }
    }

    /// Last check of an order: the symbol must be open and, for a market order, the price fresh.
    fn may_enter(&self, n: &NewOrder) -> Result<(), Reason> {
        if let Some(reason) = self.closed() {
            return Err(reason);
        }

        if n.market && n.stop_e4.is_none() {
            let last = self.tick.ok_or(Reason::NoReferencePrice)?;
            if !is_fresh(last.time_ms, self.now_ms, self.stale) {
                return Err(Reason::StalePrice);
            }
        }

        match n.stop_e4 {
            Some(stop)
                if self
                    .stand
                    .book
                    .would_fire(n.side, stop, self.market_price()) =>
            {
                Err(Reason::StopWouldTrigger)
            }
            _ => Ok(()),
        }
    }

    pub(super) fn enter(&mut self, user_id: &str, order_id: &str, n: &NewOrder) {
        let party = OrderKey::new(user_id, order_id);

        // The order may arrive before the tick that admitted it, because topics share no clock. So
        // the order carries the reference price of its check.
        let reference = n
            .reference
            .filter(|p| !is_beyond(p.time_ms, self.now_ms, self.stale));

        // Log time may fall, so a reference price ahead of the order may be older than the fall. A
        // fresh tick then wins over the reference price.
        let ahead =
            self.stale.ahead_ms != i64::MAX && reference.is_some_and(|p| p.time_ms > self.now_ms);
        let own = ahead || self.rules >= LAST_PROCESSED;
        if !(own
            && self
                .tick
                .is_some_and(|t| is_fresh(t.time_ms, self.now_ms, self.stale)))
        {
            self.tick = [reference, self.tick]
                .into_iter()
                .flatten()
                .max_by_key(|p| p.time_ms);
        }

        // Tell an owner who was switched off while the order was on its way.
        let off = self.gate.closed(self.out.ctx, party.user_id());
        if let Err(reason) = off.map_or(Ok(()), Err).and_then(|()| self.may_enter(n)) {
            self.out.tell(&party, None, OrderOutcome::Rejected(reason));
            return;
        }

        let order = Order {
            party,
            seq: 0,
            side: n.side,
            market: n.market,
            limit_e4: n.limit_e4,
            ceiling_e4: n.ceiling_e4,
            stop_e4: n.stop_e4,
            leaves: n.quantity,
            cum: 0,
            deadline_ms: n.deadline_ms,
            life: n.life,
            post_only: n.post_only,
        };

        self.match_new(order);
    }

    /// Matches an order whose owner has had no execution for the order yet.
    fn match_new(&mut self, order: Order<OrderKey>) {
        let taker = self.taker(&order, true);
        self.meet(order, None, taker);
    }

    /// Matches an order that has left the book for new terms, or that was a stop.
    fn match_again(&mut self, order: Order<OrderKey>) {
        let taker = self.taker(&order, false);
        self.meet(order, None, taker);
    }

    fn taker(&mut self, order: &Order<OrderKey>, new: bool) -> Taker {
        Taker {
            new,
            dealer: self.dealer(order),
            first: None,
            last: None,
        }
    }

    /// Matches an order, and handles the outcome. `stage` is the progress of an order that
    /// continues from an earlier record.
    fn meet(&mut self, order: Order<OrderKey>, stage: Option<Stage>, mut taker: Taker) {
        // Check a continuing order again, since an operator may have stopped its owner meanwhile.
        if let Some(reason) =
            stage.and_then(|_| self.gate.closed(self.out.ctx, order.party.user_id()))
        {
            self.out
                .tell(&order.party, None, OrderOutcome::Done(reason));
            return;
        }

        let mut ears = Ears {
            out: &mut self.out,
            slots: &mut self.stand.slots,
            gate: self.gate,
            first: taker.first,
            last: taker.last,
        };

        let book = &mut self.stand.book;
        let room = &mut self.room.book;
        let mut house = taker.dealer.house();
        let outcome = match stage {
            None => book.submit(order, self.now_ms, &mut house, room, &mut ears),
            Some(stage) => book.go_on(order, stage, self.now_ms, &mut house, room, &mut ears),
        };

        (taker.first, taker.last) = (ears.first, ears.last);
        if let SubmitOutcome::Pauses(order, stage) = outcome {
            taker.dealer = taker.dealer.after(house);
            self.pause(order, stage, taker);
            return;
        }

        // The trades of one order move in one direction. Their first and last price therefore reach
        // every stop that any price between reaches.
        if let (Some(from), Some(price_e4), Dealer::Outside(_)) =
            (taker.first, taker.last, taker.dealer)
        {
            self.stand.trade = Some(Priced {
                price_e4,
                time_ms: self.now_ms,
            });

            self.stand.book.price(from);
            self.stand.book.price(price_e4);
        }

        self.finish(outcome, &taker);
    }

    /// Saves an order that used up the record's budget. A later record continues.
    fn pause(&mut self, order: Order<OrderKey>, stage: Stage, taker: Taker) {
        let moment = ArrivalMoment {
            time_ms: self.now_ms,
            tick: self.tick,
        };

        let rest = self.stand.rest.insert(Rest {
            order,
            stage,
            taker,
            moment,
        });

        state::save_rest(
            self.out.ctx,
            self.out.buffers,
            self.out.symbol,
            &rest.order.party.key,
            rest,
        );

        crash::point(Point::MatchPart);
    }

    /// Handles the outcome of an order that does not pause.
    #[inline]
    fn finish(&mut self, outcome: SubmitOutcome<OrderKey>, taker: &Taker) {
        match outcome {
            SubmitOutcome::Filled(_) | SubmitOutcome::Pauses(..) => {}
            SubmitOutcome::Rests(slot) => self.rests(slot, taker),
            SubmitOutcome::Cancelled(o, reason) => {
                self.out.tell(&o.party, None, OrderOutcome::Done(reason));
            }
            SubmitOutcome::Rejected(o, reason) => {
                let outcome = if taker.new {
                    OrderOutcome::Rejected(reason)
                } else {
                    OrderOutcome::Done(reason)
                };

                self.out.tell(&o.party, None, outcome);
            }
            SubmitOutcome::Unfilled(o, reason) => match taker.dealer {
                Dealer::Outside(Ok(price_e4)) => self.out.with_house(&o, price_e4, o.leaves, false),
                Dealer::Outside(Err(Reason::NoLiquidity)) | Dealer::InBook(_) => {
                    self.out.tell(&o.party, None, OrderOutcome::Done(reason));
                }
                Dealer::Outside(Err(band)) => {
                    self.out.tell(&o.party, None, OrderOutcome::Done(band));
                }
            },
        }
    }

    /// Saves an order that rests in the book now.
    fn rests(&mut self, slot: u32, taker: &Taker) {
        let Some(order) = self.stand.book.get(slot) else {
            return;
        };

        self.stand.slots.insert(order.party.key.clone(), slot);
        self.out.save(order);
        if taker.new && taker.last.is_none() {
            self.out.tell(&order.party, None, OrderOutcome::Accepted);
        }

        let sides = [Side::Buy, Side::Sell]
            .into_iter()
            .flat_map(|side| self.stand.book.side(side));
        if order.stop_e4.is_none() && self.rules >= OWED_TO_WHAT_RESTS && sides.take(2).count() == 1
        {
            // The owed quote was for orders that are gone.
            self.stand.owed = false;
        }

        // The order rested without a house in the book, so the next quote may reach the order.
        self.stand.owed |= order.stop_e4.is_none()
            && matches!(taker.dealer, Dealer::Outside(_))
            && self.rules >= HOUSE_IN_BOOK;
    }

    /// Slot of a live order in the book. A dead order is removed at once.
    pub(super) fn find(&mut self, owner: &OrderKey) -> Option<u32> {
        let slot = self.stand.slots.get(&owner.key).copied()?;
        if self.stand.book.is_live(slot, self.now_ms) {
            return Some(slot);
        }

        self.expire(slot);
        None
    }

    pub(super) fn cancel(&mut self, user_id: &str, order_id: &str, cause_id: &str, reason: Reason) {
        let owner = OrderKey::new(user_id, order_id);
        match self.find(&owner).and_then(|slot| self.take(slot)) {
            Some(o) => self
                .out
                .tell(&o.party, Some(cause_id), OrderOutcome::Done(reason)),
            None => self.out.tell(
                &owner,
                Some(cause_id),
                OrderOutcome::CancelRefused(Reason::TooLateToCancel),
            ),
        }
    }

    pub(super) fn replace(
        &mut self,
        user_id: &str,
        order_id: &str,
        cause_id: &str,
        quantity: i64,
        limit_e4: i64,
        ceiling_e4: i64,
    ) {
        let owner = OrderKey::new(user_id, order_id);
        let cause = Some(cause_id);
        let replaced = OrderOutcome::Replaced { quantity, limit_e4 };
        self.end_if_off(&owner);
        let found = self.find(&owner).ok_or(Reason::TooLateToCancel);
        let checked = match (found, self.closed()) {
            (Err(reason), _) | (Ok(_), Some(reason)) => Err(reason),
            (Ok(slot), None) => self
                .check_replace(slot, quantity, limit_e4)
                .map(|change| (slot, change)),
        };

        match checked {
            Err(reason) => self
                .out
                .tell(&owner, cause, OrderOutcome::ReplaceRefused(reason)),
            Ok((slot, ReplaceKind::InPlace)) => {
                self.stand.book.shrink(slot, quantity);
                self.stand
                    .book
                    .get(slot)
                    .into_iter()
                    .for_each(|o| self.out.save(o));
                self.out.tell(&owner, cause, replaced);
            }
            Ok((slot, ReplaceKind::Fills)) => {
                self.take(slot);
                self.out.tell(&owner, cause, replaced);
            }
            Ok((slot, ReplaceKind::Anew)) => {
                self.out.tell(&owner, cause, replaced);
                if let Some(o) = self.take(slot) {
                    let ceiling_e4 = if o.side == Side::Sell {
                        ceiling_e4
                    } else {
                        o.ceiling_e4
                    };

                    self.match_again(Order {
                        leaves: quantity - o.cum,
                        limit_e4,
                        ceiling_e4,
                        ..o
                    });
                }
            }
        }
    }

    fn check_replace(
        &mut self,
        slot: u32,
        quantity: i64,
        limit_e4: i64,
    ) -> Result<ReplaceKind, Reason> {
        let (house, side) = match self.stand.book.get(slot) {
            Some(o) => (self.dealer(o).house(), o.side),
            None => return Err(Reason::TooLateToCancel),
        };

        let mut ears = Ears {
            out: &mut self.out,
            slots: &mut self.stand.slots,
            gate: self.gate,
            first: None,
            last: None,
        };

        self.stand
            .book
            .clear_way(side, self.now_ms, &mut self.room.book, &mut &mut ears);
        self.stand
            .book
            .check_replace(slot, quantity, limit_e4, self.now_ms, &house)
    }

    /// Removes an order from book, index and state.
    pub(super) fn take(&mut self, slot: u32) -> Option<Order<OrderKey>> {
        let order = self.stand.book.remove(slot)?;
        self.stand.slots.swap_remove(&order.party.key);
        self.out.delete(&order.party);
        Some(order)
    }

    /// Removes a dead order, and writes the reason of its end: expired or delisted.
    fn expire(&mut self, slot: u32) {
        if let Some(o) = self.take(slot) {
            let outcome = if o.deadline_ms <= self.now_ms {
                OrderOutcome::Expired
            } else {
                OrderOutcome::Done(Reason::Delisted)
            };

            self.out.tell(&o.party, None, outcome);
        }
    }

    /// Removes up to `max` dead orders; returns their number.
    pub(super) fn expire_dead(&mut self, max: usize, slots: &mut Vec<u32>) -> usize {
        self.stand.book.dead(self.now_ms, max, slots);
        slots.iter().for_each(|slot| self.expire(*slot));
        slots.len()
    }

    /// Arms the stops that a market price reaches, unless the symbol is closed.
    pub(super) fn arm(&mut self, price_e4: Option<i64>) {
        if self.is_open()
            && let Some(price) = price_e4
        {
            self.stand.book.price(price);
        }
    }

    /// Triggers up to `max` armed stops within the budget; returns their number.
    pub(super) fn fire(&mut self, max: usize) -> usize {
        let mut fired = 0;
        while fired < max.min(self.room.steps)
            && self.room.book.fills > 0
            && self.stand.rest.is_none()
            && self.is_open()
            && let Some((order, price_e4)) = self.stand.book.pop_triggered_stop(self.now_ms)
        {
            fired += 1;
            self.stand.slots.swap_remove(&order.party.key);
            self.out.delete(&order.party);
            if let Some(reason) = self.gate.closed(self.out.ctx, order.party.user_id()) {
                self.out
                    .tell(&order.party, None, OrderOutcome::Done(reason));
                continue;
            }

            let (order, told) = if self.rules >= STOPS_BY_TRIGGER {
                self.set_off(order, price_e4)
            } else {
                (order, None)
            };

            self.out
                .tell(&order.party, None, OrderOutcome::Triggered(told));
            self.match_again(order);
        }

        self.room.steps -= fired;
        fired
    }

    /// Sets the terms of a stop at its trigger price. A stop without a limit gets the collar around
    /// the trigger price as its limit. A buy holds cash up to the collar around its stop price. If
    /// the market has gone further, the buy rests at that limit, and is not cancelled.
    fn set_off(
        &self,
        mut order: Order<OrderKey>,
        price_e4: i64,
    ) -> (Order<OrderKey>, Option<Trigger>) {
        if let Some(i) = self.instrument.filter(|_| order.market) {
            // `None` means no bound, so take the highest price.
            let worst = house::worst_price(order.side, price_e4, i.collar_bps).unwrap_or(i64::MAX);
            if order.side == Side::Buy && worst > order.limit_e4 {
                order.market = false;
                order.life = if order.life == Life::Fok {
                    Life::Fok
                } else {
                    Life::Rest
                };
            } else {
                order.limit_e4 = worst;
            }
        }

        let limit_e4 = order.limit_e4;
        (order, Some(Trigger { price_e4, limit_e4 }))
    }

    /// Marks all orders of an unlisted symbol as dead.
    pub(super) fn mark_for_removal(&mut self) {
        if !self.stand.book.is_empty()
            && !self.instrument.is_some_and(|i| i.is_listed())
            && !self.stand.book.is_doomed()
        {
            self.stand.book.mark_for_removal();
        }
    }

    /// Executes an act for the symbol, or appends the act to the waiting line and continues the
    /// line.
    pub(super) fn take_in(&mut self, act: WaitingAct<'_>) -> Result<(), InvariantViolation> {
        let moment = ArrivalMoment {
            time_ms: self.now_ms,
            tick: self.tick,
        };

        let left = if self.stand.is_busy() {
            Some(act)
        } else {
            self.act(act)?
        };

        if let Some(act) = left {
            state::save_act(
                self.out.ctx,
                self.out.buffers,
                self.out.symbol,
                self.stand.line.end,
                moment,
                act,
            );

            self.stand.line.end += 1;
            self.go_on()?;
        }

        Ok(())
    }

    /// Executes an act. Returns the unfinished part, or the whole act if earlier work must finish
    /// first.
    fn act<'a>(
        &mut self,
        act: WaitingAct<'a>,
    ) -> Result<Option<WaitingAct<'a>>, InvariantViolation> {
        self.mark_for_removal();
        match act {
            WaitingAct::Price(price_e4) => {
                if self.rules >= LAST_PROCESSED {
                    self.stand.trade = None;
                }

                match self.quote_anew(price_e4) {
                    Some(crossing) => return self.act(WaitingAct::Crossing(crossing)),
                    None => return Ok(self.reached(price_e4)),
                }
            }
            WaitingAct::Crossing(mut crossing) => {
                let crossed = self.cross(&mut crossing);
                return Ok(if crossed {
                    self.reached(crossing.price_e4)
                } else {
                    Some(WaitingAct::Crossing(crossing))
                });
            }
            WaitingAct::Command(value) => {
                let c =
                    BookCommand::decode(value).map_err(|fault| violation(self.out.ctx, fault))?;

                // Trigger stops that are already armed before this command: at most `FIRE_MAX` at
                // once, and within the record's budget.
                self.fire(FIRE_MAX);
                let cut_short =
                    self.room.book.fills == 0 && self.stand.book.has_fired() && self.is_open();
                if self.stand.rest.is_some() || cut_short {
                    return Ok(Some(act));
                }

                match c.ask {
                    BookAction::New(order) => self.enter(c.user_id, c.order_id, &order),
                    BookAction::Cancel { cause_id, reason } => {
                        self.cancel(c.user_id, c.order_id, cause_id, reason)
                    }
                    BookAction::Replace {
                        cause_id,
                        quantity,
                        limit_e4,
                        ceiling_e4,
                    } => {
                        self.replace(
                            c.user_id, c.order_id, cause_id, quantity, limit_e4, ceiling_e4,
                        );
                    }
                }

                self.fire(FIRE_MAX);
            }
        }

        Ok(None)
    }

    /// Triggers stops that a market price reaches. Returns the leftover work, if stops are left:
    /// all of them trigger before the next act, with the house's quote at that price.
    fn reached(&mut self, price_e4: i64) -> Option<WaitingAct<'static>> {
        self.arm(Some(price_e4));
        self.fire(FIRE_MAX);
        let unfired = self.rules >= HOUSE_IN_BOOK && self.stand.book.has_fired() && self.is_open();
        unfired.then_some(WaitingAct::Crossing(Crossing {
            price_e4,
            side: Side::Sell,
            ask: None,
            bid: None,
            passed: 0,
        }))
    }

    /// Continues the unfinished order, then the waiting line, within the budget. Each act is
    /// decided at its arrival moment, so results do not depend on the share that one record
    /// executes.
    pub(super) fn go_on(&mut self) -> Result<(), InvariantViolation> {
        let now = ArrivalMoment {
            time_ms: self.now_ms,
            tick: self.tick,
        };

        let done = self.go_on_in_turn();
        self.at(now);
        done
    }

    fn go_on_in_turn(&mut self) -> Result<(), InvariantViolation> {
        let mut value = Vec::new();
        loop {
            if let Some(Rest {
                order,
                stage,
                taker,
                moment,
            }) = self.stand.rest.take()
            {
                crash::point(Point::MatchGoesOn);
                self.at(moment);
                self.meet(order, Some(stage), taker);
                if self.stand.rest.is_some() {
                    return Ok(());
                }

                state::delete_rest(self.out.ctx, self.out.buffers, self.out.symbol);
                self.fire(FIRE_MAX);
            }

            let number = self.stand.line.start;
            if self.stand.rest.is_some()
                || self.stand.line.is_empty()
                || self.room.steps == 0
                || self.room.book.fills == 0
            {
                return Ok(());
            }

            state::load_act(
                self.out.ctx,
                self.out.buffers,
                self.out.symbol,
                number,
                &mut value,
            );

            let (moment, act) = state::read_waiting(self.out.ctx, self.out.symbol, &value)?;
            self.at(moment);
            match self.act(act)? {
                None => {
                    self.room.steps -= 1.min(self.room.steps);
                    state::delete_act(self.out.ctx, self.out.buffers, self.out.symbol, number);
                    self.stand.line.start += 1;
                    if self.stand.line.is_empty() {
                        // Same value as after a restart.
                        self.stand.line = 0..0;
                    }
                }
                Some(left) if left != act => {
                    state::save_act(
                        self.out.ctx,
                        self.out.buffers,
                        self.out.symbol,
                        number,
                        moment,
                        left,
                    );
                }
                Some(_) => {}
            }
        }
    }

    fn at(&mut self, moment: ArrivalMoment) {
        (self.now_ms, self.out.now_ms, self.tick) = (moment.time_ms, moment.time_ms, moment.tick);
    }

    /// True if leftover work needs another record.
    pub(super) fn has_more(&self) -> bool {
        let book = &self.stand.book;
        self.stand.is_busy()
            || book.is_doomed()
            || book.next_deadline().is_some_and(|d| d <= self.now_ms)
            || (book.has_fired() && self.is_open())
    }
}
