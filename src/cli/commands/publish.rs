//! `publish`: publishes ticks of a random walk, or of a file.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use client::simulate::PriceWalk;
use client::{ClientError, MarketDataPublisher, decimal};
use os::clock::wall_ms;
use ports::Log;
use serde_json::json;

use super::listed::symbols;
use crate::cli::args::Publish;
use crate::cli::config::Config;
use crate::cli::exit::Failure;
use crate::cli::open::Access;
use crate::cli::output::{self, JobProgress, OutputFormat};
use crate::cli::pace::{self, Speed};
use crate::cli::table::{self, Table};
use crate::cli::{moment, number, open, shown};
use crate::runtime::signals;

/// Longest wait for the last records to reach the log.
const FLUSH: Duration = Duration::from_secs(60);
const COMPLAINTS_MAX: u64 = 20;

/// Publishes until the end of the file, the count, or a signal.
pub(crate) fn run(config: &Config, publish: &Publish) -> Result<(), Failure> {
    let speed =
        Speed::parse(&publish.speed).map_err(|e| Failure::usage(format!("--speed: {e}")))?;
    let log = open::log(config, Access::Write)?;
    let stop = signals::flag()?;
    let began = Instant::now();
    let PublishTally {
        published,
        refused,
        skipped,
    } = match &publish.file {
        None => PublishTally {
            published: walk(log, publish, &stop)?,
            ..PublishTally::default()
        },
        Some(file) => replay(log, file, publish, speed, &stop)?,
    };

    let ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    match config.format {
        OutputFormat::Json => output::json(
            &json!({"published": published, "skipped": skipped, "elapsed_ms": ms, "refused": refused}),
        )?,
        OutputFormat::Text => output::line(format_args!(
            "{published} ticks published in {} s, {skipped} bad rows skipped",
            ms.div_ceil(1000)
        ))?,
    }

    match (skipped, refused) {
        (0, 0) => Ok(()),
        (_, 0) => Err(Failure::failed(format!(
            "{skipped} rows were skipped; see the lines above"
        ))),
        _ => {
            let skipped = match skipped {
                0 => String::new(),
                n => format!("{n} rows were skipped, and "),
            };
            Err(Failure::failed(format!(
                "{skipped}{refused} of the prices that were published are dead letters (INVALID_PRICE); see the lines above. --round rounds prices that \
                 are too fine"
            )))
        }
    }
}

fn walk(log: Arc<dyn Log>, publish: &Publish, stop: &AtomicBool) -> Result<u64, Failure> {
    let symbols = symbols(&log, publish.symbols.as_deref())?;
    let mut ticks = MarketDataPublisher::new(log)?;
    let mut prices = PriceWalk::new(publish.seed, symbols);
    let count = publish.count.unwrap_or(u64::MAX);
    let mut progress = JobProgress::new("publishing", publish.count.unwrap_or(0));
    let began = Instant::now();
    let mut n = 0;
    while n < count && !stop.load(Ordering::Relaxed) {
        if let Some(us) = n.saturating_mul(1_000_000).checked_div(publish.rate)
            && !pace::wait_until(began, Duration::from_micros(us), stop)
        {
            break;
        }

        if let Some((symbol, price_e4)) = prices.tick() {
            ticks.publish(symbol, decimal::show_e4(price_e4), wall_ms())?;
        }

        n += 1;
        progress.set(n);
    }

    ticks.flush(FLUSH)?;
    progress.finish();
    Ok(n)
}

/// Indexes of the used columns.
struct TickColumns {
    symbol: Option<usize>,
    time: usize,
    price: usize,
}

/// Counts of a file's rows.
#[derive(Default)]
struct PublishTally {
    published: u64,
    /// Published prices that the contract rejects.
    refused: u64,
    skipped: u64,
}

/// A row that can be published.
struct PublishableTick<'a> {
    symbol: &'a str,
    price: String,
    time: i64,
    /// Reason for which the roles will reject the price.
    fault: Option<&'static str>,
}

