//! `traders`: simulated traders on any log, to try out or load an installation.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use client::simulate::Traders;
use client::{OrderCommandProducer, check_id};
use os::clock::wall_ms;
use serde_json::json;

use super::listed::symbols;
use crate::cli::args;
use crate::cli::config::Config;
use crate::cli::exit::Failure;
use crate::cli::open::Access;
use crate::cli::output::{self, JobProgress, OutputFormat};
use crate::cli::{open, pace};
use crate::runtime::signals;

/// Longest wait for the last orders to reach the log.
const FLUSH: Duration = Duration::from_secs(60);
/// Time from a purchase to its sale, in seconds, on a busy system.
const SETTLED_AFTER_S: u64 = 5;
/// At full speed, a step of the progress bar per order would cost more than the order.
const SHOW_EVERY: u64 = 256;

/// Sends orders until the limit or a signal.
pub(crate) fn run(config: &Config, typed: &args::TradersArgs) -> Result<(), Failure> {
    let run = typed
        .run
        .clone()
        .unwrap_or_else(|| format!("sim-{}", uuid::Uuid::now_v7().simple()));

    // The order number is appended to the run name, so check the longest id before sending.
    check_id(
        "order_id",
        &format!("{run}-{}", typed.orders.unwrap_or(u64::MAX)),
    )
    .map_err(|e| Failure::usage(format!("--run: {e}")))?;
    let log = open::log(config, Access::Write)?;
    let stop = signals::flag()?;
    let symbols = symbols(&log, typed.symbols.as_deref())?;
    let mut producer = OrderCommandProducer::new(log)?;

    // Do not sell shares of the last seconds: their purchase may not be settled, and the sale would
    // be short.
    let unsettled = if typed.rate == 0 {
        usize::MAX
    } else {
        usize::try_from(typed.rate.saturating_mul(SETTLED_AFTER_S)).unwrap_or(usize::MAX)
    };

    let mut traders = Traders::new(typed.seed, &run, typed.users, symbols).sell_after(unsettled);
    let mut progress = JobProgress::new("trading", typed.orders.unwrap_or(0));
    let began = Instant::now();
    let mut sent = 0_u64;
    while sent < typed.orders.unwrap_or(u64::MAX) && !stop.load(Ordering::Relaxed) {
        if let Some(us) = sent.saturating_mul(1_000_000).checked_div(typed.rate)
            && !pace::wait_until(began, Duration::from_micros(us), &stop)
        {
            break;
        }

        let Some(o) = traders.order() else { break };
        producer.send_order(
            &o.order_id,
            &o.user_id,
            &o.symbol,
            o.quantity,
            o.side,
            wall_ms(),
        )?;

        sent += 1;
        if typed.rate > 0 || sent.is_multiple_of(SHOW_EVERY) {
            progress.set(sent);
        }
    }

    producer.flush(FLUSH)?;
    progress.finish();
    let ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    match config.format {
        OutputFormat::Json => output::json(&json!({"sent": sent, "run": run, "elapsed_ms": ms})),
        OutputFormat::Text => output::line(format_args!(
            "{sent} orders sent in {}.{:03} s, as {run}-1 and on",
            ms / 1000,
            ms % 1000
        )),
    }
}
