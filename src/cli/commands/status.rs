//! `status`: positions of every task, from the log, and the instance's own report, if its status
//! file is readable.

use std::collections::BTreeSet;

use indexmap::IndexMap;
use os::clock::wall_ms;
use serde_json::Value;
use wire::topics;

use crate::cli::config::Config;
use crate::cli::exit::Failure;
use crate::cli::open::Access;
use crate::cli::output::OutputFormat;
use crate::cli::{decode, open, output};
use crate::runtime::lag::{self, Lag};
use crate::runtime::status::{InstancePhase, InstanceStatus, Life, SILENCE_MS, TaskStatus};

const HEADER: [&str; 15] = [
    "ROLE",
    "TASK",
    "TOPIC",
    "PARTITION",
    "STATE",
    "INSTANCE",
    "COMMITTED",
    "END",
    "LAG",
    "RESTORED%",
    "STABLE_END",
    "HELD_SINCE",
    "HOST",
    "UPDATED",
    "WHY",
];

/// Columns for people: one line per task, with the lag summed over its inputs.
const TASKS: [&str; 6] = ["ROLE", "TASK", "STATE", "INSTANCE", "LAG", "RESTORED%"];

/// A transaction open longer than this is reported.
const HELD_MS: i64 = 5_000;

/// Prints the table; for people, also prints remarks below it.
pub(crate) fn run(config: &Config) -> Result<(), Failure> {
    let log = open::log(config, Access::Read)?;
    let table = topics::table(&config.topic_prefix);
    let mut rows = Vec::new();
    let mut remarks = Vec::new();
    let now = wall_ms();
    for role in config.roles_or_all() {
        let instances = InstanceStatus::read_all(&config.state, role.name());
        remarks.extend(
            instances
                .iter()
                .filter_map(|s| trouble(s, now).or_else(|| remark(s, now))),
        );
        for lag in lag::of_role(&*log, role, &config.group(role))? {
            let Lag {
                at,
                committed,
                stable_end,
                end,
                records,
                held_since_ms,
            } = lag;

            if let Some(since) = held_since_ms.filter(|since| now - since > HELD_MS) {
                remarks.push(format!(
                    "{}: {} records wait behind a transaction that has been open since {}; it is a client's, and ends when that client ends it or \
                     the brokers give it up",
                    table.show(at),
                    lag.held(),
                    decode::time(since)
                ));
            }

            // Partition i of every input belongs to task i.
            let task = at.partition;
            let told = told(&instances, task, now);
            rows.push(vec![
                role.name().into(),
                task.into(),
                table.name(at.topic).into(),
                at.partition.into(),
                told.state,
                told.instance,
                committed.into(),
                end.into(),
                records.into(),
                told.restored,
                stable_end.into(),
                held_since_ms.map(decode::time).into(),
                told.host,
                told.updated,
                told.why,
            ]);
        }
    }

    if config.format == OutputFormat::Json {
        return output::rows(config.format, &HEADER, &rows);
    }

    output::rows(config.format, &TASKS, &per_task(&rows))?;

    // Report a transaction once, even if it blocks the input of several roles.
    let mut said = BTreeSet::new();
    remarks
        .iter()
        .filter(|r| said.insert(r.as_str()))
        .try_for_each(output::line)
}

/// A remark about an instance that does not run normally.
fn remark(s: &InstanceStatus, now: i64) -> Option<String> {
    let name = match s.host.as_str() {
        "" => format!("{}-{}", s.role, s.instance),
        host => format!("{}-{} on {host}", s.role, s.instance),
    };

    let why = s
        .why
        .as_deref()
        .map(|why| format!(": {why}"))
        .unwrap_or_default();
    match s.life(now) {
        Life::Silent { since_ms } => Some(format!(
            "{name}: no sign of life since {} (they come every second): killed, frozen, or its machine or disk is gone",
            decode::time(since_ms)
        )),
        Life::Busy { since_ms } => Some(format!(
            "{name}: one turn of its loop has lasted since {}",
            decode::time(since_ms)
        )),
        Life::Ended => s
            .why
            .as_ref()
            .map(|_| format!("{name}: ended at {}{why}", decode::time(s.updated_ms))),
        Life::Alive if s.why.is_some() && now - s.since_ms > SILENCE_MS => Some(format!(
            "{name}: {} since {}{why}",
            s.state.name(),
            decode::time(s.since_ms)
        )),
        Life::Alive => s
            .why
            .as_ref()
            .map(|_| format!("{name}: {}{why}", s.state.name())),
    }
}

/// A remark about an instance that restarts again and again.
fn trouble(s: &InstanceStatus, now: i64) -> Option<String> {
    let times = s.counters.without_progress;
    let why = s.trouble.as_deref()?;
    let is = if times == 1 { "time" } else { "times" };
    (matches!(s.life(now), Life::Alive | Life::Busy { .. }) && times > 0).then(|| {
        format!(
            "{}-{} is recovering: {times} {is} without progress, because {why}",
            s.role, s.instance
        )
    })
}

/// People need one line per task; the offsets of every input are for programs.
fn per_task(rows: &[Vec<Value>]) -> Vec<Vec<Value>> {
    let mut tasks: IndexMap<(String, u64), Vec<Value>> = IndexMap::new();
    for row in rows {
        let [role, task, _, _, state, instance, _, _, lag, restored, ..] = row.as_slice() else {
            continue;
        };

        let key = (
            role.as_str().unwrap_or_default().to_string(),
            task.as_u64().unwrap_or_default(),
        );
        let sum = tasks.entry(key).or_insert_with(|| {
            [role, task, state, instance, &Value::from(0), restored]
                .into_iter()
                .cloned()
                .collect()
        });

        sum[4] = (sum[4].as_u64().unwrap_or(0) + lag.as_u64().unwrap_or(0)).into();
    }

    tasks.into_values().collect()
}

