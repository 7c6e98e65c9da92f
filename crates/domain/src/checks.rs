//! Checks of an order in a fixed order; the first failure is the answer. The role does the earlier
//! checks (age, duplicates, rate limit) and the later posting.

mod replace;

use super::account::{Account, Position};
use super::decimal::Num;
use super::hold::{Hold, Terms};
use super::house;
use super::instrument::Instrument;
use super::price::{FreshnessLimits, is_fresh};
use super::reason::Reason;
use super::status::Side;

pub use replace::{ReplaceRequest, replace};

/// Order type with its prices (FIX OrdType).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pricing {
    /// Market order: any price within the collar.
    Market,
    /// Limit order.
    Limit(Num),
    /// Stop order: a market order after its trigger.
    Stop(Num),
    /// Stop limit order: a limit order after its trigger.
    StopLimit {
        /// Trigger price.
        stop: Num,
        /// Limit after the trigger.
        limit: Num,
    },
}

/// Request for a new order.
#[derive(Clone, Copy, Debug)]
pub struct OrderRequest {
    pub side: Side,
    /// Quantity, as in the command.
    pub quantity: Num,
    /// Prices; `None` for an unsupported combination of fields.
    pub pricing: Option<Pricing>,
    /// Time from which the order must not trade.
    pub deadline_ms: Option<i64>,
}

/// Facts that decide about an order.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// Reference data, if the symbol is known.
    pub instrument: Option<&'a Instrument>,
    /// Reference price and its append time in milliseconds.
    pub reference: Option<(i64, i64)>,
    pub account: &'a Account,
    /// Shares of the symbol.
    pub position: &'a Position,
    /// Append time of the command.
    pub now_ms: i64,
    /// Maximum age of a fresh price.
    pub stale: FreshnessLimits,
    /// Maximum of open orders per user; `None` for an order that ends at once.
    pub open_max: Option<u64>,
    /// Rule that bounds a limit.
    pub bands: Bands,
    /// A short sale holds its proceeds and a margin. If false (old rule), a short sale holds the
    /// price at the collar.
    pub margin: bool,
}

/// Rule that bounds a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bands {
    /// Old rule: the collar bounds both sides, also around a stale price.
    Both,
    /// The collar bounds a limit that is worse for the owner than a fresh price. The limit band
    /// bounds a better limit.
    BySide,
}

/// Result of all checks: the accepted terms with their hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reservation {
    pub terms: Terms,
    /// Cash and shares to reserve.
    pub hold: Hold,
    /// Trigger price of a stop.
    pub stop_e4: Option<i64>,
    /// Part of the hold that comes from the collateral of the short position that the order covers.
    pub borrowed_e4: i64,
}

/// Checks that the quantity is representable and the order type is supported.
fn representable(r: &OrderRequest) -> Result<(i64, Pricing), Reason> {
    let quantity = r.quantity.positive().ok_or(Reason::IncorrectQuantity)?;
    Ok((
        quantity,
        r.pricing.ok_or(Reason::UnsupportedCharacteristic)?,
    ))
}

/// Checks that the symbol is listed, and open for new orders and replaces.
fn listed(instrument: Option<&Instrument>) -> Result<&Instrument, Reason> {
    let i = instrument
        .filter(|i| i.is_listed())
        .ok_or(Reason::UnknownSymbol)?;
    if !i.is_open() {
        return Err(Reason::SymbolHalted);
    }

    if !i.account_currency {
        return Err(Reason::UnsupportedCharacteristic);
    }

    Ok(i)
}

/// Checks that a price is a positive multiple of the tick.
fn on_tick(price: Num, i: &Instrument) -> Result<i64, Reason> {
    price
        .positive()
        .filter(|p| p % i.tick_e4 == 0)
        .ok_or(Reason::InvalidPriceIncrement)
}

/// Checks lot size and maximum quantity.
fn lots(quantity: i64, i: &Instrument) -> Result<(), Reason> {
    if quantity % i.lot != 0 {
        return Err(Reason::IncorrectQuantity);
    }

    if i.max_quantity.is_some_and(|max| quantity > max) {
        Err(Reason::OrderExceedsLimit)
    } else {
        Ok(())
    }
}

/// Checks the smaller maximum for orders without a limit, because a fat-finger error costs more
/// there.
fn clip(quantity: i64, has_limit: bool, i: &Instrument) -> Result<(), Reason> {
    if !has_limit && i.clip_size.is_some_and(|max| quantity > max) {
        Err(Reason::ClipSize)
    } else {
        Ok(())
    }
}

