//! What several test binaries share. Each uses a part of it.
#![allow(dead_code, reason = "every test binary uses another part")]

#[cfg(feature = "kafka")]
pub mod broker;
pub mod load;
pub mod oracle;
pub mod process;
pub mod rest;
#[cfg(feature = "rocks")]
pub mod world;
