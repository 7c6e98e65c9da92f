//! The one loop that every role runs in, over ports: no Kafka, no RocksDB, no thread, no clock of
//! its own.
// clippy.toml lists what would make a result depend on more than its records.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]
#![warn(unreachable_pub)]

pub mod broadcast;
pub mod commit;
pub mod context;
mod cursor;
pub mod digest;
pub mod guard;
mod halt;
pub mod instance;
pub mod journal;
pub mod last_meta;
mod merge;
pub mod meta;
pub mod overlay;
pub mod pace;
mod refusal;
mod rejections;
pub mod replay;
pub mod restore;
pub mod role;
mod scrub;
pub mod task;
pub mod travel;
mod wake;
