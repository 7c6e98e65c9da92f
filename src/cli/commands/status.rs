//! `status`: where every task is, from the log itself; and what its instance says of itself, where one runs on this machine.

use std::io::Write;

use indexmap::IndexMap;
use serde_json::Value;

use crate::cli::config::Config;
use crate::cli::exit::Failure;
use crate::cli::open::Access;
use crate::cli::output::Format;
use crate::cli::{open, output};
use crate::runtime::lag::{self, Lag};
use crate::runtime::status::{InstanceStatus, State, TaskStatus};
use crate::wire::topics;

const HEADER: [&str; 10] = ["ROLE", "TASK", "TOPIC", "PARTITION", "STATE", "INSTANCE", "COMMITTED", "END", "LAG", "RESTORED%"];

/// The same for people: one line per task, its lag summed over its inputs.
const TASKS: [&str; 6] = ["ROLE", "TASK", "STATE", "INSTANCE", "LAG", "RESTORED%"];

/// Prints the table.
pub fn run(config: &Config) -> Result<(), Failure> {
    let log = open::log(config, Access::Read)?;
    let table = topics::table(&config.topic_prefix);
    let (mut rows, mut troubles) = (Vec::new(), Vec::new());
    for role in config.roles_or_all() {
        let instances = InstanceStatus::read_all(&config.state, role.name());
        troubles.extend(instances.iter().filter_map(trouble));
        for Lag { at, committed, end, records } in lag::of_role(&*log, role, &config.group(role))? {
            // Partition i of every input belongs to task i.
            let task = at.partition;
            let (state, instance, restored) = told(&instances, task);
            rows.push(vec![
                role.name().into(),
                task.into(),
                table.name(at.topic).into(),
                at.partition.into(),
                state,
                instance,
                committed.into(),
                end.into(),
                records.into(),
                restored,
            ]);
        }
    }
    match config.format {
        Format::Json => output::rows(config.format, &HEADER, &rows),
        Format::Text => {
            output::rows(config.format, &TASKS, &per_task(&rows))?;
            let mut out = std::io::stdout().lock();
            troubles.iter().try_for_each(|line| writeln!(out, "{line}"))?;
            Ok(())
        }
    }
}

/// What people should know of an instance that begins anew again and again.
fn trouble(s: &InstanceStatus) -> Option<String> {
    let (times, why) = (s.counters.without_progress, s.trouble.as_deref()?);
    let is = if times == 1 { "time" } else { "times" };
    (alive(s) && s.state != State::Stopped && times > 0)
        .then(|| format!("{}-{} is recovering: {times} {is} without progress, because {why}", s.role, s.instance))
}

/// People want to know how each task is; the offsets of its every input are for programs.
fn per_task(rows: &[Vec<Value>]) -> Vec<Vec<Value>> {
    let mut tasks: IndexMap<(String, u64), Vec<Value>> = IndexMap::new();
    for row in rows {
        let [role, task, _, _, state, instance, _, _, lag, restored] = row.as_slice() else { continue };
        let key = (role.as_str().unwrap_or_default().to_string(), task.as_u64().unwrap_or_default());
        let sum =
            tasks.entry(key).or_insert_with(|| [role, task, state, instance, &Value::from(0), restored].into_iter().cloned().collect());
        sum[4] = (sum[4].as_u64().unwrap_or(0) + lag.as_u64().unwrap_or(0)).into();
    }
    tasks.into_values().collect()
}

/// What the instance that has a task says: state, number, restored share.
fn told(instances: &[InstanceStatus], task: u32) -> (Value, Value, Value) {
    let has = |s: &InstanceStatus| s.tasks.iter().find(|t| t.task == task).cloned();
    let mut all: Vec<(&InstanceStatus, TaskStatus)> = instances.iter().filter_map(|s| Some((s, has(s)?))).collect();
    // The one that is alive and wrote last knows best.
    all.sort_by_key(|(s, _)| (alive(s), s.updated_ms));
    let Some((instance, task)) = all.pop() else { return (Value::Null, Value::Null, Value::Null) };
    let state = match (alive(instance), instance.state) {
        (false, State::Stopped) => "stopped",
        (false, _) => "gone",
        (true, _) => task.state.name(),
    };
    let restored = match task.restore_end {
        _ if task.state == State::Running => 100.into(),
        0 => Value::Null,
        end => u64::try_from(u128::from(task.restored.min(end)) * 100 / u128::from(end)).unwrap_or(100).into(),
    };
    (state.into(), instance.instance.into(), restored)
}

/// Whether the process that wrote the file is still there; the file outlives a `kill -9`.
fn alive(s: &InstanceStatus) -> bool {
    s.pid == std::process::id() || std::path::Path::new("/proc").join(s.pid.to_string()).exists()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::status::Counters;

    #[test]
    fn an_instance_without_progress_is_named_with_the_cause() {
        let counters = Counters { recoveries: 9, without_progress: 7, ..Counters::default() };
        let why = "not committed: 3 of 9 records were not acknowledged in 20s".to_string();
        let s = InstanceStatus {
            role: "orders".into(),
            instance: 2,
            pid: std::process::id(),
            counters,
            trouble: Some(why),
            ..Default::default()
        };
        let line = "orders-2 is recovering: 7 times without progress, because not committed: 3 of 9 records were not acknowledged in 20s";
        assert_eq!(trouble(&s).as_deref(), Some(line));
        assert_eq!(trouble(&InstanceStatus { trouble: None, ..s.clone() }), None, "it has committed since");
        assert_eq!(trouble(&InstanceStatus { state: State::Stopped, ..s }), None);
        // Files of older versions lack both.
        let old: Counters = serde_json::from_str(
            r#"{"records_in":1,"records_out":2,"transactions":3,"recoveries":4,"repeats_dropped":0,"dead_letters":0}"#,
        )
        .expect("an older version's figures");
        assert_eq!((old.recoveries, old.without_progress), (4, 0));
    }
}
