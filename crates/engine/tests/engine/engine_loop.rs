//! The engine loop over a log in memory, with a role that only counts: every end of a transaction,
//! every moment in which a process can die, and the checks of a start. No broker, no disk.

use std::sync::atomic::Ordering;
use std::time::Duration;

use engine::checkpoint::StoreMeta;
use engine::instance::FatalError;
use log_local::LocalLog;
use ports::records::{Headers, Record};
use ports::topics::*;
use ports::*;

use crate::counter::*;

#[test]
fn every_outcome_of_a_commit_leaves_every_record_counted_once() {
    use Fault::*;
    let plans: &[&[Fault]] = &[
        &[],
        &[CommittedUnknown],
        &[LostUnknown],
        &[NotCommitted],
        &[Suspect],
        &[
            Fine,
            CommittedUnknown,
            CommittedUnknown,
            LostUnknown,
            Fine,
            NotCommitted,
            Suspect,
            CommittedUnknown,
        ],
    ];

    for plan in plans {
        let world = World::new(plan);
        world.send(0..100);
        let mut instance = world.instance();
        world.drain(&mut instance).unwrap();
        world.check(100, &instance);
        let faults = plan.iter().filter(|f| **f != Fine).count() as u64;
        assert_eq!(instance.counters().recoveries, faults, "{plan:?}");
        assert_eq!(instance.counters().repeats_dropped, 0);
    }
}

#[test]
fn a_death_between_commit_and_store_catches_up_at_the_start() {
    for survived in 0..8 {
        let world = World::new(&[]);
        world.disk.writes_left.store(survived, Ordering::Relaxed);
        world.send(0..100);
        let stopped = world.drain(&mut world.instance()).unwrap_err();
        assert!(stopped.to_string().contains("no space left"), "{stopped}");
        world.disk.writes_left.store(usize::MAX, Ordering::Relaxed);
        let mut instance = world.instance();
        world.drain(&mut instance).unwrap();
        world.check(100, &instance);
        assert_eq!(
            world.disk.quarantined.load(Ordering::Relaxed),
            0,
            "state that is only behind is kept"
        );
    }
}

#[test]
fn a_lost_disk_is_restored_whole() {
    let world = World::new(&[]);
    world.send(0..100);
    let mut instance = world.instance();
    world.drain(&mut instance).unwrap();
    drop(instance);
    world.disk.tasks.lock().unwrap().clear();
    world.send(100..150);
    let mut instance = world.instance();
    world.drain(&mut instance).unwrap();
    world.check(150, &instance);
}

#[test]
fn a_damaged_or_foreign_store_is_put_aside_and_rebuilt() {
    // If content and digest disagree, the next restore that reads the content finds the damage.
    let world = World::new(&[]);
    world.send(0..100);
    let mut instance = world.instance();
    world.drain(&mut instance).unwrap();
    drop(instance);
    let old = world.disk.tasks.lock().unwrap().clone();
    world.send(100..200);
    let mut instance = world.instance();
    world.drain(&mut instance).unwrap();
    drop(instance);
    let mut damaged = old;
    for files in damaged.values_mut() {
        files.keys.values_mut().for_each(|v| v[7] ^= 1);
    }

    *world.disk.tasks.lock().unwrap() = damaged;
    let mut instance = world.instance();
    world.drain(&mut instance).unwrap();
    world.check(200, &instance);
    assert_eq!(
        world.disk.quarantined.load(Ordering::Relaxed),
        PARTITIONS as usize
    );
}

#[test]
fn damage_found_while_running_is_rebuilt_and_not_met_again() {
    let world = World::new(&[]);
    world.send(0..100);
    let mut instance = world.instance();
    world.drain(&mut instance).unwrap();
    drop(instance);

    // The position is right, so a start would not check the content. Only the first read of a key
    // finds the damage.
    world.disk.damaged_reads.store(1, Ordering::Relaxed);
    world.send(100..200);
    let mut instance = world.instance();
    world.drain(&mut instance).unwrap();
    world.check(200, &instance);
    assert_eq!(
        (
            instance.counters().recoveries,
            world.disk.quarantined.load(Ordering::Relaxed)
        ),
        (1, 1)
    );
}

