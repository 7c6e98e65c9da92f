//! Kill switches of operators, for one user or for everybody (FIX PartyActionRequest).

use super::reason::Reason;
use crate::named_enum;

named_enum! {
    /// Level of a kill switch. A later variant is stricter.
    Control {
        /// No added risk: new orders and replaces are refused. Transfers are allowed.
        Stopped = 1, "stopped";
        /// Cancels only.
        Disabled = 2, "disabled";
    }
}

impl Control {
    /// Reason for the end or rejection of an order in the book.
    pub fn reason(self) -> Reason {
        match self {
            Control::Stopped => Reason::KillSwitch,
            Control::Disabled => Reason::AccountDisabled,
        }
    }
}

/// User id that means all users.
pub const EVERYBODY: &str = "*";

/// Effect of a command, as far as kill switches distinguish commands. Commands that only reduce
/// risk are always allowed, and are not checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommandEffect {
    /// New order, or replace.
    Order,
    /// Deposit or withdrawal.
    Transfer,
}

/// Checks that the kill switches of the user and of everybody permit the command.
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
