//! Actions on an otherwise idle system: the engine wakes `trading` when the time of an order has
//! come, when a listing has changed, and when a task begins to run. Over a log in memory and a
//! clock that the test moves.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use engine::instance::{Instance, InstanceSettings};
use log_local::{LocalLog, LocalOptions, Memory};
use ports::partitioner::partition;
use ports::records::{Headers, Record, Records};
use ports::topics::{Partitions, TopicId, TopicPartition};
use ports::{Clock, Limits, Log, StartOffset};
use roles::{Role, RoleSettings, factory};
use store::memory::MemoryStores;
use wire::event::OrderEvent;
use wire::topics;

const PARTITIONS: u32 = 2;
const START_MS: i64 = 1_800_000_000_000;

/// A clock that only the test moves.
#[derive(Clone)]
struct Hand(Arc<AtomicI64>);

impl Clock for Hand {
    fn now_us(&self) -> u64 {
        u64::try_from((self.0.load(Ordering::SeqCst) - START_MS) * 1_000).expect("after the start")
    }

    fn sleep(&self, _: Duration) {}
}

struct World {
    hand: Hand,
    log: LocalLog,
    names: Arc<ports::topics::TopicTable>,
    stores: [MemoryStores; 2],
    running: Vec<Instance>,
}

const ROLES: [Role; 2] = [Role::Orders, Role::Trading];

impl World {
    fn new() -> World {
        let hand = Hand(Arc::new(AtomicI64::new(START_MS)));
        let names = Arc::new(topics::table(""));
        let stamps = hand.0.clone();
        let options = LocalOptions {
            clock: Arc::new(move || stamps.load(Ordering::SeqCst)),
            linger: Duration::ZERO,
            ..LocalOptions::default()
        };

        let log = LocalLog::with_storage(Box::new(Memory::default()), &names, options)
            .expect("memory")
            .with_topics(&names);
        for topic in names.iter() {
            let spec = names.spec(topic);
            log.create_topic(
                topic,
                spec,
                if spec.partitions == Partitions::One {
                    1
                } else {
                    PARTITIONS
                },
            )
            .expect("a topic");
        }

        let mut w = World {
            hand,
            log,
            names,
            stores: Default::default(),
            running: Vec::new(),
        };

        w.start();
        w
    }

    fn start(&mut self) {
        let limits = Limits {
            records: 1_000,
            bytes: 1 << 20,
            age: Duration::from_millis(1),
        };

        for (role, stores) in ROLES.iter().zip(&self.stores) {
            let group = format!("processor-{}", role.name());
            let settings = InstanceSettings {
                instance: format!("{group}-1"),
                group,
                limits,
                idle_wait: Duration::from_millis(1),
                takeover_wait: Duration::from_millis(300),
                startup_wait: Duration::from_secs(5),
                cache_bytes: 1 << 20,
                standby: engine::restore::Standby::None,
            };

            let made = factory(
                *role,
                RoleSettings {
                    stale_ms: 1_000_000_000,
                    ..Default::default()
                },
                self.names.clone(),
                PARTITIONS,
            );

            let log: Arc<dyn Log> = Arc::new(self.log.clone());
            self.running.push(Instance::new(
                log,
                Box::new(stores.clone()),
                Box::new(self.hand.clone()),
                made,
                self.names.clone(),
                settings,
            ));
        }

        self.turn();
    }

    /// Runs all instances until they have no work left.
    fn turn(&mut self) {
        for _ in 0..150 {
            for instance in &mut self.running {
                instance.step().expect("no stop");
            }
        }

        assert!(self.running.iter().all(|i| i.phase() == "running"));
    }

    fn wait(&mut self, ms: i64) {
        self.hand.0.fetch_add(ms, Ordering::SeqCst);
        self.turn();
    }

    fn append(&mut self, topic: TopicId, key: &str, value: &str) {
        let count = self
            .log
            .partitions(topic)
            .expect("an answer")
            .expect("a topic");
        let at = TopicPartition::new(topic, partition(key.as_bytes(), count));
        let record = Record {
            at,
            offset: 0,
            timestamp_ms: 0,
            key: Some(key.as_bytes()),
            value: Some(value.as_bytes()),
            headers: Headers::default(),
        };

        let mut appender = self.log.appender().expect("an appender");
        appender.append(&record).expect("room");
        appender.flush(Duration::from_secs(5)).expect("written");
        self.turn();
    }

