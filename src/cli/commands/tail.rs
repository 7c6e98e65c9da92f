//! `tail`: prints the records of a topic, decoded.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ports::records::Records;
use ports::topics::{TopicId, TopicPartition};
use ports::{Log, Reader, StartOffset};
use wire::topics;

use crate::cli::args::Tail;
use crate::cli::config::{Config, LogTarget};
use crate::cli::exit::Failure;
use crate::cli::open::Access;
use crate::cli::output::OutputFormat;
use crate::cli::shown::SentValue;
use crate::cli::{decode, moment, open, output, read};

fn usage(ms: Result<i64, String>) -> Result<i64, Failure> {
    ms.map_err(|why| {
        Failure::usage(format!(
            "--from: {why}; or start, end, an offset, or -N for the last N of each partition"
        ))
    })
}

/// The start position of `--from`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StartPoint {
    Start,
    End,
    Offset(u64),
    Last(u64),
    TimeMs(i64),
}

impl StartPoint {
    fn parse(text: &str) -> Result<StartPoint, Failure> {
        if let Some(n) = text.strip_prefix('-').and_then(|n| n.parse().ok()) {
            return Ok(StartPoint::Last(n));
        }

        match text {
            "start" => Ok(StartPoint::Start),
            "end" => Ok(StartPoint::End),
            other => match other.parse::<u64>() {
                // A sign marks an offset.
                Ok(offset) if other.starts_with('+') => Ok(StartPoint::Offset(offset)),
                // No partition has so many records. As milliseconds, the number is a time of this
                // century.
                Ok(ms) if ms >= 100_000_000_000 => {
                    Ok(StartPoint::TimeMs(usage(moment::ms(other))?))
                }
                Ok(n) if moment::looks_like_a_day(other) => Err(Failure::usage(format!(
                    "--from {other}: may be a day or an offset: give {} or +{n}",
                    moment::dashed(other)
                ))),
                Ok(n) if n >= 1_000_000_000 => Err(Failure::usage(format!(
                    "--from {other}: may be a time in seconds or an offset: say {n}000 or +{n}"
                ))),
                Ok(offset) => Ok(StartPoint::Offset(offset)),
                Err(_) => Ok(StartPoint::TimeMs(usage(moment::ms(other))?)),
            },
        }
    }

    /// An offset outside the bounds is moved to the nearest bound.
    fn resolve(self, log: &dyn Log, at: TopicPartition) -> Result<StartOffset, Failure> {
        Ok(match self {
            StartPoint::Start => StartOffset::Start,
            StartPoint::End => StartOffset::End,
            StartPoint::TimeMs(ms) => StartOffset::Offset(log.offset_at(at, ms)?),
            StartPoint::Offset(offset) => {
                let b = log.bounds(at)?;
                StartOffset::Offset(offset.clamp(b.start, b.stable_end.max(b.start)))
            }
            StartPoint::Last(n) => {
                let b = log.bounds(at)?;
                StartOffset::Offset(b.stable_end.saturating_sub(n).max(b.start))
            }
        })
    }
}

/// Prints until the end, the limit, or a signal.
pub(crate) fn run(config: &Config, tail: &Tail) -> Result<(), Failure> {
    let place = StartPoint::parse(&tail.from)?;
    let topic = topic(config, &tail.topic)?;
    let log = open::log(config, Access::Read)?;
    let mut partitions = read::all_partitions(&*log, topic)?;
    if let Some(p) = tail.partition {
        if !partitions.contains(&p) {
            return Err(Failure::usage(format!(
                "--partition {p}: {} has partitions 0 to {}",
                tail.topic,
                partitions.len() - 1
            )));
        }

        partitions = vec![p];
    }

    let from = partitions
        .iter()
        .map(|p| Ok((*p, place.resolve(&*log, TopicPartition::new(topic, *p))?)))
        .collect::<Result<Vec<_>, Failure>>()?;
    let mut show = PrintRecords {
        config,
        name: topics::table(&config.topic_prefix).name(topic).to_string(),
        left: tail.count.unwrap_or(u64::MAX),
    };

    if tail.exit_at_end || matches!(config.target, LogTarget::Kafka { .. }) {
        let mut reader = log.reader(topic, &from, true)?;
        return show.read(&mut *reader, tail.exit_at_end).map(drop);
    }

    follow_embedded(config, topic, log, from, &mut show)
}

