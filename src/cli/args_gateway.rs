//! The command line of `gateway`.

use std::path::PathBuf;

use clap::builder::BoolishValueParser;
use clap::{Args as ClapArgs, Subcommand};

/// Shown below the help.
pub const EXAMPLES: &str = "\
Paths: /v1/users/{user}/orders (POST, GET, DELETE), .../orders/{id} (GET, PATCH,
DELETE), .../trades, .../portfolio, .../notifications (Server-Sent Events;
Last-Event-ID, ?after=N, ?kinds=a,b), .../notifications/ws (WebSocket;
?resume_from=N), .../preferences, .../webhooks/{id}, .../alerts/{id}; /healthz,
/metrics. docs/clients/http.md and docs/clients/orders-over-http.md describe
them all.

Several gateways can run at the same time. Give each its own --instance, so that
they share the webhooks. The gateway has no TLS: put a proxy in front of it.

Options of this command come from the command line or from the environment
(PROCESSOR_HISTORY for --history, and so on), not from processor.toml.

Examples:
  processor gateway --brokers localhost:9092
  curl -N http://127.0.0.1:8080/v1/users/501/notifications?after=0
  curl -H 'content-type: application/json' \\
      -d '{\"symbol\":\"AAPL\",\"quantity\":10,\"order_type\":\"buy\"}' \\
      http://127.0.0.1:8080/v1/users/501/orders
  processor gateway token 501
      print a token, and its line for the token file
  processor gateway --listen 0.0.0.0:8080 --token-file tokens \\
      --brokers localhost:9092
  processor gateway --role all --embedded state/log
      an embedded log has one process: run the roles in it too";

/// Options of `gateway`.
#[derive(Debug, Clone, ClapArgs)]
pub struct Gateway {
    /// The other commands of `gateway`.
    #[command(subcommand)]
    pub command: Option<GatewayCommand>,
    /// Address to listen on. An address that other machines can reach needs --token-file
    #[arg(
        long,
        default_value = "127.0.0.1:8080",
        value_name = "ADDRESS",
        env = "PROCESSOR_LISTEN"
    )]
    pub listen: String,
    /// File of tokens: a user and a hash per line. The gateway reads the file again when it changes
    /// [default: none; only this machine may connect]
    #[arg(long, value_name = "FILE", env = "PROCESSOR_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
    /// Without tokens, also answer requests that a proxy forwarded. Everybody who reaches the proxy
    /// can then read everything
    #[arg(long, conflicts_with = "token_file", env = "PROCESSOR_OPEN", value_parser = BoolishValueParser::new())]
    pub open: bool,
    /// Oldest notifications that clients can ask for: an age such as 12h or 30d, or all. A longer
    /// time makes the start slower
    #[arg(
        long,
        default_value = "7d",
        value_name = "TIME",
        env = "PROCESSOR_HISTORY"
    )]
    pub history: String,
    /// Memory for notifications, in MiB. Older notifications are read from the log
    #[arg(long, default_value_t = 256, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1 << 20), env = "PROCESSOR_MEMORY_MB")]
    pub memory_mb: u64,
    /// Most connections at the same time
    #[arg(long, default_value_t = 10_000, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), env = "PROCESSOR_MAX_CONNECTIONS")]
    pub max_connections: u64,
    /// Accept no commands about orders. Clients can still read orders and trades
    #[arg(long, env = "PROCESSOR_READ_ONLY", value_parser = BoolishValueParser::new())]
    pub read_only: bool,
    /// Memory for ended orders and for trades, in MiB. Open orders need more memory besides
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1 << 20), env = "PROCESSOR_ORDERS_MEMORY_MB")]
    pub orders_memory_mb: u64,
    /// Most requests per second of one token about one user, with bursts of two seconds; 0 is no
    /// limit
    #[arg(
        long,
        default_value_t = 200,
        value_name = "N",
        env = "PROCESSOR_TOKEN_RATE"
    )]
    pub token_rate: u32,
    /// Most requests per second of one address, with bursts of two seconds; 0 is no limit. A proxy
    /// is one address
    #[arg(
        long,
        default_value_t = 1000,
        value_name = "N",
        env = "PROCESSOR_ADDRESS_RATE"
    )]
    pub address_rate: u32,
    /// Most connections of one address that have not sent a request yet
    #[arg(long, default_value_t = 256, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), env = "PROCESSOR_HALF_OPEN_PER_ADDRESS")]
    pub half_open_per_address: u32,
    /// Longest time between two messages on a stream. A stream without news gets a heartbeat
    #[arg(
        long,
        default_value = "15s",
        value_name = "TIME",
        env = "PROCESSOR_HEARTBEAT"
    )]
    pub heartbeat: String,
    /// Longest time that a client may leave its data unread. Then the gateway closes the connection
    #[arg(
        long,
        default_value = "10s",
        value_name = "TIME",
        env = "PROCESSOR_STALL"
    )]
    pub stall: String,
    /// Send no webhooks and no price alerts; other gateways send them. Clients can still set them
    /// here
    #[arg(long, env = "PROCESSOR_NO_WEBHOOKS", value_parser = BoolishValueParser::new())]
    pub no_webhooks: bool,
    /// Allow webhooks with http URLs, and to private addresses. For tests
    #[arg(long, env = "PROCESSOR_ALLOW_PRIVATE_WEBHOOKS", value_parser = BoolishValueParser::new())]
    pub allow_private_webhooks: bool,
    /// Pauses before a failed webhook is tried again: after the first failure, the second, and so
    /// on; the last pause repeats. A notification that the endpoint refuses (400, 409, 413, 415,
    /// 422) is tried again once per pause in this list, and then becomes a dead letter
    #[arg(
        long,
        default_value = "30s,1m,2m,5m",
        value_name = "TIME,...",
        env = "PROCESSOR_WEBHOOK_RETRIES"
    )]
    pub webhook_retries: String,
    /// Longest time that a notification is tried at an endpoint that does not work. Then it becomes
    /// a dead letter
    #[arg(
        long,
        default_value = "36h",
        value_name = "TIME",
        env = "PROCESSOR_WEBHOOK_GIVE_UP"
    )]
    pub webhook_give_up: String,
}

/// `gateway ...`
#[derive(Debug, Clone, Subcommand)]
pub enum GatewayCommand {
    /// Create a token for a user or an administrator
    #[command(
        after_help = "Prints the token, and its line for the token file. In that line the user id is\n\
percent-encoded as in a URL: a#b is a%23b.\n\n\
Examples:\n  processor gateway token 501\n  processor gateway token --admin"
    )]
    Token {
        /// User id
        user: Option<String>,
        /// Create a token for the paths of all users, and for /metrics
        #[arg(long, conflicts_with = "user")]
        admin: bool,
    },
}
