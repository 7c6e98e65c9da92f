//! Shows a record unchanged and safely. The writer of a record chooses its content. Shown content
//! must therefore not move the cursor, start a new line, reverse the text direction or hide
//! characters. A record may be evidence, so numbers keep the digits they were sent with, and a
//! repeated key is shown twice.

use std::borrow::Cow;
use std::fmt::{self, Display, Write};

use serde_json::{Map, Value};

/// A value as it was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SentValue {
    Null,
    Bool(bool),
    /// A number, as its digits.
    Number(String),
    Text(String),
    /// Neither JSON nor one whole MessagePack value; in hexadecimal.
    Bytes(String),
    List(Vec<SentValue>),
    /// A map, in its own order and with repeated keys.
    Map(Fields),
}

/// Names and values, in order.
pub type Fields = Vec<(String, SentValue)>;

impl SentValue {
    /// The first field with this name.
    pub fn get(&self, name: &str) -> Option<&SentValue> {
        match self {
            SentValue::Map(fields) => fields.iter().find(|(n, _)| n == name).map(|(_, v)| v),
            _ => None,
        }
    }

    /// The text; none for other values.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            SentValue::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The number; none unless the value is a whole number.
    pub fn as_i64(&self) -> Option<i64> {
        match self {
            SentValue::Number(digits) => digits.parse().ok(),
            _ => None,
        }
    }

    /// The value for programs. Repeated keys are lost, and so are digits beyond the precision of a
    /// number.
    pub fn into_value(self) -> Value {
        match self {
            SentValue::Null => Value::Null,
            SentValue::Bool(b) => b.into(),
            SentValue::Number(digits) => {
                serde_json::from_str(&digits).unwrap_or(Value::String(digits))
            }
            SentValue::Text(text) => text.into(),
            SentValue::Bytes(hex) => serde_json::json!({ "bytes": hex }),
            SentValue::List(items) => items.into_iter().map(SentValue::into_value).collect(),
            SentValue::Map(fields) => Value::Object(
                fields
                    .into_iter()
                    .map(|(name, v)| (name, v.into_value()))
                    .collect::<Map<_, _>>(),
            ),
        }
    }
}

impl From<Value> for SentValue {
    fn from(value: Value) -> SentValue {
        match value {
            Value::Null => SentValue::Null,
            Value::Bool(b) => SentValue::Bool(b),
            Value::Number(n) => SentValue::Number(n.to_string()),
            Value::String(text) => SentValue::Text(text),
            Value::Array(items) => {
                SentValue::List(items.into_iter().map(SentValue::from).collect())
            }
            Value::Object(map) => {
                SentValue::Map(map.into_iter().map(|(name, v)| (name, v.into())).collect())
            }
        }
    }
}

/// JSON on one line, without terminal control characters.
impl Display for SentValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SentValue::Null => f.write_str("null"),
            SentValue::Bool(b) => write!(f, "{b}"),
            // JSON has no form for NaN and infinity.
            SentValue::Number(digits) if digits.ends_with(|c: char| c.is_ascii_digit()) => {
                f.write_str(digits)
            }
            SentValue::Number(text) | SentValue::Text(text) => f.write_str(&quoted(text)),
            SentValue::Bytes(hex) => write!(f, "{{\"bytes\":\"{hex}\"}}"),
            SentValue::List(items) => {
                f.write_char('[')?;
                for (i, item) in items.iter().enumerate() {
                    write!(f, "{}{item}", if i > 0 { "," } else { "" })?;
                }

                f.write_char(']')
            }
            SentValue::Map(fields) => {
                f.write_char('{')?;
                for (i, (name, value)) in fields.iter().enumerate() {
                    write!(
                        f,
                        "{}{}:{value}",
                        if i > 0 { "," } else { "" },
                        quoted(name)
                    )?;
                }

                f.write_char('}')
            }
        }
    }
}

/// `name=value` pairs, in the record's order.
pub fn fields(fields: &[(String, SentValue)]) -> String {
    let mut line = String::new();
    for (name, value) in fields {
        if !line.is_empty() {
            line.push(' ');
        }

        line.push_str(&word(name));
        line.push('=');
        match value {
            SentValue::Text(text) => line.push_str(&word(text)),
            other => line.push_str(&other.to_string()),
        }
    }

    line
}

/// A text as one word in a line; quoted unless the text is plainly one word.
pub fn word(text: &str) -> Cow<'_, str> {
    let plain = |c: char| {
        c.is_ascii_graphic() && !matches!(c, '"' | '=' | '\\') || c.is_alphanumeric() && !hides(c)
    };

    if !text.is_empty() && text.chars().all(plain) {
        text.into()
    } else {
        quoted(text).into()
    }
}

/// A text in JSON quotes.
pub fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c => put(&mut out, c),
        }
    }

    out.push('"');
    out
}

/// A text on one line, without quotes, for tables and sentences.
pub fn one_line(text: &str) -> Cow<'_, str> {
    escaped(text, hides)
}

