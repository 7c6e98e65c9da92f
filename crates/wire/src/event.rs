//! `order-events`: the system of record. One struct serves all events; a field that an event does
//! not use is absent.

use domain::named_enum;
use domain::reason::Reason;
use domain::status::{Liquidity, Side, Status};

use super::command::{OrderType, TimeInForce};
use super::input::{Fault, FieldValue, read_map};
use super::writer::MapWriter;

named_enum! {
    /// Kind of an event.
    Event {
        /// The order was checked, its hold was reserved, and the order was sent to the book.
        OrderPending = 1, "OrderPending";
        /// The order is in the book.
        OrderAccepted = 2, "OrderAccepted";
        /// An order or another command was refused.
        OrderRejected = 3, "OrderRejected";
        /// Answer to a repeated command: the current state of the order.
        OrderStatus = 4, "OrderStatus";
        /// The command's id was used before for a different command.
        DuplicateRejected = 5, "DuplicateRejected";
        /// The order's stop has fired.
        OrderTriggered = 6, "OrderTriggered";
        /// A part of the order has traded.
        OrderPartiallyFilled = 7, "OrderPartiallyFilled";
        /// The last part of the order has traded.
        OrderFilled = 8, "OrderFilled";
        /// The order ended before it was filled.
        OrderCancelled = 9, "OrderCancelled";
        /// The order ended at its deadline.
        OrderExpired = 10, "OrderExpired";
        /// The order has new terms.
        OrderReplaced = 11, "OrderReplaced";
        /// A cancel, replace or bust was refused.
        CancelRejected = 12, "CancelRejected";
        /// A trade was taken back.
        TradeBusted = 13, "TradeBusted";
        Deposited = 14, "Deposited";
        Withdrawn = 15, "Withdrawn";
    }
}

impl Event {
    /// The name in kebab case, for notifications.
    pub fn kebab(self) -> &'static str {
        match self {
            Event::OrderPending => "order-pending",
            Event::OrderAccepted => "order-accepted",
            Event::OrderRejected => "order-rejected",
            Event::OrderStatus => "order-status",
            Event::DuplicateRejected => "duplicate-rejected",
            Event::OrderTriggered => "order-triggered",
            Event::OrderPartiallyFilled => "order-partially-filled",
            Event::OrderFilled => "order-filled",
            Event::OrderCancelled => "order-cancelled",
            Event::OrderExpired => "order-expired",
            Event::OrderReplaced => "order-replaced",
            Event::CancelRejected => "cancel-rejected",
            Event::TradeBusted => "trade-busted",
            Event::Deposited => "deposited",
            Event::Withdrawn => "withdrawn",
        }
    }
}

/// An event. The contract defines the field names.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct OrderEvent<'a> {
    pub event: Event,
    pub user_id: &'a str,
    pub user_seq: u64,
    pub time_us: i64,
    pub cash_available_e4: i64,
    pub cash_reserved_e4: i64,
    pub order_id: Option<&'a str>,
    pub cause_id: Option<&'a str>,
    pub symbol: Option<&'a str>,
    pub side: Option<Side>,
    pub quantity: Option<i64>,
    pub cum_quantity: Option<i64>,
    pub leaves_quantity: Option<i64>,
    pub cum_value_e4: Option<i64>,
    pub status: Option<Status>,
    pub limit_price_e4: Option<i64>,
    pub reason: Option<Reason>,
    pub text: Option<&'a str>,
    pub retry_after_ms: Option<i64>,
    pub conflict_field: Option<&'a str>,
    pub trade_id: Option<&'a str>,
    pub last_quantity: Option<i64>,
    pub last_price_e4: Option<i64>,
    pub fee_e4: Option<i64>,
    pub liquidity: Option<Liquidity>,
    pub amount_e4: Option<i64>,
    pub trigger_price_e4: Option<i64>,
    pub unanswered: Option<i64>,
    pub order_type: Option<OrderType>,
    pub tif: Option<TimeInForce>,
    pub stop_price_e4: Option<i64>,
    pub expire_at_us: Option<i64>,
    pub post_only: bool,
    pub average_price_e4: Option<i64>,
}

impl<'a> OrderEvent<'a> {
    /// An event with only its kind and its user. All other fields are empty.
    pub fn new(event: Event, user_id: &'a str) -> Self {
        OrderEvent {
            event,
            user_id,
            user_seq: 0,
            time_us: 0,
            cash_available_e4: 0,
            cash_reserved_e4: 0,
            order_id: None,
            cause_id: None,
            symbol: None,
            side: None,
            quantity: None,
            cum_quantity: None,
            leaves_quantity: None,
            cum_value_e4: None,
            status: None,
            limit_price_e4: None,
            reason: None,
            text: None,
            retry_after_ms: None,
            conflict_field: None,
            trade_id: None,
            last_quantity: None,
            last_price_e4: None,
            fee_e4: None,
            liquidity: None,
            amount_e4: None,
            trigger_price_e4: None,
            unanswered: None,
            order_type: None,
            tif: None,
            stop_price_e4: None,
            expire_at_us: None,
            post_only: false,
            average_price_e4: None,
        }
    }

