//! Reference data of one symbol, for decisions.

use crate::named_enum;

named_enum! {
    /// Trading status of a symbol.
    Listing {
        /// Open for trading.
        Listed = 1, "listed";
        /// No new orders and no matching.
        Halted = 2, "halted";
        /// Cancels only.
        CancelOnly = 3, "cancel_only";
        /// Removed: treated as unknown.
        Delisted = 4, "delisted";
    }
}

/// Listing of a symbol. Prices and money in 10^-4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instrument {
    pub status: Listing,
    /// Tick size of order prices.
    pub tick_e4: i64,
    /// Lot size of quantities.
    pub lot: i64,
    /// Maximum quantity of an order.
    pub max_quantity: Option<i64>,
    /// Maximum quantity of a market order, or of a stop without a limit.
    pub clip_size: Option<i64>,
    /// Maximum value of an order.
    pub max_notional_e4: Option<i64>,
    /// Collar: maximum distance of a price from the reference, on the client's worse side. Applies
    /// to trades of a market order, and to limits.
    pub collar_bps: i64,
    /// Maximum distance of a resting limit from the reference, on the client's better side.
    pub limit_band_bps: Option<i64>,
    /// Band: maximum distance of a tick from the last price without confirmation.
    pub band_bps: Option<i64>,
    /// Short sales are permitted.
    pub short_ok: bool,
    /// Margin of a short sale: cash held beyond the cost of buying the share back, in basis points
    /// of that cost.
    pub short_margin_bps: i64,
    /// Half of the house's spread, in basis points.
    pub half_spread_bps: i64,
    /// Fee of each side of a trade, in basis points of the value.
    pub fee_bps: i64,
    /// The house deals in this symbol.
    pub house: bool,
    /// Maximum quantity that the house gives one order per quote.
    pub house_max: Option<i64>,
    /// The symbol trades in the currency of all accounts; orders for other symbols are rejected.
    pub account_currency: bool,
    /// Test issue: never tradable.
    pub test_issue: bool,
}

/// Currency of all accounts.
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
    /// True if the symbol is known.
    pub fn is_listed(&self) -> bool {
        self.status != Listing::Delisted
    }

    /// True if new orders may trade.
    pub fn is_open(&self) -> bool {
        self.status == Listing::Listed && !self.test_issue
    }
}
