//! The pure core: money, ids, accounts, rules. No clock, no randomness, no I/O; integers with
//! checked arithmetic.
// clippy.toml lists what would make a result depend on more than its records.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]
#![warn(unreachable_pub)]

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
pub mod status;
pub mod tick;
