//! Notifications of all users: the newest notifications in memory, the older notifications in the
//! log, and an index into the log.
//!
//! One reader follows the topic `notifications` for all connections and keeps the notifications in
//! memory. When the memory of a partition is full, the oldest notification of that partition leaves
//! memory, but stays in the log. For each user the index keeps the offset of the first notification
//! and of every 64th one. An older notification is found by reading the log from the nearest
//! indexed offset. So memory is bounded by `memory + users x ~200 bytes + notifications / 4 bytes`,
//! counting notifications within the history. The number of connections does not matter.
//!
//! Each connection has a [`FeedCursor`]. The cursor asks for the notifications after its position,
//! and waits for the next notification. The same call serves history and live notifications. So no
//! notification is lost or repeated at the change from history to live.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use ports::partitioner;
use ports::records::Record;
use ports::topics::{TopicId, TopicPartition};
use ports::{Log, LogError};
use rustc_hash::FxHashMap;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use crate::feed_item::{FeedItem, read_item};
use crate::history::{self, PageRequest};

/// The index keeps one offset for this many notifications of a user.
const MARK_EVERY: u64 = 64;
/// Maximum number of notifications in one answer of a cursor.
const PAGE_ITEMS: usize = 64;
/// Approximate overhead of one notification in memory, in bytes.
const ITEM_BYTES: usize = 96;
/// Maximum number of history pages read from the log at the same time. Further reads wait.
const READERS: usize = 4;

/// Answer of a cursor.
#[derive(Debug)]
pub enum Next {
    /// Notifications after the position, in order and without a gap.
    Items(Vec<FeedItem>),
    /// The notification after the position is not available. Either the notification is older than
    /// the history or missing in the log. Or the position is ahead of the log, and the time for the
    /// log to catch up is over. The cursor now stands before `first`.
    Gone {
        /// Number of the next notification that is available or will come.
        first: u64,
    },
}

/// Start position of a cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// After the notification with this number; 0: before the first notification.
    After(u64),
    /// With the first notification that comes from now on.
    Now,
    /// With the oldest notification within the history, or with the first one to come, at any
    /// number.
    Oldest,
}

/// All notifications of a topic. The module's comment explains memory and index.
pub struct Feed {
    pub(super) log: Arc<dyn Log>,
    pub(super) topic: TopicId,
    parts: Vec<Mutex<FeedPartition>>,
    part_bytes: usize,
    /// Longest time that a position may be ahead of the feed. Another gateway may have read faster
    /// than this gateway.
    ahead: Duration,
    ready: watch::Sender<bool>,
    pub(super) readers: Semaphore,
    /// Notifications and malformed records read since the start.
    pub read: AtomicU64,
    /// Pages of history read from the log.
    pub pages: AtomicU64,
    /// Records of the topic that are not valid notifications.
    pub odd: AtomicU64,
}

#[derive(Default)]
struct FeedPartition {
    users: FxHashMap<Arc<str>, UserFeed>,
    /// Users of the notifications in memory, from the oldest notification to the newest.
    order: VecDeque<Arc<str>>,
    bytes: usize,
    /// First offset that was not read yet.
    next: u64,
}

#[derive(Default)]
struct UserFeed {
    /// Number and offset of the first notification of the history, and of every 64th one.
    marks: Vec<(u64, u64)>,
    recent: VecDeque<FeedItem>,
    /// Number of the newest notification; 0: no notification.
    latest: u64,
    wake: Option<watch::Sender<u64>>,
}

/// Size and progress of a partition, for the metrics.
#[derive(Clone, Copy, Debug, Default)]
pub struct Extent {
    pub users: usize,
    /// Bytes of notifications in memory.
    pub bytes: usize,
    /// First offset that was not read yet.
    pub next: u64,
}

impl Feed {
    /// An empty feed. `starts` has the first offset of the history for each partition.
    pub fn new(
        log: Arc<dyn Log>,
        topic: TopicId,
        starts: &[u64],
        memory: usize,
        ahead: Duration,
    ) -> Arc<Feed> {
        let parts = starts
            .iter()
            .map(|next| {
                Mutex::new(FeedPartition {
                    next: *next,
                    ..FeedPartition::default()
                })
            })
            .collect();

        Arc::new(Feed {
            log,
            topic,
            parts,
            part_bytes: memory / starts.len().max(1),
            ahead,
            ready: watch::channel(false).0,
            readers: Semaphore::new(READERS),
            read: AtomicU64::new(0),
            pages: AtomicU64::new(0),
            odd: AtomicU64::new(0),
        })
    }