/// Follows the embedded log. A reader sees only the state at the time of opening. The function
/// therefore opens the log again and again, and continues at the last offset.
fn follow_embedded(
    config: &Config,
    topic: TopicId,
    mut log: Arc<dyn Log>,
    mut from: Vec<(u32, StartOffset)>,
    show: &mut PrintRecords<'_>,
) -> Result<(), Failure> {
    for (partition, from) in &mut from {
        if *from == StartOffset::End {
            *from = StartOffset::Offset(
                log.bounds(TopicPartition::new(topic, *partition))?
                    .stable_end,
            );
        }
    }

    loop {
        let mut reader = log.reader(topic, &from, true)?;
        let next = show.read(&mut *reader, true)?;
        if show.left == 0 || output::broken() {
            return Ok(());
        }

        for (partition, from) in &mut from {
            if let Some(next) = next.get(partition) {
                *from = StartOffset::Offset(*next);
            }
        }

        drop(reader);
        std::thread::sleep(Duration::from_millis(500));
        log = open::log(config, Access::Read)?;
    }
}

/// Prints records, up to a limit.
struct PrintRecords<'a> {
    config: &'a Config,
    name: String,
    left: u64,
}

impl PrintRecords<'_> {
    /// Prints until the limit or, with `exit_at_end`, the end. Returns the offset after the last
    /// record of each partition.
    fn read(
        &mut self,
        reader: &mut dyn Reader,
        exit_at_end: bool,
    ) -> Result<BTreeMap<u32, u64>, Failure> {
        let mut next = BTreeMap::new();
        let mut batch = Records::new();
        while self.left > 0 && !output::broken() && !(exit_at_end && reader.caught_up()) {
            batch.clear();
            reader.poll(Duration::from_millis(200), read::LIMITS, &mut batch)?;
            for r in batch.iter() {
                if self.left == 0 {
                    break;
                }

                self.left -= 1;
                next.insert(r.at.partition, r.offset + 1);
                match self.config.format {
                    OutputFormat::Json => {
                        output::json(&SentValue::Map(decode::record(&self.name, &r)))?
                    }
                    OutputFormat::Text => output::line(decode::record_line(&r))?,
                }
            }
        }

        Ok(next)
    }
}

/// Finds the topic of a name, with or without the prefix.
fn topic(config: &Config, name: &str) -> Result<TopicId, Failure> {
    let bare = topics::table("");
    let full = topics::table(&config.topic_prefix);
    bare.find(name).or_else(|| full.find(name)).ok_or_else(|| {
        let names: Vec<_> = bare.iter().map(|t| bare.name(t)).collect();
        Failure::usage(format!(
            "there is no topic {name}; the topics are {}",
            names.join(", ")
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        let place = |t| StartPoint::parse(t).ok();
        assert_eq!(place("start"), Some(StartPoint::Start));
        assert_eq!(place("end"), Some(StartPoint::End));
        assert_eq!(place("42"), Some(StartPoint::Offset(42)));
        assert_eq!(place("-100"), Some(StartPoint::Last(100)));
        assert_eq!(
            place("1970-01-01T00:00:01Z"),
            Some(StartPoint::TimeMs(1000))
        );
        assert_eq!(
            place("2026-01-31"),
            Some(StartPoint::TimeMs(1_769_817_600_000))
        );
        assert_eq!(
            place("1769851800000"),
            Some(StartPoint::TimeMs(1_769_851_800_000))
        );
        assert_eq!(
            (place("+20260131"), place("+1769851800")),
            (
                Some(StartPoint::Offset(20_260_131)),
                Some(StartPoint::Offset(1_769_851_800))
            )
        );

        for bad in [
            "yesterday",
            "20260131",
            "1769851800",
            "2026-01-31T09:30:00",
            "1.5",
        ] {
            assert_eq!(place(bad), None, "{bad}");
        }
    }
}
