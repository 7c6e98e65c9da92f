//! An order in a book, and the types around matching.

use super::super::reason::Reason;
use super::super::status::Side;
use crate::named_enum;

named_enum! {
    /// Time in force (FIX 59), without the deadline: treatment of the quantity that does not trade
    /// at once.
    Life {
        /// The rest of the order rests in the book.
        Rest = 1, "rest";
        /// Immediate or cancel: the rest is cancelled.
        Ioc = 2, "ioc";
        /// Fill or kill: the order trades whole or not at all.
        Fok = 3, "fok";
    }
}

/// Deadline of an order without a deadline.
pub const FOREVER: i64 = i64::MAX;

/// Owner of an order.
pub trait Party {
    /// True if two orders have the same owner, so must not trade with each other.
    fn same(&self, other: &Self) -> bool;
}

/// An incoming or resting order. Prices in 10^-4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order<P> {
    /// Owner, and data by which the book's owner finds the order.
    pub party: P,
    /// Place in the queue, less is earlier. The book sets the place.
    pub seq: u64,
    pub side: Side,
    /// Market order: the limit is a collar, and no quantity ever rests.
    pub market: bool,
    /// Worst acceptable price.
    pub limit_e4: i64,
    /// Maximum price of a sell, by the bounds of the owner's account; `i64::MAX` for none.
    pub ceiling_e4: i64,
    /// Trigger price of a stop that has not triggered.
    pub stop_e4: Option<i64>,
    /// LeavesQty: quantity that may still trade.
    pub leaves: i64,
    /// CumQty: quantity that has traded.
    pub cum: i64,
    /// Time from which the order is dead, in milliseconds.
    pub deadline_ms: i64,
    /// Time in force.
    pub life: Life,
    /// The order must not trade on arrival.
    pub post_only: bool,
}

impl<P> Order<P> {
    /// Quantity that was ordered.
    pub fn quantity(&self) -> i64 {
        self.cum + self.leaves
    }

    /// True if the order may trade at this price.
    pub(super) fn accepts(&self, price_e4: i64) -> bool {
        match self.side {
            Side::Buy => price_e4 <= self.limit_e4,
            Side::Sell => price_e4 >= self.limit_e4 && price_e4 <= self.ceiling_e4,
        }
    }
}

/// Outcome of an incoming order.
#[derive(Debug, PartialEq, Eq)]
pub enum SubmitOutcome<P> {
    /// The order rests in this slot, or waits for its stop price.
    Rests(u32),
    /// The order is filled.
    Filled(Order<P>),
    /// The rest of the order is cancelled.
    Cancelled(Order<P>, Reason),
    /// The order was refused and had no trades.
    Rejected(Order<P>, Reason),
    /// Market order with an unfilled rest, and the reason.
    Unfilled(Order<P>, Reason),
    /// The step's budget is used up: [`super::Book::go_on`] continues.
    Pauses(Order<P>, Stage),
}

/// Progress of a paused order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// An all-or-nothing order examines the book before any trade.
    Looks {
        /// Number of examined orders.
        passed: u64,
        /// Quantity still to be found.
        left: i64,
    },
    /// The order is trading.
    Trades,
}

/// Budget of one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepBudget {
    /// Maximum of trades.
    pub fills: usize,
    /// Maximum of orders that an all-or-nothing order examines.
    pub looks: usize,
}

impl StepBudget {
    /// No bound.
    pub const UNBOUNDED: StepBudget = StepBudget {
        fills: usize::MAX,
        looks: usize::MAX,
    };
}

/// Offer of the house on one side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quote {
    pub price_e4: i64,
    /// Quantity that the house still offers to one order.
    pub left: i64,
}

/// Place of the house for an incoming order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HouseQuote {
    /// The house does not deal.
    Away,
    /// Old rule: the house stands outside the book, and would take the rest of a market order. An
    /// all-or-nothing order then counts as fillable.
    Outside,
    /// The house has a place in the book, behind users at the same price.
    At(Quote),
}

impl HouseQuote {
    /// Quote of the house, if quantity is left.
    pub(super) fn quote(&self) -> Option<&Quote> {
        match self {
            HouseQuote::At(quote) if quote.left > 0 => Some(quote),
            _ => None,
        }
    }
}

/// Observer of a book, with a veto on trades of resting orders.
pub trait Watch<P> {
    /// True if a resting order may trade. Otherwise the order leaves the book before its next
    /// trade, and [`Watch::ended`] receives it.
    fn may_trade(&mut self, _order: &Order<P>) -> bool {
        true
    }
    /// A resting order without the right to trade has left the book.
    fn ended(&mut self, _order: Order<P>) {}
    /// The incoming order has traded.
    fn matched(&mut self, m: Match<'_, P>);
    /// A resting order has traded `_quantity` with the house; `_order` is the state after the
    /// trade.
    fn crossed(&mut self, _order: &Order<P>, _quantity: i64) {}
}

impl<P, F: FnMut(Match<'_, P>)> Watch<P> for F {
    fn matched(&mut self, m: Match<'_, P>) {
        self(m);
    }
}

/// One trade of the incoming order, with a resting order or with the house.
#[derive(Debug)]
pub struct Match<'a, P> {
    /// Incoming order, after the trade.
    pub taker: &'a Order<P>,
    /// Resting order, after the trade; `None` for the house.
    pub maker: Option<&'a Order<P>>,
    /// Price of the maker, or of the house.
    pub price_e4: i64,
    pub quantity: i64,
}
