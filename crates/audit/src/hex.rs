//! Bytes as lower-case hexadecimal, and back. Strict, so that a hash has exactly one spelling.

use data_encoding::HEXLOWER;
use domain::chain::Hash;

pub fn hex(bytes: &[u8]) -> String {
    HEXLOWER.encode(bytes)
}

/// Parses hexadecimal text; none unless the text is pairs of lower-case digits.
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    HEXLOWER.decode(text.as_bytes()).ok()
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
