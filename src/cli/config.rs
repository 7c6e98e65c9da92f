//! Merges flags, environment, configuration file and defaults into one checked [`Config`]. All
//! checks that need no cluster are made here. Each error names the origin of the bad value.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use client::decimal;
use domain::decimal::{Num, WHOLE, parse};
use engine::restore::Standby;
use log_local::Durability;
use roles::Role;

use super::args::{self, Common};
use super::exit::{Code, Failure};
use super::output::OutputFormat;
use super::properties as allowed;
use crate::runtime::supervisor::Ends;

/// Origin of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    Flag,
    /// An environment variable, by name.
    Env(String),
    /// A configuration file, by path.
    File(PathBuf),
    /// The built-in default.
    Default,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Origin::Flag => f.write_str("flag"),
            Origin::Env(name) => write!(f, "environment {name}"),
            Origin::File(path) => write!(f, "file {}", path.display()),
            Origin::Default => f.write_str("default"),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogTarget {
    /// A Kafka cluster.
    Kafka {
        /// Bootstrap servers.
        brokers: String,
    },
    /// The embedded log.
    Embedded {
        /// Directory of the embedded log.
        dir: PathBuf,
    },
    /// The configuration names no log.
    Unset,
}

/// The whole configuration, checked and typed.
#[derive(Clone, Debug)]
pub struct Config {
    pub target: LogTarget,
    /// Prefix of every topic and group name.
    pub topic_prefix: String,
    /// Root directory of local state.
    pub state: PathBuf,
    /// Configured roles; empty if none.
    pub roles: Vec<Role>,
    pub instance: u32,
    pub format: OutputFormat,
    /// librdkafka properties.
    pub properties: BTreeMap<String, String>,
    /// Orders per second and user; 0: no limit.
    pub rate_limit: u32,
    /// Orders that a user may send at once.
    pub burst: u32,
    /// Factor of rate and burst for commands other than orders; 0: no limit.
    pub message_rate_factor: u32,
    /// Age at which a price is stale.
    pub stale_ms: u64,
    /// Opening cash in 10^-4; 0: none.
    pub opening_cash_e4: i64,
    /// Age at which a command is stale; 0: never.
    pub max_command_age_ms: u64,
    /// Time during which the id of an ended order is remembered; 0: for ever.
    pub dedup_window_ms: u64,
    /// Most orders of one user that may rest or wait at a time.
    pub open_orders_max: u64,
    /// Clients may move money themselves.
    pub client_transfers: bool,
    /// End of DAY orders: milliseconds after midnight UTC.
    pub day_ends_ms: i64,
    /// Longest time that a transaction gathers records.
    pub commit_interval_ms: u64,
    /// Most records in a transaction.
    pub batch_records_max: usize,
    /// Most input bytes in a transaction.
    pub batch_bytes_max: usize,
    /// Interval of store scrubs; 0: never.
    pub scrub_every_ms: u64,
    /// A graceful stop leaves the consumer group.
    pub leave: bool,
    /// Tasks of other instances that this instance keeps as standbys.
    pub standby: Standby,
    /// Longest duration of a graceful stop.
    pub shutdown_grace_ms: u64,
    /// Point at which a commit to the embedded log is acknowledged.
    pub durability: Durability,
    /// The first role that ends also stops the other roles of the process.
    pub fail_fast: bool,
    /// Log filter; empty: the command's default.
    pub log: String,
    pub log_json: bool,
    /// Lines of `config show`: name, value, origin.
    pub shown: Vec<(String, String, Origin)>,
}

/// One setting. The name gives the flag (with dashes), the environment variable (in capitals after
/// `PROCESSOR_`) and the key in the file.
struct ConfigSetting {
    name: &'static str,
    default: &'static str,
    flag: fn(&Common) -> Option<&String>,
}

