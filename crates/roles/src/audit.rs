//! `audit`: one hash chain per source partition, over all public topics. The role also writes the
//! dead letters for bad records of `instruments`, because the other roles skip such records.

use std::collections::BTreeMap;

use data_encoding::HEXLOWER;
use domain::chain::{self, GENESIS, Hash};
use engine::context::Ctx;
use engine::role::{InvariantViolation, RoleLogic};
use engine::sequence_check;
use ports::records::Record;
use ports::varint::{put, take_u64};
use wire::audit::{AUDIT_ENTRY, AuditEntry, VERSION as ENTRY_VERSION};
use wire::{instrument, topics};

use super::ingress::violation;
use super::show::StateKey;

pub(super) const STATE_SCHEMA: &[StateKey] = &[StateKey::plain(
    "TOPIC/PARTITION",
    "head of the chain, and its length",
)];

const VERSION: u8 = 1;

/// Chains with version 1 links (by the source's full name), and the first offset with a version 2
/// link.
pub type EarlyLinks = BTreeMap<String, u64>;

#[derive(Default)]
pub(super) struct AuditRole {
    /// Only for a replay. A first execution always writes version 2.
    links: EarlyLinks,
    key: String,
    source: String,
    value: Vec<u8>,
}

impl AuditRole {
    pub(super) fn new(links: EarlyLinks) -> Self {
        AuditRole {
            links,
            ..AuditRole::default()
        }
    }
}

impl RoleLogic for AuditRole {
    fn process(
        &mut self,
        ctx: &mut Ctx<'_>,
        record: &Record<'_>,
    ) -> Result<(), InvariantViolation> {
        if !topics::AUDITED.contains(&record.at.topic) {
            return Ok(());
        }

        self.name_source(ctx, record);
        let (previous, count) = self.head(ctx)?;
        let hash = self.append(ctx, record, previous);
        self.value.clear();
        write(&mut self.value, &hash, count + 1);
        ctx.put(self.key.as_bytes(), &self.value);

        if record.at.topic == topics::INSTRUMENTS {
            let large = record
                .value
                .is_some_and(|v| v.len() > topics::INPUT_BYTES_MAX);
            if let Err(fault) = instrument::decode(record.key, record.value) {
                ctx.dead_letter(record, if large { "OVERSIZE" } else { "MALFORMED" }, fault);
            }
        }

        Ok(())
    }
}

impl AuditRole {
    /// Sets the source and the state key of the record's chain. State keys use `topic/partition`
    /// without the prefix, so that state does not depend on the prefix. The log carries the full
    /// name, as everywhere.
    fn name_source(&mut self, ctx: &Ctx<'_>, record: &Record<'_>) {
        let name = ctx.src();
        let full = name.rsplit_once('/').map_or(name, |(source, _)| source);
        self.source.clear();
        self.source.push_str(full);
        self.key.clear();
        self.key.push_str(short_name(record));
        self.key
            .push_str(&self.source[self.source.rfind('/').unwrap_or(0)..]);
    }

    /// Head and length of the chain.
    fn head(&self, ctx: &mut Ctx<'_>) -> Result<(Hash, u64), InvariantViolation> {
        let Some(bytes) = ctx.get(self.key.as_bytes()) else {
            return Ok((GENESIS, 0));
        };

        read(bytes).ok_or_else(|| {
            violation(
                ctx,
                "state of a chain cannot be read; it was written by a newer version or is damaged",
            )
        })
    }

    /// Appends the record's entry to the audit log. Returns the new head of the chain.
    fn append(&mut self, ctx: &mut Ctx<'_>, record: &Record<'_>, previous: Hash) -> Hash {
        let first = self
            .links
            .get(&self.source)
            .is_some_and(|since| record.offset < *since);
        let payload = chain::payload_hash(record.key, record.value);
        let meta = chain::meta_hash(
            record.timestamp_ms,
            record.key.is_some(),
            record.value.is_some(),
            record.headers.iter(),
        );
        let meta = Some(meta).filter(|_| !first);
        let hash = chain::link(&previous, ctx.src(), &payload, meta.as_ref());
        self.value.clear();
        AuditEntry {
            src_topic: ctx.topic_name(record.at.topic),
            src_partition: record.at.partition,
            src_offset: record.offset,
            log_time_ms: record.timestamp_ms,
            payload_hash: payload,
            meta_hash: meta,
            prev_hash: previous,
            hash,
        }
        .encode(&mut self.value);

        let version = if first {
            sequence_check::VERSION
        } else {
            ENTRY_VERSION
        };

        ctx.emit_as(
            version,
            topics::AUDIT_LOG,
            self.source.as_bytes(),
            AUDIT_ENTRY,
            &self.value,
        );

        hash
    }
}

/// Topic name without the prefix.
fn short_name(record: &Record<'_>) -> &'static str {
    match record.at.topic {
        topics::ORDER_COMMANDS => "order-commands",
        topics::MARKET_DATA => "market-data",
        topics::INSTRUMENTS => "instruments",
        topics::ORDER_EVENTS => "order-events",
        topics::TRADES => "trades",
        topics::REFERENCE_PRICES => "reference-prices",
        topics::PORTFOLIOS => "portfolios",
        topics::NOTIFICATIONS => "notifications",
        topics::CONTROLS => "controls",
        topics::OPERATOR_COMMANDS => "operator-commands",
        _ => "dead-letters",
    }
}

/// Writes the state of a chain: version, head, number of entries.
fn write(out: &mut Vec<u8>, head: &Hash, count: u64) {
    out.push(VERSION);
    out.extend_from_slice(head);
    put(out, count);
}

fn read(bytes: &[u8]) -> Option<(Hash, u64)> {
    let (&VERSION, rest) = bytes.split_first()? else {
        return None;
    };

    let (head, mut rest) = rest.split_at_checked(32)?;
    let count = take_u64(&mut rest)?;
    rest.is_empty().then_some((head.try_into().ok()?, count))
}

/// State of a chain as JSON.
pub(super) fn show(value: &[u8]) -> Option<serde_json::Value> {
    let (head, count) = read(value)?;
    let head = HEXLOWER.encode(&head);
    Some(serde_json::json!({"entries": count, "head": head}))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Golden bytes: later versions must read the bytes of this version.
    #[test]
    fn golden_bytes() {
        let mut out = Vec::new();
        write(&mut out, &[7; 32], 300);
        assert_eq!(out, [&[1][..], &[7; 32], &[0xac, 2]].concat());
        assert_eq!(read(&out), Some(([7; 32], 300)));
        assert_eq!(read(&out[1..]), None);
    }

    #[test]
    fn every_audited_topic_has_its_own_name() {
        let table = wire::topics::table("p-");
        for topic in topics::AUDITED {
            let at = ports::topics::TopicPartition::new(topic, 0);
            let record = Record {
                at,
                offset: 0,
                timestamp_ms: 0,
                key: None,
                value: None,
                headers: Default::default(),
            };

            assert_eq!(short_name(&record), table.spec(topic).name);
        }
    }
}
