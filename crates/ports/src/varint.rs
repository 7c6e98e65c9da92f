//! Compact integers and short byte strings for records that only we read. A byte holds seven bits,
//! low bits first.

/// Appends an unsigned number.
pub fn put(out: &mut Vec<u8>, n: impl Into<u128>) {
    let mut n = n.into();
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }

    out.push(n as u8);
}

/// Appends a signed number in zigzag encoding: small magnitudes need few bytes.
pub fn put_signed(out: &mut Vec<u8>, n: i128) {
    put(out, ((n << 1) ^ (n >> 127)) as u128);
}

/// Removes an unsigned number from the front.
pub fn take(bytes: &mut &[u8]) -> Option<u128> {
    let mut n = 0_u128;
    let mut shift = 0_u32;
    loop {
        let (&b, rest) = bytes.split_first()?;
        *bytes = rest;
        let part = u128::from(b & 0x7f);
        if shift > 126 || (shift == 126 && part > 3) {
            return None;
        }

        n |= part << shift;
        if b < 0x80 {
            return Some(n);
        }

        shift += 7;
    }
}

/// Removes a signed number from the front.
pub fn take_signed(bytes: &mut &[u8]) -> Option<i128> {
    let n = take(bytes)?;
    Some((n >> 1) as i128 ^ -((n & 1) as i128))
}

/// Appends the length, then the bytes.
pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put(out, bytes.len() as u128);
    out.extend_from_slice(bytes);
}

/// Removes a length and the bytes from the front.
pub fn take_bytes<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let n = usize::try_from(take(bytes)?).ok()?;
    let (head, rest) = bytes.split_at_checked(n)?;
    *bytes = rest;
    Some(head)
}

/// Removes an unsigned number from the front. `None` if the number does not fit.
pub fn take_u64(bytes: &mut &[u8]) -> Option<u64> {
    take(bytes)?.try_into().ok()
}

/// Removes a signed number from the front. `None` if the number does not fit.
pub fn take_i64(bytes: &mut &[u8]) -> Option<i64> {
    take_signed(bytes)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn round_trip(a: u128, b: i128, c: Vec<u8>) {
            let mut out = Vec::new();
            put(&mut out, a);
            put_signed(&mut out, b);
            put_bytes(&mut out, &c);
            let mut rest = &out[..];
            prop_assert_eq!(take(&mut rest), Some(a));
            prop_assert_eq!(take_signed(&mut rest), Some(b));
            prop_assert_eq!(take_bytes(&mut rest), Some(&c[..]));
            prop_assert!(rest.is_empty());
        }

        #[test]
        fn any_bytes(bytes: Vec<u8>) {
            let mut rest = &bytes[..];
            while take_signed(&mut rest).is_some() {}
            let mut rest = &bytes[..];
            while take_bytes(&mut rest).is_some() {}
        }
    }

    #[test]
    fn small_is_small() {
        let mut out = Vec::new();
        put_signed(&mut out, -64);
        put(&mut out, 127_u64);
        assert_eq!(out, [127, 127]);
        assert_eq!(take(&mut &[0xff; 30][..]), None);
    }
}
