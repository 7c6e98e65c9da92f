//! Sides, order states and liquidity, as the contract names them.

/// An enum whose values have a word in the contract and a number in state.
#[macro_export]
macro_rules! named_enum {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $id:ident = $number:literal, $word:literal;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
        pub enum $name {
            $($(#[$vdoc])* $id = $number),*
        }

        impl $name {
            /// All of them.
            pub const ALL: &'static [$name] = &[$($name::$id),*];

            /// The word of the contract.
            pub fn name(self) -> &'static str {
                match self { $($name::$id => $word),* }
            }

            /// By its word.
            pub fn from_name(name: &str) -> Option<$name> {
                match name { $($word => Some($name::$id),)* _ => None }
            }

            /// By its number in state; the numbers never change.
            pub fn from_number(n: u8) -> Option<$name> {
                match n { $($number => Some($name::$id),)* _ => None }
            }
        }
    };
}
named_enum! {
    /// Which way an order goes.
    Side {
        /// Gives money for shares.
        Buy = 1, "buy";
        /// Gives shares for money.
        Sell = 2, "sell";
    }
}

impl Side {
    /// The other way.
    pub fn opposite(self) -> Side {
        match self {
            Side::Buy => Side::Sell,
            Side::Sell => Side::Buy,
        }
    }
}

named_enum! {
    /// Where an order stands.
    Status {
        /// Checked and reserved, on its way to the book.
        PendingNew = 1, "pending_new";
        /// In the book.
        New = 2, "new";
        /// Some of it traded.
        PartiallyFilled = 3, "partially_filled";
        /// All of it traded; also a transfer that was posted.
        Filled = 4, "filled";
        /// Ended before it was filled.
        Cancelled = 5, "cancelled";
        /// Never lived.
        Rejected = 6, "rejected";
        /// Ended by time.
        Expired = 7, "expired";
    }
}

impl Status {
    /// Whether nothing more can happen to the order.
    pub fn is_terminal(self) -> bool {
        matches!(
            self,
            Status::Filled | Status::Cancelled | Status::Rejected | Status::Expired
        )
    }
}

named_enum! {
    /// Which part a fill played.
    Liquidity {
        /// Rested in the book.
        Maker = 1, "maker";
        /// Came to the book.
        Taker = 2, "taker";
        /// Traded with the house.
        House = 3, "house";
    }
}
