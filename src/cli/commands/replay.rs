//! `replay`: a role's history executed again, compared with its live state.

use serde_json::Value;

use crate::cli::config::Config;
use crate::cli::exit::{Code, Failure};
use crate::cli::open::Access;
use crate::cli::output::{self, Progress};
use crate::cli::system;
use crate::engine::replay::Divergence;
use crate::runtime::replay;
use crate::runtime::system::System;

const HEADER: [&str; 7] = ["ROLE", "TASK", "TRANSACTIONS", "RECORDS", "LIVE", "REPLAYED", "RESULT"];

/// Replays every task of the roles that has local state here.
pub fn run(config: &Config) -> Result<(), Failure> {
    // A look at a moving embedded log would be older than the stores it is compared with: it must be at rest. Kafka need not.
    let system = system::of(config, Access::Write)?;
    let mut rows: Vec<Vec<Value>> = Vec::new();
    let mut diverged = Vec::new();
    for role in config.roles_or_all() {
        for task in 0..system.tasks(role)? {
            let mut progress = Progress::new(&format!("replaying {role} task {task}"), 0);
            let found = replay::replay_task(&system, role, task, &mut |records| progress.set(records));
            progress.finish();
            let Some(found) = found? else { continue };
            let r = &found.replayed;
            let result = if r.divergence.is_none() { "equal" } else { "DIVERGED" };
            rows.push(vec![
                role.name().into(),
                task.into(),
                r.transactions.into(),
                r.records.into(),
                found.live.digest.to_string().into(),
                r.digest.to_string().into(),
                result.into(),
            ]);
            diverged.extend(r.divergence.as_ref().map(|d| format!("{role} task {task}: {}", describe(&system, d))));
        }
    }
    output::rows(config.format, &HEADER, &rows)?;
    if rows.is_empty() {
        return Err(Failure::failed(format!(
            "there is no local state in {} to compare with: run a role first, or say --state",
            config.state.display()
        )));
    }
    if diverged.is_empty() {
        return Ok(());
    }
    Err(Failure::new(Code::Bug, format!("the replay differs from the live state:\n  {}", diverged.join("\n  "))))
}

fn describe(system: &System, d: &Divergence) -> String {
    let inputs: Vec<_> = d.inputs.iter().map(|(at, first, end)| format!("{} from {first} to {end}", system.topics.show(*at))).collect();
    let record = d.record.as_ref().map(|r| format!("; first at record {r}")).unwrap_or_default();
    format!("transaction {} ({}): recorded {}, replayed {}{record}", d.transaction, inputs.join(", "), d.recorded, d.replayed)
}
