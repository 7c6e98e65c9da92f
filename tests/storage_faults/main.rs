//! Whatever happens to the files of a role's state, its answers stay what they must be.
//!
//! One role (`orders`) with a real store: tables, a write-ahead log, a MANIFEST. Each fault begins
//! from the same store and the same log, in copies. After it the role starts, answers probes that
//! touch every account and many old ids, and all its events, from the first one on, must be byte
//! for byte those of a twin that kept its state in memory and met no fault. A stop is allowed where
//! it says what to do; a wrong answer never is.
#![cfg(feature = "rocks")]

mod disk_full;
mod files;
mod newer;
mod scrub;
mod stage;
