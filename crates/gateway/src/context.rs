//! State that all parts of a gateway share.

use std::sync::Arc;

use ports::Log;
use ports::topics::TopicTable;
use tokio::sync::{Semaphore, watch};

use crate::access::AccessControl;
use crate::admission::RequestLimits;
use crate::feed::Feed;
use crate::marks::MarkTable;
use crate::metrics::Metrics;
use crate::orders::OrderIndex;
use crate::per_user_lock::PerUserLocks;
use crate::portfolios::PortfolioIndex;
use crate::settings::GatewaySettings;
use crate::subscriptions::Subscriptions;

/// State that all parts of a gateway share.
pub struct GatewayContext {
    pub(crate) settings: GatewaySettings,
    pub(crate) log: Arc<dyn Log>,
    pub(crate) topics: Arc<TopicTable>,
    pub(crate) cluster: String,
    pub(crate) access: AccessControl,
    /// All notifications, in memory and in the log.
    pub feed: Arc<Feed>,
    pub(crate) subscriptions: Subscriptions,
    pub(crate) portfolios: PortfolioIndex,
    pub(crate) turns: PerUserLocks,
    /// Orders and trades of all users, and the commands that wait for their answers.
    pub(crate) orders: OrderIndex,
    /// Number of partitions for commands; `None` if this gateway takes no orders.
    pub(crate) command_partitions: Option<u32>,
    /// Places for commands on their way.
    pub(crate) placing: Arc<Semaphore>,
    /// Commands of one user with the same id take turns.
    pub(crate) commands_in_turn: PerUserLocks,
    pub(crate) limits: RequestLimits,
    /// The last reference prices.
    pub(crate) marks: MarkTable,
    pub metrics: Metrics,
    pub(crate) stop: watch::Receiver<bool>,
}

impl GatewayContext {
    /// True once the history is read, so that every path can be answered.
    pub fn history_is_read(&self) -> bool {
        self.feed.is_ready() && (self.orders.is_ready() || self.orders.is_off())
    }

    /// Resolves when the gateway is asked to stop.
    pub(crate) async fn stopping(&self) {
        // The sender lives as long as the gateway runs. A dropped sender also means stop.
        self.stop
            .clone()
            .wait_for(|s| *s)
            .await
            .map(drop)
            .unwrap_or_default();
    }

    /// Preferences, endpoints and alerts of users, and the delivery positions of the endpoints.
    pub fn subscriptions(&self) -> &Subscriptions {
        &self.subscriptions
    }

    pub(crate) fn topic_name(&self) -> &str {
        self.topics.name(self.feed.topic)
    }
}
