//! Waits for the answers to a sent command: shows its events up to the last expected one.

use std::time::{Duration, Instant};

use audit::cursor::{AuditCursor, HeaderUse};
use client::partitions;
use ports::partitioner;
use ports::records::Records;
use ports::topics::TopicPartition;
use ports::{Log, Reader, StartOffset};
use roles::Role;
use serde_json::{Map, Value};
use wire::book::{BookAction, BookCommand, Execution};
use wire::command::{self, Kind};
use wire::topics::{BOOK_COMMANDS, EXECUTIONS, ORDER_EVENTS};

use crate::cli::config::Config;
use crate::cli::exit::Failure;
use crate::cli::output::{self, OutputFormat};
use crate::cli::shown::{self, Fields};
use crate::cli::{decode, read};

/// Longest pause between the acceptance of an order and its immediate trades. After a longer pause,
/// an accepted order rests.
const LULL: Duration = Duration::from_millis(300);

/// The event that ends the wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Awaited {
    /// The end of the order, or the single answer to another command.
    End,
    /// The acceptance: the order may then rest or wait for days.
    Acceptance,
    /// The end of every order that the command cancels.
    EachEnd,
}

impl Awaited {
    /// The awaited event of an encoded command.
    pub(crate) fn of(command: &[u8]) -> Awaited {
        match command::decode(command) {
            Ok(c) if c.kind == Kind::MassCancel => Awaited::EachEnd,
            Ok(c) if c.kind == Kind::New && c.served().is_some_and(|order| order.stays()) => {
                Awaited::Acceptance
            }
            _ => Awaited::End,
        }
    }
}

/// State of the command after one event.
#[derive(Clone, Debug, PartialEq, Eq)]
enum AnswerStep {
    /// More events are expected.
    More,
    /// The order was accepted and may rest.
    Accepted,
    /// One of the cancelled orders has ended.
    OneEnded,
    /// The command was executed.
    Done,
    /// The command was rejected.
    Refused(String),
}

/// Reads the answers to one command.
pub(crate) struct PendingAnswers<'a> {
    config: &'a Config,
    log: &'a dyn Log,
    user: &'a str,
    id: &'a str,
    awaited: Awaited,
    events: Box<dyn Reader>,
    /// Read positions in the book commands, for a mass cancel. At first, the ends before the
    /// command was sent.
    books: Vec<(TopicPartition, u64)>,
    /// Requests to the books by this command so far.
    asked: Asked,
    /// Read position in the user's executions; at first, the end before the command was sent. The
    /// executions tell that a part of a mass cancel is done.
    parts_done: Option<(TopicPartition, u64)>,
    /// Offset of the last of these executions, and their number.
    last_part: (u64, u64),
}

/// Requests of a mass cancel to the books.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Asked {
    /// Orders to cancel.
    orders: u64,
    /// Parts with a successor. At the end of such a part, `orders` asks the book to cancel the mass
    /// cancel itself. The book rejects that request, and the answer starts the next part.
    parts: u64,
}

impl<'a> PendingAnswers<'a> {
    /// Starts to listen. Call before the command is sent.
    pub(crate) fn listen(
        config: &'a Config,
        log: &'a dyn Log,
        user: &'a str,
        id: &'a str,
        command: &[u8],
    ) -> Result<Self, Failure> {
        let partition = partitioner::partition(user.as_bytes(), partitions(log, ORDER_EVENTS)?);

        // Take the end before sending: the events of the command come after it.
        let end = log
            .bounds(TopicPartition::new(ORDER_EVENTS, partition))?
            .stable_end;
        let events = log.reader(ORDER_EVENTS, &[(partition, StartOffset::Offset(end))], true)?;
        let awaited = Awaited::of(command);
        let mut books = Vec::new();
        let mut parts_done = None;
        if awaited == Awaited::EachEnd {
            let at = TopicPartition::new(
                EXECUTIONS,
                partitioner::partition(user.as_bytes(), partitions(log, EXECUTIONS)?),
            );
            parts_done = Some((at, log.bounds(at)?.stable_end));
            for p in 0..partitions(log, BOOK_COMMANDS)? {
                let at = TopicPartition::new(BOOK_COMMANDS, p);
                books.push((at, log.bounds(at)?.stable_end));
            }
        }

        Ok(PendingAnswers {
            config,
            log,
            user,
            id,
            awaited,
            events,
            books,
            asked: Asked::default(),
            parts_done,
            last_part: (0, 0),
        })
    }

