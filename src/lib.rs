//! `processor`: the event-sourced back office of a trading platform.
//!
//! Dependencies point one way: `domain` <- `engine` <- `wire` <- `roles`; `engine` <- `log`, `store`; all <- `runtime` <- `cli`; `ARCHITECTURE.md` has the map.
#![deny(unsafe_op_in_unsafe_fn)]
#![warn(missing_docs)]

pub mod cli;
pub mod client;
pub mod domain;
pub mod engine;
pub mod log;
pub mod runtime;
pub mod store;
pub mod roles;
pub mod wire;
