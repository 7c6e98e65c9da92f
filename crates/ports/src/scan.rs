//! Reading a topic from its start to its present end.

use std::time::Duration;

use crate::records::{Record, Records};
use crate::topics::TopicPartition;
use crate::{Limits, Log, LogError, StartOffset};

/// Calls `visit` with every committed record of a partition, in order.
pub fn partition(
    log: &dyn Log,
    at: TopicPartition,
    visit: &mut dyn FnMut(&Record<'_>),
) -> Result<(), LogError> {
    let limits = Limits {
        records: 20_000,
        bytes: 16 << 20,
        age: Duration::from_millis(200),
    };

    let mut reader = log.reader(at.topic, &[(at.partition, StartOffset::Start)], false)?;
    let mut chunk = Records::new();
    loop {
        chunk.clear();
        reader.poll(Duration::from_millis(50), limits, &mut chunk)?;
        chunk.iter().for_each(|r| visit(&r));
        if chunk.is_empty() && reader.caught_up() {
            return Ok(());
        }
    }
}
