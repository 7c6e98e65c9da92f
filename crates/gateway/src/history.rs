//! Reads older notifications from the log, one page at a time. Work and memory are bounded, and a
//! connection that does not read its stream occupies no reader.

use std::sync::Arc;
use std::time::Duration;

use ports::records::Records;
use ports::topics::TopicPartition;
use ports::{Limits, LogError, StartOffset};

use super::feed::{Feed, Item, pick};

/// A page ends at this number of notifications or of bytes.
const ITEMS: usize = 128;
const BYTES: usize = 128 << 10;
/// A page also ends after this number of records of all users, so that other readers get a turn.
const SCANNED: usize = 50_000;
const LIMITS: Limits = Limits {
    records: 2_000,
    bytes: 1 << 20,
    age: Duration::from_millis(50),
};
/// The log counts as silent after this number of empty polls in a row.
const PATIENCE: u32 = 50;

pub(super) struct Page {
    pub(super) items: Vec<Item>,
    /// Offset at which the next page begins.
    pub(super) next: u64,
}

/// Reads a user's notifications with numbers above `after`, at offsets from `from` and below
/// `upto`.
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
    // The beginning of the log may have been deleted after the index was built.
    let start = feed.log.bounds(at)?.start;
    let mut page = Page {
        items: Vec::new(),
        next: from.max(start),
    };

    if page.next >= upto {
        return Ok(page);
    }

    let mut reader = feed.log.reader(
        at.topic,
        &[(at.partition, StartOffset::Offset(page.next))],
        false,
    )?;
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
                    // A hole in the numbers ends the page. The cursor reports the hole separately.
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
