//! A whole system in this process, on a real broker or on the embedded log: topics, all roles
//! running, and readers of the outputs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use client::MarketDataPublisher;
use engine::instance::FatalError;
use log_local::{LocalLog, LocalOptions};
use os::clock::wall_ms;
use ports::topics::{TopicId, TopicTable};
use ports::{Limits, Log};
use processor::runtime::supervisor::{Ends, Supervisor};
use processor::runtime::system::Installation;
use roles::{Role, RoleSettings};
use serde_json::Value;
use store::rocks::SharedMemory;
use wire::topics as t;

use super::load::{Sender, wait_for};
use super::oracle::{self, Seen, read_all};
use super::rest::wait_at_rest;

/// Partition count of the topics that may have many partitions.
pub const PARTITIONS: u32 = 3;
/// Deadline of every wait.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// A running system.
pub struct World {
    /// `kafka` or `embedded`, for messages.
    pub name: &'static str,
    pub log: Arc<dyn Log>,
    pub topics: Arc<TopicTable>,
    pub settings: RoleSettings,
    pub sender: Sender,
    /// The installation of the roles.
    pub system: Installation,
    running: Option<Running>,
    dir: tempfile::TempDir,
}

struct Running {
    stop: tokio::sync::oneshot::Sender<()>,
    thread: std::thread::JoinHandle<Result<(), FatalError>>,
}

/// Runs a test on the embedded log and, if this build has Kafka, on a real broker.
pub fn on_both(test: &str, settings: RoleSettings, body: fn(&mut World)) {
    let run = |mut world: World| {
        println!("{test} on {}", world.name);
        body(&mut world);
        world.stop();
    };

    run(World::embedded(test, settings));
    #[cfg(feature = "kafka")]
    run(World::kafka(test, settings));
}

impl World {
    pub fn embedded(test: &str, settings: RoleSettings) -> World {
        let dir = tempfile::tempdir().expect("a directory");
        let topics = Arc::new(t::table(&format!("{test}-")));
        let log = LocalLog::open(&dir.path().join("log"), &topics, LocalOptions::default())
            .expect("an embedded log");
        World::start("embedded", Arc::new(log), topics, settings, dir)
    }

    #[cfg(feature = "kafka")]
    pub fn kafka(test: &str, settings: RoleSettings) -> World {
        use super::broker;
        use log_kafka::{KafkaLog, KafkaSettings};
        let dir = tempfile::tempdir().expect("a directory");
        let topics = Arc::new(t::table(&broker::unique_prefix(test)));
        let log = KafkaLog::new(
            KafkaSettings::new(&broker::shared().address),
            topics.clone(),
        );
        World::start("kafka", Arc::new(log), topics, settings, dir)
    }

