//! `demo`: all roles, a feed and traders in one process.

use std::path::Path;
use std::time::Duration;

use client::KeyedAppender;
use client::instruments::Listings;
use serde_json::json;
use wire::topics::{INSTRUMENTS, ORDER_COMMANDS};

use super::gateway::{self, GatewayBeside};
use super::listed;
use crate::cli::args::Demo;
use crate::cli::config::{self, Config};
use crate::cli::exit::{Code, Failure};
use crate::cli::open::Access;
use crate::cli::output::{self, OutputFormat};
use crate::cli::system;
use crate::runtime::system::Installation;
use crate::runtime::{demo, signals};

pub(crate) fn run(config: &Config, typed: &Demo) -> Result<(), Failure> {
    let run_for = typed
        .run_for
        .as_deref()
        .map(config::duration_ms)
        .transpose()
        .map_err(|e| Failure::usage(format!("--for: {e}")))?;
    let symbols = listed::split(&typed.symbols);
    if symbols.is_empty() {
        return Err(Failure::usage(
            "--symbols: the list is empty; give at least one symbol, such as AAPL",
        ));
    }

    for symbol in &symbols {
        client::check_id("symbol", symbol).map_err(|e| Failure::usage(e.to_string()))?;
    }

    let listen = typed
        .listen
        .as_deref()
        .map(gateway::local_address)
        .transpose()?;
    let config = config.clone().or_embedded(Path::new("state/demo"));
    let system = system::of(&config, Access::Write)?;
    let partitions = system
        .log
        .partitions(ORDER_COMMANDS)?
        .unwrap_or(typed.partitions);
    system.create_topics(partitions, &mut |_, _| {})?;
    system::check_settings(&system)?;
    list(&system, &symbols)?;
    let options = demo::DemoOptions {
        run_for: run_for.map(Duration::from_millis),
        orders_per_second: typed.orders_per_second,
        ticks_per_second: typed.ticks_per_second,
        users: typed.users,
        symbols,
        seed: typed.seed,
    };

    let gateway = listen
        .map(|listen| GatewayBeside::start(&system, listen))
        .transpose()?;
    let summary = system::block_on(async {
        let signal = signals::first_of()?;
        Ok(demo::run(&system, options, signal, system::grace(&config)).await?)
    });

    if let Some(gateway) = gateway {
        gateway.stop();
    }

    show(&config, &summary?)
}

/// Prints the summary. Fails if an invariant was violated.
fn show(config: &Config, summary: &demo::DemoSummary) -> Result<(), Failure> {
    match config.format {
        OutputFormat::Text => output::line(summary.text.trim_end())?,
        OutputFormat::Json => {
            output::json(&json!({"violations": summary.violations, "text": summary.text}))?
        }
    }

    match summary.violations {
        0 => Ok(()),
        n => Err(Failure::new(
            Code::Bug,
            format!(
                "{n} invariants were violated; keep {} and look",
                config.state.display()
            ),
        )),
    }
}

/// Lists the missing symbols.
fn list(system: &Installation, symbols: &[String]) -> Result<(), Failure> {
    let known: Vec<String> = Listings::load(&system.log)?
        .tradable()
        .map(String::from)
        .collect();
    let mut topic = KeyedAppender::new(&*system.log, INSTRUMENTS)?;
    for symbol in symbols.iter().filter(|s| !known.contains(s)) {
        topic.append(
            symbol,
            Some(json!({ "symbol": symbol }).to_string().as_bytes()),
        )?;
    }

    Ok(topic.flush(Duration::from_secs(30))?)
}
