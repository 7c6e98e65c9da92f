//! Bytes as lower-case hexadecimal, and back. Strict, so that a hash has exactly one spelling.

use domain::chain::Hash;

pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(bytes.len() * 2);
    for b in bytes {
        text.push(char::from(DIGITS[usize::from(b >> 4)]));
        text.push(char::from(DIGITS[usize::from(b & 15)]));
    }

    text
}

/// Parses hexadecimal text; none unless the text is pairs of lower-case digits.
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |b: &u8| match b {
        b'0'..=b'9' => Some(b - b'0'),
        b'a'..=b'f' => Some(b - b'a' + 10),
        _ => None,
    };

    let pairs = text.as_bytes().chunks_exact(2);
    if !pairs.remainder().is_empty() {
        return None;
    }

    pairs
        .map(|p| Some(digit(&p[0])? << 4 | digit(&p[1])?))
        .collect()
}

/// Parses a hash of 64 digits.
pub fn hash_of(text: &str) -> Option<Hash> {
    unhex(text)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        assert_eq!(hex(&[0, 0x7f, 0xff]), "007fff");
        assert_eq!(unhex("007fff"), Some(vec![0, 0x7f, 0xff]));
        assert_eq!(
            (unhex("0"), unhex("0G"), unhex("FF"), hash_of("00")),
            (None, None, None, None)
        );
    }
}
