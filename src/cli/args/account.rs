//! `account ...` as typed.

use clap::{Args as ClapArgs, Subcommand};

const STOP: &str = "\
From then on new orders and changes of orders are refused with KILL_SWITCH; their ids are not used up. Cancels, deposits and withdrawals pass.
It takes hold as soon as each instance of `orders` has read it, as a rule within a second; what was let in before goes on.
Orders that rest stay and may trade. `processor order --mass-cancel --user USER` ends those of a user.

Exit code: 0 done; else nothing was written.

Examples:
  processor account stop 501 --text 'runaway strategy' --brokers localhost:9092
  processor account stop --all --brokers localhost:9092";

const DISABLE: &str = "\
From then on everything but cancels is refused with ACCOUNT_DISABLED: orders, changes of orders, deposits and withdrawals. Their ids are used up.
Orders that rest stay and may trade. `processor order --mass-cancel --user USER` ends those of a user.

Exit code: 0 done; else nothing was written.

Example: processor account disable 501 --text 'closed in May' --brokers localhost:9092";

const RESUME: &str = "\
Lifts `stop` and `disable` of a user, or with --all the `stop` of everybody; users who were stopped or disabled one by one stay so.

Exit code: 0 done; 1 nothing was switched off there.

Examples:
  processor account resume 501 --brokers localhost:9092
  processor account resume --all --brokers localhost:9092";

const LIST: &str = "\
One line for each user who is stopped or disabled; `*` is everybody. A record that cannot be read changes nothing, and is named on stderr.

Examples:
  processor account list --brokers localhost:9092
  processor account list --format json --embedded state/demo";

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Account {
    /// Kill switch: no new orders and no changes of orders, of a user or of everybody
    #[command(after_help = STOP)]
    Stop {
        /// Whom.
        #[command(flatten)]
        whom: Whom,
        /// Why, for whoever reads the list
        #[arg(long, value_name = "TEXT")]
        text: Option<String>,
    },
    /// An account that may do nothing but cancel
    #[command(after_help = DISABLE)]
    Disable {
        /// The user
        user: String,
        /// Why, for whoever reads the list
        #[arg(long, value_name = "TEXT")]
        text: Option<String>,
    },
    /// Lift what was stopped or disabled
    #[command(after_help = RESUME)]
    Resume {
        /// Whom.
        #[command(flatten)]
        whom: Whom,
    },
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
