//! Status of an instance, for people.

use std::collections::BTreeMap;

use ports::topics::TopicPartition;

use super::super::restore::RestoreProgress;
use super::{Counters, Instance};

/// Status of one task, for people.
#[derive(Clone, Debug)]
pub enum TaskView {
    /// The task reads its changelog.
    Restoring(RestoreProgress),
    /// Another instance runs the task; this instance keeps a warm copy.
    Standby(RestoreProgress),
    Running {
        /// Number of the last transaction.
        transaction: u64,
        /// State digest as text.
        digest: String,
        /// Next offset of each input.
        inputs: Vec<(TopicPartition, u64)>,
    },
}

impl Instance {
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// The reason for the end of the last incarnation, if nothing was committed since.
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// Returns `recovering`, `joining`, `restoring` or `running`.
    pub fn phase(&self) -> &'static str {
        match &self.work {
            None if self.counters.recoveries > 0 => "recovering",
            None => "joining",
            Some(w) if !w.restoring.is_empty() => "restoring",
            // The instance waits for partitions: for a moment, or because the group has more
            // instances than partitions.
            Some(w) if w.tasks.is_empty() => "joining",
            Some(_) => "running",
        }
    }

    /// Number of running tasks.
    pub fn running(&self) -> usize {
        self.work.as_ref().map_or(0, |work| work.tasks.len())
    }

    /// Status of every task.
    pub fn tasks(&self) -> BTreeMap<u32, TaskView> {
        let Some(work) = &self.work else {
            return BTreeMap::new();
        };

        let shown = self.restorer.shown();
        let standbys = shown
            .standbys
            .iter()
            .map(|(n, p)| (*n, TaskView::Standby(*p)));
        let restoring = work.restoring.iter().map(|n| {
            (
                *n,
                TaskView::Restoring(shown.restores.get(n).copied().unwrap_or_default()),
            )
        });

        let running = work.tasks.iter().map(|(n, t)| {
            let m = t.meta();
            (
                *n,
                TaskView::Running {
                    transaction: m.transaction,
                    digest: m.digest.to_string(),
                    inputs: m.offsets.clone(),
                },
            )
        });

        standbys.chain(restoring).chain(running).collect()
    }
}
