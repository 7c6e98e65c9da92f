//! Size of a turn: the only place that decides how many records a turn takes.
//!
//! Besides the settings, three rules bound a transaction:
//!
//! 1. Content. Output, state changes and rows for the journal are counted during processing. The
//!    batch ends early at [`TransactionBounds`], because a thousand commands may cause a million
//!    records.
//! 2. Time. A late transaction makes the next transactions smaller until one fits. Then the size
//!    grows again, slowly.
//! 3. Latency. If one task has a backlog and another task is quiet, turns are short. The quiet task
//!    then waits for a short transaction and not for ten thousand records of another task. At most
//!    every second transaction processes only the quiet tasks.
//!
//! A short turn takes about as long as four transactions that write next to nothing, on any log. An
//! order beside a backlog therefore takes about three times as long as alone: half a turn, plus its
//! own transaction. Three quarters of the time go into the backlog. If all active tasks have a
//! backlog, or only one task is active, short turns help nobody. Then turns take full batches.
//!
//! The rest of a batch stays with the instance and comes first in the next turn. The journal
//! contains the positions, so a replay does not need the rules of this file.

use std::collections::BTreeMap;

use faults::crash::{self, Point};
use ports::Limits;

use super::instance::deal;
use super::journal::PART_BYTES;

/// Bounds of one transaction. The output of the last input record may exceed the bounds.
#[derive(Clone, Copy, Debug)]
pub struct TransactionBounds {
    /// Records written, state changes included. Ten thousand ordinary inputs write fewer records. A
    /// client library needs about a second for 150,000 records.
    pub records: usize,
    /// Bytes written. The default is well below the queue of a client library (1 GiB). A slow link
    /// (2 MB/s) can send the default within the transaction timeout of 20 s.
    pub bytes: usize,
    /// Bytes of broadcast rows for a journal. The default is enough for all rows of some thousand
    /// listings. Further rows come in the next transactions.
    pub row_bytes: usize,
    /// Bytes of broadcast rows in one journal record.
    pub journal_part: usize,
}

impl Default for TransactionBounds {
    fn default() -> Self {
        TransactionBounds {
            records: 150_000,
            bytes: 32 << 20,
            row_bytes: 1 << 20,
            journal_part: PART_BYTES,
        }
    }
}

/// Content of a transaction, or of a part of a transaction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TransactionContent {
    pub records: usize,
    /// Bytes of the records.
    pub bytes: usize,
    /// Bytes of rows for the journal. These bytes also count in `bytes`.
    pub row_bytes: usize,
}

impl TransactionContent {
    /// Adds records and bytes.
    pub fn and(self, (records, bytes): (usize, usize)) -> TransactionContent {
        TransactionContent {
            records: self.records + records,
            bytes: self.bytes + bytes,
            ..self
        }
    }
}

/// Remaining room of a transaction.
#[derive(Clone, Copy, Debug)]
pub struct TransactionRoom {
    records: usize,
    bytes: usize,
    row_bytes: usize,
}

impl TransactionRoom {
    /// For a replay: the journal has already decided the content of each batch.
    pub const UNBOUNDED: TransactionRoom = TransactionRoom {
        records: usize::MAX,
        bytes: usize::MAX,
        row_bytes: usize::MAX,
    };

    /// True if the content `w` uses up the room.
    pub fn is_used_up_by(&self, w: TransactionContent) -> bool {
        w.records >= self.records || w.bytes >= self.bytes || w.row_bytes >= self.row_bytes
    }

    /// The room without content `w` that is not part of the output yet.
    pub fn beside(self, w: TransactionContent) -> TransactionRoom {
        TransactionRoom {
            records: self.records.saturating_sub(w.records),
            bytes: self.bytes.saturating_sub(w.bytes),
            row_bytes: self.row_bytes.saturating_sub(w.row_bytes),
        }
    }
}

