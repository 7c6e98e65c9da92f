//! The state digest: a multiset hash over all keys and values of a task. The order of changes does
//! not matter, and a change costs two hashes. Equal states have equal digests, whether live,
//! restored from the changelog, or replayed from the start.

use xxhash_rust::xxh3::{xxh3_64, xxh3_128_with_seed};

/// Sum (mod 2^128) of one 128-bit hash per key-value pair.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Digest(pub u128);

impl Digest {
    /// The digest of an empty state.
    pub const ZERO: Digest = Digest(0);

    /// Replaces the share of one pair by the share of another pair.
    pub fn replace(self, old: Digest, new: Digest) -> Digest {
        Digest(self.0.wrapping_sub(old.0).wrapping_add(new.0))
    }
}

impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// The digest share of one key-value pair.
pub fn of(key: &[u8], value: &[u8]) -> Digest {
    Digest(xxh3_128_with_seed(value, xxh3_64(key)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_does_not_matter_and_removal_undoes() {
        let a = of(b"a", b"1");
        let b = of(b"b", b"2");
        let ab = Digest::ZERO
            .replace(Digest::ZERO, a)
            .replace(Digest::ZERO, b);
        let ba = Digest::ZERO
            .replace(Digest::ZERO, b)
            .replace(Digest::ZERO, a);
        assert_eq!(ab, ba);
        assert_eq!(ab.replace(a, Digest::ZERO), b);
        assert_ne!(of(b"ab", b"c"), of(b"a", b"bc"));
    }
}
