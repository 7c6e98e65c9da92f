//! The role, its log and its store, as copies for each test.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use engine::instance::{FatalError, Instance, InstanceSettings};
use log_local::{LocalLog, LocalOptions, Memory};
use os::clock::SystemClock;
use ports::partitioner;
use ports::records::{HeaderBuf, Record, Records};
use ports::topics::{Partitions, TopicId, TopicPartition, TopicTable};
use ports::{Limits, Log, StartOffset, StoreError, Stores};
use roles::{Role, RoleSettings, factory};
use store::dir::StateIdentity;
use store::memory::MemoryStores;
use store::rocks::{RocksStores, SharedMemory};
use wire::topics as t;

/// One task, and therefore one store.
const PARTITIONS: u32 = 1;
const USERS: u64 = 120;
/// Incarnations that made the store. Each leaves a table behind, and the last one a write-ahead
/// log.
const LIVES: u64 = 4;
const COMMANDS: u64 = 600;

fn settings() -> RoleSettings {
    RoleSettings {
        rate_limit: 0,
        client_transfers: true,
        ..Default::default()
    }
}

fn table() -> Arc<TopicTable> {
    Arc::new(t::table(""))
}

fn log_on(storage: &Memory) -> LocalLog {
    // A clock that stands still, so the twin's records carry the same times.
    let options = LocalOptions {
        clock: Arc::new(|| 1_800_000_000_000),
        ..Default::default()
    };

    LocalLog::with_storage(Box::new(storage.clone()), &table(), options).expect("a log in memory")
}

fn identity() -> StateIdentity {
    StateIdentity::new("cluster", "", "orders", PARTITIONS)
}

/// The state from which every fault begins.
pub struct Baseline {
    storage: Memory,
    dir: tempfile::TempDir,
    /// All events of the twin after the probes.
    expected: Vec<u8>,
}

impl Baseline {
    /// Made once for all tests of the process.
    pub fn get() -> &'static Baseline {
        static MADE: OnceLock<Baseline> = OnceLock::new();
        MADE.get_or_init(Baseline::make)
    }

    fn make() -> Baseline {
        let storage = Memory::default();
        let dir = tempfile::tempdir().expect("a directory");
        {
            let log = log_on(&storage);
            for topic in table().iter() {
                let count = if table().spec(topic).partitions == Partitions::One {
                    1
                } else {
                    PARTITIONS
                };

                log.create_topic(topic, table().spec(topic), count)
                    .expect("a topic");
            }
        }

        for life in 0..LIVES {
            let stage = Stage {
                log: log_on(&storage),
                state: dir.path().to_path_buf(),
                _dir: None,
            };

            for n in life * COMMANDS..(life + 1) * COMMANDS {
                stage.deposit(n % USERS, n, 100 + n);
            }

            let mut instance = stage.instance(None);
            stage.drain(&mut instance).expect("no fault yet");
        }

        let twin = Stage {
            log: log_on(&storage.fork()),
            state: dir.path().to_path_buf(),
            _dir: None,
        };

        let mut instance = twin.run(Box::new(MemoryStores::default()), None);
        twin.probe();
        twin.drain(&mut instance).expect("the twin meets no fault");
        Baseline {
            expected: twin.events(),
            storage,
            dir,
        }
    }

    /// The directory of the store, for reading.
    pub fn store(&self) -> PathBuf {
        self.dir.path().join("orders/1/0")
    }

    /// A copy of log and store.
    pub fn stage(&self) -> Stage {
        let dir = tempfile::tempdir().expect("a directory");
        copy_dir(self.dir.path(), dir.path());
        Stage {
            log: log_on(&self.storage.fork()),
            state: dir.path().to_path_buf(),
            _dir: Some(dir),
        }
    }

    /// Compares all events after the probes with the twin's events.
    pub fn check(&self, stage: &Stage, what: &str) {
        let got = stage.events();
        let at = got
            .iter()
            .zip(&self.expected)
            .position(|(a, b)| a != b)
            .unwrap_or(got.len().min(self.expected.len()));
        assert!(
            got == self.expected,
            "{what}: the events differ from the twin's at byte {at} of {} ({})",
            self.expected.len(),
            got.len()
        );
    }

    /// After a stop, the events so far must be a prefix of the twin's events.
    pub fn check_prefix(&self, stage: &Stage, what: &str) {
        assert!(
            self.expected.starts_with(&stage.events()),
            "{what}: answered wrongly before it stopped"
        );
    }
}

pub struct Stage {
    log: LocalLog,
    state: PathBuf,
    _dir: Option<tempfile::TempDir>,
}

impl Stage {
    pub fn store(&self) -> PathBuf {
        self.state.join("orders/1/0")
    }

    /// Number of quarantined stores.
    pub fn put_aside(&self) -> usize {
        let entries = std::fs::read_dir(self.state.join("orders/1")).expect("a directory");
        entries
            .flatten()
            .filter(|e| e.file_name().to_string_lossy().contains("quarantine"))
            .count()
    }

