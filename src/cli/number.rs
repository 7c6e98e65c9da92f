//! The only parser of numbers for the command line. It is the contract's parser, so that the
//! command line accepts the same numbers as records.

use domain::decimal::{MONEY, Num, Odd, PUBLIC_MAX, WHOLE, parse};

/// Parses a whole number of zero or more, in any spelling: `10`, `10.0`, `1e1`.
pub(super) fn whole(text: &str) -> Result<u64, String> {
    let n = parse(text.trim().as_bytes(), WHOLE)
        .and_then(Num::not_negative)
        .ok_or_else(|| format!("`{text}` must be a whole number"))?;
    Ok(n.unsigned_abs())
}

/// Checks that a price or an amount is a number, and trims blanks. The roles check the value.
pub(super) fn decimal(text: &str) -> Result<&str, String> {
    let text = text.trim();
    match parse(text.as_bytes(), MONEY) {
        Some(_) => Ok(text),
        None => Err(format!("`{text}` is no number, such as 189.25")),
    }
}

/// The contract's reason against a price; none for a valid price.
pub(super) fn price_fault(text: &str) -> Option<&'static str> {
    match parse(text.as_bytes(), MONEY) {
        Some(Num::Exact(1..=PUBLIC_MAX)) => None,
        Some(Num::Exact(n)) if n <= 0 => Some("is not above zero"),
        Some(Num::Odd(Odd::TooFine, _)) => Some("has more than four decimals"),
        Some(Num::Odd(Odd::NotANumber, _)) => Some("is not a number"),
        _ => Some("is too large"),
    }
}

/// Rounds a number to 10^-4, half away from zero; none if the number has too many digits.
pub(super) fn rounded_e4(text: &str) -> Option<i64> {
    let exact = |scale| match parse(text.as_bytes(), scale) {
        Some(Num::Exact(n)) => Some((n, scale)),
        _ => None,
    };

    let (n, scale) = (MONEY..=18).find_map(exact)?;
    let unit = 10_i64.pow(scale - MONEY);
    let whole = n / unit;
    let rest = (n % unit).abs();
    Some(if 2 * i128::from(rest) >= i128::from(unit) && unit > 1 {
        whole + n.signum()
    } else {
        whole
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_the_contract_reads_them() {
        for text in ["10", "10.0", "1e1", " 10 ", "+10"] {
            assert_eq!(whole(text), Ok(10), "{text}");
        }

        for text in ["", "-1", "1.5", "1,0", "ten", "1e30", "nan"] {
            assert!(whole(text).is_err(), "{text}");
        }

        assert_eq!(decimal(" 250 "), Ok("250"));
        assert!(decimal("1,012.75").is_err() && decimal("").is_err());
    }

    #[test]
    fn prices_that_the_contract_refuses() {
        for (text, why) in [
            ("0", "above zero"),
            ("-1", "above zero"),
            ("1.00001", "four decimals"),
            ("nan", "not a number"),
            ("1e300", "large"),
        ] {
            assert!(price_fault(text).is_some_and(|w| w.contains(why)), "{text}");
        }

        assert_eq!(price_fault("1.0001"), None);
        for (text, e4) in [
            ("1112.050048", 11_120_500),
            ("1112.050048828125", 11_120_500),
            ("0.00005", 1),
            ("0.00004999", 0),
            ("-0.00005", -1),
            ("7", 70_000),
        ] {
            assert_eq!(rounded_e4(text), Some(e4), "{text}");
        }

        assert_eq!(rounded_e4("1112.05004882812500012345"), None);
    }
}
