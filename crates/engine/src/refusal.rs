//! Refusals by the log: a login, a right, a place in the group. At the first start that is a
//! configuration which does not fit, and ends the role. Once everything was right it may pass,
//! because a broker that restarts may not know its users yet, or somebody is just changing the
//! rights: then the role tries again, says so loudly, and ends only when it lasts.

use std::time::Duration;

/// A role that ran for so long was refused nothing that it needs.
const PROVEN_AFTER: Duration = Duration::from_secs(5);
/// How long a refusal may last.
const ENDS_AFTER: Duration = Duration::from_secs(300);
/// How often it is told.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// Refusals so far, and whether everything was allowed once.
#[derive(Default)]
pub(super) struct Refusals {
    /// Whether everything was allowed once.
    proven: bool,
    running_since_us: Option<u64>,
    refused_since_us: Option<u64>,
    told_us: Option<u64>,
}

/// The answer to a refusal.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum RefusalAction {
    /// The refusal will not pass: stop.
    Stop,
    /// Try again; `tell`, with the seconds that are left, if it is time to.
    Wait {
        /// Seconds until the role ends over this, if it is time to tell.
        tell: Option<u64>,
    },
}

impl Refusals {
    /// A turn went well while all tasks ran.
    pub(super) fn ran(&mut self, now_us: u64) {
        let since = *self.running_since_us.get_or_insert(now_us);
        if past(now_us, since, PROVEN_AFTER) {
            self.allowed();
        }
    }

    /// A transaction was committed: everything is allowed.
    pub(super) fn allowed(&mut self) {
        *self = Refusals {
            proven: true,
            running_since_us: self.running_since_us,
            ..Refusals::default()
        };
    }

    /// An incarnation ended.
    pub(super) fn ended(&mut self) {
        self.running_since_us = None;
    }

    /// The log refused something.
    pub(super) fn refused(&mut self, now_us: u64) -> RefusalAction {
        if !self.proven {
            return RefusalAction::Stop;
        }

        let since = *self.refused_since_us.get_or_insert(now_us);
        if past(now_us, since, ENDS_AFTER) {
            return RefusalAction::Stop;
        }

        let tell = self
            .told_us
            .is_none_or(|told| past(now_us, told, TELL_EVERY));
        if tell {
            self.told_us = Some(now_us);
        }

        RefusalAction::Wait {
            tell: tell.then(|| {
                ENDS_AFTER
                    .as_secs()
                    .saturating_sub(now_us.saturating_sub(since) / 1_000_000)
            }),
        }
    }
}

fn past(now_us: u64, since_us: u64, time: Duration) -> bool {
    Duration::from_micros(now_us.saturating_sub(since_us)) >= time
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000;

    #[test]
    fn at_the_first_start_a_refusal_ends_the_role() {
        let mut r = Refusals::default();
        assert_eq!(r.refused(S), RefusalAction::Stop);
        r.ran(2 * S);
        r.ran(6 * S);
        assert_eq!(
            r.refused(6 * S),
            RefusalAction::Stop,
            "it had just begun to run"
        );
    }

    #[test]
    fn once_it_was_right_a_refusal_is_waited_for_and_told_for_minutes() {
        let mut r = Refusals::default();
        r.ran(S);
        r.ran(6 * S);
        assert_eq!(r.refused(7 * S), RefusalAction::Wait { tell: Some(300) });
        r.ended();
        assert_eq!(r.refused(9 * S), RefusalAction::Wait { tell: None });
        assert_eq!(r.refused(17 * S), RefusalAction::Wait { tell: Some(290) });

        // To run for a moment is no proof that it has passed.
        r.ran(18 * S);
        r.ended();
        assert_eq!(r.refused(307 * S), RefusalAction::Stop);
    }

    #[test]
    fn a_commit_proves_at_once_and_a_later_refusal_counts_from_its_own_beginning() {
        let mut r = Refusals::default();
        r.allowed();
        assert_eq!(r.refused(10 * S), RefusalAction::Wait { tell: Some(300) });
        r.allowed();
        assert_eq!(r.refused(400 * S), RefusalAction::Wait { tell: Some(300) });
    }
}
