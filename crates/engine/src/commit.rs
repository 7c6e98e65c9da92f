//! The only place that commits: prepare -> transact -> apply.
//!
//! One transaction contains output, state changes, journal, meta record and input positions. The
//! store gets the same changes only after the log has committed. Every other outcome leaves the
//! store unchanged, and the incarnation ends.

use std::collections::BTreeMap;

use faults::crash::{self, Point};
use faults::mutants::{self, Mutant};
use ports::records::{Record, Records};
use ports::topics::{TopicPartition, TopicTable};
use ports::{Member, RECORD_OVERHEAD, Rejection, Transaction, TransactionOutcome};

use super::role::{InvariantViolation, RoleSpec};
use super::task::{Task, TaskError};

/// Outcome of a commit.
pub enum CommitOutcome {
    /// Committed in the log and in the stores. `suspect`: start a new incarnation before the next
    /// transaction.
    Done {
        /// See [`TransactionOutcome::Committed`].
        suspect: bool,
    },
    /// Not committed, or the outcome is unknown. End this incarnation; the next incarnation finds
    /// the outcome.
    Recover(String),
    /// Not committed in time. End this incarnation and make the next transaction smaller.
    Late {
        /// The expired bound, and how certain the outcome is.
        why: String,
        /// Number of records accepted in time, and number of records sent.
        done: (usize, usize),
    },
    /// The log rejected one record. End this incarnation; after a few rejections the role stops.
    Rejected(Rejection),
    /// A record is over the size limit of its topic. Nothing was sent: stop.
    TooLarge(String),
    /// A newer producer with the same id exists: stop.
    Fenced(String),
    /// The log refuses the request until a person changes something: stop.
    Refused(String),
    /// The log committed, but a task could not apply the changes: stop. A restart restores the
    /// changes from the changelog.
    TaskFailed(u32, TaskError),
}

/// Last offset written in each partition, and whether the transaction is suspect.
type Decided = (Vec<(TopicPartition, u64)>, bool);

/// Runs the transaction. The error is every outcome other than a commit.
fn decide(
    member: &mut dyn Member,
    outputs: &Records,
    offsets: &[(TopicPartition, u64)],
) -> Result<Decided, CommitOutcome> {
    Err(match member.transact(&Transaction { outputs, offsets }) {
        TransactionOutcome::Committed { appended, suspect } => return Ok((appended, suspect)),
        TransactionOutcome::NotCommitted(why) => {
            CommitOutcome::Recover(format!("not committed: {why}"))
        }
        TransactionOutcome::Late { why, done, of } => CommitOutcome::Late {
            why: format!("not committed: {why}"),
            done: (done, of),
        },
        TransactionOutcome::Rejected(rejection) => CommitOutcome::Rejected(rejection),
        // Usually the commit had no answer in time. A transaction that was too large is a possible
        // reason.
        TransactionOutcome::Unknown(why) => CommitOutcome::Late {
            why: format!("{UNKNOWN}: {why}"),
            done: (outputs.len(), outputs.len()),
        },
        TransactionOutcome::Fenced(why) => CommitOutcome::Fenced(why),
        TransactionOutcome::Refused(why) => CommitOutcome::Refused(why),
    })
}

/// Prefix of the text for an unknown outcome.
const UNKNOWN: &str = "outcome unknown";

/// Commits only the positions of a task after the group has lost them.
pub fn commit_positions(
    member: &mut dyn Member,
    offsets: &[(TopicPartition, u64)],
) -> CommitOutcome {
    match decide(member, &Records::new(), offsets) {
        Ok((_, suspect)) => CommitOutcome::Done { suspect },
        Err(end) => end,
    }
}

