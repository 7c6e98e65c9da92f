//! Rate limits for commands. Orders and replacements take from the first bucket. All other commands
//! on `order-commands` take from the second, looser bucket: cancels, mass cancels, transfers,
//! repeats, and commands that are refused for form, topic or age. The operators' topic has no
//! limit.
//!
//! A cancel with an effect is always admitted, or a limit could keep a user in the market. The
//! cancel still takes tokens that the bucket has, so cancels as a whole are bounded. An empty
//! bucket admits only the first cancel of each open order, and a mass cancel that finds an
//! unclaimed open order. The order record remembers the cancel. Every cancel of an open order ends
//! the order, since the book decides in the order of its commands. So a second cancel before the
//! book's answer would have no effect.
//!
//! A command that is refused here has no effect and leaves its id free. The user gets at most one
//! answer per second. An answer costs an event, a notification, a portfolio and entries of the
//! audit log. A flood of answers would delay all users of the partition, as if no command had been
//! refused. So each command of a flood costs one entry of the audit log. A malformed command also
//! costs a dead letter, as evidence, with an entry of its own. The user's next event carries the
//! count of unanswered commands. The account stores the count in the transaction of the commands,
//! so the count is exact across restarts. Orders and replacements always get an answer each,
//! because a trader must know the fate of every order.

use domain::rate_limit::{Admission, Limit};
use domain::reason::Reason;
use engine::context::Ctx;
use engine::role::InvariantViolation;
use wire::command::{Command, Kind};

use super::account_tx::AccountTx;
use super::commands::CommandRefusal;
use super::mass;
use super::state::OrderRecord;

const TEXT: &str = "too many cancels, transfers, repeats or bad commands in a short time";

/// Takes from the second bucket. Returns the refusal if the bucket is empty, or `None` inside if no
/// answer is due.
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

/// Like [`admit`], for a cancel or mass cancel: a cancel with an effect is admitted.
pub(super) fn admit_cancel(
    desk: &mut AccountTx<'_, '_>,
    limit: &Limit,
    c: &Command<'_>,
    named: Option<&mut OrderRecord<'_>>,
) -> Result<Result<(), Option<CommandRefusal>>, InvariantViolation> {
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

/// Log time in microseconds, the unit of limits.
pub(super) fn now_us(ctx: &Ctx<'_>) -> i64 {
    ctx.time_ms().saturating_mul(1_000)
}
