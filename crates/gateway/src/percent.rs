//! Percent-encoding (RFC 3986). Ids of users may have any printable character but `/`, and a path
//! or a line of the token file may not.

/// What stands for itself in a segment of a path. A `*` could, but in the token file it is an
/// admin.
const PLAIN: &[u8] = b"-._~!$&'()+,;=:@";

/// A text as a segment of a path, or in the token file.
pub(crate) fn encode(text: &str) -> String {
    let one = |b: u8| match b {
        b if b.is_ascii_alphanumeric() || PLAIN.contains(&b) => char::from(b).to_string(),
        b => format!("%{b:02X}"),
    };

    text.bytes().map(one).collect()
}

/// What such a text stands for; none if a `%` is not followed by two hex digits, or if it is no
/// UTF-8.
pub(crate) fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, others)) = rest.split_first() {
        rest = others;
        if first != b'%' {
            bytes.push(first);
            continue;
        }

        let (pair, others) = rest.split_first_chunk::<2>()?;
        let digit = |b: u8| {
            char::from(b)
                .to_digit(16)
                .and_then(|d| u8::try_from(d).ok())
        };

        bytes.push(digit(pair[0])? << 4 | digit(pair[1])?);
        rest = others;
    }

    String::from_utf8(bytes).ok()
}

/// Whether a letter, a digit, a `-`, `_` or `~` is written as an escape: the same path in another
/// spelling.
pub(crate) fn needless(text: &str) -> bool {
    let plain = |pair: &str| {
        decode(&format!("%{pair}")).is_some_and(|c| {
            c.bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_~".contains(&b))
        })
    };

    text.split('%')
        .skip(1)
        .any(|after| after.get(..2).is_some_and(plain))
}

/// The same for names and values of a query, where a `+` is a blank.
pub(crate) fn decode_query(text: &str) -> Option<String> {
    decode(&text.replace('+', " "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_printable_character_comes_back_and_none_that_matters_stays() {
        let all: String = (0x21..=0x7e).map(char::from).collect();
        let encoded = encode(&all);
        assert_eq!(decode(&encoded).as_deref(), Some(all.as_str()));
        assert!(
            encoded
                .replace(|c: char| c == '%' || c.is_ascii_alphanumeric(), "")
                .bytes()
                .all(|b| PLAIN.contains(&b)),
            "{encoded}"
        );

        assert_eq!(
            (
                encode("501").as_str(),
                encode("*").as_str(),
                encode("a#b?").as_str()
            ),
            ("501", "%2A", "a%23b%3F")
        );
    }

    #[test]
    fn what_is_no_encoding_is_nothing() {
        for bad in ["%", "%4", "a%zz", "%+1", "%ff", "%é0"] {
            assert_eq!(decode(bad), None, "{bad}");
        }

        assert_eq!(
            (
                decode("a%2cb+c").as_deref(),
                decode_query("a%2cb+c%2B").as_deref()
            ),
            (Some("a,b+c"), Some("a,b c+"))
        );
    }
}
