//! Handlers that read, set and remove a user's preferences, endpoints and alerts. A change is
//! answered after its record has come back from the log. So the next request sees the change, at
//! every gateway that has read as far.

use std::sync::Arc;
use std::time::Duration;

use client::check_id;
use client::decimal::{parse_e4, show_e4};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::{Method, Request, Response, StatusCode};
use ports::topics::TopicPartition;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use wire::topics::REFERENCE_PRICES;

use super::GatewayContext;
use super::router::{self, ApiError, Body, check_kinds};
use super::subscriptions::{Alert, Preferences, Subscriber, Webhook};
use super::subscriptions::{alert_key, fired_key, position_key, preferences_key, webhook_key};
use super::webhooks::{sign, url_policy};
use super::writer::Writer;

/// Maximum number of endpoints of a user.
const WEBHOOKS_MAX: usize = 10;
/// Maximum number of alerts of a user.
const ALERTS_MAX: usize = 50;
const BODY_MAX: usize = 16 << 10;
const BODY_WAIT: Duration = Duration::from_secs(10);
const SEEN_WAIT: Duration = Duration::from_secs(10);

/// Body of a PUT request for a webhook.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wish {
    url: String,
    #[serde(default)]
    kinds: Option<std::collections::BTreeSet<String>>,
    #[serde(default)]
    secret: Option<String>,
    #[serde(default)]
    after: Option<u64>,
}

/// Body of a PUT request for an alert: a symbol, and a price above or below.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AlertWish {
    symbol: String,
    #[serde(default)]
    above: Option<String>,
    #[serde(default)]
    below: Option<String>,
}

/// `/v1/users/{user}/preferences`.
pub(crate) async fn preferences(
    gateway: &Arc<GatewayContext>,
    writer: &Writer,
    user: &str,
    request: Request<Incoming>,
) -> Result<Response<Body>, ApiError> {
    let value = match *request.method() {
        Method::GET => {
            return Ok(router::json(
                StatusCode::OK,
                &shown(&gateway.subscriptions.of(user).preferences),
            ));
        }
        Method::DELETE => None,
        _ => {
            let wish: Preferences = body(request).await?;
            for kinds in [&wish.stream, &wish.webhook].into_iter().flatten() {
                check_kinds(kinds)?;
            }

            Some(wish)
        }
    };

    let wanted = value.clone().unwrap_or_default();
    let set = put(gateway, writer, user, preferences_key(user), value, |s| {
        s.preferences == wanted
    });

    gateway.turns.with_user_lock(user, set).await?;
    Ok(router::json(StatusCode::OK, &shown(&wanted)))
}

/// `/v1/users/{user}/webhooks`.
pub(crate) fn webhooks(gateway: &Arc<GatewayContext>, user: &str) -> Response<Body> {
    let subscriber = gateway.subscriptions.of(user);
    let all: Vec<Value> = subscriber
        .webhooks
        .keys()
        .filter_map(|id| status(&subscriber, id))
        .collect();
    router::json(StatusCode::OK, &json!({ "webhooks": all }))
}

