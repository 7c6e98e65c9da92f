//! What `orders` keeps, byte by byte. Keys are a letter, then ids separated by a zero byte (ids have none); values begin with a version.
//!
//! | key | value |
//! |---|---|
//! | `a` user | account |
//! | `p` user 0 symbol | position |
//! | `o` user 0 order id | what became of that id, and its content |
//! | `h` symbol | the house's side of the symbol |
//! | `t` | the task's totals |

use crate::domain::account::{Account, House, Position, Totals};
use crate::domain::rate_limit::Clock;
use crate::domain::reason::Reason;
use crate::domain::status::Status;
use crate::engine::context::Ctx;
use crate::engine::role::Bug;
use crate::engine::varint::{put, put_signed, take_i64, take_signed, take_u64};
use crate::roles::intake::bug;
use crate::wire::content::Content;

const VERSION: u8 = 1;

/// Room for a key and a value, used again and again.
#[derive(Default)]
pub(super) struct Buffers {
    pub key: Vec<u8>,
    pub value: Vec<u8>,
}

impl Buffers {
    fn key(&mut self, letter: u8, first: &str, second: Option<&str>) -> &[u8] {
        self.key.clear();
        self.key.push(letter);
        self.key.extend_from_slice(first.as_bytes());
        if let Some(second) = second {
            self.key.push(0);
            self.key.extend_from_slice(second.as_bytes());
        }
        &self.key
    }

    /// Begins a value.
    fn fresh(&mut self) -> &mut Vec<u8> {
        self.value.clear();
        self.value.push(VERSION);
        &mut self.value
    }
}

/// Splits the version off.
fn body(bytes: &[u8]) -> Option<&[u8]> {
    match bytes.split_first() {
        Some((&VERSION, rest)) => Some(rest),
        _ => None,
    }
}

/// Reads a value that ends where it should.
fn whole<T>(bytes: &[u8], read: impl FnOnce(&mut &[u8]) -> Option<T>) -> Option<T> {
    let mut rest = body(bytes)?;
    let value = read(&mut rest)?;
    rest.is_empty().then_some(value)
}

fn put_account(out: &mut Vec<u8>, a: &Account) {
    for n in [a.available_e4, a.reserved_e4, a.incoming_e4, a.turnover_e4] {
        put_signed(out, i128::from(n));
    }
    put(out, a.user_seq);
    put_signed(out, i128::from(a.clock.tat_us));
    put_signed(out, i128::from(a.clock.last_seen_us));
}

pub(super) fn read_account(bytes: &[u8]) -> Option<Account> {
    whole(bytes, |r| {
        Some(Account {
            available_e4: take_i64(r)?,
            reserved_e4: take_i64(r)?,
            incoming_e4: take_i64(r)?,
            turnover_e4: take_i64(r)?,
            user_seq: take_u64(r)?,
            clock: Clock { tat_us: take_i64(r)?, last_seen_us: take_i64(r)? },
        })
    })
}

pub(super) fn read_position(bytes: &[u8]) -> Option<Position> {
    whole(bytes, |r| Some(Position { quantity: take_i64(r)?, reserved: take_i64(r)? }))
}

pub(super) fn read_house(bytes: &[u8]) -> Option<House> {
    whole(bytes, |r| Some(House { cash_e4: take_signed(r)?, quantity: take_signed(r)?, users_quantity: take_signed(r)? }))
}

pub(super) fn read_totals(bytes: &[u8]) -> Option<Totals> {
    whole(bytes, |r| Some(Totals { users_e4: take_signed(r)?, house_e4: take_signed(r)?, external_e4: take_signed(r)? }))
}

/// What became of an order id.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry<'a> {
    pub status: Status,
    /// Why it was rejected or cancelled.
    pub reason: Option<Reason>,
    /// How many traded.
    pub cum: i64,
    /// What is set aside for it.
    pub hold_e4: i64,
    /// What was asked for.
    pub content: Content<'a>,
}

impl<'a> Entry<'a> {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(self.status as u8);
        put(out, self.reason.map_or(0, |r| r as u128));
        put_signed(out, i128::from(self.cum));
        put_signed(out, i128::from(self.hold_e4));
        out.extend_from_slice(self.content.0);
    }

    /// Reads an entry as [`load_order`] copied it.
    pub(super) fn read(bytes: &'a [u8]) -> Option<Self> {
        let (&status, mut rest) = body(bytes)?.split_first()?;
        let reason = match take_u64(&mut rest)? {
            0 => None,
            n => Some(Reason::from_number(n)?),
        };
        let (cum, hold_e4) = (take_i64(&mut rest)?, take_i64(&mut rest)?);
        let content = Content(rest);
        content.kind()?;
        content.quantity().unwrap_or(0).checked_sub(cum)?;
        Some(Entry { status: Status::from_number(status)?, reason, cum, hold_e4, content })
    }

    /// What has not traded and still may.
    pub(super) fn leaves(&self) -> i64 {
        if self.status.is_terminal() { 0 } else { self.content.quantity().unwrap_or(0) - self.cum }
    }
}

fn load<T>(ctx: &mut Ctx<'_>, key: &[u8], what: &str, read: fn(&[u8]) -> Option<T>) -> Result<Option<T>, Bug> {
    let Some(bytes) = ctx.get(key) else { return Ok(None) };
    match read(bytes) {
        Some(value) => Ok(Some(value)),
        None => Err(unreadable(ctx, what)),
    }
}

