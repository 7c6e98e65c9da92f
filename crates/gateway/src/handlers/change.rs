//! A change of a user's subscriptions. A change is answered after its record has come back from the
//! log. So the next request sees the change, at every gateway that has read as far.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::api::ApiError;
use crate::context::GatewayContext;
use crate::subscriptions::Subscriber;
use crate::writer::Writer;

const SEEN_WAIT: Duration = Duration::from_secs(10);

/// Writes a record and waits until this gateway has read the record. `seen` decides that from the
/// user's subscriptions. After `SEEN_WAIT` the result is an error, although the record is in the
/// log. Another gateway's newer record for the same key can cause the same error.
pub(super) async fn write_and_read_back<T: Serialize>(
    gateway: &Arc<GatewayContext>,
    writer: &Writer,
    user: &str,
    key: String,
    value: Option<T>,
    seen: impl Fn(&Subscriber) -> bool,
) -> Result<(), ApiError> {
    let mut changed = gateway.subscriptions.watch();
    let value = value.map(|v| serde_json::to_vec(&v).expect("plain data can be written"));
    writer
        .subscribe(key, value)
        .await
        .map_err(|e| ApiError::unavailable(format!("it could not be written: {e}")))?;
    let wait = async {
        while !seen(&gateway.subscriptions.of(user)) {
            if changed.changed().await.is_err() {
                return;
            }
        }
    };

    tokio::time::timeout(SEEN_WAIT, wait).await.map_err(|_| {
        ApiError::unavailable("it is written, but has not come back from the log yet; ask again")
    })
}
