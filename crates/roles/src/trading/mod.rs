//! `trading`: the last price of each symbol, the books, and the fills. If a symbol has a house, the
//! house has a place in the book (`quote`).

mod book_session;
mod conflated;
mod execution_writer;
mod gate;
mod quote;
mod reading;
mod state;

use std::collections::BTreeMap;

use domain::instrument::Instrument;
use domain::price::{Priced, TickFate};
use domain::tick::{ANEW_MS, LATE_TOLD, Rules, Source, Tick, Unfit};
use engine::context::Ctx;
use engine::role::{InvariantViolation, RoleLogic};
use ports::records::Record;
use wire::book::BookCommand;
use wire::tick::{self, TickRecord};
use wire::topics;
use wire::trade::{REFERENCE_PRICE, ReferencePrice};

use super::RoleSettings;
use super::decoded_table::{self, DecodedTable};
use super::ingress::{internal_value, validate_envelope, violation};
use super::settings::{LAST_IS_TOLD, MERGED_BY_LOG_TIME, SWITCHED_OFF_ENDS};
use book_session::{BookSession, RecordBudget, SymbolBook};
use conflated::ConflatedPrices;
use execution_writer::{ExecutionWriter, TextBuffers};
use gate::Gate;
pub use reading::{BookLine, read_books};
pub(super) use state::{STATE_SCHEMA, show};
use state::{TradingBuffers, WaitingAct};

/// Maximum of orders that one clock record ends or triggers.
const WORK_MAX: usize = 1_000;
/// Value of a clock record that continues leftover work: a map of one field.
const CONTINUE: &[u8] = b"\x81\xa8continue\xc3";
/// Dead-letter reason for a source whose ticks are ignored as late.
const LATE_TICKS: &str = "LATE_TICKS";

pub(super) struct Trading {
    settings: RoleSettings,
    rules: Rules,
    instruments: DecodedTable<Instrument>,
    gate: Gate,
    buffers: TradingBuffers,
    texts: TextBuffers,
    /// Books that were loaded: copies of state. The map is sorted, because the clock must visit the
    /// books in an order that does not depend on loading.
    stands: BTreeMap<Box<str>, SymbolBook>,
    /// True if `stands` holds all books of the state.
    all_open: bool,
    /// Lower bound of the deadlines in all books.
    alarm_ms: Option<i64>,
    conflated: ConflatedPrices,
}

impl Trading {
    pub(super) fn new(settings: &RoleSettings) -> Self {
        Trading {
            settings: *settings,
            rules: settings.price_rules(),
            instruments: decoded_table::instruments(),
            gate: Gate::new(settings.rules >= SWITCHED_OFF_ENDS),
            buffers: TradingBuffers::default(),
            texts: TextBuffers::default(),
            stands: BTreeMap::new(),
            all_open: false,
            alarm_ms: None,
            conflated: ConflatedPrices::default(),
        }
    }

    fn tick(&mut self, ctx: &mut Ctx<'_>, record: &Record<'_>) -> Result<(), InvariantViolation> {
        let Some(t) = read_tick(ctx, record) else {
            return Ok(());
        };

        let tick = Tick {
            price_e4: t.price.positive(),
            seq: t.seq,
            time_ns: t.timestamp_ns,
            append_ms: record.timestamp_ms,
        };

        let (price_e4, instrument) = match tick.fit(|| self.instruments.get(ctx, &t.symbol)) {
            Ok(fit) => fit,
            Err(unfit) => {
                let (reason, text) = fault(unfit);
                ctx.dead_letter(record, reason, text);
                return Ok(());
            }
        };

        let mut prices = state::load_prices(ctx, &mut self.buffers, &t.symbol)?;
        let mut source =
            state::load_source(ctx, &mut self.buffers, &t.symbol, t.source.as_deref())?;
        let known = source;
        let taken = prices.fold(&tick, price_e4, &instrument, &mut source, self.rules);
        if source != known
            || (taken != TickFate::Late && (t.seq.is_some() || t.timestamp_ns.is_some()))
        {
            state::save_source(
                ctx,
                &mut self.buffers,
                &t.symbol,
                t.source.as_deref(),
                &source,
            );
        }

        match taken {
            TickFate::Late if source.tells_late() => {
                ctx.dead_letter(record, LATE_TICKS, &silent(t.source.as_deref(), &source))
            }
            TickFate::Late | TickFate::Held => {}
            TickFate::Accepted => {
                if let Some(price) = prices.publish_on_tick(self.rules.stale) {
                    self.publish(ctx, &t.symbol, price);
                }

                if self.settings.rules >= LAST_IS_TOLD {
                    self.conflated.update(&t.symbol, &prices, self.rules.stale);
                }

                state::save_prices(ctx, &mut self.buffers, &t.symbol, &prices);
                let mut room = self.room();
                return self.with_session(
                    ctx,
                    &t.symbol,
                    Some(prices.last),
                    &mut room,
                    |session| session.take_in(WaitingAct::Price(price_e4)),
                );
            }
        }

        state::save_prices(ctx, &mut self.buffers, &t.symbol, &prices);
        Ok(())
    }