const SETTINGS: &[ConfigSetting] = &[
    ConfigSetting {
        name: "brokers",
        default: "",
        flag: |c| c.brokers.as_ref(),
    },
    ConfigSetting {
        name: "embedded",
        default: "",
        flag: |c| c.embedded.as_ref(),
    },
    ConfigSetting {
        name: "topic_prefix",
        default: "",
        flag: |c| c.topic_prefix.as_ref(),
    },
    ConfigSetting {
        name: "state",
        default: "state",
        flag: |c| c.state.as_ref(),
    },
    ConfigSetting {
        name: "role",
        default: "",
        flag: |c| c.role.as_ref(),
    },
    ConfigSetting {
        name: "instance",
        default: "1",
        flag: |c| c.instance.as_ref(),
    },
    ConfigSetting {
        name: "format",
        default: "text",
        flag: |c| c.format.as_ref(),
    },
    ConfigSetting {
        name: "rate_limit",
        default: "100",
        flag: |c| c.rate_limit.as_ref(),
    },
    ConfigSetting {
        name: "burst",
        default: "200",
        flag: |c| c.burst.as_ref(),
    },
    ConfigSetting {
        name: "message_rate_factor",
        default: "10",
        flag: |c| c.message_rate_factor.as_ref(),
    },
    ConfigSetting {
        name: "stale_ms",
        default: "120000",
        flag: |c| c.stale_ms.as_ref(),
    },
    ConfigSetting {
        name: "opening_cash",
        default: "1000000.00",
        flag: |c| c.opening_cash.as_ref(),
    },
    ConfigSetting {
        name: "max_command_age",
        default: "0",
        flag: |c| c.max_command_age.as_ref(),
    },
    ConfigSetting {
        name: "dedup_window",
        default: "0",
        flag: |c| c.dedup_window.as_ref(),
    },
    ConfigSetting {
        name: "open_orders_max",
        default: "10000",
        flag: |c| c.open_orders_max.as_ref(),
    },
    ConfigSetting {
        name: "client_transfers",
        default: "false",
        flag: |c| c.client_transfers.as_ref(),
    },
    ConfigSetting {
        name: "day_end",
        default: "24:00",
        flag: |c| c.day_end.as_ref(),
    },
    ConfigSetting {
        name: "commit_interval_ms",
        default: "50",
        flag: |c| c.commit_interval_ms.as_ref(),
    },
    ConfigSetting {
        name: "batch_records_max",
        default: "10000",
        flag: |c| c.batch_records_max.as_ref(),
    },
    ConfigSetting {
        name: "batch_bytes_max",
        default: "8388608",
        flag: |c| c.batch_bytes_max.as_ref(),
    },
    ConfigSetting {
        name: "scrub_every",
        default: "24h",
        flag: |c| c.scrub_every.as_ref(),
    },
    ConfigSetting {
        name: "leave",
        default: "false",
        flag: |c| c.leave.as_ref(),
    },
    ConfigSetting {
        name: "standby",
        default: "0",
        flag: |c| c.standby.as_ref(),
    },
    ConfigSetting {
        name: "shutdown_grace_ms",
        default: "10000",
        flag: |c| c.shutdown_grace_ms.as_ref(),
    },
    ConfigSetting {
        name: "durability",
        default: "os",
        flag: |c| c.durability.as_ref(),
    },
    ConfigSetting {
        name: "fail_fast",
        default: "false",
        flag: |c| c.fail_fast.as_ref(),
    },
    ConfigSetting {
        name: "log",
        default: "",
        flag: |c| c.log.as_ref(),
    },
    ConfigSetting {
        name: "log_format",
        default: "text",
        flag: |c| c.log_format.as_ref(),
    },
];

impl Config {
    /// Merges the layers. `env` returns environment variables, so that tests need none.
    pub fn load(flags: &Common, env: &dyn Fn(&str) -> Option<String>) -> Result<Config, Failure> {
        Self::join(flags, env, &ConfigFile::read(flags, env)?)
    }

    /// Like [`Config::load`], with the text of a configuration file.
    pub fn with_file(
        flags: &Common,
        env: &dyn Fn(&str) -> Option<String>,
        path: &Path,
        text: &str,
    ) -> Result<Config, Failure> {
        Self::join(flags, env, &ConfigFile::parse(path.to_path_buf(), text)?)
    }

