//! Exports a range of the audit log as a file that proves its own content: records, links and
//! heads, one JSON object per line.
//!
//! Every line ends with the SHA-256 of the text before the sum, including the line number. The last
//! line holds a hash over all these sums. A changed byte, an extra line, a missing line or a moved
//! line is therefore found, with its line number. The sums detect damage, but no forgery: an
//! attacker can rewrite the whole file with new sums. To detect a forgery, compare the file's
//! chains with the log, or with an anchor kept outside the log.

use std::io::{self, Write};

use domain::chain::Hash;
use ports::partitioner;
use ports::records::Record;
use ports::topics::{Cleanup, TopicPartition, TopicTable};
use ports::{Log, LogError};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use wire::topics::AUDIT_LOG;

use super::anchor::{ChainHead, head_json};
use super::chain_verifier::{ChainVerifier, Link, SourceRecordState};
use super::chains::{self, beside, count, read_link};
use super::cursor::{AuditCursor, HeaderUse, offsets};
use super::damage::Damage;
use super::hex::hex;

/// Version of the file format. Since version 2, a record names the version of its link, and holds
/// its headers as bytes, in order.
pub const FORMAT: u64 = 2;

/// Reasons for a missing or incomplete export.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The log failed.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The file could not be written.
    #[error("the export cannot be written: {0}")]
    Write(#[from] io::Error),
    /// The chain to export is damaged.
    #[error("{chain}, offset {}: {}: {}; `processor audit verify` says more", .damage.offset, .damage.kind, .damage.text)]
    Damaged {
        /// Name of the chain.
        chain: String,
        /// First damage of the chain.
        damage: Damage,
    },
}

/// Parameters of an export.
pub struct ExportPlan<'a> {
    pub log: &'a dyn Log,
    pub topics: &'a TopicTable,
    /// Lowest log time, milliseconds; none: the start of the log.
    pub from_ms: Option<i64>,
    /// Log time before which the export stops; none: the present end.
    pub to_ms: Option<i64>,
    /// Creation time, RFC 3339. Nothing proves this claim.
    pub created: String,
}

/// Counts and heads of an export or a verified file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExportSummary {
    /// Id of the cluster with the log.
    pub cluster: String,
    /// Number of chains with records in the file.
    pub chains: u64,
    /// Number of records.
    pub records: u64,
    /// Number of lines.
    pub lines: u64,
    /// Heads of the chains in the file. `entries` counts the entries in the file only.
    pub heads: Vec<ChainHead>,
}

/// Writes lines with their sums. After a write error, the sums of the later lines are still
/// computed: a damaged log must be reported even if the file is lost.
pub struct Lines<W> {
    out: W,
    failed: Option<io::Error>,
    lines: u64,
    sums: Sha256,
}

impl<W: Write> Lines<W> {
    /// Starts a file.
    pub fn new(out: W) -> Self {
        Lines {
            out,
            failed: None,
            lines: 0,
            sums: Sha256::new(),
        }
    }

    /// Writes the next line: line number, kind, fields, sum.
    pub fn put(&mut self, kind: &str, fields: Value) {
        self.lines += 1;
        let mut line = Map::new();
        line.insert("line".into(), self.lines.into());
        line.insert("type".into(), kind.into());
        if let Value::Object(fields) = fields {
            line.extend(fields);
        }

        let mut text = Value::Object(line).to_string();
        text.pop();
        let sum = sum(text.as_bytes());
        self.sums.update(sum);
        if self.failed.is_none() {
            self.failed = writeln!(self.out, "{text}{SUM}{}\"}}", hex(&sum)).err();
        }
    }

    /// Flushes the output. Returns the first write error.
    fn end(&mut self) -> io::Result<()> {
        self.failed
            .take()
            .map_or(Ok(()), Err)
            .and_then(|()| self.out.flush())
    }

    /// Hash over the sums of all lines so far.
    pub fn sums(&self) -> Hash {
        self.sums.clone().finalize().into()
    }
}

/// Text between the fields and the sum of a line.
pub const SUM: &str = ",\"sum\":\"";

/// SHA-256 of a line's text before [`SUM`].
pub fn sum(text: &[u8]) -> Hash {
    Sha256::digest(text).into()
}

