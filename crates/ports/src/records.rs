//! Records as the engine moves them: many of them in one arena, so that reading, processing and
//! writing a batch costs no allocation per record.
//!
//! The same container carries input (what a poll returned) and output (what a transaction appends).
//! For output the offset is unknown and 0.

use super::topics::{TopicId, TopicPartition};

/// Time of a record in an input topic that the log did not stamp: its client chose the time, which
/// decides nothing. See [`super::topics::TopicSpec::append_time`].
pub const NO_LOG_TIME: i64 = -1;

/// A batch of records in one arena. Ranges are offsets into `bytes`.
#[derive(Default, Clone)]
pub struct Records {
    bytes: Vec<u8>,
    slots: Vec<RecordSlot>,
}

#[derive(Clone, Copy)]
struct RecordSlot {
    at: TopicPartition,
    offset: u64,
    timestamp_ms: i64,
    start: usize,
    key: u32,
    value: u32,
    headers: u32,
}

/// Stands for "no key" or "no value"; a length can never reach it, record sizes being bounded far
/// below.
const NONE: u32 = u32::MAX;

/// One record, borrowed from its batch.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Where it is, or where it shall go.
    pub at: TopicPartition,
    /// Its offset in the partition; 0 in a batch of output.
    pub offset: u64,
    /// Log time (milliseconds since 1970): append time on topics written by clients, the root's
    /// append time on ours.
    pub timestamp_ms: i64,
    /// The key's bytes.
    pub key: Option<&'a [u8]>,
    /// The value's bytes; none is a tombstone.
    pub value: Option<&'a [u8]>,
    /// The headers, if the reader asked for them.
    pub headers: Headers<'a>,
}

/// Headers in their packed form: `len u8, name, len u32 LE, value` each.
#[derive(Clone, Copy, Default)]
pub struct Headers<'a>(&'a [u8]);

impl<'a> Headers<'a> {
    /// Wraps packed bytes made by [`HeaderBuf`].
    pub fn packed(bytes: &'a [u8]) -> Self {
        Headers(bytes)
    }

    /// The packed bytes.
    pub fn as_bytes(&self) -> &'a [u8] {
        self.0
    }

    /// Bytes from outside; none if they are not what [`HeaderBuf`] makes.
    pub fn checked(bytes: &'a [u8]) -> Option<Self> {
        let mut rest = bytes;
        while let Some((&n, tail)) = rest.split_first() {
            let (_, tail) = tail.split_at_checked(n as usize)?;
            let (len, tail) = tail.split_first_chunk::<4>()?;
            (_, rest) = tail.split_at_checked(u32::from_le_bytes(*len) as usize)?;
        }

        Some(Headers(bytes))
    }

    /// All headers in order.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, &'a [u8])> + use<'a> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let (&n, tail) = rest.split_first()?;
            let (name, tail) = tail.split_at(n as usize);
            let (len, tail) = tail.split_at(4);
            let len = u32::from_le_bytes(len.try_into().expect("four bytes")) as usize;
            let (value, tail) = tail.split_at(len);
            rest = tail;
            Some((std::str::from_utf8(name).unwrap_or(""), value))
        })
    }

    /// The first header of that name.
    pub fn get(&self, name: &str) -> Option<&'a [u8]> {
        self.iter().find(|(n, _)| *n == name).map(|(_, v)| v)
    }

    /// The first header of that name, if it is UTF-8.
    pub fn text(&self, name: &str) -> Option<&'a str> {
        std::str::from_utf8(self.get(name)?).ok()
    }
}

impl std::fmt::Debug for Headers<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map()
            .entries(self.iter().map(|(n, v)| (n, String::from_utf8_lossy(v))))
            .finish()
    }
}

/// Packs headers; reusable.
#[derive(Default, Clone)]
pub struct HeaderBuf(Vec<u8>);

impl HeaderBuf {
    /// Empties it for the next record.
    pub fn clear(&mut self) -> &mut Self {
        self.0.clear();
        self
    }

    /// Adds a header. Names beyond 255 bytes are cut: ours are short, and a client's are not
    /// needed.
    pub fn push(&mut self, name: &str, value: &[u8]) -> &mut Self {
        let n = name.len().min(255);
        self.0.push(n as u8);
        self.0.extend_from_slice(&name.as_bytes()[..n]);
        self.0
            .extend_from_slice(&(value.len() as u32).to_le_bytes());
        self.0.extend_from_slice(value);
        self
    }

    /// The packed headers.
    pub fn headers(&self) -> Headers<'_> {
        Headers(&self.0)
    }
}

impl Records {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets the records, keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.slots.clear();
    }

    /// How many records there are.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Bytes of keys, values and headers together.
    pub fn size_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Copies a record in.
    pub fn push(&mut self, r: &Record<'_>) {
        let start = self.bytes.len();
        let mut put = |part: Option<&[u8]>| match part {
            None => NONE,
            Some(b) => {
                self.bytes.extend_from_slice(b);
                u32::try_from(b.len()).expect("a record's part is below 4 GiB")
            }
        };

        let key = put(r.key);
        let value = put(r.value);
        let headers = put(Some(r.headers.0));
        self.slots.push(RecordSlot {
            at: r.at,
            offset: r.offset,
            timestamp_ms: r.timestamp_ms,
            start,
            key,
            value,
            headers,
        });
    }

    /// The record at a place in the batch.
    pub fn get(&self, i: usize) -> Record<'_> {
        let s = &self.slots[i];
        let mut at = s.start;
        let mut take = |len: u32| {
            (len != NONE).then(|| {
                let part = &self.bytes[at..at + len as usize];
                at += len as usize;
                part
            })
        };

        let key = take(s.key);
        let value = take(s.value);
        let headers = take(s.headers);
        Record {
            at: s.at,
            offset: s.offset,
            timestamp_ms: s.timestamp_ms,
            key,
            value,
            headers: Headers(headers.unwrap_or_default()),
        }
    }

    /// All records in order.
    pub fn iter(&self) -> impl Iterator<Item = Record<'_>> {
        (0..self.len()).map(|i| self.get(i))
    }

    /// How many records are of that topic.
    pub fn count_topic(&self, topic: TopicId) -> u64 {
        self.slots.iter().filter(|s| s.at.topic == topic).count() as u64
    }
}
