//! What a person reads of a run that failed.

/// Lines with the virtual time, printed as they come, or nothing.
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
