//! Whose turn it is: which records of a task a turn takes where it cannot take all, and who begins the next turn.
//!
//! The promise: a partition with a record in the batch gets its turn after as many transactions as there are partitions, at most. A turn may end
//! after a single record, and records of one task are always processed input by input; so rotating the tasks is not enough, and the inputs of the
//! task that begins rotate, too.

use super::batch::Place;

/// The partition that begins a turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct First {
    pub task: u32,
    pub input: u32,
}

/// The records of a task that a turn tries to take, `share` at most, in processing order: of each input about the same number, and none of inputs before
/// `from`, if there are any behind it.
pub(super) fn choose(group: &[Place], share: usize, from: u32) -> Vec<Place> {
    let behind = group.partition_point(|place| place.input < from) % group.len().max(1);
    let group = &group[behind..];
    if share >= group.len() {
        return group.to_vec();
    }
    let inputs: Vec<&[Place]> = group.chunk_by(|a, b| a.input == b.input).collect();
    let counts: Vec<usize> = inputs.iter().map(|i| i.len()).collect();
    inputs.iter().zip(deal(&counts, share)).flat_map(|(input, n)| input[..n].iter().copied()).collect()
}

/// Deals out a room: those who need little get all they need, the others about the same; where there is not one for each, the first get one.
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
pub(super) struct Turns {
    /// The first that had records and got nothing.
    nothing: Option<First>,
    /// The same, of inputs that were not looked at: their turn comes after all others.
    skipped: Option<First>,
    /// The first task of which something is left.
    left: Option<u32>,
}

impl Turns {
    /// A task's records, and which of them were taken; to be called task by task, in the order of the turn.
    pub(super) fn took(&mut self, group: &[Place], from: u32, taken: &[Place]) {
        for input in group.chunk_by(|a, b| a.input == b.input) {
            let first = First { task: input[0].task, input: input[0].input };
            if !taken.iter().any(|place| place.input == first.input) {
                let slot = if first.input < from { &mut self.skipped } else { &mut self.nothing };
                slot.get_or_insert(first);
            }
        }
        if taken.len() < group.len() {
            self.left.get_or_insert(group[0].task);
        }
    }

    /// The partition that begins the next turn, if something is left.
    pub(super) fn next(self) -> Option<First> {
        self.nothing.or(self.skipped).or(self.left.map(|task| First { task: task.saturating_add(1), input: 0 }))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn group(task: u32, counts: &[(u32, u32)]) -> Vec<Place> {
        counts.iter().flat_map(|(input, n)| (0..*n).map(move |index| Place { task, input: *input, index: input * 1_000 + index })).collect()
    }

    fn chosen(group: &[Place], share: usize, from: u32) -> BTreeMap<u32, usize> {
        let mut by_input = BTreeMap::new();
        choose(group, share, from).iter().for_each(|place| *by_input.entry(place.input).or_default() += 1);
        by_input
    }

    #[test]
    fn a_small_input_is_taken_beside_a_large_one() {
        let g = group(7, &[(0, 500), (2, 1), (3, 40)]);
        assert_eq!(chosen(&g, 1_000, 0), [(0, 500), (2, 1), (3, 40)].into());
        assert_eq!(chosen(&g, 100, 0), [(0, 59), (2, 1), (3, 40)].into());
        assert_eq!(chosen(&g, 3, 0), [(0, 1), (2, 1), (3, 1)].into());
        assert_eq!(chosen(&g, 1, 0), [(0, 1)].into());
        assert_eq!(chosen(&g, 1, 1), [(2, 1)].into());
        assert_eq!(chosen(&g, 1_000, 3), [(3, 40)].into());
        assert_eq!(chosen(&g, 1, 4), [(0, 1)].into(), "nothing is behind it");
        assert_eq!(chosen(&g, 0, 0), [].into());
    }

    /// Turns that end after one record, while every partition always has more.
    #[test]
    fn in_turns_of_one_record_every_partition_gets_its_turn() {
        let (tasks, inputs) = (3, 4);
        let (mut first, mut waits, mut longest) = (First::default(), BTreeMap::<First, u32>::new(), 0);
        for _ in 0..1_000 {
            let mut groups: Vec<Vec<Place>> = (0..tasks).map(|t| group(t, &[(0, 50), (1, 1), (2, 9), (3, 2)])).collect();
            let behind = groups.partition_point(|g| g[0].task < first.task);
            groups.rotate_left(behind);
            let mut turns = Turns::default();
            for (n, g) in groups.iter().enumerate() {
                let from = if g[0].task == first.task { first.input } else { 0 };
                let chosen = choose(g, 100, from);
                let taken = if n == 0 { &chosen[..1] } else { &[] };
                turns.took(g, from, taken);
                for input in 0..inputs {
                    let wait = waits.entry(First { task: g[0].task, input }).or_default();
                    *wait = if taken.iter().any(|p| p.input == input) { 0 } else { *wait + 1 };
                    longest = longest.max(*wait);
                }
            }
            first = turns.next().expect("something is left");
        }
        assert_eq!(longest, tasks * inputs - 1);
    }

    #[test]
    fn a_room_is_dealt_out_by_need() {
        assert_eq!(deal(&[5_000, 3, 700], 100), [48, 3, 49]);
        assert_eq!(deal(&[50, 1], 1), [1, 0], "the first has waited longest");
        assert_eq!(deal(&[], 10), [0_usize; 0]);
    }
}
