//! Cash and shares of users, and the only postings that move them (double entry).
//!
//! Every posting is balanced: the sums over users, house and outside are zero, per currency and per
//! symbol. Every posting checks these sums, in every build. A sum that is not zero stops the task
//! before the commit.
//!
//! Public integers must stay within 2^62 for ever, so each account has two bounds. The first bounds
//! `cash + incoming`, with the maximum proceeds of open sells. The second bounds `turnover`: the
//! value of all trades of the account's life, and of open orders. The second bound covers all
//! values that follow from trades: positions (a share costs at least one unit), cost basis and
//! realised profit.

use super::decimal::PUBLIC_MAX;
use super::hold::{Fee, Hold};
use super::rate_limit::{Messages, UserBucket};
use super::reason::Reason;
use super::status::Side;

/// Error for a violated invariant of the ledger.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the books do not balance: {0}")]
pub struct Unbalanced(pub &'static str);

/// One user's cash and counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Free cash, in 10^-4.
    pub available_e4: i64,
    /// Cash that open orders and short positions hold.
    pub reserved_e4: i64,
    /// Maximum proceeds of open sells.
    pub incoming_e4: i64,
    /// Value of all trades, and of the holds of open orders.
    pub turnover_e4: i64,
    /// `user_seq` of the user's last event.
    pub user_seq: u64,
    /// Rate limit bucket for orders and replacements.
    pub clock: UserBucket,
    /// Number of resting orders and waiting stops.
    pub open_orders: u64,
    /// Number of symbols with a short position.
    pub shorts: u64,
    /// The opening deposit has not been posted yet: all commands so far were refused with reasons
    /// that open no account.
    pub unopened: bool,
    /// Debt: cost of busted trades beyond the cash of the account. With a debt, no cash is free.
    pub owed_e4: i64,
    /// Rate limit bucket for all other commands.
    pub messages: Messages,
}

/// One user's shares of one symbol. Long and short shares are separate, because a short sale must
/// not use up shares that an open sell holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Shares owned.
    pub long: i64,
    /// Shares that open sells hold.
    pub reserved: i64,
    /// Shares owed.
    pub short: i64,
    /// Collateral: cash that is held until the owed shares are bought back.
    pub collateral_e4: i64,
}

/// House position and clearing of one symbol, for trades of one task's users.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HousePosition {
    /// The house's cash from this symbol.
    pub cash_e4: i128,
    /// The house's shares.
    pub quantity: i128,
    /// Sum of all users' shares.
    pub users_quantity: i128,
    /// Clearing cash, between users of this task and of other tasks. At rest, the sum over all
    /// tasks is zero; the same holds for shares.
    pub clearing_e4: i128,
    /// Clearing shares.
    pub clearing_quantity: i128,
}

/// Cash of one task, by ledger account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CashTotals {
    /// Available and reserved cash of all users, less debts.
    pub users_e4: i128,
    /// Cash of the house.
    pub house_e4: i128,
    /// Cash of the outside: withdrawals minus deposits.
    pub external_e4: i128,
    /// Clearing: cash in flight between users.
    pub clearing_e4: i128,
    /// Exact fees, rounded down.
    pub fees_e4: i128,
    /// Rounding surplus: charged fees minus exact fees.
    pub rounding_e4: i128,
}

impl CashTotals {
    fn balanced(&self) -> Result<(), Unbalanced> {
        let sum = self.users_e4
            + self.house_e4
            + self.external_e4
            + self.clearing_e4
            + self.fees_e4
            + self.rounding_e4;
        if sum == 0 {
            Ok(())
        } else {
            Err(Unbalanced("cash does not sum to zero"))
        }
    }
}

impl HousePosition {
    fn balanced(&self) -> Result<(), Unbalanced> {
        if self.quantity + self.users_quantity + self.clearing_quantity == 0 {
            Ok(())
        } else {
            Err(Unbalanced("shares do not sum to zero"))
        }
    }
}

fn add(to: &mut i64, n: i64) -> Result<(), Unbalanced> {
    *to = to
        .checked_add(n)
        .filter(|n| (0..=PUBLIC_MAX).contains(n))
        .ok_or(Unbalanced("a balance left its bounds"))?;
    Ok(())
}

fn sub(from: &mut i64, n: i64) -> Result<(), Unbalanced> {
    *from = from
        .checked_sub(n)
        .filter(|n| (0..=PUBLIC_MAX).contains(n))
        .ok_or(Unbalanced("a balance became negative"))?;
    Ok(())
}

fn fits(parts: &[i64]) -> bool {
    parts.iter().map(|n| i128::from(*n)).sum::<i128>() <= i128::from(PUBLIC_MAX)
}

impl Account {
    fn cash(&self) -> i128 {
        i128::from(self.available_e4) + i128::from(self.reserved_e4) - i128::from(self.owed_e4)
    }

    /// Free cash; a negative value is the debt.
    pub fn balance_e4(&self) -> i64 {
        self.available_e4 - self.owed_e4
    }

