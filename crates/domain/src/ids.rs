//! Valid user ids, symbols and order ids, and reserved user ids.

/// Longest id in bytes.
pub const ID_BYTES_MAX: usize = 64;

/// True for 1 to 64 bytes of printable ASCII without blank and `/`.
pub fn valid(id: &str) -> bool {
    (1..=ID_BYTES_MAX).contains(&id.len())
        && id.bytes().all(|b| matches!(b, 0x21..=0x7e) && b != b'/')
}

/// True for a valid id of a user who may send commands: `external` and `house:*` are accounts of
/// the system.
pub fn valid_user(id: &str) -> bool {
    valid(id) && id != "external" && !id.starts_with("house:")
}

/// The account of the house for a symbol.
pub fn house_account(symbol: &str) -> String {
    format!("house:{symbol}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids() {
        let long = "x".repeat(64);
        for good in ["501", "a", "BRK.B", "BRK-B", "~!", &long] {
            assert!(valid(good), "{good}");
        }

        let longer = "x".repeat(65);
        for bad in ["", " aapl", "AAPL ", "a/b", "a\u{7f}", "ä", "a\0", &longer] {
            assert!(!valid(bad), "{bad}");
        }

        assert!(
            !valid_user("external")
                && !valid_user("house:AAPL")
                && valid_user("house")
                && valid_user("externals")
        );
    }
}
