//! Refusals by the log: a login, an access right, or membership in the group. A refusal at the
//! first start is a wrong configuration and ends the role. After a proven start a refusal may pass:
//! a restarted broker may not know its users yet, or somebody changes the rights. The role then
//! tries again, logs an error, and ends only if the refusal lasts.

use std::time::Duration;

/// After running this long, the role has proved that nothing required is refused.
const PROVEN_AFTER: Duration = Duration::from_secs(5);
/// Longest duration of a refusal before the role ends.
const ENDS_AFTER: Duration = Duration::from_secs(300);
/// Interval between log lines about a refusal.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// Refusals so far, and the proof of an earlier success.
#[derive(Default)]
pub(super) struct Refusals {
    /// True if the log once allowed all requests.
    proven: bool,
    running_since_us: Option<u64>,
    refused_since_us: Option<u64>,
    told_us: Option<u64>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum RefusalAction {
    /// The refusal is permanent: stop.
    Stop,
    /// Try again.
    Wait {
        /// Seconds until the role ends. `Some` only if a log line is due.
        tell: Option<u64>,
    },
}

impl Refusals {
    /// Notes a successful turn with all tasks running.
    pub(super) fn ran(&mut self, now_us: u64) {
        let since = *self.running_since_us.get_or_insert(now_us);
        if past(now_us, since, PROVEN_AFTER) {
            self.allowed();
        }
    }

    /// Notes a committed transaction with output, which proves the rights.
    pub(super) fn allowed(&mut self) {
        *self = Refusals {
            proven: true,
            running_since_us: self.running_since_us,
            ..Refusals::default()
        };
    }

    pub(super) fn ended(&mut self) {
        self.running_since_us = None;
    }

    /// Notes a refusal and returns the action.
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
    fn a_refusal_after_a_success_is_waited_for_and_told() {
        let mut r = Refusals::default();
        r.ran(S);
        r.ran(6 * S);
        assert_eq!(r.refused(7 * S), RefusalAction::Wait { tell: Some(300) });
        r.ended();
        assert_eq!(r.refused(9 * S), RefusalAction::Wait { tell: None });
        assert_eq!(r.refused(17 * S), RefusalAction::Wait { tell: Some(290) });

        // Running for a moment does not prove the end of the refusal.
        r.ran(18 * S);
        r.ended();
        assert_eq!(r.refused(307 * S), RefusalAction::Stop);
    }

    #[test]
    fn a_commit_proves_and_a_later_refusal_counts_from_its_start() {
        let mut r = Refusals::default();
        r.allowed();
        assert_eq!(r.refused(10 * S), RefusalAction::Wait { tell: Some(300) });
        r.allowed();
        assert_eq!(r.refused(400 * S), RefusalAction::Wait { tell: Some(300) });
    }
}
