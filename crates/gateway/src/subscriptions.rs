//! Who wants what, where, and how far it was delivered: the compacted topic `subscriptions`, read
//! whole by every gateway.
//!
//! A topic and not a file, because several gateways must agree, and because whoever takes over from
//! one that died must find its positions. Each thing has a key of its own, so that two writers
//! never overwrite each other's half of a record:
//!
//! | key | value |
//! |---|---|
//! | `USER/preferences` | [`Preferences`] |
//! | `USER/webhook/ID` | [`Webhook`] |
//! | `USER/position/ID` | [`DeliveryPosition`]: how far the webhook was delivered |
//! | `USER/alert/ID` | [`Alert`] |
//! | `USER/fired/ID` | [`Fired`]: the alert's price was reached; the first record of a registration counts |
//!
//! Values are JSON; a null value removes. What was written is answered only after it has come back
//! from the log.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use ports::records::Record;

/// Kinds per channel. None: all kinds; empty: nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Preferences {
    /// Server-Sent Events and WebSockets that do not say what they want.
    pub stream: Option<BTreeSet<String>>,
    /// Webhooks; an endpoint may want fewer.
    pub webhook: Option<BTreeSet<String>>,
}

/// An endpoint of a user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Webhook {
    /// Where to.
    pub url: String,
    /// `whsec_` and base64: the key of the signatures.
    pub secret: String,
    /// Kinds wanted; none: all.
    pub kinds: Option<BTreeSet<String>>,
    /// Names the registration: a position of an earlier one with the same id does not count.
    pub registration: String,
    /// Counts changes; a change enables an endpoint that was disabled.
    pub revision: u64,
    /// What came up to here was before the endpoint.
    pub after: u64,
    /// In place of that, for a user who had no notification within the history, so that no number
    /// was known: offset in their partition of `notifications` before which everything was before
    /// the endpoint.
    #[serde(default)]
    pub from: Option<u64>,
}

/// How far an endpoint was served.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliveryPosition {
    /// Of which registration.
    pub registration: String,
    /// Everything up to here was delivered, not wanted, or given up.
    pub after: u64,
    /// Failed attempts at the notification that follows.
    pub attempts: u32,
    /// How many of them the endpoint answered by refusing this notification.
    #[serde(default)]
    pub refused: u32,
    /// When the first of them failed, milliseconds since 1970; 0: there was none.
    #[serde(default)]
    pub failing_since_ms: i64,
    /// Which revision of the endpoint failed; another one begins without failures.
    #[serde(default)]
    pub revision: u64,
    /// When to try again, milliseconds since 1970; 0: at once.
    pub next_ms: i64,
    /// What went wrong last.
    pub error: Option<String>,
    /// Set when the endpoint was disabled: the revision that was.
    pub disabled: Option<u64>,
}

impl DeliveryPosition {
    /// Goes on under a revision of the endpoint: one that was corrected need not wait for what the
    /// wrong one has earned.
    pub fn revise(&mut self, revision: u64) {
        if self.revision != revision {
            self.revision = revision;
            self.begin_with(self.after);
        }
    }

    /// Everything up to here is dealt with, and the next notification has not failed.
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

/// A price to be told of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alert {
    /// Which symbol.
    pub symbol: String,
    /// Fires at this price or above, 10^-4.
    pub above_e4: Option<i64>,
    /// Fires at this price or below, 10^-4.
    pub below_e4: Option<i64>,
    /// Names the registration: each fires once.
    pub registration: String,
    /// Offset of `reference-prices` from which prices count.
    pub from: u64,
}

impl Alert {
    /// Whether a price is where the alert waits for it.
    pub fn reached(&self, price_e4: i64) -> bool {
        self.above_e4.is_some_and(|p| price_e4 >= p) || self.below_e4.is_some_and(|p| price_e4 <= p)
    }
}

/// That an alert fired.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fired {
    /// Which registration.
    pub registration: String,
    /// The price.
    pub price_e4: i64,
    /// The price's time.
    pub time_us: i64,
}

/// What is known of one user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subscriber {
    /// What they want.
    pub preferences: Preferences,
    /// Their endpoints.
    pub webhooks: BTreeMap<String, Webhook>,
    /// How far those were served.
    pub positions: BTreeMap<String, DeliveryPosition>,
    /// Their price alerts.
    pub alerts: BTreeMap<String, Alert>,
    fired: BTreeMap<String, Fired>,
}

impl Subscriber {
    /// Where an endpoint stands.
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

    /// How an alert fired; none if it has not.
    pub fn fired(&self, id: &str) -> Option<&Fired> {
        let alert = self.alerts.get(id)?;
        self.fired
            .get(id)
            .filter(|f| f.registration == alert.registration)
    }

    /// Whether an endpoint is to be served.
    pub fn is_enabled(&self, id: &str) -> bool {
        match (self.webhooks.get(id), self.position(id)) {
            (Some(hook), Some(position)) => position.disabled != Some(hook.revision),
            _ => false,
        }
    }
}

/// The topic's content; see the module.
#[derive(Debug, Default)]
pub struct Subscriptions {
    users: RwLock<BTreeMap<String, Arc<Subscriber>>>,
    next: AtomicU64,
    changed: watch::Sender<u64>,
}

impl Subscriptions {
    /// A user's.
    pub fn of(&self, user: &str) -> Arc<Subscriber> {
        self.users
            .read()
            .expect("plain data")
            .get(user)
            .cloned()
            .unwrap_or_default()
    }

    /// Every endpoint: user, id, and what is known of the user.
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

    /// Everybody who has alerts.
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
        self.next.load(Ordering::Acquire)
    }

    /// Changes whenever something was taken in that is not a mere position: of those there are
    /// many, and their writer knows them.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Takes records of the topic in. What cannot be read is passed over: it may be a later
    /// version's.
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
        self.next.store(next, Ordering::Release);
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

            // A second record of one registration is a second gateway's, and changes nothing.
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

/// Key of a user's preferences.
pub fn preferences_key(user: &str) -> String {
    format!("{user}/preferences")
}

/// Key of an endpoint.
pub fn webhook_key(user: &str, id: &str) -> String {
    format!("{user}/webhook/{id}")
}

/// Key of an endpoint's position.
pub fn position_key(user: &str, id: &str) -> String {
    format!("{user}/position/{id}")
}

/// Key of an alert.
pub fn alert_key(user: &str, id: &str) -> String {
    format!("{user}/alert/{id}")
}

/// Key of an alert's firing.
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
    fn a_position_belongs_to_its_registration_and_a_disabling_to_its_revision() {
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
