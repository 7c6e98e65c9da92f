//! Opens the log that the configuration names.

use std::path::Path;
use std::sync::Arc;

use log_local::{Durability, LocalLog, LocalOptions};
use ports::Log;
use ports::topics::TopicTable;
use wire::topics;

use super::config::{Config, LogTarget};
use super::exit::Failure;

/// Access to the log that a command needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Read only. On the embedded log, a reader sees the state at the time of opening, even while
    /// another process writes.
    Read,
    /// Append, or run roles. Only one process at a time can open the embedded log for writing.
    Write,
}

/// Opens the configured log.
pub(super) fn log(config: &Config, access: Access) -> Result<Arc<dyn Log>, Failure> {
    log_with(config, access, None)
}

/// Like [`log()`], with the number of replicas for new topics.
pub(super) fn log_with(
    config: &Config,
    access: Access,
    replication: Option<u16>,
) -> Result<Arc<dyn Log>, Failure> {
    let table = topics::table(&config.topic_prefix);
    match &config.target {
        LogTarget::Unset => Err(Failure::usage(
            "which log? Say --brokers HOST:PORT (or set KAFKA_BROKERS) for Kafka, or --embedded DIR for the embedded log",
        )),
        LogTarget::Kafka { brokers } => kafka(config, brokers, table, replication),
        LogTarget::Embedded { dir } => embedded(dir, &table, access, config.durability),
    }
}

#[cfg(feature = "kafka")]
fn kafka(
    config: &Config,
    brokers: &str,
    table: TopicTable,
    replication: Option<u16>,
) -> Result<Arc<dyn Log>, Failure> {
    use log_kafka::{KafkaLog, KafkaSettings};
    let mut settings = KafkaSettings::new(brokers);
    settings.replication = replication;
    settings.properties = config
        .properties
        .iter()
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect();
    Ok(Arc::new(KafkaLog::new(settings, Arc::new(table))))
}

#[cfg(not(feature = "kafka"))]
fn kafka(
    _config: &Config,
    brokers: &str,
    _table: TopicTable,
    _replication: Option<u16>,
) -> Result<Arc<dyn Log>, Failure> {
    Err(Failure::config(format!(
        "this program was built without Kafka, so it cannot reach {brokers}: build it with the feature `kafka`"
    )))
}

fn embedded(
    dir: &Path,
    table: &TopicTable,
    access: Access,
    durability: Durability,
) -> Result<Arc<dyn Log>, Failure> {
    if access == Access::Read && !dir.is_dir() {
        return Err(Failure::config(format!(
            "there is no embedded log in {}: `processor demo` or `processor topics create` makes one",
            dir.display()
        )));
    }

    Ok(match access {
        Access::Read => Arc::new(LocalLog::open_read_only(dir, table)?),
        Access::Write => Arc::new(LocalLog::open(
            dir,
            table,
            LocalOptions {
                durability,
                ..LocalOptions::default()
            },
        )?),
    })
}
