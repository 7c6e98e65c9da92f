//! Restores and standbys over a log in memory: moved or forgotten offsets, changelogs without a
//! leader, tasks that move.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use engine::instance::{FatalError, Instance, TaskView};
use engine::restore::{Assignment, Restorer, RestorerReport, RestorerRequest, Standby};
use ports::records::Records;
use ports::topics::*;
use ports::*;

use crate::counter::*;

fn input(partition: u32) -> TopicPartition {
    TopicPartition::new(IN, partition)
}

/// 100 records, processed and committed, with the positions after each transaction from the meta
/// records of the changelog.
fn worked() -> (World, Vec<BTreeMap<TopicPartition, u64>>) {
    let world = World::new(&[]);
    let mut instance = world.instance();
    for n in 0..10 {
        world.send(n * 10..n * 10 + 10);
        world.drain(&mut instance).unwrap();
    }

    drop(instance);
    let mut boundaries = Vec::new();
    let mut reader = world
        .log
        .reader(CHANGELOG, &[(0, StartOffset::Start)], false)
        .unwrap();
    let mut records = Records::new();
    while !reader.caught_up() {
        let limits = Limits {
            records: 1_000,
            bytes: 1 << 20,
            age: Duration::from_secs(1),
        };

        reader.poll(Duration::ZERO, limits, &mut records).unwrap();
    }

    for r in records
        .iter()
        .filter(|r| r.key == Some(engine::checkpoint::META_KEY))
    {
        let meta = engine::checkpoint::Checkpoint::decode(r.value.unwrap()).unwrap();
        boundaries.push(meta.offsets.into_iter().collect());
    }

    (world, boundaries)
}

/// With local state, without it, and with state of any age: processed records must not be processed
/// again.
#[test]
fn offsets_that_went_back_to_any_transaction_stop_the_task() {
    let (_, boundaries) = worked();
    assert!(boundaries.len() > 5, "{}", boundaries.len());
    for (n, boundary) in boundaries.iter().enumerate().take(boundaries.len() - 1) {
        for local_state in [true, false] {
            let (world, _) = worked();
            if !local_state {
                world.disk.tasks.lock().unwrap().clear();
            }

            let before = world
                .disk
                .tasks
                .lock()
                .unwrap()
                .get(&0)
                .map(|f| f.meta.clone());

            let offsets = boundary.iter().map(|(at, o)| (*at, Some(*o))).collect();
            *world.log.offsets.lock().unwrap() = offsets;
            let stopped = world.run_into(&mut world.instance());
            assert!(
                matches!(&stopped, FatalError::Bug(text) if text.contains("older than transaction") && text.contains("repair offsets")),
                "{stopped}"
            );
            assert_eq!(world.outputs().len(), 100, "boundary {n}");
            if local_state {
                assert_eq!(
                    world
                        .disk
                        .tasks
                        .lock()
                        .unwrap()
                        .get(&0)
                        .map(|f| f.meta.clone()),
                    before,
                    "the state was left alone"
                );
            }

            assert_eq!(world.disk.quarantined.load(Ordering::Relaxed), 0);
        }
    }
}

#[test]
fn offsets_that_went_ahead_stop_the_task_and_leave_its_state() {
    for local_state in [true, false] {
        let (world, boundaries) = worked();
        if !local_state {
            world.disk.tasks.lock().unwrap().clear();
        }

        let last = boundaries.last().unwrap()[&input(0)];
        world
            .log
            .offsets
            .lock()
            .unwrap()
            .insert(input(0), Some(last + 1));
        let stopped = world.run_into(&mut world.instance());
        assert!(
            matches!(&stopped, FatalError::Bug(text) if text.contains("ahead of the last transaction")),
            "{stopped}"
        );
        assert_eq!(
            world.disk.quarantined.load(Ordering::Relaxed),
            0,
            "nothing could take the place of the state"
        );
        assert_eq!(world.outputs().len(), 100);
    }
}

/// After an idle week, or after the group was deleted, the positions of the last transaction
/// replace the group's offsets.
#[test]
fn lost_offsets_are_taken_from_the_changelog_and_committed() {
    for local_state in [true, false] {
        let (world, _) = worked();
        if !local_state {
            world.disk.tasks.lock().unwrap().clear();
        }

        for p in 0..PARTITIONS {
            world.log.offsets.lock().unwrap().insert(input(p), None);
        }

        let mut instance = world.instance();
        world.run_until(&mut instance, |i| i.phase() == "running");

        // One task has its commit; from then on the offsets of the group count again.
        assert!(
            world.log.bare.load(Ordering::Relaxed) >= 1,
            "the positions were committed before anything was processed"
        );
        world.send(100..150);
        world.drain(&mut instance).unwrap();
        world.check(150, &instance);
        assert_eq!(instance.counters().recoveries, 0);
    }
}

