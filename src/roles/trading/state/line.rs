//! An order that goes on in a later record, because it meets more than one record may lead to, and what waits behind it.

use std::io::Write;

use serde_json::{Value, json};

use super::{Buffers, VERSION, flag, order, put_option, put_order, put_priced, take_option, take_order, take_priced, whole};
use crate::domain::book::{Order, Stage};
use crate::domain::price::Priced;
use crate::domain::reason::Reason;
use crate::engine::context::Ctx;
use crate::engine::role::Bug;
use crate::engine::varint::{put, put_bytes, put_signed, take_bytes, take_i64, take_u64};
use crate::roles::intake::bug;

/// What was the case when an order came, or a price: it is decided by that, whenever its turn comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::roles::trading) struct Moment {
    pub time_ms: i64,
    /// The last tick then.
    pub tick: Option<Priced>,
}

/// What is known of an order on its way through the book.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::roles::trading) struct Taker {
    /// Its owner has not heard of it yet.
    pub new: bool,
    /// What the house asked of it when it came, or why the house does not deal.
    pub house: Result<i64, Reason>,
    /// Prices of its first and last trade on its way.
    pub first: Option<i64>,
    pub last: Option<i64>,
}

/// An order that goes on in a later record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::roles::trading) struct Rest<P> {
    pub order: Order<P>,
    pub stage: Stage,
    pub taker: Taker,
    pub moment: Moment,
}

/// What waits for its turn behind such an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::roles::trading) enum Act<'a> {
    /// The market is at a price.
    Price(i64),
    /// A command to the book, as it came.
    Command(&'a [u8]),
}

fn put_moment(out: &mut Vec<u8>, m: Moment) {
    put_signed(out, i128::from(m.time_ms));
    put_priced(out, m.tick);
}

fn take_moment(r: &mut &[u8]) -> Option<Moment> {
    Some(Moment { time_ms: take_i64(r)?, tick: take_priced(r)? })
}

fn put_rest<P>(out: &mut Vec<u8>, owner: &[u8], rest: &Rest<P>) {
    put_bytes(out, owner);
    put_order(out, &rest.order);
    match rest.stage {
        Stage::Trades => out.push(0),
        Stage::Looks { passed, left } => {
            out.push(1);
            put(out, passed);
            put_signed(out, i128::from(left));
        }
    }
    out.push(u8::from(rest.taker.new));
    match rest.taker.house {
        Ok(price_e4) => {
            out.push(1);
            put_signed(out, i128::from(price_e4));
        }
        Err(reason) => {
            out.push(0);
            put(out, reason as u128);
        }
    }
    put_option(out, rest.taker.first);
    put_option(out, rest.taker.last);
    put_moment(out, rest.moment);
}

fn read_rest<P>(bytes: &[u8], party: impl FnOnce(&[u8]) -> Option<P>) -> Option<Rest<P>> {
    whole(bytes, |r| {
        let party = party(take_bytes(r)?)?;
        let order = take_order(r, party)?;
        let stage = if flag(r)? { Stage::Looks { passed: take_u64(r)?, left: take_i64(r)? } } else { Stage::Trades };
        let new = flag(r)?;
        let house = if flag(r)? { Ok(take_i64(r)?) } else { Err(Reason::from_number(take_u64(r)?)?) };
        let taker = Taker { new, house, first: take_option(r)?, last: take_option(r)? };
        Some(Rest { order, stage, taker, moment: take_moment(r)? })
    })
}

fn put_act(out: &mut Vec<u8>, moment: Moment, act: Act<'_>) {
    put_moment(out, moment);
    match act {
        Act::Price(price_e4) => {
            out.push(0);
            put_signed(out, i128::from(price_e4));
        }
        Act::Command(value) => {
            out.push(1);
            put_bytes(out, value);
        }
    }
}

fn read_act(bytes: &[u8]) -> Option<(Moment, Act<'_>)> {
    let (&VERSION, mut rest) = bytes.split_first()? else { return None };
    let r = &mut rest;
    let moment = take_moment(r)?;
    let act = if flag(r)? { Act::Command(take_bytes(r)?) } else { Act::Price(take_i64(r)?) };
    r.is_empty().then_some((moment, act))
}

impl Buffers {
    fn rest(&mut self, symbol: &str) {
        self.key.clear();
        self.key.push(b'u');
        self.key.extend_from_slice(symbol.as_bytes());
    }

    /// The place with a number in a symbol's line; none: the beginning of all of them.
    fn place(&mut self, symbol: &str, number: Option<u64>) {
        self.key.clear();
        self.key.push(b'w');
        self.key.extend_from_slice(symbol.as_bytes());
        self.key.push(0);
        if let Some(number) = number {
            write!(self.key, "{number:020}").expect("writing to memory");
        }
    }
}

/// The order of a symbol that goes on, if there is one.
pub(in crate::roles::trading) fn load_rest<P>(
    ctx: &mut Ctx<'_>,
    b: &mut Buffers,
    symbol: &str,
    party: fn(&[u8]) -> Option<P>,
) -> Result<Option<Rest<P>>, Bug> {
    b.rest(symbol);
    let Some(bytes) = ctx.get(&b.key) else { return Ok(None) };
    match read_rest(bytes, party) {
        Some(rest) => Ok(Some(rest)),
        None => {
            Err(bug(ctx, format_args!("an order of {symbol} that goes on cannot be read; it was written by a newer version or is damaged")))
        }
    }
}

