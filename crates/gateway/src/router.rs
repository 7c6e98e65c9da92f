//! Routes each HTTP request by its path and method, checks access, and builds the response.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use client::check_id;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderValue, RETRY_AFTER,
    SEC_WEBSOCKET_VERSION, UPGRADE, WWW_AUTHENTICATE,
};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};
use tokio::sync::Notify;
use wire::event::Event;

use super::access::{Caller, Denied};
use super::server::ConnectionSlot;
use super::sse::SseBody;
use super::stream::{self, KindFilter};
use super::writer::Writer;
use super::{GatewayContext, manage, metrics, percent, ws};

/// A response body: complete, or an event stream.
pub(crate) type Body = BoxBody<Bytes, Infallible>;

/// An error response: HTTP status, error name for programs, sentence for people.
#[derive(Debug)]
pub(crate) struct ApiError(pub StatusCode, pub &'static str, pub String);

impl ApiError {
    /// HTTP 400.
    pub(crate) fn bad(text: impl Into<String>) -> ApiError {
        ApiError(StatusCode::BAD_REQUEST, "BAD_REQUEST", text.into())
    }

    /// HTTP 404.
    pub(crate) fn not_found(text: impl Into<String>) -> ApiError {
        ApiError(StatusCode::NOT_FOUND, "NOT_FOUND", text.into())
    }

    /// HTTP 503.
    pub(crate) fn unavailable(text: impl Into<String>) -> ApiError {
        ApiError(StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE", text.into())
    }

    fn response(self) -> Response<Body> {
        let ApiError(status, name, text) = self;
        let mut response = json(status, &json!({ "error": name, "message": text }));
        match status {
            StatusCode::UNAUTHORIZED => drop(
                response
                    .headers_mut()
                    .insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")),
            ),
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => {
                drop(
                    response
                        .headers_mut()
                        .insert(RETRY_AFTER, HeaderValue::from_static("1")),
                );
            }
            // Repeat the list in the header `Allow`, for programs.
            StatusCode::METHOD_NOT_ALLOWED => {
                let allow = text
                    .strip_prefix(ANSWERS)
                    .and_then(|list| HeaderValue::from_str(list).ok());
                response
                    .headers_mut()
                    .extend(allow.map(|list| (ALLOW, list)));
            }
            StatusCode::UPGRADE_REQUIRED => response.headers_mut().extend([
                (UPGRADE, HeaderValue::from_static("websocket")),
                (CONNECTION, HeaderValue::from_static("upgrade")),
                (SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13")),
            ]),
            _ => {}
        }

        response
    }
}

/// Start of the error text for HTTP 405. The list of allowed methods follows.
const ANSWERS: &str = "this path answers ";

impl From<Denied> for ApiError {
    fn from(denied: Denied) -> ApiError {
        match denied {
            Denied::Unknown => {
                let text = "give a token: Authorization: Bearer ptk_...; `processor gateway token USER` makes one";
                ApiError(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", text.into())
            }
            Denied::NotYours => ApiError(
                StatusCode::FORBIDDEN,
                "FORBIDDEN",
                "this token is for another user".into(),
            ),
            Denied::Foreign => {
                let text = "the Host must name this machine (127.0.0.1 or localhost), and an Origin must be the same as the Host";
                ApiError(StatusCode::FORBIDDEN, "FOREIGN_ORIGIN", text.into())
            }
            Denied::PassedOn => {
                let text = "a proxy passed this request on, and without tokens whoever reaches the proxy could read everything: start the gateway with \
                            --token-file FILE, or with --open if everybody may";
                ApiError(StatusCode::FORBIDDEN, "PASSED_ON", text.into())
            }
        }
    }
}

/// A JSON response that caches must not store.
pub(crate) fn json(status: StatusCode, value: &Value) -> Response<Body> {
    let mut response = text(status, "application/json", format!("{value}\n"));
    response
        .headers_mut()
        .insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn text(status: StatusCode, kind: &'static str, text: String) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from(text)).boxed());
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(
        "x-content-type-options",
        HeaderValue::from_static("nosniff"),
    );
    response
}

/// Marks a HEAD request: the client wants only the headers of the response.
#[derive(Clone, Copy)]
struct HeadOnly;

/// Answers a request. An error becomes an error response.
pub(crate) async fn answer(
    gateway: Arc<GatewayContext>,
    writer: Writer,
    kill: Arc<Notify>,
    place: Arc<ConnectionSlot>,
    mut request: Request<Incoming>,
) -> Response<Body> {
    // Every path answers GET, and therefore HEAD: the same response, sent without its body. Only a
    // stream must not be started for HEAD.
    if *request.method() == Method::HEAD {
        *request.method_mut() = Method::GET;
        request.extensions_mut().insert(HeadOnly);
    }

    let answered = route(&gateway, &writer, kill, place, request).await;
    answered.unwrap_or_else(|refusal| {
        if matches!(refusal.0, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            gateway.metrics.denied.fetch_add(1, Ordering::Relaxed);
        }

        refusal.response()
    })
}

async fn route(
    gateway: &Arc<GatewayContext>,
    writer: &Writer,
    kill: Arc<Notify>,
    place: Arc<ConnectionSlot>,
    request: Request<Incoming>,
) -> Result<Response<Body>, ApiError> {
    let decoded = segments(request.uri().path())?;
    let parts: Vec<&str> = decoded.iter().map(String::as_str).collect();
    if parts == ["healthz"] {
        only(&request, &[Method::GET])?;
        return Ok(match gateway.feed.is_ready() {
            true => json(StatusCode::OK, &json!({ "status": "ok" })),
            false => json(
                StatusCode::SERVICE_UNAVAILABLE,
                &json!({ "status": "reading the history" }),
            ),
        });
    }

    let caller = gateway.access.caller(request.headers())?;
    if parts == ["metrics"] {
        only(&request, &[Method::GET])?;
        gateway.access.check(caller, None)?;
        let gateway = gateway.clone();
        let counted = tokio::task::spawn_blocking(move || metrics::text(&gateway))
            .await
            .map_err(|e| ApiError::unavailable(e.to_string()))?;
        let counted = counted.map_err(|e| ApiError::unavailable(e.to_string()))?;
        return Ok(text(
            StatusCode::OK,
            "text/plain; version=0.0.4; charset=utf-8",
            counted,
        ));
    }

    let ["v1", "users", user, rest @ ..] = parts.as_slice() else {
        return Err(ApiError::not_found(
            "there is no such path; notifications are at /v1/users/{user}/notifications",
        ));
    };

    // Check the name before the token, so that an invalid name gets its own error. The check does
    // not reveal the existence of users.
    check_id("user", user).map_err(|e| ApiError::bad(e.to_string()))?;
    gateway.access.check(caller, Some(user))?;
    match rest {
        ["notifications"] => {
            only(&request, &[Method::GET])?;
            sse(gateway, caller, user, kill, &place, &request)
        }
        ["notifications", "ws"] => {
            only(&request, &[Method::GET])?;
            websocket(gateway, caller, user, kill, place, request)
        }
        ["portfolio"] => {
            only(&request, &[Method::GET])?;
            portfolio(gateway, user).await
        }
        ["preferences"] => {
            only(&request, &[Method::GET, Method::PUT, Method::DELETE])?;
            manage::preferences(gateway, writer, user, request).await
        }
        ["webhooks"] => {
            only(&request, &[Method::GET])?;
            Ok(manage::webhooks(gateway, user))
        }
        ["webhooks", id] => {
            only(&request, &[Method::GET, Method::PUT, Method::DELETE])?;
            manage::webhook(gateway, writer, user, id, request).await
        }
        ["alerts"] => {
            only(&request, &[Method::GET])?;
            Ok(manage::alerts(gateway, user))
        }
        ["alerts", id] => {
            only(&request, &[Method::GET, Method::PUT, Method::DELETE])?;
            manage::one_alert(gateway, writer, user, id, request).await
        }
        _ => Err(ApiError::not_found(
            "a user has notifications, notifications/ws, portfolio, preferences, webhooks and alerts",
        )),
    }
}

/// The decoded segments of a path. Each path has exactly one spelling. Otherwise `//metrics` or
/// `/%6detrics` would bypass a proxy's rule for `/metrics`.
fn segments(path: &str) -> Result<Vec<String>, ApiError> {
    let elsewhere = || {
        ApiError::not_found(
            "there is no such path; notifications are at /v1/users/{user}/notifications",
        )
    };

    let raw: Vec<&str> = path
        .strip_prefix('/')
        .ok_or_else(elsewhere)?
        .split('/')
        .collect();
    let decoded: Option<Vec<String>> = raw.iter().map(|s| percent::decode(s)).collect();
    let decoded = decoded.ok_or_else(|| {
        ApiError::bad("in the path, a % must be followed by two hex digits; a % itself is %25")
    })?;

    // Only ids may need escapes, and only for characters that a path cannot contain unescaped.
    let is_id = |i: usize| {
        raw.first() == Some(&"v1")
            && (i == 2 || i == 4 && matches!(raw.get(3), Some(&("webhooks" | "alerts"))))
    };

    let other = |(i, s): (usize, &&str)| {
        if is_id(i) {
            percent::needless(s) || matches!(*s, "." | "..")
        } else {
            s.contains('%')
        }
    };

    match raw.iter().enumerate().any(other) {
        true => Err(elsewhere()),
        false => Ok(decoded),
    }
}

fn only(request: &Request<Incoming>, methods: &[Method]) -> Result<(), ApiError> {
    if methods.contains(request.method()) {
        return Ok(());
    }

    let named = |m: &Method| {
        if *m == Method::GET {
            "GET, HEAD".to_string()
        } else {
            m.to_string()
        }
    };

    let list = methods.iter().map(named).collect::<Vec<_>>().join(", ");
    Err(ApiError(
        StatusCode::METHOD_NOT_ALLOWED,
        "METHOD_NOT_ALLOWED",
        format!("{ANSWERS}{list}"),
    ))
}

/// Parameters of a stream: the start position and the kinds of notifications.
fn parameters(
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
    for pair in request
        .uri()
        .query()
        .unwrap_or_default()
        .split('&')
        .filter(|p| !p.is_empty())
    {
        let (name, value) = pair
            .split_once('=')
            .map_or((pair, None), |(name, value)| (name, Some(value)));
        let decoded = |text: &str| {
            percent::decode_query(text).ok_or_else(|| {
                ApiError::bad(format!(
                    "{text}: in the query, a % must be followed by two hex digits"
                ))
            })
        };

        let name = decoded(name)?;
        let value = value.map(decoded).transpose()?;
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
                let kinds: BTreeSet<String> = value
                    .split(',')
                    .map(str::trim)
                    .filter(|k| !k.is_empty())
                    .map(String::from)
                    .collect();
                check_kinds(&kinds)?;
                wanted = Some(kinds);
            }
            _ => {}
        }
    }

    if gateway.feed.followers(user) >= gateway.settings.streams_per_user {
        let text = format!(
            "user {user} has {} streams already",
            gateway.settings.streams_per_user
        );
        return Err(ApiError(
            StatusCode::TOO_MANY_REQUESTS,
            "TOO_MANY_STREAMS",
            text,
        ));
    }

    Ok((after, wanted))
}

/// Refuses an unknown kind, because a misspelt kind would silence a stream.
pub(crate) fn check_kinds(kinds: &BTreeSet<String>) -> Result<(), ApiError> {
    let known = || Event::ALL.iter().map(|e| e.kebab());
    match kinds
        .iter()
        .find(|k| !known().any(|known| known == k.as_str()))
    {
        Some(unknown) => Err(ApiError::bad(format!(
            "there is no kind `{unknown}`; the kinds are {}",
            known().collect::<Vec<_>>().join(", ")
        ))),
        None => Ok(()),
    }
}

fn sse(
    gateway: &Arc<GatewayContext>,
    caller: Caller,
    user: &str,
    kill: Arc<Notify>,
    place: &ConnectionSlot,
    request: &Request<Incoming>,
) -> Result<Response<Body>, ApiError> {
    let (after, wanted) = parameters(gateway, user, request)?;
    let body = if request.extensions().get::<HeadOnly>().is_some() {
        Full::new(Bytes::new()).boxed()
    } else {
        place.streams();
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

fn websocket(
    gateway: &Arc<GatewayContext>,
    caller: Caller,
    user: &str,
    kill: Arc<Notify>,
    place: Arc<ConnectionSlot>,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, ApiError> {
    let accepted = ws::accept(request.headers())
        .map_err(|why| ApiError(StatusCode::UPGRADE_REQUIRED, "UPGRADE_REQUIRED", why.into()))?;
    let (after, wanted) = parameters(gateway, user, &request)?;
    place.streams();
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

async fn portfolio(gateway: &Arc<GatewayContext>, user: &str) -> Result<Response<Body>, ApiError> {
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
        Some(portfolio) => Ok(json(StatusCode::OK, &portfolio)),
        None => Err(ApiError::not_found(format!(
            "user {user} has no portfolio: no event of theirs has been processed yet"
        ))),
    }
}
