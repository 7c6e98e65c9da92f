//! One installation as a process sees it: the log, the names of its topics, where local state is,
//! and the settings of the roles.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::lag;
use super::supervisor::InstanceSpec;
use audit::links;
use engine::instance::{FatalError, Instance, InstanceSettings};
use engine::restore::Standby;
use engine::role::RoleFactory;
use os::clock::SystemClock;
use ports::topics::{Partitions, TopicTable};
use ports::{Limits, Log, LogError, StoreError};
use roles::{self, Role, RoleSettings};
use store::dir::StateIdentity;
use store::rocks::{RocksStores, SharedMemory};
use wire::topics;

/// Transaction timeout, the broker's check interval, and slack: the longest that a dead
/// predecessor's transaction can stay pending.
const TAKEOVER_WAIT: Duration = Duration::from_secs(45);
/// How long the first contact with the log may take.
const STARTUP_WAIT: Duration = Duration::from_secs(30);
/// Longest wait for input; a stop is seen this late on an idle system.
const IDLE_WAIT: Duration = Duration::from_millis(100);
/// Committed values each role keeps in memory.
const CACHE_BYTES: usize = 64 << 20;

/// See the module.
#[derive(Clone)]
pub struct Installation {
    /// The log.
    pub log: Arc<dyn Log>,
    /// Names of topics.
    pub topics: Arc<TopicTable>,
    /// Root of local state.
    pub state: PathBuf,
    /// Instance number of the roles that this process runs.
    pub instance: u32,
    /// Settings of the roles.
    pub roles: RoleSettings,
    /// Bounds of one transaction.
    pub limits: Limits,
    /// How often each store is looked through while it runs; zero: never.
    pub scrub_every: Duration,
    /// Whether instances leave their groups when they are stopped.
    pub leave: bool,
    /// Of which tasks that other instances run warm copies are kept.
    pub standby: Standby,
    /// How long to wait for a predecessor that still holds the local state.
    pub lock_wait: Duration,
    /// Memory that the stores of this process share.
    pub memory: SharedMemory,
}

impl Installation {
    /// Consumer group of a role.
    pub fn group(&self, role: Role) -> String {
        format!("{}processor-{}", self.topics.prefix(), role.name())
    }

    /// Partition counts by topic number; an error names the first topic that is missing.
    pub fn partitions(&self) -> Result<Arc<[u32]>, LogError> {
        let count = |t| {
            let missing = || {
                LogError::Invalid(format!(
                    "topic {} does not exist; run `processor topics create` first",
                    self.topics.name(t)
                ))
            };

            self.log.partitions(t)?.ok_or_else(missing)
        };

        self.topics.iter().map(count).collect()
    }

    /// How many tasks a role has: the partitions of its changelog.
    pub fn tasks(&self, role: Role) -> Result<u32, LogError> {
        Ok(self.partitions()?[self.factory(role)?.spec().changelog.0 as usize])
    }

    /// Records that some role has yet to handle. The roles are asked in the order in which records
    /// flow, so 0 means that nothing was on its way.
    pub fn unread(&self) -> Result<u64, LogError> {
        let mut records = 0;
        for role in Role::all() {
            records += lag::of_role(&*self.log, role, &self.group(role))?
                .iter()
                .map(|lag| lag.records)
                .sum::<u64>();
        }

        Ok(records)
    }

    /// A role's logic.
    pub fn factory(&self, role: Role) -> Result<Box<dyn RoleFactory>, LogError> {
        let count = self.partitions()?[topics::ORDER_COMMANDS.0 as usize];
        Ok(roles::factory(role, self.roles, self.topics.clone(), count))
    }

    /// The same to do again what a task did before.
    pub fn factory_of_past(&self, role: Role, task: u32) -> Result<Box<dyn RoleFactory>, LogError> {
        let count = self.partitions()?[topics::ORDER_COMMANDS.0 as usize];
        let links = if role == Role::Audit {
            links::of_task(&*self.log, &self.topics, task)?
        } else {
            roles::EarlyLinks::default()
        };

        Ok(roles::factory_of_past(
            role,
            self.roles,
            self.topics.clone(),
            count,
            links,
        ))
    }

    /// Opens the local state of a role for this process alone.
    pub fn local_state(&self, role: Role) -> Result<RocksStores, FatalError> {
        let identity = self.identity(role)?;
        RocksStores::open(
            &self.state,
            &self.instance.to_string(),
            &identity,
            self.lock_wait,
            &self.memory,
        )
        .map_err(stop_store)
    }

