//! Reads older notifications from the log, one page at a time. Work and memory are bounded, and a
//! connection that does not read its stream occupies no reader.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use ports::records::Records;
use ports::topics::TopicPartition;
use ports::{Limits, Log, LogError, StartOffset};
use tokio::sync::Semaphore;

use crate::feed_item::{FeedItem, pick};

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
    pub(super) items: Vec<FeedItem>,
    /// Offset at which the next page begins.
    pub(super) next: u64,
    /// Number of the last notification, or the position before the page.
    after: u64,
    bytes: usize,
    scanned: usize,
}

/// The notifications of a user with numbers above `after`, at offsets from `from` and below `upto`.
pub(super) struct PageRequest {
    pub(super) at: TopicPartition,
    pub(super) user: Arc<str>,
    pub(super) after: u64,
    pub(super) from: u64,
    pub(super) upto: u64,
}

/// Reads a page. At most as many pages are read at the same time as `readers` has permits.
pub(super) async fn page(
    log: &Arc<dyn Log>,
    readers: &Semaphore,
    request: PageRequest,
) -> Result<Page, LogError> {
    let stopping = |_| LogError::Unavailable("the gateway is stopping".into());
    let _turn = readers.acquire().await.map_err(stopping)?;
    let log = log.clone();
    let read = tokio::task::spawn_blocking(move || read(&*log, &request));
    read.await
        .map_err(|e| LogError::Unavailable(format!("reading history: {e}")))?
}

// Not a `PartitionScan`: a page ends at bounds of its own, and a silent log is an error.
fn read(log: &dyn Log, request: &PageRequest) -> Result<Page, LogError> {
    let PageRequest { at, upto, .. } = *request;

    // The beginning of the log may have been deleted after the index was built.
    let start = log.bounds(at)?.start;
    let mut page = Page {
        items: Vec::new(),
        next: request.from.max(start),
        after: request.after,
        bytes: 0,
        scanned: 0,
    };

    if page.next >= upto {
        return Ok(page);
    }

    let from = [(at.partition, StartOffset::Offset(page.next))];
    let mut reader = log.reader(at.topic, &from, false)?;
    let mut batch = Records::new();
    let mut silent = 0;
    while page.next < upto && !page.is_full() {
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
        if page.take(&batch, request).is_break() {
            break;
        }
    }

    Ok(page)
}

impl Page {
    fn is_full(&self) -> bool {
        self.is_full_of_items() || self.scanned >= SCANNED
    }

    fn is_full_of_items(&self) -> bool {
        self.items.len() >= ITEMS || self.bytes >= BYTES
    }

    /// Takes in records. Breaks if the page ends within the records.
    fn take(&mut self, batch: &Records, request: &PageRequest) -> ControlFlow<()> {
        for r in batch.iter() {
            if r.offset >= request.upto {
                self.next = request.upto;
                return ControlFlow::Break(());
            }

            if self.is_full_of_items() {
                return ControlFlow::Break(());
            }

            self.scanned += 1;
            self.next = r.offset + 1;
            if let Some(item) = pick(&r, &request.user, self.after) {
                if item.seq != self.after + 1 && !self.items.is_empty() {
                    // A hole in the numbers ends the page. The cursor reports the hole separately.
                    self.next = r.offset;
                    return ControlFlow::Break(());
                }

                self.after = item.seq;
                self.bytes += item.value.len();
                self.items.push(item);
            }
        }

        ControlFlow::Continue(())
    }
}
