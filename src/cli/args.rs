//! The command line as typed. Nothing is decided here: values stay text until [`super::config`] has
//! joined flags, environment, file and defaults.

pub mod account;
pub mod audit;
mod instruments;
mod repair;

use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};

pub use self::instruments::Instruments;
pub use self::repair::Repair;
pub use super::args_gateway::{Gateway, GatewayCommand};
use super::output::OutputFormat;

const EXAMPLES: &str = "\
Examples:
  processor demo                                        everything in one process, in state/demo
  processor demo --for 30s                              the same, for half a minute
  processor topics create --brokers localhost:9092      first step on a Kafka cluster
  processor --role orders --instance 1 --brokers localhost:9092
  processor order --user 501 --symbol AAPL --quantity 10 --side buy --brokers localhost:9092
  processor tail order-events --from start --exit-at-end --json --brokers localhost:9092
  processor status --brokers localhost:9092

Where values come from: flags, then the environment (PROCESSOR_RATE_LIMIT for --rate-limit and so on; KAFKA_BROKERS for
--brokers), then the file given with --config (processor.toml if it is there), then defaults. `processor config show`
prints every value and its origin.

Exit codes: 0 done or stopped gracefully; 1 failed, restart; 2 wrong use; 70 broken invariant; 75 fenced by a newer
instance; 78 invalid configuration, topics or state that do not fit; 130 forced stop.";

/// Event-sourced back office of a trading platform: exactly-once roles over Apache Kafka or an
/// embedded log.
#[derive(Debug, Parser)]
#[command(name = "processor", version, after_help = EXAMPLES, max_term_width = 120)]
pub struct Args {
    /// Options that every command takes, before or after its name.
    #[command(flatten)]
    pub common: Common,
    /// What to do; without it, the roles given with --role are run.
    #[command(subcommand)]
    pub command: Option<CliCommand>,
}

