//! Index of open orders for mass cancels, and mass cancels, which end orders in parts (FIX
//! OrderMassCancelRequest).
//!
//! A user may have any number of open orders, but a transaction needs a bound. So a mass cancel
//! asks the book to end a part of the orders. A row stores the place where the part stopped. Behind
//! a part, the mass cancel asks the book to cancel the mass cancel itself. The mass cancel is no
//! order, so the book refuses. The refusal starts the next part, and arrives after the book has
//! ended the part before. No order, deadline or other topic is needed for this signal, and new
//! orders of the user cause no delay.
//!
//! Each order has the `user_seq` of its first event, so later orders are left alone. An order that
//! the book was asked to cancel moves from the rows `n` to the rows `x`. So all mass cancels
//! together ask once per order, and none examines an order twice.

use domain::reason::Reason;
use domain::status::Status;
use engine::context::Ctx;
use engine::role::InvariantViolation;
use faults::crash::{self, Point};
use ports::varint::{put, put_bytes, take_bytes, take_u64};
use wire::book::BookAction;

use super::account_tx::AccountTx;
use super::cancel_replace::end_reason;
use super::decision::{CommandInHand, Decision, save_accepted};
use super::state::{self, OrderRecord, OrdersBuffers};
use crate::ingress::violation;

/// Version of a row without a number: [`OpenOrderRow::Before`], or [`OpenOrderRow::Ending`] with
/// one more byte.
const PLAIN: u8 = 1;
const ENDING: u8 = 1;
/// Version of a row with an event number.
const NUMBERED: u8 = 2;

/// User, symbol and id of an order.
type Named<'a> = (&'a str, &'a str, &'a str);

/// Value of an open order's row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OpenOrderRow {
    /// The order is older than event numbers in rows.
    Before,
    /// The same, and a mass cancel of the order is on its way to the book. Only older versions
    /// wrote this value.
    Ending,
    /// `user_seq` of the order's first event.
    Since(u64),
}

impl OpenOrderRow {
    pub(super) fn read(value: &[u8]) -> Option<OpenOrderRow> {
        match value {
            [PLAIN] => Some(OpenOrderRow::Before),
            [PLAIN, ENDING] => Some(OpenOrderRow::Ending),
            [NUMBERED, number @ ..] => {
                let mut rest = number;
                take_u64(&mut rest)
                    .filter(|_| rest.is_empty())
                    .map(OpenOrderRow::Since)
            }
            _ => None,
        }
    }

    /// `user_seq` of the order's first event; 0 for an order from before numbers.
    pub(super) fn since(self) -> u64 {
        if let OpenOrderRow::Since(number) = self {
            number
        } else {
            0
        }
    }
}

/// A mass cancel that is not complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct UnderWay {
    /// Restriction to one symbol; `None` means all.
    pub symbol: Option<String>,
    /// Reason for the ends of the orders.
    pub reason: Reason,
    /// Last `user_seq` that counts: younger orders are left alone.
    pub since: u64,
    /// Symbol and id of the last order that was examined.
    pub after: (String, String),
}

impl UnderWay {
    fn put(&self, out: &mut Vec<u8>) {
        put(out, self.reason as u128);
        put(out, self.since);

        // A symbol is never empty, so empty means none.
        let symbol = self.symbol.as_deref().unwrap_or_default();
        [symbol, &self.after.0, &self.after.1]
            .into_iter()
            .for_each(|text| put_bytes(out, text.as_bytes()));
    }

    pub(super) fn read(bytes: &[u8]) -> Option<UnderWay> {
        let text = |r: &mut &[u8]| String::from_utf8(take_bytes(r)?.to_vec()).ok();
        state::whole(bytes, |r| {
            let reason = Reason::from_number(take_u64(r)?)?;
            let since = take_u64(r)?;
            let symbol = Some(text(r)?).filter(|s| !s.is_empty());
            Some(UnderWay {
                symbol,
                reason,
                since,
                after: (text(r)?, text(r)?),
            })
        })
    }
}

fn row_key<'b>(
    b: &'b mut OrdersBuffers,
    letter: u8,
    (user, symbol, order_id): Named<'_>,
) -> &'b [u8] {
    b.key(letter, user, Some(symbol));
    b.key.push(0);
    b.key.extend_from_slice(order_id.as_bytes());
    &b.key
}

