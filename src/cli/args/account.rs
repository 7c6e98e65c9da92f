//! `account ...` as typed.

use clap::{Args as ClapArgs, Subcommand};

const STOP: &str = "\
From then on new orders and changes of orders are refused with KILL_SWITCH; their ids are not used up. Cancels, deposits and withdrawals pass.
It takes hold as soon as each instance of `orders` and `trading` has read it, as a rule within a second. From then on nothing of theirs trades: orders that rest or wait end with
OrderCancelled and the reason KILL_SWITCH, a thousand at a time. With --keep-orders they stay, and may trade.

Exit code: 0 done; else nothing was written.

Examples:
  processor account stop 501 --operator ana --text 'runaway strategy' --brokers localhost:9092
  processor account stop --all --operator ana --brokers localhost:9092";

const DISABLE: &str = "\
From then on everything but cancels is refused with ACCOUNT_DISABLED: orders, changes of orders, deposits and withdrawals. Their ids are used up.
Orders that rest or wait end with OrderCancelled and the reason ACCOUNT_DISABLED. With --keep-orders they stay, and may trade.

Exit code: 0 done; else nothing was written.

Example: processor account disable 501 --operator ana --text 'closed in May' --brokers localhost:9092";

const RESUME: &str = "\
Lifts `stop` and `disable` of a user, or with --all the `stop` of everybody; users who were stopped or disabled one by one stay so.

Exit code: 0 done; 1 nothing was switched off there.

Examples:
  processor account resume 501 --operator ana --brokers localhost:9092
  processor account resume --all --operator ana --brokers localhost:9092";

const LIST: &str = "\
One line for each user who is stopped or disabled; `*` is everybody. A record that cannot be read changes nothing, and is named on stderr.

Examples:
  processor account list --brokers localhost:9092
  processor account list --format json --embedded state/demo";

const CANCEL: &str = "\
The orders end with OrderCancelled and the reason OPERATOR. The book has the last word: what has
traded before stays.

Exit code: 0 every order has ended; 1 there was none, or not in time.

Examples:
  processor account cancel 501 --operator ana --brokers localhost:9092
  processor account cancel 501 --order-id 1001 --operator ana --brokers localhost:9092";

const BUST: &str = "\
Money, shares and fee of the trade go back, and the user is told TradeBusted, as are all who follow
the topic trades. Quantity, price and fee are those of the user's own events, less the parts that were
taken back before; --quantity takes a part back. The order must have ended.
Money that was spent since becomes a debt: until deposits or sales have covered it, the user can
neither withdraw nor buy (DEBIT_BALANCE). Shares that were sold since are owed, as after a short sale.
Only this side is taken back, and the house takes its place: whoever was on the other side keeps
the trade, until it is taken back there, too.

Exit code: 0 taken back; 1 refused, no such trade, or not in time.

Example: processor account bust 501 1001 0-17 --operator ana --brokers localhost:9092
`processor audit find --user 501 --order 1001` shows an order's trades.";

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum AccountCommand {
    /// Kill switch: orders end, and no new ones and no changes come in, of a user or of everybody
    #[command(after_help = STOP)]
    Stop {
        /// Whom.
        #[command(flatten)]
        whom: Whom,
        /// Orders that rest or wait stay, and may trade
        #[arg(long)]
        keep_orders: bool,
        /// Why, for whoever reads the list
        #[arg(long, value_name = "TEXT")]
        text: Option<String>,
        /// The operator who does it, for the record
        #[arg(long, value_name = "NAME")]
        operator: String,
    },
    /// An account that may do nothing but cancel
    #[command(after_help = DISABLE)]
    Disable {
        /// The user
        user: String,
        /// Orders that rest or wait stay, and may trade
        #[arg(long)]
        keep_orders: bool,
        /// Why, for whoever reads the list
        #[arg(long, value_name = "TEXT")]
        text: Option<String>,
        /// The operator who does it, for the record
        #[arg(long, value_name = "NAME")]
        operator: String,
    },
    /// Lift what was stopped or disabled
    #[command(after_help = RESUME)]
    Resume {
        /// Whom.
        #[command(flatten)]
        whom: Whom,
        /// The operator who does it, for the record
        #[arg(long, value_name = "NAME")]
        operator: String,
    },
    /// End orders of a user
    #[command(after_help = CANCEL)]
    Cancel(Cancel),
    /// Take a trade back
    #[command(after_help = BUST)]
    Bust(Bust),
    /// Who is stopped or disabled
    #[command(after_help = LIST)]
    List,
}

/// A user, or everybody.
#[derive(Debug, Default, Clone, ClapArgs)]
#[group(required = true, multiple = false)]
pub struct Whom {
    /// The user
    pub user: Option<String>,
    /// Everybody
    #[arg(long)]
    pub all: bool,
}

/// Options of `account cancel`.
#[derive(Debug, Clone, ClapArgs)]
pub struct Cancel {
    /// The user
    pub user: String,
    /// Only this order
    #[arg(long, value_name = "ID", conflicts_with = "symbol")]
    pub order_id: Option<String>,
    /// Only orders of this symbol
    #[arg(long, value_name = "S")]
    pub symbol: Option<String>,
    /// The operator who does it, for the record
    #[arg(long, value_name = "NAME")]
    pub operator: String,
    /// How long to wait for the answer
    #[arg(long, default_value = "30s", value_name = "TIME")]
    pub timeout: String,
}

/// Options of `account bust`.
#[derive(Debug, Clone, ClapArgs)]
pub struct Bust {
    /// The user
    pub user: String,
    /// The order that traded
    pub order_id: String,
    /// The trade
    pub trade_id: String,
    /// Only so many shares of it
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(1..))]
    pub quantity: Option<i64>,
    /// Id of this command [default: a new UUID]. Where an answer was lost, the same command with
    /// the same id takes back nothing more
    #[arg(long, value_name = "ID")]
    pub id: Option<String>,
    /// The operator who does it, for the record
    #[arg(long, value_name = "NAME")]
    pub operator: String,
    /// How long to wait for the answer
    #[arg(long, default_value = "30s", value_name = "TIME")]
    pub timeout: String,
}