    fn part(&self, user: &str) -> (u32, MutexGuard<'_, FeedPartition>) {
        let partition = self.partition(user);
        (partition, self.lock(partition))
    }

    fn lock(&self, partition: u32) -> MutexGuard<'_, FeedPartition> {
        self.parts[partition as usize]
            .lock()
            .expect("nobody panics while holding a partition")
    }

    /// The partition that holds a user.
    pub fn partition(&self, user: &str) -> u32 {
        partitioner::partition(
            user.as_bytes(),
            u32::try_from(self.parts.len()).expect("partitions are few"),
        )
    }

    /// First offset of a partition that was not read yet.
    pub fn next_offset(&self, partition: u32) -> u64 {
        self.lock(partition).next
    }

    /// Offsets between the end of the log and the records that were read. Asks the log.
    pub(crate) fn lag(&self) -> Result<u64, LogError> {
        let mut lag = 0;
        for (partition, extent) in (0..).zip(self.extents()) {
            let at = TopicPartition::new(self.topic, partition);
            let end = self.log.bounds(at)?.stable_end;
            lag += end.saturating_sub(extent.next);
        }

        Ok(lag)
    }

    /// Size and progress of each partition.
    pub fn extents(&self) -> Vec<Extent> {
        let of = |p: &Mutex<FeedPartition>| {
            let p = p.lock().expect("nobody panics while holding a partition");
            Extent {
                users: p.users.len(),
                bytes: p.bytes,
                next: p.next,
            }
        };

        self.parts.iter().map(of).collect()
    }

    /// Takes in records of the topic, in order of offset, and wakes the cursors that wait for
    /// records.
    pub fn take<'a>(&self, records: impl Iterator<Item = Record<'a>>) {
        let mut touched: Vec<(u32, Arc<str>)> = Vec::new();
        for r in records {
            let mut part = self.lock(r.at.partition);
            if r.offset < part.next {
                continue;
            }

            part.next = r.offset + 1;
            self.read.fetch_add(1, Ordering::Relaxed);
            let Some((user, item)) = read_item(&r) else {
                self.odd.fetch_add(1, Ordering::Relaxed);
                continue;
            };

            let waits = part.push(user, item, self.part_bytes);
            if let Some(user) = waits
                && touched.last().is_none_or(|(_, last)| *last != user)
            {
                touched.push((r.at.partition, user));
            }
        }

        for (partition, user) in touched {
            let part = self.lock(partition);
            if let Some(u) = part.users.get(&user)
                && let Some(wake) = &u.wake
            {
                wake.send_replace(u.latest);
            }
        }
    }

    /// Marks the history as read: all records that existed at the start are taken in.
    pub fn set_ready(&self) {
        self.ready.send_replace(true);
    }

    /// Resolves once [`Feed::set_ready`] was called.
    pub async fn ready(&self) {
        // The wait cannot fail, because `self` holds the sender.
        self.ready
            .subscribe()
            .wait_for(|r| *r)
            .await
            .map(drop)
            .unwrap_or_default();
    }

    pub fn is_ready(&self) -> bool {
        *self.ready.borrow()
    }

    /// The number of a user's newest notification; `None`: no notification within the history.
    pub fn latest(&self, user: &str) -> Option<u64> {
        self.part(user)
            .1
            .users
            .get(user)
            .map(|u| u.latest)
            .filter(|n| *n > 0)
    }

    /// Number of connections and webhook endpoints that follow a user.
    pub fn followers(&self, user: &str) -> usize {
        self.part(user)
            .1
            .users
            .get(user)
            .and_then(|u| u.wake.as_ref())
            .map_or(0, watch::Sender::receiver_count)
    }

    /// A cursor over a user's notifications.
    pub fn cursor(self: &Arc<Self>, user: &str, begin: Begin) -> FeedCursor {
        let user: Arc<str> = user.into();
        let (partition, mut part) = self.part(&user);
        let u = part.users.entry(user.clone()).or_default();
        let wake = u
            .wake
            .get_or_insert_with(|| watch::channel(0).0)
            .subscribe();
        let known = u.latest;
        drop(part);

        // If the user has no notification within the history, the number of the next notification
        // is unknown.
        let (after, placed) = match begin {
            Begin::After(after) => (after, true),
            Begin::Now => (known, known > 0),
            Begin::Oldest => (0, false),
        };

        FeedCursor {
            feed: self.clone(),
            at: TopicPartition::new(self.topic, partition),
            user,
            after,
            placed,
            known,
            ahead: None,
            scan: None,
            wake: Some(wake),
            live: false,
        }
    }
}

