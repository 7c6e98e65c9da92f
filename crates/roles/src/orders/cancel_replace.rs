//! Cancels and replaces of orders. The role reserves the hold of a replace here. The book decides
//! if the command is in time.

use domain::account::Position;
use domain::checks::{self, ReplaceRequest, Reservation};
use domain::hold::Terms;
use domain::reason::Reason;
use domain::status::{Side, Status};
use engine::role::InvariantViolation;
use wire::book::BookAction;
use wire::command::Command;

use super::account_tx::AccountTx;
use super::decision::{CommandInHand, Decision, Market, end_reason, save_accepted};
use super::state::OrderRecord;

/// Returns the order that a command names, if the order may still trade: its id, record, terms and
/// symbol.
fn open_order<'a>(
    command: &CommandInHand<'a>,
) -> Result<(&'a str, OrderRecord<'a>, Terms, &'a str), Reason> {
    // A rejected order never was an order.
    let e = command
        .named
        .filter(|e| e.status != Status::Rejected)
        .ok_or(Reason::UnknownOrder)?;
    let order_id = command.command.orig_order_id.as_deref();
    match (order_id, e.terms, e.content.symbol()) {
        (Some(id), Some(terms), Some(symbol)) if e.is_open() => Ok((id, e, terms, symbol)),
        _ => Err(Reason::TooLateToCancel),
    }
}

/// Handles a cancel.
pub(super) fn cancel(tx: &mut AccountTx<'_, '_>, command: &CommandInHand<'_>) -> Decision {
    let (order_id, _, _, symbol) = match open_order(command) {
        Ok(order) => order,
        Err(reason) => return reason.into(),
    };

    let c = command.command;
    save_accepted(tx, command);
    tx.send_to_book(
        symbol,
        order_id,
        BookAction::Cancel {
            cause_id: &c.order_id,
            reason: end_reason(c, Reason::UserRequest),
        },
    );

    Decision::Accepted
}

/// Handles a replace.
pub(super) fn replace(
    tx: &mut AccountTx<'_, '_>,
    command: &CommandInHand<'_>,
    market: &Market,
) -> Result<Decision, InvariantViolation> {
    let (order_id, entry, terms, symbol) = match open_order(command) {
        Ok(order) => order,
        Err(reason) => return Ok(reason.into()),
    };

    let looks = terms.side == Side::Sell || tx.account.shorts > 0;
    let position = if looks {
        tx.load_position(symbol)?
    } else {
        Position::default()
    };

    let facts = market.facts(&tx.account, &position, tx.ctx.time_ms(), None);
    let request = request(command.command, &entry, market);
    let checked = checks::replace(&request, &entry.working(terms), &facts);
    let Reservation {
        terms: new,
        hold: more,
        borrowed_e4,
        ..
    } = match checked {
        Ok(reservation) => reservation,
        Err(reason) => return Ok(reason.into()),
    };

    tx.reserve(terms.side, symbol, position, &more, borrowed_e4)?;

    // The old terms bind the order until the book answers. The hold covers both old and new terms.
    let terms = Terms {
        short_unit_e4: new.short_unit_e4,
        ..terms
    };

    tx.save_order(
        order_id,
        &OrderRecord {
            terms: Some(terms),
            hold: entry.hold.plus(&more),
            pending: entry.pending + 1,
            ..entry
        },
    );

    save_accepted(tx, command);
    let ask = BookAction::Replace {
        cause_id: &command.command.order_id,
        quantity: new.quantity,
        limit_e4: new.limit_e4,
        ceiling_e4: new.ceiling_e4,
    };

    tx.send_to_book(symbol, order_id, ask);
    Ok(Decision::Accepted)
}

fn request(c: &Command<'_>, entry: &OrderRecord<'_>, market: &Market) -> ReplaceRequest {
    ReplaceRequest {
        quantity: c.quantity,
        limit: c.limit_price,
        has_limit: entry.content.limit_price().is_some(),
        stop_e4: entry.content.stop_price(),
        may_rest: entry.stays,
        is_pending: entry.pending > 0,
        margin_anew: market.margin_of_changes,
    }
}
