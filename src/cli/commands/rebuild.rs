//! `rebuild`: restores local state from the changelog.

use serde_json::Value;

use crate::cli::config::Config;
use crate::cli::exit::Failure;
use crate::cli::open::Access;
use crate::cli::output::{self, JobProgress};
use crate::cli::system;
use crate::runtime::status::{InstancePhase, InstanceStatus};
use crate::runtime::{rebuild, signals};

/// A running instance keeps the lock, so a long wait is useless.
const LOCK_WAIT: std::time::Duration = std::time::Duration::from_secs(2);

/// Rebuilds the configured roles, one after the other.
pub(crate) fn run(config: &Config) -> Result<(), Failure> {
    let roles = config.roles_required()?;
    let mut system = system::of(config, Access::Write)?;
    system.lock_wait = LOCK_WAIT;
    system::check_partitions(&system)?;
    let mut rows: Vec<Vec<Value>> = Vec::new();
    for role in roles {
        let mut bar: Option<JobProgress> = None;
        let mut show = |s: &InstanceStatus| {
            let total = s.tasks.iter().map(|t| t.restore_end).sum::<u64>();
            if s.state == InstancePhase::Restoring && total > 0 {
                let bar = bar
                    .get_or_insert_with(|| JobProgress::new(&format!("restoring {role}"), total));
                bar.set(s.tasks.iter().map(|t| t.restored.min(t.restore_end)).sum());
            }
        };

        let done = system::block_on(async {
            let signal = signals::first_of()?;
            Ok(rebuild::run(&system, *role, &mut show, signal, system::grace(config)).await?)
        })?;

        if let Some(bar) = bar {
            bar.finish();
        }

        if done.tasks.is_empty() {
            return Err(Failure::failed(format!(
                "stopped before {role} had its tasks; what is restored so far stays, run it again"
            )));
        }

        rows.extend(done.tasks.iter().map(|t| {
            vec![
                role.name().into(),
                t.task.into(),
                t.transaction.into(),
                t.digest.as_str().into(),
            ]
        }));
    }

    output::rows(
        config.format,
        &["ROLE", "TASK", "TRANSACTION", "DIGEST"],
        &rows,
    )
}
