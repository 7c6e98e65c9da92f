//! Parameters and headers of the paths for orders. An unknown parameter is refused: a misspelt
//! `symbol` would cancel all orders.

use std::collections::BTreeMap;
use std::time::Duration;

use client::check_id;
use hyper::Request;
use hyper::body::Incoming;

use crate::api::{ApiError, query_parameters};
use crate::orders::{OrderFilter, Page, Stage};

/// Header with the id of a command.
const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// Default and maximum time for an answer.
const TIMEOUT: Duration = Duration::from_secs(5);
const TIMEOUT_MAX: Duration = Duration::from_secs(60);
/// Default and maximum number of entries on a page.
const LIMIT: usize = 100;
const LIMIT_MAX: usize = 500;

/// The query of a request, each parameter once.
pub(super) struct OrderQuery(BTreeMap<String, String>);

/// The event that a client waits for, and the longest wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WaitWish {
    /// False: only until the command is in the log.
    pub answer: bool,
    /// How far a new order must be; `None`: as its kind suggests.
    pub stage: Option<Stage>,
    pub timeout: Duration,
}

impl OrderQuery {
    /// Reads the query. All parameters must be in `known`.
    pub(super) fn read(
        request: &Request<Incoming>,
        known: &[&str],
    ) -> Result<OrderQuery, ApiError> {
        OrderQuery::check(query_parameters(request)?, known)
    }

    fn check(given: Vec<(String, Option<String>)>, known: &[&str]) -> Result<OrderQuery, ApiError> {
        let mut query = BTreeMap::new();
        for (name, value) in given {
            if !known.contains(&name.as_str()) {
                let list = match known {
                    [] => "no parameters".to_string(),
                    known => format!("the parameters {}", known.join(", ")),
                };
                return Err(ApiError::bad(format!(
                    "{name}: there is no such parameter; this request has {list}"
                )));
            }

            let value = value.filter(|v| !v.is_empty());
            let value = value.ok_or_else(|| ApiError::bad(format!("{name} has no value")))?;
            if query.insert(name.clone(), value).is_some() {
                return Err(ApiError::bad(format!("{name} is there twice")));
            }
        }

        Ok(OrderQuery(query))
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// `wait` and `timeout`.
    pub(super) fn wait(&self) -> Result<WaitWish, ApiError> {
        let (answer, stage) = match self.get("wait") {
            None => (true, None),
            Some("accepted") => (true, Some(Stage::Accepted)),
            Some("final") => (true, Some(Stage::Final)),
            Some("none") => (false, None),
            Some(other) => {
                return Err(ApiError::bad(format!(
                    "wait `{other}`: must be accepted, final or none"
                )));
            }
        };

        let timeout = self.get("timeout").map_or(Ok(TIMEOUT), |text| {
            duration(text).ok_or_else(|| {
                ApiError::bad(format!(
                    "timeout `{text}`: must be a time such as 500ms or 5s, at most {}s",
                    TIMEOUT_MAX.as_secs()
                ))
            })
        })?;

        Ok(WaitWish {
            answer,
            stage,
            timeout,
        })
    }

    /// `symbol`.
    pub(super) fn symbol(&self) -> Result<Option<String>, ApiError> {
        let Some(symbol) = self.get("symbol") else {
            return Ok(None);
        };

        check_id("symbol", symbol).map_err(|e| ApiError::bad(e.to_string()))?;
        Ok(Some(symbol.to_string()))
    }

    /// `status` and `symbol`.
    pub(super) fn filter(&self) -> Result<OrderFilter, ApiError> {
        let open = match self.get("status") {
            None => None,
            Some("open") => Some(true),
            Some("closed") => Some(false),
            Some(other) => {
                return Err(ApiError::bad(format!(
                    "status `{other}`: must be open or closed"
                )));
            }
        };

        Ok(OrderFilter {
            open,
            symbol: self.symbol()?,
        })
    }

    /// `after` and `limit`.
    pub(super) fn page(&self) -> Result<Page, ApiError> {
        let after = self.get("after").map_or(Ok(0), |text| {
            text.parse().map_err(|_| {
                ApiError::bad(format!(
                    "after `{text}`: must be the `next` of a page before, 0 for the first"
                ))
            })
        })?;

        let limit = self.get("limit").map_or(Ok(LIMIT), |text| {
            let limit = text.parse().ok().filter(|n| (1..=LIMIT_MAX).contains(n));
            limit.ok_or_else(|| {
                ApiError::bad(format!(
                    "limit `{text}`: must be a number of 1 to {LIMIT_MAX}"
                ))
            })
        })?;

        Ok(Page { after, limit })
    }
}

/// The id of a command from the header `Idempotency-Key`, as text or in quotes.
pub(super) fn idempotency_key(request: &Request<Incoming>) -> Result<Option<String>, ApiError> {
    let mut given = request.headers().get_all(IDEMPOTENCY_KEY).iter();
    let Some(first) = given.next() else {
        return Ok(None);
    };

    if given.next().is_some() {
        return Err(ApiError::bad("Idempotency-Key is there twice"));
    }

    let text = first.to_str().unwrap_or_default().trim();
    let quoted = text.strip_prefix('"').and_then(|t| t.strip_suffix('"'));
    let key = quoted.unwrap_or(text);
    check_id("Idempotency-Key", key).map_err(|e| ApiError::bad(e.to_string()))?;
    Ok(Some(key.to_string()))
}

/// Reads `500ms` or `5s`.
fn duration(text: &str) -> Option<Duration> {
    let (digits, unit_ms) = match text.strip_suffix("ms") {
        Some(digits) => (digits, 1),
        None => (text.strip_suffix('s')?, 1000),
    };

    // `parse` alone would take a sign.
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }

