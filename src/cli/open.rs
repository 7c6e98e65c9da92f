//! From configuration to a log.

use std::sync::Arc;

use super::config::{Config, Target};
use super::exit::Failure;
use crate::engine::ports::Log;

/// Opens the log that was asked for.
pub fn log(config: &Config) -> Result<Arc<dyn Log>, Failure> {
    match &config.target {
        Target::Unset => Err(Failure::usage(
            "which log? Say --brokers HOST:PORT (or set KAFKA_BROKERS) for Kafka, or --embedded DIR for the embedded log",
        )),
        Target::Kafka { brokers } => Err(Failure::config(format!("this build has no Kafka ({brokers})"))),
        Target::Embedded { dir } => Err(Failure::config(format!("this build has no embedded log ({})", dir.display()))),
    }
}
