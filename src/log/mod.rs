//! Adapters of the log port: where records live.

#[cfg(feature = "kafka")]
pub mod kafka;
pub mod local;
