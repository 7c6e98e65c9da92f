//! Every role visits every crash point of the program (`crates/faults/src/crash.rs`) under load on
//! a real broker. The role aborts at the point and is restarted, to die at the next one. At the
//! end, an oracle that knows only the inputs checks all records. Then the same runs on the embedded
//! log, where all roles die together. A point that was not hit fails the test; an unreachable point
//! is listed with its reason.
//!
//! `CRASH_ROLES=orders,audit` and `CRASH_POINTS=tx.begun,commit.decided` narrow a run down.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use faults::crash::Point::{self, *};
use wire::topics as t;

use crate::support::fleet::{Fleet, Name};
use crate::support::follower::{self, Follower};
use crate::support::load::{Orders, Sender, Stream, reference, wait_for};
use crate::support::process::{Installation, replayed};
use crate::support::{broker, oracle, rest};

const ROLES: [&str; 5] = ["orders", "trading", "portfolio", "notifications", "audit"];
const PARTITIONS: u32 = 4;
const SYMBOLS: u64 = 20;
const USERS: u64 = 100;
/// Commands per second.
const RATE: u64 = 120;
/// Opening cash of the accounts; ample.
const CASH: i64 = 100_000_000;
/// Deadline of every wait.
const SOON: Duration = Duration::from_secs(60);

/// Preparation that leads an instance to its point.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Before {
    /// The instance reaches the point without preparation.
    Nothing,
    /// All of its stores are deleted.
    Wiped,
    /// One of its stores is damaged.
    Damaged,
    /// The running instance gets a stop signal.
    Stop,
}
use Before::{Damaged, Nothing, Stop, Wiped};

/// Points, the visit at which the instance dies, and the preparation. The lives follow each other,
/// so each life begins in the state that the last life left.
const LIVES: &[(Point, u64, Before)] = &[
    (LoopPolled, 4, Nothing),
    (ProcessRecord, 7, Nothing),
    (ProcessDone, 4, Nothing),
    (CommitPrepared, 4, Nothing),
    (TxBegun, 4, Nothing),
    (TxSending, 9, Nothing),
    (TxSent, 4, Nothing),
    (TxDelivered, 4, Nothing),
    (TxOffsetsInFlight, 4, Nothing),
    (TxOffsets, 4, Nothing),
    (TxEndInFlight, 4, Nothing),
    (ResumeAfter, 4, Nothing),
    (TxEndInFlight, 1, Nothing),
    (ResumeBefore, 4, Nothing),
    (CommitStored, 5, Nothing),
    (CommitDone, 4, Nothing),
    (BatchLeft, 2, Nothing),
    (BatchLeft, 1, Nothing),
    (StoreBatch, 6, Nothing),
    (StoreFlush, 6, Nothing),
    // From here on the store is behind the changelog.
    (CommitDecided, 4, Nothing),
    (RestoreReader, 1, Nothing),
    (RestoreReached, 1, Nothing),
    (RestoreChunk, 3, Wiped),
    (RestoreChecked, 1, Nothing),
    (RestoreVerified, 1, Nothing),
    (RestoreOffsets, 2, Nothing),
    (RestoreOpened, 3, Nothing),
    (RestoreDamaged, 1, Damaged),
    (RestoreQuarantined, 1, Nothing),
    (JoinFencing, 1, Nothing),
    (JoinFenced, 1, Nothing),
    (JoinMember, 1, Nothing),
    (JoinTable, 1, Nothing),
    (JoinTables, 1, Nothing),
    (AssignCallback, 1, Nothing),
    (AssignTasks, 1, Nothing),
    (StopAsked, 1, Stop),
    (StopClosing, 1, Stop),
];

/// The very first lives of a role, before its first commit.
const FIRST_LIVES: &[(Point, u64, Before)] = &[
    (AssignTasks, 1, Nothing),
    (RestoreOpened, 2, Nothing),
    (ResumeAfter, 1, Nothing),
    (TxDelivered, 1, Nothing),
    (TxOffsets, 1, Nothing),
    (TxEndInFlight, 1, Nothing),
    (CommitDecided, 1, Nothing),
    (StoreBatch, 1, Nothing),
];

