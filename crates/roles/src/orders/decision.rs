//! Decisions about commands: the facts, the outcome, and the answers that all commands share.

use std::borrow::Cow;

use domain::account::{Account, Position};
use domain::checks::{Bands, Facts};
use domain::instrument::Instrument;
use domain::price::FreshnessLimits;
use domain::reason::Reason;
use domain::status::Status;
use wire::command::{Command, Kind};
use wire::command_fingerprint::CommandFingerprint;
use wire::event::{Event, OrderEvent};

use super::account_tx::{AccountTx, order_event};
use super::state::OrderRecord;
use crate::decoded_table::DecodedTable;

/// A command, with the records that it refers to.
pub(super) struct CommandInHand<'a> {
    pub command: &'a Command<'a>,
    pub content: CommandFingerprint<'a>,
    /// Record of the command's id, if an earlier command had the same id.
    pub first: Option<OrderRecord<'a>>,
    /// The order that a cancel, replace or bust names (FIX OrigClOrdID).
    pub named: Option<OrderRecord<'a>>,
}

impl<'a> CommandInHand<'a> {
    /// A command whose records are not loaded yet.
    pub(super) fn new(command: &'a Command<'a>) -> Self {
        CommandInHand {
            command,
            content: CommandFingerprint(&[]),
            first: None,
            named: None,
        }
    }
}

/// Decision about a command.
pub(super) enum Decision {
    /// The command has had its effect, or the book decides further.
    Accepted,
    /// The command has no effect. The refusal is not written yet.
    Refused(CommandRefusal),
}

/// Refusal of a command.
#[derive(Clone, Copy)]
pub(super) struct CommandRefusal {
    pub reason: Reason,
    pub retry_after_ms: Option<i64>,
    /// The wrong field, if the fault lies in a field.
    pub field: Option<&'static str>,
    /// Text that replaces the reason's own text.
    pub text: Option<&'static str>,
}

impl From<Reason> for CommandRefusal {
    fn from(reason: Reason) -> Self {
        CommandRefusal {
            reason,
            retry_after_ms: None,
            field: None,
            text: None,
        }
    }
}

impl From<Reason> for Decision {
    fn from(reason: Reason) -> Self {
        Decision::Refused(reason.into())
    }
}

impl From<CommandRefusal> for Decision {
    fn from(refusal: CommandRefusal) -> Self {
        Decision::Refused(refusal)
    }
}

impl CommandRefusal {
    pub(super) fn of_field(reason: Reason, field: &'static str) -> Self {
        CommandRefusal {
            field: Some(field),
            ..reason.into()
        }
    }

    /// A refusal by a rate limit.
    pub(super) fn limited(wait_ms: i64) -> Self {
        CommandRefusal {
            retry_after_ms: Some(wait_ms),
            ..Reason::RateLimited.into()
        }
    }

    /// Text for people, one sentence.
    pub(super) fn text(&self, c: &Command<'_>) -> Cow<'static, str> {
        let own = match (self.field, self.text) {
            (Some(field), _) => {
                return format!("{}: its {field} differs", self.reason.text()).into();
            }
            (None, Some(text)) => Some(text),
            (None, None) if c.kind == Kind::Bust => bust_text(self.reason),
            (None, None) => None,
        };

        own.map_or_else(|| c.text(self.reason), Cow::Borrowed)
    }
}

/// Text of a reason, if a bust needs another text than other commands.
fn bust_text(reason: Reason) -> Option<&'static str> {
    Some(match reason {
        Reason::UnknownOrder => "there is no such order",
        Reason::SystemBusy => "the order may still trade; cancel it first",
        Reason::TooLateToCancel => "the trade was taken back before",
        Reason::IncorrectQuantity => {
            "so many of it have not been traded, or were taken back before"
        }
        Reason::InvalidAmount => "no trade has such a price or such a fee",
        Reason::ShortSellNotPermitted => {
            "the shares are not there any more, or are promised to other orders"
        }
        Reason::InsufficientFunds => {
            "the money is not there any more, or is promised to other orders"
        }
        _ => return None,
    })
}

/// Broadcast tables of the market.
pub(super) struct MarketTables {
    pub instruments: DecodedTable<Instrument>,
    pub references: DecodedTable<(i64, i64)>,
}

/// Facts that decide about an order, besides the account.
pub(super) struct Market {
    pub instrument: Option<Instrument>,
    pub reference: Option<(i64, i64)>,
    pub stale: FreshnessLimits,
    pub open_max: u64,
    pub day_ends_ms: i64,
    pub bands: Bands,
    pub margin: bool,
    /// A replaced order holds as much for its short sale as a new order would.
    pub margin_of_changes: bool,
}