    /// Shows the events until no more is expected. Fails if the command was rejected, or at the
    /// timeout.
    pub(crate) fn wait(mut self, wait: Duration) -> Result<(), Failure> {
        let began = Instant::now();
        let mut batch = Records::new();
        let mut last = None;
        let mut quiet_at = None;
        let mut ended = 0_u64;
        loop {
            let left = wait.saturating_sub(began.elapsed());
            batch.clear();
            self.events.poll(
                left.min(Duration::from_millis(100)),
                read::LIMITS,
                &mut batch,
            )?;
            for r in batch.iter() {
                let Some(Value::Object(event)) = r.value.map(decode::value) else {
                    continue;
                };

                let ours = |field: &str| event.get(field).and_then(Value::as_str) == Some(self.id);
                if event.get("user_id").and_then(Value::as_str) != Some(self.user)
                    || !(ours("order_id") || ours("cause_id"))
                {
                    continue;
                }

                show(self.config, &event)?;
                last = event.get("event").map(output::plain);
                match step(&event, ours("order_id"), self.awaited) {
                    AnswerStep::More => quiet_at = quiet_at.map(|_| Instant::now() + LULL),
                    AnswerStep::Accepted => quiet_at = Some(Instant::now() + LULL),
                    AnswerStep::OneEnded => ended += 1,
                    AnswerStep::Done => return Ok(()),
                    AnswerStep::Refused(why) => return Err(Failure::failed(why)),
                }
            }

            if ended > 0 && ended >= self.asked.orders && self.is_through(left, ended)? {
                return Ok(());
            }

            if quiet_at.is_some_and(|at| left.is_zero() || Instant::now() >= at) {
                return Ok(());
            }

            if left.is_zero() {
                return Err(Failure::failed(late(
                    self.id,
                    wait,
                    last.as_deref(),
                    Some((ended, self.asked)).filter(|_| ended > 0),
                )));
            }
        }
    }

    /// True if the command has sent all its requests to the books, and `ended` orders are all of
    /// them. `orders` writes each part in one transaction. After the end of one order of a part,
    /// the whole part is therefore in the log.
    fn is_through(&mut self, patience: Duration, ended: u64) -> Result<bool, Failure> {
        let is_last = self.are_parts_done()?;
        self.count(patience)?;

        // The last part is done, and all its requests are counted.
        Ok(ended >= self.asked.orders
            && (self.asked.parts == 0 || (is_last && self.last_part.1 == self.asked.parts)))
    }

    /// Counts the new requests to the books.
    fn count(&mut self, patience: Duration) -> Result<(), Failure> {
        let began = Instant::now();
        for (at, from) in &mut self.books {
            let end = self.log.bounds(*at)?.end;

            // A broker may show the end of a transaction on one partition later than on another.
            while self.log.bounds(*at)?.stable_end < end && began.elapsed() < patience {
                std::thread::sleep(Duration::from_millis(20));
            }

            let user = self.user;
            let id = self.id;
            let asked = &mut self.asked;
            AuditCursor::range(self.log, *at, *from, end, HeaderUse::Skip)?.each(&mut |r| {
                if let Ok(c) = BookCommand::decode(r.value.unwrap_or_default())
                    && c.user_id == user
                    && matches!(c.ask, BookAction::Cancel { cause_id, .. } if cause_id == id)
                {
                    let count = if c.order_id == id {
                        &mut asked.parts
                    } else {
                        &mut asked.orders
                    };

                    *count += 1;
                }

                true
            })?;

            *from = end;
        }

        Ok(())
    }

