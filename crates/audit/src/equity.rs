//! A user's equity after each of their events, by replay. The portfolio is folded again from
//! `order-events`, with the code of the role, and marked at the prices published at that time. No
//! result is stored, so any moment can be computed.

use std::collections::{BTreeMap, BTreeSet};

use ports::partitioner;
use ports::topics::{TopicPartition, TopicTable};
use ports::{Log, LogError};
use roles::portfolio::History;
use wire::event::OrderEvent;
use wire::portfolio::PortfolioRecord;
use wire::topics as t;

use super::chains::count;
use super::cursor::{AuditCursor, HeaderUse};
use super::prices::PriceHistory;

/// Reasons for a missing history.
#[derive(Debug, thiserror::Error)]
pub enum EquityError {
    #[error(transparent)]
    Log(#[from] LogError),
    /// An event is not one that `orders` could have written.
    #[error("{at}: {why}; `processor audit verify` says whether the log was changed")]
    Events {
        /// Name of the record.
        at: String,
        why: &'static str,
    },
}

/// The user's state after one event. Amounts in 10^-4.
pub struct EquityPoint<'a> {
    pub event: &'a OrderEvent<'a>,
    /// The portfolio after the event.
    pub portfolio: &'a PortfolioRecord,
    /// Cost of all positions.
    pub cost_basis_e4: i128,
    /// Value of the positions at the last published price of each symbol; none if a symbol has no
    /// price yet.
    pub worth_e4: Option<i128>,
}

impl EquityPoint<'_> {
    /// Cash plus value of the positions.
    pub fn equity_e4(&self) -> Option<i128> {
        let p = self.portfolio;
        Some(i128::from(p.cash_available_e4) + i128::from(p.cash_reserved_e4) + self.worth_e4?)
    }
}

/// Calls `each` for every event of the user with a log time in `from_ms..to_ms`, until `each`
/// returns `false`. The fold always starts at the user's first event, so that the amounts are
/// exact. Returns the number of all events of the user.
pub fn history(
    log: &dyn Log,
    topics: &TopicTable,
    user: &str,
    (from_ms, to_ms): (Option<i64>, Option<i64>),
    each: &mut dyn FnMut(&EquityPoint<'_>) -> bool,
) -> Result<u64, EquityError> {
    let at = TopicPartition::new(
        t::ORDER_EVENTS,
        partitioner::partition(user.as_bytes(), count(log, topics, t::ORDER_EVENTS)?),
    );
    let mut marks = MarkPrices::new(log, topics, at, user)?;
    let mut fold = History::of(user);
    let mut events = 0;
    let mut cursor = AuditCursor::whole(log, at, HeaderUse::Skip)?;
    while let Some(r) = cursor.peek()? {
        if r.key == Some(user.as_bytes()) {
            let wrong = |why| EquityError::Events {
                at: format!("{}/{}", topics.show(r.at), r.offset),
                why,
            };

            let event = OrderEvent::decode(r.value.unwrap_or_default()).map_err(wrong)?;
            let portfolio = fold.fold(&event).map_err(wrong)?;
            events += 1;
            if from_ms.is_none_or(|from| r.timestamp_ms >= from)
                && to_ms.is_none_or(|to| r.timestamp_ms < to)
            {
                marks.until(r.timestamp_ms)?;
                let cost_basis_e4 = portfolio
                    .positions
                    .values()
                    .map(|h| i128::from(h.cost_basis_e4))
                    .sum();
                let worth = portfolio
                    .positions
                    .iter()
                    .filter(|(_, h)| h.quantity != 0)
                    .map(|(symbol, h)| {
                        let mark = marks.of(symbol)?;
                        Some(i128::from(mark) * i128::from(h.quantity))
                    });

                let point = EquityPoint {
                    event: &event,
                    portfolio,
                    cost_basis_e4,
                    worth_e4: worth.sum(),
                };

                if !each(&point) {
                    break;
                }
            }
        }

        cursor.skip();
    }

    Ok(events)
}

/// Prices of the symbols that a user has traded, in rising log time.
struct MarkPrices {
    walks: Vec<PriceHistory>,
    symbols: BTreeMap<String, usize>,
    ms: i64,
}

impl MarkPrices {
    fn new(
        log: &dyn Log,
        topics: &TopicTable,
        events: TopicPartition,
        user: &str,
    ) -> Result<MarkPrices, LogError> {
        let mut symbols = BTreeSet::new();
        AuditCursor::whole(log, events, HeaderUse::Skip)?.each(&mut |r| {
            if r.key == Some(user.as_bytes())
                && let Ok(OrderEvent {
                    symbol: Some(symbol),
                    trade_id: Some(_),
                    ..
                }) = OrderEvent::decode(r.value.unwrap_or_default())
                && !symbols.contains(symbol)
            {
                symbols.insert(symbol.to_string());
            }

            true
        })?;

        let partitions = count(log, topics, t::MARKET_DATA)?;
        let mut by_task: BTreeMap<u32, BTreeSet<String>> = BTreeMap::new();
        for symbol in symbols {
            by_task
                .entry(partitioner::partition(symbol.as_bytes(), partitions))
                .or_default()
                .insert(symbol);
        }

        let mut walks = Vec::new();
        let mut places = BTreeMap::new();
        for (task, symbols) in by_task {
            places.extend(symbols.iter().map(|s| (s.clone(), walks.len())));
            walks.push(PriceHistory::new(log, topics, task, symbols)?);
        }

        Ok(MarkPrices {
            walks,
            symbols: places,
            ms: 0,
        })
    }

    /// Reads the ticks up to log time `ms`.
    fn until(&mut self, ms: i64) -> Result<(), LogError> {
        self.ms = ms;
        self.walks
            .iter_mut()
            .try_for_each(|walk| walk.advance(|r| r.timestamp_ms <= ms))
    }

    /// The published price of a symbol at the current log time.
    fn of(&self, symbol: &str) -> Option<i64> {
        self.walks[*self.symbols.get(symbol)?].told(symbol, self.ms)
    }
}
