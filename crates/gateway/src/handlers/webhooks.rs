//! `/v1/users/{user}/webhooks`: the endpoints that get a user's notifications.

use std::sync::Arc;

use client::check_id;
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::change;
use crate::api::{ApiError, Body, check_kinds, json_body, json_response};
use crate::context::GatewayContext;
use crate::subscriptions::{Subscriber, Webhook, position_key, webhook_key};
use crate::webhooks::{sign, url_policy};
use crate::writer::Writer;

/// Maximum number of endpoints of a user.
const WEBHOOKS_MAX: usize = 10;

/// Body of a PUT request for a webhook.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WebhookRequest {
    url: String,
    #[serde(default)]
    kinds: Option<std::collections::BTreeSet<String>>,
    #[serde(default)]
    secret: Option<String>,
    #[serde(default)]
    after: Option<u64>,
}

/// `/v1/users/{user}/webhooks`.
pub(crate) fn list(gateway: &Arc<GatewayContext>, user: &str) -> Response<Body> {
    let subscriber = gateway.subscriptions.of(user);
    let all: Vec<Value> = subscriber
        .webhooks
        .keys()
        .filter_map(|id| status(&subscriber, id))
        .collect();
    json_response(StatusCode::OK, &json!({ "webhooks": all }))
}

/// `/v1/users/{user}/webhooks/{id}`.
pub(crate) async fn answer_one(
    gateway: &Arc<GatewayContext>,
    writer: &Writer,
    user: &str,
    id: &str,
    request: Request<Incoming>,
) -> Result<Response<Body>, ApiError> {
    check_id("webhook id", id).map_err(|e| ApiError::bad(e.to_string()))?;
    let method = request.method().clone();
    if method == Method::GET {
        return Ok(json_response(
            StatusCode::OK,
            &status(&gateway.subscriptions.of(user), id).ok_or_else(|| no_webhook(user, id))?,
        ));
    }

    if method == Method::DELETE {
        return gateway
            .turns
            .with_user_lock(user, remove(gateway, writer, user, id))
            .await;
    }

    // Read the body before taking the user's turn, so that a slow sender delays no other request.
    let wish: WebhookRequest = json_body(request).await?;
    gateway
        .turns
        .with_user_lock(user, register(gateway, writer, user, id, wish))
        .await
}

fn no_webhook(user: &str, id: &str) -> ApiError {
    ApiError::not_found(format!("user {user} has no webhook {id}"))
}

async fn remove(
    gateway: &Arc<GatewayContext>,
    writer: &Writer,
    user: &str,
    id: &str,
) -> Result<Response<Body>, ApiError> {
    if !gateway.subscriptions.of(user).webhooks.contains_key(id) {
        return Err(no_webhook(user, id));
    }

    change::remove(writer, webhook_key(user, id)).await?;

    // Only for tidiness: the position of a removed registration is ignored.
    change::remove(writer, position_key(user, id)).await?;
    change::read_back(gateway).await?;
    Ok(json_response(StatusCode::OK, &json!({ "removed": id })))
}

fn check_request(gateway: &GatewayContext, wish: &WebhookRequest) -> Result<(), ApiError> {
    url_policy::parse(&wish.url, gateway.settings.private_webhooks)
        .map_err(|e| ApiError::bad(format!("url {e}")))?;
    if let Some(kinds) = &wish.kinds {
        check_kinds(kinds)?;
    }

    if let Some(secret) = &wish.secret {
        sign::key(secret).map_err(|e| ApiError::bad(format!("secret {e}")))?;
    }

    Ok(())
}

/// The endpoint after the request. Delivery goes on if only the endpoint's settings changed, and
/// begins anew otherwise.
fn new_registration(
    gateway: &GatewayContext,
    user: &str,
    before: Option<&Webhook>,
    wish: WebhookRequest,
    secret: String,
) -> Webhook {
    if let Some(before) = before
        && wish.after.is_none()
    {
        return Webhook {
            url: wish.url,
            secret,
            kinds: wish.kinds,
            revision: before.revision + 1,
            ..before.clone()
        };
    }

    // Read `end` before `latest`. If `latest` is `None`, the feed has no notification of this user
    // before `end`.
    let end = gateway.feed.next_offset(gateway.feed.partition(user));
    let (after, from) = match wish.after.or_else(|| gateway.feed.latest(user)) {
        Some(after) => (after, None),
        None => (0, Some(end)),
    };

    Webhook {
        url: wish.url,
        secret,
        kinds: wish.kinds,
        registration: uuid::Uuid::now_v7().to_string(),
        revision: 1,
        after,
        from,
    }
}

async fn register(
    gateway: &Arc<GatewayContext>,
    writer: &Writer,
    user: &str,
    id: &str,
    wish: WebhookRequest,
) -> Result<Response<Body>, ApiError> {
    let subscriber = gateway.subscriptions.of(user);
    check_request(gateway, &wish)?;
    let before = subscriber.webhooks.get(id);
    if before.is_none() && subscriber.webhooks.len() >= WEBHOOKS_MAX {
        return Err(ApiError(
            StatusCode::CONFLICT,
            "TOO_MANY_WEBHOOKS",
            format!("a user may have {WEBHOOKS_MAX} webhooks; remove one first"),
        ));
    }

    // A new endpoint begins with the next notification. The number of that notification is unknown
    // until the history has been read.
    if !gateway.feed.is_ready() {
        return Err(ApiError::unavailable(
            "the gateway is still reading the history",
        ));
    }

    let made = wish.secret.is_none() && before.is_none();
    let secret = match (&wish.secret, before) {
        (Some(secret), _) => secret.clone(),
        (None, Some(before)) => before.secret.clone(),
        (None, None) => sign::new_secret().map_err(ApiError::unavailable)?,
    };

    let hook = new_registration(gateway, user, before, wish, secret);
    let created = before.is_none();
    let secret = hook.secret.clone();
    change::write(writer, webhook_key(user, id), &hook).await?;
    change::read_back(gateway).await?;

    // Shows the endpoint of this request, also if another gateway has replaced it since.
    let mut subscriber = Subscriber::clone(&gateway.subscriptions.of(user));
    subscriber.webhooks.insert(id.to_string(), hook);
    let mut shown = status(&subscriber, id).expect("just inserted");
    if made {
        shown["secret"] = secret.into();
    }

    Ok(json_response(
        if created {
            StatusCode::CREATED
        } else {
            StatusCode::OK
        },
        &shown,
    ))
}

/// An endpoint as JSON, without its secret.
fn status(subscriber: &Subscriber, id: &str) -> Option<Value> {
    let hook = subscriber.webhooks.get(id)?;
    let position = subscriber.position(id)?;
    Some(json!({
        "id": id,
        "url": hook.url,
        "kinds": hook.kinds,
        "enabled": subscriber.is_enabled(id),
        "after": position.after,
        "failed_attempts": position.attempts,
        "next_attempt_ms": (position.next_ms > 0).then_some(position.next_ms),
        "error": position.error,
    }))
}
