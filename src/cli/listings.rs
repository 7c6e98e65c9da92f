//! Converts files of listings into records of `instruments`. Accepts our own field names, NASDAQ
//! listings and S&P 500 constituents.

use client::{check_id, decimal};
use serde_json::{Map, Value};

use super::shown::SentValue;
use super::table::is_trailer;
use super::{decode, number};

#[derive(Clone, Debug, PartialEq)]
pub enum ListingRow {
    /// A listing to write. A null removes the field from the present row.
    Listing {
        symbol: String,
        /// Fields of the record.
        fields: Map<String, Value>,
        /// Names in the row that are no field of a listing.
        unknown: Vec<String>,
    },
    /// No listing, on purpose: a footer, an empty line.
    Nothing,
}

/// The kinds of listing fields.
#[derive(Clone, Copy)]
enum FieldKind {
    Text,
    Currency,
    Status,
    Whole,
    Decimal,
    YesNo,
}

/// Fields, with their kinds and defaults.
const FIELDS: &[(&str, FieldKind, &str)] = &[
    ("symbol", FieldKind::Text, ""),
    ("name", FieldKind::Text, ""),
    ("status", FieldKind::Status, "listed"),
    ("tick", FieldKind::Decimal, "0.01"),
    ("lot", FieldKind::Whole, "1"),
    ("max_quantity", FieldKind::Whole, "none"),
    ("clip_size", FieldKind::Whole, "none"),
    ("max_notional", FieldKind::Decimal, "none"),
    ("collar_bps", FieldKind::Whole, "500"),
    ("limit_band_bps", FieldKind::Whole, "off"),
    ("band_bps", FieldKind::Whole, "off"),
    ("short_ok", FieldKind::YesNo, "false"),
    ("short_margin_bps", FieldKind::Whole, "5000"),
    ("fee_bps", FieldKind::Whole, "0"),
    ("half_spread_bps", FieldKind::Whole, "0"),
    ("house", FieldKind::YesNo, "true"),
    ("house_max", FieldKind::Whole, "none"),
    ("currency", FieldKind::Currency, "USD"),
    ("test_issue", FieldKind::YesNo, "false"),
];

/// Columns of well-known files that stand for a field. If a file has several synonyms, the first
/// one counts. A round lot is an exchange's unit of quotation and no smallest quantity, so it is
/// not our `lot`.
const SYNONYMS: &[(&str, &[&str])] = &[
    ("symbol", &["act symbol", "ticker"]),
    ("name", &["security name", "security", "company name"]),
    ("test_issue", &["test issue"]),
];

/// The columns with their fields.
pub struct ListingColumns {
    found: Vec<(usize, &'static str, FieldKind)>,
    unknown: Vec<String>,
}

impl ListingColumns {
    /// Finds the fields in a header row.
    pub fn find<'a>(header: impl Iterator<Item = &'a str>) -> Result<ListingColumns, String> {
        let header: Vec<String> = header.map(|h| h.trim().to_lowercase()).collect();
        if let Some(twice) = header
            .iter()
            .enumerate()
            .find_map(|(i, h)| (!h.is_empty() && header[..i].contains(h)).then_some(h))
        {
            return Err(format!(
                "two columns are named `{twice}`: rename or delete one of them"
            ));
        }

        let mut found = Vec::new();
        for (field, kind, _) in FIELDS {
            let synonyms = SYNONYMS
                .iter()
                .find(|(f, _)| f == field)
                .map_or(&[][..], |(_, s)| s);
            let column = std::iter::once(field)
                .chain(synonyms)
                .find_map(|name| header.iter().position(|h| h == name));
            found.extend(column.map(|c| (c, *field, *kind)));
        }

        if !found.iter().any(|(_, field, _)| *field == "symbol") {
            return Err(format!(
                "no column is called `symbol`; the columns are {}",
                short(&header.join(", "))
            ));
        }

        // Every synonym is known, even if another column was taken.
        let known = |h: &String| {
            FIELDS.iter().any(|(f, ..)| f == h)
                || SYNONYMS
                    .iter()
                    .any(|(_, others)| others.contains(&h.as_str()))
        };

        let unknown = header
            .iter()
            .filter(|h| !h.is_empty() && !known(h))
            .cloned()
            .collect();
        Ok(ListingColumns { found, unknown })
    }

