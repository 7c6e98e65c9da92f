//! Adapters of the store port: local key-value state of tasks. The state is always a cache of the
//! log.
#![warn(unreachable_pub)]

pub mod dir;
pub mod memory;
#[cfg(feature = "rocks")]
mod open_generations;
#[cfg(feature = "rocks")]
mod open_stores;
#[cfg(feature = "rocks")]
pub mod rocks;
