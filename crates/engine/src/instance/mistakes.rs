//! Two of the mistakes in [`faults::mutants`], in the place of the loop's own steps. For
//! tests only.

use super::super::commit::{Commit, commit};
use super::{Halt, Incarnation, Records, RoleSpec, Stop, Task, TopicTable, mutants};

/// A transaction that no record caused.
pub(super) fn timer(
    spec: &RoleSpec,
    topics: &TopicTable,
    work: &mut Incarnation,
) -> Result<(), Halt> {
    let touched: Vec<u32> = work.tasks.keys().copied().collect();

    // Only what a working timer would do: a task that has done nothing yet has no time and no
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
        Commit::Done { suspect: false } => Ok(()),
        Commit::Fenced(why) => Err(Halt::Stop(Stop::Fenced(why))),
        Commit::TaskFailed(_, e) => Err(e.into()),
        Commit::Done { .. }
        | Commit::Recover(_)
        | Commit::Late { .. }
        | Commit::Rejected(_)
        | Commit::TooLarge(_)
        | Commit::Refused(_) => Err(Halt::Recover("the timer's transaction was not well".into())),
    }
}

/// Goes on in place, as if the transaction were certainly aborted.
pub(super) fn go_back(work: &mut Incarnation, touched: &[u32], why: String) -> Result<(), Halt> {
    for number in touched {
        let task = work
            .tasks
            .get_mut(number)
            .expect("only running tasks are touched");
        if !task.go_back() {
            return Err(Halt::Recover(why));
        }

        work.member.resume(&task.meta().offsets)?;
    }

    work.left.clear();
    Ok(())
}