/// Adds the row of an order that may stay open.
pub(super) fn opened(ctx: &mut Ctx<'_>, b: &mut OrdersBuffers, order: Named<'_>, since: u64) {
    b.value.clear();
    b.value
        .push(if b.cancel_part > 0 { NUMBERED } else { PLAIN });
    if b.cancel_part > 0 {
        put(&mut b.value, since);
    }

    row_key(b, b'n', order);
    ctx.put(&b.key, &b.value);
}

/// Deletes the row of an order that is not open any more.
pub(super) fn ended(ctx: &mut Ctx<'_>, b: &mut OrdersBuffers, order: Named<'_>) {
    if ctx.get(row_key(b, b'n', order)).is_none() {
        row_key(b, b'x', order);
    }

    ctx.delete(&b.key);
}

/// Claims an order for a mass cancel that is on its way to the book. A second mass cancel before the
/// book's answer skips the order.
fn claim(ctx: &mut Ctx<'_>, b: &mut OrdersBuffers, order: Named<'_>) {
    row_key(b, b'n', order);
    if b.cancel_part == 0 {
        ctx.put(&b.key, &[PLAIN, ENDING]);
        return;
    }

    ctx.delete(&b.key);
    row_key(b, b'x', order);
    ctx.put(&b.key, &[PLAIN]);
}

/// Next part of a user's open orders.
#[derive(Default)]
struct MassCancelPart {
    /// Symbols and ids of the orders to cancel.
    orders: Vec<(String, String)>,
    /// Last order that was examined, if more orders follow.
    stopped_at: Option<(String, String)>,
}

/// Key prefix of a user's open orders, of one symbol or of all.
fn prefix<'b>(b: &'b mut OrdersBuffers, user: &str, symbol: Option<&str>) -> &'b [u8] {
    b.key(b'n', user, Some(symbol.unwrap_or_default()));
    if symbol.is_some() {
        b.key.push(0);
    }

    &b.key
}

/// Examines the next part of a user's open orders, without those of an earlier mass cancel.
fn find(
    ctx: &mut Ctx<'_>,
    b: &mut OrdersBuffers,
    user: &str,
    symbol: Option<&str>,
    since: u64,
    after: Option<&(String, String)>,
) -> Result<MassCancelPart, InvariantViolation> {
    let most = if b.cancel_part > 0 {
        b.cancel_part
    } else {
        usize::MAX
    };

    let begin = after.map(|(symbol, order_id)| row_key(b, b'n', (user, symbol, order_id)).to_vec());
    prefix(b, user, symbol);
    let ids = user.len() + 2;
    let mut part = MassCancelPart::default();
    let mut looked = 0;
    let mut last = None;
    let mut readable = true;
    ctx.scan_after(&b.key, begin.as_deref(), &mut |key, value| {
        let order = std::str::from_utf8(&key[ids..])
            .ok()
            .and_then(|t| t.split_once('\0'));
        let (Some(row), Some((symbol, order_id))) = (OpenOrderRow::read(value), order) else {
            readable = false;
            return false;
        };

        // Only older versions left such rows, and no more are written.
        if row == OpenOrderRow::Ending {
            return true;
        }

        if looked == most {
            part.stopped_at = last.take();
            return false;
        }

        looked += 1;
        last = Some((symbol.to_string(), order_id.to_string()));
        if row.since() <= since {
            part.orders.extend(last.clone());
        }

        true
    });

    if readable {
        Ok(part)
    } else {
        Err(state::unreadable(ctx, "an open order"))
    }
}

/// True if an open order exists that no mass cancel has claimed.
pub(super) fn finds(
    ctx: &mut Ctx<'_>,
    b: &mut OrdersBuffers,
    user: &str,
    symbol: Option<&str>,
) -> Result<bool, InvariantViolation> {
    let mut found = false;
    let mut readable = true;
    ctx.scan_after(prefix(b, user, symbol), None, &mut |_, value| {
        let row = OpenOrderRow::read(value);
        (readable, found) = (
            row.is_some(),
            row.is_some_and(|row| row != OpenOrderRow::Ending),
        );
        readable && !found
    });

    if readable {
        Ok(found)
    } else {
        Err(state::unreadable(ctx, "an open order"))
    }
}

/// Asks the book to end a part, and to answer afterwards.
fn cancel_part(tx: &mut AccountTx<'_, '_>, cause_id: &str, reason: Reason, part: &MassCancelPart) {
    for (symbol, order_id) in &part.orders {
        claim(tx.ctx, tx.buffers, (tx.user, symbol, order_id));
        tx.send_to_book(symbol, order_id, BookAction::Cancel { cause_id, reason });
    }

    if let Some((symbol, _)) = &part.stopped_at {
        tx.send_to_book(symbol, cause_id, BookAction::Cancel { cause_id, reason });
    }
}

