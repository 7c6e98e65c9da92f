//! Webhooks: a user's notifications sent to addresses of their choice, signed, one after the other,
//! at least once.
//!
//! Each endpoint has a task of its own, and within one nothing overtakes. Requests that take long
//! move to places of their own, of which each user has a few, so slow endpoints hold up nobody
//! else. An endpoint that does not work is tried again every few minutes; a notification that it
//! does not take for a day or two, or that it refuses several times, goes to `dead-letters`, and
//! the next one has its turn.

mod delivery;
mod http_client;
mod owner;
pub mod sign;
mod slow;
pub mod url_policy;

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Semaphore, watch};

pub use owner::{Owned, run as own};

use super::GatewayContext;
use super::subscriptions::{DeliveryPosition, Preferences, Subscriber, Webhook};
use super::writer::Writer;
use delivery::Delivery;

/// When to try again: after the first failure, the second, ...; the last pause is that of all
/// further ones. An endpoint that is back after an outage of hours is served within minutes.
pub const SCHEDULE: [Duration; 4] = [
    Duration::from_secs(30),
    Duration::from_secs(60),
    Duration::from_secs(2 * 60),
    Duration::from_secs(5 * 60),
];
/// How long a notification is tried.
pub const GIVE_UP: Duration = Duration::from_secs(36 * 3600);

/// Requests under way at once that have just begun, over all endpoints.
const PROMPT_MAX: usize = 256;
/// How long a change may gather others before the tasks are looked at.
const GATHER: Duration = Duration::from_millis(10);
/// How long our reading of `subscriptions` may take to come to what a predecessor wrote.
const CATCH_UP: Duration = Duration::from_secs(30);

struct RunningDelivery {
    hook: Webhook,
    preferences: Preferences,
    position: Arc<Mutex<DeliveryPosition>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for RunningDelivery {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What deliveries share.
pub struct DeliveryContext {
    pub(super) gateway: Arc<GatewayContext>,
    pub(super) client: http_client::Client,
    pub(super) writer: Writer,
    /// Places for requests that have just begun.
    pub(super) prompt: Semaphore,
    /// Places for requests that take long.
    pub(super) slow: slow::Places,
}

/// Serves the endpoints of the partitions that are ours, until the gateway stops.
pub async fn serve(
    gateway: Arc<GatewayContext>,
    writer: Writer,
    mut owned: watch::Receiver<Owned>,
) -> Result<(), String> {
    let client = http_client::Client::new(
        gateway.settings.private_webhooks,
        gateway.settings.webhook_timeout,
    )?;
    let shared = Arc::new(DeliveryContext {
        gateway: gateway.clone(),
        client,
        writer,
        prompt: Semaphore::new(PROMPT_MAX),
        slow: slow::Places::default(),
    });

    let mut changed = gateway.subscriptions.watch();
    let mut running: BTreeMap<(String, String), RunningDelivery> = BTreeMap::new();
    tokio::select! {
        () = gateway.feed.ready() => {}
        () = gateway.stopping() => return Ok(()),
    }
    loop {
        changed.mark_unchanged();
        let ours = owned.borrow_and_update().clone();
        if !caught_up(&gateway, ours.subscriptions_end).await {
            tracing::warn!(
                "the positions of webhooks were not all read in time; some may be sent again"
            );
        }

        reconcile(&shared, &ours, &mut running);
        tokio::select! {
            c = owned.changed() => if c.is_err() { return Ok(()) },
            c = changed.changed() => if c.is_err() { return Ok(()) },
            () = gateway.stopping() => return Ok(()),
        }
        tokio::time::sleep(GATHER).await;
    }
}

async fn caught_up(gateway: &GatewayContext, end: u64) -> bool {
    let until = tokio::time::Instant::now() + CATCH_UP;
    while gateway.subscriptions.next_offset() < end {
        if tokio::time::Instant::now() > until {
            return false;
        }

        tokio::time::sleep(Duration::from_millis(5)).await;
    }

    true
}

/// Starts the deliveries that should run and do not, and ends those that should not.
fn reconcile(
    shared: &Arc<DeliveryContext>,
    ours: &Owned,
    running: &mut BTreeMap<(String, String), RunningDelivery>,
) {
    let gateway = &shared.gateway;
    let mut wanted: BTreeMap<(String, String), Arc<Subscriber>> = BTreeMap::new();
    for (user, id, subscriber) in gateway.subscriptions.endpoints() {
        if ours.partitions.contains(&gateway.feed.partition(&user)) {
            wanted.insert((user, id), subscriber);
        }
    }

    running.retain(|key, _| wanted.contains_key(key));
    for ((user, id), subscriber) in wanted {
        let (Some(hook), Some(mut position)) =
            (subscriber.webhooks.get(&id), subscriber.position(&id))
        else {
            continue;
        };

        let before = running.remove(&(user.clone(), id.clone()));
        if let Some(before) = before {
            if before.hook == *hook && before.preferences.webhook == subscriber.preferences.webhook
            {
                running.insert((user, id), before);
                continue;
            }

            // Ours is newer than what has been written so far.
            let newest = before.position.lock().expect("plain data").clone();
            if newest.registration == hook.registration && newest.after >= position.after {
                position = newest;
                position.revise(hook.revision);
            }
        }

        if position.disabled == Some(hook.revision) {
            continue;
        }

        position.disabled = None;
        let held = Arc::new(Mutex::new(position));
        let delivery = Delivery::new(
            shared.clone(),
            &user,
            &id,
            hook.clone(),
            subscriber.preferences.webhook.clone(),
            held.clone(),
        );

        let task = match delivery {
            Ok(delivery) => tokio::spawn(delivery.run()),
            Err(e) => {
                tracing::warn!(user, id, "a webhook cannot be served: {e}");
                continue;
            }
        };

        let preferences = subscriber.preferences.clone();
        running.insert(
            (user, id),
            RunningDelivery {
                hook: hook.clone(),
                preferences,
                position: held,
                task,
            },
        );
    }
}

/// Set when the group's membership shall end.
pub type StopFlag = Arc<AtomicBool>;
