//! Rate limit: GCRA in whole microseconds on log time, with two numbers of state per bucket. Orders
//! have one bucket, all other commands of a user have a second, looser bucket.

/// Rate and burst, as GCRA parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    interval_us: i64,
    tolerance_us: i64,
    /// A fall of the clock by more than this is followed; `None` means never.
    fall_us: Option<i64>,
}

/// Brokers' clocks differ by less, so the limit follows a fall of the clock by more.
const FALL_MAX_US: i64 = 1_000_000;

/// Bucket of one user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UserBucket {
    /// Time at which the bucket is full again ("theoretical arrival time" of GCRA), in
    /// microseconds.
    pub tat_us: i64,
    /// Latest append time. After a change of leader, append time may fall by a little, and the
    /// limit does not follow; see [`Limit::take`].
    pub last_seen_us: i64,
}

impl Limit {
    /// `rate` per second with bursts of `burst`; `None` if the rate is 0 (off).
    pub fn new(rate: u32, burst: u32) -> Option<Limit> {
        Limit::times(rate, burst, 1)
    }

    /// Multiplies rate and burst by `factor`; `None` if rate or factor is 0 (off).
    pub fn times(rate: u32, burst: u32, factor: u32) -> Option<Limit> {
        let rate = u64::from(rate) * u64::from(factor);
        let burst = u64::from(burst.max(1)) * u64::from(factor);
        let interval_us = 1_000_000_u64.checked_div(rate)?;
        let bounded = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let tolerance_us = bounded((burst - 1).saturating_mul(interval_us));
        let mut limit = Limit {
            interval_us: bounded(interval_us),
            tolerance_us,
            fall_us: None,
        };

        limit.fall_us = Some(limit.window_us().min(FALL_MAX_US));
        Some(limit)
    }

    /// Limit under old rules: a fall of the clock is followed only beyond the time to fill an empty
    /// bucket, or never if `falls` is false.
    pub fn as_before(self, falls: bool) -> Limit {
        Limit {
            fall_us: falls.then(|| self.window_us()),
            ..self
        }
    }

    /// Time to fill an empty bucket.
    fn window_us(&self) -> i64 {
        self.tolerance_us.saturating_add(self.interval_us)
    }

    /// Takes one token. `Err` carries the milliseconds (rounded up) until a token is free; the
    /// state does not change.
    ///
    /// A clock that falls by at most a second (or the time to fill an empty bucket) gives no
    /// credit: the limit waits for the old time. A larger fall means that the latest append time
    /// came from a wrong clock. No user may be locked out until that time, so the bucket restarts
    /// from now. Spent tokens stay spent, except for the token of this command.
    pub fn take(&self, clock: UserBucket, now_us: i64) -> Result<UserBucket, i64> {
        if self
            .fall_us
            .is_some_and(|most| clock.last_seen_us.saturating_sub(now_us) > most)
        {
            let spent = clock
                .tat_us
                .saturating_sub(clock.last_seen_us)
                .clamp(0, self.tolerance_us);
            return Ok(UserBucket {
                tat_us: now_us
                    .saturating_add(spent)
                    .saturating_add(self.interval_us),
                last_seen_us: now_us,
            });
        }

        let now = now_us.max(clock.last_seen_us);
        let free = clock.tat_us.saturating_sub(self.tolerance_us);
        if free > now {
            // Count the wait from the sender's time, which may be behind the latest append time.
            let from = if self.fall_us.is_some() { now_us } else { now };
            return Err(free.saturating_sub(from).saturating_add(999) / 1_000);
        }

        Ok(UserBucket {
            tat_us: now.max(clock.tat_us).saturating_add(self.interval_us),
            last_seen_us: now,
        })
    }
}

/// Minimum time between answers to refused commands of a user. The bound saves event, notification
/// and audit entries for each command of a flood. A shorter time would cost more. A client that
/// waits as told need not wait longer because of this bound.
const TELL_EVERY_MS: i64 = 1_000;

