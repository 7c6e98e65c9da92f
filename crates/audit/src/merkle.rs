//! A root over many leaves, so that one hash stands for all of them, and a few hashes prove that
//! one of them is in it (RFC 9162, section 2.1.1).

use sha2::{Digest, Sha256};

use domain::chain::Hash;

/// Hash of a leaf. The first byte keeps leaves and nodes apart.
pub fn leaf(parts: &[&[u8]]) -> Hash {
    let mut h = Sha256::new();
    h.update([0]);
    parts.iter().for_each(|p| h.update(p));
    h.finalize().into()
}

/// The root over leaves in their order; of none, the hash of nothing.
pub fn root(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => Sha256::digest([]).into(),
        [one] => *one,
        _ => {
            // The left side takes the largest power of two that leaves something to the right.
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

    /// The tree of the RFC's own published test leaves; roots computed with another implementation.
    #[test]
    fn known_roots() {
        let hex = |h: Hash| h.iter().map(|b| format!("{b:02x}")).collect::<String>();
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
