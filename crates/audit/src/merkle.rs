//! Merkle root: one hash for many leaves. A few hashes prove that a leaf belongs to the root (RFC
//! 9162, section 2.1.1).

use domain::chain::Hash;
use sha2::{Digest, Sha256};

/// Hash of a leaf. The first byte distinguishes leaves from nodes.
pub fn leaf(parts: &[&[u8]]) -> Hash {
    let mut h = Sha256::new();
    h.update([0]);
    parts.iter().for_each(|p| h.update(p));
    h.finalize().into()
}

/// Root over the leaves, in order. Without leaves: the hash of the empty text.
pub fn root(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => Sha256::digest([]).into(),
        [one] => *one,
        _ => {
            // The left side takes the largest power of two below the number of leaves.
            let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
            let mut h = Sha256::new();
            h.update([1]);
            h.update(root(left));
            h.update(root(right));
            h.finalize().into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The published test leaves of the RFC. The roots were computed with another implementation.
    #[test]
    fn known_roots() {
        let hex = |h: Hash| crate::hex::hex(&h);
        assert_eq!(
            hex(root(&[])),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
        let leaves = [&b""[..], b"\x00", b"\x10"].map(|l| leaf(&[l]));
        assert_eq!(
            hex(root(&leaves[..1])),
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
        );
        assert_eq!(
            hex(root(&leaves[..2])),
            "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"
        );
        assert_eq!(
            hex(root(&leaves)),
            "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77"
        );
    }
}