    fn join(
        flags: &Common,
        env: &dyn Fn(&str) -> Option<String>,
        file: &ConfigFile,
    ) -> Result<Config, Failure> {
        let mut values = BTreeMap::new();
        let mut shown = Vec::new();
        for s in SETTINGS {
            let (value, origin) = pick(s, flags, env, file);
            shown.push((s.name.to_string(), value.clone(), origin.clone()));
            values.insert(s.name, (value, origin));
        }

        let properties = properties(flags, file, &mut shown)?;
        let v = Values(values);
        let target = v.target()?;
        let max_command_age_ms = v.parse("max_command_age", duration_ms)?;
        let rate_limit = v.parse("rate_limit", |t| number(t, 0, 1_000_000))?;
        let mut state = v.text("state").to_string();
        if let (LogTarget::Embedded { dir }, Origin::Default) = (&target, v.origin("state")) {
            state = dir.join("state").display().to_string();
            shown
                .iter_mut()
                .filter(|(name, ..)| name == "state")
                .for_each(|s| s.1.clone_from(&state));
        }

        Ok(Config {
            target,
            topic_prefix: v.parse("topic_prefix", prefix)?,
            state: PathBuf::from(v.parse("state", |_| {
                if state.is_empty() {
                    Err("must name a directory".into())
                } else {
                    Ok(state.clone())
                }
            })?),
            roles: v.parse("role", roles)?,
            instance: v.parse("instance", |t| number(t, 0, 9999))?,
            format: v.parse("format", args::format)?,
            properties,
            rate_limit,
            burst: v.parse("burst", |t| number(t, 1, 1_000_000_000))?,
            message_rate_factor: v.parse("message_rate_factor", |t| factor(t, rate_limit))?,
            stale_ms: v.parse("stale_ms", |t| number(t, 1, 366 * 86_400_000))?,
            opening_cash_e4: v.parse("opening_cash", cash)?,
            max_command_age_ms,
            dedup_window_ms: v.parse("dedup_window", |t| window(t, max_command_age_ms))?,
            open_orders_max: v.parse("open_orders_max", |t| number(t, 0, 1_000_000))?,
            client_transfers: v.parse("client_transfers", boolean)?,
            day_ends_ms: v.parse("day_end", day_end)?,
            commit_interval_ms: v.parse("commit_interval_ms", |t| number(t, 1, 60_000))?,
            batch_records_max: v.parse("batch_records_max", |t| number(t, 1, 1_000_000))?,
            batch_bytes_max: v.parse("batch_bytes_max", |t| number(t, 65_536, 1 << 30))?,
            scrub_every_ms: v.parse("scrub_every", duration_ms)?,
            leave: v.parse("leave", boolean)?,
            standby: v.parse("standby", standby)?,
            shutdown_grace_ms: v.parse("shutdown_grace_ms", |t| number(t, 0, 3_600_000))?,
            durability: v.parse("durability", durability)?,
            fail_fast: v.parse("fail_fast", boolean)?,
            log: v.parse("log", log_filter)?,
            log_json: v.parse("log_format", args::format)? == OutputFormat::Json,
            shown,
        })
    }

    /// The configured roles; an error if none is configured.
    pub fn roles_required(&self) -> Result<&[Role], Failure> {
        if self.roles.is_empty() {
            return Err(Failure::usage(
                "no role given: say --role orders (or trading, portfolio, notifications, audit, a list, or all)",
            ));
        }

        Ok(&self.roles)
    }

    /// The configured roles, or all roles if none is configured.
    pub fn roles_or_all(&self) -> Vec<Role> {
        if self.roles.is_empty() {
            Role::all().to_vec()
        } else {
            self.roles.clone()
        }
    }

    /// Effect of one role's end on the other roles of a process.
    pub fn ends(&self) -> Ends {
        if self.fail_fast {
            Ends::Together
        } else {
            Ends::Alone
        }
    }

    /// Falls back to the embedded log in `dir` if no log is configured.
    pub fn or_embedded(mut self, dir: &Path) -> Config {
        if self.target == LogTarget::Unset {
            self.target = LogTarget::Embedded {
                dir: dir.to_path_buf(),
            };

            if self
                .shown
                .iter()
                .any(|(name, _, origin)| name == "state" && *origin == Origin::Default)
            {
                self.state = dir.join("state");
            }
        }

        self
    }

    /// The origin of a setting's value.
    pub fn origin(&self, name: &str) -> Origin {
        self.shown
            .iter()
            .find(|(shown, ..)| shown == name)
            .map_or(Origin::Default, |(.., origin)| origin.clone())
    }

    pub fn group(&self, role: Role) -> String {
        format!("{}processor-{}", self.topic_prefix, role.name())
    }
}

/// The layer of the configuration file.
#[derive(Default)]
struct ConfigFile {
    path: PathBuf,
    values: BTreeMap<String, String>,
    properties: BTreeMap<String, String>,
}

