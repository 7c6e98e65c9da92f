//! Money and shares of users, and the only ways to move them.
//!
//! Every movement is balanced: what users, the house and the outside world have adds up to zero,
//! per currency and per symbol, and that is checked on every posting, in every build. A sum that
//! does not come out stops the task, before anything is committed.
//!
//! Public integers must stay within 2^62 for ever, so two bounds hold for each account:
//! `cash + incoming` (what open sells may bring at most), and `turnover` (the value of all trades
//! of its life, and of open orders). The second one bounds all that is derived from trades:
//! positions (a share costs at least one unit), cost basis and realised profit.

use super::decimal::PUBLIC_MAX;
use super::hold::{Fee, Hold};
use super::rate_limit::{Messages, UserBucket};
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
    pub clock: UserBucket,
    /// Orders that rest or wait for their stop.
    pub open_orders: u64,
    /// Symbols that it is short of.
    pub shorts: u64,
    /// The opening deposit has not been made yet: all that came so far was refused in a way that
    /// opens nothing.
    pub unopened: bool,
    /// A debt: the cost of trades that were taken back, beyond the cash that was there. While there
    /// is one, nothing is available.
    pub owed_e4: i64,
    /// The second rate limit.
    pub messages: Messages,
}

/// One user's shares of one symbol. Long and short are kept apart, because shares that an open sell
/// holds must not be used up by a short sale.
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
pub struct HousePosition {
    /// The house's cash from this symbol.
    pub cash_e4: i128,
    /// The house's shares.
    pub quantity: i128,
    /// All users' shares.
    pub users_quantity: i128,
    /// Cash on its way between users of this task and of others. Over all tasks, and at rest, it
    /// sums to zero; so do the shares.
    pub clearing_e4: i128,
    /// Shares on their way.
    pub clearing_quantity: i128,
}

/// Cash of one task, by whose it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CashTotals {
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

impl CashTotals {
    fn balanced(&self) -> Result<(), Broken> {
        let sum = self.users_e4
            + self.house_e4
            + self.external_e4
            + self.clearing_e4
            + self.fees_e4
            + self.rounding_e4;
        if sum == 0 {
            Ok(())
        } else {
            Err(Broken("cash does not sum to zero"))
        }
    }
}

impl HousePosition {
    fn balanced(&self) -> Result<(), Broken> {
        if self.quantity + self.users_quantity + self.clearing_quantity == 0 {
            Ok(())
        } else {
            Err(Broken("shares do not sum to zero"))
        }
    }
}

fn add(to: &mut i64, n: i64) -> Result<(), Broken> {
    *to = to
        .checked_add(n)
        .filter(|n| (0..=PUBLIC_MAX).contains(n))
        .ok_or(Broken("a balance left its bounds"))?;
    Ok(())
}

fn sub(from: &mut i64, n: i64) -> Result<(), Broken> {
    *from = from
        .checked_sub(n)
        .filter(|n| (0..=PUBLIC_MAX).contains(n))
        .ok_or(Broken("a balance became negative"))?;
    Ok(())
}

fn fits(parts: &[i64]) -> bool {
    parts.iter().map(|n| i128::from(*n)).sum::<i128>() <= i128::from(PUBLIC_MAX)
}

impl Account {
    fn cash(&self) -> i128 {
        i128::from(self.available_e4) + i128::from(self.reserved_e4) - i128::from(self.owed_e4)
    }

    /// The cash that may be spent; negative: the debt.
    pub fn balance_e4(&self) -> i64 {
        self.available_e4 - self.owed_e4
    }

    /// Why something that needs cash is refused.
    pub fn lacks_cash(&self) -> Reason {
        if self.owed_e4 > 0 {
            Reason::DebitBalance
        } else {
            Reason::InsufficientFunds
        }
    }

    /// Cash that is free pays the debt first.
    fn pay(&mut self) {
        let paid = self.available_e4.min(self.owed_e4);
        (self.available_e4, self.owed_e4) = (self.available_e4 - paid, self.owed_e4 - paid);
    }

    /// Whether a deposit keeps the account within its bounds.
    pub fn can_deposit(&self, amount: i64) -> bool {
        fits(&[
            self.available_e4,
            self.reserved_e4,
            self.incoming_e4,
            amount,
        ])
    }

    /// Whether an order may tie up that much without any bound being passed.
    pub fn within_bounds(&self, hold: &Hold) -> bool {
        fits(&[self.turnover_e4, hold.cash_e4, hold.incoming_e4])
            && (hold.incoming_e4 == 0
                || fits(&[
                    self.available_e4,
                    self.reserved_e4,
                    self.incoming_e4,
                    hold.incoming_e4,
                ]))
    }

    /// From outside into the account.
    pub fn deposit(&mut self, totals: &mut CashTotals, amount: i64) -> Result<(), Broken> {
        add(&mut self.available_e4, amount)?;
        self.pay();
        totals.users_e4 += i128::from(amount);
        totals.external_e4 -= i128::from(amount);
        totals.balanced()
    }

    /// From the account to outside.
    pub fn withdraw(&mut self, totals: &mut CashTotals, amount: i64) -> Result<(), Broken> {
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
        self.cover(position)?;
        self.pay();
        Ok(())
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

    /// Books a trade. What the order held for it (`freed`) goes, the value is paid or received, the
    /// fee is taken, shares change hands.
    pub fn settle(
        &mut self,
        books: Books<'_>,
        trade: &Settled,
        freed: &Hold,
    ) -> Result<(), Broken> {
        let Books {
            position,
            house,
            totals,
        } = books;
        let cash = self.cash();
        let shares = position.net();
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

                // Cash that was held for selling short stays held, as the position's collateral;
                // and what the sale brings, less the fee.
                let short = trade.quantity - freed.shares;
                let held = if trade.keeps && short > 0 {
                    trade.held_with(short, freed.cash_e4)?
                } else {
                    freed.cash_e4
                };

                sub(&mut self.available_e4, held)?;
                add(&mut self.reserved_e4, held)?;
                add(&mut position.collateral_e4, held)?;
            }
        }

