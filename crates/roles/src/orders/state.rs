//! The state of `orders`, byte by byte. Keys are a letter of [`STATE_SCHEMA`], then ids separated by
//! a zero byte (ids have none); values begin with a version.

mod account;

use domain::account::{Account, CashTotals, HousePosition, Position};
use domain::hold::{Hold, Terms, WorkingOrder};
use domain::reason::Reason;
use domain::status::{Side, Status};
use engine::context::Ctx;
use engine::role::InvariantViolation;
use ports::varint::{put, put_signed, take_i64, take_signed, take_u64};
use wire::command_fingerprint::CommandFingerprint;

use super::order_trades::OrderFills;
use crate::ingress::violation;
use crate::show::StateKey;
use account::put_account;
pub(super) use account::read_account;

pub(crate) const STATE_SCHEMA: &[StateKey] = &[
    StateKey::lettered(b'a', "account/USER", "account"),
    StateKey::lettered(b'p', "position/USER/SYMBOL", "position"),
    // A short position is revalued at each access to the account.
    StateKey::lettered(b's', "short/USER/SYMBOL", "nothing: marks a short position"),
    StateKey::lettered(
        b'o',
        "order/USER/ORDER",
        "status of that id, and the command's content",
    ),
    // For mass cancels, see `open_orders`.
    StateKey::lettered(
        b'n',
        "open/USER/SYMBOL/ORDER",
        "event number of an order that may stay open",
    ),
    StateKey::lettered(
        b'x',
        "ending/USER/SYMBOL/ORDER",
        "nothing: like `open`, while a mass cancel of the order is on its way to the book",
    ),
    StateKey::lettered(
        b'c',
        "mass-cancel/USER/ORDER",
        "a mass cancel that is not complete",
    ),
    // See `order_trades`.
    StateKey::lettered(
        b'f',
        "fills/USER/ORDER/NUMBER",
        "some trades of an order that has many",
    ),
    // The row outlives the order, or the trade could be busted twice.
    StateKey::lettered(
        b'b',
        "busted/USER/ORDER/TRADE",
        "nothing: bust of a trade that the order does not keep",
    ),
    StateKey::lettered(
        b'h',
        "house/SYMBOL",
        "house position and clearing (trades in flight between users) of the symbol",
    ),
    StateKey::lettered(b't', "totals", "the task's totals"),
    // The expiry queue exists only with a dedup window.
    StateKey::lettered(b'e', "ended/NUMBER", "an ended id in the expiry queue"),
    StateKey::lettered(b'm', "mark/NUMBER", "time at which that many ids had ended"),
    StateKey::lettered(b'w', "window", "the ends of both queues"),
];

const VERSION: u8 = 1;
/// Version of order records: 2 since orders have terms. Version 1 is still read.
const ENTRY_VERSION: u8 = 2;
/// Version of order records that keep their trades.
const TRADED_VERSION: u8 = 3;

/// Reusable buffers for a key and a value, with settings and sums of the running transaction.
#[derive(Default)]
pub(super) struct OrdersBuffers {
    pub key: Vec<u8>,
    pub value: Vec<u8>,
    pub tally: HoldTally,
    /// Ids are forgotten after the dedup window.
    pub forgets: bool,
    /// Orders that a mass cancel ends per record; 0 means all.
    pub cancel_part: usize,
    /// Short sales hold a margin.
    pub margin: bool,
    /// Trades are kept with their order, and busts must match them.
    pub keeps_trades: bool,
    /// Events carry the order's type, time in force and so on.
    pub tells_terms: bool,
    /// A command that names no open order uses up its id.
    pub unknown_burns: bool,
    /// With a dedup window: users and ids that ended with the current record.
    pub ended: Vec<(Box<str>, Box<str>)>,
}

/// Running check of invariant 3 within one transaction: increase of holds in accounts and
/// positions, less the increase of holds in orders and short positions. The two sides are written
/// in different places, so only correct bookkeeping makes them equal.
#[derive(Default, Debug, PartialEq, Eq)]
pub(super) struct HoldTally {
    cash: i128,
    incoming: i128,
    shares: i128,
}

