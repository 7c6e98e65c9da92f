//! An order that used up its record's budget, so matching continues in later records. Also the acts
//! that wait behind that order.

use std::io::Write;

use domain::book::{Order, Quote, Stage};
use domain::price::Priced;
use domain::reason::Reason;
use domain::status::Side;
use engine::context::Ctx;
use engine::role::InvariantViolation;
use ports::varint::{put, put_bytes, put_signed, take_bytes, take_i64, take_u64};
use serde_json::{Value, json};

use super::{
    TradingBuffers, VERSION, flag, order, put_option, put_order, put_priced, take, take_option,
    take_order, take_priced, whole,
};
use crate::ingress::violation;

/// Time and price at which an act arrived. The act is decided by these values, even if its turn
/// comes later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::trading) struct ArrivalMoment {
    pub time_ms: i64,
    /// Last tick at that time.
    pub tick: Option<Priced>,
}

/// Progress of an order that is matching.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::trading) struct Taker {
    /// The owner has had no execution for the order yet.
    pub new: bool,
    /// Place of the house, as the order met it.
    pub dealer: Dealer,
    /// Prices of the first and last trade of this order.
    pub first: Option<i64>,
    pub last: Option<i64>,
}

/// Place of the house at the arrival of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::trading) enum Dealer {
    /// The house stands outside the book. It takes the remainder of a market order at this price,
    /// or does not, for this reason. Used by old rules, and for symbols without a house.
    Outside(Result<i64, Reason>),
    /// The house has a place in the book, with the rest of its offer; `None` while no price is
    /// fresh. Stops compare with ticks only.
    InBook(Option<Quote>),
}

/// A new quote of the house, while it trades with resting orders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::trading) struct Crossing {
    /// Price of the tick that moved the quote; stops compare with it afterwards.
    pub price_e4: i64,
    /// Side of the resting orders in turn: first buys, then sells.
    pub side: Side,
    /// The house's price for buyers.
    pub ask: Option<Quote>,
    /// The house's price for sellers.
    pub bid: Option<Quote>,
    /// Resting orders at the front that have received their whole share of this quote.
    pub passed: u64,
}

/// An order whose matching continues in a later record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::trading) struct Rest<P> {
    pub order: Order<P>,
    pub stage: Stage,
    pub taker: Taker,
    pub moment: ArrivalMoment,
}

/// A command or price that waits behind an unfinished order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::trading) enum WaitingAct<'a> {
    /// Market price.
    Price(i64),
    /// Book command, in its encoded form.
    Command(&'a [u8]),
    /// Price that has begun to move the house's quote and to trigger stops.
    Crossing(Crossing),
}

fn put_moment(out: &mut Vec<u8>, m: ArrivalMoment) {
    put_signed(out, i128::from(m.time_ms));
    put_priced(out, m.tick);
}

fn take_moment(r: &mut &[u8]) -> Option<ArrivalMoment> {
    Some(ArrivalMoment {
        time_ms: take_i64(r)?,
        tick: take_priced(r)?,
    })
}

fn put_quote(out: &mut Vec<u8>, quote: Option<Quote>) {
    out.push(u8::from(quote.is_some()));
    quote.into_iter().for_each(|q| {
        [q.price_e4, q.left]
            .into_iter()
            .for_each(|n| put_signed(out, i128::from(n)))
    });
}

fn take_quote(r: &mut &[u8]) -> Option<Option<Quote>> {
    Some(if flag(r)? {
        Some(Quote {
            price_e4: take_i64(r)?,
            left: take_i64(r)?,
        })
    } else {
        None
    })
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
    match rest.taker.dealer {
        Dealer::Outside(Err(reason)) => {
            out.push(0);
            put(out, reason as u128);
        }
        Dealer::Outside(Ok(price_e4)) => {
            out.push(1);
            put_signed(out, i128::from(price_e4));
        }
        Dealer::InBook(quote) => {
            out.push(2);
            put_quote(out, quote);
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
        let stage = if flag(r)? {
            Stage::Looks {
                passed: take_u64(r)?,
                left: take_i64(r)?,
            }
        } else {
            Stage::Trades
        };

        let new = flag(r)?;
        let dealer = match take(r)? {
            0 => Dealer::Outside(Err(Reason::from_number(take_u64(r)?)?)),
            1 => Dealer::Outside(Ok(take_i64(r)?)),
            2 => Dealer::InBook(take_quote(r)?),
            _ => return None,
        };

        let taker = Taker {
            new,
            dealer,
            first: take_option(r)?,
            last: take_option(r)?,
        };

        Some(Rest {
            order,
            stage,
            taker,
            moment: take_moment(r)?,
        })
    })
}

