//! `processor`: the event-sourced back office of a trading platform. This crate is the program: the
//! command line and the runtime. The other parts are the crates in `crates/`; the code map is in
//! `ARCHITECTURE.md`.
#![warn(unreachable_pub)]

#[cfg(feature = "rocks")]
pub mod cli;
#[cfg(feature = "rocks")]
pub mod runtime;
