//! The audit chain: every entry's hash covers the one before it, where the record was, and what was
//! in it.

use sha2::{Digest, Sha256};

/// A hash.
pub type Hash = [u8; 32];

/// The first link of a chain.
pub const GENESIS: Hash = [0; 32];

/// Of a record's content: length of the key (big-endian), key, value. Absent ones count as empty.
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

/// Of everything else about a record: log time (8 bytes, big-endian), whether it has a key (1) and
/// a value (2), and each header's name and value, with their lengths before them (4 bytes,
/// big-endian).
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

/// The next link. `name` is `topic/partition/offset`. Links of version 1 bind no `meta`: times and
/// headers were thought to follow from the records that caused them, but the first ones are caused
/// by none.
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
        h.iter().map(|b| format!("{b:02x}")).collect()
    }

    #[test]
    fn a_known_chain() {
        // sha256 of 00000001 'k' 'v', then of 32 zero bytes, "t/0/7" and that; computed with
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
        // "t/0/7", the payload and that.
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
