//! Adapters of the store port: local key-value state of tasks, always a cache of what the log
//! holds.
#![warn(unreachable_pub)]

pub mod dir;
pub mod memory;
#[cfg(feature = "rocks")]
mod open_generations;
#[cfg(feature = "rocks")]
mod open_stores;
#[cfg(feature = "rocks")]
pub mod rocks;
