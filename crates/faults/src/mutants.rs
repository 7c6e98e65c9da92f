//! Mutants: deliberate mistakes for tests. Each mutant is a mistake that a loop like ours could
//! contain, and the simulation must find each mutant. Without the feature `faults` every switch is
//! the constant `false`, and the compiler removes all mutants.

/// A mutant. The hook is at the place of the right decision in the product. For decisions of the
/// Kafka adapter, the hook is in the simulation's model client.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Mutant {
    /// Commits the consumer's position instead of the processed offsets.
    Position,
    /// After a failed transaction, retained partitions continue without a rewind.
    NotRewound,
    /// The group metadata is fetched at commit time, not when the records were polled.
    LateMetadata,
    /// A transaction without an input record commits no offsets.
    TimerWithoutOffsets,
    /// The store is written before the log has committed.
    StoreFirst,
    /// A restore ends at the last stable offset.
    RestoreToStable,
    /// The producer is kept after a timeout or a lost connection.
    ProducerKept,
    /// A commit without an answer counts as aborted.
    UnknownIsAbort,
    /// A commit without an answer counts as committed.
    UnknownIsCommit,
    /// A restore ends at the consumer's end-of-partition event.
    EndTrusted,
    /// The task continues on partitions lost without our consent.
    LostIgnored,
    /// The check of `(task, sequence)` is off, while transactions are off upstream.
    GuardOff,
    /// A role iterates over a hash map.
    HashOrder,
    /// A role reads the wall clock.
    WallClock,
    /// One queue for all partitions, in order of arrival.
    SharedQueue,
    /// A restore ends at the first meta record equal to the committed offsets.
    FirstMeta,
    /// A task without committed offsets starts with an empty state.
    AbsentIsFresh,
    /// The content of a standby is not verified when its task is assigned.
    StandbyTrusted,
    /// Record sizes are checked before journal and state changes are added. Too many rows for one
    /// journal record go into one record.
    SizeBeforePrepare,
    /// The rest of a batch that ended early is dropped.
    LeftForgotten,
    /// The rest of a batch is kept after the end of its assignment.
    LeftKept,
}

impl Mutant {
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

    /// Name on the command line.
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

    /// Description for people.
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

/// True if the mutant is on.
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

    /// True if the mutant is on.
    #[inline]
    pub fn on(mutant: Mutant) -> bool {
        ON.get() == Some(mutant)
    }

    /// Switches to one mutant, or to none. Returns the earlier mutant.
    pub fn switch(to: Option<Mutant>) -> Option<Mutant> {
        ON.replace(to)
    }

    /// Sets the wall clock and the hash seed of this process.
    pub fn set_machine(wall_ms: i64, hash_key: u64) {
        WALL_MS.set(wall_ms);
        HASH_KEY.set(hash_key);
    }

    /// Wall clock in milliseconds since 1970.
    pub fn wall_ms() -> i64 {
        WALL_MS.get()
    }

    /// The bucket of a key in a hash map with a random seed per process.
    pub fn bucket(key: &[u8]) -> u64 {
        xxhash_rust::xxh3::xxh3_64_with_seed(key, HASH_KEY.get())
    }

    /// True once after [`set_timer`].
    pub fn take_timer() -> bool {
        TIMER.replace(false)
    }

    /// Marks the next transaction as caused by a timer.
    pub fn set_timer() {
        TIMER.set(true);
    }
}
