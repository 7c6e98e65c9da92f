//! Settings and bounds of a gateway.

use std::net::SocketAddr;
use std::time::Duration;

/// Pauses before the retries, one for each failure in a row; the last pause repeats. After an
/// outage of hours, an endpoint gets its notifications within minutes.
const RETRY_SCHEDULE: [Duration; 4] = [
    Duration::from_secs(30),
    Duration::from_secs(60),
    Duration::from_secs(2 * 60),
    Duration::from_secs(5 * 60),
];
/// Longest time that a notification is retried.
const GIVE_UP: Duration = Duration::from_secs(36 * 3600);

/// Settings and all bounds of a gateway.
#[derive(Clone, Debug)]
pub struct GatewaySettings {
    /// Address to listen on.
    pub listen: SocketAddr,
    /// Age up to which clients can ask for notifications. `None`: back to the beginning of the log.
    pub history: Option<Duration>,
    /// Bytes of notifications kept in memory.
    pub memory: usize,
    /// Maximum number of connections at once.
    pub connections: usize,
    /// Maximum number of streams of one user at once.
    pub streams_per_user: usize,
    /// Maximum number of messages that wait for one connection.
    pub queue: usize,
    /// Longest time that the queue of a stream may stay full, or that a response may stay unread.
    pub stall: Duration,
    /// Time for a client to read the last message of its stream. At a stop: time for all
    /// connections to end.
    pub grace: Duration,
    /// Interval of the heartbeats on a stream. The stream checks its token again at the same
    /// interval.
    pub heartbeat: Duration,
    /// Longest time that a client's position may be ahead of the notifications read by this
    /// gateway.
    pub ahead: Duration,
    /// Size of a connection's kernel send buffer, in bytes.
    pub send_buffer: u32,
    /// Serve webhooks and price alerts.
    pub webhooks: bool,
    /// Allow webhooks to `http` URLs and to addresses that are not public.
    pub private_webhooks: bool,
    /// Longest time for one webhook request.
    pub webhook_timeout: Duration,
    /// Pauses before the retries of a webhook, one for each failure in a row. The last pause
    /// repeats.
    pub schedule: Vec<Duration>,
    /// Longest time that a notification is retried at a webhook that does not work.
    pub give_up: Duration,
    /// Interval at which positions of webhooks are written to the log.
    pub positions_every: Duration,
    /// Number of this gateway among the gateways that share the webhooks.
    pub instance: u32,
    /// Take no orders. Orders and trades can be read.
    pub read_only: bool,
    /// Bytes of ended orders and of trades kept in memory.
    pub orders_memory: usize,
    /// Requests per second of one address, with bursts of two seconds; 0: no limit.
    pub address_rate: u32,
    /// Requests per second of one token about one user, with bursts of two seconds; 0: no limit.
    pub token_rate: u32,
    /// Maximum number of connections of one address that have not sent a request yet.
    pub half_open_per_address: usize,
    /// Maximum number of commands on their way into the log, or waiting for their answer.
    pub commands: usize,
}

impl Default for GatewaySettings {
    fn default() -> Self {
        GatewaySettings {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            history: Some(Duration::from_secs(7 * 86_400)),
            memory: 256 << 20,
            connections: 10_000,
            streams_per_user: 64,
            queue: 64,
            stall: Duration::from_secs(10),
            grace: Duration::from_secs(5),
            heartbeat: Duration::from_secs(15),
            ahead: Duration::from_secs(2),
            send_buffer: 64 << 10,
            webhooks: true,
            private_webhooks: false,
            webhook_timeout: Duration::from_secs(15),
            schedule: RETRY_SCHEDULE.to_vec(),
            give_up: GIVE_UP,
            positions_every: Duration::from_millis(200),
            instance: 1,
            read_only: false,
            orders_memory: 64 << 20,
            address_rate: 1_000,
            token_rate: 200,
            half_open_per_address: 256,
            commands: 4_096,
        }
    }
}
