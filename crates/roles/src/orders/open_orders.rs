//! Index of orders that may stay open, for mass cancels.
//!
//! Each order has the `user_seq` of its first event, so a mass cancel leaves later orders alone. An
//! order that the book was asked to cancel moves from the rows `n` to the rows `x`. So all mass
//! cancels together ask once per order, and none examines an order twice.

use engine::context::Ctx;
use ports::varint::{put, take_u64};

use super::state::OrdersBuffers;

/// Version of a row without a number: [`OpenOrderRow::Before`], or [`OpenOrderRow::Ending`] with
/// one more byte.
const PLAIN: u8 = 1;
const ENDING: u8 = 1;
/// Version of a row with an event number.
const NUMBERED: u8 = 2;

/// User, symbol and id of an order.
pub(super) type OpenOrderKey<'a> = (&'a str, &'a str, &'a str);

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

pub(super) fn row_key<'b>(
    b: &'b mut OrdersBuffers,
    letter: u8,
    (user, symbol, order_id): OpenOrderKey<'_>,
) -> &'b [u8] {
    b.key(letter, user, Some(symbol));
    b.key.push(0);
    b.key.extend_from_slice(order_id.as_bytes());
    &b.key
}

/// Adds the row of an order that may stay open.
pub(super) fn add(ctx: &mut Ctx<'_>, b: &mut OrdersBuffers, order: OpenOrderKey<'_>, since: u64) {
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
pub(super) fn remove(ctx: &mut Ctx<'_>, b: &mut OrdersBuffers, order: OpenOrderKey<'_>) {
    if ctx.get(row_key(b, b'n', order)).is_none() {
        row_key(b, b'x', order);
    }

    ctx.delete(&b.key);
}

/// Claims an order for a mass cancel that is on its way to the book. A second mass cancel before the
/// book's answer skips the order.
pub(super) fn claim(ctx: &mut Ctx<'_>, b: &mut OrdersBuffers, order: OpenOrderKey<'_>) {
    row_key(b, b'n', order);
    if b.cancel_part == 0 {
        ctx.put(&b.key, &[PLAIN, ENDING]);
        return;
    }

    ctx.delete(&b.key);
    row_key(b, b'x', order);
    ctx.put(&b.key, &[PLAIN]);
}

/// Key prefix of a user's open orders, of one symbol or of all.
pub(super) fn prefix<'b>(b: &'b mut OrdersBuffers, user: &str, symbol: Option<&str>) -> &'b [u8] {
    b.key(b'n', user, Some(symbol.unwrap_or_default()));
    if symbol.is_some() {
        b.key.push(0);
    }

    &b.key
}

#[cfg(test)]
mod tests {
    use super::*;

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
