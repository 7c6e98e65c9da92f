//! Requests to a cluster with moving leaders: the answer may take a moment, but must never say that
//! a topic does not exist.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use log_kafka::{KafkaLog, KafkaSettings};
use ports::topics::TopicPartition;
use ports::{Log, LogError};
use wire::topics as t;

use crate::support::cluster::Cluster;

const PARTITIONS: u32 = 6;
const IN_SYNC: Duration = Duration::from_secs(120);

/// Regression: an instance that asked just after a leader had gone got "unknown partition". It
/// stopped with "run `processor topics create`" and an exit code that service managers do not
/// restart.
#[test]
fn a_topic_whose_leader_has_gone_still_exists() {
    // One replica: while its broker is away, a partition has no leader.
    let cluster = Cluster::start_with(3, 1);
    let table = Arc::new(t::table("moves-"));
    let log = KafkaLog::new(KafkaSettings::new(&cluster.address()), table.clone());
    log.create_topic(t::ORDER_COMMANDS, table.spec(t::ORDER_COMMANDS), PARTITIONS)
        .expect("a topic");
    let all: Vec<_> = (0..PARTITIONS)
        .map(|p| TopicPartition::new(t::ORDER_COMMANDS, p))
        .collect();
    let stop = AtomicBool::new(false);
    let mut asked = 0;
    let mut waited = 0;
    std::thread::scope(|s| {
        let done = s.spawn(|| {
            for broker in 1..=3 {
                cluster.stop(broker);

                // Time for the other brokers to elect new leaders, while questions are asked.
                std::thread::sleep(Duration::from_secs(1));
                cluster.restart(broker);
                cluster.wait_started(broker);
                cluster.wait_in_sync(IN_SYNC);
                cluster.kill(broker);
                cluster.restart(broker);
                cluster.wait_started(broker);
                cluster.wait_in_sync(IN_SYNC);
            }

            stop.store(true, Ordering::Relaxed);
        });

        while !stop.load(Ordering::Relaxed) && !done.is_finished() {
            // A new client, as an instance has after its start.
            let log = KafkaLog::new(KafkaSettings::new(&cluster.address()), table.clone());
            let answers = [
                log.partitions(t::ORDER_COMMANDS)
                    .map(|n| assert_eq!(n, Some(PARTITIONS), "it exists")),
                all.iter().try_for_each(|at| log.bounds(*at).map(drop)),
                log.group_offsets("moves-nobody", &all).map(drop),
            ];
            for answer in answers {
                asked += 1;
                match answer {
                    Ok(()) => {}
                    Err(LogError::Unavailable(_)) => waited += 1,
                    Err(e) => panic!("{e}"),
                }
            }
        }
    });

    println!("{asked} questions, {waited} without an answer in good time");
    assert!(asked >= 6, "hardly anything was asked");
}
