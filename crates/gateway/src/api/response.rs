//! Bodies and complete responses.

use std::convert::Infallible;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use serde_json::Value;

/// A response body: complete, or an event stream.
pub(crate) type Body = BoxBody<Bytes, Infallible>;

/// A JSON response that caches must not store.
pub(crate) fn json_response(status: StatusCode, value: &Value) -> Response<Body> {
    let mut response = text_response(status, "application/json", format!("{value}\n"));
    response
        .headers_mut()
        .insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// A text response of the content type `kind`.
pub(crate) fn text_response(
    status: StatusCode,
    kind: &'static str,
    text: String,
) -> Response<Body> {
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