impl FeedPartition {
    /// Adds a notification. Returns the user's name if a cursor waits for this user.
    fn push(&mut self, user: &str, item: FeedItem, bytes_max: usize) -> Option<Arc<str>> {
        let name = match self.users.get_key_value(user) {
            Some((name, _)) => name.clone(),
            None => Arc::from(user),
        };

        let u = self.users.entry(name.clone()).or_default();
        if item.seq <= u.latest {
            // Only a duplicate record of the same number can get here. The first record counts.
            return None;
        }

        if u.marks.is_empty() || item.seq.is_multiple_of(MARK_EVERY) {
            u.marks.push((item.seq, item.offset));
        }

        u.latest = item.seq;
        self.bytes += item.value.len() + ITEM_BYTES;
        u.recent.push_back(item);
        let waits = u.wake.is_some().then(|| name.clone());
        self.order.push_back(name);
        while self.bytes > bytes_max {
            let Some(oldest) = self.order.pop_front() else {
                break;
            };

            if let Some(item) = self
                .users
                .get_mut(&oldest)
                .and_then(|u| u.recent.pop_front())
            {
                self.bytes -= item.value.len() + ITEM_BYTES;
            }
        }

        waits
    }
}

/// Next action of a cursor.
enum FeedStep {
    Have(Next),
    /// Read the log from the first offset up to the second one.
    Scan(u64, u64),
    Wait,
    /// The position is ahead of the newest notification. Further notifications may be on their way.
    Ahead,
}

/// A reader's position among a user's notifications.
pub struct FeedCursor {
    feed: Arc<Feed>,
    at: TopicPartition,
    user: Arc<str>,
    after: u64,
    /// False until the first notification sets the position of a cursor that began without a
    /// position.
    placed: bool,
    /// Number of the newest notification at the creation of the cursor.
    known: u64,
    /// Time until which a position ahead of the newest notification may still be reached.
    ahead: Option<Instant>,
    /// Offset up to which the log was read for this cursor. A later scan does not read before it.
    scan: Option<u64>,
    /// `None` only during the drop.
    wake: Option<watch::Receiver<u64>>,
    live: bool,
}

impl FeedCursor {
    /// Number of the last notification that the cursor returned.
    pub fn after(&self) -> u64 {
        self.after
    }

    /// Reports that the cursor has at least once returned all available notifications.
    pub fn was_live(&self) -> bool {
        self.live
    }

    /// Reports that the next notification is no longer in memory.
    pub fn is_behind(&self) -> bool {
        let part = self.feed.lock(self.at.partition);
        part.users
            .get(&self.user)
            .is_some_and(|u| matches!(self.step(u), FeedStep::Scan(..)))
    }

    fn step(&self, u: &UserFeed) -> FeedStep {
        if u.latest <= self.after {
            return if (1..self.after).contains(&u.latest) {
                FeedStep::Ahead
            } else {
                FeedStep::Wait
            };
        }

        let wanted = self.after + 1;
        if let Some(front) = u.recent.front()
            && front.seq <= wanted
        {
            // Numbers rise by one, except at holes in the log itself. So search for the number; do
            // not compute an index.
            let from = u.recent.partition_point(|i| i.seq < wanted);
            if u.recent[from].seq > wanted {
                return FeedStep::Have(Next::Gone {
                    first: u.recent[from].seq,
                });
            }

            let mut last = self.after;
            let items = u
                .recent
                .iter()
                .skip(from)
                .take_while(|i| std::mem::replace(&mut last, i.seq) + 1 == i.seq);
            return FeedStep::Have(Next::Items(items.take(PAGE_ITEMS).cloned().collect()));
        }

        let Some(&(first, _)) = u.marks.first() else {
            return FeedStep::Wait;
        };

        if wanted < first {
            return FeedStep::Have(Next::Gone { first });
        }

        let place = u
            .marks
            .partition_point(|(seq, _)| *seq <= wanted)
            .saturating_sub(1);
        let upto = u.recent.front().map_or(u64::MAX, |i| i.offset);
        FeedStep::Scan(self.scan.unwrap_or(0).max(u.marks[place].1), upto)
    }

    /// The next step from the position, without waiting.
    fn look(&mut self) -> FeedStep {
        let part = self.feed.lock(self.at.partition);

        // Mark the channel as seen before reading the state. Then a notification that
        // arrives in between wakes this cursor.
        self.wake
            .as_mut()
            .expect("there until the drop")
            .mark_unchanged();
        let next = part.next;
        if !self.placed
            && let Some((first, _)) = part.users.get(&self.user).and_then(|u| u.marks.first())
        {
            (self.after, self.placed) = (first - 1, true);
        }

        match part
            .users
            .get(&self.user)
            .map_or(FeedStep::Wait, |u| self.step(u))
        {
            FeedStep::Scan(from, upto) => FeedStep::Scan(from, upto.min(next)),
            other => other,
        }
    }