    /// Reason for refusing a command that needs more cash.
    pub fn lacks_cash(&self) -> Reason {
        if self.owed_e4 > 0 {
            Reason::DebitBalance
        } else {
            Reason::InsufficientFunds
        }
    }

    /// Pays the debt from free cash.
    fn pay(&mut self) {
        let paid = self.available_e4.min(self.owed_e4);
        (self.available_e4, self.owed_e4) = (self.available_e4 - paid, self.owed_e4 - paid);
    }

    /// True if a deposit keeps the account within its bounds.
    pub fn can_deposit(&self, amount: i64) -> bool {
        fits(&[
            self.available_e4,
            self.reserved_e4,
            self.incoming_e4,
            amount,
        ])
    }

    /// True if an order may reserve this hold without passing a bound.
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

    /// Posts a deposit: from outside to the account.
    pub fn deposit(&mut self, totals: &mut CashTotals, amount: i64) -> Result<(), Unbalanced> {
        add(&mut self.available_e4, amount)?;
        self.pay();
        totals.users_e4 += i128::from(amount);
        totals.external_e4 -= i128::from(amount);
        totals.balanced()
    }

    /// Posts a withdrawal: from the account to outside.
    pub fn withdraw(&mut self, totals: &mut CashTotals, amount: i64) -> Result<(), Unbalanced> {
        sub(&mut self.available_e4, amount)?;
        totals.users_e4 -= i128::from(amount);
        totals.external_e4 += i128::from(amount);
        totals.balanced()
    }

    /// Reserves cash and shares for an order.
    pub fn reserve(&mut self, position: &mut Position, hold: &Hold) -> Result<(), Unbalanced> {
        sub(&mut self.available_e4, hold.cash_e4)?;
        add(&mut self.reserved_e4, hold.cash_e4)?;
        add(&mut position.reserved, hold.shares)?;
        add(&mut self.incoming_e4, hold.incoming_e4)?;
        add(&mut self.turnover_e4, hold.cash_e4)?;
        add(&mut self.turnover_e4, hold.incoming_e4)?;
        position.check()
    }

    /// Releases a hold. Shares that become free cover a short position, and free cash pays the
    /// debt.
    pub fn release(&mut self, position: &mut Position, hold: &Hold) -> Result<(), Unbalanced> {
        self.give_back(position, hold)?;
        self.cover(position)?;
        self.pay();
        Ok(())
    }

    fn give_back(&mut self, position: &mut Position, hold: &Hold) -> Result<(), Unbalanced> {
        sub(&mut self.reserved_e4, hold.cash_e4)?;
        add(&mut self.available_e4, hold.cash_e4)?;
        sub(&mut position.reserved, hold.shares)?;
        sub(&mut self.incoming_e4, hold.incoming_e4)?;
        sub(&mut self.turnover_e4, hold.cash_e4)?;
        sub(&mut self.turnover_e4, hold.incoming_e4)?;
        Ok(())
    }

    /// Covers a short position with free shares, and releases its collateral.
    fn cover(&mut self, position: &mut Position) -> Result<(), Unbalanced> {
        let uncovered = position.cover()?;
        sub(&mut self.reserved_e4, uncovered)?;
        add(&mut self.available_e4, uncovered)?;
        position.check()
    }

    /// Settles a trade: removes the order's hold (`freed`), pays or receives the value, takes the
    /// fee, and moves the shares.
    pub fn settle(
        &mut self,
        ledger: &mut Ledger,
        trade: &TradeLeg,
        freed: &Hold,
    ) -> Result<(), Unbalanced> {
        let position = &mut ledger.position;
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

                // Cash that was held for the short sale stays held, as collateral of the position.
                // With `keeps`, the proceeds less the fee join the collateral.
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
        self.balance(
            ledger,
            (cash, shares),
            signed(trade),
            trade.fee,
            trade.with_house,
        )
    }

    /// Sets the collateral of a short position to the amount due at the current price, as far as
    /// cash allows. Surplus collateral becomes free.
    pub fn mark(&mut self, position: &mut Position, due_e4: i128) -> Result<(), Unbalanced> {
        let pool = i128::from(self.available_e4) + i128::from(position.collateral_e4);
        let held = i64::try_from(due_e4.min(pool))
            .map_err(|_| Unbalanced("a collateral left its bounds"))?;
        self.release_collateral(position, position.collateral_e4 - held)?;
        self.pay();
        Ok(())
    }

    /// Releases `amount` of a short position's collateral; a negative amount adds collateral.
    pub fn release_collateral(
        &mut self,
        position: &mut Position,
        amount: i64,
    ) -> Result<(), Unbalanced> {
        let change = |n: &mut i64, by: Option<i64>| {
            *n = by
                .and_then(|by| n.checked_add(by))
                .filter(|n| (0..=PUBLIC_MAX).contains(n))
                .ok_or(Unbalanced("a collateral left its bounds"))?;
            Ok(())
        };

        change(&mut self.available_e4, Some(amount))?;
        change(&mut self.reserved_e4, amount.checked_neg())?;
        change(&mut position.collateral_e4, amount.checked_neg())
    }

