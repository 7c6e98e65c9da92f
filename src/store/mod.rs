//! Adapters of the store port: local key-value state of tasks, always a cache of what the log holds.

pub mod dir;
pub mod memory;
#[cfg(feature = "rocks")]
pub mod rocks;