fn save_under_way(tx: &mut AccountTx<'_, '_>, cause_id: &str, way: &UnderWay) {
    way.put(tx.buffers.fresh());
    tx.buffers.key(b'c', tx.user, Some(cause_id));
    tx.ctx.put(&tx.buffers.key, &tx.buffers.value);
}

/// Handles the command: takes the first part.
pub(super) fn begin(
    tx: &mut AccountTx<'_, '_>,
    command: &CommandInHand<'_>,
) -> Result<Decision, InvariantViolation> {
    let c = command.command;
    let since = tx.account.user_seq;
    let symbol = c.symbol.as_deref();
    let mut part = find(tx.ctx, tx.buffers, tx.user, symbol, since, None)?;
    if part.orders.is_empty() {
        return Ok(Reason::UnknownOrder.into());
    }

    let reason = end_reason(c, Reason::MassCancel);
    cancel_part(tx, &c.order_id, reason, &part);
    let Some(after) = part.stopped_at.take() else {
        save_accepted(tx, command);
        return Ok(Decision::Accepted);
    };

    // Remember the id until the mass cancel is complete. The book's answers must not meet a newer
    // mass cancel with the same id.
    tx.save_order(
        &c.order_id,
        &OrderRecord {
            pending: 1,
            ..OrderRecord::plain(Status::Filled, None, command.content)
        },
    );

    let way = UnderWay {
        symbol: symbol.map(Into::into),
        reason,
        since,
        after,
    };

    save_under_way(tx, &c.order_id, &way);
    crash::point(Point::MassPart);
    Ok(Decision::Accepted)
}

/// Takes the next part, after the book has ended the part before.
pub(super) fn go_on(
    ctx: &mut Ctx<'_>,
    b: &mut OrdersBuffers,
    user: &str,
    cause_id: &str,
) -> Result<(), InvariantViolation> {
    let way = state::load(
        ctx,
        b.key(b'c', user, Some(cause_id)),
        "a mass cancel",
        UnderWay::read,
    )?;
    let Some(mut way) = way else {
        return Err(violation(
            ctx,
            format_args!(
                "the book answers mass cancel {cause_id} of user {user}, which is not under way"
            ),
        ));
    };

    crash::point(Point::MassGoesOn);
    let mut tx = AccountTx::load(ctx, b, user)?;
    let mut part = find(
        tx.ctx,
        tx.buffers,
        user,
        way.symbol.as_deref(),
        way.since,
        Some(&way.after),
    )?;

    cancel_part(&mut tx, cause_id, way.reason, &part);
    match part.stopped_at.take() {
        Some(after) => {
            way.after = after;
            save_under_way(&mut tx, cause_id, &way);
        }
        None => {
            tx.buffers.key(b'c', user, Some(cause_id));
            tx.ctx.delete(&tx.buffers.key);
            tx.buffers.has_ended(user, cause_id);
        }
    }

    tx.save();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Golden bytes: later versions must read the bytes of this version.
    #[test]
    fn golden_bytes() {
        let way = UnderWay {
            symbol: Some("A".into()),
            reason: Reason::MassCancel,
            since: 300,
            after: ("A".into(), "17".into()),
        };

        let mut out = vec![1];
        way.put(&mut out);
        assert_eq!(
            out,
            [
                1,
                Reason::MassCancel as u8,
                0xac,
                2,
                1,
                b'A',
                1,
                b'A',
                2,
                b'1',
                b'7'
            ]
        );

        assert_eq!(UnderWay::read(&out), Some(way.clone()));
        let all = UnderWay {
            symbol: None,
            ..way
        };

        let mut out = vec![1];
        all.put(&mut out);
        assert_eq!(UnderWay::read(&out), Some(all));
        assert_eq!(
            (UnderWay::read(&out[..4]), UnderWay::read(&[2])),
            (None, None)
        );
    }

    #[test]
    fn rows_of_every_version_are_read() {
        assert_eq!(
            [&[1][..], &[1, 1], &[2, 0xac, 2]].map(OpenOrderRow::read),
            [
                Some(OpenOrderRow::Before),
                Some(OpenOrderRow::Ending),
                Some(OpenOrderRow::Since(300))
            ]
        );
        assert_eq!(
            [&[][..], &[1, 2], &[2], &[2, 1, 1], &[3, 1]].map(OpenOrderRow::read),
            [None; 5]
        );
    }
}
