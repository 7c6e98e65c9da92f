//! The trades of an order. They are kept as long as the order, because a bust must match the
//! recorded trade. The last few trades lie in the order record, so the most common order, with one
//! trade, needs no row. A full group moves to a row of its own, so the record does not grow with
//! ten thousand trades.

use domain::hold::{Fee, part_of};
use engine::context::Ctx;
use engine::role::InvariantViolation;
use ports::varint::{put, put_bytes, put_signed, take_bytes, take_i64, take_u64};

use super::state::{self, OrdersBuffers};

/// Trades per group, in the order record or in a row.
const TOGETHER: usize = 8;
/// Rows of an order that one record deletes at most.
const DELETED_AT_ONCE: u64 = 100;

/// A trade, as it was settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fill<'a> {
    pub trade_id: &'a str,
    pub quantity: i64,
    pub price_e4: i64,
    pub fee: Fee,
    /// The other side was the house.
    pub with_house: bool,
    /// Quantity that was busted.
    pub back: i64,
}

impl<'a> Fill<'a> {
    /// Quantity that was not busted.
    pub(super) fn stands(&self) -> i64 {
        self.quantity - self.back
    }

    /// Fee to return for a bust of `quantity` more shares. Each part is rounded down and the last
    /// part gets the rest, so all parts sum to the charged fee.
    pub(super) fn fee_of(&self, quantity: i64) -> Fee {
        let part = |fee| {
            part_of(fee, self.back + quantity, self.quantity)
                - part_of(fee, self.back, self.quantity)
        };

        Fee {
            charged_e4: part(self.fee.charged_e4),
            exact_e4: part(self.fee.exact_e4),
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        put_bytes(out, self.trade_id.as_bytes());
        let fee = self.fee;
        [self.quantity, self.price_e4, fee.charged_e4, fee.exact_e4]
            .into_iter()
            .for_each(|n| put_signed(out, i128::from(n)));
        out.push(u8::from(self.with_house));
        put_signed(out, i128::from(self.back));
    }

    fn take(r: &mut &'a [u8]) -> Option<Self> {
        let trade_id = std::str::from_utf8(take_bytes(r)?).ok()?;
        let quantity = take_i64(r)?;
        let price_e4 = take_i64(r)?;
        let fee = Fee {
            charged_e4: take_i64(r)?,
            exact_e4: take_i64(r)?,
        };

        let (&with_house, rest) = r.split_first()?;
        *r = rest;
        let fill = Fill {
            trade_id,
            quantity,
            price_e4,
            fee,
            with_house: with_house == 1,
            back: take_i64(r)?,
        };

        (with_house < 2 && quantity > 0 && (0..=quantity).contains(&fill.back)).then_some(fill)
    }
}

/// Decodes consecutive trades; ends with `None` if the bytes are unreadable.
pub(super) fn each(mut bytes: &[u8]) -> impl Iterator<Item = Option<Fill<'_>>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }

        let fill = Fill::take(&mut bytes);
        if fill.is_none() {
            bytes = &[];
        }

        Some(fill)
    })
}

/// Trades of an order.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct OrderFills<'a> {
    /// Encoded trades of the current group.
    last: &'a [u8],
    /// New trade, to be appended to `last`.
    new: Option<Fill<'a>>,
    /// Number of rows with earlier groups.
    rows: u64,
    /// Quantity of all kept trades that was not busted. An order that traded before trades were
    /// kept has traded more.
    pub stand: i64,
    /// Some rows are deleted: the order is being forgotten, and its trades are lost.
    pub forgotten: bool,
}

/// Location of a trade: its group, its row and its number in the group.
pub(super) struct FillPlace {
    row: Option<u64>,
    bytes: Vec<u8>,
    number: usize,
}

impl<'a> OrderFills<'a> {
    pub(super) fn is_empty(&self) -> bool {
        self.last.is_empty() && self.new.is_none() && self.rows == 0
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        put(out, self.rows);
        put_signed(out, i128::from(self.stand));
        match &self.new {
            None => put_bytes(out, self.last),
            Some(fill) => {
                let mut all = self.last.to_vec();
                fill.write(&mut all);
                put_bytes(out, &all);
            }
        }
    }

    pub(super) fn read(r: &mut &'a [u8]) -> Option<Self> {
        Some(OrderFills {
            rows: take_u64(r)?,
            stand: take_i64(r)?,
            last: take_bytes(r)?,
            new: None,
            forgotten: false,
        })
    }

