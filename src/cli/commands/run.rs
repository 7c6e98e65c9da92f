//! `run`: runs roles until a signal.

use std::time::Duration;

use crate::cli::config::Config;
use crate::cli::exit::Failure;
use crate::cli::open::Access;
use crate::cli::system;
use crate::runtime::{signals, supervisor::Supervisor};

/// Interval of the checks of topic and broker settings while roles run.
const SETTINGS_EVERY: Duration = Duration::from_mins(10);

/// Runs the configured roles.
pub(crate) fn run(config: &Config) -> Result<(), Failure> {
    let roles = config.roles_required()?;
    let system = system::of(config, Access::Write)?;
    system::check_partitions(&system)?;
    system::check_settings(&system)?;
    system::watch_settings(&system.log, SETTINGS_EVERY)?;
    system::block_on(async {
        let signal = signals::first_of()?;
        let members = roles.iter().map(|r| system.member(*r)).collect();
        let supervisor = Supervisor::start(
            members,
            system.topics.clone(),
            system.state.clone(),
            config.ends(),
        );
        Ok(supervisor.run(signal, system::grace(config)).await?)
    })
}
