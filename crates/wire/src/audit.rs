//! `audit-log`: one entry of a hash chain.

use domain::chain::Hash;

use super::input::{Fault, FieldValue, read_map};
use super::writer::MapWriter;

/// `type` header of audit entries.
pub const AUDIT_ENTRY: &str = "AuditEntry";
/// Current format of the entries, in the header `v`.
pub const VERSION: &[u8] = b"2";

/// An entry of the audit log. The contract defines the field names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct AuditEntry<'a> {
    pub src_topic: &'a str,
    pub src_partition: u32,
    pub src_offset: u64,
    pub log_time_ms: i64,
    pub payload_hash: Hash,
    /// Present since version 2.
    pub meta_hash: Option<Hash>,
    pub prev_hash: Hash,
    pub hash: Hash,
}

impl<'a> AuditEntry<'a> {
    /// Appends the entry as MessagePack.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut w = MapWriter::begin(out);
        w.text("src_topic", self.src_topic)
            .int("src_partition", i64::from(self.src_partition));
        w.int(
            "src_offset",
            i64::try_from(self.src_offset).expect("a log's offset fits"),
        )
        .int("log_time_ms", self.log_time_ms);
        w.binary("payload_hash", &self.payload_hash);
        if let Some(meta) = &self.meta_hash {
            w.binary("meta_hash", meta);
        }

        w.binary("prev_hash", &self.prev_hash)
            .binary("hash", &self.hash);
        w.end();
    }

    /// Decodes an entry that [`AuditEntry::encode`] wrote.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, Fault> {
        let mut topic = None;
        let mut partition = None;
        let mut offset = None;
        let mut time = None;
        let mut payload = None;
        let mut meta = None;
        let mut prev = None;
        let mut hash = None;
        let fault = read_map(bytes, |name, v| match name {
            "src_topic" => topic = v.plain_text(),
            "src_partition" => partition = v.i64().and_then(|n| u32::try_from(n).ok()),
            "src_offset" => offset = v.i64().and_then(|n| u64::try_from(n).ok()),
            "log_time_ms" => time = v.i64(),
            "payload_hash" => payload = bytes32(&v),
            "meta_hash" => meta = Some(bytes32(&v)),
            "prev_hash" => prev = bytes32(&v),
            "hash" => hash = bytes32(&v),
            _ => {}
        })?;

        const ODD: Fault = "an audit entry without one of its fields";
        match fault {
            Some(fault) => Err(fault),
            None => Ok(AuditEntry {
                src_topic: topic.ok_or(ODD)?,
                src_partition: partition.ok_or(ODD)?,
                src_offset: offset.ok_or(ODD)?,
                log_time_ms: time.ok_or(ODD)?,
                payload_hash: payload.ok_or(ODD)?,
                // An entry with an unreadable `meta_hash` is malformed, not an entry of version 1.
                meta_hash: meta.map(|m| m.ok_or(ODD)).transpose()?,
                prev_hash: prev.ok_or(ODD)?,
                hash: hash.ok_or(ODD)?,
            }),
        }
    }
}

fn bytes32(v: &FieldValue<'_>) -> Option<Hash> {
    match v {
        FieldValue::Binary(b) => (*b).try_into().ok(),
        _ => None,
    }
}
