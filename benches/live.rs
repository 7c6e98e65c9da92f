//! Fairness, as ratios: one partition beside another partition's backlog, a healthy task beside
//! restores, and many tasks that rejoin with few open files. Runs on the embedded log and on a real
//! local broker.
//!
//! Each figure is compared with the same load alone, in the same run, so the ratio is valid on a
//! busy machine, too. `make bench ARGS="--bench live -- backlog restore rejoin"`;
//! `LIVE_RECORDS=200000` makes a smaller backlog.

#[path = "../tests/support/broker.rs"]
mod broker;
#[allow(dead_code, reason = "a part of it is used here")]
#[path = "support/copy.rs"]
mod copy;
#[path = "support/load.rs"]
mod load;
#[allow(dead_code, reason = "a part of it is used here")]
#[path = "support/loop_copy.rs"]
mod loop_copy;
#[path = "support/system.rs"]
mod place;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use client::KeyedAppender;
use domain::status::Side;
use log_kafka::{KafkaLog, KafkaSettings};
use log_local::{LocalLog, LocalOptions};
use ports::partitioner;
use ports::records::{Headers, Record, Records};
use ports::topics::{TopicPartition, TopicTable};
use ports::{Log, Reader, StartOffset};
use processor::runtime::system::Installation;
use roles::{Role, RoleSettings};
use wire::encode::{Encoding, MarketOrder};
use wire::topics;

use place::LIMITS;

/// Partitions of the backlog's topics, for one role on one machine.
const PARTITIONS: u32 = 6;
/// Number of restored tasks, beside one healthy task.
const RESTORED: u32 = 24;
/// Number of tasks that rejoin, and the limit of open files meanwhile.
const MANY: u32 = 200;
const FILES: u64 = 1024;
/// Largest and smallest number of measured orders.
const SAMPLES: usize = 400;
const ENOUGH: usize = 40;
const PATIENCE: Duration = Duration::from_secs(300);

fn main() {
    let records: u64 = std::env::var("LIVE_RECORDS")
        .ok()
        .and_then(|v| v.parse().ok())
        .unwrap_or(1_000_000);
    let dir = tempfile::tempdir().expect("a directory");
    println!("| what | alone | beside | ratio | |");
    println!("|:-----|------:|-------:|------:|:-|");
    let on_kafka = wanted("kafka").then(broker::Broker::start_for_measuring);
    let make = |name: &str, table: &Arc<TopicTable>| -> Vec<(&'static str, Arc<dyn Log>)> {
        let embedded = wanted("embedded").then(|| -> (_, Arc<dyn Log>) {
            (
                "embedded log",
                Arc::new(
                    LocalLog::open(
                        &dir.path().join(name).join("log"),
                        table,
                        LocalOptions::default(),
                    )
                    .expect("an embedded log"),
                ),
            )
        });

        let kafka = on_kafka.as_ref().map(|b| -> (_, Arc<dyn Log>) {
            (
                "Kafka",
                Arc::new(KafkaLog::new(KafkaSettings::new(&b.address), table.clone())),
            )
        });

        embedded.into_iter().chain(kafka).collect()
    };

    if wanted("backlog") {
        let table = Arc::new(topics::table("backlog-"));
        for (on, log) in make("backlog", &table) {
            backlog(
                on,
                &system(log, &table, &dir.path().join("backlog").join(on)),
                records,
            );
        }
    }

    if wanted("restore") {
        let table = Arc::new(topics::table("restore-"));
        for (on, log) in make("restore", &table) {
            restore(
                on,
                &system(log, &table, &dir.path().join("restore").join(on)),
                records,
            );
        }
    }

    if wanted("rejoin") {
        let table = loop_copy::table("rejoin-");
        for (on, log) in make("rejoin", &table) {
            rejoin(on, &log, &table, &dir.path().join("rejoin").join(on));
        }
    }
}

