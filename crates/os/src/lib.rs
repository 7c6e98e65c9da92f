//! The machine under the program: its clock, and files that are whole or absent.
#![warn(unreachable_pub)]

pub mod clock;
pub mod files;