/// A store of another log, and lost offsets: the changelog counts, not the store.
#[test]
fn a_foreign_store_is_rebuilt_when_offsets_are_gone() {
    let (world, _) = worked();
    let (foreign, _) = worked();
    foreign.send(100..150);
    let mut instance = foreign.instance();
    foreign.drain(&mut instance).unwrap();
    drop(instance);

    // The store ends at an offset that this changelog has too, but claims more transactions.
    let mut files = foreign.disk.tasks.lock().unwrap().clone();
    for (task, files) in &mut files {
        let own = world.disk.tasks.lock().unwrap()[task].meta.clone().unwrap();
        let own = engine::checkpoint::StoreMeta::decode(&own).unwrap();
        let mut theirs =
            engine::checkpoint::StoreMeta::decode(files.meta.as_ref().unwrap()).unwrap();
        theirs.changelog_offset = own.changelog_offset;
        files.meta = Some(theirs.encode());
    }

    *world.disk.tasks.lock().unwrap() = files;
    for p in 0..PARTITIONS {
        world.log.offsets.lock().unwrap().insert(input(p), None);
    }

    let mut instance = world.instance();
    world.drain(&mut instance).unwrap();
    world.send(100..120);
    world.drain(&mut instance).unwrap();
    world.check(120, &instance);
    assert_eq!(
        world.disk.quarantined.load(Ordering::Relaxed),
        PARTITIONS as usize
    );
}

/// One partition of a changelog has no leader: its task waits, the other task works.
#[test]
fn a_changelog_without_a_leader_holds_up_its_own_task_only() {
    let (world, _) = worked();
    world.log.headless.lock().unwrap().push(1);
    let mut instance = world.instance();
    world.run_until(&mut instance, |i| {
        matches!(i.tasks().get(&0), Some(TaskView::Running { .. }))
    });

    world.send(100..150);
    world.run_until(&mut instance, |_| {
        world.committed(0) == world.log.bounds(input(0)).unwrap().end
    });

    assert!(matches!(
        instance.tasks().get(&1),
        Some(TaskView::Restoring(_))
    ));
    assert_eq!(instance.counters().recoveries, 0);
    world.log.headless.lock().unwrap().clear();
    world.drain(&mut instance).unwrap();
    world.check(150, &instance);
}

/// A long restore adds only a short slice to each turn of the running tasks, for any amount of
/// records. Regression: one slice took 200 ms, for each restore.
#[test]
fn a_turn_beside_a_long_restore_is_short() {
    let world = World::new(&[]);
    let mut instance = world.instance();
    world.send(0..2_000);
    world.drain(&mut instance).unwrap();
    drop(instance);
    world.disk.tasks.lock().unwrap().remove(&1);
    world.log.slow.lock().unwrap().push(1);
    let mut instance = world.instance();
    world.run_until(&mut instance, |i| {
        matches!(i.tasks().get(&0), Some(TaskView::Running { .. }))
    });

    let mut most = 0;
    let mut turns = 0;
    world.send(2_000..2_200);
    while matches!(instance.tasks().get(&1), Some(TaskView::Restoring(_))) {
        let before = world.log.slowly.load(Ordering::Relaxed);
        instance.step().unwrap();
        most = most.max(world.log.slowly.load(Ordering::Relaxed) - before);
        turns += 1;
    }

    assert!(
        most <= 20,
        "a turn waited for {most} polls of a millisecond"
    );
    assert!(
        turns >= 10 && world.committed(0) == world.log.bounds(input(0)).unwrap().end,
        "the other task worked meanwhile: {turns} turns"
    );
    world.drain(&mut instance).unwrap();
    world.check(2_200, &instance);
}

/// The brokers cannot read a changelog. The store may be the only good copy of the state, and no
/// copy could replace it.
#[test]
fn an_unreadable_changelog_stops_the_task_and_keeps_its_state() {
    let (world, _) = worked();

    // The store is behind the changelog, so the changelog must be read.
    let before = world.disk.tasks.lock().unwrap().clone();
    let mut instance = world.instance();
    world.send(100..150);
    world.drain(&mut instance).unwrap();
    drop(instance);
    *world.disk.tasks.lock().unwrap() = before;
    world.log.unreadable.lock().unwrap().push(0);
    let stopped = world.run_into(&mut world.instance());
    assert!(
        matches!(&stopped, FatalError::Bug(text) if text.contains("changelog/0 cannot be read from offset 7")),
        "{stopped}"
    );
    assert_eq!(
        world.disk.quarantined.load(Ordering::Relaxed),
        0,
        "nothing could take the place of the state"
    );
    world.log.unreadable.lock().unwrap().clear();
    let mut instance = world.instance();
    world.drain(&mut instance).unwrap();
    world.check(150, &instance);
}

