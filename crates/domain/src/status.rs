//! Sides, order states and liquidity, with their words in the contract.

/// Enum with a word in the contract and a number in state per value.
#[macro_export]
macro_rules! named_enum {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $id:ident = $number:literal, $word:literal;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
        pub enum $name {
            $($(#[$vdoc])* $id = $number),*
        }

        impl $name {
            pub const ALL: &'static [$name] = &[$($name::$id),*];

            /// Word in the contract.
            pub fn name(self) -> &'static str {
                match self { $($name::$id => $word),* }
            }

            /// Value by its word.
            pub fn from_name(name: &str) -> Option<$name> {
                match name { $($word => Some($name::$id),)* _ => None }
            }

            /// Value by its number in state; the numbers never change.
            pub fn from_number(n: u8) -> Option<$name> {
                match n { $($number => Some($name::$id),)* _ => None }
            }
        }
    };
}
named_enum! {
    /// Side of an order (FIX 54).
    Side {
        /// Pays cash for shares.
        Buy = 1, "buy";
        /// Gives shares for cash.
        Sell = 2, "sell";
    }
}

impl Side {
    /// The other side.
    pub fn opposite(self) -> Side {
        match self {
            Side::Buy => Side::Sell,
            Side::Sell => Side::Buy,
        }
    }
}

named_enum! {
    /// Status of an order (FIX OrdStatus, 39).
    Status {
        /// Checked and reserved; on its way to the book.
        PendingNew = 1, "pending_new";
        /// In the book.
        New = 2, "new";
        /// Traded in part.
        PartiallyFilled = 3, "partially_filled";
        /// Traded in full; also a posted transfer.
        Filled = 4, "filled";
        /// Ended before it was filled.
        Cancelled = 5, "cancelled";
        /// Never accepted.
        Rejected = 6, "rejected";
        /// Ended by its deadline.
        Expired = 7, "expired";
    }
}

impl Status {
    /// True if the status cannot change any more.
    pub fn is_terminal(self) -> bool {
        matches!(
            self,
            Status::Filled | Status::Cancelled | Status::Rejected | Status::Expired
        )
    }
}

named_enum! {
    /// Role in a fill (FIX LastLiquidityInd, 851).
    Liquidity {
        /// Resting order.
        Maker = 1, "maker";
        /// Incoming order.
        Taker = 2, "taker";
        /// Traded with the house.
        House = 3, "house";
    }
}
