//! `processor`: the event-sourced back office of a trading platform.
//!
//! Dependencies point one way: `domain` <- `engine` <- `wire` <- `roles`; `engine` <- `log`,
//! `store`; all <- `runtime` <- `cli`; `ARCHITECTURE.md` has the map.
// clippy.toml lists what would make a result depend on more than its records; the layers that must
// not are denied it below.
#![deny(unsafe_op_in_unsafe_fn)]
#![warn(missing_docs)]

#[cfg(feature = "rocks")]
pub mod cli;
pub mod client;
#[deny(clippy::disallowed_methods, clippy::disallowed_types)]
pub mod domain;
#[deny(clippy::disallowed_methods, clippy::disallowed_types)]
pub mod engine;
pub mod files;
pub mod gateway;
pub mod log;
#[deny(clippy::disallowed_methods, clippy::disallowed_types)]
pub mod roles;
pub mod runtime;
pub mod store;
#[deny(clippy::disallowed_methods, clippy::disallowed_types)]
pub mod wire;
