//! Crash points: named places in the loop, in restores, in changes of membership, and in stops. A
//! test aborts the real program at a point, like `kill -9`, and checks that the successor repairs
//! all half-finished work.
//!
//! Only builds with the feature `faults` have crash points. In other builds a point does nothing.
//! `PROCESSOR_CRASH=<point>[:<visit>]` selects the point and the visit, counted from 1 in the whole
//! process. The process aborts without unwinding and without destructors, after one line on stderr.
//! The adapters of log and store have points too, because many critical moments are there.

macro_rules! points {
    ($($variant:ident $name:literal $what:literal,)*) => {
        /// A crash point.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Point {
            $(#[doc = $what] $variant,)*
        }

        impl Point {
            /// All points, in the order of an incarnation's life.
            pub const ALL: &[Point] = &[$(Point::$variant,)*];

            /// Name in `PROCESSOR_CRASH`.
            pub const fn name(self) -> &'static str {
                match self { $(Point::$variant => $name,)* }
            }

            /// The place, in words.
            pub const fn what(self) -> &'static str {
                match self { $(Point::$variant => $what,)* }
            }
        }
    };
}

points! {
    JoinFencing "join.fencing" "the request that fences the predecessor was sent, its answer not read",
    JoinFenced "join.fenced" "the predecessor is fenced, the group not yet joined",
    JoinMember "join.member" "joined, nothing read yet",
    JoinTable "join.table" "in the middle of a broadcast table",
    JoinTables "join.tables" "all broadcast tables read",
    AssignCallback "assign.callback" "in the client's assign callback, partitions taken and paused",
    AssignTasks "assign.tasks" "tasks handed out, none restored",
    RestoreOffsets "restore.offsets" "committed offsets known, store not open",
    RestoreOpened "restore.opened" "store open, not judged yet",
    RestoreReader "restore.reader" "changelog reader made, nothing applied",
    RestoreChunk "restore.chunk" "a part of the changelog applied, more to come",
    RestoreReached "restore.reached" "the last part applied, content not compared",
    RestoreChecked "restore.checked" "content compared by a scan, not yet written down",
    RestoreVerified "restore.verified" "content compared and written down",
    RestoreDamaged "restore.damaged" "damage found, store not yet put aside",
    RestoreQuarantined "restore.quarantined" "damaged store put aside, rebuild not begun",
    RestoreStandby "restore.standby" "a standby's copy has become the store of a task that was assigned, not judged yet",
    ResumeBefore "resume.before" "a task is restored, its delivery not started",
    AdoptPositions "adopt.positions" "positions of tasks were taken from their changelogs, the group does not have them yet",
    AdoptCommitted "adopt.committed" "the group has the positions that were taken from the changelog, nothing is polled",
    ResumeAfter "resume.after" "delivery started, nothing polled",
    LoopPolled "loop.polled" "records taken, none processed",
    ProcessRecord "process.record" "in the middle of a batch",
    MassPart "mass.part" "a part of a mass cancel is asked for, not committed, with more to come",
    MassGoesOn "mass.goes_on" "the book has ended a part of a mass cancel, the next part is not looked for",
    MatchPart "match.part" "a part of a sweep has traded, its rest is put down, nothing is committed",
    MatchGoesOn "match.goes_on" "the rest of a sweep is about to go on",
    ProcessDone "process.done" "batch processed, nothing prepared",
    CommitPrepared "commit.prepared" "changelog, journal and meta record prepared, no transaction begun",
    TxBegun "tx.begun" "transaction begun, nothing sent",
    TxSending "tx.sending" "some records handed over",
    TxSent "tx.sent" "all records handed over, deliveries not awaited",
    TxDelivered "tx.delivered" "all records delivered, offsets not added",
    TxOffsetsInFlight "tx.offsets_in_flight" "the request with the offsets was sent, its answer not read",
    TxOffsets "tx.offsets" "offsets added, commit not requested",
    TxEndInFlight "tx.end_in_flight" "the commit request was sent, its answer never read",
    LogWrite "log.write" "embedded log: a transaction is checked and packed, not written",
    LogWritten "log.written" "embedded log: a transaction is written, nobody was told",
    CommitDecided "commit.decided" "committed in the log, the store knows nothing",
    StoreBatch "store.batch" "the store's batch is put together, not written",
    StoreFlush "store.flush" "written, while RocksDB moves its memory to a table file",
    CommitStored "commit.stored" "one task's store written, maybe not the others",
    CommitDone "commit.done" "everything written, nothing counted or polled",
    BatchLeft "batch.left" "a batch that ended early is committed, the rest of it is still to be done",
    RevokeCallback "revoke.callback" "in the client's revoke callback, partitions not yet given up",
    RevokeTasks "revoke.tasks" "partitions given up, tasks still there",
    RepairJoined "repair.joined" "a repair of offsets has joined the group and fenced the instance, nothing is judged",
    RepairJudged "repair.judged" "a repair of offsets has decided, nothing is committed",
    RepairCommitted "repair.committed" "a repair of offsets is committed, the group not left",
    RebuildWiping "rebuild.wiping" "a rebuild was asked for, some stores have lost their names, others not",
    StopAsked "stop.asked" "a graceful stop was asked for, clients and stores still open",
    StopLeft "stop.left" "the group was left for good, stores still open",
    StopClosing "stop.closing" "stores closed, clients about to be",
}

