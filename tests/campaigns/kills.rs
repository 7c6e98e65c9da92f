//! Kills, freezes, twins and restarts under load on a real broker: every command is processed
//! exactly once. The same installation lives through all faults. Then an oracle that knows only the
//! inputs checks all records.

use std::time::{Duration, Instant};

use client::simulate::Rng;
use wire::topics as t;

use crate::support::fleet::{Fleet, Name};
use crate::support::follower::{self, Follower};
use crate::support::load::{Orders, Sender, Stream, reference, wait_for};
use crate::support::process::{Installation, replayed, tail};
use crate::support::{broker, oracle, rest};

const ROLES: [&str; 5] = ["orders", "trading", "portfolio", "notifications", "audit"];
const PARTITIONS: u32 = 4;
const SYMBOLS: u64 = 20;
const USERS: u64 = 100;
/// Commands per second.
const RATE: u64 = 200;
const KILLS_EACH: u32 = 20;
const FROZEN: Duration = Duration::from_secs(30);
/// Opening cash of the accounts; ample.
const CASH: i64 = 100_000_000;
/// Deadline of every wait.
const SOON: Duration = Duration::from_secs(60);

#[test]
fn nothing_is_lost_or_doubled_whatever_is_killed() {
    let dir = tempfile::tempdir().expect("a directory");
    let (broker, prefix) = (broker::Broker::start(), broker::unique_prefix("kills"));
    let installation = Installation::ample(&broker.address, &prefix, dir.path(), CASH);
    let log = installation.log();
    installation.run(&["topics", "create", "--partitions", &PARTITIONS.to_string()]);
    reference(&mut Sender::new(&*log), SYMBOLS);
    let follower = Follower::start(installation.log(), t::ORDER_EVENTS);

    let began = Instant::now();
    let part = |name: &str| println!("{:>5.1} s: {name}", began.elapsed().as_secs_f64());
    let mut fleet = Fleet::new(installation.clone());
    ROLES.iter().for_each(|role| fleet.start((role, 1)));
    let load = Stream::start(installation.log(), Orders::new(7, USERS, SYMBOLS), RATE);

    part("each role is killed again and again");
    kill_each_role(&mut fleet);
    part("orders and trading are scaled from 1 to 3 to 2 instances");
    scale(&mut fleet);
    part("an instance is frozen, replaced and thawed");
    freeze(&mut fleet);
    part("an instance is started twice");
    start_twice(&mut fleet);
    print_complaints(&fleet);
    part("the broker is killed and restarted, twice");
    for _ in 0..2 {
        let before = follower.count();
        broker.kill();
        broker.restart();
        let back = Instant::now();
        wait_for("events after the broker's restart", SOON, || {
            follower.count() > before + 2_000
        });

        println!(
            "  2000 events {:.1} s after its return",
            back.elapsed().as_secs_f64()
        );
        fleet.check();
    }

    part("everything comes to rest");
    let sent = load.stop();
    rest::wait_at_rest(&*log, &prefix, Duration::from_secs(120), || fleet.check());
    part("at rest");
    let verified = installation.run(&["verify"]);
    fleet.stop_all();
    fleet.print_starts();
    print_complaints(&fleet);

    let verdict = oracle::check(&*log, &t::table(&prefix), CASH * 10_000);
    part("the oracle has seen everything");
    assert!(
        verdict.commands as u64 == sent,
        "{} commands of {sent} are in the log",
        verdict.commands
    );
    wait_for("the follower to see the end", SOON, || {
        follower.count() >= verdict.events as u64
    });

    assert!(
        follower.stop() == follower::read_afresh(&*log, t::ORDER_EVENTS),
        "the follower was shown something else than what is there"
    );
    let replays = [(); 2].map(|()| installation.run(&["replay"]));
    part("replayed twice");
    println!(
        "kills: {} commands, {} events, {} trades, {} notifications, {} audit entries; {} kills, {} recoveries, {} repeats; wrong = {}",
        verdict.commands,
        verdict.events,
        verdict.trades,
        verdict.notifications,
        verdict.audit_entries,
        fleet.kills.values().sum::<u32>(),
        fleet.recoveries(),
        fleet.repeats(),
        verdict.wrong.len()
    );

    verdict.assert_clean();
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
    assert!(
        ROLES.iter().all(|r| fleet.kills[r] >= KILLS_EACH),
        "{:?}",
        fleet.kills
    );
}

fn print_complaints(fleet: &Fleet) {
    for (line, count) in fleet.complaints() {
        println!("  {count} x {line}");
    }
}

/// In random order and after random pauses, so that kills hit transactions, restores and starts.
/// The successor starts at once.
fn kill_each_role(fleet: &mut Fleet) {
    let mut rng = Rng::new(11);
    let mut due: Vec<&'static str> = (0..KILLS_EACH).flat_map(|_| ROLES).collect();
    while !due.is_empty() {
        let name: Name = (due.swap_remove(rng.below(due.len() as u64) as usize), 1);

        // Mostly at work, but one in five during the start.
        if rng.below(5) > 0 {
            wait_for(&format!("{name:?} to work"), SOON, || {
                fleet.check();
                fleet.works(name)
            });
        }

        std::thread::sleep(Duration::from_millis(rng.below(400)));
        fleet.kill9(name);
        fleet.start(name);
    }

    for role in ROLES {
        fleet.wait_shared(role, &[1], PARTITIONS, SOON);
    }
}

fn scale(fleet: &mut Fleet) {
    for role in ["orders", "trading"] {
        fleet.start((role, 2));
        fleet.start((role, 3));
    }

    for role in ["orders", "trading"] {
        fleet.wait_shared(role, &[1, 2, 3], PARTITIONS, SOON);
    }

    fleet.stop(("orders", 3));
    fleet.kill9(("trading", 3));
    for role in ["orders", "trading"] {
        fleet.wait_shared(role, &[1, 2], PARTITIONS, SOON);
    }
}

/// Frozen beyond its session: the partitions move to the other instance. After the thaw the frozen
/// instance must not continue at its old position.
fn freeze(fleet: &mut Fleet) {
    let frozen: Name = ("orders", 2);
    fleet.signal(frozen, libc::SIGSTOP);
    let since = Instant::now();
    fleet.wait_shared("orders", &[1], PARTITIONS, FROZEN);
    std::thread::sleep(FROZEN.saturating_sub(since.elapsed()));
    fleet.signal(frozen, libc::SIGCONT);
    fleet.wait_shared("orders", &[1, 2], PARTITIONS, SOON);
}

/// The older process must notice its replacement and end. The newer process waits for the local
/// state, then continues.
fn start_twice(fleet: &mut Fleet) {
    let name: Name = ("orders", 2);
    let mut older = fleet.start_again(name);
    let began = Instant::now();
    assert_eq!(
        older.exit_code(SOON),
        Some(75),
        "the older one stays, or ends otherwise:\n{}",
        tail(&older.log)
    );
    println!(
        "  the older one ended after {:.1} s",
        began.elapsed().as_secs_f64()
    );
    fleet.wait_shared("orders", &[1, 2], PARTITIONS, SOON);
}