fn replay(
    log: Arc<dyn Log>,
    file: &Path,
    publish: &Publish,
    speed: Speed,
    stop: &AtomicBool,
) -> Result<PublishTally, Failure> {
    let (source, bytes) = super::instruments::source(file)?;
    let mut table = table::open(source).and_then(Table::new)?;
    let columns = columns(table.header(), publish)?;
    let mut ticks = MarketDataPublisher::new(log)?;
    let mut progress = JobProgress::new("replaying", bytes);
    let mut tally = PublishTally::default();
    let mut complaints = 0;
    let began = Instant::now();
    let mut first_us = None;
    while tally.published < publish.count.unwrap_or(u64::MAX) && !stop.load(Ordering::Relaxed) {
        let Some(row) = table.next_row()? else { break };
        progress.set(table.position());
        let read = match &row.cells {
            Ok(cells) if table::is_trailer(&cells[0]) => continue,
            Ok(cells) => tick(cells, &columns, publish),
            Err(why) => Err(why.clone()),
        };

        let timed = read.and_then(|tick| match pace::timestamp_us(tick.time) {
            Some(us) => Ok((tick, us)),
            None => Err("its time is before 1970".into()),
        });

        let sent = match timed {
            Ok((tick, us)) => {
                // A feed's clock may step back; a late tick is due at once.
                let since = us.saturating_sub(*first_us.get_or_insert(us)).max(0);
                if !pace::wait_until(began, speed.due(since.unsigned_abs()), stop) {
                    break;
                }

                send(&mut ticks, &tick)?
            }
            Err(why) => Err(why),
        };

        match sent {
            Ok(fault) => {
                tally.published += 1;
                if let Some(fault) = fault {
                    tally.refused += 1;
                    complain(&mut complaints, row.line, &fault);
                }
            }
            Err(why) => {
                tally.skipped += 1;
                complain(&mut complaints, row.line, &format!("skipped: {why}"));
            }
        }
    }

    ticks.flush(FLUSH)?;
    progress.finish();
    if complaints > COMPLAINTS_MAX {
        let more = complaints - COMPLAINTS_MAX;
        output::note(format_args!(
            "{more} more rows have faults; they are not shown"
        ));
    }

    Ok(tally)
}

/// Tells what is wrong with a row, if not too many rows were told of.
fn complain(complaints: &mut u64, line: u64, what: &str) {
    *complaints += 1;
    if *complaints <= COMPLAINTS_MAX {
        output::note(format_args!("line {line}: {}", shown::one_line(what)));
    }
}

/// Publishes a tick. Returns the complaint about a published price, or the reason for which the
/// tick was not published. The outer error ends the command.
fn send(
    ticks: &mut MarketDataPublisher,
    tick: &PublishableTick<'_>,
) -> Result<Result<Option<String>, String>, Failure> {
    let price = &tick.price;
    match ticks.publish(tick.symbol, price, tick.time) {
        Ok(()) => Ok(Ok(tick.fault.map(|fault| {
            format!("published, and a dead letter: price `{price}` {fault}")
        }))),
        Err(e @ ClientError::BadField { .. }) => Ok(Err(e.to_string())),
        Err(e) => Err(e.into()),
    }
}

fn columns(names: &[String], publish: &Publish) -> Result<TickColumns, Failure> {
    let find = |option: &str, name: &str| {
        names.iter().position(|n| *n == name).ok_or_else(|| {
            let columns = names.join(", ");
            Failure::usage(format!(
                "{option} {name}: the file has no such column; its columns are {}",
                shown::one_line(&columns)
            ))
        })
    };

    let symbol = match (&publish.symbol, &publish.symbol_column) {
        (Some(_), _) => None,
        (None, Some(name)) => Some(find("--symbol-column", name)?),
        (None, None) => Some(find("--symbol-column", "symbol").map_err(|_| {
            Failure::usage(
                "the symbol of the prices is missing: give --symbol S, or --symbol-column NAME",
            )
        })?),
    };

    Ok(TickColumns {
        symbol,
        time: find("--time-column", &publish.time_column)?,
        price: find("--price-column", &publish.price_column)?,
    })
}

fn tick<'a>(
    row: &'a [String],
    columns: &TickColumns,
    publish: &'a Publish,
) -> Result<PublishableTick<'a>, String> {
    let cell = |i: usize| row.get(i).map(String::as_str).filter(|c| !c.is_empty());
    let symbol = columns
        .symbol
        .map_or(publish.symbol.as_deref(), cell)
        .ok_or("has no symbol")?;
    let price = cell(columns.price).ok_or("has no price")?;

    // The roles judge an invalid price. A text that is no number is an error of the file.
    let mut price = number::decimal(price)
        .map_err(|_| format!("price `{price}` is no number"))?
        .to_string();
    if publish.round
        && let Some(e4) = number::rounded_e4(&price)
    {
        price = decimal::show_e4(e4);
    }

    let time = moment::timestamp(cell(columns.time).ok_or("has no time")?)
        .map_err(|why| format!("time {why}"))?;
    let fault = number::price_fault(&price);
    Ok(PublishableTick {
        symbol,
        price,
        time,
        fault,
    })
}