    /// Columns without a known field.
    pub fn unknown(&self) -> &[String] {
        &self.unknown
    }

    /// Reads one row. An empty cell leaves its field unset.
    pub fn row<'a>(&self, cell: impl Fn(usize) -> Option<&'a str>) -> Result<ListingRow, String> {
        let mut fields = Map::new();
        for (column, field, kind) in &self.found {
            let text = cell(*column).unwrap_or_default().trim();
            if *field == "symbol" && is_trailer(text) {
                return Ok(ListingRow::Nothing);
            }

            if !text.is_empty() {
                fields.insert((*field).to_string(), convert(field, *kind, text)?);
            }
        }

        if fields.is_empty() {
            Ok(ListingRow::Nothing)
        } else {
            listing(fields, Vec::new())
        }
    }
}

/// Reads one line of JSON.
pub fn json_line(line: &str) -> Result<ListingRow, String> {
    if line.trim().is_empty() {
        return Ok(ListingRow::Nothing);
    }

    let SentValue::Map(given) = decode::shown(line.trim().as_bytes()) else {
        let why = serde_json::from_str::<Map<String, Value>>(line)
            .err()
            .map_or("it is something else".into(), |e| e.to_string());
        return Err(format!("is no JSON object: {why}: {}", short(line)));
    };

    if let Some((name, _)) = given
        .iter()
        .enumerate()
        .find_map(|(i, f)| given[..i].iter().any(|(n, _)| *n == f.0).then_some(f))
    {
        return Err(format!("says `{}` twice", short(name)));
    }

    let mut fields = Map::new();
    for (field, kind, _) in FIELDS {
        let Some((_, value)) = given.iter().find(|(name, _)| name == field) else {
            continue;
        };

        let text = match value {
            SentValue::Null if *field == "symbol" => continue,
            SentValue::Null => {
                fields.insert((*field).to_string(), Value::Null);
                continue;
            }
            SentValue::Text(s) => s.clone(),
            v @ (SentValue::Number(_) | SentValue::Bool(_)) if *field != "symbol" => v.to_string(),
            other => return Err(format!("{field} cannot be {}", short(&other.to_string()))),
        };

        fields.insert((*field).to_string(), convert(field, *kind, &text)?);
    }

    let unknown = given
        .into_iter()
        .map(|(name, _)| name)
        .filter(|name| !FIELDS.iter().any(|(f, ..)| f == name))
        .collect();
    listing(fields, unknown)
}

/// Decodes a record of the topic into the fields of a file, including unknown fields.
pub fn present(value: &[u8]) -> Map<String, Value> {
    let SentValue::Map(given) = decode::shown(value) else {
        return Map::new();
    };

    let read = |(name, v): (String, SentValue)| {
        let kind = FIELDS
            .iter()
            .find(|(f, ..)| *f == name)
            .map(|(_, kind, _)| *kind);
        let text = match &v {
            SentValue::Text(s) => s.clone(),
            other => other.to_string(),
        };

        let value = kind
            .and_then(|kind| convert(&name, kind, &text).ok())
            .unwrap_or_else(|| v.into_value());
        (name, value)
    };

    given
        .into_iter()
        .filter(|(_, v)| *v != SentValue::Null)
        .map(read)
        .collect()
}

/// Default of a field; none if a listing has no such field.
pub fn default_of(field: &str) -> Option<&'static str> {
    FIELDS
        .iter()
        .find(|(f, ..)| *f == field)
        .map(|(.., default)| *default)
}

/// All fields of a listing, in the order of the contract.
pub fn names() -> impl Iterator<Item = &'static str> {
    FIELDS.iter().map(|(f, ..)| *f)
}

