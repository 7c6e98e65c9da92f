//! The five roles on a log in memory, with a clock that the test moves. Run once and copied to a
//! tape.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use engine::instance::{Instance, InstanceSettings};
use engine::role::RoleInput;
use log_local::{LocalLog, LocalOptions, Memory};
use os::clock::SystemClock;
use ports::partitioner;
use ports::records::{Headers, Record};
use ports::topics::*;
use ports::*;
use roles::{Role, RoleSettings, factory};
use store::memory::MemoryStores;
use wire::topics as t;

use super::tape::Tape;

pub const PARTITIONS: u32 = 3;
pub const START_MS: i64 = 1_800_000_000_000;

pub struct World {
    pub log: LocalLog,
    pub topics: Arc<TopicTable>,
    now: Arc<AtomicI64>,
    roles: Vec<Instance>,
}

impl World {
    pub fn new() -> World {
        let topics = Arc::new(t::table(""));
        let now = Arc::new(AtomicI64::new(START_MS));
        let theirs = now.clone();
        let options = LocalOptions {
            clock: Arc::new(move || theirs.load(Ordering::Relaxed)),
            linger: Duration::ZERO,
            ..LocalOptions::default()
        };

        let log =
            LocalLog::with_storage(Box::new(Memory::default()), &topics, options).expect("a log");
        for topic in topics.iter() {
            let spec = topics.spec(topic);
            let count = if spec.partitions == Partitions::One {
                1
            } else {
                PARTITIONS
            };

            log.create_topic(topic, spec, count).expect("a topic");
        }

        let instance = |role: Role| {
            let settings = InstanceSettings {
                group: format!("processor-{role}"),
                instance: format!("processor-{role}-1"),
                limits: Limits {
                    records: 50,
                    bytes: 1 << 20,
                    age: Duration::from_millis(50),
                },
                idle_wait: Duration::from_millis(1),
                takeover_wait: Duration::from_secs(1),
                startup_wait: Duration::from_secs(5),
                cache_bytes: 1 << 20,
                standby: engine::restore::Standby::None,
            };

            let factory = factory(role, RoleSettings::default(), topics.clone(), PARTITIONS);
            Instance::new(
                Arc::new(log.clone()),
                Box::<MemoryStores>::default(),
                Box::new(SystemClock::new()),
                factory,
                topics.clone(),
                settings,
            )
        };

        let roles = Role::all().map(instance).into_iter().collect();
        World {
            log,
            topics,
            now,
            roles,
        }
    }

    pub fn now(&self) -> i64 {
        self.now.load(Ordering::Relaxed)
    }

    pub fn later(&self, ms: i64) {
        self.now.fetch_add(ms, Ordering::Relaxed);
    }

    pub fn send(&self, topic: TopicId, key: &str, value: &str) {
        let count = self.log.partitions(topic).expect("log").expect("topic");
        let at = TopicPartition::new(topic, partitioner::partition(key.as_bytes(), count));
        let record = Record {
            at,
            offset: 0,
            timestamp_ms: self.now(),
            key: Some(key.as_bytes()),
            value: Some(value.as_bytes()),
            headers: Headers::default(),
        };

        let mut appender = self.log.appender().expect("an appender");
        appender.append(&record).expect("appended");
        appender.flush(Duration::from_secs(5)).expect("flushed");
    }

    pub fn list(&self, symbol: &str, more: &str) {
        self.send(
            t::INSTRUMENTS,
            symbol,
            &format!("{{\"symbol\":\"{symbol}\"{more}}}"),
        );
    }

    pub fn tick(&self, symbol: &str, price: &str) {
        self.send(
            t::MARKET_DATA,
            symbol,
            &format!("{{\"symbol\":\"{symbol}\",\"price\":{price}}}"),
        );
    }

    pub fn order(&self, user: &str, id: &str, symbol: &str, quantity: u32, side: &str) {
        self.send(
            t::ORDER_COMMANDS,
            user,
            &format!(
                "{{\"user_id\":\"{user}\",\"order_id\":\"{id}\",\"symbol\":\"{symbol}\",\"quantity\":{quantity},\"order_type\":\"{side}\"}}"
            ),
        );
    }

    /// Runs one role alone until all its inputs are read.
    pub fn rest_of(&mut self, role: Role) {
        let number = Role::all()
            .into_iter()
            .position(|r| r == role)
            .expect("a role");
        for _ in 0..2_000 {
            self.roles[number].step().expect("the role runs");
            if self.has_read_all(role) {
                return;
            }
        }

        panic!("{role} does not come to rest");
    }

    /// Runs all roles until all inputs are read.
    pub fn rest(&mut self) {
        for _ in 0..20_000 {
            for role in &mut self.roles {
                role.step().expect("the role runs");
            }

            if Role::all().into_iter().all(|role| self.has_read_all(role)) {
                return;
            }
        }

        panic!("the roles do not come to rest");
    }
}

impl World {
    fn has_read_all(&self, role: Role) -> bool {
        let count = |topic| self.log.partitions(topic).expect("log").expect("topic");
        let at = |i: &RoleInput| {
            (0..count(i.topic))
                .map(|p| TopicPartition::new(i.topic, p))
                .collect::<Vec<_>>()
        };

        let all: Vec<_> = role.spec().inputs.iter().flat_map(at).collect();
        let committed = self
            .log
            .group_offsets(&format!("processor-{role}"), &all)
            .expect("offsets");
        all.iter()
            .zip(committed)
            .all(|(at, c)| c.unwrap_or(0) == self.log.bounds(*at).expect("bounds").end)
    }
}

/// Some users who buy and sell two stocks, a bad command, and a repeated command.
pub fn busy() -> &'static Tape {
    static TAPE: OnceLock<Tape> = OnceLock::new();
    TAPE.get_or_init(|| {
        let mut w = World::new();
        w.list("AAPL", "");
        w.list("MSFT", ",\"collar_bps\":100");
        w.tick("AAPL", "189.25");
        w.tick("MSFT", "402.10");
        w.rest();
        for round in 0..12 {
            w.later(700);
            w.tick("AAPL", &format!("189.{}", 20 + round));
            for user in ["501", "502", "503", "504", "505"] {
                w.order(
                    user,
                    &format!("{user}-{round}"),
                    if round % 3 == 0 { "MSFT" } else { "AAPL" },
                    10,
                    "buy",
                );
            }

            w.later(3);
            w.order("501", &format!("s-{round}"), "AAPL", 3, "sell");
            if round == 5 {
                w.order("502", "502-1", "AAPL", 10, "buy");
                w.send(t::ORDER_COMMANDS, "503", "{\"user_id\":\"503\"");
            }

            w.rest();
        }

        Tape::of(&w.log, &w.topics)
    })
}
