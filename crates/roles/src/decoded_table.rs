//! Cache of decoded rows of broadcast tables. Every order reads some rows, so a decoded row is kept
//! until the row's version changes.

use domain::control::Control;
use domain::instrument::Instrument;
use engine::context::Ctx;
use indexmap::IndexMap;
use ports::topics::TopicId;
use rustc_hash::FxBuildHasher;
use wire::trade::ReferencePrice;
use wire::{control, instrument, topics};

/// Decoded rows of one table.
pub(super) struct DecodedTable<T> {
    table: TopicId,
    decode: fn(&[u8], &[u8]) -> Option<T>,
    seen: IndexMap<Box<[u8]>, (u64, Option<T>), FxBuildHasher>,
}

impl<T: Copy> DecodedTable<T> {
    fn new(table: TopicId, decode: fn(&[u8], &[u8]) -> Option<T>) -> Self {
        DecodedTable {
            table,
            decode,
            seen: IndexMap::default(),
        }
    }

    /// Row of a key; `None` if the row is missing or unreadable.
    pub(super) fn get(&mut self, ctx: &mut Ctx<'_>, key: &str) -> Option<T> {
        let row = ctx.lookup(self.table, key.as_bytes())?;

        // Version 0 is no version: the row may change without notice.
        if row.version > 0
            && let Some((version, decoded)) = self.seen.get(key.as_bytes())
            && *version == row.version
        {
            return *decoded;
        }

        let decoded = (self.decode)(key.as_bytes(), row.value);
        self.seen
            .insert(key.as_bytes().into(), (row.version, decoded));
        decoded
    }
}

/// Reference data of symbols.
pub(super) fn instruments() -> DecodedTable<Instrument> {
    DecodedTable::new(topics::INSTRUMENTS, |key, value| {
        instrument::decode(Some(key), Some(value)).ok().flatten()
    })
}

/// Reference prices: price and append time in milliseconds.
pub(super) fn references() -> DecodedTable<(i64, i64)> {
    DecodedTable::new(topics::REFERENCE_PRICES, |_, value| {
        let p = ReferencePrice::decode(value).ok()?;
        Some((p.price_e4, p.time_us.div_euclid(1_000)))
    })
}

/// Rows of `controls` that end orders: the switched-off state of users, unless the row keeps their
/// orders.
pub(super) fn ends() -> DecodedTable<Control> {
    DecodedTable::new(topics::CONTROLS, |key, value| {
        control::decode(Some(key), Some(value))
            .ok()?
            .filter(|row| !row.keep_orders)
            .map(|row| row.state)
    })
}

/// Rows of `controls`: all kill switches.
pub(super) fn controls() -> DecodedTable<Control> {
    DecodedTable::new(topics::CONTROLS, |key, value| {
        Some(control::decode(Some(key), Some(value)).ok()??.state)
    })
}
