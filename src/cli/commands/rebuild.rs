//! `rebuild`.

use crate::cli::config::Config;
use crate::cli::exit::Failure;
use crate::cli::open;
use crate::cli::open::Access;

/// Runs it.
pub fn run(config: &Config) -> Result<(), Failure> {
    open::log(config, Access::Write)?;
    Err(Failure::failed("this build cannot rebuild"))
}