/// Reason for which a role never reaches a point on Kafka.
fn unreachable_for(role: &str, point: Point) -> Option<&'static str> {
    match point {
        LogWrite | LogWritten => Some("on the embedded log only"),
        RestoreStandby | StopLeft => Some("with --standby and --leave only: kafka_standby.rs"),
        AdoptPositions | AdoptCommitted => Some("where offsets are forgotten: crash_paths.rs"),
        RepairJoined | RepairJudged | RepairCommitted => {
            Some("the command `repair offsets`: crash_paths.rs")
        }
        MassPart | MassGoesOn | MatchPart | MatchGoesOn => Some("with deep books: crash_paths.rs"),
        JoinTable if !["orders", "trading"].contains(&role) => {
            Some("the role reads no broadcast table")
        }
        _ => None,
    }
}

/// True if a transaction in flight at the crash must turn out committed, false if it must not; none
/// if both are possible.
fn must_be_committed(point: Point) -> Option<bool> {
    match point {
        LoopPolled | ProcessRecord | ProcessDone | CommitPrepared | TxBegun | TxSending
        | TxSent | TxDelivered | TxOffsetsInFlight | TxOffsets => Some(false),
        CommitDecided => Some(true),
        _ => None,
    }
}

fn chosen(variable: &str, name: &str) -> bool {
    std::env::var(variable).map_or(true, |list| list.split(',').any(|n| n == name))
}

#[derive(Default)]
struct Matrix {
    hits: BTreeMap<(Point, &'static str), u32>,
    /// Transactions whose EndTxn answer was not read: the number that turned out committed, and the
    /// number examined.
    unread: (u32, u32),
}

#[test]
fn roles_killed_at_every_point_lose_and_double_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let (broker, prefix) = (broker::Broker::start(), broker::unique_prefix("crash"));
    let installation = Installation::ample(&broker.address, &prefix, dir.path(), CASH);
    let log = installation.log();
    installation.run(&["topics", "create", "--partitions", &PARTITIONS.to_string()]);
    reference(&mut Sender::new(&*log), SYMBOLS);
    let follower = Follower::start(installation.log(), t::ORDER_EVENTS);

    let began = Instant::now();
    let part = |name: &str| println!("{:>5.1} s: {name}", began.elapsed().as_secs_f64());
    let mut fleet = Fleet::new(installation.clone());
    let load = Stream::start(installation.log(), Orders::new(7, USERS, SYMBOLS), RATE);
    let mut matrix = Matrix::default();
    for role in ROLES {
        part(&format!("{role} dies in its first moments"));
        live(&mut fleet, &mut matrix, &installation, role, FIRST_LIVES);
        fleet.start((role, 1));
    }

    let before = follower.count();
    wait_for("events", SOON, || follower.count() > before + 200);
    for role in ROLES.into_iter().filter(|r| chosen("CRASH_ROLES", r)) {
        part(&format!("{role} dies at every point"));
        fleet.kill9((role, 1));
        live(&mut fleet, &mut matrix, &installation, role, LIVES);
        die_rebuilding(&mut matrix, &installation, role);
        fleet.start((role, 1));
        fleet.wait_shared(role, &[1], PARTITIONS, SOON);
    }

    part("instances come and go");
    die_in_rebalances(&mut fleet, &mut matrix);
    part("an instance dies in a transaction, and another takes over");
    die_for_good(&mut fleet, &mut matrix);

    part("everything comes to rest");
    let sent = load.stop();
    rest::wait_at_rest(&*log, &prefix, Duration::from_secs(120), || fleet.check());
    let verified = installation.run(&["verify"]);
    fleet.stop_all();
    fleet.print_starts();
    fleet
        .complaints()
        .iter()
        .for_each(|(line, count)| println!("  {count} x {line}"));
    let verdict = oracle::check(&*log, &t::table(&prefix), CASH * 10_000);
    part("the oracle has seen everything");
    let dead_letters = oracle::read_all(&*log, t::DEAD_LETTERS).len();
    wait_for("the follower to see the end", SOON, || {
        follower.count() >= verdict.events as u64
    });

    let followed = follower.stop() == follower::read_afresh(&*log, t::ORDER_EVENTS);
    let replays = [(); 2].map(|()| installation.run(&["replay"]));
    part("replayed twice");

