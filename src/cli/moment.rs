//! The only parser of moments: every option that takes a time accepts and refuses the same texts.
//!
//! A time of day without a zone is refused. A user means local time, but the log's time is UTC, and
//! nobody would see an error of an hour. A day alone starts at midnight UTC, as the help says.

use domain::decimal::{Num, WHOLE, parse as number};
use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use wire::input::timestamp_ns;

/// Accepted forms, for help and error messages.
pub(super) const FORMS: &str = "a time such as 2026-01-31T09:30:00Z or 2026-01-31T10:30:00+01:00, a day such as 2026-01-31 (from 00:00 UTC), or seconds, \
                         milliseconds, microseconds or nanoseconds since 1970";

const NS_OF_MS: i128 = 1_000_000;

/// Parses a moment, in nanoseconds since 1970.
pub(super) fn ns(text: &str) -> Result<i128, String> {
    let text = text.trim();
    if let Some(n) = number(text.as_bytes(), WHOLE) {
        let n = match n {
            _ if looks_like_a_day(text) => {
                return Err(format!(
                    "`{text}` may be a day or a number of seconds: say {}",
                    dashed(text)
                ));
            }
            Num::Exact(n) if n >= 0 => n,
            Num::Exact(_) => return Err(format!("`{text}` lies before 1970")),
            Num::Odd(..) => {
                return Err(format!(
                    "`{text}` is no whole number of seconds, milliseconds, microseconds or nanoseconds"
                ));
            }
        };

        return Ok(timestamp_ns(i128::from(n)));
    }

    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return Ok(time.as_nanosecond());
    }

    let as_time = text.parse::<DateTime>();
    match (text.parse::<Date>(), as_time) {
        // jiff reads a civil date from a longer text, and would drop the time of day.
        (Ok(day), _) if is_a_day(text) => {
            let midnight = day
                .to_zoned(TimeZone::UTC)
                .map_err(|e| format!("`{text}`: {e}"))?;
            Ok(midnight.timestamp().as_nanosecond())
        }
        (_, Ok(_)) => Err(format!(
            "`{text}` has no zone: add Z if it is UTC, or the offset, as in +01:00"
        )),
        _ => Err(format!("`{text}` is no time: say {FORMS}")),
    }
}

/// Parses a moment, in milliseconds since 1970, rounded down.
pub(super) fn ms(text: &str) -> Result<i64, String> {
    i64::try_from(ns(text)?.div_euclid(NS_OF_MS)).map_err(|_| format!("`{text}` is too far away"))
}

/// Parses a moment into a number whose unit follows from its size (see the contract), as exactly as
/// possible.
pub(super) fn timestamp(text: &str) -> Result<i64, String> {
    let ns = ns(text)?;
    let ms = ns.div_euclid(NS_OF_MS);
    let number = if timestamp_ns(ms) == ns {
        ms
    } else if timestamp_ns(ns) == ns {
        ns
    } else {
        // So early that a finer number would be read as seconds.
        ns.div_euclid(1_000_000_000)
    };

    i64::try_from(number).map_err(|_| format!("`{text}` is too far away"))
}

fn is_a_day(text: &str) -> bool {
    text.len() == 10
        && text.bytes().enumerate().all(|(i, b)| {
            if i == 4 || i == 7 {
                b == b'-'
            } else {
                b.is_ascii_digit()
            }
        })
}

/// True if the text is eight digits that form a day.
pub(super) fn looks_like_a_day(text: &str) -> bool {
    text.len() == 8
        && text.bytes().all(|b| b.is_ascii_digit())
        && dashed(text).parse::<Date>().is_ok()
}

/// Adds the dashes to a day of eight digits.
pub(super) fn dashed(text: &str) -> String {
    format!("{}-{}-{}", &text[..4], &text[4..6], &text[6..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_one_moment() {
        for text in [
            "2026-01-31T09:30:00Z",
            "2026-01-31T10:30:00+01:00",
            "2026-01-31 09:30:00Z",
            "1769851800",
            "1769851800.0",
            " 1769851800000 ",
            "1769851800000000",
            "1769851800000000000",
        ] {
            assert_eq!(ms(text), Ok(1_769_851_800_000), "{text}");
        }

        assert_eq!(ms("2026-01-31"), ms("2026-01-31T00:00:00Z"));
        assert_eq!(timestamp("2026-01-31T09:30:00Z"), Ok(1_769_851_800_000));
        assert_eq!(
            timestamp("2026-01-31T09:30:00.000001Z"),
            Ok(1_769_851_800_000_001_000)
        );
        assert_eq!(
            (timestamp("1970-01-02"), timestamp("0")),
            (Ok(86_400), Ok(0))
        );
    }

    #[test]
    fn what_may_mean_two_things_is_refused_and_the_reason_said() {
        for (text, part) in [
            ("2026-01-31T09:30:00", "no zone"),
            ("2026-01-31 09:30", "no zone"),
            ("2026-01-31T", "no time"),
            ("20260131", "2026-01-31"),
            ("-5", "before 1970"),
            ("1.5", "no whole number"),
            ("1e300", "no whole number"),
            ("nan", "no whole number"),
            ("yesterday", "2026-01-31T09:30:00Z"),
            ("2026-02-30", "no time"),
            ("31.01.2026", "no time"),
            ("", "no time"),
        ] {
            let why = ns(text).expect_err(text);
            assert!(why.contains(part), "{text}: {why}");
        }
    }
}
