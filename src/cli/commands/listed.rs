//! Present listings: `instruments list`, `show`, `halt` and `resume`, and the effect of a change.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use client::instruments::Listings;
use client::{KeyedAppender, check_id};
use ports::Log;
use serde_json::{Map, Value, json};
use wire::instrument;
use wire::topics::INSTRUMENTS;

use super::instruments::{FLUSH, encode};
use crate::cli::config::Config;
use crate::cli::exit::Failure;
use crate::cli::listings::{default_of, names, present};
use crate::cli::open::Access;
use crate::cli::output::{self, OutputFormat};
use crate::cli::{open, read, shown};

/// The topic `instruments`, as the roles read it, with all fields of each record.
#[derive(Default)]
pub(crate) struct Present {
    /// Listings by symbol.
    pub rows: BTreeMap<String, Map<String, Value>>,
    /// Symbols whose newest record is unreadable and therefore ignored.
    pub bad: BTreeSet<String>,
}

impl Present {
    /// Reads the topic to its end.
    pub(crate) fn load(log: &dyn Log) -> Result<Present, Failure> {
        let mut all = Present::default();
        read::to_end(
            log,
            INSTRUMENTS,
            &read::all_partitions(log, INSTRUMENTS)?,
            |r| {
                let Some(symbol) = r.key.and_then(|k| std::str::from_utf8(k).ok()) else {
                    return;
                };

                all.bad.remove(symbol);
                match instrument::decode(r.key, r.value) {
                    Ok(Some(_)) => drop(
                        all.rows
                            .insert(symbol.to_string(), present(r.value.unwrap_or_default())),
                    ),
                    Ok(None) => drop(all.rows.remove(symbol)),
                    Err(_) => drop(all.bad.insert(symbol.to_string())),
                }
            },
        )?;

        Ok(all)
    }
}

/// The changes of one listing.
pub(crate) struct ListingChange {
    pub symbol: String,
    /// Field, value before, value after.
    pub fields: Vec<(String, Value, Value)>,
}

impl ListingChange {
    /// The changes as JSON.
    pub(crate) fn json(&self) -> Value {
        let fields: Map<String, Value> = self
            .fields
            .iter()
            .map(|(name, from, to)| (name.clone(), json!([from, to])))
            .collect();
        json!({"symbol": self.symbol, "fields": fields})
    }
}

/// Compares two rows. A missing field equals the default.
pub(crate) fn change(
    symbol: &str,
    before: &Map<String, Value>,
    after: &Map<String, Value>,
) -> ListingChange {
    let all: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let of = |row: &Map<String, Value>, name: &str| row.get(name).cloned().unwrap_or(Value::Null);
    let meaning = |name: &str, v: &Value| match v {
        Value::Null => default_of(name).unwrap_or_default().to_string(),
        v => output::plain(v),
    };

    let pairs = all
        .into_iter()
        .map(|name| (name.clone(), of(before, name), of(after, name)));
    let fields = pairs.filter(|(name, from, to)| meaning(name, from) != meaning(name, to));
    let fields = fields
        .map(|(name, from, to)| (name.clone(), or_default(&name, from), or_default(&name, to)))
        .collect();
    ListingChange {
        symbol: symbol.to_string(),
        fields,
    }
}

fn or_default(name: &str, v: Value) -> Value {
    match v {
        Value::Null => default_of(name).map_or(Value::Null, Value::from),
        v => v,
    }
}

/// A value as one word.
pub(crate) fn text(v: &Value) -> Cow<'_, str> {
    match v {
        Value::Null => "-".into(),
        Value::String(s) => shown::word(s),
        other => other.to_string().into(),
    }
}

/// Prints all listings: symbol, status, and the fields that differ from the default.
pub(crate) fn list(config: &Config) -> Result<(), Failure> {
    let log = open::log(config, Access::Read)?;
    let present = Present::load(&*log)?;
    if config.format == OutputFormat::Json {
        return present
            .rows
            .values()
            .try_for_each(|row| output::json(&Value::Object(row.clone())));
    }

    let rows: Vec<Vec<Value>> = present
        .rows
        .iter()
        .map(|(symbol, row)| {
            let unusual = change(symbol, &Map::new(), row).fields;
            let terms = unusual
                .iter()
                .filter(|(name, ..)| !["symbol", "name", "status"].contains(&name.as_str()));
            let terms: Vec<_> = terms
                .map(|(name, _, v)| format!("{}={}", shown::word(name), text(v)))
                .collect();
            let status = row.get("status").cloned().unwrap_or("listed".into());
            vec![
                symbol.as_str().into(),
                status,
                row.get("name").cloned().unwrap_or("".into()),
                terms.join(" ").into(),
            ]
        })
        .collect();

    output::rows(config.format, &["SYMBOL", "STATUS", "NAME", "TERMS"], &rows)?;
    for symbol in &present.bad {
        output::note(format_args!(
            "the newest record of {} cannot be read and changes nothing",
            shown::word(symbol)
        ));
    }

    Ok(())
}

