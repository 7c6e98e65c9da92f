//! `controls`: restrictions that operators have set on users or on everybody. The topic is
//! internal, but people sometimes write its records by hand. So the reader is as strict as for
//! client records.

use std::borrow::Cow;

use domain::control::{Control, EVERYBODY};
use domain::ids;

use super::encode::{self, Encoding, Field};
use super::input::{Fault, FieldValue, read_map};
use super::topics::INPUT_BYTES_MAX;

/// A row of `controls`: the restriction, and the reason in an operator's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlRow<'a> {
    /// Degree of the restriction: stopped or disabled.
    pub state: Control,
    /// Resting and waiting orders stay in the book, and may trade.
    pub keep_orders: bool,
    /// Explanation for people. Decisions ignore this field.
    pub text: Option<Cow<'a, str>>,
    /// The operator who set the restriction, for the record only.
    pub operator: Option<Cow<'a, str>>,
}

/// Header with the name of the operator who wrote a record. A record that lifts a restriction has
/// no value that could hold the name.
pub const OPERATOR: &str = "operator";

/// Decodes a record of `controls`. `None`: a null value has lifted the restriction. An error: the
/// record changes nothing.
pub fn decode<'a>(
    key: Option<&[u8]>,
    value: Option<&'a [u8]>,
) -> Result<Option<ControlRow<'a>>, Fault> {
    let key = key.and_then(|k| std::str::from_utf8(k).ok());
    key.filter(|k| *k == EVERYBODY || ids::valid_user(k))
        .ok_or("the key is neither a user nor `*`")?;
    let Some(value) = value else { return Ok(None) };
    if value.len() > INPUT_BYTES_MAX {
        return Err("the value is larger than 64 KiB");
    }

    let mut state = None;
    let mut keep_orders = false;
    let mut text = None;
    let mut operator = None;
    let mut wrong = None;
    let fault = read_map(value, |name, v| match name {
        _ if v == FieldValue::Null => {}
        "state" => match v.text().and_then(|t| Control::from_name(&t)) {
            None => wrong = Some("state is neither `stopped` nor `disabled`"),
            known => state = known,
        },
        "keep_orders" => match v {
            FieldValue::Bool(keep) => keep_orders = keep,
            _ => wrong = Some("keep_orders is neither true nor false"),
        },
        "text" => match v.text() {
            None => wrong = Some("text is not text"),
            some => text = some,
        },
        // Decisions ignore the operator, so an unreadable name does not make the row invalid.
        "operator" => operator = v.text(),
        _ => {}
    })?;

    match (fault.or(wrong), state) {
        (Some(fault), _) => Err(fault),
        (None, None) => Err("state is missing; a null value lifts what was switched off"),
        (None, Some(state)) => Ok(Some(ControlRow {
            state,
            keep_orders,
            text,
            operator,
        })),
    }
}

impl ControlRow<'_> {
    /// Appends the row as JSON, which people can read.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let keep = self
            .keep_orders
            .then_some(("keep_orders", Field::Flag(true)));
        let more = [
            ("text", self.text.as_deref()),
            ("operator", self.operator.as_deref()),
        ];
        let more = more
            .into_iter()
            .filter_map(|(name, text)| Some((name, Field::Text(text?))));
        let all: Vec<_> = std::iter::once(("state", Field::Text(self.state.name())))
            .chain(keep)
            .chain(more)
            .collect();
        encode::fields(Encoding::Json, &all, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_is_read() {
        for row in [
            ControlRow {
                state: Control::Stopped,
                keep_orders: false,
                text: None,
                operator: None,
            },
            ControlRow {
                state: Control::Stopped,
                keep_orders: true,
                text: None,
                operator: None,
            },
            ControlRow {
                state: Control::Disabled,
                keep_orders: false,
                text: Some("\"left\"\nin May".into()),
                operator: Some("ana".into()),
            },
        ] {
            let mut value = Vec::new();
            row.encode(&mut value);
            for key in ["501", "*"] {
                assert_eq!(
                    decode(Some(key.as_bytes()), Some(&value)),
                    Ok(Some(row.clone()))
                );
            }
        }

        assert_eq!(decode(Some(b"501"), None), Ok(None));
        let more = br#"{"state":"stopped","text":null,"by":{"name":"x"}}"#;
        let stopped = ControlRow {
            state: Control::Stopped,
            keep_orders: false,
            text: None,
            operator: None,
        };

        assert_eq!(decode(Some(b"501"), Some(more)), Ok(Some(stopped)));
    }

    #[test]
    fn bad_records_are_bad() {
        for bad in [
            "",
            "stopped",
            "{}",
            r#"{"state":null}"#,
            r#"{"state":"halted"}"#,
            r#"{"state":1}"#,
            r#"{"state":"stopped","state":"stopped"}"#,
            r#"{"state":"stopped","text":1}"#,
            r#"{"state":"stopped","keep_orders":1}"#,
            r#"{"text":"why"}"#,
        ] {
            assert!(decode(Some(b"501"), Some(bad.as_bytes())).is_err(), "{bad}");
        }

        for key in [
            None,
            Some(&b""[..]),
            Some(b"a b"),
            Some(b"external"),
            Some(b"house:AAPL"),
            Some(b"\xff"),
        ] {
            assert!(decode(key, None).is_err(), "{key:?}");
            assert!(
                decode(key, Some(br#"{"state":"stopped"}"#)).is_err(),
                "{key:?}"
            );
        }

        let long = format!(
            r#"{{"state":"stopped","text":"{}"}}"#,
            "x".repeat(INPUT_BYTES_MAX)
        );
        assert!(decode(Some(b"501"), Some(long.as_bytes())).is_err());
    }
}
