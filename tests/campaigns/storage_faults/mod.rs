//! For every fault in the files of a role's state, the role's answers stay right.
//!
//! One role (`orders`) with a real store: tables, a write-ahead log, a MANIFEST. Each fault begins
//! from copies of the same store and the same log. After the fault the role starts and answers
//! probes that touch every account and many old ids. A twin keeps the state in memory and meets no
//! fault. All events of the role must equal the twin's events byte for byte, from the first event
//! on. A stop with an instruction is allowed; a wrong answer never is.

mod disk_full;
mod files;
mod newer;
mod scrub;
mod stage;
