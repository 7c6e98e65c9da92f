//! What the pages say of the program.

mod commands;
mod fix;
mod typed;
