//! Threads that follow topics and pass the records to a callback. A thread retries if the log does
//! not answer. A permanent error is returned, and the
//! caller stops the gateway.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ports::records::Records;
use ports::topics::TopicId;
use ports::{Limits, Log, LogError, StartOffset};

use crate::retry_policy::RetryPolicy;

const LIMITS: Limits = Limits {
    records: 5_000,
    bytes: 4 << 20,
    age: Duration::from_millis(20),
};
const WAIT: Duration = Duration::from_millis(250);
const BACKOFF: Duration = Duration::from_millis(500);

/// Follows a topic from `starts` (one offset for each partition) until `stop` is set. Calls `batch`
/// with the records of each poll. The flag is true once all records that existed when the current
/// reader was made were delivered; after a new connection it can be false again.
pub(crate) fn run(
    log: &Arc<dyn Log>,
    topic: TopicId,
    starts: &[u64],
    stop: &AtomicBool,
    mut batch: impl FnMut(&Records, bool),
) -> Result<(), LogError> {
    let mut next = starts.to_vec();
    let mut records = Records::new();
    let mut passing = RetryPolicy::default();
    while !stop.load(Ordering::Acquire) {
        let from: Vec<_> = (0..)
            .zip(&next)
            .map(|(p, offset)| (p, StartOffset::Offset(*offset)))
            .collect();
        let ended = log.reader(topic, &from, false).and_then(|mut reader| {
            while !stop.load(Ordering::Acquire) {
                records.clear();
                reader.poll(WAIT, LIMITS, &mut records)?;
                passing.works();
                for r in records.iter() {
                    next[r.at.partition as usize] = r.offset + 1;
                }

                batch(&records, reader.caught_up());
            }

            Ok(())
        });

        if let Err(e) = ended {
            let why = passing.wait(e)?;
            tracing::warn!("a topic could not be followed: {why}; trying again in {BACKOFF:?}");
            std::thread::sleep(BACKOFF);
        }
    }

    Ok(())
}
