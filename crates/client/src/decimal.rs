//! Converts between decimal text and integers in 10^-4 units, for text that people type and read.

use domain::decimal::{MONEY, Money, Num, parse};

/// Reads `189.25` as 1892500. At most four decimals are allowed.
pub fn parse_e4(text: &str) -> Result<i64, String> {
    match parse(text.trim().as_bytes(), MONEY) {
        Some(Num::Exact(n)) => Ok(n),
        _ => Err(format!(
            "`{text}` is no amount with at most four decimals, such as 189.25"
        )),
    }
}

/// Shows 1892500 as `189.25`: two decimals, and up to four if they are not zero.
pub fn show_e4(value: i64) -> String {
    show_e4_wide(i128::from(value))
}

/// Like [`show_e4`], for products that exceed an `i64`.
pub fn show_e4_wide(value: i128) -> String {
    Money(value).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        for (text, value, shown) in [
            ("189.25", 1_892_500, "189.25"),
            ("0", 0, "0.00"),
            ("-1.0001", -10_001, "-1.0001"),
            ("7.50000", 75_000, "7.50"),
            ("1000000.00", 10_000_000_000, "1000000.00"),
            ("0.125", 1250, "0.125"),
        ] {
            assert_eq!(parse_e4(text), Ok(value), "{text}");
            assert_eq!(show_e4(value), shown);
        }

        for bad in [
            "",
            "-",
            "1,5",
            "1.00001",
            "nan",
            "٣",
            "99999999999999999",
            "1.-5",
        ] {
            assert!(parse_e4(bad).is_err(), "{bad}");
        }
    }
}
