//! `notifications`: the message to a user about one event.

use super::event::OrderEvent;
use super::input::{Fault, FieldValue, read_map};
use super::writer::MapWriter;

/// `type` header of notifications.
pub const NOTIFICATION: &str = "Notification";

/// Appends the notification of an event. `raw` is the encoded event, copied without a change.
pub fn encode(e: &OrderEvent<'_>, text: &str, raw: &[u8], out: &mut Vec<u8>) {
    let mut w = MapWriter::begin(out);
    w.text("user_id", e.user_id).int(
        "user_seq",
        i64::try_from(e.user_seq).expect("nobody has 2^63 events"),
    );
    w.text("kind", e.event.kebab())
        .maybe_text("order_id", e.order_id)
        .text("text", text)
        .raw("event", raw);
    w.end();
}

/// A decoded notification.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Notification<'a> {
    pub user_id: &'a str,
    /// `user_seq` of the event.
    pub user_seq: u64,
    /// Event name in kebab case.
    pub kind: &'a str,
    /// The order, if the event has one.
    pub order_id: Option<&'a str>,
    /// One sentence for people.
    pub text: &'a str,
    pub event: OrderEvent<'a>,
}

impl<'a> Notification<'a> {
    /// Decodes a notification that [`encode`] wrote.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, Fault> {
        let mut user = None;
        let mut seq = None;
        let mut kind = None;
        let mut order = None;
        let mut text = None;
        let mut event = None;
        let fault = read_map(bytes, |name, v| match name {
            "user_id" => user = v.plain_text(),
            "user_seq" => seq = v.i64().and_then(|n| u64::try_from(n).ok()),
            "kind" => kind = v.plain_text(),
            "order_id" => order = v.plain_text(),
            "text" => text = v.plain_text(),
            "event" => {
                if let FieldValue::Nested(raw) = v {
                    event = Some(raw);
                }
            }
            _ => {}
        })?;

        const ODD: Fault = "a notification without one of its fields";
        match fault {
            Some(fault) => Err(fault),
            None => Ok(Notification {
                user_id: user.ok_or(ODD)?,
                user_seq: seq.ok_or(ODD)?,
                kind: kind.ok_or(ODD)?,
                order_id: order,
                text: text.ok_or(ODD)?,
                event: OrderEvent::decode(event.ok_or(ODD)?)?,
            }),
        }
    }
}
