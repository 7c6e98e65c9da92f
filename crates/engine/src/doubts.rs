//! Broken invariants that wait for a second look with fresh state (decision 0006).
//!
//! The first finding ends the incarnation. The same finding in the next incarnation stops the
//! instance. A finding that comes again much later is a new first finding: the second look long ago
//! found nothing. So a doubt has an age. The age begins when fresh state runs, because a restore may
//! take longer than a doubt lasts.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A doubt ends after fresh state has run for this long.
const LASTS: Duration = Duration::from_secs(120);
/// Most doubts kept. One finding ends the incarnation, so few doubts are open together.
const KEPT_MAX: usize = 256;

/// The task with the finding, if any, and the text of the finding.
type Finding = (Option<u32>, String);

/// A finding that waits for the second look.
struct Doubt {
    found_us: u64,
    /// The time at which fresh state began to run. `None` before, for example during a restore.
    runs_since_us: Option<u64>,
}

impl Doubt {
    fn is_over(&self, now_us: u64) -> bool {
        self.runs_since_us
            .is_some_and(|since| Duration::from_micros(now_us.saturating_sub(since)) >= LASTS)
    }
}

/// Open doubts of an instance.
#[derive(Default)]
pub(super) struct Doubts(BTreeMap<Finding, Doubt>);

impl Doubts {
    /// Notes a finding. Returns true at the second finding: the finding is a fact.
    pub(super) fn found(&mut self, task: Option<u32>, text: &str, now_us: u64) -> bool {
        self.0.retain(|_, doubt| !doubt.is_over(now_us));
        let finding = (task, text.to_string());
        if self.0.contains_key(&finding) {
            return true;
        }

        if self.0.len() >= KEPT_MAX {
            let oldest = self.0.iter().min_by_key(|(_, doubt)| doubt.found_us);
            if let Some(oldest) = oldest.map(|(finding, _)| finding.clone()) {
                self.0.remove(&oldest);
            }
        }

        let doubt = Doubt {
            found_us: now_us,
            runs_since_us: None,
        };

        self.0.insert(finding, doubt);
        false
    }

    /// Notes the tasks of a new assignment. Other instances look at all other tasks, so the doubts
    /// about those tasks end. The doubts about the assigned tasks stay: the new incarnation takes
    /// the second look.
    pub(super) fn assigned(&mut self, tasks: &BTreeSet<u32>) {
        self.0
            .retain(|(task, _), _| task.is_none_or(|task| tasks.contains(&task)));
    }

    /// Notes that a task runs with fresh state.
    pub(super) fn runs(&mut self, task: u32, now_us: u64) {
        self.begin_age(Some(task), now_us);
    }

    /// Notes that all assigned tasks run. The age of doubts without a task begins.
    pub(super) fn all_run(&mut self, now_us: u64) {
        self.begin_age(None, now_us);
    }

    /// Notes a commit of the work of `tasks`: each of them got past the record in doubt.
    pub(super) fn committed(&mut self, tasks: &[u32], now_us: u64) {
        self.0.retain(|(task, _), doubt| match task {
            Some(task) => !tasks.contains(task),
            None => !doubt.is_over(now_us),
        });
    }

    fn begin_age(&mut self, of: Option<u32>, now_us: u64) {
        for ((task, _), doubt) in &mut self.0 {
            if *task == of {
                doubt.runs_since_us.get_or_insert(now_us);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000;

    #[test]
    fn the_second_finding_is_a_fact() {
        let mut doubts = Doubts::default();
        assert!(!doubts.found(Some(3), "a", S));
        assert!(!doubts.found(Some(4), "a", S), "another task");
        assert!(!doubts.found(Some(3), "b", S), "another finding");
        doubts.runs(3, 2 * S);
        assert!(doubts.found(Some(3), "a", 121 * S));
    }

    #[test]
    fn a_finding_long_after_the_second_look_is_a_first_finding() {
        for task in [Some(3), None] {
            let mut doubts = Doubts::default();
            assert!(!doubts.found(task, "a", S));
            doubts.runs(3, 2 * S);
            doubts.all_run(2 * S);
            assert!(!doubts.found(task, "a", 122 * S));
            assert!(doubts.found(task, "a", 123 * S));
        }
    }

    #[test]
    fn the_time_of_a_restore_does_not_count() {
        for task in [Some(3), None] {
            let mut doubts = Doubts::default();
            assert!(!doubts.found(task, "a", 0));
            doubts.assigned(&BTreeSet::from([3]));
            doubts.runs(4, S);
            assert!(doubts.found(task, "a", 1_000 * S));
        }
    }

    #[test]
    fn a_commit_and_a_move_of_the_task_end_its_doubts() {
        let mut doubts = Doubts::default();
        for task in [1, 2, 3] {
            assert!(!doubts.found(Some(task), "a", 0));
        }

        doubts.committed(&[1], S);
        doubts.assigned(&BTreeSet::from([1, 2]));
        assert!(!doubts.found(Some(1), "a", S), "committed");
        assert!(doubts.found(Some(2), "a", S), "assigned again");
        assert!(!doubts.found(Some(3), "a", S), "assigned elsewhere");
    }

    #[test]
    fn the_oldest_doubt_gives_way() {
        let mut doubts = Doubts::default();
        for n in 0..=KEPT_MAX as u64 {
            assert!(!doubts.found(None, &format!("{n}"), n));
        }

        assert_eq!(doubts.0.len(), KEPT_MAX);
        assert!(doubts.found(None, "1", S));
        assert!(!doubts.found(None, "0", S), "the oldest");
    }
}
