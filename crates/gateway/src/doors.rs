//! The readers of what comes from outside, without a gateway around them. For the fuzzer.

use crate::api;
use crate::orders::CommandDraft;

/// The record of a request about orders: a new order, or with `replaced` the replacement of this
/// order. An error has its text.
pub fn command_record(user: &str, body: &[u8], replaced: Option<&str>) -> Result<Vec<u8>, String> {
    let key = Some("key");
    let draft = match replaced {
        None => CommandDraft::new_order(user, body, key, None),
        Some(order_id) => CommandDraft::replacement(user, order_id, body, key),
    };

    draft.map(|draft| draft.value).map_err(|e| format!("{e:?}"))
}

/// The decoded segments of a path that has the one right spelling.
pub fn path_segments(path: &str) -> Option<Vec<String>> {
    api::path_segments(path).ok()
}
