//! Percent-encoding (RFC 3986). A user id may have any printable character except `/`. A path and a
//! line of the token file may not.

/// Characters without an escape in a path segment. `*` is missing because `*` is an admin in the
/// token file.
const PLAIN: &[u8] = b"-._~!$&'()+,;=:@";

/// Encodes a text for a path segment or the token file.
pub(crate) fn encode(text: &str) -> String {
    let one = |b: u8| match b {
        b if b.is_ascii_alphanumeric() || PLAIN.contains(&b) => char::from(b).to_string(),
        b => format!("%{b:02X}"),
    };

    text.bytes().map(one).collect()
}

/// Decodes a text. `None` if two hex digits do not follow a `%`, or if the result is not UTF-8.
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

/// Reports needless escapes: of a letter, a digit, `-`, `_` or `~`. They spell the same path twice.
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

/// Decodes a name or value of a query, in which `+` is a blank.
pub(crate) fn decode_query(text: &str) -> Option<String> {
    decode(&text.replace('+', " "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn printable_characters_come_back_and_none_that_matters_stays() {
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