fn listing(fields: Map<String, Value>, unknown: Vec<String>) -> Result<ListingRow, String> {
    let symbol = fields
        .get("symbol")
        .and_then(Value::as_str)
        .ok_or("has no symbol")?
        .to_string();
    check_id("symbol", &symbol).map_err(|e| e.to_string())?;
    Ok(ListingRow::Listing {
        symbol,
        fields,
        unknown,
    })
}

fn convert(field: &str, kind: FieldKind, text: &str) -> Result<Value, String> {
    let wrong = |what: &str| Err(format!("{field} `{}` {what}", short(text)));
    match kind {
        FieldKind::Text => Ok(text.into()),
        // A code of three capitals, converted from any case: with another spelling, no order of the
        // listing would be accepted.
        FieldKind::Currency => match text.trim() {
            code if code.len() == 3 && code.bytes().all(|b| b.is_ascii_alphabetic()) => {
                Ok(code.to_ascii_uppercase().into())
            }
            _ => wrong("is no currency, such as USD"),
        },
        FieldKind::Status if ["listed", "halted", "cancel_only", "delisted"].contains(&text) => {
            Ok(text.into())
        }
        FieldKind::Status => wrong("is not listed, halted, cancel_only or delisted"),
        FieldKind::Whole => match number::whole(text) {
            Ok(n) if n < 1 << 62 && !(field == "lot" && n == 0) => Ok(n.into()),
            _ => wrong("is no whole number"),
        },
        FieldKind::Decimal => match decimal::parse_e4(text) {
            Ok(n) if n > 0 => Ok(decimal::show_e4(n).into()),
            _ => wrong("is no amount above zero with at most four decimals"),
        },
        FieldKind::YesNo => match text.to_lowercase().as_str() {
            "y" | "yes" | "true" | "1" => Ok(true.into()),
            "n" | "no" | "false" | "0" => Ok(false.into()),
            _ => wrong("is neither yes nor no"),
        },
    }
}

