//! The clock for stamps: the machine's clock, protected against short errors.
//!
//! A clock may be wrong for a moment. Possible causes are the move of a virtual machine or a wrong
//! time server. The monotonic clock measures the time since the last call, so a step is visible.
//! Stamps follow a step of more than a minute, in either direction, only after the step has lasted
//! for a minute. Until then stamps continue without the step. Smaller steps are the normal work of
//! time servers.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

/// Returns milliseconds since 1970.
pub type StampClock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// Stamps follow steps of the clock up to this size at once. A stamp further ahead of the clock
/// comes from a wrong clock.
pub const STEP_MS: i64 = 60_000;
/// A larger step must last this long.
const LASTS_MS: i64 = 60_000;

/// The machine's clock, protected against short steps.
pub fn of_the_machine() -> StampClock {
    let wall = || {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX))
    };

    // Unlike the clock of `Instant`, this clock also counts suspended time. Therefore a resume of
    // the machine is no step.
    let passed = || {
        let t = clock_gettime(ClockId::Boottime);
        t.tv_sec
            .saturating_mul(1_000)
            .saturating_add(t.tv_nsec / 1_000_000)
    };

    steadied(wall, passed)
}

/// A clock that follows `wall` and checks steps with `passed`, which only counts up.
pub fn steadied(
    wall: impl Fn() -> i64 + Send + Sync + 'static,
    passed: impl Fn() -> i64 + Send + Sync + 'static,
) -> StampClock {
    let steady = Mutex::new(None::<Steady>);
    Arc::new(move || {
        let mut steady = steady.lock().unwrap_or_else(PoisonError::into_inner);
        let wall_ms = wall();
        let passed_ms = passed();
        steady
            .get_or_insert(Steady {
                wall_ms,
                passed_ms,
                step: None,
            })
            .now(wall_ms, passed_ms)
    })
}

struct Steady {
    /// Both clocks at the last accepted time.
    wall_ms: i64,
    passed_ms: i64,
    step: Option<ClockStep>,
}

/// A step that stamps do not follow yet.
#[derive(Clone, Copy)]
struct ClockStep {
    by_ms: i64,
    since_passed_ms: i64,
}

impl Steady {
    fn now(&mut self, wall_ms: i64, passed_ms: i64) -> i64 {
        let due_ms = self
            .wall_ms
            .saturating_add(passed_ms.saturating_sub(self.passed_ms));
        let by_ms = wall_ms.saturating_sub(due_ms);
        let is_small = |step_ms: i64| (-STEP_MS..=STEP_MS).contains(&step_ms);
        if is_small(by_ms) {
            if self.step.take().is_some() {
                tracing::info!(
                    "the machine's clock is right again, after it was wrong for less than a minute; no record was stamped by it"
                );
            }

            (self.wall_ms, self.passed_ms) = (wall_ms, passed_ms);
            return wall_ms;
        }

        match self
            .step
            .filter(|s| is_small(by_ms.saturating_sub(s.by_ms)))
        {
            Some(step) if passed_ms.saturating_sub(step.since_passed_ms) >= LASTS_MS => {
                tracing::warn!(
                    "the machine's clock has stayed {} s from where it was; stamps follow it from now on",
                    by_ms / 1_000
                );
                *self = Steady {
                    wall_ms,
                    passed_ms,
                    step: None,
                };

                wall_ms
            }
            Some(_) => due_ms,
            None => {
                tracing::warn!(
                    "the machine's clock moved by {} s at once; stamps go on without that, and follow if it lasts for a minute",
                    by_ms / 1_000
                );
                self.step = Some(ClockStep {
                    by_ms,
                    since_passed_ms: passed_ms,
                });

                due_ms
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, Ordering};

    use super::*;

    const YEAR: i64 = 365 * 86_400_000;

    #[test]
    fn a_step_is_followed_when_it_lasts() {
        let wall = Arc::new(AtomicI64::new(0));
        let passed = Arc::new(AtomicI64::new(0));
        let clock = {
            let wall = wall.clone();
            let passed = passed.clone();
            steadied(
                move || wall.load(Ordering::Relaxed),
                move || passed.load(Ordering::Relaxed),
            )
        };

        let at = |passed_ms: i64, wall_ms: i64| {
            passed.store(passed_ms, Ordering::Relaxed);
            wall.store(wall_ms, Ordering::Relaxed);
            clock()
        };

        let base = 1_000_000;
        assert_eq!(at(0, base), base);
        assert_eq!(at(10, base + 10), base + 10);
        assert_eq!(
            at(20, base + STEP_MS),
            base + STEP_MS,
            "a small step is followed"
        );
        let mut base = base + STEP_MS - 20;
        let mut began = 0;
        for wrong in [YEAR, -YEAR] {
            let at = |passed_ms: i64, wall_ms: i64| at(began + passed_ms, wall_ms);
            assert_eq!(at(1_000, base + 1_000), base + 1_000);
            assert_eq!(
                at(2_000, base + 2_000 + wrong),
                base + 2_000,
                "for a moment"
            );
            assert_eq!(at(3_000, base + 3_000), base + 3_000, "and right again");
            assert_eq!(at(4_000, base + 4_000 + wrong), base + 4_000);
            assert_eq!(at(63_999, base + 63_999 + wrong), base + 63_999);
            assert_eq!(
                at(64_000, base + 64_000 + wrong),
                base + 64_000 + wrong,
                "it has lasted"
            );
            assert_eq!(at(65_000, base + 65_000 + wrong), base + 65_000 + wrong);
            assert_eq!(at(66_000, base + 66_000), base + 66_000 + wrong);
            assert_eq!(
                at(126_000, base + 126_000),
                base + 126_000,
                "put right, it is followed back"
            );
            (began, base) = (began + 200_000, base + 200_000);
        }
    }
}
