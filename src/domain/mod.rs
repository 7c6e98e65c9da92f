//! The pure core: money, ids, accounts, rules. No clock, no randomness, no I/O; integers with checked arithmetic.

pub mod partitioner;
