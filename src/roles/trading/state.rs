//! What `trading` keeps, byte by byte. Values begin with a version.
//!
//! | key | value |
//! |---|---|
//! | `s` symbol | prices |
//! | `q` symbol 0 source | what was last seen of a source (`Q`: the hash of a source with a long name) |
//! | `t` | number of the last trade |

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::domain::price::{Priced, Prices, Source};
use crate::engine::context::Ctx;
use crate::engine::role::Bug;
use crate::engine::varint::{put, put_signed, take, take_i64, take_signed, take_u64};
use crate::roles::intake::bug;
use crate::roles::show::number;

const VERSION: u8 = 1;
/// Names of sources up to here are keys as they are.
const SOURCE_BYTES_MAX: usize = 64;

/// Room for a key and a value, used again and again.
#[derive(Default)]
pub(super) struct Buffers {
    key: Vec<u8>,
    value: Vec<u8>,
}

impl Buffers {
    /// An empty value.
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
        if short { self.key.extend_from_slice(source) } else { self.key.extend_from_slice(&Sha256::digest(source)) }
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
    Some(if flag(r)? { Some(Priced { price_e4: take_i64(r)?, time_ms: take_i64(r)? }) } else { None })
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
    let (&VERSION, mut rest) = bytes.split_first()? else { return None };
    let value = read(&mut rest)?;
    rest.is_empty().then_some(value)
}

fn read_prices(bytes: &[u8]) -> Option<Prices> {
    whole(bytes, |r| {
        let (last, told) = (take_priced(r)?, take_priced(r)?);
        let held = if flag(r)? { Some((take_i64(r)?, u8::try_from(take(r)?).ok()?)) } else { None };
        Some(Prices { last, told, held, accepted: take_u64(r)?, late: take_u64(r)? })
    })
}

fn put_source(out: &mut Vec<u8>, s: &Source) {
    out.push(u8::from(s.seq.is_some()) | u8::from(s.time_ns.is_some()) << 1);
    s.seq.into_iter().for_each(|n| put(out, n));
    s.time_ns.into_iter().for_each(|n| put_signed(out, n));
}

fn read_source(bytes: &[u8]) -> Option<Source> {
    whole(bytes, |r| {
        let parts = take(r)?;
        let seq = if parts & 1 != 0 { Some(take_u64(r)?) } else { None };
        let time_ns = if parts & 2 != 0 { Some(take_signed(r)?) } else { None };
        Some(Source { seq, time_ns })
    })
}

fn load<T: Default>(ctx: &mut Ctx<'_>, key: &[u8], what: &str, read: fn(&[u8]) -> Option<T>) -> Result<T, Bug> {
    let Some(bytes) = ctx.get(key) else { return Ok(T::default()) };
    match read(bytes) {
        Some(value) => Ok(value),
        None => Err(bug(ctx, format_args!("state of {what} cannot be read; it was written by a newer version or is damaged"))),
    }
}

pub(super) fn load_prices(ctx: &mut Ctx<'_>, b: &mut Buffers, symbol: &str) -> Result<Prices, Bug> {
    b.symbol(symbol);
    load(ctx, &b.key, "a symbol's prices", read_prices)
}

pub(super) fn save_prices(ctx: &mut Ctx<'_>, b: &mut Buffers, symbol: &str, p: &Prices) {
    put_prices(b.state(), p);
    b.symbol(symbol);
    ctx.put(&b.key, &b.value);
}

pub(super) fn load_source(ctx: &mut Ctx<'_>, b: &mut Buffers, symbol: &str, source: Option<&str>) -> Result<Source, Bug> {
    b.source(symbol, source);
    load(ctx, &b.key, "a source of ticks", read_source)
}

pub(super) fn save_source(ctx: &mut Ctx<'_>, b: &mut Buffers, symbol: &str, source: Option<&str>, s: &Source) {
    put_source(b.state(), s);
    b.source(symbol, source);
    ctx.put(&b.key, &b.value);
}

/// Takes the next trade number of the task; they start at 1.
pub(super) fn next_trade(ctx: &mut Ctx<'_>, b: &mut Buffers) -> Result<u64, Bug> {
    let next = load(ctx, b"t", "the trade counter", |bytes| whole(bytes, take_u64))? + 1;
    put(b.state(), u128::from(next));
    ctx.put(b"t", &b.value);
    Ok(next)
}

/// A value by the letter of its key, readable; none if it cannot be read.
pub(in crate::roles) fn show(letter: u8, value: &[u8]) -> Option<Value> {
    let priced = |p: Option<Priced>| p.map(|p| json!({"price_e4": p.price_e4, "time_ms": p.time_ms}));
    Some(match letter {
        b's' => {
            let p = read_prices(value)?;
            let held = p.held.map(|(price, agreed)| json!({"price_e4": price, "agreed": agreed}));
            json!({"last": priced(p.last), "told": priced(p.told), "held": held, "accepted": p.accepted, "late": p.late})
        }
        b'q' | b'Q' => {
            let s = read_source(value)?;
            json!({"seq": s.seq, "time_ns": s.time_ns.map(number)})
        }
        b't' => json!({"last": whole(value, take_u64)?}),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Later versions must read what this one wrote.
    #[test]
    fn golden_bytes() {
        let mut b = Buffers::default();
        let p = Prices { last: Some(Priced { price_e4: 5, time_ms: 6 }), told: None, held: Some((-1, 2)), accepted: 300, late: 1 };
        put_prices(b.state(), &p);
        assert_eq!(b.value, [1, 1, 10, 12, 0, 1, 1, 2, 0xac, 2, 1]);
        assert_eq!(read_prices(&b.value), Some(p));
        let s = Source { seq: Some(7), time_ns: Some(8) };
        put_source(b.state(), &s);
        assert_eq!(b.value, [1, 3, 7, 16]);
        assert_eq!(read_source(&b.value), Some(s));
        b.source("A", Some("x"));
        assert_eq!(b.key, b"qA\0x");
    }

    proptest! {
        #[test]
        fn any_bytes(bytes: Vec<u8>) {
            let _ = (read_prices(&bytes), read_source(&bytes));
        }
    }
}
