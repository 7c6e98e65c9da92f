//! `/v1/users/{user}/orders` and `.../trades`: commands of a user and their answers, and what the
//! user's orders and trades are.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use client::check_id;
use domain::reason::Reason;
use hyper::body::Incoming;
use hyper::header::{HeaderValue, LOCATION};
use hyper::{Method, Request, Response, StatusCode};
use rustc_hash::FxHashSet;
use serde_json::{Value, json};

use super::order_parameters::{OrderQuery, WaitWish, idempotency_key};
use crate::api::{ApiError, Body, Problem, allow, body_bytes, json_response};
use crate::context::GatewayContext;
use crate::orders::{CommandAnswer, CommandDraft, CommandRefused, DraftError, Placed, place};
use crate::percent;
use crate::writer::Writer;

const LIST: &[Method] = &[Method::GET, Method::POST, Method::DELETE];
const ONE: &[Method] = &[Method::GET, Method::PATCH, Method::DELETE];
const READ: &[Method] = &[Method::GET];
const WAIT: [&str; 2] = ["wait", "timeout"];

/// A user's request about orders.
pub(crate) struct OrderRequest<'a> {
    pub gateway: &'a Arc<GatewayContext>,
    /// `None` if this gateway takes no orders.
    pub writer: Option<&'a Writer>,
    pub user: &'a str,
}

