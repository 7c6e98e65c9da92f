//! The one loop that every role runs in, over ports: no Kafka, no RocksDB, no thread, no clock of
//! its own.

pub mod broadcast;
pub mod commit;
pub mod context;
pub mod crash;
mod cursor;
pub mod digest;
pub mod guard;
mod halt;
pub mod instance;
pub mod journal;
pub mod last_meta;
mod merge;
pub mod meta;
pub mod mutants;
pub mod overlay;
pub mod pace;
pub mod ports;
pub mod records;
mod refusal;
mod rejections;
pub mod replay;
pub mod restore;
pub mod role;
mod scrub;
pub mod task;
pub mod topics;
pub mod travel;
pub mod varint;
mod wake;
