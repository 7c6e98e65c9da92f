//! The inputs of decisions. A task's journal lists the records of each transaction, and the
//! broadcast rows that the task had read by then. The journal therefore gives the exact versions
//! for any command, including versions that compaction has removed.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use domain::control::EVERYBODY;
use engine::checkpoint::next_offset;
use ports::records::Records;
use ports::topics::{TopicId, TopicPartition, TopicTable};
use ports::{Log, LogError};
use roles::{MERGED_BY_LOG_TIME, RoleSettings};
use wire::topics as t;

use super::cursor::{self, AuditCursor};
use super::prices::PriceHistory;
use super::query_filter::text_fields;

/// A broadcast row as a decision used it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecisionRow {
    /// Offset of the row's record, which compaction may have removed since. None: the price was
    /// read from the ticks, because `trading` had published none yet.
    pub offset: Option<u64>,
    pub value: Vec<u8>,
}

/// A tick as a decision used it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecisionTick {
    pub offset: u64,
    /// Price in 10^-4.
    pub price_e4: i64,
    /// Log time.
    pub time_ms: i64,
}

/// The inputs of a role's decision about one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inputs {
    /// `orders` or `trading`.
    pub role: &'static str,
    pub task: u32,
    /// Number of the transaction.
    pub transaction: u64,
    /// The listing with its limits; none: not listed, or not used.
    pub instrument: Option<DecisionRow>,
    /// The reference price (`orders`); none: no price, or not used.
    pub reference: Option<DecisionRow>,
    /// The last accepted tick (`trading`).
    pub tick: Option<DecisionTick>,
    /// Controls of the user, then of everybody (`orders`). Empty: nothing was switched off, or the
    /// controls were not used.
    pub controls: Vec<(String, DecisionRow)>,
    /// Settings of the role, as JSON; none in journals older than settings on record.
    pub settings: Option<Vec<u8>>,
}

/// A role that decides: its journal and its input topics.
struct Decider {
    role: &'static str,
    journal: TopicId,
    inputs: &'static [TopicId],
}

const DECIDERS: [Decider; 2] = [
    Decider {
        role: "orders",
        journal: t::ORDERS_JOURNAL,
        inputs: &[t::ORDER_COMMANDS, t::OPERATOR_COMMANDS],
    },
    Decider {
        role: "trading",
        journal: t::TRADING_JOURNAL,
        inputs: &[t::BOOK_COMMANDS],
    },
];

/// Input records of one task whose transaction is not found yet, by topic and offset.
type Waiting = BTreeMap<(TopicId, u64), UncommittedInput>;

/// An input record whose transaction is not found yet.
struct UncommittedInput {
    place: usize,
    symbol: Option<String>,
    /// User whose controls the decision used, if any.
    user: Option<String>,
}

/// Inputs of the decisions about the records in `found`, by index in `found`. A record without a
/// decision yet has no inputs.
pub fn of(
    log: &dyn Log,
    topics: &TopicTable,
    found: &Records,
) -> Result<BTreeMap<usize, Inputs>, LogError> {
    let mut inputs = BTreeMap::new();
    for d in &DECIDERS {
        let mut by_partition: BTreeMap<u32, Waiting> = BTreeMap::new();
        for (place, r) in found
            .iter()
            .enumerate()
            .filter(|(_, r)| d.inputs.contains(&r.at.topic))
        {
            let [symbol, user, command] = text_fields(
                r.value.unwrap_or_default(),
                ["symbol", "user_id", "command"],
            );
            let user = user.filter(|_| {
                r.at.topic != t::BOOK_COMMANDS
                    && !matches!(command.as_deref(), Some("cancel" | "mass_cancel" | "bust"))
            });

            by_partition.entry(r.at.partition).or_default().insert(
                (r.at.topic, r.offset),
                UncommittedInput {
                    place,
                    symbol,
                    user,
                },
            );
        }

        for (task, open) in by_partition {
            decisions(log, topics, d, task, open, &mut inputs)?;
        }
    }

    Ok(inputs)
}