impl OrderRequest<'_> {
    /// `/v1/users/{user}/orders`.
    pub(crate) async fn list(self, request: Request<Incoming>) -> Result<Response<Body>, Problem> {
        allow(&request, LIST)?;
        match *request.method() {
            Method::POST => self.enter(request).await,
            Method::DELETE => self.cancel_all(request).await,
            _ => {
                let known = ["status", "symbol", "after", "limit"];
                let query = OrderQuery::read(&request, &known)?;
                let (filter, page) = (query.filter()?, query.page()?);
                self.check_index()?;
                let index = &self.gateway.orders;
                let (orders, next) = index.orders(self.user, &filter, page);
                let since_ms = index.since_ms(self.user);
                let shown = json!({ "orders": orders, "next": next, "since_ms": since_ms });
                Ok(json_response(StatusCode::OK, &shown))
            }
        }
    }

    /// `/v1/users/{user}/orders/{id}`.
    pub(crate) async fn one(
        self,
        id: &str,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Problem> {
        allow(&request, ONE)?;
        check_id("order id", id).map_err(|e| ApiError::bad(e.to_string()))?;
        match *request.method() {
            Method::PATCH => self.replace(id, request).await,
            Method::DELETE => self.cancel(id, request).await,
            _ => {
                OrderQuery::read(&request, &[])?;
                self.check_index()?;
                let order = self.gateway.orders.order(self.user, id);
                let order = order.ok_or_else(|| self.no_order(id))?;
                Ok(json_response(
                    StatusCode::OK,
                    &order.with_history(self.user),
                ))
            }
        }
    }

    /// `/v1/users/{user}/trades`.
    pub(crate) fn trades(self, request: &Request<Incoming>) -> Result<Response<Body>, Problem> {
        allow(request, READ)?;
        let query = OrderQuery::read(request, &["symbol", "after", "limit"])?;
        let (symbol, page) = (query.symbol()?, query.page()?);
        self.check_index()?;
        let index = &self.gateway.orders;
        let (trades, next) = index.trades(self.user, symbol.as_deref(), page);
        let shown =
            json!({ "trades": trades, "next": next, "since_ms": index.since_ms(self.user) });
        Ok(json_response(StatusCode::OK, &shown))
    }

    async fn enter(self, request: Request<Incoming>) -> Result<Response<Body>, Problem> {
        let wish = OrderQuery::read(&request, &WAIT)?.wait()?;
        let key = idempotency_key(&request)?;
        let writer = self.check_entry()?;
        let body = body_bytes(request).await?;
        let draft = CommandDraft::new_order(self.user, &body, key.as_deref(), wish.stage)?;
        let id = draft.id.clone();
        let answered = self
            .carry_out(writer, draft, wish, StatusCode::CREATED)
            .await;
        let path = format!(
            "/v1/users/{}/orders/{}",
            percent::encode(self.user),
            percent::encode(&id)
        );
        answered.map(|mut response| {
            let location = HeaderValue::from_str(&path).ok();
            response
                .headers_mut()
                .extend(location.map(|path| (LOCATION, path)));
            response
        })
    }

    async fn replace(
        self,
        id: &str,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Problem> {
        let wish = OrderQuery::read(&request, &WAIT)?.wait()?;
        let key = idempotency_key(&request)?;
        let writer = self.check_entry()?;
        let body = body_bytes(request).await?;
        let draft = CommandDraft::replacement(self.user, id, &body, key.as_deref())?;
        self.carry_out(writer, draft, wish, StatusCode::OK).await
    }

    async fn cancel(self, id: &str, request: Request<Incoming>) -> Result<Response<Body>, Problem> {
        let wish = OrderQuery::read(&request, &WAIT)?.wait()?;
        let key = idempotency_key(&request)?;
        let writer = self.check_entry()?;
        let draft = CommandDraft::cancel(self.user, id, key.as_deref())?;
        self.carry_out(writer, draft, wish, StatusCode::OK).await
    }

    async fn cancel_all(self, request: Request<Incoming>) -> Result<Response<Body>, Problem> {
        let query = OrderQuery::read(&request, &["symbol", "wait", "timeout"])?;
        let (wish, symbol) = (query.wait()?, query.symbol()?);
        let key = idempotency_key(&request)?;
        let writer = self.check_entry()?;
        let draft = CommandDraft::mass_cancel(self.user, symbol.as_deref(), key.as_deref())?;
        self.carry_out(writer, draft, wish, StatusCode::OK).await
    }

    /// Writes a command and turns its answer into a response. `done` is the status of a command
    /// that was carried out.
    async fn carry_out(
        &self,
        writer: &Writer,
        mut draft: CommandDraft,
        wish: WaitWish,
        done: StatusCode,
    ) -> Result<Response<Body>, Problem> {
        draft.wants_answer = wish.answer;
        let subject = Subject {
            command_id: draft.id.clone(),
            open_before: match draft.order_id {
                Some(_) => Vec::new(),
                None => (self.gateway.orders).open_ids(self.user, draft.symbol.as_deref()),
            },
            order_id: draft.order_id.clone(),
        };

        let metrics = &self.gateway.metrics;
        metrics.commands.fetch_add(1, Ordering::Relaxed);
        match place(self.gateway, writer, draft, wish.timeout).await {
            Placed::Answered(CommandAnswer::Done) => Ok(self.shown(done, &subject)),
            Placed::Answered(CommandAnswer::Repeat { refused: None }) => {
                Ok(self.shown(StatusCode::OK, &subject))
            }
            Placed::Answered(CommandAnswer::Repeat {
                refused: Some(reason),
            }) => Err(of_reason(reason, reason.text()).with("reason_code", reason.code())),
            Placed::Answered(CommandAnswer::Refused(refused)) => Err(of_refusal(&refused)),
            Placed::Written => {
                if wish.answer {
                    metrics.commands_unanswered.fetch_add(1, Ordering::Relaxed);
                }

                Ok(self.shown(StatusCode::ACCEPTED, &subject))
            }
            Placed::Unknown => {
                metrics.commands_unknown.fetch_add(1, Ordering::Relaxed);
                let text = "the log did not say whether it has the command; sending the command again with the same id is safe";
                Err(
                    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "OUTCOME_UNKNOWN", text)
                        .with("command_id", subject.command_id),
                )
            }
            Placed::Busy => Err(ApiError::unavailable(
                "too many commands are on their way; nothing was written, send the command again",
            )
            .into()),
        }
    }

    /// The response about a command: the order as it stands, or the orders of a mass cancel.
    fn shown(&self, status: StatusCode, subject: &Subject) -> Response<Body> {
        let order = subject
            .order_id
            .as_deref()
            .and_then(|id| self.gateway.orders.order(self.user, id));
        let mut shown = match (&order, &subject.order_id) {
            (Some(order), _) => order.as_json(self.user),
            (None, Some(id)) => json!({ "order_id": id, "user_id": self.user }),
            (None, None) => {
                // A user may have thousands of open orders: look each up in a set.
                let still: FxHashSet<_> = (self.gateway.orders.open_ids(self.user, None))
                    .into_iter()
                    .collect();
                let (open, ended): (Vec<_>, Vec<_>) =
                    (subject.open_before.iter()).partition(|id| still.contains(*id));
                json!({ "user_id": self.user, "ended": ended, "open": open })
            }
        };

        shown["command_id"] = subject.command_id.as_str().into();
        if status == StatusCode::ACCEPTED {
            shown["text"] = "the command is in the log and will be handled once; sending it again with the same id is safe".into();
        }

        json_response(status, &shown)
    }

    /// Checks that queries can be answered.
    fn check_index(&self) -> Result<(), Problem> {
        let index = &self.gateway.orders;
        if index.is_off() {
            return Err(ApiError::unavailable(
                "this gateway may not read orders; ask another gateway",
            )
            .into());
        }

        if !index.is_ready() {
            return Err(ApiError::unavailable(
                "the history of orders is being read; come back later",
            )
            .into());
        }

        Ok(())
    }

    /// Checks that orders can be taken, and returns the writer of orders.
    fn check_entry(&self) -> Result<&Writer, Problem> {
        let off = || {
            let text = "this gateway takes no orders: it was started with --read-only, or may not write them; nothing was written";
            Problem::new(StatusCode::FORBIDDEN, "ORDER_ENTRY_OFF", text)
        };

        let writer = self.writer.ok_or_else(off)?;
        self.check_index()?;
        Ok(writer)
    }

    fn no_order(&self, id: &str) -> Problem {
        let text = format!(
            "user {} has no order {id} here: its first event has not come yet, or the order is older than since_ms (null: the beginning)",
            self.user
        );
        let since_ms: Value = self.gateway.orders.since_ms(self.user).into();
        Problem::from(ApiError::not_found(text)).with("since_ms", since_ms)
    }
}

