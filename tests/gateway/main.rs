//! The gateway on a log in memory: streams that resume, webhooks that are tried again, slow
//! readers, who may see what, and many clients at once.

mod access;
mod alerts;
mod endpoint;
mod heartbeats;
mod history;
mod n1_resume;
mod n2_webhooks;
mod n3_slow;
mod soak;
mod support;
mod websocket;
