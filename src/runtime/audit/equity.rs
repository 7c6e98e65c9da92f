//! A user's worth after each of their events, by replay: the portfolio is folded again from `order-events`, by the code of the role, and
//! marked at the ticks of that time. Nothing of it is stored anywhere, so any moment can be looked at.

use std::collections::{BTreeMap, BTreeSet};

use super::cursor::Cursor;
use crate::domain::partitioner;
use crate::engine::ports::{Log, LogError};
use crate::engine::topics::{TopicPartition, TopicTable};
use crate::roles::portfolio::History;
use crate::wire::event::OrderEvent;
use crate::wire::portfolio::Portfolio;
use crate::wire::{tick, topics as t};

use super::chains::count;

/// Why there is no history.
#[derive(Debug, thiserror::Error)]
pub enum EquityError {
    /// The log failed.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The events are not what `orders` writes.
    #[error("{at}: {why}; `processor audit verify` says whether the log was changed")]
    Events {
        /// The record.
        at: String,
        /// The fault.
        why: &'static str,
    },
}

/// The user's state after one event. Amounts in 10^-4.
pub struct Point<'a> {
    /// The event.
    pub event: &'a OrderEvent<'a>,
    /// The portfolio after it.
    pub portfolio: &'a Portfolio,
    /// The cost of all positions.
    pub cost_basis_e4: i128,
    /// Their worth at the last tick of each symbol; none if a position has had no tick.
    pub worth_e4: Option<i128>,
}

impl Point<'_> {
    /// Cash and positions together.
    pub fn equity_e4(&self) -> Option<i128> {
        let p = self.portfolio;
        Some(i128::from(p.cash_available_e4) + i128::from(p.cash_reserved_e4) + self.worth_e4?)
    }
}

/// Where ticks begin to be read, before the first event.
const TICKS_BACK_MS: i64 = 10 * 60 * 1000;

/// Calls `each` after every event of the user with a log time in `from_ms..to_ms`, until it answers `false`. The fold begins at their first event
/// all the same: that is what makes it exact. Answers how many events they have in all.
pub fn history(
    log: &dyn Log,
    topics: &TopicTable,
    user: &str,
    (from_ms, to_ms): (Option<i64>, Option<i64>),
    each: &mut dyn FnMut(&Point<'_>) -> bool,
) -> Result<u64, EquityError> {
    let at = TopicPartition::new(t::ORDER_EVENTS, partitioner::partition(user.as_bytes(), count(log, topics, t::ORDER_EVENTS)?));
    let mut marks = Marks::new(log, topics, at, user)?;
    let (mut fold, mut events) = (History::of(user), 0);
    let mut cursor = Cursor::whole(log, at, false)?;
    while let Some(r) = cursor.peek()? {
        if r.key == Some(user.as_bytes()) {
            let wrong = |why| EquityError::Events { at: format!("{}/{}", topics.show(r.at), r.offset), why };
            let event = OrderEvent::decode(r.value.unwrap_or_default()).map_err(wrong)?;
            let portfolio = fold.fold(&event).map_err(wrong)?;
            events += 1;
            if from_ms.is_none_or(|from| r.timestamp_ms >= from) && to_ms.is_none_or(|to| r.timestamp_ms < to) {
                marks.until(r.timestamp_ms)?;
                let cost_basis_e4 = portfolio.positions.values().map(|h| i128::from(h.cost_basis_e4)).sum();
                let worth = portfolio.positions.iter().filter(|(_, h)| h.quantity != 0).map(|(symbol, h)| {
                    let mark = marks.last.get(symbol.as_str()).copied().flatten()?;
                    Some(i128::from(mark) * i128::from(h.quantity))
                });
                let point = Point { event: &event, portfolio, cost_basis_e4, worth_e4: worth.sum() };
                if !each(&point) {
                    break;
                }
            }
        }
        cursor.skip();
    }
    Ok(events)
}

/// Last ticks of the symbols that a user has traded, as time goes on.
struct Marks {
    cursors: Vec<Cursor>,
    last: BTreeMap<String, Option<i64>>,
}

impl Marks {
    fn new(log: &dyn Log, topics: &TopicTable, events: TopicPartition, user: &str) -> Result<Marks, LogError> {
        let (mut symbols, mut first) = (BTreeSet::new(), None);
        Cursor::whole(log, events, false)?.each(&mut |r| {
            if r.key == Some(user.as_bytes())
                && let Ok(OrderEvent { symbol: Some(symbol), trade_id: Some(_), .. }) = OrderEvent::decode(r.value.unwrap_or_default())
            {
                first.get_or_insert(r.timestamp_ms);
                if !symbols.contains(symbol) {
                    symbols.insert(symbol.to_string());
                }
            }
            true
        })?;
        let partitions = count(log, topics, t::MARKET_DATA)?;
        let needed: BTreeSet<u32> = symbols.iter().map(|s| partitioner::partition(s.as_bytes(), partitions)).collect();
        let since = first.map(|ms: i64| ms.saturating_sub(TICKS_BACK_MS));
        let open = |p| Cursor::between(log, TopicPartition::new(t::MARKET_DATA, p), since, None, false);
        let cursors = needed.into_iter().map(open).collect::<Result<_, _>>()?;
        Ok(Marks { cursors, last: symbols.into_iter().map(|s| (s, None)).collect() })
    }

    /// Takes the ticks up to a moment in.
    fn until(&mut self, ms: i64) -> Result<(), LogError> {
        for cursor in &mut self.cursors {
            while let Some(r) = cursor.peek()?.filter(|r| r.timestamp_ms <= ms) {
                let key = r.key.and_then(|k| std::str::from_utf8(k).ok()).unwrap_or_default();
                if let Some(last) = self.last.get_mut(key)
                    && let Ok(tick) = tick::decode(r.value.unwrap_or_default())
                    && let Some(price) = tick.price.positive()
                {
                    *last = Some(price);
                }
                cursor.skip();
            }
        }
        Ok(())
    }
}
