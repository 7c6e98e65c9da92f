//! One order as its events tell it: a fold, and the newest events themselves.

use std::collections::VecDeque;
use std::sync::Arc;

use client::decimal::show_e4;
use domain::reason::Reason;
use domain::status::{Side, Status};
use serde_json::{Map, Value, json};
use wire::command::{OrderType, TimeInForce};
use wire::event::{Event, OrderEvent};

use crate::json::plain;

/// Maximum number of events that are kept of one order.
const EVENTS_MAX: usize = 64;
/// Approximate overhead of an order in memory, in bytes.
const ORDER_BYTES: usize = 320;
/// Approximate overhead of a kept event in memory, in bytes.
const EVENT_BYTES: usize = 32;

/// The terms of an order that no execution changes. Events of rules before 16 do not have these fields.
#[derive(Clone, Copy, Debug, Default)]
struct OrderTerms {
    order_type: Option<OrderType>,
    tif: Option<TimeInForce>,
    stop_price_e4: Option<i64>,
    expire_at_us: Option<i64>,
    post_only: bool,
}

/// An order, folded from its events.
#[derive(Clone, Debug)]
pub(crate) struct KeptOrder {
    order_id: Box<str>,
    symbol: Box<str>,
    side: Side,
    quantity: Option<i64>,
    cum_quantity: i64,
    leaves_quantity: i64,
    cum_value_e4: i64,
    limit_price_e4: Option<i64>,
    average_price_e4: Option<i64>,
    terms: OrderTerms,
    pub(super) status: Status,
    reason: Option<(Reason, Box<str>)>,
    /// Number of the user's first event about the order that was read.
    pub(super) first_seq: u64,
    user_seq: u64,
    created_us: i64,
    pub(super) updated_us: i64,
    events: VecDeque<Arc<[u8]>>,
    events_left_out: u64,
    bytes: usize,
}

impl KeptOrder {
    /// The order of an event. `None` if the event is about something else, such as a transfer, or
    /// does not say which order.
    pub(super) fn begin(e: &OrderEvent<'_>) -> Option<KeptOrder> {
        let (order_id, symbol, side, status) = (e.order_id?, e.symbol?, e.side?, e.status?);
        Some(KeptOrder {
            order_id: order_id.into(),
            symbol: symbol.into(),
            side,
            quantity: e.quantity,
            cum_quantity: 0,
            leaves_quantity: 0,
            cum_value_e4: 0,
            limit_price_e4: None,
            average_price_e4: None,
            terms: OrderTerms::default(),
            status,
            reason: None,
            first_seq: e.user_seq,
            user_seq: e.user_seq,
            created_us: e.time_us,
            updated_us: e.time_us,
            events: VecDeque::new(),
            events_left_out: 0,
            bytes: ORDER_BYTES + order_id.len() + symbol.len(),
        })
    }

    /// Takes in an event about the order. `value` has the bytes of its record.
    pub(super) fn take(&mut self, e: &OrderEvent<'_>, value: Arc<[u8]>) {
        (self.user_seq, self.updated_us) = (e.user_seq, e.time_us);
        self.quantity = e.quantity.or(self.quantity);
        self.limit_price_e4 = e.limit_price_e4.or(self.limit_price_e4);
        self.cum_value_e4 = value_after(e, self.cum_value_e4);
        if e.order_type.is_some() {
            self.average_price_e4 = e.average_price_e4;
            self.terms = OrderTerms {
                order_type: e.order_type,
                tif: e.tif,
                stop_price_e4: e.stop_price_e4,
                expire_at_us: e.expire_at_us,
                post_only: e.post_only,
            };
        }

        self.cum_quantity = e.cum_quantity.unwrap_or(self.cum_quantity);
        self.leaves_quantity = e.leaves_quantity.unwrap_or(self.leaves_quantity);
        self.status = e.status.unwrap_or(self.status);
        if !self.status.is_terminal() {
            self.reason = None;
        } else if let Some(reason) = e.reason
            && !matches!(e.event, Event::CancelRejected | Event::DuplicateRejected)
        {
            self.reason = Some((reason, reason.text().into()));
        }

        self.bytes += value.len() + EVENT_BYTES;
        self.events.push_back(value);
        if self.events.len() > EVENTS_MAX
            && let Some(oldest) = self.events.pop_front()
        {
            self.bytes -= oldest.len() + EVENT_BYTES;
            self.events_left_out += 1;
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        !self.status.is_terminal()
    }

    pub(crate) fn id(&self) -> &str {
        &self.order_id
    }

    pub(crate) fn symbol(&self) -> &str {
        &self.symbol
    }

    /// Approximate size in memory, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The order as JSON, money as text.
    pub(crate) fn as_json(&self, user: &str) -> Value {
        let mut shown = Map::new();
        let mut set = |name: &str, value: Value| shown.insert(name.to_string(), value);
        set("order_id", (*self.order_id).into());
        set("user_id", user.into());
        set("symbol", (*self.symbol).into());
        set("side", self.side.name().into());
        set("quantity", self.quantity.into());
        set("cum_quantity", self.cum_quantity.into());
        set("leaves_quantity", self.leaves_quantity.into());
        set("cum_value", show_e4(self.cum_value_e4).into());
        if let Some(limit) = self.limit_price_e4 {
            set("limit_price", show_e4(limit).into());
        }

        if let Some(average) = self.average_price_e4 {
            set("average_price", show_e4(average).into());
        }

        self.terms.show(&mut set);
        set("status", self.status.name().into());
        if let Some((reason, text)) = &self.reason {
            set("reason", reason.name().into());
            set("reason_code", reason.code().into());
            set("text", (**text).into());
        }

        set("first_seq", self.first_seq.into());
        set("user_seq", self.user_seq.into());
        set("created_us", self.created_us.into());
        set("updated_us", self.updated_us.into());
        Value::Object(shown)
    }

    /// The order with its events as JSON.
    pub(crate) fn with_history(&self, user: &str) -> Value {
        let mut shown = self.as_json(user);
        let events: Vec<Value> = self.events.iter().map(|raw| event_as_json(raw)).collect();
        shown["events"] = events.into();
        shown["events_left_out"] = self.events_left_out.into();
        shown
    }
}

impl OrderTerms {
    fn show(&self, set: &mut impl FnMut(&str, Value) -> Option<Value>) {
        if let Some(order_type) = self.order_type {
            set("type", order_type.name().into());
        }

        if let Some(tif) = self.tif {
            set("tif", tif.name().into());
        }

        if let Some(stop) = self.stop_price_e4 {
            set("stop_price", show_e4(stop).into());
        }

        if let Some(time) = self.expire_at_us {
            set("expire_at_us", time.into());
        }

        if self.post_only {
            set("post_only", true.into());
        }
    }
}

/// An event's record as JSON, money as text.
pub(crate) fn event_as_json(value: &[u8]) -> Value {
    match rmp_serde::from_slice::<Value>(value) {
        Ok(event) => plain(event),
        Err(e) => json!({ "event": "unreadable", "text": e.to_string() }),
    }
}

/// The value of all executions that stand after an event. The first fill of an order does not say
/// the value: it is that of the fill.
fn value_after(e: &OrderEvent<'_>, before_e4: i64) -> i64 {
    let first_fill = || {
        let (quantity, price_e4) = (e.last_quantity?, e.last_price_e4?);
        (e.event != Event::TradeBusted && e.cum_quantity == Some(quantity))
            .then(|| quantity.checked_mul(price_e4))
            .flatten()
    };

    if e.cum_quantity == Some(0) {
        return 0;
    }

    e.cum_value_e4.or_else(first_fill).unwrap_or(before_e4)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(event: Event, status: Status) -> OrderEvent<'static> {
        OrderEvent {
            user_seq: 2,
            order_id: Some("o-1"),
            cause_id: Some("o-1"),
            symbol: Some("AAPL"),
            side: Some(Side::Buy),
            quantity: Some(10),
            cum_quantity: Some(0),
            leaves_quantity: Some(10),
            status: Some(status),
            ..OrderEvent::new(event, "501")
        }
    }

