//! The last settings of an installation: the newest settings in the journals of its roles.

use std::time::Duration;

use engine::checkpoint::JournalEntry;
use ports::records::Records;
use ports::topics::TopicPartition;
use ports::{Limits, LogError, StartOffset};
use roles::{Role, RoleSettings};

use super::system::Installation;

/// Number of journal entries to read first, from the end; then twice as many, and so on. Only the
/// first entry of each incarnation has the settings. A command that runs roles one at a time makes
/// many short incarnations.
const FIRST_LOOK: u64 = 256;
const LIMITS: Limits = Limits {
    records: 5_000,
    bytes: 8 << 20,
    age: Duration::from_millis(100),
};

/// Settings of the newest incarnation of a role that committed a transaction. None without a
/// transaction, or if only versions without settings on record committed.
pub fn last_used(system: &Installation, role: Role) -> Result<Option<RoleSettings>, LogError> {
    let Some(journal) = system.factory(role)?.spec().journal else {
        return Ok(None);
    };

    let mut newest: Option<(i64, Vec<u8>)> = None;
    for partition in 0..system.partitions()?[journal.0 as usize] {
        if let Some(found) = last_of(system, TopicPartition::new(journal, partition))?
            && newest
                .as_ref()
                .is_none_or(|(time_ms, _)| *time_ms <= found.0)
        {
            newest = Some(found);
        }
    }

    // Settings of a newer version give none here. The role itself refuses such settings at its
    // start.
    Ok(newest.and_then(|(_, bytes)| RoleSettings::decode(&bytes).ok()))
}

/// The last settings in a partition, with the log time of their entry.
fn last_of(system: &Installation, at: TopicPartition) -> Result<Option<(i64, Vec<u8>)>, LogError> {
    let bounds = system.log.bounds(at)?;
    let mut end = bounds.stable_end;
    let mut count = FIRST_LOOK;
    let mut records = Records::new();
    while end > bounds.start {
        let begin = end.saturating_sub(count).max(bounds.start);
        let mut reader = system.log.reader(
            at.topic,
            &[(at.partition, StartOffset::Offset(begin))],
            false,
        )?;
        let mut found = None;
        let mut next = begin;
        while next < end && !reader.caught_up() {
            records.clear();
            reader.poll(Duration::from_millis(200), LIMITS, &mut records)?;
            for r in records.iter().filter(|r| r.offset < end) {
                let entry = r.value.and_then(|bytes| JournalEntry::decode(bytes).ok());
                found = entry
                    .and_then(|e| e.settings)
                    .map(|s| (r.timestamp_ms, s))
                    .or(found);
            }

            next = records.iter().last().map_or(next, |r| r.offset + 1);
        }

        if found.is_some() {
            return Ok(found);
        }

        (end, count) = (begin, count.saturating_mul(2));
    }

    Ok(None)
}
