//! The storm: five roles as real processes against three real brokers, through a proxy, under load, while everything that can go wrong does. Then
//! all is healed, everything must come to rest, and an oracle that knows only the inputs goes through all that was written.
//!
//! `make storm MINUTES=10 SEED=7`; a short one is part of `make test`. `LOUD=1` says what is done as it is done. The exit code is not 0 if anything
//! was lost, doubled or wrong; then the logs are kept and the command that repeats the run is printed. (A seed repeats what is done, not when the
//! threads of a dozen processes do what they do.)

mod clients;
mod crew;
mod nemesis;
mod report;
#[path = "../support/mod.rs"]
mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use processor::engine::ports::Log;
use processor::log::kafka::{KafkaLog, KafkaSettings};
use processor::wire::topics as t;

use clients::{Client, Plan};
use crew::{Crew, Name};
use nemesis::{Brokers, Nemesis};
use report::Report;
use support::cluster::Cluster;
use support::follower::Follower;
use support::load::{Sender, reference};
use support::process::Installation;
use support::program::SmallDisk;

const BROKERS: u32 = 3;
const PARTITIONS: u32 = 4;
const SYMBOLS: u64 = 20;
const USERS: u64 = 100;
/// Of the accounts; ample.
const CASH: i64 = 100_000_000;
const PREFIX: &str = "storm-";
/// Who runs in calm weather.
const BASE: [Name; 7] =
    [("orders", 1), ("orders", 2), ("trading", 1), ("trading", 2), ("portfolio", 1), ("notifications", 1), ("audit", 1)];
/// Its state is on a disk of its own, which fills up.
const SMALL: Name = ("orders", 2);
/// How long the calm after the storm may take.
const REST: Duration = Duration::from_secs(300);

fn number(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) if !text.is_empty() => text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")),
        _ => default,
    }
}

fn main() -> ExitCode {
    // Started by `cargo test` like any other test, with that one's arguments.
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.iter().any(|a| a == "--list") {
        println!("storm: test");
        return ExitCode::SUCCESS;
    }
    if args.iter().any(|a| !a.starts_with('-') && !"storm".contains(a.as_str())) {
        return ExitCode::SUCCESS;
    }
    let seed = number("SEED", 1);
    let time = Duration::from_secs(number("SECONDS", number("MINUTES", 0) * 60));
    let time = if time.is_zero() { Duration::from_secs(75) } else { time };
    println!("storm: {} s with seed {seed}", time.as_secs());
    let report = run(seed, time);
    println!("{report}");
    if report.damage().is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn log_on(address: &str) -> Arc<dyn Log> {
    Arc::new(KafkaLog::new(KafkaSettings::new(address), Arc::new(t::table(PREFIX))))
}

fn installation(address: &str, dir: &Path) -> Installation {
    let cash = CASH.to_string();
    let flags = [
        "--rate-limit",
        "0",
        "--opening-cash",
        &cash,
        "--stale-ms",
        "1000000000",
        "-X",
        "session.timeout.ms=6000",
        // Requests that are held back are given up while they are held, not long after.
        "-X",
        "socket.timeout.ms=4000",
        "-X",
        "request.timeout.ms=3000",
    ];
    let (state, logs) = (dir.join("state"), dir.join("logs"));
    std::fs::create_dir_all(&logs).expect("a directory");
    Installation { brokers: address.into(), prefix: PREFIX.into(), state, logs, flags: flags.map(String::from).to_vec() }
}

/// The library that moves wall clocks; none without a C compiler.
fn clock_library(dir: &Path) -> Option<PathBuf> {
    let library = dir.join("clock.so");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/clock.c");
    let made = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).arg("-ldl").status();
    if made.is_ok_and(|s| s.success()) {
        return Some(library);
    }
    println!("without clock jumps: there is no C compiler here");
    None
}

fn run(seed: u64, time: Duration) -> Report {
    let dir = tempfile::Builder::new().prefix("processor-storm-").tempdir().expect("a directory");
    let cluster = Arc::new(Cluster::start(BROKERS));
    let installation = installation(&cluster.address(), dir.path());
    installation.run(&["topics", "create", "--partitions", &PARTITIONS.to_string()]);
    let log = log_on(&cluster.direct());
    reference(&mut Sender::new(&*log), SYMBOLS);
    let follower = Follower::start(log_on(&cluster.direct()), t::ORDER_EVENTS);

    let mut crew = Crew::new(installation.clone(), clock_library(dir.path()));
    let disk = SmallDisk::new(96);
    if let Some(disk) = &disk {
        std::fs::create_dir_all(installation.state.join(SMALL.0)).expect("a directory");
        std::os::unix::fs::symlink(&disk.path, installation.state.join(SMALL.0).join(SMALL.1.to_string())).expect("a link");
    }
    BASE.iter().for_each(|n| crew.want(*n));
    let plan = Plan {
        brokers: cluster.address(),
        topic: format!("{PREFIX}order-commands"),
        partitions: PARTITIONS,
        users: USERS,
        symbols: SYMBOLS,
        rate: number("RATE", 25),
        logs: installation.logs.clone(),
    };
    let clients: Vec<_> = (0..2).map(|i| Client::start(plan.clone(), i, seed)).collect();
    let brokers = Brokers::start(seed, cluster.clone(), BROKERS, std::env::var_os("TWO_DOWN").is_some());
    let mut nemesis = Nemesis::new(seed, &cluster, BROKERS, disk.as_ref().map(|d| (d, SMALL)));
    let began = Instant::now();
    // Damage ends the storm: what it left is then looked at.
    while began.elapsed() < time && crew.findings.is_empty() {
        nemesis.tend(&mut crew);
        crew.tend();
        std::thread::sleep(Duration::from_millis(20));
    }
    println!("{:>7.1} s: the storm is over", began.elapsed().as_secs_f64());
    let broker_faults = brokers.faults.clone();
    nemesis.heal(&crew);
    let broker_counts = brokers.stop();
    nemesis.heal(&crew);
    crew.settle(&BASE);
    println!("{:>7.1} s: healed", began.elapsed().as_secs_f64());
    let stories: Vec<_> = clients.into_iter().map(Client::stop).collect();

    let mut report = Report::new(seed, began.elapsed());
    report.count_all("brokers: ", &broker_counts);
    report.count_all("", &nemesis.counts);
    report.broker_faults = broker_faults.load(Ordering::Relaxed);
    if !report.wait_at_rest(&*log, PREFIX, REST, &mut crew) {
        return report.keep(dir, &cluster, &crew);
    }
    println!("{:>7.1} s: at rest", began.elapsed().as_secs_f64());
    crew.stop_all();
    report.settle(&crew, &cluster.faults.counts);
    report.judge(&*log, &t::table(PREFIX), CASH * 10_000, &stories, follower);
    report.compare_state(&installation, PARTITIONS);
    println!("{:>7.1} s: judged", began.elapsed().as_secs_f64());
    report.keep(dir, &cluster, &crew)
}
