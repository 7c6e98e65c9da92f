//! The state of `trading`, byte by byte. Keys are a letter of [`STATE_SCHEMA`], then ids separated
//! by a zero byte; values begin with a version.

use domain::book::{BookState, FOREVER, Life, Order};
use domain::price::{Priced, Prices};
use domain::status::Side;
use domain::tick::Source;
use engine::context::Ctx;
use engine::role::InvariantViolation;
use ports::varint::{put, put_signed, take, take_i64, take_signed, take_u64};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::ingress::violation;
use crate::show::{StateKey, number};

mod line;

pub(super) use line::{
    ArrivalMoment, Crossing, Dealer, Rest, Taker, WaitingAct, delete_act, delete_rest, load_act,
    load_line, load_rest, read_waiting, save_act, save_rest,
};

pub(crate) const STATE_SCHEMA: &[StateKey] = &[
    StateKey::lettered(b's', "price/SYMBOL", "prices"),
    StateKey::lettered(
        b'q',
        "source/SYMBOL/NAME",
        "last sequence number and time of a source",
    ),
    StateKey::lettered(
        b'Q',
        "source-hash/SYMBOL/HASH",
        "the same for a source with a long name",
    ),
    StateKey::lettered(b't', "trades", "number of the last trade"),
    StateKey::lettered(
        b'b',
        "book/SYMBOL",
        "the next place in the queue, armed stops, the last trade, and if a quote is owed",
    ),
    // From the places, a restart rebuilds the queues.
    StateKey::lettered(
        b'o',
        "resting/SYMBOL/USER/ORDER",
        "an order in the book, with its place",
    ),
    StateKey::lettered(
        b'u',
        "crossing/SYMBOL",
        "an order that used up its record's budget, and its progress",
    ),
    StateKey::lettered(
        b'w',
        "waiting/SYMBOL/NUMBER",
        "an act that waits behind the order in `crossing`",
    ),
    StateKey::lettered(
        b'c',
        "goes-on",
        "flag: a clock record that continues leftover work is in flight",
    ),
    StateKey::lettered(
        b'k',
        "ends-orders",
        "flag: orders of switched-off users have yet to end",
    ),
];

const VERSION: u8 = 1;
/// Longest source name that is a key itself; a longer name is hashed.
const SOURCE_BYTES_MAX: usize = 64;

/// Reusable buffers for a key and a value.
#[derive(Default)]
pub(super) struct TradingBuffers {
    key: Vec<u8>,
    value: Vec<u8>,
}

impl TradingBuffers {
    /// Clears the value buffer.
    pub(super) fn fresh(&mut self) -> &mut Vec<u8> {
        self.value.clear();
        &mut self.value
    }

    fn state(&mut self) -> &mut Vec<u8> {
        let value = self.fresh();
        value.push(VERSION);
        value
    }

    fn symbol(&mut self, symbol: &str) {
        self.key.clear();
        self.key.push(b's');
        self.key.extend_from_slice(symbol.as_bytes());
    }

    fn source(&mut self, symbol: &str, source: Option<&str>) {
        let source = source.unwrap_or_default().as_bytes();
        let short = source.len() <= SOURCE_BYTES_MAX;
        self.key.clear();
        self.key.push(if short { b'q' } else { b'Q' });
        self.key.extend_from_slice(symbol.as_bytes());
        self.key.push(0);
        if short {
            self.key.extend_from_slice(source)
        } else {
            self.key.extend_from_slice(&Sha256::digest(source))
        }
    }
}

fn put_priced(out: &mut Vec<u8>, p: Option<Priced>) {
    out.push(u8::from(p.is_some()));
    if let Some(p) = p {
        put_signed(out, i128::from(p.price_e4));
        put_signed(out, i128::from(p.time_ms));
    }
}

fn flag(r: &mut &[u8]) -> Option<bool> {
    Some(take(r)? == 1)
}

fn take_priced(r: &mut &[u8]) -> Option<Option<Priced>> {
    Some(if flag(r)? {
        Some(Priced {
            price_e4: take_i64(r)?,
            time_ms: take_i64(r)?,
        })
    } else {
        None
    })
}

fn put_prices(out: &mut Vec<u8>, p: &Prices) {
    put_priced(out, p.last);
    put_priced(out, p.told);
    out.push(u8::from(p.held.is_some()));
    if let Some((price, agreed)) = p.held {
        put_signed(out, i128::from(price));
        out.push(agreed);
    }

    put(out, p.accepted);
    put(out, p.late);
}