/// Prints one listing with all fields, including defaults.
pub(crate) fn show(config: &Config, symbol: &str) -> Result<(), Failure> {
    check_id("symbol", symbol).map_err(|e| Failure::usage(e.to_string()))?;
    let log = open::log(config, Access::Read)?;
    let present = Present::load(&*log)?;
    let row = present.rows.get(symbol).ok_or_else(|| {
        Failure::failed(format!(
            "{symbol} is not listed; `processor instruments list` shows the symbols that are"
        ))
    })?;
    if config.format == OutputFormat::Json {
        return output::json(&Value::Object(row.clone()));
    }

    let mut all: Vec<&str> = names().collect();
    all.extend(
        row.keys()
            .map(String::as_str)
            .filter(|name| default_of(name).is_none()),
    );
    let rows: Vec<Vec<Value>> = all
        .into_iter()
        .map(|name| match row.get(name) {
            Some(v) => vec![name.into(), v.clone(), "".into()],
            None => vec![name.into(), default_of(name).into(), "default".into()],
        })
        .collect();

    output::rows(config.format, &["FIELD", "VALUE", "ORIGIN"], &rows)
}

/// Sets the status of listings, and no other field. `from`: the expected present statuses; a
/// listing in another status is reported.
pub(crate) fn set_status(
    config: &Config,
    symbols: &[String],
    status: &str,
    from: &[&str],
) -> Result<(), Failure> {
    for symbol in symbols {
        check_id("symbol", symbol).map_err(|e| Failure::usage(e.to_string()))?;
    }

    let log = open::log(config, Access::Write)?;
    let present = Present::load(&*log)?;
    let mut topic = KeyedAppender::new(&*log, INSTRUMENTS)?;
    let mut done = BTreeMap::new();
    let mut wrong = Vec::new();
    for symbol in symbols.iter().collect::<BTreeSet<_>>() {
        let Some(row) = present.rows.get(symbol) else {
            wrong.push(format!("{symbol} is not listed"));
            continue;
        };

        let now = row
            .get("status")
            .and_then(Value::as_str)
            .unwrap_or("listed");
        if now != status && !from.contains(&now) {
            wrong.push(format!(
                "{symbol} is {now}: load the listing with another status"
            ));
            continue;
        }

        if now != status || present.bad.contains(symbol) {
            let mut row = row.clone();
            row.insert("status".into(), status.into());
            topic.append(symbol, Some(&encode(&row)?))?;
        }

        done.insert(symbol.as_str(), now);
    }

    topic.flush(FLUSH)?;
    match config.format {
        OutputFormat::Json => {
            let all: Vec<Value> = done
                .iter()
                .map(|(symbol, was)| json!({"symbol": symbol, "status": status, "was": was}))
                .collect();
            output::json(&Value::Array(all))?;
        }
        OutputFormat::Text => done
            .iter()
            .try_for_each(|(symbol, was)| match *was == status {
                true => output::line(format_args!("{symbol} is {status}, as it was")),
                false => output::line(format_args!("{symbol} is {status} (was {was})")),
            })?,
    }

    if wrong.is_empty() {
        Ok(())
    } else {
        Err(Failure::failed(wrong.join("; ")))
    }
}

/// The symbols of `--symbols`, or all tradable listings.
pub(super) fn symbols(log: &Arc<dyn Log>, list: Option<&str>) -> Result<Vec<String>, Failure> {
    let symbols = match list {
        Some(list) => split(list),
        None => Listings::load(log)?.tradable().map(String::from).collect(),
    };

    if symbols.is_empty() {
        return Err(Failure::usage(
            "no symbols: say --symbols AAPL,MSFT, or load listings first (`processor instruments load FILE`)",
        ));
    }

    Ok(symbols)
}

/// The symbols of a comma-separated list.
pub(super) fn split(list: &str) -> Vec<String> {
    list.split(',')
        .map(|s| s.trim().to_string())
        .filter(|s| !s.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(v: Value) -> Map<String, Value> {
        v.as_object().cloned().expect("an object")
    }

    #[test]
    fn changes_are_those_of_meaning() {
        let before = map(json!({"symbol": "A", "tick": "0.01", "fee_bps": 10, "x": 1}));
        let after = map(
            json!({"symbol": "A", "collar_bps": 500, "fee_bps": 0, "x": 1, "status": "halted"}),
        );
        let found = change("A", &before, &after).fields;
        let names: Vec<_> = found
            .iter()
            .map(|(name, from, to)| format!("{name} {} {}", text(from), text(to)))
            .collect();
        assert_eq!(names, ["fee_bps 10 0", "status listed halted"]);
    }
}
