//! `/v1/users/{user}/alerts`: the price alerts of a user.

use std::sync::Arc;

use client::check_id;
use client::decimal::parse_e4;
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};
use ports::topics::TopicPartition;
use serde::Deserialize;
use serde_json::{Value, json};
use wire::topics::REFERENCE_PRICES;

use super::change;
use crate::api::{ApiError, Body, json_body, json_response};
use crate::context::GatewayContext;
use crate::json::alert;
use crate::subscriptions::{Alert, Subscriber, alert_key, fired_key};
use crate::writer::Writer;

/// Maximum number of alerts of a user.
const ALERTS_MAX: usize = 50;

/// Body of a PUT request for an alert: a symbol, and a price above or below.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AlertRequest {
    symbol: String,
    #[serde(default)]
    above: Option<String>,
    #[serde(default)]
    below: Option<String>,
}

/// `/v1/users/{user}/alerts`.
pub(crate) fn list(gateway: &Arc<GatewayContext>, user: &str) -> Response<Body> {
    let subscriber = gateway.subscriptions.of(user);
    let all: Vec<Value> = subscriber
        .alerts
        .keys()
        .map(|id| alert(&subscriber, id))
        .collect();
    json_response(StatusCode::OK, &json!({ "alerts": all }))
}

/// `/v1/users/{user}/alerts/{id}`.
pub(crate) async fn answer_one(
    gateway: &Arc<GatewayContext>,
    writer: &Writer,
    user: &str,
    id: &str,
    request: Request<Incoming>,
) -> Result<Response<Body>, ApiError> {
    check_id("alert id", id).map_err(|e| ApiError::bad(e.to_string()))?;
    let method = request.method().clone();
    if method == Method::PUT {
        let wish: AlertRequest = json_body(request).await?;
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
        return Ok(json_response(StatusCode::OK, &alert(&subscriber, id)));
    }

    let disarm = async {
        change::remove(writer, alert_key(user, id)).await?;
        change::remove(writer, fired_key(user, id)).await?;
        change::read_back(gateway).await
    };

    gateway.turns.with_user_lock(user, disarm).await?;
    Ok(json_response(StatusCode::OK, &json!({ "removed": id })))
}

/// The prices above and below in units of 10^-4, of which exactly one is there.
fn alert_prices(wish: &AlertRequest) -> Result<(Option<i64>, Option<i64>), ApiError> {
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

    Ok((above_e4, below_e4))
}

async fn arm(
    gateway: &Arc<GatewayContext>,
    writer: &Writer,
    user: &str,
    id: &str,
    wish: AlertRequest,
) -> Result<Response<Body>, ApiError> {
    check_id("symbol", &wish.symbol).map_err(|e| ApiError::bad(e.to_string()))?;
    let (above_e4, below_e4) = alert_prices(&wish)?;
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

    change::write(writer, alert_key(user, id), &new).await?;
    change::read_back(gateway).await?;

    // Shows the alert of this request, also if another gateway has replaced it since.
    let mut subscriber = Subscriber::clone(&gateway.subscriptions.of(user));
    subscriber.alerts.insert(id.to_string(), new);
    let status = if known {
        StatusCode::OK
    } else {
        StatusCode::CREATED
    };

    Ok(json_response(status, &alert(&subscriber, id)))
}