    /// The next notifications after the position. Waits for the next notification if there are
    /// none. A dropped future loses nothing.
    pub async fn next(&mut self) -> Result<Next, LogError> {
        loop {
            let step = self.look();
            match step {
                FeedStep::Have(Next::Gone { first }) => {
                    (self.after, self.scan) = (first - 1, None);
                    return Ok(Next::Gone { first });
                }
                FeedStep::Have(Next::Items(items)) => return Ok(self.answer(items)),
                FeedStep::Scan(from, upto) => {
                    let request = PageRequest {
                        at: self.at,
                        user: self.user.clone(),
                        after: self.after,
                        from,
                        upto,
                    };
                    let page = history::page(&self.feed.log, &self.feed.readers, request).await?;

                    self.scan = Some(page.next);
                    self.feed.pages.fetch_add(1, Ordering::Relaxed);
                    match page.items.first() {
                        None if page.next >= upto => return Ok(self.nothing_before(upto)),
                        None => {}
                        Some(i) if i.seq > self.after + 1 => {
                            let first = i.seq;
                            (self.after, self.scan) = (first - 1, Some(i.offset));
                            return Ok(Next::Gone { first });
                        }
                        Some(_) => return Ok(self.answer(page.items)),
                    }
                }
                FeedStep::Wait => {
                    self.live = true;
                    self.changed().await?;
                }
                FeedStep::Ahead => {
                    let until = *self
                        .ahead
                        .get_or_insert_with(|| Instant::now() + self.feed.ahead);
                    if Instant::now() >= until {
                        return Ok(self.back());
                    }

                    // The next round of the loop sees a new notification or the end of the time.
                    if let Ok(changed) = tokio::time::timeout_at(until, self.changed()).await {
                        changed?;
                    }
                }
            }
        }
    }

    async fn changed(&mut self) -> Result<(), LogError> {
        self.wake
            .as_mut()
            .expect("there until the drop")
            .changed()
            .await
            .map_err(|_| gone())
    }

    /// The position belongs to another log, or to notifications that never came. Moves the cursor
    /// before the first notification that came since the cursor was made.
    fn back(&mut self) -> Next {
        let part = self.feed.lock(self.at.partition);
        let oldest = part
            .users
            .get(&self.user)
            .and_then(|u| u.marks.first())
            .map_or(1, |(seq, _)| *seq);
        drop(part);
        let first = if self.known > 0 {
            self.known + 1
        } else {
            oldest
        };

        (self.after, self.scan, self.ahead) = (first - 1, None, None);
        Next::Gone { first }
    }

    /// The index lists a notification of the user before `upto`, but the log has none: the
    /// beginning of the log was deleted. Moves the cursor to the first available notification at or
    /// after `upto`.
    fn nothing_before(&mut self, upto: u64) -> Next {
        let part = self.feed.lock(self.at.partition);
        let user = part.users.get(&self.user);
        let in_memory = user
            .and_then(|u| u.recent.iter().find(|i| i.offset >= upto))
            .map(|i| i.seq);
        let marked = || {
            user.and_then(|u| u.marks.iter().find(|(_, offset)| *offset >= upto))
                .map(|(seq, _)| *seq)
        };

        let first = in_memory
            .or_else(marked)
            .unwrap_or_else(|| user.map_or(self.after, |u| u.latest) + 1)
            .max(self.after + 1);
        drop(part);
        (self.after, self.scan) = (first - 1, None);
        Next::Gone { first }
    }

    fn answer(&mut self, items: Vec<FeedItem>) -> Next {
        if let Some(last) = items.last() {
            self.after = last.seq;
        }

        Next::Items(items)
    }
}

fn gone() -> LogError {
    LogError::Unavailable("the gateway is stopping".into())
}

impl Drop for FeedCursor {
    fn drop(&mut self) {
        drop(self.wake.take());
        let mut part = self.feed.lock(self.at.partition);
        let Some(u) = part.users.get_mut(&self.user) else {
            return;
        };

        if u.wake.as_ref().is_some_and(|w| w.receiver_count() == 0) {
            u.wake = None;
            if u.latest == 0 {
                // A client asked for a user without notifications. Keeping the name would let
                // anyone fill our memory with names.
                part.users.remove(&self.user);
            }
        }
    }
}
