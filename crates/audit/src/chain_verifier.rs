//! One chain, link by link: where it first goes wrong, and what kind of damage that is. Pure, and
//! constant in memory: it is shown entries in the order in which they stand, with what the source
//! has at each of them, and keeps a handful of hashes.
//!
//! The first wrong link says *where*. *What* happened often shows only later: an entry that does
//! not continue the chain was moved here if the one that does comes after it, and the ones between
//! are gone if it never comes. So after the first wrong link the walker goes on listening.

use std::collections::VecDeque;
use std::fmt;

use domain::chain::{GENESIS, Hash, link};

/// The damage done to a chain or its records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DamageKind {
    /// A record or an entry is not what it was.
    Changed,
    /// The record is gone, and later ones are there.
    Deleted,
    /// The record stands in another's place.
    Swapped,
    /// Everything from there on is gone.
    Truncated,
    /// The record was never there.
    Inserted,
    /// The chain is whole, but it is not the one that an anchor saw.
    Rewritten,
}

impl DamageKind {
    /// The word for it.
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
    /// The kind of damage.
    pub kind: DamageKind,
    /// Its offset in the source partition.
    pub offset: u64,
    /// Where in the audit log (or, of a file, in which line) this shows; none if it shows nowhere
    /// there.
    pub at: Option<u64>,
    /// The damage in words.
    pub text: String,
}

/// An entry of the chain, without its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Offset of the entry in the audit log (or line of a file).
    pub at: u64,
    /// Offset of the record.
    pub offset: u64,
    /// See `domain::chain`.
    pub payload: Hash,
    /// The hash of all the rest of the record, since version 2.
    pub meta: Option<Hash>,
    /// Hash of the entry before.
    pub prev: Hash,
    /// Its own hash.
    pub hash: Hash,
    /// The record's log time.
    pub time_ms: i64,
}

/// The source partition's content where an entry points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Here {
    /// A record with this content.
    Record(Hash),
    /// The record, but with this log time instead of the entry's.
    Time(i64),
    /// The record, but with other headers, or an empty key or value in the place of none.
    Headers,
    /// None; the log may have dropped it (a compacted topic), so that says nothing.
    Compacted,
    /// None. `more`: the partition goes on behind it.
    Missing {
        /// Whether there are later records.
        more: bool,
    },
    /// The source was not looked at, or the entry points backwards.
    Unknown,
}

/// How far a chain is known to be good.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VerifiedPrefix {
    /// So many entries.
    pub entries: u64,
    /// The source offset of the last of them.
    pub last: Option<u64>,
    /// Its hash; zero bytes before the first.
    pub head: Hash,
}

/// An anchor's head of a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Entries up to here; none if the chain is not walked from its start.
    pub entries: Option<u64>,
    /// Source offset of the last.
    pub offset: u64,
    /// Its hash.
    pub hash: Hash,
    /// Which anchor says so.
    pub label: String,
}

/// Damage that cannot be told apart until more of the chain was seen.
#[derive(Clone, Debug)]
enum OpenDamage {
    /// Nothing yet: all is well.
    Nothing,
    /// An entry came that does not continue the chain. `successor`: the one that does came later;
    /// `parent`: so did the one that it continues.
    Broken {
        came: Link,
        gap: Option<u64>,
        successor: Option<u64>,
        parent: bool,
    },
    /// A record has another content than its entry says. A later entry may want just that content:
    /// then the two were swapped.
    Content { wanted: Hash, found: Hash },
    /// An entry continues the chain, but does not agree with the source. If the chain goes on
    /// without it, it was never there.
    NoRecord { came: Link },
    /// Decided.
    Closed,
}

/// See the module.
pub struct ChainVerifier {
    name: String,
    good: VerifiedPrefix,
    before: Option<VerifiedPrefix>,
    /// Where the last good entry is.
    last_at: Option<u64>,
    open: OpenDamage,
    damage: Option<Damage>,
    anchors: VecDeque<Checkpoint>,
    anchored: Option<(u64, String)>,
    /// Whether the chain is walked from its first entry.
    from_start: bool,
    /// Whether an entry of version 2 was seen: none of version 1 follows it.
    bound: bool,
}

impl ChainVerifier {
    /// A chain from its start. `name` is `topic/partition`; `anchors` in rising order of offsets.
    pub fn new(name: &str, anchors: Vec<Checkpoint>) -> ChainVerifier {
        Self::continuing(name, GENESIS, anchors, true)
    }

    /// A chain from somewhere in the middle, after this hash.
    pub fn after(name: &str, head: Hash, anchors: Vec<Checkpoint>) -> ChainVerifier {
        Self::continuing(name, head, anchors, false)
    }

    fn continuing(
        name: &str,
        head: Hash,
        anchors: Vec<Checkpoint>,
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

    /// A chain from its start that is known to be good so far: an anchor saw it.
    pub fn resuming(name: &str, good: VerifiedPrefix, anchors: Vec<Checkpoint>) -> ChainVerifier {
        let anchors = anchors
            .into_iter()
            .filter(|c| good.last.is_none_or(|last| c.offset > last))
            .collect();
        ChainVerifier {
            good,
            ..Self::continuing(name, good.head, anchors, true)
        }
    }

    /// `topic/partition`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How far all is well.
    pub fn good(&self) -> VerifiedPrefix {
        self.good
    }

    /// Whether nothing wrong was seen so far.
    pub fn is_good(&self) -> bool {
        self.damage.is_none()
    }

    /// The offset of the last entry that an anchor was found to agree with.
    pub fn anchored(&self) -> Option<u64> {
        self.anchored.as_ref().map(|(offset, _)| *offset)
    }

    /// Begins the chain at this offset: checkpoints before it are not asked for.
    pub fn begin_at(&mut self, offset: u64) {
        while self.good.entries == 0 && self.anchors.front().is_some_and(|c| c.offset < offset) {
            self.anchors.pop_front();
        }
    }

    /// The chain may go on elsewhere: anchors of what comes later are no complaint.
    pub fn forget_anchors(&mut self) {
        self.anchors.clear();
    }

    /// The next entry. `gap`: a record between the last entry's and this one's, which has none.
    /// `here`: what the source has at its offset.
    pub fn link(&mut self, e: &Link, gap: Option<u64>, here: Here) {
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
                if e.payload == *found && here == Here::Record(*wanted) {
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

    /// An entry that cannot be read, or does not belong to the chain it is filed under.
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

    /// Hands over what the first bad record is, now that the last entry was seen. `missing`: a
    /// record behind the last entry that should have one.
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

    fn take(&mut self, e: &Link, gap: Option<u64>, here: Here) {
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
            Here::Record(found) if found != e.payload => {
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
            Here::Time(found) => {
                let text = format!(
                    "the entry says that the record is of {} ms, and it is of {found} ms",
                    e.time_ms
                );
                return self.wrong(DamageKind::Changed, e.offset, at, text, OpenDamage::Closed);
            }
            Here::Headers => {
                let text = "the record's headers, or whether it has a key and a value, are not those that were audited";
                return self.wrong(
                    DamageKind::Changed,
                    e.offset,
                    at,
                    text.into(),
                    OpenDamage::Closed,
                );
            }
            Here::Missing { more } => {
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

    /// An entry that is whole in itself, but does not continue the chain.
    fn broken(&mut self, e: &Link, gap: Option<u64>) {
        let last = self.good.last;
        match self.before {
            // The entry continues the chain before the last one: the last one does not belong.
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

    /// Decides what is still open.
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
                // Nothing fits between them, so the earlier one is another than it was, together
                // with its entry.
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