    /// True if `orders` has continued after every part that the books have completed so far.
    fn are_parts_done(&mut self) -> Result<bool, Failure> {
        let Some((at, from)) = self.parts_done.filter(|_| self.asked.parts > 0) else {
            return Ok(true);
        };

        let end = self.log.bounds(at)?.stable_end;
        let user = self.user;
        let id = self.id;
        let last = &mut self.last_part;
        AuditCursor::range(self.log, at, from, end, HeaderUse::Skip)?.each(&mut |r| {
            if Execution::decode(r.value.unwrap_or_default())
                .is_ok_and(|x| x.user_id == user && x.order_id == id && x.cause_id == Some(id))
            {
                *last = (r.offset, last.1 + 1);
            }

            true
        })?;

        self.parts_done = Some((at, end));
        let read = self
            .log
            .group_offsets(&self.config.group(Role::Orders), &[at])?;
        Ok(self.last_part.1 > 0
            && read
                .first()
                .copied()
                .flatten()
                .is_some_and(|next| next > self.last_part.0))
    }
}

/// The message for a timeout. `last`: the last event; `ended`: the number of ended orders, for a
/// mass cancel.
fn late(id: &str, wait: Duration, last: Option<&str>, ended: Option<(u64, Asked)>) -> String {
    let ms = wait.as_millis();
    match (last, ended) {
        (None, _) => format!(
            "no event within {ms} ms; the command is in the log and will be handled once: is the role `orders` running (`processor status`)? \
             Sending {id} again is safe"
        ),
        (_, Some((ended, asked))) => format!(
            "{ended} of {}{} orders have ended within {ms} ms, and the others will: `processor tail order-events` shows them, `processor status` \
             whether the role `trading` is behind",
            if asked.parts > 0 { "at least " } else { "" },
            asked.orders
        ),
        (Some(last), None) => format!(
            "no final event within {ms} ms, the last was {last}: the command is under way and is handled once. `processor status` shows whether the \
             role `trading` is behind; sending {id} again is safe, and tells how it stands"
        ),
    }
}

/// Interprets an event. `own`: the event has the command's own id.
fn step(event: &Map<String, Value>, own: bool, awaited: Awaited) -> AnswerStep {
    let text = |field: &str| event.get(field).and_then(Value::as_str).unwrap_or_default();
    let refused = || {
        let parts = [text("event"), text("reason"), text("text")];
        AnswerStep::Refused(
            parts
                .iter()
                .filter(|t| !t.is_empty())
                .copied()
                .collect::<Vec<_>>()
                .join(" "),
        )
    };

    match (text("event"), text("status")) {
        // A cancel that came too late counts, too: the order has ended.
        ("OrderCancelled" | "CancelRejected", _) if awaited == Awaited::EachEnd && !own => {
            AnswerStep::OneEnded
        }
        ("OrderRejected" | "DuplicateRejected" | "CancelRejected", _)
        | ("OrderStatus", "rejected") => refused(),
        ("OrderStatus" | "OrderReplaced" | "TradeBusted", _) => AnswerStep::Done,
        ("OrderCancelled", _) if !own => AnswerStep::Done,
        // A user's first command causes the opening deposit; the deposit does not end the wait.
        ("Deposited" | "Withdrawn", _) => {
            if own {
                AnswerStep::Done
            } else {
                AnswerStep::More
            }
        }
        ("OrderAccepted", _) if awaited == Awaited::Acceptance => AnswerStep::Accepted,
        (_, "filled") => AnswerStep::Done,
        (_, "cancelled" | "expired" | "rejected") => refused(),
        _ => AnswerStep::More,
    }
}

fn show(config: &Config, event: &Map<String, Value>) -> Result<(), Failure> {
    if config.format == OutputFormat::Json {
        return output::json(&Value::Object(event.clone()));
    }

    let mut rest = event.clone();
    let name = rest
        .shift_remove("event")
        .as_ref()
        .map(output::plain)
        .unwrap_or_default();
    output::line(format_args!(
        "{name:<22} {}",
        shown::fields(&as_shown(rest))
    ))
}

