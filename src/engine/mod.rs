//! The one loop that every role runs in, over ports: no Kafka, no RocksDB, no thread, no clock of its own.

pub mod broadcast;
pub mod context;
pub mod digest;
pub mod guard;
pub mod overlay;
pub mod ports;
pub mod records;
pub mod role;
pub mod topics;
