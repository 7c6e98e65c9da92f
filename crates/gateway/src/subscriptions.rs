//! Preferences, webhooks and price alerts of all users, and the delivery position of each webhook.
//! Every gateway reads all of the compacted topic `subscriptions`, which stores these records.
//!
//! The records are in a topic and not in a file for two reasons. Several gateways must agree, and
//! the successor of a dead gateway must find its positions. Each value has a key of its own, so
//! that two writers never overwrite parts of each other's records:
//!
//! | key | value |
//! |---|---|
//! | `USER/preferences` | [`Preferences`] |
//! | `USER/webhook/ID` | [`Webhook`] |
//! | `USER/position/ID` | [`DeliveryPosition`]: how far the webhook was delivered |
//! | `USER/alert/ID` | [`Alert`] |
//! | `USER/fired/ID` | [`Fired`]: the alert fired; the first record of a registration counts |
//!
//! Values are JSON; a null value removes the key. A request that changes a value is answered only
//! after its record has come back from the log.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, RwLock};

use ports::records::Record;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// Wanted kinds for each channel. `None`: all kinds; an empty set: no notifications.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Preferences {
    /// Default for Server-Sent Events and WebSockets whose request names no kinds.
    pub stream: Option<BTreeSet<String>>,
    /// Webhooks. A single endpoint may want fewer kinds.
    pub webhook: Option<BTreeSet<String>>,
}

/// A webhook endpoint of a user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Webhook {
    pub url: String,
    /// Key of the signatures: `whsec_` and base64.
    pub secret: String,
    /// Wanted kinds; `None`: all kinds.
    pub kinds: Option<BTreeSet<String>>,
    /// Id of the registration. A position of an earlier registration with the same webhook id is
    /// ignored.
    pub registration: String,
    /// Number of the endpoint's version. A change enables a disabled endpoint.
    pub revision: u64,
    /// Number of the last notification before the endpoint. Delivery begins after this number.
    pub after: u64,
    /// Replaces `after` for a user without a notification within the history, because no number was
    /// known. Offset in the user's partition of `notifications`. Notifications before this offset
    /// came before the endpoint.
    #[serde(default)]
    pub from: Option<u64>,
}

/// Delivery progress of an endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliveryPosition {
    /// Registration of the endpoint that the position belongs to.
    pub registration: String,
    /// Every notification up to this number was delivered, not wanted, or given up.
    pub after: u64,
    /// Number of failed attempts to deliver the next notification.
    pub attempts: u32,
    /// Number of these attempts that ended with a refusal of the notification by the endpoint.
    #[serde(default)]
    pub refused: u32,
    /// Time of the first failed attempt, in milliseconds since 1970; 0: no attempt has failed.
    #[serde(default)]
    pub failing_since_ms: i64,
    /// Revision of the endpoint that failed. Another revision begins without failures.
    #[serde(default)]
    pub revision: u64,
    /// Time of the next attempt, in milliseconds since 1970; 0: at once.
    pub next_ms: i64,
    /// Last error.
    pub error: Option<String>,
    /// Revision of the endpoint that was disabled; `None`: the endpoint was not disabled.
    pub disabled: Option<u64>,
}

impl DeliveryPosition {
    /// Continues with the given revision of the endpoint. A new revision clears the failures, so
    /// that a corrected endpoint does not wait for the retry pause of the wrong one.
    pub fn revise(&mut self, revision: u64) {
        if self.revision != revision {
            self.revision = revision;
            self.begin_with(self.after);
        }
    }

    /// Finishes all notifications up to `after`, and clears the failures for the next notification.
    pub fn begin_with(&mut self, after: u64) {
        (
            self.after,
            self.attempts,
            self.refused,
            self.failing_since_ms,
            self.next_ms,
        ) = (after, 0, 0, 0, 0);
    }
}

/// A price alert of a user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alert {
    pub symbol: String,
    /// Fires at this price or above, in 10^-4 units.
    pub above_e4: Option<i64>,
    /// Fires at this price or below, in 10^-4 units.
    pub below_e4: Option<i64>,
    /// Id of the registration. Each registration fires once.
    pub registration: String,
    /// Offset of `reference-prices` from which prices count.
    pub from: u64,
}

impl Alert {
    /// Reports whether the price has reached the alert's price.
    pub fn reached(&self, price_e4: i64) -> bool {
        self.above_e4.is_some_and(|p| price_e4 >= p) || self.below_e4.is_some_and(|p| price_e4 <= p)
    }
}

/// Record of an alert that fired.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fired {
    /// Registration of the alert.
    pub registration: String,
    /// The price that fired the alert, in 10^-4 units.
    pub price_e4: i64,
    /// Time of that price, in microseconds.
    pub time_us: i64,
}

