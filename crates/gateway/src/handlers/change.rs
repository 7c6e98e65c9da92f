//! A change of a user's subscriptions. A change is answered after its record has come back from the
//! log. So the next request sees the change, at every gateway that has read as far.

use std::sync::Arc;
use std::time::Duration;

use ports::topics::TopicPartition;
use serde::Serialize;
use wire::topics::SUBSCRIPTIONS;

use crate::api::ApiError;
use crate::context::GatewayContext;
use crate::writer::Writer;

/// Longest time for a record to come back from the log.
const READ_BACK_WAIT: Duration = Duration::from_secs(10);

/// Writes a record.
pub(super) async fn write(
    writer: &Writer,
    key: String,
    value: &impl Serialize,
) -> Result<(), ApiError> {
    let value = serde_json::to_vec(value).expect("plain data can be written");
    subscribe(writer, key, Some(value)).await
}

/// Removes the record of a key.
pub(super) async fn remove(writer: &Writer, key: String) -> Result<(), ApiError> {
    subscribe(writer, key, None).await
}

async fn subscribe(writer: &Writer, key: String, value: Option<Vec<u8>>) -> Result<(), ApiError> {
    writer
        .subscribe(key, value)
        .await
        .map_err(|e| ApiError::unavailable(format!("the change could not be written: {e}")))
}

/// Waits until this gateway has read all records that are in the log now. An offset says that, and
/// the content does not: another gateway may have overwritten the record already.
pub(super) async fn read_back(gateway: &Arc<GatewayContext>) -> Result<(), ApiError> {
    let log = gateway.log.clone();
    let bounds = move || log.bounds(TopicPartition::new(SUBSCRIPTIONS, 0));
    let unread = |e: &dyn std::fmt::Display| {
        ApiError::unavailable(format!(
            "the change is written, but could not be read back: {e}; ask again"
        ))
    };

    let bounds = tokio::task::spawn_blocking(bounds)
        .await
        .map_err(|e| unread(&e))?
        .map_err(|e| unread(&e))?;
    let read = gateway.subscriptions.read_up_to(bounds.stable_end);
    tokio::time::timeout(READ_BACK_WAIT, read)
        .await
        .map_err(|e| unread(&e))
}
