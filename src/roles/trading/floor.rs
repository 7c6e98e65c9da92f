//! One symbol's book at work: every step changes the book, the state that it is rebuilt from, and tells the owners, all three together.

use std::fmt::Write;
use std::ops::Range;

use indexmap::IndexMap;
use rustc_hash::FxBuildHasher;

use crate::domain::book::{self, Book, Change, Match, Order, Party, Stage, Verdict};
use crate::domain::house;
use crate::domain::instrument::Instrument;
use crate::domain::price::{Priced, Stale, is_beyond, is_fresh};
use crate::domain::reason::Reason;
use crate::domain::status::{Liquidity, Side};
use crate::engine::context::Ctx;
use crate::engine::role::Bug;
use crate::roles::intake::bug;
use crate::wire::book::{Ask, BookCommand, EXECUTION, Execution, NewOrder, Outcome};
use crate::wire::topics;
use crate::wire::trade::{TRADE, Trade};

use super::state::{self, Act, BookHead, Buffers, Moment, Rest, Taker};

/// Stops that fire at once by one tick or command, before and after it; the rest go on in later transactions.
const FIRE_MAX: usize = 64;
/// Stops that fire, and commands and prices whose turn comes, in one record.
const STEPS_MAX: usize = 1_000;
/// Orders that all-or-nothing orders look at in one record, for each trade that it may lead to: a look is that much cheaper.
const LOOKS: usize = 20;

/// Whose an order is: user and order id, as they stand in the order's key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    key: Box<[u8]>,
    user: usize,
}

impl Owner {
    pub(super) fn new(user_id: &str, order_id: &str) -> Owner {
        Owner { key: [user_id.as_bytes(), b"\0", order_id.as_bytes()].concat().into(), user: user_id.len() }
    }

    pub(super) fn read(key: &[u8]) -> Option<Owner> {
        let user = key.iter().position(|b| *b == 0)?;
        std::str::from_utf8(key).ok()?;
        Some(Owner { key: key.into(), user })
    }

    pub(super) fn user_id(&self) -> &str {
        std::str::from_utf8(&self.key[..self.user]).unwrap_or_default()
    }

    pub(super) fn order_id(&self) -> &str {
        std::str::from_utf8(&self.key[self.user + 1..]).unwrap_or_default()
    }
}

impl Party for Owner {
    fn same(&self, other: &Owner) -> bool {
        self.key[..self.user] == other.key[..other.user]
    }
}

/// A symbol's book in memory. It is a copy of what is in state, made when the symbol is first looked at.
pub(super) struct Stand {
    pub book: Book<Owner>,
    pub slots: IndexMap<Box<[u8]>, u32, FxBuildHasher>,
    /// The last trade between users.
    pub trade: Option<Priced>,
    /// The order that is on its way through the book, if it met more than one record may lead to.
    rest: Option<Rest<Owner>>,
    /// Numbers of what waits behind it, in state.
    line: Range<u64>,
    saved: BookHead,
}

impl Stand {
    /// Brings the book back as it was, queues included.
    pub(super) fn load(ctx: &mut Ctx<'_>, b: &mut Buffers, symbol: &str) -> Result<Stand, Bug> {
        let saved = state::load_head(ctx, b, symbol)?;
        let (rest, line) = (state::load_rest(ctx, b, symbol, Owner::read)?, state::load_line(ctx, b, symbol));
        let mut stand = Stand { book: Book::new(saved.head), slots: IndexMap::default(), trade: saved.trade, rest, line, saved };
        for order in state::load_orders(ctx, b, symbol, Owner::read)? {
            let key = order.party.key.clone();
            let slot = stand.book.restore(order);
            stand.slots.insert(key, slot);
        }
        Ok(stand)
    }

    /// Whether an order is on its way, or something waits for its turn: whatever comes now waits behind that.
    pub(super) fn is_busy(&self) -> bool {
        self.rest.is_some() || !self.line.is_empty()
    }

