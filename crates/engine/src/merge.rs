//! Processing order of a transaction's records.
//!
//! A task takes records of several inputs into one transaction and merges them by log time. A stop,
//! a price and an order are therefore processed in the order of their arrival. Among records of the
//! same millisecond, the input declared first by the role comes first. Records of one input never
//! overtake each other. If a broker's clock stepped back, a record counts as no older than earlier
//! records of its input.
//!
//! The order depends only on the set of records in the transaction. A replay therefore needs only
//! the positions before and after the transaction. The rule also holds for a transaction that took
//! only the first of the merged records.

use ports::records::Records;

use super::role::RoleSpec;

/// A record of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct BatchRecord {
    pub task: u32,
    /// Number of the input, in the role's order.
    pub input: u32,
    /// Number of the record in the batch.
    pub index: u32,
}

/// The batch by task, then by input in the role's order, then in log order. Journals from before
/// [`by_log_time`] used this order.
pub(super) fn by_task(spec: &RoleSpec, batch: &Records) -> Vec<BatchRecord> {
    let mut order: Vec<BatchRecord> = Vec::with_capacity(batch.len());
    for (i, r) in batch.iter().enumerate() {
        let input = spec
            .inputs
            .iter()
            .position(|x| x.topic == r.at.topic)
            .unwrap_or(usize::MAX);
        order.push(BatchRecord {
            task: r.at.partition,
            input: input as u32,
            index: i as u32,
        });
    }

    order.sort_unstable();
    order
}

/// Merges the records of one task by log time. The records must be sorted by input.
pub(super) fn by_log_time(places: &mut [BatchRecord], batch: &Records) {
    if places.first().map(|p| p.input) == places.last().map(|p| p.input) {
        return;
    }

    let mut timed = Vec::with_capacity(places.len());
    for input in places.chunk_by(|a, b| a.input == b.input) {
        let mut latest = i64::MIN;
        for place in input {
            latest = latest.max(batch.get(place.index as usize).timestamp_ms);
            timed.push((latest, *place));
        }
    }

    timed.sort_unstable();
    places
        .iter_mut()
        .zip(timed)
        .for_each(|(place, (_, merged))| *place = merged);
}

#[cfg(test)]
mod tests {
    use super::*;
    use ports::records::{Headers, Record};
    use ports::topics::{TopicId, TopicPartition};

    /// Merges inputs given by their log times. Returns pairs of input number and record number.
    fn merged(inputs: &[&[i64]]) -> Vec<(u32, u32)> {
        let mut batch = Records::new();
        let mut places = Vec::new();
        for (input, times) in (0..).zip(inputs) {
            for (offset, &timestamp_ms) in (0..).zip(*times) {
                let at = TopicPartition::new(TopicId(input as u16), 0);
                places.push(BatchRecord {
                    task: 0,
                    input,
                    index: batch.len() as u32,
                });

                batch.push(&Record {
                    at,
                    offset,
                    timestamp_ms,
                    key: None,
                    value: None,
                    headers: Headers::default(),
                });
            }
        }

        by_log_time(&mut places, &batch);
        places
            .iter()
            .map(|p| batch.get(p.index as usize))
            .map(|r| (u32::from(r.at.topic.0), r.offset as u32))
            .collect()
    }

    #[test]
    fn inputs_are_merged_by_log_time_and_then_by_input() {
        assert_eq!(
            merged(&[&[10, 30], &[20, 30]]),
            [(0, 0), (1, 0), (0, 1), (1, 1)]
        );
        assert_eq!(merged(&[&[], &[5, 7], &[6]]), [(1, 0), (2, 0), (1, 1)]);
        assert_eq!(merged(&[]), []);
    }

    #[test]
    fn records_of_an_input_keep_order_where_its_clock_steps_back() {
        assert_eq!(
            merged(&[&[100, 50, 110], &[60, 105]]),
            [(1, 0), (0, 0), (0, 1), (1, 1), (0, 2)]
        );
    }

    /// A transaction that ended early took the first of the merged records. A replay merges only
    /// those records.
    #[test]
    fn the_first_of_what_is_merged_are_merged_alike_alone() {
        let inputs: [&[i64]; 3] = [&[3, 1, 4, 1, 5, 9], &[2, 6, 5, 3], &[5, 8, 9, 7, 9]];
        let all = merged(&inputs);
        for n in 0..=all.len() {
            let taken: Vec<&[i64]> = (0..)
                .zip(inputs)
                .map(|(input, times)| {
                    &times[..all[..n].iter().filter(|(i, _)| *i == input).count()]
                })
                .collect();
            assert_eq!(merged(&taken), all[..n], "the first {n}");
        }
    }
}
