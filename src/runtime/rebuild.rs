//! `processor rebuild`: throws a role's local state away and restores it from the changelog, by the same path that every start takes.

use std::time::Duration;

use super::status::{InstanceStatus, State};
use super::supervisor::{Ends, Supervisor};
use super::system::{System, stop_store};
use crate::engine::instance::Stop;
use crate::roles::Role;

/// Wipes and restores; `show` is told now and then where it stands. Ends when every task that this instance was given runs again, or `until` resolves.
pub async fn run(
    system: &System,
    role: Role,
    show: &mut dyn FnMut(&InstanceStatus),
    until: impl Future<Output = ()>,
    grace: Duration,
) -> Result<InstanceStatus, Stop> {
    system.local_state(role)?.wipe().map_err(stop_store)?;
    let supervisor = Supervisor::start(vec![system.member(role)], system.topics.clone(), system.state.clone(), Ends::Together);
    let monitor = supervisor.monitor();
    let mut last = InstanceStatus::default();
    let restored = async {
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let Some(status) = monitor.statuses().pop() else { return };
            show(&status);
            last = status;
            if last.state == State::Running && !last.tasks.is_empty() {
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
