//! Strict reader of files with rows and columns: an ambiguous row is a bad row. Delimiters are
//! comma, semicolon, tab and pipe.
//!
//! A general CSV reader accepts rows of any length and quotes that never end, and so shifts or
//! loses cells without an error. This reader reports a cell without a column, a missing cell, text
//! after a closing quote, and an open quote.

use std::io::{self, BufRead, BufReader, Read};

/// A longer row is an error: a quote that was never closed would hold the rest of the file.
const ROW_MAX: usize = 64 << 10;

/// A table file, read up to the row after the header.
pub struct Table {
    input: BufReader<Box<dyn Read>>,
    delimiter: u8,
    header: Vec<String>,
    /// Lines and bytes read so far.
    line: u64,
    bytes: u64,
}

/// One row, or its error.
pub struct TableRow {
    /// Number of the row's first line, from 1.
    pub line: u64,
    /// Trimmed cells, one per column.
    pub cells: Result<Vec<String>, String>,
}

/// Reasons why a file is no table.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// A read error.
    #[error("reading stopped at line {0}: {1}")]
    Io(u64, io::Error),
    /// The content is no table.
    #[error("{0}")]
    Unfit(String),
}

/// Opens a file and checks its first bytes for another encoding.
pub fn open(source: Box<dyn Read>) -> Result<BufReader<Box<dyn Read>>, TableError> {
    let mut input = BufReader::with_capacity(1 << 16, source);
    let head = input.fill_buf().map_err(|e| TableError::Io(1, e))?;
    let utf_16 = head.starts_with(b"\xff\xfe")
        || head.starts_with(b"\xfe\xff")
        || head.iter().take(4).any(|b| *b == 0);
    if utf_16 {
        return Err(TableError::Unfit(
            "the file is UTF-16, and only UTF-8 is read: `iconv -f UTF-16 -t UTF-8 FILE` turns it into that".into(),
        ));
    }

    if head.starts_with(b"\xef\xbb\xbf") {
        input.consume(3);
    }

    Ok(input)
}

impl Table {
    /// Reads the header, and finds the delimiter in the header.
    pub fn new(input: BufReader<Box<dyn Read>>) -> Result<Table, TableError> {
        let mut table = Table {
            input,
            delimiter: b',',
            header: Vec::new(),
            line: 0,
            bytes: 0,
        };

        let mut first = Vec::new();
        let mut at = 0;
        while first.iter().all(u8::is_ascii_whitespace) {
            first.clear();
            if !table.more(&mut first)? {
                return Err(TableError::Unfit(
                    "the file is empty: its first line must name the columns".into(),
                ));
            }

            at = table.line;
        }

        let count = |delimiter: u8| first.iter().filter(|b| **b == delimiter).count();

        // The most frequent delimiter, the first in this order. A header of one column has no
        // delimiter.
        table.delimiter = [b',', b';', b'\t', b'|']
            .into_iter()
            .rev()
            .max_by_key(|d| count(*d))
            .unwrap_or(b',');
        let header = table
            .cells(first, at)?
            .map_err(|why| TableError::Unfit(format!("the header row cannot be read: {why}")))?;
        if let Some(twice) = header
            .iter()
            .enumerate()
            .find_map(|(i, name)| (!name.is_empty() && header[..i].contains(name)).then_some(name))
        {
            return Err(TableError::Unfit(format!(
                "two columns are named `{twice}`"
            )));
        }

        table.header = header;
        Ok(table)
    }

    /// Names of the columns.
    pub fn header(&self) -> &[String] {
        &self.header
    }

    /// Number of bytes read.
    pub fn position(&self) -> u64 {
        self.bytes
    }

    /// The next row that is not empty.
    pub fn next_row(&mut self) -> Result<Option<TableRow>, TableError> {
        loop {
            let mut text = Vec::new();
            if !self.more(&mut text)? {
                return Ok(None);
            }

            if text.iter().all(u8::is_ascii_whitespace) {
                continue;
            }

            let line = self.line;
            let cells = self.cells(text, line)?.and_then(|cells| self.fit(cells));
            return Ok(Some(TableRow { line, cells }));
        }
    }

