//! Verifies an export file, as a stream. Memory grows with the longest line only.
//!
//! The file's own sums detect damage, but no forgery. An anchor proves the records at or before its
//! heads: none of them was changed. If the file claims to reach beyond an anchor, the anchor's
//! heads must be in the file. Otherwise the result only counts the records that an anchor covers.

use std::collections::BTreeSet;
use std::io::{self, BufRead};

use domain::chain::{self, GENESIS, Hash};
use ports::topics::Cleanup;
use serde_json::Value;
use sha2::{Digest, Sha256};
use wire::topics;

use super::anchor::{Anchor, ChainHead, parse_head, prefix_of, topic_of};
use super::chain_verifier::{ChainCheckpoint, ChainVerifier, Link, SourceRecordState};
use super::chains::checkpoints;
use super::damage::{Damage, DamageKind};
use super::export::{ExportSummary, FORMAT, SUM, sum};
use super::hex::{hash_of, hex, unhex};

/// The first damage of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileDamage {
    /// The kind of damage.
    pub kind: DamageKind,
    /// Line number, from 1.
    pub line: u64,
    /// Chain and offset of the record on the damaged line, if the line is trustworthy. Otherwise
    /// chain and offset of the last good record.
    pub record: String,
    pub text: String,
}

/// Result for a good file, with the part that anchors prove.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The content, counted.
    pub summary: ExportSummary,
    /// Number of records at or before a head that an anchor recorded with the same hash.
    pub bound_records: u64,
    /// Chains without a head that an anchor recorded.
    pub unbound: Vec<String>,
    /// Number of records with a hash but no content, because compaction removed the content from
    /// the log.
    pub gone: u64,
}

/// Largest clock difference between the anchoring machine and the brokers.
const CLOCKS_MS: i64 = 60_000;

/// Limit of a line's length. A record has at most 1 MiB and 64 KiB, and each byte needs two
/// hexadecimal digits.
const LINE_MAX: u64 = 16 << 20;

/// Verifies a file; `progress` receives the number of bytes read. The outer error is a read error.
pub fn verify(
    mut input: impl BufRead,
    anchors: &[Anchor],
    progress: &mut dyn FnMut(u64),
) -> io::Result<Result<Verified, FileDamage>> {
    let mut f = ExportFile {
        anchors,
        ..ExportFile::default()
    };

    let mut line = Vec::new();
    let mut bytes = 0;
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
struct ExportFile<'a> {
    anchors: &'a [Anchor],
    /// Number of lines read.
    line: u64,
    sums: Sha256,
    cluster: String,
    /// Range and creation time that the first line claims. Nothing proves them.
    from_ms: Option<i64>,
    to_ms: Option<i64>,
    created_ms: Option<i64>,
    walker: Option<ChainVerifier>,
    /// For the current chain: number of records that an anchor proves, and the last anchored head
    /// that the file must contain.
    bound_here: u64,
    due_here: Option<ChainCheckpoint>,
    bound: u64,
    unbound: Vec<String>,
    heads: Vec<ChainHead>,
    records: u64,
    gone: u64,
    /// Format version of the first line.
    format: u64,
    /// Compaction may have removed records of the current chain.
    compacted: bool,
    /// Name of the last good record.
    last: String,
    ended: bool,
    damage: Option<FileDamage>,
    /// Number of a line that was expected, but another line stood there. The verifier waits for
    /// this line.
    missing: Option<u64>,
}

