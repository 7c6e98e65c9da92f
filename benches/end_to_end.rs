//! The whole system on a real local broker, and embedded, in one run that prints one table.
//!
//! Broker, roles and clients share the machine, so compare figures of one run only, on an idle
//! machine. The CPU figure is for this process, including clients that run meanwhile; it depends
//! less on the machine's load. `E2E_SCALE=10` makes every part ten times longer.

#[path = "../tests/support/broker.rs"]
mod broker;
#[path = "support/copy.rs"]
mod copy;
#[path = "support/load.rs"]
mod load;
#[path = "support/loop_copy.rs"]
mod loop_copy;
#[path = "support/system.rs"]
mod place;
#[path = "support/running.rs"]
mod running;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use log_kafka::{KafkaLog, KafkaSettings};
use log_local::{LocalLog, LocalOptions};
use ports::records::Records;
use ports::topics::TopicId;
use ports::{Log, StartOffset};
use processor::runtime::demo;
use processor::runtime::system::Installation;
use roles::Role;
use serde::Deserialize;
use wire::topics;

use place::LIMITS;
use running::Running;

const BATCH: usize = 5_000;

fn main() {
    let scale: u64 = std::env::var("E2E_SCALE")
        .ok()
        .and_then(|v| v.parse().ok())
        .unwrap_or(1);
    let dir = tempfile::tempdir().expect("a directory");
    let broker = broker::Broker::start_for_measuring();
    println!("| what | figure | beside it |");
    println!("|:-----|-------:|:----------|");
    if wanted("copy") {
        copies(&broker.address, dir.path(), 200_000 * scale);
    }

    if wanted("drain") {
        drain(
            &kafka(&broker.address, "drain-", dir.path()),
            150_000 * scale,
        );
    }

    if wanted("kafka") {
        let system = kafka(&broker.address, "all-", dir.path());
        let house = pipeline(
            &system,
            "all five roles on Kafka",
            20_000 * scale,
            load::orders,
        );
        let books = pipeline(
            &system,
            "the same with books",
            20_000 * scale,
            load::book_orders,
        );
        row(
            "books beside the house",
            &format!("{:.2}", books / house),
            "wanted 0.67: not slower by more than a third",
        );
        latency(&system, 50, Duration::from_secs(10 * scale));
    }

    if wanted("embedded") {
        embedded(
            &dir.path().join("embedded"),
            Duration::from_secs(10 * scale),
        );
    }
}

/// True if this part was named on the command line, or if no part was.
fn wanted(part: &str) -> bool {
    let mut names = std::env::args()
        .skip(1)
        .filter(|a| !a.starts_with("--"))
        .peekable();
    names.peek().is_none() || names.any(|n| n == part)
}

fn row(what: &str, figure: &str, beside: &str) {
    println!("| {what} | {figure} | {beside} |");
}

/// The engine's loop against a bare client: same input, same batches, one output record and one
/// changelog record per input record. The engine also writes a store.
fn copies(brokers: &str, dir: &Path, records: u64) {
    let table = loop_copy::table("copy-");
    let log = KafkaLog::new(KafkaSettings::new(brokers), table.clone());
    for topic in table.iter() {
        log.create_topic(topic, table.spec(topic), copy::PARTITIONS)
            .expect("the topic can be made");
    }

    copy::fill(&log, records);
    let log: Arc<dyn Log> = Arc::new(log);

    // Warm-up: the broker compiles its hot paths.
    copy::bare(
        brokers,
        &table,
        "warm-up",
        BATCH,
        records,
        Some(loop_copy::BARE_CHANGELOG),
    );

    let bare = copy::bare(
        brokers,
        &table,
        "bare",
        BATCH,
        records,
        Some(loop_copy::BARE_CHANGELOG),
    );

    let beside = format!(
        "{records} records, {BATCH} in a transaction, one output and one changelog record each"
    );
    row(
        "copy, bare rdkafka, records/s",
        &format!("{bare:.0}"),
        &beside,
    );
    let ours = loop_copy::run(&log, &table, dir, BATCH, records);
    let target = format!(
        "{:.0} % of bare, wanted 60 %; digest, header guard and a RocksDB store besides",
        100.0 * ours / bare
    );
    row(
        "copy, through the engine's loop, records/s",
        &format!("{ours:.0}"),
        &target,
    );
}

