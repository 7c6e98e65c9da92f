//! The rate limit: GCRA in whole microseconds, one number of state per user, on the log's append time.

/// Rate and burst in the form the algorithm wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    interval_us: i64,
    tolerance_us: i64,
    falls: bool,
}

/// State of one user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clock {
    /// When the bucket is full again ("theoretical arrival time"), microseconds.
    pub tat_us: i64,
    /// Latest append time seen. A change of leader may set time back by a little, and the limit does not follow; see [`Limit::take`].
    pub last_seen_us: i64,
}

impl Limit {
    /// `rate` per second with bursts of `burst`; none if the rate is 0 (off).
    pub fn new(rate: u32, burst: u32) -> Option<Limit> {
        let interval_us = 1_000_000_i64.checked_div(i64::from(rate))?;
        let tolerance_us = i64::from(burst.max(1) - 1).saturating_mul(interval_us);
        Some(Limit { interval_us, tolerance_us, falls: true })
    }

    /// Whether a large fall of time is followed, see [`Self::take`]; what was decided before there was that rule was decided without.
    pub fn falling(self, falls: bool) -> Limit {
        Limit { falls, ..self }
    }

    /// Takes one. `Err`: too many; after so many milliseconds (rounded up) there is room again, and the state stays as it was.
    ///
    /// Time that goes back by no more than an empty bucket takes to fill gives no credit: the limit waits for it to come again. By more than that, the
    /// clock that was last seen was wrong, and nobody may be locked out until the time comes that it showed. The account is then reckoned from now on:
    /// what was spent stays spent, as far as it does not stop this one.
    pub fn take(&self, clock: Clock, now_us: i64) -> Result<Clock, i64> {
        if self.falls && clock.last_seen_us.saturating_sub(now_us) > self.tolerance_us.saturating_add(self.interval_us) {
            let spent = clock.tat_us.saturating_sub(clock.last_seen_us).clamp(0, self.tolerance_us);
            return Ok(Clock { tat_us: now_us.saturating_add(spent).saturating_add(self.interval_us), last_seen_us: now_us });
        }
        let now = now_us.max(clock.last_seen_us);
        let free = clock.tat_us.saturating_sub(self.tolerance_us);
        if free > now {
            // Counted from the sender's time, which may be behind what was seen before.
            let from = if self.falls { now_us } else { now };
            return Err(free.saturating_sub(from).saturating_add(999) / 1_000);
        }
        Ok(Clock { tat_us: now.max(clock.tat_us).saturating_add(self.interval_us), last_seen_us: now })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r1_vector_ten_per_second_burst_five() {
        let limit = Limit::new(10, 5).expect("on");
        let mut clock = Clock::default();
        for i in 0..5 {
            clock = limit.take(clock, 0).unwrap_or_else(|_| panic!("order {i} passes"));
        }
        assert_eq!(limit.take(clock, 0), Err(100));
        assert_eq!(limit.take(clock, 99_000), Err(1));
        assert_eq!(limit.take(clock, 99_999), Err(1));
        clock = limit.take(clock, 100_000).expect("room for one");
        assert_eq!(limit.take(clock, 100_000), Err(100));
    }

    #[test]
    fn time_that_goes_back_a_little_gives_no_credit() {
        for falls in [false, true] {
            let limit = Limit::new(1, 1).expect("on").falling(falls);
            let clock = limit.take(Clock::default(), 5_000_000).expect("first");
            assert_eq!(limit.take(clock, 4_000_000), Err(if falls { 2_000 } else { 1_000 }), "the wait is from the sender's time on");
            assert!(limit.take(clock, 6_000_000).is_ok());
        }
    }

    /// One stamp a day ahead used to lock the user out for that day.
    #[test]
    fn a_moment_in_the_future_locks_nobody_out() {
        const DAY: i64 = 86_400_000_000;
        let limit = Limit::new(1, 200).expect("on");
        let mut clock = limit.take(Clock::default(), 1_000_000).expect("first");
        for _ in 0..200 {
            clock = limit.take(clock, DAY).expect("a burst");
        }
        assert!(limit.take(clock, DAY).is_err(), "the bucket is empty");
        for second in 2..1_000 {
            clock = limit.take(clock, second * 1_000_000).unwrap_or_else(|wait| panic!("second {second}: wait {wait}"));
        }
        assert_eq!(limit.take(clock, 999_000_000), Err(1_000), "and what was spent stays spent");
    }

    /// Journals from before the rule changed must come out the same.
    #[test]
    fn the_old_rule_waits_for_the_future() {
        let limit = Limit::new(1, 1).expect("on").falling(false);
        let clock = limit.take(Clock::default(), 5_000_000).expect("first");
        assert_eq!(limit.take(clock, 1), Err(1_000));
    }

    #[test]
    fn zero_is_off_and_three_per_second_floors() {
        assert_eq!(Limit::new(0, 5), None);
        assert_eq!(Limit::new(3, 1).expect("on").interval_us, 333_333);
    }
}
