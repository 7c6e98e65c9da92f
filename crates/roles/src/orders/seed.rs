//! Prices that `trading` has not published yet. At a start, `orders` reads the reference prices
//! from their topic. But `market-data` may hold ticks that `trading` has not processed. Without
//! their prices, orders behind those ticks would be rejected for no good reason. So the start reads
//! these ticks once, and uses their prices until the real reference price arrives.
//!
//! The committed offsets of `trading` tell its progress. Readers may see the offsets before the
//! prices of the same transaction. The broker writes transaction markers partition by partition,
//! and a broker outage delays markers. So the start reads the prices once more after the offsets,
//! up to the end of the topic at that moment. The start waits while transactions before that end
//! are undecided.
//!
//! Brokers delete the offsets of a group that was away for a week (KIP-211). Then `trading` takes
//! the offsets from its last checkpoint, and so does the start. Otherwise the start would read all
//! ticks from the beginning.

use std::collections::BTreeMap;
use std::time::Duration;

use domain::price::{Priced, Prices};
use domain::tick::{Source, Tick};
use engine::broadcast::Tables;
use engine::last_meta::fill_absent;
use ports::partitioner;
use ports::records::{NO_LOG_TIME, Record, Records};
use ports::topics::{TopicPartition, TopicTable};
use ports::{Clock, Limits, Log, LogError, StartOffset};
use wire::tick::{self, TickRecord};
use wire::topics::INPUT_BYTES_MAX;
use wire::trade::ReferencePrice;
use wire::{instrument, topics};

use crate::RoleSettings;

const LIMITS: Limits = Limits {
    records: 20_000,
    bytes: 8 << 20,
    age: Duration::from_millis(50),
};
const WAIT: Duration = Duration::from_millis(200);

/// Maximum silence of `trading`'s changelog while its end is read.
const GIVE_UP: Duration = Duration::from_secs(30);
/// Polls without a record before the log counts as unavailable.
const IDLE_MAX: u32 = 300;

/// Rows for the table of reference prices, from ticks that are newer than the loaded rows.
pub(crate) fn reference_prices(
    log: &dyn Log,
    clock: &dyn Clock,
    loaded: &Tables,
    names: &TopicTable,
    partitions: u32,
) -> Result<Records, LogError> {
    let all: Vec<_> = (0..partitions)
        .map(|p| TopicPartition::new(topics::MARKET_DATA, p))
        .collect();
    let done = log.group_offsets(&format!("{}processor-trading", names.prefix()), &all)?;
    let mut done: Vec<_> = all.into_iter().zip(done).collect();
    fill_absent(
        log,
        clock,
        names,
        topics::TRADING_CHANGELOG,
        &mut done,
        GIVE_UP,
    )?;

    let mut book = SeedBook {
        told: told_since(log, loaded)?,
        ..SeedBook::default()
    };

    let mut from = Vec::new();
    for (at, done) in done {
        let bounds = log.bounds(at)?;
        let start = done.unwrap_or(0).max(bounds.start);
        if start < bounds.stable_end {
            from.push((at.partition, StartOffset::Offset(start)));
        }
    }

    if !from.is_empty() {
        let mut reader = log
            .reader(topics::MARKET_DATA, &from, false)
            .map_err(|e| still_there(log, &from, e))?;
        let mut batch = Records::new();
        let mut idle = 0;
        loop {
            batch.clear();
            reader
                .poll(WAIT, LIMITS, &mut batch)
                .map_err(|e| still_there(log, &from, e))?;
            idle = if batch.is_empty() { idle + 1 } else { 0 };
            if idle > IDLE_MAX {
                return Err(LogError::Unavailable(
                    "market-data cannot be read to its end".into(),
                ));
            }

            batch.iter().for_each(|r| book.take(&r, loaded, partitions));
            if reader.caught_up() {
                break;
            }
        }
    }

    Ok(book.rows())
}

/// Maps a read error to `Unavailable` if old ticks were deleted between the query of their start
/// and the read. The next start asks again.
fn still_there(log: &dyn Log, from: &[(u32, StartOffset)], e: LogError) -> LogError {
    let gone = |(partition, from): &(u32, StartOffset)| match from {
        StartOffset::Offset(offset) => log
            .bounds(TopicPartition::new(topics::MARKET_DATA, *partition))
            .is_ok_and(|b| b.start > *offset),
        StartOffset::Start | StartOffset::End => false,
    };

    match e {
        LogError::Invalid(why) | LogError::Corrupt(why) if from.iter().any(gone) => {
            LogError::Unavailable(format!(
                "ticks were deleted while they were read ({why}); reading again"
            ))
        }
        e => e,
    }
}

