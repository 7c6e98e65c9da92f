//! `run`: roles until a signal.

use crate::cli::config::Config;
use crate::cli::exit::Failure;
use crate::cli::open;
use crate::cli::open::Access;

/// Runs the roles that were asked for.
pub fn run(config: &Config) -> Result<(), Failure> {
    config.roles_required()?;
    open::log(config, Access::Write)?;
    Err(Failure::failed("this build cannot run roles"))
}
