//! Settlement of a fill. The code has no I/O: it changes the order, its account and the ledger.
//! After an error all three are half changed, and the caller must drop them.

use super::account::{Account, Ledger, TradeLeg, Unbalanced};
use super::hold::{Fee, WorkingOrder};
use super::house;
use super::status::Side;

/// A fill of an order, as the book reports it (FIX ExecType F).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReportedFill {
    pub quantity: i64,
    pub price_e4: i64,
    /// The other side is the house, not another user.
    pub with_house: bool,
}

/// Error for a fill that breaks a promise of the book or of the ledger.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsettled {
    #[error("{0}")]
    Unbookable(&'static str),
    #[error(transparent)]
    Unbalanced(#[from] Unbalanced),
}

/// Settles a fill: books the quantity and the value to the order, takes the used part of the hold,
/// and posts the trade. A filled order releases the rest of its hold. `keeps`: the proceeds of a
/// short sale are held. Returns the fee.
pub fn settle(
    order: &mut WorkingOrder,
    account: &mut Account,
    ledger: &mut Ledger,
    fill: &ReportedFill,
    keeps: bool,
) -> Result<Fee, Unsettled> {
    let t = order.terms;
    let value_e4 = value_within_terms(order, fill)?;
    let freed = t
        .freed(
            &order.hold,
            order.cum,
            order.value_e4,
            fill.quantity,
            value_e4,
        )
        .ok_or(Unsettled::Unbookable("its value is out of bounds"))?;
    let fee = t
        .fee(order.value_e4, value_e4)
        .ok_or(Unsettled::Unbookable("its fee is out of bounds"))?;

    order.hold = order
        .hold
        .checked_sub(&freed)
        .ok_or(Unsettled::Unbookable("it frees more than the order holds"))?;
    order.cum += fill.quantity;
    order.value_e4 += value_e4;

    let trade = TradeLeg {
        side: t.side,
        quantity: fill.quantity,
        value_e4,
        fee,
        with_house: fill.with_house,
        keeps,
    };

    account.settle(ledger, &trade, &freed)?;
    if order.is_filled() {
        account.release(&mut ledger.position, &std::mem::take(&mut order.hold))?;
    }

    Ok(fee)
}

/// Value of a fill within the terms of its order. The book promises to trade within these bounds,
/// and all holds depend on this promise.
fn value_within_terms(order: &WorkingOrder, fill: &ReportedFill) -> Result<i64, Unsettled> {
    let t = &order.terms;
    if fill.quantity <= 0 {
        return Err(Unsettled::Unbookable("its quantity is not positive"));
    }

    if fill.quantity > t.quantity - order.cum {
        return Err(Unsettled::Unbookable(
            "its quantity exceeds the open quantity of the order",
        ));
    }

    let value_e4 = house::value(fill.quantity, fill.price_e4)
        .ok_or(Unsettled::Unbookable("its value is out of bounds"))?;

    let within = house::acceptable(t.side, fill.price_e4, t.limit_e4)
        && (t.side == Side::Buy || fill.price_e4 <= t.ceiling_e4);
    if within {
        Ok(value_e4)
    } else {
        Err(Unsettled::Unbookable(
            "its price is outside the order's bounds",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::super::hold::{Hold, Terms};
    use super::*;

    fn order(side: Side) -> WorkingOrder {
        WorkingOrder {
            terms: Terms {
                side,
                quantity: 10,
                limit_e4: 100,
                ceiling_e4: 300,
                fee_bps: 100,
                short_unit_e4: 0,
            },
            hold: Hold::default(),
            cum: 0,
            value_e4: 0,
        }
    }

    fn reserved(side: Side, shares: i64) -> (WorkingOrder, Account, Ledger) {
        let mut o = order(side);
        o.hold = o.terms.need(0, 0, shares).expect("in bounds");
        let mut account = Account::default();
        let mut ledger = Ledger::default();
        account
            .deposit(&mut ledger.totals, 5_000)
            .expect("in bounds");
        ledger.position.long = shares;
        ledger.house.users_quantity = i128::from(shares);
        ledger.house.quantity = -i128::from(shares);
        account
            .reserve(&mut ledger.position, &o.hold)
            .expect("cash is there");
        (o, account, ledger)
    }

    fn fill(quantity: i64, price_e4: i64) -> ReportedFill {
        ReportedFill {
            quantity,
            price_e4,
            with_house: false,
        }
    }

    #[test]
    fn a_filled_order_holds_nothing() {
        let (mut o, mut account, mut ledger) = reserved(Side::Buy, 0);
        let mut fees = 0;
        for part in [fill(4, 100), fill(6, 90)] {
            let fee = settle(&mut o, &mut account, &mut ledger, &part, true);
            fees += fee.expect("within the terms").charged_e4;
        }

        assert_eq!((o.cum, o.value_e4, o.hold), (10, 940, Hold::default()));
        assert_eq!((account.reserved_e4, ledger.position.long), (0, 10));
        assert_eq!((fees, account.available_e4), (10, 5_000 - 940 - 10));
        assert_eq!(ledger.house.clearing_quantity, -10);
    }

    #[test]
    fn a_fill_outside_the_terms_is_not_booked() {
        let (o, account, ledger) = reserved(Side::Sell, 10);
        for (fill, why) in [
            (
                fill(11, 100),
                "its quantity exceeds the open quantity of the order",
            ),
            (fill(0, 100), "its quantity is not positive"),
            (fill(1, 99), "its price is outside the order's bounds"),
            (fill(1, 301), "its price is outside the order's bounds"),
        ] {
            let (mut o, mut account, mut ledger) = (o, account, ledger);
            assert_eq!(
                settle(&mut o, &mut account, &mut ledger, &fill, true),
                Err(Unsettled::Unbookable(why)),
                "{fill:?}"
            );
        }
    }
}
