//! The house: its price, and the worst price that an order accepts.

use super::decimal::PUBLIC_MAX;
use super::instrument::Instrument;
use super::status::Side;

/// Ceiling of `price * bps / 10000`.
pub(super) fn share(price_e4: i64, bps: i64) -> i128 {
    (i128::from(price_e4) * i128::from(bps) + 9_999) / 10_000
}

/// Worst price of a market order: the reference, moved against the client by the collar. `None` if
/// out of bounds.
pub fn worst_price(side: Side, reference_e4: i64, collar_bps: i64) -> Option<i64> {
    against(side, reference_e4, share(reference_e4, collar_bps))
}

/// Ask or bid of the house: the last price, moved against the client by the half spread.
pub fn price(side: Side, last_e4: i64, half_spread_bps: i64) -> Option<i64> {
    against(side, last_e4, share(last_e4, half_spread_bps))
}

fn against(side: Side, price_e4: i64, by: i128) -> Option<i64> {
    let p = match side {
        Side::Buy => i128::from(price_e4) + by,
        Side::Sell => (i128::from(price_e4) - by).max(1),
    };

    i64::try_from(p).ok().filter(|p| *p <= PUBLIC_MAX)
}

/// True if `price` is no worse for the client than `worst`.
pub fn acceptable(side: Side, price_e4: i64, worst_e4: i64) -> bool {
    match side {
        Side::Buy => price_e4 <= worst_e4,
        Side::Sell => price_e4 >= worst_e4,
    }
}

/// `quantity * price`, if within the public bound.
pub fn value(quantity: i64, price_e4: i64) -> Option<i64> {
    i64::try_from(i128::from(quantity) * i128::from(price_e4))
        .ok()
        .filter(|v| (0..=PUBLIC_MAX).contains(v))
}

/// Price and value of a fill by the house; `None` if worse than the order's hold allows.
pub fn fill(
    side: Side,
    quantity: i64,
    last_e4: i64,
    i: &Instrument,
    worst_e4: i64,
    max_value_e4: i64,
) -> Option<(i64, i64)> {
    let price =
        price(side, last_e4, i.half_spread_bps).filter(|p| acceptable(side, *p, worst_e4))?;
    let value = value(quantity, price).filter(|v| *v <= max_value_e4)?;
    Some((price, value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use Side::*;

    #[test]
    fn every_rounding_is_against_the_client() {
        for (side, reference, bps, want) in [
            (Buy, 1_892_500, 500, Some(1_987_125)),
            (Sell, 1_892_500, 500, Some(1_797_875)),
            (Buy, 1, 1, Some(2)),
            (Sell, 1, 1, Some(1)),
            (Sell, 100, 10_000, Some(1)),
            (Buy, 3, 0, Some(3)),
            (Buy, PUBLIC_MAX, 1, None),
        ] {
            assert_eq!(
                worst_price(side, reference, bps),
                want,
                "{side:?} {reference} {bps}"
            );
            assert_eq!(price(side, reference, bps), want);
        }
    }

    #[test]
    fn p5_a_fill_never_costs_more_than_was_reserved() {
        let i = Instrument {
            half_spread_bps: 10,
            ..Default::default()
        };

        assert_eq!(
            fill(Buy, 10, 1_000_000, &i, 1_001_000, 10_010_000),
            Some((1_001_000, 10_010_000))
        );
        assert_eq!(fill(Buy, 10, 1_000_001, &i, 1_001_000, 10_010_000), None);
        assert_eq!(
            fill(Sell, 10, 1_000_000, &i, 999_000, 9_989_999),
            None,
            "above the cap of a sell"
        );
        assert_eq!(
            fill(Sell, 10, 1_000_000, &i, 999_001, i64::MAX),
            None,
            "worse than the collar"
        );
    }
}
