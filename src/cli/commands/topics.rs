//! `topics create` and `topics check`.

use ports::Log;
use ports::topics::{Finding, Partitions, Severity, TopicId, TopicTable};
use serde_json::Value;
use wire::topics;

use crate::cli::config::Config;
use crate::cli::exit::Failure;
use crate::cli::open::Access;
use crate::cli::{open, output};

/// Creates the missing topics, and reports settings that do not fit. With `fix`, also changes the
/// settings that can be changed without loss of records.
pub(crate) fn create(
    config: &Config,
    partitions: u32,
    replication: Option<u16>,
    fix: bool,
) -> Result<(), Failure> {
    if !(1..=1000).contains(&partitions) {
        return Err(Failure::usage(format!(
            "--partitions {partitions}: must be from 1 to 1000"
        )));
    }

    if replication.is_some_and(|n| !(1..=1000).contains(&n)) {
        return Err(Failure::usage("--replication: must be from 1 to 1000"));
    }

    let log = open::log_with(config, Access::Write, replication)?;
    let log = &*log;
    let table = topics::table(&config.topic_prefix);
    let mut report = TopicsReport::of(log, &table, partitions)?;
    if fix {
        let changed = report.fix(log, &table)?;
        report = TopicsReport::of(log, &table, partitions)?;
        report
            .lines
            .iter_mut()
            .filter(|l| l.topic.is_some_and(|id| changed.contains(&id)))
            .for_each(|l| l.changed = true);
    }

    report.create(log, &table)?;
    report.print(config)?;
    report.verdict(false)
}

/// Compares the present topics with the required ones.
pub(crate) fn check(config: &Config, strict: bool) -> Result<(), Failure> {
    let log = open::log(config, Access::Read)?;
    let table = topics::table(&config.topic_prefix);
    let count = log.partitions(topics::ORDER_COMMANDS)?.unwrap_or(0);
    let report = TopicsReport::of(&*log, &table, count)?;
    report.print(config)?;
    report.verdict(strict)
}

/// Findings and changes of each topic, and of the brokers.
struct TopicsReport {
    lines: Vec<Line>,
}

struct Line {
    /// None for the brokers.
    topic: Option<TopicId>,
    name: String,
    /// Present partition count; 0 if the topic does not exist.
    partitions: u32,
    /// Required partition count.
    expected: u32,
    created: bool,
    changed: bool,
    skipped: bool,
    /// The error of a wrong partition count. No setting can fix the count.
    count: Option<String>,
    findings: Vec<Finding>,
}

impl TopicsReport {
    fn of(log: &dyn Log, table: &TopicTable, partitions: u32) -> Result<TopicsReport, Failure> {
        let mut found = log.findings()?;
        let mut lines = Vec::new();
        for id in table.iter() {
            let expected = match table.spec(id).partitions {
                Partitions::One => 1,
                Partitions::Many => partitions,
            };

            let name = table.name(id).to_string();
            let there = log.partitions(id)?;
            let count = there
                .filter(|n| *n != expected)
                .map(|n| match table.spec(id).partitions {
                    Partitions::One => format!("has {n} partitions, must have 1"),
                    Partitions::Many => format!("has {n} partitions, not {expected}"),
                });

            let findings = found.extract_if(.., |f| f.topic == Some(id)).collect();
            let created = false;
            let changed = false;
            let skipped = false;
            lines.push(Line {
                topic: Some(id),
                name,
                partitions: there.unwrap_or(0),
                expected,
                created,
                changed,
                skipped,
                count,
                findings,
            });
        }

        for finding in found {
            let created = false;
            let changed = false;
            let skipped = false;
            let name = finding.subject.clone();
            lines.push(Line {
                topic: None,
                name,
                partitions: 0,
                expected: 0,
                created,
                changed,
                skipped,
                count: None,
                findings: vec![finding],
            });
        }

        Ok(TopicsReport { lines })
    }

    /// Creates all missing topics or none: after the repair of a wrong topic, the new topics would
    /// have to be created again.
    fn create(&mut self, log: &dyn Log, table: &TopicTable) -> Result<(), Failure> {
        let unfit = self.lines.iter().any(|l| l.partitions > 0 && l.is_wrong());
        for line in self.lines.iter_mut().filter(|l| l.missing()) {
            let Some(id) = line.topic else { continue };
            if unfit {
                line.skipped = true;
                continue;
            }

            log.create_topic(id, table.spec(id), line.expected)?;
            (line.partitions, line.created) = (line.expected, true);
        }

        Ok(())
    }