    /// Appends the event as MessagePack.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let seq = i64::try_from(self.user_seq).expect("nobody has 2^63 events");
        let mut w = MapWriter::begin(out);
        w.text("event", self.event.name())
            .text("user_id", self.user_id)
            .int("user_seq", seq)
            .int("time_us", self.time_us);
        w.int("cash_available_e4", self.cash_available_e4)
            .int("cash_reserved_e4", self.cash_reserved_e4);
        w.maybe_text("order_id", self.order_id)
            .maybe_text("cause_id", self.cause_id)
            .maybe_text("symbol", self.symbol);
        w.maybe_text("side", self.side.map(Side::name))
            .maybe_int("quantity", self.quantity);
        w.maybe_int("cum_quantity", self.cum_quantity)
            .maybe_int("leaves_quantity", self.leaves_quantity);
        w.maybe_int("cum_value_e4", self.cum_value_e4);
        w.maybe_text("status", self.status.map(Status::name))
            .maybe_int("limit_price_e4", self.limit_price_e4);
        if let Some(r) = self.reason {
            let code = if self.event == Event::CancelRejected {
                r.cancel_code()
            } else {
                r.code()
            };

            w.text("reason", r.name())
                .int("reason_code", i64::from(code));
        }

        w.maybe_text("text", self.text)
            .maybe_int("retry_after_ms", self.retry_after_ms);
        w.maybe_text("conflict_field", self.conflict_field)
            .maybe_text("trade_id", self.trade_id);
        w.maybe_int("last_quantity", self.last_quantity)
            .maybe_int("last_price_e4", self.last_price_e4);
        w.maybe_int("fee_e4", self.fee_e4)
            .maybe_text("liquidity", self.liquidity.map(Liquidity::name));
        w.maybe_int("amount_e4", self.amount_e4)
            .maybe_int("trigger_price_e4", self.trigger_price_e4);
        w.maybe_int("unanswered", self.unanswered);
        w.maybe_text("type", self.order_type.map(OrderType::name))
            .maybe_text("tif", self.tif.map(TimeInForce::name));
        w.maybe_int("stop_price_e4", self.stop_price_e4)
            .maybe_int("expire_at_us", self.expire_at_us);
        if self.post_only {
            w.flag("post_only", true);
        }

        w.maybe_int("average_price_e4", self.average_price_e4);
        w.end();
    }

    /// Decodes an event that [`OrderEvent::encode`] wrote.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, Fault> {
        let mut e = OrderEvent::new(Event::OrderStatus, "");
        let mut event = None;
        let mut wrong = None;
        let fault = read_map(bytes, |name, v| {
            let ok = match name {
                "event" => named(v, Event::from_name).map(|x| event = x),
                "user_id" => v.plain_text().map(|t| e.user_id = t),
                "user_seq" => v
                    .i64()
                    .and_then(|n| u64::try_from(n).ok())
                    .map(|n| e.user_seq = n),
                "time_us" => v.i64().map(|n| e.time_us = n),
                "cash_available_e4" => v.i64().map(|n| e.cash_available_e4 = n),
                "cash_reserved_e4" => v.i64().map(|n| e.cash_reserved_e4 = n),
                "order_id" => text(v, &mut e.order_id),
                "cause_id" => text(v, &mut e.cause_id),
                "symbol" => text(v, &mut e.symbol),
                "side" => named(v, Side::from_name).map(|x| e.side = x),
                "quantity" => int(&v, &mut e.quantity),
                "cum_quantity" => int(&v, &mut e.cum_quantity),
                "leaves_quantity" => int(&v, &mut e.leaves_quantity),
                "cum_value_e4" => int(&v, &mut e.cum_value_e4),
                "status" => named(v, Status::from_name).map(|x| e.status = x),
                "limit_price_e4" => int(&v, &mut e.limit_price_e4),
                "reason" => named(v, Reason::from_name).map(|x| e.reason = x),
                "text" => text(v, &mut e.text),
                "retry_after_ms" => int(&v, &mut e.retry_after_ms),
                "conflict_field" => text(v, &mut e.conflict_field),
                "trade_id" => text(v, &mut e.trade_id),
                "last_quantity" => int(&v, &mut e.last_quantity),
                "last_price_e4" => int(&v, &mut e.last_price_e4),
                "fee_e4" => int(&v, &mut e.fee_e4),
                "liquidity" => named(v, Liquidity::from_name).map(|x| e.liquidity = x),
                "amount_e4" => int(&v, &mut e.amount_e4),
                "trigger_price_e4" => int(&v, &mut e.trigger_price_e4),
                "unanswered" => int(&v, &mut e.unanswered),
                "type" => named(v, OrderType::from_name).map(|x| e.order_type = x),
                "tif" => named(v, TimeInForce::from_name).map(|x| e.tif = x),
                "stop_price_e4" => int(&v, &mut e.stop_price_e4),
                "expire_at_us" => int(&v, &mut e.expire_at_us),
                "post_only" => match v {
                    FieldValue::Bool(b) => {
                        e.post_only = b;
                        Some(())
                    }
                    _ => None,
                },
                "average_price_e4" => int(&v, &mut e.average_price_e4),
                _ => Some(()),
            };

            if ok.is_none() {
                wrong.get_or_insert("a field of an order event has a value that we do not write");
            }
        })?;

        e.event = event.ok_or("an order event without its name")?;
        match fault.or(wrong) {
            Some(fault) => Err(fault),
            None if e.user_id.is_empty() || e.user_seq == 0 => {
                Err("an order event without user_id or user_seq")
            }
            None => Ok(e),
        }
    }
}

