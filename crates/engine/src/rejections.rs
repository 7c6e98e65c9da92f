//! Records that brokers refuse again and again: too large for the topic as somebody set it, a time
//! that it does not accept. An outage passes; this does not, and a supervisor sees nothing of a
//! process that begins anew for ever. So the third refusal of the same record ends the role.
//!
//! A transaction that was refused comes back smaller, down to one record of input, so that the
//! record which is to blame is known and all before it are done; only then the refusals count.
//! Whatever else happens in between (brokers restart, a commit has no answer) neither counts nor
//! clears anything.

use std::collections::BTreeMap;

use ports::topics::TopicPartition;

/// So often the same record must be refused for the same reason.
pub(super) const TIMES: u32 = 3;

/// By task: the record, the reason, and how often.
#[derive(Default)]
pub(super) struct Rejections(BTreeMap<u32, (TopicPartition, u64, String, u32)>);

impl Rejections {
    /// The output of one input record was refused; answers how often that was.
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

    /// A task has come further.
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
