//! The price of a command for its sender. Orders and replacements take from the first bucket. All
//! else that `order-commands` carries takes from the second, looser one: cancels, mass cancels,
//! transfers, repeats, and what is refused for its form, its topic or its age. Operators' own topic
//! has no limit.
//!
//! A cancel that ends something always gets in, or a limit could keep somebody in the market. It
//! takes from the bucket what is there, so that cancels as a whole are bounded: what gets in
//! although the bucket is empty is the first such cancel of each open order, and a mass cancel that
//! finds an open order which none is ending. An order notes that it has had its cancel: every
//! cancel of an open order ends it (the book decides in the order of its commands), so a second one
//! before the book's answer could do nothing more.
//!
//! A command that is refused here has done nothing and left its id free. It is told at most once a
//! second: an answer is an event, a notification, a portfolio and entries of the audit log, and a
//! flood of answers would delay all who share the partition, as if nothing had been refused. So the
//! flood costs one entry of the audit log for each of its commands (of a malformed one also the
//! dead letter, which is evidence, and the entry of that), and the user's next event says how many
//! had no answer. The account keeps that number, in the transaction of the commands, so that it is
//! exact across all restarts. Orders and replacements are always answered, one by one: a trader
//! must know of each.

use domain::rate_limit::{Admission, Limit};
use domain::reason::Reason;
use engine::context::Ctx;
use engine::role::Bug;
use wire::command::{Command, Kind};

use super::account_tx::AccountTx;
use super::commands::CommandRefusal;
use super::mass;
use super::state::OrderRecord;

const TEXT: &str = "too many cancels, transfers, repeats or bad commands in a short time";

/// Whether a command that does not take from the first bucket gets in; else its refusal, if that is
/// to be told.
pub(super) fn admit(
    desk: &mut AccountTx<'_, '_>,
    limit: &Limit,
) -> Result<(), Option<CommandRefusal>> {
    let now_ms = desk.ctx.time_ms();
    match desk.account.messages.take(limit, now_ms) {
        Admission::Admitted => Ok(()),
        Admission::Refused(wait) => Err(Some(CommandRefusal {
            retry_after_ms: Some(wait),
            text: Some(TEXT),
            ..Reason::RateLimited.into()
        })),
        Admission::Unanswered => Err(None),
    }
}

/// The same of a cancel or mass cancel: what ends something gets in.
pub(super) fn admit_cancel(
    desk: &mut AccountTx<'_, '_>,
    limit: &Limit,
    c: &Command<'_>,
    named: Option<&mut OrderRecord<'_>>,
) -> Result<Result<(), Option<CommandRefusal>>, Bug> {
    if let Ok(clock) = limit.take(desk.account.messages.clock, now_us(desk.ctx)) {
        desk.account.messages.clock = clock;
        return Ok(Ok(()));
    }

    let ends = match (c.kind, c.orig_order_id.as_deref(), named) {
        (Kind::Cancel, Some(id), Some(entry)) if entry.is_open() && !entry.ending => {
            entry.ending = true;
            desk.note(id, entry);
            true
        }
        (Kind::MassCancel, ..) => {
            mass::finds(desk.ctx, desk.buffers, desk.user, c.symbol.as_deref())?
        }
        _ => false,
    };

    Ok(if ends { Ok(()) } else { admit(desk, limit) })
}

/// Append time in the unit of limits.
pub(super) fn now_us(ctx: &Ctx<'_>) -> i64 {
    ctx.time_ms().saturating_mul(1_000)
}
