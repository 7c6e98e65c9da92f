//! The machine under the program: its clock, its processor, and private files with atomic
//! replacement.
#![warn(unreachable_pub)]

pub mod clock;
pub mod cpu;
pub mod files;
