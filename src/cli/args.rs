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
  processor demo --for 30s
      run everything in one process for half a minute, in state/demo
  processor topics create --brokers localhost:9092
      the first step on a Kafka cluster
  processor run --role orders --instance 1 --brokers localhost:9092
  processor order --user 501 --symbol AAPL --quantity 10 --side buy \\
      --brokers localhost:9092
  processor status --brokers localhost:9092

A value comes from the first of these that has one: the option; the
environment (KAFKA_BROKERS for --brokers, PROCESSOR_RATE_LIMIT for --rate-limit,
and so on); the file of --config; the default. `processor config show` prints
every value with its origin.

Exit codes:
    0  done, or stopped gracefully
    1  failed for a reason that may pass: start again
    2  wrong use of the command line
   70  an invariant is broken, or data are corrupt: a person must look
   75  a newer instance with the same number took over
   78  the configuration, the topics or the local state do not fit
  130  a second signal ended a graceful stop";

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
    /// Kafka brokers to connect to first [env: KAFKA_BROKERS]
    #[arg(long, global = true, value_name = "HOST:PORT,...")]
    pub brokers: Option<String>,
    /// Directory of an embedded log. The program then needs no Kafka; one process at a time may
    /// write to the log [default: none; `demo` without --brokers: state/demo]
    #[arg(long, global = true, value_name = "DIR")]
    pub embedded: Option<String>,
    /// Text before the name of every topic, group and transactional id. Installations with
    /// different prefixes can share one cluster [default: none]
    #[arg(long, global = true, value_name = "P")]
    pub topic_prefix: Option<String>,
    /// Directory of local state. Each instance uses the directory <role>/<instance> in it [default:
    /// state; with --embedded: the directory `state` of the embedded log]
    #[arg(long, global = true, value_name = "DIR")]
    pub state: Option<String>,
    /// Roles to run or to look at, separated by commas: orders, trading, portfolio, notifications,
    /// audit, or all
    #[arg(long, global = true, value_name = "R[,R2]")]
    pub role: Option<String>,
    /// Number of this instance, 0 to 9999. Give each process of a role its own number: a second
    /// process with the same number stops the first one [default: 1]
    #[arg(long, global = true, value_name = "N")]
    pub instance: Option<String>,
    /// Configuration file in TOML [default: processor.toml, if it is in the working directory]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Format of the output: text for people, json for programs [default: text]
    #[arg(long, global = true, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Set a property of the Kafka client librdkafka, for example -X security.protocol=ssl. Repeat
    /// the option for more properties
    #[arg(
        short = 'X',
        global = true,
        value_name = "KEY=VALUE",
        hide_short_help = true
    )]
    pub property: Vec<String>,
    /// New orders and replacements that each user may send per second. 0 removes the limit of all
    /// commands, also the limit that --message-rate-factor sets [default: 100]
    #[arg(long, global = true, value_name = "N", hide_short_help = true)]
    pub rate_limit: Option<String>,
    /// New orders and replacements that a user may send at once, before --rate-limit applies
    /// [default: 200]
    #[arg(long, global = true, value_name = "N", hide_short_help = true)]
    pub burst: Option<String>,
    /// Limit of a user's other commands (cancels, repeated ids, transfers), as a multiple of
    /// --rate-limit and --burst. 0 removes this limit [default: 10]
    #[arg(long, global = true, value_name = "N", hide_short_help = true)]
    pub message_rate_factor: Option<String>,
    /// Greatest age of a price, in milliseconds. With an older price, market orders are rejected
    /// with STALE_PRICE, and the house does not trade [default: 120000]
    #[arg(long, global = true, value_name = "MS", hide_short_help = true)]
    pub stale_ms: Option<String>,
    /// Cash of a new account, in USD. 0: users must deposit first [default: 1000000.00]
    #[arg(long, global = true, value_name = "AMOUNT", hide_short_help = true)]
    pub opening_cash: Option<String>,
    /// Reject commands whose `timestamp` is older than this time, for example 30s. 0 accepts every
    /// age [default: 0]
    #[arg(long, global = true, value_name = "AGE", hide_short_help = true)]
    pub max_command_age: Option<String>,
    /// Forget the id of an order or a transfer this long after its end, for example 24h, so that
    /// state does not grow for ever. Needs --max-command-age, and must be more than a second
    /// longer. 0 keeps every id [default: 0]
    #[arg(long, global = true, value_name = "TIME", hide_short_help = true)]
    pub dedup_window: Option<String>,
    /// Most open orders of one user. Further orders are rejected until one ends [default: 10000]
    #[arg(long, global = true, value_name = "N", hide_short_help = true)]
    pub open_orders_max: Option<String>,
    /// Accept deposits and withdrawals that clients send to order-commands. Without this option
    /// only operators move money [default: false]
    #[arg(long, global = true, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_short_help = true)]
    pub client_transfers: Option<String>,
    /// Time of day at which DAY orders end, in UTC [default: 24:00]
    #[arg(long, global = true, value_name = "HH:MM", hide_short_help = true)]
    pub day_end: Option<String>,
    /// Longest time that a transaction gathers records under load, in milliseconds. A higher value
    /// gives more throughput and a later answer [default: 50]
    #[arg(long, global = true, value_name = "MS", hide_short_help = true)]
    pub commit_interval_ms: Option<String>,
    /// Most records in one transaction [default: 10000]
    #[arg(long, global = true, value_name = "N", hide_short_help = true)]
    pub batch_records_max: Option<String>,
    /// Most bytes of input in one transaction [default: 8388608]
    #[arg(long, global = true, value_name = "N", hide_short_help = true)]
    pub batch_bytes_max: Option<String>,
    /// How often each running store is read whole and checked for damage, for example 6h. 0
    /// switches the check off [default: 24h]
    #[arg(long, global = true, value_name = "TIME", hide_short_help = true)]
    pub scrub_every: Option<String>,
    /// On a graceful stop, hand the tasks to the other instances at once. Without this option they
    /// wait 10 s, so that a restart keeps its tasks [default: false]
    #[arg(long, global = true, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_short_help = true)]
    pub leave: Option<String>,
    /// Keep warm copies of tasks that other instances run, so that a task that moves here runs at
    /// once. N: copies of the tasks that move here when up to N other instances are lost; all:
    /// copies of all tasks. Each copy costs disk space [default: 0]
    #[arg(long, global = true, value_name = "N|all", hide_short_help = true)]
    pub standby: Option<String>,
    /// Longest time of a graceful stop, in milliseconds. After it, the process ends as in a crash,
    /// and the next start recovers [default: 10000]
    #[arg(long, global = true, value_name = "MS", hide_short_help = true)]
    pub shutdown_grace_ms: Option<String>,
    /// When a commit to the embedded log is complete. os: when the operating system has the data,
    /// so a power failure can cost the last second or two; disk: when the disk has the data. Kafka
    /// ignores this option [default: os]
    #[arg(long, global = true, value_name = "disk|os", hide_short_help = true)]
    pub durability: Option<String>,
    /// Stop all roles of this process when one of them ends. Without this option the others go on,
    /// and a role with a temporary failure is started again, up to 10 times in a row [default:
    /// false]
    #[arg(long, global = true, value_name = "BOOL", hide_short_help = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub fail_fast: Option<String>,
    /// Log lines on stderr: error, warn, info, debug, or a filter of the crate `tracing` [default:
    /// warn; info while roles run]
    #[arg(long, global = true, value_name = "FILTER", hide_short_help = true)]
    pub log: Option<String>,
    /// Format of log lines: text or json [default: text]
    #[arg(long, global = true, value_name = "FORMAT", hide_short_help = true)]
    pub log_format: Option<String>,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum CliCommand {
    /// Run roles until a signal stops them
    #[command(
        after_help = "`processor --role ...` without a command does the same.\n\n\
Example:\n  processor run --role orders,trading --instance 1 --brokers localhost:9092"
    )]
    Run,
    /// Run the whole system in one process, with simulated prices and traders
    #[command(
        after_help = "A second run continues where the first one stopped, also after kill -9.\n\n\
Example:\n  processor demo --for 30s"
    )]
    Demo(Demo),
    /// Serve orders and notifications over HTTP: requests, streams and webhooks
    #[command(after_help = super::args_gateway::EXAMPLES)]
    Gateway(Gateway),
    /// Create the topics, or check their settings
    #[command(subcommand)]
    Topics(Topics),
    /// Load, halt, open, delist and show listings
    #[command(subcommand)]
    Instruments(Instruments),
    /// Stop, disable and resume users; cancel orders; take trades back
    #[command(subcommand)]
    Account(account::AccountCommand),
    /// Publish prices: simulated ones, or those of a file
    #[command(after_help = PUBLISH_EXAMPLES)]
    Publish(Publish),
    /// Simulate traders that send many orders
    #[command(after_help = TRADERS_EXAMPLES)]
    Traders(TradersArgs),
    /// Send one command and wait for its events
    #[command(after_help = ORDER_EXAMPLES)]
    Order(OrderArgs),
    /// Print the records of a topic, decoded
    #[command(after_help = TAIL_EXAMPLES)]
    Tail(Tail),
    /// Show the state, lag and restore progress of every task
    #[command(
        after_help = "One line per task; --format json has one entry per input partition, with offsets.\n\
The state and the restore progress are those of instances that use this --state\n\
directory. The lag comes from the log, and covers all instances.\n\n\
Example:\n  processor status --brokers localhost:9092"
    )]
    Status,
    /// Show a user's portfolio at the latest prices, or after each of the user's events
    #[command(
        after_help = "Examples:\n  processor portfolio 501 --brokers localhost:9092\n\
\x20 processor portfolio 501 --history --from 2026-01-31 --embedded state/demo"
    )]
    Portfolio(Portfolio),
    /// Verify, search and export the audit log
    #[command(subcommand)]
    Audit(audit::Audit),
    /// Repair what somebody changed from outside
    #[command(subcommand)]
    Repair(Repair),
    /// Delete the local state of an instance and restore it from the changelogs
    #[command(
        after_help = "Stop the instance first. The command checks that the changelogs fit before it\n\
deletes anything; if they do not, it ends with 70.\n\n\
Example:\n  processor rebuild --role orders --instance 1 --brokers localhost:9092"
    )]
    Rebuild,
    /// Execute a role's history again: to check its state, or to see an earlier state (--until)
    #[command(after_help = REPLAY_EXAMPLES)]
    Replay(Replay),
    /// Show local state, or state that `replay --until ... --keep` saved
    #[command(subcommand)]
    State(State),
    /// Check local state, committed offsets, sums of money and audit chains
    #[command(
        after_help = "The command only reads. On Kafka it can run beside the roles; an embedded log it\n\
needs to itself.\n\nExit code: 0 every check passed; 70 a check failed; 1 the log cannot be read.\n\n\
Example:\n  processor verify --brokers localhost:9092"
    )]
    Verify,
    /// Show the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print completions for a shell
    #[command(after_help = "Example:\n  processor completions bash \\\n\
