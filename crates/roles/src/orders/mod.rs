//! `orders` alone changes balances. The role checks commands, reserves cash and shares, and settles
//! executions from the book. Every effect is an event.

mod account_tx;
mod bust;
mod cancel_replace;
mod commands;
mod decision;
mod dedup_window;
mod executions;
mod ledger_check;
mod mass;
mod messages;
mod new_order;
mod open_orders;
mod order_trades;
pub(super) mod seed;
mod shorts;
mod show;
mod state;

use engine::context::Ctx;
use engine::role::{InvariantViolation, RoleLogic};
use ports::records::Record;
use wire::topics;

use super::RoleSettings;
use super::ingress::violation;
use super::settings::{
    BUST_BY_TRADE, MERGED_BY_LOG_TIME, MESSAGES_BOUNDED, SHORT_MARGIN, TERMS_TOLD,
};
use commands::{CommandRecords, CommandRules};
pub(super) use ledger_check::SharedSums;
pub use ledger_check::check_books;
pub(super) use show::show;
pub(super) use state::STATE_SCHEMA;
use state::{HoldTally, OrdersBuffers};

pub(super) struct Orders {
    settings: RoleSettings,
    rules: CommandRules,
    buffers: OrdersBuffers,
    records: CommandRecords,
    /// True if the current command has no timestamp, or its timestamp agrees with log time.
    in_time: bool,
}

impl Orders {
    pub(super) fn new(settings: &RoleSettings) -> Self {
        Orders {
            settings: *settings,
            rules: CommandRules::new(settings),
            buffers: OrdersBuffers {
                forgets: settings.dedup_window_ms.is_some(),
                cancel_part: usize::try_from(settings.mass_cancel_part).unwrap_or(usize::MAX),
                margin: settings.rules >= SHORT_MARGIN,
                keeps_trades: settings.rules >= BUST_BY_TRADE,
                tells_terms: settings.rules >= TERMS_TOLD,
                unknown_burns: settings.rules < MESSAGES_BOUNDED,
                ..OrdersBuffers::default()
            },
            records: CommandRecords::default(),
            in_time: false,
        }
    }
}

impl RoleLogic for Orders {
    fn process(
        &mut self,
        ctx: &mut Ctx<'_>,
        record: &Record<'_>,
    ) -> Result<(), InvariantViolation> {
        match record.at.topic {
            topics::ORDER_COMMANDS | topics::OPERATOR_COMMANDS => self.command(ctx, record)?,
            topics::EXECUTIONS => self.execution(ctx, record)?,
            _ => return Err(violation(ctx, "orders does not read this topic")),
        }

        let in_time = std::mem::take(&mut self.in_time) || !self.settings.time_may_fall;
        let Some(window_ms) = self.settings.dedup_window_ms else {
            return Ok(());
        };

        if in_time && record.at.topic != topics::EXECUTIONS {
            let falls = self.settings.marks_may_fall;
            dedup_window::queue_and_expire(ctx, &mut self.buffers, window_ms, falls)
        } else {
            dedup_window::queue_ended(ctx, &mut self.buffers)
        }
    }

    fn settings(&self) -> Option<Vec<u8>> {
        Some(self.settings.encode())
    }

    fn merges_by_log_time(&self) -> bool {
        self.settings.rules >= MERGED_BY_LOG_TIME
    }

    /// Every posting was checked when it was made (I1, I2). Sums across state records are checked
    /// here, before the commit.
    fn batch_end(&mut self, ctx: &mut Ctx<'_>) -> Result<(), InvariantViolation> {
        match std::mem::take(&mut self.buffers.tally) {
            tally if tally == HoldTally::default() => Ok(()),
            tally => Err(violation(
                ctx,
                format_args!("accounts and the orders they hold money for differ by {tally:?}"),
            )),
        }
    }
}
