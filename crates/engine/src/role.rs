//! A role as the engine sees it: a few topics and a pure function over records and state.

use super::context::Ctx;
use ports::records::{Record, Records};
use ports::topics::{TopicId, TopicPartition};

/// A topic that a role's group shares out.
#[derive(Clone, Copy, Debug)]
pub struct RoleInput {
    /// The topic.
    pub topic: TopicId,
    /// Written by another role of ours with a `(task, sequence)` header: repeated records are
    /// dropped and counted, a gap stops the task.
    pub guarded: bool,
}

/// The topics that a role reads, owns and writes; data, so that it can be printed and checked
/// before anything runs.
#[derive(Clone, Debug)]
pub struct RoleSpec {
    /// `orders`, `trading`, ...
    pub name: &'static str,
    /// Inputs. Of records with the same log time, those of an earlier input are processed first.
    pub inputs: Vec<RoleInput>,
    /// Compacted one-partition topics that every instance holds whole in memory.
    pub broadcasts: Vec<TopicId>,
    /// Topics written whose readers check `(task, sequence)`.
    pub guarded_outputs: Vec<TopicId>,
    /// Where state changes go.
    pub changelog: TopicId,
    /// Where each transaction leaves its input positions and broadcast values, for bit-exact
    /// replay. Needed by roles whose result depends on how several inputs were merged.
    pub journal: Option<TopicId>,
    /// Where unprocessable records go.
    pub dead_letters: TopicId,
    /// An input in which a task of the role is woken: when its alarm is due, when a row of a
    /// broadcast table changed, and when it begins to run. Its records bear the broker's time, so
    /// even a role that waits for a moment decides by the log alone.
    pub clock: Option<TopicId>,
    /// How long a batch waits for company after its first record. Zero where somebody waits for the
    /// answer; roles that only follow save most of their transactions by it on a busy day.
    pub linger: std::time::Duration,
    /// Whether the role looks at headers of inputs that are not guarded.
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

    /// The input partitions of a task, ascending, as meta records have them. `partitions`: counts
    /// by topic number; an input with fewer has none for it.
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

/// The record cannot be what our own roles wrote, or an invariant broke: the task stops, nothing is
/// committed, a person must look.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Bug(pub String);

/// A role's logic for one task. Synchronous and deterministic: no clock, no randomness, no
/// iteration over unordered maps. All lasting state goes through [`Ctx`]; the struct itself may
/// only keep configuration, scratch buffers and what it needs until `batch_end`. After a batch that
/// did not commit the engine makes a new one.
pub trait RoleLogic: Send {
    /// Handles one record. Bad input is answered with events or a dead letter, never with an error.
    fn process(&mut self, ctx: &mut Ctx<'_>, record: &Record<'_>) -> Result<(), Bug>;

    /// The settings that it decides by besides records and state, in a form that stays readable;
    /// they go into the journal, so that a replay decides by the same.
    fn settings(&self) -> Option<Vec<u8>> {
        None
    }

    /// Whether the records of a transaction are merged by log time. False for a replay of what was
    /// decided before they were: input by input.
    fn merges_by_log_time(&self) -> bool {
        true
    }

    /// The log time at which the role wants to be woken, if it waits for one; see
    /// [`RoleSpec::clock`].
    fn alarm_ms(&self) -> Option<i64> {
        None
    }

    /// How many records, and bytes, `batch_end` and its state changes will add, roughly: a
    /// transaction's output is bounded, and a batch ends early when there is enough of it. Asked
    /// after each record.
    fn held_back(&self) -> (usize, usize) {
        (0, 0)
    }

    /// Called once after the records of a batch and before its commit, for output that is conflated
    /// per transaction.
    fn batch_end(&mut self, _ctx: &mut Ctx<'_>) -> Result<(), Bug> {
        Ok(())
    }
}

/// Makes a role's logic for a task.
pub trait RoleFactory: Send {
    /// The role's description.
    fn spec(&self) -> &RoleSpec;
    /// Logic for task `task`.
    fn make(&self, task: u32) -> Box<dyn RoleLogic>;
    /// The same logic for a replay of a journal that says nothing about settings: by the rules of
    /// the time in which journals did not.
    fn make_unrecorded(&self, task: u32) -> Box<dyn RoleLogic> {
        self.make(task)
    }
    /// The same logic under settings that a journal has; see [`RoleLogic::settings`]. An error: a newer
    /// version wrote them.
    fn make_under(&self, _settings: &[u8], _task: u32) -> Result<Box<dyn RoleLogic>, String> {
        Err("the journal has settings, and this version of the role knows of none: use the version that wrote it".into())
    }
    /// Whether a record may change a broadcast table. One that may not is passed over, and the row
    /// before it stays in force: a bad record changes nothing.
    fn accepts_broadcast(&self, _record: &Record<'_>) -> bool {
        true
    }
    /// Extra records that belong to a broadcast table although they are not in its topic yet; asked
    /// once per incarnation, before anything runs. `orders` uses it for ticks that `trading` has
    /// not turned into reference prices. The records' keys and values are the table's.
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