\x20     > ~/.local/share/bash-completion/completions/processor")]
    Completions {
        /// Shell to print completions for
        shell: clap_complete::Shell,
    },
}

/// Options of `portfolio`.
#[derive(Debug, Default, Clone, ClapArgs)]
pub struct Portfolio {
    /// User id
    pub user: String,
    /// Show cash, positions, profit and equity after each of the user's events. The program replays
    /// the events, which can take a while
    #[arg(long)]
    pub history: bool,
    /// Start of the history: a time (2026-01-31T09:30:00Z), a day (from 00:00 UTC), or a number
    /// since 1970 [default: the first event]
    #[arg(long, value_name = "TIME", requires = "history")]
    pub from: Option<String>,
    /// End of the history; this moment itself is not included [default: the last event]
    #[arg(long, value_name = "TIME", requires = "history")]
    pub to: Option<String>,
}

const REPLAY_EXAMPLES: &str = "\
Without --until the command executes each transaction of the roles again, and
names the first one whose result differs from the live state. With --until it
prints the state of that moment. A moment is a log time: the state includes all
records up to that time. A record as the moment gives the state after the
transaction that read it.

Portfolio and audit have no journal, and so no transaction numbers: the command
reads each of their inputs up to the moment.

Exit code: 0 done, and nothing differs; 1 the role has not reached the moment;
70 the replay differs.