impl HoldTally {
    fn account(&mut self, a: &Account, sign: i128) {
        self.cash += sign * i128::from(a.reserved_e4);
        self.incoming += sign * i128::from(a.incoming_e4);
    }

    fn order(&mut self, h: &Hold, sign: i128) {
        self.cash -= sign * i128::from(h.cash_e4);
        self.incoming -= sign * i128::from(h.incoming_e4);
        self.shares -= sign * i128::from(h.shares);
    }

    fn position(&mut self, p: &Position, sign: i128) {
        self.cash -= sign * i128::from(p.collateral_e4);
        self.shares += sign * i128::from(p.reserved);
    }
}

impl OrdersBuffers {
    pub(super) fn key(&mut self, letter: u8, first: &str, second: Option<&str>) -> &[u8] {
        self.key.clear();
        self.key.push(letter);
        self.key.extend_from_slice(first.as_bytes());
        if let Some(second) = second {
            self.key.push(0);
            self.key.extend_from_slice(second.as_bytes());
        }

        &self.key
    }

    /// Marks an id as ended, with no more answers to come. With a dedup window, the id is forgotten
    /// later.
    pub(super) fn has_ended(&mut self, user: &str, order_id: &str) {
        if self.forgets {
            self.ended.push((user.into(), order_id.into()));
        }
    }

    /// True if a refusal for this reason uses up the command's id.
    pub(super) fn burns_id(&self, reason: Reason) -> bool {
        reason.burns_id() || (reason == Reason::UnknownOrder && self.unknown_burns)
    }

    /// Clears the value buffer and writes the version.
    pub(super) fn fresh(&mut self) -> &mut Vec<u8> {
        self.value.clear();
        self.value.push(VERSION);
        &mut self.value
    }
}

/// Strips the version byte; `None` for an unknown version.
pub(super) fn body(bytes: &[u8]) -> Option<&[u8]> {
    match bytes.split_first() {
        Some((&VERSION, rest)) => Some(rest),
        _ => None,
    }
}

/// Reads a value to its last byte; `None` if bytes are left over.
pub(super) fn whole<T>(bytes: &[u8], read: impl FnOnce(&mut &[u8]) -> Option<T>) -> Option<T> {
    let mut rest = body(bytes)?;
    let value = read(&mut rest)?;
    rest.is_empty().then_some(value)
}

/// Writes fields of newer versions, unless all are zero. Accounts that use none of these fields
/// keep their old bytes.
fn put_later(out: &mut Vec<u8>, fields: &[i128]) {
    if fields.iter().any(|n| *n != 0) {
        fields.iter().for_each(|n| put_signed(out, *n));
    }
}

fn take_later<const N: usize>(r: &mut &[u8]) -> Option<[i128; N]> {
    let mut all = [0; N];
    if !r.is_empty() {
        for slot in &mut all {
            *slot = take_signed(r)?;
        }
    }

    Some(all)
}

pub(super) fn read_position(bytes: &[u8]) -> Option<Position> {
    whole(bytes, |r| {
        let long = take_i64(r)?;
        let reserved = take_i64(r)?;
        let [short, collateral] = take_later(r)?;
        Some(Position {
            long,
            reserved,
            short: i64::try_from(short).ok()?,
            collateral_e4: i64::try_from(collateral).ok()?,
        })
    })
}

pub(super) fn read_house(bytes: &[u8]) -> Option<HousePosition> {
    whole(bytes, |r| {
        let cash_e4 = take_signed(r)?;
        let quantity = take_signed(r)?;
        let users_quantity = take_signed(r)?;
        let [clearing_e4, clearing_quantity] = take_later(r)?;
        Some(HousePosition {
            cash_e4,
            quantity,
            users_quantity,
            clearing_e4,
            clearing_quantity,
        })
    })
}