/// Second bucket of a user, with the count of unanswered refusals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Messages {
    /// State of the bucket.
    pub clock: UserBucket,
    /// Append time of the command whose refusal was answered last; 0 if none was.
    pub told_ms: i64,
    /// Commands that were refused without an event since the user's last event.
    pub unanswered: u64,
}

/// Answer of the second bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// A token was free.
    Admitted,
    /// Refused; answer with the milliseconds until a token is free.
    Refused(i64),
    /// Refused shortly after another answer: count only.
    Unanswered,
}

impl Messages {
    /// Takes one token.
    pub fn take(&mut self, limit: &Limit, now_ms: i64) -> Admission {
        let wait_ms = match limit.take(self.clock, now_ms.saturating_mul(1_000)) {
            Ok(clock) => {
                self.clock = clock;
                return Admission::Admitted;
            }
            Err(wait_ms) => wait_ms,
        };

        // A time before the last answer means that a clock was wrong, so answer once more.
        let silent =
            self.told_ms > 0 && (0..TELL_EVERY_MS).contains(&now_ms.saturating_sub(self.told_ms));
        if silent {
            self.unanswered += 1;
            return Admission::Unanswered;
        }

        self.told_ms = now_ms;
        Admission::Refused(wait_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn r1_vector_ten_per_second_burst_five() {
        let limit = Limit::new(10, 5).expect("on");
        let mut clock = UserBucket::default();
        for i in 0..5 {
            clock = limit
                .take(clock, 0)
                .unwrap_or_else(|_| panic!("order {i} passes"));
        }

        assert_eq!(limit.take(clock, 0), Err(100));
        assert_eq!(limit.take(clock, 99_000), Err(1));
        assert_eq!(limit.take(clock, 99_999), Err(1));
        clock = limit.take(clock, 100_000).expect("room for one");
        assert_eq!(limit.take(clock, 100_000), Err(100));
    }

    #[test]
    fn time_that_goes_back_a_little_gives_no_credit() {
        let limit = Limit::new(1, 1).expect("on");
        for (limit, wait) in [
            (limit, 2_000),
            (limit.as_before(true), 2_000),
            (limit.as_before(false), 1_000),
        ] {
            let clock = limit.take(UserBucket::default(), 5_000_000).expect("first");
            assert_eq!(
                limit.take(clock, 4_000_000),
                Err(wait),
                "the wait is from the sender's time on"
            );
            assert!(limit.take(clock, 6_000_000).is_ok());
        }
    }

    /// Regression: one stamp a day ahead locked the user out for that day.
    #[test]
    fn a_moment_in_the_future_locks_nobody_out() {
        const DAY: i64 = 86_400_000_000;
        let limit = Limit::new(1, 200).expect("on");
        let mut clock = limit.take(UserBucket::default(), 1_000_000).expect("first");
        for _ in 0..200 {
            clock = limit.take(clock, DAY).expect("a burst");
        }

        assert!(limit.take(clock, DAY).is_err(), "the bucket is empty");
        for second in 2..1_000 {
            clock = limit
                .take(clock, second * 1_000_000)
                .unwrap_or_else(|wait| panic!("second {second}: wait {wait}"));
        }

        assert_eq!(
            limit.take(clock, 999_000_000),
            Err(1_000),
            "and what was spent stays spent"
        );
    }

    /// Regression: the bucket fills in three minutes, and the clock was ahead by one minute. The
    /// user waited for that minute.
    #[test]
    fn a_clock_ahead_by_less_than_a_bucket_is_not_waited_for() {
        let limit = Limit::new(1, 200).expect("on");
        for (limit, most) in [(limit, 1_000), (limit.as_before(true), 61_000)] {
            let mut clock = UserBucket::default();
            while let Ok(next) = limit.take(clock, 160_000_000) {
                clock = next;
            }

            let mut refused = 0;
            let mut now = 100_000_000;
            while refused < 100_000 && limit.take(clock, now).is_err() {
                (refused, now) = (refused + 1, now + 1_000);
            }

            clock = limit.take(clock, now).expect("in the end");
            assert!(
                refused <= most && limit.take(clock, now).is_err(),
                "{refused} ms, and what was spent stays spent"
            );
            assert!(limit.take(clock, now + 1_000_000).is_ok());
        }
    }

    /// Journals from before the rule must replay to the same result.
    #[test]
    fn the_old_rule_waits_for_the_future() {
        let limit = Limit::new(1, 1).expect("on").as_before(false);
        let clock = limit.take(UserBucket::default(), 5_000_000).expect("first");
        assert_eq!(limit.take(clock, 1), Err(1_000));
    }

    #[test]
    fn zero_is_off_and_three_per_second_floors() {
        assert_eq!(Limit::new(0, 5), None);
        assert_eq!(Limit::new(3, 1).expect("on").interval_us, 333_333);
        assert_eq!(
            (Limit::times(0, 5, 10), Limit::times(5, 5, 0)),
            (None, None)
        );
        assert_eq!(Limit::times(10, 5, 10), Limit::new(100, 50));
        assert!(
            Limit::times(u32::MAX, u32::MAX, u32::MAX)
                .is_some_and(|all| all.take(UserBucket::default(), 1).is_ok())
        );
    }

    #[test]
    fn refused_messages_are_told_once_a_second_and_counted() {
        let limit = Limit::new(1, 2).expect("on");
        let mut m = Messages::default();
        let mut take = |ms| m.take(&limit, ms);
        let now = 1_000_000;
        assert_eq!(
            [take(now), take(now), take(now), take(now)].map(|a| a == Admission::Admitted),
            [true, true, false, false]
        );
        assert_eq!((take(now + 999), m.unanswered), (Admission::Unanswered, 2));
        let mut take = |ms| m.take(&limit, ms);
        assert_eq!(
            [take(now + 1_000), take(now + 1_001), take(now + 1_500)],
            [
                Admission::Admitted,
                Admission::Refused(999),
                Admission::Unanswered
            ]
        );

        // The clock was ahead before.
        assert_eq!(
            [take(now + 900), take(now + 950)],
            [Admission::Refused(1_100), Admission::Unanswered]
        );
        assert_eq!(m.unanswered, 4);
    }

    proptest! {
        /// With rising clocks, a client that waits as told is admitted. The told wait is at most
        /// one command's time and a second.
        #[test]
        fn the_wait_that_is_told_is_enough(
            rate in 1_u32..2_000, burst in 1_u32..300, factor in 1_u32..12,
            moves in proptest::collection::vec((prop::sample::select(vec![0_i64, 1, 7, 100, 1_500, -3, -400, -5_000, 86_400_000, -86_400_000]), 0_u8..20), 1..60),
        ) {
            let limit = Limit::times(rate, burst, factor).expect("on");
            let most_ms = (limit.interval_us + FALL_MAX_US) / 1_000 + 1;
            let mut clock = UserBucket::default();
            let mut now_ms = 1_000_000_000_000_i64;
            for (by, times) in moves {
                now_ms += by;
                for _ in 0..times {
                    match limit.take(clock, now_ms * 1_000) {
                        Ok(next) => clock = next,
                        Err(wait) => {
                            prop_assert!((1..=most_ms).contains(&wait), "{wait} ms, {most_ms} at most");
                            for later in [wait, wait + 1, 10 * wait, 86_400_000 + wait] {
                                prop_assert!(limit.take(clock, (now_ms + later) * 1_000).is_ok(), "refused after {later} ms, told {wait}");
                            }

                            prop_assert!(clock.last_seen_us > now_ms * 1_000 || limit.take(clock, (now_ms + wait - 1) * 1_000).is_err(), "less is enough");
                        }
                    }
                }
            }
        }
    }
}
