//! Checks of a tick before its price counts: the tick must fit its listing, and must not be late.
//! All crates check ticks here.
//!
//! A tick is late if its source sent an equal or higher `seq` before. A tick without a `seq` is
//! late if its timestamp is older than the last timestamp of the source. But sources restart their
//! `seq` every day or at each start, and a single wrong `seq` must not silence a source for ever.
//! So a lower `seq` restarts the source if the last accepted tick is more than [`ANEW_MS`] ago. If
//! ticks carry timestamps, the timestamps must still rise: an older timestamp means a repeat.

use super::instrument::Instrument;
use super::price::{FreshnessLimits, is_ahead};

/// Facts about a tick that decide about its acceptance.
#[derive(Clone, Copy, Debug)]
pub struct Tick {
    /// Price, if valid.
    pub price_e4: Option<i64>,
    /// Sequence number, rising per source.
    pub seq: Option<u64>,
    /// Timestamp of the source.
    pub time_ns: Option<i128>,
    /// Append time of the log.
    pub append_ms: i64,
}

/// Reason why a tick does not fit its listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// No positive price.
    Price,
    /// Symbol not listed.
    Symbol,
    /// Timestamp in the future.
    Future,
}

/// Rules for publishing prices and accepting ticks.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Maximum age of prices.
    pub stale: FreshnessLimits,
    /// The last price of a burst is published at the end of its second.
    pub last_is_told: bool,
    /// Sources may restart their sequence numbers.
    pub begins_anew: bool,
}

/// State of one source of a symbol's ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// `seq` of the last accepted tick.
    pub seq: Option<u64>,
    /// Timestamp of the last accepted tick, in nanoseconds.
    pub time_ns: Option<i128>,
    /// Append time of the last accepted tick with a `seq`.
    pub seen_ms: Option<i64>,
    /// Number of late ticks since the last accepted tick.
    pub late: u64,
    /// Timestamp of the source at its last restart. A tick that is not newer belongs to the old
    /// numbers, however high its `seq`.
    pub before_ns: Option<i128>,
}

/// A source that was silent for longer may restart its numbers. Kafka clients wait 30 s for an
/// answer before they resend, so late copies by a retry or a second line arrive within this time.
/// The time is below the default maximum age of prices, so a restarted feed stops no trading.
pub const ANEW_MS: i64 = 30_000;
/// Number of late ticks in a row that is reported.
pub const LATE_TOLD: u64 = 20;

impl Tick {
    /// Returns price and listing if the tick fits. `listing` is called only for a tick with a
    /// price.
    pub fn fit(
        &self,
        listing: impl FnOnce() -> Option<Instrument>,
    ) -> Result<(i64, Instrument), Unfit> {
        let price_e4 = self.price_e4.ok_or(Unfit::Price)?;
        let instrument = listing()
            .filter(Instrument::is_listed)
            .ok_or(Unfit::Symbol)?;
        if self
            .time_ns
            .is_some_and(|time| is_ahead(time, self.append_ms))
        {
            return Err(Unfit::Future);
        }

        Ok((price_e4, instrument))
    }
}

impl Source {
    /// Checks that a tick is not late, and updates the source. `anew`: sources may restart their
    /// numbers.
    pub(super) fn admits(&mut self, tick: &Tick, anew: bool) -> bool {
        let late = self.is_late(tick);
        let begins = anew && self.begins_anew(tick);
        if (late && !begins) || (anew && self.is_of_before(tick)) {
            if anew {
                self.late = self.late.saturating_add(1);

                // Old rules kept no append time, so keep one from now on.
                self.seen_ms = self.seen_ms.or(tick.seq.map(|_| tick.append_ms));
            }

            return false;
        }

        if late && tick.seq.is_some() {
            self.before_ns = self.past_ns(tick).or(self.before_ns);
        }

        self.seq = tick.seq.or(self.seq);
        self.time_ns = tick.time_ns.or(self.time_ns);
        if anew {
            self.seen_ms = tick.seq.map(|_| tick.append_ms).or(self.seen_ms);
            self.late = 0;
        }

        true
    }

    /// True if this tick completes a run of late ticks that must be reported; once per run.
    pub fn tells_late(&self) -> bool {
        self.late == LATE_TOLD
    }

    fn is_late(&self, tick: &Tick) -> bool {
        match (tick.seq, tick.time_ns) {
            (Some(seq), _) => self.seq.is_some_and(|last| seq <= last),
            (None, Some(time)) => self.time_ns.is_some_and(|last| time < last),
            (None, None) => false,
        }
    }

    /// Last timestamp of the source. A timestamp in the future came from a wrong clock, and does
    /// not count.
    fn past_ns(&self, tick: &Tick) -> Option<i128> {
        self.time_ns.filter(|last| !is_ahead(*last, tick.append_ms))
    }

    /// True if a tick repeats a number from before the source's restart.
    fn is_of_before(&self, tick: &Tick) -> bool {
        let before_ns = self
            .before_ns
            .filter(|before| !is_ahead(*before, tick.append_ms));
        matches!((tick.seq, tick.time_ns, before_ns), (Some(_), Some(time), Some(before)) if time <= before)
    }

