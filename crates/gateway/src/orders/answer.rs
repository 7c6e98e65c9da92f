//! The meaning of an event for a command that waits for its answer.

use domain::reason::Reason;
use domain::status::Status;
use wire::command_fingerprint::CommandFingerprint;
use wire::event::{Event, OrderEvent};

/// How far a new order must be for its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Accepted by the book, or ended.
    Accepted,
    /// Filled, cancelled, expired or rejected.
    Final,
}

/// The answer to a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CommandAnswer {
    /// The order is as far as the client wanted, or the change was made.
    Done,
    /// The same command was handled before.
    Repeat {
        /// The reason, if the first command was refused.
        refused: Option<Reason>,
    },
    Refused(CommandRefused),
}

/// Why a command was refused, as its event says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CommandRefused {
    pub reason: Reason,
    pub code: u16,
    pub text: String,
    pub retry_after_ms: Option<i64>,
    pub conflict_field: Option<String>,
}

/// The content of a new order, as `orders` keeps it for the check of duplicates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OrderContent(pub Vec<u8>);

impl OrderContent {
    /// True if `OrderPending` shows this content. Events of rules before 16 have no type and none
    /// of the fields that go with the type.
    fn is_that_of(&self, e: &OrderEvent<'_>) -> bool {
        let content = CommandFingerprint(&self.0);
        let terms = || {
            e.order_type == content.order_type()
                && e.tif == content.tif()
                && e.stop_price_e4 == content.stop_price()
                && e.expire_at_us == content.expire_at_us()
                && e.post_only == content.post_only()
        };

        e.symbol == content.symbol()
            && e.side == content.side()
            && e.quantity == content.quantity()
            && e.limit_price_e4 == content.limit_price()
            && (e.order_type.is_none() || terms())
    }
}

/// The answer that a command waits for.
#[derive(Clone, Debug)]
pub(crate) enum AwaitedAnswer {
    NewOrder {
        id: String,
        stage: Stage,
        content: OrderContent,
        /// True once `OrderPending` was seen: only from then on do events tell of this command.
        /// Before, they tell of an order that had the id already.
        pending: bool,
    },
    /// A cancel or replacement.
    Change { id: String },
    MassCancel {
        id: String,
        /// True once an event of the command was seen.
        begun: bool,
    },
}

impl AwaitedAnswer {
    /// Id of the command.
    pub(crate) fn id(&self) -> &str {
        match self {
            AwaitedAnswer::NewOrder { id, .. }
            | AwaitedAnswer::Change { id }
            | AwaitedAnswer::MassCancel { id, .. } => id,
        }
    }

    /// Takes in an event of the command's user. Returns the answer if the event is the last one
    /// that the command waits for. A mass cancel never ends here, unless it is refused: its waiter
    /// asks whether the orders have ended.
    pub(crate) fn take(&mut self, e: &OrderEvent<'_>) -> Option<CommandAnswer> {
        let id = self.id();
        let own = e.order_id == Some(id);
        if !own && e.cause_id != Some(id) {
            return None;
        }

        match self {
            AwaitedAnswer::NewOrder { .. } if !own => None,
            AwaitedAnswer::NewOrder {
                stage,
                content,
                pending,
                ..
            } => match e.event {
                Event::OrderStatus if e.cause_id == e.order_id => Some(repeat(e)),
                Event::DuplicateRejected | Event::OrderRejected => Some(refused(e)),
                Event::OrderPending => {
                    *pending |= content.is_that_of(e);
                    None
                }
                _ if !*pending => None,
                _ => {
                    let ended = e.status.is_some_and(|status| status.is_terminal());
                    let told = Event::OrderAccepted == e.event || e.last_quantity.is_some();
                    (ended || (*stage == Stage::Accepted && told)).then_some(CommandAnswer::Done)
                }
            },
            AwaitedAnswer::Change { .. } => match e.event {
                Event::OrderStatus => Some(repeat(e)),
                Event::DuplicateRejected | Event::OrderRejected | Event::CancelRejected => {
                    Some(refused(e))
                }
                Event::OrderCancelled | Event::OrderReplaced => Some(CommandAnswer::Done),
                _ => None,
            },
            AwaitedAnswer::MassCancel { begun, .. } => match e.event {
                // The same command again: its orders have ended, or are ending.
                Event::OrderStatus if own => Some(repeat(e)),
                Event::CancelRejected if own && e.reason == Some(Reason::UnknownOrder) => {
                    Some(CommandAnswer::Done)
                }
                Event::DuplicateRejected | Event::OrderRejected => Some(refused(e)),
                Event::CancelRejected if own => Some(refused(e)),
                _ => {
                    *begun = true;
                    None
                }
            },
        }
    }
}

fn repeat(e: &OrderEvent<'_>) -> CommandAnswer {
    let rejected = e.status == Some(Status::Rejected);
    CommandAnswer::Repeat {
        refused: e.reason.filter(|_| rejected),
    }
}