/// Duration of a short turn, as a multiple of the duration of a turn that writes next to nothing.
const SHORT_TIMES: u64 = 4;
/// Bounds of the duration of a short turn, for any commit time.
const SHORT_MIN_US: u64 = 500;
const SHORT_MAX_US: u64 = 250_000;
/// Assumed commit time before the first measurement. The value fits a cluster.
const COMMIT_US: u64 = 5_000;
/// A turn with at most this many output records measures the commit time. Taking fewer records
/// would not make such a turn shorter.
const SMALL: usize = 64;
/// A task is active if a record arrived within this time.
const LATELY_US: u64 = 5_000_000;
/// Turns stay short for this long after the last turn with both a quiet task and a backlog.
const SHORT_FOR_US: u64 = 1_000_000;
/// Successful transactions near the current bounds before the bounds grow. The number doubles after
/// each growth that was too much.
const WELL: u32 = 16;
const WELL_MOST: u32 = 4096;

pub(super) struct BatchPace {
    most: Limits,
    bounds: TransactionBounds,
    /// True if nobody waits for results of this role. A patient role never has short turns.
    patient: bool,
    /// Largest numbers of input and output records that are known to fit, or are being tried.
    inputs: usize,
    outputs: usize,
    well: u32,
    well_needed: u32,
    /// True if the last change of the sizes was a growth.
    raised: bool,
    /// Duration of a turn that writes next to nothing.
    commit_us: u64,
    /// Number of records in a short turn.
    short: usize,
    /// True if the last turn processed only quiet tasks.
    was_for_quiet: bool,
    short_until_us: u64,
    active_us: BTreeMap<u32, u64>,
}

impl BatchPace {
    pub(super) fn new(most: Limits, bounds: TransactionBounds, patient: bool) -> BatchPace {
        let inputs = most.records.max(1);

        // A test of the crash point between two parts of a batch reaches the point with little
        // traffic.
        let bounds = if crash::armed(Point::BatchLeft) {
            TransactionBounds {
                records: 8,
                ..bounds
            }
        } else {
            bounds
        };

        BatchPace {
            most,
            bounds,
            patient,
            inputs,
            outputs: bounds.records,
            well: 0,
            well_needed: WELL,
            raised: false,
            commit_us: COMMIT_US,
            short: 1_000,
            was_for_quiet: false,
            short_until_us: 0,
            active_us: BTreeMap::new(),
        }
    }

    pub(super) fn bounds(&self) -> TransactionBounds {
        self.bounds
    }

    /// Limits of the next poll.
    pub(super) fn limits(&self, now_us: u64) -> Limits {
        Limits {
            records: self.records(now_us),
            ..self.most
        }
    }

    fn records(&self, now_us: u64) -> usize {
        if now_us < self.short_until_us {
            self.inputs.min(self.short)
        } else {
            self.inputs
        }
    }

    /// Room of a new transaction.
    pub(super) fn room(&self) -> TransactionRoom {
        TransactionRoom {
            records: self.outputs,
            bytes: self.bounds.bytes,
            row_bytes: self.bounds.row_bytes,
        }
    }

    /// Divides a batch between tasks. `counts` has the number of polled records of each task.
    /// `more`: the log may have more records than the batch. Returns the number of records to
    /// process now, by task.
    pub(super) fn share(&mut self, counts: &[(u32, usize)], more: bool, now_us: u64) -> Vec<usize> {
        for (task, _) in counts {
            self.active_us.insert(*task, now_us);
        }

        self.active_us
            .retain(|_, at| now_us.saturating_sub(*at) < LATELY_US);

        // A task that fills less than half of its share has no backlog. Such a task would wait for
        // the backlog of other tasks.
        let quiet_most = self.records(now_us) / self.active_us.len().max(1) / 2;
        if more && !self.patient && self.active_us.len() > 1 {
            let has = |task: &u32| {
                counts
                    .iter()
                    .find(|(t, _)| t == task)
                    .map_or(0, |(_, n)| *n)
            };

            if self.active_us.keys().any(|task| has(task) <= quiet_most) {
                self.short_until_us = now_us + SHORT_FOR_US;
            }
        }

        let counts: Vec<usize> = counts.iter().map(|(_, n)| *n).collect();
        let quiet: Vec<usize> = counts
            .iter()
            .map(|n| if *n <= quiet_most { *n } else { 0 })
            .collect();
        let some_are_quiet = quiet.iter().any(|n| *n > 0) && quiet != counts;
        self.was_for_quiet = now_us < self.short_until_us && some_are_quiet && !self.was_for_quiet;
        deal(
            if self.was_for_quiet { &quiet } else { &counts },
            self.records(now_us),
        )
    }

