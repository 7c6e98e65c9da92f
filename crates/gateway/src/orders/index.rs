//! The orders of all users, folded from `order-events`, and the requests that wait for events.
//!
//! Memory is bounded by the open orders, which `orders` bounds for each user, and by a budget for
//! everything that has ended. Each partition has its share of the budget.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use ports::partitioner;
use ports::records::Record;
use rustc_hash::{FxHashMap, FxHashSet};
use serde_json::Value;
use tokio::sync::oneshot;
use wire::event::OrderEvent;

use super::answer::{AwaitedAnswer, CommandAnswer};
use super::kept_order::KeptOrder;
use super::order_lists::{Evictable, OrderFilter, Page, UserOrders};

/// Orders, trades and waiters of all users.
pub(crate) struct OrderIndex {
    parts: Vec<Mutex<OrderPartition>>,
    part_bytes: usize,
    /// Start of the history, in milliseconds since 1970; `None`: the beginning of the log.
    history_ms: Option<i64>,
    ready: AtomicBool,
    off: AtomicBool,
    /// Records of the topic that are not valid events.
    pub(crate) odd: AtomicU64,
}

#[derive(Default)]
struct OrderPartition {
    users: FxHashMap<Arc<str>, UserOrders>,
    /// Users of the entries that may leave memory, from the oldest entry to the newest. A user has
    /// as many places as the user has such entries.
    evictable: VecDeque<(Arc<str>, Evictable)>,
    bytes: usize,
    /// First offset that was not read yet.
    next: u64,
    waiters: FxHashMap<Arc<str>, Vec<RegisteredWaiter>>,
    last_waiter: u64,
    /// Time of the newest entry that left memory for the budget, in milliseconds since 1970.
    left_ms: Option<i64>,
}

struct RegisteredWaiter {
    number: u64,
    awaited: AwaitedAnswer,
    /// For a mass cancel: the ids that were open at its registration and are open still.
    open: FxHashSet<String>,
    done: oneshot::Sender<CommandAnswer>,
}

/// A request that waits for an answer. The registration ends with the waiter.
pub(crate) struct AnswerWaiter<'a> {
    index: &'a OrderIndex,
    partition: usize,
    user: Arc<str>,
    number: u64,
    pub(crate) answer: oneshot::Receiver<CommandAnswer>,
}

impl OrderIndex {
    /// An empty index. `starts` has the first offset of the history for each partition.
    pub(crate) fn new(starts: &[u64], memory: usize, history_ms: Option<i64>) -> OrderIndex {
        let part = |next: &u64| {
            Mutex::new(OrderPartition {
                next: *next,
                ..OrderPartition::default()
            })
        };

        OrderIndex {
            parts: starts.iter().map(part).collect(),
            part_bytes: memory / starts.len().max(1),
            history_ms,
            ready: AtomicBool::new(false),
            off: AtomicBool::new(starts.is_empty()),
            odd: AtomicU64::new(0),
        }
    }

    fn part(&self, user: &str) -> (usize, MutexGuard<'_, OrderPartition>) {
        let count = u32::try_from(self.parts.len()).expect("partitions are few");
        let partition = partitioner::partition(user.as_bytes(), count) as usize;
        (partition, self.lock(partition))
    }

