//! Delivery to one endpoint: notifications in order, each until it is accepted or given up.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use os::clock::wall_ms;
use ports::records::HeaderBuf;
use ports::topics::TopicPartition;
use serde_json::json;
use sha2::{Digest, Sha256};
use wire::topics::DEAD_LETTERS;

use super::{DeliveryContext, sign};
use crate::feed::{Begin, Next};
use crate::feed_item::FeedItem;
use crate::json;
use crate::subscriptions::{DeliveryPosition, Webhook, position_key};
use crate::writer::RecordWrite;

/// Pause before the log is asked again. Also the retry pause of an empty schedule.
const PAUSE: Duration = Duration::from_secs(1);
/// A request that takes longer moves to a slow slot, and delays only slow endpoints of its user.
const PROMPT: Duration = Duration::from_secs(2);
/// Longest error text that is kept, in bytes.
const ERROR_MAX: usize = 300;

/// Outcome of a delivery attempt.
enum AttemptOutcome {
    Accepted,
    /// HTTP 410: the endpoint gets no more requests.
    Gone,
    /// The endpoint does not work, at least for now. With `refused`, the endpoint works but does
    /// not accept this notification.
    Failed {
        why: String,
        refused: bool,
    },
}

/// The delivery of one endpoint.
pub(super) struct Delivery {
    shared: Arc<DeliveryContext>,
    user: String,
    id: String,
    hook: Webhook,
    key: Vec<u8>,
    preferred: Option<BTreeSet<String>>,
    position: Arc<Mutex<DeliveryPosition>>,
}

impl Delivery {
    pub(super) fn new(
        shared: Arc<DeliveryContext>,
        user: &str,
        id: &str,
        hook: Webhook,
        preferred: Option<BTreeSet<String>>,
        position: Arc<Mutex<DeliveryPosition>>,
    ) -> Result<Self, String> {
        let key = sign::key(&hook.secret)?;
        Ok(Delivery {
            shared,
            user: user.into(),
            id: id.into(),
            hook,
            key,
            preferred,
            position,
        })
    }

