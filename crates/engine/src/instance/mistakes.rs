//! Loop steps of two mutants in [`faults::mutants`]. For tests only.

use ports::TransactionOutcome;

use super::super::commit::{CommitError, commit};
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
        Ok(false) => Ok(()),
        Err(CommitError::Transaction(TransactionOutcome::Fenced(why))) => {
            Err(StepError::Stop(FatalError::Fenced(why)))
        }
        Err(CommitError::TaskFailed(_, e)) => Err(e.into()),
        Ok(true)
        | Err(CommitError::Transaction(_) | CommitError::TooLarge(_) | CommitError::NoOffset(_)) => {
            Err(StepError::Recover(
                "the timer's transaction was not well".into(),
            ))
        }
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
