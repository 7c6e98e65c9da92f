//! Records that brokers reject again and again: too large for the topic's current setting, or with
//! a timestamp that the broker does not accept. An outage passes, but such a rejection does not. A
//! supervisor would not notice a process in an endless recovery loop. The third rejection of the
//! same record therefore ends the role.
//!
//! After a rejection the next transactions are smaller, down to one input record. Then the record
//! at fault is known, and all records before it are committed. Only rejections of a single record
//! count. Other failures (a broker restart, a commit without an answer) neither count nor reset the
//! counter.

use std::collections::BTreeMap;

use ports::topics::TopicPartition;

/// Number of rejections of the same record for the same reason that ends the role.
pub(super) const TIMES: u32 = 3;

/// By task: position of the record, reason, and number of rejections.
#[derive(Default)]
pub(super) struct Rejections(BTreeMap<u32, (TopicPartition, u64, String, u32)>);

impl Rejections {
    /// Counts a rejection of the output of one input record. Returns the number of rejections so
    /// far.
    pub(super) fn again(&mut self, at: TopicPartition, offset: u64, reason: &str) -> u32 {
        let known = self
            .0
            .remove(&at.partition)
            .filter(|(a, o, r, _)| (*a, *o, r.as_str()) == (at, offset, reason));
        let times = known.map_or(0, |(.., times)| times) + 1;
        self.0
            .insert(at.partition, (at, offset, reason.to_string(), times));
        times
    }

    /// Resets the counter after a commit of the task.
    pub(super) fn past(&mut self, task: u32) {
        self.0.remove(&task);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ports::topics::TopicId;

    #[test]
    fn only_the_same_record_for_the_same_reason_counts() {
        let mut r = Rejections::default();
        let at = |p| TopicPartition::new(TopicId(0), p);
        assert_eq!(
            (
                r.again(at(0), 7, "too large"),
                r.again(at(1), 7, "too large"),
                r.again(at(0), 7, "too large")
            ),
            (1, 1, 2)
        );

        assert_eq!(r.again(at(0), 7, "time"), 1, "another reason");
        assert_eq!(r.again(at(0), 8, "time"), 1, "another record");
        r.past(1);
        assert_eq!(
            (
                r.again(at(0), 8, "time"),
                r.again(at(0), 8, "time"),
                r.again(at(1), 7, "too large")
            ),
            (2, 3, 1)
        );
    }
}
