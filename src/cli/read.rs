//! Reads topics to the end that they have at the start of the read.

use std::time::{Duration, Instant};

use client;
use ports::records::{Record, Records};
use ports::topics::TopicId;
use ports::{Limits, Log, StartOffset};

use super::exit::Failure;

/// Limits of one poll.
pub(super) const LIMITS: Limits = Limits {
    records: 5000,
    bytes: 8 << 20,
    age: Duration::from_millis(100),
};

/// A reader without progress for this long counts as stuck.
const PATIENCE: Duration = Duration::from_secs(30);

/// Calls the visitor with every committed record of some partitions, from the start to the present
/// end.
pub(super) fn to_end(
    log: &dyn Log,
    topic: TopicId,
    partitions: &[u32],
    mut visit: impl FnMut(&Record<'_>),
) -> Result<(), Failure> {
    let from: Vec<_> = partitions
        .iter()
        .map(|p| (*p, StartOffset::Start))
        .collect();
    let mut reader = log.reader(topic, &from, false)?;
    let mut batch = Records::new();
    let mut progress = Instant::now();
    while !reader.caught_up() {
        batch.clear();
        reader.poll(Duration::from_millis(200), LIMITS, &mut batch)?;
        batch.iter().for_each(|r| visit(&r));
        if !batch.is_empty() {
            progress = Instant::now();
        } else if progress.elapsed() > PATIENCE {
            return Err(Failure::failed(
                "the log stopped answering while a topic was read; are the brokers well?",
            ));
        }
    }

    Ok(())
}

/// All partitions of a topic; an error if the topic does not exist.
pub(super) fn all_partitions(log: &dyn Log, topic: TopicId) -> Result<Vec<u32>, Failure> {
    Ok((0..client::partitions(log, topic)?).collect())
}