pub(super) fn read_totals(bytes: &[u8]) -> Option<CashTotals> {
    whole(bytes, |r| {
        let users_e4 = take_signed(r)?;
        let house_e4 = take_signed(r)?;
        let external_e4 = take_signed(r)?;
        let [clearing_e4, fees_e4, rounding_e4] = take_later(r)?;
        Some(CashTotals {
            users_e4,
            house_e4,
            external_e4,
            clearing_e4,
            fees_e4,
            rounding_e4,
        })
    })
}

/// State of an order id.
#[derive(Clone, Copy, Debug)]
pub(super) struct OrderRecord<'a> {
    pub status: Status,
    /// Reason of a rejection or cancel.
    pub reason: Option<Reason>,
    /// CumQty: quantity that has traded.
    pub cum: i64,
    /// Traded value. 0 if the order ended before trades were kept.
    pub value_e4: i64,
    /// Trades of the order.
    pub fills: OrderFills<'a>,
    /// Current terms; none for an id of a command that is no order, or an order that was rejected
    /// at once.
    pub terms: Option<Terms>,
    /// Cash and shares that are reserved for the order.
    pub hold: Hold,
    /// Number of cancel/replace requests on their way to the book.
    pub pending: u64,
    /// The order may stay open, so the account counts it, and a mass cancel can find it.
    pub stays: bool,
    /// A cancel that found the bucket empty is on its way to the book, see [`super::messages`].
    pub ending: bool,
    /// Content of the command; tells a repeat from another command with the same id.
    pub content: CommandFingerprint<'a>,
}

const HAS_TERMS: u8 = 1;
const IS_OPEN: u8 = 2;
const STAYS: u8 = 4;
const FORGOTTEN: u8 = 8;
const ENDS: u8 = 16;

impl<'a> OrderRecord<'a> {
    /// Record of a command that is no order, or did not become one.
    pub(super) fn plain(
        status: Status,
        reason: Option<Reason>,
        content: CommandFingerprint<'a>,
    ) -> Self {
        OrderRecord {
            status,
            reason,
            cum: 0,
            value_e4: 0,
            fills: OrderFills::default(),
            terms: None,
            hold: Hold::default(),
            pending: 0,
            stays: false,
            ending: false,
            content,
        }
    }

    fn put(&self, out: &mut Vec<u8>) {
        out.clear();
        let traded = !self.fills.is_empty();
        out.extend_from_slice(&[
            if traded {
                TRADED_VERSION
            } else {
                ENTRY_VERSION
            },
            self.status as u8,
        ]);

        put(out, self.reason.map_or(0, |r| r as u128));
        let open = self.terms.filter(|_| !self.status.is_terminal());
        let flags = [
            (self.terms.is_some(), HAS_TERMS),
            (open.is_some(), IS_OPEN),
            (self.stays, STAYS),
            (self.fills.forgotten, FORGOTTEN),
            (self.ending && open.is_some(), ENDS),
        ];

        out.push(
            flags
                .into_iter()
                .filter(|(is, _)| *is)
                .map(|(_, bit)| bit)
                .sum(),
        );

        if let Some(t) = self.terms {
            [self.cum, t.quantity, t.limit_e4]
                .into_iter()
                .for_each(|n| put_signed(out, i128::from(n)));
        }

        if traded {
            put_signed(out, i128::from(self.value_e4));
            self.fills.write(out);
        }

        // Ended orders stay for ever, and need no terms or holds any more.
        if let Some(t) = open {
            let h = &self.hold;
            let value_e4 = (!traded).then_some(self.value_e4);
            let rest = [t.ceiling_e4, t.fee_bps, t.short_unit_e4]
                .into_iter()
                .chain(value_e4)
                .chain([h.cash_e4, h.shares, h.incoming_e4]);
            rest.for_each(|n| put_signed(out, i128::from(n)));
            put(out, self.pending);
        }

        out.extend_from_slice(self.content.0);
    }