/// Damage found by a running task must be remembered, even if the next incarnation ends before the
/// store is quarantined.
#[test]
fn damage_is_remembered_until_the_store_is_put_aside() {
    let (world, _) = worked();
    let mut instance = world.instance();
    world.drain(&mut instance).unwrap();
    world.disk.damaged_reads.store(1, Ordering::Relaxed);
    world.send(100..150);
    world.run_until(&mut instance, |i| i.counters().recoveries == 1);

    // The next incarnation joins, gets its tasks and ends at once, because its producer is suspect.
    world.log.headless.lock().unwrap().extend([0, 1]);
    world.run_until(&mut instance, |i| i.phase() == "restoring");
    POSITION_GONE.set(1);
    world.run_until(&mut instance, |i| i.counters().recoveries == 2);
    world.log.headless.lock().unwrap().clear();
    world.drain(&mut instance).unwrap();
    world.check(150, &instance);
    assert_eq!(world.disk.quarantined.load(Ordering::Relaxed), 1);
}

/// The machine of an instance is lost. The standby has the state, and starts from its position.
#[test]
fn a_standby_takes_over_from_where_it_is() {
    for standby in [Standby::All, Standby::Neighbours(1)] {
        let world = World::new(&[]);
        world.send(0..50);
        let mut first = world.instance_of("counter-1", Standby::None);
        world.drain(&mut first).unwrap();
        let spare = World {
            disk: Disk::default(),
            log: world.log.clone(),
        };

        spare.disk.writes_left.store(usize::MAX, Ordering::Relaxed);
        let mut second = spare.instance_of("counter-2", standby);
        let mut both = |until: &dyn Fn(&Instance, &Instance) -> bool| {
            for _ in 0..200_000 {
                first.step().unwrap();
                second.step().unwrap();
                if until(&first, &second) {
                    return;
                }
            }

            panic!("no progress: {:?} {:?}", first.tasks(), second.tasks());
        };

        both(&|a, b| {
            a.phase() == "running"
                && b.phase() == "running"
                && matches!(b.tasks().get(&0), Some(TaskView::Standby(_)))
        });

        world.send(50..100);
        let at_end = |i: &Instance| match i.tasks().get(&0) {
            Some(TaskView::Standby(p)) => {
                p.at + 1
                    == world
                        .log
                        .bounds(TopicPartition::new(CHANGELOG, 0))
                        .unwrap()
                        .end
            }
            _ => false,
        };

        both(&|_, b| {
            (0..PARTITIONS).all(|p| world.committed(p) == world.log.bounds(input(p)).unwrap().end)
                && at_end(b)
        });

        drop(first);
        world.send(100..150);
        spare.run_until(&mut second, |i| {
            i.tasks()
                .values()
                .filter(|t| matches!(t, TaskView::Running { .. }))
                .count()
                == 2
        });

        spare.drain(&mut second).unwrap();
        spare.check(150, &second);
        let Some(TaskView::Running { .. }) = second.tasks().get(&0) else {
            panic!("it runs")
        };

        assert_eq!(spare.disk.quarantined.load(Ordering::Relaxed), 0);
    }
}

/// A damaged standby copy is copied again while no task depends on it.
#[test]
fn a_damaged_standby_is_copied_anew() {
    let world = World::new(&[]);
    world.send(0..50);
    let mut first = world.instance_of("counter-1", Standby::None);
    world.drain(&mut first).unwrap();
    let spare = World {
        disk: Disk::default(),
        log: world.log.clone(),
    };

    spare.disk.writes_left.store(usize::MAX, Ordering::Relaxed);
    let mut second = spare.instance_of("counter-2", Standby::All);
    let mut both = |until: &dyn Fn() -> bool| {
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        while !until() {
            assert!(
                std::time::Instant::now() < deadline,
                "no progress: {:?}",
                second.tasks()
            );
            first.step().unwrap();
            second.step().unwrap();
        }
    };

    let stored = || {
        spare
            .disk
            .tasks
            .lock()
            .unwrap()
            .get(&0)
            .and_then(|f| f.meta.clone())
    };

    both(&|| stored().is_some_and(|m| engine::checkpoint::StoreMeta::decode(&m).unwrap().verified));

    let flip = |f: &mut Files| f.keys.values_mut().for_each(|v| v[7] ^= 1);
    spare.disk.tasks.lock().unwrap().entry(0).and_modify(flip);
    world.send(50..100);
    both(&|| spare.disk.quarantined.load(Ordering::Relaxed) == 1);
    both(&|| stored().is_some_and(|m| engine::checkpoint::StoreMeta::decode(&m).unwrap().verified));

    drop(first);
    spare.run_until(&mut second, |i| {
        i.tasks()
            .values()
            .filter(|t| matches!(t, TaskView::Running { .. }))
            .count()
            == 2
    });

    spare.drain(&mut second).unwrap();
    spare.check(100, &second);
}