    /// Publishes the price of a symbol in `reference-prices`.
    fn publish(&mut self, ctx: &mut Ctx<'_>, symbol: &str, price: Priced) {
        let value = self.buffers.fresh();
        ReferencePrice {
            symbol,
            price_e4: price.price_e4,
            time_us: price.time_ms.saturating_mul(1_000),
        }
        .encode(value);
        ctx.emit(
            topics::REFERENCE_PRICES,
            symbol.as_bytes(),
            REFERENCE_PRICE,
            value,
        );
    }

    fn book_command(
        &mut self,
        ctx: &mut Ctx<'_>,
        record: &Record<'_>,
    ) -> Result<(), InvariantViolation> {
        let value = internal_value(ctx, record)?;
        let c = BookCommand::decode(value).map_err(|fault| violation(ctx, fault))?;
        let mut room = self.room();
        self.with_session(ctx, c.symbol, None, &mut room, |session| {
            session.take_in(WaitingAct::Command(value))
        })
    }

    /// Budget for the consequences of one record.
    fn room(&self) -> RecordBudget {
        RecordBudget::new(self.settings.match_part)
    }

    fn open_book(&mut self, ctx: &mut Ctx<'_>, symbol: &str) -> Result<(), InvariantViolation> {
        if !self.stands.contains_key(symbol) {
            let stand = SymbolBook::load(ctx, &mut self.buffers, symbol)?;
            self.stands.insert(symbol.into(), stand);
        }

        Ok(())
    }

    /// Runs `act` on a symbol's book. `tick` is the last tick, if the caller has loaded it.
    fn with_session(
        &mut self,
        ctx: &mut Ctx<'_>,
        symbol: &str,
        tick: Option<Option<Priced>>,
        room: &mut RecordBudget,
        act: impl FnOnce(&mut BookSession<'_, '_>) -> Result<(), InvariantViolation>,
    ) -> Result<(), InvariantViolation> {
        let instrument = self.instruments.get(ctx, symbol);
        let tick = match tick {
            Some(tick) => tick,
            None => state::load_prices(ctx, &mut self.buffers, symbol)?.last,
        };

        self.open_book(ctx, symbol)?;
        let stand = self
            .stands
            .get_mut(symbol)
            .ok_or_else(|| violation(ctx, "a book that was just opened is not there"))?;
        let now_ms = ctx.time_ms();
        let out = ExecutionWriter {
            ctx,
            buffers: &mut self.buffers,
            symbol,
            text: &mut self.texts,
            now_ms,
            failed: None,
        };

        let mut session = BookSession {
            stand,
            out,
            instrument,
            tick,
            now_ms,
            stale: self.rules.stale,
            rules: self.settings.rules,
            gate: &mut self.gate,
            room,
        };

        act(&mut session)?;
        let more = session.has_more();
        if let Some(e) = session.out.failed {
            return Err(e);
        }

        stand.save(ctx, &mut self.buffers, symbol);
        self.alarm_ms = [self.alarm_ms, stand.book.next_deadline()]
            .into_iter()
            .flatten()
            .min();
        if more {
            self.go_on(ctx, symbol);
        }

        Ok(())
    }

    /// Emits a clock record, so that another transaction continues the leftover work. At most one
    /// such record is in flight, for all symbols of the task.
    fn go_on(&mut self, ctx: &mut Ctx<'_>, symbol: &str) {
        if !state::continuation_pending(ctx) {
            state::mark_continuation(ctx);
            ctx.emit(topics::CLOCK, symbol.as_bytes(), "Continue", CONTINUE);
        }
    }

    /// Symbols of the books with orders or leftover work. Books with waiting orders or commands take
    /// turns at the budget.
    fn busy_symbols(&self, turn: u64) -> Vec<Box<str>> {
        let busy = self
            .stands
            .iter()
            .filter(|(_, s)| !s.book.is_empty() || s.book.has_fired() || s.is_busy());
        let mut symbols: Vec<Box<str>> = busy.map(|(symbol, _)| symbol.clone()).collect();
        let waits: Vec<usize> = (0..symbols.len())
            .filter(|i| self.stands[&symbols[*i]].is_busy())
            .collect();
        if !waits.is_empty() {
            symbols.rotate_left(waits[turn as usize % waits.len()]);
        }

        symbols
    }