    let ms = digits.parse::<u64>().ok()?.checked_mul(unit_ms)?;
    let time = Duration::from_millis(ms);
    (Duration::from_millis(1)..=TIMEOUT_MAX)
        .contains(&time)
        .then_some(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(pairs: &[(&str, &str)]) -> Result<OrderQuery, ApiError> {
        let given = pairs
            .iter()
            .map(|(n, v)| (n.to_string(), Some(v.to_string())));
        let known = ["wait", "timeout", "symbol", "status", "after", "limit"];
        OrderQuery::check(given.collect(), &known)
    }

    #[test]
    fn times_have_a_unit_and_a_bound() {
        for (text, ms) in [("1ms", 1), ("500ms", 500), ("5s", 5_000), ("60s", 60_000)] {
            assert_eq!(duration(text), Some(Duration::from_millis(ms)), "{text}");
        }

        for bad in [
            "",
            "5",
            "s",
            "ms",
            "0s",
            "61s",
            "+5s",
            "-1s",
            "1.5s",
            "5 s",
            "60001ms",
            "99999999999999999999s",
            "18446744073709551615s",
        ] {
            assert_eq!(duration(bad), None, "{bad}");
        }
    }

    #[test]
    fn misspelt_doubled_or_empty_parameter_is_refused() {
        for bad in [
            &[("symbl", "AAPL")][..],
            &[("symbol", "AAPL"), ("symbol", "MSFT")],
            &[("symbol", "")],
        ] {
            assert!(query(bad).is_err(), "{bad:?}");
        }

        let wrong = |name: &'static str, value: &'static str| {
            let q = query(&[(name, value)]).expect("known");
            [q.wait().is_err(), q.filter().is_err(), q.page().is_err()].contains(&true)
        };
        for (name, value) in [
            ("wait", "forever"),
            ("timeout", "1h"),
            ("symbol", "A/B"),
            ("status", "new"),
            ("after", "-1"),
            ("limit", "0"),
            ("limit", "501"),
        ] {
            assert!(wrong(name, value), "{name}={value}");
        }
    }

    #[test]
    fn defaults() {
        let q = query(&[]).expect("empty");
        let wish = q.wait().expect("good");
        assert_eq!(
            (wish.answer, wish.stage, wish.timeout),
            (true, None, TIMEOUT)
        );
        let page = q.page().expect("good");
        assert_eq!((page.after, page.limit), (0, LIMIT));
        assert_eq!(q.filter().expect("good").open, None);
    }
}
