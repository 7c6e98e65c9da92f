//! Decides which errors of the log pass with a retry. A log that does not answer is retried. A
//! refused login or right is retried only if the log has worked before: a broker that restarts may
//! not know its users yet. Retries of refusals end after a few minutes.

use std::time::{Duration, Instant};

use ports::LogError;

/// Longest time of refusals by a log that has worked before.
const REFUSED_MAX: Duration = Duration::from_secs(300);

/// State of one reader of the log.
#[derive(Default)]
pub(crate) struct RetryPolicy {
    worked: bool,
    refused: Option<Instant>,
}

impl RetryPolicy {
    /// Notes that the log has answered.
    pub(crate) fn works(&mut self) {
        (self.worked, self.refused) = (true, None);
    }

    /// Returns the reason to wait and retry, or the error itself if a retry cannot help.
    pub(crate) fn wait(&mut self, e: LogError) -> Result<String, LogError> {
        match e {
            LogError::Unavailable(why) => Ok(why),
            LogError::Refused(why)
                if self.worked
                    && self.refused.get_or_insert_with(Instant::now).elapsed() < REFUSED_MAX =>
            {
                Ok(why)
            }
            e => Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_passes_only_for_those_who_were_let_in() {
        let mut p = RetryPolicy::default();
        assert!(p.wait(LogError::Unavailable("no answer".into())).is_ok());
        assert!(matches!(
            p.wait(LogError::Refused("who is that?".into())),
            Err(LogError::Refused(_))
        ));
        p.works();
        assert!(p.wait(LogError::Refused("who is that?".into())).is_ok());
        assert!(matches!(
            p.wait(LogError::Corrupt("damaged".into())),
            Err(LogError::Corrupt(_))
        ));
    }
}