/// `/v1/users/{user}/webhooks/{id}`.
pub(crate) async fn webhook(
    gateway: &Arc<GatewayContext>,
    writer: &Writer,
    user: &str,
    id: &str,
    request: Request<Incoming>,
) -> Result<Response<Body>, ApiError> {
    check_id("webhook id", id).map_err(|e| ApiError::bad(e.to_string()))?;
    let method = request.method().clone();
    if method == Method::GET {
        return Ok(router::json(
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
    let wish: Wish = body(request).await?;
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

    put::<Webhook>(gateway, writer, user, webhook_key(user, id), None, |s| {
        !s.webhooks.contains_key(id)
    })
    .await?;

    // Only for tidiness: the position of a removed registration is ignored.
    put::<Webhook>(gateway, writer, user, position_key(user, id), None, |_| {
        true
    })
    .await?;
    Ok(router::json(StatusCode::OK, &json!({ "removed": id })))
}

async fn register(
    gateway: &Arc<GatewayContext>,
    writer: &Writer,
    user: &str,
    id: &str,
    wish: Wish,
) -> Result<Response<Body>, ApiError> {
    let subscriber = gateway.subscriptions.of(user);
    url_policy::parse(&wish.url, gateway.settings.private_webhooks)
        .map_err(|e| ApiError::bad(format!("url {e}")))?;
    if let Some(kinds) = &wish.kinds {
        check_kinds(kinds)?;
    }

    if let Some(secret) = &wish.secret {
        sign::key(secret).map_err(|e| ApiError::bad(format!("secret {e}")))?;
    }

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

    // Read `end` before `latest`. If `latest` is `None`, the feed has no notification of this user
    // before `end`.
    let end = gateway.feed.next_offset(gateway.feed.partition(user));
    let (after, from) = match wish.after.or_else(|| gateway.feed.latest(user)) {
        Some(after) => (after, None),
        None => (0, Some(end)),
    };

    let made = wish.secret.is_none() && before.is_none();
    let secret = match (wish.secret, before) {
        (Some(secret), _) => secret,
        (None, Some(before)) => before.secret.clone(),
        (None, None) => sign::new_secret().map_err(ApiError::unavailable)?,
    };

    let hook = match before {
        // The registration stays the same, so delivery continues from the current position.
        Some(b) if wish.after.is_none() => Webhook {
            url: wish.url,
            secret,
            kinds: wish.kinds,
            revision: b.revision + 1,
            ..b.clone()
        },
        _ => {
            let registration = uuid::Uuid::now_v7().to_string();
            Webhook {
                url: wish.url,
                secret,
                kinds: wish.kinds,
                registration,
                revision: 1,
                after,
                from,
            }
        }
    };

    let created = before.is_none();
    let secret = hook.secret.clone();
    put(
        gateway,
        writer,
        user,
        webhook_key(user, id),
        Some(hook.clone()),
        |s| s.webhooks.get(id) == Some(&hook),
    )
    .await?;

    let mut shown = status(&gateway.subscriptions.of(user), id).unwrap_or_default();
    if made {
        shown["secret"] = secret.into();
    }

    Ok(router::json(
        if created {
            StatusCode::CREATED
        } else {
            StatusCode::OK
        },
        &shown,
    ))
}

/// `/v1/users/{user}/alerts`.
pub(crate) fn alerts(gateway: &Arc<GatewayContext>, user: &str) -> Response<Body> {
    let subscriber = gateway.subscriptions.of(user);
    let all: Vec<Value> = subscriber
        .alerts
        .keys()
        .map(|id| alert(&subscriber, id))
        .collect();
    router::json(StatusCode::OK, &json!({ "alerts": all }))
}

/// An alert as JSON.
pub(crate) fn alert(subscriber: &Subscriber, id: &str) -> Value {
    let Some(alert) = subscriber.alerts.get(id) else {
        return Value::Null;
    };

    let mut shown = json!({ "id": id, "registration": alert.registration, "symbol": alert.symbol });
    for (name, price) in [("above", alert.above_e4), ("below", alert.below_e4)] {
        if let Some(price) = price {
            shown[name] = show_e4(price).into();
        }
    }

    let fired = subscriber.fired(id);
    shown["fired"] = fired.is_some().into();
    if let Some(fired) = fired {
        (shown["price"], shown["time_us"]) = (show_e4(fired.price_e4).into(), fired.time_us.into());
    }

    shown
}

/// `/v1/users/{user}/alerts/{id}`.
pub(crate) async fn one_alert(
    gateway: &Arc<GatewayContext>,
    writer: &Writer,
    user: &str,
    id: &str,
    request: Request<Incoming>,
) -> Result<Response<Body>, ApiError> {
    check_id("alert id", id).map_err(|e| ApiError::bad(e.to_string()))?;
    let method = request.method().clone();
    if method == Method::PUT {
        let wish: AlertWish = body(request).await?;
        return gateway
            .turns
            .with_user_lock(user, arm(gateway, writer, user, id, wish))
            .await;
    }

    let subscriber = gateway.subscriptions.of(user);
    if !subscriber.alerts.contains_key(id) {
        return Err(ApiError::not_found(format!(
            "user {user} has no alert {id}"
        )));
    }

    if method == Method::GET {
        return Ok(router::json(StatusCode::OK, &alert(&subscriber, id)));
    }

    let disarm = async {
        put::<Alert>(gateway, writer, user, alert_key(user, id), None, |s| {
            !s.alerts.contains_key(id)
        })
        .await?;
        put::<Alert>(gateway, writer, user, fired_key(user, id), None, |_| true).await
    };

    gateway.turns.with_user_lock(user, disarm).await?;
    Ok(router::json(StatusCode::OK, &json!({ "removed": id })))
}

async fn arm(
    gateway: &Arc<GatewayContext>,
    writer: &Writer,
    user: &str,
    id: &str,
    wish: AlertWish,
) -> Result<Response<Body>, ApiError> {
    check_id("symbol", &wish.symbol).map_err(|e| ApiError::bad(e.to_string()))?;
    let price = |name: &str, text: &Option<String>| match text.as_deref().map(parse_e4).transpose()
    {
        Ok(Some(price)) if price <= 0 => {
            Err(ApiError::bad(format!("{name} must be a price above 0")))
        }
        Ok(price) => Ok(price),
        Err(e) => Err(ApiError::bad(format!("{name}: {e}"))),
    };

    let above_e4 = price("above", &wish.above)?;
    let below_e4 = price("below", &wish.below)?;
    if above_e4.is_some() == below_e4.is_some() {
        return Err(ApiError::bad(
            "give either above or below, a price as text such as \"189.25\"",
        ));
    }

    let subscriber = gateway.subscriptions.of(user);
    let known = subscriber.alerts.contains_key(id);
    if !known && subscriber.alerts.len() >= ALERTS_MAX {
        return Err(ApiError(
            StatusCode::CONFLICT,
            "TOO_MANY_ALERTS",
            format!("a user may have {ALERTS_MAX} alerts; remove one first"),
        ));
    }

    let theirs = gateway.clone();
    let end = tokio::task::spawn_blocking(move || {
        theirs.log.bounds(TopicPartition::new(REFERENCE_PRICES, 0))
    })
    .await;
    let end = end
        .map_err(|e| ApiError::unavailable(e.to_string()))?
        .map_err(|e| ApiError::unavailable(e.to_string()))?;
    let registration = uuid::Uuid::now_v7().to_string();
    let new = Alert {
        symbol: wish.symbol,
        above_e4,
        below_e4,
        registration,
        from: end.stable_end,
    };

    put(
        gateway,
        writer,
        user,
        alert_key(user, id),
        Some(new.clone()),
        |s| s.alerts.get(id) == Some(&new),
    )
    .await?;

    let status = if known {
        StatusCode::OK
    } else {
        StatusCode::CREATED
    };

    Ok(router::json(
        status,
        &alert(&gateway.subscriptions.of(user), id),
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

fn shown(preferences: &Preferences) -> Value {
    json!({ "stream": preferences.stream, "webhook": preferences.webhook })
}

/// Writes a record and waits until this gateway has read the record. `seen` decides that from the
/// user's subscriptions. After `SEEN_WAIT` the result is an error, although the record is in the
/// log. Another gateway's newer record for the same key can cause the same error.
async fn put<T: Serialize>(
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

/// Reads a JSON body. The content type must be `application/json`. A web page of another site can
/// send this type only after a CORS preflight request. The gateway does not allow preflight
/// requests.
async fn body<T: for<'a> Deserialize<'a>>(request: Request<Incoming>) -> Result<T, ApiError> {
    let kind = request
        .headers()
        .get(CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .unwrap_or_default();
    if !kind
        .split(';')
        .next()
        .is_some_and(|k| k.trim().eq_ignore_ascii_case("application/json"))
    {
        let text = "the content type must be application/json";
        return Err(ApiError(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "UNSUPPORTED_MEDIA_TYPE",
            text.into(),
        ));
    }

    let read = tokio::time::timeout(
        BODY_WAIT,
        Limited::new(request.into_body(), BODY_MAX).collect(),
    )
    .await;
    let slow = |_| {
        ApiError(
            StatusCode::REQUEST_TIMEOUT,
            "REQUEST_TIMEOUT",
            "the body did not arrive in time".into(),
        )
    };

    let large = |e| {
        ApiError(
            StatusCode::PAYLOAD_TOO_LARGE,
            "PAYLOAD_TOO_LARGE",
            format!("at most {BODY_MAX} bytes: {e}"),
        )
    };

    let bytes = read.map_err(slow)?.map_err(large)?.to_bytes();
    serde_json::from_slice(&bytes).map_err(|e| ApiError::bad(format!("the body: {e}")))
}
