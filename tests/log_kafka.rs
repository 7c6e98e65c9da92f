//! The Kafka adapter against a real broker: the conformance suite of the log port, and what only Kafka can get wrong.

#![cfg(feature = "kafka")]

#[path = "support/broker.rs"]
mod broker;
#[macro_use]
#[path = "support/conformance.rs"]
mod conformance;

use std::sync::Arc;

use processor::engine::ports::Log;
use processor::engine::topics::TopicTable;
use processor::log::kafka::{KafkaLog, KafkaSettings};

struct SharedBroker;

impl conformance::Cluster for SharedBroker {
    fn log(&self, table: &TopicTable) -> Box<dyn Log> {
        Box::new(KafkaLog::new(KafkaSettings::new(&broker::shared().address), Arc::new(table.clone())))
    }
}

conformance!(|| SharedBroker);
