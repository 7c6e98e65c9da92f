//! Reference data of one stock, as decisions need it.

use crate::named_enum;

named_enum! {
    /// Whether a stock trades.
    Listing {
        /// Open.
        Listed = 1, "listed";
        /// Nothing new, nothing matched.
        Halted = 2, "halted";
        /// Only cancels.
        CancelOnly = 3, "cancel_only";
        /// Gone: as if it were not there.
        Delisted = 4, "delisted";
    }
}

/// The listing of a stock. Prices and money in 10^-4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instrument {
    /// Whether it trades.
    pub status: Listing,
    /// Step of order prices.
    pub tick_e4: i64,
    /// Step of quantities.
    pub lot: i64,
    /// Largest quantity of an order.
    pub max_quantity: Option<i64>,
    /// Largest quantity of a market order, or of a stop without a limit, which becomes one.
    pub clip_size: Option<i64>,
    /// Largest value of an order.
    pub max_notional_e4: Option<i64>,
    /// How much worse than the reference a price may be for the client: of a market order's trades,
    /// and of a limit.
    pub collar_bps: i64,
    /// How much better than the reference a limit may be that may rest.
    pub limit_band_bps: Option<i64>,
    /// How far from the last price a tick may be without confirmation.
    pub band_bps: Option<i64>,
    /// Whether it may be sold short.
    pub short_ok: bool,
    /// The margin of a share sold short: the cash held beyond the price of buying it back, in parts
    /// of that price.
    pub short_margin_bps: i64,
    /// The house's margin on each side.
    pub half_spread_bps: i64,
    /// The fee of each side of a trade, of its value.
    pub fee_bps: i64,
    /// Whether the house deals.
    pub house: bool,
    /// The most that the house gives one order at one quote.
    pub house_max: Option<i64>,
    /// Whether its currency is the accounts' own; orders for others are not served.
    pub account_currency: bool,
    /// Never tradable.
    pub test_issue: bool,
}

/// The currency of all accounts.
pub const CURRENCY: &str = "USD";

impl Default for Instrument {
    fn default() -> Self {
        Instrument {
            status: Listing::Listed,
            tick_e4: 100,
            lot: 1,
            max_quantity: None,
            clip_size: None,
            max_notional_e4: None,
            collar_bps: 500,
            limit_band_bps: None,
            band_bps: None,
            short_ok: false,
            short_margin_bps: 5_000,
            half_spread_bps: 0,
            fee_bps: 0,
            house: true,
            house_max: None,
            account_currency: true,
            test_issue: false,
        }
    }
}

impl Instrument {
    /// Whether the symbol is known at all.
    pub fn is_listed(&self) -> bool {
        self.status != Listing::Delisted
    }

    /// Whether new orders may trade.
    pub fn is_open(&self) -> bool {
        self.status == Listing::Listed && !self.test_issue
    }
}