/// Checks the distance of a limit from a price. `rests`: the order may rest at the limit.
fn in_band(
    side: Side,
    limit_e4: i64,
    center_e4: i64,
    rests: bool,
    bands: Bands,
    i: &Instrument,
) -> Result<(), Reason> {
    // Amount by which the limit is worse for the owner than the center.
    let above = i128::from(limit_e4) - i128::from(center_e4);
    let worse = if side == Side::Buy { above } else { -above };
    let within = |away: i128, bps: i64| away * 10_000 <= i128::from(bps) * i128::from(center_e4);
    let good = match bands {
        Bands::Both => within(worse.abs(), i.collar_bps),
        Bands::BySide => {
            within(worse, i.collar_bps)
                && i.limit_band_bps
                    .is_none_or(|bps| !rests || within(-worse, bps))
        }
    };

    if good { Ok(()) } else { Err(Reason::PriceBand) }
}

/// Checks that a limit is near its stop price, or near the reference. The limit of a stop is
/// compared with the stop price. `woken`: the stop may have triggered, which only the book knows,
/// so both prices are allowed.
#[inline(never)]
fn near(
    side: Side,
    limit_e4: i64,
    stop_e4: Option<i64>,
    rests: bool,
    woken: bool,
    f: &Facts<'_>,
    i: &Instrument,
) -> Result<(), Reason> {
    let usable = |ms| f.bands == Bands::Both || is_fresh(ms, f.now_ms, f.stale);
    let reference = f
        .reference
        .filter(|(_, ms)| usable(*ms))
        .map(|(price, _)| price)
        .filter(|_| woken || stop_e4.is_none());
    let good = |center: &i64| in_band(side, limit_e4, *center, rests, f.bands, i).is_ok();
    let mut centers = [stop_e4, reference].into_iter().flatten().peekable();
    if centers.peek().is_none() || centers.any(|center| good(&center)) {
        Ok(())
    } else {
        Err(Reason::PriceBand)
    }
}

/// Checks the value of an order, at its own price, or at the reference price for an order without a
/// price.
fn notional(quantity: i64, price_e4: i64, i: &Instrument) -> Result<i64, Reason> {
    let value = house::value(quantity, price_e4).ok_or(Reason::NotionalLimit)?;
    if i.max_notional_e4.is_some_and(|max| value > max) {
        Err(Reason::NotionalLimit)
    } else {
        Ok(value)
    }
}

/// Factor by which a sell may trade above the highest known price. The bound only limits the
/// numbers: no sane bid, left behind by a falling market, is higher.
const CEILING: i64 = 100;

/// Maximum price of a sell, per share.
fn ceiling(prices: [i64; 3]) -> Result<i64, Reason> {
    prices
        .into_iter()
        .max()
        .and_then(|p| p.checked_mul(CEILING))
        .ok_or(Reason::NotionalLimit)
}

/// Maximum of short symbols per account, because each access to the account revalues all of them.
pub const SHORTS_MAX: u64 = 100;

/// Checks the additional hold of an order: bounds, short sale, cash. `covers` is the quantity of a
/// buy. Returns the amount that comes from the short position's collateral.
fn funds(
    more: &Hold,
    short: i64,
    covers: i64,
    f: &Facts<'_>,
    i: &Instrument,
) -> Result<i64, Reason> {
    if !f.account.within_bounds(more) {
        return Err(Reason::NotionalLimit);
    }

    if short > 0 && !i.short_ok {
        return Err(Reason::ShortSellNotPermitted);
    }

    if short > 0 && f.margin && f.position.short == 0 && f.account.shorts >= SHORTS_MAX {
        return Err(Reason::OrderExceedsLimit);
    }

    // With a margin of 0, a short sale needs no cash, and would only add to an unpayable debt.
    if short > 0 && f.account.owed_e4 > 0 {
        return Err(Reason::DebitBalance);
    }

    let lacks = more.cash_e4 - f.account.available_e4;
    match lacks {
        ..=0 => Ok(0),
        _ if lacks > lendable(covers, f, i) => Err(f.account.lacks_cash()),
        _ => Ok(lacks),
    }
}

