//! Reading an export back: is it what was written? Streams; the longest line bounds the memory.

use std::io::{self, BufRead};

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::anchor::{Anchor, Head, parse_head};
use super::chains::checkpoints;
use super::export::{FORMAT, SUM, Summary, sum};
use super::hex::{hash_of, hex, unhex};
use super::walk::{Checkpoint, Damage, Here, Kind, Link, Walker};
use crate::domain::chain::{self, Hash};

/// The first thing that is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileDamage {
    /// What happened.
    pub kind: Kind,
    /// The line, from 1.
    pub line: u64,
    /// The chain and offset of the record there, if the line can be trusted to say so; else of the last good one before.
    pub record: String,
    /// What is wrong, in words.
    pub text: String,
}

/// A line longer than this is no line of ours: a record has 1 MiB and 64 KiB at most, and two digits stand for a byte.
const LINE_MAX: u64 = 16 << 20;

/// Verifies a file; `progress` is told how many bytes were read. The outer error: it cannot be read.
pub fn verify(mut input: impl BufRead, anchors: &[Anchor], progress: &mut dyn FnMut(u64)) -> io::Result<Result<Summary, FileDamage>> {
    let mut f = File { anchors, ..File::default() };
    let (mut line, mut bytes) = (Vec::new(), 0);
    loop {
        line.clear();
        let n = io::Read::take(&mut input, LINE_MAX).read_until(b'\n', &mut line)?;
        if n == 0 {
            return Ok(f.end());
        }
        bytes += n as u64;
        f.line += 1;
        if !f.take(&line) {
            return Ok(Err(f.damage.expect("said what is wrong")));
        }
        if f.line.is_multiple_of(512) {
            progress(bytes);
        }
    }
}

#[derive(Default)]
struct File<'a> {
    anchors: &'a [Anchor],
    /// Lines read.
    line: u64,
    sums: Sha256,
    cluster: String,
    walker: Option<Walker>,
    heads: Vec<Head>,
    records: u64,
    /// The last record that was good.
    last: String,
    ended: bool,
    damage: Option<FileDamage>,
    /// A later line stood where this one belongs; waiting to see whether it comes.
    missing: Option<u64>,
}

