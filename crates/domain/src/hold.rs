//! The amounts that are set aside for an order, so that whatever trades it makes, they can be paid
//! for; and what trades cost.
//!
//! A buy holds cash: what is left at its limit, and the fee. A sell holds shares; what it sells
//! short holds cash instead. Fees are counted on the sum of an order's trades, so that many small
//! fills cost what one large one does, and never more than was held.

use super::decimal::PUBLIC_MAX;
use super::status::Side;

/// The cash and shares that an order holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hold {
    /// Cash.
    pub cash_e4: i64,
    /// Shares.
    pub shares: i64,
    /// The most that a sell may bring.
    pub incoming_e4: i64,
}

/// The terms of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Which way.
    pub side: Side,
    /// The quantity that was ordered in all.
    pub quantity: i64,
    /// Worst price.
    pub limit_e4: i64,
    /// Best price of a sell.
    pub ceiling_e4: i64,
    /// Fee, of the value.
    pub fee_bps: i64,
    /// Cash held for each share sold short; 0 until there is one.
    pub short_unit_e4: i64,
}

/// The fee of a trade.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fee {
    /// The fee that the user pays, rounded up.
    pub charged_e4: i64,
    /// The exact fee, rounded down.
    pub exact_e4: i64,
}

/// The part of a fee that belongs to the first `part` of `whole` shares, rounded down.
pub fn part_of(fee_e4: i64, part: i64, whole: i64) -> i64 {
    let exact = i128::from(fee_e4) * i128::from(part) / i128::from(whole.max(1));
    i64::try_from(exact).unwrap_or(fee_e4)
}

fn bounded(n: i128) -> Option<i64> {
    i64::try_from(n)
        .ok()
        .filter(|n| (0..=PUBLIC_MAX).contains(n))
}

impl Terms {
    fn fee_up(&self, value: i128) -> i128 {
        (value * i128::from(self.fee_bps) + 9_999) / 10_000
    }

    fn fee_down(&self, value: i128) -> i128 {
        value * i128::from(self.fee_bps) / 10_000
    }

    /// The hold that the order needs when `cum` of it have traded for `value_e4` and so many shares
    /// are there for it. None: beyond all bounds.
    pub fn need(&self, cum: i64, value_e4: i64, shares: i64) -> Option<Hold> {
        let leaves = i128::from((self.quantity - cum).max(0));
        match self.side {
            Side::Buy => {
                let traded = i128::from(value_e4);
                let rest = leaves * i128::from(self.limit_e4);
                let fee = self.fee_up(traded + rest) - self.fee_up(traded);
                Some(Hold {
                    cash_e4: bounded(rest + fee)?,
                    ..Hold::default()
                })
            }
            Side::Sell => {
                let covered = leaves.min(i128::from(shares.max(0)));
                let cash_e4 = bounded((leaves - covered) * i128::from(self.short_unit_e4))?;
                Some(Hold {
                    cash_e4,
                    shares: bounded(covered)?,
                    incoming_e4: bounded(leaves * i128::from(self.ceiling_e4))?,
                })
            }
        }
    }

    /// The hold that the order needs until the book has answered a change to `new`: it may still
    /// trade by its own terms, and then go on by the new ones.
    pub fn need_until_decided(
        &self,
        new: &Terms,
        cum: i64,
        value_e4: i64,
        shares: i64,
    ) -> Option<Hold> {
        let need = new.need(cum, value_e4, shares)?;
        if self.side == Side::Sell {
            return Some(need);
        }

        // All that is left at the old limit, and what is more at the new one.
        let left = i128::from((self.quantity - cum).max(0));
        let more = i128::from((new.quantity - self.quantity).max(0));
        let rest = left * i128::from(self.limit_e4) + more * i128::from(new.limit_e4);
        let traded = i128::from(value_e4);

        // Rounded up twice, the fees of two parts can be one more than the fee of both, wherever a
        // better price parts them.
        let apart = i128::from(self.fee_bps > 0 && more > 0);
        let both = bounded(rest + self.fee_up(traded + rest) - self.fee_up(traded) + apart)?;
        Some(Hold {
            cash_e4: need.cash_e4.max(both),
            ..need
        })
    }

