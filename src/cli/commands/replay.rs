//! `replay`.

use crate::cli::config::Config;
use crate::cli::exit::Failure;
use crate::cli::open;
use crate::cli::open::Access;

/// Runs it.
pub fn run(config: &Config) -> Result<(), Failure> {
    open::log(config, Access::Read)?;
    Err(Failure::failed("this build cannot replay"))
}