Examples:
  processor replay --role trading --brokers localhost:9092
  processor replay --role orders --until 2026-01-31T09:30:00Z --keep then \\
      --brokers localhost:9092
  processor replay --role orders --until order-commands/2/1234 \\
      --embedded state/demo
  processor state get account/501 --role orders --at then";

/// Options of `replay`.
#[derive(Debug, Default, Clone, ClapArgs)]
pub struct Replay {
    /// Stop at this moment and show the state: a time (2026-01-31T09:30:00Z), a day (00:00 UTC), a
    /// number since 1970, or topic/partition/offset of an input record [default: replay all, and
    /// compare with the live state]
    #[arg(long, value_name = "MOMENT")]
    pub until: Option<String>,
    /// Save the state in this directory, for `state --at`
    #[arg(long, value_name = "DIR", requires = "until")]
    pub keep: Option<PathBuf>,
    /// Replay only this task [default: all tasks]
    #[arg(long, value_name = "N")]
    pub task: Option<u32>,
}

/// Keys of all roles, after the help of `state`.
fn state_keys() -> String {
    format!(
        "The command needs no log, and can read beside a running role. Amounts named _e4\n\
         are in units of 10^-4.\n\nKeys:\n{}",
        roles::show::key_table()
    )
}

/// `state ...`
#[derive(Debug, Subcommand)]
pub enum State {
    /// Print the value of one key
    #[command(after_help = state_keys())]
    Get {
        /// Key, for example account/501
        key: String,
        /// Whose state.
        #[command(flatten)]
        place: StatePlace,
    },
    /// Print the keys and values of the roles given with --role
    #[command(after_help = state_keys())]
    List {
        /// Print only keys that begin with this text, for example order/501/
        #[arg(
            long,
            default_value = "",
            hide_default_value = true,
            value_name = "TEXT"
        )]
        prefix: String,
        /// Stop after this many keys [default: no limit]
        #[arg(long, value_name = "N")]
        limit: Option<u64>,
        /// Whose state.
        #[command(flatten)]
        place: StatePlace,
    },
    /// Print all state of one user or one order, of all roles
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
    /// Look only into this task [default: the task of the key or user; `list`: all tasks]
    #[arg(long, value_name = "N")]
    pub task: Option<u32>,
    /// Look into the state that `replay --until ... --keep DIR` saved, not into the live state
    #[arg(long, value_name = "DIR")]
    pub at: Option<PathBuf>,
}

