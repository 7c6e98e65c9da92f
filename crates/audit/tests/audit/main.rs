//! The audit log from the view of an auditor: integrity, the history of an order, and exports that
//! prove themselves. Rows A1 and A2, with the real roles over a log in memory. The tests then
//! tamper with its records.

// The name by which all other crates know this crate.
extern crate processor_audit as audit;

mod anchors;
mod bound;
mod damage;
mod export;
mod find;
mod tape;
mod world;
