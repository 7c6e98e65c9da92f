//! Tests on a real broker that the tests start. Those for both logs are here too.
//!
//! Each module is a group: `make test` runs each in a process of its own, as many at a time as there
//! are cores. `cargo test --test kafka` runs all groups in one process, which is right as well, but
//! takes longer. `cargo test --test kafka log_kafka::` runs one group.

#[macro_use]
#[path = "../support/conformance.rs"]
mod conformance;
#[path = "../support/mod.rs"]
mod support;

mod audit_commands;
mod bad_input;
mod bad_kafka;
mod brief;
mod cli_kafka;
mod gateway_kafka;
mod kafka_access;
mod kafka_instances;
mod kafka_member;
mod kafka_secure;
mod log_kafka;
mod market_alive;
mod moving_cluster;
