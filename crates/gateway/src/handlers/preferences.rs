//! `/v1/users/{user}/preferences`: the kinds of notifications that a user wants.

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};

use super::change;
use crate::api::{ApiError, Body, check_kinds, json_body, json_response};
use crate::context::GatewayContext;
use crate::subscriptions::{Preferences, preferences_key};
use crate::writer::Writer;

/// `/v1/users/{user}/preferences`.
pub(crate) async fn answer(
    gateway: &Arc<GatewayContext>,
    writer: &Writer,
    user: &str,
    request: Request<Incoming>,
) -> Result<Response<Body>, ApiError> {
    let wanted = match *request.method() {
        Method::GET => {
            let current = &gateway.subscriptions.of(user).preferences;
            return Ok(json_response(StatusCode::OK, &shown(current)));
        }
        Method::DELETE => None,
        _ => {
            let wanted: Preferences = json_body(request).await?;
            for kinds in [&wanted.stream, &wanted.webhook].into_iter().flatten() {
                check_kinds(kinds)?;
            }

            Some(wanted)
        }
    };

    let key = preferences_key(user);
    let set = async {
        match &wanted {
            Some(wanted) => change::write(writer, key, wanted).await?,
            None => change::remove(writer, key).await?,
        }

        change::read_back(gateway).await
    };

    gateway.turns.with_user_lock(user, set).await?;
    Ok(json_response(
        StatusCode::OK,
        &shown(&wanted.unwrap_or_default()),
    ))
}

fn shown(preferences: &Preferences) -> Value {
    json!({ "stream": preferences.stream, "webhook": preferences.webhook })
}
