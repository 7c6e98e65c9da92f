//! From a cursor to one connection, over a short queue.
//!
//! The queue is all that is ever stored for a connection (besides one page of history), so a client
//! that does not read costs a few kilobytes and nothing else. When it has taken nothing for a
//! while, or has fallen so far behind that memory does not hold its place any more, it is
//! disconnected, and the last thing in its queue says from where to resume. Nobody else waits for
//! it: each connection has a task and a queue of its own.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::access::Caller;
use super::feed::{Begin, FeedCursor, Item, Next};
use super::{GatewayContext, json, manage, percent};

/// What a connection is told.
#[derive(Clone, Debug)]
pub(crate) enum StreamMessage {
    /// Where the stream begins: the number of the last notification before it.
    Hello(u64),
    /// A notification.
    Notification(Item),
    /// A price alert fired: the alert's id, and what happened. It has no number, and does not move
    /// the position.
    Alert(Value),
    /// Something between the client's position and this number is not there any more, or the
    /// position is ahead of the log.
    Resync {
        /// The client's position.
        after: u64,
        /// The first notification that follows.
        first: u64,
    },
    /// Nothing happened; the position may have moved past what was not wanted.
    Heartbeat(Option<u64>),
    /// The last message.
    End(End, u64),
}

/// Why a stream ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The client reads too slowly.
    Slow,
    /// The gateway stops.
    Closing,
    /// The token is not valid any more.
    Revoked,
    /// The log cannot be read.
    Unavailable,
}

impl End {
    /// The event's name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            End::Slow => "slow_consumer",
            End::Closing => "closing",
            End::Revoked => "token_revoked",
            End::Unavailable => "unavailable",
        }
    }
}

impl StreamMessage {
    /// Event name, id (an alert has none) and data; none for a heartbeat.
    pub(crate) fn parts(&self, user: &str) -> Option<(&'static str, Option<u64>, Value)> {
        match self {
            StreamMessage::Alert(data) => Some(("price_alert", None, data.clone())),
            StreamMessage::Hello(after) => Some((
                "hello",
                Some(*after),
                json!({ "user_id": user, "resume_from": after }),
            )),
            StreamMessage::Notification(item) => {
                Some(("notification", Some(item.seq), json::notification(item)))
            }
            StreamMessage::Resync { after, first } => {
                let snapshot = format!("/v1/users/{}/portfolio", percent::encode(user));
                Some((
                    "resync_required",
                    Some(first - 1),
                    json!({ "user_id": user, "after": after, "first_user_seq": first, "snapshot": snapshot }),
                ))
            }
            StreamMessage::Heartbeat(_) => None,
            StreamMessage::End(why, after) => Some((
                why.name(),
                Some(*after),
                json!({ "user_id": user, "resume_from": after }),
            )),
        }
    }
}

/// The kinds that a stream carries; none: all.
pub(crate) type KindFilter = Option<BTreeSet<String>>;

/// Whether a notification is among the kinds.
pub(crate) fn wants(wanted: &KindFilter, item: &Item) -> bool {
    wanted
        .as_ref()
        .is_none_or(|kinds| json::kind(item).is_some_and(|k| kinds.contains(k)))
}

/// The receiving end of a connection.
pub(crate) struct Outgoing {
    /// What is to be sent, in order.
    pub queue: mpsc::Receiver<StreamMessage>,
    /// What to send after the queue has ended.
    pub last: Arc<OnceLock<StreamMessage>>,
}

/// Starts telling a user's notifications after `after`. `kill` is notified when the connection
/// should be cut, having had time to read its end.
pub(crate) fn start(
    gateway: &Arc<GatewayContext>,
    caller: Caller,
    user: &str,
    after: Option<u64>,
    wanted: KindFilter,
    kill: Arc<Notify>,
) -> Outgoing {
    let (send, queue) = mpsc::channel(gateway.settings.queue);
    let last = Arc::new(OnceLock::new());
    let mut changes = gateway.subscriptions.watch();

    // Alerts that fired before are told first, and all alerts after the notifications that are
    // there already.
    changes.mark_changed();
    let due = Instant::now() + gateway.settings.heartbeat;
    let pump = Pump {
        gateway: gateway.clone(),
        caller,
        user: user.to_string(),
        wanted,
        send,
        told: 0,
        due,
        changes,
        alerted: BTreeSet::new(),
    };

    let theirs = last.clone();
    tokio::spawn(async move {
        let m = &pump.gateway.metrics;
        m.streams.fetch_add(1, Ordering::Relaxed);
        let gateway = pump.gateway.clone();

        // Held so that the queue is seen to end only when the last message is in its place.
        let open = pump.send.clone();
        let ended = pump.tell(after).await;
        gateway.metrics.streams.fetch_sub(1, Ordering::Relaxed);
        let Some((why, position)) = ended else { return };
        if why == End::Slow {
            gateway.metrics.slow.fetch_add(1, Ordering::Relaxed);
        }

        theirs
            .set(StreamMessage::End(why, position))
            .unwrap_or_default();
        drop(open);
        tokio::time::sleep(gateway.settings.grace).await;
        kill.notify_one();
    });

    Outgoing { queue, last }
}

