//! The loop of every role. The loop reaches the outside only through ports: no Kafka, no RocksDB,
//! no thread, no clock.
// clippy.toml lists the calls and types with results that do not follow from the records alone.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]
#![warn(unreachable_pub)]

pub mod broadcast;
pub mod checkpoint;
pub mod commit;
pub mod context;
mod cursor;
pub mod digest;
mod doubts;
pub mod instance;
pub mod journal;
pub mod last_meta;
mod merge;
pub mod overlay;
pub mod pace;
pub mod point_in_time;
mod refusal;
mod rejections;
pub mod replay;
pub mod restore;
pub mod role;
mod scrub;
pub mod sequence_check;
mod step_error;
pub mod task;
mod timers;