fn decisions(
    log: &dyn Log,
    topics: &TopicTable,
    d: &Decider,
    task: u32,
    mut open: Waiting,
    inputs: &mut BTreeMap<usize, Inputs>,
) -> Result<(), LogError> {
    let mut rows: BTreeMap<(TopicId, Box<[u8]>), DecisionRow> = BTreeMap::new();
    let keys = open
        .values()
        .flat_map(|o| [&o.symbol, &o.user])
        .flatten()
        .map(String::as_str)
        .chain([EVERYBODY]);
    let keys: BTreeSet<Vec<u8>> = keys.map(|k| k.as_bytes().to_vec()).collect();
    let mut ticks_for: Vec<WantedTick> = Vec::new();
    let mut settings = None;
    let mut by_log_time = false;
    let mut began: Vec<(TopicPartition, u64)> = Vec::new();
    cursor::journal(
        log,
        topics,
        TopicPartition::new(d.journal, task),
        &mut |entry| {
            if entry.forget {
                rows.clear();
                by_log_time = entry.settings.as_deref().is_some_and(|s| {
                    RoleSettings::decode(s).is_ok_and(|s| s.rules >= MERGED_BY_LOG_TIME)
                });

                settings = entry.settings;
            }

            for seen in entry.rows {
                // Keep only the rows of the wanted symbols and users, to save memory.
                if keys.contains(&*seen.key) {
                    let row = DecisionRow {
                        offset: seen.version.checked_sub(1),
                        value: seen.value.into(),
                    };

                    rows.insert((seen.table, seen.key), row);
                }
            }

            let position = |of: &[(TopicPartition, u64)], topic| {
                next_offset(of, TopicPartition::new(topic, task)).unwrap_or(0)
            };

            let next = |topic| position(&entry.offsets, topic);
            let decided = |input: &TopicId| {
                open.range((*input, 0)..(*input, next(*input)))
                    .map(|(place, _)| *place)
                    .collect::<Vec<_>>()
            };

            for (input, offset) in d.inputs.iter().flat_map(decided).collect::<Vec<_>>() {
                let Some(o) = open.remove(&(input, offset)) else {
                    continue;
                };

                let row = |table, key: Option<&str>| {
                    rows.get(&(table, key?.as_bytes().into()))
                        .filter(|row| !row.value.is_empty())
                        .cloned()
                };

                let symbol = o.symbol.as_deref();
                let instrument = row(t::INSTRUMENTS, symbol);
                let reference = row(t::REFERENCE_PRICES, symbol);
                let whose = o
                    .user
                    .iter()
                    .map(String::as_str)
                    .filter(|user| *user != EVERYBODY)
                    .chain(o.user.as_ref().map(|_| EVERYBODY));
                let controls = whose
                    .filter_map(|key| Some((key.to_string(), row(t::CONTROLS, Some(key))?)))
                    .collect();
                if let (t::BOOK_COMMANDS, Some(symbol)) = (input, &o.symbol) {
                    let merged =
                        by_log_time.then(|| position(&began, t::BOOK_COMMANDS)..offset + 1);
                    let ticks = position(&began, t::MARKET_DATA)..next(t::MARKET_DATA);
                    ticks_for.push(WantedTick {
                        ticks,
                        merged,
                        place: o.place,
                        symbol: symbol.clone(),
                    });
                }

                let transaction = entry.transaction;
                let settings = settings.clone();
                let made = Inputs {
                    role: d.role,
                    task,
                    transaction,
                    instrument,
                    reference,
                    tick: None,
                    controls,
                    settings,
                };

                inputs.insert(o.place, made);
            }

            began = entry.offsets;
            !open.is_empty()
        },
    )?;

    ticks(log, topics, task, ticks_for, inputs)
}

/// A command whose last earlier tick is wanted.
struct WantedTick {
    /// Ticks of the command's transaction. Earlier ticks were processed before the transaction.
    ticks: Range<u64>,
    /// Commands of the transaction up to this command, if the task merged commands and ticks by log
    /// time. None: the task processed the ticks first.
    merged: Option<Range<u64>>,
    place: usize,
    symbol: String,
}

/// Follows the prices of the symbols, and stores the last tick before each command.
fn ticks(
    log: &dyn Log,
    topics: &TopicTable,
    task: u32,
    mut wanted: Vec<WantedTick>,
    inputs: &mut BTreeMap<usize, Inputs>,
) -> Result<(), LogError> {
    if wanted.is_empty() {
        return Ok(());
    }

    wanted.sort_by_key(|w| (w.ticks.end, w.merged.as_ref().map(|commands| commands.end)));
    let symbols = wanted.iter().map(|w| w.symbol.clone()).collect();
    let mut prices = PriceHistory::new(log, topics, task, symbols)?;
    let merged = || wanted.iter().filter_map(|w| w.merged.as_ref());
    let all =
        merged().map(|c| c.start).min().unwrap_or(0)..merged().map(|c| c.end).max().unwrap_or(0);
    let mut times = Times::of(log, TopicPartition::new(t::BOOK_COMMANDS, task), all)?;
    for WantedTick {
        ticks,
        merged,
        place,
        symbol,
    } in wanted
    {
        let time_ms = match merged {
            Some(commands) => times.latest_ms(commands)?,
            None => i64::MAX,
        };
        // At equal log times, ticks come first.
        let mut latest = i64::MIN;
        prices.advance(|r| {
            latest = if r.offset < ticks.start {
                i64::MIN
            } else {
                latest.max(r.timestamp_ms)
            };

            r.offset < ticks.end && latest <= time_ms
        })?;
        if let Some(made) = inputs.get_mut(&place) {
            made.tick = prices.last(&symbol);
        }
    }
    Ok(())
}

/// Log times of commands, in one forward read: a transaction has thousands of commands, and the
/// caller may ask for each of them.
struct Times {
    commands: AuditCursor,
    /// First offset of the current transaction.
    begins: u64,
    /// Latest log time of the commands of the current transaction so far.
    latest_ms: i64,
}

impl Times {
    fn of(log: &dyn Log, at: TopicPartition, offsets: Range<u64>) -> Result<Times, LogError> {
        Ok(Times {
            commands: AuditCursor::range(log, at, offsets.start, offsets.end, false)?,
            begins: 0,
            latest_ms: i64::MIN,
        })
    }

    /// The latest log time of the commands in `offsets`. The task merged the last command at this
    /// time, because records of one partition keep their order even if a timestamp steps back. Call
    /// in rising order of the range ends.
    fn latest_ms(&mut self, offsets: Range<u64>) -> Result<i64, LogError> {
        if self.begins != offsets.start {
            (self.begins, self.latest_ms) = (offsets.start, i64::MIN);
        }

        while let Some(r) = self.commands.peek()?.filter(|r| r.offset < offsets.end) {
            if r.offset >= offsets.start {
                self.latest_ms = self.latest_ms.max(r.timestamp_ms);
            }

            self.commands.skip();
        }

        Ok(self.latest_ms)
    }
}
