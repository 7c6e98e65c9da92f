//! Money and shares of users, and the only ways to move them.
//!
//! Every movement is balanced: what users, the house and the outside world have adds up to zero, per currency and per symbol, and that is checked
//! on every posting, in every build. A sum that does not come out stops the task, before anything is committed.
//!
//! Public integers must stay within 2^62 for ever, so two bounds hold for each account: `cash + incoming` (what open sells may bring at most), and
//! `turnover` (the value of all trades of its life, and of open orders). The second one bounds all that is derived from trades: positions (a share
//! costs at least one unit), cost basis and realised profit.

use super::decimal::PUBLIC_MAX;
use super::hold::{Fee, Hold};
use super::rate_limit::Clock;
use super::reason::Reason;
use super::status::Side;

/// An invariant does not hold.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the books do not balance: {0}")]
pub struct Broken(pub &'static str);

/// One user's cash and counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Cash that may be spent, 10^-4.
    pub available_e4: i64,
    /// Cash that open orders and short positions hold.
    pub reserved_e4: i64,
    /// The most that open sells may bring.
    pub incoming_e4: i64,
    /// Value of all trades and of the holds of open orders.
    pub turnover_e4: i64,
    /// Number of the user's last event.
    pub user_seq: u64,
    /// Rate limit.
    pub clock: Clock,
    /// Orders that rest or wait for their stop.
    pub open_orders: u64,
    /// Symbols that it is short of.
    pub shorts: u64,
    /// The opening deposit has not been made yet: all that came so far was refused in a way that opens nothing.
    pub unopened: bool,
}

/// One user's shares of one symbol. Long and short are kept apart, because shares that an open sell holds must not be used up by a short sale.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Shares held.
    pub long: i64,
    /// Those that open sells hold.
    pub reserved: i64,
    /// Shares owed.
    pub short: i64,
    /// Cash held until they are bought back.
    pub collateral_e4: i64,
}

/// The other sides, for one symbol, as far as one task's users traded with them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct House {
    /// The house's cash from this symbol.
    pub cash_e4: i128,
    /// The house's shares.
    pub quantity: i128,
    /// All users' shares.
    pub users_quantity: i128,
    /// Cash on its way between users of this task and of others. Over all tasks, and at rest, it sums to zero; so do the shares.
    pub clearing_e4: i128,
    /// Shares on their way.
    pub clearing_quantity: i128,
}

/// Cash of one task, by whose it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// All users' available and reserved cash.
    pub users_e4: i128,
    /// The house's.
    pub house_e4: i128,
    /// The outside world's: minus what was deposited, plus what was withdrawn.
    pub external_e4: i128,
    /// On its way between users.
    pub clearing_e4: i128,
    /// Fees, in whole units.
    pub fees_e4: i128,
    /// The sum that rounding up took beyond the exact fees.
    pub rounding_e4: i128,
}

impl Totals {
    fn balanced(&self) -> Result<(), Broken> {
        let sum = self.users_e4 + self.house_e4 + self.external_e4 + self.clearing_e4 + self.fees_e4 + self.rounding_e4;
        if sum == 0 { Ok(()) } else { Err(Broken("cash does not sum to zero")) }
    }
}

impl House {
    fn balanced(&self) -> Result<(), Broken> {
        if self.quantity + self.users_quantity + self.clearing_quantity == 0 { Ok(()) } else { Err(Broken("shares do not sum to zero")) }
    }
}

fn add(to: &mut i64, n: i64) -> Result<(), Broken> {
    *to = to.checked_add(n).filter(|n| (0..=PUBLIC_MAX).contains(n)).ok_or(Broken("a balance left its bounds"))?;
    Ok(())
}

fn sub(from: &mut i64, n: i64) -> Result<(), Broken> {
    *from = from.checked_sub(n).filter(|n| (0..=PUBLIC_MAX).contains(n)).ok_or(Broken("a balance became negative"))?;
    Ok(())
}

fn fits(parts: &[i64]) -> bool {
    parts.iter().map(|n| i128::from(*n)).sum::<i128>() <= i128::from(PUBLIC_MAX)
}

impl Account {
    fn cash(&self) -> i128 {
        i128::from(self.available_e4) + i128::from(self.reserved_e4)
    }