    /// Reads a record as [`load_order`] copied it.
    pub(super) fn read(bytes: &'a [u8]) -> Option<Self> {
        let (&version, rest) = bytes.split_first()?;
        let (&status, mut rest) = rest.split_first()?;
        let r = &mut rest;
        let reason = match take_u64(r)? {
            0 => None,
            n => Some(Reason::from_number(n)?),
        };

        let mut e = OrderRecord::plain(
            Status::from_number(status)?,
            reason,
            CommandFingerprint(&[]),
        );
        match version {
            VERSION => {
                let cum = take_i64(r)?;
                let hold_e4 = take_i64(r)?;
                e.first_version(cum, hold_e4, CommandFingerprint(r));
            }
            ENTRY_VERSION | TRADED_VERSION => e.second_version(version == TRADED_VERSION, r)?,
            _ => return None,
        }

        e.content.kind()?;
        e.quantity().unwrap_or(0).checked_sub(e.cum)?;
        e.fills.in_entry().all(|fill| fill.is_some()).then_some(e)
    }

    /// Reads the fields since version 2. `traded`: the record keeps its trades.
    #[inline]
    fn second_version(&mut self, traded: bool, r: &mut &'a [u8]) -> Option<()> {
        let (&flags, tail) = r.split_first()?;
        *r = tail;
        self.stays = flags & STAYS != 0;
        self.ending = flags & ENDS != 0;
        if flags & HAS_TERMS != 0 {
            self.cum = take_i64(r)?;
            self.terms = Some(Terms {
                side: Side::Buy,
                quantity: take_i64(r)?,
                limit_e4: take_i64(r)?,
                ceiling_e4: 0,
                fee_bps: 0,
                short_unit_e4: 0,
            });
        }

        if traded {
            (self.value_e4, self.fills) = (take_i64(r)?, OrderFills::read(r)?);
            self.fills.forgotten = flags & FORGOTTEN != 0;
        }

        if let Some(t) = self.terms.as_mut().filter(|_| flags & IS_OPEN != 0) {
            (t.ceiling_e4, t.fee_bps, t.short_unit_e4) = (take_i64(r)?, take_i64(r)?, take_i64(r)?);
            if !traded {
                self.value_e4 = take_i64(r)?;
            }

            self.hold = Hold {
                cash_e4: take_i64(r)?,
                shares: take_i64(r)?,
                incoming_e4: take_i64(r)?,
            };

            self.pending = take_u64(r)?;
        }

        self.content = CommandFingerprint(r);
        if let Some(t) = &mut self.terms {
            t.side = self.content.side()?;
        }

        Some(())
    }

    /// Derives the fields that version 1 left out. Version 1 had only market orders that trade
    /// whole.
    fn first_version(&mut self, cum: i64, hold_e4: i64, content: CommandFingerprint<'a>) {
        self.content = content;
        self.cum = cum;
        let (Some(side), Some(quantity), true) = (
            content.side(),
            content.quantity().filter(|q| *q > 0),
            self.reason.is_none(),
        ) else {
            return;
        };

        let each = hold_e4 / quantity;
        let mut terms = Terms {
            side,
            quantity,
            limit_e4: each,
            ceiling_e4: 0,
            fee_bps: 0,
            short_unit_e4: 0,
        };

        if side == Side::Sell {
            (terms.limit_e4, terms.ceiling_e4) = (1, each);
        }

        self.terms = Some(terms);
        if !self.status.is_terminal() {
            self.hold = terms.need(0, 0, quantity).unwrap_or_default();
        }
    }

    /// The order with its terms, as plain values.
    pub(super) fn working(&self, terms: Terms) -> WorkingOrder {
        WorkingOrder {
            terms,
            hold: self.hold,
            cum: self.cum,
            value_e4: self.value_e4,
        }
    }

    /// True if the order may still trade.
    pub(super) fn is_open(&self) -> bool {
        self.terms.is_some() && !self.status.is_terminal()
    }

    /// Quantity of the current terms.
    pub(super) fn quantity(&self) -> Option<i64> {
        self.terms
            .map(|t| t.quantity)
            .or_else(|| self.content.quantity())
    }

