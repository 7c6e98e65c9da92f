//! Adapters of the store port: local key-value state of tasks, always a cache of what the log
//! holds.
#![warn(unreachable_pub)]

pub mod dir;
#[cfg(feature = "rocks")]
mod lives;
pub mod memory;
#[cfg(feature = "rocks")]
pub mod rocks;
#[cfg(feature = "rocks")]
mod room;
