//! `/v1/users/{user}/notifications` and `.../ws`: streams of notifications.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::{Request, Response, StatusCode};
use tokio::sync::Notify;

use crate::access::Caller;
use crate::api::{ApiError, Body, HeadOnly, check_kinds, query_parameters};
use crate::connection_slot::ConnectionSlot;
use crate::context::GatewayContext;
use crate::sse::SseBody;
use crate::stream::{self, KindFilter};
use crate::ws;

/// Parameters of a stream: the start position and the kinds of notifications.
fn stream_parameters(
    gateway: &GatewayContext,
    user: &str,
    request: &Request<Incoming>,
) -> Result<(Option<u64>, KindFilter), ApiError> {
    let number = |name: &str, text: &str| {
        text.trim().parse::<u64>().map_err(|_| {
            ApiError::bad(format!(
                "{name} `{text}` must be the number of a notification, 0 for all"
            ))
        })
    };

    // The `Last-Event-ID` of a browser that reconnects is newer than the position in the URL.
    let header = request
        .headers()
        .get("last-event-id")
        .and_then(|v| v.to_str().ok())
        .filter(|v| !v.is_empty());
    let mut after = header.map(|v| number("Last-Event-ID", v)).transpose()?;
    let mut wanted = gateway.subscriptions.of(user).preferences.stream.clone();
    for (name, value) in query_parameters(request)? {
        match (name.as_str(), value.as_deref()) {
            ("after" | "resume_from", value) => {
                let given = number(&name, value.unwrap_or_default())?;
                after.get_or_insert(given);
            }
            ("kinds", None) => {
                return Err(ApiError::bad(
                    "kinds: say which, as in kinds=order-filled,order-rejected; or kinds=all",
                ));
            }
            ("kinds", Some("all")) => wanted = None,
            ("kinds", Some(value)) => {
                let listed = value.split(',').map(str::trim).filter(|k| !k.is_empty());
                let kinds: BTreeSet<String> = listed.map(String::from).collect();
                check_kinds(&kinds)?;
                wanted = Some(kinds);
            }
            _ => {}
        }
    }

    check_stream_count(gateway, user)?;
    Ok((after, wanted))
}

fn check_stream_count(gateway: &GatewayContext, user: &str) -> Result<(), ApiError> {
    if gateway.feed.followers(user) >= gateway.settings.streams_per_user {
        let streams = gateway.settings.streams_per_user;
        let text = format!("user {user} has {streams} streams already");
        return Err(ApiError(
            StatusCode::TOO_MANY_REQUESTS,
            "TOO_MANY_STREAMS",
            text,
        ));
    }

    Ok(())
}

/// `/v1/users/{user}/notifications`: Server-Sent Events.
pub(crate) fn sse(
    gateway: &Arc<GatewayContext>,
    caller: Caller,
    user: &str,
    kill: Arc<Notify>,
    place: &ConnectionSlot,
    request: &Request<Incoming>,
) -> Result<Response<Body>, ApiError> {
    let (after, wanted) = stream_parameters(gateway, user, request)?;
    let body = if request.extensions().get::<HeadOnly>().is_some() {
        Full::new(Bytes::new()).boxed()
    } else {
        place.mark_as_stream();
        SseBody::new(
            user,
            stream::start(gateway, caller, user, after, wanted, kill),
        )
        .boxed()
    };

    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));

    // Without this header, proxies collect events until a buffer is full.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    headers.insert("connection", HeaderValue::from_static("close"));
    Ok(response)
}

/// `/v1/users/{user}/notifications/ws`: a WebSocket.
pub(crate) fn websocket(
    gateway: &Arc<GatewayContext>,
    caller: Caller,
    user: &str,
    kill: Arc<Notify>,
    place: Arc<ConnectionSlot>,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, ApiError> {
    let accepted = ws::accept(request.headers())
        .map_err(|why| ApiError(StatusCode::UPGRADE_REQUIRED, "UPGRADE_REQUIRED", why.into()))?;
    let (after, wanted) = stream_parameters(gateway, user, &request)?;
    place.mark_as_stream();
    let outgoing = stream::start(gateway, caller, user, after, wanted, kill.clone());
    let upgrade = hyper::upgrade::on(&mut request);
    let user = user.to_string();
    tokio::spawn(async move {
        ws::run(upgrade, user, outgoing, kill).await;
        drop(place);
    });

    let mut response = Response::new(Full::new(Bytes::new()).boxed());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().extend(accepted);
    Ok(response)
}