/// Options that every command takes. All are text, and optional: absence means "look at the next
/// layer".
#[derive(Debug, Default, Clone, ClapArgs)]
#[command(next_help_heading = "Common options")]
pub struct Common {
    /// Kafka brokers, host:port[,host:port...] [env: KAFKA_BROKERS]
    #[arg(long, global = true, value_name = "HOST:PORT,...")]
    pub brokers: Option<String>,
    /// Directory of the embedded log: one process, no Kafka (the demo's default: state/demo)
    #[arg(long, global = true, value_name = "DIR")]
    pub embedded: Option<String>,
    /// Goes before every topic, group and transactional id [default: none]
    #[arg(long, global = true, value_name = "P")]
    pub topic_prefix: Option<String>,
    /// Directory of local state, state/<role>/<instance> [default: state; with --embedded:
    /// DIR/state]
    #[arg(long, global = true, value_name = "DIR")]
    pub state: Option<String>,
    /// Roles: orders, trading, portfolio, notifications, audit, or all
    #[arg(long, global = true, value_name = "R[,R2]")]
    pub role: Option<String>,
    /// Number of this instance; a second one with the same number takes over from the first
    /// [default: 1]
    #[arg(long, global = true, value_name = "N")]
    pub instance: Option<String>,
    /// Configuration file, TOML [default: processor.toml if there is one]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// text for people, json for programs [default: text]
    #[arg(long, global = true, value_name = "FORMAT")]
    pub format: Option<String>,
    /// librdkafka property, repeatable: -X security.protocol=ssl
    #[arg(
        short = 'X',
        global = true,
        value_name = "KEY=VALUE",
        hide_short_help = true
    )]
    pub property: Vec<String>,
    /// Orders and replacements per second and user; 0 = no limit, also of other commands [default:
    /// 100]
    #[arg(long, global = true, value_name = "N", hide_short_help = true)]
    pub rate_limit: Option<String>,
    /// Orders and replacements a user may send at once [default: 200]
    #[arg(long, global = true, value_name = "N", hide_short_help = true)]
    pub burst: Option<String>,
    /// How many times that rate and burst a user's other commands may have: cancels, repeats,
    /// transfers; 0 = no limit [default: 10]
    #[arg(long, global = true, value_name = "N", hide_short_help = true)]
    pub message_rate_factor: Option<String>,
    /// Age at which a price is too old to trade on, milliseconds [default: 120000]
    #[arg(long, global = true, value_name = "MS", hide_short_help = true)]
    pub stale_ms: Option<String>,
    /// Cash a new account opens with; 0 = none [default: 1000000.00]
    #[arg(long, global = true, value_name = "AMOUNT", hide_short_help = true)]
    pub opening_cash: Option<String>,
    /// Reject commands whose timestamp is older, e.g. 30s; 0 = off [default: 0]
    #[arg(long, global = true, value_name = "AGE", hide_short_help = true)]
    pub max_command_age: Option<String>,
    /// Forget ids so long after they have ended, e.g. 24h; must be above --max-command-age; 0 =
    /// never [default: 0]
    #[arg(long, global = true, value_name = "TIME", hide_short_help = true)]
    pub dedup_window: Option<String>,
    /// Orders of one user that may rest or wait at a time [default: 10000]
    #[arg(long, global = true, value_name = "N", hide_short_help = true)]
    pub open_orders_max: Option<String>,
    /// Take deposits and withdrawals from clients, on order-commands too; without it only operators
    /// move money [default: false]
    #[arg(long, global = true, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_short_help = true)]
    pub client_transfers: Option<String>,
    /// When DAY orders end, UTC [default: 24:00]
    #[arg(long, global = true, value_name = "HH:MM", hide_short_help = true)]
    pub day_end: Option<String>,
    /// Longest a transaction gathers records under load, milliseconds [default: 50]
    #[arg(long, global = true, value_name = "MS", hide_short_help = true)]
    pub commit_interval_ms: Option<String>,
    /// Most records in one transaction [default: 10000]
    #[arg(long, global = true, value_name = "N", hide_short_help = true)]
    pub batch_records_max: Option<String>,
    /// Most input bytes in one transaction [default: 8388608]
    #[arg(long, global = true, value_name = "N", hide_short_help = true)]
    pub batch_bytes_max: Option<String>,
    /// How often each running store is looked through for damage, e.g. 6h; 0 = never [default: 24h]
    #[arg(long, global = true, value_name = "TIME", hide_short_help = true)]
    pub scrub_every: Option<String>,
    /// Hand tasks over to the other instances at once when this one is stopped; without it a
    /// restart within 10 s keeps them
    #[arg(long, global = true, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_short_help = true)]
    pub leave: Option<String>,
    /// Keep warm copies of tasks that other instances run: for how many lost instances, or `all`; a
    /// task that moves here then runs at once [default: 0]
    #[arg(long, global = true, value_name = "N|all", hide_short_help = true)]
    pub standby: Option<String>,
    /// Longest a graceful stop may take, milliseconds [default: 10000]
    #[arg(long, global = true, value_name = "MS", hide_short_help = true)]
    pub shutdown_grace_ms: Option<String>,
    /// What a commit to the embedded log waits for: os, or the disk, so that a power failure costs
    /// nothing [default: os]
    #[arg(long, global = true, value_name = "disk|os", hide_short_help = true)]
    pub durability: Option<String>,
    /// The first role that ends takes the others of this process with it; else they go on, and
    /// passing trouble is tried again
    #[arg(long, global = true, value_name = "BOOL", hide_short_help = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub fail_fast: Option<String>,
    /// What is logged to stderr: error, warn, info, debug, or a tracing filter [default: warn; info
    /// while roles run]
    #[arg(long, global = true, value_name = "FILTER", hide_short_help = true)]
    pub log: Option<String>,
    /// text or json log lines [default: text]
    #[arg(long, global = true, value_name = "FORMAT", hide_short_help = true)]
    pub log_format: Option<String>,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum CliCommand {
    /// Run roles until a signal
    #[command(
        after_help = "Example: processor run --role orders,trading --instance 1 --brokers localhost:9092"
    )]
    Run,
    /// The whole system in one process, with a publisher and simulated traders
    #[command(
        after_help = "A second run carries on where the first stopped, also after kill -9.\nExample: processor demo --for 30s"
    )]
    Demo(Demo),
    /// Notifications over HTTP: Server-Sent Events, WebSockets, webhooks
    #[command(after_help = super::args_gateway::EXAMPLES)]
    Gateway(Gateway),
    /// Make the topics, or check that they fit
    #[command(subcommand)]
    Topics(Topics),
    /// Load listings, halt them, look at them, or take them away
    #[command(subcommand)]
    Instruments(Instruments),
    /// What operators do: stop or disable users, or everybody; end orders, take trades back
    #[command(subcommand)]
    Account(account::AccountCommand),
    /// Publish ticks: a random walk, or a file
    #[command(after_help = PUBLISH_EXAMPLES)]
    Publish(Publish),
    /// Simulated traders: send many orders
    #[command(after_help = TRADERS_EXAMPLES)]
    Traders(TradersArgs),
    /// Send one command and wait for its events
    #[command(after_help = ORDER_EXAMPLES)]
    Order(OrderArgs),
    /// Print the records of a topic, decoded
    #[command(after_help = TAIL_EXAMPLES)]
    Tail(Tail),
    /// State, lag and restore progress of every task
    #[command(
        after_help = "One line per task; --format json has one entry per input partition, with offsets. State and restore progress are known of instances\n\
that use this --state directory; lag comes from the log and is always there.\nExample: processor status --brokers localhost:9092"
    )]
    Status,
    /// One user's portfolio at the latest prices, or what it was after each of their events
    #[command(
        after_help = "Examples:\n  processor portfolio 501 --brokers localhost:9092\n  processor portfolio 501 --history --from 2026-01-31 --embedded state/demo"
    )]
    Portfolio(Portfolio),
    /// Ask the audit log: is it whole, what happened, give me a copy that proves itself
    #[command(subcommand)]
    Audit(audit::Audit),
    /// Put right what was done to a role from outside
    #[command(subcommand)]
    Repair(Repair),
    /// Wipe a role's local state and restore it from its changelog
    #[command(
        after_help = "The role must not be running with this instance number.\nExample: processor rebuild --role orders --instance 1 --brokers localhost:9092"
    )]
    Rebuild,
    /// Re-execute a role from offset zero: compare with its live state, or rebuild it as it was
    /// (--until)
    #[command(after_help = REPLAY_EXAMPLES)]
    Replay(Replay),
    /// Look into local state, or into state that `replay --until` kept
    #[command(subcommand)]
    State(State),
    /// Check digests, meta records and audit chains
    Verify,
    /// Configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print shell completions
    #[command(
        after_help = "Example: processor completions bash > ~/.local/share/bash-completion/completions/processor"
    )]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// Options of `portfolio`.
