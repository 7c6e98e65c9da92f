//! `instruments load` and `instruments delist`.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::time::Duration;

use client::instruments::Listings;
use client::{KeyedAppender, check_id};
use indexmap::IndexMap;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use wire::instrument;
use wire::topics::INSTRUMENTS;

use super::listed::{ListingChange, Present, change, text};
use crate::cli::config::Config;
use crate::cli::exit::Failure;
use crate::cli::listings::{self, ListingColumns, ListingRow};
use crate::cli::open::Access;
use crate::cli::output::{self, JobProgress, OutputFormat};
use crate::cli::table::{self, Table};
use crate::cli::{open, shown};

/// After this many errors, further errors are only counted.
const COMPLAINTS_MAX: u64 = 20;
/// Longest list of changed listings to print.
const CHANGES_MAX: usize = 200;
/// Most unknown column names to remember.
const UNKNOWN_MAX: usize = 50;
/// Limit of a JSON list, which is read whole.
const LIST_MAX: u64 = 64 << 20;
/// Longest wait for the last records to reach the log.
pub(crate) const FLUSH: Duration = Duration::from_secs(60);

/// The checked rows of a file. No record is written before all rows are checked.
#[derive(Default)]
struct CheckedRows {
    good: IndexMap<String, (u64, Map<String, Value>)>,
    /// Symbols with several rows; none of these rows is loaded.
    twice: BTreeSet<String>,
    bad: u64,
    /// Columns or fields that no listing has.
    unknown: BTreeSet<String>,
}

impl CheckedRows {
    fn take(&mut self, line: u64, row: Result<ListingRow, String>) {
        match row {
            Ok(ListingRow::Nothing) => {}
            Ok(ListingRow::Listing {
                symbol,
                fields,
                unknown,
            }) => {
                self.leave_out(unknown);
                match self.good.get(&symbol) {
                    None => drop(self.good.insert(symbol, (line, fields))),
                    Some((first, _)) => {
                        let why = format!(
                            "{symbol} stands in line {first}, too: nobody can say which is meant, so neither is loaded"
                        );
                        self.bad += u64::from(self.twice.insert(symbol));
                        self.complain(line, &why);
                    }
                }
            }
            Err(why) => self.complain(line, &why),
        }
    }

    fn leave_out(&mut self, names: Vec<String>) {
        let room = UNKNOWN_MAX.saturating_sub(self.unknown.len());
        self.unknown.extend(
            names
                .into_iter()
                .take(room)
                .map(|name| listings::short(&name)),
        );
    }

    fn complain(&mut self, line: u64, why: &str) {
        self.bad += 1;
        if self.bad <= COMPLAINTS_MAX {
            output::note(format_args!(
                "line {line}: skipped: {}",
                shown::one_line(why)
            ));
        }
    }
}

