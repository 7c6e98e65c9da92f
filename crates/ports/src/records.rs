//! Records of one batch in one arena. Reading, processing and writing a batch costs no allocation
//! per record.
//!
//! The same container carries input (the result of a poll) and output (the records of a
//! transaction). Output records have no offset yet; the field is 0.

use super::topics::{TopicId, TopicPartition};

/// Time of an input record without a log stamp. The client chose the time, so no decision uses the
/// time. See [`super::topics::TopicSpec::append_time`].
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

/// Length that means "no key" or "no value". Record sizes are bounded far below this number.
const NONE: u32 = u32::MAX;

/// One record, borrowed from its batch.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Source or destination.
    pub at: TopicPartition,
    /// Offset in the partition; 0 in a batch of output.
    pub offset: u64,
    /// Log time in milliseconds since 1970. In topics written by clients: append time. In our own
    /// topics: append time of the client record at the root.
    pub timestamp_ms: i64,
    pub key: Option<&'a [u8]>,
    /// The value. `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    /// The headers, if the reader asked for them.
    pub headers: Headers<'a>,
}

/// Headers in their packed form: `len u8, name, len u32 LE, value` each.
#[derive(Clone, Copy, Default)]
pub struct Headers<'a>(&'a [u8]);

impl<'a> Headers<'a> {
    pub fn packed(bytes: &'a [u8]) -> Self {
        Headers(bytes)
    }

    pub fn as_bytes(&self) -> &'a [u8] {
        self.0
    }

    /// Wraps bytes from outside. `None` if [`HeaderBuf`] cannot have made the bytes.
    pub fn checked(bytes: &'a [u8]) -> Option<Self> {
        let mut rest = bytes;
        while let Some((&n, tail)) = rest.split_first() {
            let (_, tail) = tail.split_at_checked(n as usize)?;
            let (len, tail) = tail.split_first_chunk::<4>()?;
            (_, rest) = tail.split_at_checked(u32::from_le_bytes(*len) as usize)?;
        }

        Some(Headers(bytes))
    }

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

    /// The first header with the name.
    pub fn get(&self, name: &str) -> Option<&'a [u8]> {
        self.iter().find(|(n, _)| *n == name).map(|(_, v)| v)
    }

    /// The first header with the name, if the value is UTF-8.
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

/// Packs headers. Reusable for many records.
#[derive(Default, Clone)]
pub struct HeaderBuf(Vec<u8>);

impl HeaderBuf {
    /// Empties the buffer for the next record.
    pub fn clear(&mut self) -> &mut Self {
        self.0.clear();
        self
    }

    /// Adds a header. Names are cut at 255 bytes: our names are short, and names of clients are not
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

    pub fn headers(&self) -> Headers<'_> {
        Headers(&self.0)
    }
}

impl Records {
    pub fn new() -> Self {
        Self::default()
    }

    /// Removes all records and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.slots.clear();
    }

    /// Number of records.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Bytes of keys, values and headers together.
    pub fn size_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Copies a record into the batch.
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

    /// The record at index `i`.
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

    pub fn iter(&self) -> impl Iterator<Item = Record<'_>> {
        (0..self.len()).map(|i| self.get(i))
    }

    /// Number of records of the topic.
    pub fn count_topic(&self, topic: TopicId) -> u64 {
        self.slots.iter().filter(|s| s.at.topic == topic).count() as u64
    }
}
