//! Files of listings, turned into records of `instruments`. Understands our own field names, NASDAQ listings and S&P 500 constituents.

use serde_json::{Map, Value};

use crate::client::{check_id, decimal};

/// One row of a file.
#[derive(Clone, Debug, PartialEq)]
pub enum Row {
    /// A listing, ready to be written.
    Listing {
        /// The symbol.
        symbol: String,
        /// The record's fields.
        fields: Map<String, Value>,
        /// Names in the line that no listing has.
        unknown: Vec<String>,
    },
    /// The first line of a file of columns.
    Header {
        /// Columns that no listing has.
        unknown: Vec<String>,
    },
    /// No listing at all, and meant so: a footer, an empty line.
    Nothing,
}

/// The kind of each field that a listing may have.
#[derive(Clone, Copy)]
enum Kind {
    Text,
    Status,
    Whole,
    Decimal,
    YesNo,
}

const FIELDS: &[(&str, Kind)] = &[
    ("symbol", Kind::Text),
    ("name", Kind::Text),
    ("status", Kind::Status),
    ("tick", Kind::Decimal),
    ("lot", Kind::Whole),
    ("max_quantity", Kind::Whole),
    ("clip_size", Kind::Whole),
    ("max_notional", Kind::Decimal),
    ("collar_bps", Kind::Whole),
    ("band_bps", Kind::Whole),
    ("short_ok", Kind::YesNo),
    ("fee_bps", Kind::Whole),
    ("half_spread_bps", Kind::Whole),
    ("house", Kind::YesNo),
    ("house_max", Kind::Whole),
    ("currency", Kind::Text),
    ("test_issue", Kind::YesNo),
];

/// Columns of well-known files that stand for a field; the first that a file has is taken. A round lot is an exchange's unit of quotation, not a
/// smallest quantity, so it is not our `lot`.
const SYNONYMS: &[(&str, &[&str])] =
    &[("symbol", &["act symbol", "ticker"]), ("name", &["security name", "security", "company name"]), ("test_issue", &["test issue"])];

/// Which column holds which field.
pub struct Columns {
    found: Vec<(usize, &'static str, Kind)>,
    unknown: Vec<String>,
}

impl Columns {
    /// Finds the fields in a header row.
    pub fn find<'a>(header: impl Iterator<Item = &'a str>) -> Result<Columns, String> {
        let header: Vec<String> = header.map(|h| h.trim().trim_start_matches('\u{feff}').to_lowercase()).collect();
        let mut found = Vec::new();
        for (field, kind) in FIELDS {
            let synonyms = SYNONYMS.iter().find(|(f, _)| f == field).map_or(&[][..], |(_, s)| s);
            let column = std::iter::once(field).chain(synonyms).find_map(|name| header.iter().position(|h| h == name));
            found.extend(column.map(|c| (c, *field, *kind)));
        }
        if !found.iter().any(|(_, field, _)| *field == "symbol") {
            return Err(format!("no column is called `symbol`; the columns are {}", header.join(", ")));
        }
        // Known by any of its names is known, also where a better one was taken.
        let known = |h: &String| FIELDS.iter().any(|(f, _)| f == h) || SYNONYMS.iter().any(|(_, others)| others.contains(&h.as_str()));
        let unknown = header.iter().filter(|h| !h.is_empty() && !known(h)).cloned().collect();
        Ok(Columns { found, unknown })
    }

    /// Columns that mean nothing to us.
    pub fn unknown(&self) -> &[String] {
        &self.unknown
    }

    /// Reads one row.
    pub fn row<'a>(&self, cell: impl Fn(usize) -> Option<&'a str>) -> Result<Row, String> {
        let mut fields = Map::new();
        for (column, field, kind) in &self.found {
            let text = cell(*column).unwrap_or_default().trim();
            if *field == "symbol" && text.starts_with("File Creation Time") {
                return Ok(Row::Nothing);
            }
            if !text.is_empty() {
                fields.insert((*field).to_string(), convert(field, *kind, text)?);
            }
        }
        if fields.is_empty() { Ok(Row::Nothing) } else { listing(fields, Vec::new()) }
    }
}

/// Reads one line of JSON.
pub fn json_line(line: &str) -> Result<Row, String> {
    if line.trim().is_empty() {
        return Ok(Row::Nothing);
    }
    let given: Map<String, Value> = serde_json::from_str(line).map_err(|e| format!("is no JSON object: {e}"))?;
    let mut fields = Map::new();
    for (field, kind) in FIELDS {
        let text = match given.get(*field) {
            None | Some(Value::Null) => continue,
            Some(Value::String(s)) => s.clone(),
            Some(v @ (Value::Number(_) | Value::Bool(_))) if *field != "symbol" => v.to_string(),
            Some(other) => return Err(format!("{field} cannot be {other}")),
        };
        fields.insert((*field).to_string(), convert(field, *kind, &text)?);
    }
    let unknown = given.keys().filter(|name| !FIELDS.iter().any(|(f, _)| f == name)).cloned().collect();
    listing(fields, unknown)
}

