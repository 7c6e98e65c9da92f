//! The inputs of decisions. A task's journal lists the records of each transaction, and the
//! broadcast rows that the task had read by then. The journal therefore gives the exact versions
//! for any command, including versions that compaction has removed.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use domain::control::EVERYBODY;
use engine::checkpoint::{JournalEntry, next_offset};
use ports::records::Records;
use ports::topics::{TopicId, TopicPartition, TopicTable};
use ports::{Log, LogError};
use roles::{MERGED_BY_LOG_TIME, RoleSettings};
use wire::topics as t;

use super::cursor::{self, AuditCursor, HeaderUse};
use super::prices::{DecisionTick, PriceHistory};
use super::query_filter::text_fields;

/// A broadcast row as a decision used it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecisionRow {
    /// Offset of the row's record, which compaction may have removed since. None: the price was
    /// read from the ticks, because `trading` had published none yet.
    pub offset: Option<u64>,
    pub value: Vec<u8>,
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
            let at = TopicPartition::new(d.journal, task);
            let mut search = DecisionSearch::new(d, task, open);
            cursor::journal(log, topics, at, &mut |entry| {
                search.entry(entry, &mut inputs);
                !search.open.is_empty()
            })?;

            ticks(log, topics, task, search.ticks, &mut inputs)?;
        }
    }

    Ok(inputs)
}

/// The search for the decisions of one task, from the start of its journal.
struct DecisionSearch<'a> {
    decider: &'a Decider,
    task: u32,
    open: Waiting,
    /// Keys of the rows that the decisions may have used.
    keys: BTreeSet<Vec<u8>>,
    /// The rows as the task had read them by the current entry.
    rows: BTreeMap<(TopicId, Box<[u8]>), DecisionRow>,
    settings: Option<Vec<u8>>,
    /// The task merged commands and ticks by log time.
    by_log_time: bool,
    /// Positions before the current entry's transaction.
    began: Vec<(TopicPartition, u64)>,
    /// The commands of the found decisions whose last earlier tick is wanted.
    ticks: Vec<WantedTick>,
}

impl<'a> DecisionSearch<'a> {
    fn new(decider: &'a Decider, task: u32, open: Waiting) -> DecisionSearch<'a> {
        let keys = open
            .values()
            .flat_map(|o| [&o.symbol, &o.user])
            .flatten()
            .map(String::as_str)
            .chain([EVERYBODY])
            .map(|k| k.as_bytes().to_vec())
            .collect();
        DecisionSearch {
            decider,
            task,
            open,
            keys,
            rows: BTreeMap::new(),
            settings: None,
            by_log_time: false,
            began: Vec::new(),
            ticks: Vec::new(),
        }
    }

    /// Takes the next journal entry, and adds the inputs of its decisions to `inputs`.
    fn entry(&mut self, entry: JournalEntry, inputs: &mut BTreeMap<usize, Inputs>) {
        if entry.forget {
            self.begin(entry.settings);
        }

        for seen in entry.rows {
            // Keep only the rows of the wanted symbols and users, to save memory.
            if self.keys.contains(&*seen.key) {
                let row = DecisionRow {
                    offset: seen.version.checked_sub(1),
                    value: seen.value.into(),
                };

                self.rows.insert((seen.table, seen.key), row);
            }
        }

        for (input, offset) in self.decided(&entry.offsets) {
            let Some(o) = self.open.remove(&(input, offset)) else {
                continue;
            };

            inputs.insert(o.place, self.inputs(&o, entry.transaction));
            if let (t::BOOK_COMMANDS, Some(symbol)) = (input, o.symbol) {
                let begins = self.position(&self.began, t::BOOK_COMMANDS);
                let ticks_begin = self.position(&self.began, t::MARKET_DATA);
                self.ticks.push(WantedTick {
                    ticks: ticks_begin..self.position(&entry.offsets, t::MARKET_DATA),
                    merged: self.by_log_time.then(|| begins..offset + 1),
                    place: o.place,
                    symbol,
                });
            }
        }

        self.began = entry.offsets;
    }

    /// The role started with these settings, and forgot all rows.
    fn begin(&mut self, settings: Option<Vec<u8>>) {
        self.rows.clear();
        self.by_log_time = settings
            .as_deref()
            .is_some_and(|s| RoleSettings::decode(s).is_ok_and(|s| s.rules >= MERGED_BY_LOG_TIME));

        self.settings = settings;
    }

    fn position(&self, offsets: &[(TopicPartition, u64)], topic: TopicId) -> u64 {
        next_offset(offsets, TopicPartition::new(topic, self.task)).unwrap_or(0)
    }

    /// The open inputs below the positions of a transaction.
    fn decided(&self, positions: &[(TopicPartition, u64)]) -> Vec<(TopicId, u64)> {
        let below = |input: &TopicId| {
            let next = self.position(positions, *input);
            self.open
                .range((*input, 0)..(*input, next))
                .map(|(place, _)| *place)
        };

        self.decider.inputs.iter().flat_map(below).collect()
    }

    fn inputs(&self, o: &UncommittedInput, transaction: u64) -> Inputs {
        let row = |table, key: Option<&str>| {
            self.rows
                .get(&(table, key?.as_bytes().into()))
                .filter(|row| !row.value.is_empty())
                .cloned()
        };

        let whose = o
            .user
            .iter()
            .map(String::as_str)
            .filter(|user| *user != EVERYBODY)
            .chain(o.user.as_ref().map(|_| EVERYBODY));
        Inputs {
            role: self.decider.role,
            task: self.task,
            transaction,
            instrument: row(t::INSTRUMENTS, o.symbol.as_deref()),
            reference: row(t::REFERENCE_PRICES, o.symbol.as_deref()),
            tick: None,
            controls: whose
                .filter_map(|key| Some((key.to_string(), row(t::CONTROLS, Some(key))?)))
                .collect(),
            settings: self.settings.clone(),
        }
    }
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
            commands: AuditCursor::range(log, at, offsets.start, offsets.end, HeaderUse::Skip)?,
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
