//! The parts of a request: path, method, query and body.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::{Method, Request, StatusCode};
use serde::Deserialize;
use wire::event::Event;

use super::error::ApiError;
use crate::percent;

/// Maximum size of a request body, in bytes.
const BODY_MAX: usize = 16 << 10;
/// Longest time for a request body to arrive.
const BODY_WAIT: Duration = Duration::from_secs(10);

/// Marks a HEAD request: the client wants only the headers of the response.
#[derive(Clone, Copy)]
pub(crate) struct HeadOnly;

/// The decoded segments of a path. Each path has exactly one spelling. Otherwise `//metrics` or
/// `/%6detrics` would bypass a proxy's rule for `/metrics`.
pub(crate) fn path_segments(path: &str) -> Result<Vec<String>, ApiError> {
    let raw: Vec<&str> = path
        .strip_prefix('/')
        .ok_or_else(ApiError::no_such_path)?
        .split('/')
        .collect();
    let decoded: Option<Vec<String>> = raw.iter().map(|s| percent::decode(s)).collect();
    let decoded = decoded.ok_or_else(|| {
        ApiError::bad("in the path, a % must be followed by two hex digits; a % itself is %25")
    })?;

    // Only ids may need escapes, and only for characters that a path cannot contain unescaped.
    let is_id = |i: usize| {
        raw.first() == Some(&"v1")
            && (i == 2 || i == 4 && matches!(raw.get(3), Some(&("webhooks" | "alerts" | "orders"))))
    };

    let other = |(i, s): (usize, &&str)| {
        if is_id(i) {
            percent::needless(s) || matches!(*s, "." | "..")
        } else {
            s.contains('%')
        }
    };

    match raw.iter().enumerate().any(other) {
        true => Err(ApiError::no_such_path()),
        false => Ok(decoded),
    }
}

/// Refuses a request whose method the path does not have.
pub(crate) fn allow(request: &Request<Incoming>, methods: &[Method]) -> Result<(), ApiError> {
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
    Err(ApiError::method_not_allowed(&list))
}

/// The decoded parameters of the query, in order. A parameter without `=` has no value.
pub(crate) fn query_parameters(
    request: &Request<Incoming>,
) -> Result<Vec<(String, Option<String>)>, ApiError> {
    let decoded = |text: &str| {
        percent::decode_query(text).ok_or_else(|| {
            ApiError::bad(format!(
                "{text}: in the query, a % must be followed by two hex digits"
            ))
        })
    };

    let query = request.uri().query().unwrap_or_default();
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| match pair.split_once('=') {
            Some((name, value)) => Ok((decoded(name)?, Some(decoded(value)?))),
            None => Ok((decoded(pair)?, None)),
        })
        .collect()
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

/// Reads a JSON body. The content type must be `application/json`. A web page of another site can
/// send this type only after a CORS preflight request. The gateway does not allow preflight
/// requests.
pub(crate) async fn json_body<T: for<'a> Deserialize<'a>>(
    request: Request<Incoming>,
) -> Result<T, ApiError> {
    let bytes = body_bytes(request).await?;
    serde_json::from_slice(&bytes).map_err(|e| ApiError::bad(format!("the body: {e}")))
}

/// The bytes of a body that says to be JSON.
pub(crate) async fn body_bytes(request: Request<Incoming>) -> Result<Bytes, ApiError> {
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

    let limited = Limited::new(request.into_body(), BODY_MAX);
    let read = tokio::time::timeout(BODY_WAIT, limited.collect()).await;
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

    Ok(read.map_err(slow)?.map_err(large)?.to_bytes())
}