fn whole<T>(bytes: &[u8], read: impl FnOnce(&mut &[u8]) -> Option<T>) -> Option<T> {
    let (&VERSION, mut rest) = bytes.split_first()? else {
        return None;
    };

    let value = read(&mut rest)?;
    rest.is_empty().then_some(value)
}

fn read_prices(bytes: &[u8]) -> Option<Prices> {
    whole(bytes, |r| {
        let last = take_priced(r)?;
        let told = take_priced(r)?;
        let held = if flag(r)? {
            Some((take_i64(r)?, u8::try_from(take(r)?).ok()?))
        } else {
            None
        };

        Some(Prices {
            last,
            told,
            held,
            accepted: take_u64(r)?,
            late: take_u64(r)?,
        })
    })
}

fn put_source(out: &mut Vec<u8>, s: &Source) {
    let parts = [
        s.seq.is_some(),
        s.time_ns.is_some(),
        s.seen_ms.is_some(),
        s.late > 0,
        s.before_ns.is_some(),
    ];

    out.push(
        parts
            .into_iter()
            .enumerate()
            .map(|(bit, there)| u8::from(there) << bit)
            .sum(),
    );

    s.seq.into_iter().for_each(|n| put(out, n));
    s.time_ns.into_iter().for_each(|n| put_signed(out, n));
    s.seen_ms
        .into_iter()
        .for_each(|n| put_signed(out, i128::from(n)));
    Some(s.late)
        .filter(|n| *n > 0)
        .into_iter()
        .for_each(|n| put(out, n));
    s.before_ns.into_iter().for_each(|n| put_signed(out, n));
}

fn read_source(bytes: &[u8]) -> Option<Source> {
    whole(bytes, |r| {
        let parts = take(r)?;
        let seq = if parts & 1 != 0 {
            Some(take_u64(r)?)
        } else {
            None
        };

        let time_ns = if parts & 2 != 0 {
            Some(take_signed(r)?)
        } else {
            None
        };

        let seen_ms = if parts & 4 != 0 {
            Some(take_i64(r)?)
        } else {
            None
        };

        let late = if parts & 8 != 0 { take_u64(r)? } else { 0 };
        let before_ns = if parts & 16 != 0 {
            Some(take_signed(r)?)
        } else {
            None
        };

        Some(Source {
            seq,
            time_ns,
            seen_ms,
            late,
            before_ns,
        })
    })
}

fn load<T: Default>(
    ctx: &mut Ctx<'_>,
    key: &[u8],
    what: &str,
    read: fn(&[u8]) -> Option<T>,
) -> Result<T, InvariantViolation> {
    let Some(bytes) = ctx.get(key) else {
        return Ok(T::default());
    };

    match read(bytes) {
        Some(value) => Ok(value),
        None => Err(violation(
            ctx,
            format_args!(
                "state of {what} cannot be read; it was written by a newer version or is damaged"
            ),
        )),
    }
}

pub(super) fn load_prices(
    ctx: &mut Ctx<'_>,
    b: &mut TradingBuffers,
    symbol: &str,
) -> Result<Prices, InvariantViolation> {
    b.symbol(symbol);
    load(ctx, &b.key, "a symbol's prices", read_prices)
}

pub(super) fn save_prices(ctx: &mut Ctx<'_>, b: &mut TradingBuffers, symbol: &str, p: &Prices) {
    put_prices(b.state(), p);
    b.symbol(symbol);
    ctx.put(&b.key, &b.value);
}

pub(super) fn load_source(
    ctx: &mut Ctx<'_>,
    b: &mut TradingBuffers,
    symbol: &str,
    source: Option<&str>,
) -> Result<Source, InvariantViolation> {
    b.source(symbol, source);
    load(ctx, &b.key, "a source of ticks", read_source)
}

pub(super) fn save_source(
    ctx: &mut Ctx<'_>,
    b: &mut TradingBuffers,
    symbol: &str,
    source: Option<&str>,
    s: &Source,
) {
    put_source(b.state(), s);
    b.source(symbol, source);
    ctx.put(&b.key, &b.value);
}

