//! Throttling of clients by brokers. A broker delays its answers to a client over its quota, so a
//! quota looks like a slow network or unreachable brokers. Only librdkafka's statistics show the
//! delay, per broker.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Deserialize;

/// Interval of librdkafka's statistics.
pub(super) const EVERY: Duration = Duration::from_secs(5);
/// Interval of repeated warnings while the throttling lasts.
const TELL_EVERY: Duration = Duration::from_secs(60);
/// The throttling counts as over after this time without a delay.
const OVER_AFTER: Duration = Duration::from_secs(30);

#[derive(Deserialize)]
struct Statistics {
    #[serde(default)]
    brokers: BTreeMap<String, Broker>,
}

#[derive(Deserialize)]
struct Broker {
    #[serde(default)]
    throttle: Window,
}

/// Delays in milliseconds.
#[derive(Default, Deserialize)]
struct Window {
    #[serde(default)]
    max: i64,
}

/// The broker with the longest delay since the last statistics, and the delay in milliseconds.
fn longest(statistics: &[u8]) -> Option<(String, i64)> {
    let all: Statistics = serde_json::from_slice(statistics).ok()?;
    let delays = all
        .brokers
        .into_iter()
        .map(|(name, b)| (name, b.throttle.max));
    delays.filter(|(_, ms)| *ms > 0).max_by_key(|(_, ms)| *ms)
}

/// The delays of one client.
pub(super) struct Throttle {
    /// Name of the client in log lines.
    whose: String,
    story: Mutex<Option<ThrottleEpisode>>,
}

struct ThrottleEpisode {
    last: Instant,
    told: Option<Instant>,
    broker: String,
    ms: i64,
}

impl Throttle {
    /// For the client with this name in log lines.
    pub(super) fn of(whose: impl Into<String>) -> Throttle {
        Throttle {
            whose: whose.into(),
            story: Mutex::new(None),
        }
    }

    /// Reads librdkafka's statistics of the client.
    pub(super) fn note(&self, statistics: &[u8], now: Instant) {
        let whose = &self.whose;
        let mut story = self.story.lock().unwrap_or_else(PoisonError::into_inner);
        match (longest(statistics), story.as_mut()) {
            (Some((broker, ms)), before) => {
                let told = before
                    .and_then(|s| s.told)
                    .filter(|at| now.duration_since(*at) < TELL_EVERY);
                if told.is_none() {
                    tracing::warn!(
                        "{whose} is throttled: broker {broker} held answers back for up to {ms} ms. Its user or its client id has a quota, which \
                         `kafka-configs.sh --describe --entity-type clients` (or users) shows; the role gets slower until the quota is raised, and \
                         nothing is lost"
                    );
                }

                *story = Some(ThrottleEpisode {
                    last: now,
                    told: told.or(Some(now)),
                    broker,
                    ms,
                });
            }
            (None, Some(s)) if now.duration_since(s.last) >= OVER_AFTER => {
                tracing::info!("{whose} is not throttled any more");
                *story = None;
            }
            (None, _) => {}
        }
    }

    /// The throttling of this client at present, as a possible reason of a slow transaction.
    pub(super) fn why(&self) -> Option<String> {
        let story = self.story.lock().unwrap_or_else(PoisonError::into_inner);
        story.as_ref().map(|s| {
            format!(
                "throttled: broker {} held answers back for up to {} ms, so a quota is too low",
                s.broker, s.ms
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_delay_counts_and_ends_after_a_while() {
        let of = |a: i64, b: i64| {
            let window =
                |max: i64| format!(r#""throttle":{{"min":0,"max":{max},"avg":1,"cnt":2}}"#);
            format!(
                r#"{{"name":"x","brokers":{{"h:1/1":{{"nodeid":1,{}}},"h:1/2":{{{}}},"new/3":{{}}}},"topics":{{}}}}"#,
                window(a),
                window(b)
            )
        };

        assert_eq!(longest(of(0, 0).as_bytes()), None);
        assert_eq!(
            longest(of(3, 70).as_bytes()),
            Some(("h:1/2".to_string(), 70))
        );
        assert_eq!((longest(b"{}"), longest(b"x")), (None, None));
        let throttle = Throttle::of("a client");
        let began = Instant::now();
        let note =
            |s: u64, ms: i64| throttle.note(of(0, ms).as_bytes(), began + Duration::from_secs(s));
        note(0, 0);
        assert_eq!(throttle.why(), None);
        note(5, 9);
        assert!(
            throttle
                .why()
                .is_some_and(|why| why.contains("h:1/2") && why.contains("9 ms"))
        );
        note(30, 0);
        assert!(throttle.why().is_some(), "a pause is not the end");
        note(35, 0);
        assert_eq!(throttle.why(), None);
    }
}
