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
use ports::{Member, RECORD_OVERHEAD, Transaction, TransactionOutcome};

use super::role::{InvariantViolation, RoleSpec};
use super::task::{Task, TaskError};

/// A transaction that is not committed, or that a store does not have. Every kind ends the
/// incarnation.
pub enum CommitError {
    /// The log's answer: every one other than [`TransactionOutcome::Committed`].
    Transaction(TransactionOutcome),
    /// A record is over the size limit of its topic. Nothing was sent: stop.
    TooLarge(String),
    /// The transaction is committed, but the log did not say at which offset this task's meta record
    /// is. The next incarnation finds the store behind the changelog, and catches up.
    NoOffset(u32),
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
) -> Result<Decided, TransactionOutcome> {
    match member.transact(&Transaction { outputs, offsets }) {
        TransactionOutcome::Committed { appended, suspect } => Ok((appended, suspect)),
        outcome => Err(outcome),
    }
}

/// Commits only the positions of a task after the group has lost them. Returns true if the
/// transaction is suspect.
pub fn commit_positions(
    member: &mut dyn Member,
    offsets: &[(TopicPartition, u64)],
) -> Result<bool, TransactionOutcome> {
    decide(member, &Records::new(), offsets).map(|(_, suspect)| suspect)
}

/// Commits the work of the `touched` tasks. `out` contains their output and receives the other
/// records of the transaction. Returns true if the transaction is suspect: start a new incarnation
/// before the next one.
pub fn commit(
    spec: &RoleSpec,
    topics: &TopicTable,
    member: &mut dyn Member,
    tasks: &mut BTreeMap<u32, Task>,
    touched: &[u32],
    out: &mut Records,
) -> Result<bool, CommitError> {
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
        return Err(CommitError::TooLarge(why));
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
                return Err(CommitError::TaskFailed(*number, e.into()));
            }
        }
    }

    let (appended, suspect) = match decide(member, out, &offsets) {
        Ok(decided) => decided,
        Err(TransactionOutcome::Unknown(_)) if mutants::on(Mutant::UnknownIsCommit) => (
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
        ),
        Err(outcome) => return Err(CommitError::Transaction(outcome)),
    };

    crash::point(Point::CommitDecided);
    for number in touched {
        let changelog = TopicPartition::new(spec.changelog, *number);
        let last = appended
            .iter()
            .find(|(at, _)| *at == changelog)
            .map(|(_, offset)| *offset);

        let Some(last) = last else {
            return Err(CommitError::NoOffset(*number));
        };

        let task = tasks
            .get_mut(number)
            .expect("only running tasks are touched");
        if let Some(before) = task.changelog_offset.filter(|before| *before >= last) {
            let why = format!(
                "task {number}: its changelog went back from offset {before} to {last}: was the topic deleted and made again? No state can be \
                 rebuilt from what is left of it"
            );
            return Err(CommitError::TaskFailed(
                *number,
                InvariantViolation(why).into(),
            ));
        }

        if let Err(e) = task.post_commit(last) {
            return Err(CommitError::TaskFailed(*number, e.into()));
        }

        crash::point(Point::CommitStored);
    }

    Ok(suspect)
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
