//! Sequence check of records between roles, as a second line of defence. Every such record carries
//! `(task, sequence)`. With healthy transactions the counters of repeats stay at zero. After a torn
//! transaction, repeats are dropped and counted. A gap stops the task before money moves on wrong
//! data.

use std::collections::BTreeMap;

use ports::topics::{TopicId, TopicPartition};

/// Header that carries `task/sequence`.
pub const HEADER: &str = "task-seq";

/// Header with the format of a value of ours.
pub const VERSION_HEADER: &str = "v";
/// The current format of all values.
pub const VERSION: &[u8] = b"1";

/// Last sequence sent to each guarded output partition; sequences start at 1.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OutSequences {
    guarded: Vec<TopicId>,
    last: BTreeMap<TopicPartition, u64>,
}

impl OutSequences {
    /// No record was sent yet to the guarded topics.
    pub fn new(guarded: &[TopicId]) -> Self {
        OutSequences {
            guarded: guarded.to_vec(),
            last: BTreeMap::new(),
        }
    }

    /// Takes the next sequence of a partition. `None` if the topic is not guarded.
    pub fn next(&mut self, at: TopicPartition) -> Option<u64> {
        if !self.guarded.contains(&at.topic) {
            return None;
        }

        let last = self.last.entry(at).or_insert(0);
        *last += 1;
        Some(*last)
    }

    /// The last sequence of each partition, in order of topic and partition.
    pub fn iter(&self) -> impl Iterator<Item = (TopicPartition, u64)> + '_ {
        self.last.iter().map(|(k, v)| (*k, *v))
    }

    /// Restores one counter.
    pub fn set(&mut self, at: TopicPartition, last: u64) {
        self.last.insert(at, last);
    }
}

/// Result of the check of a guarded record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SequenceCheck {
    /// The next sequence in order.
    Next,
    /// A record seen before: drop and count.
    Repeat,
    /// A record is missing before this record: stop.
    Gap {
        /// The expected sequence.
        due: u64,
        /// The sequence of the record.
        came: u64,
    },
}

/// Last sequence seen from each upstream task, for each guarded input topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InSequences {
    last: BTreeMap<(TopicId, u32), u64>,
}

impl InSequences {
    /// Checks a sequence, and remembers a sequence in order.
    pub fn check(&mut self, topic: TopicId, task: u32, sequence: u64) -> SequenceCheck {
        let last = self.last.entry((topic, task)).or_insert(0);
        if sequence <= *last {
            return SequenceCheck::Repeat;
        }

        if sequence != *last + 1 {
            return SequenceCheck::Gap {
                due: *last + 1,
                came: sequence,
            };
        }

        *last = sequence;
        SequenceCheck::Next
    }

    /// The last sequences, in order of topic and upstream task.
    pub fn iter(&self) -> impl Iterator<Item = (TopicId, u32, u64)> + '_ {
        self.last.iter().map(|(k, v)| (k.0, k.1, *v))
    }

    /// Restores one counter.
    pub fn set(&mut self, topic: TopicId, task: u32, last: u64) {
        self.last.insert((topic, task), last);
    }
}

/// Parses the header value `task/sequence`.
pub fn parse(header: &[u8]) -> Option<(u32, u64)> {
    let text = std::str::from_utf8(header).ok()?;
    let (task, sequence) = text.split_once('/')?;
    Some((task.parse().ok()?, sequence.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeat_is_dropped_and_a_gap_is_seen() {
        let mut out = OutSequences::new(&[TopicId(3)]);
        let at = TopicPartition::new(TopicId(3), 1);
        assert_eq!(out.next(TopicPartition::new(TopicId(4), 1)), None);
        assert_eq!((out.next(at), out.next(at)), (Some(1), Some(2)));
        let mut seen = InSequences::default();
        assert_eq!(seen.check(TopicId(3), 7, 1), SequenceCheck::Next);
        assert_eq!(seen.check(TopicId(3), 7, 1), SequenceCheck::Repeat);
        assert_eq!(
            seen.check(TopicId(3), 7, 3),
            SequenceCheck::Gap { due: 2, came: 3 }
        );
        assert_eq!(seen.check(TopicId(3), 8, 1), SequenceCheck::Next);
        assert_eq!(parse(b"7/12"), Some((7, 12)));
        assert_eq!(parse(b"7"), None);
    }
}
