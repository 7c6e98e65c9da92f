//! Warm standbys on a real broker: an instance dies or leaves, and another continues from its
//! copies of the lost tasks' state. Also with a damaged copy, with a copy that is behind, and with
//! an heir that dies during the take-over.
//!
//! `STANDBY_COMMANDS=100000` makes the state larger, to measure.

use std::time::{Duration, Instant};

use faults::crash::Point;
use processor::runtime::status::{InstancePhase, InstanceStatus, TaskStatus};
use wire::topics as t;

use crate::support::follower::Follower;
use crate::support::load::{Orders, Sender, reference, wait_for};
use crate::support::process::{Installation, Process, tail};
use crate::support::{broker, oracle, rest};

const PARTITIONS: u32 = 4;
const SYMBOLS: u64 = 20;
const USERS: u64 = 200;
const CASH: i64 = 100_000_000;
const SOON: Duration = Duration::from_secs(120);
/// Limit for the changelog records read at a take-over with a copy: the records of the last
/// transactions before the death.
const FEW: u64 = 200;

struct Stage {
    installation: Installation,
    spare: Installation,
    orders: Orders,
    sender: Sender,
    follower: Follower,
    sent: u64,
}

impl Stage {
    /// Sends commands, and waits until each has at least one event.
    fn send(&mut self, commands: u64) {
        let before = self.follower.count();
        (0..commands).for_each(|_| self.orders.send_next(&mut self.sender));
        self.sender.flush();
        self.sent += commands;
        wait_for("events", SOON, || {
            self.follower.count() >= before + commands
        });
    }

    fn rest(&self) {
        rest::wait_at_rest(
            &*self.installation.log(),
            &self.installation.prefix,
            SOON,
            || {},
        );
    }

    fn first(&self, variables: &[(&str, &str)]) -> Process {
        self.installation
            .spawn("orders", 1, &["--role", "orders", "--leave"], variables)
    }

    fn second(&self, variables: &[(&str, &str)]) -> Process {
        self.spare.start_with("orders", 2, variables)
    }

    fn tasks(&self, process: &Process, state: InstancePhase) -> Vec<TaskStatus> {
        let status = std::fs::read(InstanceStatus::path(
            &self.installation.state,
            "orders",
            process.instance,
        ))
        .unwrap_or_default();
        let status = serde_json::from_slice::<InstanceStatus>(&status)
            .ok()
            .filter(|s| s.pid == process.id());
        status
            .map(|s| s.tasks)
            .unwrap_or_default()
            .into_iter()
            .filter(|t| t.state == state)
            .collect()
    }

    /// Waits until both instances have their share.
    fn shared(&self, one: &Process, other: &Process) {
        wait_for("two shares", SOON, || {
            [one, other]
                .iter()
                .all(|p| self.tasks(p, InstancePhase::Running).len() == 2)
        });
    }

    /// Waits until the heir has a standby, caught up to the end, of each task that it does not run.
    fn warm(&self, heir: &Process) {
        wait_for("warm copies", SOON, || {
            let copies = self.tasks(heir, InstancePhase::Standby);
            copies.len() == 2
                && copies
                    .iter()
                    .all(|c| c.restored > 0 && c.restored + 2 >= c.restore_end)
        });
    }

    /// Sends commands while some tasks have no instance, and waits until the heir runs all tasks
    /// and has processed all commands. Returns the number of changelog records that the heir read
    /// to run these tasks.
    fn inherit(&mut self, what: &str, heir: &Process, before: usize) -> u64 {
        let began = Instant::now();
        (0..USERS).for_each(|_| self.orders.send_next(&mut self.sender));
        self.sender.flush();
        self.sent += USERS;
        wait_for("all tasks", SOON, || {
            self.tasks(heir, InstancePhase::Running).len() == 4
        });

        let took = began.elapsed();
        self.rest();
        let text = std::fs::read_to_string(&heir.log).expect("a log");
        let lines = text[before..].lines().filter(|l| l.contains(": running "));
        let read: u64 = lines
            .filter_map(|l| {
                l.split("records=")
                    .nth(1)?
                    .split_whitespace()
                    .next()?
                    .parse::<u64>()
                    .ok()
            })
            .sum();

        println!(
            "{what}: all tasks run {:.1} s after, {read} changelog records read",
            took.as_secs_f64()
        );
        read
    }
}