/// Preferences, endpoints and alerts of one user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subscriber {
    pub preferences: Preferences,
    /// Endpoints by id.
    pub webhooks: BTreeMap<String, Webhook>,
    /// Delivery positions by endpoint id.
    pub positions: BTreeMap<String, DeliveryPosition>,
    /// Price alerts by id.
    pub alerts: BTreeMap<String, Alert>,
    fired: BTreeMap<String, Fired>,
}

impl Subscriber {
    /// The delivery position of an endpoint. A stored position of another registration is ignored.
    pub fn position(&self, id: &str) -> Option<DeliveryPosition> {
        let hook = self.webhooks.get(id)?;
        let fresh = || DeliveryPosition {
            registration: hook.registration.clone(),
            after: hook.after,
            ..DeliveryPosition::default()
        };

        let mut position = self
            .positions
            .get(id)
            .filter(|p| p.registration == hook.registration)
            .cloned()
            .unwrap_or_else(fresh);
        position.revise(hook.revision);
        Some(position)
    }

    /// The record of an alert that fired; `None` if the alert has not fired.
    pub fn fired(&self, id: &str) -> Option<&Fired> {
        let alert = self.alerts.get(id)?;
        self.fired
            .get(id)
            .filter(|f| f.registration == alert.registration)
    }

    /// Reports whether the endpoint exists and is not disabled at its current revision.
    pub fn is_enabled(&self, id: &str) -> bool {
        match (self.webhooks.get(id), self.position(id)) {
            (Some(hook), Some(position)) => position.disabled != Some(hook.revision),
            _ => false,
        }
    }
}

/// Content of the topic `subscriptions`.
#[derive(Debug, Default)]
pub struct Subscriptions {
    users: RwLock<BTreeMap<String, Arc<Subscriber>>>,
    next: watch::Sender<u64>,
    changed: watch::Sender<u64>,
}

impl Subscriptions {
    /// Subscriptions of a user; empty if the user has none.
    pub fn of(&self, user: &str) -> Arc<Subscriber> {
        self.users
            .read()
            .expect("plain data")
            .get(user)
            .cloned()
            .unwrap_or_default()
    }

    /// Every endpoint: user, id, and the user's subscriptions.
    pub fn endpoints(&self) -> Vec<(String, String, Arc<Subscriber>)> {
        let users = self.users.read().expect("plain data");
        users
            .iter()
            .flat_map(|(u, s)| {
                s.webhooks
                    .keys()
                    .map(|id| (u.clone(), id.clone(), s.clone()))
            })
            .collect()
    }

    /// All users who have alerts.
    pub fn with_alerts(&self) -> Vec<(String, Arc<Subscriber>)> {
        let users = self.users.read().expect("plain data");
        users
            .iter()
            .filter(|(_, s)| !s.alerts.is_empty())
            .map(|(u, s)| (u.clone(), s.clone()))
            .collect()
    }

    /// First offset that was not taken in yet.
    pub fn next_offset(&self) -> u64 {
        *self.next.borrow()
    }

    /// Resolves when all records below the offset `end` are taken in.
    pub async fn read_up_to(&self, end: u64) {
        // The sender lives as long as `self`.
        drop(self.next.subscribe().wait_for(|next| *next >= end).await);
    }

    /// Changes with every batch that has a record other than a position. Position records are
    /// frequent, and their writer knows them already.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Takes in records of the topic. Skips a record that cannot be decoded: a later version may
    /// have written the record.
    pub fn take<'a>(&self, records: impl Iterator<Item = Record<'a>>) {
        let mut users = self.users.write().expect("plain data");
        let mut next = self.next_offset();
        let mut news = false;
        for r in records {
            if r.offset < next {
                continue;
            }

            next = r.offset + 1;
            let Some(key) = r.key.and_then(|k| std::str::from_utf8(k).ok()) else {
                continue;
            };

            news |= !key.contains("/position/");
            if let Err(e) = apply(&mut users, key, r.value) {
                tracing::warn!(
                    key,
                    offset = r.offset,
                    "a record of the subscriptions topic is passed over: {e}"
                );
            }
        }

        drop(users);
        self.next.send_replace(next);
        if news {
            self.changed.send_replace(next);
        }
    }
}

fn apply(
    users: &mut BTreeMap<String, Arc<Subscriber>>,
    key: &str,
    value: Option<&[u8]>,
) -> Result<(), serde_json::Error> {
    let mut parts = key.splitn(3, '/');
    let (Some(user), Some(what), id) =
        (parts.next(), parts.next(), parts.next().unwrap_or_default())
    else {
        return Ok(());
    };

    let s = Arc::make_mut(users.entry(user.to_string()).or_default());
    match what {
        "preferences" => {
            s.preferences = value
                .map(serde_json::from_slice)
                .transpose()?
                .unwrap_or_default()
        }
        "webhook" => put(&mut s.webhooks, id, value)?,
        "position" => put(&mut s.positions, id, value)?,
        "alert" => put(&mut s.alerts, id, value)?,
        "fired" => {
            let before = s.fired.get(id).cloned();
            put(&mut s.fired, id, value)?;

            // A duplicate record of one registration comes from a second gateway. The first one
            // counts.
            if let (Some(before), Some(now)) = (before, s.fired.get_mut(id))
                && before.registration == now.registration
            {
                *now = before;
            }
        }
        _ => {}
    }

    if *users[user] == Subscriber::default() {
        users.remove(user);
    }

    Ok(())
}

