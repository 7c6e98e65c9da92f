//! Decimal numbers in text, read exactly and without binary floating point.
//!
//! A number is an exact count of a unit (10^-4 of a currency unit, or one share), or the number is
//! odd: too fine, too large, or not a number. An odd number still has an identity, so that a
//! repeated command with the same odd number counts as the same command. The parser reads text of
//! any length and any exponent in one pass, and expands nothing.

use sha2::{Digest, Sha256};

/// 10^-4: scale of prices and money.
pub const MONEY: u32 = 4;
/// Scale of quantities: whole units.
pub const WHOLE: u32 = 0;
/// Bound of all public integers; larger values are rejected.
pub const PUBLIC_MAX: i64 = 1 << 62;

/// Reason why a number is no exact count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Odd {
    /// The number has more decimals than the unit.
    TooFine,
    /// The number is beyond `i64`.
    TooLarge,
    /// NaN or infinite.
    NotANumber,
}

/// Number read at a scale.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Num {
    /// Exact count of units.
    Exact(i64),
    /// Not representable; the mark identifies the value.
    Odd(Odd, [u8; 16]),
}

impl Num {
    /// Count between 1 and the public bound.
    pub fn positive(self) -> Option<i64> {
        match self {
            Num::Exact(n) if (1..=PUBLIC_MAX).contains(&n) => Some(n),
            _ => None,
        }
    }

    /// Count between 0 and the public bound.
    pub fn not_negative(self) -> Option<i64> {
        match self {
            Num::Exact(0) => Some(0),
            _ => self.positive(),
        }
    }

    /// Count within the public bounds.
    pub fn shown(self) -> Option<i64> {
        match self {
            Num::Exact(n) if (-PUBLIC_MAX..=PUBLIC_MAX).contains(&n) => Some(n),
            _ => None,
        }
    }
}

/// Whole number at a scale.
pub fn from_integer(n: i128, scale: u32) -> Num {
    match n
        .checked_mul(10_i128.pow(scale))
        .and_then(|n| i64::try_from(n).ok())
    {
        Some(n) => Num::Exact(n),
        None => from_text(format_args!("{n}"), scale).expect("an integer's text is a number"),
    }
}

/// Reads a formatted number of at most 48 bytes, without heap memory.
pub fn from_text(text: std::fmt::Arguments<'_>, scale: u32) -> Option<Num> {
    use std::io::Write;
    let mut buffer = [0_u8; 48];
    let mut rest = &mut buffer[..];
    rest.write_fmt(text).ok()?;
    let left = rest.len();
    parse(&buffer[..48 - left], scale)
}

/// Reads `[+-]digits[.digits][e[+-]digits]`, or a name of NaN or infinity. `None`: the text is no
/// number. Only ASCII digits, no blanks.
pub fn parse(text: &[u8], scale: u32) -> Option<Num> {
    let (negative, body) = match text.split_first()? {
        (b'-', rest) => (true, rest),
        (b'+', rest) => (false, rest),
        _ => (false, text),
    };

    if body.eq_ignore_ascii_case(b"nan") {
        return Some(Num::Odd(Odd::NotANumber, mark(b"nan", false, &[], 0)));
    }

    if body.eq_ignore_ascii_case(b"inf") || body.eq_ignore_ascii_case(b"infinity") {
        return Some(Num::Odd(Odd::NotANumber, mark(b"inf", negative, &[], 0)));
    }

    let (mantissa, exponent) = match body.iter().position(|b| matches!(b, b'e' | b'E')) {
        Some(i) => (&body[..i], parse_exponent(&body[i + 1..])?),
        None => (body, 0),
    };

    let point = mantissa.iter().position(|b| *b == b'.');
    let decimals = point.map_or(0, |i| mantissa.len() - i - 1);
    let digits = mantissa.len() - usize::from(point.is_some());
    if digits == 0
        || !mantissa
            .iter()
            .enumerate()
            .all(|(i, b)| b.is_ascii_digit() || Some(i) == point)
    {
        return None;
    }

    let Some(first) = mantissa.iter().position(|b| !matches!(b, b'0' | b'.')) else {
        return Some(Num::Exact(0));
    };

    let last = mantissa
        .iter()
        .rposition(|b| !matches!(b, b'0' | b'.'))
        .expect("there is a first");
    let significant = &mantissa[first..=last];

    // Power of ten of the last significant digit. Trailing digits raise the power, decimals lower
    // it.
    let trailing = mantissa[last + 1..].iter().filter(|b| **b != b'.').count();
    let exponent = exponent
        .saturating_add(trailing as i64)
        .saturating_sub(decimals as i64);
    Some(count(negative, significant, exponent, scale))
}

