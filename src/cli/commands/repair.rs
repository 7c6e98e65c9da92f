//! `repair`: repairs the committed offsets after a change from outside.

use serde_json::Value;

use crate::cli::config::Config;
use crate::cli::exit::{Code, Failure};
use crate::cli::open::Access;
use crate::cli::output::{self, OutputFormat};
use crate::cli::system;
use crate::runtime::repair::{self, Action, RepairError};

const HEADER: [&str; 7] = [
    "ROLE",
    "TASK",
    "TOPIC",
    "PARTITION",
    "COMMITTED",
    "LAST META",
    "ACTION",
];

/// Sets the committed offsets of the roles' groups to the positions in their changelogs.
pub(crate) fn offsets(config: &Config, dry_run: bool) -> Result<(), Failure> {
    let roles = config.roles_required()?;
    let system = system::of(config, if dry_run { Access::Read } else { Access::Write })?;
    system::check_partitions(&system)?;
    let (mut rows, mut set): (Vec<Vec<Value>>, usize) = (Vec::new(), 0);
    let mut failed = Ok(());
    for role in roles {
        let done = if dry_run {
            repair::plan(&system, *role)
        } else {
            repair::offsets(&system, *role)
        };

        let tasks = match done {
            Ok(tasks) => tasks,
            Err(e) => {
                // The earlier roles are repaired already, so print them before the error.
                failed = Err(Failure::from(e));
                break;
            }
        };

        for (task, found) in tasks {
            set += usize::from(found.action == Action::Set);
            let action = match found.action {
                Action::Fits => "fits",
                Action::Fresh => "fresh",
                Action::Set if dry_run => "would be set",
                Action::Set => "set",
            };

            for (at, committed) in &found.standing.committed {
                rows.push(vec![
                    role.name().into(),
                    task.into(),
                    system.topics.name(at.topic).into(),
                    at.partition.into(),
                    (*committed).into(),
                    found
                        .standing
                        .last
                        .as_ref()
                        .and_then(|l| l.meta.next(*at))
                        .into(),
                    action.into(),
                ]);
            }
        }
    }

    if failed.is_ok() || !rows.is_empty() {
        output::rows(config.format, &HEADER, &rows)?;
    }

    failed?;
    if config.format == OutputFormat::Text {
        output::note(match (set, dry_run) {
            (0, _) => "the offsets are right; nothing was changed".to_string(),
            (n, true) => format!("the offsets of {n} tasks would be set; nothing was changed"),
            (n, false) => format!("the offsets of {n} tasks were set; the roles can be started"),
        });
    }

    Ok(())
}

impl From<RepairError> for Failure {
    fn from(e: RepairError) -> Self {
        match e {
            RepairError::Log(e) => e.into(),
            RepairError::Runs(why) => Failure::config(why),
            RepairError::Impossible(why) => Failure::new(Code::Bug, why),
        }
    }
}
