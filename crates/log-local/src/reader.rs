//! Reads partitions of a topic from given offsets, outside any group.

use std::sync::{Arc, Condvar};
use std::time::{Duration, Instant};

use ports::records::Records;
use ports::topics::{TopicId, TopicPartition};
use ports::{Limits, LogError, Reader, StartOffset};

use super::LogHandle;
use super::fetch::{ReadPosition, fetch};

pub(crate) struct LocalReader {
    handle: Arc<LogHandle>,
    positions: Vec<ReadPosition>,
    /// Ends of the partitions at the creation of the reader.
    targets: Vec<u64>,
    first: usize,
    bell: Arc<Condvar>,
}

impl LocalReader {
    pub(crate) fn new(
        handle: Arc<LogHandle>,
        topic: TopicId,
        from: &[(u32, StartOffset)],
        headers: bool,
    ) -> Result<Self, LogError> {
        let mut positions = Vec::with_capacity(from.len());
        let mut targets = Vec::with_capacity(from.len());
        for (partition, from) in from {
            let at = TopicPartition::new(topic, *partition);
            let (part, place, end) = handle.part(at)?;
            let next = match from {
                StartOffset::Start => 0,
                StartOffset::End => end,
                StartOffset::Offset(offset) if *offset <= end => *offset,
                StartOffset::Offset(offset) => {
                    let at = handle.table.show(at);
                    return Err(LogError::Invalid(format!(
                        "{at} ends at offset {end} and cannot be read from {offset}; was its log replaced?"
                    )));
                }
            };

            positions.push(ReadPosition::new(at, part, place, next, headers));
            targets.push(end);
        }

        Ok(LocalReader {
            handle,
            positions,
            targets,
            first: 0,
            bell: Arc::default(),
        })
    }
}

impl Reader for LocalReader {
    fn poll(&mut self, wait: Duration, limits: Limits, into: &mut Records) -> Result<(), LogError> {
        let core = &self.handle.core;
        let until = Instant::now() + wait;
        let mut state = core.state();
        while !self.positions.iter().any(|p| p.has_more(&state)) {
            let in_time;
            (state, in_time) = core.sleep(
                state,
                &self.bell,
                self.positions.iter().map(|p| p.part),
                until,
            );
            if !in_time {
                return Ok(());
            }
        }

        drop(state);
        self.first = (self.first + 1) % self.positions.len();
        fetch(core, &mut self.positions, self.first, limits, into)
    }

    fn caught_up(&self) -> bool {
        self.positions
            .iter()
            .zip(&self.targets)
            .all(|(p, target)| p.next >= *target)
    }

    fn reached(&self, partition: u32) -> bool {
        self.positions
            .iter()
            .zip(&self.targets)
            .all(|(p, target)| p.at.partition != partition || p.next >= *target)
    }
}