impl ExportFile<'_> {
    /// Takes the next line. Returns false if later lines cannot change the result.
    fn take(&mut self, line: &[u8]) -> bool {
        let (v, own) = match read_line(line) {
            Ok(read) => read,
            Err(_) if self.missing.is_some() => return true,
            Err((kind, text)) => return self.wrong(kind, text),
        };

        let Some(number) = v["line"].as_u64() else {
            return self.wrong(DamageKind::Changed, "the line has no number");
        };

        if let Some(missing) = self.missing {
            if number == missing {
                let here = self.line;
                let came = self.damage.as_ref().map_or(0, |d| d.line);
                let text = format!(
                    "line {came} stands out of place: the one that belongs there is now line {here}"
                );
                self.settle(DamageKind::Swapped, text);
                return false;
            }

            return true;
        }

        if self.ended {
            return self.wrong(DamageKind::Inserted, "a line behind the end");
        }

        if number < self.line {
            return self.wrong(DamageKind::Inserted, &format!("it is line {number} again"));
        }

        if number > self.line {
            self.wrong(
                DamageKind::Deleted,
                &format!("line {number} stands where line {} belongs", self.line),
            );

            // If the chain was already damaged, report the damage of the chain.
            self.missing = Some(self.line)
                .filter(|line| self.damage.as_ref().is_some_and(|d| d.line == *line));
            return self.missing.is_some();
        }

        let before: Hash = self.sums.clone().finalize().into();
        self.sums.update(own);
        match self.fields(&v, &before) {
            Ok(()) => true,
            Err(None) => false,
            Err(Some(text)) => self.wrong(DamageKind::Changed, text),
        }
    }

    /// Checks the fields of a line. The sum is right, so an error here means that another program
    /// wrote the line.
    fn fields(&mut self, v: &Value, sums: &Hash) -> Result<(), Option<&'static str>> {
        match v["type"].as_str() {
            Some("export") if self.line == 1 => match v["format"].as_u64() {
                Some(format @ 1..=FORMAT) => {
                    self.format = format;
                    self.cluster = v["cluster"].as_str().unwrap_or_default().to_string();
                    (self.from_ms, self.to_ms) = (v["from_ms"].as_i64(), v["to_ms"].as_i64());
                    self.created_ms = v["created"].as_str().and_then(time_ms);
                    Ok(())
                }
                _ => Err(Some(
                    "the file's format is not known to this version; use the one that wrote it",
                )),
            },
            Some("chain") if self.line > 1 => {
                self.end_chain()?;
                let name = v["chain"].as_str().ok_or("a chain without a name")?;
                let prev = v["prev"]
                    .as_str()
                    .and_then(hash_of)
                    .ok_or("a chain without the hash it begins after")?;
                if self.from_ms.is_none() && prev != GENESIS {
                    let text = "the file is said to hold everything from the beginning, but this chain begins in the middle".into();
                    self.damage = Some(FileDamage {
                        kind: DamageKind::Deleted,
                        line: self.line,
                        record: format!("{name} offset 0"),
                        text,
                    });

                    return Err(None);
                }

                let ours = |a: &&Anchor| a.cluster == self.cluster;
                let known: Vec<Anchor> = self.anchors.iter().filter(ours).cloned().collect();
                let due: Vec<Anchor> = self
                    .anchors
                    .iter()
                    .filter(ours)
                    .filter(|a| self.is_due(a))
                    .cloned()
                    .collect();

                self.compacted = topic_of(name)
                    .is_some_and(|t| topics::table("").spec(t).cleanup == Cleanup::Compact);
                self.due_here = checkpoints(&due, name).pop();

                // The file may start after an anchor's offset, so the number of earlier entries is
                // unknown.
                let anchors = checkpoints(&known, name)
                    .into_iter()
                    .map(|c| ChainCheckpoint { entries: None, ..c })
                    .collect();
                self.walker = Some(ChainVerifier::after(name, prev, anchors));
                self.bound_here = 0;
                Ok(())
            }
            Some("record") => self.record(v),
            Some("end") => self.footer(v, sums),
            _ => Err(Some("a line of an unknown kind")),
        }
    }

    fn record(&mut self, v: &Value) -> Result<(), Option<&'static str>> {
        let walker = self.walker.as_mut().ok_or("a record outside any chain")?;
        let version = if self.format == 1 {
            Some(1)
        } else {
            v["v"].as_u64()
        };

        let Some(version @ (1 | 2)) = version else {
            return Err(Some("a record whose link is of no known version"));
        };

        if v.get("payload").is_some() {
            // Only compaction may leave out the content of a record. Otherwise the maker of the
            // file could hide any record.
            if !self.compacted {
                return Err(Some(
                    "the record's contents are left out, and its topic is not compacted",
                ));
            }

            self.gone += 1;
        }

        let link = link_of(v, version, self.line).ok_or("a record without one of its fields")?;
        let offset = link.offset;

        // Anchors older than the file's first record do not apply to the file.
        walker.begin_at(offset);
        walker.link(&link, None, SourceRecordState::Unknown);
        if walker.is_good() {
            self.records += 1;
            self.last = format!("{} offset {offset}", walker.name());
            if walker.anchored() == Some(offset) {
                self.bound_here = walker.good().entries;
            }
        }

        Ok(())
    }

    /// Ends the current chain. `Err(None)`: the chain is damaged, and `self.damage` is set.
    fn end_chain(&mut self) -> Result<(), Option<&'static str>> {
        let Some(mut walker) = self.walker.take() else {
            return Ok(());
        };

        // The range may end before an anchor's head: the file cannot show the rest of the chain.
        // `due_here` holds the heads that the file must contain.
        walker.forget_anchors();
        let name = walker.name().to_string();
        let (good, damage) = walker.end(None);
        if let Some(Damage {
            kind,
            offset,
            at,
            text,
        }) = damage
        {
            let line = at.unwrap_or(self.line);
            self.damage = Some(FileDamage {
                kind,
                line,
                record: format!("{name} offset {offset}"),
                text,
            });

            return Err(None);
        }

        if let Some(due) = self
            .due_here
            .take()
            .filter(|due| good.last.is_none_or(|last| last < due.offset))
        {
            let next = good.last.map_or(0, |last| last + 1);
            let end = good.last.map_or("has nothing of it".to_string(), |last| {
                format!("ends it with offset {last}")
            });

            return self.falls_short(&name, next, &due, &end);
        }

        match self.bound_here {
            0 => self.unbound.push(name.clone()),
            n => self.bound += n,
        }

        self.heads.extend(good.last.map(|offset| ChainHead {
            chain: name,
            entries: good.entries,
            offset,
            hash: good.head,
        }));

        Ok(())
    }

    /// True if the file must contain the anchor's heads, unless a head lies before the start of the
    /// file. Records are older than the anchor that covers them. A file made after the anchor
    /// therefore contains them, if its range ends late enough.
    fn is_due(&self, a: &Anchor) -> bool {
        let Some(anchored_ms) = time_ms(&a.time) else {
            return false;
        };

        self.created_ms.is_some_and(|created| created > anchored_ms)
            && self
                .to_ms
                .is_none_or(|to| to >= anchored_ms.saturating_add(CLOCKS_MS))
    }

    fn falls_short(
        &mut self,
        chain: &str,
        offset: u64,
        due: &ChainCheckpoint,
        end: &str,
    ) -> Result<(), Option<&'static str>> {
        let text = format!(
            "{} saw the chain up to offset {}, and the file was made later, but {end}",
            due.label, due.offset
        );
        self.damage = Some(FileDamage {
            kind: DamageKind::Truncated,
            line: self.line,
            record: format!("{chain} offset {offset}"),
            text,
        });

        Err(None)
    }

    /// Checks that every anchored chain is in a file that starts at the beginning of the log. A
    /// file of a later range may have no record of the chain.
    fn vanished(&mut self) -> Result<(), Option<&'static str>> {
        if self.from_ms.is_some() {
            return Ok(());
        }

        let prefixes: BTreeSet<&str> = self
            .heads
            .iter()
            .filter_map(|h| prefix_of(&h.chain))
            .collect();
        let ours = |a: &&Anchor| {
            a.cluster == self.cluster
                && self.is_due(a)
                && (prefixes.is_empty() || prefixes.iter().any(|p| a.is_of(p)))
        };

        let due: Vec<Anchor> = self.anchors.iter().filter(ours).cloned().collect();
        let seen: BTreeSet<&str> = due
            .iter()
            .flat_map(|a| &a.heads)
            .map(|h| h.chain.as_str())
            .collect();
        let gone = seen
            .into_iter()
            .find(|name| !self.heads.iter().any(|h| h.chain == *name));
        match gone.and_then(|name| Some((name.to_string(), checkpoints(&due, name).pop()?))) {
            Some((name, due)) => self.falls_short(&name, 0, &due, "has nothing of it"),
            None => Ok(()),
        }
    }

    fn footer(&mut self, v: &Value, sums: &Hash) -> Result<(), Option<&'static str>> {
        self.end_chain()?;
        let heads = v["chains"]
            .as_array()
            .and_then(|all| all.iter().map(parse_head).collect::<Option<Vec<_>>>());
        if heads.as_ref() != Some(&self.heads) || v["records"].as_u64() != Some(self.records) {
            return Err(Some(
                "the heads at the end are not those of the chains in the file",
            ));
        }

        if v["sums"].as_str() != Some(hex(sums).as_str()) {
            return Err(Some(
                "the hash over all sums is another: a line was replaced by one with a sum of its own",
            ));
        }

        self.vanished()?;
        self.ended = true;
        Ok(())
    }

    fn end(mut self) -> Result<Verified, FileDamage> {
        if self.damage.is_none() && !self.ended {
            // Damage within the current chain comes before the missing end of the file.
            let open = self.end_chain();
            self.line += 1;
            if open.is_ok() {
                self.wrong(DamageKind::Truncated, "the file ends without its last line");
            }
        }

        match self.damage {
            Some(damage) => Err(damage),
            None => Ok(Verified {
                summary: ExportSummary {
                    cluster: self.cluster,
                    chains: self.heads.len() as u64,
                    records: self.records,
                    lines: self.line,
                    heads: self.heads,
                },
                bound_records: self.bound,
                unbound: self.unbound,
                gone: self.gone,
            }),
        }
    }

    fn wrong(&mut self, kind: DamageKind, text: &str) -> bool {
        // If the chain is already damaged, report that damage: it comes earlier. The new damage
        // only helps to find its kind.
        if self.walker.as_ref().is_none_or(ChainVerifier::is_good) || self.end_chain().is_ok() {
            let record = match self.last.as_str() {
                "" => "before the first record".to_string(),
                last => format!("after {last}"),
            };

            self.damage = Some(FileDamage {
                kind,
                line: self.line,
                record,
                text: text.to_string(),
            });
        }

        false
    }

    fn settle(&mut self, kind: DamageKind, text: String) {
        if let Some(d) = &mut self.damage {
            (d.kind, d.text) = (kind, text);
        }
    }
}