    /// Whether a deposit keeps the account within its bounds.
    pub fn can_deposit(&self, amount: i64) -> bool {
        fits(&[self.available_e4, self.reserved_e4, self.incoming_e4, amount])
    }

    /// Whether an order may tie up that much without any bound being passed.
    pub fn within_bounds(&self, hold: &Hold) -> bool {
        fits(&[self.turnover_e4, hold.cash_e4, hold.incoming_e4])
            && (hold.incoming_e4 == 0 || fits(&[self.available_e4, self.reserved_e4, self.incoming_e4, hold.incoming_e4]))
    }

    /// From outside into the account.
    pub fn deposit(&mut self, totals: &mut Totals, amount: i64) -> Result<(), Broken> {
        add(&mut self.available_e4, amount)?;
        totals.users_e4 += i128::from(amount);
        totals.external_e4 -= i128::from(amount);
        totals.balanced()
    }

    /// From the account to outside.
    pub fn withdraw(&mut self, totals: &mut Totals, amount: i64) -> Result<(), Broken> {
        sub(&mut self.available_e4, amount)?;
        totals.users_e4 -= i128::from(amount);
        totals.external_e4 += i128::from(amount);
        totals.balanced()
    }

    /// Sets cash and shares aside for an order.
    pub fn reserve(&mut self, position: &mut Position, hold: &Hold) -> Result<(), Broken> {
        sub(&mut self.available_e4, hold.cash_e4)?;
        add(&mut self.reserved_e4, hold.cash_e4)?;
        add(&mut position.reserved, hold.shares)?;
        add(&mut self.incoming_e4, hold.incoming_e4)?;
        add(&mut self.turnover_e4, hold.cash_e4)?;
        add(&mut self.turnover_e4, hold.incoming_e4)?;
        position.check()
    }

    /// Gives it back. Shares that nobody is promised any more cover what is owed.
    pub fn release(&mut self, position: &mut Position, hold: &Hold) -> Result<(), Broken> {
        self.give_back(position, hold)?;
        self.cover(position)
    }

    fn give_back(&mut self, position: &mut Position, hold: &Hold) -> Result<(), Broken> {
        sub(&mut self.reserved_e4, hold.cash_e4)?;
        add(&mut self.available_e4, hold.cash_e4)?;
        sub(&mut position.reserved, hold.shares)?;
        sub(&mut self.incoming_e4, hold.incoming_e4)?;
        sub(&mut self.turnover_e4, hold.cash_e4)?;
        sub(&mut self.turnover_e4, hold.incoming_e4)?;
        Ok(())
    }

    /// Free shares cover what is owed; the cash that was held for it is free, too.
    fn cover(&mut self, position: &mut Position) -> Result<(), Broken> {
        let uncovered = position.cover()?;
        sub(&mut self.reserved_e4, uncovered)?;
        add(&mut self.available_e4, uncovered)?;
        position.check()
    }

    /// Books a trade. What the order held for it (`freed`) goes, the value is paid or received, the fee is taken, shares change hands.
    pub fn settle(&mut self, books: Books<'_>, trade: &Settled, freed: &Hold) -> Result<(), Broken> {
        let Books { position, house, totals } = books;
        let (cash, shares) = (self.cash(), position.net());
        self.give_back(position, freed)?;
        add(&mut self.turnover_e4, trade.value_e4)?;
        match trade.side {
            Side::Buy => {
                sub(&mut self.available_e4, trade.value_e4)?;
                add(&mut position.long, trade.quantity)?;
            }
            Side::Sell => {
                add(&mut self.available_e4, trade.value_e4)?;
                sub(&mut position.long, freed.shares)?;
                add(&mut position.short, trade.quantity - freed.shares)?;
                // Cash that was held for selling short stays held, as the position's collateral; and what the sale brings, less the fee.
                let short = trade.quantity - freed.shares;
                let held = if trade.keeps && short > 0 { trade.held_with(short, freed.cash_e4)? } else { freed.cash_e4 };
                sub(&mut self.available_e4, held)?;
                add(&mut self.reserved_e4, held)?;
                add(&mut position.collateral_e4, held)?;
            }
        }
        sub(&mut self.available_e4, trade.fee.charged_e4)?;
        self.cover(position)?;
        let (value, books) = (signed(trade), Books { position, house, totals });
        self.balance(books, (cash, shares), value, trade.fee, trade.with_house)
    }

