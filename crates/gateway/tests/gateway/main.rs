//! The gateway on a log in memory: resumed streams, webhook retries, slow readers, access rights,
//! and many clients at once.

// The name by which all other crates know this crate.
extern crate processor_gateway as gateway;

mod access;
mod alerts;
mod changes;
mod endpoint;
mod heartbeats;
mod history;
mod limits;
mod n1_resume;
mod n2_webhooks;
mod n3_slow;
mod orders;
mod soak;
mod support;
mod websocket;
