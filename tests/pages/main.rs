//! The pages, held by tests: links, and the commands that are shown. EarlyLinks need no C++ libraries: `--no-default-features` will do.

#[cfg(feature = "rocks")]
mod commands;
mod links;
#[cfg(feature = "rocks")]
mod typed;