/// Part of a short position's collateral that a buy of `covers` shares may use: the collateral of
/// the covered shares, or their current cost if that is higher.
#[cold]
fn lendable(covers: i64, f: &Facts<'_>, i: &Instrument) -> i64 {
    let p = f.position;
    let covers = i128::from(covers.min(p.short));
    if covers <= 0 || !f.margin {
        return 0;
    }

    let part = i128::from(p.collateral_e4) * covers / i128::from(p.short);
    let cost = f
        .reference
        .and_then(|(price, _)| house::worst_price(Side::Buy, price, i.collar_bps))
        .map_or(0, |worst| {
            let value = covers * i128::from(worst);
            value + (value * i128::from(i.fee_bps) + 9_999) / 10_000
        });

    i64::try_from(part.max(cost)).map_or(p.collateral_e4, |n| n.min(p.collateral_e4))
}

/// Cash that a share sold short at a limit holds, so that cash and proceeds cover price and margin.
fn short_unit(
    reference_e4: i64,
    limit_e4: i64,
    margin: bool,
    i: &Instrument,
) -> Result<i64, Reason> {
    if !margin {
        return house::worst_price(Side::Buy, reference_e4, i.collar_bps)
            .ok_or(Reason::NotionalLimit);
    }

    let unit = house::share(reference_e4, i.short_margin_bps)
        + i128::from((reference_e4 - limit_e4).max(0));
    i64::try_from(unit).map_err(|_| Reason::NotionalLimit)
}

/// Collateral due for a short position at a price: the cost of buying the shares back, and the
/// margin.
pub fn due_for_short(short: i64, price_e4: i64, margin_bps: i64) -> i128 {
    let value = i128::from(short) * i128::from(price_e4);
    value + (value.saturating_mul(i128::from(margin_bps)) + 9_999) / 10_000
}

/// All checks, beginning with the representable quantity.
pub fn order(r: &OrderRequest, f: &Facts<'_>) -> Result<Reservation, Reason> {
    let (quantity, pricing) = representable(r)?;
    let i = listed(f.instrument)?;
    if r.deadline_ms.is_some_and(|d| d <= f.now_ms) {
        return Err(Reason::TooLateToEnter);
    }

    let (limit, stop_e4) = prices(pricing, i)?;
    lots(quantity, i)?;
    clip(quantity, limit.is_some(), i)?;
    if f.open_max.is_some_and(|max| f.account.open_orders >= max) {
        return Err(Reason::OrderExceedsLimit);
    }

    let sells = r.side == Side::Sell;
    let short = if sells {
        (quantity - f.position.sellable()).max(0)
    } else {
        0
    };

    let terms = terms(r.side, quantity, short, (limit, stop_e4), f, i)?;
    let hold = terms
        .need(0, 0, f.position.sellable())
        .ok_or(Reason::NotionalLimit)?;
    if !f.account.within_bounds(&hold) {
        return Err(Reason::NotionalLimit);
    }

    match (limit, stop_e4) {
        (None, None)
            if f.reference
                .is_none_or(|(_, ms)| !is_fresh(ms, f.now_ms, f.stale)) =>
        {
            return Err(Reason::StalePrice);
        }
        (Some(limit), stop) => near(r.side, limit, stop, f.open_max.is_some(), false, f, i)?,
        _ => {}
    }

    let borrowed_e4 = funds(&hold, short, if sells { 0 } else { quantity }, f, i)?;
    Ok(Reservation {
        terms,
        hold,
        stop_e4,
        borrowed_e4,
    })
}

/// Limit and stop price of an order, in whole ticks.
fn prices(pricing: Pricing, i: &Instrument) -> Result<(Option<i64>, Option<i64>), Reason> {
    Ok(match pricing {
        Pricing::Market => (None, None),
        Pricing::Limit(limit) => (Some(on_tick(limit, i)?), None),
        Pricing::Stop(stop) => (None, Some(on_tick(stop, i)?)),
        Pricing::StopLimit { stop, limit } => (Some(on_tick(limit, i)?), Some(on_tick(stop, i)?)),
    })
}

