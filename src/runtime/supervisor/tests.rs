use std::sync::atomic::AtomicU32;

use wire::topics;

use super::*;
use crate::runtime::said::Said;
use crate::runtime::status::InstancePhase;

/// A member that ends with the error `end(n)` at its n-th start. Also returns the number of starts.
fn ending(role: &'static str, end: fn(u32) -> FatalError) -> (InstanceSpec, Arc<AtomicU32>) {
    let starts = Arc::new(AtomicU32::new(0));
    let counted = starts.clone();
    let make = Box::new(move || Err(end(counted.fetch_add(1, Ordering::Relaxed) + 1)));
    (
        InstanceSpec {
            role,
            instance: 1,
            leave: false,
            make,
        },
        starts,
    )
}

/// A member that runs until `stopped` is set.
fn lasting(role: &'static str, began: Arc<AtomicBool>, stopped: Arc<AtomicBool>) -> InstanceSpec {
    let make = Box::new(move || {
        began.store(true, Ordering::Release);
        while !stopped.load(Ordering::Acquire) {
            std::thread::sleep(Duration::from_millis(5));
        }

        Err(FatalError::Fenced("told to".into()))
    });

    InstanceSpec {
        role,
        instance: 1,
        leave: false,
        make,
    }
}

fn supervise(
    members: Vec<InstanceSpec>,
    ends: Ends,
    until: impl Future<Output = ()>,
) -> Result<(), FatalError> {
    let dir = tempfile::tempdir().expect("a directory");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let supervisor = Supervisor::start(
        members,
        Arc::new(topics::table("")),
        dir.path().to_path_buf(),
        ends,
    );
    runtime.block_on(supervisor.run(until, Duration::from_secs(20)))
}

fn bug(_: u32) -> FatalError {
    FatalError::Bug("a bug".into())
}

fn failed(_: u32) -> FatalError {
    FatalError::Failed("no broker".into())
}

#[test]
fn one_roles_end_leaves_the_others_and_the_worst_is_answered() {
    let began = Arc::new(AtomicBool::new(false));
    let stopped = Arc::new(AtomicBool::new(false));
    let (buggy, starts) = ending("notifications", bug);
    let watched = (starts.clone(), stopped.clone());
    std::thread::spawn(move || {
        while watched.0.load(Ordering::Relaxed) == 0 {
            std::thread::sleep(Duration::from_millis(5));
        }

        // Wait: the other member must still run, long after the bug.
        std::thread::sleep(Duration::from_millis(300));
        watched.1.store(true, Ordering::Release);
    });

    let members = vec![buggy, lasting("orders", began, stopped.clone())];
    let started = Instant::now();
    let end = supervise(members, Ends::Alone, std::future::pending());
    assert!(
        matches!(&end, Err(FatalError::Bug(why)) if why == "a bug"),
        "70 goes before 75: {end:?}"
    );
    assert!(
        stopped.load(Ordering::Acquire) && started.elapsed() >= Duration::from_millis(300),
        "the other role was not left alone"
    );
    assert_eq!(
        starts.load(Ordering::Relaxed),
        1,
        "a bug is no reason to start again"
    );
}

#[test]
fn the_first_end_takes_the_others_with_it_if_asked() {
    let began = Arc::new(AtomicBool::new(false));
    let stopped = Arc::new(AtomicBool::new(false));
    let (buggy, _) = ending("notifications", bug);
    let asked = stopped.clone();
    let at_once = Instant::now();
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_secs(2));
        asked.store(true, Ordering::Release);
    });

    let dir = tempfile::tempdir().expect("a directory");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let members = vec![buggy, lasting("orders", began, stopped)];
    let supervisor = Supervisor::start(
        members,
        Arc::new(topics::table("")),
        dir.path().to_path_buf(),
        Ends::Together,
    );
    let end = runtime.block_on(supervisor.run(std::future::pending(), Duration::from_millis(10)));
    assert!(matches!(end, Err(FatalError::Bug(_))) && at_once.elapsed() < Duration::from_secs(1));
}

#[test]
fn temporary_trouble_is_tried_again_and_a_signal_ends_it() {
    let began = Arc::new(AtomicBool::new(false));
    let stopped = Arc::new(AtomicBool::new(false));
    let (weak, starts) = ending("audit", failed);
    let members = vec![weak, lasting("orders", began, stopped.clone())];
    let seen = starts.clone();
    let signal = async move {
        while seen.load(Ordering::Relaxed) < 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }

        stopped.store(true, Ordering::Release);
    };

    let end = supervise(members, Ends::Alone, signal);
    assert!(
        matches!(end, Err(FatalError::Fenced(_))),
        "a role that waits for its next start has not failed: {end:?}"
    );
    assert!(starts.load(Ordering::Relaxed) >= 2);
}

