//! An order as a book sees it.

use super::super::reason::Reason;
use super::super::status::Side;
use crate::named_enum;

named_enum! {
    /// The fate of the part that does not trade at once.
    Life {
        /// The part rests.
        Rest = 1, "rest";
        /// The part is cancelled.
        Ioc = 2, "ioc";
        /// The order trades whole or not at all.
        Fok = 3, "fok";
    }
}

/// Stands for "no deadline".
pub const FOREVER: i64 = i64::MAX;

/// Whose an order is.
pub trait Party {
    /// Whether two orders have the same owner, and so must not trade.
    fn same(&self, other: &Self) -> bool;
}

/// An order, on its way in or in the book. Prices in 10^-4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order<P> {
    /// Whose, and whatever else the book's owner wants to find again.
    pub party: P,
    /// Place in the queue: less is earlier. The book sets it whenever the order takes a place.
    pub seq: u64,
    /// Which way.
    pub side: Side,
    /// A market order: its limit is a collar, and nothing of it ever rests.
    pub market: bool,
    /// Worst price it trades at.
    pub limit_e4: i64,
    /// A sell's highest price (what its owner's account can take); `i64::MAX` for none.
    pub ceiling_e4: i64,
    /// A stop that has not fired yet.
    pub stop_e4: Option<i64>,
    /// The quantity that may still trade.
    pub leaves: i64,
    /// The quantity that has traded.
    pub cum: i64,
    /// From this moment on it is dead, milliseconds.
    pub deadline_ms: i64,
    /// The fate of the rest.
    pub life: Life,
    /// Must not trade on arrival.
    pub post_only: bool,
}

impl<P> Order<P> {
    /// The quantity that was ordered.
    pub fn quantity(&self) -> i64 {
        self.cum + self.leaves
    }

    /// Whether it may trade at a price.
    pub(super) fn accepts(&self, price_e4: i64) -> bool {
        match self.side {
            Side::Buy => price_e4 <= self.limit_e4,
            Side::Sell => price_e4 >= self.limit_e4 && price_e4 <= self.ceiling_e4,
        }
    }
}

/// How an order that was put to the book fared.
#[derive(Debug, PartialEq, Eq)]
pub enum SubmitOutcome<P> {
    /// The order has a place in the book now (or waits for its stop).
    Rests(u32),
    /// Nothing of it is left.
    Filled(Order<P>),
    /// Its rest is cancelled.
    Cancelled(Order<P>, Reason),
    /// The order did not get in; nothing happened.
    Rejected(Order<P>, Reason),
    /// A market order of which the book could not fill the rest, and why.
    Unfilled(Order<P>, Reason),
    /// There was no more room in this step: [`super::Book::go_on`] goes on from there.
    Pauses(Order<P>, Stage),
}

/// How far an order has come that pauses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// All or nothing: nothing was done yet. So many orders were looked at, and so much is still to
    /// be found.
    Looks {
        /// Orders.
        passed: u64,
        /// Quantity.
        left: i64,
    },
    /// The order trades.
    Trades,
}

/// How much one step may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepBudget {
    /// Trades.
    pub fills: usize,
    /// Orders that an all-or-nothing order looks at.
    pub looks: usize,
}

impl StepBudget {
    /// Everything in one step.
    pub const UNBOUNDED: StepBudget = StepBudget {
        fills: usize::MAX,
        looks: usize::MAX,
    };
}

/// The house's offer on one side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quote {
    /// Its price.
    pub price_e4: i64,
    /// How much it still gives an order.
    pub left: i64,
}

/// The house's place, as an order that comes meets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HouseQuote {
    /// The house does not deal.
    Away,
    /// The house stands outside the book, and would take what is left of a market order. So it was
    /// before it had a place in the book; that matters for "all or nothing".
    Outside,
    /// The house has a place in the book: behind users at the same price.
    At(Quote),
}

impl HouseQuote {
    /// The quote, for as long as the house deals.
    pub(super) fn quote(&self) -> Option<&Quote> {
        match self {
            HouseQuote::At(quote) if quote.left > 0 => Some(quote),
            _ => None,
        }
    }
}

/// Hears what happens at a book, and has a say in who trades.
pub trait Watch<P> {
    /// Whether an order that rests may trade. If not, it leaves the book when its turn comes, and
    /// [`Watch::ended`] has it.
    fn may_trade(&mut self, _order: &Order<P>) -> bool {
        true
    }
    /// An order that may not trade has left the book.
    fn ended(&mut self, _order: Order<P>) {}
    /// An order that came has traded.
    fn matched(&mut self, m: Match<'_, P>);
    /// An order that rests has traded with the house, as it is after the trade; so many.
    fn crossed(&mut self, _order: &Order<P>, _quantity: i64) {}
}

impl<P, F: FnMut(Match<'_, P>)> Watch<P> for F {
    fn matched(&mut self, m: Match<'_, P>) {
        self(m);
    }
}

/// One trade of an incoming order, with one that rested or with the house.
#[derive(Debug)]
pub struct Match<'a, P> {
    /// The order that came; as after the trade.
    pub taker: &'a Order<P>,
    /// The order that rested; as after the trade. None: the house.
    pub maker: Option<&'a Order<P>>,
    /// The price of the maker, or of the house.
    pub price_e4: i64,
    /// How many.
    pub quantity: i64,
}
