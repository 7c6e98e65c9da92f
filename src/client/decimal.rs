//! Decimal text and integers in 10^-4 units, for the edges where people type and read money. No float is ever involved.

/// Reads `189.25` as 1892500; at most four decimals.
pub fn parse_e4(text: &str) -> Result<i64, String> {
    let wrong = || format!("`{text}` is no amount with at most four decimals, such as 189.25");
    let (negative, digits) = match text.trim().strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.trim()),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let all_digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !all_digits(whole) || !all_digits(fraction) || digits.ends_with('.') {
        return Err(wrong());
    }
    let fraction = fraction.trim_end_matches('0');
    if fraction.len() > 4 {
        return Err(wrong());
    }
    let parts: i64 = format!("{fraction:0<4}").parse().map_err(|_| wrong())?;
    let whole: i64 = whole.parse().map_err(|_| wrong())?;
    let value = whole.checked_mul(10_000).and_then(|w| w.checked_add(parts)).ok_or_else(wrong)?;
    Ok(if negative { -value } else { value })
}

/// Shows 1892500 as `189.25`: at least two decimals, more only where they are not zero.
pub fn show_e4(value: i64) -> String {
    show_e4_wide(i128::from(value))
}

/// The same for products that pass an i64.
pub fn show_e4_wide(value: i128) -> String {
    let sign = if value < 0 { "-" } else { "" };
    let (whole, fraction) = (value.unsigned_abs() / 10_000, value.unsigned_abs() % 10_000);
    let fraction = format!("{fraction:04}");
    let more = fraction[2..].trim_end_matches('0');
    format!("{sign}{whole}.{}{more}", &fraction[..2])
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
        for bad in ["", "-", ".5", "1.", "1e3", "1,5", "1.00001", "nan", "٣", "99999999999999999", "+1", "1.-5"] {
            assert!(parse_e4(bad).is_err(), "{bad}");
        }
    }
}