/// Terms of a new order, of which `short` shares are sold short. Always inlined: a step of
/// [`order`], which every order passes.
#[inline(always)]
fn terms(
    side: Side,
    quantity: i64,
    short: i64,
    (limit, stop_e4): (Option<i64>, Option<i64>),
    f: &Facts<'_>,
    i: &Instrument,
) -> Result<Terms, Reason> {
    // An order with its own price needs no reference, unless the order sells short. The value of a
    // market order depends on the reference, so `NO_REFERENCE_PRICE` comes before `NOTIONAL_LIMIT`.
    let needs_reference = (limit.is_none() && stop_e4.is_none()) || (short > 0 && i.short_ok);
    if needs_reference && f.reference.is_none() {
        return Err(Reason::NoReferencePrice);
    }

    let reference = f.reference.map_or(0, |(price, _)| price);
    let limit_e4 = match limit {
        Some(limit) => limit,
        None => house::worst_price(side, stop_e4.unwrap_or(reference), i.collar_bps)
            .ok_or(Reason::NotionalLimit)?,
    };

    notional(quantity, limit.or(stop_e4).unwrap_or(reference), i)?;
    Ok(Terms {
        side,
        quantity,
        limit_e4,
        ceiling_e4: if side == Side::Sell {
            ceiling([reference, limit.unwrap_or(0), stop_e4.unwrap_or(0)])?
        } else {
            0
        },
        fee_bps: i.fee_bps,
        short_unit_e4: if short > 0 && i.short_ok {
            short_unit(reference, limit_e4, f.margin, i)?
        } else {
            0
        },
    })
}

#[cfg(test)]
mod tests {
    use super::super::decimal::{Odd, PUBLIC_MAX};
    use super::super::instrument::Listing;
    use super::*;

    struct Case {
        request: OrderRequest,
        instrument: Option<Instrument>,
        reference: Option<(i64, i64)>,
        account: Account,
        position: Position,
        bands: Bands,
    }

    fn good() -> Case {
        Case {
            request: OrderRequest {
                side: Side::Buy,
                quantity: Num::Exact(10),
                pricing: Some(Pricing::Market),
                deadline_ms: None,
            },
            instrument: Some(Instrument::default()),
            reference: Some((1_892_500, 0)),
            account: Account {
                available_e4: 10_000_000_000,
                ..Default::default()
            },
            position: Position {
                long: 10,
                ..Default::default()
            },
            bands: Bands::BySide,
        }
    }

    fn check(c: &Case) -> Result<Reservation, Reason> {
        let f = Facts {
            instrument: c.instrument.as_ref(),
            reference: c.reference,
            account: &c.account,
            position: &c.position,
            now_ms: 120_000,
            stale: FreshnessLimits::new(120_000, true),
            open_max: Some(3),
            bands: c.bands,
            margin: true,
        };

        order(&c.request, &f)
    }

    fn reserved(c: &Case) -> (i64, Hold) {
        let r = check(c).expect("a good order");
        (r.terms.limit_e4, r.hold)
    }

    fn cash(cash_e4: i64) -> Hold {
        Hold {
            cash_e4,
            ..Hold::default()
        }
    }

    #[test]
    fn good_orders_reserve() {
        let mut c = good();
        assert_eq!(reserved(&c), (1_987_125, cash(19_871_250)));
        c.request.pricing = Some(Pricing::Limit(Num::Exact(1_900_000)));
        assert_eq!(reserved(&c), (1_900_000, cash(19_000_000)));
        c.reference = None;
        assert_eq!(
            reserved(&c),
            (1_900_000, cash(19_000_000)),
            "a limit needs no reference"
        );
        c.request.pricing = Some(Pricing::Stop(Num::Exact(2_000_000)));
        assert_eq!(reserved(&c), (2_100_000, cash(21_000_000)));
        c.instrument.as_mut().expect("listed").fee_bps = 10;
        assert_eq!(reserved(&c).1, cash(21_021_000));
        let mut c = good();
        c.request.side = Side::Sell;
        assert_eq!(
            reserved(&c),
            (
                1_797_875,
                Hold {
                    cash_e4: 0,
                    shares: 10,
                    incoming_e4: 1_892_500_000
                }
            )
        );

        c.position.long = 4;
        c.instrument.as_mut().expect("listed").short_ok = true;
        let margin = 946_250 + 94_625;
        assert_eq!(
            reserved(&c).1,
            Hold {
                cash_e4: 6 * margin,
                shares: 4,
                incoming_e4: 1_892_500_000
            },
            "half the price, and what it may bring less"
        );
    }