/// True if a part (or a log) was named on the command line, or if no part (or log) was.
fn wanted(name: &str) -> bool {
    let logs = ["embedded", "kafka"];
    let mut same_kind = std::env::args()
        .skip(1)
        .filter(|a| !a.starts_with("--") && logs.contains(&a.as_str()) == logs.contains(&name))
        .peekable();
    same_kind.peek().is_none() || same_kind.any(|a| a == name)
}

fn system(log: Arc<dyn Log>, topics: &Arc<TopicTable>, state: &Path) -> Installation {
    // Prices of this run never become stale.
    let roles = RoleSettings {
        stale_ms: 1_000_000_000,
        ..RoleSettings::default()
    };

    Installation {
        roles,
        ..place::system(log, topics.clone(), state)
    }
}

/// One partition has a backlog. Orders of another partition must stay as fast as without the
/// backlog.
fn backlog(on: &str, system: &Installation, records: u64) {
    load::prepare_with(system, PARTITIONS);
    let mut probe = Probe::new(system, PARTITIONS, 1);
    let running = Running::start(system);
    running.wait_for(PARTITIONS);
    let alone = probe.times(|| true);
    running.stop();
    Sender::new(system, PARTITIONS, &[0]).send(records);
    let running = Running::start(system);
    running.wait_for(PARTITIONS);

    // Skip the start of the roles.
    std::thread::sleep(Duration::from_millis(500));
    let beside = probe.times(|| left(system, 0) > records / 20);
    let left = left(system, 0);
    running.stop();
    assert!(
        beside.len() >= ENOUGH,
        "the backlog was gone after {} orders",
        beside.len()
    );
    row(
        &format!("an order beside a backlog of {records} records in another partition, {on}"),
        &alone,
        &beside,
        &format!("wanted: 3 at most; {left} left at the end"),
    );
}

/// 24 tasks are restored from an empty store. Orders of the healthy task must stay as fast as
/// without the restores.
fn restore(on: &str, system: &Installation, records: u64) {
    load::prepare_with(system, RESTORED + 1);
    let others: Vec<u32> = (1..=RESTORED).collect();
    let mut probe = Probe::new(system, RESTORED + 1, 0);
    Sender::new(system, RESTORED + 1, &others).send(records);
    let running = Running::start(system);
    running.wait_for(RESTORED + 1);
    let asked = Instant::now();
    while others.iter().any(|p| left(system, *p) > 0) {
        assert!(asked.elapsed() < PATIENCE, "the state is not made");
        std::thread::sleep(Duration::from_millis(50));
    }

    let alone = probe.times(|| true);
    running.stop();
    let state = system.state.join("orders").join("1");
    for task in &others {
        std::fs::remove_dir_all(state.join(task.to_string())).expect("a store");
    }

    let began = Instant::now();
    let running = Running::start(system);
    running.wait_for(1);
    let beside = probe.times(|| running.tasks() <= u64::from(RESTORED));
    running.wait_for(RESTORED + 1);
    let took = began.elapsed();
    running.stop();
    assert!(
        beside.len() >= ENOUGH,
        "the restores were done after {} orders",
        beside.len()
    );
    let note = format!(
        "wanted: 2 at most for p99; restored from {records} orders in {:.1} s",
        took.as_secs_f64()
    );
    row(
        &format!("an order beside {RESTORED} tasks that are restored, {on}"),
        &alone,
        &beside,
        &note,
    );
}

