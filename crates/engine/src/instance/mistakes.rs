//! Loop steps of two mutants in [`faults::mutants`]. For tests only.

use super::super::commit::{CommitOutcome, commit};
use super::{FatalError, Incarnation, Records, RoleSpec, StepError, Task, TopicTable, mutants};

/// Commits a transaction without any input record.
pub(super) fn timer(
    spec: &RoleSpec,
    topics: &TopicTable,
    work: &mut Incarnation,
) -> Result<(), StepError> {
    let touched: Vec<u32> = work.tasks.keys().copied().collect();

    // Do only the work of a real timer. A task without processed records has no time and no
    // position to repeat.
    if touched.is_empty() || !work.tasks.values().all(Task::has_worked) {
        return Ok(());
    }

    mutants::set_timer();
    match commit(
        spec,
        topics,
        &mut *work.member,
        &mut work.tasks,
        &touched,
        &mut Records::new(),
    ) {
        CommitOutcome::Done { suspect: false } => Ok(()),
        CommitOutcome::Fenced(why) => Err(StepError::Stop(FatalError::Fenced(why))),
        CommitOutcome::TaskFailed(_, e) => Err(e.into()),
        CommitOutcome::Done { .. }
        | CommitOutcome::Recover(_)
        | CommitOutcome::Late { .. }
        | CommitOutcome::Rejected(_)
        | CommitOutcome::TooLarge(_)
        | CommitOutcome::Refused(_) => Err(StepError::Recover(
            "the timer's transaction was not well".into(),
        )),
    }
}

/// Continues in place, as if the broker had confirmed the abort.
pub(super) fn go_back(
    work: &mut Incarnation,
    touched: &[u32],
    why: String,
) -> Result<(), StepError> {
    for number in touched {
        let task = work
            .tasks
            .get_mut(number)
            .expect("only running tasks are touched");
        if !task.go_back() {
            return Err(StepError::Recover(why));
        }

        work.member.resume(&task.meta().offsets)?;
    }

    work.left.clear();
    Ok(())
}