    /// Holds what is due for a short position by the price of now, as far as there is cash; what is more than that is free.
    pub fn mark(&mut self, position: &mut Position, due_e4: i128) -> Result<(), Broken> {
        let pool = i128::from(self.available_e4) + i128::from(position.collateral_e4);
        let held = i64::try_from(due_e4.min(pool)).map_err(|_| Broken("a collateral left its bounds"))?;
        self.lend(position, position.collateral_e4 - held)
    }

    /// Frees so much of what is held for a short position; less than nothing: holds more.
    pub fn lend(&mut self, position: &mut Position, amount: i64) -> Result<(), Broken> {
        let change = |n: &mut i64, by: Option<i64>| {
            *n = by
                .and_then(|by| n.checked_add(by))
                .filter(|n| (0..=PUBLIC_MAX).contains(n))
                .ok_or(Broken("a collateral left its bounds"))?;
            Ok(())
        };
        change(&mut self.available_e4, Some(amount))?;
        change(&mut self.reserved_e4, amount.checked_neg())?;
        change(&mut position.collateral_e4, amount.checked_neg())
    }

    /// The other sides of a posting that changed the account and the position: `before` are its cash and its shares before, `value` is what the other
    /// side gets.
    fn balance(&self, books: Books<'_>, before: (i128, i64), value: i128, fee: Fee, with_house: bool) -> Result<(), Broken> {
        let Books { position, house, totals } = books;
        let (cash, shares) = before;
        let moved = i128::from(position.net()) - i128::from(shares);
        house.users_quantity += moved;
        if with_house {
            house.cash_e4 += value;
            house.quantity -= moved;
            totals.house_e4 += value;
        } else {
            house.clearing_e4 += value;
            house.clearing_quantity -= moved;
            totals.clearing_e4 += value;
        }
        totals.fees_e4 += i128::from(fee.exact_e4);
        totals.rounding_e4 += i128::from(fee.charged_e4) - i128::from(fee.exact_e4);
        totals.users_e4 += self.cash() - cash;
        house.balanced()?;
        totals.balanced()
    }

    /// Whether a trade can be taken back: what it brought must still be there. Tried on copies, so what is found is what would happen.
    pub fn may_take_back(&self, position: &Position, trade: &Settled) -> Result<(), Reason> {
        let (mut account, mut position) = (*self, *position);
        let books = Books { position: &mut position, house: &mut House::default(), totals: &mut Totals::default() };
        if trade.side == Side::Buy && books.position.sellable() < trade.quantity {
            return Err(Reason::ShortSellNotPermitted);
        }
        let fits = fits(&[self.turnover_e4, trade.value_e4])
            && fits(&[books.position.long, trade.quantity])
            && fits(&[self.available_e4, self.reserved_e4, self.incoming_e4, trade.value_e4, trade.fee.charged_e4]);
        match account.take_back(books, trade) {
            Ok(()) if fits => Ok(()),
            Err(_) if fits && trade.side == Side::Sell => Err(Reason::InsufficientFunds),
            _ => Err(Reason::NotionalLimit),
        }
    }

    /// Takes a trade back that was settled before: value and shares return, the fee is given back. The house is the other side, whoever that was
    /// in the trade: nobody else's account is touched.
    pub fn take_back(&mut self, books: Books<'_>, trade: &Settled) -> Result<(), Broken> {
        let Books { position, house, totals } = books;
        let (cash, shares) = (self.cash(), position.net());
        add(&mut self.turnover_e4, trade.value_e4)?;
        add(&mut self.available_e4, trade.fee.charged_e4)?;
        match trade.side {
            Side::Buy => {
                add(&mut self.available_e4, trade.value_e4)?;
                sub(&mut position.long, trade.quantity)?;
            }
            Side::Sell => add(&mut position.long, trade.quantity)?,
        }
        // First, because the collateral of a short sale may be what pays for its end.
        self.cover(position)?;
        if trade.side == Side::Sell {
            sub(&mut self.available_e4, trade.value_e4)?;
        }
        let fee = Fee { charged_e4: -trade.fee.charged_e4, exact_e4: -trade.fee.exact_e4 };
        self.balance(Books { position, house, totals }, (cash, shares), -signed(trade), fee, true)
    }
}