fn kafka(brokers: &str, prefix: &str, dir: &Path) -> Installation {
    let table = Arc::new(topics::table(prefix));
    system(
        Arc::new(KafkaLog::new(KafkaSettings::new(brokers), table.clone())),
        table,
        &dir.join(prefix),
    )
}

fn system(log: Arc<dyn Log>, topics: Arc<ports::topics::TopicTable>, state: &Path) -> Installation {
    let system = place::system(log, topics, state);
    load::prepare(&system);
    system
}

/// Throughput of `orders` alone on a backlog.
fn drain(system: &Installation, count: u64) {
    load::orders(&*system.log, count);
    let before = cpu_us();
    let began = Instant::now();
    let running = Running::start(system, &[Role::Orders]);
    let rest = running.rest(system);
    let took = rest - began;
    let cpu = cpu_us() - before;
    running.stop();
    let beside = format!(
        "{count} commands, start and join included; {:.1} us of CPU each",
        cpu as f64 / count as f64
    );
    row(
        "`orders` drains, commands/s",
        &per_second(count, took),
        &beside,
    );
}

/// Throughput of all roles together on a backlog of commands, in commands/s.
fn pipeline(system: &Installation, what: &str, count: u64, send: fn(&dyn Log, u64)) -> f64 {
    let events = count_records(system, topics::ORDER_EVENTS);
    let trades = count_records(system, topics::TRADES);
    send(&*system.log, count);
    let rest = [
        Role::Trading,
        Role::Portfolio,
        Role::Notifications,
        Role::Audit,
    ];
    let mut running = Running::start(system, &rest);
    let before = cpu_us();
    let began = Instant::now();
    running.add(system, &[Role::Orders]);
    let took = running.rest(system) - began;
    let cpu = cpu_us() - before;
    running.stop();
    let events = count_records(system, topics::ORDER_EVENTS) - events;
    let trades = count_records(system, topics::TRADES) - trades;
    assert!(trades > count / 20, "orders trade");
    let beside = format!(
        "{count} commands to rest; {:.0} us of CPU each; {events} events, {trades} trades",
        cpu as f64 / count as f64
    );
    row(
        &format!("{what}, commands/s"),
        &per_second(count, took),
        &beside,
    );
    count as f64 / took.as_secs_f64()
}

/// Latency from sending an order to each record that the user can read, at a rate below the
/// system's capacity.
fn latency(system: &Installation, per_second: u64, during: Duration) {
    let running = Running::start(system, &Role::all());
    let stop = Arc::new(AtomicBool::new(false));
    let sent: Arc<Mutex<BTreeMap<String, Instant>>> = Arc::default();
    let events = watch(system, topics::ORDER_EVENTS, &sent, &stop);
    let told = watch(system, topics::NOTIFICATIONS, &sent, &stop);
    let mut orders = load::Orders::new(&*system.log, 1000, "l");
    let began = Instant::now();
    let mut n = 0;
    while began.elapsed() < during {
        let due = Duration::from_micros(n * 1_000_000 / per_second);
        std::thread::sleep(due.saturating_sub(began.elapsed()));

        // Store the time before the send: an answer might come first.
        sent.lock()
            .expect("no thread panics with it")
            .insert(orders.next_id(), Instant::now());
        orders.send();
        n += 1;
    }

    orders.flush();
    running.rest(system);
    std::thread::sleep(Duration::from_millis(500));
    stop.store(true, Ordering::Relaxed);
    let events = events.join().expect("the reader ends");
    let told = told.join().expect("the reader ends");
    running.stop();
    for (what, times, wanted) in [
        ("OrderPending", events.get("OrderPending"), "wanted 8 / 30"),
        ("OrderFilled", events.get("OrderFilled"), ""),
        (
            "notification of the fill",
            told.get("order-filled"),
            "wanted 40 / 90",
        ),
    ] {
        let Some(times) = times else {
            panic!("nobody saw a {what}")
        };

        let at = |q| times.value_at_quantile(q) as f64 / 1000.0;
        let figure = format!("{:.1} / {:.1}", at(0.5), at(0.99));
        row(
            &format!("to {what} at {per_second}/s, p50 / p99 ms"),
            &figure,
            &format!("{} of {n} orders; {wanted}", times.len()),
        );
    }
}

#[derive(Deserialize)]
struct Seen<'a> {
    event: Option<serde::de::IgnoredAny>,
    kind: Option<&'a str>,
    order_id: Option<&'a str>,
}

