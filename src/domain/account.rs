//! Money and shares of users, and the only ways to move them.
//!
//! Every movement is balanced: what users, the house and the outside world have adds up to zero, per currency and per symbol, and that is checked
//! on every posting, in every build. A sum that does not come out stops the task, before anything is committed.
//!
//! Public integers must stay within 2^62 for ever, so two bounds hold for each account: `cash + incoming` (what open sells may bring at most), and
//! `turnover` (the value of all trades of its life, and of open orders). The second one bounds all that is derived from trades: positions (a share
//! costs at least one unit), cost basis and realised profit.

use super::decimal::PUBLIC_MAX;
use super::rate_limit::Clock;
use super::reason::Reason;

/// An invariant does not hold.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the books do not balance: {0}")]
pub struct Broken(pub &'static str);

/// One user's cash and counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Cash that may be spent, 10^-4.
    pub available_e4: i64,
    /// Cash that open buys hold.
    pub reserved_e4: i64,
    /// The most that open sells may bring.
    pub incoming_e4: i64,
    /// Value of all trades and of the holds of open orders.
    pub turnover_e4: i64,
    /// Number of the user's last event.
    pub user_seq: u64,
    /// Rate limit.
    pub clock: Clock,
}

/// One user's shares of one symbol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// All of them.
    pub quantity: i64,
    /// Those that open sells hold.
    pub reserved: i64,
}

/// The other side, for one symbol, as far as one task's users traded with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct House {
    /// The house's cash from this symbol.
    pub cash_e4: i128,
    /// The house's shares.
    pub quantity: i128,
    /// All users' shares.
    pub users_quantity: i128,
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
}

impl Totals {
    fn balanced(&self) -> Result<(), Broken> {
        if self.users_e4 + self.house_e4 + self.external_e4 == 0 { Ok(()) } else { Err(Broken("cash does not sum to zero")) }
    }
}

impl House {
    fn balanced(&self) -> Result<(), Broken> {
        if self.quantity + self.users_quantity == 0 { Ok(()) } else { Err(Broken("shares do not sum to zero")) }
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

    /// Whether an order may tie up that much without any bound being passed, if it is bought (cash leaves) or sold (cash may come).
    pub fn within_bounds(&self, hold: i64, sells: bool) -> bool {
        fits(&[self.turnover_e4, hold]) && (!sells || fits(&[self.available_e4, self.reserved_e4, self.incoming_e4, hold]))
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

    /// Sets cash aside for a buy.
    pub fn reserve_buy(&mut self, hold: i64) -> Result<(), Broken> {
        sub(&mut self.available_e4, hold)?;
        add(&mut self.reserved_e4, hold)?;
        add(&mut self.turnover_e4, hold)
    }

    /// Gives the hold of a buy back.
    pub fn release_buy(&mut self, hold: i64) -> Result<(), Broken> {
        sub(&mut self.reserved_e4, hold)?;
        add(&mut self.available_e4, hold)?;
        sub(&mut self.turnover_e4, hold)
    }

    /// Sets shares aside for a sell; `hold` is the most that it may bring.
    pub fn reserve_sell(&mut self, position: &mut Position, quantity: i64, hold: i64) -> Result<(), Broken> {
        add(&mut position.reserved, quantity)?;
        add(&mut self.incoming_e4, hold)?;
        add(&mut self.turnover_e4, hold)?;
        position.check()
    }

    /// Gives the hold of a sell back.
    pub fn release_sell(&mut self, position: &mut Position, quantity: i64, hold: i64) -> Result<(), Broken> {
        sub(&mut position.reserved, quantity)?;
        sub(&mut self.incoming_e4, hold)?;
        sub(&mut self.turnover_e4, hold)?;
        position.check()
    }

    /// Books a buy from the house that ends its order: the hold goes, the value is paid, the rest is free again.
    pub fn buy_from_house(&mut self, books: Books<'_>, quantity: i64, value: i64, hold: i64) -> Result<(), Broken> {
        let before = self.cash();
        self.release_buy(hold)?;
        sub(&mut self.available_e4, value)?;
        add(&mut self.turnover_e4, value)?;
        add(&mut books.position.quantity, quantity)?;
        books.house.cash_e4 += i128::from(value);
        books.house.quantity -= i128::from(quantity);
        books.house.users_quantity += i128::from(quantity);
        books.totals.house_e4 += i128::from(value);
        books.totals.users_e4 += self.cash() - before;
        books.balanced()
    }

    /// Books a sell to the house that ends its order.
    pub fn sell_to_house(&mut self, books: Books<'_>, quantity: i64, value: i64, hold: i64) -> Result<(), Broken> {
        let before = self.cash();
        self.release_sell(books.position, quantity, hold)?;
        add(&mut self.available_e4, value)?;
        add(&mut self.turnover_e4, value)?;
        sub(&mut books.position.quantity, quantity)?;
        books.house.cash_e4 -= i128::from(value);
        books.house.quantity += i128::from(quantity);
        books.house.users_quantity -= i128::from(quantity);
        books.totals.house_e4 -= i128::from(value);
        books.totals.users_e4 += self.cash() - before;
        books.balanced()
    }
}

/// What a trade with the house moves besides the account.
pub struct Books<'a> {
    /// The user's shares.
    pub position: &'a mut Position,
    /// The other side.
    pub house: &'a mut House,
    /// The task's cash.
    pub totals: &'a mut Totals,
}

impl Books<'_> {
    fn balanced(&self) -> Result<(), Broken> {
        self.position.check()?;
        self.house.balanced()?;
        self.totals.balanced()
    }
}

