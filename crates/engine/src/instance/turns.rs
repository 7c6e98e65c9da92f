//! Whose turn it is: which records of a task a turn takes where it cannot take all, and who begins
//! the next turn.
//!
//! The promise: a partition with a record in the batch gets its turn after as many transactions as
//! there are partitions, at most. A turn may end after a single record, and records of one task are
//! processed in the order of their log times; so rotating the tasks is not enough. An input that
//! got nothing because the others had older records comes first in the next turn, which leaves
//! those others out.

use super::super::merge::BatchRecord;
use ports::records::Records;

/// The partition that begins a turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct First {
    pub task: u32,
    /// None: the one with the oldest record.
    pub input: Option<u32>,
}

/// The records of a task that a turn tries to take, `share` at most, input by input: of each input
/// about the same number. If `first` or an input behind it has records, the first of those comes
/// first: inputs whose next record is older get nothing.
pub(super) fn choose(
    group: &[BatchRecord],
    batch: &Records,
    share: usize,
    first: Option<u32>,
) -> Vec<BatchRecord> {
    let head = |input: &&[BatchRecord]| {
        (
            batch.get(input[0].index as usize).timestamp_ms,
            input[0].input,
        )
    };

    let mut inputs: Vec<&[BatchRecord]> = group.chunk_by(|a, b| a.input == b.input).collect();
    if let Some(from) = first
        .and_then(|first| inputs.iter().find(|i| i[0].input >= first))
        .map(head)
    {
        inputs.retain(|input| head(input) >= from);
    }

    if share >= inputs.iter().map(|i| i.len()).sum() {
        return inputs.concat();
    }

    // Where there is not a record for each, the oldest get one.
    inputs.sort_unstable_by_key(head);
    let counts: Vec<usize> = inputs.iter().map(|i| i.len()).collect();
    let mut chosen: Vec<BatchRecord> = inputs
        .iter()
        .zip(deal(&counts, share))
        .flat_map(|(input, n)| input[..n].iter().copied())
        .collect();
    chosen.sort_unstable();
    chosen
}

/// Deals out a room: those who need little get all they need, the others about the same; where
/// there is not one for each, the first get one.
pub(in super::super) fn deal(counts: &[usize], mut room: usize) -> Vec<usize> {
    let mut shares = vec![0; counts.len()];
    if room < counts.len() {
        shares[..room].fill(1);
        return shares;
    }

    let mut by_size: Vec<usize> = (0..counts.len()).collect();
    by_size.sort_by_key(|i| counts[*i]);
    for (done, i) in by_size.into_iter().enumerate() {
        shares[i] = counts[i].min(room.div_ceil(counts.len() - done));
        room -= shares[i];
    }

    shares
}

/// The outcome of a turn, as far as the next one needs to know it.
#[derive(Default)]
pub(super) struct LastTurns {
    /// The first that had records and got nothing.
    nothing: Option<First>,
    /// The same, of inputs before the one that came first: their turn comes after all others.
    before: Option<First>,
    /// The first task of which something is left.
    left: Option<u32>,
}

impl LastTurns {
    /// A task's records, the input that came first, and which records were taken; to be called task
    /// by task, in the order of the turn.
    pub(super) fn took(
        &mut self,
        group: &[BatchRecord],
        came_first: Option<u32>,
        taken: &[BatchRecord],
    ) {
        for input in group.chunk_by(|a, b| a.input == b.input) {
            let BatchRecord { task, input, .. } = input[0];
            if !taken.iter().any(|place| place.input == input) {
                let slot = if Some(input) < came_first {
                    &mut self.before
                } else {
                    &mut self.nothing
                };

                slot.get_or_insert(First {
                    task,
                    input: Some(input),
                });
            }
        }

        if taken.len() < group.len() {
            self.left.get_or_insert(group[0].task);
        }
    }