type Times = BTreeMap<String, Histogram<u64>>;

/// Reads a topic as a client would, and measures the records of the sent orders. Returns
/// microseconds by kind of record.
fn watch(
    system: &Installation,
    topic: TopicId,
    sent: &Arc<Mutex<BTreeMap<String, Instant>>>,
    stop: &Arc<AtomicBool>,
) -> std::thread::JoinHandle<Times> {
    let count = system
        .log
        .partitions(topic)
        .expect("the log answers")
        .expect("the topic is there");
    let from: Vec<_> = (0..count).map(|p| (p, StartOffset::End)).collect();
    let mut reader = system.log.reader(topic, &from, true).expect("a reader");
    let sent = sent.clone();
    let stop = stop.clone();
    std::thread::spawn(move || {
        let mut times = Times::new();
        let mut batch = Records::new();
        while !stop.load(Ordering::Relaxed) {
            batch.clear();
            reader
                .poll(Duration::from_millis(100), LIMITS, &mut batch)
                .expect("reading works");
            let now = Instant::now();
            for r in batch.iter() {
                let seen: Seen<'_> =
                    rmp_serde::from_slice(r.value.expect("a value")).expect("a record of ours");

                // The header of an event gives its kind; a notification has a field for its kind.
                let kind = seen.kind.or(r.headers.text("type")).unwrap_or_default();
                let at = seen.order_id.and_then(|id| {
                    sent.lock()
                        .expect("no thread panics with it")
                        .get(id)
                        .copied()
                });

                if let (Some(at), Some(_)) = (at, seen.event) {
                    let new = || {
                        Histogram::new_with_bounds(1, 600_000_000, 3)
                            .expect("fixed bounds are valid")
                    };

                    times
                        .entry(kind.to_string())
                        .or_insert_with(new)
                        .saturating_record((now - at).as_micros() as u64);
                }
            }
        }

        times
    })
}

/// The demo in one process at full speed, like `processor demo --orders-per-second 0`.
fn embedded(dir: &Path, during: Duration) {
    let table = Arc::new(topics::table(""));
    let log = LocalLog::open(dir, &table, LocalOptions::default()).expect("an embedded log");
    let system = system(Arc::new(log), table, &dir.join("state"));
    let options = demo::DemoOptions {
        run_for: Some(during),
        orders_per_second: 0,
        ticks_per_second: 100,
        users: 20_000,
        symbols: (0..8).map(|n| format!("S{n}")).collect(),
        seed: 1,
    };

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let before = cpu_us();
    let summary = runtime
        .block_on(demo::run(
            &system,
            options,
            std::future::pending(),
            Duration::from_secs(10),
        ))
        .expect("the demo runs");

    let cpu = cpu_us() - before;
    let orders = count_records(&system, topics::ORDER_COMMANDS);
    let each = cpu as f64 / orders as f64;
    let beside = format!(
        "{orders} orders; {each:.0} us of CPU each; {} violations; wanted 20000",
        summary.violations
    );
    row(
        "embedded demo, all five roles, orders/s",
        &per_second(orders, during),
        &beside,
    );
    assert_eq!(summary.violations, 0, "{}", summary.text);
}

fn count_records(system: &Installation, topic: TopicId) -> u64 {
    let count = system
        .log
        .partitions(topic)
        .expect("the log answers")
        .expect("the topic is there");
    let from: Vec<_> = (0..count).map(|p| (p, StartOffset::Start)).collect();
    let mut reader = system.log.reader(topic, &from, false).expect("a reader");
    let mut batch = Records::new();
    let mut n = 0;
    while !reader.caught_up() {
        batch.clear();
        reader
            .poll(Duration::from_millis(100), LIMITS, &mut batch)
            .expect("reading works");
        n += batch.len() as u64;
    }

    n
}

fn per_second(count: u64, took: Duration) -> String {
    format!("{:.0}", count as f64 / took.as_secs_f64())
}

/// CPU time of this process so far, in microseconds.
fn cpu_us() -> u64 {
    // SAFETY: all zeros is a valid rusage, and getrusage only writes into the one it is given.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        assert_eq!(libc::getrusage(libc::RUSAGE_SELF, &mut usage), 0);
        usage
    };

    let us = |t: libc::timeval| t.tv_sec.unsigned_abs() * 1_000_000 + t.tv_usec.unsigned_abs();
    us(usage.ru_utime) + us(usage.ru_stime)
}