/// The value of a trade as the other side sees it: positive for a sale.
fn signed(trade: &Settled) -> i128 {
    i128::from(trade.value_e4) * if trade.side == Side::Buy { 1 } else { -1 }
}

/// One side of a trade.
#[derive(Clone, Copy, Debug)]
pub struct Settled {
    /// Which way the user traded.
    pub side: Side,
    /// How many.
    pub quantity: i64,
    /// For how much.
    pub value_e4: i64,
    /// The user's fee.
    pub fee: Fee,
    /// The other side is the house, not another user.
    pub with_house: bool,
    /// The proceeds of a short sale are held.
    pub keeps: bool,
}

impl Settled {
    /// The cash to hold for so many shares sold short: the cash held before, and their proceeds, as far as the fee leaves them.
    #[cold]
    fn held_with(&self, short: i64, before_e4: i64) -> Result<i64, Broken> {
        let brings = (self.value_e4 / self.quantity * short).min(self.value_e4 - self.fee.charged_e4).max(0);
        before_e4.checked_add(brings).ok_or(Broken("a collateral left its bounds"))
    }
}

/// The amounts that a trade moves besides the account.
pub struct Books<'a> {
    /// The user's shares.
    pub position: &'a mut Position,
    /// The other sides.
    pub house: &'a mut House,
    /// The task's cash.
    pub totals: &'a mut Totals,
}

impl Position {
    /// The shares that may still be sold without going short.
    pub fn sellable(&self) -> i64 {
        self.long - self.reserved
    }

    /// Shares held less shares owed.
    pub fn net(&self) -> i64 {
        self.long - self.short
    }

    /// Free shares cover what is owed; answers the collateral that is free now. The last share covered frees the rest.
    fn cover(&mut self) -> Result<i64, Broken> {
        let covered = self.short.min(self.sellable());
        if covered == 0 {
            return Ok(0);
        }
        let freed = i128::from(self.collateral_e4) * i128::from(covered) / i128::from(self.short);
        let freed = i64::try_from(freed).map_err(|_| Broken("a collateral left its bounds"))?;
        sub(&mut self.long, covered)?;
        sub(&mut self.short, covered)?;
        sub(&mut self.collateral_e4, freed)?;
        Ok(freed)
    }

    fn check(&self) -> Result<(), Broken> {
        if self.reserved > self.long {
            return Err(Broken("more shares reserved than held"));
        }
        if self.short == 0 && self.collateral_e4 != 0 { Err(Broken("collateral for nothing")) } else { Ok(()) }
    }
}