/// The start of a text, short enough for an error message.
pub fn short(text: &str) -> String {
    const SHOWN: usize = 80;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}... ({} bytes)", &text[..end], text.len()),
        None => text.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::table::Table;
    use serde_json::json;

    fn rows(text: &str) -> Vec<Result<ListingRow, String>> {
        let source: Box<dyn std::io::Read> =
            Box::new(std::io::Cursor::new(text.as_bytes().to_vec()));
        let mut table = crate::cli::table::open(source)
            .and_then(Table::new)
            .expect("a table");
        let columns =
            ListingColumns::find(table.header().iter().map(String::as_str)).expect("columns");
        let mut rows = Vec::new();
        while let Some(row) = table.next_row().expect("readable") {
            rows.push(
                row.cells
                    .and_then(|cells| columns.row(|i| cells.get(i).map(String::as_str))),
            );
        }

        rows
    }

    fn fields(row: &Result<ListingRow, String>) -> Value {
        match row {
            Ok(ListingRow::Listing { fields, .. }) => Value::Object(fields.clone()),
            other => json!(format!("{other:?}")),
        }
    }

    #[test]
    fn a_nasdaq_listing() {
        let found = rows(
            "Symbol,Company Name,Security Name,Market Category,Test Issue,Financial Status,Round Lot Size,ETF,NextShares\n\
             AACG,ATA,\"ATA - Shares, each\",S,N,N,100,N,N\nZVZZT,Test,Test - Common,G,Y,N,100,N,N\nFile Creation Time: 07,,,,,,,,\n,,,,,,,,\n",
        );
        assert_eq!(
            fields(&found[0]),
            json!({"symbol": "AACG", "name": "ATA - Shares, each", "test_issue": false})
        );
        assert_eq!(fields(&found[1])["test_issue"], json!(true));
        assert_eq!(
            found[2..],
            [Ok(ListingRow::Nothing), Ok(ListingRow::Nothing)]
        );
    }

    #[test]
    fn constituents_and_own_columns() {
        assert_eq!(
            fields(&rows("Symbol,Security,CIK\nBRK.B,Berkshire,1\n")[0]),
            json!({"symbol": "BRK.B", "name": "Berkshire"})
        );
        let own = rows(
            "symbol,tick,lot,house,short_ok\nA,0.05,1.0,no,yes\nB,0,1,,\nC,,0,,\nA B,,,,\n,0.01,,,\nD,,,maybe,\nE,1\nF,1,1,,,no\n",
        );
        assert_eq!(
            fields(&own[0]),
            json!({"symbol": "A", "tick": "0.05", "lot": 1, "house": false, "short_ok": true})
        );
        assert!(own[1..].iter().all(Result::is_err), "{own:?}");
        assert!(ListingColumns::find(["name"].into_iter()).is_err());
    }

    /// Regression: `fee_bps` and other unknown columns were dropped without an error.
    #[test]
    fn fees_are_read_and_what_is_not_is_named() {
        assert_eq!(
            fields(&rows("symbol,fee_bps\nA,25\n")[0]),
            json!({"symbol": "A", "fee_bps": 25})
        );
        assert_eq!(
            fields(&json_line(r#"{"symbol":"A","fee_bps":25}"#)),
            json!({"symbol": "A", "fee_bps": 25})
        );
        let unknown =
            |header: &str| ListingColumns::find(header.split(',')).map(|c| c.unknown().to_vec());
        assert_eq!(
            unknown("Symbol,Security,fee_bsp,Round Lot Size,"),
            Ok(vec!["fee_bsp".to_string(), "round lot size".to_string()])
        );
        let all: Vec<_> = names().collect();
        assert_eq!(unknown(&all.join(",")), Ok(vec![]));
        match json_line(r#"{"symbol":"A","fee":1,"house":true}"#) {
            Ok(ListingRow::Listing { unknown, .. }) => assert_eq!(unknown, ["fee"]),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn json_lines() {
        assert_eq!(
            fields(&json_line(
                r#"{"symbol":"A","tick":0.01,"house":true,"extra":1}"#
            )),
            json!({"symbol":"A","tick":"0.01","house":true})
        );
        assert_eq!(json_line("  "), Ok(ListingRow::Nothing));
        for bad in [
            "{}",
            "[]",
            "{\"symbol\":1}",
            "{\"symbol\":\"A\",\"lot\":1.5}",
            "{\"symbol\":\"A\",\"status\":\"gone\"}",
            "x",
        ] {
            assert!(json_line(bad).is_err(), "{bad}");
        }
    }

    /// Regression: both values were accepted without an error, and one of them was lost.
    #[test]
    fn what_is_said_twice_is_refused() {
        assert!(
            ListingColumns::find("symbol,tick,Tick".split(','))
                .is_err_and(|e| e.contains("`tick`"))
        );
        assert!(
            json_line(r#"{"symbol":"A","tick":1,"tick":2}"#)
                .is_err_and(|e| e.contains("`tick` twice"))
        );
    }

    #[test]
    fn currencies_are_codes() {
        assert_eq!(
            fields(&rows("symbol,currency\nA,usd\n")[0])["currency"],
            "USD"
        );
        assert!(
            rows("symbol,currency\nA,US$\nB,dollars\n")
                .iter()
                .all(Result::is_err)
        );
    }

    #[test]
    fn a_record_of_the_topic_reads_as_a_row_does() {
        let packed = rmp_serde::to_vec_named(
            &json!({"symbol": "A", "tick": 0.5, "lot": "10", "name": null, "x": [1]}),
        )
        .expect("encodes");
        assert_eq!(
            Value::Object(present(&packed)),
            json!({"symbol": "A", "tick": "0.50", "lot": 10, "x": [1]})
        );
        assert!(FIELDS.iter().all(|(f, ..)| default_of(f).is_some()) && default_of("x").is_none());
    }

    /// Regression: the error quoted a broker's whole list.
    #[test]
    fn complaints_are_short() {
        let long = format!("[{}]", "{\"symbol\":\"A\"},".repeat(2000));
        assert!(json_line(&long).expect_err("no object").len() < 300);
        assert!(
            convert("tick", FieldKind::Decimal, &long)
                .expect_err("no amount")
                .len()
                < 300
        );
    }
}
