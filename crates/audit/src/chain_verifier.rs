//! Verifies one hash chain, link by link: finds the first bad link and the kind of damage. Pure,
//! and constant in memory. The caller passes the entries in log order, each with the content of the
//! source partition at the entry's offset.
//!
//! The first bad link gives only the offset of the damage. The kind of damage often needs later
//! entries. Example: an entry does not continue the chain. If the missing entry comes later, the
//! first entry was moved. If the missing entry never comes, entries between them were deleted. The
//! verifier therefore continues to read after the first bad link.

use std::collections::VecDeque;
use std::fmt;

use domain::chain::{GENESIS, Hash, link};

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

/// An entry of the chain, without the chain's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Offset of the entry in the audit log (or line of a file).
    pub at: u64,
    /// Offset of the record in the source partition.
    pub offset: u64,
    /// Hash of key and value; see `domain::chain`.
    pub payload: Hash,
    /// Hash of the rest of the record. Since version 2.
    pub meta: Option<Hash>,
    /// Hash of the previous entry.
    pub prev: Hash,
    /// Hash of this entry.
    pub hash: Hash,
    /// Log time of the record.
    pub time_ms: i64,
}

/// The content of the source partition at an entry's offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceRecordState {
    /// A record with this content.
    Record(Hash),
    /// The record has the right content, but this log time instead of the entry's log time.
    Time(i64),
    /// The record has the right content, but other headers, or an empty key or value instead of
    /// none.
    Headers,
    /// No record. The topic is compacted, so a missing record proves no damage.
    Compacted,
    /// No record, in a topic that is not compacted.
    Missing {
        /// Later records exist in the partition.
        more: bool,
    },
    /// The source was not read.
    Unknown,
}

/// The part of a chain that is verified as good.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VerifiedPrefix {
    /// Number of good entries.
    pub entries: u64,
    /// Source offset of the last good entry.
    pub last: Option<u64>,
    /// Hash of the last good entry; zero bytes before the first entry.
    pub head: Hash,
}

/// The head of a chain as an anchor recorded it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainCheckpoint {
    /// Number of entries up to this head; none if the verifier does not start at the first entry.
    pub entries: Option<u64>,
    /// Source offset of the last entry.
    pub offset: u64,
    /// Hash of the last entry.
    pub hash: Hash,
    /// Name of the anchor, for messages.
    pub label: String,
}

/// Damage whose kind is not known until more entries are read.
#[derive(Clone, Debug)]
enum OpenDamage {
    /// No damage so far.
    Nothing,
    /// An entry does not continue the chain. `successor`: offset of a later entry that does
    /// continue the chain. `parent`: the entry that `came` continues was also found later.
    Broken {
        came: Link,
        gap: Option<u64>,
        successor: Option<u64>,
        parent: bool,
    },
    /// The content of a record differs from the hash in the entry. If a later entry has exactly
    /// this content, the two records were swapped.
    Content { wanted: Hash, found: Hash },
    /// An entry continues the chain, but differs from the source. If the chain continues without
    /// this entry, the entry was inserted.
    NoRecord { came: Link },
    /// The kind of damage is decided.
    Closed,
}

/// Verifies one chain. Call [`ChainVerifier::link`] for each entry, then [`ChainVerifier::end`].
pub struct ChainVerifier {
    name: String,
    good: VerifiedPrefix,
    before: Option<VerifiedPrefix>,
    /// Audit log offset of the last good entry.
    last_at: Option<u64>,
    open: OpenDamage,
    damage: Option<Damage>,
    anchors: VecDeque<ChainCheckpoint>,
    anchored: Option<(u64, String)>,
    /// The verifier starts at the first entry of the chain.
    from_start: bool,
    /// An entry of version 2 was read. An entry of version 1 must not follow.
    bound: bool,
}

impl ChainVerifier {
    /// Verifies a chain from its start. `name` is `topic/partition`. `anchors` are sorted by
    /// offset.
    pub fn new(name: &str, anchors: Vec<ChainCheckpoint>) -> ChainVerifier {
        Self::continuing(name, GENESIS, anchors, true)
    }

