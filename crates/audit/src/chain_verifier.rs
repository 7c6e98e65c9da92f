//! Verifies one hash chain, link by link: finds the first bad link and the kind of damage. Pure,
//! and constant in memory. The caller passes the entries in log order, each with the content of the
//! source partition at the entry's offset.
//!
//! The first bad link gives only the offset of the damage. The kind of damage often needs later
//! entries. Example: an entry does not continue the chain. If the missing entry comes later, the
//! first entry was moved. If the missing entry never comes, entries between them were deleted. The
//! verifier therefore continues to read after the first bad link.

use std::collections::VecDeque;

use domain::chain::{GENESIS, Hash, link};

use super::damage::{Damage, DamageKind};

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

/// Damage, and which later entries may change its kind.
struct Finding {
    damage: Damage,
    /// In a box, so that the result of a check is small.
    open: Box<OpenDamage>,
}

impl Finding {
    /// Damage whose kind is decided.
    fn new(kind: DamageKind, offset: u64, at: Option<u64>, text: impl Into<String>) -> Finding {
        let damage = Damage {
            kind,
            offset,
            at,
            text: text.into(),
        };

        Finding {
            damage,
            open: Box::new(OpenDamage::Closed),
        }
    }

    /// Damage of the entry `e` or its record.
    fn of_entry(kind: DamageKind, e: &Link, text: impl Into<String>) -> Finding {
        Finding::new(kind, e.offset, Some(e.at), text)
    }