impl ExportPlan<'_> {
    /// Writes the export; `progress` receives the number of records written. A damaged chain is not
    /// exported: the error names the damage, even if the output is already closed.
    pub fn write(
        &self,
        out: impl Write,
        progress: &mut dyn FnMut(u64),
    ) -> Result<ExportSummary, ExportError> {
        let mut lines = Lines::new(out);
        let mut summary = ExportSummary {
            cluster: self.log.cluster_id()?,
            ..ExportSummary::default()
        };

        lines.put(
            "export",
            json!({"format": FORMAT, "cluster": summary.cluster, "created": self.created, "from_ms": self.from_ms, "to_ms": self.to_ms}),
        );
        for (name, at) in chains::names(self.log, self.topics)? {
            if let Some(head) = self.chain(&name, at, &mut lines, &mut summary.records, progress)? {
                summary.heads.push(head);
            }
        }

        let heads: Vec<Value> = summary.heads.iter().map(head_json).collect();
        let sums = hex(&lines.sums());
        lines.put(
            "end",
            json!({"records": summary.records, "chains": heads, "sums": sums}),
        );
        lines.end()?;
        progress(summary.records);
        (summary.chains, summary.lines) = (summary.heads.len() as u64, lines.lines);
        Ok(summary)
    }

    fn chain<W: Write>(
        &self,
        name: &str,
        at: TopicPartition,
        lines: &mut Lines<W>,
        records: &mut u64,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Option<ChainHead>, ExportError> {
        let (from, to) = offsets(self.log, at, self.from_ms, self.to_ms)?;
        let p = partitioner::partition(name.as_bytes(), count(self.log, self.topics, AUDIT_LOG)?);

        // An entry has the log time of its record. The entries of this range are therefore not
        // before the first entry with log time `from_ms`.
        let mut entries = AuditCursor::between(
            self.log,
            TopicPartition::new(AUDIT_LOG, p),
            self.from_ms,
            None,
            HeaderUse::Skip,
        )?;

        let mut source = AuditCursor::range(self.log, at, from, to, HeaderUse::Read)?;
        let cleanup = self.topics.spec(at.topic).cleanup;
        let compacted = cleanup == Cleanup::Compact;
        if !compacted && source.peek()?.is_none() {
            return Ok(None);
        }

        let mut chain = ChainExport {
            name,
            source,
            cleanup,
            walker: None,
            lines,
        };

        while let Some(r) = entries.peek()? {
            if r.key != Some(name.as_bytes()) {
                entries.skip();
                continue;
            }

            let link = read_link(name, &r);
            let offset = link.as_ref().map_or(from, |e| e.offset);
            if offset < from {
                entries.skip();
                continue;
            }

            if offset >= to || !chain.entry(r.offset, link)? {
                break;
            }

            *records += 1;
            if records.is_multiple_of(1024) {
                progress(*records);
            }

            entries.skip();

            // Continue for a compacted source: entries of removed records may follow.
            if !compacted && chain.source.peek()?.is_none() {
                break;
            }
        }

        chain.end()
    }
}

/// The export of one chain.
struct ChainExport<'a, W> {
    name: &'a str,
    source: AuditCursor,
    cleanup: Cleanup,
    /// None until the first entry.
    walker: Option<ChainVerifier>,
    lines: &'a mut Lines<W>,
}

impl<W: Write> ChainExport<'_, W> {
    /// Verifies the next entry and writes its record. `at`: offset of the entry in the audit log.
    /// Returns false if the chain is damaged.
    fn entry(&mut self, at: u64, link: Result<Link, String>) -> Result<bool, LogError> {
        let name = self.name;
        let walker = self.walker.get_or_insert_with(|| {
            let prev = link.as_ref().map_or([0; 32], |e| e.prev);
            self.lines
                .put("chain", json!({"chain": name, "prev": hex(&prev)}));
            ChainVerifier::after(name, prev, Vec::new())
        });

        match link {
            Err(why) => walker.unreadable(at, &why),
            Ok(e) => {
                // The file needs the record's content, so copy the content before `beside` moves
                // the cursor.
                let content = match self.source.peek()? {
                    Some(r) if r.offset == e.offset => Some(content(&r)),
                    _ => None,
                };

                let last = walker.good().last;
                let (gap, here) = beside(&mut self.source, &e, last, self.cleanup)?;
                walker.link(&e, gap, here);
                let content = content.filter(|_| matches!(here, SourceRecordState::Record(_)));
                self.lines.put("record", record_fields(&e, content));
            }
        }

        Ok(walker.is_good())
    }

    /// The head of the chain in the file; none if the file has no entry of the chain.
    fn end(self) -> Result<Option<ChainHead>, ExportError> {
        let Some(walker) = self.walker else {
            return Ok(None);
        };

        let chain = self.name.to_string();
        let (good, damage) = walker.end(None);
        if let Some(damage) = damage {
            return Err(ExportError::Damaged { chain, damage });
        }

        Ok(good.last.map(|offset| ChainHead {
            chain,
            entries: good.entries,
            offset,
            hash: good.head,
        }))
    }
}

/// The fields of a record's line. Without `content`, the entry's hashes stand for the content.
fn record_fields(e: &Link, content: Option<Map<String, Value>>) -> Value {
    let mut fields = Map::new();
    fields.insert("offset".into(), e.offset.into());
    fields.insert("time_ms".into(), e.time_ms.into());
    match content {
        Some(content) => fields.extend(content),
        None => {
            fields.insert("payload".into(), hex(&e.payload).into());
            fields.extend(e.meta.map(|meta| ("meta".to_string(), hex(&meta).into())));
        }
    }

    fields.insert("v".into(), if e.meta.is_some() { 2 } else { 1 }.into());
    fields.insert("prev".into(), hex(&e.prev).into());
    fields.insert("hash".into(), hex(&e.hash).into());
    fields.into()
}

/// The hashed fields of a record, without offset and log time.
fn content(r: &Record<'_>) -> Map<String, Value> {
    let headers: Vec<Value> = r.headers.iter().map(|(n, v)| json!([n, hex(v)])).collect();
    let mut map = Map::new();
    map.insert("key".into(), r.key.map(hex).into());
    map.insert("value".into(), r.value.map(hex).into());
    map.insert("headers".into(), headers.into());
    map
}