fn listing(fields: Map<String, Value>, unknown: Vec<String>) -> Result<Row, String> {
    let symbol = fields.get("symbol").and_then(Value::as_str).ok_or("has no symbol")?.to_string();
    check_id("symbol", &symbol).map_err(|e| e.to_string())?;
    Ok(Row::Listing { symbol, fields, unknown })
}

fn convert(field: &str, kind: Kind, text: &str) -> Result<Value, String> {
    match kind {
        Kind::Text => Ok(text.into()),
        Kind::Status if ["listed", "halted", "cancel_only", "delisted"].contains(&text) => Ok(text.into()),
        Kind::Status => Err(format!("{field} `{text}` is not listed, halted, cancel_only or delisted")),
        Kind::Whole => match text.parse::<u64>() {
            Ok(n) if n < 1 << 62 && !(field == "lot" && n == 0) => Ok(n.into()),
            _ => Err(format!("{field} `{text}` is no whole number")),
        },
        Kind::Decimal => match decimal::parse_e4(text) {
            Ok(n) if n > 0 => Ok(text.into()),
            _ => Err(format!("{field} `{text}` is no amount above zero with at most four decimals")),
        },
        Kind::YesNo => match text.to_lowercase().as_str() {
            "y" | "yes" | "true" | "1" => Ok(true.into()),
            "n" | "no" | "false" | "0" => Ok(false.into()),
            _ => Err(format!("{field} `{text}` is neither yes nor no")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rows(text: &str) -> Vec<Result<Row, String>> {
        let mut csv = csv::ReaderBuilder::new().flexible(true).from_reader(text.as_bytes());
        let columns = Columns::find(csv.headers().expect("header").iter()).expect("columns");
        csv.records().map(|r| columns.row(|i| r.as_ref().expect("row").get(i))).collect()
    }

    fn fields(row: &Result<Row, String>) -> Value {
        match row {
            Ok(Row::Listing { fields, .. }) => Value::Object(fields.clone()),
            other => json!(format!("{other:?}")),
        }
    }

    #[test]
    fn a_nasdaq_listing() {
        let found = rows(
            "Symbol,Company Name,Security Name,Market Category,Test Issue,Financial Status,Round Lot Size,ETF,NextShares\n\
             AACG,ATA,\"ATA - Shares, each\",S,N,N,100,N,N\nZVZZT,Test,Test - Common,G,Y,N,100,N,N\nFile Creation Time: 07,,,,,,,,\n,,,,,,,,\n",
        );
        assert_eq!(fields(&found[0]), json!({"symbol": "AACG", "name": "ATA - Shares, each", "test_issue": false}));
        assert_eq!(fields(&found[1])["test_issue"], json!(true));
        assert_eq!(found[2..], [Ok(Row::Nothing), Ok(Row::Nothing)]);
    }

    #[test]
    fn constituents_and_own_columns() {
        assert_eq!(fields(&rows("Symbol,Security,CIK\nBRK.B,Berkshire,1\n")[0]), json!({"symbol": "BRK.B", "name": "Berkshire"}));
        let own = rows("symbol,tick,lot,house,short_ok\nA,0.05,1,no,yes\nB,0,1,,\nC,,0,,\nA B,,,,\n,0.01,,,\nD,,,maybe,\n");
        assert_eq!(fields(&own[0]), json!({"symbol": "A", "tick": "0.05", "lot": 1, "house": false, "short_ok": true}));
        assert!(own[1..].iter().all(Result::is_err), "{own:?}");
        assert!(Columns::find(["name"].into_iter()).is_err());
    }

    /// `fee_bps` was dropped without a word, and so was whatever else was not in the table.
    #[test]
    fn fees_are_read_and_what_is_not_is_named() {
        assert_eq!(fields(&rows("symbol,fee_bps\nA,25\n")[0]), json!({"symbol": "A", "fee_bps": 25}));
        assert_eq!(fields(&json_line(r#"{"symbol":"A","fee_bps":25}"#)), json!({"symbol": "A", "fee_bps": 25}));
        let unknown = |header: &str| Columns::find(header.split(',')).map(|c| c.unknown().to_vec());
        assert_eq!(unknown("Symbol,Security,fee_bsp,Round Lot Size,"), Ok(vec!["fee_bsp".to_string(), "round lot size".to_string()]));
        let all: Vec<_> = FIELDS.iter().map(|(f, _)| *f).collect();
        assert_eq!(unknown(&all.join(",")), Ok(vec![]));
        match json_line(r#"{"symbol":"A","fee":1,"house":true}"#) {
            Ok(Row::Listing { unknown, .. }) => assert_eq!(unknown, ["fee"]),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn json_lines() {
        assert_eq!(
            fields(&json_line(r#"{"symbol":"A","tick":0.01,"house":true,"extra":1}"#)),
            json!({"symbol":"A","tick":"0.01","house":true})
        );
        assert_eq!(json_line("  "), Ok(Row::Nothing));
        for bad in ["{}", "[]", "{\"symbol\":1}", "{\"symbol\":\"A\",\"lot\":1.5}", "{\"symbol\":\"A\",\"status\":\"gone\"}", "x"] {
            assert!(json_line(bad).is_err(), "{bad}");
        }
    }
}
