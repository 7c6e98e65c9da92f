//! Conflated prices that are not published yet. Of a burst of ticks, only the first tick and larger
//! moves are published. The last price would stay unpublished if no tick follows. So the clock
//! wakes the task at the end of the second.

use std::collections::{BTreeMap, BTreeSet};

use domain::price::{FreshnessLimits, Prices};
use engine::context::Ctx;
use engine::role::InvariantViolation;

use super::{Trading, WORK_MAX, state};
use crate::settings::LAST_IS_TOLD;

/// Symbols with an unpublished last price, by the time when publication is due.
#[derive(Default)]
pub(super) struct ConflatedPrices {
    due: BTreeMap<Box<str>, i64>,
    by_time: BTreeSet<(i64, Box<str>)>,
    /// True if the symbols in state were read.
    read: bool,
}

impl ConflatedPrices {
    /// Updates the due time of a symbol.
    pub(super) fn update(&mut self, symbol: &str, prices: &Prices, stale: FreshnessLimits) {
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

    /// Earliest due time.
    pub(super) fn next_ms(&self) -> Option<i64> {
        self.by_time.first().map(|(due, _)| *due)
    }
}

impl Trading {
    /// Publishes due prices, with a bound per record. The rest stays due, and wakes the task again.
    pub(super) fn publish_due_prices(
        &mut self,
        ctx: &mut Ctx<'_>,
    ) -> Result<(), InvariantViolation> {
        if self.settings.rules < LAST_IS_TOLD {
            return Ok(());
        }

        if !std::mem::replace(&mut self.conflated.read, true) {
            for (symbol, prices) in state::all_prices(ctx) {
                self.conflated.update(&symbol, &prices, self.rules.stale);
            }
        }

        let now_ms = ctx.time_ms();
        let due: Vec<Box<str>> = self
            .conflated
            .by_time
            .iter()
            .take_while(|(due, _)| *due <= now_ms)
            .take(WORK_MAX)
            .map(|(_, symbol)| symbol.clone())
            .collect();

        for symbol in due {
            let mut prices = state::load_prices(ctx, &mut self.buffers, &symbol)?;
            if let Some(price) = prices.publish() {
                self.publish(ctx, &symbol, price);
            }

            state::save_prices(ctx, &mut self.buffers, &symbol, &prices);
            self.conflated.update(&symbol, &prices, self.rules.stale);
        }

        Ok(())
    }
}
