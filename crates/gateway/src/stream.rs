//! Moves notifications from a cursor to one connection, through a short queue.
//!
//! The gateway stores only the queue, and one page of history, for a connection. So a client that
//! does not read costs a few kilobytes. The gateway disconnects a client that takes no message for
//! too long, or that falls behind the notifications in memory. The last message then names the
//! position to resume from. Each connection has its own task and queue, so a slow client delays no
//! other client.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use crate::access::Caller;
use crate::context::GatewayContext;
use crate::feed::{Begin, FeedCursor, Next};
use crate::feed_item::FeedItem;
use crate::{json, percent};

/// A message to a connection.
#[derive(Clone, Debug)]
pub(crate) enum StreamMessage {
    /// Start of the stream: the number of the last notification before the stream.
    Hello(u64),
    Notification(FeedItem),
    /// A price alert fired: the alert's id and price. The message has no number and does not move
    /// the position.
    Alert(Value),
    /// Notifications between the client's position and `first` are no longer available, or the
    /// position is ahead of the log.
    Resync {
        /// The client's position.
        after: u64,
        /// Number of the first notification that follows.
        first: u64,
    },
    /// A sign of life. A number moves the position past notifications that the stream did not want.
    Heartbeat(Option<u64>),
    /// Last message: the reason and the position to resume from.
    End(End, u64),
}

/// Reason for the end of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The client reads too slowly.
    Slow,
    /// The gateway stops.
    Closing,
    /// The token is no longer valid.
    Revoked,
    /// The log cannot be read.
    Unavailable,
}

impl End {
    /// Name of the event.
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
    /// Event name, id (`None` for an alert) and data. `None` for a heartbeat.
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

/// The kinds that a stream carries; `None`: all kinds.
pub(crate) type KindFilter = Option<BTreeSet<String>>;

/// Reports whether the notification's kind is among the wanted kinds.
pub(crate) fn wants(wanted: &KindFilter, item: &FeedItem) -> bool {
    wanted
        .as_ref()
        .is_none_or(|kinds| json::kind(item).is_some_and(|k| kinds.contains(k)))
}

/// The connection's end of the queue.
pub(crate) struct Outgoing {
    /// Messages to send, in order.
    pub queue: mpsc::Receiver<StreamMessage>,
    /// Message to send after the end of the queue.
    pub last: Arc<OnceLock<StreamMessage>>,
}

/// Starts a stream of a user's notifications after `after`, or from now on. Notifies `kill` when
/// the connection must be cut. Before that, the client has had `grace` to read the last message.
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

    // Makes the first step look at the alerts, so that earlier firings are sent too. Notifications
    // that are already available go out before all alerts.
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

        // Keeps the queue open until `last` is set. So the end of the queue implies that `last` is
        // set.
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
    /// Position that the client knows.
    told: u64,
    /// Time of the next heartbeat and token check. Other events do not move this time. Otherwise a
    /// busy stream would have neither heartbeats nor token checks.
    due: Instant,
    changes: tokio::sync::watch::Receiver<u64>,
    /// Registrations of alerts that this stream has already sent.
    alerted: BTreeSet<String>,
}

/// End of a stream: the reason and the position, or `None` if the client has left.
type Over = Option<(End, u64)>;

impl Pump {
    /// Sends messages until the stream ends. Returns the end of the stream.
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

    /// Waits for the next notifications or alerts, and queues them. Also queues due heartbeats.
    async fn step(&mut self, cursor: &mut FeedCursor) -> Result<(), Over> {
        let after = cursor.after();
        if cursor.was_live() && cursor.is_behind() {
            return Err(Some((End::Slow, self.told)));
        }

        let gateway = self.gateway.clone();
        let next = {
            // One future lasts over all heartbeats, so that a heartbeat does not restart a page of
            // history that is being read.
            let mut next = std::pin::pin!(cursor.next());
            loop {
                tokio::select! {
                    // The heartbeat has priority over notifications, because notifications may
                    // never stop.
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
                tracing::warn!(user = %self.user, "a stream is closed, because the log could not be read: {e}; the client may resume");
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

    /// Sends a heartbeat. The heartbeat moves the client's position past unwanted notifications.
    async fn beat(&mut self, after: u64) -> Result<(), Over> {
        let moved = (self.told < after).then_some(after);
        self.put(StreamMessage::Heartbeat(moved)).await?;
        self.told = self.told.max(after);
        self.due = Instant::now() + self.gateway.settings.heartbeat;
        Ok(())
    }

    /// Sends the fired alerts that this stream has not sent yet.
    async fn alerts(&mut self) -> Result<(), Over> {
        let subscriber = self.gateway.subscriptions.of(&self.user);
        for id in subscriber.alerts.keys() {
            let Some(fired) = subscriber.fired(id) else {
                continue;
            };

            if self.alerted.insert(fired.registration.clone()) {
                self.put(StreamMessage::Alert(json::alert(&subscriber, id)))
                    .await?;
            }
        }

        self.alerted
            .retain(|r| subscriber.alerts.values().any(|a| a.registration == *r));
        Ok(())
    }

    /// Puts a message into the queue. Once a heartbeat is due, only if the token is still valid.
    async fn put(&self, message: StreamMessage) -> Result<(), Over> {
        let place =
            match tokio::time::timeout(self.gateway.settings.stall, self.send.reserve()).await {
                Ok(Ok(place)) => place,
                Ok(Err(_)) => return Err(None),
                Err(_) => return Err(Some((End::Slow, self.told))),
            };

        // Check here, not only at the heartbeat: a page of history may take longer than an
        // interval.
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
