//! Output for a person who examines a failed run.

/// Prints lines with the virtual time at once, or prints no lines.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Trace {
    Off,
    Print,
}

impl Trace {
    pub fn is_on(self) -> bool {
        self == Trace::Print
    }

    pub fn line(self, now: u64, text: &str) {
        println!("{:>6}.{:06} {text}", now / 1_000_000, now % 1_000_000);
    }
}