#[derive(Debug, Default, Clone, ClapArgs)]
pub struct Portfolio {
    /// The user's id
    pub user: String,
    /// Cash, positions, profit and equity after every event of theirs, by replay
    #[arg(long)]
    pub history: bool,
    /// First time of the history (2026-01-31T09:30:00Z, a day from 00:00 UTC, or a number since
    /// 1970)
    #[arg(long, value_name = "TIME", requires = "history")]
    pub from: Option<String>,
    /// Time before which it ends
    #[arg(long, value_name = "TIME", requires = "history")]
    pub to: Option<String>,
}

const REPLAY_EXAMPLES: &str = "\
Examples:
  processor replay --role trading --brokers localhost:9092
  processor replay --role orders --until 2026-01-31T09:30:00Z --keep then --brokers localhost:9092
  processor replay --role orders --until order-commands/2/1234 --embedded state/demo
  processor state get account/501 --role orders --at then

A time is log time: the state after everything whose log time is not later. A record is the state after the transaction that took it in.
Roles without a journal (portfolio, audit) have no transaction number: they are read up to the moment in each input. A moment that the role has not
reached yet is refused with exit code 1.";

/// Options of `replay`.
#[derive(Debug, Default, Clone, ClapArgs)]
pub struct Replay {
    /// A moment: a time (2026-01-31T09:30:00Z), a day (its 00:00 UTC), a number since 1970, or
    /// topic/partition/offset of an input record
    #[arg(long, value_name = "MOMENT")]
    pub until: Option<String>,
    /// Keep the rebuilt state in this directory, for `state --at`
    #[arg(long, value_name = "DIR", requires = "until")]
    pub keep: Option<PathBuf>,
    /// Only this task
    #[arg(long, value_name = "N")]
    pub task: Option<u32>,
}