/// Takes the task's next trade number; numbers start at 1.
pub(super) fn next_trade(
    ctx: &mut Ctx<'_>,
    b: &mut TradingBuffers,
) -> Result<u64, InvariantViolation> {
    let next = load(ctx, b"t", "the trade counter", |bytes| {
        whole(bytes, take_u64)
    })? + 1;
    put(b.state(), u128::from(next));
    ctx.put(b"t", &b.value);
    Ok(next)
}

/// State of a book besides its orders.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct BookHead {
    pub head: BookState,
    /// Last trade between users that stops have compared their prices with.
    pub trade: Option<Priced>,
    /// The house owes resting orders a quote: the house was absent, or the symbol was not open,
    /// when an order came to rest or a tick came. Written only if true.
    pub owed: bool,
}

fn put_option(out: &mut Vec<u8>, n: Option<i64>) {
    out.push(u8::from(n.is_some()));
    n.into_iter().for_each(|n| put_signed(out, i128::from(n)));
}

fn take_option(r: &mut &[u8]) -> Option<Option<i64>> {
    Some(if flag(r)? { Some(take_i64(r)?) } else { None })
}

fn put_head(out: &mut Vec<u8>, h: &BookHead) {
    put(out, h.head.next_seq);
    put(out, h.head.doomed_below);
    put_option(out, h.head.rose_to);
    put_option(out, h.head.fell_to);
    put_priced(out, h.trade);
    if h.owed {
        out.push(1);
    }
}

fn read_head(bytes: &[u8]) -> Option<BookHead> {
    whole(bytes, |r| {
        let next_seq = take_u64(r)?;
        let doomed_below = take_u64(r)?;
        let head = BookState {
            next_seq,
            doomed_below,
            rose_to: take_option(r)?,
            fell_to: take_option(r)?,
        };

        let trade = take_priced(r)?;
        Some(BookHead {
            head,
            trade,
            owed: !r.is_empty() && flag(r)?,
        })
    })
}

const MARKET: u8 = 1;
const POST_ONLY: u8 = 2;

fn put_order<P>(out: &mut Vec<u8>, o: &Order<P>) {
    put(out, o.seq);
    out.push(o.side as u8);
    out.push(o.life as u8);
    out.push(u8::from(o.market) * MARKET + u8::from(o.post_only) * POST_ONLY);
    [o.limit_e4, o.ceiling_e4, o.leaves, o.cum, o.deadline_ms]
        .into_iter()
        .for_each(|n| put_signed(out, i128::from(n)));
    put_option(out, o.stop_e4);
}

fn take_order<P>(r: &mut &[u8], party: P) -> Option<Order<P>> {
    let seq = take_u64(r)?;
    let side = Side::from_number(u8::try_from(take(r)?).ok()?)?;
    let life = Life::from_number(u8::try_from(take(r)?).ok()?)?;
    let flags = u8::try_from(take(r)?).ok()?;
    Some(Order {
        party,
        seq,
        side,
        market: flags & MARKET != 0,
        post_only: flags & POST_ONLY != 0,
        life,
        limit_e4: take_i64(r)?,
        ceiling_e4: take_i64(r)?,
        leaves: take_i64(r)?,
        cum: take_i64(r)?,
        deadline_ms: take_i64(r)?,
        stop_e4: take_option(r)?,
    })
}

pub(super) fn read_order<P>(bytes: &[u8], party: P) -> Option<Order<P>> {
    whole(bytes, |r| take_order(r, party))
}

impl TradingBuffers {
    fn book(&mut self, symbol: &str) {
        self.key.clear();
        self.key.push(b'b');
        self.key.extend_from_slice(symbol.as_bytes());
    }

    fn order(&mut self, symbol: &str, owner: &[u8]) {
        self.key.clear();
        self.key.push(b'o');
        self.key.extend_from_slice(symbol.as_bytes());
        self.key.push(0);
        self.key.extend_from_slice(owner);
    }
}

pub(super) fn load_head(
    ctx: &mut Ctx<'_>,
    b: &mut TradingBuffers,
    symbol: &str,
) -> Result<BookHead, InvariantViolation> {
    b.book(symbol);
    load(ctx, &b.key, "a book", read_head)
}

pub(super) fn save_head(ctx: &mut Ctx<'_>, b: &mut TradingBuffers, symbol: &str, h: &BookHead) {
    put_head(b.state(), h);
    b.book(symbol);
    ctx.put(&b.key, &b.value);
}