fn as_shown(map: Map<String, Value>) -> Fields {
    map.into_iter().map(|(name, v)| (name, v.into())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_awaited_depends_on_the_command() {
        let of = |fields: Value| {
            let mut command = json!({"user_id": "501", "order_id": "1", "symbol": "A", "quantity": 1, "order_type": "buy"});
            for (name, value) in fields.as_object().expect("fields") {
                command[name] = value.clone();
            }

            Awaited::of(command.to_string().as_bytes())
        };

        assert_eq!(of(json!({})), Awaited::End);
        assert_eq!(
            of(json!({"type": "limit", "limit_price": "1"})),
            Awaited::Acceptance
        );
        assert_eq!(
            of(json!({"type": "limit", "limit_price": "1", "tif": "DAY"})),
            Awaited::Acceptance
        );
        assert_eq!(
            of(json!({"type": "limit", "limit_price": "1", "tif": "IOC"})),
            Awaited::End
        );
        assert_eq!(
            of(json!({"type": "limit", "limit_price": "1", "tif": "FOK"})),
            Awaited::End
        );
        assert_eq!(
            of(json!({"type": "stop", "stop_price": "1"})),
            Awaited::Acceptance,
            "it waits for its price"
        );
        assert_eq!(of(json!({"command": "mass_cancel"})), Awaited::EachEnd);
        assert_eq!(
            of(json!({"command": "cancel", "orig_order_id": "2"})),
            Awaited::End
        );
        assert_eq!(Awaited::of(b"{"), Awaited::End);
    }

    #[test]
    fn who_waits_in_vain_is_told_what_is_known() {
        let said = |last, ended| late("1001", Duration::from_secs(3), last, ended);
        assert!(
            said(None, None).contains("is the role `orders` running")
                && said(None, None).contains("1001 again")
        );
        let pending = said(Some("OrderPending"), None);
        assert!(
            pending.contains("the last was OrderPending") && !pending.contains("`orders`"),
            "orders has answered: {pending}"
        );
        let asked = Asked {
            orders: 3,
            parts: 0,
        };

        assert!(said(Some("OrderCancelled"), Some((2, asked))).contains("2 of 3 orders"));
        assert!(
            said(
                Some("OrderCancelled"),
                Some((2, Asked { parts: 1, ..asked }))
            )
            .contains("2 of at least 3 orders")
        );
    }

    #[test]
    fn what_events_say() {
        let says = |event: &str, status: &str, own, awaited| {
            let fields = json!({"event": event, "status": status, "reason": "WHY"});
            step(fields.as_object().expect("fields"), own, awaited)
        };

        let refused = |event: &str| AnswerStep::Refused(format!("{event} WHY"));
        for awaited in [Awaited::End, Awaited::Acceptance] {
            assert_eq!(
                says("OrderFilled", "filled", true, awaited),
                AnswerStep::Done
            );
            assert_eq!(
                says("OrderCancelled", "cancelled", true, awaited),
                refused("OrderCancelled")
            );
            assert_eq!(
                says("OrderRejected", "rejected", true, awaited),
                refused("OrderRejected")
            );
            assert_eq!(says("Deposited", "", false, awaited), AnswerStep::More);
        }

        assert_eq!(
            says("OrderAccepted", "new", true, Awaited::End),
            AnswerStep::More
        );
        assert_eq!(
            says("OrderAccepted", "new", true, Awaited::Acceptance),
            AnswerStep::Accepted
        );
        assert_eq!(
            says("OrderCancelled", "cancelled", false, Awaited::End),
            AnswerStep::Done,
            "another's end was asked for"
        );
        assert_eq!(
            says("TradeBusted", "cancelled", false, Awaited::End),
            AnswerStep::Done
        );
        assert_eq!(
            says("OrderCancelled", "cancelled", false, Awaited::EachEnd),
            AnswerStep::OneEnded
        );
        assert_eq!(
            says("CancelRejected", "filled", false, Awaited::EachEnd),
            AnswerStep::OneEnded
        );
        assert_eq!(
            says("CancelRejected", "rejected", true, Awaited::EachEnd),
            refused("CancelRejected"),
            "nothing was open"
        );
    }
}