impl Market {
    /// All facts about an order. `open_max`: see [`Facts::open_max`].
    pub(super) fn facts<'a>(
        &'a self,
        account: &'a Account,
        position: &'a Position,
        now_ms: i64,
        open_max: Option<u64>,
    ) -> Facts<'a> {
        Facts {
            instrument: self.instrument.as_ref(),
            reference: self.reference,
            account,
            position,
            now_ms,
            stale: self.stale,
            open_max,
            bands: self.bands,
            margin: self.margin,
        }
    }
}

/// Reason for an order's end: `Operator` for an operator's command, else `users`.
pub(super) fn end_reason(c: &Command<'_>, users: Reason) -> Reason {
    if c.operator.is_some() {
        Reason::Operator
    } else {
        users
    }
}

/// Saves the id of a command that was accepted and is no order.
pub(super) fn save_accepted(tx: &mut AccountTx<'_, '_>, command: &CommandInHand<'_>) {
    let entry = OrderRecord::plain(Status::Filled, None, command.content);
    tx.save_order(&command.command.order_id, &entry);
}

/// Writes the refusal of a new command.
pub(super) fn refuse(
    tx: &mut AccountTx<'_, '_>,
    command: &CommandInHand<'_>,
    refusal: CommandRefusal,
) {
    let about_orders = match command.command.kind {
        Kind::Cancel | Kind::Replace | Kind::Bust => true,
        Kind::MassCancel => {
            matches!(refusal.reason, Reason::RateLimited | Reason::UnknownOrder)
        }
        Kind::New | Kind::Deposit | Kind::Withdraw => false,
    };

    let own = OrderRecord::plain(Status::Rejected, Some(refusal.reason), command.content);
    if about_orders {
        reject_change(tx, command, &own, &refusal);
    } else {
        reject(
            tx,
            &command.command.order_id,
            &own,
            &refusal,
            &refusal.text(command.command),
        );
    }

    if tx.buffers.burns_id(refusal.reason) {
        tx.save_order(&command.command.order_id, &own);
    }
}

/// Rejects a command about other orders. The named order does not change.
fn reject_change(
    tx: &mut AccountTx<'_, '_>,
    command: &CommandInHand<'_>,
    own: &OrderRecord<'_>,
    refusal: &CommandRefusal,
) {
    let c = command.command;
    let (order_id, entry) = match (c.orig_order_id.as_deref(), &command.named) {
        (Some(id), Some(named)) => (id, named),
        (Some(id), None) => (id, own),
        (None, _) => (&*c.order_id, own),
    };

    tx.emit(OrderEvent {
        cause_id: Some(&c.order_id),
        reason: Some(refusal.reason),
        text: Some(&refusal.text(c)),
        retry_after_ms: refusal.retry_after_ms,
        conflict_field: refusal.field,
        ..order_event(Event::CancelRejected, tx.user, order_id, entry)
    });
}

/// Rejects a command. `entry` is the record of the command's id. If the id belongs to an earlier
/// order, the order is untouched. Then the event carries the order's status, so that no reader
/// takes the order for ended.
pub(super) fn reject(
    tx: &mut AccountTx<'_, '_>,
    order_id: &str,
    entry: &OrderRecord<'_>,
    refusal: &CommandRefusal,
    text: &str,
) {
    tx.emit(OrderEvent {
        reason: Some(refusal.reason),
        text: Some(text),
        retry_after_ms: refusal.retry_after_ms,
        ..order_event(Event::OrderRejected, tx.user, order_id, entry)
    });
}

/// Answers a command whose id was used before; state does not change. The same command gets the
/// current status, another command is refused. The status of a cancel is the status of the order
/// that the cancel named. The same holds for a replace or bust that was not refused.
pub(super) fn answer_repeat(
    tx: &mut AccountTx<'_, '_>,
    command: &CommandInHand<'_>,
    first: &OrderRecord<'_>,
) {
    let c = command.command;
    let conflict = first.content.conflict(command.content);
    let refused = matches!(c.kind, Kind::Replace | Kind::Bust) && first.status == Status::Rejected;
    let (order_id, entry) = match (&command.named, c.orig_order_id.as_deref(), conflict) {
        (Some(named), Some(id), None) if !refused => (id, named),
        _ => (&*c.order_id, first),
    };

    tx.emit(match conflict {
        None => OrderEvent {
            cause_id: Some(&c.order_id),
            reason: entry.reason.filter(|_| entry.status.is_terminal()),
            text: Some("the same command was handled before; this is how it stands"),
            ..order_event(Event::OrderStatus, tx.user, order_id, entry)
        },
        Some(field) => OrderEvent {
            reason: Some(Reason::DuplicateOrder),
            text: Some(Reason::DuplicateOrder.text()),
            conflict_field: Some(field),
            ..order_event(Event::DuplicateRejected, tx.user, order_id, entry)
        },
    });
}
