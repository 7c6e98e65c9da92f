//! Audit chain: the hash of an entry covers the previous hash, the record's place and the record's
//! content.

use sha2::{Digest, Sha256};

/// SHA-256 hash.
pub type Hash = [u8; 32];

/// Previous hash of the first entry.
pub const GENESIS: Hash = [0; 32];

/// Hash of a record's content: length of the key (big-endian), key, value. An absent key or value
/// counts as empty.
pub fn payload_hash(key: Option<&[u8]>, value: Option<&[u8]>) -> Hash {
    let key = key.unwrap_or_default();
    let mut h = Sha256::new();
    h.update(
        u32::try_from(key.len())
            .expect("a key is below 4 GiB")
            .to_be_bytes(),
    );
    h.update(key);
    h.update(value.unwrap_or_default());
    h.finalize().into()
}

/// Hash of a record's other data: log time (8 bytes, big-endian), flags for a key (1) and a value
/// (2), and all headers. Name and value of a header each follow their length (4 bytes, big-endian).
pub fn meta_hash<'a>(
    time_ms: i64,
    has_key: bool,
    has_value: bool,
    headers: impl Iterator<Item = (&'a str, &'a [u8])>,
) -> Hash {
    let mut h = Sha256::new();
    h.update(time_ms.to_be_bytes());
    h.update([u8::from(has_key) | u8::from(has_value) << 1]);
    for part in headers.flat_map(|(name, value)| [name.as_bytes(), value]) {
        h.update(
            u32::try_from(part.len())
                .expect("a header is below 4 GiB")
                .to_be_bytes(),
        );
        h.update(part);
    }

    h.finalize().into()
}

/// Hash of the next entry. `name` is `topic/partition/offset`. Version 1 has no `meta`: times and
/// headers seemed to follow from the causing records, but the first records have no cause.
pub fn link(previous: &Hash, name: &str, payload: &Hash, meta: Option<&Hash>) -> Hash {
    let mut h = Sha256::new();
    h.update(previous);
    h.update(name.as_bytes());
    h.update(payload);
    meta.into_iter().for_each(|meta| h.update(meta));
    h.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(h: &Hash) -> String {
        data_encoding::HEXLOWER.encode(h)
    }

    #[test]
    fn a_known_chain() {
        // sha256 of 00000001 'k' 'v', then of 32 zero bytes, "t/0/7" and that hash; computed with
        // another implementation.
        let payload = payload_hash(Some(b"k"), Some(b"v"));
        assert_eq!(
            hex(&payload),
            "dcebe451747903d86e81a0c6769287a23fc43a1027f9fcb4ef73e25801c1298c"
        );
        assert_eq!(
            hex(&link(&GENESIS, "t/0/7", &payload, None)),
            "2e26238392539303b0081dc4b9847e1cdb837efbbb7599e7e56926bde897e622"
        );

        // sha256 of 0000018bcfe56800, 03, 00000001 'h' 00000002 'xy'; then of 32 zero bytes,
        // "t/0/7", the payload hash and that hash.
        let meta = meta_hash(
            1_700_000_000_000,
            true,
            true,
            [("h", &b"xy"[..])].into_iter(),
        );
        assert_eq!(
            hex(&meta),
            "0dcab6b0eeda5b0a526d863472ec22d011398ea9258b3d00ab8fd146e3d2e451"
        );
        assert_eq!(
            hex(&link(&GENESIS, "t/0/7", &payload, Some(&meta))),
            "17b74ebd65e0ddcf67781fbdab9954b092bc0b16377903397de007ff479c7e16"
        );
    }

    #[test]
    fn whatever_differs_about_a_record_has_another_hash() {
        let of = |time, key, value, headers: &[(&'static str, &'static [u8])]| {
            meta_hash(time, key, value, headers.iter().copied())
        };

        let all = [
            of(1, true, true, &[]),
            of(2, true, true, &[]),
            of(1, false, true, &[]),
            of(1, true, false, &[]),
            of(1, true, true, &[("a", b"b")]),
            of(1, true, true, &[("ab", b"")]),
            of(1, true, true, &[("", b"ab")]),
            of(1, true, true, &[("a", b"b"), ("a", b"b")]),
            of(1, true, true, &[("a", b"b"), ("c", b"d")]),
            of(1, true, true, &[("c", b"d"), ("a", b"b")]),
        ];

        assert!(all.iter().enumerate().all(|(i, h)| !all[..i].contains(h)));
    }

    #[test]
    fn key_and_value_do_not_run_together() {
        assert_ne!(
            payload_hash(Some(b"ab"), Some(b"c")),
            payload_hash(Some(b"a"), Some(b"bc"))
        );
    }
}