    fn identity(&self, role: Role) -> Result<StateIdentity, FatalError> {
        let belongs = || {
            Ok(StateIdentity::new(
                &self.log.cluster_id()?,
                self.topics.prefix(),
                role.name(),
                self.tasks(role)?,
            ))
        };

        belongs().map_err(stop_log)
    }

    /// An instance of a role, to be run by a supervisor.
    pub fn member(&self, role: Role) -> InstanceSpec {
        let system = self.clone();
        InstanceSpec {
            role: role.name(),
            instance: self.instance,
            leave: self.leave,
            make: Box::new(move || system.instance(role)),
        }
    }

    fn instance(&self, role: Role) -> Result<Instance, FatalError> {
        let stores = RocksStores::open_later(
            &self.state,
            &self.instance.to_string(),
            &self.identity(role)?,
            &self.memory,
        );
        let stores = stores.map_err(stop_store)?;
        let settings = InstanceSettings {
            group: self.group(role),
            instance: format!("{}-{}", self.group(role), self.instance),
            limits: self.limits,
            idle_wait: IDLE_WAIT,
            takeover_wait: TAKEOVER_WAIT,
            startup_wait: STARTUP_WAIT,
            cache_bytes: CACHE_BYTES,
            standby: self.standby,
        };

        let log = self.log.clone();
        let clock = Box::new(SystemClock::new());
        let factory = self.factory(role).map_err(stop_log)?;
        let mut instance = Instance::new(
            log,
            Box::new(stores),
            clock,
            factory,
            self.topics.clone(),
            settings,
        );

        instance.scrub_every(Some(self.scrub_every));
        let spawn = |name: String, work: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new().name(name).spawn(work).map(drop)
        };

        instance
            .restore_in_thread(spawn)
            .map_err(|e| FatalError::Failed(format!("no thread can be started: {e}")))
    }

    /// Makes the topics that are missing; those that exist must fit. `many` is the number of
    /// partitions of all that are not broadcast. `each` is told every topic's name and whether it
    /// was made.
    pub fn create_topics(
        &self,
        many: u32,
        each: &mut dyn FnMut(&str, bool),
    ) -> Result<(), LogError> {
        let mut wrong = Vec::new();
        let mut missing = Vec::new();
        for topic in self.topics.iter() {
            let name = self.topics.name(topic);
            let spec = self.topics.spec(topic);
            let want = match spec.partitions {
                Partitions::Many => many,
                Partitions::One => 1,
            };

            let Some(state) = self.log.describe_topic(topic, spec)? else {
                missing.push((topic, want));
                continue;
            };

            wrong.extend(state.mismatches.iter().map(|m| format!("{name}: {m}")));
            if state.partitions != want {
                wrong.push(format!(
                    "{name}: {} partitions where {want} are wanted",
                    state.partitions
                ));
            }

            each(name, false);
        }

        // All or none: topics made beside some that do not fit would have to be made again once
        // those are put right.
        for (topic, count) in missing.into_iter().filter(|_| wrong.is_empty()) {
            self.log
                .create_topic(topic, self.topics.spec(topic), count)?;
            each(self.topics.name(topic), true);
        }

        if wrong.is_empty() {
            return Ok(());
        }

        Err(LogError::Invalid(format!(
            "existing topics do not fit:\n  {}\n`processor topics create --fix` changes their settings; a partition count cannot change: use another \
             --topic-prefix, or the same --partitions",
            wrong.join("\n  ")
        )))
    }
}

/// The end that a failing log means before anything runs.
pub fn stop_log(e: LogError) -> FatalError {
    match e {
        LogError::Unavailable(_) | LogError::Io(_) => FatalError::Failed(e.to_string()),
        LogError::Fenced(why) => FatalError::Fenced(why),
        LogError::Invalid(why) | LogError::Refused(why) => FatalError::Invalid(why),
        LogError::Corrupt(_) => FatalError::Bug(e.to_string()),
    }
}

/// The end that a failing store means before anything runs.
pub fn stop_store(e: StoreError) -> FatalError {
    match e {
        // The process that holds the store ends some day: starting again later helps.
        StoreError::Io(_) | StoreError::Held(_) => FatalError::Failed(e.to_string()),
        StoreError::Corrupt(_) => FatalError::Bug(e.to_string()),
        StoreError::Invalid(why) => FatalError::Invalid(why),
    }
}