    /// Limit of the current terms, if the command had a limit.
    pub(super) fn limit_price(&self) -> Option<i64> {
        let asked = self.content.limit_price();
        self.terms
            .map(|t| t.limit_e4)
            .filter(|_| asked.is_some())
            .or(asked)
    }

    /// LeavesQty: quantity that may still trade.
    pub(super) fn leaves(&self) -> i64 {
        if self.status.is_terminal() {
            0
        } else {
            self.quantity().unwrap_or(0) - self.cum
        }
    }
}

pub(super) fn load<T>(
    ctx: &mut Ctx<'_>,
    key: &[u8],
    what: &str,
    read: fn(&[u8]) -> Option<T>,
) -> Result<Option<T>, InvariantViolation> {
    let Some(bytes) = ctx.get(key) else {
        return Ok(None);
    };

    match read(bytes) {
        Some(value) => Ok(Some(value)),
        None => Err(unreadable(ctx, what)),
    }
}

/// Error for a value that this version cannot read.
pub(super) fn unreadable(ctx: &Ctx<'_>, what: &str) -> InvariantViolation {
    violation(
        ctx,
        format_args!(
            "state of {what} cannot be read; it was written by a newer version or is damaged"
        ),
    )
}

pub(super) fn load_account(
    ctx: &mut Ctx<'_>,
    b: &mut OrdersBuffers,
    user: &str,
) -> Result<Option<Account>, InvariantViolation> {
    let account = load(ctx, b.key(b'a', user, None), "an account", read_account)?;
    account.iter().for_each(|a| b.tally.account(a, -1));
    Ok(account)
}

pub(super) fn save_account(ctx: &mut Ctx<'_>, b: &mut OrdersBuffers, user: &str, a: &Account) {
    b.tally.account(a, 1);
    put_account(b.fresh(), a);
    b.key(b'a', user, None);
    ctx.put(&b.key, &b.value);
}

pub(super) fn load_position(
    ctx: &mut Ctx<'_>,
    b: &mut OrdersBuffers,
    user: &str,
    symbol: &str,
) -> Result<Position, InvariantViolation> {
    Ok(load(
        ctx,
        b.key(b'p', user, Some(symbol)),
        "a position",
        read_position,
    )?
    .unwrap_or_default())
}

pub(super) fn save_position(
    ctx: &mut Ctx<'_>,
    b: &mut OrdersBuffers,
    user: &str,
    symbol: &str,
    p: &Position,
) {
    let value = b.fresh();
    put_signed(value, i128::from(p.long));
    put_signed(value, i128::from(p.reserved));
    put_later(value, &[i128::from(p.short), i128::from(p.collateral_e4)]);
    b.key(b'p', user, Some(symbol));
    if let Some(before) = ctx.get(&b.key).and_then(read_position) {
        b.tally.position(&before, -1);
    }

    b.tally.position(p, 1);
    if *p == Position::default() {
        ctx.delete(&b.key)
    } else {
        ctx.put(&b.key, &b.value)
    }
}

/// Symbols of a user's short positions.
pub(super) fn shorts(ctx: &mut Ctx<'_>, b: &mut OrdersBuffers, user: &str) -> Vec<String> {
    b.key(b's', user, Some(""));
    let start = b.key.len();
    let mut all = Vec::new();
    ctx.scan(&b.key, &mut |key, _| {
        all.extend(std::str::from_utf8(&key[start..]).map(str::to_string))
    });

    all
}

/// Marks a position as short; returns false if the position was marked before.
pub(super) fn mark_short(
    ctx: &mut Ctx<'_>,
    b: &mut OrdersBuffers,
    user: &str,
    symbol: &str,
) -> bool {
    b.key(b's', user, Some(symbol));
    let changes = ctx.get(&b.key).is_none();
    if changes {
        ctx.put(&b.key, &[VERSION]);
    }

    changes
}

