//! Sorted keys (prices or deadlines) of one side, best first. Each key leads to the list of its
//! orders.
//!
//! The ladder is a sorted array in pieces. Two binary searches find a key, and an insertion moves
//! at most one piece. Empty pieces are kept for reuse, so a book at rest allocates nothing. Most
//! changes are near the best key, at the end of the last piece.

/// Maximum of entries in one piece.
const PIECE: usize = 128;

/// The index. The greatest key is the best, so sides with the least price first use negated keys.
#[derive(Debug, Default)]
pub(super) struct Ladder {
    pieces: Vec<Vec<(i64, u32)>>,
    spare: Vec<Vec<(i64, u32)>>,
}

impl Ladder {
    /// Best key and its list.
    pub(super) fn best(&self) -> Option<(i64, u32)> {
        self.pieces.last()?.last().copied()
    }

    /// All entries, best first.
    pub(super) fn iter(&self) -> impl Iterator<Item = (i64, u32)> + '_ {
        self.pieces
            .iter()
            .rev()
            .flat_map(|p| p.iter().rev())
            .copied()
    }

    fn find(&self, key: i64) -> (usize, Result<usize, usize>) {
        // Most keys are near the best key, in the last piece.
        let last = self.pieces.len().saturating_sub(1);
        let i = match self.pieces.last() {
            Some(p) if p[0].0 <= key => last,
            _ => self
                .pieces
                .partition_point(|p| p[0].0 <= key)
                .saturating_sub(1),
        };

        (
            i,
            self.pieces
                .get(i)
                .map_or(Err(0), |p| p.binary_search_by_key(&key, |e| e.0)),
        )
    }

    /// List of a key.
    pub(super) fn get(&self, key: i64) -> Option<u32> {
        let (i, at) = self.find(key);
        let at = at.ok()?;
        Some(self.pieces[i][at].1)
    }

    /// Best key below this key, and its list.
    pub(super) fn below(&self, key: i64) -> Option<(i64, u32)> {
        let (i, at) = self.find(key);
        let at = at.unwrap_or_else(|at| at);
        match at.checked_sub(1) {
            Some(at) => Some(self.pieces[i][at]),
            None => self.pieces[..i].last()?.last().copied(),
        }
    }

    /// Adds a new key.
    pub(super) fn insert(&mut self, key: i64, list: u32) {
        let (mut i, at) = self.find(key);
        let Err(mut at) = at else { return };
        if self.pieces.is_empty() {
            let piece = self.fresh();
            self.pieces.push(piece);
        } else if self.pieces[i].len() == PIECE {
            let mut upper = self.fresh();

            // At either end, the new key begins a piece of its own. Otherwise prices that only rise
            // or fall would leave half-empty pieces behind.
            let keep = if at == PIECE { PIECE } else { PIECE / 2 };
            upper.extend(self.pieces[i].drain(keep..));
            self.pieces.insert(i + 1, upper);
            if at > keep || at == PIECE {
                (i, at) = (i + 1, at - keep);
            }
        }

        self.pieces[i].insert(at, (key, list));
    }

    /// Removes a key.
    pub(super) fn remove(&mut self, key: i64) {
        let (i, Ok(at)) = self.find(key) else { return };
        self.pieces[i].remove(at);
        if self.pieces[i].is_empty() {
            let empty = self.pieces.remove(i);
            self.spare.push(empty);
        }
    }

    fn fresh(&mut self) -> Vec<(i64, u32)> {
        self.spare
            .pop()
            .unwrap_or_else(|| Vec::with_capacity(PIECE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn like_a_map(steps in prop::collection::vec((any::<bool>(), -400_i64..400), 1..3_000)) {
            let mut ladder = Ladder::default();
            let mut map = BTreeMap::new();
            for (n, (add, key)) in steps.into_iter().enumerate() {
                if !add {
                    ladder.remove(key);
                    map.remove(&key);
                } else if let std::collections::btree_map::Entry::Vacant(free) = map.entry(key) {
                    free.insert(n as u32);
                    ladder.insert(key, n as u32);
                }

                prop_assert_eq!(ladder.best(), map.last_key_value().map(|(k, v)| (*k, *v)));
                prop_assert_eq!(ladder.get(key), map.get(&key).copied());
                prop_assert_eq!(ladder.below(key), map.range(..key).next_back().map(|(k, v)| (*k, *v)));
            }

            prop_assert!(ladder.iter().eq(map.into_iter().rev()));
        }
    }

    #[test]
    fn rising_and_falling_keys_fill_their_pieces() {
        let mut ladder = Ladder::default();
        (0..10_000).for_each(|n| ladder.insert(n, 1));
        assert!(
            ladder.pieces.len() <= 10_000 / PIECE + 1,
            "{} pieces",
            ladder.pieces.len()
        );
        (0..10_000).for_each(|n| ladder.remove(n));
        assert_eq!(ladder.best(), None);
    }
}