impl Position {
    /// What may still be sold.
    pub fn sellable(&self) -> i64 {
        self.quantity - self.reserved
    }

    fn check(&self) -> Result<(), Broken> {
        if self.reserved <= self.quantity { Ok(()) } else { Err(Broken("more shares reserved than held")) }
    }
}

/// Checks a withdrawal.
pub fn may_withdraw(account: &Account, amount: i64) -> Result<(), Reason> {
    if amount > account.available_e4 { Err(Reason::InsufficientFunds) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
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
        fn parts(&mut self) -> (&mut Account, Books<'_>) {
            (&mut self.account, Books { position: &mut self.position, house: &mut self.house, totals: &mut self.totals })
        }
    }

    #[test]
    fn a_round_trip_with_the_house() {
        let mut w = World::default();
        w.account.deposit(&mut w.totals, 1_000).expect("room");
        w.account.reserve_buy(600).expect("enough");
        let (a, b) = w.parts();
        a.buy_from_house(b, 5, 500, 600).expect("balanced");
        assert_eq!((w.account.available_e4, w.account.reserved_e4, w.position.quantity), (500, 0, 5));
        w.account.reserve_sell(&mut w.position, 5, 1_000).expect("enough");
        assert_eq!((w.position.sellable(), w.account.incoming_e4), (0, 1_000));
        let (a, b) = w.parts();
        a.sell_to_house(b, 5, 450, 1_000).expect("balanced");
        assert_eq!((w.account.available_e4, w.account.turnover_e4, w.house.cash_e4), (950, 950, 50));
        assert_eq!((w.account.incoming_e4, w.position), (0, Position::default()));
    }

    #[test]
    fn what_must_not_happen_is_an_error() {
        let mut a = Account { available_e4: 10, ..Default::default() };
        assert!(a.reserve_buy(11).is_err());
        let mut a = Account::default();
        assert!(a.release_buy(1).is_err());
        assert!(a.reserve_sell(&mut Position { quantity: 1, reserved: 1 }, 1, 1).is_err());
        let mut totals = Totals { users_e4: 1, ..Default::default() };
        assert!(a.deposit(&mut totals, 5).is_err(), "totals that were wrong before are found");
    }

    #[test]
    fn bounds() {
        let a = Account { available_e4: PUBLIC_MAX - 10, incoming_e4: 5, ..Default::default() };
        assert!(a.can_deposit(5) && !a.can_deposit(6));
        assert!(a.within_bounds(5, true) && !a.within_bounds(6, true) && a.within_bounds(6, false));
        assert!(!Account { turnover_e4: PUBLIC_MAX, ..a }.within_bounds(1, false));
    }

    proptest! {
        /// P6, I1, I2: whatever is done in whatever order, everything sums to zero and nothing is negative.
        #[test]
        fn conservation(steps in prop::collection::vec((0_u8..6, 1_i64..1_000, 1_i64..10_000), 1..200)) {
            let mut w = World::default();
            for (what, quantity, price) in steps {
                let value = quantity * price;
                match what {
                    0 | 1 if w.account.can_deposit(value) => w.account.deposit(&mut w.totals, value).expect("deposit"),
                    2 if may_withdraw(&w.account, value).is_ok() => w.account.withdraw(&mut w.totals, value).expect("withdraw"),
                    3 | 4 if value + 7 <= w.account.available_e4 => {
                        w.account.reserve_buy(value + 7).expect("reserve");
                        let (a, b) = w.parts();
                        a.buy_from_house(b, quantity, value, value + 7).expect("buy");
                    }
                    5 if quantity <= w.position.sellable() => {
                        w.account.reserve_sell(&mut w.position, quantity, 2 * value).expect("reserve");
                        let (a, b) = w.parts();
                        a.sell_to_house(b, quantity, value, 2 * value).expect("sell");
                    }
                    _ => {}
                }
                prop_assert!(w.account.available_e4 >= 0 && w.account.reserved_e4 == 0 && w.account.incoming_e4 == 0);
                prop_assert_eq!(i128::from(w.account.available_e4) + w.house.cash_e4 + w.totals.external_e4, 0);
                prop_assert_eq!(i128::from(w.position.quantity) + w.house.quantity, 0);
            }
        }
    }
}
