//! `orders`: the only owner of money. It checks and reserves what users want, and books what the book did with it; everything it does is an event.

mod books;
mod commands;
mod desk;
pub(super) mod seed;
mod settlement;
mod show;
mod state;

use crate::domain::instrument::Instrument;
use crate::domain::rate_limit::Limit;
use crate::engine::context::Ctx;
use crate::engine::records::Record;
use crate::engine::role::{Bug, Role};
use crate::wire::topics;

use super::RoleSettings;
use super::intake::bug;
use super::rows::{self, Rows};
pub use books::check_books;
pub(super) use show::show;
use state::Buffers;

/// The role's logic; see the module.
pub(super) struct Orders {
    limit: Option<Limit>,
    stale_ms: i64,
    opening_cash_e4: i64,
    max_age_ns: Option<i128>,
    instruments: Rows<Instrument>,
    references: Rows<(i64, i64)>,
    buffers: Buffers,
    /// Content of the command in hand.
    content: Vec<u8>,
    /// The order entry in hand as it lies in state.
    entry: Vec<u8>,
}

impl Orders {
    pub(super) fn new(settings: &RoleSettings) -> Self {
        Orders {
            limit: Limit::new(settings.rate_limit, settings.burst),
            stale_ms: i64::try_from(settings.stale_ms).unwrap_or(i64::MAX),
            opening_cash_e4: settings.opening_cash_e4,
            max_age_ns: settings.max_command_age_ms.map(|ms| i128::from(ms) * 1_000_000),
            instruments: rows::instruments(),
            references: rows::references(),
            buffers: Buffers::default(),
            content: Vec::new(),
            entry: Vec::new(),
        }
    }
}

impl Role for Orders {
    fn process(&mut self, ctx: &mut Ctx<'_>, record: &Record<'_>) -> Result<(), Bug> {
        match record.at.topic {
            topics::ORDER_COMMANDS => self.command(ctx, record),
            topics::EXECUTIONS => self.execution(ctx, record),
            _ => Err(bug(ctx, "orders does not read this topic")),
        }
    }
}