    pub(super) fn save(&mut self, ctx: &mut Ctx<'_>, b: &mut Buffers, symbol: &str) {
        let now = BookHead { head: self.book.head(), trade: self.trade };
        if now != self.saved {
            state::save_head(ctx, b, symbol, &now);
            self.saved = now;
        }
    }
}

/// Tells the owners and the world.
pub(super) struct Out<'o, 'c> {
    pub ctx: &'o mut Ctx<'c>,
    pub buffers: &'o mut Buffers,
    pub symbol: &'o str,
    pub text: &'o mut Texts,
    /// When what is told came to the book.
    pub now_ms: i64,
    /// A trade's number could not be had.
    pub failed: Option<Bug>,
}

/// Room for texts, used again and again.
#[derive(Default)]
pub(super) struct Texts {
    trade_id: String,
    house: String,
}

impl Out<'_, '_> {
    fn tell(&mut self, owner: &Owner, cause_id: Option<&str>, outcome: Outcome<'_>) {
        let (user_id, order_id) = (owner.user_id(), owner.order_id());
        let value = self.buffers.fresh();
        Execution { user_id, order_id, cause_id, outcome }.encode(value);
        self.ctx.emit(topics::EXECUTIONS, user_id.as_bytes(), EXECUTION, value);
    }

    /// A fill of `owner`'s order by the trade in hand.
    fn filled(&mut self, owner: &Owner, price_e4: i64, quantity: i64, liquidity: Liquidity) {
        let id = std::mem::take(&mut self.text.trade_id);
        self.tell(owner, None, Outcome::Fill { trade_id: &id, price_e4, quantity, liquidity });
        self.text.trade_id = id;
    }

    fn number(&mut self) {
        match state::next_trade(self.ctx, self.buffers) {
            Ok(number) => {
                self.text.trade_id.clear();
                write!(self.text.trade_id, "{}-{number}", self.ctx.task()).expect("writing to a string");
            }
            Err(e) => drop(self.failed.get_or_insert(e)),
        }
    }

    fn trade(&mut self, taker: &Order<Owner>, other: (&str, Option<&str>), price_e4: i64, quantity: i64) {
        let user = (taker.party.user_id(), Some(taker.party.order_id()));
        let (buyer, seller, maker_side) = match taker.side {
            Side::Buy => (user, other, Side::Sell),
            Side::Sell => (other, user, Side::Buy),
        };
        let trade = Trade {
            trade_id: &self.text.trade_id,
            symbol: self.symbol,
            price_e4,
            quantity,
            buyer: buyer.0,
            seller: seller.0,
            buy_order_id: buyer.1,
            sell_order_id: seller.1,
            maker_side,
            time_us: self.now_ms.saturating_mul(1_000),
        };
        let value = self.buffers.fresh();
        trade.encode(value);
        self.ctx.emit(topics::TRADES, self.symbol.as_bytes(), TRADE, value);
    }

    fn matched(&mut self, m: &Match<'_, Owner>) {
        self.number();
        self.trade(m.taker, (m.maker.party.user_id(), Some(m.maker.party.order_id())), m.price_e4, m.quantity);
        self.filled(&m.taker.party, m.price_e4, m.quantity, Liquidity::Taker);
        self.filled(&m.maker.party, m.price_e4, m.quantity, Liquidity::Maker);
        if m.maker.leaves == 0 {
            self.forget(&m.maker.party);
        } else {
            self.keep(m.maker);
        }
    }

    fn with_house(&mut self, taker: &Order<Owner>, price_e4: i64) {
        self.number();
        let mut name = std::mem::take(&mut self.text.house);
        name.clear();
        write!(name, "house:{}", self.symbol).expect("writing to a string");
        self.trade(taker, (&name, None), price_e4, taker.leaves);
        self.text.house = name;
        self.filled(&taker.party, price_e4, taker.leaves, Liquidity::House);
    }

