//! The loop of the roles over a log in memory.

// The name by which all other crates know this crate.
extern crate processor_engine as engine;

mod counter;
mod engine_bounds;
mod engine_loop;
mod engine_restore;
