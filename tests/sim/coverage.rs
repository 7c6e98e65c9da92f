//! Counters of the events in a run. A campaign fails if a kind of fault never happened, because the
//! campaign has not tested that kind.

macro_rules! kinds {
    ($($name:ident $text:literal;)*) => {
        /// A kind of event that every campaign must contain.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Kind { $($name),* }

        impl Kind {
            pub const ALL: &[(Kind, &str)] = &[$((Kind::$name, $text)),*];
        }
    };
}

kinds! {
    Commit "transactions committed";
    Abort "transactions aborted";
    TimedOut "transactions aborted by timeout";
    LateMarker "markers written late, one partition at a time";
    Concurrent "answers CONCURRENT_TRANSACTIONS";
    Readded "partitions added to a finished transaction";
    InvalidState "answers INVALID_TXN_STATE";
    FencedEpoch "requests of an old epoch refused";
    StaleApplied "delayed requests that met a later epoch or transaction";
    Held "requests held past a reconnect";
    AnswerLost "answers lost";
    RequestLost "requests lost with their connection";
    Disconnect "connections cut";
    Slow "requests delayed";
    Suspect "new epochs after something suspect";
    Unknown "commits with unknown outcome";
    Rebalance "rebalances";
    StaticRejoin "static members that came back";
    SessionExpired "sessions expired";
    Lost "assignments lost";
    NoMember "offset commits refused, of a member that is none any more";
    FencedInstance "instances fenced by their successor";
    PendingOffsets "reads of offsets that were pending";
    LeaderMove "leaders moved";
    ShortFetch "fetches that ended early after a leader moved";
    TxnCoordinatorMove "transaction coordinators moved";
    GroupCoordinatorMove "group coordinators moved";
    BrokerDown "brokers down";
    BrokerFrozen "brokers frozen";
    Kill "processes killed";
    KillInStep "processes killed at a drawn wait";
    PowerLoss "machines that lost power, with the tail of their stores";
    CleanStop "processes stopped cleanly";
    Freeze "processes frozen";
    LongFreeze "processes frozen past their session (zombies)";
    Copy "second copies of an instance";
    ScaleUp "instances added";
    ScaleDown "instances taken away";
    ClockJump "clock jumps";
    DiskFull "stores without space";
    DamageFound "damaged stores found by checksum";
    DamageSilent "damage that only the digest can find";
    StoreWiped "state directories deleted";
    StoreHeld "stores held by another process";
    Quarantined "stores put aside";
    Restored "stores restored from the changelog";
    Compacted "partitions compacted";
    TombstoneExpired "tombstones dropped";
    Retention "old input records deleted";
    Duplicate "commands sent twice";
    DeadLetter "bad records";
    Control "users or everybody switched off or on";
    SwitchedOff "commands refused because somebody was switched off";
    Traded "trades between users";
    Fired "stops that fired";
    Changed "orders replaced";
    Cancelled "orders cancelled";
    ByOperator "orders cancelled by an operator";
    Expired "orders expired";
    Delisted "orders whose listing was taken away";
    TakenBack "trades taken back";
    Owing "events of accounts that owe money since a trade was taken back";
    Forgotten "ids forgotten";
    TakenAgain "ids of before used again";
    AnsweredLate "answers about orders that were forgotten";
    Resettled "incarnations under other settings than the one before";
    Flood "floods of one partition";
    Messages "floods of cancels and repeats";
    Unanswered "commands refused without an event of their own";
    MassCancels "mass cancels of many orders";
    FatRows "long listings used at once";
    ManyPositions "users with positions in many symbols";
    BrokerClock "broker clocks far ahead for a moment";
    NoLeader "changelog partitions without a leader at a start";
    InvalidTimestamp "records refused because their time is too far ahead";
    TakenOver "transactions of dead instances ended by whoever has their partitions";
    TakenOverAlive "the same, of an instance that was back";
    StoppedOverTimes "stops over records whose time is refused";
    LateTransaction "transactions that were too large for their time";
    KilledInRestore "processes killed while they restored";
    StandbyTaken "tasks that began to run from a standby";
    OffsetsBack "tasks whose committed offsets went back";
    OffsetsForward "tasks whose committed offsets went forward";
    OffsetsLost "tasks whose committed offsets were lost";
    StoppedOverOffsets "stops over offsets that do not belong to the state";
    PutRight "roles whose offsets an operator put right";
    ReaderChecked "readings of the concurrent reader";
}

#[derive(Clone)]
pub struct Coverage(pub [u64; Kind::ALL.len()]);

impl Default for Coverage {
    fn default() -> Self {
        Coverage([0; Kind::ALL.len()])
    }
}

impl Coverage {
    pub fn hit(&mut self, kind: Kind) {
        self.0[kind as usize] += 1;
    }

    pub fn add(&mut self, other: &Coverage) {
        self.0.iter_mut().zip(other.0).for_each(|(a, b)| *a += b);
    }

    pub fn never(&self) -> Vec<&'static str> {
        Kind::ALL
            .iter()
            .filter(|(k, _)| self.0[*k as usize] == 0)
            .map(|(_, text)| *text)
            .collect()
    }
}