impl ConfigFile {
    fn read(flags: &Common, env: &dyn Fn(&str) -> Option<String>) -> Result<ConfigFile, Failure> {
        let named = flags
            .config
            .clone()
            .or_else(|| env("PROCESSOR_CONFIG").map(PathBuf::from));
        let path = match named {
            Some(path) => path,
            None if Path::new("processor.toml").is_file() => PathBuf::from("processor.toml"),
            None => return Ok(ConfigFile::default()),
        };

        let text = std::fs::read_to_string(&path).map_err(|e| {
            Failure::config(format!(
                "cannot read the configuration file {}: {e}",
                path.display()
            ))
        })?;

        ConfigFile::parse(path, &text)
    }

    fn parse(path: PathBuf, text: &str) -> Result<ConfigFile, Failure> {
        let table: toml::Table = text.parse().map_err(|e| not_toml(&path, text, &e))?;
        let mut file = ConfigFile {
            path,
            ..Default::default()
        };

        for (key, value) in table {
            let name = key.replace('-', "_");
            match value {
                toml::Value::Table(kafka) if name == "kafka" => {
                    for (property, value) in kafka {
                        let value = scalar(&value).ok_or_else(|| {
                            file.refuse(&format!(
                                "kafka.{property} must be text, a number or a boolean"
                            ))
                        })?;

                        file.properties.insert(property, value);
                    }
                }
                value if SETTINGS.iter().any(|s| s.name == name) => {
                    let value = scalar(&value)
                        .ok_or_else(|| file.refuse(&format!("{key} must be text or a number")))?;
                    file.values.insert(name, value);
                }
                _ => {
                    let known: Vec<_> = SETTINGS.iter().map(|s| s.name).collect();
                    return Err(file.refuse(&format!(
                        "there is no setting `{key}`; the settings are {}, and a table [kafka]",
                        known.join(", ")
                    )));
                }
            }
        }

        Ok(file)
    }

    fn refuse(&self, what: &str) -> Failure {
        Failure::config(format!("{}: {what}", self.path.display()))
    }
}

/// Error with the place and the reason. The message leaves out the parser's copy of the line,
/// because the line may hold a password.
fn not_toml(path: &Path, text: &str, e: &toml::de::Error) -> Failure {
    let line = e.span().map_or(1, |at| {
        text.bytes().take(at.start).filter(|b| *b == b'\n').count() + 1
    });

    Failure::config(format!(
        "{} is no valid TOML: line {line}: {}",
        path.display(),
        e.message()
    ))
}

/// A TOML value as text; a list of texts becomes comma-separated.
fn scalar(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(s) => Some(s.clone()),
        toml::Value::Integer(i) => Some(i.to_string()),
        toml::Value::Boolean(b) => Some(b.to_string()),
        toml::Value::Array(items) => Some(
            items
                .iter()
                .map(scalar)
                .collect::<Option<Vec<_>>>()?
                .join(","),
        ),
        // The shortest decimal form, as the reader of record numbers does.
        toml::Value::Float(f) if f.is_finite() => Some(f.to_string()),
        toml::Value::Float(_) | toml::Value::Datetime(_) | toml::Value::Table(_) => None,
    }
}

fn pick(
    s: &ConfigSetting,
    flags: &Common,
    env: &dyn Fn(&str) -> Option<String>,
    file: &ConfigFile,
) -> (String, Origin) {
    if let Some(value) = (s.flag)(flags) {
        return (value.clone(), Origin::Flag);
    }

    let own = format!("PROCESSOR_{}", s.name.to_uppercase());
    let kafka = (s.name == "brokers").then(|| "KAFKA_BROKERS".to_string());
    for name in kafka.into_iter().chain([own]) {
        if let Some(value) = env(&name).filter(|v| !v.is_empty()) {
            return (value, Origin::Env(name));
        }
    }

    match file.values.get(s.name) {
        Some(value) => (value.clone(), Origin::File(file.path.clone())),
        None => (s.default.to_string(), Origin::Default),
    }
}

