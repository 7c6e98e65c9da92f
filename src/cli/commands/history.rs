//! `portfolio --history`: a user's equity after each of their events.

use ::audit::equity::{EquityError, EquityPoint, history};
use client::check_id;
use client::decimal::{show_e4, show_e4_wide};
use serde_json::{Map, Value, json};
use wire::topics;

use super::audit;
use crate::cli::args::Portfolio;
use crate::cli::config::Config;
use crate::cli::exit::{Code, Failure};
use crate::cli::open::Access;
use crate::cli::output::{self, OutputFormat};
use crate::cli::{decode, open};

/// Prints one line per event.
pub(crate) fn run(config: &Config, args: &Portfolio) -> Result<(), Failure> {
    check_id("user_id", &args.user).map_err(|e| Failure::usage(e.to_string()))?;
    let range = audit::range(args.from.as_ref(), args.to.as_ref())?;
    let log = open::log(config, Access::Read)?;
    let table = topics::table(&config.topic_prefix);
    match config.format {
        OutputFormat::Json => {}
        OutputFormat::Text => output::line(format_args!(
            "{:<24} {:>5} {:<20} {:<16} {:>14} {:>12} {:>12} {:>14} {:>14}  {}",
            "TIME",
            "SEQ",
            "EVENT",
            "ORDER",
            "AVAILABLE",
            "RESERVED",
            "REALISED",
            "COST_BASIS",
            "EQUITY",
            "POSITIONS"
        ))?,
    }

    let mut printed = Ok(());
    let events = history(&*log, &table, &args.user, range, &mut |p| {
        if printed.is_ok() {
            printed = match config.format {
                OutputFormat::Json => output::json(&as_json(p)),
                OutputFormat::Text => as_text(p),
            };
        }

        // Continue to the end even if the output is closed: the exit code reports damaged events.
        printed.is_ok()
    });

    printed?;
    match events {
        Ok(0) => Err(Failure::failed(format!(
            "user {} has no events: check the user id and --topic-prefix",
            args.user
        ))),
        Ok(_) => Ok(()),
        Err(EquityError::Log(e)) => Err(e.into()),
        Err(e) => Err(Failure::new(Code::Bug, e.to_string())),
    }
}

fn as_text(p: &EquityPoint<'_>) -> Result<(), Failure> {
    let held: Vec<String> = p
        .portfolio
        .positions
        .iter()
        .filter(|(_, h)| h.quantity != 0)
        .map(|(symbol, h)| format!("{symbol} {}", h.quantity))
        .collect();

    output::line(format_args!(
        "{:<24} {:>5} {:<20} {:<16} {:>14} {:>12} {:>12} {:>14} {:>14}  {}",
        decode::time(p.event.time_us / 1000),
        p.event.user_seq,
        p.event.event.name(),
        p.event.order_id.unwrap_or("-"),
        show_e4(p.portfolio.cash_available_e4),
        show_e4(p.portfolio.cash_reserved_e4),
        show_e4(p.portfolio.realised_e4),
        show_e4_wide(p.cost_basis_e4),
        p.equity_e4().map_or("-".into(), show_e4_wide),
        held.join(", ")
    ))
}

fn as_json(p: &EquityPoint<'_>) -> Value {
    let held = p
        .portfolio
        .positions
        .iter()
        .filter(|(_, h)| h.quantity != 0);
    let positions: Map<String, Value> = held
        .map(|(symbol, h)| {
            (symbol.clone(), json!({"quantity": h.quantity, "reserved": h.reserved, "cost_basis": show_e4(h.cost_basis_e4)}))
        })
        .collect();
    json!({
        "time_us": p.event.time_us,
        "user_seq": p.event.user_seq,
        "event": p.event.event.name(),
        "order_id": p.event.order_id,
        "cash_available": show_e4(p.portfolio.cash_available_e4),
        "cash_reserved": show_e4(p.portfolio.cash_reserved_e4),
        "realised": show_e4(p.portfolio.realised_e4),
        "fees": show_e4(p.portfolio.fees_e4),
        "cost_basis": show_e4_wide(p.cost_basis_e4),
        "unrealised": p.worth_e4.map(|w| show_e4_wide(w - p.cost_basis_e4)),
        "equity": p.equity_e4().map(show_e4_wide),
        "positions": positions,
    })
}
