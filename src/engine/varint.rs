//! Variable-length integers and short byte strings for the engine's own records.

/// Appends an unsigned number, 7 bits a byte.
pub fn put(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// Appends a length and the bytes.
pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Reads what [`put`] wrote; `None` at the end of the bytes or if it is no number of 64 bits.
pub fn take(from: &mut &[u8]) -> Option<u64> {
    let mut n = 0u64;
    for shift in (0..70).step_by(7) {
        let (&b, rest) = from.split_first()?;
        *from = rest;
        let part = u64::from(b & 0x7f);
        if shift == 63 && part > 1 {
            return None;
        }
        n |= part << shift;
        if b < 0x80 {
            return Some(n);
        }
    }
    None
}

/// Reads what [`put_bytes`] wrote.
pub fn take_bytes<'a>(from: &mut &'a [u8]) -> Option<&'a [u8]> {
    let n = usize::try_from(take(from)?).ok()?;
    if n > from.len() {
        return None;
    }
    let (bytes, rest) = from.split_at(n);
    *from = rest;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back_and_nonsense_does_not() {
        for n in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX] {
            let mut b = Vec::new();
            put(&mut b, n);
            let mut s = b.as_slice();
            assert_eq!(take(&mut s), Some(n));
            assert!(s.is_empty());
        }
        assert_eq!(take(&mut [0xffu8; 11].as_slice()), None);
        assert_eq!(take_bytes(&mut [200u8, 1].as_slice()), None);
    }
}