    /// The partition that begins the next turn, if something is left.
    pub(super) fn next(self) -> Option<First> {
        self.nothing.or(self.before).or(self.left.map(|task| First {
            task: task.saturating_add(1),
            input: None,
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::super::merge::by_log_time;
    use super::*;
    use ports::records::{Headers, Record};
    use ports::topics::{TopicId, TopicPartition};

    /// Inputs of a task: number, how many records, and the log time of all of them.
    fn group(batch: &mut Records, task: u32, inputs: &[(u32, u32, i64)]) -> Vec<BatchRecord> {
        let mut places = Vec::new();
        for &(input, n, timestamp_ms) in inputs {
            for offset in 0..u64::from(n) {
                let at = TopicPartition::new(TopicId(input as u16), task);
                places.push(BatchRecord {
                    task,
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

        places
    }

    #[test]
    fn a_small_input_is_taken_beside_a_large_one() {
        let mut batch = Records::new();
        let g = group(&mut batch, 7, &[(0, 500, 20), (2, 1, 10), (3, 40, 30)]);
        let chosen = |share, first| {
            let mut by_input = BTreeMap::new();
            choose(&g, &batch, share, first)
                .iter()
                .for_each(|place| *by_input.entry(place.input).or_default() += 1);
            by_input
        };

        assert_eq!(chosen(1_000, None), [(0, 500), (2, 1), (3, 40)].into());
        assert_eq!(chosen(100, None), [(0, 59), (2, 1), (3, 40)].into());
        assert_eq!(chosen(3, None), [(0, 1), (2, 1), (3, 1)].into());
        assert_eq!(chosen(2, None), [(0, 1), (2, 1)].into());
        assert_eq!(chosen(1, None), [(2, 1)].into(), "the oldest");
        assert_eq!(
            chosen(1_000, Some(0)),
            [(0, 500), (3, 40)].into(),
            "the one with an older record is left out"
        );
        assert_eq!(chosen(1, Some(0)), [(0, 1)].into());
        assert_eq!(
            chosen(1_000, Some(1)),
            [(0, 500), (2, 1), (3, 40)].into(),
            "input 1 has nothing, and 2 is the oldest anyway"
        );
        assert_eq!(chosen(1_000, Some(3)), [(3, 40)].into());
        assert_eq!(chosen(1, Some(4)), [(2, 1)].into(), "nothing is behind it");
        assert_eq!(chosen(0, None), [].into());
    }

    /// Turns that end after one record, while every partition always has more, whatever their
    /// clocks show.
    #[test]
    fn in_turns_of_one_record_every_partition_gets_its_turn() {
        let tasks = 3;
        let inputs = 4;
        for times in [[0, 0, 0, 0], [9, 1, 5, 2], [4, 3, 2, 1], [1, 2, 3, 4]] {
            let mut first = First::default();
            let mut waits = BTreeMap::<First, u32>::new();
            let mut longest = 0;
            for _ in 0..1_000 {
                let mut batch = Records::new();
                let sizes = [50, 1, 9, 2];
                let all: Vec<_> = (0..inputs)
                    .map(|i| (i, sizes[i as usize], times[i as usize]))
                    .collect();
                let mut groups: Vec<Vec<BatchRecord>> =
                    (0..tasks).map(|t| group(&mut batch, t, &all)).collect();
                let behind = groups.partition_point(|g| g[0].task < first.task);
                groups.rotate_left(behind);
                let mut turns = LastTurns::default();
                for (n, g) in groups.iter().enumerate() {
                    let came_first = first.input.filter(|_| g[0].task == first.task);
                    let mut chosen = choose(g, &batch, 100, came_first);
                    by_log_time(&mut chosen, &batch);
                    let taken = if n == 0 { &chosen[..1] } else { &[] };
                    turns.took(g, came_first, taken);
                    for input in 0..inputs {
                        let wait = waits
                            .entry(First {
                                task: g[0].task,
                                input: Some(input),
                            })
                            .or_default();
                        *wait = if taken.iter().any(|p| p.input == input) {
                            0
                        } else {
                            *wait + 1
                        };

                        longest = longest.max(*wait);
                    }
                }

                first = turns.next().expect("something is left");
            }

            assert!(
                longest <= tasks * inputs,
                "a partition waited for {longest} turns"
            );
        }
    }

    #[test]
    fn a_room_is_dealt_out_by_need() {
        assert_eq!(deal(&[5_000, 3, 700], 100), [48, 3, 49]);
        assert_eq!(deal(&[50, 1], 1), [1, 0], "the first has waited longest");
        assert_eq!(deal(&[], 10), [0_usize; 0]);
    }
}