    fn lock(&self, partition: usize) -> MutexGuard<'_, OrderPartition> {
        self.parts[partition]
            .lock()
            .expect("nobody panics while holding a partition")
    }

    /// Takes in records of `order-events`, in order of offset. Then completes the waiters, so that
    /// a woken request finds the effect of all these records.
    pub(crate) fn take<'a>(&self, records: impl Iterator<Item = Record<'a>>) {
        let mut answered = Vec::new();
        for r in records {
            let Some(part) = self.parts.get(r.at.partition as usize) else {
                continue;
            };

            let mut part = part
                .lock()
                .expect("nobody panics while holding a partition");
            if r.offset < part.next {
                continue;
            }

            part.next = r.offset + 1;
            let Some((value, Ok(event))) = r.value.map(|v| (v, OrderEvent::decode(v))) else {
                self.odd.fetch_add(1, Ordering::Relaxed);
                continue;
            };

            part.fold(&event, value, self.part_bytes);
            part.answer(&event, &mut answered);
        }

        for (waiting, answer) in answered {
            // The request may have gone away.
            drop(waiting.send(answer));
        }
    }

    /// Marks the history as read.
    pub(crate) fn set_ready(&self) {
        self.ready.store(true, Ordering::Release);
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// Marks the index as not available: the log refuses the topic.
    pub(crate) fn turn_off(&self) {
        self.off.store(true, Ordering::Release);
    }

    pub(crate) fn is_off(&self) -> bool {
        self.off.load(Ordering::Acquire)
    }

    /// Registers a request. The caller writes the command after that.
    pub(crate) fn wait_for(
        &self,
        user: &str,
        awaited: AwaitedAnswer,
        symbol: Option<&str>,
    ) -> AnswerWaiter<'_> {
        let (done, answer) = oneshot::channel();
        let user: Arc<str> = user.into();
        let (partition, mut part) = self.part(&user);
        let open = match (&awaited, part.users.get(&user)) {
            (AwaitedAnswer::MassCancel { .. }, Some(orders)) => {
                orders.open_ids(symbol).into_iter().collect()
            }
            _ => FxHashSet::default(),
        };

        part.last_waiter += 1;
        let number = part.last_waiter;
        let waiter = RegisteredWaiter {
            number,
            awaited,
            open,
            done,
        };

        part.waiters.entry(user.clone()).or_default().push(waiter);
        drop(part);
        AnswerWaiter {
            index: self,
            partition,
            user,
            number,
            answer,
        }
    }

    /// An order of a user.
    pub(crate) fn order(&self, user: &str, id: &str) -> Option<KeptOrder> {
        self.part(user).1.users.get(user)?.order(id).cloned()
    }

    /// Ids of a user's open orders, of one symbol or of all.
    pub(crate) fn open_ids(&self, user: &str, symbol: Option<&str>) -> Vec<String> {
        let part = self.part(user).1;
        part.users
            .get(user)
            .map(|orders| orders.open_ids(symbol))
            .unwrap_or_default()
    }

    /// A page of a user's orders, and the position after the page if more follow.
    pub(crate) fn orders(
        &self,
        user: &str,
        filter: &OrderFilter,
        page: Page,
    ) -> (Vec<Value>, Option<u64>) {
        let part = self.part(user).1;
        part.users
            .get(user)
            .map(|orders| orders.orders(user, filter, page))
            .unwrap_or_default()
    }

    /// A page of a user's trades, and the position after the page if more follow.
    pub(crate) fn trades(
        &self,
        user: &str,
        symbol: Option<&str>,
        page: Page,
    ) -> (Vec<Value>, Option<u64>) {
        let part = self.part(user).1;
        part.users
            .get(user)
            .map(|orders| orders.trades(symbol, page))
            .unwrap_or_default()
    }

    /// Time from which on all ended orders and trades of a user are here, in milliseconds since
    /// 1970; `None`: from the beginning.
    pub(crate) fn since_ms(&self, user: &str) -> Option<i64> {
        let part = self.part(user).1;
        let own = part.users.get(user).and_then(UserOrders::left_ms);
        self.history_ms.max(part.left_ms).max(own)
    }

    /// Requests that wait, for the metrics.
    pub(crate) fn waiting(&self) -> u64 {
        let of = |n| self.lock(n).waiters.values().map(Vec::len).sum::<usize>() as u64;
        (0..self.parts.len()).map(of).sum()
    }

    /// Bytes of orders and trades, for the metrics.
    pub(crate) fn bytes(&self) -> u64 {
        (0..self.parts.len())
            .map(|n| self.lock(n).bytes as u64)
            .sum()
    }
}

impl OrderPartition {
    fn fold(&mut self, e: &OrderEvent<'_>, value: &[u8], bytes_max: usize) {
        let name = match self.users.get_key_value(e.user_id) {
            Some((name, _)) => name.clone(),
            None => Arc::from(e.user_id),
        };

        let user = self.users.entry(name.clone()).or_default();
        let growth = user.take(e, value);
        if user.is_empty() {
            self.users.remove(&name);
        }

        self.bytes += growth.bytes_added;
        self.bytes -= growth.bytes_freed;
        let places = growth.evictable.into_iter();
        self.evictable.extend(places.map(|e| (name.clone(), e)));
        while self.bytes > bytes_max {
            let Some((name, what)) = self.evictable.pop_front() else {
                break;
            };

            self.evict(&name, what);
        }
    }

    fn evict(&mut self, name: &str, what: Evictable) {
        let Some(user) = self.users.get_mut(name) else {
            return;
        };

        self.bytes -= user.evict(what);
        self.left_ms = self.left_ms.max(user.left_ms());
        if user.is_empty() {
            self.users.remove(name);
        }
    }

    /// Collects the waiters that an event answers, with their answers.
    fn answer(
        &mut self,
        e: &OrderEvent<'_>,
        answered: &mut Vec<(oneshot::Sender<CommandAnswer>, CommandAnswer)>,
    ) {
        let Some(waiters) = self.waiters.get_mut(e.user_id) else {
            return;
        };

        let ended = e.status.is_some_and(|status| status.is_terminal());
        let mut n = 0;
        while let Some(w) = waiters.get_mut(n) {
            if let Some(id) = e.order_id.filter(|_| ended) {
                w.open.remove(id);
            }

            let through = |w: &RegisteredWaiter| match w.awaited {
                AwaitedAnswer::MassCancel { begun, .. } => begun && w.open.is_empty(),
                _ => false,
            };

            let answer = w.awaited.take(e);
            match answer.or_else(|| through(w).then_some(CommandAnswer::Done)) {
                Some(answer) => answered.push((waiters.swap_remove(n).done, answer)),
                None => n += 1,
            }
        }

        if waiters.is_empty() {
            self.waiters.remove(e.user_id);
        }
    }
}

