//! State that all parts of a gateway share.

use std::sync::Arc;

use ports::Log;
use ports::topics::TopicTable;
use tokio::sync::watch;

use crate::access::AccessControl;
use crate::feed::Feed;
use crate::metrics::Metrics;
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
    pub metrics: Metrics,
    pub(crate) stop: watch::Receiver<bool>,
}

impl GatewayContext {
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
