//! The storm: five roles as real processes against three real brokers, all with their default
//! settings, through a proxy, under load. All kinds of faults happen at random, including
//! operators' mistakes. Then all faults end, and the system must come to rest. Judges that know
//! only the inputs then examine all records. Probes measure the longest silence of each partition,
//! together with the faults at that time.
//!
//! `make storm MINUTES=10 SEED=7`; `make test` contains a short storm. `LOUD=1` prints each action.
//! The exit code is not 0 if any record was lost, doubled or wrong. In that case the logs are kept
//! and the command that repeats the run is printed. (A seed repeats the actions, but not the timing
//! of threads in a dozen processes.)

mod books;
mod brokers;
mod clients;
mod crew;
mod mistakes;
mod nemesis;
mod report;
mod silence;
mod site;
#[path = "../support/mod.rs"]
mod support;
mod traffic;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use client::simulate::Rng;
use log_kafka::{KafkaLog, KafkaSettings};
use ports::Log;
use wire::topics as t;

use brokers::Brokers;
use clients::{Client, Plan};
use crew::{Crew, Name};
use mistakes::Mistakes;
use nemesis::Nemesis;
use report::Report;
use silence::{Owners, Probes, Troubles, Watch};
use site::{Floods, Site};
use support::cluster::Cluster;
use support::follower::Follower;
use support::load::{Sender, reference, wait_for};
use support::oracle::read_all;
use support::process::Installation;
use support::program::SmallDisk;
use traffic::{BOOK_PRICE, BOOKS, Books, Flood, HALF_SPREAD_BPS, Listed, MarketOrders};

const BROKERS: u32 = 3;
const PARTITIONS: u32 = 4;
const SYMBOLS: u64 = 20;
const USERS: u64 = 100;
/// Opening cash of the accounts; ample.
const CASH: i64 = 100_000_000;
const PREFIX: &str = "storm-";
/// Instances that run in calm weather.
const BASE: [Name; 7] = [
    ("orders", 1),
    ("orders", 2),
    ("trading", 1),
    ("trading", 2),
    ("portfolio", 1),
    ("notifications", 1),
    ("audit", 1),
];
/// The state of this instance is on a separate disk, which fills up.
const SMALL: Name = ("orders", 2);
/// Time limit for the system to come to rest after the storm.
const REST: Duration = Duration::from_secs(600);

fn number(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) if !text.is_empty() => text
            .parse()
            .unwrap_or_else(|_| panic!("{name}={text} is not a number")),
        _ => default,
    }
}

