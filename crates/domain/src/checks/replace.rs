//! Checks of a replace (FIX OrderCancelReplaceRequest).

use super::super::decimal::Num;
use super::super::hold::{Terms, WorkingOrder};
use super::super::instrument::Instrument;
use super::super::reason::Reason;
use super::super::status::Side;
use super::{Facts, Reservation};

/// Request to change an order.
#[derive(Clone, Copy, Debug)]
pub struct ReplaceRequest {
    /// New total quantity, if the command has one.
    pub quantity: Option<Num>,
    /// New limit, if the command has one.
    pub limit: Option<Num>,
    /// The order has a limit of its own.
    pub has_limit: bool,
    /// Stop price of the order.
    pub stop_e4: Option<i64>,
    /// The order may stay open: an order that ends at once cannot be replaced in time.
    pub may_rest: bool,
    /// A replace of the order is on its way to the book.
    pub is_pending: bool,
    /// The order holds as much for its short sale as a new order would. If false (old rule), only
    /// the first short sale of an order counts.
    pub margin_anew: bool,
}

/// Checks a replace. The result has the new terms, and the hold that the order needs in addition.
pub fn replace(
    r: &ReplaceRequest,
    order: &WorkingOrder,
    f: &Facts<'_>,
) -> Result<Reservation, Reason> {
    let old = order.terms;
    let sells = old.side == Side::Sell;
    let quantity = replaceable(r, &old)?;
    let i = super::listed(f.instrument)?;
    let limit_e4 = match r.limit {
        Some(limit) => super::on_tick(limit, i)?,
        None => old.limit_e4,
    };

    super::lots(quantity, i)?;
    super::clip(quantity, r.has_limit, i)?;

    // An order without its own limit counts by its stop price, as at its entry.
    let own_price = if r.has_limit {
        limit_e4
    } else {
        r.stop_e4.unwrap_or(limit_e4)
    };
    super::notional(quantity, own_price, i)?;

    // The account's bounds were checked with this ceiling, and all holds depend on that check.
    if sells && limit_e4 > old.ceiling_e4 {
        return Err(Reason::NotionalLimit);
    }

    let shares = order.hold.shares + f.position.sellable();
    let short = if sells {
        (quantity - order.cum - shares).max(0)
    } else {
        0
    };

    let mut terms = Terms {
        quantity,
        limit_e4,
        ..old
    };
    if short > 0 && i.short_ok {
        terms.short_unit_e4 = short_unit(r, &terms, &old, f, i)?;
    }

    // Shares that are reserved for the order stay reserved until the book answers.
    let need = old
        .need_until_decided(&terms, order.cum, order.value_e4, shares)
        .ok_or(Reason::NotionalLimit)?;
    let more = need.excess_over(&order.hold);
    if limit_e4 != old.limit_e4 && r.has_limit {
        super::near(old.side, limit_e4, r.stop_e4, true, true, f, i)?;
    }

    // A sell of fewer shares than before is never a short sale.
    let more_short = if quantity > old.quantity { short } else { 0 };
    let covers = if sells { 0 } else { quantity - order.cum };
    let borrowed_e4 = super::funds(&more, more_short, covers, f, i)?;
    Ok(Reservation {
        terms,
        hold: more,
        stop_e4: r.stop_e4,
        borrowed_e4,
    })
}

/// Checks that the order may change in this way. Returns the new quantity.
fn replaceable(r: &ReplaceRequest, old: &Terms) -> Result<i64, Reason> {
    let quantity = match r.quantity {
        Some(q) => q.positive().ok_or(Reason::IncorrectQuantity)?,
        None => old.quantity,
    };

    if !r.may_rest {
        return Err(Reason::TooLateToCancel);
    }

    // One replace at a time: with two in flight, the needed hold would depend on their outcomes.
    // The id stays free for a retry.
    if r.is_pending {
        return Err(Reason::SystemBusy);
    }

    // An order without a limit cannot get a limit.
    let changes_nothing = r.quantity.is_none() && r.limit.is_none();
    if changes_nothing || (r.limit.is_some() && !r.has_limit) {
        return Err(Reason::UnsupportedCharacteristic);
    }

    Ok(quantity)
}

/// Cash for each share that the order sells short under its new terms.
fn short_unit(
    r: &ReplaceRequest,
    new: &Terms,
    old: &Terms,
    f: &Facts<'_>,
    i: &Instrument,
) -> Result<i64, Reason> {
    let costs_more = new.quantity > old.quantity || new.limit_e4 < old.limit_e4;
    match f.reference {
        None if old.short_unit_e4 == 0 => Err(Reason::NoReferencePrice),
        Some((price, _)) if old.short_unit_e4 == 0 || r.margin_anew && costs_more => {
            let unit = super::short_unit(price, new.limit_e4, f.margin, i)?;
            Ok(unit.max(old.short_unit_e4))
        }
        _ => Ok(old.short_unit_e4),
    }
}