fn put_act(out: &mut Vec<u8>, moment: ArrivalMoment, act: WaitingAct<'_>) {
    put_moment(out, moment);
    match act {
        WaitingAct::Price(price_e4) => {
            out.push(0);
            put_signed(out, i128::from(price_e4));
        }
        WaitingAct::Command(value) => {
            out.push(1);
            put_bytes(out, value);
        }
        WaitingAct::Crossing(c) => {
            out.push(2);
            put_signed(out, i128::from(c.price_e4));
            out.push(c.side as u8);
            put_quote(out, c.ask);
            put_quote(out, c.bid);
            put(out, c.passed);
        }
    }
}

fn read_act(bytes: &[u8]) -> Option<(ArrivalMoment, WaitingAct<'_>)> {
    let (&VERSION, mut rest) = bytes.split_first()? else {
        return None;
    };

    let r = &mut rest;
    let moment = take_moment(r)?;
    let act = match take(r)? {
        0 => WaitingAct::Price(take_i64(r)?),
        1 => WaitingAct::Command(take_bytes(r)?),
        2 => WaitingAct::Crossing(Crossing {
            price_e4: take_i64(r)?,
            side: Side::from_number(u8::try_from(take(r)?).ok()?)?,
            ask: take_quote(r)?,
            bid: take_quote(r)?,
            passed: take_u64(r)?,
        }),
        _ => return None,
    };

    r.is_empty().then_some((moment, act))
}

impl TradingBuffers {
    fn rest(&mut self, symbol: &str) {
        self.key.clear();
        self.key.push(b'u');
        self.key.extend_from_slice(symbol.as_bytes());
    }

    /// Key of an act in a symbol's line; without a number, the common prefix.
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

/// The unfinished order of a symbol.
pub(in crate::trading) fn load_rest<P>(
    ctx: &mut Ctx<'_>,
    b: &mut TradingBuffers,
    symbol: &str,
    party: fn(&[u8]) -> Option<P>,
) -> Result<Option<Rest<P>>, InvariantViolation> {
    b.rest(symbol);
    let Some(bytes) = ctx.get(&b.key) else {
        return Ok(None);
    };

    match read_rest(bytes, party) {
        Some(rest) => Ok(Some(rest)),
        None => Err(violation(
            ctx,
            format_args!(
                "an order of {symbol} that goes on cannot be read; it was written by a newer version or is damaged"
            ),
        )),
    }
}

pub(in crate::trading) fn save_rest<P>(
    ctx: &mut Ctx<'_>,
    b: &mut TradingBuffers,
    symbol: &str,
    owner: &[u8],
    rest: &Rest<P>,
) {
    put_rest(b.state(), owner, rest);
    b.rest(symbol);
    ctx.put(&b.key, &b.value);
}

pub(in crate::trading) fn delete_rest(ctx: &mut Ctx<'_>, b: &mut TradingBuffers, symbol: &str) {
    b.rest(symbol);
    ctx.delete(&b.key);
}

/// Range of act numbers in a symbol's waiting line. An empty line is `0..0`.
pub(in crate::trading) fn load_line(
    ctx: &mut Ctx<'_>,
    b: &mut TradingBuffers,
    symbol: &str,
) -> std::ops::Range<u64> {
    b.place(symbol, None);
    let start = b.key.len();
    let mut line = None;
    ctx.scan(&b.key, &mut |key, _| {
        if let Some(number) = std::str::from_utf8(&key[start..])
            .ok()
            .and_then(|n| n.parse().ok())
        {
            line.get_or_insert(number..number).end = number + 1;
        }
    });

    line.unwrap_or_default()
}

pub(in crate::trading) fn save_act(
    ctx: &mut Ctx<'_>,
    b: &mut TradingBuffers,
    symbol: &str,
    number: u64,
    moment: ArrivalMoment,
    act: WaitingAct<'_>,
) {
    put_act(b.state(), moment, act);
    b.place(symbol, Some(number));
    ctx.put(&b.key, &b.value);
}

/// Copies the state bytes of a waiting act into `value`, for [`read_waiting`].
pub(in crate::trading) fn load_act(
    ctx: &mut Ctx<'_>,
    b: &mut TradingBuffers,
    symbol: &str,
    number: u64,
    value: &mut Vec<u8>,
) {
    b.place(symbol, Some(number));
    value.clear();
    value.extend_from_slice(ctx.get(&b.key).unwrap_or_default());
}

pub(in crate::trading) fn read_waiting<'v>(
    ctx: &Ctx<'_>,
    symbol: &str,
    value: &'v [u8],
) -> Result<(ArrivalMoment, WaitingAct<'v>), InvariantViolation> {
    let text = format_args!(
        "what waits in the line of {symbol} cannot be read; it was written by a newer version or is damaged"
    );
    read_act(value).ok_or_else(|| violation(ctx, text))
}

