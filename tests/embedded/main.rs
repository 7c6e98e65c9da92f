//! Tests of the program, the embedded log and the stores, without a broker.
//!
//! Each module is a group: `make test` runs each in a process of its own, as many at a time as there
//! are cores. `cargo test --test embedded` runs all groups in one process, which is right as well, but
//! takes longer. `cargo test --test embedded store::` runs one group.

#[macro_use]
#[path = "../support/conformance.rs"]
mod conformance;
#[path = "../support/mod.rs"]
mod support;

mod bad_world;
mod cli;
mod cli_embedded;
#[cfg(feature = "faults")]
mod crash_points_embedded;
mod doors;
mod evidence;
mod gateway_orders;
mod golden;
mod log_local;
mod log_local_churn;
mod market_wake;
mod operating;
mod pages;
#[cfg(target_os = "linux")]
mod power_cut;
mod properties;
mod store;
mod verdicts;
