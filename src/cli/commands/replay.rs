//! `replay`: executes a role's history again, and compares the result with its live state.

use engine::point_in_time::PointInTime;
use engine::replay::Divergence;
use os::clock::wall_ms;
use ports::topics::TopicPartition;
use roles::Role;
use serde_json::Value;
use wire::topics;

use crate::cli::args::Replay;
use crate::cli::config::Config;
use crate::cli::exit::{Code, Failure};
use crate::cli::moment;
use crate::cli::open::Access;
use crate::cli::output::{self, JobProgress};
use crate::cli::system;
use crate::runtime::system::Installation;
use crate::runtime::{replay, travel};

const HEADER: [&str; 7] = [
    "ROLE",
    "TASK",
    "TRANSACTIONS",
    "RECORDS",
    "LIVE",
    "REPLAYED",
    "RESULT",
];

/// Compares with live state, or rebuilds a past moment.
pub(crate) fn run(config: &Config, replay: &Replay) -> Result<(), Failure> {
    match &replay.until {
        None => compare(config, replay.task),
        Some(until) => travel(config, until, replay),
    }
}

/// Replays every task of the roles that has local state here.
fn compare(config: &Config, only: Option<u32>) -> Result<(), Failure> {
    // Open for writing, so that no other process moves the embedded log: a read view of a moving
    // log would be older than the compared stores. Kafka needs no such lock.
    let system = system::of(config, Access::Write)?;
    let mut rows: Vec<Vec<Value>> = Vec::new();
    let mut found_out = WorstResult::default();
    for role in config.roles_or_all() {
        for task in (0..system.tasks(role)?).filter(|task| only.is_none_or(|o| o == *task)) {
            let mut progress = JobProgress::new(&format!("replaying {role} task {task}"), 0);
            let found =
                replay::replay_task(&system, role, task, &mut |records| progress.set(records));
            progress.finish();
            let found = match found {
                Ok(Some(found)) => found,
                Ok(None) => continue,
                // Continue after an error: another task may have a worse result.
                Err(e) => {
                    found_out.failed(said_of(role, task, e.into()));
                    continue;
                }
            };

            let r = &found.replayed;
            let result = if r.divergence.is_none() {
                "equal"
            } else {
                "DIVERGED"
            };

            rows.push(vec![
                role.name().into(),
                task.into(),
                r.transactions.into(),
                r.records.into(),
                found.live.digest.to_string().into(),
                r.digest.to_string().into(),
                result.into(),
            ]);

            found_out.diverged.extend(
                r.divergence
                    .as_ref()
                    .map(|d| format!("{role} task {task}: {}", describe(&system, d))),
            );
        }
    }

    if !rows.is_empty() || found_out.failure.is_none() {
        output::rows(config.format, &HEADER, &rows)?;
    }

    found_out.end("the replay differs from the live state")?;
    if rows.is_empty() {
        return Err(Failure::failed(format!(
            "there is no local state in {} to compare with: run a role first, or say --state",
            config.state.display()
        )));
    }

    Ok(())
}

/// The worst result of the tasks. Found damage outranks tasks that could not be read.
#[derive(Default)]
struct WorstResult {
    diverged: Vec<String>,
    failure: Option<Failure>,
}

impl WorstResult {
    fn failed(&mut self, failure: Failure) {
        if self
            .failure
            .as_ref()
            .is_none_or(|before| before.code != Code::Bug && failure.code == Code::Bug)
        {
            self.failure = Some(failure);
        }
    }

    fn end(self, what: &str) -> Result<(), Failure> {
        if self.diverged.is_empty() {
            return self.failure.map_or(Ok(()), Err);
        }

        let also = self.failure.map(|f| f.to_string());
        let all: Vec<_> = self.diverged.into_iter().chain(also).collect();
        Err(Failure::new(
            Code::Bug,
            format!("{what}:\n  {}", all.join("\n  ")),
        ))
    }
}

const MOMENT: [&str; 7] = [
    "ROLE",
    "TASK",
    "TRANSACTION",
    "RECORDS",
    "DIGEST",
    "TOPIC",
    "POSITION",
];

