//! Queries on the audit log: verify the chains, show the state at a moment, and list the events of
//! an order. Also exports a file that proves its own content.
//!
//! Every module reads through the log port, as a stream. No module makes a decision: the roles have
//! already recorded every fact.
#![warn(unreachable_pub)]

pub mod anchor;
pub mod chain_verifier;
pub mod chains;
pub mod cursor;
pub mod damage;
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