    matrix.print();
    println!(
        "crash points: {} points x {} roles, {} crashes, {} commands of {sent}, {} events, {} audit entries; lost or doubled or wrong: {}, repeats {}, \
         dead letters {dead_letters}, digests equal {} of {}",
        Point::ALL.len(),
        ROLES.len(),
        fleet.kills.values().sum::<u32>(),
        verdict.commands,
        verdict.events,
        verdict.audit_entries,
        verdict.wrong.len(),
        fleet.repeats(),
        replays[0].matches("equal").count(),
        ROLES.len() * PARTITIONS as usize
    );

    verdict.assert_clean();
    assert_eq!(verdict.commands as u64, sent, "commands in the log");
    assert_eq!(dead_letters, 0);
    assert!(
        followed,
        "the follower was shown something else than what is there"
    );
    assert_eq!(replayed(&replays[0]), replayed(&replays[1]));
    assert_eq!(
        replays[0].matches("equal").count(),
        ROLES.len() * PARTITIONS as usize,
        "{}",
        replays[0]
    );
    assert!(verified.lines().all(|l| l.starts_with("ok")), "{verified}");
    assert_eq!(
        fleet.repeats(),
        0,
        "transactions are broken: the same record was read twice"
    );
    matrix.assert_complete();
}

/// Runs the lives one after the other; each ends at a point.
fn live(
    fleet: &mut Fleet,
    matrix: &mut Matrix,
    installation: &Installation,
    role: &'static str,
    lives: &[(Point, u64, Before)],
) {
    let name: Name = (role, 1);
    let mut last: Option<Point> = None;
    let lives = lives
        .iter()
        .filter(|(p, ..)| unreachable_for(role, *p).is_none() && chosen("CRASH_POINTS", p.name()));
    for &(point, visit, before) in lives {
        let state = installation.state.join(role).join("1");
        match before {
            Wiped => (0..PARTITIONS).for_each(|task| {
                std::fs::remove_dir_all(state.join(task.to_string())).expect("a store")
            }),
            // A store without this file is certainly damaged.
            Damaged => std::fs::remove_file(state.join("0").join("CURRENT")).expect("a store"),
            Nothing | Stop => {}
        }

        let since = Instant::now();
        fleet.start_armed(name, &format!("{}:{visit}", point.name()));
        if before == Stop {
            wait_for(&format!("{role} to work"), SOON, || fleet.works(name));
            fleet.signal(name, libc::SIGTERM);
        }

        wait_for(&format!("{role} to die at {}", point.name()), SOON, || {
            fleet.aborted(name, point.name())
        });

        let said = fleet.bury(name);
        matrix.judge(role, last, &said, before);
        *matrix.hits.entry((point, role)).or_default() += 1;
        println!(
            "        {role} {} after {:.1} s",
            point.name(),
            since.elapsed().as_secs_f64()
        );
        last = (before != Wiped).then_some(point);
    }
}

/// Not a life of the role, but the command that deletes its local state.
fn die_rebuilding(matrix: &mut Matrix, installation: &Installation, role: &'static str) {
    let mut rebuild = installation.command(&["rebuild", "--role", role, "--instance", "1"]);
    let out = rebuild
        .env("PROCESSOR_CRASH", format!("{}:2", RebuildWiping.name()))
        .output()
        .expect("the binary starts");
    let said = String::from_utf8_lossy(&out.stderr);
    let at_point = said.contains(&format!("crash point {}: ", RebuildWiping.name()));
    assert!(
        out.status.signal() == Some(libc::SIGABRT) && at_point,
        "{}: {said}",
        out.status
    );
    *matrix.hits.entry((RebuildWiping, role)).or_default() += 1;
}