impl File<'_> {
    /// One more line; false when nothing that follows can say more.
    fn take(&mut self, line: &[u8]) -> bool {
        let Some((text, own)) = split(line) else {
            if self.missing.is_some() {
                return true;
            }
            let whole = line.ends_with(b"\n");
            return match whole {
                true => self.wrong(Kind::Changed, "the line is not one of an export"),
                false => self.wrong(Kind::Truncated, "the file ends in the middle of a line"),
            };
        };
        let v = match sum(text) == own {
            // Read with its brace back; the sum says that it is what was written.
            true => serde_json::from_slice::<Value>(&[text, b"}"].concat()).unwrap_or_default(),
            false if self.missing.is_some() => return true,
            false => return self.wrong(Kind::Changed, "the line's sum is not that of its text"),
        };
        let Some(number) = v["line"].as_u64() else { return self.wrong(Kind::Changed, "the line has no number") };
        if let Some(missing) = self.missing {
            if number == missing {
                let (here, came) = (self.line, self.damage.as_ref().map_or(0, |d| d.line));
                let text = format!("line {came} stands out of place: the one that belongs there is now line {here}");
                self.settle(Kind::Swapped, text);
                return false;
            }
            return true;
        }
        if self.ended {
            return self.wrong(Kind::Inserted, "a line behind the end");
        }
        if number < self.line {
            return self.wrong(Kind::Inserted, &format!("it is line {number} again"));
        }
        if number > self.line {
            self.wrong(Kind::Deleted, &format!("line {number} stands where line {} belongs", self.line));
            // If the chain was found broken before, that is what there is to say.
            self.missing = Some(self.line).filter(|line| self.damage.as_ref().is_some_and(|d| d.line == *line));
            return self.missing.is_some();
        }
        let before: Hash = self.sums.clone().finalize().into();
        self.sums.update(own);
        match self.fields(&v, &before) {
            Ok(()) => true,
            Err(None) => false,
            Err(Some(text)) => self.wrong(Kind::Changed, text),
        }
    }

    /// What the line says. Its sum is right, so only a line written by somebody else is wrong here.
    fn fields(&mut self, v: &Value, sums: &Hash) -> Result<(), Option<&'static str>> {
        match v["type"].as_str() {
            Some("export") if self.line == 1 => match v["format"].as_u64() {
                Some(FORMAT) => {
                    self.cluster = v["cluster"].as_str().unwrap_or_default().to_string();
                    Ok(())
                }
                _ => Err(Some("the file's format is not known to this version; use the one that wrote it")),
            },
            Some("chain") if self.line > 1 => {
                self.end_chain()?;
                let name = v["chain"].as_str().ok_or("a chain without a name")?;
                let prev = v["prev"].as_str().and_then(hash_of).ok_or("a chain without the hash it begins after")?;
                // A file may begin behind an anchor's offset, so it is not known how many entries came before.
                let known: Vec<Anchor> = self.anchors.iter().filter(|a| a.cluster == self.cluster).cloned().collect();
                let anchors = checkpoints(&known, name).into_iter().map(|c| Checkpoint { entries: None, ..c }).collect();
                self.walker = Some(Walker::after(name, prev, anchors));
                Ok(())
            }
            Some("record") => self.record(v),
            Some("end") => self.footer(v, sums),
            _ => Err(Some("a line of an unknown kind")),
        }
    }

    fn record(&mut self, v: &Value) -> Result<(), Option<&'static str>> {
        let walker = self.walker.as_mut().ok_or("a record outside any chain")?;
        let hash = |name: &str| v[name].as_str().and_then(hash_of);
        let bytes = |name: &str| match &v[name] {
            Value::String(s) => unhex(s).map(Some),
            _ => Some(None),
        };
        let payload = match v.get("payload") {
            Some(_) => hash("payload"),
            None => match (bytes("key"), bytes("value")) {
                (Some(key), Some(value)) => Some(chain::payload_hash(key.as_deref(), value.as_deref())),
                _ => None,
            },
        };
        let (Some(offset), Some(payload), Some(prev), Some(own)) = (v["offset"].as_u64(), payload, hash("prev"), hash("hash")) else {
            return Err(Some("a record without one of its fields"));
        };
        // Anchors from before the file's first record say nothing about it.
        let time_ms = v["time_ms"].as_i64().unwrap_or(0);
        let link = Link { at: self.line, offset, payload, prev, hash: own, time_ms };
        walker.begin_at(offset);
        walker.link(&link, None, Here::Unknown);
        if walker.is_good() {
            self.records += 1;
            self.last = format!("{} offset {offset}", walker.name());
        }
        Ok(())
    }

    /// Ends the chain in hand; `Err(None)`: it is damaged, and that is said.
    fn end_chain(&mut self) -> Result<(), Option<&'static str>> {
        let Some(mut walker) = self.walker.take() else { return Ok(()) };
        // A range may end before an anchor; whether the chain goes on, the file cannot know.
        walker.forget_anchors();
        let name = walker.name().to_string();
        let (good, damage) = walker.end(None);
        if let Some(Damage { kind, offset, at, text }) = damage {
            let line = at.unwrap_or(self.line);
            self.damage = Some(FileDamage { kind, line, record: format!("{name} offset {offset}"), text });
            return Err(None);
        }
        self.heads.extend(good.last.map(|offset| Head { chain: name, entries: good.entries, offset, hash: good.head }));
        Ok(())
    }

    fn footer(&mut self, v: &Value, sums: &Hash) -> Result<(), Option<&'static str>> {
        self.end_chain()?;
        let heads = v["chains"].as_array().and_then(|all| all.iter().map(parse_head).collect::<Option<Vec<_>>>());
        if heads.as_ref() != Some(&self.heads) || v["records"].as_u64() != Some(self.records) {
            return Err(Some("the heads at the end are not those of the chains in the file"));
        }
        if v["sums"].as_str() != Some(hex(sums).as_str()) {
            return Err(Some("the hash over all sums is another: a line was replaced by one with a sum of its own"));
        }
        self.ended = true;
        Ok(())
    }

    fn end(mut self) -> Result<Summary, FileDamage> {
        if self.damage.is_none() && !self.ended {
            // A damage within the chain at hand is older than the missing end.
            let open = self.end_chain();
            self.line += 1;
            if open.is_ok() {
                self.wrong(Kind::Truncated, "the file ends without its last line");
            }
        }
        match self.damage {
            Some(damage) => Err(damage),
            None => Ok(Summary {
                cluster: self.cluster,
                chains: self.heads.len() as u64,
                records: self.records,
                lines: self.line,
                heads: self.heads,
            }),
        }
    }

    fn wrong(&mut self, kind: Kind, text: &str) -> bool {
        // A chain that was already found broken is the earlier damage; what follows only helps to say what it is.
        if self.walker.as_ref().is_none_or(Walker::is_good) || self.end_chain().is_ok() {
            let record = match self.last.as_str() {
                "" => "before the first record".to_string(),
                last => format!("after {last}"),
            };
            self.damage = Some(FileDamage { kind, line: self.line, record, text: text.to_string() });
        }
        false
    }

    fn settle(&mut self, kind: Kind, text: String) {
        if let Some(d) = &mut self.damage {
            (d.kind, d.text) = (kind, text);
        }
    }
}

/// A line's text and its sum, if it has the form of a line.
fn split(line: &[u8]) -> Option<(&[u8], Hash)> {
    let line = line.strip_suffix(b"\"}\n")?;
    let (rest, digits) = line.split_at_checked(line.len().checked_sub(64)?)?;
    let text = rest.strip_suffix(SUM.as_bytes())?;
    Some((text, hash_of(std::str::from_utf8(digits).ok()?)?))
}
