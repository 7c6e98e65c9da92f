//! The command line of `gateway`.

use std::path::PathBuf;

use clap::builder::BoolishValueParser;
use clap::{Args as ClapArgs, Subcommand};

/// Shown below the help.
pub const EXAMPLES: &str = "\
Examples:
  processor gateway --brokers localhost:9092
  processor gateway --role all --embedded state/log         with every role in the same process, as the embedded log needs it
  curl -N http://127.0.0.1:8080/v1/users/501/notifications?after=0
  processor gateway token 501                               a token, and its line for the token file
  processor gateway --listen 0.0.0.0:8080 --token-file tokens --brokers ...

Paths: /v1/users/{user}/notifications (Server-Sent Events: Last-Event-ID, ?after=N, ?kinds=a,b), .../notifications/ws
(WebSocket, ?resume_from=N), .../portfolio, .../preferences, .../webhooks/{id}, .../alerts/{id}; /healthz, /metrics. docs/clients/http.md has them all.

Several gateways may run; give each its own --instance, so that they share the webhooks. There is no TLS in it: put a proxy in front.

The options of gateway come from flags, else from the environment (PROCESSOR_HISTORY for --history and so on); they have no place in processor.toml.";

/// Options of `gateway`.
#[derive(Debug, Clone, ClapArgs)]
pub struct Gateway {
    /// The other commands of `gateway`.
    #[command(subcommand)]
    pub command: Option<GatewayCommand>,
    /// Where to listen; anything but this machine needs --token-file
    #[arg(
        long,
        default_value = "127.0.0.1:8080",
        value_name = "ADDRESS",
        env = "PROCESSOR_LISTEN"
    )]
    pub listen: String,
    /// File of tokens, a user and a hash on each line; read again when it changes
    #[arg(long, value_name = "FILE", env = "PROCESSOR_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
    /// Without tokens: answer requests that a proxy passed on, too; whoever reaches the proxy sees
    /// everything
    #[arg(long, conflicts_with = "token_file", env = "PROCESSOR_OPEN", value_parser = BoolishValueParser::new())]
    pub open: bool,
    /// How far back notifications can be asked for: 12h, 30d, or all
    #[arg(
        long,
        default_value = "7d",
        value_name = "TIME",
        env = "PROCESSOR_HISTORY"
    )]
    pub history: String,
    /// Notifications kept in memory, MiB; older ones are read from the log
    #[arg(long, default_value_t = 256, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1 << 20), env = "PROCESSOR_MEMORY_MB")]
    pub memory_mb: u64,
    /// Most connections at once
    #[arg(long, default_value_t = 10_000, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), env = "PROCESSOR_MAX_CONNECTIONS")]
    pub max_connections: u64,
    /// A sign of life on every stream at least so often
    #[arg(
        long,
        default_value = "15s",
        value_name = "TIME",
        env = "PROCESSOR_HEARTBEAT"
    )]
    pub heartbeat: String,
    /// How long a client may read nothing of what it is sent before it is disconnected
    #[arg(
        long,
        default_value = "10s",
        value_name = "TIME",
        env = "PROCESSOR_STALL"
    )]
    pub stall: String,
    /// Leave webhooks and price alerts to other gateways: they can be set here all the same
    #[arg(long, env = "PROCESSOR_NO_WEBHOOKS", value_parser = BoolishValueParser::new())]
    pub no_webhooks: bool,
    /// Let webhooks go to http and to addresses that are not public
    #[arg(long, env = "PROCESSOR_ALLOW_PRIVATE_WEBHOOKS", value_parser = BoolishValueParser::new())]
    pub allow_private_webhooks: bool,
    /// When to try a webhook again after its first failure, its second, ...; the last one is that
    /// of all further ones. One that refuses a notification (400, 409, 413, 415, 422) is asked
    /// again so often as there are times, and then the next one has its turn
    #[arg(
        long,
        default_value = "30s,1m,2m,5m",
        value_name = "TIME,...",
        env = "PROCESSOR_WEBHOOK_RETRIES"
    )]
    pub webhook_retries: String,
    /// How long a notification is tried at a webhook that does not work, before it goes to
    /// dead-letters
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
    /// Make a token for a user, or for an admin
    #[command(
        after_help = "Prints the token, and the line that the token file needs to know it: the user is written there as in a path, `a#b` as a%23b."
    )]
    Token {
        /// The user's id
        user: Option<String>,
        /// A token that opens everybody's paths, and /metrics
        #[arg(long, conflicts_with = "user")]
        admin: bool,
    },
}
