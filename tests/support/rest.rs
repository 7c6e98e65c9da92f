//! When a system is at rest: every role has read all of its inputs and nothing was written while we looked.

use std::time::{Duration, Instant};

use processor::engine::ports::{From, Limits, Log};
use processor::engine::records::Records;
use processor::engine::topics::TopicPartition;
use processor::roles::Role;

/// Waits until it is so. The committed offset of a partition may stay below its end by transaction markers, so what lies between is read.
pub fn wait_at_rest(log: &dyn Log, prefix: &str, within: Duration, mut meanwhile: impl FnMut()) {
    let began = Instant::now();
    let mut why;
    loop {
        meanwhile();
        let before = ends(log);
        why = unread(log, prefix);
        if why.is_none() {
            // Whoever wrote since then has given somebody something to read.
            if ends(log) == before {
                return;
            }
            why = Some("records are still being written".into());
        }
        assert!(began.elapsed() < within, "not at rest within {within:?}: {}", why.unwrap_or_default());
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn inputs(log: &dyn Log, role: Role) -> Vec<TopicPartition> {
    let topics = role.spec().inputs.into_iter().map(|i| i.topic);
    let partitions = |t| 0..log.partitions(t).expect("the log answers").expect("the topic exists");
    topics.flat_map(|t| partitions(t).map(move |p| TopicPartition::new(t, p))).collect()
}

fn ends(log: &dyn Log) -> Vec<(TopicPartition, u64)> {
    inputs(log, Role::Audit).into_iter().map(|at| (at, log.bounds(at).expect("the log answers").stable_end)).collect()
}

/// The first input found that a role has not read to its end.
pub fn unread(log: &dyn Log, prefix: &str) -> Option<String> {
    for role in Role::all() {
        let group = format!("{prefix}processor-{role}");
        let at = inputs(log, role);
        let committed = log.group_offsets(&group, &at).expect("the log answers");
        for (at, committed) in at.into_iter().zip(committed) {
            let bounds = log.bounds(at).expect("the log answers");
            let next = committed.unwrap_or(bounds.start);
            if bounds.stable_end != bounds.end || bounds.stable_end > next && has_records(log, at, next) {
                return Some(format!("{role} has read {at:?} up to {committed:?}; {bounds:?}"));
            }
        }
    }
    None
}

fn has_records(log: &dyn Log, at: TopicPartition, next: u64) -> bool {
    let mut reader = log.reader(at.topic, &[(at.partition, From::Offset(next))], false).expect("a reader");
    let limits = Limits { records: 1, bytes: 1 << 20, age: Duration::from_secs(1) };
    let mut found = Records::new();
    while !reader.caught_up() && found.is_empty() {
        reader.poll(Duration::from_millis(50), limits, &mut found).expect("a read");
    }
    !found.is_empty()
}