/// Options of `demo`.
#[derive(Debug, Default, Clone, ClapArgs)]
pub struct Demo {
    /// Stop after this time, for example 30s or 5m [default: run until Ctrl-C]
    #[arg(long = "for", value_name = "TIME")]
    pub run_for: Option<String>,
    /// Orders per second of the simulated traders; 0: as fast as possible
    #[arg(long, default_value_t = 200, value_name = "N")]
    pub orders_per_second: u64,
    /// Prices per second, after one price of each symbol at the start; 0: no more prices
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub ticks_per_second: u64,
    /// Number of simulated users
    #[arg(long, default_value_t = 1000, value_name = "N")]
    pub users: u32,
    /// Symbols to trade, separated by commas
    #[arg(
        long,
        default_value = "AAPL,MSFT,NVDA,AMZN,GOOGL,META,TSLA,NFLX",
        value_name = "S,S2"
    )]
    pub symbols: String,
    /// Seed of the simulation. The same seed gives the same prices and traders
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub seed: u64,
    /// Number of partitions of topics that do not exist yet
    #[arg(long, default_value_t = 6, value_name = "N")]
    pub partitions: u32,
    /// Also serve notifications over HTTP, at an address of this machine such as 127.0.0.1:8080
    /// [default: no gateway]
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<String>,
}

/// `topics ...`
#[derive(Debug, Subcommand)]
pub enum Topics {
    /// Create the topics that are missing, and check the others
    #[command(
        after_help = "docs/operating/kafka.md has every setting of topics and brokers, its reason and\n\
its cost.\n\n\
Example:\n  processor topics create --replication 3 --brokers localhost:9092"
    )]
    Create {
        /// Number of partitions of the topics keyed by user or symbol. It cannot be changed later
        #[arg(long, default_value_t = 6, value_name = "N")]
        partitions: u32,
        /// Number of replicas of new topics; min.insync.replicas is one less [default: the
        /// cluster's]
        #[arg(long, value_name = "N")]
        replication: Option<u16>,
        /// Correct wrong settings of existing topics. No correction deletes a record
        #[arg(long)]
        fix: bool,
    },
    /// Name each wrong setting of topics and brokers, and its consequence
    #[command(
        after_help = "An error is a setting that breaks a promise of the system; a warning (for example\n\
few replicas) weakens one. A start of roles makes the same checks: it fails on\n\
errors and logs warnings.\n\n\
Exit code: 0 no error; 78 an error, or with --strict a warning.\n\n\
Example:\n  processor topics check --strict --brokers localhost:9092"
    )]
    Check {
        /// End with 78 for warnings too
        #[arg(long)]
        strict: bool,
    },
}

/// `config ...`
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print every setting with its origin; secrets are masked
    Show,
}