    pub fn rocks(&self) -> RocksStores {
        self.try_rocks().expect("the directory is right")
    }

    pub fn try_rocks(&self) -> Result<RocksStores, StoreError> {
        RocksStores::open_later(&self.state, "1", &identity(), &SharedMemory::default())
    }

    pub fn instance(&self, scrub: Option<Duration>) -> Instance {
        self.run(Box::new(self.rocks()), scrub)
    }

    fn run(&self, stores: Box<dyn Stores>, scrub: Option<Duration>) -> Instance {
        let loop_settings = InstanceSettings {
            group: "processor-orders".into(),
            instance: "processor-orders-1".into(),
            limits: Limits {
                records: 40,
                bytes: 1 << 20,
                age: Duration::from_millis(5),
            },
            idle_wait: Duration::from_millis(1),
            takeover_wait: Duration::from_millis(500),
            startup_wait: Duration::from_secs(2),
            cache_bytes: 1 << 16,
            standby: engine::restore::Standby::None,
        };

        let log = Arc::new(self.log.clone());
        let clock = Box::new(SystemClock::new());
        let logic = factory(Role::Orders, settings(), table(), PARTITIONS);
        let mut instance = Instance::new(log, stores, clock, logic, table(), loop_settings);
        instance.scrub_every(scrub);
        instance
    }

    fn append(&self, topic: TopicId, key: &str, value: &str) {
        self.append_raw(topic, key.as_bytes(), value.as_bytes(), &[]);
    }

    pub fn append_raw(&self, topic: TopicId, key: &[u8], value: &[u8], headers: &[(&str, &[u8])]) {
        let mut appender = self.log.appender().expect("an appender");
        let at = TopicPartition::new(topic, partitioner::partition(key, PARTITIONS));
        let mut packed = HeaderBuf::default();
        for (name, value) in headers {
            packed.push(name, value);
        }

        let record = Record {
            at,
            offset: 0,
            timestamp_ms: 0,
            key: Some(key),
            value: Some(value),
            headers: packed.headers(),
        };

        appender.append(&record).expect("appended");
        appender.flush(Duration::from_secs(5)).expect("flushed");
    }

    pub fn deposit(&self, user: u64, id: u64, amount: u64) {
        let value = format!(
            r#"{{"user_id":"u{user}","order_id":"{id}","command":"deposit","amount":{amount}}}"#
        );
        self.append(t::ORDER_COMMANDS, &format!("u{user}"), &value);
    }

    /// Touches every account, and repeats old ids of all ages, some with another amount, which must
    /// be noticed.
    pub fn probe(&self) {
        for user in 0..USERS {
            self.deposit(user, 1_000_000 + user, 7);
        }

        for n in (0..LIVES * COMMANDS).step_by(13) {
            self.deposit(n % USERS, n, 100 + n);
            self.deposit(n % USERS, n, 99);
        }
    }

    /// Steps until all commands are answered.
    pub fn drain(&self, instance: &mut Instance) -> Result<(), FatalError> {
        let at = [TopicPartition::new(t::ORDER_COMMANDS, 0)];
        let end = self.log.bounds(at[0]).expect("bounds").end;
        for _ in 0..20_000 {
            instance.step()?;
            if instance.phase() == "running"
                && self
                    .log
                    .group_offsets("processor-orders", &at)
                    .expect("offsets")[0]
                    == Some(end)
            {
                return Ok(());
            }
        }

        panic!("no progress");
    }

    /// Steps until `done` holds.
    pub fn step_until(
        &self,
        instance: &mut Instance,
        mut done: impl FnMut(&Instance) -> bool,
    ) -> Result<(), FatalError> {
        for _ in 0..20_000 {
            instance.step()?;
            if done(instance) {
                return Ok(());
            }
        }

        panic!("it does not come to that");
    }

    /// All bytes of all events.
    fn events(&self) -> Vec<u8> {
        let mut reader = self
            .log
            .reader(t::ORDER_EVENTS, &[(0, StartOffset::Start)], true)
            .expect("a reader");
        let limits = Limits {
            records: 100_000,
            bytes: 64 << 20,
            age: Duration::from_secs(1),
        };

        let mut records = Records::new();
        while !reader.caught_up() {
            reader
                .poll(Duration::from_millis(10), limits, &mut records)
                .expect("records");
        }

        let mut all = Vec::new();
        for r in records.iter() {
            all.extend(
                [
                    r.key.unwrap_or_default(),
                    r.value.unwrap_or_default(),
                    r.headers.as_bytes(),
                ]
                .concat(),
            );
        }

        all
    }
}

pub fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a directory");
    for entry in std::fs::read_dir(from).expect("a directory") {
        let path = entry.expect("an entry").path();
        let name = to.join(path.file_name().expect("a name"));
        if path.is_dir() {
            copy_dir(&path, &name)
        } else {
            std::fs::copy(&path, name).map(drop).expect("a copy")
        }
    }
}
