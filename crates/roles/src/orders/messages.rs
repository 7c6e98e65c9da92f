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
use engine::context::Ctx;
use engine::role::InvariantViolation;
use wire::command::Kind;

use super::account_tx::AccountTx;
use super::decision::{CommandInHand, CommandRefusal};
use super::mass;

const TEXT: &str = "too many cancels, transfers, repeats or bad commands in a short time";

/// Refusal by the second bucket.
pub(super) fn refusal(wait_ms: i64) -> CommandRefusal {
    CommandRefusal {
        text: Some(TEXT),
        ..CommandRefusal::limited(wait_ms)
    }
}

/// Takes from the second bucket.
pub(super) fn admit(tx: &mut AccountTx<'_, '_>, limit: &Limit) -> Admission {
    let now_ms = tx.ctx.time_ms();
    tx.account.messages.take(limit, now_ms)
}

/// Like [`admit`], but a cancel or mass cancel with an effect is admitted.
pub(super) fn admit_cancel(
    tx: &mut AccountTx<'_, '_>,
    limit: &Limit,
    command: &mut CommandInHand<'_>,
) -> Result<Admission, InvariantViolation> {
    if let Ok(clock) = limit.take(tx.account.messages.clock, now_us(tx.ctx)) {
        tx.account.messages.clock = clock;
        return Ok(Admission::Admitted);
    }

    let c = command.command;
    let ends = match (c.kind, c.orig_order_id.as_deref(), &mut command.named) {
        (Kind::Cancel, Some(id), Some(entry)) if entry.is_open() && !entry.ending => {
            entry.ending = true;
            tx.save_order(id, entry);
            true
        }
        (Kind::MassCancel, ..) => mass::finds(tx.ctx, tx.buffers, tx.user, c.symbol.as_deref())?,
        _ => false,
    };

    Ok(if ends {
        Admission::Admitted
    } else {
        admit(tx, limit)
    })
}

/// Log time in microseconds, the unit of limits.
pub(super) fn now_us(ctx: &Ctx<'_>) -> i64 {
    ctx.time_ms().saturating_mul(1_000)
}
