//! Reads what others wrote: one map, in MessagePack or JSON, strictly. Anything may come in here,
//! so nothing panics, nothing recurses deeper than the contract allows, and nothing is allocated
//! for a value unless it has escapes in it.
//!
//! A map can be complete and still be wrong (a key twice, nested too deep, text that is not UTF-8,
//! bytes after the end). Such a fault is reported beside the fields, so that the sender can be told
//! which of his orders it was; what cannot be read to its end has no fields at all.

use std::borrow::Cow;
use std::collections::BTreeSet;

use domain::decimal::{self, Num, Odd, WHOLE};

/// Deepest nesting, the outer map included.
const DEPTH_MAX: u32 = 32;

/// What is wrong, in words for a person.
pub type Fault = &'static str;

/// A field's value.
#[derive(Clone, Debug, PartialEq)]
pub enum FieldValue<'a> {
    /// Nothing; the same as an absent field.
    Null,
    /// True or false.
    Bool(bool),
    /// A MessagePack integer.
    Int(i128),
    /// A MessagePack float of 8 bytes.
    F64(f64),
    /// A MessagePack float of 4 bytes.
    F32(f32),
    /// A JSON number as it was written.
    Number(&'a str),
    /// Text.
    Text(Cow<'a, str>),
    /// Bytes.
    Binary(&'a [u8]),
    /// A map, list or extension, as it was written.
    Nested(&'a [u8]),
    /// The field is there more than once.
    Twice,
}

impl<'a> FieldValue<'a> {
    /// The number, wherever one is due: a number, or text that reads as one.
    pub fn num(&self, scale: u32) -> Option<Num> {
        match self {
            FieldValue::Int(n) => Some(decimal::from_integer(*n, scale)),
            // Formatting finds the shortest decimal form; nothing is computed with the float.
            FieldValue::F64(n) => decimal::from_text(format_args!("{n:e}"), scale),
            FieldValue::F32(n) => decimal::from_text(format_args!("{n:e}"), scale),
            FieldValue::Number(t) => decimal::parse(t.as_bytes(), scale),
            FieldValue::Text(t) => decimal::parse(t.as_bytes(), scale),
            _ => None,
        }
    }

    /// A whole number given as a number; what is beyond i64 is cut to a number that is as good as
    /// infinite.
    pub fn integer(&self) -> Option<i128> {
        if matches!(self, FieldValue::Text(_)) {
            return None;
        }

        match (self, self.num(WHOLE)?) {
            (FieldValue::Int(n), _) => Some(*n),
            (_, Num::Exact(n)) => Some(i128::from(n)),
            (FieldValue::Number(t), Num::Odd(Odd::TooLarge, _)) => {
                Some(if t.starts_with('-') { -FAR } else { FAR })
            }
            (FieldValue::F64(n), Num::Odd(Odd::TooLarge, _)) => {
                Some(if n.is_sign_negative() { -FAR } else { FAR })
            }
            (FieldValue::F32(n), Num::Odd(Odd::TooLarge, _)) => {
                Some(if n.is_sign_negative() { -FAR } else { FAR })
            }
            _ => None,
        }
    }

    /// The text.
    pub fn text(self) -> Option<Cow<'a, str>> {
        match self {
            FieldValue::Text(t) => Some(t),
            _ => None,
        }
    }

    /// The text of a record we wrote ourselves, which never needs unescaping.
    pub fn plain_text(self) -> Option<&'a str> {
        match self {
            FieldValue::Text(Cow::Borrowed(t)) => Some(t),
            _ => None,
        }
    }

    /// The number of a record we wrote ourselves.
    pub fn i64(&self) -> Option<i64> {
        match self {
            FieldValue::Int(n) => i64::try_from(*n).ok(),
            _ => None,
        }
    }
}

const FAR: i128 = 1_000_000_000_000_000_000_000_000_000_000;

/// A claim of time: an integer since 1970 whose unit follows from its size; in nanoseconds.
pub fn timestamp_ns(n: i128) -> i128 {
    match n.unsigned_abs() {
        0..100_000_000_000 => n * 1_000_000_000,
        100_000_000_000..100_000_000_000_000 => n * 1_000_000,
        100_000_000_000_000..100_000_000_000_000_000 => n * 1_000,
        _ => n,
    }
}

/// Reads a map and hands over each field of it once, [`FieldValue::Twice`] for one that comes again.
/// `Ok(Some(_))`: it was read to its end but has a fault.
pub fn read_map<'a>(
    bytes: &'a [u8],
    field: impl FnMut(&str, FieldValue<'a>),
) -> Result<Option<Fault>, Fault> {
    match bytes.first() {
        None => Err("the value is empty"),
        Some(b'{') => super::json::read_map(bytes, field),
        Some(_) => read_msgpack(bytes, field),
    }
}

fn read_msgpack<'a>(
    bytes: &'a [u8],
    mut field: impl FnMut(&str, FieldValue<'a>),
) -> Result<Option<Fault>, Fault> {
    let mut r = PackedMap {
        bytes,
        at: 0,
        fault: None,
    };

    let Token::Map(n) = r.token()? else {
        return Err("the value is neither a MessagePack map nor a JSON object");
    };

    let mut seen = Keys::default();
    for _ in 0..n {
        let key = r.key()?;
        let value = r.value(1)?;
        let Some(key) = key else { continue };
        if seen.is_new(key, Some(key)) {
            field(key, value);
        } else {
            r.fault.get_or_insert(TWICE);
            field(key, FieldValue::Twice);
        }
    }

    if r.at != bytes.len() {
        r.fault
            .get_or_insert("there are bytes after the end of the map");
    }

    Ok(r.fault)
}

pub(super) const TWICE: Fault = "a key occurs twice";
pub(super) const DEEP: Fault = "maps and lists are nested more than 32 deep";

/// The depth of a container within one of that depth (the outer map is at 1); none if that is too
/// deep.
pub(super) fn deeper(depth: u32) -> Option<u32> {
    (depth < DEPTH_MAX).then_some(depth + 1)
}

/// Keys of a map seen so far: a short list, and a set once there are many (or if one had escapes),
/// so that no map is slow to read.
#[derive(Default)]
pub(super) struct Keys<'a> {
    few: [&'a str; 24],
    count: usize,
    more: BTreeSet<Cow<'a, str>>,
}

impl<'a> Keys<'a> {
    /// Whether the key did not come before. A key with escapes has no place in the input that the
    /// list could point to.
    pub(super) fn is_new(&mut self, key: &str, lasting: Option<&'a str>) -> bool {
        if self.few[..self.count].contains(&key)
            || (!self.more.is_empty() && self.more.contains(key))
        {
            return false;
        }

        match lasting {
            Some(key) if self.count < self.few.len() => {
                self.few[self.count] = key;
                self.count += 1;
                true
            }
            Some(key) => self.more.insert(Cow::Borrowed(key)),
            None => self.more.insert(Cow::Owned(key.to_string())),
        }
    }
}

struct PackedMap<'a> {
    bytes: &'a [u8],
    at: usize,
    fault: Option<Fault>,
}