    /// True if a late tick restarts the source.
    fn begins_anew(&self, tick: &Tick) -> bool {
        let last_ns = self.past_ns(tick);
        let Some(seq) = tick.seq else {
            return last_ns.is_none();
        };

        // The log's clock may have been ahead for a moment, too.
        let silent = self
            .seen_ms
            .is_some_and(|seen| tick.append_ms.saturating_sub(seen).saturating_abs() > ANEW_MS);
        let newer = match (tick.time_ns, last_ns) {
            (Some(time), Some(last)) => time > last,
            _ => self.seq != Some(seq),
        };

        silent && newer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i128 = 1_000_000_000;

    fn tick(seq: Option<u64>, time_ns: Option<i128>, append_ms: i64) -> Tick {
        Tick {
            price_e4: Some(1),
            seq,
            time_ns,
            append_ms,
        }
    }

    #[test]
    fn m1_late_by_seq_else_by_time() {
        for anew in [false, true] {
            let mut s = Source::default();
            let mut admits = |seq, time| s.admits(&tick(seq, time, 1_000), anew);
            assert!(admits(Some(5), Some(100)));
            assert!(!admits(Some(5), Some(200)), "a repeat");
            assert!(!admits(Some(4), None));
            assert!(!admits(None, Some(99)));
            assert!(admits(None, Some(100)), "equal times are real prints");
            assert!(admits(None, None));
            assert!(admits(Some(6), Some(1)), "seq decides where there is one");
        }
    }

    /// Regression: yesterday ended at 900000 and today began at 1. All of today's ticks were
    /// ignored, without a report.
    #[test]
    fn a_source_that_was_silent_may_begin_anew() {
        for (later, anew, due) in [
            (ANEW_MS, true, false),
            (ANEW_MS + 1, true, true),
            (86_400_000, true, true),
            (86_400_000, false, false),
            (-86_400_000, true, true),
        ] {
            for last in [900_000, u64::MAX] {
                let mut s = Source::default();
                assert!(s.admits(&tick(Some(last), None, 100_000_000), anew));
                assert!(
                    !s.admits(&tick(Some(7), None, 100_000_000), anew),
                    "nothing is silent yet"
                );
                assert_eq!(
                    s.admits(&tick(Some(1), None, 100_000_000 + later), anew),
                    due,
                    "{later} ms later"
                );
                assert_eq!(
                    s.admits(&tick(Some(2), None, 100_000_000 + later), anew),
                    due
                );
                assert!(
                    !s.admits(&tick(Some(2), None, 100_000_000 + later), anew),
                    "and its numbers count again"
                );
            }
        }
    }

    /// Late ticks, however many, do not stop a source from restarting.
    #[test]
    fn one_wrong_number_silences_a_source_for_a_while_and_is_told() {
        let mut s = Source::default();
        let mut counted = 0;
        let mut told = 0;
        for (n, ms) in (0..60_000).step_by(100).enumerate() {
            let seq = if n == 10 { u64::MAX } else { n as u64 + 1 };
            counted += u32::from(s.admits(&tick(Some(seq), None, ms), true));
            told += u32::from(s.tells_late());
        }

        assert_eq!((counted, told), (600 - 300, 1));
    }

    #[test]
    fn what_is_older_by_its_own_word_is_sent_again() {
        let mut s = Source::default();
        assert!(s.admits(&tick(Some(9), Some(100 * SECOND), 100_000), true));
        for (seq, time) in [(9, 100), (8, 100), (8, 99), (1, 50)] {
            assert!(
                !s.admits(&tick(Some(seq), Some(time * SECOND), 200_000), true),
                "{seq} of {time}"
            );
        }

        // The same number without a timestamp is a repeat; a lower number restarts the source.
        assert!(!s.admits(&tick(Some(9), None, 200_000), true));
        assert!(s.clone().admits(&tick(Some(8), None, 200_000), true));
        assert!(
            s.admits(&tick(Some(9), Some(199 * SECOND), 200_000), true),
            "the same number of a later time is another tick"
        );
    }

    /// Regression: yesterday's numbers are above today's. Repeats of yesterday's ticks became
    /// today's prices, and today's ticks were late.
    #[test]
    fn what_was_sent_before_a_source_began_anew_stays_late() {
        let mut s = Source::default();
        let mut admits =
            |seq, second, ms| s.admits(&tick(Some(seq), Some(second * SECOND), ms), true);
        assert!(admits(900_000, 100, 100_000));
        assert!(admits(1, 200, 200_000));
        assert!(!admits(899_999, 99, 200_001) && !admits(900_000, 100, 200_002));
        assert!(admits(2, 201, 201_000), "today's number goes on");
        assert!(
            admits(3, 150, 201_001) && admits(4, 202, 202_000),
            "within its numbers a source may be out of time"
        );
        assert!(!admits(900_000, 100, 300_000), "also after a silence");
        assert!(
            admits(1, 300, 300_001) && !admits(4, 202, 300_002),
            "each time that it begins anew"
        );

        // A clock that falls behind the last append time stops no source.
        assert!(admits(5, 50, 50_000));
    }

    /// A timestamp from a wrong clock stops no source.
    #[test]
    fn a_time_of_tomorrow_is_outlived() {
        const DAY: i64 = 86_400_000;
        for seq in [None, Some(5)] {
            let mut s = Source::default();
            assert!(s.admits(&tick(seq, Some(i128::from(DAY) * 1_000_000), DAY), true));
            assert!(s.admits(&tick(seq.map(|n| n - 1), Some(SECOND), 1_000), true));
            assert!(s.admits(&tick(seq, Some(2 * SECOND), 2_000), true));
            assert!(!s.admits(&tick(None, Some(SECOND), 2_000), true));
        }
    }

    #[test]
    fn rows_of_before_begin_to_count_when_they_are_late() {
        let mut s = Source {
            seq: Some(u64::MAX),
            ..Source::default()
        };

        assert!(!s.admits(&tick(Some(1), None, 1_000), true));
        assert!(!s.admits(&tick(Some(2), None, 1_000 + ANEW_MS), true));
        assert!(s.admits(&tick(Some(3), None, 1_001 + ANEW_MS), true));
    }
}
