//! The pure core: decimals, ids, accounts, and the rules of the market. No clock, no randomness, no
//! I/O; integers with checked arithmetic.
// clippy.toml lists the functions that would make a result depend on more than its records.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]
#![warn(unreachable_pub)]

#[cfg(not(debug_assertions))]
compile_error!(
    "invariants of money are asserted in every build: set debug-assertions = true in this profile"
);

pub mod account;
pub mod book;
pub mod chain;
pub mod checks;
pub mod control;
pub mod decimal;
pub mod hold;
pub mod house;
pub mod ids;
pub mod instrument;
pub mod portfolio;
pub mod price;
pub mod rate_limit;
pub mod reason;
pub mod settlement;
pub mod status;
pub mod tick;

#[cfg(test)]
mod tests {
    /// Run with `--release`, the test speaks of the profile that `cargo install` uses.
    #[test]
    #[should_panic(expected = "overflow")]
    fn arithmetic_is_checked_in_this_profile() {
        let most = std::hint::black_box(i64::MAX);
        std::hint::black_box(most + std::hint::black_box(1));
    }
}