    /// Checks the number of cells. Extra empty cells at the end are dropped, because they hold no
    /// data.
    fn fit(&self, mut cells: Vec<String>) -> Result<Vec<String>, String> {
        let columns = self.header.len();
        let found = cells.len();
        while cells.len() > columns && cells.last().is_some_and(String::is_empty) {
            cells.pop();
        }

        match cells.len() {
            n if n == columns => Ok(cells),
            // The trailer of an exchange's file has one cell.
            1 if is_trailer(&cells[0]) => Ok(std::iter::once(cells.remove(0))
                .chain(std::iter::repeat_n(String::new(), columns - 1))
                .collect()),
            n if n > columns => Err(format!(
                "it has {found} cells, and there are {columns} columns: is a number written with a separator in it?"
            )),
            _ => Err(format!(
                "it has {found} cells, and there are {columns} columns"
            )),
        }
    }

    /// Appends the next line with its line end. Returns false at the end of the file.
    fn more(&mut self, to: &mut Vec<u8>) -> Result<bool, TableError> {
        let room = (ROW_MAX + 1).saturating_sub(to.len()) as u64;
        let n = self
            .input
            .by_ref()
            .take(room)
            .read_until(b'\n', to)
            .map_err(|e| TableError::Io(self.line + 1, e))?;
        self.bytes += n as u64;
        self.line += 1;
        Ok(n > 0)
    }

    /// Splits a row into cells. If an open quote holds the end of a line, the row continues with
    /// the next line.
    fn cells(
        &mut self,
        mut text: Vec<u8>,
        began: u64,
    ) -> Result<Result<Vec<String>, String>, TableError> {
        loop {
            if text.len() > ROW_MAX {
                let why = format!(
                    "line {began}: the row is longer than {ROW_MAX} bytes; a quote in it may not be closed"
                );
                return Err(TableError::Unfit(why));
            }

            match split(&text, self.delimiter) {
                Split::Cells(cells) => return Ok(Ok(cells)),
                Split::Bad(why) => return Ok(Err(why.into())),
                Split::Open => {
                    if !self.more(&mut text)? {
                        let lines = self.line.saturating_sub(began + 1);
                        let swallowed = if lines == 0 {
                            String::new()
                        } else {
                            format!("; the {lines} lines behind it are not read")
                        };

                        return Ok(Err(format!("a quote in it is never closed{swallowed}")));
                    }
                }
            }
        }
    }
}

/// True if the cell starts the last line of a NASDAQ file.
pub fn is_trailer(cell: &str) -> bool {
    cell.starts_with("File Creation Time")
}