    /// Target duration of a short turn, commit included.
    fn short_us(&self) -> u64 {
        (self.commit_us * SHORT_TIMES).clamp(SHORT_MIN_US, SHORT_MAX_US)
    }

    /// Notes a committed transaction: input records, output records, duration of the turn.
    pub(super) fn well(&mut self, records: usize, outputs: usize, took_us: u64) {
        if outputs <= SMALL {
            // Raise the estimate slowly: an outside delay of one turn says little about commits.
            self.commit_us =
                took_us.min(self.commit_us + took_us.saturating_sub(self.commit_us) / 8);
        }

        let short_us = self.short_us();
        if records * 2 >= self.short || took_us > 2 * short_us {
            let fit =
                usize::try_from(records as u64 * short_us / took_us.max(1)).unwrap_or(usize::MAX);
            let fit = fit.max(records * SMALL / outputs.max(1));
            self.short = fit
                .clamp(self.short / 4, self.short * 2)
                .clamp(1, self.most.records.max(1));
        }

        let top = (self.most.records.max(1), self.bounds.records);
        let at_top = (self.inputs, self.outputs) == top;
        if at_top && !self.raised || records * 2 <= self.inputs && outputs * 2 <= self.outputs {
            return;
        }

        self.well += 1;
        if self.well >= self.well_needed {
            self.well = 0;
            if at_top {
                (self.raised, self.well_needed) = (false, WELL);
            } else {
                self.raised = true;
                (self.inputs, self.outputs) =
                    ((self.inputs * 2).min(top.0), (self.outputs * 2).min(top.1));
            }
        }
    }

    /// Notes a transaction that was late: input records, output records, and `done` of `of` written
    /// records accepted in time.
    pub(super) fn late(&mut self, records: usize, outputs: usize, done: usize, of: usize) {
        // Take half of the accepted share: the rest of the transaction timeout is for offsets and
        // commit. If the log accepted nothing, brokers may have been away, and the failure says
        // little about sizes. One failure therefore divides the sizes by sixteen at most.
        let less = |n: usize| (n * done / (2 * of.max(1))).clamp(n / 16, n / 2).max(1);
        self.shrink(less(records), less(outputs));
    }

    /// Notes a transaction with a rejected record. A smaller batch finds the rejected record
    /// sooner.
    pub(super) fn refused(&mut self, records: usize) {
        self.shrink((records / 8).max(1), self.outputs);
    }

    fn shrink(&mut self, inputs: usize, outputs: usize) {
        (self.inputs, self.outputs) = (self.inputs.min(inputs), self.outputs.min(outputs));
        self.well = 0;
        if std::mem::replace(&mut self.raised, false) {
            self.well_needed = (self.well_needed * 2).min(WELL_MOST);
        }
    }