        sub(&mut self.available_e4, trade.fee.charged_e4)?;
        self.cover(position)?;
        self.pay();
        let value = signed(trade);
        let books = Books {
            position,
            house,
            totals,
        };

        self.balance(books, (cash, shares), value, trade.fee, trade.with_house)
    }

    /// Holds what is due for a short position by the price of now, as far as there is cash; what is
    /// more than that is free.
    pub fn mark(&mut self, position: &mut Position, due_e4: i128) -> Result<(), Broken> {
        let pool = i128::from(self.available_e4) + i128::from(position.collateral_e4);
        let held =
            i64::try_from(due_e4.min(pool)).map_err(|_| Broken("a collateral left its bounds"))?;
        self.lend(position, position.collateral_e4 - held)?;
        self.pay();
        Ok(())
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

    /// The other sides of a posting that changed the account and the position: `before` are its
    /// cash and its shares before, `value` is what the other side gets.
    fn balance(
        &self,
        books: Books<'_>,
        before: (i128, i64),
        value: i128,
        fee: Fee,
        with_house: bool,
    ) -> Result<(), Broken> {
        let Books {
            position,
            house,
            totals,
        } = books;
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

    /// Whether the account can hold what comes back with a trade, within its bounds.
    pub fn can_take_back(&self, position: &Position, trade: &Settled) -> bool {
        fits(&[self.turnover_e4, trade.value_e4])
            && fits(&[self.owed_e4, trade.value_e4])
            && fits(&[position.long, trade.quantity])
            && fits(&[position.short, trade.quantity])
            && fits(&[
                self.available_e4,
                self.reserved_e4,
                self.incoming_e4,
                trade.value_e4,
                trade.fee.charged_e4,
            ])
    }

    /// Whether what a trade brought is still there, which a trade that was taken back once needed.
    /// Tried on copies, so what is found is what would happen.
    pub fn still_has(&self, position: &Position, trade: &Settled) -> Result<(), Reason> {
        if trade.side == Side::Buy && position.sellable() < trade.quantity {
            return Err(Reason::ShortSellNotPermitted);
        }

        let mut account = *self;
        let mut position = *position;
        let fits = account.can_take_back(&position, trade);
        let books = Books {
            position: &mut position,
            house: &mut HousePosition::default(),
            totals: &mut CashTotals::default(),
        };

        match account.take_back(books, trade) {
            Ok(()) if fits && account.owed_e4 > 0 => Err(Reason::InsufficientFunds),
            Ok(()) if fits => Ok(()),
            _ => Err(Reason::NotionalLimit),
        }
    }

    /// Takes a trade back that was settled before: value and shares return, the fee is given back.
    /// Cash that is not there any more becomes a debt, and so do shares: a short position, which
    /// holds what was paid for them. The house is the other side, whoever that was in the trade:
    /// nobody else's account is touched.
    pub fn take_back(&mut self, books: Books<'_>, trade: &Settled) -> Result<(), Broken> {
        let Books {
            position,
            house,
            totals,
        } = books;
        let cash = self.cash();
        let shares = position.net();
        add(&mut self.turnover_e4, trade.value_e4)?;
        add(&mut self.available_e4, trade.fee.charged_e4)?;
        match trade.side {
            Side::Buy => {
                add(&mut self.available_e4, trade.value_e4)?;
                let here = position.sellable().min(trade.quantity);
                let gone = trade.quantity - here;
                sub(&mut position.long, here)?;
                add(&mut position.short, gone)?;
                self.lend(position, -(trade.value_e4 / trade.quantity * gone))?;
            }
            Side::Sell => add(&mut position.long, trade.quantity)?,
        }

        // First, because the collateral of a short sale may be what pays for its end.
        self.cover(position)?;
        if trade.side == Side::Sell {
            let there = self.available_e4.min(trade.value_e4);
            sub(&mut self.available_e4, there)?;
            add(&mut self.owed_e4, trade.value_e4 - there)?;
        }

        self.pay();
        let fee = Fee {
            charged_e4: -trade.fee.charged_e4,
            exact_e4: -trade.fee.exact_e4,
        };

        self.balance(
            Books {
                position,
                house,
                totals,
            },
            (cash, shares),
            -signed(trade),
            fee,
            true,
        )
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
    /// The cash to hold for so many shares sold short: the cash held before, and their proceeds, as
    /// far as the fee leaves them.
    #[cold]
    fn held_with(&self, short: i64, before_e4: i64) -> Result<i64, Broken> {
        let brings = (self.value_e4 / self.quantity * short)
            .min(self.value_e4 - self.fee.charged_e4)
            .max(0);
        before_e4
            .checked_add(brings)
            .ok_or(Broken("a collateral left its bounds"))
    }
}

/// The amounts that a trade moves besides the account.
pub struct Books<'a> {
    /// The user's shares.
    pub position: &'a mut Position,
    /// The other sides.
    pub house: &'a mut HousePosition,
    /// The task's cash.
    pub totals: &'a mut CashTotals,
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

    /// Free shares cover what is owed; answers the collateral that is free now. The last share
    /// covered frees the rest.
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

        if self.short == 0 && self.collateral_e4 != 0 {
            Err(Broken("collateral for nothing"))
        } else {
            Ok(())
        }
    }
}

/// Checks a withdrawal.
pub fn may_withdraw(account: &Account, amount: i64) -> Result<(), Reason> {
    if amount > account.available_e4 {
        Err(account.lacks_cash())
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
