//! The checks of a market order in their fixed order; the first that fails is the answer. What comes before them (age, duplicates, rate limit) and
//! after them (posting) is the role's.

use super::account::{Account, Position};
use super::decimal::Num;
use super::house;
use super::instrument::Instrument;
use super::price::is_fresh;
use super::reason::Reason;
use super::status::Side;

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// Which way.
    pub side: Side,
    /// How much, as it was written.
    pub quantity: Num,
    /// Whether this build serves that combination of type, time in force and prices.
    pub served: bool,
}

/// What the decision rests on.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// Reference data, if the symbol is known.
    pub instrument: Option<&'a Instrument>,
    /// Reference price and its append time in milliseconds.
    pub reference: Option<(i64, i64)>,
    /// The account.
    pub account: &'a Account,
    /// Shares of the symbol.
    pub position: &'a Position,
    /// Append time of the command.
    pub now_ms: i64,
    /// Oldest price that counts as fresh.
    pub stale_ms: i64,
}

/// What to set aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// How much is ordered.
    pub quantity: i64,
    /// Worst price the order may trade at.
    pub worst_e4: i64,
    /// Buy: cash to reserve. Sell: the most it may bring.
    pub hold_e4: i64,
}

/// Quantity representable, which is also when the kind of order is looked at.
pub fn representable(r: &Request) -> Result<i64, Reason> {
    let quantity = r.quantity.positive().ok_or(Reason::IncorrectQuantity)?;
    if r.served { Ok(quantity) } else { Err(Reason::UnsupportedCharacteristic) }
}

/// All checks from "quantity representable" on.
pub fn market(r: &Request, f: &Facts<'_>) -> Result<Reservation, Reason> {
    let quantity = representable(r)?;
    let i = f.instrument.filter(|i| i.is_listed()).ok_or(Reason::UnknownSymbol)?;
    if !i.is_open() {
        return Err(Reason::SymbolHalted);
    }
    if !i.account_currency {
        return Err(Reason::UnsupportedCharacteristic);
    }
    if quantity % i.lot != 0 {
        return Err(Reason::IncorrectQuantity);
    }
    if i.max_quantity.is_some_and(|max| quantity > max) {
        return Err(Reason::OrderExceedsLimit);
    }
    // A market order's value is only known by the reference price, so "there is none" comes before "the value is too large".
    let (reference, reference_ms) = f.reference.ok_or(Reason::NoReferencePrice)?;
    let notional = house::value(quantity, reference).ok_or(Reason::NotionalLimit)?;
    let worst_e4 = house::worst_price(r.side, reference, i.collar_bps).ok_or(Reason::NotionalLimit)?;
    let hold_e4 = match r.side {
        Side::Buy => house::value(quantity, worst_e4),
        // A sell may bring more than its reference; twice as much is where we stop.
        Side::Sell => notional.checked_mul(2),
    };
    let sells = r.side == Side::Sell;
    let hold_e4 = hold_e4.filter(|h| f.account.within_bounds(*h, sells)).ok_or(Reason::NotionalLimit)?;
    if i.max_notional_e4.is_some_and(|max| notional > max) {
        return Err(Reason::NotionalLimit);
    }
    if !is_fresh(reference_ms, f.now_ms, f.stale_ms) {
        return Err(Reason::StalePrice);
    }
    if sells && quantity > f.position.sellable() {
        return Err(if i.short_ok { Reason::UnsupportedCharacteristic } else { Reason::ShortSellNotPermitted });
    }
    if !sells && hold_e4 > f.account.available_e4 {
        return Err(Reason::InsufficientFunds);
    }
    Ok(Reservation { quantity, worst_e4, hold_e4 })
}

#[cfg(test)]
mod tests {
    use super::super::decimal::{Odd, PUBLIC_MAX};
    use super::super::instrument::Listing;
    use super::*;

    struct Case {
        request: Request,
        instrument: Option<Instrument>,
        reference: Option<(i64, i64)>,
        account: Account,
        position: Position,
    }

