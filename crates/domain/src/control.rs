//! The switches of operators: commands that they may stop, for one user or for everybody.

use super::reason::Reason;
use crate::named_enum;

named_enum! {
    /// How much of an account is switched off. What is written later is stricter.
    Control {
        /// Nothing that adds risk: no new orders and no changes of orders. Money moves.
        Stopped = 1, "stopped";
        /// Nothing but cancels.
        Disabled = 2, "disabled";
    }
}

impl Control {
    /// The reason that the end or the refusal of an order names at the book.
    pub fn reason(self) -> Reason {
        match self {
            Control::Stopped => Reason::KillSwitch,
            Control::Disabled => Reason::AccountDisabled,
        }
    }
}

/// Stands for everybody where a user could be named.
pub const EVERYBODY: &str = "*";

/// The effect of a command, as far as controls tell commands apart. An effect that only lessens
/// risk is always allowed, and not asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommandEffect {
    /// A new order, or a change of one.
    Order,
    /// Money in or out.
    Transfer,
}

/// Whether a user may do that, by what is switched off for the user and for everybody.
pub fn check(
    act: CommandEffect,
    user: Option<Control>,
    everybody: Option<Control>,
) -> Result<(), Reason> {
    match (user.max(everybody), act) {
        (None, _) | (Some(Control::Stopped), CommandEffect::Transfer) => Ok(()),
        (Some(Control::Stopped), CommandEffect::Order) => Err(Reason::KillSwitch),
        (Some(Control::Disabled), CommandEffect::Order | CommandEffect::Transfer) => {
            Err(Reason::AccountDisabled)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Control::*;

    #[test]
    fn the_stricter_one_counts() {
        for (user, everybody, order, transfer) in [
            (None, None, Ok(()), Ok(())),
            (Some(Stopped), None, Err(Reason::KillSwitch), Ok(())),
            (None, Some(Stopped), Err(Reason::KillSwitch), Ok(())),
            (
                Some(Disabled),
                None,
                Err(Reason::AccountDisabled),
                Err(Reason::AccountDisabled),
            ),
            (
                Some(Disabled),
                Some(Stopped),
                Err(Reason::AccountDisabled),
                Err(Reason::AccountDisabled),
            ),
            (
                Some(Stopped),
                Some(Disabled),
                Err(Reason::AccountDisabled),
                Err(Reason::AccountDisabled),
            ),
        ] {
            let may = |act| check(act, user, everybody);
            assert_eq!(
                (may(CommandEffect::Order), may(CommandEffect::Transfer)),
                (order, transfer),
                "{user:?}, {everybody:?}"
            );
        }
    }
}
