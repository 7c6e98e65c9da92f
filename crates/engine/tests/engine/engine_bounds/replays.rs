//! For a transaction of any content, the journal is enough to replay the transaction.

use std::sync::Arc;
use std::time::Duration;

use engine::checkpoint::Checkpoint;
use engine::instance::{Instance, InstanceSettings};
use engine::pace::TransactionBounds;
use engine::point_in_time::PointInTime;
use engine::replay::ReplaySettings;
use engine::role::RoleFactory;
use log_local::LocalLog;
use os::clock::SystemClock;
use ports::partitioner::partition;
use ports::records::{Headers, Record, Records};
use ports::topics::{Partitions, TopicId, TopicPartition, TopicTable};
use ports::{Limits, Log, StartOffset, Stores};
use roles::{Role, RoleSettings, factory};
use store::memory::MemoryStores;
use wire::topics;
use wire::trade::Trade;

use super::world::{self, World};

/// Replays every task of a world and compares the result with the running tasks.
pub fn replays(world: &World, instance: &Instance) {
    let logic = world::factory(&world.ticks);
    let counts: Vec<u32> = world::table()
        .iter()
        .map(|t| world.log.partitions(t).unwrap().unwrap())
        .collect();
    compare(&world.log, world::table(), &*logic, counts.into(), instance);
}

fn compare(
    log: &dyn Log,
    names: Arc<TopicTable>,
    logic: &dyn RoleFactory,
    counts: Arc<[u32]>,
    instance: &Instance,
) {
    use engine::instance::TaskView;
    for (task, view) in instance.tasks() {
        let TaskView::Running {
            transaction,
            digest,
            inputs,
        } = view
        else {
            panic!("task {task} does not run")
        };

        let progress = &mut |_| {};
        let replay = ReplaySettings {
            log,
            topics: names.clone(),
            factory: logic,
            partitions: counts.clone(),
            task,
            progress,
        };

        let goal = Checkpoint {
            transaction,
            offsets: inputs.clone(),
            ..Checkpoint::default()
        };

        let replayed = replay
            .run(MemoryStores::default().open(task).unwrap(), &goal)
            .unwrap();

        // The digest of the goal is not known here, so the end counts as a divergence. A real
        // divergence names its transaction.
        assert_eq!(
            (replayed.transactions, replayed.digest.to_string()),
            (transaction, digest.clone()),
            "task {task}: {replayed:?}"
        );
        let progress = &mut |_| {};
        let replay = ReplaySettings {
            log,
            topics: names.clone(),
            factory: logic,
            partitions: counts.clone(),
            task,
            progress,
        };

        let there = replay
            .until(
                MemoryStores::default().open(task).unwrap(),
                PointInTime::Time(i64::MAX - 1),
                &inputs,
            )
            .unwrap();

        assert_eq!(
            (
                there.transaction,
                there.meta.digest.to_string(),
                there.divergence
            ),
            (Some(transaction), digest, None),
            "task {task}"
        );
    }
}

const PARTITIONS: u32 = 2;

/// All topics of a system without records, and their partition counts.
fn floor() -> (LocalLog, Arc<TopicTable>, Arc<[u32]>) {
    let names = Arc::new(topics::table(""));
    let log = LocalLog::in_memory(&names).with_topics(&names);
    let mut counts = Vec::new();
    for topic in names.iter() {
        let spec = names.spec(topic);
        counts.push(if spec.partitions == Partitions::One {
            1
        } else {
            PARTITIONS
        });

        log.create_topic(topic, spec, counts[counts.len() - 1])
            .unwrap();
    }

    (log, names, counts.into())
}

fn instance(
    role: Role,
    log: &LocalLog,
    names: &Arc<TopicTable>,
    stores: &MemoryStores,
    logic: Box<dyn RoleFactory>,
) -> Instance {
    let group = format!("processor-{}", role.name());
    let settings = InstanceSettings {
        instance: format!("{group}-1"),
        group,
        limits: Limits {
            records: 10_000,
            bytes: 8 << 20,
            age: Duration::from_millis(50),
        },
        idle_wait: Duration::from_millis(1),
        takeover_wait: Duration::from_secs(45),
        startup_wait: Duration::from_secs(30),
        cache_bytes: 64 << 20,
        standby: engine::restore::Standby::None,
    };

    Instance::new(
        Arc::new(log.clone()),
        Box::new(stores.clone()),
        Box::new(SystemClock::new()),
        logic,
        names.clone(),
        settings,
    )
}

fn append(a: &mut dyn ports::Appender, log: &LocalLog, topic: TopicId, key: &str, value: &[u8]) {
    let at = TopicPartition::new(
        topic,
        partition(key.as_bytes(), log.partitions(topic).unwrap().unwrap()),
    );
    a.append(&Record {
        at,
        offset: 0,
        timestamp_ms: 0,
        key: Some(key.as_bytes()),
        value: Some(value),
        headers: Headers::default(),
    })
    .unwrap();
}

