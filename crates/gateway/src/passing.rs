//! Which errors of the log pass: one that does not answer is asked again; one that refuses a login
//! or a right is, too, if it did not before, because a broker that restarts may not know its users
//! yet. That lasts for some minutes at most.

use std::time::{Duration, Instant};

use ports::LogError;

/// How long a log that has let us in before may refuse to.
const REFUSED_MAX: Duration = Duration::from_secs(300);

/// What somebody who reads the log has met so far.
#[derive(Default)]
pub(crate) struct Passing {
    worked: bool,
    refused: Option<Instant>,
}

impl Passing {
    /// The log has answered.
    pub(crate) fn works(&mut self) {
        (self.worked, self.refused) = (true, None);
    }

    /// Why to wait and ask again; the error itself if waiting does not mend it.
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
        let mut p = Passing::default();
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
