//! Fair order of turns: the records of each task in one turn, and the first partition of the next
//! turn.
//!
//! The guarantee: a partition with a record in the batch is processed after at most N transactions,
//! where N is the number of partitions. A turn may end after a single record, and a task processes
//! records by log time, so rotating the tasks is not enough. An input that got nothing behind older
//! records of other inputs begins the next turn. Inputs with older records are left out of that
//! turn.

use ports::records::Records;

use super::super::merge::BatchRecord;

/// The partition that begins a turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct First {
    pub task: u32,
    /// `None`: the input with the oldest record.
    pub input: Option<u32>,
}

/// Selects at most `share` records of a task for this turn, about the same number from each input.
/// `first` names the preferred input. If that input or a later input has records, inputs with an
/// older next record get nothing.
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

    // With fewer places than inputs, the inputs with the oldest records get one place each.
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

/// Divides `room` between requests of the given sizes. Small requests get all, and large requests
/// get about equal shares. With fewer places than requests, the first requests get one place each.
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

/// Partitions and tasks that a turn left unfinished, as input for the next turn.
#[derive(Default)]
pub(super) struct LastTurns {
    /// The first partition that had records and got nothing.
    nothing: Option<First>,
    /// The first skipped partition among inputs before `came_first`. Its turn comes after all
    /// others.
    before: Option<First>,
    /// The first task with unprocessed records.
    left: Option<u32>,
}

impl LastTurns {
    /// Notes the records of one task, the input that came first, and the records taken. Call once
    /// per task, in the order of the turn.
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

    /// The first partition of the next turn, if records are left.
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

    /// Builds the records of a task. Each input has a number, a record count, and one log time for
    /// all its records.
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

    /// Every turn ends after one record, and every partition always has more records. Log times
    /// vary.
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
