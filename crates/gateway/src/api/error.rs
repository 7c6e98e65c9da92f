//! Errors that a caller sees: a status, a name for programs, and a sentence for people.

use hyper::header::{
    ALLOW, CONNECTION, HeaderValue, RETRY_AFTER, SEC_WEBSOCKET_VERSION, UPGRADE, WWW_AUTHENTICATE,
};
use hyper::{Response, StatusCode};
use serde_json::{Value, json};

use super::response::{Body, json_response};
use crate::access::Denied;

/// Error name of a request beyond a rate limit.
pub(crate) const TOO_MANY_REQUESTS: &str = "TOO_MANY_REQUESTS";

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

    /// HTTP 404 for a path outside of the API.
    pub(crate) fn no_such_path() -> ApiError {
        ApiError::not_found(
            "there is no such path; notifications are at /v1/users/{user}/notifications",
        )
    }

    /// HTTP 405. `methods` is the list for the header `Allow`.
    pub(crate) fn method_not_allowed(methods: &str) -> ApiError {
        ApiError(
            StatusCode::METHOD_NOT_ALLOWED,
            "METHOD_NOT_ALLOWED",
            format!("{ANSWERS}{methods}"),
        )
    }

    /// HTTP 503.
    pub(crate) fn unavailable(text: impl Into<String>) -> ApiError {
        ApiError(StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE", text.into())
    }

    /// HTTP 429 for too many requests. The text has the time to wait.
    pub(crate) fn too_many_requests(wait_ms: i64) -> ApiError {
        let text = format!("too many requests; send the next one in {wait_ms} ms");
        ApiError(StatusCode::TOO_MANY_REQUESTS, TOO_MANY_REQUESTS, text)
    }

    pub(crate) fn response(self) -> Response<Body> {
        let body = json!({ "error": self.1, "message": self.2 });
        self.response_with(&body)
    }

    /// The response with another body: the status, and the headers that go with the status.
    pub(super) fn response_with(&self, body: &Value) -> Response<Body> {
        let ApiError(status, _, text) = self;
        let mut response = json_response(*status, body);
        match *status {
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
