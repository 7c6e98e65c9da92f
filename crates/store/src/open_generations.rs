//! Marks that show whether a store still has the end of its life before this one.
//!
//! Each time a store is opened and written to is a life. RocksDB turns the log of the last life
//! into a table when it opens, notes the table at the end of its MANIFEST, and removes the log. A
//! MANIFEST that lost just that note is well formed: the store would open without the table, but
//! with the log of the present life and so with the newest meta record, and everything would look
//! right. So every write also counts in its life's own mark, and the first write of a life says how
//! far the life before it had counted. If that is not what the other mark says, something is
//! missing.

use ports::varint::{put, take_u64};

/// A life's number and its writes so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct GenerationMark {
    life: u64,
    writes: u64,
}

impl GenerationMark {
    fn bytes(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(8);
        put(&mut out, self.life);
        put(&mut out, self.writes);
        out
    }

    fn read(mut bytes: &[u8]) -> Result<GenerationMark, &'static str> {
        match (take_u64(&mut bytes), take_u64(&mut bytes)) {
            (Some(life), Some(writes)) if bytes.is_empty() => Ok(GenerationMark { life, writes }),
            _ => Err("the mark of a life is unreadable"),
        }
    }
}

/// The marks of a store that is open.
#[derive(Debug)]
pub(super) struct Lives {
    now: GenerationMark,
    before: GenerationMark,
}

impl Lives {
    /// Looks at what is there: the marks of even and of odd lives, and what the last life found
    /// when it began.
    pub(super) fn read(
        marks: [Option<Vec<u8>>; 2],
        before: Option<Vec<u8>>,
    ) -> Result<Lives, &'static str> {
        let mark = |bytes: Option<Vec<u8>>| {
            bytes.map_or(Ok(GenerationMark::default()), |b| GenerationMark::read(&b))
        };
        let [even, odd] = marks.map(mark);
        let found = mark(before)?;
        let even = even?;
        let odd = odd?;
        let (last, other) = if even.life > odd.life {
            (even, odd)
        } else {
            (odd, even)
        };

        if found != other || (last.life > 0 && found.life + 1 != last.life) {
            return Err("a part of what was written is missing");
        }

        Ok(Lives {
            now: GenerationMark {
                life: last.life + 1,
                writes: 0,
            },
            before: last,
        })
    }

    /// Counts a write: which of the two marks to set to what, and, with the first, what this life
    /// found.
    pub(super) fn next(&mut self) -> (usize, Vec<u8>, Option<Vec<u8>>) {
        self.now.writes += 1;
        let first = (self.now.writes == 1).then(|| self.before.bytes());
        ((self.now.life % 2) as usize, self.now.bytes(), first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Default)]
    struct KeptGeneration {
        marks: [Option<Vec<u8>>; 2],
        before: Option<Vec<u8>>,
    }

    impl KeptGeneration {
        fn live(&mut self, writes: u64) {
            let mut lives =
                Lives::read(self.marks.clone(), self.before.clone()).expect("nothing is missing");
            for _ in 0..writes {
                let (slot, mark, before) = lives.next();
                self.marks[slot] = Some(mark);
                self.before = before.or(self.before.take());
            }
        }
    }

    #[test]
    fn lives_follow_each_other_and_a_lost_end_is_seen() {
        let mut kept = KeptGeneration::default();
        for writes in [3, 0, 1, 7, 0, 0, 2] {
            kept.live(writes);
        }

        // The end of the last but one life is gone, in part or altogether.
        let last = Lives::read(kept.marks.clone(), kept.before.clone())
            .expect("nothing is missing")
            .before;
        let other = usize::from(last.life.is_multiple_of(2));
        let older =
            GenerationMark::read(kept.marks[other].as_deref().expect("a mark")).expect("readable");
        for lost in [
            Some(
                GenerationMark {
                    writes: older.writes - 1,
                    ..older
                }
                .bytes(),
            ),
            Some(GenerationMark { life: 1, writes: 3 }.bytes()),
            None,
        ] {
            let mut kept = kept.clone();
            kept.marks[other].clone_from(&lost);
            assert!(Lives::read(kept.marks, kept.before).is_err(), "{lost:?}");
        }

        assert!(
            Lives::read([Some(vec![1]), None], None).is_err(),
            "unreadable"
        );
        assert!(Lives::read([None, None], None).is_ok(), "a new store");
    }
}
