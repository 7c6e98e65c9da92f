//! Portfolio arithmetic: exact cost basis, gross realised profit. The average price is for display
//! and never stored, so no rounding error accumulates.

use super::status::Side;

/// Position in a portfolio. Quantity and cost basis are negative for a short position.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holding {
    pub quantity: i64,
    /// Shares that open sells hold.
    pub reserved: i64,
    /// Cost basis of all shares, in 10^-4.
    pub cost_basis_e4: i64,
}

/// Applies a fill; returns the realised profit. `None`: beyond `i64`, which the bounds of an
/// account exclude.
pub fn fill(h: &mut Holding, side: Side, quantity: i64, price_e4: i64) -> Option<i64> {
    let signed = if side == Side::Buy {
        quantity
    } else {
        quantity.checked_neg()?
    };

    let value = |q: i64| i64::try_from(i128::from(q) * i128::from(price_e4)).ok();
    if h.quantity == 0 || (h.quantity > 0) == (signed > 0) {
        h.quantity = h.quantity.checked_add(signed)?;
        h.cost_basis_e4 = h.cost_basis_e4.checked_add(value(signed)?)?;
        return Some(0);
    }

    // Closing k of n shares removes floor(basis * k / n). The last share removes the rest, so the
    // sum is exact for any steps.
    let n = h.quantity.unsigned_abs();
    let k = quantity.unsigned_abs().min(h.quantity.unsigned_abs());
    let out = if k == n {
        h.cost_basis_e4
    } else {
        i64::try_from((i128::from(h.cost_basis_e4) * i128::from(k)).div_euclid(i128::from(n)))
            .ok()?
    };

    let closed = if h.quantity > 0 {
        i64::try_from(k).ok()?
    } else {
        i64::try_from(k).ok()?.checked_neg()?
    };

    let realised = value(closed)?.checked_sub(out)?;
    h.cost_basis_e4 = h.cost_basis_e4.checked_sub(out)?;
    h.quantity = h.quantity.checked_sub(closed)?;
    let rest = signed.checked_add(closed)?;
    if rest != 0 {
        // The fill crosses zero: the rest opens a new position at the fill's price.
        h.quantity = rest;
        h.cost_basis_e4 = value(rest)?;
    }

    Some(realised)
}

#[cfg(test)]
mod tests {
    use super::*;
    use Side::*;
    use proptest::prelude::*;

    #[test]
    fn p1_three_buys_sold_one_by_one() {
        let mut h = Holding::default();
        for price in [100_000, 100_100, 100_200] {
            assert_eq!(fill(&mut h, Buy, 1, price), Some(0));
        }

        assert_eq!((h.quantity, h.cost_basis_e4), (3, 300_300));
        let mut realised = 0;
        for _ in 0..3 {
            realised += fill(&mut h, Sell, 1, 100_150).expect("in bounds");
        }

        assert_eq!((realised, h), (150, Holding::default()));
    }

    #[test]
    fn p2_a_flip_is_a_close_and_an_open() {
        let mut h = Holding::default();
        fill(&mut h, Buy, 10, 1_000);
        assert_eq!(fill(&mut h, Sell, 15, 1_200), Some(2_000));
        assert_eq!((h.quantity, h.cost_basis_e4), (-5, -6_000));
        assert_eq!(fill(&mut h, Buy, 8, 1_100), Some(500));
        assert_eq!((h.quantity, h.cost_basis_e4), (3, 3_300));
    }

    proptest! {
        /// Accounting identity: realised + unrealised = equity - deposits, exactly, after every
        /// fill.
        #[test]
        fn realised_and_unrealised_are_the_equity(fills in prop::collection::vec((any::<bool>(), 1_i64..1_000, 1_i64..1_000_000), 1..60), mark in 1_i64..1_000_000) {
            let mut h = Holding::default();
            let mut realised = 0_i64;
            let mut cash = 0_i64;
            for (buy, quantity, price) in fills {
                realised += fill(&mut h, if buy { Buy } else { Sell }, quantity, price).expect("in bounds");
                cash += if buy { -quantity * price } else { quantity * price };
                prop_assert_eq!(realised + (h.quantity * mark - h.cost_basis_e4), cash + h.quantity * mark);
                prop_assert!(h.quantity != 0 || h.cost_basis_e4 == 0);
            }
        }
    }
}