fn count(negative: bool, significant: &[u8], exponent: i64, scale: u32) -> Num {
    let odd = |why| Num::Odd(why, mark(b"num", negative, significant, exponent));
    let Ok(shift) = u32::try_from(exponent.saturating_add(i64::from(scale))) else {
        let below = exponent.saturating_add(i64::from(scale)) < 0;
        return odd(if below { Odd::TooFine } else { Odd::TooLarge });
    };

    let mut n: i64 = 0;
    for digit in significant
        .iter()
        .filter(|b| **b != b'.')
        .map(|b| i64::from(b - b'0'))
    {
        let next = n.checked_mul(10).and_then(|n| {
            if negative {
                n.checked_sub(digit)
            } else {
                n.checked_add(digit)
            }
        });

        let Some(next) = next else {
            return odd(Odd::TooLarge);
        };

        n = next;
    }

    match 10_i64.checked_pow(shift).and_then(|p| n.checked_mul(p)) {
        Some(n) => Num::Exact(n),
        None => odd(Odd::TooLarge),
    }
}

/// Identity of an odd number: equal for equal values, in any notation.
fn mark(kind: &[u8], negative: bool, significant: &[u8], exponent: i64) -> [u8; 16] {
    let mut h = Sha256::new();
    h.update(kind);
    h.update([u8::from(negative)]);
    h.update(exponent.to_be_bytes());
    significant
        .split(|b| *b == b'.')
        .for_each(|part| h.update(part));
    h.finalize()[..16].try_into().expect("sixteen bytes")
}

/// Reads digits with an optional sign. Extreme values saturate, so they stay "far too large" or
/// "far too fine".
fn parse_exponent(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text.split_first()? {
        (b'-', rest) => (true, rest),
        (b'+', rest) => (false, rest),
        _ => (false, text),
    };

    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }

    let n = digits.iter().fold(0_i64, |n, b| {
        n.saturating_mul(10).saturating_add(i64::from(b - b'0'))
    });

    // Half the range, so that adding lengths cannot overflow.
    let n = n.min(i64::MAX / 2);
    Some(if negative { -n } else { n })
}

/// Money for people, such as `1000000.00`: at least two decimals, further decimals only if not
/// zero. Wider than `i64`, for products.
pub struct Money(pub i128);

