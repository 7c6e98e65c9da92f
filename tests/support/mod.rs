//! Code shared by several test binaries. Each binary uses a part.
#![allow(dead_code, reason = "every test binary uses another part")]

pub mod bad_rows;
#[cfg(feature = "kafka")]
pub mod broker;
#[cfg(feature = "kafka")]
pub mod cluster;
#[cfg(feature = "kafka")]
pub mod door;
#[cfg(feature = "rocks")]
pub mod fleet;
pub mod follower;
#[cfg(feature = "rocks")]
pub mod forgotten;
pub mod load;
pub mod oracle;
pub mod process;
pub mod program;
#[cfg(feature = "kafka")]
pub mod proxy;
pub mod rest;
#[cfg(feature = "rocks")]
pub mod world;