fn properties(
    flags: &Common,
    file: &ConfigFile,
    shown: &mut Vec<(String, String, Origin)>,
) -> Result<BTreeMap<String, String>, Failure> {
    let mut all: BTreeMap<String, (String, Origin)> = file
        .properties
        .iter()
        .map(|(k, v)| (k.clone(), (v.clone(), Origin::File(file.path.clone()))))
        .collect();
    for given in &flags.property {
        let Some((key, value)) = given.split_once('=').filter(|(k, _)| !k.trim().is_empty()) else {
            // The text may hold a secret behind a wrong sign.
            let end = given
                .find(|c: char| !c.is_ascii_alphanumeric() && !"._-".contains(c))
                .unwrap_or(given.len());
            let name = if allowed::is_secret(given) {
                &given[..end]
            } else {
                given
            };

            return Err(Failure::usage(format!(
                "-X {name}: say -X key=value, for example -X security.protocol=ssl"
            )));
        };

        all.insert(key.trim().to_string(), (value.to_string(), Origin::Flag));
    }

    for (key, (value, origin)) in &all {
        allowed::check(key, value).map_err(|why| complaint(origin, &why))?;
        shown.push((
            format!("kafka.{key}"),
            allowed::shown(key, value),
            origin.clone(),
        ));
    }

    if let Err(why) = allowed::check_together(|name| all.get(name).map(|(value, _)| value.as_str()))
    {
        let origin = all
            .values()
            .map(|(_, origin)| origin)
            .find(|o| **o == Origin::Flag)
            .or(all.values().map(|(_, o)| o).next());
        return Err(complaint(origin.unwrap_or(&Origin::Default), &why));
    }

    Ok(all.into_iter().map(|(k, (v, _))| (k, v)).collect())
}

fn complaint(origin: &Origin, what: &str) -> Failure {
    let code = if *origin == Origin::Flag {
        Code::Usage
    } else {
        Code::Config
    };

    Failure::new(code, format!("{what} (from: {origin})"))
}