fn stage(broker: &str, dir: &std::path::Path, standby: &str) -> Stage {
    let prefix = broker::unique_prefix("standby");
    let installation = Installation::ample(broker, &prefix, dir, CASH);
    installation.run(&["topics", "create", "--partitions", &PARTITIONS.to_string()]);
    let mut spare = installation.clone();
    spare.flags.extend(["--standby", standby].map(String::from));
    let log = installation.log();
    let mut sender = Sender::new(&*log);
    reference(&mut sender, SYMBOLS);
    let follower = Follower::start(log, t::ORDER_EVENTS);
    Stage {
        installation,
        spare,
        orders: Orders::new(3, USERS, SYMBOLS),
        sender,
        follower,
        sent: 0,
    }
}

fn length(p: &Process) -> usize {
    std::fs::metadata(&p.log).map_or(0, |m| m.len() as usize)
}

#[test]
fn a_standby_takes_over_where_its_copies_are() {
    let commands =
        std::env::var("STANDBY_COMMANDS").map_or(2_000, |n| n.parse().expect("a number"));
    let broker = broker::Broker::start();
    for standby in ["0", "all"] {
        let dir = tempfile::tempdir().expect("a directory");
        let mut stage = stage(&broker.address, dir.path(), standby);
        let others = stage.installation.spawn(
            "others",
            1,
            &["--role", "trading,portfolio,notifications,audit"],
            &[],
        );
        let mut first = stage.first(&[]);
        stage.send(commands);
        let mut second = stage.second(&[]);
        stage.shared(&first, &second);
        stage.rest();
        if standby == "0" {
            let before = length(&second);
            first.kill9();
            let read = stage.inherit("kill -9, no standby", &second, before);
            assert!(read > FEW * 5, "this test shows nothing: {read}");
        } else {
            stage.warm(&second);
            let before = length(&second);
            first.kill9();
            let read = stage.inherit("kill -9, --standby all", &second, before);
            assert!(read <= FEW, "{read} records");
            hard_cases(&mut stage, &mut first, &mut second);
        }

        stage.rest();
        let verified = stage.installation.run(&["verify"]);
        assert!(verified.lines().all(|l| l.starts_with("ok")), "{verified}");
        [others, second]
            .into_iter()
            .chain(first.is_running().then_some(first))
            .for_each(Process::stop);
        let log = stage.installation.log();
        let verdict = oracle::check(&*log, &t::table(&stage.installation.prefix), CASH * 10_000);
        assert_eq!(verdict.commands as u64, stage.sent);
        verdict.assert_clean();
        let replay = stage.installation.run(&["replay", "--role", "orders"]);
        assert_eq!(
            replay.matches("equal").count(),
            PARTITIONS as usize,
            "{replay}"
        );
    }
}

/// The second instance runs all tasks, the first is dead.
fn hard_cases(stage: &mut Stage, first: &mut Process, second: &mut Process) {
    // The first instance leaves, hands its tasks over, and dies just after it has left.
    *first = stage.first(&[("PROCESSOR_CRASH", Point::StopLeft.name())]);
    stage.shared(first, second);
    stage.send(USERS);
    stage.rest();
    stage.warm(second);
    let before = length(second);
    first.signal(libc::SIGTERM);
    wait_for("the end of one that left", SOON, || !first.is_running());
    let read = stage.inherit("--leave", second, before);
    assert!(
        tail(&first.log).contains("crash point stop.left"),
        "{}",
        tail(&first.log)
    );
    assert!(read <= FEW, "{read} records");

    // A copy that is behind, and a damaged copy: the heir was down while the first instance worked.
    *first = stage.first(&[]);
    stage.shared(first, second);
    stage.rest();
    stage.warm(second);
    let copies: Vec<u32> = stage
        .tasks(second, InstancePhase::Standby)
        .iter()
        .map(|c| c.task)
        .collect();
    second.kill9();
    stage.send(USERS);
    let damaged = stage
        .installation
        .state
        .join("orders/2")
        .join(copies[0].to_string());
    std::fs::remove_file(damaged.join("CURRENT")).expect("a store");
    *second = stage.second(&[("PROCESSOR_CRASH", Point::RestoreStandby.name())]);
    stage.shared(first, second);
    stage.rest();
    stage.warm(second);
    let aside = damaged.with_file_name(format!("{}.quarantine-1", copies[0]));
    assert!(
        aside.exists(),
        "the damaged copy was put aside:\n{}",
        tail(&second.log)
    );

    // The heir dies during the take-over, and completes the take-over in its next life.
    first.kill9();
    wait_for("the heir's death", SOON, || !second.is_running());
    assert!(
        tail(&second.log).contains("crash point restore.standby"),
        "{}",
        tail(&second.log)
    );
    let before = length(second);
    *second = stage.second(&[]);
    let read = stage.inherit("kill -9, and the heir dies, too", second, before);
    assert!(read <= FEW, "{read} records");
}