fn put<T: for<'a> Deserialize<'a>>(
    map: &mut BTreeMap<String, T>,
    id: &str,
    value: Option<&[u8]>,
) -> Result<(), serde_json::Error> {
    match value.map(serde_json::from_slice).transpose()? {
        Some(value) => map.insert(id.to_string(), value),
        None => map.remove(id),
    };

    Ok(())
}

pub fn preferences_key(user: &str) -> String {
    format!("{user}/preferences")
}

/// Key of a webhook endpoint.
pub fn webhook_key(user: &str, id: &str) -> String {
    format!("{user}/webhook/{id}")
}

/// Key of an endpoint's delivery position.
pub fn position_key(user: &str, id: &str) -> String {
    format!("{user}/position/{id}")
}

pub fn alert_key(user: &str, id: &str) -> String {
    format!("{user}/alert/{id}")
}

/// Key of the record that an alert fired.
pub fn fired_key(user: &str, id: &str) -> String {
    format!("{user}/fired/{id}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use ports::records::Headers;
    use ports::topics::{TopicId, TopicPartition};

    fn feed(s: &Subscriptions, offset: u64, key: &str, value: Option<&str>) {
        let at = TopicPartition::new(TopicId(0), 0);
        let key = Some(key.as_bytes());
        let value = value.map(str::as_bytes);
        s.take(std::iter::once(Record {
            at,
            offset,
            timestamp_ms: 0,
            key,
            value,
            headers: Headers::default(),
        }));
    }

    #[test]
    fn a_position_follows_its_registration_a_disabling_its_revision() {
        let s = Subscriptions::default();
        let hook = |registration: &str, revision: u64| {
            format!(
                "{{\"url\":\"https://x/\",\"secret\":\"\",\"kinds\":null,\"registration\":\"{registration}\",\"revision\":{revision},\"after\":5}}"
            )
        };

        feed(&s, 0, "501/webhook/a", Some(&hook("r1", 1)));
        assert_eq!(s.of("501").position("a").map(|p| p.after), Some(5));
        feed(
            &s,
            1,
            "501/position/a",
            Some(
                r#"{"registration":"r1","after":9,"attempts":0,"next_ms":0,"error":null,"disabled":1}"#,
            ),
        );

        assert_eq!(s.of("501").position("a").map(|p| p.after), Some(9));
        assert!(!s.of("501").is_enabled("a"));
        feed(&s, 2, "501/webhook/a", Some(&hook("r1", 2)));
        assert!(
            s.of("501").is_enabled("a"),
            "a change enables it again, from where it was"
        );
        assert_eq!(s.of("501").position("a").map(|p| p.after), Some(9));
        feed(
            &s,
            3,
            "501/position/a",
            Some(
                r#"{"registration":"r1","after":9,"attempts":3,"next_ms":77,"error":"x","disabled":null,"revision":2}"#,
            ),
        );

        let failures =
            |p: Option<DeliveryPosition>| p.map(|p| (p.after, p.attempts, p.next_ms, p.revision));
        assert_eq!(failures(s.of("501").position("a")), Some((9, 3, 77, 2)));
        feed(&s, 4, "501/webhook/a", Some(&hook("r1", 3)));
        assert_eq!(
            failures(s.of("501").position("a")),
            Some((9, 0, 0, 3)),
            "what was corrected has not failed yet"
        );
        feed(&s, 5, "501/webhook/a", Some(&hook("r2", 1)));
        assert_eq!(
            s.of("501").position("a").map(|p| p.after),
            Some(5),
            "another registration begins anew"
        );
        assert!(s.of("501").is_enabled("a"));
        feed(&s, 6, "501/webhook/a", Some("not JSON"));
        feed(
            &s,
            7,
            "501/preferences",
            Some(r#"{"stream":["order-filled"]}"#),
        );
        feed(&s, 3, "501/webhook/a", None);
        assert!(
            s.of("501").is_enabled("a"),
            "what was taken in before is not taken in again"
        );
        feed(&s, 8, "501/webhook/a", None);
        feed(&s, 9, "501/position/a", None);
        assert_eq!(s.endpoints(), []);
        feed(&s, 10, "501/preferences", None);
        assert_eq!(
            s.users.read().expect("plain").len(),
            0,
            "nothing is kept of who has nothing"
        );
    }
}
