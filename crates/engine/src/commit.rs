//! The one place that commits: prepare -> transact -> apply.
//!
//! Output, state changes, journal, meta record and input positions go into one transaction; only
//! when the log has decided does the store get the same changes. Every other end leaves the store
//! as it was, and the incarnation is given up.

use std::collections::BTreeMap;

use super::role::{Bug, RoleSpec};
use super::task::{Task, TaskError};
use faults::crash::{self, Point};
use faults::mutants::{self, Mutant};
use ports::records::{Record, Records};
use ports::topics::{TopicPartition, TopicTable};
use ports::{Member, RECORD_OVERHEAD, Rejection, Transaction, TransactionOutcome};

/// How a commit ended.
pub enum CommitOutcome {
    /// In the log and in the stores. `suspect`: begin the next one as a new incarnation.
    Done {
        /// See [`TransactionOutcome::Committed`].
        suspect: bool,
    },
    /// Not, or nobody knows: give this incarnation up; the next one finds out.
    Recover(String),
    /// Not in time: likewise, and with less.
    Late {
        /// The bound that ran out, and how sure that is.
        why: String,
        /// Records that were accepted in time, and of how many.
        done: (usize, usize),
    },
    /// The log will not have one of the records: likewise, a few times.
    Rejected(Rejection),
    /// A record is larger than its topic can ever take, so nothing was sent: stop.
    TooLarge(String),
    /// Somebody newer is there: stop.
    Fenced(String),
    /// A person must change something: stop.
    Refused(String),
    /// In the log, but a task could not take it: stop; a restart replays it from the changelog.
    TaskFailed(u32, TaskError),
}

/// Last offset written, by partition, and whether something odd happened on the way.
type Decided = (Vec<(TopicPartition, u64)>, bool);

/// The one transaction. An error is how it ended otherwise.
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
        // Mostly a commit that had no answer in time; that it was too large is one of the reasons.
        TransactionOutcome::Unknown(why) => CommitOutcome::Late {
            why: format!("{UNKNOWN}: {why}"),
            done: (outputs.len(), outputs.len()),
        },
        TransactionOutcome::Fenced(why) => CommitOutcome::Fenced(why),
        TransactionOutcome::Refused(why) => CommitOutcome::Refused(why),
    })
}

/// How a commit of unknown outcome is told.
const UNKNOWN: &str = "outcome unknown";

/// Commits positions alone, of a task whose group had forgotten them.
pub fn commit_positions(
    member: &mut dyn Member,
    offsets: &[(TopicPartition, u64)],
) -> CommitOutcome {
    match decide(member, &Records::new(), offsets) {
        Ok((_, suspect)) => CommitOutcome::Done { suspect },
        Err(end) => end,
    }
}

/// Commits what `touched` tasks have processed; `out` holds their output and gets the rest.
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

        // Committed all the same; the next incarnation finds the store behind and catches up.
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
            return CommitOutcome::TaskFailed(*number, Bug(why).into());
        }

        if let Err(e) = task.post_commit(last) {
            return CommitOutcome::TaskFailed(*number, e.into());
        }

        crash::point(Point::CommitStored);
    }

    CommitOutcome::Done { suspect }
}

/// The first record that its topic cannot take. It would be refused again after every recovery, for
/// ever, so this is said at once. Everything that goes into the transaction is looked at, state
/// changes and journal included.
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
