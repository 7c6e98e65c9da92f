//! From configuration to an installation that roles can run on.

use std::sync::Arc;
use std::time::Duration;

use super::config::Config;
use super::exit::{Code, Failure};
use super::open::{self, Access};
use crate::engine::instance::Stop;
use crate::engine::ports::{Limits, LogError};
use crate::engine::replay::ReplayError;
use crate::engine::task::TaskError;
use crate::roles::RoleSettings;
use crate::runtime::system::System;
use crate::runtime::verify::VerifyError;
use crate::store::rocks::SharedMemory;
use crate::wire::topics;

/// How long a new instance waits for the local state of the one it replaces: longer than that one needs to notice.
const LOCK_WAIT: Duration = Duration::from_secs(30);

/// Puts the installation together.
pub fn of(config: &Config, access: Access) -> Result<System, Failure> {
    Ok(System {
        log: open::log(config, access)?,
        topics: Arc::new(topics::table(&config.topic_prefix)),
        state: config.state.clone(),
        instance: config.instance,
        roles: RoleSettings {
            rate_limit: config.rate_limit,
            burst: config.burst,
            stale_ms: config.stale_ms,
            opening_cash_e4: config.opening_cash_e4,
            max_command_age_ms: (config.max_command_age_ms > 0).then_some(config.max_command_age_ms),
            dedup_window_ms: i64::try_from(config.dedup_window_ms).ok().filter(|ms| *ms > 0),
            open_orders_max: config.open_orders_max,
            day_ends_ms: config.day_ends_ms,
        },
        limits: Limits {
            records: config.batch_records_max,
            bytes: config.batch_bytes_max,
            age: Duration::from_millis(config.commit_interval_ms),
        },
        scrub_every: Duration::from_millis(config.scrub_every_ms),
        leave: config.leave,
        lock_wait: LOCK_WAIT,
        memory: SharedMemory::default(),
    })
}

/// A look at the topics before anything runs or is thrown away.
pub fn check_partitions(system: &System) -> Result<(), Failure> {
    let counts = system.partitions()?;
    system.topics.misfit(&counts).map_or(Ok(()), |why| Err(Failure::config(why)))
}

/// How long roles get to stop.
pub fn grace(config: &Config) -> Duration {
    Duration::from_millis(config.shutdown_grace_ms)
}

/// Runs a future to its end, with signals and timers.
pub fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(work);
    // What still runs after the grace is left to the next start; waiting for it here would make the grace longer.
    runtime.shutdown_background();
    result
}

impl From<Stop> for Failure {
    fn from(stop: Stop) -> Self {
        let code = match &stop {
            Stop::Fenced(_) => Code::Fenced,
            Stop::Invalid(_) => Code::Config,
            Stop::Bug(_) => Code::Bug,
            Stop::Failed(_) => Code::Failed,
        };
        Failure::new(code, stop.to_string())
    }
}

impl From<ReplayError> for Failure {
    fn from(e: ReplayError) -> Self {
        match e {
            ReplayError::Log(e) => e.into(),
            ReplayError::Task(TaskError::Store(e)) => e.into(),
            ReplayError::Task(TaskError::Newer(e)) => Failure::config(e),
            ReplayError::Task(TaskError::Bug(e)) => Failure::new(Code::Bug, e.to_string()),
            ReplayError::Journal(e) => Failure::new(Code::Bug, e),
            ReplayError::Unreadable(e) => LogError::from(e).into(),
            ReplayError::Moment(e) => Failure::failed(e),
        }
    }
}

impl From<VerifyError> for Failure {
    fn from(e: VerifyError) -> Self {
        match e {
            VerifyError::Log(e) => e.into(),
            VerifyError::Store(e) => e.into(),
        }
    }
}