/// Keys of all roles, after the help of `state`.
fn state_keys() -> String {
    format!(
        "Keys:\n{}\nAmounts named _e4 are in units of 10^-4. Reading needs no log and disturbs \
         nobody: a running role's state is shown as it is at this moment.",
        roles::show::key_table()
    )
}

/// `state ...`
#[derive(Debug, Subcommand)]
pub enum State {
    /// One value
    #[command(after_help = state_keys())]
    Get {
        /// The key, e.g. account/501
        key: String,
        /// Whose state.
        #[command(flatten)]
        place: StatePlace,
    },
    /// All keys and values of the roles given, or those that begin with something
    #[command(after_help = state_keys())]
    List {
        /// Only keys that begin like this, e.g. order/501/
        #[arg(
            long,
            default_value = "",
            hide_default_value = true,
            value_name = "TEXT"
        )]
        prefix: String,
        /// Stop after so many
        #[arg(long, value_name = "N")]
        limit: Option<u64>,
        /// Whose state.
        #[command(flatten)]
        place: StatePlace,
    },
    /// Everything that is kept about a user, or about one order
    #[command(after_help = state_keys())]
    Show {
        /// USER or USER/ORDER
        what: String,
        /// Whose state.
        #[command(flatten)]
        place: StatePlace,
    },
}

/// Whose state is looked at.
#[derive(Debug, Default, Clone, ClapArgs)]
pub struct StatePlace {
    /// The task [default: the one that the key belongs to; list: all]
    #[arg(long, value_name = "N")]
    pub task: Option<u32>,
    /// State that `replay --until ... --keep DIR` left, instead of the live state
    #[arg(long, value_name = "DIR")]
    pub at: Option<PathBuf>,
}

/// Options of `demo`.
#[derive(Debug, Default, Clone, ClapArgs)]
pub struct Demo {
    /// Stop after this long, e.g. 30s or 5m [default: until Ctrl-C]
    #[arg(long = "for", value_name = "TIME")]
    pub run_for: Option<String>,
    /// Orders per second of the simulated traders; 0 = as fast as it goes
    #[arg(long, default_value_t = 200, value_name = "N")]
    pub orders_per_second: u64,
    /// Ticks per second
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub ticks_per_second: u64,
    /// Simulated users
    #[arg(long, default_value_t = 1000, value_name = "N")]
    pub users: u32,
    /// Symbols to trade
    #[arg(
        long,
        default_value = "AAPL,MSFT,NVDA,AMZN,GOOGL,META,TSLA,NFLX",
        value_name = "S,S2"
    )]
    pub symbols: String,
    /// Seed of the simulation
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub seed: u64,
    /// Partitions of topics that do not exist yet
    #[arg(long, default_value_t = 6, value_name = "N")]
    pub partitions: u32,
    /// Run a gateway too, for this machine, e.g. 127.0.0.1:8080
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<String>,
}

/// `topics ...`
#[derive(Debug, Subcommand)]
pub enum Topics {
    /// Make those that are missing; existing ones must fit
    #[command(
        after_help = "docs/operating/kafka.md has every setting of topics and brokers, its reason and its cost."
    )]
    Create {
        /// Partitions of the topics keyed by user or symbol
        #[arg(long, default_value_t = 6, value_name = "N")]
        partitions: u32,
        /// Replicas of new topics; min.insync.replicas becomes one less [default: the cluster's]
        #[arg(long, value_name = "N")]
        replication: Option<u16>,
        /// Change settings of existing topics that do not fit; no such change loses a record
        #[arg(long)]
        fix: bool,
    },
    /// Say how topics and brokers differ from what they must be, and what each difference costs
    #[command(
        after_help = "Errors end with 78: a promise cannot hold. Warnings (few replicas, for example) end with 0, or with 78 under --strict.\n\
A start of roles looks at the same; it refuses errors, and logs warnings.\nExample: processor topics check --strict --brokers localhost:9092"
    )]
    Check {
        /// Warnings fail, too
        #[arg(long)]
        strict: bool,
    },
}

/// `config ...`
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print every value with its origin; secrets are masked
    Show,
}

