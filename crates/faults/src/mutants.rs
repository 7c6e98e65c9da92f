//! Wrong ideas, to be switched on by tests only: each is a mistake that a loop like ours could
//! contain, and that the simulation must find. Without the feature `faults` every switch is the
//! constant `false`, and nothing of them is left in the program.

/// A mistake. The hook stands where the product decides rightly; for what the Kafka adapter
/// decides, in the model client of the simulation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Mutant {
    /// Commits the consumer's position instead of what was processed.
    Position,
    /// After a failed transaction, partitions that stay ours go on where they were.
    NotRewound,
    /// The group's generation is asked for when it is sent, not when the records were taken.
    LateMetadata,
    /// A transaction that no record caused carries no offsets.
    TimerWithoutOffsets,
    /// The store is written before the log has decided.
    StoreFirst,
    /// A restore ends at the last stable offset.
    RestoreToStable,
    /// The producer lives on after a timeout or a lost connection.
    ProducerKept,
    /// A commit without an answer counts as aborted.
    UnknownIsAbort,
    /// A commit without an answer counts as committed.
    UnknownIsCommit,
    /// A restore ends where the consumer says that the partition ends.
    EndTrusted,
    /// Partitions that were lost without our consent are worked on.
    LostIgnored,
    /// `(task, sequence)` is not looked at (while transactions are off upstream).
    GuardOff,
    /// A role walks through a hash map.
    HashOrder,
    /// A role asks the machine for the time.
    WallClock,
    /// One queue for all partitions, first come, first served.
    SharedQueue,
    /// A restore ends at the first meta record that is the committed offsets.
    FirstMeta,
    /// A task whose group has no committed offsets begins from nothing.
    AbsentIsFresh,
    /// The content of a standby is not looked at when its task comes over.
    StandbyTrusted,
    /// Sizes are looked at before journal and state changes are there, and rows that are too much
    /// for one journal record go into one.
    SizeBeforePrepare,
    /// The rest of a batch that ended early is forgotten.
    LeftForgotten,
    /// The rest of a batch outlives its assignment.
    LeftKept,
}

impl Mutant {
    /// All of them.
    pub const ALL: [Mutant; 21] = [
        Mutant::Position,
        Mutant::NotRewound,
        Mutant::LateMetadata,
        Mutant::TimerWithoutOffsets,
        Mutant::StoreFirst,
        Mutant::RestoreToStable,
        Mutant::ProducerKept,
        Mutant::UnknownIsAbort,
        Mutant::UnknownIsCommit,
        Mutant::EndTrusted,
        Mutant::LostIgnored,
        Mutant::GuardOff,
        Mutant::HashOrder,
        Mutant::WallClock,
        Mutant::SharedQueue,
        Mutant::FirstMeta,
        Mutant::AbsentIsFresh,
        Mutant::StandbyTrusted,
        Mutant::SizeBeforePrepare,
        Mutant::LeftForgotten,
        Mutant::LeftKept,
    ];

    /// The name on a command line.
    pub fn name(self) -> &'static str {
        match self {
            Mutant::Position => "position",
            Mutant::NotRewound => "not-rewound",
            Mutant::LateMetadata => "late-metadata",
            Mutant::TimerWithoutOffsets => "timer-without-offsets",
            Mutant::StoreFirst => "store-first",
            Mutant::RestoreToStable => "restore-to-stable",
            Mutant::ProducerKept => "producer-kept",
            Mutant::UnknownIsAbort => "unknown-is-abort",
            Mutant::UnknownIsCommit => "unknown-is-commit",
            Mutant::EndTrusted => "end-trusted",
            Mutant::LostIgnored => "lost-ignored",
            Mutant::GuardOff => "guard-off",
            Mutant::HashOrder => "hash-order",
            Mutant::WallClock => "wall-clock",
            Mutant::SharedQueue => "shared-queue",
            Mutant::FirstMeta => "first-meta",
            Mutant::AbsentIsFresh => "absent-is-fresh",
            Mutant::StandbyTrusted => "standby-trusted",
            Mutant::SizeBeforePrepare => "size-before-prepare",
            Mutant::LeftForgotten => "left-forgotten",
            Mutant::LeftKept => "left-kept",
        }
    }

    /// The mistake in words, for people.
    pub fn idea(self) -> &'static str {
        match self {
            Mutant::Position => "position instead of tracked offsets",
            Mutant::NotRewound => "retained partitions not rewound",
            Mutant::LateMetadata => "group metadata fetched at commit time",
            Mutant::TimerWithoutOffsets => "timer transaction without offsets",
            Mutant::StoreFirst => "store before commit",
            Mutant::RestoreToStable => "restore to the last stable offset only",
            Mutant::ProducerKept => "producer kept after a timeout",
            Mutant::UnknownIsAbort => "unknown outcome taken as abort",
            Mutant::UnknownIsCommit => "unknown outcome taken as commit",
            Mutant::EndTrusted => "end-of-partition trusted",
            Mutant::LostIgnored => "lost assignment ignored",
            Mutant::GuardOff => "sequence guard off while transactions are off",
            Mutant::HashOrder => "hash-map order in a role",
            Mutant::WallClock => "wall clock in a role",
            Mutant::SharedQueue => "one queue for all partitions",
            Mutant::FirstMeta => "restore to the first meta record that fits, not the last",
            Mutant::AbsentIsFresh => "absent offsets taken for a fresh task",
            Mutant::StandbyTrusted => "standby trusted without its digest",
            Mutant::SizeBeforePrepare => "sizes looked at before the journal is written",
            Mutant::LeftForgotten => "rest of a batch forgotten",
            Mutant::LeftKept => "rest of a batch kept over an assignment",
        }
    }
}

/// Whether a mistake is made.
#[cfg(not(feature = "faults"))]
#[inline(always)]
pub const fn on(_: Mutant) -> bool {
    false
}

#[cfg(feature = "faults")]
pub use switch::*;

#[cfg(feature = "faults")]
mod switch {
    use std::cell::Cell;

    use super::Mutant;

    thread_local! {
        static ON: Cell<Option<Mutant>> = const { Cell::new(None) };
        static WALL_MS: Cell<i64> = const { Cell::new(0) };
        static HASH_KEY: Cell<u64> = const { Cell::new(0) };
        static TIMER: Cell<bool> = const { Cell::new(false) };
    }

    /// Whether a mistake is made.
    #[inline]
    pub fn on(mutant: Mutant) -> bool {
        ON.get() == Some(mutant)
    }

    /// Switches to one mistake, or to none; returns what was on before.
    pub fn switch(to: Option<Mutant>) -> Option<Mutant> {
        ON.replace(to)
    }

    /// Sets what a machine's clock says, and how this process's hash maps are seeded.
    pub fn set_machine(wall_ms: i64, hash_key: u64) {
        WALL_MS.set(wall_ms);
        HASH_KEY.set(hash_key);
    }

    /// The machine's time.
    pub fn wall_ms() -> i64 {
        WALL_MS.get()
    }

    /// Where a key's bucket is in a map that is seeded anew in each process.
    pub fn bucket(key: &[u8]) -> u64 {
        xxhash_rust::xxh3::xxh3_64_with_seed(key, HASH_KEY.get())
    }

    /// Whether the transaction at hand was caused by a timer; asked once.
    pub fn take_timer() -> bool {
        TIMER.replace(false)
    }

    /// Says that the next transaction is caused by a timer.
    pub fn set_timer() {
        TIMER.set(true);
    }
}
