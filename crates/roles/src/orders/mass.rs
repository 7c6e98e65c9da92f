//! Mass cancels, which end orders in parts (FIX OrderMassCancelRequest).
//!
//! A user may have any number of open orders, but a transaction needs a bound. So a mass cancel
//! asks the book to end a part of the orders. A row stores the place where the part stopped. Behind
//! a part, the mass cancel asks the book to cancel the mass cancel itself. The mass cancel is no
//! order, so the book refuses. The refusal starts the next part, and arrives after the book has
//! ended the part before. No order, deadline or other topic is needed for this signal, and new
//! orders of the user cause no delay.

use domain::reason::Reason;
use domain::status::Status;
use engine::context::Ctx;
use engine::role::InvariantViolation;
use faults::crash::{self, Point};
use ports::varint::{put, put_bytes, take_bytes, take_u64};
use wire::book::BookAction;

use super::account_tx::AccountTx;
use super::decision::{CommandInHand, Decision, end_reason, save_accepted};
use super::open_orders::{self, OpenOrderRow};
use super::state::{self, OrderRecord, OrdersBuffers};
use crate::ingress::violation;

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

/// Next part of a user's open orders.
#[derive(Default)]
struct MassCancelPart {
    /// Symbols and ids of the orders to cancel.
    orders: Vec<(String, String)>,
    /// Last order that was examined, if more orders follow.
    stopped_at: Option<(String, String)>,
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

    let begin = after
        .map(|(symbol, order_id)| open_orders::row_key(b, b'n', (user, symbol, order_id)).to_vec());
    open_orders::prefix(b, user, symbol);
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
    ctx.scan_after(
        open_orders::prefix(b, user, symbol),
        None,
        &mut |_, value| {
            let row = OpenOrderRow::read(value);
            (readable, found) = (
                row.is_some(),
                row.is_some_and(|row| row != OpenOrderRow::Ending),
            );
            readable && !found
        },
    );

    if readable {
        Ok(found)
    } else {
        Err(state::unreadable(ctx, "an open order"))
    }
}

/// Asks the book to end a part, and to answer afterwards.
fn cancel_part(tx: &mut AccountTx<'_, '_>, cause_id: &str, reason: Reason, part: &MassCancelPart) {
    for (symbol, order_id) in &part.orders {
        open_orders::claim(tx.ctx, tx.buffers, (tx.user, symbol, order_id));
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
}