    /// Posts the other sides of a change of account and position. `before` is the cash and the
    /// shares before the change; `value` is the amount that the other side gets.
    fn balance(
        &self,
        ledger: &mut Ledger,
        before: (i128, i64),
        value: i128,
        fee: Fee,
        with_house: bool,
    ) -> Result<(), Unbalanced> {
        let Ledger {
            position,
            house,
            totals,
        } = ledger;
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

    /// True if a bust of the trade keeps the account within its bounds.
    pub fn can_take_back(&self, position: &Position, trade: &TradeLeg) -> bool {
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

    /// Old rule: a bust requires that the account still has the shares or cash of the trade. Runs
    /// the bust on copies, so the answer matches the real posting.
    pub fn still_has(&self, position: &Position, trade: &TradeLeg) -> Result<(), Reason> {
        if trade.side == Side::Buy && position.sellable() < trade.quantity {
            return Err(Reason::ShortSellNotPermitted);
        }

        let mut account = *self;
        let fits = account.can_take_back(position, trade);
        let mut ledger = Ledger {
            position: *position,
            ..Ledger::default()
        };

        match account.bust_trade(&mut ledger, trade) {
            Ok(()) if fits && account.owed_e4 > 0 => Err(Reason::InsufficientFunds),
            Ok(()) if fits => Ok(()),
            _ => Err(Reason::NotionalLimit),
        }
    }

    /// Busts a settled trade: value and shares return, and the fee is refunded. Missing cash
    /// becomes a debt. Missing shares become a short position, with the price paid as collateral.
    /// The house is the other side, even if the counterparty was a user. So no other user's account
    /// changes.
    pub fn bust_trade(&mut self, ledger: &mut Ledger, trade: &TradeLeg) -> Result<(), Unbalanced> {
        let position = &mut ledger.position;
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
                self.release_collateral(position, -(trade.value_e4 / trade.quantity * gone))?;
            }
            Side::Sell => add(&mut position.long, trade.quantity)?,
        }

        // Cover first, because the collateral of a short sale may have to pay for its bust.
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

        self.balance(ledger, (cash, shares), -signed(trade), fee, true)
    }
}

/// Value of a trade, as the other side sees it: positive if the user bought.
fn signed(trade: &TradeLeg) -> i128 {
    i128::from(trade.value_e4) * if trade.side == Side::Buy { 1 } else { -1 }
}

/// One side of a trade.
#[derive(Clone, Copy, Debug)]
pub struct TradeLeg {
    /// Side of the user.
    pub side: Side,
    pub quantity: i64,
    pub value_e4: i64,
    /// Fee of the user.
    pub fee: Fee,
    /// The other side is the house, not another user.
    pub with_house: bool,
    /// The proceeds of a short sale are held.
    pub keeps: bool,
}

impl TradeLeg {
    /// Cash to hold for `short` shares sold short: the earlier hold, and the proceeds less the fee.
    #[cold]
    fn held_with(&self, short: i64, before_e4: i64) -> Result<i64, Unbalanced> {
        let brings = (self.value_e4 / self.quantity * short)
            .min(self.value_e4 - self.fee.charged_e4)
            .max(0);
        before_e4
            .checked_add(brings)
            .ok_or(Unbalanced("a collateral left its bounds"))
    }
}

/// Ledger accounts that a trade changes besides the user's account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// The user's shares.
    pub position: Position,
    /// House and clearing.
    pub house: HousePosition,
    /// Cash totals of the task.
    pub totals: CashTotals,
}

impl Position {
    /// Shares that may be sold without going short.
    pub fn sellable(&self) -> i64 {
        self.long - self.reserved
    }

    /// Net position: shares owned less shares owed.
    pub fn net(&self) -> i64 {
        self.long - self.short
    }

    /// Covers owed shares with free shares; returns the collateral that becomes free. The last
    /// covered share frees the rest.
    fn cover(&mut self) -> Result<i64, Unbalanced> {
        let covered = self.short.min(self.sellable());
        if covered == 0 {
            return Ok(0);
        }

        let freed = i128::from(self.collateral_e4) * i128::from(covered) / i128::from(self.short);
        let freed = i64::try_from(freed).map_err(|_| Unbalanced("a collateral left its bounds"))?;
        sub(&mut self.long, covered)?;
        sub(&mut self.short, covered)?;
        sub(&mut self.collateral_e4, freed)?;
        Ok(freed)
    }

    fn check(&self) -> Result<(), Unbalanced> {
        if self.reserved > self.long {
            return Err(Unbalanced("more shares reserved than held"));
        }

        if self.short == 0 && self.collateral_e4 != 0 {
            Err(Unbalanced("collateral for nothing"))
        } else {
            Ok(())
        }
    }
}

/// Checks a withdrawal against free cash.
pub fn may_withdraw(account: &Account, amount: i64) -> Result<(), Reason> {
    if amount > account.available_e4 {
        Err(account.lacks_cash())
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