const PUBLISH_EXAMPLES: &str = "\
Examples:
  processor publish --symbols AAPL,MSFT --rate 50 --brokers localhost:9092
  processor publish --file ticks.csv --symbol BTC --speed 100 \\
      --time-column timestamp --price-column price --brokers localhost:9092";

/// Options of `publish`.
#[derive(Debug, Default, Clone, ClapArgs)]
pub struct Publish {
    /// Symbols of the simulated prices, separated by commas [default: all tradable listings]
    #[arg(long, value_name = "S,S2", conflicts_with = "file")]
    pub symbols: Option<String>,
    /// Simulated prices per second; 0: as fast as possible
    #[arg(long, default_value_t = 10, value_name = "N", conflicts_with = "file")]
    pub rate: u64,
    /// Seed of the simulation. The same seed gives the same prices
    #[arg(long, default_value_t = 1, value_name = "N", conflicts_with = "file")]
    pub seed: u64,
    /// Stop after this many prices [default: never, or the end of the file]
    #[arg(long, value_name = "N")]
    pub count: Option<u64>,
    /// Publish the prices in this file; `-` reads stdin. Columns are separated by comma, semicolon,
    /// tab or pipe
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Symbol of all prices in the file
    #[arg(
        long,
        value_name = "S",
        requires = "file",
        conflicts_with = "symbol_column"
    )]
    pub symbol: Option<String>,
    /// Name of the column with the symbol
    #[arg(long, value_name = "NAME", requires = "file")]
    pub symbol_column: Option<String>,
    /// Name of the column with the time: a number since 1970 (s, ms, us or ns), or a time with its
    /// zone (2026-01-31T09:30:00Z)
    #[arg(
        long,
        default_value = "timestamp",
        value_name = "NAME",
        requires = "file"
    )]
    pub time_column: String,
    /// Name of the column with the price
    #[arg(long, default_value = "price", value_name = "NAME", requires = "file")]
    pub price_column: String,
    /// Speed of the file's clock: 2 publishes an hour in half an hour; max: as fast as possible
    #[arg(long, default_value = "1", value_name = "FACTOR", requires = "file")]
    pub speed: String,
    /// Round prices to four decimals. Without this option a price with more decimals becomes a dead
    /// letter
    #[arg(long, requires = "file")]
    pub round: bool,
}

const TRADERS_EXAMPLES: &str = "\
The traders buy, and sell what they bought. Now and then they send an order
twice, as real clients do. Orders of a symbol without a price are rejected:
`processor publish` publishes prices.

Examples:
  processor traders --symbols AAPL,MSFT --rate 50 --brokers localhost:9092
  processor traders --orders 100000 --rate 0 --users 5000 \\
      --brokers localhost:9092";

/// Options of `traders`.
#[derive(Debug, Default, Clone, ClapArgs)]
pub struct TradersArgs {
    /// Stop after this many orders [default: never]
    #[arg(long, value_name = "N")]
    pub orders: Option<u64>,
    /// Orders per second; 0: as fast as possible
    #[arg(long, default_value_t = 50, value_name = "N")]
    pub rate: u64,
    /// Number of simulated users
    #[arg(long, default_value_t = 1000, value_name = "N")]
    pub users: u32,
    /// Symbols to trade, separated by commas [default: all tradable listings]
    #[arg(long, value_name = "S,S2")]
    pub symbols: Option<String>,
    /// Seed of the simulation. The same seed gives the same traders
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub seed: u64,
    /// Text that order ids begin with. The same text and seed send the same orders again [default:
    /// a new text]
    #[arg(long, value_name = "NAME")]
    pub run: Option<String>,
}

const ORDER_EXAMPLES: &str = "\
It is safe to send an id again: the answer is OrderStatus, and nothing is
executed.

Exit code: 0 the command was carried out, or an order that may rest was
accepted; 1 it was rejected, or no answer came within --timeout.

Examples (with KAFKA_BROKERS in the environment):
  processor order --user 501 --id 1001 --symbol AAPL --quantity 10 --side buy
  processor order --user 501 --id 1002 --symbol AAPL --quantity 10 --side buy \\
      --type limit --limit-price 180.00
  processor order --user 501 --replace 1002 --quantity 20 --limit-price 181.00
  processor order --user 501 --cancel 1002
  processor order --user 501 --mass-cancel --symbol AAPL
  processor order --user 501 --deposit 250.00
  processor order --json '{\"order_id\":\"1001\",\"user_id\":\"501\",\"symbol\":\"AAPL\",
      \"quantity\":10,\"order_type\":\"buy\"}'";