/// A role rejoins with all of its tasks, in the same process, with the usual limit of open files.
fn rejoin(on: &str, log: &Arc<dyn Log>, table: &Arc<TopicTable>, state: &Path) {
    for topic in table.iter() {
        log.create_topic(topic, table.spec(topic), MANY)
            .expect("the topic can be made");
    }

    // The broker keeps the limit from its own start.
    let limit = libc::rlimit {
        rlim_cur: FILES,
        rlim_max: FILES,
    };

    // SAFETY: a plain call about this process, with a structure of ours.
    assert_eq!(
        unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) },
        0,
        "the limit can be lowered"
    );
    std::fs::create_dir_all(state).expect("a directory");
    let instance = loop_copy::instance(log, table, state, MANY, 10_000);
    let spawn = |name: String, work: Box<dyn FnOnce() + Send>| {
        std::thread::Builder::new().name(name).spawn(work).map(drop)
    };

    let mut instance = instance.restore_in_thread(spawn).expect("a thread");
    let mut appender = log.appender().expect("a writer");
    let mut send = |task: u32| {
        let at = TopicPartition::new(copy::INPUT, task);
        let record = Record {
            at,
            offset: 0,
            timestamp_ms: 1,
            key: Some(b"key"),
            value: Some(&copy::VALUE),
            headers: Headers::default(),
        };

        appender.append(&record).expect("appending works");
        appender.flush(PATIENCE).expect("flushing works");
    };

    let began = Instant::now();
    (0..MANY).for_each(&mut send);
    while instance.running() < MANY as usize || instance.counters().records_in < u64::from(MANY) {
        assert!(
            began.elapsed() < PATIENCE,
            "the first start does not end: {}",
            instance.phase()
        );
        instance.step().expect("a turn");
    }

    let first = began.elapsed();
    let mut times = Vec::new();
    let mut joined = Vec::new();
    for round in 1..=5 {
        loop_copy::DOUBT.store(true, Ordering::Relaxed);
        send(round);
        let began = Instant::now();
        let handled = u64::from(MANY + round);
        while instance.counters().recoveries < u64::from(round)
            || instance.running() < MANY as usize
            || instance.counters().records_in < handled
        {
            assert!(
                began.elapsed() < PATIENCE,
                "round {round} does not end: {}",
                instance.phase()
            );
            instance.step().expect("a turn");

            // Restores start when the group has assigned the partitions to the instance.
            if instance.counters().recoveries == u64::from(round)
                && joined.len() < round as usize
                && !instance.tasks().is_empty()
            {
                joined.push(began.elapsed());
            }
        }

        times.push(began.elapsed());
    }

    times.sort_unstable();
    joined.sort_unstable();
    let files = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    println!(
        "| {MANY} tasks begin anew in the same process, {on} | first start {:.2} s | {:.2} s, at most {:.2} s | {:.2} | wanted: under 1 s; {:.2} s of it until the tasks are assigned; {files} of {FILES} files open |",
        first.as_secs_f64(),
        times[2].as_secs_f64(),
        times[4].as_secs_f64(),
        times[2].as_secs_f64() / first.as_secs_f64(),
        joined[2].as_secs_f64(),
    );
}

/// Sorted latencies of orders.
type Times = Vec<Duration>;

fn row(what: &str, alone: &Times, beside: &Times, note: &str) {
    for (name, q) in [("p50", 50), ("p99", 99)] {
        let at = |times: &Times| times[(times.len() - 1) * q / 100].as_secs_f64() * 1000.0;
        let a = at(alone);
        let b = at(beside);
        println!(
            "| {what}, {name} | {a:.1} ms | {b:.1} ms | {:.1} | {note}; {} orders |",
            b / a,
            beside.len()
        );
    }
}

/// Command records that a task has not processed yet.
fn left(system: &Installation, partition: u32) -> u64 {
    let at = TopicPartition::new(topics::ORDER_COMMANDS, partition);
    let next = system
        .log
        .group_offsets(&system.group(Role::Orders), &[at])
        .expect("the log answers")[0]
        .unwrap_or(0);
    system
        .log
        .bounds(at)
        .expect("the log answers")
        .end
        .saturating_sub(next)
}

/// Sends market orders of users in some partitions.
struct Sender {
    commands: KeyedAppender,
    users: Vec<String>,
    sent: u64,
    value: Vec<u8>,
}

impl Sender {
    fn new(system: &Installation, count: u32, partitions: &[u32]) -> Sender {
        let all = (0..)
            .map(|n| format!("trader-{n}"))
            .filter(|u| partitions.contains(&partitioner::partition(u.as_bytes(), count)));

        // Enough users to keep each one below the rate limit, and each balance above zero.
        let users = all.take(50_000).collect();
        let commands = KeyedAppender::new(&*system.log, topics::ORDER_COMMANDS).expect("a writer");
        Sender {
            commands,
            users,
            sent: 0,
            value: Vec::new(),
        }
    }

