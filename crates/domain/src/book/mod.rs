//! The matching core: one symbol's orders by price, then by time of arrival. Integers only, no
//! clock, no randomness. The same commands in the same order give the same bytes.
//!
//! A command is decided before any change, so no command is ever half done. Orders lie in a slab.
//! Orders of one price (and of one deadline) form a linked list through the slab. So a cancel is a
//! few writes at any place in the book. Commands allocate no memory once the slab has grown to the
//! book's size.
//!
//! Expired and doomed (delisted) orders are *dead* at once: they never trade, even before their
//! removal. So the removal may be spread over many transactions, and no reader sees a half-finished
//! state. Each ladder remembers its first order that may be alive. So a run of dead orders is
//! skipped once, and not again by every command.
//!
//! An order with very many trades pauses at the end of its step's budget, and continues in the next
//! step: see [`StepBudget`].
//!
//! The house is a level of the book without orders. Users at the house's price trade before the
//! house, and users at worse prices after the house ([`HouseQuote`]). The house has no place in a
//! queue, so the book stores nothing about the house. [`Book::cross`] handles resting orders that
//! the next quote reaches.

mod cross;
mod ladder;
mod matching;
mod order;
mod stops;

use std::cell::Cell;

use super::status::Side;
use ladder::Ladder;
pub use matching::ReplaceKind;
pub use order::{
    FOREVER, HouseQuote, Life, Match, Order, Party, Quote, Stage, StepBudget, SubmitOutcome, Watch,
};

const NIL: u32 = u32::MAX;
/// Index in [`Node::links`] of the list by price, and of the list by deadline.
const PLACE: usize = 0;
const TIME: usize = 1;

/// Indexes of the ladders.
const BIDS: usize = 0;
const ASKS: usize = 1;
const BUY_STOPS: usize = 2;
const SELL_STOPS: usize = 3;
const DEADLINES: usize = 4;

#[derive(Clone, Copy, Debug)]
struct QueueLinks {
    list: u32,
    prev: u32,
    next: u32,
}

const UNLINKED: QueueLinks = QueueLinks {
    list: NIL,
    prev: NIL,
    next: NIL,
};

#[derive(Debug)]
struct Node<P> {
    /// `None` marks a free slot; `links[0].next` is then the next free slot.
    order: Option<Order<P>>,
    links: [QueueLinks; 2],
}

#[derive(Clone, Copy, Debug)]
struct List {
    head: u32,
    tail: u32,
}

/// First order of a ladder that may be alive: at `now_ms`, all orders before were dead.
#[derive(Clone, Copy, Debug)]
struct Front {
    now_ms: i64,
    /// Key and slot of the order; `None` if all orders of the ladder were dead.
    at: Option<(i64, u32)>,
}

/// State of a book besides its orders; the owner stores it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BookState {
    /// Next place in the queue.
    pub next_seq: u64,
    /// Highest price since buy stops began to trigger, until all have triggered.
    pub rose_to: Option<i64>,
    /// Lowest price since sell stops began to trigger, until all have triggered.
    pub fell_to: Option<i64>,
    /// Orders with a place below this are doomed.
    pub doomed_below: u64,
}

/// One symbol's book.
#[derive(Debug)]
pub struct Book<P> {
    nodes: Vec<Node<P>>,
    free: u32,
    lists: Vec<List>,
    free_lists: Vec<u32>,
    ladders: [Ladder; 5],
    /// Known dead orders by ladder: results of [`Book::first_live`].
    fronts: [Cell<Option<Front>>; 4],
    /// Number of orders that an all-or-nothing order has passed, and the next slot. The value is
    /// valid until an order joins or leaves a ladder.
    looked: Cell<Option<(u64, Option<u32>)>>,
    len: usize,
    head: BookState,
}

impl<P> Default for Book<P> {
    fn default() -> Self {
        Book {
            nodes: Vec::new(),
            free: NIL,
            lists: Vec::new(),
            free_lists: Vec::new(),
            ladders: Default::default(),
            fronts: Default::default(),
            looked: Cell::new(None),
            len: 0,
            head: BookState::default(),
        }
    }
}

impl<P> Book<P> {
    /// An empty book that continues from a saved state.
    pub fn new(head: BookState) -> Self {
        Book {
            head,
            ..Default::default()
        }
    }

    /// State besides the orders.
    pub fn head(&self) -> BookState {
        self.head
    }

    /// Number of orders, with waiting stops and dead orders.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Order in a slot.
    pub fn get(&self, slot: u32) -> Option<&Order<P>> {
        self.nodes.get(slot as usize)?.order.as_ref()
    }

    /// Restores an order at its old place. Call in the order of `seq`.
    pub fn restore(&mut self, order: Order<P>) -> u32 {
        self.link(order)
    }