/// Options of `order`.
#[derive(Debug, Default, Clone, ClapArgs)]
pub struct OrderArgs {
    /// User id
    #[arg(long, required_unless_present = "json", value_name = "ID")]
    pub user: Option<String>,
    /// Id of the order or transfer. Use the same id to send the command again safely [default: a
    /// new UUID]
    #[arg(long, value_name = "ID")]
    pub id: Option<String>,
    /// Symbol to trade, or symbol whose orders --mass-cancel ends
    #[arg(long, value_name = "S")]
    pub symbol: Option<String>,
    /// Number of shares
    #[arg(long, value_name = "N")]
    pub quantity: Option<String>,
    /// Side of a new order
    #[arg(long, value_enum, group = "what")]
    pub side: Option<SideArg>,
    /// Order type: market, limit, stop or stop_limit [default: market]
    #[arg(long = "type", value_name = "TYPE")]
    pub order_type: Option<String>,
    /// Worst price that the order may trade at, in USD
    #[arg(long, value_name = "PRICE")]
    pub limit_price: Option<String>,
    /// Price that activates a stop order, in USD
    #[arg(long, value_name = "PRICE")]
    pub stop_price: Option<String>,
    /// Time in force: GTC, DAY, IOC, FOK or GTD
    #[arg(long, value_name = "TIF")]
    pub tif: Option<String>,
    /// End of a GTD order: a time (2026-01-31T09:30:00Z), a day (00:00 UTC), or a number since 1970
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub expire_at: Option<String>,
    /// Reject the order if it would trade on arrival
    #[arg(long, conflicts_with = "json")]
    pub post_only: bool,
    /// Cancel this order
    #[arg(long, value_name = "ORDER_ID", group = "what")]
    pub cancel: Option<String>,
    /// Change the --quantity or --limit-price of this order. The quantity includes the part that
    /// has traded
    #[arg(long, value_name = "ORDER_ID", group = "what")]
    pub replace: Option<String>,
    /// Cancel all orders of the user, or only those of --symbol
    #[arg(long, group = "what")]
    pub mass_cancel: bool,
    /// Deposit this amount, in USD
    #[arg(long, value_name = "AMOUNT", group = "what")]
    pub deposit: Option<String>,
    /// Withdraw this amount, in USD
    #[arg(long, value_name = "AMOUNT", group = "what")]
    pub withdraw: Option<String>,
    /// Send this JSON object unchanged; docs/contract.md has its fields
    #[arg(long, value_name = "COMMAND", group = "what", conflicts_with_all = ["user", "symbol", "quantity"])]
    pub json: Option<String>,
    /// Return when the log has the command; do not wait for its events
    #[arg(long)]
    pub no_wait: bool,
    /// Longest wait for the answer, for example 30s or 2m
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
  processor tail order-events --from start --exit-at-end --json \\
      --brokers localhost:9092
  processor tail trades --from -100 --brokers localhost:9092
      the last 100 records of each partition, then the records that follow
  processor tail dead-letters --from 2026-01-31T09:30:00Z \\
      --brokers localhost:9092";

/// Options of `tail`.
#[derive(Debug, Default, Clone, ClapArgs)]
pub struct Tail {
    /// Topic, without --topic-prefix
    pub topic: String,
    /// Where to begin: start, end, an offset (+N if it could be a time), -N for the last N records
    /// of each partition, or a time (2026-01-31T09:30:00Z, a day, or ms since 1970)
    #[arg(
        long,
        default_value = "end",
        value_name = "WHERE",
        allow_hyphen_values = true
    )]
    pub from: String,
    /// Stop after this many records [default: never]
    #[arg(long, value_name = "N")]
    pub count: Option<u64>,
    /// Stop at the place where the topic ended when the command began
    #[arg(long)]
    pub exit_at_end: bool,
    /// Read only this partition [default: all partitions]
    #[arg(long, value_name = "P")]
    pub partition: Option<u32>,
    /// Print one JSON object per line, as --format json does
    #[arg(long)]
    pub json: bool,
}

/// Reads `text` or `json`.
pub fn format(text: &str) -> Result<OutputFormat, String> {
    match text {
        "text" => Ok(OutputFormat::Text),
        "json" => Ok(OutputFormat::Json),
        other => Err(format!("`{other}` is not a format: expected text or json")),
    }
}
