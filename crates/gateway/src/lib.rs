//! The gateway: users' orders over HTTP, and their notifications as Server-Sent Events, WebSockets
//! and webhooks.
//!
//! The gateway is not a role. The gateway decides nothing about orders or money, and holds no state
//! outside the log. So any number of gateways can run, and a dead gateway loses nothing. A client
//! resumes at another gateway with the number of the last notification that the client has seen.
//!
//! ```text
//!  notifications --(follow)--> Feed: newest in memory, index to the rest
//!                               |
//!                               +--(FeedCursor)--> stream   --> SSE, WebSocket
//!                               +--(FeedCursor)--> webhooks --> endpoints
//!
//!  subscriptions <--(writer)-- preferences, endpoints, their positions, alerts
//!                --(follow)--> Subscriptions
//!
//!  order-commands <--(writer)-- orders
//!  order-events --(follow)--> OrderIndex --> answers and queries
//! ```
#![warn(unreachable_pub)]

pub mod access;
mod admission;
mod alerts;
mod api;
mod connection_slot;
mod context;
pub mod doors;
pub mod feed;
mod feed_item;
mod follow;
mod handlers;
mod history;
pub mod json;
mod marks;
mod metrics;
mod orders;
mod per_user_lock;
mod percent;
mod portfolios;
mod retry_policy;
mod router;
mod running;
mod server;
mod settings;
mod sse;
mod stream;
pub mod subscriptions;
pub mod webhooks;
mod write_timeout;
mod writer;
mod ws;

pub use context::GatewayContext;
pub use metrics::Metrics;
pub use running::{RunningGateway, start};
pub use settings::GatewaySettings;
