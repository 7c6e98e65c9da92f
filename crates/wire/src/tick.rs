//! `market-data`: ticks.

use std::borrow::Cow;

use domain::decimal::{MONEY, Num, WHOLE};
use domain::ids;

use super::input::{Fault, FieldValue, read_map, timestamp_ns};

/// A decoded tick. The price may be any number.
#[derive(Clone, Debug, PartialEq)]
pub struct TickRecord<'a> {
    pub symbol: Cow<'a, str>,
    pub price: Num,
    /// Time claimed by the feed, in nanoseconds since 1970.
    pub timestamp_ns: Option<i128>,
    /// Name of the feed.
    pub source: Option<Cow<'a, str>>,
    /// Sequence number, rising for each source and symbol.
    pub seq: Option<u64>,
}

/// Decodes a tick from a record's value.
pub fn decode(bytes: &[u8]) -> Result<TickRecord<'_>, Fault> {
    let mut symbol = None;
    let mut price = None;
    let mut timestamp = None;
    let mut size = None;
    let mut source = None;
    let mut seq = None;
    let fault = read_map(bytes, |name, value| {
        let slot = match name {
            "symbol" => &mut symbol,
            "price" => &mut price,
            "timestamp" => &mut timestamp,
            "size" => &mut size,
            "source" => &mut source,
            "seq" => &mut seq,
            _ => return,
        };

        *slot = Some(value).filter(|v| *v != FieldValue::Null);
    })?;

    if let Some(fault) = fault {
        return Err(fault);
    }

    let symbol = symbol
        .and_then(FieldValue::text)
        .ok_or("symbol is missing or not text")?;
    if !ids::valid(&symbol) {
        return Err("symbol is not 1 to 64 printable ASCII characters without blank and '/'");
    }

    if size.is_some_and(|v| v.num(WHOLE).is_none()) {
        return Err("size is not a number");
    }

    Ok(TickRecord {
        symbol,
        price: price
            .ok_or("price is missing")?
            .num(MONEY)
            .ok_or("price is not a number")?,
        timestamp_ns: timestamp
            .map(|v| {
                v.integer()
                    .map(timestamp_ns)
                    .ok_or("timestamp is not a whole number")
            })
            .transpose()?,
        source: source
            .map(|v| v.text().ok_or("source is not text"))
            .transpose()?,
        seq: seq
            .map(|v| {
                v.integer()
                    .and_then(|n| u64::try_from(n).ok())
                    .ok_or("seq is not a whole number of at least 0")
            })
            .transpose()?,
    })
}
