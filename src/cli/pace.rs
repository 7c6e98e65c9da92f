//! Keeps a schedule without drift: each step has a fixed due time, and a late step does not wait.

use std::time::{Duration, Instant};

/// Replay speed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Speed {
    /// As fast as possible.
    Max,
    /// Thousandths of real time: 1000 is real time.
    Thousandths(u64),
}

impl Speed {
    /// Parses `max`, `100`, `0.5`.
    pub(super) fn parse(text: &str) -> Result<Speed, String> {
        if text == "max" {
            return Ok(Speed::Max);
        }

        match client::decimal::parse_e4(text).map(|e4| e4 / 10) {
            Ok(n) if n > 0 => Ok(Speed::Thousandths(n.unsigned_abs())),
            _ => Err(format!(
                "`{text}` is no speed; say 1 for real time, 100 for a hundred times that, or max"
            )),
        }
    }

    /// Due time after the start, for an event `us` microseconds after the first event.
    pub(super) fn due(self, us: u64) -> Duration {
        match self {
            Speed::Max => Duration::ZERO,
            Speed::Thousandths(n) => Duration::from_micros(us.saturating_mul(1000) / n.max(1)),
        }
    }
}

/// Sleeps until `due` after `began`, in short steps, so that a stop is seen soon. Returns false if a
/// stop came first: then the step is not due, and must not be taken.
#[must_use]
pub(super) fn wait_until(
    began: Instant,
    due: Duration,
    stop: &std::sync::atomic::AtomicBool,
) -> bool {
    while let Some(left) = due.checked_sub(began.elapsed()).filter(|d| !d.is_zero()) {
        if stop.load(std::sync::atomic::Ordering::Relaxed) {
            return false;
        }

        std::thread::sleep(left.min(Duration::from_millis(100)));
    }

    true
}

/// Microseconds of a timestamp whose unit follows from its size.
pub(super) fn timestamp_us(t: i64) -> Option<i64> {
    match t {
        ..0 => None,
        0..100_000_000_000 => t.checked_mul(1_000_000),
        100_000_000_000..100_000_000_000_000 => t.checked_mul(1000),
        100_000_000_000_000..100_000_000_000_000_000 => Some(t),
        _ => Some(t / 1000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_not_due_after_a_stop() {
        let stop = std::sync::atomic::AtomicBool::new(true);
        let began = Instant::now();
        assert!(!wait_until(began, Duration::from_secs(60), &stop));
        assert!(wait_until(began, Duration::ZERO, &stop));
    }

    #[test]
    fn speeds_and_units() {
        assert_eq!(Speed::parse("max"), Ok(Speed::Max));
        assert_eq!(
            Speed::parse("100").map(|s| s.due(5_000_000)),
            Ok(Duration::from_millis(50))
        );
        assert_eq!(
            Speed::parse("0.5").map(|s| s.due(1_000_000)),
            Ok(Duration::from_secs(2))
        );
        assert!(
            ["0", "-1", "fast", ""]
                .iter()
                .all(|t| Speed::parse(t).is_err())
        );
        for t in [
            1_625_159_076,
            1_625_159_076_000,
            1_625_159_076_000_000,
            1_625_159_076_000_000_000,
        ] {
            assert_eq!(timestamp_us(t), Some(1_625_159_076_000_000));
        }
    }
}