    fn good() -> Case {
        Case {
            request: Request { side: Side::Buy, quantity: Num::Exact(10), served: true },
            instrument: Some(Instrument::default()),
            reference: Some((1_892_500, 0)),
            account: Account { available_e4: 10_000_000_000, ..Default::default() },
            position: Position { quantity: 10, reserved: 0 },
        }
    }

    fn check(c: &Case) -> Result<Reservation, Reason> {
        let f = Facts {
            instrument: c.instrument.as_ref(),
            reference: c.reference,
            account: &c.account,
            position: &c.position,
            now_ms: 120_000,
            stale_ms: 120_000,
        };
        market(&c.request, &f)
    }

    #[test]
    fn a_good_order_reserves() {
        assert_eq!(check(&good()), Ok(Reservation { quantity: 10, worst_e4: 1_987_125, hold_e4: 19_871_250 }));
        let mut c = good();
        c.request.side = Side::Sell;
        assert_eq!(check(&c), Ok(Reservation { quantity: 10, worst_e4: 1_797_875, hold_e4: 37_850_000 }));
    }

    #[test]
    fn every_check_has_its_reason() {
        type Change = fn(&mut Case);
        fn listing(c: &mut Case) -> &mut Instrument {
            c.instrument.as_mut().expect("listed")
        }
        let rows: &[(Reason, Change)] = &[
            (Reason::IncorrectQuantity, |c| c.request.quantity = Num::Exact(0)),
            (Reason::IncorrectQuantity, |c| c.request.quantity = Num::Exact(-1)),
            (Reason::IncorrectQuantity, |c| c.request.quantity = Num::Odd(Odd::TooFine, [0; 16])),
            (Reason::IncorrectQuantity, |c| c.request.quantity = Num::Exact(PUBLIC_MAX + 1)),
            (Reason::UnsupportedCharacteristic, |c| c.request.served = false),
            (Reason::UnknownSymbol, |c| c.instrument = None),
            (Reason::UnknownSymbol, |c| listing(c).status = Listing::Delisted),
            (Reason::SymbolHalted, |c| listing(c).status = Listing::Halted),
            (Reason::SymbolHalted, |c| listing(c).status = Listing::CancelOnly),
            (Reason::SymbolHalted, |c| listing(c).test_issue = true),
            (Reason::UnsupportedCharacteristic, |c| listing(c).account_currency = false),
            (Reason::IncorrectQuantity, |c| listing(c).lot = 3),
            (Reason::OrderExceedsLimit, |c| listing(c).max_quantity = Some(9)),
            (Reason::NoReferencePrice, |c| c.reference = None),
            (Reason::NotionalLimit, |c| c.request.quantity = Num::Exact(PUBLIC_MAX)),
            (Reason::NotionalLimit, |c| listing(c).max_notional_e4 = Some(18_924_999)),
            (Reason::NotionalLimit, |c| c.account.turnover_e4 = PUBLIC_MAX - 10),
            (Reason::StalePrice, |c| c.reference = Some((1_892_500, -1))),
            (Reason::InsufficientFunds, |c| c.account.available_e4 = 19_871_249),
            (Reason::ShortSellNotPermitted, |c| (c.request.side, c.position.reserved) = (Side::Sell, 1)),
            (Reason::UnsupportedCharacteristic, |c| {
                (c.request.side, c.position.quantity) = (Side::Sell, 9);
                listing(c).short_ok = true;
            }),
        ];
        for (i, (want, change)) in rows.iter().enumerate() {
            let mut c = good();
            change(&mut c);
            assert_eq!(check(&c), Err(*want), "row {i}");
        }
    }

    #[test]
    fn the_first_failure_wins() {
        let mut c = good();
        c.request.quantity = Num::Exact(0);
        c.request.served = false;
        c.instrument = None;
        assert_eq!(check(&c), Err(Reason::IncorrectQuantity));
        c.request.quantity = Num::Exact(1);
        assert_eq!(check(&c), Err(Reason::UnsupportedCharacteristic));
        c.request.served = true;
        c.reference = None;
        assert_eq!(check(&c), Err(Reason::UnknownSymbol));
    }
}
