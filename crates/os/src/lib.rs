//! The machine under the program: its clock, and private files with atomic replacement.
#![warn(unreachable_pub)]

pub mod clock;
pub mod files;