/// Removes the mark of a short position; returns false if the position was not marked.
pub(super) fn unmark_short(
    ctx: &mut Ctx<'_>,
    b: &mut OrdersBuffers,
    user: &str,
    symbol: &str,
) -> bool {
    b.key(b's', user, Some(symbol));
    let changes = ctx.get(&b.key).is_some();
    if changes {
        ctx.delete(&b.key);
    }

    changes
}

/// Copies the record of an order id into `into`; false if the id was never used.
pub(super) fn load_order(
    ctx: &mut Ctx<'_>,
    b: &mut OrdersBuffers,
    user: &str,
    order_id: &str,
    into: &mut Vec<u8>,
) -> bool {
    into.clear();
    match ctx.get(b.key(b'o', user, Some(order_id))) {
        Some(bytes) => {
            into.extend_from_slice(bytes);
            true
        }
        None => false,
    }
}

/// Reads a record as [`load_order`] copied it.
#[inline]
pub(super) fn read_order<'a>(
    ctx: &Ctx<'_>,
    bytes: &'a [u8],
) -> Result<OrderRecord<'a>, InvariantViolation> {
    OrderRecord::read(bytes).ok_or_else(|| unreadable(ctx, "an order"))
}

pub(super) fn save_order(
    ctx: &mut Ctx<'_>,
    b: &mut OrdersBuffers,
    user: &str,
    order_id: &str,
    e: &OrderRecord<'_>,
) {
    e.put(&mut b.value);
    b.key(b'o', user, Some(order_id));
    let before = ctx.get(&b.key).and_then(OrderRecord::read);
    before
        .iter()
        .for_each(|before| b.tally.order(&before.hold, -1));
    let lived = before.is_none_or(|before| before.is_open());
    b.tally.order(&e.hold, 1);
    ctx.put(&b.key, &b.value);

    // With a change on its way, the record stays until the book has answered. An answer must never
    // meet a newer order with the same id.
    if lived && !e.is_open() && e.pending == 0 {
        b.has_ended(user, order_id);
    }
}

/// Deletes the record of an ended id. Returns false if the order had too many trades to delete at
/// once.
pub(super) fn delete_order(
    ctx: &mut Ctx<'_>,
    b: &mut OrdersBuffers,
    user: &str,
    order_id: &str,
) -> Result<bool, InvariantViolation> {
    let bytes = ctx
        .get(b.key(b'o', user, Some(order_id)))
        .map(<[u8]>::to_vec);
    match bytes.as_deref().map(OrderRecord::read) {
        Some(Some(entry)) if !entry.is_open() => {
            if let Some(fills) = entry.fills.forget(ctx, b, (user, order_id)) {
                save_order(ctx, b, user, order_id, &OrderRecord { fills, ..entry });
                return Ok(false);
            }

            ctx.delete(b.key(b'o', user, Some(order_id)));
            Ok(true)
        }
        Some(None) => Err(unreadable(ctx, "an order")),
        _ => Err(violation(
            ctx,
            format_args!(
                "the id {order_id} of user {user} is to be forgotten, and is open or not there"
            ),
        )),
    }
}

pub(super) fn load_house(
    ctx: &mut Ctx<'_>,
    b: &mut OrdersBuffers,
    symbol: &str,
) -> Result<HousePosition, InvariantViolation> {
    Ok(load(ctx, b.key(b'h', symbol, None), "the house", read_house)?.unwrap_or_default())
}

pub(super) fn save_house(
    ctx: &mut Ctx<'_>,
    b: &mut OrdersBuffers,
    symbol: &str,
    h: &HousePosition,
) {
    let value = b.fresh();
    [h.cash_e4, h.quantity, h.users_quantity]
        .into_iter()
        .for_each(|n| put_signed(value, n));
    put_later(value, &[h.clearing_e4, h.clearing_quantity]);
    b.key(b'h', symbol, None);
    ctx.put(&b.key, &b.value);
}

pub(super) fn load_totals(ctx: &mut Ctx<'_>) -> Result<CashTotals, InvariantViolation> {
    Ok(load(ctx, b"t", "the totals", read_totals)?.unwrap_or_default())
}

