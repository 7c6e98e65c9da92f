//! Compares the simulation's model of a cluster with a real cluster, in two ways:
//!
//! * The conformance suite of all logs (`support/conformance.rs`) runs on a real broker in
//!   `log_kafka`, and on the model here.
//! * Scripts of the bare transaction protocol, below the port, run on the model and on a real
//!   broker (feature `kafka`). Both must give the same observations: answers by kind, records that
//!   read_committed readers see, ends of partitions, committed offsets of a group.

// Other test programs use other parts of the simulation.
#![allow(dead_code)]

#[cfg(feature = "kafka")]
#[path = "../support/broker.rs"]
mod broker;
#[path = "../sim/client/mod.rs"]
mod client;
#[path = "../sim/cluster/mod.rs"]
mod cluster;
#[path = "../support/conformance.rs"]
mod conformance;
#[path = "../sim/coverage.rs"]
mod coverage;
mod delayed;
#[cfg(feature = "kafka")]
mod kafka;
mod model;
#[path = "../sim/nemesis.rs"]
mod nemesis;
#[path = "../sim/operator.rs"]
mod operator;
#[path = "../sim/oracle/mod.rs"]
mod oracle;
#[path = "../sim/plan.rs"]
mod plan;
#[path = "../sim/process.rs"]
mod process;
#[path = "../sim/progress.rs"]
mod progress;
#[path = "../sim/rng.rs"]
mod rng;
#[path = "../sim/run.rs"]
mod run;
mod scripts;
#[path = "../sim/store.rs"]
mod store;
#[path = "../sim/timing.rs"]
mod timing;
#[path = "../sim/trace.rs"]
mod trace;
#[path = "../sim/traffic.rs"]
mod traffic;
#[path = "../sim/workload.rs"]
mod workload;
#[path = "../sim/world.rs"]
mod world;

use ports::Log;
use ports::topics::TopicTable;

/// The model as a cluster for the suite.
struct Model;

impl conformance::Cluster for Model {
    fn log(&self, _: &TopicTable) -> Box<dyn Log> {
        Box::new(client::SimLog)
    }
}

macro_rules! on_the_model {
    ($($case:ident)*) => {$(
        #[test]
        fn $case() {
            run::script(&conformance::table(""), || conformance::$case(&conformance::World::new(&Model)));
        }
    )*};
}

on_the_model! {
    a_transaction_is_all_of_it
    what_is_not_committed_is_never_seen
    the_newer_incarnation_fences_the_older
    a_partition_keeps_its_order
    reading_resumes_in_the_middle
    a_transaction_may_have_no_output
    assigned_partitions_stay_paused
    members_share_co_partitioned_inputs
    a_stale_generation_cannot_commit
    a_changelog_is_restored_from_an_offset
    a_broadcast_table_is_read_and_followed
    a_reader_can_begin_at_the_end
    bounds_and_times_find_records
    every_part_of_a_record_comes_back
    a_poll_respects_its_limits
    times_are_stamped_or_kept
    topics_are_made_once
    the_cluster_has_one_identity
}

/// Every script on the model, and on a broker if this build has Kafka.
#[test]
fn scripts_observe_the_same() {
    for (name, script) in scripts::ALL {
        let expected = scripts::expected(name);
        let seen = model::observe(*script);
        assert_eq!(seen, expected, "{name} on the model");
        #[cfg(feature = "kafka")]
        {
            let seen = kafka::observe(name, *script);
            assert_eq!(seen, expected, "{name} on a broker");
        }

        println!("{name}: {}", seen.join("; "));
    }
}