    fn keep(&mut self, o: &Order<Owner>) {
        state::save_order(self.ctx, self.buffers, self.symbol, &o.party.key, o);
    }

    fn forget(&mut self, owner: &Owner) {
        state::delete_order(self.ctx, self.buffers, self.symbol, &owner.key);
    }
}

/// What one record may lead to, at whatever books.
#[derive(Clone, Copy)]
pub(super) struct Room {
    book: book::Room,
    steps: usize,
}

impl Room {
    /// For so many trades; 0: for all there are.
    pub(super) fn new(fills: u64) -> Room {
        match usize::try_from(fills).unwrap_or(usize::MAX) {
            0 => Room { book: book::Room::UNBOUNDED, steps: usize::MAX },
            fills => Room { book: book::Room { fills, looks: fills.saturating_mul(LOOKS) }, steps: STEPS_MAX },
        }
    }
}

/// A book with what its decisions rest on.
pub(super) struct Floor<'o, 'c> {
    pub stand: &'o mut Stand,
    pub out: Out<'o, 'c>,
    pub instrument: Option<Instrument>,
    /// The last accepted tick.
    pub tick: Option<Priced>,
    pub now_ms: i64,
    pub stale: Stale,
    pub room: &'o mut Room,
}

impl Floor<'_, '_> {
    /// The price that stops look at: the last tick or the last trade between users, whichever came later.
    pub(super) fn market_price(&self) -> Option<i64> {
        match (self.tick, self.stand.trade) {
            // A trade that a wrong clock stamped would be the last word until that time comes.
            (Some(tick), Some(trade)) if tick.time_ms > trade.time_ms || is_beyond(trade.time_ms, self.now_ms, self.stale) => {
                Some(tick.price_e4)
            }
            (tick, trade) => trade.or(tick).map(|p| p.price_e4),
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.instrument.is_some_and(|i| i.is_open())
    }

    /// Why nothing new may enter now.
    fn closed(&self) -> Option<Reason> {
        match self.instrument.filter(Instrument::is_listed) {
            None => Some(Reason::UnknownSymbol),
            Some(i) => (!i.is_open()).then_some(Reason::SymbolHalted),
        }
    }

    /// What the house asks of a market order now, if it would deal.
    fn house_price(&self, side: Side, limit_e4: i64, ceiling_e4: i64) -> Result<i64, Reason> {
        let i = self.instrument.filter(|i| i.house).ok_or(Reason::NoLiquidity)?;
        let last = self.tick.filter(|t| is_fresh(t.time_ms, self.now_ms, self.stale)).ok_or(Reason::NoLiquidity)?;
        let price = house::price(side, last.price_e4, i.half_spread_bps);
        price.filter(|p| house::acceptable(side, *p, limit_e4) && (side == Side::Buy || *p <= ceiling_e4)).ok_or(Reason::PriceBand)
    }

    /// The book has the last word on whether the symbol trades and the price is fresh.
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
            Some(stop) if self.stand.book.would_fire(n.side, stop, self.market_price()) => Err(Reason::StopWouldTrigger),
            _ => Ok(()),
        }
    }

    pub(super) fn enter(&mut self, user_id: &str, order_id: &str, n: &NewOrder) {
        let party = Owner::new(user_id, order_id);
        // The order may have come before the tick by which it was let in: topics have no common clock.
        let reference = n.reference.filter(|p| !is_beyond(p.time_ms, self.now_ms, self.stale));
        // Where times may fall, a reference that is ahead of the order says nothing against a fresh tick: it may be from before the fall.
        let ahead = self.stale.ahead_ms != i64::MAX && reference.is_some_and(|p| p.time_ms > self.now_ms);
        if !(ahead && self.tick.is_some_and(|t| is_fresh(t.time_ms, self.now_ms, self.stale))) {
            self.tick = [reference, self.tick].into_iter().flatten().max_by_key(|p| p.time_ms);
        }
        if let Err(reason) = self.may_enter(n) {
            self.out.tell(&party, None, Outcome::Rejected(reason));
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
        self.put(order, true);
    }

    /// Puts an order to the book. `new`: its owner has not heard of it yet.
    fn put(&mut self, order: Order<Owner>, new: bool) {
        let house = if order.market { self.house_price(order.side, order.limit_e4, order.ceiling_e4) } else { Err(Reason::NoLiquidity) };
        self.meet(order, None, Taker { new, house, first: None, last: None });
    }

    /// Lets an order trade, and deals with what becomes of it. `stage`: how far it had come, if it goes on.
    fn meet(&mut self, order: Order<Owner>, stage: Option<Stage>, taker: Taker) {
        let (out, slots, room) = (&mut self.out, &mut self.stand.slots, &mut self.room.book);
        let Taker { new, house, mut first, mut last } = taker;
        let on_match = |m: Match<'_, Owner>| {
            out.matched(&m);
            if m.maker.leaves == 0 {
                slots.swap_remove(&m.maker.party.key);
            }
            last = Some(m.price_e4);
            first = first.or(last);
        };
        let (book, backstop) = (&mut self.stand.book, house.is_ok());
        let verdict = match stage {
            None => book.submit(order, self.now_ms, backstop, room, on_match),
            Some(stage) => book.go_on(order, stage, self.now_ms, backstop, room, on_match),
        };
        if let Verdict::Pauses(order, stage) = verdict {
            let moment = Moment { time_ms: self.now_ms, tick: self.tick };
            let rest = self.stand.rest.insert(Rest { order, stage, taker: Taker { first, last, ..taker }, moment });
            state::save_rest(self.out.ctx, self.out.buffers, self.out.symbol, &rest.order.party.key, rest);
            return;
        }
        // An order trades at one price after the other, up or down: the first and the last reach every stop that any of them does.
        if let (Some(from), Some(price_e4)) = (first, last) {
            self.stand.trade = Some(Priced { price_e4, time_ms: self.now_ms });
            self.stand.book.price(from);
            self.stand.book.price(price_e4);
        }
        match verdict {
            Verdict::Filled(_) | Verdict::Pauses(..) => {}
            Verdict::Rests(slot) => {
                let Some(order) = self.stand.book.get(slot) else { return };
                self.stand.slots.insert(order.party.key.clone(), slot);
                self.out.keep(order);
                if new && last.is_none() {
                    self.out.tell(&order.party, None, Outcome::Accepted);
                }
            }
            Verdict::Cancelled(o, reason) => self.out.tell(&o.party, None, Outcome::Done(reason)),
            Verdict::Rejected(o, reason) => {
                self.out.tell(&o.party, None, if new { Outcome::Rejected(reason) } else { Outcome::Done(reason) });
            }
            Verdict::Unfilled(o, reason) => match house {
                Ok(price_e4) => self.out.with_house(&o, price_e4),
                Err(Reason::NoLiquidity) => self.out.tell(&o.party, None, Outcome::Done(reason)),
                Err(band) => self.out.tell(&o.party, None, Outcome::Done(band)),
            },
        }
    }

    /// The slot of an order that is in the book and alive. A dead one is cleared away on the spot.
    fn find(&mut self, owner: &Owner) -> Option<u32> {
        let slot = self.stand.slots.get(&owner.key).copied()?;
        if self.stand.book.is_live(slot, self.now_ms) {
            return Some(slot);
        }
        self.bury(slot);
        None
    }

    pub(super) fn cancel(&mut self, user_id: &str, order_id: &str, cause_id: &str, reason: Reason) {
        let owner = Owner::new(user_id, order_id);
        match self.find(&owner).and_then(|slot| self.take(slot)) {
            Some(o) => self.out.tell(&o.party, Some(cause_id), Outcome::Done(reason)),
            None => self.out.tell(&owner, Some(cause_id), Outcome::CancelRefused(Reason::TooLateToCancel)),
        }
    }

    pub(super) fn replace(&mut self, user_id: &str, order_id: &str, cause_id: &str, quantity: i64, limit_e4: i64, ceiling_e4: i64) {
        let owner = Owner::new(user_id, order_id);
        let (cause, replaced) = (Some(cause_id), Outcome::Replaced { quantity, limit_e4 });
        let found = self.find(&owner).ok_or(Reason::TooLateToCancel);
        let checked = found.and_then(|slot| match self.closed() {
            Some(reason) => Err(reason),
            None => Ok((slot, self.stand.book.check_replace(slot, quantity, limit_e4, self.now_ms)?)),
        });
        match checked {
            Err(reason) => self.out.tell(&owner, cause, Outcome::ReplaceRefused(reason)),
            Ok((slot, Change::InPlace)) => {
                self.stand.book.shrink(slot, quantity);
                self.stand.book.get(slot).into_iter().for_each(|o| self.out.keep(o));
                self.out.tell(&owner, cause, replaced);
            }
            Ok((slot, Change::Fills)) => {
                self.take(slot);
                self.out.tell(&owner, cause, replaced);
            }
            Ok((slot, Change::Anew)) => {
                self.out.tell(&owner, cause, replaced);
                if let Some(o) = self.take(slot) {
                    let ceiling_e4 = if o.side == Side::Sell { ceiling_e4 } else { o.ceiling_e4 };
                    self.put(Order { leaves: quantity - o.cum, limit_e4, ceiling_e4, ..o }, false);
                }
            }
        }
    }

    /// Takes an order out of book, index and state.
    fn take(&mut self, slot: u32) -> Option<Order<Owner>> {
        let order = self.stand.book.remove(slot)?;
        self.stand.slots.swap_remove(&order.party.key);
        self.out.forget(&order.party);
        Some(order)
    }

    /// Clears a dead order away, and says what it died of.
    fn bury(&mut self, slot: u32) {
        if let Some(o) = self.take(slot) {
            let outcome = if o.deadline_ms <= self.now_ms { Outcome::Expired } else { Outcome::Done(Reason::Delisted) };
            self.out.tell(&o.party, None, outcome);
        }
    }

    /// Clears away up to `max` dead orders; answers how many there were.
    pub(super) fn bury_dead(&mut self, max: usize, slots: &mut Vec<u32>) -> usize {
        self.stand.book.dead(self.now_ms, max, slots);
        slots.iter().for_each(|slot| self.bury(*slot));
        slots.len()
    }

    /// The market is at a price: arms stops, unless nothing may trade.
    pub(super) fn arm(&mut self, price_e4: Option<i64>) {
        if self.is_open()
            && let Some(price) = price_e4
        {
            self.stand.book.price(price);
        }
    }

    /// Lets up to `max` armed stops fire, as far as there is room; answers how many did.
    pub(super) fn fire(&mut self, max: usize) -> usize {
        let mut fired = 0;
        while fired < max.min(self.room.steps)
            && self.room.book.fills > 0
            && self.stand.rest.is_none()
            && self.is_open()
            && let Some(order) = self.stand.book.next_fired(self.now_ms)
        {
            fired += 1;
            self.stand.slots.swap_remove(&order.party.key);
            self.out.forget(&order.party);
            self.out.tell(&order.party, None, Outcome::Triggered);
            self.put(order, false);
        }
        self.room.steps -= fired;
        fired
    }

    /// A symbol that is not listed has lost its orders.
    pub(super) fn doom(&mut self) {
        if !self.stand.book.is_empty() && !self.instrument.is_some_and(|i| i.is_listed()) && !self.stand.book.is_doomed() {
            self.stand.book.doom();
        }
    }

    /// Does what came for the symbol, or lets it wait for its turn. Whatever waits goes on.
    pub(super) fn take_in(&mut self, act: Act<'_>) -> Result<(), Bug> {
        let moment = Moment { time_ms: self.now_ms, tick: self.tick };
        if self.stand.is_busy() || !self.act(act)? {
            state::save_act(self.out.ctx, self.out.buffers, self.out.symbol, self.stand.line.end, moment, act);
            self.stand.line.end += 1;
            self.go_on()?;
        }
        Ok(())
    }

    /// False: something that must come first is not done, and the act was not begun.
    fn act(&mut self, act: Act<'_>) -> Result<bool, Bug> {
        self.doom();
        match act {
            Act::Price(price_e4) => {
                self.arm(Some(price_e4));
                self.fire(FIRE_MAX);
            }
            Act::Command(value) => {
                let c = BookCommand::decode(value).map_err(|fault| bug(self.out.ctx, fault))?;
                // What was armed before comes before what comes now, as far as one record goes.
                self.fire(FIRE_MAX);
                let cut_short = self.room.book.fills == 0 && self.stand.book.has_fired() && self.is_open();
                if self.stand.rest.is_some() || cut_short {
                    return Ok(false);
                }
                match c.ask {
                    Ask::New(order) => self.enter(c.user_id, c.order_id, &order),
                    Ask::Cancel { cause_id, reason } => self.cancel(c.user_id, c.order_id, cause_id, reason),
                    Ask::Replace { cause_id, quantity, limit_e4, ceiling_e4 } => {
                        self.replace(c.user_id, c.order_id, cause_id, quantity, limit_e4, ceiling_e4);
                    }
                }
                self.fire(FIRE_MAX);
            }
        }
        Ok(true)
    }

    /// Goes on with the order that is on its way, and then with what waits behind it, as far as there is room. Each is decided by the moment at which it
    /// came, so nothing depends on how much of it one record takes.
    pub(super) fn go_on(&mut self) -> Result<(), Bug> {
        let now = Moment { time_ms: self.now_ms, tick: self.tick };
        let done = self.go_on_in_turn();
        self.at(now);
        done
    }

    fn go_on_in_turn(&mut self) -> Result<(), Bug> {
        let mut value = Vec::new();
        loop {
            if let Some(Rest { order, stage, taker, moment }) = self.stand.rest.take() {
                self.at(moment);
                self.meet(order, Some(stage), taker);
                if self.stand.rest.is_some() {
                    return Ok(());
                }
                state::delete_rest(self.out.ctx, self.out.buffers, self.out.symbol);
                self.fire(FIRE_MAX);
            }
            let number = self.stand.line.start;
            if self.stand.rest.is_some() || self.stand.line.is_empty() || self.room.steps == 0 || self.room.book.fills == 0 {
                return Ok(());
            }
            state::load_act(self.out.ctx, self.out.buffers, self.out.symbol, number, &mut value);
            let (moment, act) = state::read_waiting(self.out.ctx, self.out.symbol, &value)?;
            self.at(moment);
            if self.act(act)? {
                self.room.steps -= 1.min(self.room.steps);
                state::delete_act(self.out.ctx, self.out.buffers, self.out.symbol, number);
                self.stand.line.start += 1;
                if self.stand.line.is_empty() {
                    // As it is found after a restart.
                    self.stand.line = 0..0;
                }
            }
        }
    }

    fn at(&mut self, moment: Moment) {
        (self.now_ms, self.out.now_ms, self.tick) = (moment.time_ms, moment.time_ms, moment.tick);
    }

    /// Whether work is left that a later record must go on with.
    pub(super) fn has_more(&self) -> bool {
        let book = &self.stand.book;
        self.stand.is_busy()
            || book.is_doomed()
            || book.next_deadline().is_some_and(|d| d <= self.now_ms)
            || (book.has_fired() && self.is_open())
    }
}
