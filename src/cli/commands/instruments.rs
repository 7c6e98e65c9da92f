//! `instruments load` and `delist`.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::cli::config::Config;
use crate::cli::exit::Failure;
use crate::cli::listings::{self, Columns, Row};
use crate::cli::open;
use crate::cli::open::Access;
use crate::cli::output::{self, Format, Progress};
use crate::client::instruments::Instruments;
use crate::client::{KeyedAppender, check_id};
use crate::wire::instrument;
use crate::wire::topics::INSTRUMENTS;

/// After this many complaints the rest is only counted.
const COMPLAINTS_MAX: u64 = 20;
const FLUSH: Duration = Duration::from_secs(60);

#[derive(Default)]
struct Tally {
    loaded: u64,
    test_issues: u64,
    bad: u64,
    /// Columns or fields that mean nothing to us.
    unknown: BTreeSet<String>,
}

/// Loads a file; bad rows are told and skipped.
pub fn load(config: &Config, file: &Path) -> Result<(), Failure> {
    let (source, bytes) = source(file)?;
    let log = open::log(config, Access::Write)?;
    let mut topic = KeyedAppender::new(&*log, INSTRUMENTS)?;
    let mut progress = Progress::new("loading listings", bytes);
    let mut tally = Tally::default();
    let mut take = |line: u64, position: u64, row: Result<Row, String>| -> Result<(), Failure> {
        progress.set(position);
        let why = match row {
            Ok(Row::Nothing) => return Ok(()),
            Ok(Row::Header { unknown }) => {
                tally.unknown.extend(unknown);
                return Ok(());
            }
            Ok(Row::Listing { symbol, fields, unknown }) => {
                tally.unknown.extend(unknown);
                let value = encode(&fields)?;
                // As the roles will read it: what they would refuse is told here, where somebody looks.
                match instrument::decode(Some(symbol.as_bytes()), Some(&value)) {
                    Ok(_) => {
                        tally.loaded += 1;
                        tally.test_issues += u64::from(fields.get("test_issue") == Some(&Value::Bool(true)));
                        topic.append(&symbol, Some(&value))?;
                        return Ok(());
                    }
                    Err(why) => format!("{symbol}: {why}"),
                }
            }
            Err(why) => why,
        };
        tally.bad += 1;
        if tally.bad <= COMPLAINTS_MAX {
            output::note(format_args!("line {line}: skipped: {why}"));
        }
        Ok(())
    };
    read(source, &mut take)?;
    topic.flush(FLUSH)?;
    progress.finish();
    if !tally.unknown.is_empty() {
        let names = tally.unknown.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        output::note(format_args!("not part of a listing, and left out: {names}"));
    }
    match config.format {
        Format::Json => output::json(&json!({"loaded": tally.loaded, "test_issues": tally.test_issues, "skipped": tally.bad}))?,
        Format::Text => {
            let Tally { loaded, test_issues, bad, .. } = tally;
            output::line(format_args!("{loaded} listings loaded ({test_issues} test issues, not tradable), {bad} bad rows skipped"))?;
        }
    }
    match (tally.bad, tally.loaded) {
        (0, 0) => Err(Failure::failed(format!("{} holds no listing", file.display()))),
        (0, _) => Ok(()),
        (bad, _) => {
            Err(Failure::failed(format!("{bad} rows were skipped; correct them and load the file again (loading twice does no harm)")))
        }
    }
}

/// Writes a null value for each symbol that is listed.
pub fn delist(config: &Config, symbols: &[String]) -> Result<(), Failure> {
    for symbol in symbols {
        check_id("symbol", symbol).map_err(|e| Failure::usage(e.to_string()))?;
    }
    let log = open::log(config, Access::Write)?;
    let listed = Instruments::load(&log)?;
    let mut topic = KeyedAppender::new(&*log, INSTRUMENTS)?;
    let (there, absent): (BTreeSet<&str>, BTreeSet<&str>) = symbols.iter().map(String::as_str).partition(|s| listed.lists(s));
    for symbol in &there {
        topic.append(symbol, None)?;
    }
    topic.flush(FLUSH)?;
    match config.format {
        Format::Json => output::json(&json!({"delisted": there, "not_listed": absent}))?,
        Format::Text => output::line(format_args!("{} listings taken away", there.len()))?,
    }
    match absent.len() {
        0 => Ok(()),
        _ => Err(Failure::failed(format!("not listed: {}", absent.into_iter().collect::<Vec<_>>().join(", ")))),
    }
}

/// A file or stdin, and its size (0: unknown).
pub fn source(file: &Path) -> Result<(Box<dyn Read>, u64), Failure> {
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

/// Shows each row with its line number and the number of bytes read so far.
fn read(source: Box<dyn Read>, take: &mut dyn FnMut(u64, u64, Result<Row, String>) -> Result<(), Failure>) -> Result<(), Failure> {
    let mut text = BufReader::new(source);
    let head = text.fill_buf()?;
    let head = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head);
    if head.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'{') {
        let mut position = 0;
        for (i, line) in text.split(b'\n').enumerate() {
            let line = line?;
            position += line.len() as u64 + 1;
            let row = match std::str::from_utf8(&line) {
                Ok(line) => listings::json_line(line.trim_start_matches('\u{feff}')),
                Err(_) => Err("is no UTF-8".into()),
            };
            take(i as u64 + 1, position, row)?;
        }
        return Ok(());
    }
    let mut csv = csv::ReaderBuilder::new().flexible(true).from_reader(text);
    let header = csv.headers().map_err(|e| Failure::failed(format!("the header row cannot be read: {e}")))?;
    let columns = Columns::find(header.iter()).map_err(Failure::failed)?;
    take(1, 0, Ok(Row::Header { unknown: columns.unknown().to_vec() }))?;
    let mut record = csv::StringRecord::new();
    loop {
        let (line, position) = (csv.position().line(), csv.position().byte());
        match csv.read_record(&mut record) {
            Ok(false) => return Ok(()),
            Ok(true) => {
                let line = record.position().map_or(line, csv::Position::line);
                take(line, position, columns.row(|i| record.get(i)))?;
            }
            Err(e) if e.is_io_error() => return Err(Failure::failed(format!("reading stopped at line {line}: {e}"))),
            Err(e) => take(line, position, Err(e.to_string()))?,
        }
    }
}

fn encode(fields: &Map<String, Value>) -> Result<Vec<u8>, Failure> {
    rmp_serde::to_vec_named(fields).map_err(|e| Failure::failed(format!("a listing cannot be encoded: {e}")))
}