fn refused(e: &OrderEvent<'_>) -> CommandAnswer {
    let reason = e.reason.unwrap_or(Reason::Malformed);
    let code = if e.event == Event::CancelRejected {
        reason.cancel_code()
    } else {
        reason.code()
    };

    CommandAnswer::Refused(CommandRefused {
        reason,
        code,
        text: e.text.unwrap_or(reason.text()).into(),
        retry_after_ms: e.retry_after_ms,
        conflict_field: e.conflict_field.map(String::from),
    })
}

#[cfg(test)]
mod tests {
    use domain::status::Side;
    use wire::command::{self, OrderType};
    use wire::command_fingerprint;

    use super::*;

    fn event(event: Event, status: Status) -> OrderEvent<'static> {
        OrderEvent {
            user_seq: 1,
            order_id: Some("o-1"),
            cause_id: Some("o-1"),
            symbol: Some("AAPL"),
            side: Some(Side::Buy),
            quantity: Some(10),
            status: Some(status),
            ..OrderEvent::new(event, "501")
        }
    }

    fn order(stage: Stage) -> AwaitedAnswer {
        let value =
            br#"{"user_id":"501","order_id":"o-1","symbol":"AAPL","quantity":10,"order_type":"buy"}"#;
        let mut packed = Vec::new();
        command_fingerprint::put(&command::decode(value).expect("a command"), &mut packed);
        AwaitedAnswer::NewOrder {
            id: "o-1".into(),
            stage,
            content: OrderContent(packed),
            pending: false,
        }
    }

    #[test]
    fn events_before_the_pending_one_are_of_an_earlier_life() {
        let mut waits = order(Stage::Accepted);
        let fill = OrderEvent {
            last_quantity: Some(3),
            ..event(Event::OrderPartiallyFilled, Status::PartiallyFilled)
        };
        assert_eq!(waits.take(&fill), None);
        assert_eq!(
            waits.take(&event(Event::OrderCancelled, Status::Cancelled)),
            None
        );
        assert_eq!(
            waits.take(&event(Event::OrderStatus, Status::Cancelled)),
            Some(CommandAnswer::Repeat { refused: None })
        );
    }

    #[test]
    fn another_command_under_the_id_is_not_taken_for_this_one() {
        let mut waits = order(Stage::Accepted);
        let pending = event(Event::OrderPending, Status::PendingNew);
        let other_quantity = OrderEvent {
            quantity: Some(11),
            ..pending
        };
        let other_type = OrderEvent {
            order_type: Some(OrderType::Stop),
            ..pending
        };
        for other in [other_quantity, other_type] {
            assert_eq!(waits.take(&other), None);
        }

        assert_eq!(waits.take(&event(Event::OrderAccepted, Status::New)), None);
        let duplicate = OrderEvent {
            reason: Some(Reason::DuplicateOrder),
            conflict_field: Some("quantity"),
            ..event(Event::DuplicateRejected, Status::New)
        };
        let Some(CommandAnswer::Refused(r)) = waits.take(&duplicate) else {
            panic!("no refusal");
        };
        assert_eq!(
            (r.reason, r.conflict_field.as_deref()),
            (Reason::DuplicateOrder, Some("quantity"))
        );
    }

    #[test]
    fn stage_says_which_event_is_the_answer() {
        for (stage, at_acceptance) in [(Stage::Accepted, true), (Stage::Final, false)] {
            let mut waits = order(stage);
            let pending = event(Event::OrderPending, Status::PendingNew);
            assert_eq!(waits.take(&pending), None);
            let accepted = waits.take(&event(Event::OrderAccepted, Status::New));
            assert_eq!(accepted.is_some(), at_acceptance);
            let filled = waits.take(&event(Event::OrderFilled, Status::Filled));
            assert_eq!(filled, Some(CommandAnswer::Done));
        }
    }

    #[test]
    fn changes_go_by_the_command_and_not_by_the_order() {
        let mut waits = AwaitedAnswer::Change { id: "c-1".into() };
        let by_another = OrderEvent {
            cause_id: Some("c-2"),
            ..event(Event::OrderCancelled, Status::Cancelled)
        };
        assert_eq!(waits.take(&by_another), None);
        let late = OrderEvent {
            cause_id: Some("c-1"),
            reason: Some(Reason::TooLateToCancel),
            ..event(Event::CancelRejected, Status::Cancelled)
        };
        let Some(CommandAnswer::Refused(r)) = waits.take(&late) else {
            panic!("no refusal");
        };
        assert_eq!((r.reason, r.code), (Reason::TooLateToCancel, 0));
    }

    #[test]
    fn mass_cancel_of_nothing_is_done() {
        let mut waits = AwaitedAnswer::MassCancel {
            id: "m-1".into(),
            begun: false,
        };
        let cancelled = OrderEvent {
            cause_id: Some("m-1"),
            ..event(Event::OrderCancelled, Status::Cancelled)
        };
        assert_eq!(waits.take(&cancelled), None);
        assert!(matches!(
            waits,
            AwaitedAnswer::MassCancel { begun: true, .. }
        ));
        let nothing = OrderEvent {
            order_id: Some("m-1"),
            cause_id: Some("m-1"),
            reason: Some(Reason::UnknownOrder),
            ..OrderEvent::new(Event::CancelRejected, "501")
        };
        assert_eq!(waits.take(&nothing), Some(CommandAnswer::Done));
    }
}