    /// Removes an order.
    pub fn remove(&mut self, slot: u32) -> Option<Order<P>> {
        self.get(slot)?;
        self.goes(slot);
        self.unlink(slot, PLACE);
        self.unlink(slot, TIME);
        let node = &mut self.nodes[slot as usize];
        let order = node.order.take();
        node.links[PLACE].next = self.free;
        self.free = slot;
        self.len -= 1;
        order
    }

    /// Orders of one side that can trade, best price first, then by place; with dead orders.
    pub fn side(&self, side: Side) -> impl Iterator<Item = &Order<P>> {
        self.walk(if side == Side::Buy { BIDS } else { ASKS })
            .map(|slot| self.at(slot))
    }

    /// Waiting stops of one side, the next to trigger first.
    pub fn stops(&self, side: Side) -> impl Iterator<Item = &Order<P>> {
        self.walk(if side == Side::Buy {
            BUY_STOPS
        } else {
            SELL_STOPS
        })
        .map(|slot| self.at(slot))
    }

    /// Earliest deadline of all orders.
    pub fn next_deadline(&self) -> Option<i64> {
        self.ladders[DEADLINES]
            .best()
            .map(|(key, _)| -key)
            .filter(|d| *d != FOREVER)
    }

    /// Dooms every order that is in the book now; [`Book::dead`] finds them for removal.
    pub fn mark_for_removal(&mut self) {
        self.head.doomed_below = self.head.next_seq;
    }

    /// True if doomed orders may be left.
    pub fn is_doomed(&self) -> bool {
        self.head.doomed_below > 0
    }

    fn lives(&self, order: &Order<P>, now_ms: i64) -> bool {
        order.deadline_ms > now_ms && order.seq >= self.head.doomed_below
    }

    /// True if an order has neither expired nor been doomed.
    pub fn is_live(&self, slot: u32, now_ms: i64) -> bool {
        self.get(slot).is_some_and(|o| self.lives(o, now_ms))
    }

    /// Finds up to `max` dead orders, earliest deadlines first, doomed orders included. A result
    /// shorter than `max` ends the doom.
    pub fn dead(&mut self, now_ms: i64, max: usize, into: &mut Vec<u32>) {
        into.clear();
        let expired = self.next_deadline().is_some_and(|d| d <= now_ms);
        if !expired && !self.is_doomed() {
            return;
        }

        for (key, list) in self.ladders[DEADLINES].iter() {
            let due = -key <= now_ms;
            if !due && !self.is_doomed() || into.len() == max {
                break;
            }

            // Within a deadline, orders are sorted by place, so doomed orders come first.
            let mut slot = self.lists[list as usize].head;
            while slot != NIL
                && into.len() < max
                && (due || self.at(slot).seq < self.head.doomed_below)
            {
                into.push(slot);
                slot = self.nodes[slot as usize].links[TIME].next;
            }
        }

        if into.len() < max {
            self.head.doomed_below = 0;
            self.fronts = Default::default();
        }
    }

    fn at(&self, slot: u32) -> &Order<P> {
        self.nodes[slot as usize]
            .order
            .as_ref()
            .expect("a slot in a list has an order")
    }

    fn at_mut(&mut self, slot: u32) -> &mut Order<P> {
        self.nodes[slot as usize]
            .order
            .as_mut()
            .expect("a slot in a list has an order")
    }