struct Pump {
    gateway: Arc<GatewayContext>,
    caller: Caller,
    user: String,
    wanted: KindFilter,
    send: mpsc::Sender<StreamMessage>,
    /// The position that the client knows of.
    told: u64,
    /// When the next heartbeat is due, and the token looked at again: kept over everything that
    /// happens in between, or a stream on which something always happens would have neither.
    due: Instant,
    changes: tokio::sync::watch::Receiver<u64>,
    /// Registrations of alerts that this stream was told of.
    alerted: BTreeSet<String>,
}

/// The stream is over: with a reason to tell, or because the client left.
type Over = Option<(End, u64)>;

impl Pump {
    /// Tells until the stream ends; why, and at which position; none if the client left.
    async fn tell(mut self, after: Option<u64>) -> Over {
        let gateway = self.gateway.clone();
        let early = tokio::select! {
            () = gateway.feed.ready() => None,
            () = gateway.stopping() => Some(End::Closing),
            () = self.send.closed() => return None,
        };

        if let Some(why) = early {
            return Some((why, after.unwrap_or(0)));
        }

        let mut cursor = gateway
            .feed
            .cursor(&self.user, after.map_or(Begin::Now, Begin::After));
        self.told = cursor.after();
        if let Err(over) = self.put(StreamMessage::Hello(cursor.after())).await {
            return over;
        }

        loop {
            if let Err(over) = self.step(&mut cursor).await {
                return over;
            }
        }
    }

    /// Waits for what comes next and hands it on.
    async fn step(&mut self, cursor: &mut FeedCursor) -> Result<(), Over> {
        let after = cursor.after();
        if cursor.was_live() && cursor.is_behind() {
            return Err(Some((End::Slow, self.told)));
        }

        let gateway = self.gateway.clone();
        let next = {
            // One future over all heartbeats: a page of history that is being read is not begun
            // again.
            let mut next = std::pin::pin!(cursor.next());
            loop {
                tokio::select! {
                    // The heartbeat comes before what comes next: of that there may always be more.
                    biased;
                    () = gateway.stopping() => return Err(Some((End::Closing, self.told))),
                    () = self.send.closed() => return Err(None),
                    () = tokio::time::sleep_until(self.due) => self.beat(after).await?,
                    next = &mut next => break next,
                    changed = self.changes.changed() => if changed.is_ok() {
                        self.alerts().await?;
                    },
                }
            }
        };

        match next {
            Err(e) => {
                tracing::warn!(user = %self.user, "a stream ends: {e}");
                Err(Some((End::Unavailable, self.told)))
            }
            Ok(Next::Gone { first }) => {
                self.put(StreamMessage::Resync { after, first }).await?;
                self.told = first - 1;
                Ok(())
            }
            Ok(Next::Items(items)) => {
                for item in items {
                    if wants(&self.wanted, &item) {
                        let seq = item.seq;
                        self.put(StreamMessage::Notification(item)).await?;
                        self.told = seq;
                        gateway.metrics.delivered.fetch_add(1, Ordering::Relaxed);
                    }
                }

                Ok(())
            }
        }
    }

    /// A sign of life that carries the position past what was not wanted.
    async fn beat(&mut self, after: u64) -> Result<(), Over> {
        let moved = (self.told < after).then_some(after);
        self.put(StreamMessage::Heartbeat(moved)).await?;
        self.told = self.told.max(after);
        self.due = Instant::now() + self.gateway.settings.heartbeat;
        Ok(())
    }

    /// Tells of alerts that fired and were not told here yet.
    async fn alerts(&mut self) -> Result<(), Over> {
        let subscriber = self.gateway.subscriptions.of(&self.user);
        for id in subscriber.alerts.keys() {
            let Some(fired) = subscriber.fired(id) else {
                continue;
            };

            if self.alerted.insert(fired.registration.clone()) {
                self.put(StreamMessage::Alert(manage::alert(&subscriber, id)))
                    .await?;
            }
        }

        self.alerted
            .retain(|r| subscriber.alerts.values().any(|a| a.registration == *r));
        Ok(())
    }

    /// Puts a message into the queue; once a heartbeat is due, only for who still may have it.
    async fn put(&self, message: StreamMessage) -> Result<(), Over> {
        let place =
            match tokio::time::timeout(self.gateway.settings.stall, self.send.reserve()).await {
                Ok(Ok(place)) => place,
                Ok(Err(_)) => return Err(None),
                Err(_) => return Err(Some((End::Slow, self.told))),
            };

        // Not only with the heartbeat itself: a page of history may take its time to be told.
        if Instant::now() >= self.due
            && self
                .gateway
                .access
                .check(self.caller, Some(&self.user))
                .is_err()
        {
            return Err(Some((End::Revoked, self.told)));
        }

        place.send(message);
        Ok(())
    }
}
