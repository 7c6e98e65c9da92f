//! `publish`: ticks of a random walk, or of a file.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::cli::args::Publish;
use crate::cli::config::Config;
use crate::cli::exit::Failure;
use crate::cli::open;
use crate::cli::open::Access;
use crate::cli::output::{self, Format, Progress};
use crate::cli::pace::{self, Speed};
use crate::client::instruments::Instruments;
use crate::client::simulate::PriceWalk;
use crate::client::{MarketDataPublisher, decimal, now_ms};
use crate::domain::decimal::{MONEY, parse};
use crate::engine::ports::Log;
use crate::runtime::signals;

/// How long the last records may take to reach the log.
const FLUSH: Duration = Duration::from_secs(60);
const COMPLAINTS_MAX: u64 = 20;

/// Publishes until the end of the file, the count, or a signal.
pub fn run(config: &Config, publish: &Publish) -> Result<(), Failure> {
    let speed = Speed::parse(&publish.speed).map_err(|e| Failure::usage(format!("--speed: {e}")))?;
    let log = open::log(config, Access::Write)?;
    let stop = signals::flag()?;
    let began = Instant::now();
    let (published, skipped) = match &publish.file {
        None => walk(log, publish, &stop)?,
        Some(_) => replay(log, publish, speed, &stop)?,
    };
    let ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    match config.format {
        Format::Json => output::json(&json!({"published": published, "skipped": skipped, "elapsed_ms": ms}))?,
        Format::Text => output::line(format_args!("{published} ticks published in {} s, {skipped} bad rows skipped", ms.div_ceil(1000)))?,
    }
    if skipped > 0 {
        return Err(Failure::failed(format!("{skipped} rows were skipped; see the lines above")));
    }
    Ok(())
}

fn walk(log: Arc<dyn Log>, publish: &Publish, stop: &AtomicBool) -> Result<(u64, u64), Failure> {
    let symbols: Vec<String> = match &publish.symbols {
        Some(list) => list.split(',').map(|s| s.trim().to_string()).filter(|s| !s.is_empty()).collect(),
        None => Instruments::load(&log)?.tradable().map(String::from).collect(),
    };
    if symbols.is_empty() {
        return Err(Failure::usage("no symbols: say --symbols AAPL,MSFT, or load listings first (`processor instruments load FILE`)"));
    }
    let mut ticks = MarketDataPublisher::new(log)?;
    let mut prices = PriceWalk::new(publish.seed, symbols);
    let count = publish.count.unwrap_or(u64::MAX);
    let mut progress = Progress::new("publishing", publish.count.unwrap_or(0));
    let began = Instant::now();
    let mut n = 0;
    while n < count && !stop.load(Ordering::Relaxed) {
        if let Some(us) = n.saturating_mul(1_000_000).checked_div(publish.rate) {
            pace::wait_until(began, Duration::from_micros(us), stop);
        }
        if let Some((symbol, price_e4)) = prices.tick() {
            ticks.publish(symbol, decimal::show_e4(price_e4), now_ms())?;
        }
        n += 1;
        progress.set(n);
    }
    ticks.flush(FLUSH)?;
    progress.finish();
    Ok((n, 0))
}

/// Which columns matter.
struct Columns {
    symbol: Option<usize>,
    time: usize,
    price: usize,
}

fn replay(log: Arc<dyn Log>, publish: &Publish, speed: Speed, stop: &AtomicBool) -> Result<(u64, u64), Failure> {
    let file = publish.file.as_deref().ok_or_else(|| Failure::usage("--file is missing"))?;
    let (source, bytes) = super::instruments::source(file)?;
    let mut csv = csv::ReaderBuilder::new().flexible(true).from_reader(std::io::BufReader::new(source));
    let columns = columns(&mut csv, publish)?;
    let mut ticks = MarketDataPublisher::new(log)?;
    let mut progress = Progress::new("replaying", bytes);
    let (mut published, mut skipped) = (0_u64, 0_u64);
    let began = Instant::now();
    let mut first_us = None;
    let mut row = csv::StringRecord::new();
    while published < publish.count.unwrap_or(u64::MAX) && !stop.load(Ordering::Relaxed) {
        let line = csv.position().line();
        let tick = match csv.read_record(&mut row) {
            Ok(false) => break,
            Ok(true) => tick(&row, &columns, publish.symbol.as_deref()),
            Err(e) if e.is_io_error() => return Err(Failure::failed(format!("reading stopped at line {line}: {e}"))),
            Err(e) => Err(e.to_string()),
        };
        progress.set(csv.position().byte());
        let sent = tick.and_then(|(symbol, price, time)| {
            let us = pace::timestamp_us(time).ok_or("its time is before 1970")?;
            // A feed's clock steps back now and then: what is late is due at once.
            let since = us.saturating_sub(*first_us.get_or_insert(us)).max(0);
            pace::wait_until(began, speed.due(since.unsigned_abs()), stop);
            Ok((symbol, price, time))
        });
        match sent {
            Ok((symbol, price, time)) => {
                ticks.publish(symbol, price, time)?;
                published += 1;
            }
            Err(why) => {
                skipped += 1;
                if skipped <= COMPLAINTS_MAX {
                    output::note(format_args!("line {line}: skipped: {why}"));
                }
            }
        }
    }
    ticks.flush(FLUSH)?;
    progress.finish();
    Ok((published, skipped))
}

fn columns<R: std::io::Read>(csv: &mut csv::Reader<R>, publish: &Publish) -> Result<Columns, Failure> {
    let header = csv.headers().map_err(|e| Failure::failed(format!("the header row cannot be read: {e}")))?;
    let names: Vec<&str> = header.iter().map(|h| h.trim().trim_start_matches('\u{feff}')).collect();
    let find = |option: &str, name: &str| {
        names
            .iter()
            .position(|n| *n == name)
            .ok_or_else(|| Failure::usage(format!("{option} {name}: the file has no such column; its columns are {}", names.join(", "))))
    };
    let symbol = match (&publish.symbol, &publish.symbol_column) {
        (Some(_), _) => None,
        (None, Some(name)) => Some(find("--symbol-column", name)?),
        (None, None) => Some(
            find("--symbol-column", "symbol")
                .map_err(|_| Failure::usage("whose ticks are these? Say --symbol S, or --symbol-column NAME"))?,
        ),
    };
    Ok(Columns { symbol, time: find("--time-column", &publish.time_column)?, price: find("--price-column", &publish.price_column)? })
}

fn tick<'a>(row: &'a csv::StringRecord, columns: &Columns, symbol: Option<&'a str>) -> Result<(&'a str, &'a str, i64), String> {
    let cell = |i: usize| row.get(i).map(str::trim).filter(|c| !c.is_empty());
    let symbol = columns.symbol.map_or(symbol, cell).ok_or("has no symbol")?;
    let price = cell(columns.price).ok_or("has no price")?;
    // A price that is no price is the reader's to judge; what is no number at all is a fault of the file.
    if parse(price.as_bytes(), MONEY).is_none() {
        return Err(format!("price `{price}` is no number"));
    }
    let time = cell(columns.time).ok_or("has no time")?;
    let time = time.parse().map_err(|_| format!("time `{time}` is no whole number of s, ms, us or ns since 1970"))?;
    Ok((symbol, price, time))
}
