//! Faults that only tests switch on: crash points ([`crash`]) and deliberate mistakes
//! ([`mutants`]). Without the feature `faults` nothing of them is left in the program.
#![warn(unreachable_pub)]

pub mod crash;
pub mod mutants;