/// The state of a task by its instance's report.
#[derive(Default)]
struct TaskRow {
    state: Value,
    instance: Value,
    restored: Value,
    host: Value,
    updated: Value,
    why: Value,
}

fn told(instances: &[InstanceStatus], task: u32, now: i64) -> TaskRow {
    let has = |s: &InstanceStatus| s.tasks.iter().find(|t| t.task == task).cloned();
    let mut all: Vec<(&InstanceStatus, TaskStatus)> = instances
        .iter()
        .filter_map(|s| Some((s, has(s)?)))
        .collect();

    // The last entry wins. An instance that runs the task wins over a standby, then a living one
    // over a dead one, then the latest report.
    all.sort_by_key(|(s, t)| {
        (
            t.state != InstancePhase::Standby,
            matches!(s.life(now), Life::Alive | Life::Busy { .. }),
            s.updated_ms,
        )
    });

    let Some((instance, task)) = all.pop() else {
        return TaskRow::default();
    };

    let life = instance.life(now);
    let state = match life {
        Life::Ended => "stopped",
        Life::Silent { .. } => "gone",
        Life::Alive | Life::Busy { .. } => task.state.name(),
    };

    let restored = match task.restore_end {
        _ if task.state == InstancePhase::Running => 100.into(),
        0 => Value::Null,
        end => u64::try_from(u128::from(task.restored.min(end)) * 100 / u128::from(end))
            .unwrap_or(100)
            .into(),
    };

    TaskRow {
        state: state.into(),
        instance: instance.instance.into(),
        restored,
        host: instance.host.as_str().into(),
        updated: decode::time(instance.updated_ms).into(),
        why: instance.why.clone().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::status::Counters;

    fn instance(state: InstancePhase, updated_ms: i64, why: Option<&str>) -> InstanceStatus {
        let tasks = vec![TaskStatus {
            task: 0,
            state: InstancePhase::Running,
            ..Default::default()
        }];
        let role = "orders".to_string();
        let why = why.map(String::from);

        // A process id that exists: the id of the test.
        let pid = std::process::id();
        InstanceStatus {
            role,
            instance: 1,
            pid,
            host: "h1".into(),
            state,
            updated_ms,
            turned_ms: updated_ms,
            why,
            tasks,
            ..Default::default()
        }
    }

    #[test]
    fn states_are_told_by_signs_of_life() {
        let now = 1_000_000;
        let state = |s: InstanceStatus| told(&[s], 0, now).state;
        assert_eq!(
            state(instance(InstancePhase::Running, now - 500, None)),
            "running"
        );
        assert_eq!(
            state(instance(InstancePhase::Running, now - 60_000, None)),
            "gone",
            "the process id is of somebody else"
        );
        assert_eq!(
            state(instance(InstancePhase::Stopped, now - 60_000, None)),
            "stopped"
        );
        let (old, new) = (
            instance(InstancePhase::Running, now - 60_000, None),
            InstanceStatus {
                instance: 2,
                ..instance(InstancePhase::Running, now, None)
            },
        );

        assert_eq!(told(&[new, old], 0, now).instance, 2);
    }

    #[test]
    fn remarks_say_why_and_since_when() {
        let now = 1_000_000;
        let said = |s: InstanceStatus| remark(&s, now).unwrap_or_default();
        assert_eq!(said(instance(InstancePhase::Running, now, None)), "");
        assert_eq!(
            said(instance(InstancePhase::Stopped, now - 60_000, None)),
            ""
        );
        assert!(
            said(instance(InstancePhase::Running, now - 60_000, None))
                .starts_with("orders-1 on h1: no sign of life since 1970-01-01T00:15:40")
        );
        let ended = said(instance(InstancePhase::Stopped, now, Some("a bug")));
        assert!(
            ended.contains("ended at") && ended.ends_with("a bug"),
            "{ended}"
        );
        let recovering = said(instance(InstancePhase::Recovering, now, Some("no broker")));
        assert!(
            recovering.contains("recovering since 1970") && recovering.ends_with("no broker"),
            "{recovering}"
        );
        let busy = InstanceStatus {
            turned_ms: now - 9_000,
            ..instance(InstancePhase::Running, now, None)
        };

        assert!(said(busy).contains("one turn of its loop has lasted since 1970-01-01T00:16:31"));
    }

    #[test]
    fn an_instance_without_progress_is_named_with_the_cause() {
        let counters = Counters {
            recoveries: 9,
            without_progress: 7,
            ..Counters::default()
        };

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
        assert_eq!(trouble(&s, 0).as_deref(), Some(line));
        assert_eq!(
            trouble(
                &InstanceStatus {
                    trouble: None,
                    ..s.clone()
                },
                0
            ),
            None,
            "it has committed since"
        );

        assert_eq!(
            trouble(
                &InstanceStatus {
                    state: InstancePhase::Stopped,
                    ..s
                },
                0
            ),
            None
        );

        // Files of older versions lack both fields.
        let old: Counters = serde_json::from_str(
            r#"{"records_in":1,"records_out":2,"transactions":3,"recoveries":4,"repeats_dropped":0,"dead_letters":0}"#,
        )
        .expect("an older version's figures");
        assert_eq!((old.recoveries, old.without_progress), (4, 0));
    }
}
