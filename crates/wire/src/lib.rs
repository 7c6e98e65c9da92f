//! The public contract in code: topics, and conversions between bytes and types.
// clippy.toml lists methods and types that make a result depend on more than its records.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]
#![warn(unreachable_pub)]

pub mod audit;
pub mod book;
pub mod command;
pub mod command_fingerprint;
pub mod control;
pub mod encode;
pub mod event;
pub mod input;
pub mod instrument;
mod json;
pub mod notification;
pub mod portfolio;
pub mod protections;
pub mod tick;
pub mod topics;
pub mod trade;
pub mod writer;
