//! Marks that detect a store without the end of its previous generation.
//!
//! A generation (`life` in the code) is an open of a store with at least one write. At the next
//! open, RocksDB converts the write-ahead log of the last generation into a table. RocksDB then
//! appends the table to its MANIFEST and removes the log. A MANIFEST that lost exactly this entry
//! is well formed. The store would then open without the table, but with the log of the current
//! generation and the newest meta record. All other checks would pass.
//!
//! So every write also counts in the mark of its own generation. The first write of a generation
//! stores the count of the previous generation. If this count differs from the previous
//! generation's mark, writes are missing.

use ports::varint::{put, take_u64};

/// Number of a generation, and its writes so far.
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

/// The marks of an open store.
#[derive(Debug)]
pub(super) struct Lives {
    now: GenerationMark,
    before: GenerationMark,
}

impl Lives {
    /// Checks the stored marks: the marks of even and odd generations, and the mark that the last
    /// generation found at its first write.
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

    /// Counts a write. Returns the index and the value of the mark to set. The first write also
    /// returns the mark of the previous generation.
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

        // The end of the last but one generation is lost, partly or completely.
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