    #[test]
    fn every_check_has_its_reason() {
        type Change = fn(&mut Case);
        fn listing(c: &mut Case) -> &mut Instrument {
            c.instrument.as_mut().expect("listed")
        }

        fn limit(c: &mut Case, e4: i64) {
            c.request.pricing = Some(Pricing::Limit(Num::Exact(e4)));
        }

        let rows: &[(Reason, Change)] = &[
            (Reason::IncorrectQuantity, |c| {
                c.request.quantity = Num::Exact(0)
            }),
            (Reason::IncorrectQuantity, |c| {
                c.request.quantity = Num::Exact(-1)
            }),
            (Reason::IncorrectQuantity, |c| {
                c.request.quantity = Num::Odd(Odd::TooFine, [0; 16])
            }),
            (Reason::IncorrectQuantity, |c| {
                c.request.quantity = Num::Exact(PUBLIC_MAX + 1)
            }),
            (Reason::UnsupportedCharacteristic, |c| {
                c.request.pricing = None
            }),
            (Reason::UnknownSymbol, |c| c.instrument = None),
            (Reason::UnknownSymbol, |c| {
                listing(c).status = Listing::Delisted
            }),
            (Reason::SymbolHalted, |c| {
                listing(c).status = Listing::Halted
            }),
            (Reason::SymbolHalted, |c| {
                listing(c).status = Listing::CancelOnly
            }),
            (Reason::SymbolHalted, |c| listing(c).test_issue = true),
            (Reason::UnsupportedCharacteristic, |c| {
                listing(c).account_currency = false
            }),
            (Reason::TooLateToEnter, |c| {
                c.request.deadline_ms = Some(120_000)
            }),
            (Reason::InvalidPriceIncrement, |c| limit(c, 1_892_510)),
            (Reason::InvalidPriceIncrement, |c| limit(c, 0)),
            (Reason::InvalidPriceIncrement, |c| limit(c, -100)),
            (Reason::InvalidPriceIncrement, |c| {
                c.request.pricing = Some(Pricing::Stop(Num::Odd(Odd::TooFine, [0; 16])))
            }),
            (Reason::IncorrectQuantity, |c| listing(c).lot = 3),
            (Reason::OrderExceedsLimit, |c| {
                listing(c).max_quantity = Some(9)
            }),
            (Reason::ClipSize, |c| listing(c).clip_size = Some(9)),
            (Reason::OrderExceedsLimit, |c| c.account.open_orders = 3),
            (Reason::NoReferencePrice, |c| c.reference = None),
            (Reason::NotionalLimit, |c| {
                c.request.quantity = Num::Exact(PUBLIC_MAX)
            }),
            (Reason::NotionalLimit, |c| {
                listing(c).max_notional_e4 = Some(18_924_999)
            }),
            (Reason::NotionalLimit, |c| {
                c.account.turnover_e4 = PUBLIC_MAX - 10
            }),
            (Reason::StalePrice, |c| c.reference = Some((1_892_500, -1))),
            (Reason::PriceBand, |c| limit(c, 1_987_200)),
            (Reason::PriceBand, |c| {
                (limit(c, 1_797_800), c.bands = Bands::Both).1
            }),
            (Reason::PriceBand, |c| {
                (limit(c, 1_797_800), c.request.side = Side::Sell).1
            }),
            (Reason::PriceBand, |c| {
                (limit(c, 1_873_500), listing(c).limit_band_bps = Some(100)).1
            }),
            (Reason::PriceBand, |c| {
                c.request.pricing = Some(Pricing::StopLimit {
                    stop: Num::Exact(1_700_000),
                    limit: Num::Exact(1_785_100),
                })
            }),
            (Reason::InsufficientFunds, |c| {
                c.account.available_e4 = 19_871_249
            }),
            (Reason::DebitBalance, |c| {
                (c.account.available_e4, c.account.owed_e4) = (0, 1)
            }),
            (Reason::ShortSellNotPermitted, |c| {
                (c.request.side, c.position.reserved) = (Side::Sell, 1)
            }),
            (Reason::InsufficientFunds, |c| {
                (c.request.side, c.position.long, c.account.available_e4) =
                    (Side::Sell, 9, 1_040_874);
                listing(c).short_ok = true;
            }),
        ];

        for (i, (want, change)) in rows.iter().enumerate() {
            let mut c = good();
            change(&mut c);
            assert_eq!(check(&c).map(|_| ()), Err(*want), "row {i}");
        }
    }

