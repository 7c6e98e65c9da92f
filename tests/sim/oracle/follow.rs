//! A reader that follows all topics during the run. At the end, the same records must be there in
//! the same order, with no record in between.

use engine::digest;
use ports::records::Record;

use super::super::coverage::Kind;
use super::super::world::World;

/// Read position, number of records and their hash.
#[derive(Default)]
pub struct Follower {
    next: u64,
    sum: u128,
    count: u64,
}

fn fold(sum: u128, r: &Record<'_>) -> u128 {
    let one =
        digest::of(r.key.unwrap_or_default(), r.value.unwrap_or_default()).0 ^ u128::from(r.offset);
    sum.rotate_left(7)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)
        .wrapping_add(one)
}

impl World {
    /// Reads all partitions up to their present end.
    pub fn follow(&mut self) {
        let World {
            cluster,
            oracle,
            now,
            ..
        } = self;
        oracle
            .followers
            .resize_with(cluster.all().len(), Follower::default);
        for (part, f) in cluster.all().iter().zip(&mut oracle.followers) {
            let end = part.readable_end(*now);
            for offset in part.committed(f.next, end) {
                f.sum = fold(f.sum, &part.record(offset));
                f.count += 1;
            }

            f.next = f.next.max(end);
        }

        self.cover(Kind::ReaderChecked);
    }

    /// Reads again from the beginning, and compares.
    pub fn check_followers(&self) -> Result<(), String> {
        for (part, f) in self.cluster.all().iter().zip(&self.oracle.followers) {
            let mut sum = 0;
            let mut count = 0;
            for offset in part.committed(0, f.next) {
                sum = fold(sum, &part.record(offset));
                count += 1;
            }

            if (sum, count) != (f.sum, f.count) {
                return Err(format!(
                    "a reader never sees a record vanish: {} had {} records and has {count}",
                    self.table.show(part.at),
                    f.count
                ));
            }
        }

        Ok(())
    }
}
