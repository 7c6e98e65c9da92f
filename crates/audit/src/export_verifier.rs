//! Reading an export back: is it what was written? Streams; the longest line bounds the memory.
//!
//! A file's own sums find damage, not forgery. An anchor binds what its heads cover, as far as the
//! file has it: up to such a head nothing was changed. A file that is said to reach as far as an
//! anchor did must; where it need not, it is only said how much of it is bound.

use std::collections::BTreeSet;
use std::io::{self, BufRead};

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::anchor::{Anchor, ChainHead, parse_head, prefix_of, topic_of};
use super::chain_verifier::{ChainVerifier, Checkpoint, Damage, DamageKind, Here, Link};
use super::chains::checkpoints;
use super::export::{ExportSummary, FORMAT, SUM, sum};
use super::hex::{hash_of, hex, unhex};
use domain::chain::{self, GENESIS, Hash};
use ports::topics::Cleanup;
use wire::topics;

/// The first thing that is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileDamage {
    /// The kind of damage.
    pub kind: DamageKind,
    /// The line, from 1.
    pub line: u64,
    /// The chain and offset of the record there, if the line can be trusted to say so; else of the
    /// last good one before.
    pub record: String,
    /// The damage in words.
    pub text: String,
}

/// A file that is whole, and how much of it anchors vouch for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The content, counted.
    pub summary: ExportSummary,
    /// How many records lie at or before one that an anchor saw as it is here.
    pub bound_records: u64,
    /// Chains without any such record.
    pub unbound: Vec<String>,
    /// Records whose contents are left out because compaction had dropped them: only their hashes
    /// are here.
    pub gone: u64,
}

/// The clocks of who anchors and of the brokers may differ by this much.
const CLOCKS_MS: i64 = 60_000;

/// A line longer than this is no line of ours: a record has 1 MiB and 64 KiB at most, and two
/// digits stand for a byte.
const LINE_MAX: u64 = 16 << 20;

/// Verifies a file; `progress` is told how many bytes were read. The outer error: it cannot be
/// read.
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

/// Headers as a record has them: names and bytes, in order.
fn headers(v: &Value) -> Option<Vec<(&str, Vec<u8>)>> {
    v.as_array()?
        .iter()
        .map(|pair| Some((pair[0].as_str()?, unhex(pair[1].as_str()?)?)))
        .collect()
}

#[derive(Default)]
struct ExportFile<'a> {
    anchors: &'a [Anchor],
    /// Lines read.
    line: u64,
    sums: Sha256,
    cluster: String,
    /// Its claims about its range and the time it was made; nothing binds them.
    from_ms: Option<i64>,
    to_ms: Option<i64>,
    created_ms: Option<i64>,
    walker: Option<ChainVerifier>,
    /// Records of the chain at hand that an anchor vouches for, and the last offset that it must
    /// have.
    bound_here: u64,
    due_here: Option<Checkpoint>,
    bound: u64,
    unbound: Vec<String>,
    heads: Vec<ChainHead>,
    records: u64,
    gone: u64,
    /// The format that the first line says.
    format: u64,
    /// Whether records of the chain at hand may have been dropped.
    compacted: bool,
    /// The last record that was good.
    last: String,
    ended: bool,
    damage: Option<FileDamage>,
    /// A later line stood where this one belongs; waiting to see whether it comes.
    missing: Option<u64>,
}

