//! `processor rebuild`: deletes a role's local state, and restores the state from the changelog, by
//! the same path as every start.
//!
//! If the changelog was deleted or offsets were moved, local state may be the last copy. Nothing is
//! therefore deleted before a check that a start can restore every task.

use std::time::Duration;

use engine::instance::FatalError;
use engine::last_meta::OffsetComparison;
use roles::Role;

use super::replay::newest_store;
use super::standing;
use super::status::{InstancePhase, InstanceStatus};
use super::supervisor::{Ends, Supervisor};
use super::system::{Installation, stop_log, stop_store};

/// Wipes and restores; `show` receives the status from time to time. Ends when every assigned task
/// runs again, or when `until` resolves.
pub async fn run(
    system: &Installation,
    role: Role,
    show: &mut dyn FnMut(&InstanceStatus),
    until: impl Future<Output = ()>,
    grace: Duration,
) -> Result<InstanceStatus, FatalError> {
    can_be_restored(system, role)?;
    system.local_state(role)?.wipe().map_err(stop_store)?;
    let supervisor = Supervisor::start(
        vec![system.member(role)],
        system.topics.clone(),
        system.state.clone(),
        Ends::Together,
    );
    let monitor = supervisor.monitor();
    let mut last = InstanceStatus::default();
    let restored = async {
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let Some(status) = monitor.statuses().pop() else {
                return;
            };

            show(&status);
            last = status;
            if last.state == InstancePhase::Running && !last.tasks.is_empty() {
                return;
            }
        }
    };

    let stop = async {
        tokio::select! { () = restored => (), () = until => () }
    };

    supervisor.run(stop, grace).await?;
    Ok(last)
}

/// Checks that a start can restore every task of the role.
fn can_be_restored(system: &Installation, role: Role) -> Result<(), FatalError> {
    let refuse = |task, why| {
        FatalError::Bug(format!(
            "{} task {task} cannot be rebuilt: {why}. Nothing was changed",
            role.name()
        ))
    };

    for (task, standing) in standing::look(system, role).map_err(stop_log)? {
        match standing.fit {
            OffsetComparison::Equal | OffsetComparison::Absent => {}
            OffsetComparison::Differ(_) => {
                let what = standing::differences(system, role, task, &standing);
                let repair = format!(
                    "`processor repair offsets --role {} --dry-run` shows the way out",
                    role.name()
                );
                return Err(refuse(
                    task,
                    format!("committed offsets and changelog do not fit: {what}; {repair}"),
                ));
            }
            // A store that cannot be read has no state to lose.
            OffsetComparison::Fresh => match newest_store(&system.state, role, task).ok().flatten()
            {
                Some((_, _, have)) if have.meta.transaction > 0 => {
                    let have = have.meta.transaction;
                    let why = format!(
                        "local state has {have} transactions, of which neither the changelog nor the group knows"
                    );
                    return Err(refuse(task, format!("{why}: was the changelog deleted?")));
                }
                _ => {}
            },
        }
    }

    Ok(())
}
