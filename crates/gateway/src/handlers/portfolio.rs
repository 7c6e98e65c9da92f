//! `/v1/users/{user}/portfolio`: the latest portfolio, at the last reference prices.

use std::sync::Arc;

use hyper::{Response, StatusCode};

use crate::api::{ApiError, Body, json_response};
use crate::context::GatewayContext;

pub(crate) async fn show(
    gateway: &Arc<GatewayContext>,
    user: &str,
) -> Result<Response<Body>, ApiError> {
    let failed = |e: &dyn std::fmt::Display| ApiError::unavailable(e.to_string());
    let _turn = gateway
        .feed
        .readers
        .acquire()
        .await
        .map_err(|e| failed(&e))?;
    let theirs = gateway.clone();
    let name = user.to_string();
    let read = tokio::task::spawn_blocking(move || theirs.portfolios.read(&*theirs.log, &name))
        .await
        .map_err(|e| failed(&e))?;
    match read.map_err(|e| failed(&e))? {
        Some(portfolio) => Ok(json_response(
            StatusCode::OK,
            &gateway.marks.shown(&portfolio),
        )),
        None => Err(ApiError::not_found(format!(
            "user {user} has no portfolio: no event of theirs has been processed yet"
        ))),
    }
}
