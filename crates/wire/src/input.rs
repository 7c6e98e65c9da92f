//! Strict reader of client records: one map, in MessagePack or JSON. The input may be any bytes. So
//! the reader never panics and never recurses deeper than the contract allows. The reader allocates
//! for a value only if the value has escapes.
//!
//! A map can be complete and still have a fault: a repeated key, too deep nesting, text that is not
//! UTF-8, bytes after the end. The reader reports the fault together with the fields, so that the
//! answer can name the order. A map that cannot be read to its end has no fields at all.

use std::borrow::Cow;
use std::collections::BTreeSet;

use domain::decimal::{self, Num, Odd, WHOLE};

/// Maximum nesting depth, including the outer map.
const DEPTH_MAX: u32 = 32;

/// Description of an error, for people.
pub type Fault = &'static str;

/// Value of a field.
#[derive(Clone, Debug, PartialEq)]
pub enum FieldValue<'a> {
    /// Null, with the same meaning as an absent field.
    Null,
    Bool(bool),
    Int(i128),
    /// A MessagePack float of 8 bytes.
    F64(f64),
    /// A MessagePack float of 4 bytes.
    F32(f32),
    /// A JSON number, as text.
    Number(&'a str),
    Text(Cow<'a, str>),
    Binary(&'a [u8]),
    /// The bytes of a map, list or extension.
    Nested(&'a [u8]),
    /// The key occurs more than once.
    Twice,
}

impl<'a> FieldValue<'a> {
    /// The value as a number with `scale` decimals: from a number, or from text that reads as a
    /// number.
    pub fn num(&self, scale: u32) -> Option<Num> {
        match self {
            FieldValue::Int(n) => Some(decimal::from_integer(*n, scale)),
            // Formatting gives the shortest decimal form. No arithmetic uses the float.
            FieldValue::F64(n) => decimal::from_text(format_args!("{n:e}"), scale),
            FieldValue::F32(n) => decimal::from_text(format_args!("{n:e}"), scale),
            FieldValue::Number(t) => decimal::parse(t.as_bytes(), scale),
            FieldValue::Text(t) => decimal::parse(t.as_bytes(), scale),
            _ => None,
        }
    }

    /// A whole number, but not from text. A JSON number or a float beyond `i64` becomes plus or
    /// minus `FAR`, which serves as infinity.
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

    pub fn text(self) -> Option<Cow<'a, str>> {
        match self {
            FieldValue::Text(t) => Some(t),
            _ => None,
        }
    }

    /// The text of a record that we wrote. Our texts have no escapes.
    pub fn plain_text(self) -> Option<&'a str> {
        match self {
            FieldValue::Text(Cow::Borrowed(t)) => Some(t),
            _ => None,
        }
    }

    /// The number of a record that we wrote.
    pub fn i64(&self) -> Option<i64> {
        match self {
            FieldValue::Int(n) => i64::try_from(*n).ok(),
            _ => None,
        }
    }
}

const FAR: i128 = 1_000_000_000_000_000_000_000_000_000_000;

/// Converts a claimed time since 1970 to nanoseconds. The unit (s, ms, us or ns) follows from the
/// size of the number.
pub fn timestamp_ns(n: i128) -> i128 {
    match n.unsigned_abs() {
        0..100_000_000_000 => n * 1_000_000_000,
        100_000_000_000..100_000_000_000_000 => n * 1_000_000,
        100_000_000_000_000..100_000_000_000_000_000 => n * 1_000,
        _ => n,
    }
}

/// Reads a map and calls `field` for each entry. A repeated key has the value
/// [`FieldValue::Twice`]. `Ok(Some(_))`: the map was read to its end but has a fault.
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

/// The depth of a container inside a container at `depth` (the outer map is at 1). `None` if the
/// result is above `DEPTH_MAX`.
pub(super) fn deeper(depth: u32) -> Option<u32> {
    (depth < DEPTH_MAX).then_some(depth + 1)
}

/// Keys of a map seen so far. A short list holds the first keys; a set holds further keys and keys
/// with escapes. So large maps are fast to read, too.
#[derive(Default)]
pub(super) struct Keys<'a> {
    few: [&'a str; 24],
    count: usize,
    more: BTreeSet<Cow<'a, str>>,
}

impl<'a> Keys<'a> {
    /// Remembers a key and reports whether the key is new. `lasting` is the key inside the input. A
    /// key with escapes has no `lasting` form, because the input does not contain its decoded
    /// bytes.
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

    /// Reads a length of 1, 2 or 4 bytes.
    fn length(&mut self, width: usize) -> Result<usize, Fault> {
        Ok(self
            .take(width)?
            .iter()
            .fold(0, |n, b| (n << 8) | usize::from(*b)))
    }

    /// Reads a map's key. A key that is not text is a fault, and gives `None`.
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

    /// Skips values that are nested too deep, without recursion.
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