#[cfg(not(feature = "faults"))]
mod plan {
    use super::Point;

    /// Does nothing in this build.
    #[inline(always)]
    pub fn point(_: Point) {}

    /// Always false in this build.
    #[inline(always)]
    pub const fn armed(_: Point) -> bool {
        false
    }
}

#[cfg(feature = "faults")]
mod plan {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::Point;

    /// Environment variable with point and visit.
    const VARIABLE: &str = "PROCESSOR_CRASH";

    static VISITS: AtomicU64 = AtomicU64::new(0);

    fn plan() -> Option<(Point, u64)> {
        static PLAN: OnceLock<Option<(Point, u64)>> = OnceLock::new();
        *PLAN.get_or_init(|| {
            #[allow(
                clippy::disallowed_methods,
                reason = "a switch for tests, which no role's result can depend on"
            )]
            let text = std::env::var(VARIABLE).ok()?;
            let plan = parse(&text);
            assert!(
                plan.is_some(),
                "{VARIABLE}={text} names no crash point; see crates/faults/src/crash.rs"
            );
            plan
        })
    }

    pub(super) fn parse(text: &str) -> Option<(Point, u64)> {
        let (name, visit) = text.split_once(':').unwrap_or((text, "1"));
        let point = Point::ALL.iter().find(|p| p.name() == name)?;
        Some((*point, visit.parse().ok().filter(|n| *n > 0)?))
    }

    /// Aborts if a test selected this point and this visit.
    pub fn point(at: Point) {
        if due(at) {
            die(at);
        }
    }

    /// True if the process will abort at this point, now or later.
    pub fn armed(at: Point) -> bool {
        plan().is_some_and(|(point, _)| point == at)
    }

    /// Counts a visit. Returns true at the selected visit. For callers with work to do before
    /// [`die`].
    pub fn due(at: Point) -> bool {
        plan().is_some_and(|(point, visit)| {
            point == at && VISITS.fetch_add(1, Ordering::Relaxed) + 1 == visit
        })
    }

    /// Undoes a counted visit without effect.
    pub fn missed(at: Point) {
        if armed(at) {
            VISITS.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Aborts the process without any cleanup.
    pub fn die(at: Point) -> ! {
        eprintln!("crash point {}: {}", at.name(), at.what());
        std::process::abort()
    }
}

pub use plan::*;

#[cfg(test)]
mod tests {
    use super::Point;

    #[test]
    fn names_are_unique_and_grouped() {
        let mut names: Vec<_> = Point::ALL.iter().map(|p| p.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Point::ALL.len());
        assert!(names.iter().all(|n| n.contains('.')));
    }

    #[cfg(feature = "faults")]
    #[test]
    fn a_plan_names_a_point_and_a_visit() {
        use super::plan::parse;
        assert_eq!(parse("loop.polled"), Some((Point::LoopPolled, 1)));
        assert_eq!(parse("tx.sending:7"), Some((Point::TxSending, 7)));
        for wrong in ["", "loop", "loop.polled:", "loop.polled:0", "loop.polled:x"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn without_a_plan_nothing_happens() {
        assert!(!super::armed(Point::LoopPolled));
        super::point(Point::LoopPolled);
    }
}
