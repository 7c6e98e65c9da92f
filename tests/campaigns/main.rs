//! Tests that take minutes each. Each module starts several roles and one broker or three, and
//! bounds how long they may take, so that `make campaigns` runs one module at a time, each in a
//! process of its own. Run one with `make campaigns NAME=kills::`.
//!
//! `cargo test --test campaigns` without the name of a module would run several installations at a
//! time, and their bounds would fail on two cores: add `-- --test-threads 1`.

#[path = "../support/mod.rs"]
mod support;

mod crash_paths;
mod crash_points;
mod delayed_end;
mod kafka_acls;
mod kafka_quota;
mod kafka_refusals;
mod kafka_standby;
mod kills;
mod operators;
mod order_flow;
mod repair;
mod storage_faults;
mod topic_settings;
mod travel;