    fn send(&mut self, count: u64) {
        for _ in 0..count {
            self.queue("b");
        }

        self.commands.flush(PATIENCE).expect("flushing works");
    }

    fn queue(&mut self, run: &str) -> String {
        self.sent += 1;
        let id = format!("{run}{}", self.sent);
        let user = &self.users[(self.sent % self.users.len() as u64) as usize];
        let order = MarketOrder {
            order_id: &id,
            user_id: user,
            symbol: "S1",
            quantity: 1,
            side: Side::Buy,
            timestamp: Some(1_625_159_076),
        };

        self.value.clear();
        order.encode(Encoding::MessagePack, &mut self.value);
        self.commands
            .append(user, Some(&self.value))
            .expect("appending works");
        id
    }
}

/// Sends one order at a time in one partition. Measures the time from the send to the first event,
/// as the user sees it.
struct Probe {
    sender: Sender,
    events: Box<dyn Reader>,
    seen: Records,
}

impl Probe {
    fn new(system: &Installation, count: u32, partition: u32) -> Probe {
        let sender = Sender::new(system, count, &[partition]);
        let events = system
            .log
            .reader(
                topics::ORDER_EVENTS,
                &[(partition, StartOffset::End)],
                false,
            )
            .expect("a reader");
        Probe {
            sender,
            events,
            seen: Records::new(),
        }
    }

    /// Measures up to [`SAMPLES`] orders, as long as `goes_on` returns true.
    fn times(&mut self, mut goes_on: impl FnMut() -> bool) -> Times {
        let mut times = Times::new();

        // The first 20 orders are a warm-up, and are not measured.
        for n in 0..SAMPLES + 20 {
            let id = self.sender.queue("p");
            let began = Instant::now();
            self.sender
                .commands
                .flush(PATIENCE)
                .expect("flushing works");
            while !self.has_come(&id) {
                assert!(began.elapsed() < PATIENCE, "no event of {id}");
            }

            let took = began.elapsed();
            if !goes_on() {
                break;
            }

            if n >= 20 {
                times.push(took);
            }

            // Wait for varying times, so that the orders follow no rhythm of the system.
            std::thread::sleep(Duration::from_micros(
                3_000 + self.sender.sent * 7_919 % 10_000,
            ));
        }

        times.sort_unstable();
        times
    }

    fn has_come(&mut self, id: &str) -> bool {
        self.seen.clear();
        self.events
            .poll(Duration::from_millis(100), LIMITS, &mut self.seen)
            .expect("reading works");
        self.seen.iter().any(|r| {
            r.value
                .is_some_and(|v| v.windows(id.len()).any(|w| w == id.as_bytes()))
        })
    }
}

/// `orders` in a separate thread.
struct Running {
    stop: Arc<AtomicBool>,
    tasks: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl Running {
    fn start(system: &Installation) -> Running {
        let stop = Arc::<AtomicBool>::default();
        let tasks = Arc::<AtomicU64>::default();
        let member = system.member(Role::Orders);
        let stops = stop.clone();
        let shows = tasks.clone();
        let thread = std::thread::spawn(move || {
            let mut instance = (member.make)().expect("an instance");
            while !stops.load(Ordering::Relaxed) {
                instance.step().expect("a turn");
                shows.store(instance.running() as u64, Ordering::Relaxed);
            }
        });

        Running {
            stop,
            tasks,
            thread,
        }
    }

    fn tasks(&self) -> u64 {
        self.tasks.load(Ordering::Relaxed)
    }

    fn wait_for(&self, tasks: u32) {
        let asked = Instant::now();
        while self.tasks() < u64::from(tasks) {
            assert!(
                !self.thread.is_finished() && asked.elapsed() < PATIENCE,
                "{} of {tasks} tasks run",
                self.tasks()
            );
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the thread ends");
    }
}