/// Orders of a symbol by place, each with the owner's part of the key.
pub(super) fn load_orders<P>(
    ctx: &mut Ctx<'_>,
    b: &mut TradingBuffers,
    symbol: &str,
    party: fn(&[u8]) -> Option<P>,
) -> Result<Vec<Order<P>>, InvariantViolation> {
    b.order(symbol, b"");
    let start = b.key.len();
    let mut all = Vec::new();
    let mut wrong = false;
    ctx.scan(
        &b.key,
        &mut |key, value| match party(&key[start..]).and_then(|p| read_order(value, p)) {
            Some(order) => all.push(order),
            None => wrong = true,
        },
    );

    if wrong {
        return Err(violation(
            ctx,
            format_args!(
                "an order in the book of {symbol} cannot be read; it was written by a newer version or is damaged"
            ),
        ));
    }

    all.sort_unstable_by_key(|o| o.seq);
    Ok(all)
}

pub(super) fn save_order<P>(
    ctx: &mut Ctx<'_>,
    b: &mut TradingBuffers,
    symbol: &str,
    owner: &[u8],
    o: &Order<P>,
) {
    put_order(b.state(), o);
    b.order(symbol, owner);
    ctx.put(&b.key, &b.value);
}

pub(super) fn delete_order(ctx: &mut Ctx<'_>, b: &mut TradingBuffers, symbol: &str, owner: &[u8]) {
    b.order(symbol, owner);
    ctx.delete(&b.key);
}

/// Prices of all symbols. Unreadable rows are skipped here, and reported at their next use.
pub(super) fn all_prices(ctx: &mut Ctx<'_>) -> Vec<(String, Prices)> {
    let mut all = Vec::new();
    ctx.scan(b"s", &mut |key, value| {
        all.extend(
            std::str::from_utf8(&key[1..])
                .ok()
                .zip(read_prices(value))
                .map(|(symbol, p)| (symbol.to_string(), p)),
        );
    });

    all
}

/// Symbols with a book.
pub(super) fn symbols(ctx: &mut Ctx<'_>) -> Vec<String> {
    let mut all = Vec::new();
    ctx.scan(b"b", &mut |key, _| {
        all.extend(std::str::from_utf8(&key[1..]).map(str::to_string))
    });

    all
}

/// True if a clock record that continues leftover work is in flight.
pub(super) fn continuation_pending(ctx: &mut Ctx<'_>) -> bool {
    ctx.get(b"c").is_some()
}

pub(super) fn mark_continuation(ctx: &mut Ctx<'_>) {
    ctx.put(b"c", &[VERSION]);
}

pub(super) fn clear_continuation(ctx: &mut Ctx<'_>) {
    ctx.delete(b"c");
}

/// True if orders of switched-off users have yet to end.
pub(super) fn ends_orders(ctx: &mut Ctx<'_>) -> bool {
    ctx.get(b"k").is_some()
}

pub(super) fn set_ends_orders(ctx: &mut Ctx<'_>, on: bool) {
    match (ends_orders(ctx), on) {
        (false, true) => ctx.put(b"k", &[VERSION]),
        (true, false) => ctx.delete(b"k"),
        _ => {}
    }
}

fn order<P>(o: &Order<P>) -> Value {
    json!({
        "place": o.seq,
        "side": o.side.name(),
        "limit_price_e4": o.limit_e4,
        "stop_price_e4": o.stop_e4,
        "leaves_quantity": o.leaves,
        "cum_quantity": o.cum,
        "deadline_ms": (o.deadline_ms != FOREVER).then_some(o.deadline_ms),
        "life": o.life.name(),
        "market": o.market,
        "post_only": o.post_only,
    })
}