    pub(super) async fn run(self) {
        // Until the first notification is settled, the start of an endpoint may be an offset
        // instead of a number.
        let begin = match self.position().after {
            0 if self.hook.from.is_some() => Begin::Oldest,
            after => Begin::After(after),
        };

        let mut cursor = self.shared.gateway.feed.cursor(&self.user, begin);
        loop {
            match cursor.next().await {
                Ok(Next::Items(items)) => {
                    for item in items {
                        if !self.settle(&item).await {
                            return;
                        }
                    }
                }
                Ok(Next::Gone { first }) => {
                    let mut position = self.position();
                    let why = if position.after >= first {
                        format!(
                            "position {} is ahead of the log; it goes on with notification {first}",
                            position.after
                        )
                    } else {
                        self.shared
                            .gateway
                            .metrics
                            .webhooks_dead
                            .fetch_add(1, Ordering::Relaxed);
                        format!(
                            "what came before notification {first} is older than the history and was not sent"
                        )
                    };

                    tracing::warn!(user = self.user, id = self.id, "{why}");
                    position.begin_with(first - 1);
                    position.error = Some(why);
                    self.save(position).await;
                }
                Err(e) => {
                    tracing::warn!(
                        user = self.user,
                        id = self.id,
                        "webhook delivery paused: {e}; trying again in {PAUSE:?}"
                    );
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// Delivers one notification, or gives up. Returns false if the endpoint was disabled.
    async fn settle(&self, item: &FeedItem) -> bool {
        let m = &self.shared.gateway.metrics;
        let before = self.hook.from.is_some_and(|from| item.offset < from);
        if before || !self.wants(item) {
            self.done(item.seq, false).await;
            return true;
        }

        loop {
            let due = self.position().next_ms;
            let wait =
                Duration::from_millis(u64::try_from(due.saturating_sub(wall_ms())).unwrap_or(0));

            // Wait no longer than the current settings allow. The clock may have been wrong when
            // `next_ms` was set.
            tokio::time::sleep(wait.min(self.longest_pause())).await;
            match self.attempt(item).await {
                AttemptOutcome::Accepted => {
                    m.webhooks_ok.fetch_add(1, Ordering::Relaxed);
                    self.done(item.seq, false).await;
                    return true;
                }
                AttemptOutcome::Gone => {
                    m.webhooks_failed.fetch_add(1, Ordering::Relaxed);
                    m.webhooks_disabled.fetch_add(1, Ordering::Relaxed);
                    let mut position = self.position();
                    position.error = Some("the endpoint answered 410 Gone".into());
                    position.disabled = Some(self.hook.revision);
                    self.save(position).await;
                    return false;
                }
                AttemptOutcome::Failed { why, refused } => {
                    m.webhooks_failed.fetch_add(1, Ordering::Relaxed);
                    if self.failed(item, why, refused).await {
                        return true;
                    }
                }
            }
        }
    }

    fn longest_pause(&self) -> Duration {
        self.shared
            .gateway
            .settings
            .schedule
            .iter()
            .max()
            .map_or(PAUSE, |longest| *longest + *longest / 5)
    }

    fn wants(&self, item: &FeedItem) -> bool {
        let kind = json::kind(item).unwrap_or_default();
        [&self.preferred, &self.hook.kinds]
            .into_iter()
            .all(|wanted| wanted.as_ref().is_none_or(|w| w.contains(kind)))
    }

    async fn attempt(&self, item: &FeedItem) -> AttemptOutcome {
        let failed = |why| AttemptOutcome::Failed {
            why,
            refused: false,
        };

        let shared = &self.shared;
        let Ok(place) = shared.prompt.acquire().await else {
            return failed("the gateway is stopping".into());
        };

        let gateway = &shared.gateway;
        let time = jiff::Timestamp::from_millisecond(item.time_ms)
            .map(|t| format!("{t:.3}"))
            .unwrap_or_default();
        let kind = json::kind(item).unwrap_or_default();
        let body = json!({ "type": kind, "timestamp": time, "data": json::notification(item) })
            .to_string();
        let id = json::id(
            &gateway.cluster,
            gateway.topic_name(),
            &self.user,
            item.seq,
            "webhook",
        );

        let now_s = wall_ms() / 1000;
        let signature = sign::signature(&self.key, &id, now_s, body.as_bytes());
        let headers = [
            ("webhook-id", id),
            ("webhook-timestamp", now_s.to_string()),
            ("webhook-signature", signature),
        ];
        let mut request = std::pin::pin!(shared.client.post(
            &self.hook.url,
            &headers,
            Bytes::from(body)
        ));
        let answer = match tokio::time::timeout(PROMPT, &mut request).await {
            Ok(answer) => answer,
            // Free the place for endpoints that answer fast.
            Err(_) => {
                drop(place);
                let Some(_place) = shared.slow.take(&self.user) else {
                    return failed(format!(
                        "no answer within {PROMPT:?}, and the gateway waits for too many slow endpoints"
                    ));
                };

                request.await
            }
        };

        match answer {
            Ok(200..=299) => AttemptOutcome::Accepted,
            Ok(410) => AttemptOutcome::Gone,
            Ok(status @ (400 | 409 | 413 | 415 | 422)) => AttemptOutcome::Failed {
                why: format!("the endpoint refused this notification with {status}"),
                refused: true,
            },
            Ok(status) => failed(format!("the endpoint answered {status}")),
            Err(why) => failed(why),
        }
    }

    /// Notes a failed attempt. Returns true if the notification is given up. An endpoint that does
    /// not work is retried for `give_up`, and its later notifications wait. A refused notification
    /// is retried only as often as the schedule has pauses, so that later notifications need not
    /// wait.
    async fn failed(&self, item: &FeedItem, mut why: String, refused: bool) -> bool {
        why.truncate(
            (0..=ERROR_MAX.min(why.len()))
                .rev()
                .find(|n| why.is_char_boundary(*n))
                .unwrap_or(0),
        );
        let mut position = self.position();
        let now_ms = wall_ms();
        let schedule = &self.shared.gateway.settings.schedule;
        let give_up = self.shared.gateway.settings.give_up;
        let pause = schedule
            .get(position.attempts as usize)
            .or(schedule.last())
            .copied()
            .unwrap_or(PAUSE);
        if position.attempts == 0 {
            position.failing_since_ms = now_ms;
        }

        position.attempts = position.attempts.saturating_add(1);
        position.refused = position.refused.saturating_add(u32::from(refused));
        position.error = Some(why.clone());
        let failing =
            Duration::from_millis(u64::try_from(now_ms - position.failing_since_ms).unwrap_or(0));
        if position.refused as usize <= schedule.len() && failing < give_up {
            position.next_ms = now_ms
                .saturating_add(i64::try_from(jittered(pause).as_millis()).unwrap_or(i64::MAX));
            self.save(position).await;
            return false;
        }

        let why = format!(
            "given up after {} attempts in {} s: {why}",
            position.attempts,
            failing.as_secs()
        );

        // Write the dead letter before the position. A crash in between then writes the letter
        // twice. The other order would lose the letter.
        while let Err(e) = self.dead_letter(item, &why).await {
            tracing::warn!(
                user = self.user,
                id = self.id,
                "the dead letter of a notification could not be written: {e}; trying again in {PAUSE:?}"
            );
            tokio::time::sleep(PAUSE).await;
        }

        self.shared
            .gateway
            .metrics
            .webhooks_dead
            .fetch_add(1, Ordering::Relaxed);
        self.done(item.seq, true).await;
        true
    }

    async fn dead_letter(&self, item: &FeedItem, why: &str) -> Result<(), String> {
        let gateway = &self.shared.gateway;
        let source = TopicPartition::new(gateway.feed.topic, gateway.feed.partition(&self.user));
        let src = format!("{}/{}", gateway.topics.show(source), item.offset);
        let text = format!("webhook {} of {}: {why}", self.id, self.user);
        let mut headers = HeaderBuf::default();
        headers
            .push("type", b"DeadLetter")
            .push("v", b"1")
            .push("src", src.as_bytes())
            .push("n", self.number().to_string().as_bytes());
        headers
            .push("reason", b"WEBHOOK_UNDELIVERABLE")
            .push("text", text.as_bytes());

        // All topics keyed by user have the same number of partitions.
        let at = TopicPartition::new(DEAD_LETTERS, gateway.feed.partition(&self.user));
        self.shared
            .writer
            .write(RecordWrite {
                at,
                key: self.user.clone(),
                value: Some(item.value.to_vec()),
                headers,
                time_ms: item.time_ms,
            })
            .await
    }

    /// The `n` of our dead letters. `(src, n)` names a record for ever. Two registrations of a user
    /// that give up the same notification get different numbers. A letter that is repeated after a
    /// crash gets the same number. Small numbers belong to the roles that read `notifications`.
    fn number(&self) -> u32 {
        let mut hash = Sha256::new();
        for part in [&self.id, &self.hook.registration] {
            hash.update(
                u32::try_from(part.len())
                    .expect("names are short")
                    .to_be_bytes(),
            );
            hash.update(part);
        }

        let start = hash
            .finalize()
            .first_chunk()
            .copied()
            .expect("a hash has 32 bytes");
        (1 << 30) | (u32::from_be_bytes(start) >> 2)
    }

    fn position(&self) -> DeliveryPosition {
        self.position.lock().expect("plain data").clone()
    }

    /// Finishes the notification. `at_once`: the position is in the log before delivery continues.
    async fn done(&self, seq: u64, at_once: bool) {
        let mut position = self.position();
        position.begin_with(seq);
        if !at_once {
            position.error = None;
            let value = serde_json::to_vec(&position).expect("a position can be written");
            *self.position.lock().expect("plain data") = position;
            self.shared
                .writer
                .soon(position_key(&self.user, &self.id), value);
            return;
        }

        self.save(position).await;
    }

    /// Writes the position. If the write fails, delivery continues from memory, and may repeat
    /// notifications after a restart.
    async fn save(&self, position: DeliveryPosition) {
        let value = serde_json::to_vec(&position).expect("a position can be written");
        *self.position.lock().expect("plain data") = position;
        if let Err(e) = self
            .shared
            .writer
            .subscribe(position_key(&self.user, &self.id), Some(value))
            .await
        {
            tracing::warn!(
                user = self.user,
                id = self.id,
                "the position of the webhook could not be written: {e}; after a restart some notifications may be sent again"
            );
        }
    }
}

/// Adds up to a fifth of the pause, so that deliveries that failed together retry at different
/// times.
fn jittered(pause: Duration) -> Duration {
    pause + pause.mul_f64(f64::from(getrandom::u32().unwrap_or(0)) / f64::from(u32::MAX) / 5.0)
}