const PUBLISH_EXAMPLES: &str = "\
Examples:
  processor publish --symbols AAPL,MSFT --rate 50 --brokers localhost:9092
  processor publish --file ticks.csv --symbol BTC --time-column timestamp --price-column price --speed 100 --brokers ...";

/// Options of `publish`.
#[derive(Debug, Default, Clone, ClapArgs)]
pub struct Publish {
    /// Symbols of the random walk [default: all tradable listings]
    #[arg(long, value_name = "S,S2", conflicts_with = "file")]
    pub symbols: Option<String>,
    /// Ticks per second of the random walk; 0 = as fast as it goes
    #[arg(long, default_value_t = 10, value_name = "N", conflicts_with = "file")]
    pub rate: u64,
    /// Seed of the random walk
    #[arg(long, default_value_t = 1, value_name = "N", conflicts_with = "file")]
    pub seed: u64,
    /// Stop after this many ticks [default: never; a file: at its end]
    #[arg(long, value_name = "N")]
    pub count: Option<u64>,
    /// Replay ticks from a file of columns, separated by comma, semicolon, tab or pipe; `-` is
    /// stdin
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Symbol of the file's ticks
    #[arg(
        long,
        value_name = "S",
        requires = "file",
        conflicts_with = "symbol_column"
    )]
    pub symbol: Option<String>,
    /// Column of the symbol
    #[arg(long, value_name = "NAME", requires = "file")]
    pub symbol_column: Option<String>,
    /// Column of the time: s, ms, us or ns since 1970, or a time with its zone
    /// (2026-01-31T09:30:00Z)
    #[arg(long, default_value = "timestamp", value_name = "NAME")]
    pub time_column: String,
    /// Column of the price
    #[arg(long, default_value = "price", value_name = "NAME")]
    pub price_column: String,
    /// How many times faster than real time; max = as fast as it goes
    #[arg(long, default_value = "1", value_name = "FACTOR", requires = "file")]
    pub speed: String,
    /// Round prices with more than four decimals, which would be dead letters
    #[arg(long, requires = "file")]
    pub round: bool,
}

const TRADERS_EXAMPLES: &str = "\
Examples:
  processor traders --symbols AAPL,MSFT --rate 50 --brokers localhost:9092
  processor traders --orders 100000 --rate 0 --users 5000 --brokers ...        as fast as the log takes them

They buy, sell what they bought, and now and then send an order twice, as real clients do. Without a price for a symbol its orders
are rejected: `processor publish` makes some.";

/// Options of `traders`.
#[derive(Debug, Default, Clone, ClapArgs)]
pub struct TradersArgs {
    /// Stop after this many orders [default: never]
    #[arg(long, value_name = "N")]
    pub orders: Option<u64>,
    /// Orders per second; 0 = as fast as it goes
    #[arg(long, default_value_t = 50, value_name = "N")]
    pub rate: u64,
    /// How many users there are
    #[arg(long, default_value_t = 1000, value_name = "N")]
    pub users: u32,
    /// Symbols to trade [default: all tradable listings]
    #[arg(long, value_name = "S,S2")]
    pub symbols: Option<String>,
    /// Seed of the simulation
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub seed: u64,
    /// What order ids begin with; the same again with the same seed sends the same orders again
    /// [default: a new name]
    #[arg(long, value_name = "NAME")]
    pub run: Option<String>,
}

const ORDER_EXAMPLES: &str = "\
Examples:
  processor order --user 501 --id 1001 --symbol AAPL --quantity 10 --side buy --brokers localhost:9092
  processor order --user 501 --id 1002 --symbol AAPL --quantity 10 --side buy --type limit --limit-price 180.00 --brokers ...
  processor order --user 501 --replace 1002 --quantity 20 --limit-price 181.00 --brokers ...
  processor order --user 501 --cancel 1002 --brokers ...        or all: --mass-cancel, of one stock: --mass-cancel --symbol AAPL
  processor order --user 501 --deposit 250.00 --brokers localhost:9092
  processor order --json '{\"order_id\":\"1001\",\"user_id\":\"501\",\"symbol\":\"AAPL\",\"quantity\":10,\"order_type\":\"buy\"}' --brokers ...

Sending the same id again is safe: it is answered with OrderStatus and executes nothing.
Exit code: 0 when the command was carried out, or an order that may rest was accepted; 1 when it was rejected, or the answer did not come in time.";

