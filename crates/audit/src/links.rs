//! Offsets at which chains of version 1 continued under version 2. A replay of `audit` must write
//! the same versions again, and only the log shows when the program was updated.

use ports::partitioner;
use ports::topics::{TopicPartition, TopicTable};
use ports::{Log, LogError};
use roles::EarlyLinks;
use wire::topics::{AUDIT_LOG, AUDITED};

use super::chains::{count, read_link};
use super::cursor::{AuditCursor, HeaderUse};

/// The chains of one task. Reads each chain up to its first link of version 2. A chain that starts
/// with version 2 is left out.
pub fn of_task(log: &dyn Log, topics: &TopicTable, task: u32) -> Result<EarlyLinks, LogError> {
    let partitions = count(log, topics, AUDIT_LOG)?;
    let mut wanted: Vec<(u32, String)> = Vec::new();
    for topic in AUDITED {
        let name = topics.show(TopicPartition::new(topic, task)).to_string();
        wanted.push((partitioner::partition(name.as_bytes(), partitions), name));
    }

    wanted.sort();
    let mut links = EarlyLinks::new();
    for chains in wanted.chunk_by(|a, b| a.0 == b.0) {
        let mut open: Vec<&str> = chains.iter().map(|(_, name)| name.as_str()).collect();
        let mut entries = AuditCursor::whole(
            log,
            TopicPartition::new(AUDIT_LOG, chains[0].0),
            HeaderUse::Skip,
        )?;
        entries.each(&mut |r| {
            let name = r
                .key
                .and_then(|k| std::str::from_utf8(k).ok())
                .unwrap_or_default();
            let Some(i) = open.iter().position(|o| *o == name) else {
                return true;
            };

            match read_link(name, r) {
                // The first link of version 2 ends version 1 of the chain.
                Ok(link) if link.meta.is_some() => {
                    if let Some(since) = links.get_mut(name) {
                        *since = link.offset;
                    }

                    open.swap_remove(i);
                }
                Ok(_) => drop(links.insert(name.to_string(), u64::MAX)),
                // Ignore damage here; `processor audit verify` reports damage.
                Err(_) => {}
            }

            !open.is_empty()
        })?;
    }

    Ok(links)
}