/// A value as JSON, by the letter of its key; `None` if the value is unreadable.
pub(crate) fn show(letter: u8, value: &[u8]) -> Option<Value> {
    let priced =
        |p: Option<Priced>| p.map(|p| json!({"price_e4": p.price_e4, "time_ms": p.time_ms}));
    Some(match letter {
        b's' => {
            let p = read_prices(value)?;
            let held = p
                .held
                .map(|(price, agreed)| json!({"price_e4": price, "agreed": agreed}));
            json!({"last": priced(p.last), "told": priced(p.told), "held": held, "accepted": p.accepted, "late": p.late})
        }
        b'q' | b'Q' => {
            let s = read_source(value)?;
            let mut source = json!({"seq": s.seq, "time_ns": s.time_ns.map(number)});
            if let Some(ms) = s.seen_ms {
                source["seen_ms"] = ms.into();
            }

            if s.late > 0 {
                source["late_in_a_row"] = s.late.into();
            }

            if let Some(ns) = s.before_ns {
                source["began_anew_after_ns"] = number(ns);
            }

            source
        }
        b't' => json!({"last": whole(value, take_u64)?}),
        b'b' => {
            let BookHead {
                head: h,
                trade,
                owed,
            } = read_head(value)?;
            let mut head = json!({"next_place": h.next_seq, "rose_to_e4": h.rose_to, "fell_to_e4": h.fell_to, "doomed_below": h.doomed_below, "trade": priced(trade)});
            if owed {
                head["quote_owed"] = true.into();
            }

            head
        }
        b'o' => order(&read_order(value, ())?),
        b'u' | b'w' => line::show(letter, value)?,
        b'c' | b'k' => json!({}),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Sample order with a different value in each field.
    pub(super) fn sample<P>(party: P) -> Order<P> {
        Order {
            party,
            seq: 3,
            side: Side::Sell,
            market: false,
            limit_e4: 1,
            ceiling_e4: 2,
            stop_e4: Some(9),
            leaves: 4,
            cum: 5,
            deadline_ms: 6,
            life: Life::Fok,
            post_only: true,
        }
    }

    /// Golden bytes: later versions must read the bytes of this version.
    #[test]
    fn golden_bytes() {
        let mut b = TradingBuffers::default();
        let p = Prices {
            last: Some(Priced {
                price_e4: 5,
                time_ms: 6,
            }),
            told: None,
            held: Some((-1, 2)),
            accepted: 300,
            late: 1,
        };

        put_prices(b.state(), &p);
        assert_eq!(b.value, [1, 1, 10, 12, 0, 1, 1, 2, 0xac, 2, 1]);
        assert_eq!(read_prices(&b.value), Some(p));
        let s = Source {
            seq: Some(7),
            time_ns: Some(8),
            seen_ms: Some(-1),
            late: 300,
            before_ns: Some(-2),
        };

        put_source(b.state(), &s);
        assert_eq!(b.value, [1, 31, 7, 16, 1, 0xac, 2, 3]);
        assert_eq!(read_source(&b.value), Some(s));
        let s = Source {
            before_ns: None,
            ..s
        };

        put_source(b.state(), &s);
        assert_eq!(b.value, [1, 15, 7, 16, 1, 0xac, 2]);
        assert_eq!(read_source(&b.value), Some(s));
        let s = Source {
            seen_ms: None,
            late: 0,
            ..s
        };

        put_source(b.state(), &s);
        assert_eq!(b.value, [1, 3, 7, 16]);
        assert_eq!(read_source(&b.value), Some(s));
        b.source("A", Some("x"));
        assert_eq!(b.key, b"qA\0x");
        let head = BookState {
            next_seq: 300,
            rose_to: Some(-1),
            fell_to: None,
            doomed_below: 1,
        };

        let h = BookHead {
            head,
            trade: Some(Priced {
                price_e4: 5,
                time_ms: 6,
            }),
            owed: false,
        };

        put_head(b.state(), &h);
        assert_eq!(b.value, [1, 0xac, 2, 1, 1, 1, 0, 1, 10, 12]);
        assert_eq!(read_head(&b.value), Some(h));
        let owed = BookHead { owed: true, ..h };
        put_head(b.state(), &owed);
        assert_eq!(b.value, [1, 0xac, 2, 1, 1, 1, 0, 1, 10, 12, 1]);
        assert_eq!(read_head(&b.value), Some(owed));
        let o = sample(());
        put_order(b.state(), &o);
        assert_eq!(b.value, [1, 3, 2, 3, 2, 2, 4, 8, 10, 12, 1, 18]);
        assert_eq!(read_order(&b.value, ()), Some(o));
        b.order("A", b"u\x001");
        assert_eq!(b.key, b"oA\0u\x001");
    }

    proptest! {
        #[test]
        fn any_bytes(bytes: Vec<u8>) {
            let _ = (read_prices(&bytes), read_source(&bytes), read_head(&bytes), read_order(&bytes, ()));
        }
    }
}
