//! `rebuild`.

use crate::cli::config::Config;
use crate::cli::exit::Failure;
use crate::cli::open;

/// Runs it.
pub fn run(config: &Config) -> Result<(), Failure> {
    open::log(config)?;
    Err(Failure::failed("this build cannot rebuild"))
}