/// Stores that can be open only once at a time, like RocksDB within one process.
struct OneAtATime(Disk, Arc<Mutex<BTreeSet<u32>>>);

struct Open(Box<dyn StateStore>, u32, Arc<Mutex<BTreeSet<u32>>>);

impl Drop for Open {
    fn drop(&mut self) {
        self.2.lock().unwrap().remove(&self.1);
    }
}

impl StateStore for Open {
    fn meta(&self) -> Result<Option<Vec<u8>>, StoreError> {
        self.0.meta()
    }
    fn get(&self, key: &[u8], into: &mut Vec<u8>) -> Result<bool, StoreError> {
        self.0.get(key, into)
    }
    fn write(
        &mut self,
        changes: &mut dyn Iterator<Item = StoreWrite<'_>>,
        meta: &[u8],
    ) -> Result<(), StoreError> {
        self.0.write(changes, meta)
    }
    fn scan(
        &self,
        prefix: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StoreError> {
        self.0.scan(prefix, visit)
    }
}

impl Stores for OneAtATime {
    fn open(&self, task: u32) -> Result<Box<dyn StateStore>, StoreError> {
        if !self.1.lock().unwrap().insert(task) {
            return Err(StoreError::Held("open in this process".into()));
        }

        Ok(Box::new(Open(self.0.open(task)?, task, self.1.clone())))
    }
    fn quarantine(&self, task: u32) -> Result<String, StoreError> {
        self.0.quarantine(task)
    }
}

/// A restore ends. Before the loop knows, the same task is assigned again: the store is in flight,
/// and the loop must wait for it.
#[test]
fn a_store_on_its_way_to_the_loop_is_waited_for() {
    let (world, _) = worked();
    let clock = SystemClock::default();
    let stores = OneAtATime(world.disk.clone(), Arc::default());
    let log = Arc::new(world.log.clone());
    let wait = Duration::from_secs(30);
    let spec = Arc::new(factory().spec().clone());
    let mut restorer = Restorer::new(
        log,
        table(),
        spec,
        Box::new(stores),
        "counter".into(),
        wait,
        Standby::None,
    );

    let assign = |number| {
        RestorerRequest::Assign(Assignment {
            number,
            tasks: vec![(0, vec![input(0)])],
        })
    };

    let step = |restorer: &mut Restorer, turns: u32| {
        let mut reports = Vec::new();
        for _ in 0..turns {
            restorer.step(
                &clock,
                Duration::from_millis(10),
                Duration::ZERO,
                &mut reports,
            );
            if !reports.is_empty() {
                break;
            }

            std::thread::sleep(Duration::from_millis(1));
        }

        reports.pop()
    };

    restorer.request(assign(1), &clock);
    let Some(RestorerReport::Ready(1, 0, first)) = step(&mut restorer, 10_000) else {
        panic!("the first restore did not end well")
    };

    restorer.request(assign(2), &clock);
    let early = step(&mut restorer, 300);
    assert!(
        early.is_none(),
        "the store is not there yet: {}",
        matches!(early, Some(RestorerReport::Failed(..)))
    );
    restorer.request(RestorerRequest::Keep(vec![(0, first.store)]), &clock);
    assert!(matches!(
        step(&mut restorer, 10_000),
        Some(RestorerReport::Ready(2, 0, _))
    ));
}

/// The same in a thread beside the loop, as in a real process.
#[test]
fn restores_in_a_thread_end_the_same_way() {
    let spawn = |name: String, work: Box<dyn FnOnce() + Send>| {
        std::thread::Builder::new().name(name).spawn(work).map(drop)
    };

    let (world, _) = worked();
    for round in 0..3 {
        if round == 1 {
            world.disk.tasks.lock().unwrap().clear();
        }

        let mut instance = world.instance().restore_in_thread(spawn).unwrap();
        let sent = 100 + round * 10;
        world.send(sent..sent + 10);
        world.drain(&mut instance).unwrap();
        world.check(sent + 10, &instance);
    }

    world.log.offsets.lock().unwrap().insert(input(0), Some(1));
    let stopped = world.run_into(&mut world.instance().restore_in_thread(spawn).unwrap());
    assert!(
        matches!(&stopped, FatalError::Bug(text) if text.contains("older than transaction")),
        "{stopped}"
    );
}