    fn start(
        name: &'static str,
        log: Arc<dyn Log>,
        topics: Arc<TopicTable>,
        settings: RoleSettings,
        dir: tempfile::TempDir,
    ) -> World {
        let system = Installation {
            log: log.clone(),
            topics: topics.clone(),
            state: dir.path().join("state"),
            instance: 1,
            roles: settings,
            limits: Limits {
                records: 10_000,
                bytes: 8 << 20,
                age: Duration::from_millis(50),
            },
            scrub_every: Duration::ZERO,
            leave: false,
            standby: engine::restore::Standby::None,
            lock_wait: Duration::from_secs(5),
            memory: SharedMemory::default(),
        };

        system
            .create_topics(PARTITIONS, &mut |_, made| assert!(made))
            .expect("topics can be made");
        let kept = system.clone();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async {
                let members = Role::all().into_iter().map(|r| system.member(r)).collect();
                let supervisor = Supervisor::start(
                    members,
                    system.topics.clone(),
                    system.state.clone(),
                    Ends::Together,
                );

                // A dropped sender (of a failed test) is a stop too.
                let until = async { stopped.await.unwrap_or_default() };
                supervisor.run(until, Duration::from_secs(30)).await
            })
        });

        let sender = Sender::new(&*log);
        World {
            name,
            log,
            topics,
            settings,
            sender,
            system: kept,
            running: Some(Running { stop, thread }),
            dir,
        }
    }

    /// Lists a symbol, sets its price, and waits until the orders role can know both.
    pub fn list(&mut self, symbol: &str, price: &str) {
        self.sender.send(
            t::INSTRUMENTS,
            symbol,
            format!(r#"{{"symbol":"{symbol}"}}"#),
        );
        self.sender.flush();

        // Listings and prices have no common clock. A price before its listing would become a dead
        // letter.
        self.rest();
        let mut prices = MarketDataPublisher::new(self.log.clone()).expect("a publisher");
        prices
            .publish(symbol, price, wall_ms())
            .expect("a price is published");
        prices.flush(PATIENCE).expect("the log takes it");
        let log = self.log.clone();
        wait_for("the reference price", PATIENCE, || {
            read_all(&*log, t::REFERENCE_PRICES)
                .iter()
                .any(|p| p.text("symbol") == symbol)
        });

        self.rest();
    }

    /// Waits until every role has read all its inputs.
    pub fn rest(&self) {
        if let Some(running) = &self.running {
            wait_at_rest(&*self.log, self.topics.prefix(), PATIENCE, || {
                assert!(!running.thread.is_finished(), "the roles have stopped")
            });

            // No offset is committed for broadcast rows. An idle instance sees these rows after one
            // turn of its loop.
            std::thread::sleep(Duration::from_millis(300));
        }
    }

    pub fn read(&self, topic: TopicId) -> Vec<Seen> {
        read_all(&*self.log, topic)
    }

    /// Events of one user, in order.
    pub fn events(&self, user: &str) -> Vec<Seen> {
        self.read(t::ORDER_EVENTS)
            .into_iter()
            .filter(|e| e.text("user_id") == user)
            .collect()
    }

    /// `topic/partition/offset` of a record.
    pub fn src(&self, topic: TopicId, record: &Seen) -> String {
        record.src(&self.topics, topic)
    }

    /// Stops the roles gracefully. The roles must still run before the stop.
    pub fn stop(self) {
        drop(self.stop_and_keep());
    }

    /// As [`World::stop`]. All files stay as long as the returned directory is held, and no process
    /// uses them.
    pub fn stop_and_keep(mut self) -> tempfile::TempDir {
        let running = self.running.take().expect("it was started");
        running.stop.send(()).expect("the roles still run");
        running
            .thread
            .join()
            .expect("no panic")
            .expect("a graceful end");
        self.dir
    }

    /// Checks the rules of the contract for every output record: headers and their values, keys,
    /// partitions, times, audit chains.
    pub fn check_form(&self) {
        let mut named = BTreeMap::<(TopicId, String), Vec<u32>>::new();
        let mut inputs = BTreeMap::new();
        for topic in self.topics.iter().filter(|topic| *topic <= t::EXECUTIONS) {
            for r in self.read(topic) {
                inputs.insert(self.src(topic, &r), (topic, r));
            }
        }

        for (name, (topic, r)) in inputs
            .iter()
            .filter(|(_, (topic, _))| *topic > t::INSTRUMENTS)
        {
            let what = format!("{} {name} {:?}", self.name, r.headers);
            let header = |h: &str| {
                r.headers
                    .get(h)
                    .unwrap_or_else(|| panic!("no header {h}: {what}"))
            };

            let kind = match *topic {
                t::ORDER_EVENTS => r.text("event"),
                t::TRADES if r.value.get("busted_quantity").is_some() => "TradeBusted",
                t::TRADES => "Trade",
                t::REFERENCE_PRICES => "ReferencePrice",
                t::PORTFOLIOS => "Portfolio",
                t::NOTIFICATIONS => "Notification",
                t::AUDIT_LOG => "AuditEntry",
                t::DEAD_LETTERS => "DeadLetter",
                _ => header("type"),
            };

            assert_eq!(header("type"), kind, "{what}");
            assert_eq!(
                header("v"),
                if *topic == t::AUDIT_LOG { "2" } else { "1" },
                "{what}"
            );
            let (cause_topic, cause) = inputs
                .get(header("src"))
                .unwrap_or_else(|| panic!("src names no record: {what}"));
            assert_eq!(
                r.time_ms, cause.time_ms,
                "CreateTime is the append time of the direct cause: {what}"
            );
            if let Some(time) = r.value.get("time_us").filter(|_| *topic != t::DEAD_LETTERS) {
                assert_eq!(*time, Value::from(cause.time_ms * 1000), "{what}");
            }

            let key = match *topic {
                t::ORDER_EVENTS | t::PORTFOLIOS | t::NOTIFICATIONS => r.text("user_id").as_bytes(),
                t::TRADES | t::REFERENCE_PRICES => r.text("symbol").as_bytes(),
                t::DEAD_LETTERS => &cause.key,
                t::AUDIT_LOG => name_of(header("src")).as_bytes(),
                _ => &r.key,
            };

            assert_eq!(r.key, key, "{what}");
            if *topic != t::REFERENCE_PRICES && !(*topic == t::DEAD_LETTERS && cause.keyless) {
                assert_eq!(
                    r.partition,
                    ports::partitioner::partition(&r.key, PARTITIONS),
                    "{what}"
                );
            }

            if *topic == t::DEAD_LETTERS {
                assert_eq!(
                    (&r.raw, r.tombstone, r.keyless),
                    (&cause.raw, cause.tombstone, cause.keyless),
                    "untouched: {what}"
                );
                assert!(
                    !header("reason").is_empty() && !header("text").is_empty(),
                    "{what}"
                );
            }

            // Several roles read one record, and each counts its own outputs. The topic determines
            // the writing role. For dead letters, the topic of the cause determines the role.
            let writer = match *topic {
                t::DEAD_LETTERS if *cause_topic == t::INSTRUMENTS => t::AUDIT_LOG,
                t::DEAD_LETTERS if *cause_topic == t::MARKET_DATA => t::TRADES,
                t::ORDER_EVENTS | t::BOOK_COMMANDS | t::DEAD_LETTERS => t::ORDER_EVENTS,
                t::TRADES if r.headers["type"] == "TradeBusted" => t::ORDER_EVENTS,
                t::TRADES | t::REFERENCE_PRICES | t::EXECUTIONS => t::TRADES,
                other => other,
            };

            named
                .entry((writer, header("src").clone()))
                .or_default()
                .push(header("n").parse().expect("a number"));
        }

        for ((_, src), mut numbers) in named {
            numbers.sort_unstable();
            let want: Vec<_> = (0..numbers.len() as u32).collect();
            assert_eq!(
                numbers, want,
                "{}: outputs of {src} are numbered from 0",
                self.name
            );
        }

        let mut verdict = oracle::Verdict::default();
        oracle::check_audit(&mut verdict, &*self.log, &self.topics);
        verdict.assert_clean();
    }
}

/// `topic/partition` of `topic/partition/offset`.
fn name_of(src: &str) -> &str {
    src.rsplit_once('/').map_or(src, |(source, _)| source)
}

/// The `event` fields of events, for comparison.
pub fn names(events: &[Seen]) -> Vec<&str> {
    events.iter().map(|e| e.text("event")).collect()
}