#[test]
fn a_process_with_one_role_ends_with_it() {
    let (weak, starts) = ending("audit", failed);
    assert!(matches!(
        supervise(vec![weak], Ends::Alone, std::future::pending()),
        Err(FatalError::Failed(_))
    ));
    assert_eq!(starts.load(Ordering::Relaxed), 1);
}

#[test]
fn starts_are_bounded_and_a_long_run_begins_anew() {
    let mut restarts = Restarts::default();
    let short = Duration::from_secs(1);
    let waits: Vec<_> = std::iter::from_fn(|| restarts.next(short))
        .map(|w| w.as_secs())
        .collect();
    assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30, 30, 30, 30]);
    assert_eq!(
        (restarts.next(short), restarts.next(CALM * 2)),
        (None, Some(BACKOFF_MIN))
    );
}

#[test]
fn signs_of_life_come_during_a_turn_and_only_after_the_begin() {
    let dir = tempfile::tempdir().expect("a directory");
    let status = |role: &str, updated_ms| {
        Arc::new(Mutex::new(InstanceStatus {
            role: role.into(),
            instance: 1,
            updated_ms,
            turned_ms: updated_ms,
            ..Default::default()
        }))
    };

    let busy = status("orders", 5);
    let not_made = status("trading", 0);
    let heart = Heart::start(vec![busy, not_made], dir.path().to_path_buf());
    let began = Instant::now();
    let found = loop {
        let found = InstanceStatus::read_all(dir.path(), "orders");
        if !found.is_empty() {
            break found;
        }

        assert!(began.elapsed() < Duration::from_secs(20), "no sign of life");
        std::thread::sleep(Duration::from_millis(20));
    };

    assert!(
        found[0].updated_ms > 5 && found[0].turned_ms == 5,
        "{found:?}"
    );
    drop(heart);
    assert!(InstanceStatus::read_all(dir.path(), "trading").is_empty());
}

/// A role that never ran must be reported again and again: one line at the start of a month's run
/// is not enough.
#[test]
fn a_role_that_ended_beside_others_is_told_again_and_shown() {
    let began = Arc::new(AtomicBool::new(false));
    let stopped = Arc::new(AtomicBool::new(false));
    let (wrong, _) = ending("audit", |_| {
        FatalError::Invalid("made for 7 partitions".into())
    });
    let said = Said::default();
    let writer = said.clone();
    let heard = said.clone();
    let asked = stopped.clone();
    let reminders = |said: &Said| {
        said.lines(&["ERROR", "audit-1 has ended for good", "7 partitions"])
            .len()
    };

    std::thread::spawn(move || {
        while reminders(&heard) < 3 {
            std::thread::sleep(Duration::from_millis(5));
        }

        asked.store(true, Ordering::Release);
    });

    let dir = tempfile::tempdir().expect("a directory");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let members = vec![wrong, lasting("orders", began, stopped)];
    let mut supervisor = Supervisor::start(
        members,
        Arc::new(topics::table("")),
        dir.path().to_path_buf(),
        Ends::Alone,
    );
    supervisor.remind = Duration::from_millis(20);
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let end = tracing::subscriber::with_default(subscriber, || {
        runtime.block_on(async {
            supervisor
                .run(
                    tokio::time::sleep(Duration::from_secs(60)),
                    Duration::from_secs(20),
                )
                .await
        })
    });

    assert!(
        matches!(&end, Err(FatalError::Invalid(why)) if why == "made for 7 partitions"),
        "{end:?}"
    );
    assert!(reminders(&said) >= 3, "told once only");
    let shown = InstanceStatus::read_all(dir.path(), "audit");
    let [shown] = &shown[..] else {
        panic!("{shown:?}")
    };

    assert_eq!(
        (shown.state, shown.why.as_deref()),
        (InstancePhase::Stopped, Some("made for 7 partitions"))
    );
}

/// A second process of the same name must not overwrite the status of the living process.
#[test]
fn the_status_of_another_process_is_left_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    let theirs = InstanceStatus {
        role: "audit".into(),
        instance: 1,
        updated_ms: wall_ms(),
        state: InstancePhase::Running,
        ..Default::default()
    };

    theirs.write(dir.path()).expect("written");
    let (wrong, _) = ending("audit", |_| FatalError::Invalid("in use".into()));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let supervisor = Supervisor::start(
        vec![wrong],
        Arc::new(topics::table("")),
        dir.path().to_path_buf(),
        Ends::Alone,
    );
    let end = runtime.block_on(supervisor.run(std::future::pending(), Duration::from_secs(20)));
    assert!(matches!(end, Err(FatalError::Invalid(_))));
    assert_eq!(InstanceStatus::read_all(dir.path(), "audit"), [theirs]);
}