#[test]
fn a_rebuild_that_dies_in_the_middle_goes_on() {
    let world = World::new(&[]);
    world.send(0..400);
    let mut instance = world.instance();
    world.drain(&mut instance).unwrap();
    drop(instance);
    for survived in 0..6 {
        world.disk.tasks.lock().unwrap().clear();
        world.disk.writes_left.store(survived, Ordering::Relaxed);
        let mut instance = world.instance();

        // With enough writes left the rebuild succeeds.
        let died = world.drain(&mut instance).is_err();
        assert_eq!(died, survived < 4, "{survived}");
        drop(instance);
        world.disk.writes_left.store(usize::MAX, Ordering::Relaxed);
        let mut instance = world.instance();
        world.drain(&mut instance).unwrap();
        world.check(400, &instance);
    }

    assert_eq!(world.disk.quarantined.load(Ordering::Relaxed), 0);
}

#[test]
fn state_without_committed_offsets_refuses_to_run() {
    let world = World::new(&[]);
    world.send(0..100);
    let mut instance = world.instance();
    world.drain(&mut instance).unwrap();
    drop(instance);

    // The same disk on a fresh log, as if an operator had deleted the topics or the offsets.
    let other = World {
        log: World::new(&[]).log,
        disk: world.disk.clone(),
    };

    other.send(0..10);
    let stopped = other.drain(&mut other.instance()).unwrap_err();
    assert!(
        matches!(&stopped, FatalError::Bug(text) if text.contains("no committed offsets")),
        "{stopped}"
    );
    assert_eq!(other.outputs(), Vec::<String>::new());
}

#[test]
fn a_second_instance_with_the_same_name_fences_the_first() {
    let world = World::new(&[]);
    world.send(0..50);
    let mut first = world.instance();
    world.drain(&mut first).unwrap();
    let mut second = world.instance();
    world.send(50..100);
    world.drain(&mut second).unwrap();
    let fenced = (0..100).find_map(|_| first.step().err());
    assert!(matches!(fenced, Some(FatalError::Fenced(_))), "{fenced:?}");
    world.check(100, &second);
}

