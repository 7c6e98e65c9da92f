//! The pure core: money, ids, accounts, rules. No clock, no randomness, no I/O; integers with
//! checked arithmetic.

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
pub mod partitioner;
pub mod portfolio;
pub mod price;
pub mod rate_limit;
pub mod reason;
pub mod status;
pub mod tick;