    /// Changes the settings that can be fixed. One request changes all settings of a topic
    /// together.
    fn fix(&self, log: &dyn Log, table: &TopicTable) -> Result<Vec<TopicId>, Failure> {
        let mut changed = Vec::new();
        for line in &self.lines {
            let changes: Vec<_> = line
                .findings
                .iter()
                .filter_map(|f| f.fix.as_ref())
                .map(|(name, value)| (*name, value.as_str()))
                .collect();
            let Some(id) = line.topic.filter(|_| !changes.is_empty()) else {
                continue;
            };

            log.alter_topic(id, &changes)?;
            for (name, value) in changes {
                tracing::info!(
                    "setting of topic {} changed: {name} = {value}",
                    table.name(id)
                );
            }

            changed.push(id);
        }

        // Brokers apply a change one after the other, so wait until the change is visible.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        let left = |findings: Vec<Finding>| {
            findings
                .iter()
                .any(|f| f.fix.is_some() && f.topic.is_some_and(|id| changed.contains(&id)))
        };

        while left(log.findings()?) && std::time::Instant::now() < deadline {
            std::thread::sleep(std::time::Duration::from_millis(100));
        }

        Ok(changed)
    }

    fn print(&self, config: &Config) -> Result<(), Failure> {
        let row = |l: &Line| {
            let partitions = if l.topic.is_some() {
                l.partitions.into()
            } else {
                Value::from("-")
            };

            vec![
                l.name.as_str().into(),
                partitions,
                l.result().into(),
                l.texts(Severity::Warning).join("; ").into(),
            ]
        };

        let rows: Vec<Vec<Value>> = self.lines.iter().map(row).collect();
        output::rows(
            config.format,
            &["TOPIC", "PARTITIONS", "RESULT", "PROBLEM"],
            &rows,
        )
    }

    /// An error that names every topic that does not fit.
    fn verdict(&self, strict: bool) -> Result<(), Failure> {
        let bad: Vec<_> = self
            .lines
            .iter()
            .filter(|l| !l.skipped && (l.is_wrong() || strict && !l.findings.is_empty()))
            .collect();
        if bad.is_empty() {
            return Ok(());
        }

        let topics = bad.iter().filter(|l| l.topic.is_some()).count();
        let others = bad.len() - topics;
        let mut advice = String::new();
        if bad
            .iter()
            .any(|l| l.findings.iter().any(|f| f.fix.is_some()))
        {
            advice += "\n`processor topics create --fix` changes these settings of topics, with the same --partitions and --topic-prefix; no record is lost by that.";
        }

        if bad.iter().any(|l| l.count.is_some()) {
            advice += "\nA partition count cannot change once there are records: say the same --partitions again, or use another --topic-prefix.";
        }

        if others > 0 {
            advice += "\nSettings of brokers are changed by those who run the cluster; docs/operating/kafka.md says which and why.";
        }

        let all = self.lines.iter().filter(|l| l.topic.is_some()).count();
        let what = match (topics, others) {
            (n, 0) => format!("{n} of {all} topics do not fit"),
            (0, _) => "the brokers do not fit".to_string(),
            (n, _) => format!("{n} of {all} topics and the brokers do not fit"),
        };

        let least = if strict {
            Severity::Warning
        } else {
            Severity::Unknown
        };

        let texts: Vec<_> = bad
            .iter()
            .map(|l| format!("{}: {}", l.name, l.texts(least).join("; ")))
            .collect();
        Err(Failure::config(format!(
            "{what}:\n  {}{advice}",
            texts.join("\n  ")
        )))
    }
}

impl Line {
    fn missing(&self) -> bool {
        self.topic.is_some() && self.partitions == 0
    }

    fn is_wrong(&self) -> bool {
        self.missing()
            || self.count.is_some()
            || self.findings.iter().any(|f| f.severity > Severity::Warning)
    }

    fn result(&self) -> &'static str {
        match self {
            l if l.created => "created",
            l if l.skipped => "not created",
            l if l.missing() => "missing",
            l if l.is_wrong() => "does not fit",
            l if !l.findings.is_empty() => "warning",
            l if l.changed => "changed",
            _ => "fits",
        }
    }

    /// The findings of at least this severity, as text.
    fn texts(&self, least: Severity) -> Vec<String> {
        let mut all: Vec<String> = self.count.iter().cloned().collect();
        if self.missing() && !self.skipped {
            all.push("does not exist: run `processor topics create`".into());
        }

        all.extend(
            self.findings
                .iter()
                .filter(|f| f.severity >= least)
                .map(|f| f.text.clone()),
        );
        all
    }
}