enum Token<'a> {
    Plain(FieldValue<'a>),
    Map(u32),
    List(u32),
    Extension(usize),
}

const CUT: Fault = "the value ends too early";

impl<'a> PackedMap<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], Fault> {
        let part = self
            .bytes
            .get(self.at..)
            .and_then(|rest| rest.get(..n))
            .ok_or(CUT)?;
        self.at += n;
        Ok(part)
    }

    fn number<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        Ok(self.take(N)?.try_into().expect("as long as asked for"))
    }

    fn text(&mut self, n: usize) -> Result<Token<'a>, Fault> {
        let bytes = self.take(n)?;
        let value = match std::str::from_utf8(bytes) {
            Ok(text) => FieldValue::Text(Cow::Borrowed(text)),
            Err(_) => {
                self.fault.get_or_insert("a text is not UTF-8");
                FieldValue::Nested(bytes)
            }
        };

        Ok(Token::Plain(value))
    }

    fn token(&mut self) -> Result<Token<'a>, Fault> {
        let int = |n: i128| Ok(Token::Plain(FieldValue::Int(n)));
        let marker = self.number::<1>()?[0];
        match marker {
            0x00..=0x7f => int(i128::from(marker)),
            0x80..=0x8f => Ok(Token::Map(u32::from(marker & 0x0f))),
            0x90..=0x9f => Ok(Token::List(u32::from(marker & 0x0f))),
            0xa0..=0xbf => self.text(usize::from(marker & 0x1f)),
            0xc0 => Ok(Token::Plain(FieldValue::Null)),
            0xc1 => Err("byte c1 is not MessagePack"),
            0xc2 | 0xc3 => Ok(Token::Plain(FieldValue::Bool(marker == 0xc3))),
            0xc4..=0xc6 => {
                let n = self.length(1 << (marker - 0xc4))?;
                Ok(Token::Plain(FieldValue::Binary(self.take(n)?)))
            }
            0xc7..=0xc9 => Ok(Token::Extension(self.length(1 << (marker - 0xc7))?)),
            0xca => Ok(Token::Plain(FieldValue::F32(f32::from_be_bytes(
                self.number()?,
            )))),
            0xcb => Ok(Token::Plain(FieldValue::F64(f64::from_be_bytes(
                self.number()?,
            )))),
            0xcc => int(i128::from(u8::from_be_bytes(self.number()?))),
            0xcd => int(i128::from(u16::from_be_bytes(self.number()?))),
            0xce => int(i128::from(u32::from_be_bytes(self.number()?))),
            0xcf => int(i128::from(u64::from_be_bytes(self.number()?))),
            0xd0 => int(i128::from(i8::from_be_bytes(self.number()?))),
            0xd1 => int(i128::from(i16::from_be_bytes(self.number()?))),
            0xd2 => int(i128::from(i32::from_be_bytes(self.number()?))),
            0xd3 => int(i128::from(i64::from_be_bytes(self.number()?))),
            0xd4..=0xd8 => Ok(Token::Extension(1 << (marker - 0xd4))),
            0xd9..=0xdb => {
                let n = self.length(1 << (marker - 0xd9))?;
                self.text(n)
            }
            0xdc => Ok(Token::List(self.length(2)? as u32)),
            0xdd => Ok(Token::List(self.length(4)? as u32)),
            0xde => Ok(Token::Map(self.length(2)? as u32)),
            0xdf => Ok(Token::Map(self.length(4)? as u32)),
            0xe0..=0xff => int(i128::from(marker as i8)),
        }
    }

    /// A length of 1, 2 or 4 bytes.
    fn length(&mut self, width: usize) -> Result<usize, Fault> {
        Ok(self
            .take(width)?
            .iter()
            .fold(0, |n, b| (n << 8) | usize::from(*b)))
    }

    /// A map's key; none, and a fault, if it is not text.
    fn key(&mut self) -> Result<Option<&'a str>, Fault> {
        match self.value(DEPTH_MAX)? {
            FieldValue::Text(Cow::Borrowed(key)) => Ok(Some(key)),
            _ => {
                self.fault.get_or_insert("a map's key is not text");
                Ok(None)
            }
        }
    }

    fn value(&mut self, depth: u32) -> Result<FieldValue<'a>, Fault> {
        let start = self.at;
        match (self.token()?, deeper(depth)) {
            (Token::Plain(v), _) => return Ok(v),
            (Token::Extension(n), _) => drop(self.take(n + 1)?),
            (Token::List(n), Some(depth)) => {
                for _ in 0..n {
                    self.value(depth)?;
                }
            }
            (Token::Map(n), Some(depth)) => {
                let mut seen = Keys::default();
                for _ in 0..n {
                    let key = self.key()?;
                    if key.is_some_and(|key| !seen.is_new(key, Some(key))) {
                        self.fault.get_or_insert(TWICE);
                    }

                    self.value(depth)?;
                }
            }
            (Token::List(n), None) => self.pass(u64::from(n))?,
            (Token::Map(n), None) => self.pass(2 * u64::from(n))?,
        }

        Ok(FieldValue::Nested(&self.bytes[start..self.at]))
    }

    /// Passes over so many values that lie too deep, without going deeper itself.
    fn pass(&mut self, mut values: u64) -> Result<(), Fault> {
        self.fault.get_or_insert(DEEP);
        while values > 0 {
            values -= 1;

            // Each value takes at least one byte, so the sum stays far below overflow.
            match self.token()? {
                Token::Plain(_) => {}
                Token::Extension(n) => drop(self.take(n + 1)?),
                Token::List(n) => values = values.saturating_add(u64::from(n)),
                Token::Map(n) => values = values.saturating_add(2 * u64::from(n)),
            }
        }

        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_read_by_their_shortest_form() {
        use domain::decimal::MONEY;
        assert_eq!(
            FieldValue::F64(189.25).num(MONEY),
            Some(Num::Exact(1_892_500))
        );
        assert_eq!(FieldValue::F64(0.1).num(MONEY), Some(Num::Exact(1_000)));
        assert_eq!(FieldValue::F32(0.1).num(MONEY), Some(Num::Exact(1_000)));
        assert_eq!(FieldValue::F64(-0.0).num(MONEY), Some(Num::Exact(0)));
        assert_eq!(
            FieldValue::F64(1.5).num(WHOLE),
            FieldValue::Number("15e-1").num(WHOLE)
        );
        assert!(matches!(
            FieldValue::F64(f64::MAX).num(MONEY),
            Some(Num::Odd(Odd::TooLarge, _))
        ));
        assert!(matches!(
            FieldValue::F64(f64::MIN_POSITIVE).num(MONEY),
            Some(Num::Odd(Odd::TooFine, _))
        ));
        assert!(matches!(
            FieldValue::F64(f64::NAN).num(MONEY),
            Some(Num::Odd(Odd::NotANumber, _))
        ));
        assert!(matches!(
            FieldValue::F32(f32::NEG_INFINITY).num(MONEY),
            Some(Num::Odd(Odd::NotANumber, _))
        ));
    }

    #[test]
    fn the_unit_of_a_timestamp_follows_from_its_size() {
        let second = 1_000_000_000;
        for (n, want) in [
            (0, 0),
            (99_999_999_999, 99_999_999_999 * second),
            (100_000_000_000, 100_000_000 * second),
            (99_999_999_999_999, 99_999_999_999_999_000_000),
            (100_000_000_000_000, 100_000_000 * second),
            (99_999_999_999_999_999, 99_999_999_999_999_999_000),
            (100_000_000_000_000_000, 100_000_000 * second),
            (-1, -second),
        ] {
            assert_eq!(timestamp_ns(n), want, "{n}");
        }
    }

    #[test]
    fn a_faulty_map_still_says_its_fields() {
        let read = |bytes: &[u8]| {
            let mut names = Vec::new();
            let fault = read_map(bytes, |name, v| {
                names.push((name.to_string(), v != FieldValue::Twice))
            });

            (fault, names)
        };

        let good = |name: &str| (name.to_string(), true);
        assert_eq!(
            read(b"\x82\x01\x02\xa1a\x03"),
            (Ok(Some("a map's key is not text")), vec![good("a")])
        );
        assert_eq!(
            read(b"\x82\xa1b\xa1\xff\xa1a\x03"),
            (Ok(Some("a text is not UTF-8")), vec![good("b"), good("a")])
        );
        assert_eq!(
            read(b"\x82\xa1a\x01\xa1a\x03"),
            (Ok(Some(TWICE)), vec![good("a"), ("a".to_string(), false)])
        );
        assert_eq!(
            read(b"\x81\xa1a\x01\x00"),
            (
                Ok(Some("there are bytes after the end of the map")),
                vec![good("a")]
            )
        );

        let deep = [&b"\x82\xa1d"[..], &[0x91; 40], b"\x81\x01\x02\xa1a\x03"].concat();
        assert_eq!(read(&deep), (Ok(Some(DEEP)), vec![good("d"), good("a")]));
        let deep = format!(
            "{{\"d\":{}\"]]}}\"{},\"a\":1}}",
            "[".repeat(40),
            "]".repeat(40)
        );
        assert_eq!(
            read(deep.as_bytes()),
            (Ok(Some(DEEP)), vec![good("d"), good("a")])
        );
        assert_eq!(read(b"\x81\xa1a\xdf\xff\xff\xff\xff").0, Err(CUT));
    }
}
