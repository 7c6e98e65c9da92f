//! Reads older notifications from the log, a page at a time: bounded work, bounded memory, and no
//! place held for a connection that does not read.

use std::sync::Arc;
use std::time::Duration;

use super::feed::{Feed, Item, pick};
use ports::records::Records;
use ports::topics::TopicPartition;
use ports::{From, Limits, LogError};

/// Most of a page.
const ITEMS: usize = 128;
const BYTES: usize = 128 << 10;
/// Records of all users that are looked at for one page; then others get their turn.
const SCANNED: usize = 50_000;
const LIMITS: Limits = Limits {
    records: 2_000,
    bytes: 1 << 20,
    age: Duration::from_millis(50),
};
/// Polls without a record before the log counts as silent.
const PATIENCE: u32 = 50;

/// What was found.
pub(super) struct Page {
    pub(super) items: Vec<Item>,
    /// Where to read on.
    pub(super) next: u64,
}

/// A user's notifications after number `after` that lie from offset `from` on and before `upto`.
pub(super) async fn page(
    feed: &Arc<Feed>,
    at: TopicPartition,
    user: Arc<str>,
    after: u64,
    from: u64,
    upto: u64,
) -> Result<Page, LogError> {
    let stopping = |_| LogError::Unavailable("the gateway is stopping".into());
    let _turn = feed.readers.acquire().await.map_err(stopping)?;
    let feed = feed.clone();
    let read = tokio::task::spawn_blocking(move || read(&feed, at, &user, after, from, upto));
    read.await
        .map_err(|e| LogError::Unavailable(format!("reading history: {e}")))?
}

fn read(
    feed: &Feed,
    at: TopicPartition,
    user: &str,
    mut after: u64,
    from: u64,
    upto: u64,
) -> Result<Page, LogError> {
    // The log may have been cut off at its beginning since the index was made.
    let start = feed.log.bounds(at)?.start;
    let mut page = Page {
        items: Vec::new(),
        next: from.max(start),
    };

    if page.next >= upto {
        return Ok(page);
    }

    let mut reader =
        feed.log
            .reader(at.topic, &[(at.partition, From::Offset(page.next))], false)?;
    let mut batch = Records::new();
    let mut bytes = 0;
    let mut scanned = 0;
    let mut silent = 0;
    while page.next < upto && page.items.len() < ITEMS && bytes < BYTES && scanned < SCANNED {
        batch.clear();
        reader.poll(Duration::from_millis(100), LIMITS, &mut batch)?;
        if batch.is_empty() {
            if reader.caught_up() {
                page.next = upto;
            }

            silent += 1;
            if silent > PATIENCE {
                return Err(LogError::Unavailable(
                    "the log stopped answering while history was read".into(),
                ));
            }

            continue;
        }

        silent = 0;
        for r in batch.iter() {
            if r.offset >= upto {
                page.next = upto;
                break;
            }

            if page.items.len() >= ITEMS || bytes >= BYTES {
                break;
            }

            scanned += 1;
            page.next = r.offset + 1;
            if let Some(item) = pick(&r, user, after) {
                if item.seq != after + 1 && !page.items.is_empty() {
                    // A hole in the numbers: it is told of by itself, so this page ends before it.
                    page.next = r.offset;
                    return Ok(page);
                }

                after = item.seq;
                bytes += item.value.len();
                page.items.push(item);
            }
        }
    }

    Ok(page)
}