/// Commits the work of the `touched` tasks. `out` contains their output and receives the other
/// records of the transaction.
pub fn commit(
    spec: &RoleSpec,
    topics: &TopicTable,
    member: &mut dyn Member,
    tasks: &mut BTreeMap<u32, Task>,
    touched: &[u32],
    out: &mut Records,
) -> CommitOutcome {
    let mut offsets: Vec<(TopicPartition, u64)> = Vec::new();
    let early = mutants::on(Mutant::SizeBeforePrepare).then(|| too_large(topics, out));
    for number in touched {
        let task = tasks
            .get_mut(number)
            .expect("only running tasks are touched");
        offsets.extend_from_slice(&task.prepare(out).offsets);
    }

    crash::point(Point::CommitPrepared);
    if let Some(why) = early.unwrap_or_else(|| too_large(topics, out)) {
        return CommitOutcome::TooLarge(why);
    }

    #[cfg(feature = "faults")]
    if mutants::take_timer() {
        offsets.clear();
    }

    assert!(
        !offsets.is_empty() || mutants::on(Mutant::TimerWithoutOffsets),
        "a transaction without offsets would not be fenced"
    );
    if mutants::on(Mutant::StoreFirst) {
        for number in touched {
            if let Err(e) = tasks
                .get_mut(number)
                .expect("only running tasks are touched")
                .write_early()
            {
                return CommitOutcome::TaskFailed(*number, e.into());
            }
        }
    }

    let (appended, suspect) = match decide(member, out, &offsets) {
        Ok(decided) => decided,
        Err(CommitOutcome::Late { why, .. })
            if mutants::on(Mutant::UnknownIsCommit) && why.starts_with(UNKNOWN) =>
        {
            (
                touched
                    .iter()
                    .map(|n| {
                        (
                            TopicPartition::new(spec.changelog, *n),
                            tasks[n].last_changelog_offset() + 1,
                        )
                    })
                    .collect(),
                true,
            )
        }
        Err(end) => return end,
    };

    crash::point(Point::CommitDecided);
    for number in touched {
        let changelog = TopicPartition::new(spec.changelog, *number);
        let last = appended
            .iter()
            .find(|(at, _)| *at == changelog)
            .map(|(_, offset)| *offset);

        // The transaction is committed. The next incarnation finds the store behind the changelog
        // and catches up.
        let Some(last) = last else {
            return CommitOutcome::Recover(format!(
                "committed, but the log did not say where task {number}'s meta record is"
            ));
        };

        let task = tasks
            .get_mut(number)
            .expect("only running tasks are touched");
        if let Some(before) = task.changelog_offset.filter(|before| *before >= last) {
            let why = format!(
                "task {number}: its changelog went back from offset {before} to {last}: was the topic deleted and made again? No state can be \
                 rebuilt from what is left of it"
            );
            return CommitOutcome::TaskFailed(*number, InvariantViolation(why).into());
        }

        if let Err(e) = task.post_commit(last) {
            return CommitOutcome::TaskFailed(*number, e.into());
        }

        crash::point(Point::CommitStored);
    }

    CommitOutcome::Done { suspect }
}

/// Finds the first record over the size limit of its topic. The broker would refuse such a record
/// again after every recovery, so the role stops at once. All records of the transaction are
/// checked, state changes and journal included.
fn too_large(topics: &TopicTable, out: &Records) -> Option<String> {
    let size = |r: &Record<'_>| {
        r.key.map_or(0, <[u8]>::len)
            + r.value.map_or(0, <[u8]>::len)
            + r.headers.as_bytes().len()
            + RECORD_OVERHEAD
    };

    let r = out
        .iter()
        .find(|r| size(r) > topics.spec(r.at.topic).record_bytes_max as usize)?;
    let max = topics.spec(r.at.topic).record_bytes_max;
    let at = topics.show(r.at);
    let key = r.key.unwrap_or_default();
    let cause = r
        .headers
        .text("src")
        .map(|src| format!(", caused by {src},"))
        .unwrap_or_default();
    Some(format!(
        "a record of {} bytes for {at} (key \"{}\"){cause} is over the limit of that topic, {max} bytes. Nothing of its transaction was committed, and a \
         restart would meet it again. No setting raises this limit: report this message, and run a version that splits such records",
        size(&r),
        key.escape_ascii(),
    ))
}