    /// Verifies the part of a chain that follows the entry with hash `head`.
    pub fn after(name: &str, head: Hash, anchors: Vec<ChainCheckpoint>) -> ChainVerifier {
        Self::continuing(name, head, anchors, false)
    }

    fn continuing(
        name: &str,
        head: Hash,
        anchors: Vec<ChainCheckpoint>,
        from_start: bool,
    ) -> ChainVerifier {
        let good = VerifiedPrefix {
            head,
            ..VerifiedPrefix::default()
        };

        let anchors = anchors.into();
        ChainVerifier {
            name: name.into(),
            good,
            before: None,
            last_at: None,
            open: OpenDamage::Nothing,
            damage: None,
            anchors,
            anchored: None,
            from_start,
            bound: false,
        }
    }

    /// Verifies the part of a chain that follows `good`, a prefix that an anchor recorded.
    pub fn resuming(
        name: &str,
        good: VerifiedPrefix,
        anchors: Vec<ChainCheckpoint>,
    ) -> ChainVerifier {
        let anchors = anchors
            .into_iter()
            .filter(|c| good.last.is_none_or(|last| c.offset > last))
            .collect();
        ChainVerifier {
            good,
            ..Self::continuing(name, good.head, anchors, true)
        }
    }

    /// The chain's name, `topic/partition`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The part that is verified as good so far.
    pub fn good(&self) -> VerifiedPrefix {
        self.good
    }

    /// True if no damage was found so far.
    pub fn is_good(&self) -> bool {
        self.damage.is_none()
    }

    /// Source offset of the last entry that agreed with an anchor.
    pub fn anchored(&self) -> Option<u64> {
        self.anchored.as_ref().map(|(offset, _)| *offset)
    }

    /// Starts the chain at this offset: removes the checkpoints with lower offsets.
    pub fn begin_at(&mut self, offset: u64) {
        while self.good.entries == 0 && self.anchors.front().is_some_and(|c| c.offset < offset) {
            self.anchors.pop_front();
        }
    }

    /// Removes the remaining anchors. Their entries may follow elsewhere, so their absence is no
    /// damage.
    pub fn forget_anchors(&mut self) {
        self.anchors.clear();
    }

    /// Takes the next entry. `gap`: offset of a record without an entry, between the last entry's
    /// record and this entry's record. `here`: the content of the source at the entry's offset.
    pub fn link(&mut self, e: &Link, gap: Option<u64>, here: SourceRecordState) {
        match &mut self.open {
            OpenDamage::Nothing => self.take(e, gap, here),
            OpenDamage::Closed => {}
            OpenDamage::Broken {
                came,
                successor,
                parent,
                ..
            } => {
                if e.prev == self.good.head {
                    successor.get_or_insert(e.offset);
                }

                *parent |= e.hash == came.prev;
                if successor.is_some() && *parent {
                    self.close();
                }
            }
            OpenDamage::Content { wanted, found } => {
                if e.payload == *found && here == SourceRecordState::Record(*wanted) {
                    let text = format!(
                        "the records at offsets {} and {} stand in each other's place",
                        self.bad_offset(),
                        e.offset
                    );
                    self.settle(DamageKind::Swapped, text);
                }
            }
            OpenDamage::NoRecord { came } => {
                let came = *came;
                self.open = OpenDamage::Closed;
                if e.prev == came.prev {
                    let text = "the entry has no record, and the chain goes on without it".into();
                    self.wrong(
                        DamageKind::Inserted,
                        came.offset,
                        Some(came.at),
                        text,
                        OpenDamage::Closed,
                    );
                }
            }
        }
    }

    /// Takes an entry that cannot be decoded, or that belongs to another chain.
    pub fn unreadable(&mut self, at: u64, why: &str) {
        if matches!(self.open, OpenDamage::Nothing) {
            let next = self.good.last.map_or(0, |o| o + 1);
            self.wrong(
                DamageKind::Changed,
                next,
                Some(at),
                format!("the entry after {} cannot be read: {why}", self.last_text()),
                OpenDamage::Closed,
            );
        } else {
            self.close();
        }
    }

