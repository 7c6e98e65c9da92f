//! Holds: cash and shares that an order reserves, so that any of its trades can be paid; and the
//! fees of trades.
//!
//! A buy holds cash: the rest of the order at its limit, and the fee. A sell holds shares; a short
//! sale holds cash instead. The fee is computed on the sum of an order's trades. So many small
//! fills cost the same as one large fill, and never more than the hold.

use super::decimal::PUBLIC_MAX;
use super::status::Side;

/// Cash and shares that an order holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hold {
    /// Cash, in 10^-4.
    pub cash_e4: i64,
    /// Shares.
    pub shares: i64,
    /// Maximum proceeds of a sell.
    pub incoming_e4: i64,
}

/// Terms of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    pub side: Side,
    /// Total quantity (FIX OrderQty).
    pub quantity: i64,
    /// Worst price.
    pub limit_e4: i64,
    /// Maximum price of a sell.
    pub ceiling_e4: i64,
    /// Fee, in basis points of the value.
    pub fee_bps: i64,
    /// Cash held for each share sold short; 0 while no share is sold short.
    pub short_unit_e4: i64,
}

/// The money side of an order that may still trade.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkingOrder {
    pub terms: Terms,
    /// Cash and shares that are reserved for the order.
    pub hold: Hold,
    /// Quantity that has traded (FIX CumQty).
    pub cum: i64,
    /// Traded value.
    pub value_e4: i64,
}

/// Fee of a trade.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fee {
    /// Charged fee, rounded up.
    pub charged_e4: i64,
    /// Exact fee, rounded down.
    pub exact_e4: i64,
}

/// Part of a fee for the first `part` of `whole` shares, rounded down.
pub fn part_of(fee_e4: i64, part: i64, whole: i64) -> i64 {
    let exact = i128::from(fee_e4) * i128::from(part) / i128::from(whole.max(1));
    i64::try_from(exact).unwrap_or(fee_e4)
}

/// Average price of an order (FIX 6, AvgPx): traded value divided by traded quantity, rounded to the
/// nearest 10^-4, and a half upwards. `None` if nothing has traded, or the value is not known.
pub fn average_price(value_e4: i64, cum: i64) -> Option<i64> {
    if value_e4 <= 0 || cum <= 0 {
        return None;
    }

    let (value, cum) = (i128::from(value_e4), i128::from(cum));
    i64::try_from((2 * value + cum) / (2 * cum)).ok()
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

    /// Needed hold after trades of `cum` shares for `value_e4`, with `shares` available to the
    /// order. `None`: the hold is out of bounds.
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

    /// Needed hold until the book has answered a replace to `new`. The order may still trade under
    /// the old terms, and then continue under the new terms.
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

        // The rest at the old limit, and the increase at the new limit.
        let left = i128::from((self.quantity - cum).max(0));
        let more = i128::from((new.quantity - self.quantity).max(0));
        let rest = left * i128::from(self.limit_e4) + more * i128::from(new.limit_e4);
        let traded = i128::from(value_e4);

        // Two parts are rounded up twice, so their fees can exceed the fee of the whole by 1, at
        // any split by a better price.
        let apart = i128::from(self.fee_bps > 0 && more > 0);
        let both = bounded(rest + self.fee_up(traded + rest) - self.fee_up(traded) + apart)?;
        Some(Hold {
            cash_e4: need.cash_e4.max(both),
            ..need
        })
    }

    /// Part of a hold that a trade uses up.
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

                // With a margin of 0, a short sale may hold no cash. A replace to a limit below the
                // price then brings cash for its new quantity, but the old quantity may trade
                // first. So use at most the held cash.
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

    /// Fee of a trade, after earlier trades for `value_e4`.
    pub fn fee(&self, value_e4: i64, traded_e4: i64) -> Option<Fee> {
        let before = i128::from(value_e4);
        let after = i128::from(value_e4) + i128::from(traded_e4);
        Some(Fee {
            charged_e4: bounded(self.fee_up(after) - self.fee_up(before))?,
            exact_e4: bounded(self.fee_down(after) - self.fee_down(before))?,
        })
    }
}

impl WorkingOrder {
    /// True if the whole quantity has traded.
    pub fn is_filled(&self) -> bool {
        self.cum == self.terms.quantity
    }
}

impl Hold {
    /// Subtracts a hold; `None` if a part would be negative.
    pub fn checked_sub(&self, other: &Hold) -> Option<Hold> {
        let sub = |a: i64, b: i64| a.checked_sub(b).filter(|n| *n >= 0);
        Some(Hold {
            cash_e4: sub(self.cash_e4, other.cash_e4)?,
            shares: sub(self.shares, other.shares)?,
            incoming_e4: sub(self.incoming_e4, other.incoming_e4)?,
        })
    }

    /// Sum of two holds.
    pub fn plus(&self, other: &Hold) -> Hold {
        Hold {
            cash_e4: self.cash_e4 + other.cash_e4,
            shares: self.shares + other.shares,
            incoming_e4: self.incoming_e4 + other.incoming_e4,
        }
    }

    /// Part of this hold that exceeds another.
    pub fn excess_over(&self, other: &Hold) -> Hold {
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
    fn average_price_is_rounded_to_the_nearest_and_half_up() {
        for (value, cum, want) in [
            (100, 3, Some(33)),
            (101, 3, Some(34)),
            (5, 2, Some(3)),
            (1, 3, Some(0)),
            (0, 3, None),
            (7, 0, None),
            (PUBLIC_MAX, 1, Some(PUBLIC_MAX)),
            (PUBLIC_MAX, PUBLIC_MAX, Some(1)),
        ] {
            assert_eq!(average_price(value, cum), want, "{value} / {cum}");
        }
    }

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
            hold = hold.checked_sub(&freed).expect("held");
            (value, charged) = (value + 101, charged + fee.charged_e4);
        }

        assert_eq!((hold, charged), (Hold::default(), 4));
    }
}