impl std::fmt::Display for Money {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let n = self.0.unsigned_abs();
        let units = n / 10_000;
        let rest = n % 10_000;
        write!(f, "{sign}{units}.{:02}", rest / 100)?;
        match (rest % 100 / 10, rest % 10) {
            (0, 0) => Ok(()),
            (third, 0) => write!(f, "{third}"),
            (third, fourth) => write!(f, "{third}{fourth}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn why(text: &str, scale: u32) -> Odd {
        match parse(text.as_bytes(), scale) {
            Some(Num::Odd(why, _)) => why,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn exact_numbers_in_every_spelling() {
        for (text, want) in [
            ("189.25", 1_892_500),
            ("189.2500", 1_892_500),
            ("1.8925e2", 1_892_500),
            ("+18925E-2", 1_892_500),
            ("0", 0),
            ("-0.0", 0),
            ("0e999999999999999999999", 0),
            ("-1", -10_000),
            (".5", 5_000),
            ("5.", 50_000),
            ("0.0001", 1),
            ("0.00010000000000000000000000000000000", 1),
            ("000000000000000000000000000000000001", 10_000),
            ("922337203685477.5807", i64::MAX),
            ("-922337203685477.5808", i64::MIN),
        ] {
            assert_eq!(
                parse(text.as_bytes(), MONEY),
                Some(Num::Exact(want)),
                "{text}"
            );
        }

        assert_eq!(parse(b"10.0", WHOLE), Some(Num::Exact(10)));
        assert_eq!(parse(b"1e1", WHOLE), Some(Num::Exact(10)));
    }

    #[test]
    fn odd_numbers_are_odd_and_cost_nothing() {
        for text in ["0.00001", "1e-5", "1e-999999999999999999999"] {
            assert_eq!(why(text, MONEY), Odd::TooFine, "{text}");
        }

        for text in [
            "1e308",
            "922337203685477.5808",
            "1e999999999999999999999999",
            "99999999999999999999999999999999999999999",
        ] {
            assert_eq!(why(text, MONEY), Odd::TooLarge, "{text}");
        }

        for text in ["NaN", "nan", "-inf", "Infinity"] {
            assert_eq!(why(text, MONEY), Odd::NotANumber, "{text}");
        }

        assert_eq!(why("1.5", WHOLE), Odd::TooFine);
        for text in [
            "", "-", ".", "e5", "1e", "1e+", "1 ", " 1", "1,5", "1.2.3", "0x10", "abc", "١",
            "1_000", "--1",
        ] {
            assert_eq!(parse(text.as_bytes(), MONEY), None, "{text}");
        }
    }

    #[test]
    fn odd_numbers_keep_their_identity() {
        assert_eq!(parse(b"1e308", WHOLE), parse(b"10.0e307", WHOLE));
        assert_eq!(parse(b"1.5", WHOLE), parse(b"15e-1", WHOLE));
        assert_ne!(parse(b"1.5", WHOLE), parse(b"1.6", WHOLE));
        assert_ne!(parse(b"1.5", WHOLE), parse(b"-1.5", WHOLE));
        assert_ne!(parse(b"nan", WHOLE), parse(b"inf", WHOLE));
    }

    #[test]
    fn integers_and_texts() {
        assert_eq!(from_integer(10, WHOLE), Num::Exact(10));
        assert!(matches!(
            from_integer(i128::from(u64::MAX), MONEY),
            Num::Odd(Odd::TooLarge, _)
        ));
        assert_eq!(
            from_integer(i128::MIN, MONEY),
            parse(i128::MIN.to_string().as_bytes(), MONEY).expect("a number")
        );
        assert_eq!(
            from_text(format_args!("{}e{}", 5, -1), MONEY),
            Some(Num::Exact(5_000))
        );
        assert_eq!(
            from_text(format_args!("{:0>49}", 1), MONEY),
            None,
            "longer than any number we write"
        );
    }

    #[test]
    fn money_reads_well() {
        assert_eq!(Money(10_000_000_000).to_string(), "1000000.00");
        assert_eq!(Money(1_892_500).to_string(), "189.25");
        assert_eq!(Money(-1).to_string(), "-0.0001");
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_a_number_or_not(text: Vec<u8>, scale in 0_u32..5) {
            let _ = parse(&text, scale);
        }

        #[test]
        fn any_count_survives_its_text(n: i64) {
            let text = format!("{}{}.{:04}", if n < 0 { "-" } else { "" }, n.unsigned_abs() / 10_000, n.unsigned_abs() % 10_000);
            proptest::prop_assert_eq!(parse(text.as_bytes(), MONEY), Some(Num::Exact(n)));
        }
    }
}