/// All roles at once: a second instance joins, and the first dies while it gives partitions up.
/// Later the second leaves, and the first dies again.
fn die_in_rebalances(fleet: &mut Fleet, matrix: &mut Matrix) {
    let roles: Vec<_> = ROLES
        .into_iter()
        .filter(|r| chosen("CRASH_ROLES", r))
        .collect();
    let mut hit = |fleet: &mut Fleet, point: Point| {
        for role in &roles {
            wait_for(&format!("{role} to die at {}", point.name()), SOON, || {
                fleet.aborted((role, 1), point.name())
            });

            fleet.bury((role, 1));
            *matrix.hits.entry((point, role)).or_default() += 1;
        }
    };

    for role in &roles {
        fleet.kill9((role, 1));
        fleet.start_armed((role, 1), RevokeCallback.name());
        wait_for(&format!("{role} to work"), SOON, || fleet.works((role, 1)));
    }

    roles.iter().for_each(|role| fleet.start((role, 2)));
    hit(fleet, RevokeCallback);
    for role in &roles {
        fleet.start_armed((role, 1), RevokeTasks.name());
        wait_for(&format!("{role}-2 to work"), SOON, || {
            fleet.works((role, 2))
        });
    }

    roles.iter().for_each(|role| fleet.kill9((role, 2)));
    hit(fleet, RevokeTasks);
    roles.iter().for_each(|role| fleet.start((role, 1)));
    roles
        .iter()
        .for_each(|role| fleet.wait_shared(role, &[1], PARTITIONS, SOON));
}

/// All roles at once: the first instance dies with pending offsets in an open transaction and does
/// not return. The new owner of its tasks has another transactional id, so only the transaction
/// timeout ends the transaction.
fn die_for_good(fleet: &mut Fleet, matrix: &mut Matrix) {
    for role in ROLES {
        fleet.start((role, 2));
        fleet.kill9((role, 1));
        fleet.start_armed((role, 1), &format!("{}:40", TxOffsets.name()));
    }

    for role in ROLES {
        wait_for(&format!("{role} to die in a transaction"), SOON, || {
            fleet.aborted((role, 1), TxOffsets.name())
        });

        fleet.bury((role, 1));
        *matrix.hits.entry((TxOffsets, role)).or_default() += 1;
    }

    ROLES
        .iter()
        .for_each(|role| fleet.wait_shared(role, &[2], PARTITIONS, SOON));
}

impl Matrix {
    /// Counts the state in which an instance found its stores: behind the log, or unchanged.
    fn judge(&mut self, role: &str, last: Option<Point>, said: &str, before: Before) {
        let found: Vec<&str> = said.lines().filter(|l| l.contains("untouched=")).collect();
        let Some(last) = last.filter(|_| before == Nothing && found.len() >= PARTITIONS as usize)
        else {
            return;
        };

        let behind = found.iter().any(|l| l.contains("untouched=false"));
        if last == TxEndInFlight {
            self.unread = (self.unread.0 + u32::from(behind), self.unread.1 + 1);
        }

        if let Some(committed) = must_be_committed(last) {
            assert_eq!(
                behind,
                committed,
                "{role} died at {}, and its successor found:\n{}",
                last.name(),
                found.join("\n")
            );
        }
    }

    fn print(&self) {
        println!("{:<22}{}", "", ROLES.map(|r| format!("{r:<15}")).concat());
        for point in Point::ALL {
            let cell = |role| match (
                self.hits.get(&(*point, role)),
                unreachable_for(role, *point),
            ) {
                (Some(n), _) => format!("{n:<15}"),
                (None, Some(_)) => format!("{:<15}", "-"),
                (None, None) => format!("{:<15}", "NOT HIT"),
            };

            let why = ROLES
                .iter()
                .find_map(|r| unreachable_for(r, *point))
                .map_or(String::new(), |why| format!("-: {why}"));
            println!("{:<22}{}{why}", point.name(), ROLES.map(cell).concat());
        }

        let (committed, all) = self.unread;
        println!(
            "commit requests whose answer was not read: {committed} of {all} turned out committed"
        );
    }

    fn assert_complete(&self) {
        if ["CRASH_ROLES", "CRASH_POINTS"]
            .iter()
            .any(|v| std::env::var_os(v).is_some())
        {
            return;
        }

        for point in Point::ALL {
            for role in ROLES {
                let hit = self.hits.contains_key(&(*point, role));
                let why = unreachable_for(role, *point);
                assert!(
                    hit != why.is_some(),
                    "{} of {role}: hit {hit}, unreachable {why:?}",
                    point.name()
                );
            }
        }
    }
}