fn text<'a>(v: FieldValue<'a>, slot: &mut Option<&'a str>) -> Option<()> {
    *slot = Some(v.plain_text()?);
    Some(())
}

fn int(v: &FieldValue<'_>, slot: &mut Option<i64>) -> Option<()> {
    *slot = Some(v.i64()?);
    Some(())
}

/// Reads a word of a list. The outer `None` means that the value is not a word of the list.
pub(super) fn named<T>(v: FieldValue<'_>, from_name: fn(&str) -> Option<T>) -> Option<Option<T>> {
    from_name(v.plain_text()?).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> OrderEvent<'static> {
        OrderEvent {
            user_seq: 4,
            time_us: 1_625_159_076_000_000,
            cash_available_e4: 9_981_075_000,
            order_id: Some("1001"),
            cause_id: Some("1001"),
            symbol: Some("AAPL"),
            side: Some(Side::Buy),
            quantity: Some(10),
            cum_quantity: Some(10),
            leaves_quantity: Some(0),
            status: Some(Status::Filled),
            trade_id: Some("3-7"),
            last_quantity: Some(10),
            last_price_e4: Some(1_892_500),
            fee_e4: Some(0),
            liquidity: Some(Liquidity::House),
            trigger_price_e4: Some(1_892_000),
            unanswered: Some(7),
            order_type: Some(OrderType::StopLimit),
            tif: Some(TimeInForce::Gtd),
            stop_price_e4: Some(1_891_000),
            expire_at_us: Some(1_625_159_076_000_001),
            post_only: true,
            average_price_e4: Some(1_892_500),
            ..OrderEvent::new(Event::OrderFilled, "501")
        }
    }

    #[test]
    fn round_trip_and_kebab() {
        let mut out = Vec::new();
        full().encode(&mut out);
        assert_eq!(OrderEvent::decode(&out), Ok(full()));
        for e in Event::ALL {
            let kebab: String = e
                .name()
                .char_indices()
                .map(|(i, c)| {
                    if c.is_uppercase() && i > 0 {
                        format!("-{c}")
                    } else {
                        c.to_string()
                    }
                })
                .collect();

            assert_eq!(e.kebab(), kebab.to_lowercase());
        }
    }

    /// Later versions and every MessagePack library must read the bytes of this version.
    #[test]
    fn golden_bytes() {
        let mut out = Vec::new();
        let e = OrderEvent {
            user_seq: 1,
            time_us: -1,
            cash_available_e4: 300,
            reason: Some(Reason::RateLimited),
            retry_after_ms: Some(100),
            ..OrderEvent::new(Event::OrderRejected, "u")
        };

        e.encode(&mut out);
        let want = b"\xde\x00\x09\xa5event\xadOrderRejected\xa7user_id\xa1u\xa8user_seq\x01\xa7time_us\xff\
            \xb1cash_available_e4\xcd\x01\x2c\xb0cash_reserved_e4\x00\xa6reason\xacRATE_LIMITED\xabreason_code\x63\xaeretry_after_ms\x64";
        assert_eq!(out, want);
        let generic: serde_json::Value = rmp_serde::from_slice(&out).expect("MessagePack");
        assert_eq!(generic["reason"], "RATE_LIMITED");
    }
}