fn main() -> ExitCode {
    // `cargo test` starts this program like any other test, with the usual arguments.
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.iter().any(|a| a == "--list") {
        println!("storm: test");
        return ExitCode::SUCCESS;
    }

    if args
        .iter()
        .any(|a| !a.starts_with('-') && !"storm".contains(a.as_str()))
    {
        return ExitCode::SUCCESS;
    }

    if let Some(gone) = mistakes::deletes_a_group() {
        return if gone {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        };
    }

    let seed = number("SEED", 1);
    let time = Duration::from_secs(number("STORM_SECONDS", number("MINUTES", 0) * 60));
    let time = if time.is_zero() {
        Duration::from_secs(75)
    } else {
        time
    };

    println!("storm: {} s with seed {seed}", time.as_secs());
    let report = run(seed, time);
    println!("{report}");
    if report.damage().is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn log_on(address: &str) -> Arc<dyn Log> {
    Arc::new(KafkaLog::new(
        KafkaSettings::new(address),
        Arc::new(t::table(PREFIX)),
    ))
}

fn installation(address: &str, dir: &Path) -> Installation {
    let cash = CASH.to_string();

    // Settings that decide about orders, so that the oracle can compute every answer. Sessions,
    // timeouts and all other settings are the defaults.
    let flags = [
        "--rate-limit",
        "0",
        "--client-transfers",
        "--opening-cash",
        &cash,
        "--stale-ms",
        "1000000000",
    ];

    let state = dir.join("state");
    let logs = dir.join("logs");
    std::fs::create_dir_all(&logs).expect("a directory");
    Installation {
        brokers: address.into(),
        prefix: PREFIX.into(),
        state,
        logs,
        flags: flags.map(String::from).to_vec(),
    }
}

/// The library that moves wall clocks; none without a C compiler.
fn clock_library(dir: &Path) -> Option<PathBuf> {
    let library = dir.join("clock.so");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/clock.c");
    let made = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .arg(&library)
        .arg(source)
        .arg("-ldl")
        .status();
    if made.is_ok_and(|s| s.success()) {
        return Some(library);
    }

    println!("without clock jumps: there is no C compiler here");
    None
}

fn run(seed: u64, time: Duration) -> Report {
    let dir = tempfile::Builder::new()
        .prefix("processor-storm-")
        .tempdir()
        .expect("a directory");
    let cluster = Arc::new(Cluster::start_as_shipped());
    let installation = installation(&cluster.address(), dir.path());
    installation.run(&["topics", "create", "--partitions", &PARTITIONS.to_string()]);
    let log = log_on(&cluster.direct());
    let mut sender = Sender::new(&*log);
    reference(&mut sender, SYMBOLS);
    for symbol in (0..BOOKS).map(|n| format!("B{n}")) {
        sender.send(
            t::INSTRUMENTS,
            &symbol,
            format!(r#"{{"symbol":"{symbol}","half_spread_bps":{HALF_SPREAD_BPS}}}"#),
        );
        sender.flush();
        sender.send(
            t::MARKET_DATA,
            &symbol,
            format!(r#"{{"symbol":"{symbol}","price":"{BOOK_PRICE}","timestamp":1625159076}}"#),
        );
    }

    sender.flush();
    let follower = Follower::start(log_on(&cluster.direct()), t::ORDER_EVENTS);

    let mut crew = Crew::new(installation.clone(), clock_library(dir.path()));
    let disk = SmallDisk::new(96);
    if let Some(disk) = &disk {
        std::fs::create_dir_all(installation.state.join(SMALL.0)).expect("a directory");
        std::os::unix::fs::symlink(
            &disk.path,
            installation.state.join(SMALL.0).join(SMALL.1.to_string()),
        )
        .expect("a link");
    }

    BASE.iter().for_each(|n| crew.want(*n));

    // An order may reach `trading` before the first price of its symbol, and is then refused. The
    // oracle does not know this case.
    let priced = || {
        read_all(&*log, t::REFERENCE_PRICES)
            .iter()
            .map(|p| p.text("symbol").to_string())
            .collect::<BTreeSet<_>>()
            .len()
    };

    wait_for("all prices to be told", REST, || {
        crew.tend();
        priced() as u64 == SYMBOLS + BOOKS
    });

    let plan = Plan {
        brokers: cluster.address(),
        topic: format!("{PREFIX}order-commands"),
        partitions: PARTITIONS,
        logs: installation.logs.clone(),
    };

    let troubles = Troubles::default();
    let probes = Probes::new(PARTITIONS, SYMBOLS);
    let watch = Watch::start(log_on(&cluster.direct()), &probes);
    let rate = number("RATE", 25);
    let probes_a_second = 4 * u64::from(PARTITIONS);
    let orders = |client| MarketOrders {
        client,
        users: USERS,
        symbols: SYMBOLS,
        sent: Vec::new(),
    };

    let mut clients = vec![
        Client::start(plan.clone(), 0, seed, Box::new(orders(0)), rate),
        Client::start(plan.clone(), 1, seed, Box::new(Books::new(CASH)), rate),
        Client::start(plan.clone(), 2, seed, Box::new(probes), probes_a_second),
    ];
    let size = number("FLOOD", 10_000);
    let flood = Client::start(
        plan.clone(),
        3,
        seed,
        Box::new(Flood::new(PARTITIONS, SYMBOLS, size)),
        0,
    );

    let two_down = std::env::var_os("TWO_DOWN").is_some();
    let brokers = Brokers::start(seed, cluster.clone(), BROKERS, two_down, troubles.clone());
    let nemesis = Nemesis::new(
        seed,
        &cluster,
        BROKERS,
        disk.as_ref().map(|d| (d, SMALL)),
        troubles.clone(),
    );

    let mut mistakes = Mistakes::new(seed);
    let began = Instant::now();
    let next = began + Duration::from_secs(20);
    let mut site = Site {
        crew,
        nemesis,
        troubles,
        owners: Owners::default(),
        installation: installation.clone(),
        direct: cluster.direct(),
        log: log.clone(),
        partitions: PARTITIONS,
        floods: Floods {
            client: flood,
            rng: Rng::new(seed ^ 0x66_6c),
            next,
            made: 0,
            size,
            partitions: PARTITIONS,
        },
        began,
        time,
        asked: began,
        loud: std::env::var_os("LOUD").is_some(),
    };

    // Damage ends the storm; the remains are examined.
    while !site.is_over() {
        mistakes.tend(&mut site);
        site.tend();
    }

    let Site {
        mut crew,
        mut nemesis,
        troubles,
        owners,
        floods,
        ..
    } = site;

    let calm = troubles.begin("the end", silence::Whom::All);
    println!(
        "{:>7.1} s: the storm is over",
        began.elapsed().as_secs_f64()
    );
    let broker_faults = brokers.faults.clone();
    let flooded = floods.made;
    clients.push(floods.client);
    nemesis.heal(&crew);
    let broker_counts = brokers.stop();
    nemesis.heal(&crew);
    crew.settle(&BASE);
    println!("{:>7.1} s: healed", began.elapsed().as_secs_f64());
    let mut stories: Vec<_> = clients.into_iter().map(Client::stop).collect();
    let last_words = traffic::last_words();
    let last = last_words.len() as u64;
    let words = Client::start(plan, 4, seed, Box::new(Listed(last_words)), 0);
    words.burst(last);
    stories.push(words.stop());

    let mut report = Report::new(seed, began.elapsed());
    report.count_all("brokers: ", &broker_counts);
    report.count_all("", &nemesis.counts);
    report.count_all("mistakes: ", &mistakes.counts);
    report.floods = flooded;
    report.broker_faults = broker_faults.load(Ordering::Relaxed);
    if !report.wait_at_rest(&*log, PREFIX, REST, &mut crew) {
        return report.keep(dir, &cluster, &crew);
    }

    println!("{:>7.1} s: at rest", began.elapsed().as_secs_f64());
    troubles.end(calm);
    report.silence = watch.stop(&troubles, &owners);
    crew.stop_all();
    report.settle(&crew, &cluster.faults.counts);
    report.judge(&*log, &t::table(PREFIX), CASH * 10_000, &stories, follower);
    report.compare_state(&installation, PARTITIONS);
    println!("{:>7.1} s: judged", began.elapsed().as_secs_f64());
    report.keep(dir, &cluster, &crew)
}