/// Parses a time in RFC 3339, in milliseconds; none if the text is no time.
fn time_ms(text: &str) -> Option<i64> {
    text.parse::<jiff::Timestamp>()
        .ok()
        .map(|t| t.as_millisecond())
}

/// Reads a line: its fields, and its sum. The error gives the damage.
fn read_line(line: &[u8]) -> Result<(Value, Hash), (DamageKind, &'static str)> {
    let Some((text, own)) = split(line) else {
        return Err(match line.ends_with(b"\n") {
            true => (DamageKind::Changed, "the line is not one of an export"),
            false => (
                DamageKind::Truncated,
                "the file ends in the middle of a line",
            ),
        });
    };

    if sum(text) != own {
        let text = "the line's sum is not that of its text";
        return Err((DamageKind::Changed, text));
    }

    // Append the closing brace, which the sum does not cover. The sum proves that the text is
    // unchanged.
    let fields = serde_json::from_slice(&[text, b"}"].concat()).unwrap_or_default();
    Ok((fields, own))
}

/// The link of a record's line; none if a field is missing. `line`: number of the line.
fn link_of(v: &Value, version: u64, line: u64) -> Option<Link> {
    let hash = |name: &str| v[name].as_str().and_then(hash_of);
    let time_ms = v["time_ms"].as_i64();
    let (payload, meta) = if v.get("payload").is_some() {
        (hash("payload")?, hash("meta"))
    } else {
        let (key, value) = (bytes(&v["key"])?, bytes(&v["value"])?);
        let payload = chain::payload_hash(key.as_deref(), value.as_deref());
        let meta = headers(&v["headers"])
            .zip(time_ms)
            .map(|(headers, time_ms)| {
                let headers = headers.iter().map(|(n, v)| (*n, v.as_slice()));
                chain::meta_hash(time_ms, key.is_some(), value.is_some(), headers)
            });
        (payload, meta)
    };

    Some(Link {
        at: line,
        offset: v["offset"].as_u64()?,
        payload,
        meta: match version {
            1 => None,
            _ => Some(meta?),
        },
        prev: hash("prev")?,
        hash: hash("hash")?,
        time_ms: time_ms.unwrap_or(0),
    })
}

/// The bytes of a key or a value: text is hexadecimal, everything else means no bytes. None if the
/// text is not hexadecimal.
fn bytes(v: &Value) -> Option<Option<Vec<u8>>> {
    match v {
        Value::String(text) => unhex(text).map(Some),
        _ => Some(None),
    }
}

/// Names and values of a record's headers, in order.
fn headers(v: &Value) -> Option<Vec<(&str, Vec<u8>)>> {
    v.as_array()?
        .iter()
        .map(|pair| Some((pair[0].as_str()?, unhex(pair[1].as_str()?)?)))
        .collect()
}

/// Splits a line into text and sum; none if the line has another form.
fn split(line: &[u8]) -> Option<(&[u8], Hash)> {
    let line = line.strip_suffix(b"\"}\n")?;
    let (rest, digits) = line.split_at_checked(line.len().checked_sub(64)?)?;
    let text = rest.strip_suffix(SUM.as_bytes())?;
    Some((text, hash_of(std::str::from_utf8(digits).ok()?)?))
}
