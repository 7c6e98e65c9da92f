//! Checks of the pages: links, and the commands that the pages show. The checks of links need no
//! C++ libraries: `--no-default-features` is enough.

#[cfg(feature = "rocks")]
mod commands;
mod fix;
mod links;
#[cfg(feature = "rocks")]
mod typed;
