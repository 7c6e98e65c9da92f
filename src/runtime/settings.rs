//! The settings that an installation last ran with: the newest ones in the journals of its roles.

use std::time::Duration;

use super::system::Installation;
use engine::checkpoint::JournalEntry;
use ports::records::Records;
use ports::topics::TopicPartition;
use ports::{From, Limits, LogError};
use roles::{Role, RoleSettings};

/// Entries that are looked at first; then twice as many, and so on back. The first entry of each
/// incarnation has the settings, and commands that run one at a time are such incarnations.
const FIRST_LOOK: u64 = 256;
const LIMITS: Limits = Limits {
    records: 5_000,
    bytes: 8 << 20,
    age: Duration::from_millis(100),
};

/// The settings of the newest incarnation of a role that committed anything; none if there is none,
/// or only versions that did not say.
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

    // Settings that a newer version wrote are refused where it matters, by the role itself.
    Ok(newest.and_then(|(_, bytes)| RoleSettings::decode(&bytes).ok()))
}

/// The last settings in a partition, with the time of their entry.
fn last_of(system: &Installation, at: TopicPartition) -> Result<Option<(i64, Vec<u8>)>, LogError> {
    let bounds = system.log.bounds(at)?;
    let mut end = bounds.stable_end;
    let mut count = FIRST_LOOK;
    let mut records = Records::new();
    while end > bounds.start {
        let begin = end.saturating_sub(count).max(bounds.start);
        let mut reader =
            system
                .log
                .reader(at.topic, &[(at.partition, From::Offset(begin))], false)?;
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
