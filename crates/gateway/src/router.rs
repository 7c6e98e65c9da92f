//! Routes each HTTP request by its path and method, and checks access. The handlers answer.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use client::check_id;
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};
use tokio::sync::Notify;

use crate::access::Caller;
use crate::api::{ApiError, Body, HeadOnly, Problem, TOO_MANY_REQUESTS, allow, path_segments};
use crate::connection_slot::ConnectionSlot;
use crate::context::GatewayContext;
use crate::handlers::orders::{OrderRequest, is_about_orders};
use crate::handlers::{alerts, notifications, operations, portfolio, preferences, webhooks};
use crate::writer::Writers;

const READ: &[Method] = &[Method::GET];
const READ_AND_CHANGE: &[Method] = &[Method::GET, Method::PUT, Method::DELETE];

/// The surroundings of a request: the gateway and the connection.
pub(crate) struct RequestContext {
    pub gateway: Arc<GatewayContext>,
    pub writers: Writers,
    /// Cuts the connection.
    pub kill: Arc<Notify>,
    pub slot: Arc<ConnectionSlot>,
    /// Address of the other end.
    pub peer: IpAddr,
}

/// Answers a request. An error becomes an error response.
pub(crate) async fn answer(
    context: RequestContext,
    mut request: Request<Incoming>,
) -> Response<Body> {
    // Every path answers GET, and therefore HEAD: the same response, sent without its body. Only a
    // stream must not be started for HEAD.
    if *request.method() == Method::HEAD {
        *request.method_mut() = Method::GET;
        request.extensions_mut().insert(HeadOnly);
    }

    let gateway = context.gateway.clone();
    let about_orders = is_about_orders(request.uri().path());
    let answered = route(context, request).await;
    answered.unwrap_or_else(|refusal| {
        if matches!(refusal.0, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            gateway.metrics.denied.fetch_add(1, Ordering::Relaxed);
        }

        if refusal.1 == TOO_MANY_REQUESTS {
            gateway.metrics.limited.fetch_add(1, Ordering::Relaxed);
        }

        if about_orders {
            Problem::from(refusal).response()
        } else {
            refusal.response()
        }
    })
}

async fn route(
    context: RequestContext,
    request: Request<Incoming>,
) -> Result<Response<Body>, ApiError> {
    let gateway = &context.gateway;
    let decoded = path_segments(request.uri().path())?;
    let parts: Vec<&str> = decoded.iter().map(String::as_str).collect();
    if parts == ["healthz"] {
        allow(&request, READ)?;
        return Ok(operations::health(gateway));
    }

    let limited = ApiError::too_many_requests;
    gateway.limits.take_address(context.peer).map_err(limited)?;
    let caller = gateway.access.caller(request.headers())?;
    match parts.as_slice() {
        ["metrics"] => {
            allow(&request, READ)?;
            gateway.access.check(caller, None)?;
            operations::metrics(gateway).await
        }
        ["v1", "users", user, resource @ ..] => {
            // Check the name before the token, so that an invalid name gets its own error. The
            // check does not reveal the existence of users.
            check_id("user", user).map_err(|e| ApiError::bad(e.to_string()))?;
            gateway.access.check(caller, Some(user))?;
            gateway.limits.take_token(caller, user).map_err(limited)?;
            route_user(context, caller, user, resource, request).await
        }
        _ => Err(ApiError::no_such_path()),
    }
}

/// Routes below `/v1/users/{user}`. The caller may see the user.
async fn route_user(
    context: RequestContext,
    caller: Caller,
    user: &str,
    resource: &[&str],
    request: Request<Incoming>,
) -> Result<Response<Body>, ApiError> {
    let RequestContext {
        gateway,
        writers,
        kill,
        slot,
        peer: _,
    } = context;

    let writer = writers.changes;
    let orders = OrderRequest {
        gateway: &gateway,
        writer: writers.commands.as_ref(),
        user,
    };
    match resource {
        ["orders"] => Ok(orders.list(request).await.unwrap_or_else(Problem::response)),
        ["orders", id] => Ok(orders
            .one(id, request)
            .await
            .unwrap_or_else(Problem::response)),
        ["trades"] => Ok(orders.trades(&request).unwrap_or_else(Problem::response)),
        ["notifications"] => {
            allow(&request, READ)?;
            notifications::sse(&gateway, caller, user, kill, &slot, &request)
        }
        ["notifications", "ws"] => {
            allow(&request, READ)?;
            notifications::websocket(&gateway, caller, user, kill, slot, request)
        }
        ["portfolio"] => {
            allow(&request, READ)?;
            portfolio::show(&gateway, user).await
        }
        ["preferences"] => {
            allow(&request, READ_AND_CHANGE)?;
            preferences::answer(&gateway, &writer, user, request).await
        }
        ["webhooks"] => {
            allow(&request, READ)?;
            Ok(webhooks::list(&gateway, user))
        }
        ["webhooks", id] => {
            allow(&request, READ_AND_CHANGE)?;
            webhooks::answer_one(&gateway, &writer, user, id, request).await
        }
        ["alerts"] => {
            allow(&request, READ)?;
            Ok(alerts::list(&gateway, user))
        }
        ["alerts", id] => {
            allow(&request, READ_AND_CHANGE)?;
            alerts::answer_one(&gateway, &writer, user, id, request).await
        }
        _ => Err(ApiError::not_found(
            "a user has orders, trades, portfolio, notifications, notifications/ws, preferences, webhooks and alerts",
        )),
    }
}
