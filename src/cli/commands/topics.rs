//! `topics create`, `topics check`.

use serde_json::Value;

use crate::cli::config::Config;
use crate::cli::exit::Failure;
use crate::cli::open::Access;
use crate::cli::{open, output};
use crate::engine::ports::Log;
use crate::engine::topics::{Partitions, TopicId, TopicTable};
use crate::wire::topics;

/// Makes what is missing; says what does not fit.
pub fn create(config: &Config, partitions: u32) -> Result<(), Failure> {
    if !(1..=1000).contains(&partitions) {
        return Err(Failure::usage(format!("--partitions {partitions}: must be from 1 to 1000")));
    }
    let log = open::log(config, Access::Write)?;
    let report = ensure(&*log, &config.topic_prefix, partitions)?;
    finish(config, report)
}

/// Compares what is there with what must be.
pub fn check(config: &Config) -> Result<(), Failure> {
    let log = open::log(config, Access::Read)?;
    let table = topics::table(&config.topic_prefix);
    let count = log.partitions(topics::ORDER_COMMANDS)?.unwrap_or(0);
    let report = table.iter().map(|id| inspect(&*log, &table, id, count)).collect::<Result<Vec<_>, _>>()?;
    finish(config, report)
}

/// What was found or done for a topic.
pub struct Line {
    name: String,
    partitions: u32,
    result: &'static str,
    problems: Vec<String>,
}

/// Makes the missing topics of a prefix; existing ones are compared only.
pub fn ensure(log: &dyn Log, prefix: &str, partitions: u32) -> Result<Vec<Line>, Failure> {
    let table = topics::table(prefix);
    let mut report = table.iter().map(|id| inspect(log, &table, id, partitions)).collect::<Result<Vec<_>, _>>()?;
    // All or none: topics made beside some that do not fit would have to be made again once those are put right.
    let unfit = report.iter().any(|l| l.result == "does not fit");
    for (id, line) in table.iter().zip(&mut report).filter(|(_, l)| l.result == "missing") {
        let count = expected(&table, id, partitions);
        line.problems.clear();
        if unfit {
            line.result = "not created";
            continue;
        }
        log.create_topic(id, table.spec(id), count)?;
        (line.partitions, line.result) = (count, "created");
    }
    Ok(report)
}

fn expected(table: &TopicTable, id: TopicId, partitions: u32) -> u32 {
    match table.spec(id).partitions {
        Partitions::One => 1,
        Partitions::Many => partitions,
    }
}

fn inspect(log: &dyn Log, table: &TopicTable, id: TopicId, partitions: u32) -> Result<Line, Failure> {
    let name = table.name(id).to_string();
    let Some(found) = log.describe_topic(id, table.spec(id))? else {
        return Ok(Line { name, partitions: 0, result: "missing", problems: vec!["does not exist: run `processor topics create`".into()] });
    };
    let mut problems = found.mismatches;
    let count = expected(table, id, partitions);
    if found.partitions != count {
        problems.push(format!("has {} partitions, not {count}", found.partitions));
    }
    let result = if problems.is_empty() { "fits" } else { "does not fit" };
    Ok(Line { name, partitions: found.partitions, result, problems })
}

fn finish(config: &Config, report: Vec<Line>) -> Result<(), Failure> {
    let rows: Vec<Vec<Value>> =
        report.iter().map(|l| vec![l.name.as_str().into(), l.partitions.into(), l.result.into(), l.problems.join("; ").into()]).collect();
    output::rows(config.format, &["TOPIC", "PARTITIONS", "RESULT", "PROBLEM"], &rows)?;
    problems(&report)
}

/// An error that names every topic that does not fit.
pub fn problems(report: &[Line]) -> Result<(), Failure> {
    let bad: Vec<_> = report.iter().filter(|l| !l.problems.is_empty()).map(|l| format!("{}: {}", l.name, l.problems.join("; "))).collect();
    if bad.is_empty() {
        return Ok(());
    }
    Err(Failure::config(format!(
        "{} of {} topics do not fit:\n  {}\nA partition count cannot change once there are records: say the same --partitions again, or use another --topic-prefix; \
         settings can be changed with the cluster's own tools.",
        bad.len(),
        report.len(),
        bad.join("\n  ")
    )))
}