/// Rebuilds tasks at a past moment. Prints one row per input, with its position at that moment.
fn travel(config: &Config, until: &str, replay: &Replay) -> Result<(), Failure> {
    let moment = moment(config, until)?;

    // A read view of the log is enough: the journal, which the replay is compared with, is in the
    // log itself.
    let system = system::of(config, Access::Read)?;
    let (mut rows, mut found_out): (Vec<Vec<Value>>, _) = (Vec::new(), WorstResult::default());
    'all: for role in config.roles_or_all() {
        // A record belongs to one task of some roles. Without `--role`, replay the roles that read
        // its topic.
        let reads = |at: TopicPartition| role.spec().inputs.iter().any(|i| i.topic == at.topic);
        for task in (0..system.tasks(role)?).filter(|task| replay.task.is_none_or(|o| o == *task)) {
            if let PointInTime::Record(at, _) = moment
                && (replay.task.is_none() && task != at.partition
                    || config.roles.is_empty() && !reads(at))
            {
                continue;
            }

            let mut progress = JobProgress::new(&format!("replaying {role} task {task}"), 0);
            let keep = replay.keep.as_deref();
            let found = travel::travel_task(&system, role, task, moment, keep, &mut |records| {
                progress.set(records)
            });

            progress.finish();
            let found = match found {
                Ok(Some(found)) => found,
                Ok(None) => continue,
                Err(e) => {
                    found_out.failed(said_of(role, task, e.into()));
                    break 'all;
                }
            };

            found_out.diverged.extend(
                found
                    .divergence
                    .as_ref()
                    .map(|d| format!("{role} task {task}: {}", describe(&system, d))),
            );
            for (at, next) in &found.meta.offsets {
                rows.push(vec![
                    role.name().into(),
                    task.into(),
                    found.transaction.into(),
                    found.records.into(),
                    found.meta.digest.to_string().into(),
                    system.topics.show(*at).to_string().into(),
                    (*next).into(),
                ]);
            }
        }
    }

    if !rows.is_empty() {
        output::rows(config.format, &MOMENT, &rows)?;
    }

    found_out.end("re-execution differs from the journal")?;
    match rows.is_empty() {
        true => Err(Failure::failed(format!(
            "no record was processed by {until}: give a later --until"
        ))),
        false => Ok(()),
    }
}

fn said_of(role: Role, task: u32, failure: Failure) -> Failure {
    Failure::new(failure.code, format!("{role} task {task}: {failure}"))
}

/// Parses a moment. A future time is an error.
fn moment(config: &Config, text: &str) -> Result<PointInTime, Failure> {
    let bare = topics::table("");
    let full = topics::table(&config.topic_prefix);
    let record = || {
        let (rest, offset) = text.rsplit_once('/')?;
        let (name, partition) = rest.rsplit_once('/')?;
        let topic = bare.find(name).or_else(|| full.find(name))?;
        Some(PointInTime::Record(
            TopicPartition::new(topic, partition.parse().ok()?),
            offset.parse().ok()?,
        ))
    };

    match (record(), moment::ms(text)) {
        (Some(record), _) => Ok(record),
        (None, Ok(ms)) if ms > wall_ms() => Err(Failure::failed(format!(
            "--until {text}: this moment lies in the future; give an earlier one"
        ))),
        (None, Ok(ms)) => Ok(PointInTime::Time(ms)),
        (None, Err(why)) => Err(Failure::usage(format!(
            "--until: {why}; or a record such as order-commands/2/1234"
        ))),
    }
}

fn describe(system: &Installation, d: &Divergence) -> String {
    let inputs: Vec<_> = d
        .inputs
        .iter()
        .map(|(at, first, end)| format!("{} from {first} to {end}", system.topics.show(*at)))
        .collect();
    let record = d
        .record
        .as_ref()
        .map(|r| format!("; first at record {r}"))
        .unwrap_or_default();
    format!(
        "transaction {} ({}): recorded {}, replayed {}{record}",
        d.transaction,
        inputs.join(", "),
        d.recorded,
        d.replayed
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::Common;

    #[test]
    fn moments() {
        let config = Config::load(
            &Common {
                topic_prefix: Some("p-".into()),
                ..Default::default()
            },
            &|_| None,
        )
        .expect("a configuration");

        let read = |text: &str| moment(&config, text).map_err(|e| e.code);
        assert_eq!(read("1970-01-01T00:00:01.5Z"), Ok(PointInTime::Time(1500)));
        assert_eq!(read("1769851800"), Ok(PointInTime::Time(1_769_851_800_000)));
        assert_eq!(
            read("1769851800000"),
            Ok(PointInTime::Time(1_769_851_800_000))
        );
        assert_eq!(read("2026-01-31"), Ok(PointInTime::Time(1_769_817_600_000)));
        let record = PointInTime::Record(TopicPartition::new(topics::ORDER_COMMANDS, 2), 7);
        assert_eq!(
            (read("order-commands/2/7"), read("p-order-commands/2/7")),
            (Ok(record), Ok(record))
        );
        assert_eq!(read("9999999999999"), Err(Code::Failed), "not yet");
        for bad in [
            "yesterday",
            "order-commands/2",
            "order-commands/x/7",
            "q-order-commands/2/7",
            "order-commands/2/-7",
            "",
            "2026-01-31T09:30:00",
            "20260131",
        ] {
            assert_eq!(read(bad), Err(Code::Usage), "{bad}");
        }
    }
}
