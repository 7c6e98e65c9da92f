//! Prices that were not worth telling when they came. A burst of ticks is told by its first one,
//! and by those that move the price; its last one waits, and when no tick follows, nobody would
//! ever learn of it. So the clock wakes the task when the second is over.

use std::collections::{BTreeMap, BTreeSet};

use crate::settings::LAST_IS_TOLD;
use domain::price::{Prices, Stale};
use engine::context::Ctx;
use engine::role::Bug;

use super::{Trading, WORK_MAX, state};

/// Symbols whose last price nobody has been told, by the time when they must be.
#[derive(Default)]
pub(super) struct Untold {
    due: BTreeMap<Box<str>, i64>,
    by_time: BTreeSet<(i64, Box<str>)>,
    /// Whether the symbols in state were read.
    read: bool,
}

impl Untold {
    /// Notes how a symbol's prices stand.
    pub(super) fn note(&mut self, symbol: &str, prices: &Prices, stale: Stale) {
        let due = prices.due_ms(stale);
        if self.due.get(symbol).copied() == due {
            return;
        }

        if let Some((symbol, old)) = self.due.remove_entry(symbol) {
            self.by_time.remove(&(old, symbol));
        }

        if let Some(due) = due {
            self.due.insert(symbol.into(), due);
            self.by_time.insert((due, symbol.into()));
        }
    }

    /// When the first of them is due.
    pub(super) fn next_ms(&self) -> Option<i64> {
        self.by_time.first().map(|(due, _)| *due)
    }
}

impl Trading {
    /// Tells what is due, so much at a time; the rest is still due then, and wakes the task again.
    pub(super) fn tell_untold(&mut self, ctx: &mut Ctx<'_>) -> Result<(), Bug> {
        if self.settings.rules < LAST_IS_TOLD {
            return Ok(());
        }

        if !std::mem::replace(&mut self.untold.read, true) {
            for (symbol, prices) in state::all_prices(ctx) {
                self.untold.note(&symbol, &prices, self.rules.stale);
            }
        }

        let now_ms = ctx.time_ms();
        let due: Vec<Box<str>> = self
            .untold
            .by_time
            .iter()
            .take_while(|(due, _)| *due <= now_ms)
            .take(WORK_MAX)
            .map(|(_, symbol)| symbol.clone())
            .collect();

        for symbol in due {
            let mut prices = state::load_prices(ctx, &mut self.buffers, &symbol)?;
            if let Some(told) = prices.tell_last() {
                self.told(ctx, &symbol, told);
            }

            state::save_prices(ctx, &mut self.buffers, &symbol, &prices);
            self.untold.note(&symbol, &prices, self.rules.stale);
        }

        Ok(())
    }
}
