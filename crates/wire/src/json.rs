//! The JSON part of [`super::input`]: a strict reader of one object. Numbers stay text.

use std::borrow::Cow;

use super::input::{DEEP, Fault, FieldValue, Keys, TWICE, deeper};

pub(super) fn read_map<'a>(
    bytes: &'a [u8],
    mut field: impl FnMut(&str, FieldValue<'a>),
) -> Result<Option<Fault>, Fault> {
    let text = std::str::from_utf8(bytes).map_err(|_| "the value is not UTF-8")?;
    let mut r = Json {
        text,
        bytes,
        at: 0,
        fault: None,
    };

    r.object(1, &mut |key, value| field(key, value))?;
    r.blanks();
    if r.at != bytes.len() {
        r.fault
            .get_or_insert("there is text after the end of the object");
    }

    Ok(r.fault)
}

struct Json<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    fault: Option<Fault>,
}

const SYNTAX: Fault = "the value is not JSON";

impl<'a> Json<'a> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    /// Skips blanks and returns the next byte without taking that byte.
    fn next(&mut self) -> Option<u8> {
        self.blanks();
        self.peek()
    }

    fn expect(&mut self, byte: u8) -> Result<(), Fault> {
        if self.next() != Some(byte) {
            return Err(SYNTAX);
        }

        self.at += 1;
        Ok(())
    }

    fn object(
        &mut self,
        depth: u32,
        field: &mut dyn FnMut(&str, FieldValue<'a>),
    ) -> Result<(), Fault> {
        self.expect(b'{')?;
        let mut seen = Keys::default();
        if self.next() == Some(b'}') {
            self.at += 1;
            return Ok(());
        }

        loop {
            self.blanks();
            let key = self.string()?;
            self.expect(b':')?;
            let value = self.value(depth)?;
            let lasting = if let Cow::Borrowed(key) = key {
                Some(key)
            } else {
                None
            };

            if seen.is_new(&key, lasting) {
                field(&key, value);
            } else {
                self.fault.get_or_insert(TWICE);
                field(&key, FieldValue::Twice);
            }

            if self.more(b'}')? {
                continue;
            }

            return Ok(());
        }
    }

    /// Takes the byte after an element: true for a comma, false for the closing byte.
    fn more(&mut self, close: u8) -> Result<bool, Fault> {
        let byte = self.next();
        self.at += 1;
        match byte {
            Some(b',') => Ok(true),
            Some(b) if b == close => Ok(false),
            _ => Err(SYNTAX),
        }
    }

    fn value(&mut self, depth: u32) -> Result<FieldValue<'a>, Fault> {
        match self.next() {
            Some(b'"') => Ok(FieldValue::Text(self.string()?)),
            Some(b'N' | b'I') => self.not_a_number(),
            Some(b'-') if self.bytes[self.at..].starts_with(b"-I") => self.not_a_number(),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(open @ (b'{' | b'[')) => {
                let start = self.at;
                match deeper(depth) {
                    Some(depth) if open == b'{' => self.object(depth, &mut |_, _| {})?,
                    Some(depth) => self.list(depth)?,
                    None => self.pass()?,
                }

                Ok(FieldValue::Nested(&self.bytes[start..self.at]))
            }
            _ => {
                for (word, value) in [
                    ("null", FieldValue::Null),
                    ("true", FieldValue::Bool(true)),
                    ("false", FieldValue::Bool(false)),
                ] {
                    if self.bytes[self.at..].starts_with(word.as_bytes()) {
                        self.at += word.len();
                        return Ok(value);
                    }
                }

                Err(SYNTAX)
            }
        }
    }

    fn list(&mut self, depth: u32) -> Result<(), Fault> {
        self.at += 1;
        if self.next() == Some(b']') {
            self.at += 1;
            return Ok(());
        }

        loop {
            self.value(depth)?;
            if !self.more(b']')? {
                return Ok(());
            }
        }
    }

    /// Skips a map or list that is nested too deep, up to its closing bracket, without recursion.
    fn pass(&mut self) -> Result<(), Fault> {
        self.fault.get_or_insert(DEEP);
        let mut open = 0_usize;
        loop {
            match self.next().ok_or(SYNTAX)? {
                b'"' => drop(self.string()?),
                byte => {
                    self.at += 1;
                    match byte {
                        b'{' | b'[' => open += 1,
                        b'}' | b']' => open -= 1,
                        _ => {}
                    }
                }
            }

            if open == 0 {
                return Ok(());
            }
        }
    }

    fn digits(&mut self) -> usize {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }

        self.at - start
    }

    /// Accepts `NaN` and infinities, although JSON has no such numbers: common encoders write these
    /// words. The reader of the field then reports the error.
    fn not_a_number(&mut self) -> Result<FieldValue<'a>, Fault> {
        let rest = &self.text[self.at..];
        let word = ["NaN", "Infinity", "-Infinity"]
            .into_iter()
            .find(|w| rest.starts_with(w))
            .ok_or(SYNTAX)?;
        self.at += word.len();
        Ok(FieldValue::Number(&rest[..word.len()]))
    }

    fn number(&mut self) -> Result<FieldValue<'a>, Fault> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }

        let leading_zero = self.peek() == Some(b'0');
        let whole = self.digits();
        if whole == 0 || (leading_zero && whole > 1) {
            return Err(SYNTAX);
        }

        if self.peek() == Some(b'.') {
            self.at += 1;
            if self.digits() == 0 {
                return Err(SYNTAX);
            }
        }

        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }

            if self.digits() == 0 {
                return Err(SYNTAX);
            }
        }

        Ok(FieldValue::Number(&self.text[start..self.at]))
    }

    fn string(&mut self) -> Result<Cow<'a, str>, Fault> {
        if self.peek() != Some(b'"') {
            return Err(SYNTAX);
        }

        self.at += 1;
        let start = self.at;
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(Cow::Borrowed(&self.text[start..self.at - 1]));
                }
                Some(b'\\') => return self.escaped(start).map(Cow::Owned),
                None | Some(0..0x20) => return Err(SYNTAX),
                Some(_) => self.at += 1,
            }
        }
    }

    /// Reads the rest of a string with escapes. The result includes the text before the first
    /// escape.
    fn escaped(&mut self, start: usize) -> Result<String, Fault> {
        let mut s = self.text[start..self.at].to_string();
        loop {
            let from = self.at;
            while !matches!(self.peek(), None | Some(b'"' | b'\\' | 0..0x20)) {
                self.at += 1;
            }

            s.push_str(&self.text[from..self.at]);
            let stop = self.peek();
            self.at += 1;
            match stop {
                Some(b'"') => return Ok(s),
                Some(b'\\') => s.push(self.escape()?),
                _ => return Err(SYNTAX),
            }
        }
    }

    fn escape(&mut self) -> Result<char, Fault> {
        let byte = self.peek().ok_or(SYNTAX)?;
        self.at += 1;
        Ok(match byte {
            b'"' => '"',
            b'\\' => '\\',
            b'/' => '/',
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let first = self.hex()?;
                let code = if (0xd800..0xdc00).contains(&first) {
                    if self.bytes.get(self.at..self.at + 2) != Some(b"\\u") {
                        return Err("half a surrogate pair in a text");
                    }

                    self.at += 2;
                    let second = self.hex()?;
                    if !(0xdc00..0xe000).contains(&second) {
                        return Err("half a surrogate pair in a text");
                    }

                    0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00)
                } else {
                    first
                };

                char::from_u32(code).ok_or("half a surrogate pair in a text")?
            }
            _ => return Err(SYNTAX),
        })
    }

    fn hex(&mut self) -> Result<u32, Fault> {
        let digits = self.bytes.get(self.at..self.at + 4).ok_or(SYNTAX)?;
        self.at += 4;
        digits
            .iter()
            .try_fold(0, |n, b| Some(n * 16 + char::from(*b).to_digit(16)?))
            .ok_or(SYNTAX)
    }
}