/// Checks a withdrawal.
pub fn may_withdraw(account: &Account, amount: i64) -> Result<(), Reason> {
    if amount > account.available_e4 { Err(Reason::InsufficientFunds) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::super::hold::Terms;
    use super::*;
    use proptest::prelude::*;

    #[derive(Default)]
    struct World {
        account: Account,
        position: Position,
        house: House,
        totals: Totals,
    }

    impl World {
        /// Reserves for an order and fills it in parts at these prices; what is left is released.
        fn trade(&mut self, terms: &Terms, fills: &[(i64, i64)], with_house: bool) {
            let mut hold = terms.need(0, 0, self.position.sellable()).expect("in bounds");
            self.account.reserve(&mut self.position, &hold).expect("reserve");
            let (mut cum, mut value) = (0, 0);
            for (quantity, price) in fills {
                let freed = terms.freed(&hold, cum, value, *quantity, quantity * price).expect("in bounds");
                let fee = terms.fee(value, quantity * price).expect("in bounds");
                let books = Books { position: &mut self.position, house: &mut self.house, totals: &mut self.totals };
                let trade = Settled { side: terms.side, quantity: *quantity, value_e4: quantity * price, fee, with_house, keeps: false };
                self.account.settle(books, &trade, &freed).expect("settle");
                hold = hold.less(&freed).expect("no more than was held");
                (cum, value) = (cum + quantity, value + quantity * price);
            }
            if cum == terms.quantity {
                assert_eq!(hold, Hold::default(), "a filled order holds nothing");
            }
            self.account.release(&mut self.position, &hold).expect("release");
        }
    }

    fn terms(side: Side, quantity: i64, limit_e4: i64) -> Terms {
        Terms { side, quantity, limit_e4, ceiling_e4: 2 * limit_e4, fee_bps: 0, short_unit_e4: 0 }
    }

    #[test]
    fn a_round_trip() {
        let mut w = World::default();
        w.account.deposit(&mut w.totals, 1_000).expect("room");
        w.trade(&terms(Side::Buy, 5, 120), &[(5, 100)], true);
        assert_eq!((w.account.available_e4, w.account.reserved_e4, w.position.long), (500, 0, 5));
        w.trade(&terms(Side::Sell, 5, 80), &[(2, 90), (3, 90)], true);
        assert_eq!((w.account.available_e4, w.account.turnover_e4, w.house.cash_e4), (950, 950, 50));
        assert_eq!((w.account.incoming_e4, w.position), (0, Position::default()));
    }

    #[test]
    fn a_trade_that_is_taken_back_was_not() {
        for side in [Side::Buy, Side::Sell] {
            let mut w = World::default();
            w.account.deposit(&mut w.totals, 10_000).expect("room");
            w.trade(&terms(Side::Buy, 5, 100), &[(5, 100)], false);
            let (account, position) = (w.account, w.position);
            w.trade(&Terms { fee_bps: 13, ..terms(side, 5, 100) }, &[(5, 100)], false);
            let trade =
                Settled { side, quantity: 5, value_e4: 500, fee: Fee { charged_e4: 1, exact_e4: 0 }, with_house: false, keeps: false };
            assert_eq!(w.account.may_take_back(&w.position, &trade), Ok(()));
            w.account
                .take_back(Books { position: &mut w.position, house: &mut w.house, totals: &mut w.totals }, &trade)
                .expect("it is there");
            let turnover_e4 = w.account.turnover_e4;
            assert_eq!((w.account, w.position), (Account { turnover_e4, ..account }, position));
            assert_eq!((w.totals.fees_e4, w.totals.rounding_e4), (0, 0));
            // The house stands in for whoever was on the other side, and keeps that.
            let way = if side == Side::Buy { 1 } else { -1 };
            assert_eq!((w.house.quantity, w.house.cash_e4), (5 * way, -500 * way));
        }
        let w = World::default();
        let trade = |side| Settled { side, quantity: 5, value_e4: 500, fee: Fee::default(), with_house: true, keeps: false };
        assert_eq!(w.account.may_take_back(&w.position, &trade(Side::Buy)), Err(Reason::ShortSellNotPermitted));
        assert_eq!(w.account.may_take_back(&w.position, &trade(Side::Sell)), Err(Reason::InsufficientFunds));
        // A short sale frees what was held for it.
        let sold = Account { reserved_e4: 525, ..Default::default() };
        assert_eq!(sold.may_take_back(&Position { short: 5, collateral_e4: 525, ..Default::default() }, &trade(Side::Sell)), Ok(()));
        let rich = Account { available_e4: PUBLIC_MAX, ..Default::default() };
        assert_eq!(rich.may_take_back(&Position { long: 5, ..Default::default() }, &trade(Side::Buy)), Err(Reason::NotionalLimit));
    }

    #[test]
    fn a_short_sale_holds_cash_until_it_is_covered() {
        let mut w = World::default();
        w.account.deposit(&mut w.totals, 10_000).expect("room");
        w.trade(&terms(Side::Buy, 3, 100), &[(3, 100)], false);
        w.trade(&Terms { short_unit_e4: 105, ..terms(Side::Sell, 10, 95) }, &[(1, 100), (8, 100), (1, 100)], false);
        assert_eq!((w.position.net(), w.position.short, w.position.collateral_e4), (-7, 7, 735));
        assert_eq!((w.account.available_e4, w.account.reserved_e4), (10_700 - 735, 735));
        w.trade(&terms(Side::Buy, 5, 100), &[(5, 90)], false);
        assert_eq!((w.position.net(), w.position.collateral_e4), (-2, 210));
        w.trade(&terms(Side::Buy, 5, 100), &[(5, 90)], false);
        assert_eq!((w.position, w.account.reserved_e4), (Position { long: 3, ..Default::default() }, 0));
        assert_eq!(w.house.clearing_quantity, -3);
    }

    #[test]
    fn shares_that_are_given_back_cover_what_is_owed() {
        let mut w = World::default();
        w.account.deposit(&mut w.totals, 10_000).expect("room");
        w.trade(&terms(Side::Buy, 10, 100), &[(10, 100)], false);
        let all = terms(Side::Sell, 10, 104).need(0, 0, 10).expect("in bounds");
        w.account.reserve(&mut w.position, &all).expect("shares");
        w.trade(&Terms { short_unit_e4: 105, ..terms(Side::Sell, 5, 95) }, &[(5, 100)], false);
        assert_eq!((w.position.short, w.account.reserved_e4), (5, 525));
        w.account.release(&mut w.position, &all).expect("what was held");
        assert_eq!((w.position, w.account.reserved_e4), (Position { long: 5, ..Default::default() }, 0));
    }

    #[test]
    fn what_must_not_happen_is_an_error() {
        let cash = |cash_e4| Hold { cash_e4, ..Hold::default() };
        let mut p = Position::default();
        let mut a = Account { available_e4: 10, ..Default::default() };
        assert!(a.reserve(&mut p, &cash(11)).is_err());
        assert!(Account::default().release(&mut p, &cash(1)).is_err());
        let mut full = Position { long: 1, reserved: 1, ..Default::default() };
        assert!(Account::default().reserve(&mut full, &Hold { shares: 1, incoming_e4: 1, ..Hold::default() }).is_err());
        let mut totals = Totals { users_e4: 1, ..Default::default() };
        assert!(a.deposit(&mut totals, 5).is_err(), "totals that were wrong before are found");
    }

    #[test]
    fn bounds() {
        let a = Account { available_e4: PUBLIC_MAX - 10, incoming_e4: 5, ..Default::default() };
        let (buy, sell) = (|cash_e4| Hold { cash_e4, ..Hold::default() }, |incoming_e4| Hold { incoming_e4, ..Hold::default() });
        assert!(a.can_deposit(5) && !a.can_deposit(6));
        assert!(a.within_bounds(&sell(5)) && !a.within_bounds(&sell(6)) && a.within_bounds(&buy(6)));
        assert!(!Account { turnover_e4: PUBLIC_MAX, ..a }.within_bounds(&buy(1)));
    }

    proptest! {
        /// P6, I1, I2: whatever is done in whatever order, everything sums to zero and nothing is negative.
        #[test]
        fn conservation(steps in prop::collection::vec((0_u8..8, 1_i64..1_000, 1_i64..10_000, 0_i64..300), 1..200)) {
            let mut w = World::default();
            for (what, quantity, price, fee_bps) in steps {
                let value = quantity * price;
                let t = |side| Terms { fee_bps, short_unit_e4: 2 * price, ..terms(side, quantity, price) };
                let part = 1 + quantity / 3;
                match what {
                    0 | 1 if w.account.can_deposit(value) => w.account.deposit(&mut w.totals, value).expect("deposit"),
                    2 if may_withdraw(&w.account, value).is_ok() => w.account.withdraw(&mut w.totals, value).expect("withdraw"),
                    3 | 4 if 2 * value <= w.account.available_e4 => w.trade(&t(Side::Buy), &[(part, price), (quantity - part, (price + 1) / 2)], what == 3),
                    5 | 6 if quantity <= w.position.sellable() || 2 * value <= w.account.available_e4 => {
                        w.trade(&t(Side::Sell), &[(part, price), (quantity - part, price + price / 2)], what == 5);
                    }
                    7 => {
                        let side = if fee_bps % 2 == 0 { Side::Buy } else { Side::Sell };
                        let trade = Settled { side, quantity: part, value_e4: part * price, fee: Fee { charged_e4: 2, exact_e4: 1 }, with_house: false, keeps: false };
                        if w.account.may_take_back(&w.position, &trade).is_ok() {
                            let books = Books { position: &mut w.position, house: &mut w.house, totals: &mut w.totals };
                            w.account.take_back(books, &trade).expect("it may");
                        }
                    }
                    _ => {}
                }
                prop_assert!(w.account.available_e4 >= 0 && w.account.reserved_e4 == w.position.collateral_e4 && w.account.incoming_e4 == 0);
                let fees = w.totals.fees_e4 + w.totals.rounding_e4;
                let cash = w.account.cash() + w.house.cash_e4 + w.house.clearing_e4 + w.totals.external_e4 + fees;
                prop_assert_eq!(cash, 0);
                prop_assert_eq!(i128::from(w.position.net()) + w.house.quantity + w.house.clearing_quantity, 0);
            }
        }
    }
}
