//! An instance as it shows itself to people.

use std::collections::BTreeMap;

use super::super::restore::RestoreProgress;
use super::{Counters, Instance};
use ports::topics::TopicPartition;

/// The state of one task, for people.
#[derive(Clone, Debug)]
pub enum TaskView {
    /// Catching up with the changelog.
    Restoring(RestoreProgress),
    /// Run by another instance; kept warm here.
    Standby(RestoreProgress),
    /// At work.
    Running {
        /// Transactions so far.
        transaction: u64,
        /// State digest as text.
        digest: String,
        /// Next offsets.
        inputs: Vec<(TopicPartition, u64)>,
    },
}

impl Instance {
    /// The counters since the process began.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Why the last incarnation ended, if nothing was committed since.
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// `joining`, `restoring` or `running`.
    pub fn phase(&self) -> &'static str {
        match &self.work {
            None if self.counters.recoveries > 0 => "recovering",
            None => "joining",
            Some(w) if !w.restoring.is_empty() => "restoring",
            // Without partitions it waits for its share, be it for a moment or because there are
            // more instances than partitions.
            Some(w) if w.tasks.is_empty() => "joining",
            Some(_) => "running",
        }
    }

    /// How many tasks run.
    pub fn running(&self) -> usize {
        self.work.as_ref().map_or(0, |work| work.tasks.len())
    }

    /// Every task and what it is doing.
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
