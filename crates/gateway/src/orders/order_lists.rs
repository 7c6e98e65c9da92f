//! Orders and trades of one user in memory, and pages of them.
//!
//! Ended orders and trades leave memory, the oldest first, when there are too many of one user, or
//! when the memory of all users is full. Open orders stay.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use rustc_hash::FxHashMap;
use serde_json::{Map, Value, json};
use wire::event::{Event, OrderEvent};

use super::kept_order::{KeptOrder, event_as_json};

/// Maximum number of ended orders of one user.
const ENDED_MAX: usize = 1_000;
/// Maximum number of trades of one user.
const TRADES_MAX: usize = 1_000;
/// Approximate overhead of a trade in memory, in bytes.
const TRADE_BYTES: usize = 96;

/// The orders that a page shows.
#[derive(Clone, Debug, Default)]
pub(crate) struct OrderFilter {
    /// Open orders, ended orders, or both.
    pub open: Option<bool>,
    pub symbol: Option<String>,
}

/// The place of a page: entries above `after`, at most `limit`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Page {
    pub after: u64,
    pub limit: usize,
}

/// An entry that may leave memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Evictable {
    EndedOrder,
    Trade,
}

/// Effect of an event on the memory of a user.
#[derive(Debug, Default)]
pub(super) struct Growth {
    pub bytes_added: usize,
    pub bytes_freed: usize,
    /// Entries that can leave memory from now on.
    pub evictable: Vec<Evictable>,
}

#[derive(Clone, Debug)]
struct KeptTrade {
    seq: u64,
    time_us: i64,
    symbol: Box<str>,
    value: Arc<[u8]>,
}

impl KeptTrade {
    fn bytes(&self) -> usize {
        TRADE_BYTES + self.symbol.len() + self.value.len()
    }
}

/// Orders and trades of one user.
#[derive(Debug, Default)]
pub(super) struct UserOrders {
    /// Orders by the number of their first event.
    orders: BTreeMap<u64, KeptOrder>,
    numbers: FxHashMap<Box<str>, u64>,
    /// Numbers of the ended orders, in the order of their ends.
    ended: VecDeque<u64>,
    trades: VecDeque<KeptTrade>,
    /// Time of the newest entry that has left memory, in milliseconds since 1970.
    left_ms: Option<i64>,
}

impl UserOrders {
    /// Takes in an event of the user.
    pub(super) fn take(&mut self, e: &OrderEvent<'_>, value: &[u8]) -> Growth {
        let mut growth = Growth::default();
        let value: Arc<[u8]> = value.into();
        if let Some(id) = e.order_id {
            self.fold(id, e, &value, &mut growth);
        }

        if let (Some(_), Some(symbol)) = (e.trade_id, e.symbol) {
            let trade = KeptTrade {
                seq: e.user_seq,
                time_us: e.time_us,
                symbol: symbol.into(),
                value,
            };

            self.add_trade(trade, &mut growth);
        }

        growth
    }

    fn fold(&mut self, id: &str, e: &OrderEvent<'_>, value: &Arc<[u8]>, growth: &mut Growth) {
        let Some((number, is_new)) = self.number_of(id, e, growth) else {
            return;
        };

        let order = self
            .orders
            .get_mut(&number)
            .expect("every number has its order");
        let (was_open, before) = (order.is_open(), order.bytes());
        order.take(e, value.clone());
        growth.bytes_added += order.bytes();
        growth.bytes_freed += if is_new { 0 } else { before };
        if order.is_open() || !(was_open || is_new) {
            return;
        }

        self.ended.push_back(number);
        if self.ended.len() > ENDED_MAX {
            growth.bytes_freed += self.evict(Evictable::EndedOrder);
        } else {
            growth.evictable.push(Evictable::EndedOrder);
        }
    }

    /// The number of the order that an event is about, and true if the order is new here. An id
    /// that a refusal has left free begins a new order with `OrderPending`.
    fn number_of(
        &mut self,
        id: &str,
        e: &OrderEvent<'_>,
        growth: &mut Growth,
    ) -> Option<(u64, bool)> {
        let known = self.numbers.get(id).copied();
        if let Some(number) = known
            && e.event != Event::OrderPending
        {
            return Some((number, false));
        }

        let order = KeptOrder::begin(e)?;
        let number = order.first_seq;
        self.numbers.insert(id.into(), number);
        self.orders.insert(number, order);

        // The refused order stays in the list until its turn to leave. An open one under the same
        // id could not leave.
        if let Some(before) = known
            && self.orders.get(&before).is_some_and(KeptOrder::is_open)
            && let Some(lost) = self.orders.remove(&before)
        {
            growth.bytes_freed += lost.bytes();
        }

        Some((number, true))
    }

    fn add_trade(&mut self, trade: KeptTrade, growth: &mut Growth) {
        growth.bytes_added += trade.bytes();
        self.trades.push_back(trade);
        if self.trades.len() > TRADES_MAX {
            growth.bytes_freed += self.evict(Evictable::Trade);
        } else {
            growth.evictable.push(Evictable::Trade);
        }
    }

