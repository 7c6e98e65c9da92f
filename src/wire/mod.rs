//! The public contract in code: topics, and bytes to types and back.

pub mod topics;