/// Lines without terminal control characters. The last filter before all output.
pub fn lines(text: &str) -> Cow<'_, str> {
    escaped(text, |c| hides(c) && !matches!(c, '\n' | '\t'))
}

fn escaped(text: &str, bad: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.chars().any(&bad) {
        return text.into();
    }

    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if bad(c) {
            put(&mut out, c)
        } else {
            out.push(c)
        }
    }

    out.into()
}

/// Appends one character, escaped as in JSON if the character is not safe to show.
fn put(out: &mut String, c: char) {
    match c {
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        c if hides(c) => {
            for unit in c.encode_utf16(&mut [0; 2]) {
                write!(out, "\\u{unit:04x}").expect("writing to a string");
            }
        }
        c => out.push(c),
    }
}

/// True for characters that move the cursor, reverse text, join words or are invisible: control
/// characters, Unicode format characters (soft hyphen, joiners, direction marks and overrides,
/// tags), line separators, blanks other than the space, and fillers.
fn hides(c: char) -> bool {
    const RANGES: [(char, char); 22] = [
        ('\u{a0}', '\u{a0}'),
        ('\u{ad}', '\u{ad}'),
        ('\u{34f}', '\u{34f}'),
        ('\u{600}', '\u{605}'),
        ('\u{61c}', '\u{61c}'),
        ('\u{6dd}', '\u{6dd}'),
        ('\u{115f}', '\u{1160}'),
        ('\u{1680}', '\u{1680}'),
        ('\u{17b4}', '\u{17b5}'),
        ('\u{180b}', '\u{180f}'),
        ('\u{2000}', '\u{200f}'),
        ('\u{2028}', '\u{202f}'),
        ('\u{205f}', '\u{206f}'),
        ('\u{2800}', '\u{2800}'),
        ('\u{3000}', '\u{3000}'),
        ('\u{3164}', '\u{3164}'),
        ('\u{fe00}', '\u{fe0f}'),
        ('\u{feff}', '\u{feff}'),
        ('\u{ffa0}', '\u{ffa0}'),
        ('\u{fff0}', '\u{ffff}'),
        ('\u{1bca0}', '\u{1bca3}'),
        ('\u{1d173}', '\u{1d17a}'),
    ];

    c.is_control()
        || ('\u{e0000}'..='\u{10ffff}').contains(&c)
        || RANGES.iter().any(|(from, to)| (*from..=*to).contains(&c))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NASTY: &[&str] = &[
        "\u{1b}[1A",
        "\n",
        "\r",
        "\u{9b}2K",
        "\u{202e}",
        "\u{2066}",
        "\u{a0}",
        "\u{200b}",
        "\u{2028}",
        "\u{7f}",
        "\0",
        "\u{e0041}",
    ];

    #[test]
    fn nothing_that_a_terminal_obeys_comes_through() {
        for nasty in NASTY {
            let text = format!("a{nasty}b");
            let map = vec![
                (text.clone(), SentValue::Text(text.clone())),
                (
                    "l".into(),
                    SentValue::List(vec![SentValue::Text(text.clone())]),
                ),
            ];
            for shown in [
                fields(&map),
                SentValue::Map(map.clone()).to_string(),
                one_line(&text).into_owned(),
                word(&text).into_owned(),
                quoted(&text),
            ] {
                assert!(shown.chars().all(|c| !hides(c)), "{shown:?}");
            }

            let read: Value =
                serde_json::from_str(&SentValue::Map(map).to_string()).expect("it is JSON");
            assert_eq!(
                (read["l"][0].as_str(), read[&text].as_str()),
                (Some(&*text), Some(&*text)),
                "and says what was sent"
            );
            assert!(
                lines(&text) == text || !lines(&text).contains(nasty),
                "{nasty:?}"
            );
        }

        assert_eq!(lines("a\n\tb\u{1b}"), "a\n\tb\\u001b");
        assert_eq!(one_line("plain text, as usual"), "plain text, as usual");
    }

    #[test]
    fn words_stand_alone_only_when_they_are_words() {
        for plain in [
            "AAPL",
            "order-events/0/7",
            "2026-01-31T09:30:00Z",
            "Müller",
            "-5",
        ] {
            assert_eq!(word(plain), plain);
        }

        for (text, shown) in [
            ("", "\"\""),
            ("a b", "\"a b\""),
            ("a=b", "\"a=b\""),
            ("\"", r#""\"""#),
            ("\\n", r#""\\n""#),
        ] {
            assert_eq!(word(text), shown);
        }
    }

    #[test]
    fn json_values_and_back() {
        let v = serde_json::json!({"a": [1, -2.5, null, true, "x"], "b": {}});
        assert_eq!(
            (
                SentValue::from(v.clone()).to_string(),
                SentValue::from(v.clone()).into_value()
            ),
            (v.to_string(), v)
        );

        assert_eq!(SentValue::Number("NaN".into()).to_string(), "\"NaN\"");
    }
}