    fn fold(events: &[OrderEvent<'_>]) -> KeptOrder {
        let mut order = KeptOrder::begin(&events[0]).expect("an order");
        for e in events {
            let mut value = Vec::new();
            e.encode(&mut value);
            order.take(e, value.into());
        }

        order
    }

    #[test]
    fn value_of_the_first_fill_is_its_own() {
        let fill = |cum, last, value_e4| OrderEvent {
            cum_quantity: Some(cum),
            leaves_quantity: Some(10 - cum),
            last_quantity: Some(last),
            last_price_e4: Some(1_000_000),
            cum_value_e4: value_e4,
            ..event(Event::OrderPartiallyFilled, Status::PartiallyFilled)
        };

        let pending = event(Event::OrderPending, Status::PendingNew);
        let order = fold(&[pending, fill(4, 4, None), fill(6, 2, Some(6_000_000))]);
        let shown = order.as_json("501");
        assert_eq!(shown["cum_value"], "600.00");
        assert_eq!(shown["leaves_quantity"], 4);
        let busted = OrderEvent {
            cum_quantity: Some(0),
            ..fill(0, 6, None)
        };
        let order = fold(&[fill(6, 6, None), busted]);
        assert_eq!(order.as_json("501")["cum_value"], "0.00");
    }

    #[test]
    fn refused_cancel_leaves_the_order_as_it_is() {
        let refused = OrderEvent {
            reason: Some(Reason::SystemBusy),
            cause_id: Some("c-1"),
            ..event(Event::CancelRejected, Status::New)
        };
        let order = fold(&[event(Event::OrderAccepted, Status::New), refused]);
        assert!(order.is_open());
        assert_eq!(order.as_json("501").get("reason"), None);
        assert_eq!(
            order.with_history("501")["events"].as_array().map(Vec::len),
            Some(2)
        );
    }

    #[test]
    fn only_the_newest_events_are_kept() {
        let mut order = KeptOrder::begin(&event(Event::OrderPending, Status::PendingNew));
        let order = order.as_mut().expect("an order");
        for _ in 0..EVENTS_MAX + 3 {
            order.take(
                &event(Event::OrderStatus, Status::New),
                Arc::from(&b"\x80"[..]),
            );
        }

        let shown = order.with_history("501");
        assert_eq!(shown["events"].as_array().map(Vec::len), Some(EVENTS_MAX));
        assert_eq!(shown["events_left_out"], 3);
        assert_eq!(
            order.bytes(),
            ORDER_BYTES + 7 + EVENTS_MAX * (1 + EVENT_BYTES)
        );
    }

    #[test]
    fn transfer_is_no_order() {
        let deposit = OrderEvent {
            user_seq: 1,
            order_id: Some("d-1"),
            status: Some(Status::Filled),
            ..OrderEvent::new(Event::Deposited, "501")
        };
        assert!(KeptOrder::begin(&deposit).is_none());
    }
}
