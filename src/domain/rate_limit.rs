//! The rate limit: GCRA in whole microseconds, one number of state per user, on the log's append time.

/// Rate and burst in the form the algorithm wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    interval_us: i64,
    tolerance_us: i64,
}

/// State of one user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clock {
    /// When the bucket is full again ("theoretical arrival time"), microseconds.
    pub tat_us: i64,
    /// Latest append time seen: a change of leader may set time back, the limit does not follow.
    pub last_seen_us: i64,
}

impl Limit {
    /// `rate` per second with bursts of `burst`; none if the rate is 0 (off).
    pub fn new(rate: u32, burst: u32) -> Option<Limit> {
        let interval_us = 1_000_000_i64.checked_div(i64::from(rate))?;
        let tolerance_us = i64::from(burst.max(1) - 1).saturating_mul(interval_us);
        Some(Limit { interval_us, tolerance_us })
    }

    /// Takes one. `Err`: too many; after so many milliseconds (rounded up) there is room again, and the state stays as it was.
    pub fn take(&self, clock: Clock, now_us: i64) -> Result<Clock, i64> {
        let now = now_us.max(clock.last_seen_us);
        let wait = clock.tat_us.saturating_sub(self.tolerance_us).saturating_sub(now);
        if wait > 0 {
            return Err(wait.saturating_add(999) / 1_000);
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
    fn time_that_goes_back_gives_no_credit() {
        let limit = Limit::new(1, 1).expect("on");
        let clock = limit.take(Clock::default(), 5_000_000).expect("first");
        assert_eq!(limit.take(clock, 1), Err(1_000));
        assert!(limit.take(clock, 6_000_000).is_ok());
    }

    #[test]
    fn zero_is_off_and_three_per_second_floors() {
        assert_eq!(Limit::new(0, 5), None);
        assert_eq!(Limit::new(3, 1).expect("on").interval_us, 333_333);
    }
}