    /// Visits all books after a wake-up, a change of listings or controls, or leftover work. The
    /// work has a bound; the rest waits for a later record.
    fn clock(&mut self, ctx: &mut Ctx<'_>, record: &Record<'_>) -> Result<(), InvariantViolation> {
        if record.value == Some(CONTINUE) {
            state::clear_continuation(ctx);
        }

        if !std::mem::replace(&mut self.all_open, true) {
            for symbol in state::symbols(ctx) {
                self.open_book(ctx, &symbol)?;
            }
        }

        self.publish_due_prices(ctx)?;
        let mut budget = WORK_MAX;
        let mut slots = Vec::new();
        let mut room = self.room();

        // Look for switched-off users when the controls may have changed, and until all their
        // orders have ended.
        let looks = self.settings.rules >= SWITCHED_OFF_ENDS
            && (record.value != Some(CONTINUE) || state::ends_orders(ctx));
        let mut unended = None;
        self.alarm_ms = None;
        for symbol in self.busy_symbols(record.offset) {
            self.with_session(ctx, &symbol, None, &mut room, |session| {
                session.go_on()?;
                if looks {
                    let (ended, more) = session.end_switched_off(budget);
                    budget -= ended.min(budget);
                    if more {
                        unended = Some(symbol.clone());
                    }
                }

                if session.stand.is_busy() {
                    return Ok(());
                }

                session.mark_for_removal();
                budget -= session.expire_dead(budget, &mut slots).min(budget);
                if let Some(crossing) = session.owed() {
                    session.take_in(WaitingAct::Crossing(crossing))?;
                    if session.stand.is_busy() {
                        return Ok(());
                    }
                }

                session.arm(session.market_price());
                budget -= session.fire(budget).min(budget);
                Ok(())
            })?;
        }

        if looks {
            state::set_ends_orders(ctx, unended.is_some());
            unended
                .into_iter()
                .for_each(|symbol| self.go_on(ctx, &symbol));
        }

        Ok(())
    }
}

/// The tick of a record; `None` if the record went to `dead-letters`.
fn read_tick<'r>(ctx: &mut Ctx<'_>, record: &Record<'r>) -> Option<TickRecord<'r>> {
    let (key, value) = validate_envelope(ctx, record)?;
    match tick::decode(value) {
        Ok(t) if t.symbol.as_bytes() == key => Some(t),
        Ok(_) => {
            ctx.dead_letter(
                record,
                "MALFORMED",
                "the record's key is not the tick's symbol",
            );
            None
        }
        Err(fault) => {
            ctx.dead_letter(record, "MALFORMED", fault);
            None
        }
    }
}

/// Reason and text of a tick that cannot be a price.
fn fault(unfit: Unfit) -> (&'static str, &'static str) {
    match unfit {
        Unfit::Price => (
            "INVALID_PRICE",
            "the price is not a positive number of at most four decimals within bounds",
        ),
        Unfit::Symbol => ("UNKNOWN_SYMBOL", "the symbol is not listed"),
        Unfit::Future => (
            "FUTURE_TIMESTAMP",
            "the timestamp is more than one second ahead of the log's time",
        ),
    }
}

/// Text about a source whose ticks are late several times in a row: the fault, and the condition
/// under which the source counts again.
fn silent(name: Option<&str>, source: &Source) -> String {
    let name = name.map_or_else(
        || "ticks without a source".to_string(),
        |name| format!("ticks of source {name}"),
    );
    let seq = source
        .seq
        .map_or_else(String::new, |seq| format!(" with seq {seq}"));
    format!(
        "{LATE_TOLD} {name} in a row were ignored, this one is the last of them: each is not newer than the last that counted{seq}. A source that began its seq anew \
         counts again {} s after that one; ticks that are older by their own timestamp never do",
        ANEW_MS / 1_000
    )
}

impl RoleLogic for Trading {
    fn process(
        &mut self,
        ctx: &mut Ctx<'_>,
        record: &Record<'_>,
    ) -> Result<(), InvariantViolation> {
        match record.at.topic {
            topics::MARKET_DATA => self.tick(ctx, record),
            topics::CLOCK => self.clock(ctx, record),
            topics::BOOK_COMMANDS => self.book_command(ctx, record),
            _ => Err(violation(ctx, "trading does not read this topic")),
        }
    }

    fn settings(&self) -> Option<Vec<u8>> {
        Some(self.settings.encode())
    }

    fn merges_by_log_time(&self) -> bool {
        self.settings.rules >= MERGED_BY_LOG_TIME
    }

    fn alarm_ms(&self) -> Option<i64> {
        [self.alarm_ms, self.conflated.next_ms()]
            .into_iter()
            .flatten()
            .min()
    }
}
