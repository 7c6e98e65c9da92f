//! Writes MessagePack maps into a reused buffer. The number of fields is filled in at the end, so
//! an absent optional field costs only a test.

/// A map under construction.
pub struct MapWriter<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
    count: u16,
}

impl<'a> MapWriter<'a> {
    /// Begins a map at the end of `out`.
    pub fn begin(out: &'a mut Vec<u8>) -> Self {
        let start = out.len();
        out.extend_from_slice(&[0xde, 0, 0]);
        MapWriter {
            out,
            start,
            count: 0,
        }
    }

    fn name(&mut self, name: &str) {
        self.count += 1;
        put_text(self.out, name);
    }

    /// Appends a text field.
    pub fn text(&mut self, name: &str, value: &str) -> &mut Self {
        self.name(name);
        put_text(self.out, value);
        self
    }

    /// Appends a text field, if there is a value.
    pub fn maybe_text(&mut self, name: &str, value: Option<&str>) -> &mut Self {
        if let Some(v) = value {
            self.text(name, v);
        }

        self
    }

    /// Appends a whole number.
    pub fn int(&mut self, name: &str, value: i64) -> &mut Self {
        self.name(name);
        put_int(self.out, value);
        self
    }

    /// Appends a whole number, if there is a value.
    pub fn maybe_int(&mut self, name: &str, value: Option<i64>) -> &mut Self {
        if let Some(v) = value {
            self.int(name, v);
        }

        self
    }

    /// Appends true or false.
    pub fn flag(&mut self, name: &str, value: bool) -> &mut Self {
        self.name(name);
        self.out.push(0xc2 + u8::from(value));
        self
    }

    /// Appends raw bytes.
    pub fn binary(&mut self, name: &str, value: &[u8]) -> &mut Self {
        self.name(name);
        match u8::try_from(value.len()) {
            Ok(n) => self.out.extend_from_slice(&[0xc4, n]),
            Err(_) => {
                self.out.push(0xc6);
                self.out.extend_from_slice(
                    &u32::try_from(value.len())
                        .expect("below 4 GiB")
                        .to_be_bytes(),
                );
            }
        }

        self.out.extend_from_slice(value);
        self
    }

    /// Appends a field whose value is already MessagePack.
    pub fn raw(&mut self, name: &str, value: &[u8]) -> &mut Self {
        self.name(name);
        self.out.extend_from_slice(value);
        self
    }

    /// Appends a map inside the map.
    pub fn map(&mut self, name: &str, fill: impl FnOnce(&mut MapWriter<'_>)) -> &mut Self {
        self.name(name);
        let mut inner = MapWriter::begin(self.out);
        fill(&mut inner);
        inner.end();
        self
    }

    /// Completes the map: fills in the number of fields.
    pub fn end(self) {
        let n = self.count.to_be_bytes();
        self.out[self.start + 1..self.start + 3].copy_from_slice(&n);
    }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    match text.len() {
        n @ 0..=31 => out.push(0xa0 | n as u8),
        n @ 32..=255 => out.extend_from_slice(&[0xd9, n as u8]),
        n => {
            out.push(0xdb);
            out.extend_from_slice(&u32::try_from(n).expect("below 4 GiB").to_be_bytes());
        }
    }

    out.extend_from_slice(text.as_bytes());
}

fn put_int(out: &mut Vec<u8>, n: i64) {
    match n {
        0..=0x7f => out.push(n as u8),
        -32..=-1 => out.push(n as i8 as u8),
        0x80..=0xff => out.extend_from_slice(&[0xcc, n as u8]),
        0x100..=0xffff => {
            out.push(0xcd);
            out.extend_from_slice(&(n as u16).to_be_bytes());
        }
        0x1_0000..=0xffff_ffff => {
            out.push(0xce);
            out.extend_from_slice(&(n as u32).to_be_bytes());
        }
        0x1_0000_0000.. => {
            out.push(0xcf);
            out.extend_from_slice(&(n as u64).to_be_bytes());
        }
        _ => {
            out.push(0xd3);
            out.extend_from_slice(&n.to_be_bytes());
        }
    }
}