    /// The part of a hold that a trade uses up.
    pub fn freed(
        &self,
        hold: &Hold,
        cum: i64,
        value_e4: i64,
        quantity: i64,
        traded_e4: i64,
    ) -> Option<Hold> {
        match self.side {
            Side::Buy => {
                let before = self.need(cum, value_e4, 0)?;
                let after = self.need(cum + quantity, value_e4.checked_add(traded_e4)?, 0)?;
                Some(Hold {
                    cash_e4: before.cash_e4 - after.cash_e4,
                    ..Hold::default()
                })
            }
            Side::Sell => {
                let shares = quantity.min(hold.shares);

                // Without a margin an order may hold nothing for what it sells short. A change to a
                // limit below the price is on its way then with the cash of its new quantity, and
                // the old one may trade first: all that is held is all that there is.
                let cash_e4 =
                    bounded(i128::from(quantity - shares) * i128::from(self.short_unit_e4))?
                        .min(hold.cash_e4);
                Some(Hold {
                    cash_e4,
                    shares,
                    incoming_e4: bounded(i128::from(quantity) * i128::from(self.ceiling_e4))?,
                })
            }
        }
    }

    /// The fee of a trade after trades for `value_e4`.
    pub fn fee(&self, value_e4: i64, traded_e4: i64) -> Option<Fee> {
        let before = i128::from(value_e4);
        let after = i128::from(value_e4) + i128::from(traded_e4);
        Some(Fee {
            charged_e4: bounded(self.fee_up(after) - self.fee_up(before))?,
            exact_e4: bounded(self.fee_down(after) - self.fee_down(before))?,
        })
    }
}

impl Hold {
    /// The hold without another; none if it is smaller.
    pub fn less(&self, other: &Hold) -> Option<Hold> {
        let sub = |a: i64, b: i64| a.checked_sub(b).filter(|n| *n >= 0);
        Some(Hold {
            cash_e4: sub(self.cash_e4, other.cash_e4)?,
            shares: sub(self.shares, other.shares)?,
            incoming_e4: sub(self.incoming_e4, other.incoming_e4)?,
        })
    }

    /// Both.
    pub fn plus(&self, other: &Hold) -> Hold {
        Hold {
            cash_e4: self.cash_e4 + other.cash_e4,
            shares: self.shares + other.shares,
            incoming_e4: self.incoming_e4 + other.incoming_e4,
        }
    }

    /// The amount by which this hold exceeds another.
    pub fn beyond(&self, other: &Hold) -> Hold {
        let over = |a: i64, b: i64| (a - b).max(0);
        Hold {
            cash_e4: over(self.cash_e4, other.cash_e4),
            shares: over(self.shares, other.shares),
            incoming_e4: over(self.incoming_e4, other.incoming_e4),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_fills_cost_what_one_does() {
        let t = Terms {
            side: Side::Buy,
            quantity: 10,
            limit_e4: 101,
            ceiling_e4: 0,
            fee_bps: 33,
            short_unit_e4: 0,
        };

        let whole = t.need(0, 0, 0).expect("in bounds");
        assert_eq!(whole.cash_e4, 1_010 + 4);
        let mut hold = whole;
        let mut value = 0;
        let mut charged = 0;
        for n in 0..10 {
            let fee = t.fee(value, 101).expect("in bounds");
            let freed = t.freed(&hold, n, value, 1, 101).expect("in bounds");
            assert_eq!(freed.cash_e4, 101 + fee.charged_e4);
            hold = hold.less(&freed).expect("held");
            (value, charged) = (value + 101, charged + fee.charged_e4);
        }

        assert_eq!((hold, charged), (Hold::default(), 4));
    }
}