    fn walk(&self, ladder: usize) -> impl Iterator<Item = u32> + '_ {
        self.ladders[ladder].iter().flat_map(move |(_, list)| {
            let first = self.lists[list as usize].head;
            std::iter::successors((first != NIL).then_some(first), move |slot| {
                let next = self.nodes[*slot as usize].links[PLACE].next;
                (next != NIL).then_some(next)
            })
        })
    }

    /// First live order of a ladder. Dead orders are skipped once: they stay dead, unless log time
    /// falls.
    fn first_live(&self, ladder: usize, now_ms: i64) -> Option<u32> {
        if !self.is_doomed() && self.next_deadline().is_none_or(|d| d > now_ms) {
            return self.ladders[ladder]
                .best()
                .map(|(_, list)| self.lists[list as usize].head);
        }

        let known = self.fronts[ladder].get().filter(|f| f.now_ms <= now_ms);
        let mut next = match known {
            Some(front) => front.at.map(|(_, slot)| slot),
            None => self.ladders[ladder]
                .best()
                .map(|(_, list)| self.lists[list as usize].head),
        };

        while let Some(slot) = next
            && !self.lives(self.at(slot), now_ms)
        {
            next = self.after(ladder, slot);
        }

        self.fronts[ladder].set(Some(Front {
            now_ms,
            at: next.map(|slot| (home(self.at(slot)).1, slot)),
        }));

        next
    }

    /// Next order of the same ladder.
    fn after(&self, ladder: usize, slot: u32) -> Option<u32> {
        match self.nodes[slot as usize].links[PLACE].next {
            NIL => self.ladders[ladder]
                .below(home(self.at(slot)).1)
                .map(|(_, list)| self.lists[list as usize].head),
            next => Some(next),
        }
    }

    /// Order that stands `places` behind another order.
    fn behind(&self, ladder: usize, mut slot: Option<u32>, places: u64) -> Option<u32> {
        for _ in 0..places {
            slot = self.after(ladder, slot?);
        }

        slot
    }

    /// Updates the known front for an order that joined a ladder: an order before the front becomes
    /// the front.
    fn came(&self, ladder: usize, key: i64, slot: u32) {
        self.looked.set(None);
        if let Some(front) = self.fronts.get(ladder)
            && let Some(f) = front.get()
            && f.at.is_none_or(|(first, _)| key > first)
        {
            front.set(Some(Front {
                at: Some((key, slot)),
                ..f
            }));
        }
    }

    /// Updates the known front for an order that is about to leave.
    fn goes(&self, slot: u32) {
        self.looked.set(None);
        let (ladder, _) = home(self.at(slot));
        if let Some(f) = self.fronts[ladder].get()
            && f.at.is_some_and(|(_, first)| first == slot)
        {
            let at = self
                .after(ladder, slot)
                .map(|next| (home(self.at(next)).1, next));
            self.fronts[ladder].set(Some(Front { at, ..f }));
        }
    }

    /// Gives an order the next place in the queue.
    fn place(&mut self, mut order: Order<P>) -> u32 {
        order.seq = self.head.next_seq;
        self.head.next_seq += 1;
        self.link(order)
    }

    fn link(&mut self, order: Order<P>) -> u32 {
        let slot = match self.free {
            NIL => {
                self.nodes.push(Node {
                    order: None,
                    links: [UNLINKED; 2],
                });

                u32::try_from(self.nodes.len() - 1).expect("fewer than 2^32 orders")
            }
            slot => {
                self.free = self.nodes[slot as usize].links[PLACE].next;
                slot
            }
        };

        let (ladder, key) = home(&order);
        let deadline = order.deadline_ms;
        self.nodes[slot as usize].order = Some(order);
        self.append(slot, PLACE, ladder, key);
        self.came(ladder, key, slot);
        self.append(slot, TIME, DEADLINES, -deadline);
        self.len += 1;
        slot
    }

    fn append(&mut self, slot: u32, which: usize, ladder: usize, key: i64) {
        let list = match self.ladders[ladder].get(key) {
            Some(list) => list,
            None => {
                let list = self.free_lists.pop().unwrap_or_else(|| {
                    self.lists.push(List {
                        head: NIL,
                        tail: NIL,
                    });

                    u32::try_from(self.lists.len() - 1).expect("fewer than 2^32 prices")
                });

                self.ladders[ladder].insert(key, list);
                list
            }
        };

        let tail = std::mem::replace(&mut self.lists[list as usize].tail, slot);
        self.nodes[slot as usize].links[which] = QueueLinks {
            list,
            prev: tail,
            next: NIL,
        };

        match tail {
            NIL => self.lists[list as usize].head = slot,
            tail => self.nodes[tail as usize].links[which].next = slot,
        }
    }

    fn unlink(&mut self, slot: u32, which: usize) {
        let QueueLinks { list, prev, next } = self.nodes[slot as usize].links[which];
        match prev {
            NIL => self.lists[list as usize].head = next,
            prev => self.nodes[prev as usize].links[which].next = next,
        }

        match next {
            NIL => self.lists[list as usize].tail = prev,
            next => self.nodes[next as usize].links[which].prev = prev,
        }

        if self.lists[list as usize].head == NIL {
            let order = self.at(slot);
            let (ladder, key) = if which == TIME {
                (DEADLINES, -order.deadline_ms)
            } else {
                home(order)
            };

            self.ladders[ladder].remove(key);
            self.free_lists.push(list);
        }
    }
}

/// Ladder and key of an order.
fn home<P>(o: &Order<P>) -> (usize, i64) {
    match (o.stop_e4, o.side) {
        (None, Side::Buy) => (BIDS, o.limit_e4),
        (None, Side::Sell) => (ASKS, -o.limit_e4),
        // The best stop is the stop that is reached first: the lowest above the market, the highest
        // below.
        (Some(stop), Side::Buy) => (BUY_STOPS, -stop),
        (Some(stop), Side::Sell) => (SELL_STOPS, stop),
    }
}

#[cfg(test)]
mod tests;
