//! Small values of the embedded log, byte by byte: group offsets, compaction progress, topics. Each
//! value begins with a version. The first values had no version and count as version 0. Batches
//! have their own format in `batch`.

use super::storage::Compacted;
pub use super::storage::TopicRow;

/// The version that this program writes.
pub const VERSION: u8 = 1;

/// Reason why a value cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum UnreadableValue {
    /// A newer version wrote the value.
    #[error(
        "{what} has format {version}, this version knows {VERSION}; use the version that wrote it, or a newer one"
    )]
    Newer {
        /// Kind of the value, in words.
        what: &'static str,
        /// Format version of the value.
        version: u8,
    },
    /// No version writes such bytes.
    #[error("{0} is unreadable")]
    Damaged(&'static str),
}

/// Reads numbers behind a version. The first format has no version.
fn numbers<const N: usize>(what: &'static str, value: &[u8]) -> Result<[u64; N], UnreadableValue> {
    let numbers = match value.split_first() {
        _ if value.len() == N * 8 => value,
        Some((&VERSION, rest)) if rest.len() == N * 8 => rest,
        Some((&version, _)) if version > VERSION => {
            return Err(UnreadableValue::Newer { what, version });
        }
        _ => return Err(UnreadableValue::Damaged(what)),
    };

    let mut all = [0; N];
    for (slot, bytes) in all.iter_mut().zip(numbers.chunks_exact(8)) {
        *slot = u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
    }

    Ok(all)
}

fn put_numbers(numbers: &[u64]) -> Vec<u8> {
    std::iter::once(VERSION)
        .chain(numbers.iter().flat_map(|n| n.to_le_bytes()))
        .collect()
}

/// Next offset of a group in a partition.
pub fn offset(value: &[u8]) -> Result<u64, UnreadableValue> {
    numbers::<1>("a group's offset", value).map(|[n]| n)
}

pub fn put_offset(offset: u64) -> Vec<u8> {
    put_numbers(&[offset])
}

/// Compaction progress of a partition.
pub fn progress(value: &[u8]) -> Result<Compacted, UnreadableValue> {
    numbers::<3>("the progress of a compaction", value).map(|[to, log_bytes, kept_bytes]| {
        Compacted {
            to,
            log_bytes,
            kept_bytes,
        }
    })
}

pub fn put_progress(c: Compacted) -> Vec<u8> {
    put_numbers(&[c.to, c.log_bytes, c.kept_bytes])
}

/// A topic. The version is read first: a newer row may have other fields.
pub fn topic(value: &[u8]) -> Result<TopicRow, UnreadableValue> {
    #[derive(serde::Deserialize)]
    struct VersionedValue {
        #[serde(default)]
        v: u8,
    }

    const WHAT: &str = "a topic";
    let VersionedValue { v: version } =
        serde_json::from_slice(value).map_err(|_| UnreadableValue::Damaged(WHAT))?;
    if version > VERSION {
        return Err(UnreadableValue::Newer {
            what: WHAT,
            version,
        });
    }

    serde_json::from_slice(value).map_err(|_| UnreadableValue::Damaged(WHAT))
}

pub fn put_topic(row: &TopicRow) -> Vec<u8> {
    serde_json::to_vec(row).expect("a row is plain data")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_format_and_todays_are_read_and_newer_ones_refused() {
        let all = Compacted {
            to: 1,
            log_bytes: 2,
            kept_bytes: 3,
        };

        assert_eq!(offset(&put_offset(300)).ok(), Some(300));
        assert_eq!(offset(&300_u64.to_le_bytes()).ok(), Some(300));
        assert_eq!(progress(&put_progress(all)).ok(), Some(all));
        assert_eq!(progress(&put_progress(all)[1..]).ok(), Some(all));
        assert!(matches!(
            offset(&[2, 1]),
            Err(UnreadableValue::Newer { version: 2, .. })
        ));
        assert!(matches!(offset(&[1, 1]), Err(UnreadableValue::Damaged(_))));
        assert!(matches!(progress(&[]), Err(UnreadableValue::Damaged(_))));
        let old = br#"{"number":3,"name":"t","partitions":2,"compact":true,"append_time":false,"record_bytes_max":9}"#;
        assert_eq!(topic(old).map(|r| (r.v, r.number)).ok(), Some((0, 3)));
        assert!(matches!(
            topic(br#"{"v":2,"something":"else"}"#),
            Err(UnreadableValue::Newer { version: 2, .. })
        ));
        assert!(topic(b"{").is_err());
    }
}
