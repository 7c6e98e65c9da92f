//! The one loop that every role runs in, over ports: no Kafka, no RocksDB, no thread, no clock of
//! its own.
// clippy.toml lists what would make a result depend on more than its records.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]
#![warn(unreachable_pub)]

pub mod broadcast;
pub mod checkpoint;
pub mod commit;
pub mod context;
mod cursor;
pub mod digest;
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
