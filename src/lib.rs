//! `processor`: the event-sourced back office of a trading platform. This crate is the program: the
//! command line and the running system. The rooms behind it are the crates in `crates/`;
//! `ARCHITECTURE.md` has the map.
#![warn(unreachable_pub)]

#[cfg(feature = "rocks")]
pub mod cli;
#[cfg(feature = "rocks")]
pub mod runtime;
