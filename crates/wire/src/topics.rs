//! The topics of the public contract, and internal topics. Their order is their [`TopicId`].

use ports::topics::{Cleanup, Partitions, TopicId, TopicSpec, TopicTable};

/// Largest input value in bytes. A larger value is dead-lettered as `OVERSIZE`.
pub const INPUT_BYTES_MAX: usize = 64 * 1024;
const RECORD_BYTES_MAX: u32 = 1024 * 1024;

macro_rules! topics {
    ($($(#[$doc:meta])* $id:ident = $n:literal, $name:literal, $partitions:ident, $cleanup:ident, $append_time:literal, $extra:literal;)*) => {
        $($(#[$doc])* pub const $id: TopicId = TopicId($n);)*

        /// The table of all topics under a prefix.
        pub fn table(prefix: &str) -> TopicTable {
            let specs = vec![$(TopicSpec {
                name: $name,
                partitions: Partitions::$partitions,
                cleanup: Cleanup::$cleanup,
                append_time: $append_time,
                record_bytes_max: RECORD_BYTES_MAX + $extra,
            }),*];

            debug_assert!([$($n),*].iter().enumerate().all(|(i, n)| i == *n));
            TopicTable::new(prefix, specs)
        }
    };
}

topics! {
    /// Commands of users; written by clients, keyed by user.
    ORDER_COMMANDS = 0, "order-commands", Many, Keep, true, 0;
    /// Ticks; written by feeds, keyed by symbol.
    MARKET_DATA = 1, "market-data", Many, Keep, true, 0;
    /// Reference data; written by operators, keyed by symbol, broadcast.
    INSTRUMENTS = 2, "instruments", One, Compact, true, 0;
    /// All events of orders and accounts, keyed by user.
    ORDER_EVENTS = 3, "order-events", Many, Keep, false, 0;
    /// One record per trade, keyed by symbol.
    TRADES = 4, "trades", Many, Keep, false, 0;
    /// Last accepted price per symbol, conflated, broadcast.
    REFERENCE_PRICES = 5, "reference-prices", One, Compact, false, 0;
    /// Latest portfolio per user.
    PORTFOLIOS = 6, "portfolios", Many, Compact, false, 0;
    /// Messages to users about events.
    NOTIFICATIONS = 7, "notifications", Many, Keep, false, 0;
    /// Hash-chained entries.
    AUDIT_LOG = 8, "audit-log", Many, Keep, false, 0;
    /// Records that could not be processed, unchanged.
    DEAD_LETTERS = 9, "dead-letters", Many, Keep, false, 65_536;
    /// Internal: orders to match, keyed by symbol.
    BOOK_COMMANDS = 10, "book-commands", Many, Keep, false, 0;
    /// Internal: outcomes of orders in the book, keyed by user.
    EXECUTIONS = 11, "executions", Many, Keep, false, 0;
    /// Internal: state changes of the roles.
    ORDERS_CHANGELOG = 12, "orders-changelog", Many, Compact, false, 0;
    /// See [`ORDERS_CHANGELOG`].
    TRADING_CHANGELOG = 13, "trading-changelog", Many, Compact, false, 0;
    /// See [`ORDERS_CHANGELOG`].
    PORTFOLIO_CHANGELOG = 14, "portfolio-changelog", Many, Compact, false, 0;
    /// See [`ORDERS_CHANGELOG`].
    NOTIFICATIONS_CHANGELOG = 15, "notifications-changelog", Many, Compact, false, 0;
    /// See [`ORDERS_CHANGELOG`].
    AUDIT_CHANGELOG = 16, "audit-changelog", Many, Compact, false, 0;
    /// Internal: input positions and broadcast rows of each transaction, for replay.
    ORDERS_JOURNAL = 17, "orders-journal", Many, Keep, false, 0;
    /// See [`ORDERS_JOURNAL`].
    TRADING_JOURNAL = 18, "trading-journal", Many, Keep, false, 0;
    /// Internal: wakes books up if a deadline has come, a listing has changed, or the previous
    /// transaction has left work.
    CLOCK = 19, "clock", Many, Keep, true, 0;
    /// Internal: the gateway's preferences, webhooks and their positions, keyed by `user/kind/id`.
    SUBSCRIPTIONS = 20, "subscriptions", One, Compact, true, 0;
    /// Internal: restrictions set by operators, keyed by user or `*`, broadcast.
    CONTROLS = 21, "controls", One, Compact, true, 0;
    /// Commands that only operators may give, keyed by user: deposits, withdrawals, busts, and
    /// cancels for users.
    OPERATOR_COMMANDS = 22, "operator-commands", Many, Keep, true, 0;
}

/// The topics that `audit` chains: the public contract without `audit-log` itself, and the
/// restrictions of operators.
pub const AUDITED: [TopicId; 11] = [
    ORDER_COMMANDS,
    MARKET_DATA,
    INSTRUMENTS,
    ORDER_EVENTS,
    TRADES,
    REFERENCE_PRICES,
    PORTFOLIOS,
    NOTIFICATIONS,
    DEAD_LETTERS,
    CONTROLS,
    OPERATOR_COMMANDS,
];