/// Options of `order`.
#[derive(Debug, Default, Clone, ClapArgs)]
pub struct OrderArgs {
    /// The user
    #[arg(long, required_unless_present = "json", value_name = "ID")]
    pub user: Option<String>,
    /// Order id [default: a new UUID]
    #[arg(long, value_name = "ID")]
    pub id: Option<String>,
    /// What to trade
    #[arg(long, value_name = "S")]
    pub symbol: Option<String>,
    /// How many
    #[arg(long, value_name = "N")]
    pub quantity: Option<String>,
    /// Buy or sell
    #[arg(long, value_enum, group = "what")]
    pub side: Option<SideArg>,
    /// market, limit, stop or stop_limit
    #[arg(long = "type", value_name = "TYPE")]
    pub order_type: Option<String>,
    /// Limit price
    #[arg(long, value_name = "PRICE")]
    pub limit_price: Option<String>,
    /// Stop price
    #[arg(long, value_name = "PRICE")]
    pub stop_price: Option<String>,
    /// GTC, DAY, IOC, FOK or GTD
    #[arg(long, value_name = "TIF")]
    pub tif: Option<String>,
    /// End of a GTD order (2026-01-31T09:30:00Z, a day, or a number since 1970)
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub expire_at: Option<String>,
    /// Must not trade on arrival: then it is rejected
    #[arg(long, conflicts_with = "json")]
    pub post_only: bool,
    /// Cancel this order instead of sending one
    #[arg(long, value_name = "ORDER_ID", group = "what")]
    pub cancel: Option<String>,
    /// Change this order's --quantity (what has traded included), --limit-price, or both
    #[arg(long, value_name = "ORDER_ID", group = "what")]
    pub replace: Option<String>,
    /// Cancel all of the user's orders, or those of --symbol
    #[arg(long, group = "what")]
    pub mass_cancel: bool,
    /// Pay in instead of sending an order
    #[arg(long, value_name = "AMOUNT", group = "what")]
    pub deposit: Option<String>,
    /// Pay out instead of sending an order
    #[arg(long, value_name = "AMOUNT", group = "what")]
    pub withdraw: Option<String>,
    /// The whole command as JSON, sent as it is
    #[arg(long, value_name = "COMMAND", group = "what", conflicts_with_all = ["user", "symbol", "quantity"])]
    pub json: Option<String>,
    /// Do not wait for events
    #[arg(long)]
    pub no_wait: bool,
    /// How long to wait for the answer
    #[arg(long, default_value = "30s", value_name = "TIME")]
    pub timeout: String,
}

/// Buy or sell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SideArg {
    /// Buy
    Buy,
    /// Sell
    Sell,
}

const TAIL_EXAMPLES: &str = "\
Examples:
  processor tail order-events --from start --exit-at-end --json --brokers localhost:9092
  processor tail trades --from -100 --brokers localhost:9092          the last 100 of each partition, then what comes
  processor tail dead-letters --from 2026-01-31T09:30:00Z --brokers localhost:9092";

/// Options of `tail`.
#[derive(Debug, Default, Clone, ClapArgs)]
pub struct Tail {
    /// Topic, without the prefix
    pub topic: String,
    /// start, end, an offset (+N if it looks like a time), -N for the last N of each partition, or
    /// a time (2026-01-31T09:30:00Z, a day, ms since 1970)
    #[arg(
        long,
        default_value = "end",
        value_name = "WHERE",
        allow_hyphen_values = true
    )]
    pub from: String,
    /// Stop after this many records
    #[arg(long, value_name = "N")]
    pub count: Option<u64>,
    /// Stop where the topic ended when we began
    #[arg(long)]
    pub exit_at_end: bool,
    /// Only this partition
    #[arg(long, value_name = "P")]
    pub partition: Option<u32>,
    /// One JSON object per line (same as --format json)
    #[arg(long)]
    pub json: bool,
}

/// Reads `text` or `json`.
pub fn format(text: &str) -> Result<OutputFormat, String> {
    match text {
        "text" => Ok(OutputFormat::Text),
        "json" => Ok(OutputFormat::Json),
        other => Err(format!("`{other}` is no format; say text or json")),
    }
}