    fn open(self, open: OpenDamage) -> Finding {
        Finding {
            open: Box::new(open),
            ..self
        }
    }
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
        Self::continuing(name, GENESIS, anchors)
    }

    /// Verifies the part of a chain that follows the entry with hash `head`.
    pub fn after(name: &str, head: Hash, anchors: Vec<ChainCheckpoint>) -> ChainVerifier {
        ChainVerifier {
            from_start: false,
            ..Self::continuing(name, head, anchors)
        }
    }

    fn continuing(name: &str, head: Hash, anchors: Vec<ChainCheckpoint>) -> ChainVerifier {
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
            from_start: true,
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
            ..Self::continuing(name, good.head, anchors)
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
                    let text = "the entry has no record, and the chain goes on without it";
                    self.report(Finding::of_entry(DamageKind::Inserted, &came, text));
                }
            }
        }
    }

    /// Takes an entry that cannot be decoded, or that belongs to another chain.
    pub fn unreadable(&mut self, at: u64, why: &str) {
        if matches!(self.open, OpenDamage::Nothing) {
            let text = format!("the entry after {} cannot be read: {why}", self.last_text());
            let (kind, next) = (DamageKind::Changed, self.next_offset());
            self.report(Finding::new(kind, next, Some(at), text));
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
            self.report(Finding::new(DamageKind::Truncated, offset, None, text));
        }

        if let (None, Some(c)) = (&self.damage, self.anchors.pop_back()) {
            let text = format!(
                "{} saw the chain up to offset {}; it ends with {}",
                c.label,
                c.offset,
                self.last_text()
            );
            let (kind, next) = (DamageKind::Truncated, self.next_offset());
            self.report(Finding::new(kind, next, None, text));
        }

        (self.good, self.damage)
    }

    fn take(&mut self, e: &Link, gap: Option<u64>, here: SourceRecordState) {
        if let Err(found) = self.check_fields(e) {
            return self.report(found);
        }

        if e.prev != self.good.head {
            return self.broken(e, gap);
        }

        let checked = self
            .check_offset(e, gap)
            .and_then(|()| check_source(e, here))
            .and_then(|()| self.check_anchors(e));
        match checked {
            Ok(()) => self.accept(e),
            Err(found) => self.report(found),
        }
    }

    /// The entry must be valid in itself.
    fn check_fields(&self, e: &Link) -> Result<(), Finding> {
        let name = format!("{}/{}", self.name, e.offset);
        if e.hash != link(&e.prev, &name, &e.payload, e.meta.as_ref()) {
            let text = "the entry's hash is not that of its fields";
            return Err(Finding::of_entry(DamageKind::Changed, e, text));
        }

        if self.bound && e.meta.is_none() {
            let text =
                "an entry of version 1 behind one of version 2: it leaves time and headers open";
            return Err(Finding::of_entry(DamageKind::Changed, e, text));
        }

        Ok(())
    }

    /// Offsets must rise, and every record between two entries' records must have an entry.
    fn check_offset(&self, e: &Link, gap: Option<u64>) -> Result<(), Finding> {
        if self.good.last.is_some_and(|last| e.offset <= last) {
            let text = format!("the entry goes back behind {}", self.last_text());
            return Err(Finding::of_entry(DamageKind::Inserted, e, text));
        }

        let Some(offset) = gap else {
            return Ok(());
        };

        let text = "the record has no entry, and the chain goes on without it";
        let found = Finding::new(DamageKind::Inserted, offset, None, text);
        Err(found.open(OpenDamage::NoRecord { came: *e }))
    }

    /// At the offset of an anchor's head, the entry must be this head. Removes the anchors that the
    /// entry reaches.
    fn check_anchors(&mut self, e: &Link) -> Result<(), Finding> {
        let entries = self.good.entries + 1;
        while let Some(c) = self.anchors.pop_front_if(|c| c.offset <= e.offset) {
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
                let (kind, at) = (DamageKind::Rewritten, Some(e.at));
                return Err(Finding::new(kind, c.offset, at, text));
            }

            self.anchored = Some((c.offset, c.label));
        }

        Ok(())
    }

    fn accept(&mut self, e: &Link) {
        self.bound |= e.meta.is_some();
        (self.before, self.last_at) = (Some(self.good), Some(e.at));
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
                let text = "the chain goes on without this record and its entry";
                let (kind, offset) = (DamageKind::Inserted, last.unwrap_or(0));
                self.report(Finding::new(kind, offset, self.last_at, text));
            }
            _ if last.is_some_and(|last| e.offset <= last) => {
                let text = format!(
                    "an entry of this offset stands here a second time, after {}",
                    self.last_text()
                );
                self.report(Finding::of_entry(DamageKind::Inserted, e, text));
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
                self.report(Finding::of_entry(DamageKind::Deleted, e, text).open(open));
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
        let next = self.next_offset();
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
                        "the record and its entry are not those that the next entry continues";
                    let (kind, offset) = (DamageKind::Changed, self.good.last.unwrap_or(0));
                    self.report(Finding::new(kind, offset, self.last_at, text));
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

    fn report(&mut self, found: Finding) {
        self.damage = Some(found.damage);
        self.open = *found.open;
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

    /// The lowest source offset after the good prefix.
    fn next_offset(&self) -> u64 {
        self.good.last.map_or(0, |o| o + 1)
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

/// The record must be the one that the entry `e` names.
fn check_source(e: &Link, here: SourceRecordState) -> Result<(), Finding> {
    let changed = |text: &str| Finding::of_entry(DamageKind::Changed, e, text);
    let gone =
        |kind, text: &str| Finding::of_entry(kind, e, text).open(OpenDamage::NoRecord { came: *e });

    Err(match here {
        SourceRecordState::Record(found) if found != e.payload => {
            changed("the record is not the one that was audited").open(OpenDamage::Content {
                wanted: e.payload,
                found,
            })
        }
        SourceRecordState::Time(found) => changed(&format!(
            "the entry says that the record is of {} ms, and it is of {found} ms",
            e.time_ms
        )),
        SourceRecordState::Headers => changed(
            "the record's headers, or whether it has a key and a value, are not those that were audited",
        ),
        SourceRecordState::Missing { more: true } => {
            gone(DamageKind::Deleted, "the record was audited and is gone")
        }
        SourceRecordState::Missing { more: false } => gone(
            DamageKind::Truncated,
            "the record was audited, but the partition ends before it",
        ),
        SourceRecordState::Record(_)
        | SourceRecordState::Compacted
        | SourceRecordState::Unknown => return Ok(()),
    })
}
