//! Faults for tests: crash points ([`crash`]) and deliberate mistakes ([`mutants`]). Without the
//! feature `faults` the program contains neither.
#![warn(unreachable_pub)]

pub mod crash;
pub mod mutants;