pub(in crate::roles::trading) fn save_rest<P>(ctx: &mut Ctx<'_>, b: &mut Buffers, symbol: &str, owner: &[u8], rest: &Rest<P>) {
    put_rest(b.state(), owner, rest);
    b.rest(symbol);
    ctx.put(&b.key, &b.value);
}

pub(in crate::roles::trading) fn delete_rest(ctx: &mut Ctx<'_>, b: &mut Buffers, symbol: &str) {
    b.rest(symbol);
    ctx.delete(&b.key);
}

/// Numbers of what waits in a symbol's line: the first, and the one behind the last. An empty line begins at 0.
pub(in crate::roles::trading) fn load_line(ctx: &mut Ctx<'_>, b: &mut Buffers, symbol: &str) -> std::ops::Range<u64> {
    b.place(symbol, None);
    let (start, mut line) = (b.key.len(), None);
    ctx.scan(&b.key, &mut |key, _| {
        if let Some(number) = std::str::from_utf8(&key[start..]).ok().and_then(|n| n.parse().ok()) {
            line.get_or_insert(number..number).end = number + 1;
        }
    });
    line.unwrap_or_default()
}

pub(in crate::roles::trading) fn save_act(ctx: &mut Ctx<'_>, b: &mut Buffers, symbol: &str, number: u64, moment: Moment, act: Act<'_>) {
    put_act(b.state(), moment, act);
    b.place(symbol, Some(number));
    ctx.put(&b.key, &b.value);
}

/// Puts what has a place in a line into `value`, as it lies in state; [`read_waiting`] reads it.
pub(in crate::roles::trading) fn load_act(ctx: &mut Ctx<'_>, b: &mut Buffers, symbol: &str, number: u64, value: &mut Vec<u8>) {
    b.place(symbol, Some(number));
    value.clear();
    value.extend_from_slice(ctx.get(&b.key).unwrap_or_default());
}

pub(in crate::roles::trading) fn read_waiting<'v>(ctx: &Ctx<'_>, symbol: &str, value: &'v [u8]) -> Result<(Moment, Act<'v>), Bug> {
    let text = format_args!("what waits in the line of {symbol} cannot be read; it was written by a newer version or is damaged");
    read_act(value).ok_or_else(|| bug(ctx, text))
}

pub(in crate::roles::trading) fn delete_act(ctx: &mut Ctx<'_>, b: &mut Buffers, symbol: &str, number: u64) {
    b.place(symbol, Some(number));
    ctx.delete(&b.key);
}

pub(super) fn show(letter: u8, value: &[u8]) -> Option<Value> {
    if letter == b'u' {
        let r = read_rest(value, |owner| Some(String::from_utf8_lossy(owner).replace('\0', "/")))?;
        return Some(
            json!({"owner": r.order.party, "order": order(&r.order), "trades": r.stage == Stage::Trades, "time_ms": r.moment.time_ms}),
        );
    }
    let (moment, act) = read_act(value)?;
    Some(match act {
        Act::Price(price_e4) => json!({"time_ms": moment.time_ms, "price_e4": price_e4}),
        Act::Command(bytes) => json!({"time_ms": moment.time_ms, "command": rmp_serde::from_slice::<Value>(bytes).ok()?}),
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::sample;
    use super::*;
    use proptest::prelude::*;

    /// Later versions must read what this one wrote.
    #[test]
    fn golden_bytes() {
        let mut b = Buffers::default();
        let o = sample(1);
        let tick = Some(Priced { price_e4: 5, time_ms: 6 });
        let moment = Moment { time_ms: 7, tick };
        let taker = Taker { new: true, house: Err(Reason::NoLiquidity), first: Some(8), last: Some(9) };
        let rest = Rest { order: o, stage: Stage::Looks { passed: 300, left: 2 }, taker, moment };
        put_rest(b.state(), b"u\x001", &rest);
        let reason = Reason::NoLiquidity as u8;
        let order = [3, 2, 3, 2, 2, 4, 8, 10, 12, 1, 18];
        let bytes = [&[1, 3, b'u', 0, b'1'][..], &order, &[1, 0xac, 2, 4, 1, 0, reason, 1, 16, 1, 18, 14, 1, 10, 12]].concat();
        assert_eq!(b.value, bytes);
        assert_eq!(read_rest(&b.value, |owner| (owner == b"u\x001").then_some(1)), Some(rest.clone()));
        let trades = Rest { stage: Stage::Trades, taker: Taker { house: Ok(7), ..taker }, ..rest };
        put_rest(b.state(), b"", &trades);
        assert_eq!(read_rest(&b.value, |_| Some(1)), Some(trades));
        for (act, bytes) in [(Act::Price(-2), &[0, 3][..]), (Act::Command(b"xy"), &[1, 2, b'x', b'y'])] {
            put_act(b.state(), Moment { tick: None, ..moment }, act);
            assert_eq!(b.value, [&[1, 14, 0], bytes].concat());
            assert_eq!(read_act(&b.value), Some((Moment { tick: None, ..moment }, act)));
        }
        b.place("A", Some(258));
        assert_eq!(b.key, b"wA\x0000000000000000000258");
    }

    proptest! {
        #[test]
        fn any_bytes(bytes: Vec<u8>) {
            let _ = (read_rest(&bytes, |_| Some(())), read_act(&bytes));
        }
    }
}
