//! The last price of a symbol at any offset of its ticks, as `trading` had the price. The code
//! applies the rules of `trading` from the first tick on, with the listings and settings in the
//! role's journal. A simpler rule would return prices that no decision used: late ticks, ticks from
//! the future, prices outside the band that wait for confirmation, symbols without a listing.

use std::collections::{BTreeMap, BTreeSet};

use domain::instrument::Instrument;
use domain::price::{Prices, TickFate};
use domain::tick::{Rules, Source, Tick as Judged};
use engine::checkpoint::next_offset;
use ports::records::Record;
use ports::topics::{TopicPartition, TopicTable};
use ports::{Log, LogError};
use roles::RoleSettings;
use wire::{instrument, tick, topics as t};

use super::cursor::{self, AuditCursor, HeaderUse};

/// A tick as a decision used it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecisionTick {
    pub offset: u64,
    /// Price in 10^-4.
    pub price_e4: i64,
    /// Log time.
    pub time_ms: i64,
}

/// A change of the price rules, valid from tick offset `from` on.
struct PriceRuleChange {
    from: u64,
    what: What,
}

enum What {
    /// The new listing of a symbol; none: the symbol is not listed.
    Listing(String, Option<Instrument>),
    /// The role started with these settings, and forgot all listings.
    Began(Rules),
}

/// State of one followed symbol.
#[derive(Default)]
struct Followed {
    prices: Prices,
    sources: BTreeMap<Option<String>, Source>,
    listing: Option<Instrument>,
    last: Option<DecisionTick>,
}

/// The prices of some symbols over time. Memory grows with the symbols, their sources and the
/// changes of their listings.
pub struct PriceHistory {
    ticks: AuditCursor,
    changes: std::vec::IntoIter<PriceRuleChange>,
    next: Option<PriceRuleChange>,
    rules: Rules,
    symbols: BTreeMap<String, Followed>,
}

impl PriceHistory {
    /// Follows these symbols, which must belong to partition `task`. Ticks that `trading` has not
    /// processed are left out.
    pub fn new(
        log: &dyn Log,
        topics: &TopicTable,
        task: u32,
        symbols: BTreeSet<String>,
    ) -> Result<PriceHistory, LogError> {
        let (changes, end) = changes(log, topics, task, &symbols)?;
        let mut changes = changes.into_iter();
        let ticks = AuditCursor::range(
            log,
            TopicPartition::new(t::MARKET_DATA, task),
            0,
            end,
            HeaderUse::Skip,
        )?;

        let symbols = symbols
            .into_iter()
            .map(|s| (s, Followed::default()))
            .collect();
        let rules = Rules {
            last_is_told: false,
            begins_anew: false,
            ..RoleSettings::default().price_rules()
        };

        Ok(PriceHistory {
            ticks,
            next: changes.next(),
            changes,
            rules,
            symbols,
        })
    }

    /// Processes ticks in order, as long as `wanted` returns true.
    pub fn advance(&mut self, mut wanted: impl FnMut(&Record<'_>) -> bool) -> Result<(), LogError> {
        while let Some(r) = self.ticks.peek()?.filter(|r| wanted(r)) {
            while let Some(change) = self.next.take_if(|c| c.from <= r.offset) {
                self.next = self.changes.next();
                match change.what {
                    What::Began(rules) => {
                        self.rules = rules;
                        self.symbols.values_mut().for_each(|s| s.listing = None);
                    }
                    What::Listing(symbol, listing) => {
                        self.symbols
                            .get_mut(&symbol)
                            .into_iter()
                            .for_each(|s| s.listing = listing);
                    }
                }
            }

            let symbol = r
                .key
                .and_then(|k| std::str::from_utf8(k).ok())
                .and_then(|k| self.symbols.get_mut(k));
            if let Some(followed) = symbol {
                if self.rules.last_is_told {
                    followed
                        .prices
                        .publish_on_clock(r.timestamp_ms, self.rules.stale);
                }

                followed.take(&r, self.rules);
            }

            self.ticks.skip();
        }

        Ok(())
    }

    /// The last accepted tick of a symbol.
    pub fn last(&self, symbol: &str) -> Option<DecisionTick> {
        self.symbols.get(symbol)?.last
    }

    /// The price that `trading` had published at log time `ms`.
    pub fn told(&self, symbol: &str, ms: i64) -> Option<i64> {
        let mut prices = self.symbols.get(symbol)?.prices;
        if self.rules.last_is_told {
            prices.publish_on_clock(ms, self.rules.stale);
        }

        prices.told.map(|told| told.price_e4)
    }
}

impl Followed {
    /// Applies a tick as `trading` does. A tick that `trading` sends to the dead letters changes
    /// nothing.
    fn take(&mut self, r: &Record<'_>, rules: Rules) {
        let Some(value) = r.value.filter(|v| v.len() <= t::INPUT_BYTES_MAX) else {
            return;
        };

        let Some(t) = tick::decode(value)
            .ok()
            .filter(|t| r.key == Some(t.symbol.as_bytes()))
        else {
            return;
        };

        let tick = Judged {
            price_e4: t.price.positive(),
            seq: t.seq,
            time_ns: t.timestamp_ns,
            append_ms: r.timestamp_ms,
        };

        let Ok((price_e4, listing)) = tick.fit(|| self.listing) else {
            return;
        };

        let source = self.sources.entry(t.source.map(Into::into)).or_default();
        if self.prices.fold(&tick, price_e4, &listing, source, rules) == TickFate::Accepted {
            self.prices.publish_on_tick(rules.stale);
            self.last = Some(DecisionTick {
                offset: r.offset,
                price_e4,
                time_ms: r.timestamp_ms,
            });
        }
    }
}

/// The changes for these symbols, each with the tick offset from which it is valid. Also the offset
/// up to which `trading` processed ticks.
fn changes(
    log: &dyn Log,
    topics: &TopicTable,
    task: u32,
    symbols: &BTreeSet<String>,
) -> Result<(Vec<PriceRuleChange>, u64), LogError> {
    let ticks = TopicPartition::new(t::MARKET_DATA, task);
    let mut all = Vec::new();
    let mut position = 0;
    cursor::journal(
        log,
        topics,
        TopicPartition::new(t::TRADING_JOURNAL, task),
        &mut |entry| {
            if entry.forget {
                // Journals older than settings on record used the first version of the rules.
                let settings = RoleSettings::decode(entry.settings.as_deref().unwrap_or(b"{}"))
                    .unwrap_or_default();
                all.push(PriceRuleChange {
                    from: position,
                    what: What::Began(settings.price_rules()),
                });
            }

            for seen in entry
                .rows
                .into_iter()
                .filter(|seen| seen.table == t::INSTRUMENTS)
            {
                let Some(symbol) = std::str::from_utf8(&seen.key)
                    .ok()
                    .filter(|s| symbols.contains(*s))
                else {
                    continue;
                };

                let value = Some(&*seen.value).filter(|v| !v.is_empty());
                let listing = instrument::decode(Some(symbol.as_bytes()), value)
                    .ok()
                    .flatten();
                all.push(PriceRuleChange {
                    from: position,
                    what: What::Listing(symbol.to_string(), listing),
                });
            }

            position = next_offset(&entry.offsets, ticks).unwrap_or(position);
            true
        },
    )?;

    Ok((all, position))
}