pub(in crate::trading) fn delete_act(
    ctx: &mut Ctx<'_>,
    b: &mut TradingBuffers,
    symbol: &str,
    number: u64,
) {
    b.place(symbol, Some(number));
    ctx.delete(&b.key);
}

pub(super) fn show(letter: u8, value: &[u8]) -> Option<Value> {
    if letter == b'u' {
        let r = read_rest(value, |owner| {
            Some(String::from_utf8_lossy(owner).replace('\0', "/"))
        })?;

        return Some(
            json!({"owner": r.order.party, "order": order(&r.order), "trades": r.stage == Stage::Trades, "time_ms": r.moment.time_ms}),
        );
    }

    let (moment, act) = read_act(value)?;
    Some(match act {
        WaitingAct::Price(price_e4) => json!({"time_ms": moment.time_ms, "price_e4": price_e4}),
        WaitingAct::Command(bytes) => {
            json!({"time_ms": moment.time_ms, "command": rmp_serde::from_slice::<Value>(bytes).ok()?})
        }
        WaitingAct::Crossing(c) => {
            json!({"time_ms": moment.time_ms, "price_e4": c.price_e4, "quote_to": c.side.name(), "passed": c.passed})
        }
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::sample;
    use super::*;
    use proptest::prelude::*;

    /// Golden bytes: later versions must read the bytes of this version.
    #[test]
    fn golden_bytes() {
        let mut b = TradingBuffers::default();
        let o = sample(1);
        let tick = Some(Priced {
            price_e4: 5,
            time_ms: 6,
        });

        let moment = ArrivalMoment { time_ms: 7, tick };
        let taker = Taker {
            new: true,
            dealer: Dealer::Outside(Err(Reason::NoLiquidity)),
            first: Some(8),
            last: Some(9),
        };

        let rest = Rest {
            order: o,
            stage: Stage::Looks {
                passed: 300,
                left: 2,
            },
            taker,
            moment,
        };

        put_rest(b.state(), b"u\x001", &rest);
        let reason = Reason::NoLiquidity as u8;
        let order = [3, 2, 3, 2, 2, 4, 8, 10, 12, 1, 18];
        let bytes = [
            &[1, 3, b'u', 0, b'1'][..],
            &order,
            &[1, 0xac, 2, 4, 1, 0, reason, 1, 16, 1, 18, 14, 1, 10, 12],
        ]
        .concat();
        assert_eq!(b.value, bytes);
        assert_eq!(
            read_rest(&b.value, |owner| (owner == b"u\x001").then_some(1)),
            Some(rest.clone())
        );
        let quote = Quote {
            price_e4: 7,
            left: 300,
        };

        for (dealer, bytes) in [
            (Dealer::Outside(Ok(7)), &[1, 14][..]),
            (Dealer::InBook(None), &[2, 0]),
            (Dealer::InBook(Some(quote)), &[2, 1, 14, 0xd8, 4]),
        ] {
            let trades = Rest {
                stage: Stage::Trades,
                taker: Taker { dealer, ..taker },
                ..rest.clone()
            };

            put_rest(b.state(), b"", &trades);
            assert_eq!(
                b.value,
                [
                    &[1, 0][..],
                    &order,
                    &[0, 1],
                    bytes,
                    &[1, 16, 1, 18, 14, 1, 10, 12]
                ]
                .concat()
            );

            assert_eq!(read_rest(&b.value, |_| Some(1)), Some(trades));
        }

        let crossing = Crossing {
            price_e4: 7,
            side: Side::Buy,
            ask: None,
            bid: Some(quote),
            passed: 5,
        };

        for (act, bytes) in [
            (WaitingAct::Price(-2), &[0, 3][..]),
            (WaitingAct::Command(b"xy"), &[1, 2, b'x', b'y']),
            (
                WaitingAct::Crossing(crossing),
                &[2, 14, 1, 0, 1, 14, 0xd8, 4, 5],
            ),
        ] {
            put_act(
                b.state(),
                ArrivalMoment {
                    tick: None,
                    ..moment
                },
                act,
            );

            assert_eq!(b.value, [&[1, 14, 0], bytes].concat());
            assert_eq!(
                read_act(&b.value),
                Some((
                    ArrivalMoment {
                        tick: None,
                        ..moment
                    },
                    act
                ))
            );
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