impl Drop for AnswerWaiter<'_> {
    fn drop(&mut self) {
        let mut part = self.index.lock(self.partition);
        if let Some(waiters) = part.waiters.get_mut(&self.user) {
            waiters.retain(|w| w.number != self.number);
            if waiters.is_empty() {
                part.waiters.remove(&self.user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use domain::status::{Side, Status};
    use ports::records::Headers;
    use ports::topics::TopicPartition;
    use wire::event::Event;
    use wire::topics::ORDER_EVENTS;

    use super::*;

    fn event<'a>(event: Event, seq: u64, id: &'a str, cause: &'a str) -> OrderEvent<'a> {
        let status = match event {
            Event::OrderCancelled => Status::Cancelled,
            Event::OrderFilled => Status::Filled,
            _ => Status::New,
        };

        OrderEvent {
            user_seq: seq,
            time_us: i64::try_from(seq).expect("small") * 1_000_000,
            order_id: Some(id),
            cause_id: Some(cause),
            symbol: Some("AAPL"),
            side: Some(Side::Buy),
            quantity: Some(10),
            status: Some(status),
            ..OrderEvent::new(event, "501")
        }
    }

    fn feed(index: &OrderIndex, events: &[OrderEvent<'_>]) {
        for e in events {
            let mut value = Vec::new();
            e.encode(&mut value);
            let record = Record {
                at: TopicPartition::new(ORDER_EVENTS, 0),
                offset: e.user_seq,
                timestamp_ms: 0,
                key: Some(b"501"),
                value: Some(&value),
                headers: Headers::default(),
            };
            index.take(std::iter::once(record));
        }
    }

    #[test]
    fn repeated_records_count_once_and_foreign_bytes_are_counted() {
        let index = OrderIndex::new(&[0], 1 << 20, None);
        let pending = event(Event::OrderPending, 1, "a", "a");
        feed(&index, &[pending, pending]);
        let shown = index.order("501", "a").expect("known").with_history("501");
        assert_eq!(shown["events"].as_array().map(Vec::len), Some(1));
        let record = Record {
            at: TopicPartition::new(ORDER_EVENTS, 0),
            offset: 9,
            timestamp_ms: 0,
            key: Some(b"501"),
            value: Some(b"what?"),
            headers: Headers::default(),
        };
        index.take(std::iter::once(record));
        assert_eq!(index.odd.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn budget_drops_ended_orders_and_never_open_ones() {
        let index = OrderIndex::new(&[0], 1, Some(7));
        assert_eq!(index.since_ms("501"), Some(7));
        feed(
            &index,
            &[
                event(Event::OrderPending, 1, "a", "a"),
                event(Event::OrderFilled, 2, "b", "b"),
                event(Event::OrderPending, 3, "c", "c"),
            ],
        );
        assert_eq!(index.open_ids("501", None), ["a", "c"]);
        assert!(index.order("501", "b").is_none());
        assert_eq!(index.since_ms("501"), Some(2_000));
        feed(
            &index,
            &[
                event(Event::OrderCancelled, 4, "a", "a"),
                event(Event::OrderCancelled, 5, "c", "c"),
            ],
        );
        assert_eq!((index.bytes(), index.open_ids("501", None).len()), (0, 0));
    }

    #[test]
    fn mass_cancel_waits_for_each_order_that_was_open() {
        let index = OrderIndex::new(&[0], 1 << 20, None);
        feed(
            &index,
            &[
                event(Event::OrderPending, 1, "a", "a"),
                event(Event::OrderPending, 2, "b", "b"),
            ],
        );
        let awaited = AwaitedAnswer::MassCancel {
            id: "m".into(),
            begun: false,
        };
        let mut waiter = index.wait_for("501", awaited, None);
        feed(&index, &[event(Event::OrderCancelled, 3, "a", "m")]);
        assert!(waiter.answer.try_recv().is_err());
        feed(&index, &[event(Event::OrderFilled, 4, "b", "b")]);
        assert_eq!(waiter.answer.try_recv(), Ok(CommandAnswer::Done));
    }

    #[test]
    fn waiter_that_goes_away_is_forgotten() {
        let index = OrderIndex::new(&[0], 1 << 20, None);
        let waits = |id: &str| index.wait_for("501", AwaitedAnswer::Change { id: id.into() }, None);
        let one = waits("x");
        let two = waits("y");
        assert_eq!(index.waiting(), 2);
        drop(one);
        assert_eq!(index.waiting(), 1);
        drop(two);
        assert_eq!(index.waiting(), 0);
    }
}