enum Split {
    Cells(Vec<String>),
    Bad(&'static str),
    /// The row ends within quotes.
    Open,
}

fn split(text: &[u8], delimiter: u8) -> Split {
    let Ok(all) = std::str::from_utf8(text) else {
        return Split::Bad("it is no UTF-8");
    };

    let text = all.strip_suffix('\n').unwrap_or(all);
    let text = text.strip_suffix('\r').unwrap_or(text).as_bytes();
    let mut cells = Vec::new();
    let mut at = 0;
    loop {
        let start = at + text[at..].iter().take_while(|b| **b == b' ').count();
        let mut cell = Vec::new();
        if text.get(start) == Some(&b'"') {
            at = start + 1;
            loop {
                match text.get(at) {
                    // The end of the row within quotes: the caller appends the next line.
                    None => return Split::Open,
                    Some(b'"') if text.get(at + 1) == Some(&b'"') => {
                        cell.push(b'"');
                        at += 2;
                    }
                    Some(b'"') => break,
                    Some(b) => {
                        cell.push(*b);
                        at += 1;
                    }
                }
            }

            at += 1;
            at += text[at..]
                .iter()
                .take_while(|b| **b == b' ' && delimiter != b' ')
                .count();
            if text.get(at).is_some_and(|b| *b != delimiter) {
                return Split::Bad("there is text behind a closing quote");
            }
        } else {
            let end = text[at..]
                .iter()
                .position(|b| *b == delimiter)
                .map_or(text.len(), |n| at + n);
            cell.extend_from_slice(&text[at..end]);
            at = end;
        }

        // The delimiters are ASCII, so each cell is valid UTF-8.
        cells.push(String::from_utf8_lossy(&cell).trim().to_string());
        if at >= text.len() {
            return Split::Cells(cells);
        }

        at += 1;
        if at == text.len() {
            cells.push(String::new());
            return Split::Cells(cells);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Cells = Result<Vec<String>, String>;
    type TableRows = Vec<(u64, Cells)>;

    fn read(text: &[u8]) -> Result<(Vec<String>, TableRows), String> {
        let source: Box<dyn Read> = Box::new(io::Cursor::new(text.to_vec()));
        let mut table = open(source)
            .and_then(Table::new)
            .map_err(|e| e.to_string())?;
        let mut rows = Vec::new();
        while let Some(row) = table.next_row().map_err(|e| e.to_string())? {
            rows.push((row.line, row.cells));
        }

        Ok((table.header().to_vec(), rows))
    }

    fn good(cells: &[&str]) -> Cells {
        Ok(cells.iter().map(|c| (*c).to_string()).collect())
    }

    #[test]
    fn four_delimiters_are_found_by_the_header() {
        for d in [",", ";", "\t", "|"] {
            let text = format!("\u{feff}a{d}b{d}c\r\n1{d} \"x{d}\"\"y\" {d}\r\n\r\n2{d}{d}z");
            let (header, rows) = read(text.as_bytes()).expect(d);
            assert_eq!(header, ["a", "b", "c"]);
            assert_eq!(
                rows,
                [
                    (2, good(&["1", &format!("x{d}\"y"), ""])),
                    (4, good(&["2", "", "z"]))
                ],
                "{d}"
            );
        }

        let (header, rows) = read(b"symbol\nAAPL\n").expect("one column");
        assert_eq!((header.len(), rows), (1, vec![(2, good(&["AAPL"]))]));
        assert_eq!(
            read(b"name;note, with commas, in it\n").map(|(h, _)| h.len()),
            Ok(3),
            "the most frequent one"
        );
    }

    #[test]
    fn rows_that_do_not_fit_are_named() {
        let (_, rows) =
            read(b"t,p\n1,999.50\n2,1,012.75\n3\n4,\"x\"y\n5,\xff\n6,7,\n7,\"a\nb\"\n8,\"c\n9,9\n")
                .expect("a table");
        let bad = |i: usize, part: &str| {
            let why = rows[i].1.clone().expect_err(part);
            assert!(why.contains(part), "{why}");
        };

        assert_eq!(rows[0].1, good(&["1", "999.50"]));
        bad(1, "3 cells");
        bad(2, "1 cells");
        bad(3, "closing quote");
        bad(4, "UTF-8");
        assert_eq!(
            rows[5].1,
            good(&["6", "7"]),
            "an empty cell more holds nothing"
        );
        assert_eq!(rows[6], (8, good(&["7", "a\nb"])));
        assert_eq!(rows[7].0, 10);
        bad(7, "never closed; the 1 lines behind it");
        assert_eq!(rows.len(), 8);
    }

    #[test]
    fn trailers_stand_alone_or_not() {
        for trailer in [
            "File Creation Time: 0101202521:30|||",
            "File Creation Time: 0101202521:30",
        ] {
            let (_, rows) =
                read(format!("Symbol|a|b|c\nAAPL|1|2|3\n{trailer}\n").as_bytes()).expect("a table");
            assert!(
                is_trailer(&rows[1].1.as_ref().expect("a row")[0]),
                "{rows:?}"
            );
        }
    }

    #[test]
    fn what_is_no_table_is_told_so() {
        for (text, part) in [
            (&b"\xff\xfes\0y\0"[..], "UTF-16"),
            (b"\xfe\xff\0s\0y", "UTF-16"),
            (b"s\0y\0m\0", "UTF-16"),
            (b"", "empty"),
            (b"\n \n", "empty"),
            (b"a,b,a\n", "two columns are named `a`"),
            (b"a,\"b\n1,2\n", "header row cannot be read: a quote"),
        ] {
            let why = read(text).expect_err(part);
            assert!(why.contains(part), "{why}");
        }

        let endless = [&b"a,b\n1,\""[..], &vec![b'x'; 2 * ROW_MAX]].concat();
        assert!(
            read(&endless)
                .expect_err("too long")
                .contains("longer than")
        );
    }
}