    /// Returns the good prefix and the first damage. Call after the last entry. `missing`: offset
    /// of a record after the last entry that should have an entry.
    pub fn end(mut self, missing: Option<u64>) -> (VerifiedPrefix, Option<Damage>) {
        self.close();
        if let (None, Some(offset)) = (&self.damage, missing) {
            let text = format!(
                "the record was audited, but the chain ends with {}",
                self.last_text()
            );
            self.wrong(
                DamageKind::Truncated,
                offset,
                None,
                text,
                OpenDamage::Closed,
            );
        }

        if let (None, Some(c)) = (&self.damage, self.anchors.pop_back()) {
            let next = self.good.last.map_or(0, |o| o + 1);
            let text = format!(
                "{} saw the chain up to offset {}; it ends with {}",
                c.label,
                c.offset,
                self.last_text()
            );
            self.wrong(DamageKind::Truncated, next, None, text, OpenDamage::Closed);
        }

        (self.good, self.damage)
    }

    fn take(&mut self, e: &Link, gap: Option<u64>, here: SourceRecordState) {
        let at = Some(e.at);
        if e.hash
            != link(
                &e.prev,
                &format!("{}/{}", self.name, e.offset),
                &e.payload,
                e.meta.as_ref(),
            )
        {
            return self.wrong(
                DamageKind::Changed,
                e.offset,
                at,
                "the entry's hash is not that of its fields".into(),
                OpenDamage::Closed,
            );
        }

        if self.bound && e.meta.is_none() {
            let text =
                "an entry of version 1 behind one of version 2: it leaves time and headers open";
            return self.wrong(
                DamageKind::Changed,
                e.offset,
                at,
                text.into(),
                OpenDamage::Closed,
            );
        }

        if e.prev != self.good.head {
            return self.broken(e, gap);
        }

        if self.good.last.is_some_and(|last| e.offset <= last) {
            let text = format!("the entry goes back behind {}", self.last_text());
            return self.wrong(DamageKind::Inserted, e.offset, at, text, OpenDamage::Closed);
        }

        if let Some(offset) = gap {
            let text = "the record has no entry, and the chain goes on without it".into();
            return self.wrong(
                DamageKind::Inserted,
                offset,
                None,
                text,
                OpenDamage::NoRecord { came: *e },
            );
        }

        match here {
            SourceRecordState::Record(found) if found != e.payload => {
                let text = "the record is not the one that was audited".into();
                return self.wrong(
                    DamageKind::Changed,
                    e.offset,
                    at,
                    text,
                    OpenDamage::Content {
                        wanted: e.payload,
                        found,
                    },
                );
            }
            SourceRecordState::Time(found) => {
                let text = format!(
                    "the entry says that the record is of {} ms, and it is of {found} ms",
                    e.time_ms
                );
                return self.wrong(DamageKind::Changed, e.offset, at, text, OpenDamage::Closed);
            }
            SourceRecordState::Headers => {
                let text = "the record's headers, or whether it has a key and a value, are not those that were audited";
                return self.wrong(
                    DamageKind::Changed,
                    e.offset,
                    at,
                    text.into(),
                    OpenDamage::Closed,
                );
            }
            SourceRecordState::Missing { more } => {
                let kind = if more {
                    DamageKind::Deleted
                } else {
                    DamageKind::Truncated
                };
                let text = if more {
                    "the record was audited and is gone"
                } else {
                    "the record was audited, but the partition ends before it"
                };

                return self.wrong(
                    kind,
                    e.offset,
                    at,
                    text.into(),
                    OpenDamage::NoRecord { came: *e },
                );
            }
            _ => {}
        }

        while let Some(c) = self.anchors.front() {
            if e.offset < c.offset {
                break;
            }

            let entries = self.good.entries + 1;
            let same = e.offset == c.offset
                && e.hash == c.hash
                && c.entries.is_none_or(|n| !self.from_start || n == entries);
            if !same {
                let since = self.anchored.as_ref().map_or_else(
                    || "nothing of it is known good".to_string(),
                    |(offset, label)| {
                        format!("up to offset {offset} it is the one that {label} saw")
                    },
                );
                let text = format!("{} saw another chain up to here; {since}", c.label);
                return self.wrong(
                    DamageKind::Rewritten,
                    c.offset,
                    at,
                    text,
                    OpenDamage::Closed,
                );
            }

            self.anchored = self.anchors.pop_front().map(|c| (c.offset, c.label));
        }

        self.bound |= e.meta.is_some();
        (self.before, self.last_at) = (Some(self.good), at);
        self.good = VerifiedPrefix {
            entries: self.good.entries + 1,
            last: Some(e.offset),
            head: e.hash,
        };
    }

