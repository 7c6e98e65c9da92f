//! Adapters of [`crate::engine::ports::Log`].

#[cfg(feature = "kafka")]
pub mod kafka;
