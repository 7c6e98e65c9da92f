//! Questions to the audit log: is it whole, what was it at a moment, what happened to an order; and
//! a copy that proves itself.
//!
//! Everything here reads through the log's port, streams, and decides nothing: the roles wrote it
//! all down already.
#![warn(unreachable_pub)]

pub mod anchor;
pub mod chain_verifier;
pub mod chains;
pub mod cursor;
pub mod decision_inputs;
pub mod equity;
pub mod export;
pub mod export_verifier;
pub mod find;
pub mod hex;
pub mod links;
pub mod merkle;
pub mod prices;
pub mod query_filter;