    /// Handles an entry that is valid in itself, but does not continue the chain.
    fn broken(&mut self, e: &Link, gap: Option<u64>) {
        let last = self.good.last;
        match self.before {
            // The entry continues the chain before the last entry: the last entry was inserted.
            Some(before) if e.prev == before.head && last.is_some_and(|last| e.offset > last) => {
                self.good = before;
                let text = "the chain goes on without this record and its entry".into();
                self.wrong(
                    DamageKind::Inserted,
                    last.unwrap_or(0),
                    self.last_at,
                    text,
                    OpenDamage::Closed,
                );
            }
            _ if last.is_some_and(|last| e.offset <= last) => {
                let text = format!(
                    "an entry of this offset stands here a second time, after {}",
                    self.last_text()
                );
                self.wrong(
                    DamageKind::Inserted,
                    e.offset,
                    Some(e.at),
                    text,
                    OpenDamage::Closed,
                );
            }
            _ => {
                let open = OpenDamage::Broken {
                    came: *e,
                    gap,
                    successor: None,
                    parent: false,
                };

                let text = format!(
                    "the entry of offset {} does not continue {}",
                    e.offset,
                    self.last_text()
                );
                self.wrong(DamageKind::Deleted, e.offset, Some(e.at), text, open);
            }
        }
    }

    /// Decides the kind of any damage that is still open.
    fn close(&mut self) {
        let OpenDamage::Broken {
            came,
            gap,
            successor,
            parent,
        } = std::mem::replace(&mut self.open, OpenDamage::Closed)
        else {
            return;
        };

        let last = self.last_text();
        let next = self.good.last.map_or(0, |o| o + 1);
        match (successor, parent) {
            (Some(moved), true) => self.settle(
                DamageKind::Swapped,
                format!("its entry stands where that of offset {moved} belongs, after {last}"),
            ),
            (Some(next), false) => {
                self.settle(DamageKind::Inserted, format!("the entry continues nothing that is here; after {last} comes that of offset {next}"));
            }
            (None, _) => match (gap, self.before) {
                (Some(gap), _) => self.point(
                    gap,
                    format!(
                        "its entry is gone: after {last} comes that of offset {}",
                        came.offset
                    ),
                ),
                // No record fits between the two offsets, so the earlier record and its entry were
                // both changed.
                (None, Some(before)) if came.offset == next => {
                    let text =
                        "the record and its entry are not those that the next entry continues"
                            .into();
                    self.wrong(
                        DamageKind::Changed,
                        self.good.last.unwrap_or(0),
                        self.last_at,
                        text,
                        OpenDamage::Closed,
                    );

                    self.good = before;
                }
                _ => self.point(
                    next,
                    format!(
                        "entries are gone: after {last} comes that of offset {}",
                        came.offset
                    ),
                ),
            },
        }
    }

    fn wrong(
        &mut self,
        kind: DamageKind,
        offset: u64,
        at: Option<u64>,
        text: String,
        open: OpenDamage,
    ) {
        self.damage = Some(Damage {
            kind,
            offset,
            at,
            text,
        });

        self.open = open;
    }

    fn settle(&mut self, kind: DamageKind, text: String) {
        if let Some(d) = &mut self.damage {
            (d.kind, d.text) = (kind, text);
        }

        self.open = OpenDamage::Closed;
    }

    fn point(&mut self, offset: u64, text: String) {
        if let Some(d) = &mut self.damage {
            (d.offset, d.text) = (offset, text);
        }
    }

    fn bad_offset(&self) -> u64 {
        self.damage.as_ref().map_or(0, |d| d.offset)
    }

    fn last_text(&self) -> String {
        match (self.good.last, self.from_start) {
            (Some(offset), _) => format!("the entry of offset {offset}"),
            (None, true) => "the start of the chain".into(),
            (None, false) => "the head it is said to begin after".into(),
        }
    }
}
