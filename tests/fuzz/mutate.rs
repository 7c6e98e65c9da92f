//! Makes new inputs from old ones.

/// A small generator, good enough for mutations, and the same on every machine.
pub struct Mutator(u64);

const NUMBERS: [u64; 20] = [
    0,
    1,
    2,
    7,
    0x1f,
    0x20,
    0x7f,
    0x80,
    0xff,
    0x100,
    0x7fff,
    0x8000,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    1 << 62,
    i64::MAX as u64,
    1 << 63,
    u64::MAX,
];

impl Mutator {
    pub fn new(seed: u64) -> Self {
        Mutator(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Below `n`; 0 if `n` is 0.
    fn below(&mut self, n: usize) -> usize {
        if n == 0 {
            0
        } else {
            ((self.next() >> 33) % n as u64) as usize
        }
    }

    /// Fills `into` with bytes close to a sample, and now and then with noise.
    pub fn make(&mut self, samples: &[Vec<u8>], words: &[&[u8]], into: &mut Vec<u8>) {
        into.clear();
        if samples.is_empty() || self.below(64) == 0 {
            let length = self.below(80);
            into.extend((0..length).map(|_| self.next() as u8));
            return;
        }

        let which = self.below(samples.len());
        into.extend_from_slice(&samples[which]);

        // Mostly one or two changes, because an input with a thousand changes already fails the
        // first check.
        let most = 1 << self.below(4);
        for _ in 0..=self.below(most) {
            self.change(samples, words, into);
        }
    }

    fn change(&mut self, samples: &[Vec<u8>], words: &[&[u8]], b: &mut Vec<u8>) {
        let at = self.below(b.len() + 1);
        match self.below(13) {
            0 | 1 => {
                if let Some(byte) = b.get_mut(at) {
                    *byte ^= 1 << self.below(8);
                }
            }
            2 => {
                let new = self.next() as u8;
                if let Some(byte) = b.get_mut(at) {
                    *byte = new;
                }
            }
            3 => b.truncate(at),
            4 => {
                let end = (at + 1 + self.below(8)).min(b.len());
                b.drain(at.min(end)..end);
            }
            5 => {
                let noise: Vec<u8> = (0..=self.below(4)).map(|_| self.next() as u8).collect();
                b.splice(at..at, noise);
            }
            // A false length: as one byte, or little or big endian of any width, or in seven-bit
            // groups.
            6 | 7 => self.number(at, b),
            8 => {
                let end = (at + self.below(24)).min(b.len());
                let copy = b[at.min(end)..end].to_vec();
                let to = self.below(b.len() + 1);
                b.splice(to..to, copy);
            }
            9 => {
                let other = &samples[self.below(samples.len())];
                let from = self.below(other.len() + 1);
                b.truncate(at);
                b.extend_from_slice(&other[from..]);
            }
            10 if !words.is_empty() => {
                let word = words[self.below(words.len())];
                let end = if self.below(2) == 0 {
                    at
                } else {
                    (at + word.len()).min(b.len())
                };

                b.splice(at..end, word.iter().copied());
            }
            11 => {
                if let Some(byte) = b.get_mut(at) {
                    *byte = byte.wrapping_add(if self.below(2) == 0 { 1 } else { 255 });
                }
            }
            // Text: digits become other digits, or many.
            _ => {
                let digit = b'0' + self.below(10) as u8;
                match b.get(at) {
                    Some(c) if c.is_ascii_digit() && self.below(3) > 0 => b[at] = digit,
                    _ => {
                        let many = vec![digit; 1 + self.below(30)];
                        b.splice(at..at, many);
                    }
                }
            }
        }
    }

    fn number(&mut self, at: usize, b: &mut Vec<u8>) {
        let n = NUMBERS[self.below(NUMBERS.len())];
        let width = [1, 2, 4, 8][self.below(4)];
        let bytes: Vec<u8> = match self.below(3) {
            0 => n.to_le_bytes()[..width].to_vec(),
            1 => n.to_be_bytes()[8 - width..].to_vec(),
            _ => {
                let mut n = n;
                let mut out = Vec::new();
                while n >= 0x80 {
                    out.push(n as u8 | 0x80);
                    n >>= 7;
                }

                out.push(n as u8);
                out
            }
        };

        let end = (at + bytes.len()).min(b.len());
        b.splice(at..end, bytes);
    }
}