/// Loads a file into the present listings. Bad rows are reported and skipped.
pub(crate) fn load(config: &Config, file: &Path, replace: bool) -> Result<(), Failure> {
    let (source, bytes) = source(file)?;
    let log = open::log(config, Access::Write)?;
    let mut progress = JobProgress::new("loading listings", bytes);
    let mut rows = CheckedRows::default();
    read(source, &mut rows, &mut |position| progress.set(position))?;
    progress.finish();
    let present = Present::load(&*log)?;
    let mut topic = KeyedAppender::new(&*log, INSTRUMENTS)?;
    let mut changes = Vec::new();
    let mut new = 0_u64;
    let mut test_issues = 0_u64;
    let mut loaded = 0_u64;
    for (symbol, (line, fields)) in std::mem::take(&mut rows.good) {
        if rows.twice.contains(&symbol) {
            continue;
        }

        let before = present.rows.get(&symbol);
        let merged = merge(before, fields, replace);
        let value = encode(&merged)?;

        // Decode the value as the roles will: the user of this command must see the roles'
        // rejection.
        if let Err(why) = instrument::decode(Some(symbol.as_bytes()), Some(&value)) {
            rows.complain(line, &format!("{symbol}: {why}"));
            continue;
        }

        loaded += 1;
        test_issues += u64::from(merged.get("test_issue") == Some(&Value::Bool(true)));
        let changed = before.map(|before| change(&symbol, before, &merged));
        if changed.as_ref().is_some_and(|c| c.fields.is_empty()) && !present.bad.contains(&symbol) {
            continue;
        }

        topic.append(&symbol, Some(&value))?;
        new += u64::from(before.is_none());
        changes.extend(changed.filter(|c| !c.fields.is_empty()));
    }

    topic.flush(FLUSH)?;
    if !rows.unknown.is_empty() {
        let names = rows
            .unknown
            .iter()
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join(", ");
        output::note(format_args!(
            "not part of a listing, and left out: {}",
            shown::one_line(&names)
        ));
    }

    told(config, loaded, test_issues, rows.bad, new, &changes)?;
    match (rows.bad, loaded) {
        (0, 0) => Err(Failure::failed(format!(
            "{} holds no listing",
            file.display()
        ))),
        (0, _) => Ok(()),
        (bad, _) => Err(Failure::failed(format!(
            "{bad} rows were skipped; correct them and load the file again (loading twice does no harm)"
        ))),
    }
}

fn told(
    config: &Config,
    loaded: u64,
    test_issues: u64,
    bad: u64,
    new: u64,
    changes: &[ListingChange],
) -> Result<(), Failure> {
    if config.format == OutputFormat::Json {
        let mut summary = json!({"loaded": loaded, "test_issues": test_issues, "skipped": bad});
        if !changes.is_empty() {
            summary["changes"] = changes.iter().map(ListingChange::json).collect();
        }

        return output::json(&summary);
    }

    for c in changes.iter().take(CHANGES_MAX) {
        output::line(c)?;
    }

    if changes.len() > CHANGES_MAX {
        output::line(format_args!(
            "and {} more; --format json names all",
            changes.len() - CHANGES_MAX
        ))?;
    }

    let same = loaded.saturating_sub(new + changes.len() as u64);
    output::line(format_args!(
        "{loaded} listings loaded ({test_issues} test issues, not tradable), {bad} bad rows skipped: {new} new, {} changed, {same} as they were",
        changes.len()
    ))
}

/// The new row: fields that the file leaves out keep their present value. With `replace`, only the
/// present status stays: a file of names and symbols must not reopen a halted symbol.
fn merge(
    before: Option<&Map<String, Value>>,
    fields: Map<String, Value>,
    replace: bool,
) -> Map<String, Value> {
    let mut merged = before.cloned().unwrap_or_default();
    if replace {
        merged.retain(|name, _| name == "status");
    }

    for (name, value) in fields {
        match value {
            Value::Null => drop(merged.shift_remove(&name)),
            value => drop(merged.insert(name, value)),
        }
    }

    merged
}

/// Writes a tombstone for each listed symbol.
pub(crate) fn delist(config: &Config, symbols: &[String]) -> Result<(), Failure> {
    for symbol in symbols {
        check_id("symbol", symbol).map_err(|e| Failure::usage(e.to_string()))?;
    }

    let log = open::log(config, Access::Write)?;
    let listed = Listings::load(&log)?;
    let mut topic = KeyedAppender::new(&*log, INSTRUMENTS)?;
    let (there, absent): (BTreeSet<&str>, BTreeSet<&str>) = symbols
        .iter()
        .map(String::as_str)
        .partition(|s| listed.lists(s));
    for symbol in &there {
        topic.append(symbol, None)?;
    }

    topic.flush(FLUSH)?;
    match config.format {
        OutputFormat::Json => output::json(&json!({"delisted": there, "not_listed": absent}))?,
        OutputFormat::Text => output::line(format_args!("{} listings taken away", there.len()))?,
    }

    match absent.len() {
        0 => Ok(()),
        _ => Err(Failure::failed(format!(
            "not listed: {}; `processor instruments list` shows the symbols that are",
            absent.into_iter().collect::<Vec<_>>().join(", ")
        ))),
    }
}