    /// Removes the oldest entry of a kind. Returns the bytes that are free then.
    pub(super) fn evict(&mut self, what: Evictable) -> usize {
        let (bytes, time_us) = match what {
            Evictable::EndedOrder => {
                let Some(number) = self.ended.pop_front() else {
                    return 0;
                };

                let order = self
                    .orders
                    .remove(&number)
                    .expect("ended orders stay until they are evicted");
                if self.numbers.get(order.id()) == Some(&number) {
                    self.numbers.remove(order.id());
                }

                (order.bytes(), order.updated_us)
            }
            Evictable::Trade => {
                let Some(trade) = self.trades.pop_front() else {
                    return 0;
                };

                (trade.bytes(), trade.time_us)
            }
        };

        self.left_ms = self.left_ms.max(Some(time_us / 1000));
        bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.orders.is_empty() && self.trades.is_empty()
    }

    /// Time of the newest entry that has left memory, in milliseconds since 1970.
    pub(super) fn left_ms(&self) -> Option<i64> {
        self.left_ms
    }

    pub(super) fn order(&self, id: &str) -> Option<&KeptOrder> {
        self.orders.get(self.numbers.get(id)?)
    }

    /// Ids of the open orders, of one symbol or of all.
    pub(super) fn open_ids(&self, symbol: Option<&str>) -> Vec<String> {
        self.orders
            .values()
            .filter(|o| o.is_open() && symbol.is_none_or(|s| s == o.symbol()))
            .map(|o| o.id().to_string())
            .collect()
    }

    /// A page of orders as JSON, in the order of their first events, and the position after the
    /// page; `None` if the page is the last one.
    pub(super) fn orders(
        &self,
        user: &str,
        filter: &OrderFilter,
        page: Page,
    ) -> (Vec<Value>, Option<u64>) {
        let fits = |o: &&KeptOrder| {
            filter.open.is_none_or(|open| open == o.is_open())
                && filter.symbol.as_deref().is_none_or(|s| s == o.symbol())
        };

        let above = self.orders.range(page.after.saturating_add(1)..);
        let fitting = above.map(|(_, order)| order).filter(fits);
        paged(
            fitting.map(|o| (o.first_seq, o)),
            page.limit,
            |o: &KeptOrder| o.as_json(user),
        )
    }

    /// A page of trades as JSON, in the order of their events. A trade that was taken back has an
    /// entry of its own.
    pub(super) fn trades(&self, symbol: Option<&str>, page: Page) -> (Vec<Value>, Option<u64>) {
        let from = self.trades.partition_point(|t| t.seq <= page.after);
        let fitting = self
            .trades
            .range(from..)
            .filter(|t| symbol.is_none_or(|s| s == &*t.symbol));
        paged(fitting.map(|t| (t.seq, t)), page.limit, |t: &KeptTrade| {
            trade_as_json(&t.value)
        })
    }
}

/// The first `limit` entries as JSON, and the number of the last one if more follow.
fn paged<T: Copy>(
    mut entries: impl Iterator<Item = (u64, T)>,
    limit: usize,
    as_json: impl Fn(T) -> Value,
) -> (Vec<Value>, Option<u64>) {
    let mut last = None;
    let mut shown = Vec::new();
    for (number, entry) in entries.by_ref().take(limit) {
        last = Some(number);
        shown.push(as_json(entry));
    }

    (shown, last.filter(|_| entries.next().is_some()))
}

/// The trade of an event: the fields of the fill, without the rest of the order.
fn trade_as_json(value: &[u8]) -> Value {
    let event = event_as_json(value);
    let taken_back = event["event"] == Event::TradeBusted.name();
    let fields = [
        ("trade_id", "trade_id"),
        ("order_id", "order_id"),
        ("symbol", "symbol"),
        ("side", "side"),
        ("quantity", "last_quantity"),
        ("price", "last_price"),
        ("fee", "fee"),
        ("liquidity", "liquidity"),
        ("user_seq", "user_seq"),
        ("time_us", "time_us"),
    ];
    let mut shown: Map<String, Value> = fields
        .iter()
        .filter_map(|(name, field)| Some((name.to_string(), event.get(*field)?.clone())))
        .collect();
    shown.insert("taken_back".into(), json!(taken_back));
    Value::Object(shown)
}

#[cfg(test)]
mod tests {
    use domain::status::{Side, Status};

    use super::*;