    fn order(&mut self, user: &str, id: &str, rest: &str) {
        self.append(
            topics::ORDER_COMMANDS,
            user,
            &format!(r#"{{"user_id":"{user}","order_id":"{id}","symbol":"AAPL",{rest}}}"#),
        );
    }

    /// Events of a user, as `name reason`.
    fn told(&self, user: &str) -> Vec<String> {
        let from: Vec<_> = (0..PARTITIONS).map(|p| (p, StartOffset::Start)).collect();
        let mut reader = self
            .log
            .reader(topics::ORDER_EVENTS, &from, false)
            .expect("a reader");
        let mut all = Records::new();
        let limits = Limits {
            records: 100_000,
            bytes: 1 << 24,
            age: Duration::ZERO,
        };

        while !reader.caught_up() {
            reader
                .poll(Duration::from_millis(10), limits, &mut all)
                .expect("a read");
        }

        let events = all.iter().map(|r| {
            let e = OrderEvent::decode(r.value.expect("a value")).expect("an event");
            (
                e.user_id.to_string(),
                [e.event.name(), e.reason.map_or("", |r| r.name())]
                    .join(" ")
                    .trim_end()
                    .to_string(),
            )
        });

        events
            .filter(|(u, _)| u == user)
            .map(|(_, text)| text)
            .collect()
    }

    /// Number of records in the clock topic.
    fn wakes(&self) -> u64 {
        (0..PARTITIONS)
            .map(|p| {
                self.log
                    .bounds(TopicPartition::new(topics::CLOCK, p))
                    .expect("bounds")
                    .end
            })
            .sum()
    }

    fn with_stock() -> World {
        let mut w = World::new();
        w.append(topics::INSTRUMENTS, "AAPL", r#"{"symbol":"AAPL"}"#);
        w.append(
            topics::MARKET_DATA,
            "AAPL",
            r#"{"symbol":"AAPL","price":100}"#,
        );
        w.order("s", "stock", r#""quantity":100,"order_type":"buy""#);
        w.append(
            topics::INSTRUMENTS,
            "AAPL",
            r#"{"symbol":"AAPL","house":false}"#,
        );
        assert_eq!(
            w.told("s"),
            ["Deposited", "OrderPending", "OrderAccepted", "OrderFilled"]
        );
        w
    }
}

const SELL: &str = r#""quantity":5,"order_type":"sell","type":"limit","limit_price":101"#;

#[test]
fn x8_an_order_expires_at_its_time_with_nothing_written_before() {
    let mut w = World::with_stock();
    w.order(
        "s",
        "1",
        &format!(r#"{SELL},"tif":"GTD","expire_at":{}"#, START_MS + 60_000),
    );
    let before = w.wakes();
    w.wait(59_999);
    assert_eq!(
        (w.wakes(), w.told("s").len()),
        (before, 6),
        "an idle system is at rest"
    );
    w.wait(1);
    assert_eq!(w.told("s").last().expect("an event"), "OrderExpired");
    let after = w.wakes();
    w.wait(3_600_000);
    assert_eq!(w.wakes(), after, "at rest again");
}

#[test]
fn x8_an_order_whose_time_came_while_down_expires_at_the_start() {
    let mut w = World::with_stock();
    w.order("s", "1", &format!(r#"{SELL},"tif":"DAY""#));
    w.order("s", "2", SELL);
    w.running.clear();
    w.hand.0.fetch_add(86_400_000, Ordering::SeqCst);
    w.start();
    assert_eq!(w.told("s")[8..], ["OrderExpired"]);
    w.order(
        "b",
        "1",
        r#""quantity":20,"order_type":"buy","type":"limit","limit_price":101"#,
    );
    assert_eq!(
        w.told("b").last().expect("an event"),
        "OrderPartiallyFilled"
    );
    assert_eq!(w.told("s")[9..], ["OrderFilled"]);
}

#[test]
fn s2_s3_a_changed_listing_is_noticed() {
    let mut w = World::with_stock();
    w.order("s", "1", SELL);
    w.order(
        "b",
        "1",
        r#""quantity":2,"order_type":"buy","type":"stop","stop_price":103"#,
    );
    w.append(
        topics::INSTRUMENTS,
        "AAPL",
        r#"{"symbol":"AAPL","house":false,"status":"halted"}"#,
    );
    w.append(
        topics::MARKET_DATA,
        "AAPL",
        r#"{"symbol":"AAPL","price":104}"#,
    );
    assert_eq!(
        w.told("b").last().expect("an event"),
        "OrderAccepted",
        "nothing fires in a halt"
    );
    w.append(
        topics::INSTRUMENTS,
        "AAPL",
        r#"{"symbol":"AAPL","house":false}"#,
    );
    assert_eq!(w.told("b")[3..], ["OrderTriggered", "OrderFilled"]);
    w.append(
        topics::INSTRUMENTS,
        "AAPL",
        r#"{"symbol":"AAPL","status":"delisted"}"#,
    );
    assert_eq!(
        w.told("s").last().expect("an event"),
        "OrderCancelled DELISTED"
    );
}

/// No record comes after a burst, but its last price is published: by the clock, once.
#[test]
fn the_last_price_of_a_burst_is_told_on_an_idle_system() {
    let mut w = World::new();
    w.append(topics::INSTRUMENTS, "AAPL", r#"{"symbol":"AAPL"}"#);
    w.append(
        topics::MARKET_DATA,
        "AAPL",
        r#"{"symbol":"AAPL","price":100}"#,
    );
    w.wait(300);
    w.append(
        topics::MARKET_DATA,
        "AAPL",
        r#"{"symbol":"AAPL","price":100.09}"#,
    );
    let told = |w: &World| {
        w.log
            .bounds(TopicPartition::new(topics::REFERENCE_PRICES, 0))
            .expect("bounds")
            .end
    };

    let before = told(&w);
    let wakes = w.wakes();
    w.wait(699);
    assert_eq!(
        (told(&w), w.wakes()),
        (before, wakes),
        "its second is not over"
    );
    w.wait(1);
    assert_eq!(told(&w), before + 1);
    let wakes = w.wakes();
    w.wait(3_600_000);
    assert_eq!((told(&w), w.wakes()), (before + 1, wakes), "at rest again");
}
