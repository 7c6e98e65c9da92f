//! `/healthz` and `/metrics`: for the people who run the gateway.

use std::sync::Arc;

use hyper::{Response, StatusCode};
use serde_json::json;

use crate::api::{ApiError, Body, json_response, text_response};
use crate::context::GatewayContext;
use crate::metrics;

/// Content type of Prometheus' text format.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// `/healthz`.
pub(crate) fn health(gateway: &GatewayContext) -> Response<Body> {
    if gateway.history_is_read() {
        json_response(StatusCode::OK, &json!({ "status": "ok" }))
    } else {
        json_response(
            StatusCode::SERVICE_UNAVAILABLE,
            &json!({ "status": "reading the history" }),
        )
    }
}

/// `/metrics`.
pub(crate) async fn metrics(gateway: &Arc<GatewayContext>) -> Result<Response<Body>, ApiError> {
    let gateway = gateway.clone();
    let read = move || metrics::text(&gateway.metrics, &gateway.feed, &gateway.orders);
    let text = tokio::task::spawn_blocking(read)
        .await
        .map_err(|e| ApiError::unavailable(e.to_string()))?
        .map_err(|e| ApiError::unavailable(e.to_string()))?;
    Ok(text_response(StatusCode::OK, METRICS_TYPE, text))
}