    fn event(event: Event, seq: u64, id: &str, status: Status) -> OrderEvent<'_> {
        OrderEvent {
            user_seq: seq,
            time_us: i64::try_from(seq).expect("small") * 1_000_000,
            order_id: Some(id),
            cause_id: Some(id),
            symbol: Some(if seq.is_multiple_of(2) {
                "AAPL"
            } else {
                "MSFT"
            }),
            side: Some(Side::Buy),
            quantity: Some(10),
            status: Some(status),
            ..OrderEvent::new(event, "501")
        }
    }

    fn take(user: &mut UserOrders, e: &OrderEvent<'_>) -> Growth {
        let mut value = Vec::new();
        e.encode(&mut value);
        user.take(e, &value)
    }

    /// Bytes of everything in memory, counted anew.
    fn counted(user: &UserOrders) -> usize {
        user.orders.values().map(KeptOrder::bytes).sum::<usize>()
            + user.trades.iter().map(KeptTrade::bytes).sum::<usize>()
    }

    fn ids(page: &(Vec<Value>, Option<u64>)) -> Vec<&str> {
        page.0
            .iter()
            .filter_map(|o| o["order_id"].as_str())
            .collect()
    }

    #[test]
    fn pages_follow_each_other_and_filters_hold() {
        let mut user = UserOrders::default();
        for (seq, id) in (1..).zip(["a", "b", "c", "d"]) {
            take(
                &mut user,
                &event(Event::OrderPending, seq, id, Status::PendingNew),
            );
        }

        take(
            &mut user,
            &event(Event::OrderCancelled, 5, "c", Status::Cancelled),
        );
        let filter = |open, symbol: Option<&str>| OrderFilter {
            open,
            symbol: symbol.map(String::from),
        };
        let page = |after, limit| Page { after, limit };
        let all = filter(None, None);
        let first = user.orders("501", &all, page(0, 3));
        assert_eq!((ids(&first), first.1), (vec!["a", "b", "c"], Some(3)));
        let rest = user.orders("501", &all, page(3, 3));
        assert_eq!((ids(&rest), rest.1), (vec!["d"], None));
        let open = user.orders("501", &filter(Some(true), None), page(0, 9));
        assert_eq!(ids(&open), ["a", "b", "d"]);
        let closed = user.orders("501", &filter(Some(false), None), page(0, 9));
        assert_eq!(ids(&closed), ["c"]);
        let one = user.orders("501", &filter(None, Some("AAPL")), page(0, 9));
        assert_eq!(ids(&one), ["b", "d"]);
        assert_eq!(user.open_ids(Some("MSFT")), ["a"]);
    }

    #[test]
    fn bytes_are_those_in_memory_and_old_ends_leave() {
        let mut user = UserOrders::default();
        let mut bytes = 0;
        let mut evictable = 0;
        for seq in 1..=u64::try_from(ENDED_MAX).expect("small") + 5 {
            let id = format!("o-{seq}");
            let fill = OrderEvent {
                trade_id: Some("3-1"),
                last_quantity: Some(10),
                last_price_e4: Some(5),
                ..event(Event::OrderFilled, seq, &id, Status::Filled)
            };
            let growth = take(&mut user, &fill);
            bytes = bytes + growth.bytes_added - growth.bytes_freed;
            evictable += growth.evictable.len();
        }

        assert_eq!(bytes, counted(&user));
        assert_eq!(evictable, ENDED_MAX + TRADES_MAX);
        assert!(user.order("o-5").is_none() && user.order("o-6").is_some());
        assert_eq!(user.left_ms(), Some(5_000));
        for _ in 0..ENDED_MAX {
            bytes -= user.evict(Evictable::EndedOrder) + user.evict(Evictable::Trade);
        }

        assert!(bytes == 0 && user.is_empty());
        assert_eq!(user.evict(Evictable::Trade), 0);
    }

    #[test]
    fn free_id_begins_a_new_order() {
        let mut user = UserOrders::default();
        let rejected = event(Event::OrderRejected, 1, "a", Status::Rejected);
        let mut bytes = take(&mut user, &rejected).bytes_added;
        assert!(!user.order("a").expect("known").is_open());
        let growth = take(
            &mut user,
            &event(Event::OrderPending, 2, "a", Status::PendingNew),
        );
        bytes = bytes + growth.bytes_added - growth.bytes_freed;
        assert!(user.order("a").expect("known").is_open());
        assert_eq!(bytes, counted(&user));
        user.evict(Evictable::EndedOrder);
        assert!(user.order("a").expect("still known").is_open());
    }

    #[test]
    fn trade_shows_the_fill_and_a_bust_is_marked() {
        let mut user = UserOrders::default();
        let fill = OrderEvent {
            trade_id: Some("3-1"),
            last_quantity: Some(10),
            last_price_e4: Some(1_892_500),
            fee_e4: Some(0),
            ..event(Event::OrderFilled, 2, "a", Status::Filled)
        };
        take(&mut user, &fill);
        let busted = OrderEvent {
            event: Event::TradeBusted,
            user_seq: 3,
            ..fill
        };
        take(&mut user, &busted);
        let page = Page { after: 0, limit: 9 };
        let (trades, next) = user.trades(Some("AAPL"), page);
        assert_eq!(next, None);
        assert_eq!(
            trades[0],
            json!({"trade_id": "3-1", "order_id": "a", "symbol": "AAPL", "side": "buy", "quantity": 10, "price": "189.25",
                "fee": "0.00", "user_seq": 2, "time_us": 2_000_000, "taken_back": false})
        );
        assert_eq!(trades[1]["taken_back"], true);
        assert!(user.trades(Some("MSFT"), page).0.is_empty());
    }
}
