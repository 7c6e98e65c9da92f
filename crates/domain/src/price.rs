//! Last price of a symbol: rules for accepting, ignoring and confirming ticks, and for publishing
//! the reference price.

use super::instrument::Instrument;
use super::tick::{Rules, Source, Tick};

/// Price of a tick, with its append time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Priced {
    /// Price in 10^-4.
    pub price_e4: i64,
    /// Append time in milliseconds.
    pub time_ms: i64,
}

/// Price state of a symbol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Prices {
    /// Last accepted tick.
    pub last: Option<Priced>,
    /// Last published reference price.
    pub told: Option<Priced>,
    /// Price outside the band that waits for confirmation, with the number of ticks in a row that
    /// agree.
    pub held: Option<(i64, u8)>,
    /// Number of accepted ticks.
    pub accepted: u64,
    /// Number of late ticks.
    pub late: u64,
}

/// Ticks in a row that must agree on a price outside the band, the first tick included.
const CONFIRMATIONS: u8 = 3;
/// A reference price is published after a move by this much, ...
const PUBLISH_BPS: i128 = 10;
/// ... or after this time.
const PUBLISH_MS: i64 = 1_000;
/// Maximum lead of a tick's timestamp over log time.
const AHEAD_NS: i128 = 1_000_000_000;

/// True if a tick's timestamp lies in the future, compared with its append time.
pub fn is_ahead(time_ns: i128, append_ms: i64) -> bool {
    time_ns > i128::from(append_ms) * 1_000_000 + AHEAD_NS
}

/// Outcome of a tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TickFate {
    /// The tick is the last price now.
    Accepted,
    /// The price is too far from the last price, and waits for confirmation.
    Held,
    /// The tick is late and ignored.
    Late,
}

impl Prices {
    /// Applies a tick that fits its listing. A held tick also updates the source, so a repeat of
    /// the tick cannot confirm its own price.
    pub fn fold(
        &mut self,
        tick: &Tick,
        price_e4: i64,
        instrument: &Instrument,
        source: &mut Source,
        rules: Rules,
    ) -> TickFate {
        if !source.admits(tick, rules.begins_anew) {
            self.late += 1;
            return TickFate::Late;
        }

        self.take(
            Priced {
                price_e4,
                time_ms: tick.append_ms,
            },
            instrument,
        )
    }

    /// Applies a tick that is not late.
    fn take(&mut self, tick: Priced, instrument: &Instrument) -> TickFate {
        if let (Some(last), Some(band)) = (self.last, instrument.band_bps)
            && outside(tick.price_e4, last.price_e4, band)
        {
            let agreed = match self.held {
                Some((held, n)) if !outside(tick.price_e4, held, band) => n + 1,
                _ => 1,
            };

            if agreed < CONFIRMATIONS {
                self.held = Some((tick.price_e4, agreed));
                return TickFate::Held;
            }
        }

        self.held = None;
        self.last = Some(tick);
        self.accepted += 1;
        TickFate::Accepted
    }

    /// After a tick: returns the last price if publication is due, and marks the price as
    /// published. Published prices are also the heartbeat, so a short maximum age makes publication
    /// more frequent. A price that was published with a time far ahead is published again with the
    /// right time.
    pub fn publish_on_tick(&mut self, stale: FreshnessLimits) -> Option<Priced> {
        let last = self.last?;
        let interval_ms = PUBLISH_MS.min(stale.behind_ms / 4);
        let due = self.told.is_none_or(|told| {
            let moved = (i128::from(last.price_e4) - i128::from(told.price_e4)).abs();
            moved * 10_000 >= PUBLISH_BPS * i128::from(told.price_e4)
                || last.time_ms.saturating_sub(told.time_ms) >= interval_ms
                || told.time_ms.saturating_sub(last.time_ms) > stale.ahead_ms
        });

        if due {
            self.told = Some(last);
        }

        due.then_some(last)
    }
}

impl Prices {
    /// Time at which the last price must be published even without a tick. The time is the next
    /// full second after the publishing interval, so that many symbols share one wake-up. `None`:
    /// the last price is already published.
    pub fn due_ms(&self, stale: FreshnessLimits) -> Option<i64> {
        let last = self.last?;
        let told = self.told?;
        let due = told
            .time_ms
            .saturating_add(PUBLISH_MS.min(stale.behind_ms / 4));
        (last.price_e4 != told.price_e4).then(|| {
            due.saturating_add(999)
                .div_euclid(1_000)
                .saturating_mul(1_000)
        })
    }

    /// Publishes the last price without a tick, if its time has come.
    pub fn publish_on_clock(&mut self, now_ms: i64, stale: FreshnessLimits) -> Option<Priced> {
        self.due_ms(stale)
            .filter(|due| *due <= now_ms)
            .and_then(|_| self.publish())
    }

    /// Returns the last price and marks it as published.
    pub fn publish(&mut self) -> Option<Priced> {
        self.told = self.last;
        self.last
    }
}

fn outside(price: i64, from: i64, band_bps: i64) -> bool {
    (i128::from(price) - i128::from(from)).abs() * 10_000 > i128::from(band_bps) * i128::from(from)
}

/// Brokers' clocks may differ by this much, even if prices go stale sooner.
const AHEAD_MIN_MS: i64 = 60_000;

/// Maximum distance between the time of a price and the time of a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FreshnessLimits {
    /// Maximum age of a price, in milliseconds.
    pub behind_ms: i64,
    /// Maximum lead of a price, in milliseconds. Topics share no clock, so a price may be ahead. A
    /// larger lead came from a wrong clock.
    pub ahead_ms: i64,
}

