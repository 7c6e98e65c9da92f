//! One installation as a process sees it: the log, topic names, the root of local state, and the
//! settings of the roles.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

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

use super::lag;
use super::supervisor::InstanceSpec;

/// Longest time that the transaction of a dead predecessor can stay open: transaction timeout, the
/// broker's check interval, and slack.
const TAKEOVER_WAIT: Duration = Duration::from_secs(45);
/// Longest wait for the first contact with the log.
const STARTUP_WAIT: Duration = Duration::from_secs(30);
/// Longest wait for input. On an idle system, a stop takes effect after at most this time.
const IDLE_WAIT: Duration = Duration::from_millis(100);
/// Memory of each role's cache of committed values.
const CACHE_BYTES: usize = 64 << 20;

/// The parts of an installation that every command needs.
#[derive(Clone)]
pub struct Installation {
    pub log: Arc<dyn Log>,
    pub topics: Arc<TopicTable>,
    /// Root directory of local state.
    pub state: PathBuf,
    /// Instance number of the roles in this process.
    pub instance: u32,
    pub roles: RoleSettings,
    /// Limits of one transaction.
    pub limits: Limits,
    /// Interval of scrubbing each store while it runs; zero: never.
    pub scrub_every: Duration,
    /// A stop makes instances leave their groups.
    pub leave: bool,
    /// Tasks of other instances that this process keeps as standbys.
    pub standby: Standby,
    /// Longest wait for a predecessor that still locks the local state.
    pub lock_wait: Duration,
    /// Memory shared by the stores of this process.
    pub memory: SharedMemory,
}

impl Installation {
    /// Consumer group of a role.
    pub fn group(&self, role: Role) -> String {
        format!("{}processor-{}", self.topics.prefix(), role.name())
    }

    /// Partition counts by topic number. The error names the first missing topic.
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

    /// Number of tasks of a role: the partitions of its changelog.
    pub fn tasks(&self, role: Role) -> Result<u32, LogError> {
        Ok(self.partitions()?[self.factory(role)?.spec().changelog.0 as usize])
    }

    /// Records that some role has yet to process. The roles are checked in the order of the record
    /// flow, so 0 means that no record was in flight.
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

    /// The factory of a role's tasks.
    pub fn factory(&self, role: Role) -> Result<Box<dyn RoleFactory>, LogError> {
        let count = self.partitions()?[topics::ORDER_COMMANDS.0 as usize];
        Ok(roles::factory(role, self.roles, self.topics.clone(), count))
    }

    /// Like [`Installation::factory`], for a replay of past transactions of `task`.
    pub fn replay_factory(&self, role: Role, task: u32) -> Result<Box<dyn RoleFactory>, LogError> {
        let count = self.partitions()?[topics::ORDER_COMMANDS.0 as usize];
        let links = if role == Role::Audit {
            links::of_task(&*self.log, &self.topics, task)?
        } else {
            roles::EarlyLinks::default()
        };

        Ok(roles::replay_factory(
            role,
            self.roles,
            self.topics.clone(),
            count,
            links,
        ))
    }

    /// Opens and locks the local state of a role.
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

    /// The specification of a role's instance, for a supervisor.
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

    /// Creates the missing topics. Existing topics must have the right settings. `many` is the
    /// partition count of topics that are not broadcast. `each` receives every topic's name, and
    /// true if the topic was created.
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

        // Create all topics or none: after the repair of a wrong topic, the new topics would have
        // to be created again.
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

/// Converts a log error before the start of a role into the error that ends the process.
pub fn stop_log(e: LogError) -> FatalError {
    match e {
        LogError::Unavailable(_) | LogError::Io(_) => FatalError::Failed(e.to_string()),
        LogError::Fenced(why) => FatalError::Fenced(why),
        LogError::Invalid(why) | LogError::Refused(why) => FatalError::Invalid(why),
        LogError::Corrupt(_) => FatalError::Bug(e.to_string()),
    }
}

/// Converts a store error before the start of a role into the error that ends the process.
pub fn stop_store(e: StoreError) -> FatalError {
    match e {
        // The process that holds the store ends at some time, so a later restart helps.
        StoreError::Io(_) | StoreError::Held(_) => FatalError::Failed(e.to_string()),
        StoreError::Corrupt(_) => FatalError::Bug(e.to_string()),
        StoreError::Invalid(why) => FatalError::Invalid(why),
    }
}
