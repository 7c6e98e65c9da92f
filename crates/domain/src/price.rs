//! The last price of a symbol: which ticks count, which are late, which must be confirmed, and when
//! the rest of the system is told.

use super::instrument::Instrument;
use super::tick::{Rules, Source, Tick};

/// A tick's price and when it entered the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Priced {
    /// 10^-4.
    pub price_e4: i64,
    /// Append time.
    pub time_ms: i64,
}

/// The memory of a symbol's prices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Prices {
    /// The last accepted tick.
    pub last: Option<Priced>,
    /// The reference price that was told last.
    pub told: Option<Priced>,
    /// A price outside the band that waits for confirmation, and how many ticks in a row agreed on
    /// it.
    pub held: Option<(i64, u8)>,
    /// Ticks that moved (or confirmed) the price.
    pub accepted: u64,
    /// Ticks that came too late to count.
    pub late: u64,
}

/// How often three ticks in a row must agree on a price outside the band.
const CONFIRMATIONS: u8 = 3;
/// A reference price is told when it moved this much, ...
const TELL_BPS: i128 = 10;
/// ... or when this long has passed.
const TELL_MS: i64 = 1_000;
/// A tick may be this far ahead of the log's time.
const AHEAD_NS: i128 = 1_000_000_000;

/// Whether a tick's time lies in the future, seen from its append time.
pub fn is_ahead(time_ns: i128, append_ms: i64) -> bool {
    time_ns > i128::from(append_ms) * 1_000_000 + AHEAD_NS
}

/// The fate of a tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TickFate {
    /// The tick is the last price now.
    Accepted,
    /// Too far from the last price; waits for others to agree.
    Held,
    /// Late, so it counts for nothing.
    Late,
}

impl Prices {
    /// Folds in a tick that fits its listing. A tick that is held was seen, too: sent again, it
    /// must not confirm itself.
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

    /// Folds a tick in that is not late.
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

    /// Whether the last price must be told; if so it counts as told from here on. Told prices are
    /// also the heartbeat, so where prices go stale fast they are told more often. What was told
    /// with a time far ahead is told again, with the right one.
    pub fn tell(&mut self, stale: Stale) -> Option<Priced> {
        let last = self.last?;
        let interval_ms = TELL_MS.min(stale.behind_ms / 4);
        let due = self.told.is_none_or(|told| {
            let moved = (i128::from(last.price_e4) - i128::from(told.price_e4)).abs();
            moved * 10_000 >= TELL_BPS * i128::from(told.price_e4)
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
    /// When the last price must be told though no tick comes any more: when the time for telling is
    /// over, at the next full second, so that many symbols come together. None: it is the one that
    /// was told.
    pub fn due_ms(&self, stale: Stale) -> Option<i64> {
        let last = self.last?;
        let told = self.told?;
        let due = told
            .time_ms
            .saturating_add(TELL_MS.min(stale.behind_ms / 4));
        (last.price_e4 != told.price_e4).then(|| {
            due.saturating_add(999)
                .div_euclid(1_000)
                .saturating_mul(1_000)
        })
    }

    /// Tells the last price where that is due by now.
    pub fn tell_due(&mut self, now_ms: i64, stale: Stale) -> Option<Priced> {
        self.due_ms(stale)
            .filter(|due| *due <= now_ms)
            .and_then(|_| self.tell_last())
    }

    /// The last price, which counts as told from here on.
    pub fn tell_last(&mut self) -> Option<Priced> {
        self.told = self.last;
        self.last
    }
}

fn outside(price: i64, from: i64, band_bps: i64) -> bool {
    (i128::from(price) - i128::from(from)).abs() * 10_000 > i128::from(band_bps) * i128::from(from)
}

/// Clocks of brokers may differ by this much, however fast prices go stale.
const AHEAD_MIN_MS: i64 = 60_000;

/// How far a price's time may lie from that of what is decided upon it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stale {
    /// A price may be so old.
    pub behind_ms: i64,
    /// Topics have no common clock, so a price may be ahead; but one that is further ahead was
    /// stamped by a clock that was wrong.
    pub ahead_ms: i64,
}

impl Stale {
    /// As old as that at most. `falls`: times may fall, so that what is far ahead is not fresh;
    /// else the future always is, as it once was.
    pub fn new(stale_ms: u64, falls: bool) -> Stale {
        let behind_ms = i64::try_from(stale_ms).unwrap_or(i64::MAX);
        Stale {
            behind_ms,
            ahead_ms: if falls {
                behind_ms.max(AHEAD_MIN_MS)
            } else {
                i64::MAX
            },
        }
    }
}

/// Whether a price of that append time is fresh for something appended at `now_ms`.
pub fn is_fresh(price_ms: i64, now_ms: i64, stale: Stale) -> bool {
    now_ms.saturating_sub(price_ms) <= stale.behind_ms && !is_beyond(price_ms, now_ms, stale)
}

/// Whether a time is further ahead than clocks differ.
pub fn is_beyond(time_ms: i64, now_ms: i64, stale: Stale) -> bool {
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
            told.extend(p.tell(Stale::new(120_000, true)));
        }

        assert_eq!(
            told,
            [at(1_000_000, 0), at(1_001_000, 2), at(1_001_001, 1_002)]
        );
    }

    /// The last tick of a burst was told when another one came, which may be tomorrow.
    #[test]
    fn the_last_price_of_a_burst_is_due_when_its_second_is_over() {
        let mut p = Prices::default();
        let i = Instrument::default();
        let stale = Stale::new(120_000, true);
        assert_eq!(p.due_ms(stale), None);
        for (t, told, due) in [
            (at(1_000_000, 200), true, None),
            (at(1_000_500, 300), false, Some(2_000)),
            (at(1_000_000, 400), false, None),
            (at(1_000_900, 500), false, Some(2_000)),
        ] {
            p.take(t, &i);
            assert_eq!(
                (p.tell(stale).is_some(), p.due_ms(stale)),
                (told, due),
                "{t:?}"
            );
        }

        assert_eq!(
            (p.tell_last(), p.due_ms(stale)),
            (Some(at(1_000_900, 500)), None)
        );
    }

    #[test]
    fn m4_fresh_up_to_the_limit() {
        for falls in [false, true] {
            let stale = Stale::new(120_000, falls);
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

    /// A price that was told with a time of tomorrow was told again tomorrow, or when it had moved
    /// by ten basis points.
    #[test]
    fn what_was_told_with_a_time_far_ahead_is_told_again() {
        for falls in [false, true] {
            let mut p = Prices::default();
            let i = Instrument::default();
            let stale = Stale::new(120_000, falls);
            let mut told = Vec::new();
            for t in [
                at(1_000_000, 1_000),
                at(1_000_001, 86_400_000),
                at(1_000_002, 2_000),
                at(1_000_002, 2_001),
            ] {
                p.take(t, &i);
                told.extend(p.tell(stale).map(|t| t.time_ms));
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