struct Values(BTreeMap<&'static str, (String, Origin)>);

impl Values {
    fn text(&self, name: &str) -> &str {
        &self.0[name].0
    }

    fn origin(&self, name: &str) -> &Origin {
        &self.0[name].1
    }

    fn parse<T>(&self, name: &str, read: impl Fn(&str) -> Result<T, String>) -> Result<T, Failure> {
        let text = self.text(name);
        read(text).map_err(|e| {
            complaint(
                self.origin(name),
                &format!("--{} `{text}`: {e}", name.replace('_', "-")),
            )
        })
    }

    /// The log of the strongest layer that names a log. Two logs in the same layer are an error.
    fn target(&self) -> Result<LogTarget, Failure> {
        let rank = |name: &str| match self.origin(name) {
            _ if self.text(name).is_empty() => 0,
            Origin::Default => 0,
            Origin::File(_) => 1,
            Origin::Env(_) => 2,
            Origin::Flag => 3,
        };

        let kafka = rank("brokers");
        let embedded = rank("embedded");
        match kafka.cmp(&embedded) {
            std::cmp::Ordering::Greater => Ok(LogTarget::Kafka {
                brokers: self.parse("brokers", brokers)?,
            }),
            std::cmp::Ordering::Less => Ok(LogTarget::Embedded {
                dir: PathBuf::from(self.text("embedded")),
            }),
            std::cmp::Ordering::Equal if kafka == 0 => Ok(LogTarget::Unset),
            std::cmp::Ordering::Equal => Err(complaint(
                self.origin("embedded"),
                "both brokers and embedded are given: choose --brokers for Kafka or --embedded for the embedded log",
            )),
        }
    }
}

fn number<T: TryFrom<i64>>(text: &str, min: i64, max: i64) -> Result<T, String> {
    let range = || format!("must be a whole number from {min} to {max}");
    let Some(Num::Exact(n)) = parse(text.trim().as_bytes(), WHOLE) else {
        return Err(range());
    };

    if n < min || n > max {
        return Err(range());
    }

    T::try_from(n).map_err(|_| range())
}

/// Parses the factor of the second rate limit. Limits count in whole microseconds, so a limit above a
/// million per second would refuse nothing.
fn factor(text: &str, rate_limit: u32) -> Result<u32, String> {
    let most = 1_000_000 / i64::from(rate_limit.max(1));
    number(text, 0, most).map_err(|e| {
        format!(
            "{e}: --rate-limit times this factor is at most 1000000 per second; 0 turns this limit off"
        )
    })
}

/// Parses a time of day; 24:00 is 00:00.
fn day_end(text: &str) -> Result<i64, String> {
    let wrong =
        || format!("`{text}` is not a time of day: expected 00:00 to 24:00 in UTC, such as 21:30");
    let (hours, minutes) = text.trim().split_once(':').ok_or_else(wrong)?;
    let (hours, minutes): (i64, i64) = (
        hours.parse().map_err(|_| wrong())?,
        minutes.parse().map_err(|_| wrong())?,
    );
    if !(0..=24).contains(&hours) || !(0..60).contains(&minutes) || hours * 60 + minutes > 24 * 60 {
        return Err(wrong());
    }

    Ok((hours * 60 + minutes) % (24 * 60) * 60_000)
}

fn brokers(text: &str) -> Result<String, String> {
    for broker in text.split(',') {
        let port = broker
            .trim()
            .rsplit_once(':')
            .filter(|(host, _)| !host.is_empty())
            .and_then(|(_, p)| p.parse::<u16>().ok());
        if port.is_none_or(|p| p == 0) {
            return Err(format!(
                "`{broker}` must be host:port, for example localhost:9092"
            ));
        }
    }

    Ok(text.split(',').map(str::trim).collect::<Vec<_>>().join(","))
}

fn prefix(text: &str) -> Result<String, String> {
    let legal = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    if text.len() > 100 || !text.bytes().all(legal) {
        return Err("may have up to 100 letters, digits, `.`, `_` and `-`".into());
    }

    Ok(text.into())
}

fn roles(text: &str) -> Result<Vec<Role>, String> {
    let mut roles = Vec::new();
    for name in text.split(',').map(str::trim).filter(|n| !n.is_empty()) {
        if name == "all" {
            roles.extend(Role::all());
            continue;
        }

        let known = || {
            "is not a list of orders, trading, portfolio, notifications, audit; or all".to_string()
        };

        roles.push(
            Role::all()
                .into_iter()
                .find(|r| r.name() == name)
                .ok_or_else(known)?,
        );
    }

    roles.sort();
    roles.dedup();
    Ok(roles)
}

fn boolean(text: &str) -> Result<bool, String> {
    text.parse()
        .map_err(|_| "must be true or false".to_string())
}

/// Parses `all`, or the number of lost instances that standbys must cover.
fn standby(text: &str) -> Result<Standby, String> {
    match text.trim() {
        "all" => Ok(Standby::All),
        n => match number::<u32>(n, 0, 1_000).map_err(|_| {
            "must be `all`, or how many lost instances to be ready for (0: none)".to_string()
        })? {
            0 => Ok(Standby::None),
            n => Ok(Standby::Neighbours(n)),
        },
    }
}

fn cash(text: &str) -> Result<i64, String> {
    let cash = decimal::parse_e4(text)?;
    if !(0..1 << 62).contains(&cash) {
        return Err("must be from 0 to 461168601842738.7903".into());
    }

    Ok(cash)
}

fn durability(text: &str) -> Result<Durability, String> {
    match text.trim() {
        "disk" => Ok(Durability::Disk),
        "os" => Ok(Durability::Os),
        _ => Err("must be disk (a commit waits for the disk) or os (it does not; a power failure costs a second or two)".into()),
    }
}

fn log_filter(text: &str) -> Result<String, String> {
    tracing_subscriber::EnvFilter::try_new(text).map_err(|e| e.to_string())?;
    Ok(text.into())
}

/// Parses a dedup window. A command repeated after the window must be stale by its timestamp. The
/// timestamp may be up to one second in the future.
fn window(text: &str, max_age_ms: u64) -> Result<u64, String> {
    match duration_ms(text)? {
        0 => Ok(0),
        _ if max_age_ms == 0 => {
            Err("needs --max-command-age: without it, a command that is sent again after the window would be carried out again".into())
        }
        ms if ms <= max_age_ms + 1_000 => Err("must be more than a second longer than --max-command-age".into()),
        ms => Ok(ms),
    }
}

/// Parses `500ms`, `30s`, `5m`, `2h`, `1d`; a bare number means seconds.
pub fn duration_ms(text: &str) -> Result<u64, String> {
    let wrong = || {
        format!(
            "`{text}` is not a duration: expected a number and a unit, such as 500ms, 30s, 5m, 2h or 1d"
        )
    };
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let n: u64 = text[..digits].parse().map_err(|_| wrong())?;
    let unit_ms = match &text[digits..] {
        "ms" => 1,
        "s" | "" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(wrong()),
    };

    n.checked_mul(unit_ms)
        .filter(|ms| *ms <= 1 << 50)
        .ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_rate_limit_is_at_most_a_million_per_second() {
        assert_eq!(factor("10", 100), Ok(10));
        assert_eq!(factor("10000", 100), Ok(10_000));
        assert!(factor("10001", 100).is_err_and(|e| e.contains("at most 1000000")));
        assert_eq!(factor("1000000", 0), Ok(1_000_000), "no first limit");
        assert_eq!(factor("0", 1_000_000), Ok(0));
    }
}