impl ExportFile<'_> {
    /// One more line; false when nothing that follows can say more.
    fn take(&mut self, line: &[u8]) -> bool {
        let Some((text, own)) = split(line) else {
            if self.missing.is_some() {
                return true;
            }

            let whole = line.ends_with(b"\n");
            return match whole {
                true => self.wrong(DamageKind::Changed, "the line is not one of an export"),
                false => self.wrong(
                    DamageKind::Truncated,
                    "the file ends in the middle of a line",
                ),
            };
        };

        let v = match sum(text) == own {
            // Read with its brace back; the sum says that it is what was written.
            true => serde_json::from_slice::<Value>(&[text, b"}"].concat()).unwrap_or_default(),
            false if self.missing.is_some() => return true,
            false => {
                return self.wrong(
                    DamageKind::Changed,
                    "the line's sum is not that of its text",
                );
            }
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

            // If the chain was found broken before, that is what there is to say.
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

    /// Reads the line's fields. Its sum is right, so only a line written by somebody else is wrong
    /// here.
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

                // A file may begin behind an anchor's offset, so it is not known how many entries
                // came before.
                let anchors = checkpoints(&known, name)
                    .into_iter()
                    .map(|c| Checkpoint { entries: None, ..c })
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
        let hash = |name: &str| v[name].as_str().and_then(hash_of);
        let bytes = |name: &str| match &v[name] {
            Value::String(s) => unhex(s).map(Some),
            _ => Some(None),
        };

        let version = if self.format == 1 {
            Some(1)
        } else {
            v["v"].as_u64()
        };

        let Some(version @ (1 | 2)) = version else {
            return Err(Some("a record whose link is of no known version"));
        };

        let time_ms = v["time_ms"].as_i64();
        let (payload, meta) = match v.get("payload") {
            // The maker of a file could withhold any record.
            Some(_) if !self.compacted => {
                return Err(Some(
                    "the record's contents are left out, and its topic is not compacted",
                ));
            }
            Some(_) => {
                self.gone += 1;
                (hash("payload"), hash("meta"))
            }
            None => match (bytes("key"), bytes("value")) {
                (Some(key), Some(value)) => {
                    let meta = match (version, headers(&v["headers"]), time_ms) {
                        (2, Some(headers), Some(time_ms)) => {
                            let headers = headers.iter().map(|(n, v)| (*n, v.as_slice()));
                            Some(chain::meta_hash(
                                time_ms,
                                key.is_some(),
                                value.is_some(),
                                headers,
                            ))
                        }
                        _ => None,
                    };

                    (
                        Some(chain::payload_hash(key.as_deref(), value.as_deref())),
                        meta,
                    )
                }
                _ => (None, None),
            },
        };

        let meta = match (version, meta) {
            (2, None) => return Err(Some("a record without one of its fields")),
            (1, _) => None,
            (_, meta) => meta,
        };

        let (Some(offset), Some(payload), Some(prev), Some(own)) =
            (v["offset"].as_u64(), payload, hash("prev"), hash("hash"))
        else {
            return Err(Some("a record without one of its fields"));
        };

        // Anchors from before the file's first record say nothing about it.
        let link = Link {
            at: self.line,
            offset,
            payload,
            meta,
            prev,
            hash: own,
            time_ms: time_ms.unwrap_or(0),
        };

        walker.begin_at(offset);
        walker.link(&link, None, Here::Unknown);
        if walker.is_good() {
            self.records += 1;
            self.last = format!("{} offset {offset}", walker.name());
            if walker.anchored() == Some(offset) {
                self.bound_here = walker.good().entries;
            }
        }

        Ok(())
    }

    /// Ends the chain in hand; `Err(None)`: it is damaged, and that is said.
    fn end_chain(&mut self) -> Result<(), Option<&'static str>> {
        let Some(mut walker) = self.walker.take() else {
            return Ok(());
        };

        // A range may end before an anchor; whether the chain goes on, the file cannot know. What
        // is due is another matter.
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

    /// Whether the file, as it describes itself, must have what this anchor saw, unless that lies
    /// before its beginning. Records are older than the anchor that saw them, so a file made later
    /// has them, if its range goes on for long enough.
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
        due: &Checkpoint,
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

    /// A chain that an anchor saw must be in a file of everything from the beginning. Of a range it
    /// may have no record.
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
            // A damage within the chain at hand is older than the missing end.
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
        // A chain that was already found broken is the earlier damage; what follows only helps to
        // say what it is.
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

/// When something is said to have been made; none if that is no time.
fn time_ms(text: &str) -> Option<i64> {
    text.parse::<jiff::Timestamp>()
        .ok()
        .map(|t| t.as_millisecond())
}

/// A line's text and its sum, if it has the form of a line.
fn split(line: &[u8]) -> Option<(&[u8], Hash)> {
    let line = line.strip_suffix(b"\"}\n")?;
    let (rest, digits) = line.split_at_checked(line.len().checked_sub(64)?)?;
    let text = rest.strip_suffix(SUM.as_bytes())?;
    Some((text, hash_of(std::str::from_utf8(digits).ok()?)?))
}
