//! Webhooks: a user's notifications sent to URLs of the user's choice. Requests are signed, and
//! sent one after the other, at least once.
//!
//! Each endpoint has a task of its own, so the order of notifications is kept. A slow request moves
//! to a slow slot, and each user has a few slow slots. So slow endpoints delay no other user.
//!
//! An endpoint that does not work is retried every few minutes. A notification goes to
//! `dead-letters` after a day or two without success, or after several refusals by the endpoint.
//! Then the next notification is sent.

mod delivery;
mod http_client;
mod owner;
pub mod sign;
mod slow;
pub mod url_policy;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Semaphore, watch};

use crate::context::GatewayContext;
use crate::subscriptions::{DeliveryPosition, Preferences, Subscriber, Webhook};
use crate::writer::Writer;
use delivery::Delivery;
pub use owner::{Owned, run as own};

/// Maximum number of requests that are not yet slow, over all endpoints.
const PROMPT_MAX: usize = 256;
/// Time to collect further changes before the deliveries are updated.
const GATHER: Duration = Duration::from_millis(10);
/// Longest time to read `subscriptions` up to the positions of a predecessor.
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

/// State that all deliveries share.
pub struct DeliveryContext {
    pub(super) gateway: Arc<GatewayContext>,
    pub(super) client: http_client::Client,
    pub(super) writer: Writer,
    /// Places for requests that are not yet slow.
    pub(super) prompt: Semaphore,
    /// Slots for slow requests.
    pub(super) slow: slow::Places,
}

/// Serves the endpoints of the assigned partitions until the gateway stops.
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
        let read = gateway.subscriptions.read_up_to(ours.subscriptions_end);
        if tokio::time::timeout(CATCH_UP, read).await.is_err() {
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

/// Starts missing deliveries, restarts changed deliveries, and ends unwanted deliveries.
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

            // The position in memory is newer than the position in the log.
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
        if let Some(delivery) = start_delivery(shared, &user, &id, hook, &subscriber, position) {
            running.insert((user, id), delivery);
        }
    }
}

fn start_delivery(
    shared: &Arc<DeliveryContext>,
    user: &str,
    id: &str,
    hook: &Webhook,
    subscriber: &Subscriber,
    position: DeliveryPosition,
) -> Option<RunningDelivery> {
    let position = Arc::new(Mutex::new(position));
    let delivery = Delivery::new(
        shared.clone(),
        user,
        id,
        hook.clone(),
        subscriber.preferences.webhook.clone(),
        position.clone(),
    )
    .inspect_err(|e| tracing::warn!(user, id, "a webhook cannot be served: {e}"))
    .ok()?;

    Some(RunningDelivery {
        hook: hook.clone(),
        preferences: subscriber.preferences.clone(),
        position,
        task: tokio::spawn(delivery.run()),
    })
}
