//! A system is at rest if every role has read all inputs and no record was written during the
//! check.

use std::time::{Duration, Instant};

use ports::records::Records;
use ports::topics::TopicPartition;
use ports::{Limits, Log, LogError, StartOffset};
use roles::Role;

/// Waits until the system is at rest. Transaction markers may keep a committed offset below the end
/// of a partition, so the check reads the records in between.
pub fn wait_at_rest(log: &dyn Log, prefix: &str, within: Duration, mut meanwhile: impl FnMut()) {
    let began = Instant::now();
    loop {
        meanwhile();

        // A restarted broker may not know its end offsets yet, so ask again.
        let why = match unrest(log, prefix) {
            Ok(None) => return,
            Ok(Some(why)) => why,
            Err(e) => e.to_string(),
        };

        assert!(
            began.elapsed() < within,
            "not at rest within {within:?}: {why}"
        );
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn unrest(log: &dyn Log, prefix: &str) -> Result<Option<String>, LogError> {
    let before = ends(log)?;
    if let Some(why) = unread(log, prefix)? {
        return Ok(Some(why));
    }

    // A record written since then is unread input of some role.
    Ok((ends(log)? != before).then(|| "records are still being written".into()))
}

fn inputs(log: &dyn Log, role: Role) -> Result<Vec<TopicPartition>, LogError> {
    let mut all = Vec::new();
    for input in role.spec().inputs {
        let count = log.partitions(input.topic)?.expect("the topic exists");
        all.extend((0..count).map(|p| TopicPartition::new(input.topic, p)));
    }

    Ok(all)
}

fn ends(log: &dyn Log) -> Result<Vec<(TopicPartition, u64)>, LogError> {
    inputs(log, Role::Audit)?
        .into_iter()
        .map(|at| Ok((at, log.bounds(at)?.stable_end)))
        .collect()
}

/// Returns the first input that a role has not read to its end.
pub fn unread(log: &dyn Log, prefix: &str) -> Result<Option<String>, LogError> {
    for role in Role::all() {
        let group = format!("{prefix}processor-{role}");
        let at = inputs(log, role)?;
        let committed = log.group_offsets(&group, &at)?;
        for (at, committed) in at.into_iter().zip(committed) {
            let bounds = log.bounds(at)?;
            let next = committed.unwrap_or(bounds.start);
            if bounds.stable_end != bounds.end
                || bounds.stable_end > next && has_records(log, at, next)?
            {
                return Ok(Some(format!(
                    "{role} has read {at:?} up to {committed:?}; {bounds:?}"
                )));
            }
        }
    }

    Ok(None)
}

fn has_records(log: &dyn Log, at: TopicPartition, next: u64) -> Result<bool, LogError> {
    let mut reader = log.reader(
        at.topic,
        &[(at.partition, StartOffset::Offset(next))],
        false,
    )?;
    let limits = Limits {
        records: 1,
        bytes: 1 << 20,
        age: Duration::from_secs(1),
    };

    let mut found = Records::new();
    while !reader.caught_up() && found.is_empty() {
        reader.poll(Duration::from_millis(50), limits, &mut found)?;
    }

    Ok(!found.is_empty())
}