impl FreshnessLimits {
    /// `stale_ms` is the maximum age. `falls`: log time may fall, so a price far ahead is not
    /// fresh. If false (old rule), every future price is fresh.
    pub fn new(stale_ms: u64, falls: bool) -> FreshnessLimits {
        let behind_ms = i64::try_from(stale_ms).unwrap_or(i64::MAX);
        FreshnessLimits {
            behind_ms,
            ahead_ms: if falls {
                behind_ms.max(AHEAD_MIN_MS)
            } else {
                i64::MAX
            },
        }
    }
}

/// True if a price of append time `price_ms` is fresh at `now_ms`.
pub fn is_fresh(price_ms: i64, now_ms: i64, stale: FreshnessLimits) -> bool {
    now_ms.saturating_sub(price_ms) <= stale.behind_ms && !is_beyond(price_ms, now_ms, stale)
}

/// True if a time is further ahead than brokers' clocks differ.
pub fn is_beyond(time_ms: i64, now_ms: i64, stale: FreshnessLimits) -> bool {
    time_ms.saturating_sub(now_ms) > stale.ahead_ms
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(price_e4: i64, time_ms: i64) -> Priced {
        Priced { price_e4, time_ms }
    }

    #[test]
    fn m2_one_second_ahead_is_allowed() {
        assert!(!is_ahead(2_000_000_000, 1_000));
        assert!(is_ahead(2_000_000_001, 1_000));
    }

    #[test]
    fn m5_a_spike_needs_three_that_agree() {
        let banded = Instrument {
            band_bps: Some(300),
            ..Default::default()
        };

        let mut p = Prices::default();
        assert_eq!(p.take(at(1_000_000, 0), &banded), TickFate::Accepted);
        assert_eq!(p.take(at(1_050_000, 1), &banded), TickFate::Held);
        assert_eq!(
            p.take(at(1_001_000, 2), &banded),
            TickFate::Accepted,
            "back to normal: the spike is forgotten"
        );
        assert_eq!(p.take(at(1_050_000, 3), &banded), TickFate::Held);
        assert_eq!(p.take(at(1_051_000, 4), &banded), TickFate::Held);
        assert_eq!(p.last, Some(at(1_001_000, 2)));
        assert_eq!(
            p.take(at(900_000, 5), &banded),
            TickFate::Held,
            "another spike starts anew"
        );
        assert_eq!(p.take(at(900_000, 6), &banded), TickFate::Held);
        assert_eq!(p.take(at(900_000, 7), &banded), TickFate::Accepted);
        assert_eq!(p.last, Some(at(900_000, 7)));
        assert_eq!(
            Prices {
                last: Some(at(1, 0)),
                ..p
            }
            .take(at(i64::MAX, 8), &Instrument::default()),
            TickFate::Accepted,
            "no band, no hold"
        );
    }

    #[test]
    fn told_on_ten_basis_points_or_a_second() {
        let mut p = Prices::default();
        let i = Instrument::default();
        let mut told = Vec::new();
        for t in [
            at(1_000_000, 0),
            at(1_000_999, 1),
            at(1_001_000, 2),
            at(1_001_000, 900),
            at(1_001_001, 1_002),
            at(1_001_001, 1_003),
        ] {
            p.take(t, &i);
            told.extend(p.publish_on_tick(FreshnessLimits::new(120_000, true)));
        }

        assert_eq!(
            told,
            [at(1_000_000, 0), at(1_001_000, 2), at(1_001_001, 1_002)]
        );
    }

    /// Regression: the last tick of a burst was published with the next tick, perhaps a day later.
    #[test]
    fn the_last_price_of_a_burst_is_due_when_its_second_is_over() {
        let mut p = Prices::default();
        let i = Instrument::default();
        let stale = FreshnessLimits::new(120_000, true);
        assert_eq!(p.due_ms(stale), None);
        for (t, told, due) in [
            (at(1_000_000, 200), true, None),
            (at(1_000_500, 300), false, Some(2_000)),
            (at(1_000_000, 400), false, None),
            (at(1_000_900, 500), false, Some(2_000)),
        ] {
            p.take(t, &i);
            assert_eq!(
                (p.publish_on_tick(stale).is_some(), p.due_ms(stale)),
                (told, due),
                "{t:?}"
            );
        }

        assert_eq!(
            (p.publish(), p.due_ms(stale)),
            (Some(at(1_000_900, 500)), None)
        );
    }

    #[test]
    fn m4_fresh_up_to_the_limit() {
        for falls in [false, true] {
            let stale = FreshnessLimits::new(120_000, falls);
            assert!(
                is_fresh(1_000, 121_000, stale)
                    && !is_fresh(1_000, 121_001, stale)
                    && is_fresh(5_000, 1_000, stale)
            );
            assert!(
                is_fresh(121_000, 1_000, stale) && is_fresh(121_001, 1_000, stale) != falls,
                "fresh for ever once, and no longer"
            );
        }
    }

    /// Regression: a price with a time of tomorrow was published again only tomorrow, or after a
    /// move by ten basis points.
    #[test]
    fn what_was_told_with_a_time_far_ahead_is_told_again() {
        for falls in [false, true] {
            let mut p = Prices::default();
            let i = Instrument::default();
            let stale = FreshnessLimits::new(120_000, falls);
            let mut told = Vec::new();
            for t in [
                at(1_000_000, 1_000),
                at(1_000_001, 86_400_000),
                at(1_000_002, 2_000),
                at(1_000_002, 2_001),
            ] {
                p.take(t, &i);
                told.extend(p.publish_on_tick(stale).map(|t| t.time_ms));
            }

            assert_eq!(
                told,
                if falls {
                    vec![1_000, 86_400_000, 2_000]
                } else {
                    vec![1_000, 86_400_000]
                }
            );
        }
    }
}
