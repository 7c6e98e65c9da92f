//! Errors of one partition: errors that end the reading, errors to wait for, and the times of
//! warnings.
//!
//! librdkafka continues by itself after most errors, and even skips some unreadable content: a
//! batch with a wrong checksum is reported once and left out. So unreadable content ends the
//! delivery of its partition at that offset. The next incarnation reads the content again, because
//! the damage may have happened on the network. At the second failure the role stops. Temporary
//! errors are retried, with warnings and a time limit.

use std::time::{Duration, Instant};

use ports::LogError;
use rdkafka::error::RDKafkaErrorCode as Code;

use super::classify::{self, Read};
use super::refused::forbidden;

/// Errors that last less than this time are not logged: leaders move.
const TELL_AFTER: Duration = Duration::from_secs(3);
const TELL_EVERY: Duration = Duration::from_secs(30);
/// After this time with nothing but errors, a partition will not recover by itself.
const GIVE_UP_AFTER: Duration = Duration::from_secs(300);
/// After this time without an error, the next error starts a new series.
const OVER_AFTER: Duration = Duration::from_secs(10);

/// A partition's errors since the last successful read.
#[derive(Default)]
pub(super) struct Trouble(Option<TroubleEpisode>);

struct TroubleEpisode {
    since: Instant,
    last: Instant,
    told: Option<Instant>,
    errors: u64,
}

impl Trouble {
    /// Ends the series after a successful read.
    pub(super) fn passed(&mut self, place: &str) {
        if let Some(story) = self.0.take().filter(|s| s.told.is_some()) {
            tracing::info!(
                "{place} can be read again, after {} errors in {:?}",
                story.errors,
                story.last - story.since
            );
        }
    }

    /// True if a series of errors is open, so that [`Trouble::passed`] must be called.
    pub(super) fn is_some(&self) -> bool {
        self.0.is_some()
    }

    /// Notes an error at the next offset. Returns an error if the reading must end.
    pub(super) fn note(
        &mut self,
        place: &str,
        next: u64,
        code: Code,
        text: &str,
        now: Instant,
    ) -> Option<LogError> {
        match classify::read(code, false) {
            Read::Forbidden => return Some(forbidden(text)),
            Read::Unreadable => return Some(unreadable(place, next, code, text)),
            _ => {}
        }

        let story = self
            .0
            .take()
            .filter(|s| now.duration_since(s.last) < OVER_AFTER);
        let mut story = story.unwrap_or(TroubleEpisode {
            since: now,
            last: now,
            told: None,
            errors: 0,
        });

        (story.last, story.errors) = (now, story.errors + 1);
        let lasts = now.duration_since(story.since);
        let errors = story.errors;
        let seconds = lasts.as_secs();
        if lasts >= TELL_AFTER
            && story
                .told
                .is_none_or(|at| now.duration_since(at) >= TELL_EVERY)
        {
            story.told = Some(now);
            tracing::warn!(
                "{place} cannot be read from offset {next}: {text} ({errors} errors in {seconds} s); its records wait, and it is tried again"
            );
        }

        self.0 = Some(story);
        (lasts >= GIVE_UP_AFTER).then(|| {
            LogError::Corrupt(format!(
                "{place} could not be read from offset {next} for {} s: {text}; look at the log of the broker that leads the partition",
                GIVE_UP_AFTER.as_secs()
            ))
        })
    }
}

/// The error for unreadable content, with the remedy.
fn unreadable(place: &str, next: u64, code: Code, text: &str) -> LogError {
    let way_out = match code {
        Code::NotImplemented => {
            "this program was built without that format or compression: use a build that has it"
        }
        Code::MessageSizeTooLarge => {
            "a record is larger than this program accepts: lower the topic's max.message.bytes to what it was made with"
        }
        _ => {
            "the leading broker's copy is damaged: let a replica with a good copy lead the partition, or restore it from one"
        }
    };

    LogError::Corrupt(format!(
        "{place} cannot be read from offset {next}: {text}; {way_out}; nothing was skipped"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_that_cannot_be_read_ends_the_reading_at_once() {
        for code in [
            Code::BadMessage,
            Code::BadCompression,
            Code::NotImplemented,
            Code::MessageSizeTooLarge,
        ] {
            let end = Trouble::default().note("t/0", 5, code, "why", Instant::now());
            let Some(LogError::Corrupt(why)) = end else {
                panic!("{code:?}: {end:?}")
            };

            assert!(
                why.contains("t/0 cannot be read from offset 5: why; ")
                    && why.ends_with("nothing was skipped"),
                "{why}"
            );
        }

        assert!(matches!(
            Trouble::default().note("t/0", 5, Code::TopicAuthorizationFailed, "", Instant::now()),
            Some(LogError::Refused(_))
        ));
    }

    #[test]
    fn what_may_pass_is_told_after_seconds_and_ends_after_minutes() {
        let mut trouble = Trouble::default();
        let began = Instant::now();
        let note = |t: &mut Trouble, ms: u64| {
            t.note(
                "t/0",
                5,
                Code::Unknown,
                "why",
                began + Duration::from_millis(ms),
            )
        };

        let told = |t: &Trouble| t.0.as_ref().and_then(|s| s.told);
        assert!(
            note(&mut trouble, 0).is_none() && told(&trouble).is_none(),
            "a moment is nobody's business"
        );
        assert!(note(&mut trouble, 3_000).is_none());
        assert_eq!(told(&trouble), Some(began + Duration::from_secs(3)));
        assert!(
            (4..=299).all(|s| note(&mut trouble, s * 1_000).is_none()),
            "it may pass yet"
        );
        assert_eq!(
            told(&trouble),
            Some(began + Duration::from_secs(273)),
            "every 30 s"
        );
        assert!(
            matches!(note(&mut trouble, 300_000), Some(LogError::Corrupt(why)) if why.contains("for 300 s: why"))
        );
        trouble.passed("t/0");
        assert!(note(&mut trouble, 301_000).is_none(), "a new story");
        assert!(
            note(&mut trouble, 700_000).is_none(),
            "and another one, after silence"
        );
    }
}
