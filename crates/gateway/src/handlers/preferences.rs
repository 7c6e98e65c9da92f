//! `/v1/users/{user}/preferences`: the kinds of notifications that a user wants.

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};

use super::change::write_and_read_back;
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
    let value = match *request.method() {
        Method::GET => {
            return Ok(json_response(
                StatusCode::OK,
                &shown(&gateway.subscriptions.of(user).preferences),
            ));
        }
        Method::DELETE => None,
        _ => {
            let wish: Preferences = json_body(request).await?;
            for kinds in [&wish.stream, &wish.webhook].into_iter().flatten() {
                check_kinds(kinds)?;
            }

            Some(wish)
        }
    };

    let wanted = value.clone().unwrap_or_default();
    let set = write_and_read_back(gateway, writer, user, preferences_key(user), value, |s| {
        s.preferences == wanted
    });

    gateway.turns.with_user_lock(user, set).await?;
    Ok(json_response(StatusCode::OK, &shown(&wanted)))
}

fn shown(preferences: &Preferences) -> Value {
    json!({ "stream": preferences.stream, "webhook": preferences.webhook })
}