    #[test]
    fn a_limit_is_bound_where_it_costs_its_owner() {
        let mut c = good();
        let mut is_good = |side, price, change: fn(&mut Case)| {
            c = good();
            (c.request.side, c.request.pricing) = (side, Some(Pricing::Limit(Num::Exact(price))));
            change(&mut c);
            check(&c).is_ok()
        };

        // The market price is 189.25, and the collar goes from 179.7875 to 198.7125.
        for (side, price, before, now) in [
            (Side::Buy, 1_987_100, true, true),
            (Side::Buy, 1_987_200, false, false),
            (Side::Buy, 100, false, true),
            (Side::Sell, 1_797_900, true, true),
            (Side::Sell, 1_797_800, false, false),
            (Side::Sell, 9_000_000, false, true),
        ] {
            assert_eq!(
                is_good(side, price, |c| c.bands = Bands::Both),
                before,
                "before: {side:?} {price}"
            );
            assert_eq!(is_good(side, price, |_| ()), now, "{side:?} {price}");
            assert!(
                is_good(side, price, |c| c.reference = Some((1_892_500, -1))),
                "a price that is too old bounds nothing: {side:?} {price}"
            );
            assert_eq!(
                is_good(side, price, |c| (c.bands, c.reference) =
                    (Bands::Both, Some((1_892_500, -1)))),
                before,
                "but did"
            );
        }

        let band = |c: &mut Case| c.instrument.as_mut().expect("listed").limit_band_bps = Some(100);
        assert!(
            is_good(Side::Buy, 1_873_600, band) && !is_good(Side::Buy, 1_873_500, band),
            "one percent is 187.3575"
        );
        assert!(
            is_good(Side::Sell, 1_911_400, band) && !is_good(Side::Sell, 1_911_500, band),
            "one percent is 191.1425"
        );
        assert!(
            is_good(Side::Buy, 1_987_100, band),
            "the other side is the collar's"
        );
    }

    #[test]
    fn buying_to_cover_may_use_what_is_held_for_it() {
        let mut c = good();
        c.request.quantity = Num::Exact(4);
        c.position = Position {
            short: 10,
            collateral_e4: 10 * 2_500_000,
            ..Default::default()
        };

        c.account.available_e4 = 0;
        let borrowed = |c: &Case| check(c).map(|r| r.borrowed_e4);
        assert_eq!(borrowed(&c), Ok(4 * 1_987_125), "all of it");
        c.account.available_e4 = 7;
        assert_eq!(
            borrowed(&c),
            Ok(4 * 1_987_125 - 7),
            "what is free comes first"
        );
        c.request.quantity = Num::Exact(12);
        assert_eq!(
            borrowed(&c),
            Ok(12 * 1_987_125 - 7),
            "the cover of all lends all"
        );
        c.request.quantity = Num::Exact(13);
        assert_eq!(borrowed(&c), Err(Reason::InsufficientFunds));

        // A debt does not stop a user from reducing risk.
        c.request.quantity = Num::Exact(12);
        (c.account.available_e4, c.account.owed_e4) = (0, 5);
        assert_eq!(borrowed(&c), Ok(12 * 1_987_125));
        c.request.quantity = Num::Exact(13);
        assert_eq!(borrowed(&c), Err(Reason::DebitBalance));
        (c.account.available_e4, c.account.owed_e4) = (7, 0);

        // The price is beyond the collateral: a part can be covered at its cost.
        c.position.collateral_e4 = 10 * 1_000_000;
        c.request.quantity = Num::Exact(5);
        assert_eq!(borrowed(&c), Ok(5 * 1_987_125 - 7));
        c.request.quantity = Num::Exact(6);
        assert_eq!(borrowed(&c), Err(Reason::InsufficientFunds));

        // A buy far above the market may not use the collateral.
        c.request = OrderRequest {
            quantity: Num::Exact(1),
            pricing: Some(Pricing::Limit(Num::Exact(9_000_000))),
            ..c.request
        };

        c.reference = Some((1_892_500, -1));
        assert_eq!(borrowed(&c), Err(Reason::InsufficientFunds));
    }

    #[test]
    fn the_first_failure_wins() {
        let mut c = good();
        c.request.quantity = Num::Exact(0);
        c.request.pricing = None;
        c.instrument = None;
        assert_eq!(check(&c), Err(Reason::IncorrectQuantity));
        c.request.quantity = Num::Exact(1);
        assert_eq!(check(&c), Err(Reason::UnsupportedCharacteristic));
        c.request.pricing = Some(Pricing::Market);
        c.reference = None;
        assert_eq!(check(&c), Err(Reason::UnknownSymbol));
    }
}
