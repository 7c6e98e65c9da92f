//! `portfolio`: a user's holdings at the latest prices. This command computes the marks; no role
//! stores them.

use std::collections::BTreeMap;

use client::decimal::{show_e4, show_e4_wide};
use client::{check_id, partitions};
use os::clock::wall_ms;
use ports::Log;
use ports::partitioner;
use serde::Deserialize;
use serde_json::{Value, json};
use wire::portfolio::{PortfolioFold, PortfolioRecord, read_key};
use wire::topics::{PORTFOLIOS, REFERENCE_PRICES};

use crate::cli::config::Config;
use crate::cli::exit::{Code, Failure};
use crate::cli::open::Access;
use crate::cli::output::{self, OutputFormat};
use crate::cli::{open, read};

#[derive(Debug, Deserialize)]
struct PriceMark {
    price_e4: i64,
    time_us: i64,
}

pub(crate) fn run(config: &Config, user: &str) -> Result<(), Failure> {
    check_id("user_id", user).map_err(|e| Failure::usage(e.to_string()))?;
    let log = open::log(config, Access::Read)?;
    let partition = partitioner::partition(user.as_bytes(), partitions(&*log, PORTFOLIOS)?);
    let Some(portfolio) = latest(&*log, partition, user)? else {
        return Err(Failure::failed(format!(
            "user {user} has no portfolio: the role portfolio has processed no event of this user. Check the user id, and `processor status --role portfolio`"
        )));
    };

    let mut marks = BTreeMap::new();
    if !portfolio.positions.is_empty() {
        let all = read::all_partitions(&*log, REFERENCE_PRICES)?;
        read::to_end(&*log, REFERENCE_PRICES, &all, |r| {
            let Some(symbol) = r
                .key
                .and_then(|k| std::str::from_utf8(k).ok())
                .filter(|s| portfolio.positions.contains_key(*s))
            else {
                return;
            };

            // An unreadable reference price is shown as a missing mark.
            match r
                .value
                .and_then(|v| rmp_serde::from_slice::<PriceMark>(v).ok())
            {
                Some(mark) => marks.insert(symbol.to_string(), mark),
                None => marks.remove(symbol),
            };
        })?;
    }

    let valuation = Valuation::new(&portfolio, &marks);
    match config.format {
        OutputFormat::Json => output::json(&valuation.json(user, &portfolio)),
        OutputFormat::Text => valuation.show(user, &portfolio),
    }
}

/// Number of reads, if compaction removes records during a read.
const READINGS: u32 = 5;

fn latest(log: &dyn Log, partition: u32, user: &str) -> Result<Option<PortfolioRecord>, Failure> {
    let mut missing = String::new();
    for _ in 0..READINGS {
        let mut fold = PortfolioFold::default();
        let mut unreadable = None;
        read::to_end(log, PORTFOLIOS, &[partition], |r| {
            if let Some((_, symbol)) = r.key.and_then(read_key).filter(|(whose, _)| *whose == user)
                && let Err(fault) = fold.take(symbol, r.value)
            {
                unreadable.get_or_insert(fault);
            }
        })?;

        if let Some(fault) = unreadable {
            return Err(Failure::new(
                Code::Bug,
                format!("the portfolio of {user} cannot be read: {fault}"),
            ));
        }

        match fold.portfolio() {
            Ok(portfolio) => return Ok(portfolio),
            // A position that changed during the read may no longer be at its old offset.
            Err(e) => missing = e.to_string(),
        }
    }

    Err(Failure::failed(format!(
        "the portfolio of {user} changes too fast to be read: {missing}; try again"
    )))
}

const HEADER: [&str; 7] = [
    "SYMBOL",
    "QUANTITY",
    "RESERVED",
    "COST_BASIS",
    "PRICE",
    "UNREALISED",
    "PRICE_AGE_S",
];

/// A portfolio at the latest prices.
struct Valuation {
    /// The positions, with the columns of [`HEADER`].
    rows: Vec<Vec<Value>>,
    /// Cash plus value of the positions; none if a position has no price yet.
    equity_e4: Option<i128>,
    /// None if a position has no price yet.
    unrealised_e4: Option<i128>,
}

impl Valuation {
    fn new(p: &PortfolioRecord, marks: &BTreeMap<String, PriceMark>) -> Valuation {
        let mut rows = Vec::new();
        let mut equity = i128::from(p.cash_available_e4) + i128::from(p.cash_reserved_e4);
        let mut unrealised_total = 0_i128;
        let mut all_marked = true;
        for (symbol, position) in &p.positions {
            let mark = marks.get(symbol);
            let worth = mark.map(|m| i128::from(m.price_e4) * i128::from(position.quantity));
            let unrealised = worth.map(|w| w - i128::from(position.cost_basis_e4));
            equity += worth.unwrap_or(0);
            unrealised_total += unrealised.unwrap_or(0);
            all_marked &= mark.is_some();
            let age_s = mark.map(|m| wall_ms().saturating_sub(m.time_us / 1000).max(0) / 1000);
            rows.push(vec![
                symbol.as_str().into(),
                position.quantity.into(),
                position.reserved.into(),
                show_e4(position.cost_basis_e4).into(),
                mark.map(|m| show_e4(m.price_e4)).into(),
                unrealised.map(show_e4_wide).into(),
                age_s.into(),
            ]);
        }

        Valuation {
            rows,
            equity_e4: all_marked.then_some(equity),
            unrealised_e4: all_marked.then_some(unrealised_total),
        }
    }

    fn json(self, user: &str, p: &PortfolioRecord) -> Value {
        let positions: Vec<Value> = self
            .rows
            .into_iter()
            .map(|r| Value::Object(HEADER.iter().map(|h| h.to_lowercase()).zip(r).collect()))
            .collect();
        json!({
            "user_id": user,
            "user_seq": p.user_seq,
            "cash_available": show_e4(p.cash_available_e4),
            "cash_reserved": show_e4(p.cash_reserved_e4),
            "realised": show_e4(p.realised_e4),
            "fees": show_e4(p.fees_e4),
            "unrealised": self.unrealised_e4.map(show_e4_wide),
            "equity": self.equity_e4.map(show_e4_wide),
            "positions": positions,
        })
    }

    fn show(&self, user: &str, p: &PortfolioRecord) -> Result<(), Failure> {
        output::line(format_args!(
            "user {user}, as of their event {}",
            p.user_seq
        ))?;
        output::line(format_args!(
            "cash {} available, {} reserved; realised {}, fees {}",
            show_e4(p.cash_available_e4),
            show_e4(p.cash_reserved_e4),
            show_e4(p.realised_e4),
            show_e4(p.fees_e4)
        ))?;

        if !self.rows.is_empty() {
            output::rows(OutputFormat::Text, &HEADER, &self.rows)?;
        }

        match (self.unrealised_e4, self.equity_e4) {
            (Some(unrealised), Some(equity)) => output::line(format_args!(
                "unrealised {}, equity {}",
                show_e4_wide(unrealised),
                show_e4_wide(equity)
            )),
            _ => output::line("equity unknown: a position has no price yet"),
        }
    }
}