/// The subject of a response.
struct Subject {
    command_id: String,
    order_id: Option<String>,
    /// For a mass cancel: the orders that were open before it.
    open_before: Vec<String>,
}

impl From<DraftError> for Problem {
    fn from(e: DraftError) -> Problem {
        match e {
            DraftError::Malformed(text) => {
                let reason = Reason::Malformed;
                Problem::from(ApiError::bad(text.clone()))
                    .with("reason", reason.name())
                    .with("reason_code", reason.code())
                    .with("text", text)
            }
            DraftError::Refused(reason, text) => {
                of_reason(reason, &text).with("reason_code", reason.code())
            }
        }
    }
}

/// The status of a refusal.
fn status_of(reason: Reason) -> StatusCode {
    match reason {
        Reason::RateLimited => StatusCode::TOO_MANY_REQUESTS,
        Reason::KillSwitch | Reason::AccountDisabled | Reason::NotAuthorized => {
            StatusCode::FORBIDDEN
        }
        Reason::DuplicateOrder | Reason::TooLateToCancel | Reason::SystemBusy => {
            StatusCode::CONFLICT
        }
        Reason::UnknownOrder => StatusCode::NOT_FOUND,
        _ => StatusCode::UNPROCESSABLE_ENTITY,
    }
}

fn of_reason(reason: Reason, text: &str) -> Problem {
    Problem::new(status_of(reason), reason.name(), text)
        .with("reason", reason.name())
        .with("text", text)
}

fn of_refusal(refused: &CommandRefused) -> Problem {
    let mut problem = of_reason(refused.reason, &refused.text).with("reason_code", refused.code);
    if let Some(field) = &refused.conflict_field {
        problem = problem.with("conflict_field", field.as_str());
    }

    match refused.retry_after_ms {
        Some(ms) => problem.with("retry_after_ms", ms).retry_after_ms(ms),
        None => problem,
    }
}

/// True if a path has errors as [`Problem`]s.
pub(crate) fn is_about_orders(path: &str) -> bool {
    let mut parts = path.split('/').skip(1);
    (parts.next(), parts.next()) == (Some("v1"), Some("users"))
        && matches!(parts.nth(1), Some("orders" | "trades"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_the_status_that_the_page_says() {
        let of = |status: u16| {
            let fits = |r: &&Reason| status_of(**r).as_u16() == status;
            Reason::ALL
                .iter()
                .filter(fits)
                .map(|r| r.name())
                .collect::<Vec<_>>()
        };
        assert_eq!(of(429), ["RATE_LIMITED"]);
        assert_eq!(
            of(403),
            ["ACCOUNT_DISABLED", "KILL_SWITCH", "NOT_AUTHORIZED"]
        );
        assert_eq!(
            of(409),
            ["DUPLICATE_ORDER", "SYSTEM_BUSY", "TOO_LATE_TO_CANCEL"]
        );
        assert_eq!(of(404), ["UNKNOWN_ORDER"]);
        assert_eq!(of(422).len(), Reason::ALL.len() - 8);
    }

    #[test]
    fn paths_with_problems() {
        for (path, is) in [
            ("/v1/users/501/orders", true),
            ("/v1/users/501/orders/a", true),
            ("/v1/users/501/trades", true),
            ("/v1/users/orders/alerts", false),
            ("/v1/users/501/portfolio", false),
            ("/metrics", false),
            ("", false),
        ] {
            assert_eq!(is_about_orders(path), is, "{path}");
        }
    }
}