/// On one machine, a fenced process may need a moment to release its state. The newer process has
/// joined by then and waits, but not for ever.
#[test]
fn a_store_that_is_still_held_is_waited_for() {
    let world = World::new(&[]);
    world.send(0..50);
    world.disk.held.store(5, Ordering::Relaxed);
    let mut instance = world.instance();
    world.drain(&mut instance).unwrap();
    world.check(50, &instance);
    assert_eq!(instance.counters().recoveries, 0);
    world.disk.held.store(usize::MAX, Ordering::Relaxed);
    match world.drain(&mut world.instance()) {
        Err(FatalError::Failed(text)) => assert!(text.contains("held by process 1"), "{text}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_bug_stops_before_anything_is_committed() {
    let world = World::new(&[]);
    let mut appender = world.log.appender().unwrap();
    let at = TopicPartition::new(IN, 0);
    for value in ["1", "poison"] {
        let record = Record {
            at,
            offset: 0,
            timestamp_ms: 0,
            key: Some(b"key0"),
            value: Some(value.as_bytes()),
            headers: Headers::default(),
        };

        appender.append(&record).unwrap();
    }

    appender.flush(Duration::from_secs(5)).unwrap();
    let stopped = world.drain(&mut world.instance()).unwrap_err();
    assert!(
        matches!(&stopped, FatalError::Bug(text) if text.contains("in/0/1: poison")),
        "{stopped}"
    );
    assert_eq!(world.outputs(), Vec::<String>::new());
}

/// A process that was frozen beyond its session may poll records caused by later work of other
/// processes. Or its positions may be gone. A recheck with fresh state decides.
#[test]
fn what_cannot_be_is_looked_at_again_with_fresh_state() {
    for (wrong, gone) in [(1, 0), (0, 1)] {
        let world = World::new(&[]);
        world.send(0..100);
        LOOKS_WRONG.set(wrong);
        POSITION_GONE.set(gone);
        let mut instance = world.instance();
        world.drain(&mut instance).unwrap();
        world.check(100, &instance);
        assert_eq!(instance.counters().recoveries, 1, "one new incarnation");
    }

    for (wrong, gone) in [(2, 0), (0, 2)] {
        let world = World::new(&[]);
        world.send(0..100);
        LOOKS_WRONG.set(wrong);
        POSITION_GONE.set(gone);
        let stopped = world.drain(&mut world.instance()).unwrap_err();
        assert!(
            matches!(stopped, FatalError::Bug(_)),
            "the second time it stops: {stopped}"
        );
    }
}

/// A doubt without cause is forgotten, so the same doubt may come again in a process's life without
/// a stop. The doubt of a task ends when the task gets past the record. A doubt without a task ends
/// after a while of work.
#[test]
fn a_doubt_that_is_over_does_not_count_when_it_comes_again() {
    let world = World::new(&[]);
    let mut instance = world.instance();
    let mut doubt = |sent: &mut u64, wrong: u32, gone: u32| {
        // Record 50 looks wrong each time.
        LOOKS_WRONG.set(wrong);
        POSITION_GONE.set(gone);
        world.send(50..51);
        *sent += 1;
        world
            .drain(&mut instance)
            .map(|()| instance.counters().recoveries)
    };

    let mut sent = 0;
    for n in 1..=3 {
        assert_eq!(
            doubt(&mut sent, 1, 0).unwrap(),
            n,
            "the task got past it each time"
        );
    }

    for n in 4..=6 {
        assert_eq!(doubt(&mut sent, 0, 1).unwrap(), n);
        LATER_US.set(LATER_US.get() + 121_000_000);
        assert_eq!(
            doubt(&mut sent, 0, 0).unwrap(),
            n,
            "a transaction after two minutes ends the doubt"
        );
    }

    assert_eq!(doubt(&mut sent, 0, 1).unwrap(), 7);
    LATER_US.set(LATER_US.get() + 60_000_000);
    assert_eq!(doubt(&mut sent, 0, 0).unwrap(), 7);
    let stopped = doubt(&mut sent, 0, 1).unwrap_err();
    assert!(
        matches!(stopped, FatalError::Bug(_)),
        "twice within two minutes is a fact: {stopped}"
    );
}

/// An idle instance commits nothing. A doubt must end there too: the finding long after a good
/// second look is a first finding.
#[test]
fn a_doubt_of_an_idle_instance_ends_with_time() {
    let world = World::new(&[]);
    world.send(0..100);
    let mut instance = world.instance();
    world.drain(&mut instance).unwrap();
    let input = TopicPartition::new(IN, 0);
    let went_back = |bent: bool| {
        let mut offsets = world.log.offsets.lock().unwrap();
        offsets.clear();
        offsets.extend(bent.then_some((input, Some(1))));
    };

    for n in 1..=2 {
        // The first new incarnation finds the offsets of task 0 too old, the next one does not.
        POSITION_GONE.set(1);
        went_back(true);
        world.run_until(&mut instance, |i| i.counters().recoveries == 2 * n);
        went_back(false);
        world.run_until(&mut instance, |i| i.phase() == "running");
        assert_eq!(instance.counters().recoveries, 2 * n, "one look each");
        LATER_US.set(LATER_US.get() + 121_000_000);
    }

    POSITION_GONE.set(1);
    went_back(true);
    let stopped = world.run_into(&mut instance);
    assert!(
        matches!(&stopped, FatalError::Bug(why) if why.contains("are older than transaction")),
        "the second look finds the same: {stopped}"
    );
}

/// A store that its changelog does not continue (here: the store claims an uncommitted position) is
/// rebuilt, and the role does not stop.
#[test]
fn a_store_that_the_changelog_does_not_know_is_rebuilt() {
    let world = World::new(&[]);
    world.send(0..100);
    let mut instance = world.instance();
    world.drain(&mut instance).unwrap();
    drop(instance);
    for files in world.disk.tasks.lock().unwrap().values_mut() {
        let mut record = StoreMeta::decode(files.meta.as_ref().unwrap()).unwrap();
        record.meta.offsets[0].1 += 1;
        files.meta = Some(record.encode());
    }

    let mut instance = world.instance();
    world.drain(&mut instance).unwrap();
    world.check(100, &instance);
    assert_eq!(
        world.disk.quarantined.load(Ordering::Relaxed),
        PARTITIONS as usize
    );
}

/// A restarting broker may not know its users for a moment. A role that was never let in must not
/// wait.
#[test]
fn a_refusal_ends_a_role_never_let_in_and_others_wait() {
    let world = World::new(&[]);
    world.send(0..50);
    REFUSED.set(1);
    let stopped = world.drain(&mut world.instance()).unwrap_err();
    assert!(
        matches!(&stopped, FatalError::Invalid(why) if why == "no such user"),
        "{stopped}"
    );
    let mut instance = world.instance();
    world.drain(&mut instance).unwrap();
    world.send(50..100);
    REFUSED.set(4);
    world.drain(&mut instance).unwrap();
    world.check(100, &instance);
    assert_eq!(instance.counters().recoveries, 4);
}

#[test]
fn a_missing_topic_is_named() {
    let table = table();
    let inner = LocalLog::in_memory(&table);
    let world = World {
        log: Faulty::over(inner, &[]),
        disk: Disk::default(),
    };

    let stopped = (0..10)
        .find_map(|_| world.instance().step().err())
        .expect("it stops");
    assert!(
        stopped.to_string().contains("topic in does not exist"),
        "{stopped}"
    );
}
