//! Notifications and alerts as JSON. Money becomes decimal text instead of integers in 10^-4 units, because a
//! browser's numbers are floats.

use client::decimal::show_e4;
use data_encoding::HEXLOWER;
use serde_json::{Map, Value, json};

use crate::feed_item::FeedItem;
use crate::subscriptions::Subscriber;

/// A notification as JSON. A value that cannot be decoded gets the kind `unreadable`, with the
/// error as text. So no stream ends because of a bad record.
pub fn notification(item: &FeedItem) -> Value {
    match rmp_serde::from_slice::<Value>(&item.value) {
        Ok(value) => plain(value),
        Err(e) => json!({ "user_seq": item.seq, "kind": "unreadable", "text": e.to_string() }),
    }
}

/// Removes `_e4` from the names of money fields and converts their values to decimal text.
pub fn plain(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let shown =
                fields
                    .into_iter()
                    .map(|(name, v)| match (name.strip_suffix("_e4"), v.as_i64()) {
                        (Some(short), Some(n)) => (short.to_string(), Value::String(show_e4(n))),
                        _ => (name, plain(v)),
                    });

            Value::Object(shown.collect::<Map<_, _>>())
        }
        other => other,
    }
}

/// The kind of a notification, read from its record.
pub fn kind(item: &FeedItem) -> Option<&str> {
    let mut kind = None;
    wire::input::read_map(&item.value, |name, v| {
        if name == "kind" {
            kind = v.plain_text();
        }
    })
    .ok()?;
    kind
}

/// An alert as JSON.
pub(crate) fn alert(subscriber: &Subscriber, id: &str) -> Value {
    let Some(alert) = subscriber.alerts.get(id) else {
        return Value::Null;
    };

    let mut shown = json!({ "id": id, "registration": alert.registration, "symbol": alert.symbol });
    for (name, price) in [("above", alert.above_e4), ("below", alert.below_e4)] {
        if let Some(price) = price {
            shown[name] = show_e4(price).into();
        }
    }

    let fired = subscriber.fired(id);
    shown["fired"] = fired.is_some().into();
    if let Some(fired) = fired {
        (shown["price"], shown["time_us"]) = (show_e4(fired.price_e4).into(), fired.time_us.into());
    }

    shown
}

/// Id of a notification, the same over all retries and gateways. A receiver may ignore an id that
/// was handled before. `cluster` distinguishes installations.
pub fn id(cluster: &str, topic: &str, user: &str, seq: u64, channel: &str) -> String {
    use sha2::{Digest, Sha256};
    let mut hash = Sha256::new();
    for part in [cluster, topic, user, &seq.to_string(), channel] {
        hash.update(
            u32::try_from(part.len())
                .expect("names are short")
                .to_be_bytes(),
        );
        hash.update(part.as_bytes());
    }

    let hex = HEXLOWER.encode(&hash.finalize()[..16]);
    format!("msg_{hex}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_is_text_and_everything_else_stays() {
        let value = json!({"user_seq": 3, "event": {"last_price_e4": 1_892_500, "quantity": 10, "amount_e4": -5, "text_e4": "x"}});
        assert_eq!(
            plain(value),
            json!({"user_seq": 3, "event": {"last_price": "189.25", "quantity": 10, "amount": "-0.0005", "text_e4": "x"}})
        );
    }

    #[test]
    fn ids_are_stable_and_differ_in_every_part() {
        let a = id("c", "notifications", "501", 7, "webhook");
        assert_eq!(a, id("c", "notifications", "501", 7, "webhook"));
        for other in [
            id("d", "notifications", "501", 7, "webhook"),
            id("c", "notifications", "50", 17, "webhook"),
            id("c", "notifications", "501", 7, "mail"),
        ] {
            assert_ne!(a, other);
        }

        assert!(a.len() == 36 && a.starts_with("msg_"));
    }
}
