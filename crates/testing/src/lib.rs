//! Code that the tests of several crates share. No program uses this crate.

pub mod model;