    /// Trades in the order record; ends with `None` if the bytes are unreadable.
    pub(super) fn in_entry(&self) -> impl Iterator<Item = Option<Fill<'a>>> {
        let last: &'a [u8] = self.last;
        each(last)
    }

    /// Adds a trade. A full group moves to a row first.
    pub(super) fn add(
        mut self,
        ctx: &mut Ctx<'_>,
        b: &mut OrdersBuffers,
        order: (&str, &str),
        fill: Fill<'a>,
    ) -> Self {
        if each(self.last).count() >= TOGETHER {
            put_row(ctx, b, order, self.rows, self.last);
            (self.rows, self.last) = (self.rows + 1, &[]);
        }

        self.stand += fill.quantity;
        self.new = Some(fill);
        self
    }

    /// Finds a trade by its id.
    pub(super) fn find(
        &self,
        ctx: &mut Ctx<'_>,
        b: &mut OrdersBuffers,
        order: (&str, &str),
        trade_id: &str,
    ) -> Result<Option<FillPlace>, InvariantViolation> {
        let number = |bytes: &[u8]| {
            each(bytes).position(|fill| fill.is_some_and(|fill| fill.trade_id == trade_id))
        };

        if let Some(number) = number(self.last) {
            return Ok(Some(FillPlace {
                row: None,
                bytes: self.last.to_vec(),
                number,
            }));
        }

        for row in (0..self.rows).rev() {
            let bytes = ctx
                .get(row_key(b, order, row))
                .and_then(state::body)
                .map(<[u8]>::to_vec);
            let bytes = bytes.ok_or_else(|| state::unreadable(ctx, "an order's trades"))?;
            if let Some(number) = number(&bytes) {
                return Ok(Some(FillPlace {
                    row: Some(row),
                    bytes,
                    number,
                }));
            }
        }

        Ok(None)
    }

    /// Records a bust of `quantity` shares. `into` receives the new group, if the trade is in the
    /// order record.
    pub(super) fn taken_back<'n>(
        self,
        ctx: &mut Ctx<'_>,
        b: &mut OrdersBuffers,
        order: (&str, &str),
        found: &FillPlace,
        quantity: i64,
        into: &'n mut Vec<u8>,
    ) -> OrderFills<'n>
    where
        'a: 'n,
    {
        into.clear();
        for (number, fill) in each(&found.bytes).flatten().enumerate() {
            Fill {
                back: fill.back + if number == found.number { quantity } else { 0 },
                ..fill
            }
            .write(into);
        }

        let last = match found.row {
            Some(row) => {
                put_row(ctx, b, order, row, into);
                self.last
            }
            None => into,
        };

        OrderFills {
            last,
            stand: self.stand - quantity,
            ..self
        }
    }

    /// Deletes rows of an order that is being forgotten. Returns the rest, or `None` if no row is
    /// left.
    pub(super) fn forget(
        mut self,
        ctx: &mut Ctx<'_>,
        b: &mut OrdersBuffers,
        order: (&str, &str),
    ) -> Option<Self> {
        for _ in 0..DELETED_AT_ONCE {
            self.rows = self.rows.checked_sub(1)?;
            ctx.delete(row_key(b, order, self.rows));
        }

        self.forgotten = true;
        Some(self)
    }
}

impl FillPlace {
    pub(super) fn fill(&self) -> Option<Fill<'_>> {
        each(&self.bytes).nth(self.number)?
    }
}

fn row_key<'b>(b: &'b mut OrdersBuffers, (user, order_id): (&str, &str), row: u64) -> &'b [u8] {
    b.key(b'f', user, Some(order_id));
    b.key.push(0);
    b.key.extend_from_slice(row.to_string().as_bytes());
    &b.key
}

fn put_row(ctx: &mut Ctx<'_>, b: &mut OrdersBuffers, order: (&str, &str), row: u64, fills: &[u8]) {
    b.fresh().extend_from_slice(fills);
    row_key(b, order, row);
    ctx.put(&b.key, &b.value);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(quantity: i64, charged_e4: i64) -> Fill<'static> {
        Fill {
            trade_id: "3-1",
            quantity,
            price_e4: 100,
            fee: Fee {
                charged_e4,
                exact_e4: charged_e4 - 1,
            },
            with_house: true,
            back: 1,
        }
    }

    /// Golden bytes: later versions must read the bytes of this version.
    #[test]
    fn golden_bytes() {
        let mut out = Vec::new();
        fill(3, 4).write(&mut out);
        assert_eq!(out, [3, b'3', b'-', b'1', 6, 200, 1, 8, 6, 1, 2]);
        assert_eq!(each(&out).collect::<Vec<_>>(), [Some(fill(3, 4))]);
        assert_eq!(each(&out[..10]).collect::<Vec<_>>(), [None]);
        let mut all = Vec::new();
        OrderFills {
            last: &out,
            new: Some(fill(3, 4)),
            rows: 2,
            stand: 5,
            forgotten: false,
        }
        .write(&mut all);

        assert_eq!(all[..3], [2, 10, 22]);
        let back = OrderFills::read(&mut &all[..]).expect("whole");
        assert_eq!(
            (back.rows, back.stand, back.in_entry().flatten().count()),
            (2, 5, 2)
        );
    }

    #[test]
    fn the_parts_of_a_fee_are_the_fee() {
        for (quantity, charged) in [(7, 10), (3, 1), (1_000, 999), (5, 0)] {
            let mut f = Fill {
                back: 0,
                ..fill(quantity, charged)
            };

            let mut parts = 0;
            let mut exact = 0;
            for step in [1, 2, quantity - 3].into_iter().filter(|n| *n > 0) {
                let fee = f.fee_of(step);
                assert!(fee.charged_e4 >= 0);
                (parts, exact) = (parts + fee.charged_e4, exact + fee.exact_e4);
                f.back += step;
            }

            assert_eq!(
                (f.stands(), parts, exact),
                (0, charged, (charged - 1)),
                "{quantity} for {charged}"
            );
        }
    }
}
