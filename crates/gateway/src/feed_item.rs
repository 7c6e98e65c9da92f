//! One notification, read from its record.

use bytes::Bytes;
use ports::records::Record;
use wire::input::read_map;

/// One notification as stored in the log.
#[derive(Clone, Debug)]
pub struct FeedItem {
    /// The notification's `user_seq`.
    pub seq: u64,
    /// Offset in the user's partition.
    pub offset: u64,
    /// Log time.
    pub time_ms: i64,
    /// The record's value: MessagePack, unchanged.
    pub value: Bytes,
}

/// The user and the notification in a record; `None` if the record is not a notification.
pub(crate) fn read_item<'a>(r: &Record<'a>) -> Option<(&'a str, FeedItem)> {
    let key = std::str::from_utf8(r.key?).ok()?;
    let value = r.value?;
    let mut seq = None;
    read_map(value, |name, v| {
        if name == "user_seq" {
            seq = v.i64();
        }
    })
    .ok()?;
    let seq = u64::try_from(seq?).ok().filter(|n| *n > 0)?;
    Some((
        key,
        FeedItem {
            seq,
            offset: r.offset,
            time_ms: r.timestamp_ms,
            value: Bytes::copy_from_slice(value),
        },
    ))
}

/// The notification in a record, if the record belongs to `user` and the number is above `after`.
pub(crate) fn pick(r: &Record<'_>, user: &str, after: u64) -> Option<FeedItem> {
    if r.key != Some(user.as_bytes()) {
        return None;
    }

    read_item(r)
        .map(|(_, item)| item)
        .filter(|item| item.seq > after)
}
