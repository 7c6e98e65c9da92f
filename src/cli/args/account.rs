//! `account ...` as typed.

use clap::{Args as ClapArgs, Subcommand};

const STOP: &str = "\
The command takes effect when each instance of `orders` and `trading` has read
it, as a rule within a second. New orders and changes of orders are then refused
with KILL_SWITCH, and their ids can be used again. Cancels, deposits and
withdrawals pass. Open orders end with OrderCancelled and the reason
KILL_SWITCH, a thousand at a time. With --keep-orders they stay, and may trade.

Exit code: 0 done; any other: nothing was written.

Examples:
  processor account stop 501 --operator ana --text 'runaway strategy' \\
      --brokers localhost:9092
  processor account stop --all --operator ana --brokers localhost:9092";

const DISABLE: &str = "\
Orders, changes of orders, deposits and withdrawals are refused with
ACCOUNT_DISABLED, and their ids cannot be used again. Open orders end with
OrderCancelled and the reason ACCOUNT_DISABLED. With --keep-orders they stay,
and may trade.

Exit code: 0 done; any other: nothing was written.

Example:
  processor account disable 501 --operator ana --text 'closed in May' \\
      --brokers localhost:9092";

const RESUME: &str = "\
--all undoes only `account stop --all`. Users who were stopped or disabled one
by one stay so.

Exit code: 0 done; 1 the user, or everybody, was neither stopped nor disabled.

Examples:
  processor account resume 501 --operator ana --brokers localhost:9092
  processor account resume --all --operator ana --brokers localhost:9092";

const LIST: &str = "\
One line per user; `*` is everybody. A record that cannot be read has no effect,
and is named on stderr.

Examples:
  processor account list --brokers localhost:9092
  processor account list --format json --embedded state/demo";

const CANCEL: &str = "\
The orders end with OrderCancelled and the reason OPERATOR. What an order traded
before the cancel reached the book stays.

Exit code: 0 every order has ended; 1 there was no such order, or the answer did
not come within --timeout.

Examples:
  processor account cancel 501 --operator ana --brokers localhost:9092
  processor account cancel 501 --order-id 1001 --operator ana \\
      --brokers localhost:9092";

const BUST: &str = "\
The order must have ended. Money, shares and fee of the trade go back. The user
gets TradeBusted, and so does the topic trades. Quantity, price and fee are
those of the user's own events, less the parts taken back before.

Money that the user has spent since then becomes a debt: until deposits or sales
cover it, the user can neither withdraw nor buy (DEBIT_BALANCE). Shares that the
user has sold since then are owed, as after a short sale.

Only this side of the trade is taken back, and the house takes its place. The
other user keeps the trade; take it back there too if you want that.

Exit code: 0 taken back; 1 refused, no such trade, or no answer within
--timeout.

Examples:
  processor audit find --user 501 --order 1001 --brokers localhost:9092
      show the trades of an order
  processor account bust 501 1001 0-17 --operator ana --brokers localhost:9092";

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum AccountCommand {
    /// Kill switch: end the orders of a user or of everybody, and refuse new ones
    #[command(after_help = STOP)]
    Stop {
        /// Whom.
        #[command(flatten)]
        whom: Whom,
        /// Keep the open orders; they may still trade
        #[arg(long)]
        keep_orders: bool,
        /// Reason, shown by `account list`
        #[arg(long, value_name = "TEXT")]
        text: Option<String>,
        /// Name of the operator, for the audit log
        #[arg(long, value_name = "NAME")]
        operator: String,
    },
    /// Refuse all commands of a user except cancels
    #[command(after_help = DISABLE)]
    Disable {
        /// User id
        user: String,
        /// Keep the open orders; they may still trade
        #[arg(long)]
        keep_orders: bool,
        /// Reason, shown by `account list`
        #[arg(long, value_name = "TEXT")]
        text: Option<String>,
        /// Name of the operator, for the audit log
        #[arg(long, value_name = "NAME")]
        operator: String,
    },
    /// Undo `account stop` and `account disable`
    #[command(after_help = RESUME)]
    Resume {
        /// Whom.
        #[command(flatten)]
        whom: Whom,
        /// Name of the operator, for the audit log
        #[arg(long, value_name = "NAME")]
        operator: String,
    },
    /// Cancel open orders of a user
    #[command(after_help = CANCEL)]
    Cancel(Cancel),
    /// Take a trade back
    #[command(after_help = BUST)]
    Bust(Bust),
    /// List the users who are stopped or disabled
    #[command(after_help = LIST)]
    List,
}

/// A user, or everybody.
#[derive(Debug, Default, Clone, ClapArgs)]
#[group(required = true, multiple = false)]
pub struct Whom {
    /// User id
    pub user: Option<String>,
    /// All users
    #[arg(long)]
    pub all: bool,
}

/// Options of `account cancel`.
#[derive(Debug, Clone, ClapArgs)]
pub struct Cancel {
    /// User id
    pub user: String,
    /// Cancel only this order
    #[arg(long, value_name = "ID", conflicts_with = "symbol")]
    pub order_id: Option<String>,
    /// Cancel only the orders of this symbol
    #[arg(long, value_name = "S")]
    pub symbol: Option<String>,
    /// Name of the operator, for the audit log
    #[arg(long, value_name = "NAME")]
    pub operator: String,
    /// Longest wait for the answer, for example 30s or 2m
    #[arg(long, default_value = "30s", value_name = "TIME")]
    pub timeout: String,
}

/// Options of `account bust`.
#[derive(Debug, Clone, ClapArgs)]
pub struct Bust {
    /// User id
    pub user: String,
    /// Order that traded
    pub order_id: String,
    /// Id of the trade
    pub trade_id: String,
    /// Take back only this many shares [default: all that were not taken back yet]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(1..))]
    pub quantity: Option<i64>,
    /// Id of this command. If an answer was lost, send the command again with the same id: it takes
    /// back nothing more [default: a new UUID]
    #[arg(long, value_name = "ID")]
    pub id: Option<String>,
    /// Name of the operator, for the audit log
    #[arg(long, value_name = "NAME")]
    pub operator: String,
    /// Longest wait for the answer, for example 30s or 2m
    #[arg(long, default_value = "30s", value_name = "TIME")]
    pub timeout: String,
}
