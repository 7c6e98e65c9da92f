//! Adapters of the log port: where records live.

pub mod local;