/// Vendor records of 2 KB for each listing, or a few records of the largest size, all of them used
/// by the waiting commands. Regression: the journal record was larger than its topic accepts, for
/// ever. With small bounds, the same work is split into many small transactions.
#[test]
fn orders_and_trading_get_past_large_listings() {
    for (listings, bytes, tight) in [(700, 2_200, false), (18, 60_000, false), (40, 300, true)] {
        let (log, names, counts) = floor();
        let mut a = log.appender().unwrap();
        let more = "x".repeat(bytes);
        for i in 0..listings {
            append(
                &mut *a,
                &log,
                topics::INSTRUMENTS,
                &format!("S{i}"),
                format!(r#"{{"symbol":"S{i}","more":"{more}"}}"#).as_bytes(),
            );

            append(
                &mut *a,
                &log,
                topics::MARKET_DATA,
                &format!("S{i}"),
                format!(r#"{{"symbol":"S{i}","price":"100.25"}}"#).as_bytes(),
            );
        }

        for i in 0..listings * 3 {
            let user = format!("u{}", i % 4);
            let order = format!(
                r#"{{"user_id":"{user}","order_id":"o{i}","symbol":"S{}","quantity":1,"order_type":"buy"}}"#,
                i % listings
            );
            append(
                &mut *a,
                &log,
                topics::ORDER_COMMANDS,
                &user,
                order.as_bytes(),
            );
        }

        a.flush(Duration::from_secs(60)).unwrap();
        let stores = [MemoryStores::default(), MemoryStores::default()];
        let settings = RoleSettings {
            stale_ms: 1_000_000_000,
            rate_limit: 0,
            ..Default::default()
        };

        let logic = |role| factory(role, settings, names.clone(), PARTITIONS);
        let mut running: Vec<Instance> = [Role::Orders, Role::Trading]
            .into_iter()
            .zip(&stores)
            .map(|(role, stores)| {
                let mut i = instance(role, &log, &names, stores, logic(role));
                if tight {
                    i.bound_by(TransactionBounds {
                        records: 30,
                        bytes: 4_000,
                        row_bytes: 1_000,
                        journal_part: 700,
                    });
                }

                i
            })
            .collect();

        let mut quiet = 0;
        let mut before = Default::default();
        while quiet < 200 {
            running.iter_mut().for_each(|i| assert!(i.step().is_ok()));
            let now: Vec<_> = running.iter().map(Instance::counters).collect();
            quiet = if now == before { quiet + 1 } else { 0 };
            before = now;
        }

        let trades: u64 = (0..PARTITIONS)
            .map(|p| {
                log.bounds(TopicPartition::new(topics::TRADES, p))
                    .unwrap()
                    .end
            })
            .sum();

        assert_eq!(trades, listings * 3, "every order is filled");
        assert_eq!(
            running.iter().map(|i| i.counters().recoveries).sum::<u64>(),
            0
        );
        for (role, instance) in [Role::Orders, Role::Trading].into_iter().zip(&running) {
            compare(&log, names.clone(), &*logic(role), counts.clone(), instance);
        }
    }
}

/// A journal from before inputs were merged by log time is replayed input by input. The order
/// traded at a later tick, and the replay must do the same.
#[test]
fn a_transaction_is_replayed_in_the_order_in_which_it_was_made() {
    for (rules, fills_at) in [(9, 1_010_000), (RoleSettings::default().rules, 1_000_000)] {
        let (log, names, counts) = floor();
        let settings = RoleSettings {
            rules,
            ..Default::default()
        };

        let stores = [MemoryStores::default(), MemoryStores::default()];
        let [mut orders, mut trading] = [Role::Orders, Role::Trading].map(|role| {
            let stores = &stores[usize::from(role == Role::Trading)];
            instance(
                role,
                &log,
                &names,
                stores,
                factory(role, settings, names.clone(), PARTITIONS),
            )
        });

        let send = |topic, key: &str, value: &str| {
            let mut a = log.appender().unwrap();
            append(&mut *a, &log, topic, key, value.as_bytes());
            a.flush(Duration::from_secs(60)).unwrap();
        };

        let work =
            |instance: &mut Instance| (0..100).for_each(|_| assert!(instance.step().is_ok()));
        send(topics::INSTRUMENTS, "S", r#"{"symbol":"S"}"#);
        send(topics::MARKET_DATA, "S", r#"{"symbol":"S","price":100}"#);
        work(&mut trading);
        send(
            topics::ORDER_COMMANDS,
            "u",
            r#"{"user_id":"u","order_id":"o","symbol":"S","quantity":1,"order_type":"buy"}"#,
        );
        work(&mut orders);
        std::thread::sleep(Duration::from_millis(5));
        send(topics::MARKET_DATA, "S", r#"{"symbol":"S","price":101}"#);
        work(&mut trading);
        work(&mut orders);
        let at = TopicPartition::new(topics::TRADES, partition(b"S", PARTITIONS));
        let mut reader = log
            .reader(at.topic, &[(at.partition, StartOffset::Start)], false)
            .unwrap();
        let mut trades = Records::new();
        while !reader.caught_up() {
            reader
                .poll(
                    Duration::from_millis(10),
                    Limits {
                        records: 10,
                        bytes: 1 << 20,
                        age: Duration::ZERO,
                    },
                    &mut trades,
                )
                .unwrap();
        }

        let trade = Trade::decode(trades.iter().next().expect("a trade").value.unwrap()).unwrap();
        assert_eq!(trade.price_e4, fills_at, "by rules {rules}");
        for (role, instance) in [(Role::Orders, &orders), (Role::Trading, &trading)] {
            let today = factory(role, RoleSettings::default(), names.clone(), PARTITIONS);
            compare(&log, names.clone(), &*today, counts.clone(), instance);
        }
    }
}