    /// Largest number of input records in the next transaction.
    pub(super) fn next(&self) -> usize {
        self.inputs
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const MS: u64 = 1_000;

    fn pace() -> BatchPace {
        BatchPace::new(
            Limits {
                records: 10_000,
                bytes: 8 << 20,
                age: Duration::ZERO,
            },
            TransactionBounds::default(),
            false,
        )
    }

    #[test]
    fn a_batch_too_large_shrinks_until_it_fits_and_grows_slowly() {
        let mut p = pace();
        let mut attempts = Vec::new();
        let mut largest = 0;

        // Transactions of more than 300 records never fit. The report does not say how many records
        // were accepted.
        for _ in 0..100_000 {
            let n = p.limits(0).records;
            if n > 300 {
                attempts.push(n);
                p.late(n, n * 3, 0, n * 3);
            } else {
                largest = largest.max(n);
                p.well(n, n * 3, 10 * MS);
            }
        }

        assert!(
            largest > 150,
            "it uses at least half of what fits: {largest}"
        );
        assert!(
            attempts.len() < 40,
            "{} attempts were in vain: {attempts:?}",
            attempts.len()
        );
        assert_eq!(attempts[0], 10_000);
    }

    #[test]
    fn one_record_is_the_least() {
        let mut p = pace();
        for _ in 0..100 {
            let n = p.limits(0).records;
            p.late(n, n, 0, n);
        }

        assert_eq!((p.limits(0).records, p.outputs), (1, 1));
        for _ in 0..2_000 {
            p.well(p.limits(0).records, p.outputs, MS);
        }

        assert_eq!(p.limits(0).records, 10_000, "and all is well again");
        assert_eq!(p.outputs, p.bounds.records);
    }

    #[test]
    fn what_was_managed_says_how_much_fits() {
        let mut p = pace();
        p.late(8_000, 80_000, 20_000, 80_000);
        assert_eq!((p.inputs, p.outputs), (1_000, 10_000));
    }

    /// The test covers logs in memory, on the same machine, and on a slow cluster. Each record
    /// takes 20 us, plus the commit.
    #[test]
    fn an_order_beside_a_backlog_takes_three_times_as_long() {
        for commit_us in [300, 5_000, 20_000] {
            let mut p = pace();
            let mut now = 1_000 * MS;
            let turn = |p: &mut BatchPace, now: &mut u64, quiet: usize| {
                let limit = p.limits(*now).records;
                let counts: Vec<_> = [(0, limit - quiet), (1, quiet)]
                    .into_iter()
                    .filter(|(_, n)| *n > 0)
                    .collect();
                let share = p.share(&counts, true, *now);
                let n: usize = share.iter().sum();
                let took = commit_us + n as u64 * 20;
                p.well(n, n * 3, took);
                *now += took;
                (took, counts.len() == 2 && share[0] == 0)
            };

            // Before the backlog, orders came one at a time.
            for _ in 0..60 {
                p.share(&[(1, 1)], false, now);
                p.well(1, 3, commit_us + 20);
            }

            for _ in 0..100 {
                turn(&mut p, &mut now, 0);
            }

            now += 2 * LATELY_US;
            turn(&mut p, &mut now, 0);
            assert_eq!(p.limits(now).records, 10_000, "alone it takes all");
            let mut waits = Vec::new();
            let mut spent = 0;
            let mut began = now;
            let mut rest = 0;
            for i in 0..400 {
                let quiet = usize::from(i % 4 == 0);
                let (took, alone) = turn(&mut p, &mut now, quiet);
                assert_eq!(
                    alone,
                    quiet == 1,
                    "an order has its turn for itself, turn {i}"
                );
                if i == 40 {
                    (began, spent) = (now, 0);
                }

                if quiet == 1 && i > 40 {
                    // The order arrived at some time during the previous turn.
                    waits.push(rest * (i % 100) / 100 + took);
                } else {
                    spent += took - commit_us;
                }

                rest = took;
            }

            let mean = waits.iter().sum::<u64>() / waits.len() as u64;
            assert!(
                mean * 10 <= 32 * (commit_us + 20),
                "{mean} us beside a backlog, {commit_us} us a commit"
            );
            let worst = waits.iter().max().expect("some");
            assert!(
                *worst <= 6 * commit_us + 1_000,
                "{worst} us at most, {commit_us} us a commit"
            );
            assert!(
                spent * 10 >= (now - began) * 6,
                "{} % of the time for the backlog, {commit_us} us a commit",
                spent * 100 / (now - began)
            );
            now += 2 * LATELY_US;
            for _ in 0..5 {
                turn(&mut p, &mut now, 0);
            }

            assert_eq!(p.limits(now).records, 10_000, "and alone again");
        }
    }

    /// A quiet task that always has a record takes at most every second turn.
    #[test]
    fn the_backlog_gets_every_second_turn_at_least() {
        let mut p = pace();
        let mut now = 1_000 * MS;
        let mut taken = [0, 0];
        for _ in 0..50 {
            let limit = p.limits(now).records;
            let share = p.share(&[(0, limit - 1), (1, 1)], true, now);
            (taken[0], taken[1]) = (taken[0] + usize::from(share[0] > 0), taken[1] + share[1]);
            let n: usize = share.iter().sum();
            p.well(n, n * 3, 5 * MS + n as u64 * 20);
            now += 5 * MS + n as u64 * 20;
        }

        assert_eq!(taken, [25, 50]);
    }

    /// Found by a storm test. A commit took 70 ms, so each turn took one record: thirteen records a
    /// second. A backlog of 17 000 records never shrank.
    #[test]
    fn a_backlog_shrinks_where_commits_take_longer_than_turns() {
        let turns = |commit: u64, record: u64, writes: usize| {
            let mut p = pace();
            let mut now = 1_000 * MS;
            let mut done = 0;

            // The minimum size of a turn. The turn cannot become shorter.
            p.short = 1;
            for i in 0..200 {
                let limit = p.limits(now).records;
                let quiet = usize::from(i % 4 == 0 && limit > 1);
                let counts: Vec<_> = [(0, limit - quiet), (1, quiet)]
                    .into_iter()
                    .filter(|(_, n)| *n > 0)
                    .collect();
                let n: usize = p.share(&counts, true, now).into_iter().sum();
                let took = commit * MS + n as u64 * record;
                p.well(n, n * writes, took);
                (now, done) = (now + took, done + n);
            }

            (
                done as u64 * 1_000_000 / (now - 1_000 * MS),
                p.limits(now).records,
            )
        };

        let (a_second, least) = turns(70, 20, 3);
        assert!(
            a_second > 1_000 && least >= 100,
            "{a_second} records a second, {least} at a time"
        );

        // A record that causes twenty thousand outputs has its own turn.
        let (_, least) = turns(70, 140_000, 20_000);
        assert_eq!(least, 1);
    }

    #[test]
    fn where_all_have_a_backlog_turns_are_full() {
        let mut p = pace();
        for i in 0..100 {
            let limit = p.limits(i * 200 * MS).records;
            assert_eq!(limit, 10_000);
            let counts = [
                (0, limit / 4),
                (1, limit / 4),
                (2, limit / 4 + 100),
                (5, limit / 4 - 100),
            ];
            assert_eq!(p.share(&counts, true, i * 200 * MS), counts.map(|(_, n)| n));
            p.well(limit, limit * 3, 150 * MS);
        }
    }

    #[test]
    fn a_task_with_few_records_gets_all_of_them_in() {
        let mut p = pace();
        p.late(20, 20, 0, 0);
        assert_eq!(p.limits(0).records, 1, "a sixteenth at a time");
        let mut p = pace();
        p.inputs = 100;
        assert_eq!(
            p.share(&[(0, 5_000), (1, 3), (2, 700)], true, 0),
            [0, 3, 0],
            "first without the backlogs"
        );
        assert_eq!(
            p.share(&[(0, 5_000), (1, 3), (2, 700)], true, 0),
            [48, 3, 49]
        );
        assert_eq!(p.share(&[(0, 5), (1, 3)], false, 0), [5, 3]);
    }
}
