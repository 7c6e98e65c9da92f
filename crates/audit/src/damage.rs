//! The damage that a verification finds.

use std::fmt;

/// The damage done to a chain or its records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DamageKind {
    /// The content of a record or an entry was changed.
    Changed,
    /// The record is missing, but later records exist.
    Deleted,
    /// The record stands at the offset of another record.
    Swapped,
    /// All records and entries from this offset on are missing.
    Truncated,
    /// The record was not part of the original log.
    Inserted,
    /// The chain is consistent, but an anchor recorded another chain.
    Rewritten,
}

impl DamageKind {
    pub fn name(self) -> &'static str {
        match self {
            DamageKind::Changed => "changed",
            DamageKind::Deleted => "deleted",
            DamageKind::Swapped => "swapped",
            DamageKind::Truncated => "truncated",
            DamageKind::Inserted => "inserted",
            DamageKind::Rewritten => "rewritten",
        }
    }
}

impl fmt::Display for DamageKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The first bad record of a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    pub kind: DamageKind,
    /// Offset in the source partition.
    pub offset: u64,
    /// Offset in the audit log (or line of a file) that shows the damage; none if no entry shows
    /// the damage.
    pub at: Option<u64>,
    pub text: String,
}