pub(super) fn save_totals(ctx: &mut Ctx<'_>, b: &mut OrdersBuffers, t: &CashTotals) {
    let value = b.fresh();
    [t.users_e4, t.house_e4, t.external_e4]
        .into_iter()
        .for_each(|n| put_signed(value, n));
    put_later(value, &[t.clearing_e4, t.fees_e4, t.rounding_e4]);
    ctx.put(b"t", &b.value);
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::rate_limit::{Messages, UserBucket};
    use proptest::prelude::*;

    /// Golden bytes: later versions must read the bytes of this version.
    #[test]
    fn golden_bytes() {
        let mut b = OrdersBuffers::default();
        let a = Account {
            available_e4: 1,
            reserved_e4: 2,
            incoming_e4: 3,
            turnover_e4: 4,
            user_seq: 300,
            clock: UserBucket {
                tat_us: -1,
                last_seen_us: 6,
            },
            open_orders: 0,
            shorts: 0,
            unopened: false,
            owed_e4: 0,
            messages: Messages::default(),
        };

        put_account(b.fresh(), &a);
        assert_eq!(b.value, [1, 2, 4, 6, 8, 0xac, 2, 1, 12]);
        assert_eq!(read_account(&b.value), Some(a));
        let a = Account {
            open_orders: 3,
            ..a
        };

        put_account(b.fresh(), &a);
        assert_eq!(b.value, [1, 2, 4, 6, 8, 0xac, 2, 1, 12, 6]);
        assert_eq!(read_account(&b.value), Some(a));
        let a = Account {
            open_orders: 0,
            shorts: 2,
            ..a
        };

        put_account(b.fresh(), &a);
        assert_eq!(b.value, [1, 2, 4, 6, 8, 0xac, 2, 1, 12, 0, 4]);
        assert_eq!(read_account(&b.value), Some(a));
        let a = Account {
            shorts: 0,
            unopened: true,
            ..a
        };

        put_account(b.fresh(), &a);
        assert_eq!(b.value, [1, 2, 4, 6, 8, 0xac, 2, 1, 12, 0, 0, 2]);
        assert_eq!(read_account(&b.value), Some(a));
        let a = Account {
            unopened: false,
            owed_e4: 5,
            ..a
        };

        put_account(b.fresh(), &a);
        assert_eq!(b.value, [1, 2, 4, 6, 8, 0xac, 2, 1, 12, 0, 0, 0, 10]);
        assert_eq!(read_account(&b.value), Some(a));
        let messages = Messages {
            clock: UserBucket {
                tat_us: -1,
                last_seen_us: 2,
            },
            told_ms: 3,
            unanswered: 300,
        };

        let a = Account {
            owed_e4: 0,
            messages,
            ..a
        };

        put_account(b.fresh(), &a);
        assert_eq!(
            b.value,
            [1, 2, 4, 6, 8, 0xac, 2, 1, 12, 0, 0, 0, 0, 1, 4, 6, 0xd8, 4]
        );
        assert_eq!(read_account(&b.value), Some(a));
        let first = [1, 6, 19, 0, 10, 5, 2, 0, 2];
        let back = OrderRecord::read(&first).expect("an entry of version 1");
        assert_eq!(
            (back.status, back.reason, back.content.amount()),
            (Status::Rejected, Some(Reason::InsufficientFunds), Some(1))
        );
        let content = CommandFingerprint(
            b"\x01\x01A\x02\x00\x14\x01\x02\x01\x02\x02\x00\x0a\x00\x01\x01\x00\x00",
        );
        let terms = Terms {
            side: Side::Sell,
            quantity: 10,
            limit_e4: 5,
            ceiling_e4: 6,
            fee_bps: 7,
            short_unit_e4: 8,
        };

        let hold = Hold {
            cash_e4: 1,
            shares: 2,
            incoming_e4: 3,
        };

        let e = OrderRecord {
            cum: 4,
            value_e4: 9,
            terms: Some(terms),
            hold,
            pending: 1,
            stays: true,
            ending: false,
            ..OrderRecord::plain(Status::PartiallyFilled, None, content)
        };

        e.put(&mut b.value);
        assert_eq!(
            b.value[..16],
            [2, 3, 0, 7, 8, 20, 10, 12, 14, 16, 18, 2, 4, 6, 1, 1]
        );
        let back = OrderRecord::read(&b.value).expect("an entry");
        assert_eq!(
            (back.terms, back.hold, back.cum, back.value_e4, back.pending),
            (e.terms, hold, 4, 9, 1)
        );
        let ending = OrderRecord { ending: true, ..e };
        ending.put(&mut b.value);
        assert_eq!(b.value[..5], [2, 3, 0, 23, 8]);
        assert!(OrderRecord::read(&b.value).expect("an entry").ending);
        let ended = OrderRecord {
            status: Status::Filled,
            ..ending
        };

        ended.put(&mut b.value);
        assert_eq!(b.value[..8], [2, 4, 0, 5, 8, 20, 10, 1]);
        assert_eq!(
            OrderRecord::read(&b.value).expect("an entry").quantity(),
            Some(10)
        );
        for e in [e, ended] {
            // One order has a row of trades, of which 4 shares are not busted. The other has a
            // trade in its record.
            let fills =
                OrderFills::read(&mut &[1, 8, 11, 3, b'3', b'-', b'1', 6, 200, 1, 8, 6, 1, 2][..])
                    .expect("trades");
            OrderRecord { fills, ..e }.put(&mut b.value);
            assert_eq!(
                b.value[..10],
                [3, e.status as u8, 0, b.value[3], 8, 20, 10, 18, 1, 8]
            );
            let back = OrderRecord::read(&b.value).expect("an entry");
            assert_eq!(
                (back.hold, back.cum, back.value_e4, back.fills.stand),
                (
                    if e.status == ended.status {
                        Hold::default()
                    } else {
                        hold
                    },
                    4,
                    9,
                    4
                )
            );

            assert_eq!(
                back.fills
                    .in_entry()
                    .flatten()
                    .map(|f| f.trade_id)
                    .collect::<Vec<_>>(),
                ["3-1"]
            );
        }

        assert_eq!(b.key(b'o', "u", Some("1")), b"ou\x001");
        assert_eq!(
            read_position(&[1, 20, 2]),
            Some(Position {
                long: 10,
                reserved: 1,
                ..Default::default()
            })
        );

        assert_eq!(
            read_position(&[1, 20, 2, 4, 6]),
            Some(Position {
                long: 10,
                reserved: 1,
                short: 2,
                collateral_e4: 3
            })
        );

        assert_eq!(
            read_house(&[1, 20, 1, 2]),
            Some(HousePosition {
                cash_e4: 10,
                quantity: -1,
                users_quantity: 1,
                ..Default::default()
            })
        );

        assert_eq!(
            read_house(&[1, 20, 1, 2, 1, 0]).map(|h| (h.clearing_e4, h.clearing_quantity)),
            Some((-1, 0))
        );
        assert_eq!(
            read_totals(&[1, 20, 0, 19]),
            Some(CashTotals {
                users_e4: 10,
                external_e4: -10,
                ..Default::default()
            })
        );

        assert_eq!(
            read_totals(&[1, 20, 0, 25, 0, 4, 2]).map(|t| (
                t.external_e4,
                t.fees_e4,
                t.rounding_e4
            )),
            Some((-13, 2, 1))
        );

        assert_eq!(read_position(&[2, 20, 2]), None, "another version");
        assert_eq!(read_position(&[1, 20, 2, 0, 0, 0]), None, "too long");
    }

    proptest! {
        #[test]
        fn any_bytes(bytes: Vec<u8>) {
            let _ = (read_account(&bytes), read_position(&bytes), read_house(&bytes), read_totals(&bytes), OrderRecord::read(&bytes).map(|e| e.leaves()));
        }
    }
}
