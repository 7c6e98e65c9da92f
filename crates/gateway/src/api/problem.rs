//! Errors of the paths for orders, as RFC 9457 has them (`application/problem+json`).

use hyper::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use serde_json::{Map, Value};

use super::error::ApiError;
use super::response::Body;

/// An error response with members for programs.
#[derive(Debug)]
pub(crate) struct Problem {
    error: ApiError,
    members: Box<Map<String, Value>>,
    retry_after_s: Option<u64>,
}

impl From<ApiError> for Problem {
    fn from(error: ApiError) -> Problem {
        Problem {
            error,
            members: Box::default(),
            retry_after_s: None,
        }
    }
}

impl Problem {
    pub(crate) fn new(
        status: StatusCode,
        name: &'static str,
        detail: impl Into<String>,
    ) -> Problem {
        ApiError(status, name, detail.into()).into()
    }

    /// Adds a member.
    pub(crate) fn with(mut self, name: &str, value: impl Into<Value>) -> Problem {
        self.members.insert(name.into(), value.into());
        self
    }

    /// Sets the header `Retry-After`. Part of a second counts as a whole one.
    pub(crate) fn retry_after_ms(mut self, ms: i64) -> Problem {
        self.retry_after_s = Some(u64::try_from(ms).unwrap_or(0).div_ceil(1000).max(1));
        self
    }

    pub(crate) fn response(self) -> Response<Body> {
        let ApiError(status, name, detail) = &self.error;
        let mut shown = Map::new();
        let title = status.canonical_reason().unwrap_or("Error");
        shown.insert("type".into(), "about:blank".into());
        shown.insert("title".into(), title.into());
        shown.insert("status".into(), status.as_u16().into());
        shown.insert("detail".into(), detail.as_str().into());
        shown.insert("error".into(), (*name).into());
        shown.extend(*self.members);

        let mut response = self.error.response_with(&Value::Object(shown));
        let headers = response.headers_mut();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if let Some(seconds) = self.retry_after_s {
            headers.insert(RETRY_AFTER, seconds.into());
        }

        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_the_status_are_kept_and_a_wait_is_rounded_up() {
        for (ms, header) in [(0, "1"), (1, "1"), (1000, "1"), (1001, "2"), (-5, "1")] {
            let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, "RATE_LIMITED", "wait");
            let response = problem.retry_after_ms(ms).response();
            assert_eq!(response.headers()[RETRY_AFTER], header, "{ms}");
        }

        let refused = Problem::from(ApiError::method_not_allowed("GET, HEAD, POST"));
        let response = refused.response();
        assert_eq!(response.headers()["allow"], "GET, HEAD, POST");
        assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
    }
}