/// A file or stdin, with its size (0: unknown).
pub(crate) fn source(file: &Path) -> Result<(Box<dyn Read>, u64), Failure> {
    if file == Path::new("-") {
        return Ok((Box::new(std::io::stdin()), 0));
    }

    let open = || -> std::io::Result<_> {
        let f = std::fs::File::open(file)?;
        let bytes = f.metadata()?.len();
        Ok((Box::new(f) as Box<dyn Read>, bytes))
    };

    open().map_err(|e| Failure::usage(format!("cannot read {}: {e}", file.display())))
}

/// Reads each row with its line number; `progress` receives the number of bytes read.
fn read(
    source: Box<dyn Read>,
    rows: &mut CheckedRows,
    progress: &mut dyn FnMut(u64),
) -> Result<(), Failure> {
    let mut text = table::open(source)?;
    match text.fill_buf()?.iter().find(|b| !b.is_ascii_whitespace()) {
        Some(b'{') => json_lines(text, rows, progress),
        Some(b'[') => json_list(text, rows),
        _ => columns(text, rows, progress),
    }
}

fn json_lines(
    text: BufReader<Box<dyn Read>>,
    rows: &mut CheckedRows,
    progress: &mut dyn FnMut(u64),
) -> Result<(), Failure> {
    let mut position = 0;
    for (i, line) in text.split(b'\n').enumerate() {
        let line = line?;
        position += line.len() as u64 + 1;
        progress(position);
        rows.take(
            i as u64 + 1,
            std::str::from_utf8(&line)
                .map_err(|_| "is no UTF-8".into())
                .and_then(listings::json_line),
        );
    }

    Ok(())
}

/// Reads a JSON list of objects, as the interfaces of brokers return it. The number of the object
/// replaces the line number.
fn json_list(text: BufReader<Box<dyn Read>>, rows: &mut CheckedRows) -> Result<(), Failure> {
    let mut all = String::new();
    text.take(LIST_MAX + 1).read_to_string(&mut all)?;
    if all.len() as u64 > LIST_MAX {
        return Err(Failure::failed(
            "the file is one JSON list of more than 64 MiB: write one object on each line instead",
        ));
    }

    let list: Vec<&RawValue> = serde_json::from_str(&all)
        .map_err(|e| Failure::failed(format!("the file is no JSON list: {e}")))?;
    for (i, object) in list.into_iter().enumerate() {
        rows.take(i as u64 + 1, listings::json_line(object.get()));
    }

    Ok(())
}

fn columns(
    text: BufReader<Box<dyn Read>>,
    rows: &mut CheckedRows,
    progress: &mut dyn FnMut(u64),
) -> Result<(), Failure> {
    let mut table = Table::new(text)?;
    let columns =
        ListingColumns::find(table.header().iter().map(String::as_str)).map_err(Failure::failed)?;
    rows.leave_out(columns.unknown().to_vec());
    while let Some(row) = table.next_row()? {
        progress(table.position());
        rows.take(
            row.line,
            row.cells
                .and_then(|cells| columns.row(|i| cells.get(i).map(String::as_str))),
        );
    }

    Ok(())
}

/// Encodes the value of a listing.
pub(crate) fn encode(fields: &Map<String, Value>) -> Result<Vec<u8>, Failure> {
    rmp_serde::to_vec_named(fields)
        .map_err(|e| Failure::failed(format!("a listing cannot be encoded: {e}")))
}

impl std::fmt::Display for ListingChange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let fields: Vec<_> = self
            .fields
            .iter()
            .map(|(name, from, to)| format!("{} {} -> {}", shown::word(name), text(from), text(to)))
            .collect();
        write!(f, "{}: {}", self.symbol, fields.join(", "))
    }
}
