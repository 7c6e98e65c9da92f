//! The engine's interface to a role: a few topics, and a pure function over records and state.

use ports::records::{Record, Records};
use ports::topics::{TopicId, TopicPartition};

use super::context::Ctx;

/// An input topic of a role. The consumer group shares out its partitions.
#[derive(Clone, Copy, Debug)]
pub struct RoleInput {
    pub topic: TopicId,
    /// True if another role writes the topic with a `(task, sequence)` header. Repeated records are
    /// dropped and counted, and a gap stops the task.
    pub guarded: bool,
}

/// Topics that a role reads, owns and writes. The spec is data, so a tool can print and check the
/// spec before a start.
#[derive(Clone, Debug)]
pub struct RoleSpec {
    /// `orders`, `trading`, ...
    pub name: &'static str,
    /// Input topics in order. Among records with the same log time, those of an earlier input come
    /// first.
    pub inputs: Vec<RoleInput>,
    /// Compacted topics of one partition. Every instance keeps all their rows in memory.
    pub broadcasts: Vec<TopicId>,
    /// Output topics with `(task, sequence)` headers for their readers.
    pub guarded_outputs: Vec<TopicId>,
    /// Topic for state changes.
    pub changelog: TopicId,
    /// Topic for the input positions and broadcast values of each transaction, for bit-exact
    /// replay. Required for roles with results that depend on the merge order of several inputs.
    pub journal: Option<TopicId>,
    /// Topic for unprocessable records.
    pub dead_letters: TopicId,
    /// Input topic with the wake-ups of tasks: at a due alarm, after a change of a broadcast row,
    /// and at the start of a task. The broker stamps the records, so a role with deadlines decides
    /// by the log alone.
    pub clock: Option<TopicId>,
    /// Wait for more records after the first record of a batch. Zero if a client waits for
    /// the answer. Other roles save most of their transactions with a linger time on a busy day.
    pub linger: std::time::Duration,
    /// True if the role reads headers of unguarded inputs.
    pub headers: bool,
}

impl RoleSpec {
    /// A role with one input, no broadcast tables, no journal and no wake-ups.
    pub fn new(
        name: &'static str,
        input: TopicId,
        changelog: TopicId,
        dead_letters: TopicId,
    ) -> RoleSpec {
        RoleSpec {
            name,
            inputs: vec![RoleInput {
                topic: input,
                guarded: false,
            }],
            broadcasts: Vec::new(),
            guarded_outputs: Vec::new(),
            changelog,
            journal: None,
            dead_letters,
            clock: None,
            linger: std::time::Duration::ZERO,
            headers: false,
        }
    }

    /// The input partitions of a task, ascending, as in meta records. `partitions` has the
    /// partition counts by topic number. An input with too few partitions is left out.
    pub fn inputs_of(&self, task: u32, partitions: &[u32]) -> Vec<TopicPartition> {
        let all = self
            .inputs
            .iter()
            .map(|i| TopicPartition::new(i.topic, task));
        let mut own: Vec<_> = all
            .filter(|at| at.partition < partitions[at.topic.0 as usize])
            .collect();
        own.sort();
        own
    }
}

/// No role of ours can have written the record, or an invariant broke. The task stops without a
/// commit, and a person must look.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct InvariantViolation(pub String);

/// A role's logic for one task.
///
/// The logic is synchronous and deterministic: no clock, no random numbers, no iteration over
/// unordered maps. All lasting state goes through [`Ctx`]. The struct itself may keep only
/// configuration, scratch buffers and data for `batch_end`. After a batch without a commit the
/// engine makes a new logic.
pub trait RoleLogic: Send {
    /// Handles one record. The role answers bad input with events or a dead letter, never with an
    /// error.
    fn process(&mut self, ctx: &mut Ctx<'_>, record: &Record<'_>)
    -> Result<(), InvariantViolation>;

    /// The role's settings besides records and state, in a form that stays readable. The journal
    /// records the settings, so a replay decides by the same settings.
    fn settings(&self) -> Option<Vec<u8>> {
        None
    }

    /// True if the records of a transaction are merged by log time. False in a replay of old
    /// transactions, processed input by input.
    fn merges_by_log_time(&self) -> bool {
        true
    }

    /// The log time of the next wake-up in milliseconds, if any; see [`RoleSpec::clock`].
    fn alarm_ms(&self) -> Option<i64> {
        None
    }

    /// Rough number of records and bytes that `batch_end` and its state changes will add. The
    /// engine asks after each record and ends the batch when the transaction is full.
    fn held_back(&self) -> (usize, usize) {
        (0, 0)
    }

    /// Called once after the records of a batch and before the commit. Roles emit conflated output
    /// here.
    fn batch_end(&mut self, _ctx: &mut Ctx<'_>) -> Result<(), InvariantViolation> {
        Ok(())
    }
}

/// Makes a role's logic for a task.
pub trait RoleFactory: Send {
    fn spec(&self) -> &RoleSpec;
    fn make(&self, task: u32) -> Box<dyn RoleLogic>;
    /// Logic for a replay of a journal without settings. Decides by the rules of the versions that
    /// recorded no settings.
    fn make_unrecorded(&self, task: u32) -> Box<dyn RoleLogic> {
        self.make(task)
    }
    /// Logic for a replay under the settings of a journal; see [`RoleLogic::settings`]. An error
    /// means that a newer version wrote the settings.
    fn make_under(&self, _settings: &[u8], _task: u32) -> Result<Box<dyn RoleLogic>, String> {
        Err("the journal has settings, and this version of the role knows of none: use the version that wrote it".into())
    }
    /// True if a record may change a broadcast table. A refused record is skipped, and the earlier
    /// row stays in force.
    fn accepts_broadcast(&self, _record: &Record<'_>) -> bool {
        true
    }
    /// Extra rows of a broadcast table that are not in its topic yet. The engine asks once in each
    /// incarnation, before any task runs. `orders` returns rows for ticks that `trading` has not
    /// turned into reference prices yet. The keys and values of the records are those of the table.
    fn seed_broadcast(
        &self,
        _topic: TopicId,
        _log: &dyn ports::Log,
        _clock: &dyn ports::Clock,
        _loaded: &super::broadcast::Tables,
    ) -> Result<Records, ports::LogError> {
        Ok(Records::new())
    }
}