/// Reference prices that are missing in the loaded table, complete as of now.
fn told_since(log: &dyn Log, loaded: &Tables) -> Result<BTreeMap<String, Priced>, LogError> {
    let at = TopicPartition::new(topics::REFERENCE_PRICES, 0);

    // The version of a row is the offset after its record.
    let next = loaded
        .iter(topics::REFERENCE_PRICES)
        .map(|(_, row)| row.version)
        .max()
        .unwrap_or(0);
    let end = log.bounds(at)?.end;
    let mut told = BTreeMap::new();
    let mut batch = Records::new();
    let mut idle = 0;
    let mut watch = None;
    let mut now = log.bounds(at)?;
    while now.stable_end < end {
        if idle > IDLE_MAX {
            return Err(LogError::Unavailable(
                "prices that trading has told stay undecided".into(),
            ));
        }

        if watch.is_none() {
            watch = Some(log.reader(at.topic, &[(0, StartOffset::End)], false)?);
        }

        batch.clear();

        // Poll only to wait; the records are read below.
        watch
            .as_mut()
            .map_or(Ok(()), |w| w.poll(WAIT, LIMITS, &mut batch))?;
        idle = if batch.is_empty() { idle + 1 } else { 0 };
        now = log.bounds(at)?;
    }

    if next.max(now.start) >= now.stable_end {
        return Ok(told);
    }

    let mut reader = log.reader(
        at.topic,
        &[(0, StartOffset::Offset(next.max(now.start)))],
        false,
    )?;
    idle = 0;
    while !reader.caught_up() {
        batch.clear();
        reader.poll(WAIT, LIMITS, &mut batch)?;
        idle = if batch.is_empty() { idle + 1 } else { 0 };
        if idle > IDLE_MAX {
            return Err(LogError::Unavailable(
                "reference-prices cannot be read to its end".into(),
            ));
        }

        for price in batch
            .iter()
            .filter_map(|r| ReferencePrice::decode(r.value?).ok())
        {
            told.insert(price.symbol.to_string(), priced(&price));
        }
    }

    Ok(told)
}

fn priced(p: &ReferencePrice<'_>) -> Priced {
    Priced {
        price_e4: p.price_e4,
        time_ms: p.time_us.div_euclid(1_000),
    }
}

/// Key and tick of a record that `trading` would not put aside.
fn read_tick<'r>(r: &Record<'r>, partitions: u32) -> Option<(&'r [u8], TickRecord<'r>)> {
    let (key, value) = r.key.zip(r.value)?;
    if r.timestamp_ms == NO_LOG_TIME
        || value.len() > INPUT_BYTES_MAX
        || partitioner::partition(key, partitions) != r.at.partition
    {
        return None;
    }

    let t = tick::decode(value).ok()?;
    (t.symbol.as_bytes() == key).then_some((key, t))
}

#[derive(Default)]
struct SeedBook {
    /// Prices published since the table was loaded.
    told: BTreeMap<String, Priced>,
    prices: BTreeMap<String, Prices>,
    sources: BTreeMap<(String, String), Source>,
}

impl SeedBook {
    /// Applies the same checks as `trading`, which writes the dead letters.
    fn take(&mut self, r: &Record<'_>, loaded: &Tables, partitions: u32) {
        let Some((key, t)) = read_tick(r, partitions) else {
            return;
        };

        let tick = Tick {
            price_e4: t.price.positive(),
            seq: t.seq,
            time_ns: t.timestamp_ns,
            append_ms: r.timestamp_ms,
        };

        let row = || {
            loaded.get(topics::INSTRUMENTS, key).and_then(|row| {
                instrument::decode(Some(key), Some(row.value))
                    .ok()
                    .flatten()
            })
        };

        let Ok((price_e4, i)) = tick.fit(row) else {
            return;
        };

        let source = self
            .sources
            .entry((
                t.symbol.to_string(),
                t.source.as_deref().unwrap_or_default().to_string(),
            ))
            .or_default();

        let prices = self.prices.entry(t.symbol.to_string()).or_insert_with(|| {
            let row = || {
                loaded
                    .get(topics::REFERENCE_PRICES, key)
                    .and_then(|row| ReferencePrice::decode(row.value).ok())
            };

            let told = self
                .told
                .get(t.symbol.as_ref())
                .copied()
                .or_else(|| row().map(|p| priced(&p)));
            Prices {
                last: told,
                told,
                ..Prices::default()
            }
        });

        // Only a bridge until `trading` publishes the price, by current rules.
        prices.fold(
            &tick,
            price_e4,
            &i,
            source,
            RoleSettings::default().price_rules(),
        );
    }

    fn rows(&self) -> Records {
        let mut rows = Records::new();
        let mut value = Vec::new();
        let mut newest: BTreeMap<&String, Priced> = self
            .told
            .iter()
            .map(|(symbol, told)| (symbol, *told))
            .collect();
        for (symbol, p) in &self.prices {
            if let Some(last) = p.last.filter(|last| {
                p.told
                    .is_none_or(|told| last.time_ms >= told.time_ms && *last != told)
            }) {
                newest.insert(symbol, last);
            }
        }

        for (symbol, last) in newest {
            value.clear();
            ReferencePrice {
                symbol,
                price_e4: last.price_e4,
                time_us: last.time_ms.saturating_mul(1_000),
            }
            .encode(&mut value);
            rows.push(&Record {
                at: TopicPartition::new(topics::REFERENCE_PRICES, 0),
                offset: 0,
                timestamp_ms: last.time_ms,
                key: Some(symbol.as_bytes()),
                value: Some(&value),
                headers: Default::default(),
            });
        }

        rows
    }
}
