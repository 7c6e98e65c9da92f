//! Reasons for rejections and cancels: the public name, the FIX code, and the fate of the order id.

macro_rules! reasons {
    ($($(#[$doc:meta])* $id:ident = $number:literal, $name:literal, $fix:literal, $burns:literal, $text:literal;)*) => {
        /// Reason of a rejection or cancel. State stores the numbers, so they never change.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum Reason {
            $($(#[$doc])* $id = $number),*
        }

        impl Reason {
            pub const ALL: &'static [Reason] = &[$(Reason::$id),*];

            /// Public name.
            pub fn name(self) -> &'static str {
                match self { $(Reason::$id => $name),* }
            }

            /// FIX OrdRejReason (103), or 99 for other reasons.
            pub fn code(self) -> u16 {
                match self { $(Reason::$id => $fix),* }
            }

            /// True if a rejection by `orders` with this reason uses up the order id.
            pub fn burns_id(self) -> bool {
                match self { $(Reason::$id => $burns),* }
            }

            /// Sentence for people.
            pub fn text(self) -> &'static str {
                match self { $(Reason::$id => $text),* }
            }

            /// Reason by its number in state.
            pub fn from_number(n: u64) -> Option<Reason> {
                match n { $($number => Some(Reason::$id),)* _ => None }
            }

            /// Reason by its public name.
            pub fn from_name(name: &str) -> Option<Reason> {
                match name { $($name => Some(Reason::$id),)* _ => None }
            }
        }
    };
}

impl Reason {
    /// FIX CxlRejReason (102), for a refused cancel or replace.
    pub fn cancel_code(self) -> u16 {
        match self {
            Reason::TooLateToCancel => 0,
            Reason::UnknownOrder => 1,
            Reason::SystemBusy => 3,
            Reason::DuplicateOrder => 6,
            Reason::PriceBand => 8,
            Reason::InvalidPriceIncrement => 18,
            _ => 99,
        }
    }
}

reasons! {
    /// Symbol not listed, or delisted.
    UnknownSymbol = 1, "UNKNOWN_SYMBOL", 1, true, "the symbol is not listed";
    /// Symbol halted, cancel-only or a test issue.
    SymbolHalted = 2, "SYMBOL_HALTED", 2, true, "the symbol is not open for new orders";
    /// Limit of quantity or of open orders.
    OrderExceedsLimit = 3, "ORDER_EXCEEDS_LIMIT", 3, true, "the quantity is above the symbol's limit, or the user has as many open orders as are allowed";
    /// The deadline has passed.
    TooLateToEnter = 4, "TOO_LATE_TO_ENTER", 4, true, "it is too late to enter this order";
    /// The order does not exist or is not open.
    UnknownOrder = 5, "UNKNOWN_ORDER", 5, false, "there is no such open order";
    /// Same order id, other content.
    DuplicateOrder = 6, "DUPLICATE_ORDER", 6, false, "the order id was used before with other content";
    /// Command older than `--max-command-age`.
    StaleOrder = 7, "STALE_ORDER", 8, false, "the command is older than this system accepts";
    /// The client's clock is ahead.
    FutureTimestamp = 8, "FUTURE_TIMESTAMP", 99, false, "the command's timestamp lies in the future";
    /// Unsupported combination of fields.
    UnsupportedCharacteristic = 9, "UNSUPPORTED_CHARACTERISTIC", 11, true, "this kind of order is not supported";
    /// Quantity zero, negative, fractional, no multiple of the lot, or too large.
    IncorrectQuantity = 10, "INCORRECT_QUANTITY", 13, true, "the quantity is not a whole number of lots of at least one";
    /// The account does not exist.
    UnknownAccount = 11, "UNKNOWN_ACCOUNT", 15, true, "there is no such account";
    /// The account may not trade.
    AccountDisabled = 12, "ACCOUNT_DISABLED", 15, true, "the account may not trade";
    /// Price too far from the reference.
    PriceBand = 13, "PRICE_BAND", 16, true, "the price is too far from the reference price";
    /// Price not on the tick, not positive or too fine.
    InvalidPriceIncrement = 14, "INVALID_PRICE_INCREMENT", 18, true, "the price is not a positive multiple of the tick";
    /// The symbol has no price yet.
    NoReferencePrice = 15, "NO_REFERENCE_PRICE", 19, false, "the symbol has no price yet";
    /// The last price is too old.
    StalePrice = 16, "STALE_PRICE", 19, false, "the last price of the symbol is too old";
    /// Value too large.
    NotionalLimit = 17, "NOTIONAL_LIMIT", 20, true, "the order's value is above the limit";
    /// Sale of shares that the user does not own.
    ShortSellNotPermitted = 18, "SHORT_SELL_NOT_PERMITTED", 22, true, "the position is too small and the symbol may not be sold short";
    /// Too little cash.
    InsufficientFunds = 19, "INSUFFICIENT_FUNDS", 25, true, "the available cash is too little";
    /// Fat-finger limit for orders without a limit price.
    ClipSize = 20, "CLIP_SIZE", 26, true, "the order is larger than one without a limit may be";
    /// Rate limit.
    RateLimited = 21, "RATE_LIMITED", 99, false, "too many orders in a short time";
    /// A kill switch is on.
    KillSwitch = 22, "KILL_SWITCH", 99, false, "trading is switched off";
    /// Another change is in flight, or the order may still trade.
    SystemBusy = 23, "SYSTEM_BUSY", 99, false, "the system is busy";
    /// Unreadable command.
    Malformed = 24, "MALFORMED", 99, false, "the command cannot be understood";
    /// Amount that cannot be transferred.
    InvalidAmount = 25, "INVALID_AMOUNT", 99, true, "the amount is not a positive number of at most four decimals within the bounds of an account";
    /// The post-only order would trade on arrival.
    PostOnlyWouldCross = 26, "POST_ONLY_WOULD_CROSS", 99, true, "the post-only order would trade at once";
    /// The stop would trigger on arrival.
    StopWouldTrigger = 27, "STOP_WOULD_TRIGGER", 99, true, "the stop would trigger at once";
    /// The order has ended.
    TooLateToCancel = 28, "TOO_LATE_TO_CANCEL", 99, true, "it is too late, the order has ended";
    /// Cancel by the user.
    UserRequest = 29, "USER_REQUEST", 99, true, "cancelled by the user";
    /// Mass cancel by the user.
    MassCancel = 30, "MASS_CANCEL", 99, true, "cancelled with all orders of the user";
    /// Rest of an immediate-or-cancel order.
    IocRemainder = 31, "IOC_REMAINDER", 99, true, "what could not be filled at once was cancelled";
    /// Fill-or-kill order without enough quantity on the other side.
    FokUnfilled = 32, "FOK_UNFILLED", 99, true, "the order could not be filled whole";
    /// No counterparty.
    NoLiquidity = 33, "NO_LIQUIDITY", 99, true, "there was nobody to trade with";
    /// The order would trade with an order of the same user.
    SelfTradePrevented = 34, "SELF_TRADE_PREVENTED", 99, true, "the order would have traded with the user's own order";
    /// The symbol was delisted.
    Delisted = 35, "DELISTED", 99, true, "the symbol was delisted";
    /// Cancel by an operator.
    Operator = 36, "OPERATOR", 99, true, "cancelled by an operator";
    /// The topic does not carry this kind of command.
    NotAuthorized = 37, "NOT_AUTHORIZED", 99, false, "this topic may not carry this command: money, busts and operators' cancels go to operator-commands, all else to order-commands";
    /// The account has a debt.
    DebitBalance = 38, "DEBIT_BALANCE", 25, true, "the account owes money since a trade was taken back; deposits and sales cover it";
    /// Bust of an unknown trade.
    UnknownTrade = 39, "UNKNOWN_TRADE", 99, true, "the order has no such trade";
    /// Bust that does not match the trade.
    TradeMismatch = 40, "TRADE_MISMATCH", 99, true, "the trade was another one";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_lead_back() {
        for r in Reason::ALL {
            assert_eq!(Reason::from_name(r.name()), Some(*r));
            assert_eq!(Reason::from_number(*r as u64), Some(*r));
            assert!(
                r.name()
                    .bytes()
                    .all(|b| b.is_ascii_uppercase() || b == b'_')
            );
        }
    }

    #[test]
    fn cancels_have_the_codes_of_their_own_tag() {
        use Reason::*;
        let coded: Vec<_> = Reason::ALL
            .iter()
            .map(|r| (*r, r.cancel_code()))
            .filter(|(_, code)| *code != 99)
            .collect();
        let want = [
            (UnknownOrder, 1),
            (DuplicateOrder, 6),
            (PriceBand, 8),
            (InvalidPriceIncrement, 18),
            (SystemBusy, 3),
            (TooLateToCancel, 0),
        ];

        assert_eq!(coded, want);
    }

    #[test]
    fn exactly_these_let_the_id_be_tried_again() {
        use Reason::*;
        let free: Vec<_> = Reason::ALL
            .iter()
            .copied()
            .filter(|r| !r.burns_id())
            .collect();
        let want = [
            UnknownOrder,
            DuplicateOrder,
            StaleOrder,
            FutureTimestamp,
            NoReferencePrice,
            StalePrice,
            RateLimited,
            KillSwitch,
            SystemBusy,
            Malformed,
            NotAuthorized,
        ];

        assert_eq!(free, want);
    }
}