/// A value that this version cannot read.
pub(super) fn unreadable(ctx: &Ctx<'_>, what: &str) -> Bug {
    bug(ctx, format_args!("state of {what} cannot be read; it was written by a newer version or is damaged"))
}

pub(super) fn load_account(ctx: &mut Ctx<'_>, b: &mut Buffers, user: &str) -> Result<Option<Account>, Bug> {
    load(ctx, b.key(b'a', user, None), "an account", read_account)
}

pub(super) fn save_account(ctx: &mut Ctx<'_>, b: &mut Buffers, user: &str, a: &Account) {
    put_account(b.fresh(), a);
    b.key(b'a', user, None);
    ctx.put(&b.key, &b.value);
}

pub(super) fn load_position(ctx: &mut Ctx<'_>, b: &mut Buffers, user: &str, symbol: &str) -> Result<Position, Bug> {
    Ok(load(ctx, b.key(b'p', user, Some(symbol)), "a position", read_position)?.unwrap_or_default())
}

pub(super) fn save_position(ctx: &mut Ctx<'_>, b: &mut Buffers, user: &str, symbol: &str, p: &Position) {
    let value = b.fresh();
    put_signed(value, i128::from(p.quantity));
    put_signed(value, i128::from(p.reserved));
    b.key(b'p', user, Some(symbol));
    if *p == Position::default() { ctx.delete(&b.key) } else { ctx.put(&b.key, &b.value) }
}

/// Copies the entry of an order id into `into`; false if the id was never used.
pub(super) fn load_order(ctx: &mut Ctx<'_>, b: &mut Buffers, user: &str, order_id: &str, into: &mut Vec<u8>) -> bool {
    into.clear();
    match ctx.get(b.key(b'o', user, Some(order_id))) {
        Some(bytes) => {
            into.extend_from_slice(bytes);
            true
        }
        None => false,
    }
}

pub(super) fn save_order(ctx: &mut Ctx<'_>, b: &mut Buffers, user: &str, order_id: &str, e: &Entry<'_>) {
    e.put(b.fresh());
    b.key(b'o', user, Some(order_id));
    ctx.put(&b.key, &b.value);
}

pub(super) fn load_house(ctx: &mut Ctx<'_>, b: &mut Buffers, symbol: &str) -> Result<House, Bug> {
    Ok(load(ctx, b.key(b'h', symbol, None), "the house", read_house)?.unwrap_or_default())
}

pub(super) fn save_house(ctx: &mut Ctx<'_>, b: &mut Buffers, symbol: &str, h: &House) {
    let value = b.fresh();
    [h.cash_e4, h.quantity, h.users_quantity].into_iter().for_each(|n| put_signed(value, n));
    b.key(b'h', symbol, None);
    ctx.put(&b.key, &b.value);
}

pub(super) fn load_totals(ctx: &mut Ctx<'_>) -> Result<Totals, Bug> {
    Ok(load(ctx, b"t", "the totals", read_totals)?.unwrap_or_default())
}

pub(super) fn save_totals(ctx: &mut Ctx<'_>, b: &mut Buffers, t: &Totals) {
    let value = b.fresh();
    [t.users_e4, t.house_e4, t.external_e4].into_iter().for_each(|n| put_signed(value, n));
    ctx.put(b"t", &b.value);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Later versions must read what this one wrote.
    #[test]
    fn golden_bytes() {
        let mut b = Buffers::default();
        let a = Account {
            available_e4: 1,
            reserved_e4: 2,
            incoming_e4: 3,
            turnover_e4: 4,
            user_seq: 300,
            clock: Clock { tat_us: -1, last_seen_us: 6 },
        };
        put_account(b.fresh(), &a);
        assert_eq!(b.value, [1, 2, 4, 6, 8, 0xac, 2, 1, 12]);
        assert_eq!(read_account(&b.value), Some(a));
        let e = Entry {
            status: Status::Rejected,
            reason: Some(Reason::InsufficientFunds),
            cum: 0,
            hold_e4: 5,
            content: Content(b"\x05\x02\x00\x02"),
        };
        e.put(b.fresh());
        assert_eq!(b.value, [1, 6, 19, 0, 10, 5, 2, 0, 2]);
        let back = Entry::read(&b.value).expect("an entry");
        assert_eq!((back.status, back.reason, back.hold_e4, back.content.amount()), (e.status, e.reason, 5, Some(1)));
        assert_eq!(b.key(b'o', "u", Some("1")), b"ou\x001");
        assert_eq!(read_position(&[1, 20, 2]), Some(Position { quantity: 10, reserved: 1 }));
        assert_eq!(read_house(&[1, 20, 1, 2]), Some(House { cash_e4: 10, quantity: -1, users_quantity: 1 }));
        assert_eq!(read_totals(&[1, 20, 0, 19]), Some(Totals { users_e4: 10, house_e4: 0, external_e4: -10 }));
        assert_eq!(read_position(&[2, 20, 2]), None, "another version");
        assert_eq!(read_position(&[1, 20, 2, 0]), None, "too long");
    }

    proptest! {
        #[test]
        fn any_bytes(bytes: Vec<u8>) {
            let _ = (read_account(&bytes), read_position(&bytes), read_house(&bytes), read_totals(&bytes), Entry::read(&bytes).map(|e| e.leaves()));
        }
    }
}
